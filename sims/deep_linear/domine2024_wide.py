"""From lazy to rich by the size of ordinary Gaussian weights: the wide limit of two linear layers.

Dominé et al. (2024) solve networks whose layers are balanced up to a number lambda; weights drawn
independently are not. But in wide networks the hidden vectors of different inputs and outputs are
nearly orthogonal, and then all modes of a task decouple at once: with entries of variance c1/N_h
and c2/N_h each mode obeys the scalar equation from u0 = 0 with the imbalance kappa = c1 + c2,
whatever the task, up to fluctuations of order 1/sqrt(N_h), whose size is known as well. The Gram
matrices of the layers, and with them the tangent kernel, follow from the map. Networks with
kappa >> s are lazy, and those with kappa << s are rich.

The closed form and the fluctuations are derived here (Tu, Aranguri & Jacot 2024, arXiv:2405.17580,
have the same mixed regime), and all sizes are our own choices. Two of the settings share their
kappa and little else.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models, regime
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from dynamics.representation import first_crossing, mode_strengths
from dynamics.tangent_kernel import empirical_ntk
from sims import papers
from sims.deep_linear.lambda_balanced import largest_curvature, random_task, white_inputs
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import generator, seed_keys, training_process
from sims.rates import fitted_exponent, jackknife, standard_error
from sims.sweep import sweep
from theory.deep_linear import end_to_end, modes, riccati, tangent_kernel
from theory.deep_linear.wide_networks import wide_mode_variance

TWINS = (1, 2)  # settings of one kappa
SETTLED = 6.0  # e-foldings of the slowest mode once the fastest part of learning is over
CURVE_POINTS = 80


@dataclass(frozen=True)
class Config:
    """``settings`` are (c1, c2); ``relative_step`` is the learning rate times the curvature."""

    widths: tuple[int, ...] = (32, 128, 512)
    settings: tuple[tuple[float, float], ...] = (
        (0.1, 0.1),
        (0.5, 0.5),
        (0.9, 0.1),
        (5.0, 5.0),
    )
    n_in: int = 4
    n_out: int = 3
    strongest: float = 2.0
    weakest: float = 1.0
    relative_step: float = 0.015
    records: int = 60
    seeds: int = 24
    problem_seed: int = 0

    def __post_init__(self) -> None:
        if len(self.widths) < 3 or np.any(np.diff(self.widths) <= 0):
            raise ValueError(f"widths must be 3 or more, increasing, got {self.widths}")
        if self.widths[0] < 4 * (self.n_in + self.n_out):
            raise ValueError(
                f"widths must be at least 4 (n_in + n_out) = {4 * (self.n_in + self.n_out)}, "
                f"got {self.widths}"
            )
        if len(self.settings) < 3 or np.min(self.settings) <= 0:
            raise ValueError(f"settings must be 3 or more pairs above 0, got {self.settings}")
        one, other = (sum(self.settings[i]) for i in TWINS)
        if not np.isclose(one, other):
            raise ValueError(f"settings {TWINS} must have one sum, got {self.settings}")
        if not 0 < self.weakest < self.strongest:
            raise ValueError(
                "weakest and strongest must satisfy 0 < weakest < strongest, got "
                f"{self.weakest} and {self.strongest}"
            )
        if not 0 < self.relative_step <= 0.1:
            raise ValueError(f"relative_step must be in (0, 0.1], got {self.relative_step}")
        if self.seeds < 8:  # fewer have no error bar to speak of
            raise ValueError(f"seeds must be at least 8, got {self.seeds}")

    @property
    def imbalances(self) -> np.ndarray:
        """kappa of every setting."""
        sigma = np.sqrt(np.array(self.settings))  # of a single hidden unit
        return np.asarray(riccati.wide_mode_imbalance(sigma[:, 0], sigma[:, 1], 1))

    @property
    def singular_values(self) -> np.ndarray:
        return np.linspace(self.strongest, self.weakest, min(self.n_in, self.n_out))

    @property
    def rates(self) -> np.ndarray:
        """Learning rate of every setting."""
        return self.relative_step / largest_curvature(self.imbalances, self.strongest)

    @property
    def schedule(self) -> np.ndarray:
        """Recorded steps."""
        almost = self.weakest * -np.expm1(-SETTLED)
        horizon = modes.two_layer_mode_time(almost, self.weakest, 0.0, self.imbalances)
        return record_schedule(int(np.ceil(np.max(horizon / self.rates))), self.records)

    @property
    def times(self) -> np.ndarray:
        """Recorded times of every setting, (settings, records)."""
        return self.schedule[None, :] * self.rates[:, None]


@cache
def task(config: Config) -> jax.Array:
    """The task: part of the question, not of the answer."""
    key = jax.random.key(config.problem_seed)
    return random_task(key, config.n_in, config.n_out, config.singular_values)


def predict(config: Config) -> Arrays:
    """Strengths (settings, records, modes), half-learning times, alignment in the end."""
    s, kappa, times = config.singular_values, config.imbalances, config.times
    between = np.geomspace(kappa.min() / 2, 2 * kappa.max(), CURVE_POINTS)
    strength = modes.two_layer_mode_strength
    c1, c2 = np.array(config.settings).T[:, :, None, None]
    variance = wide_mode_variance(times[:, :, None], s[None, None], c1, c2, 1)  # times the width
    alone = np.stack([between, np.zeros(CURVE_POINTS)])  # the split into c1 and c2 has no effect
    layers = np.concatenate([np.array(config.settings).T, alone], axis=1)
    alignment = final_alignment(config, layers)
    return {
        "strengths": strength(times[:, :, None], s[None, None], 0.0, kappa[:, None, None]),
        "half_times": modes.two_layer_mode_time(s[None] / 2, s[None], 0.0, kappa[:, None]),
        "alignment": alignment[: len(kappa)],
        "curve_alignment": alignment[len(kappa) :],
        "curve_half_times": modes.two_layer_mode_time(s[None] / 2, s[None], 0.0, between[:, None]),
        "curve_imbalances": between,
        "times": times,
        "imbalances": kappa,
        "singular_values": s,
        "crowding": (config.n_in + config.n_out) / np.array(config.widths),
        "relative_step": config.relative_step,
        "scaled_spread": np.sqrt(np.mean(variance, axis=(-2, -1))),
        "width_exponent": np.full(len(kappa), -0.5),
    }


def final_alignment(config: Config, layers: np.ndarray) -> np.ndarray:
    """Of the tangent kernel in the end with that at the start, for c1, c2 in ``layers``."""

    learned, inputs = task(config), jnp.eye(config.n_in)

    @jax.jit
    @jax.vmap
    def alignment(c1, c2):
        maps = (jnp.zeros_like(learned), learned)
        grams = [end_to_end.orthogonal_init_grams(D, c1, c2) for D in maps]
        return tangent_kernel.kernel_alignment(
            *(tangent_kernel.ntk_two_layer(*gram, inputs) for gram in grams)
        )

    return np.asarray(alignment(*jnp.asarray(layers)))


def observe(params: Any, shared: Any) -> dict[str, jax.Array]:
    """Strengths of the modes of the map."""
    return {"strengths": mode_strengths(models.end_to_end(params), *shared["vectors"])}


APPLY = models.deep_linear((1, 1, 1)).apply  # of weights of any shape
TRAINING = training_process(
    lambda case, shared: case["weights"], half_squared_error(APPLY, examples="mean"), observe
)


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train every width, setting and seed: strengths (widths, seeds, settings, records, modes).

    Of the largest width half-learning times (seeds, settings, modes) and alignments of the kernel
    in the end with that at the start (seeds, settings).
    """
    x = white_inputs(jax.random.fold_in(key, 0), config.n_in, config.n_in)
    left, _, right, _ = modes.decompose_task(task(config))
    shared = {"data": (x, x @ task(config).T), "vectors": (left, right)}
    strengths = []
    for width in config.widths:
        cases = members(config, jax.random.fold_in(key, width), width)
        run = sweep(f"width_{width}", TRAINING, cases, shared, record_at=config.schedule)
        found = run.records["strengths"]
        strengths.append(found.reshape(config.seeds, -1, *found.shape[1:]))
    alignment = np.asarray(alignment_with_start(cases["weights"], run.final.params, x))
    return {
        "strengths": np.stack(strengths),
        "half_times": half_times(config, strengths[-1]),
        "alignment": alignment.reshape(config.seeds, -1),
        "widths": np.array(config.widths),
    }


def members(config: Config, key: jax.Array, width: int) -> dict[str, Any]:
    """Networks of every setting for every seed; seeds lead, so that they come in any number."""
    normal, settings = generator(key).standard_normal, len(config.settings)
    members = config.seeds * settings
    layers = np.tile(np.sqrt(np.array(config.settings) / width), (config.seeds, 1))
    fans = ((width, config.n_in), (config.n_out, width))
    drawn = [normal((config.seeds, settings, *fan)).reshape(members, *fan) for fan in fans]
    return {
        "weights": tuple(
            scale[:, None, None] * w for scale, w in zip(layers.T, drawn, strict=True)
        ),
        "learning_rate": np.tile(config.rates, config.seeds),
        "key": seed_keys(key, members),  # full batch: not used
    }


@jax.jit
def alignment_with_start(starts: Any, ends: Any, x: Any) -> jax.Array:
    """Of the tangent kernels of networks in the end with those at the start, one by one."""

    def align(pair):
        return regime.kernel_alignment(*(empirical_ntk(APPLY, params, x) for params in pair))

    return jax.lax.map(align, (starts, ends))


def half_times(config: Config, strengths: np.ndarray) -> np.ndarray:
    """When modes (seeds, settings, records, modes) reach half their singular value."""
    crossing = jax.vmap(first_crossing, (0, 1, None), 1)
    return np.asarray(crossing(config.times, strengths, config.singular_values / 2))


def fluctuations(strengths: np.ndarray) -> np.ndarray:
    """Squared deviations from the mean over seeds, mean over time and modes, without its bias.

    (widths, seeds, settings) of strengths (widths, seeds, settings, records, modes).
    """
    seeds = strengths.shape[1]
    squares = (strengths - strengths.mean(axis=1, keepdims=True)) ** 2
    return squares.mean(axis=(-2, -1)) * seeds / (seeds - 1)


def scaled_spread(found: Arrays) -> np.ndarray:
    """Root mean square fluctuation times sqrt(width), by setting; over all widths but the least."""
    squares = fluctuations(found["strengths"][1:]).mean(axis=1)
    return np.sqrt(np.mean(squares * found["widths"][1:, None], axis=0))


def width_exponents(widths: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Powers of the width in rms deviations, from their squares (widths, settings)."""
    return np.array([fitted_exponent(widths, np.sqrt(column)) for column in squares.T])


def exponent_errors(widths: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Standard errors of ``width_exponents``, from squares (widths, seeds, settings)."""
    return jackknife(lambda mean: width_exponents(widths, mean), np.swapaxes(squares, 0, 1))


def relative_sampling(samples: np.ndarray, theory: np.ndarray) -> np.ndarray:
    """Four standard errors over seeds, relative to what is predicted."""
    return 4 * standard_error(samples) / np.abs(theory)


def independent(found: Arrays) -> int:
    """How many independent curves ``scaled_spread`` is taken from."""
    widths, seeds, _, _, modes_per_network = found["strengths"][1:].shape
    return widths * (seeds - 1) * modes_per_network


def curve_tolerance(p: Arrays, m: Arrays) -> np.ndarray:
    """Of mean strengths at the largest width: sampling, finite width, finite steps."""
    bias = p["crowding"][-1] + p["relative_step"]
    return 4 * standard_error(m["strengths"][-1]) + bias * p["singular_values"]


CLAIMS = (
    Claim(
        "power of the width in fluctuations over initial weights, by setting",
        predicted=lambda p: p["width_exponent"],
        measured=lambda m: width_exponents(m["widths"], fluctuations(m["strengths"]).mean(axis=1)),
        tolerance=lambda p, m: (
            4 * exponent_errors(m["widths"], fluctuations(m["strengths"]))
            + p["crowding"][0] / np.log(m["widths"][-1] / m["widths"][0])
        ),
        because="4 standard errors over seeds; a relative (n_in + n_out)/N of the next order at "
        "the smallest width, over the range of widths",
        error="absolute",
    ),
    Claim(
        "size of the fluctuations, times the root of the width",
        predicted=lambda p: p["scaled_spread"],
        measured=scaled_spread,
        tolerance=lambda p, m: 4 * np.sqrt(0.5 / independent(m)) + p["crowding"][1],
        because="4 standard errors of a standard deviation over seeds, modes and widths, and a "
        "relative (n_in + n_out)/N of the next order",
    ),
    Claim(
        "mode strengths over time at the largest width, mean over weights",
        predicted=lambda p: p["strengths"],
        measured=lambda m: m["strengths"][-1].mean(axis=0),
        tolerance=curve_tolerance,
        because="4 standard errors over seeds; fluctuations of order 1/sqrt(N) have no mean, and "
        "leave a bias of order (n_in + n_out)/N; finite steps",
        error="absolute",
    ),
    Claim(
        "half-learning times at the largest width, mean over weights",
        predicted=lambda p: p["half_times"],
        measured=lambda m: m["half_times"].mean(axis=0),
        tolerance=lambda p, m: (
            relative_sampling(m["half_times"], p["half_times"])
            + p["crowding"][-1]
            + p["relative_step"]
        ),
        because="4 standard errors over seeds, a bias of order (n_in + n_out)/N, and finite steps",
    ),
    Claim(
        "half-learning times of two settings of one kappa, one over the other",
        predicted=lambda p: 1.0,
        measured=lambda m: np.divide(*(m["half_times"][:, i].mean(axis=0) for i in TWINS)),
        tolerance=lambda p, m: (
            np.hypot(*(relative_sampling(m["half_times"][:, i], p["half_times"][i]) for i in TWINS))
            + p["crowding"][-1]
        ),
        because="4 standard errors over seeds, and a bias of order (n_in + n_out)/N",
    ),
    Claim(
        "alignment of the tangent kernel in the end with that at the start",
        predicted=lambda p: p["alignment"],
        measured=lambda m: m["alignment"].mean(axis=0),
        tolerance=lambda p, m: (
            relative_sampling(m["alignment"], p["alignment"]) + p["crowding"][-1]
        ),
        because="4 standard errors over seeds; the kernel at the start is the identity up to "
        "relative fluctuations whose square is of order (n_in + n_out)/N",
    ),
)

EXPERIMENT = Experiment(
    name="domine2024_wide",
    source=papers.domine2024("from lazy to rich; Gaussian weights in the wide limit, derived here"),
    statement="In wide networks with independent Gaussian weights every mode learns on its own, "
    "lazy or rich by the sum of the layers' variances alone.",
    equations=(
        r"\tau \dot u = \sqrt{\kappa^2 + 4u^2}\,(s - u), \quad u(0) = 0",
        r"\mathrm{Var}\,u = \frac{1}{N_h}\left["
        r"c_1 c_2\left(\frac{\partial u}{\partial u_0}\right)^2"
        r" + 2(c_1^2 + c_2^2)\left(\frac{\partial u}{\partial \kappa}\right)^2\right]",
        r"\kappa = (\sigma_1^2 + \sigma_2^2) N_h = c_1 + c_2",
        r"W_1^\top W_1 = \frac{c_1 - c_2}{2} I + \sqrt{D^\top D + \frac{\kappa^2}{4} I}"
        r" \quad (D = W_2 W_1)",
    ),
    quick=Config(),
    full=Config(
        widths=(64, 256, 1024, 4096),
        settings=((0.02, 0.02), (0.5, 0.5), (0.9, 0.1), (0.1, 0.1), (2.0, 2.0), (10.0, 10.0)),
        n_in=8,
        n_out=6,
        seeds=32,
    ),
    cost=(12, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
