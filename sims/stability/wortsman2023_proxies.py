"""Small transformers that are unstable at large learning rates as large ones are at small rates.

Wortsman et al. (2023): attention logits and ln Z of the outputs, Z the sum of exp(logits), run away
at large learning rates; layer norm of queries and keys, a z-loss on (ln Z)^2 and a warm-up widen
the range of rates at which a network learns. That is judged by the learning-rate sensitivity: how
much worse than at the best rate training ends, on average over ln eta. AdamW (0.9, 0.95), clipping
at 1, warm-up and cosine are theirs; our own are the source of tokens, all sizes, the grid of rates,
and a z-loss larger than theirs (1e-4) because training is shorter. Weight decay is independent:
weights shrink by w times the schedule's shape in a step, whatever the rate.

Around this stand statements that are exact: the least loss; how far attention logits can go, and
the power of a large rate with which they do; how fast the z-loss acts; what epsilon and decay do to
Adam. At these sizes qk-norm does most, warm-up helps too, and the z-loss pins ln Z but leaves the
sensitivity as it is. That quadratics in log-log predict the growth of attention logits is recalled
from the paper; here, at three times the largest rate that is fitted, they come out 5 to 15 % high
in ln(logit), the logit itself up to four times too high.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.losses import cross_entropy
from dynamics.training import TrainState, optimizer_step, train
from dynamics.transformer import Transformer, transformer
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import generator, seed_keys
from sims.rates import fitted_exponent, mean_and_error
from sims.stability.small_transformers import BETAS, Source, examine, members, training, zipf_source
from sims.sweep import Process, sweep
from theory.stability import markov, sensitivity
from theory.stability.schedules import wsd


class Variant(NamedTuple):
    """Which remedies a network has."""

    name: str
    qk_norm: bool = False
    z_loss: bool = False
    warmup: bool = False


VARIANTS = (
    Variant("none"),
    Variant("z-loss", z_loss=True),
    Variant("z-loss, qk-norm", z_loss=True, qk_norm=True),
    Variant("all three", z_loss=True, qk_norm=True, warmup=True),
)
PLAIN, ALL = 0, -1
NORMALIZED = np.array([variant.qk_norm for variant in VARIANTS])
RECORDS = 5  # over training
HUGE = 10.0 ** np.array([3, 4])  # learning rates of one single step

Z_WEIGHTS = np.array([1e-4, 1e-3, 1e-2])  # of a softmax on its own
Z_STEPS = 400
GRADIENTS = 10.0 ** np.arange(-11.0, -4.0)
EPSILON = 1e-8
DECAY_RATES = np.array([0.01, 0.02, 0.04, 0.08])
DECAYS = {"independent": 5e-3, "proportional to rate": 0.25}  # w, and w / eta
DECAYED, DECAY_STEPS = 2048, 1500  # weights that decay, steps


@dataclass(frozen=True)
class Config:
    """Losses are in nats per token; a step sees ``batch`` fresh sequences of ``context`` tokens."""

    vocabulary: int = 8
    zipf_exponent: float = 1.5
    recent_weight: float = 0.3
    context: int = 8
    width: int = 16
    depth: int = 1
    heads: int = 2
    mlp_ratio: int = 2
    batch: int = 16
    steps: int = 200
    warmup: int = 40
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    z_weight: float = 1e-2
    weight_decay: float = 1e-4
    test: int = 512
    seeds: int = 5
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("vocabulary", 2), ("context", 2), ("batch", 1), ("test", 64)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.warmup < self.steps:
            raise ValueError(f"warmup must be between 0 and {self.steps}, got {self.warmup}")
        if len(self.rates) < 5 or min(self.rates) <= 0 or min(np.diff(self.rates)) <= 0:
            raise ValueError(f"rates must be five or more, positive, increasing, got {self.rates}")
        for name in ("z_weight", "weight_decay", "zipf_exponent"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.recent_weight < 1:
            raise ValueError(f"recent_weight must be between 0 and 1, got {self.recent_weight}")
        if self.seeds < 3:  # for standard errors
            raise ValueError(f"seeds must be at least 3, got {self.seeds}")
        self.network(qk_norm=True)

    def network(self, *, qk_norm: bool) -> Transformer:
        """The transformer, in single precision."""
        return transformer(
            vocabulary=self.vocabulary,
            context=self.context,
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            qk_norm=qk_norm,
            activation="relu",
            dtype=jnp.float32,
        )


@cache
def source(config: Config) -> Source:
    """The source of tokens: part of the question, not of the answer."""
    draw = np.random.default_rng(config.data_seed)
    shape = (config.vocabulary, config.zipf_exponent, config.recent_weight)
    return zipf_source(draw, *shape)


def predict(config: Config) -> Arrays:
    """Entropies, degrees of growth, rate of the z-loss, sizes of Adam's updates and weights."""
    entropies = markov.conditional_entropies(source(config).transition)
    rates = DECAY_RATES
    decay = np.stack([np.full_like(rates, DECAYS["independent"]), rates * list(DECAYS.values())[1]])
    return {
        "learning_rates": np.array(config.rates),
        "entropies": entropies,
        "least_loss": markov.least_loss(entropies, config.context),
        "degrees": np.array(
            [sensitivity.attention_logit_degree(qk_norm=norm) for norm in (False, True)]
        ),
        "z_weights": Z_WEIGHTS,
        "z_rates": sensitivity.z_loss_decay_rate(Z_WEIGHTS, config.vocabulary),
        "gradients": GRADIENTS,
        "adam_updates": sensitivity.adam_update_size(GRADIENTS, EPSILON),
        "decay_rates": rates,
        "decay": decay,
        "rms": sensitivity.independent_decay_rms(
            rates[None], decay, DECAY_STEPS, momentum=BETAS[0]
        ),
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train transformers of every variant at every rate; a softmax; weights on random gradients."""
    token_key, weight_key, noise_key = jax.random.split(key, 3)
    draw, tokens = generator(token_key), source(config)
    length = config.context + 1
    size = (config.seeds, config.steps, config.batch, length)
    fresh = tokens.sample(draw, int(np.prod(size[:3])), length).reshape(size)
    test = tokens.sample(draw, config.test, length)
    of_source = tokens.log_losses(test)
    return {
        **transformers(config, weight_key, jnp.asarray(fresh), test, sweep),
        "learning_rates": np.array(config.rates),
        "source_loss": mean_and_error(of_source.mean(axis=1)),
        "entropies": sampled_entropies(tokens, test),
        **softmax_decay(config, test[:, 0]),
        "adam_updates": constant_updates(),
        "squares": decayed_squares(noise_key, sweep),
    }


def schedules(config: Config, variant: Variant) -> np.ndarray:
    """Learning rates (rates, steps): cosine, with or without warm-up."""
    warmup = config.warmup if variant.warmup else 0
    shape = partial(wsd, steps=config.steps, decay_steps=config.steps - warmup, decay="cosine")
    return np.stack([shape(rate, warmup_steps=warmup) for rate in config.rates])


def transformers(
    config: Config, key: jax.Array, tokens: jax.Array, test: np.ndarray, sweep: Any
) -> Arrays:
    """Losses, ln Z and attention logits (variants, rates, seeds, records, ...) of all variants.

    Networks of all variants begin with the same weights and see the same tokens. In ``huge_*``
    (with and without qk-norm, rates, seeds) are those that take one step at a huge rate.
    """
    keys, found, huge = seed_keys(key, config.seeds), [], []
    one_step = np.zeros((len(HUGE), config.steps))
    one_step[:, 0] = HUGE
    for qk_norm in (False, True):
        chosen = [variant for variant in VARIANTS if variant.qk_norm == qk_norm]
        grids = [(variant, schedules(config, variant)) for variant in chosen]
        model = config.network(qk_norm=qk_norm)
        starts = [jax.tree.map(np.asarray, model.init(key)) for key in keys]
        cases = members(cases_of(config, starts, [*grids, (chosen[0], one_step)]), keys)
        record_at = np.linspace(0, config.steps, RECORDS).astype(int)
        run = sweep(f"qk_norm_{qk_norm}", training(model), cases, tokens, record_at=record_at)
        seen = examine(model, starts[0], run.records["weights"], test)
        main = len(chosen) * len(config.rates) * config.seeds
        shape = (len(chosen), len(config.rates), config.seeds)
        found.append({name: x[:main].reshape(*shape, *x.shape[1:]) for name, x in seen.items()})
        logits = seen["attention_logit"][main:, -1].max(axis=-1)
        huge.append(logits.reshape(len(HUGE), config.seeds))
    return {
        **{name: np.concatenate([seen[name] for seen in found]) for name in found[0]},
        **{name: found[1][name] for name in ("query_gain", "key_gain")},
        "huge_attention_logit": np.stack(huge),
    }


def cases_of(config: Config, starts: Any, grids: Any) -> list[Any]:
    """One case for each variant, row of its schedules, and seed."""
    return [
        {
            "params": starts[seed],
            "seed": seed,
            "rates": np.float32(rates),
            "decay": np.float32(config.weight_decay / rates.max()),
            "z_weight": np.float32(config.z_weight * variant.z_loss),
        }
        for variant, rows in grids
        for rates in rows
        for seed in range(config.seeds)
    ]


def sampled_entropies(tokens: Source, test: np.ndarray) -> np.ndarray:
    """Log losses of one who knows the source, with none, one, two tokens before: means, s.e."""
    losses = tokens.log_losses(test)
    single = -np.log(tokens.pairs.sum(axis=0))[test[:, 0]]
    by_past = [single, losses[:, 0], losses[:, 1:].mean(axis=1)]
    return np.stack([mean_and_error(values) for values in by_past], axis=1)


def softmax_decay(config: Config, tokens: np.ndarray) -> Arrays:
    """Rates at which ln Z of one softmax falls, its probabilities learned: (weights,).

    ``inverse_probability`` is the mean of 1/p over the vocabulary, over its size.
    """
    v = config.vocabulary
    each = jnp.asarray(np.concatenate([tokens, np.arange(v)]))  # all come at least once
    share = jnp.bincount(each, length=v) / len(each)

    def log_z(z_weight):
        def loss(logits, tokens):
            return cross_entropy(
                jnp.broadcast_to(logits, (len(tokens), v)), tokens, z_weight=z_weight
            )

        run = train(
            jax.random.key(0),
            jnp.log(share) + 1.0,
            each,
            loss=loss,
            optimizer=optax.sgd(1.0),
            steps=Z_STEPS,
            observe=lambda logits: {"log_z": jax.nn.logsumexp(logits)},
            record_at=np.array([0, Z_STEPS // 2, Z_STEPS]),
        )
        return run.records["log_z"]

    found = np.asarray(jax.jit(jax.vmap(log_z))(jnp.asarray(Z_WEIGHTS)))
    return {
        "z_rates": np.log(found[:, 1] / found[:, 2]) / (Z_STEPS - Z_STEPS // 2),
        "inverse_probability": np.asarray(jnp.mean(1 / share) / v),
    }


def constant_updates() -> np.ndarray:
    """Sizes of Adam's updates, in learning rates, on constant gradients."""
    step = optimizer_step(lambda w, g: jnp.sum(w * g), optax.adam(1.0, *BETAS, eps=EPSILON))
    gradients = jnp.asarray(GRADIENTS)
    start = jnp.zeros_like(gradients)
    state = TrainState(start, optax.adam(1.0).init(start), jax.random.key(0))
    return np.asarray(jnp.abs(step(jnp.int32(0), state, gradients).params))


def decayed_squares(key: jax.Array, sweep: Any) -> np.ndarray:
    """Mean squares, s.e. (2, ways to decay, rates) of weights that AdamW moves at random."""

    def optimizer(case):
        return optax.adamw(case["learning_rate"], *BETAS, weight_decay=case["decay"])

    def init(case, shared):
        weights = jnp.zeros(DECAYED)
        return TrainState(weights, optimizer(case).init(weights), case["key"])

    def step(k, state, case, shared):
        signs = jax.random.rademacher(jax.random.fold_in(case["key"], k), (DECAYED,), float)
        update = optimizer_step(lambda w, g: jnp.sum(w * g), optimizer(case))
        return update(k, state, signs)

    def observe(state, case, shared):
        squares = state.params**2
        return {"squares": jnp.stack([squares.mean(), squares.std() / np.sqrt(DECAYED)])}

    independent, proportional = DECAYS.values()
    rates = np.tile(DECAY_RATES, 2)
    decay = np.concatenate([independent / DECAY_RATES, np.full(len(DECAY_RATES), proportional)])
    cases = {"key": seed_keys(key, len(rates)), "learning_rate": rates, "decay": decay}
    run = sweep("decay", Process(init, step, observe), cases, record_at=[DECAY_STEPS])
    return np.moveaxis(run.records["squares"][:, 0].reshape(2, -1, 2), -1, 0)


def sensitivities(m: Arrays) -> np.ndarray:
    """Learning-rate sensitivity (variants, seeds)."""
    final, initial = np.moveaxis(m["loss"][..., -1], 1, 2), m["loss"][:, 0, :, 0]
    return np.asarray(sensitivity.lr_sensitivity(m["learning_rates"], final, initial))


def significant(differences: np.ndarray) -> np.ndarray:
    """Sign of the mean over seeds, the last axis, and 0 within 4 standard errors of it."""
    mean, error = mean_and_error(np.moveaxis(differences, -1, 0))
    return np.sign(mean) * (np.abs(mean) > 4 * error)


def final_logits(m: Arrays) -> np.ndarray:
    """Mean over seeds of ln(largest attention logit) at the end: (variants, rates)."""
    return np.log(m["attention_logit"][..., -1, :].max(axis=-1)).mean(axis=-1)


def extrapolated(m: Arrays, degree: int, rates: Any = None) -> np.ndarray:
    """ln(largest attention logit) of variants without qk-norm at ``rates``, by default the last.

    A polynomial in ln(rate), fitted to the four rates before the largest: (variants, *rates).
    """
    x, y = np.log(m["learning_rates"]), final_logits(m)[~NORMALIZED]
    fit = np.polynomial.polynomial.polyfit(x[-5:-1], y[:, -5:-1].T, degree)
    return np.polynomial.polynomial.polyval(x[-1] if rates is None else np.log(rates), fit)


def extrapolation_tolerance(p: Arrays, m: Arrays) -> np.ndarray:
    """What a cubic through the same points would change."""
    return np.abs(extrapolated(m, 3) / extrapolated(m, 2) - 1)


def logit_bounds(m: Arrays) -> np.ndarray:
    """Bounds of attention logits, by the gains of networks with qk-norm, in their shape."""
    return np.asarray(sensitivity.attention_logit_bound(m["query_gain"], m["key_gain"]))


def share_of_bound(m: Arrays) -> np.ndarray:
    """Largest attention logit with qk-norm over its bound: of all networks at all times."""
    return np.max(m["attention_logit"][NORMALIZED] / logit_bounds(m))


ROUNDING = 1e-5  # of single precision

CLAIMS = (
    Claim(
        "entropies of the source: of tokens, given one token before, given two",
        predicted=lambda p: p["entropies"],
        measured=lambda m: m["entropies"][0],
        tolerance=lambda p, m: 4 * m["entropies"][1] / p["entropies"],
        because="4 standard errors over sampled sequences of log losses of who knows the source",
    ),
    Claim(
        "no network has a lower loss than the source allows",
        predicted=lambda p: p["least_loss"],
        measured=lambda m: np.minimum(m["loss"].min(), m["source_loss"][0]),
        tolerance=lambda p, m: 4 * m["source_loss"][1] / p["least_loss"],
        because="the lowest loss of all networks and of the source itself, on the same sequences, "
        "of which 4 standard errors are allowed",
    ),
    Claim(
        "attention logits of normalised queries and keys, over their bound",
        predicted=lambda p: 1.0,
        measured=share_of_bound,
        tolerance=lambda p, m: np.where(share_of_bound(m) > 1, ROUNDING, 0.2),
        because="never above it but for rounding; among thousands of pairs of random queries and "
        "keys, in the 7 directions a head of 8 leaves them, some come within 20 % of it",
    ),
    Claim(
        "power of a huge rate with which attention logits grow in one step: without, with qk-norm",
        predicted=lambda p: p["degrees"],
        measured=lambda m: np.array(
            [fitted_exponent(HUGE, logits.mean(axis=1)) for logits in m["huge_attention_logit"]]
        ),
        tolerance=10 / HUGE[0],
        because="Adam moves every weight by the rate; the initial weights are some 1/rate of that",
        error="absolute",
    ),
    Claim(
        "growth of attention logits without qk-norm: a quadratic in log-log, extrapolated",
        predicted=lambda p: 1.0,
        measured=lambda m: final_logits(m)[~NORMALIZED, -1] / extrapolated(m, 2),
        tolerance=extrapolation_tolerance,
        because="ln(logit) at the largest rate from the four before it, the error of the fit "
        "judged by what a cubic through the same points would change",
    ),
    Claim(
        "rate at which the z-loss takes ln Z of a softmax to zero",
        predicted=lambda p: p["z_rates"],
        measured=lambda m: m["z_rates"],
        tolerance=lambda p, m: 4 * p["z_weights"] * m["inverse_probability"],
        because="the next order in the weight is 2 w [mean(1/p)/v - 1]: twice that, and more",
    ),
    Claim(
        "the z-loss lowers ln Z of transformers at every rate",
        predicted=lambda p: np.ones_like(p["learning_rates"]),
        measured=lambda m: significant(m["log_z"][PLAIN, ..., -1] - m["log_z"][ALL, ..., -1]),
        tolerance=1e-12,
        because="a sign, 1 if beyond 4 standard errors of differences paired by seed",
    ),
    Claim(
        "qk-norm, z-loss and warm-up lower the learning-rate sensitivity",
        predicted=lambda p: 1.0,
        measured=lambda m: significant(sensitivities(m)[PLAIN] - sensitivities(m)[ALL]),
        tolerance=1e-12,
        because="a sign, 1 if beyond 4 standard errors of differences paired by seed",
    ),
    Claim(
        "Adam's update on constant gradients, around epsilon",
        predicted=lambda p: p["adam_updates"],
        measured=lambda m: m["adam_updates"],
        tolerance=1e-12,
        because="exact; corrections of the moments' bias leave some rounding",
    ),
    Claim(
        "root mean square weight under random gradients, two ways to decay",
        predicted=lambda p: p["rms"],
        measured=lambda m: np.sqrt(m["squares"][0]),
        tolerance=lambda p, m: (
            2 * m["squares"][1] / m["squares"][0] + np.exp(-2 * p["decay"] * DECAY_STEPS)
        ),
        because="4 standard errors over weights; and what is left of the start, as to which the "
        "formula leaves out momentum",
    ),
)

EXPERIMENT = Experiment(
    name="wortsman2023_proxies",
    source=papers.wortsman2023("learning-rate sensitivity of small transformers"),
    statement="Large learning rates drive up attention logits; qk-norm, z-loss and warm-up help.",
    equations=(
        r"\max\frac{|q\cdot k|}{\sqrt{d}} \le \sqrt{d}\,\max_j|g_j k_j|, \qquad "
        r"\max|q\cdot k| \sim \eta^4 \text{ without qk-norm},\quad \eta^2 \text{ with it}",
        r"\frac{d}{dt}\ln Z = -\frac{2w}{v}\ln Z, \qquad "
        r"|\Delta\theta| = \eta\,\frac{|g|}{|g|+\epsilon}, \qquad "
        r"\langle\theta^2\rangle = \frac{\eta^2}{1-a^2}\frac{(1-b)(1+ab)}{(1+b)(1-ab)}, \; a = 1-w",
    ),
    quick=Config(),
    full=Config(
        vocabulary=16,
        context=16,
        width=32,
        depth=2,
        heads=4,
        steps=500,
        warmup=100,
        rates=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        z_weight=1e-3,
        seeds=6,
    ),
    cost=(15, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
