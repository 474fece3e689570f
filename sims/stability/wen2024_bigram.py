"""A bigram model as a river valley: uncertain tokens are the hills, certain ones the river.

The model by which Wen et al. (2024) explain the valley: tables of logits, one row for each context,
trained by minibatches of pairs. The source of pairs, all sizes and rates are ours. Losses of
contexts are in excess of their entropy and weighted with their frequency; time is the sum of the
learning rates.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.curvature import dense_matrix, hvp
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.rates import fitted_exponent, jackknife, mean_and_error
from sims.stability import bigram_source
from sims.sweep import sweep
from theory.stability import bigram, river_valley, schedules
from theory.stability.gram import mixing_weight

RATES = np.array([0.5, 1.0, 2.0])
WSD, COSINE = 3, 4  # schedules of the tables, after the constant ones
LATE = 120  # steps, of half a decay


@dataclass(frozen=True)
class Config:
    """Vocabulary and corpus; the tables are as many for every schedule."""

    tokens: int = 6
    pairs: int = 128
    batch: int = 32
    tables: int = 32
    steps: int = 1200
    corpus_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 4), ("batch", 1), ("tables", 8), ("steps", 10 * LATE)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.pairs < 4 * self.batch:
            raise ValueError(
                f"pairs must be at least 4 * batch = {4 * self.batch}, got {self.pairs}"
            )
        if self.steps % (LATE // 4):
            raise ValueError(f"steps must be a multiple of {LATE // 4}, got {self.steps}")
        counts = source(self).counts[::2]
        if counts.min() < 1:
            raise ValueError(f"pairs must suffice for every pair of tokens, got {self.pairs}")

    @property
    def records(self) -> np.ndarray:
        """Steps at which tables of bigrams are looked at."""
        return np.arange(0, self.steps + 1, LATE // 4)

    @property
    def decay_from(self) -> int:
        """Last step of the stable phase of a table."""
        return self.steps - 2 * LATE

    @property
    def noise_weight(self) -> float:
        """c, of the gradient noise of a minibatch of pairs."""
        return mixing_weight(len(source(self).pairs), self.batch)


@cache
def source(config: Config) -> bigram_source.Corpus:
    """What the tables learn."""
    return bigram_source.corpus(config.tokens, config.pairs, config.corpus_seed)


def all_rates(config: Config) -> np.ndarray:
    """Schedules of the tables (schedules, steps): constant ones, WSD and cosine."""
    peak, steps = RATES[-1], config.steps
    return np.array(
        [
            *(np.full(steps, rate) for rate in RATES),
            schedules.wsd(peak, steps, steps - config.decay_from),
            schedules.wsd(peak, steps, steps, decay="cosine"),
        ]
    )


def table(config: Config) -> np.ndarray:
    """Probabilities of next tokens: the corpus', and how far the river leads by the end."""
    corpus = source(config)
    time = all_rates(config)[WSD].sum()
    right = np.exp(-np.asarray(bigram.certain_loss(time, corpus.frequency, config.tokens)))
    p = corpus.probabilities.copy()
    others = (1 - right) / (config.tokens - 1)
    softened = np.where(p > 0, right[:, None], others[:, None])
    return np.where(corpus.certain[:, None], softened, p)


def predict(config: Config) -> Arrays:
    """Excess loss of certain and of uncertain contexts, weighted with their frequency."""
    corpus, rates = source(config), all_rates(config)
    f, p, certain = corpus.frequency, corpus.probabilities, corpus.certain
    c, steps = config.noise_weight, config.records
    times = np.pad(np.cumsum(rates, axis=1), ((0, 0), (1, 0)))[:, steps]
    lost = bigram.certain_loss(times[..., None], f[None, None, certain], config.tokens)
    river = np.asarray(lost) * f[certain]
    curvature, vectors = np.linalg.eigh(river_valley.bigram_hessian(f[~certain], p[~certain]))
    start = np.einsum("ij,ijk->ik", np.log(p[~certain]), vectors) ** 2
    h, start = curvature[:, 1:].ravel(), start[:, 1:].ravel()
    losses = partial(river_valley.valley_losses, hills=h, noise_variance=c * h, moments=start)
    hill = np.asarray(jax.jit(jax.vmap(losses))(rates).hill)
    before, after = config.decay_from, config.steps
    flowed = river[WSD].sum(axis=-1)[np.searchsorted(steps, [before, after])]
    drops = np.array([hill[WSD, before - 1] - hill[WSD, after - 1], flowed[0] - flowed[1]])
    return {
        "steps": steps,
        "rates": rates,
        "times": times,
        "certain": river,
        "uncertain": hill[:, steps[1:] - 1],
        "uncertain_gap": bigram.uncertain_gap(RATES[:, None], f[~certain], p[~certain], c),
        "steepest": h.max(),
        "noise_weight": c,
        "gap_exponent": 1.0,
        "final_excess": hill[:, -1] + river[:, -1].sum(axis=-1),
        "drop_share": drops[0] / drops.sum(),
        "hessian": river_valley.bigram_hessian(f, table(config)),
        "frequency": f,
        "entropy": corpus.entropy,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Excess losses of the tables, (schedules, tables, records, contexts), and the Hessian."""
    corpus = source(config)
    options = {"batch": config.batch, "count": config.tables, "sweep": sweep}
    excess = bigram_source.train(corpus, key, all_rates(config), config.records, **options)
    steps, certain = config.records, corpus.certain
    before, after = np.searchsorted(steps, [config.decay_from, config.steps])
    logits, pairs = jnp.log(table(config)), jnp.asarray(corpus.pairs)
    product = partial(hvp, bigram_source.cross_entropy, logits, pairs)
    dense = jax.jit(lambda like: dense_matrix(product, like))(logits)
    blocks = np.asarray(dense).reshape(logits.shape * 2)
    rows = np.arange(config.tokens)
    late = steps > config.steps // 2
    return {
        "steps": steps,
        "certain": excess[..., certain],
        "uncertain": excess[..., ~certain],
        "uncertain_gap": excess[:WSD][:, :, late][..., ~certain].mean(axis=2),
        "final_excess": excess[:, :, -1].sum(axis=-1),
        "drops": (excess[WSD][:, before] - excess[WSD][:, after]) @ np.array([~certain, certain]).T,
        "hessian": blocks[rows, :, rows, :],
    }


def at_three_times(curves: np.ndarray) -> np.ndarray:
    """Curves (schedules, records) early, half-way and at the end."""
    return curves[:, [curves.shape[1] // 10, curves.shape[1] // 2, -1]]


def share_of_drop(drops: np.ndarray) -> float:
    """Of uncertain contexts in the drop of the loss, from that of both kinds."""
    return drops[0] / drops.sum()


def gap_exponent(gaps: np.ndarray) -> float:
    """Of the excess of all uncertain contexts, (rates, contexts), in the learning rate."""
    return fitted_exponent(RATES, gaps.sum(axis=-1))


CLAIMS = (
    Claim(
        "Hessian blocks of the contexts",
        predicted=lambda p: p["hessian"],
        measured=lambda m: m["hessian"],
        tolerance=1e-9,
        because="rounding: the Hessian by automatic differentiation",
    ),
    Claim(
        "loss of certain contexts over time, the river",
        predicted=lambda p: at_three_times(p["certain"].sum(axis=-1)),
        measured=lambda m: at_three_times(m["certain"].sum(axis=-1).mean(axis=1)),
        tolerance=lambda p, m: at_three_times(
            4
            * mean_and_error(m["certain"].sum(axis=-1).swapaxes(0, 1))[1]
            / p["certain"].sum(axis=-1)
            + 4 * p["rates"].max(axis=1)[:, None] / np.maximum(p["times"], RATES[0])
        ),
        because="4 standard errors over tables; finite steps are as late or early as a few steps "
        "are, 4 eta/t",
    ),
    Claim(
        "stable-phase excess of uncertain contexts, the hills, at the largest rate",
        predicted=lambda p: p["uncertain_gap"][-1],
        measured=lambda m: m["uncertain_gap"][-1].mean(axis=0),
        tolerance=lambda p, m: (
            4 * mean_and_error(m["uncertain_gap"][-1])[1] / p["uncertain_gap"][-1]
            + RATES[-1] * p["noise_weight"]
        ),
        because="4 standard errors over tables; eta c, by which the cross-entropy is not quadratic",
    ),
    Claim(
        "exponent of that excess in the learning rate",
        predicted=lambda p: p["gap_exponent"],
        measured=lambda m: gap_exponent(m["uncertain_gap"].mean(axis=1)),
        tolerance=lambda p, m: (
            RATES[-1] * (p["steepest"] + p["noise_weight"])
            + 4 * jackknife(gap_exponent, m["uncertain_gap"].swapaxes(0, 1))
        ),
        because="4 standard errors over tables; eta h and eta c, the next orders",
        error="absolute",
    ),
    Claim(
        "excess loss at the end of constant, WSD and cosine schedules",
        predicted=lambda p: p["final_excess"],
        measured=lambda m: m["final_excess"].mean(axis=1),
        tolerance=lambda p, m: (
            4 * mean_and_error(m["final_excess"].T)[1] / p["final_excess"]
            + p["rates"].max(axis=1) * p["noise_weight"]
            + 4 * p["rates"].max(axis=1) / p["times"][:, -1]
        ),
        because="4 standard errors over tables; river and hills as above",
    ),
    Claim(
        "share of the uncertain contexts in what decay gains",
        predicted=lambda p: p["drop_share"],
        measured=lambda m: share_of_drop(m["drops"].mean(axis=0)),
        tolerance=lambda p, m: (
            4 * jackknife(share_of_drop, m["drops"])
            + (1 - p["drop_share"]) * RATES[-1] * (p["steepest"] + p["noise_weight"])
        ),
        because="4 standard errors over tables; next orders of the uncertain contexts' drop move "
        "the share by the other share as much",
    ),
)

EXPERIMENT = Experiment(
    name="wen2024_bigram",
    source=papers.wen2024("bigram model"),
    statement="Uncertain tokens keep a loss in proportion to the learning rate, which decay "
    "removes; certain ones are learned ever further, with the sum of the learning rates.",
    equations=(
        r"H_i = f_i(\mathrm{diag}\,p_i - p_i p_i^T), \quad"
        r"\Delta L_i = \sum_h\frac{\eta h/B}{2(2-\eta h)} \simeq \frac{\eta}{4B}\,\mathrm{tr}\,H_i",
        r"\text{certain: } L_i = f_i\ln(1+(V-1)e^{-\Delta}), \quad"
        r"\Delta + \frac{e^\Delta-1}{V-1} = \frac{f_i V}{V-1}\sum_t\eta_t",
    ),
    quick=Config(),
    full=Config(tokens=8, pairs=2048, tables=64, steps=4800),
    cost=(10, 300),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
