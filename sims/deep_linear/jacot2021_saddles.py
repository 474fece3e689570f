"""From saddle to saddle, and what finite steps of gradient descent change on the way.

Jacot, Ged, Şimşek, Hongler & Gabriel (2021) introduced the phenomenon: from small weights a deep
linear network visits saddles of growing rank, and the time it takes to leave them diverges as the
weights shrink. The closed-form times are those of balanced networks aligned with the task (Saxe,
McClelland & Ganguli 2014); networks from random weights share their growth with the scale of the
weights, and the losses and ranks of the plateaus. All sizes, scales and rates are our own.

Time is the learning rate times steps of gradient descent, which errs from gradient flow by the
first order in the learning rate eta; it errs from the flow on ``Loss + (eta/4) |grad Loss|^2`` by
the second, and so does descent on ``Loss - (eta/4) |grad Loss|^2`` from the flow on the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.stats import entropy

from dynamics import initialization, models
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from dynamics.representation import balance_matrices, effective_rank, first_crossing
from sims import papers
from sims.deep_linear.small_starts import (
    Starts,
    at_scales,
    flattest,
    gaussian_networks,
    members,
    standard_starts,
    turned,
)
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import training
from sims.rates import fitted_exponent, order_of_error
from sims.sweep import sweep
from theory.deep_linear import discrete, modes, saddles

HALVINGS = np.array([1.0, 0.5, 0.25])  # of the scale of random weights, and of the learning rate
DEPTHS = (2, 3, 4)
STRENGTHS = {  # from which aligned modes start
    2: 10 ** np.array([-3.0, -5.0, -7.0, -9.0]),
    3: 10 ** np.array([-4.0, -4.5, -5.0, -5.5]),
    4: 10 ** np.array([-3.0, -3.5, -4.0, -4.5]),
}
LARGEST = {2: 4e-5, 3: 0.2, 4: 0.5}  # scale of random weights
HORIZONS = {2: 20.0, 3: 120.0, 4: 200.0}
CURVE_POINTS = 400
CURVES = ("times", "small_loss", "loss", "rank")  # that have as many records as it takes
WARM = 0.1  # of its target is where a mode starts whose errors of finite steps are measured
WARM_TIMES = 0.4 * np.arange(1, 11)
WARM_SCALE = 0.3  # of random weights, for the same purpose


@dataclass(frozen=True)
class Config:
    """Layers are ``width`` wide; random weights are N(0, scale^2/width)."""

    singular_values: tuple[float, ...] = (3.0, 2.0, 1.0)
    width: int = 6
    learning_rate: float = 0.01
    starts: int = 6
    records: int = 1500
    start_seed: int = 0

    def __post_init__(self) -> None:
        s = self.singular_values
        if len(s) < 2 or min(s) <= 0 or max(np.diff(s)) >= 0:
            raise ValueError(f"singular_values must be 2 or more, falling and > 0, got {s}")
        if self.width < len(s):
            raise ValueError(f"width must be at least {len(s)} (modes), got {self.width}")
        if self.starts < 2:
            raise ValueError(f"starts must be at least 2, got {self.starts}")
        stride = WARM_TIMES[0] / self.learning_rate
        if not 0 < self.learning_rate <= 0.02 or abs(stride - round(stride)) > 1e-9:
            raise ValueError(
                f"learning_rate must be at most 0.02 and divide {WARM_TIMES[0]:g}, "
                f"got {self.learning_rate}"
            )

    @property
    def values(self) -> np.ndarray:
        """The singular values."""
        return np.array(self.singular_values)

    @property
    def sigma(self) -> np.ndarray:
        """Sigma_yx, (modes, width)."""
        return np.diag(self.values) @ np.eye(len(self.values), self.width)

    @property
    def rates(self) -> np.ndarray:
        """Learning rates at which errors of finite steps are measured."""
        return self.learning_rate * HALVINGS

    @property
    def warm_steps(self) -> np.ndarray:
        """Steps at which each of the rates has reached WARM_TIMES, (rates, times)."""
        return np.rint(WARM_TIMES / self.rates[:, None]).astype(int)

    def steps(self, depth: int) -> np.ndarray:
        """At which networks are looked at."""
        linear = record_schedule(int(HORIZONS[depth] / self.learning_rate), self.records)
        return np.unique([*linear, 1, *self.warm_steps.flat])


def by_depth(function: Callable[[int], Any]) -> Any:
    """What ``function`` gives of each depth, stacked."""
    found = [function(depth) for depth in DEPTHS]
    return jax.tree.map(lambda *arrays: np.stack([np.asarray(a) for a in arrays]), *found)


def predict(config: Config) -> Arrays:
    """Schedules of the plateaus, and errors of finite steps."""
    s, depths = config.values, np.array(DEPTHS)
    times, losses = by_depth(lambda depth: schedule(config, depth))
    return {
        "depths": depths,
        "singular_values": s,
        "inputs": config.width,
        "learning_rate": config.learning_rate,
        "stiffness": np.array([2 / modes.critical_learning_rate(s[0], L) for L in DEPTHS]),
        "start_strengths": np.stack([STRENGTHS[depth] for depth in DEPTHS]),
        "escape_times": times,
        "levels": losses[0, 0],
        "ranks": np.exp([entropy(s[:k]) for k in range(1, len(s))]),
        "growth_exponents": 2 / depths - 1,
        "scale_exponents": 2.0 - depths,
        "orders": np.array([1.0, 2.0]),
        "warm": by_depth(lambda depth: warm_weights(config, depth)[1:]),
        "gd_errors": by_depth(lambda depth: gd_errors(config, depth)),
        "modified": by_depth(lambda depth: modified(config, depth)),
        "rates": config.rates,
        "drift": balance_drift(config),
        "curves": by_depth(lambda depth: curve(config, depth)),
    }


def curve(config: Config, depth: int) -> np.ndarray:
    """Times and losses of the balanced network that starts weakest, (2, points), for the eye."""
    last = schedule(config, depth)[0][-1, -1]
    t = np.linspace(0, 1.3 * last, CURVE_POINTS)
    u = strengths(config, depth)[len(WARM_TIMES) + 1 :]
    return np.stack([t, modes.loss_from_modes(u, np.broadcast_to(config.values, u.shape))])


@cache
def schedule(config: Config, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Times (start strengths, modes) and losses (start strengths, plateaus)."""
    found = [saddles.saddle_schedule(config.values, u0, depth) for u0 in STRENGTHS[depth]]
    return np.array([of.times for of in found]), np.array([of.losses for of in found])


@cache
def strengths(config: Config, depth: int) -> np.ndarray:
    """Of warm modes at 0 and WARM_TIMES, then of small ones: one call, to compile once."""
    warm, s = np.array([0.0, *WARM_TIMES]), config.values
    t = np.array([*warm, *np.linspace(0, 1.3 * schedule(config, depth)[0][-1, -1], CURVE_POINTS)])
    is_warm = np.arange(len(t))[:, None] < len(warm)
    u0 = np.where(is_warm, WARM * s, STRENGTHS[depth][-1])
    target = np.broadcast_to(s, u0.shape)
    return np.asarray(modes.deep_mode_strength(t[:, None], target, u0, depth))


def weight_velocity(config: Config, depth: int) -> Callable[[Any], Any]:
    """dw/dt of the weight ``w = u^(1/L)`` that each layer has in a balanced mode."""

    def velocity(w):
        s = jnp.broadcast_to(config.values, w.shape)
        return modes.deep_mode_velocity(w**depth, s, depth) * w ** (1 - depth) / depth

    return velocity


def warm_weights(config: Config, depth: int) -> np.ndarray:
    """Of balanced modes at the start of the warm runs, and at WARM_TIMES: (1 + times, modes)."""
    return strengths(config, depth)[: len(WARM_TIMES) + 1] ** (1 / depth)


def gd_errors(config: Config, depth: int) -> np.ndarray:
    """Leading error of gradient descent over the learning rate, (times, modes)."""
    leading = partial(discrete.gd_error_leading, weight_velocity(config, depth), lr=1.0)
    weights = warm_weights(config, depth)
    return np.asarray(jax.jit(leading)(weights[1:], weights[:1]))


def modified(config: Config, depth: int) -> np.ndarray:
    """Weights on the modified flow of each of the rates, (rates, times, modes)."""
    start = warm_weights(config, depth)[0]

    @jax.jit
    def velocity(t, w, rate):
        return discrete.modified_flow(weight_velocity(config, depth), rate)(w)

    return np.stack(
        [
            solve_ivp(
                velocity,
                (0, WARM_TIMES[-1]),
                start,
                t_eval=WARM_TIMES,
                args=(rate,),
                method="DOP853",
                rtol=1e-10,
                atol=1e-12,
            ).y.T
            for rate in config.rates
        ]
    )


def warm_starts(config: Config) -> Starts:
    """Random two-layer weights that are not small."""
    seed, width, count = config.start_seed, config.width, len(config.values)
    first, second = standard_starts(seed, config.starts, width, width, count)
    return Starts(WARM_SCALE * first, WARM_SCALE * second)


def balance_drift(config: Config) -> np.ndarray:
    """Eigenvalues of the change of balance in one step, (rates, starts, width)."""

    def drift(W1, W2, rate):
        return discrete.balance_drift(W1, W2, config.sigma - W2 @ W1, rate)

    over = jax.vmap(jax.vmap(drift, (0, 0, None)), (None, None, 0))
    return np.linalg.eigvalsh(over(*warm_starts(config), config.rates))


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every depth, and two layers at three rates on two losses."""
    found = [train(config, jax.random.fold_in(key, depth), depth, sweep) for depth in DEPTHS]
    maps = [of.pop("maps") for of in found]
    ends = np.cumsum([of_depth.shape[1] for of_depth in maps])[:-1]
    together = np.asarray(ranks(np.concatenate(maps, axis=1)))  # to compile once
    curves = {}
    for depth, of, rank in zip(DEPTHS, found, np.split(together, ends, axis=1), strict=True):
        of["rank"] = rank
        of |= plateaus(of)
        curves |= {f"{name}_{depth}": of.pop(name) for name in CURVES}
    by_name = {name: np.stack([of[name] for of in found]) for name in found[0]}
    return by_name | curves | finite_steps(config, key, sweep)


def train(config: Config, key: jax.Array, depth: int, sweep: Any) -> dict[str, np.ndarray]:
    """Networks of one depth: aligned ones from small strengths, random and warm ones."""
    widths = (config.width,) * depth + (len(config.values),)
    model = models.deep_linear(widths)
    loss = half_squared_error(model.apply, examples="sum")
    small, warm = aligned_networks(config, key, widths, depth)
    random = gaussian_networks(key, widths, config.starts)
    random = at_scales(random, LARGEST[depth] * HALVINGS)
    networks = jax.tree.map(lambda *w: np.concatenate(w), small, random, warm)
    groups = np.cumsum([len(small[0]), len(random[0])])
    rates = np.array([config.learning_rate] * groups[-1] + list(config.rates))
    steps = config.steps(depth)

    def observe(params, data):
        return {"map": models.end_to_end(params), "loss": loss(params, data)}

    cases = members(networks, config.sigma, rates)
    found = sweep(f"depth_{depth}", training(loss, observe), cases, record_at=steps).records
    strength = np.diagonal(found["map"], axis1=-2, axis2=-1)
    t = steps * config.learning_rate
    small_times, random_times, _ = np.split(crossings(t, strength, config.values / 2), groups)
    at = np.searchsorted(steps, config.warm_steps)[..., None]
    weakest = slice(groups[1] - config.starts, groups[1])
    return {
        "times": t,
        "small_loss": found["loss"][groups[0] - 1],
        "loss": found["loss"][weakest],
        "maps": found["map"][weakest],
        "escape_times": small_times,
        "random_times": random_times.reshape(len(HALVINGS), config.starts, -1),
        "warm": np.take_along_axis(strength[groups[1] :], at, axis=1) ** (1 / depth),
    }


def aligned_networks(config: Config, key: jax.Array, widths: Any, depth: int) -> tuple[Any, Any]:
    """Balanced networks aligned with the task: from STRENGTHS, and from warm modes at each rate."""
    count = len(config.values)
    left, right = np.eye(count), np.eye(config.width, count)
    warm = np.tile(WARM * config.values, (len(config.rates), 1))
    strength = np.concatenate([np.tile(STRENGTHS[depth][:, None], count), warm])
    aligned = partial(initialization.aligned_init, key, widths, left, right)
    networks = jax.jit(jax.vmap(aligned))(strength)
    split = len(strength) - len(warm)
    return tuple(np.asarray(w[:split]) for w in networks), tuple(
        np.asarray(w[split:]) for w in networks
    )


@jax.jit
def ranks(maps: jax.Array) -> jax.Array:
    """Effective ranks (...) of maps (..., out, in)."""
    return jnp.vectorize(effective_rank, signature="(m,n)->()")(maps)


def crossings(times: Any, curves: Any, levels: Any) -> np.ndarray:
    """``first_crossing``, compiled."""
    return np.asarray(jax.jit(first_crossing)(times, curves, levels))


def plateaus(found: Arrays) -> dict[str, np.ndarray]:
    """Where the loss falls slowest between escapes: it, its rate, the rank, (starts, plateaus)."""
    t, loss = found["times"], found["loss"]
    escapes = np.sort(found["random_times"][-1], axis=-1)
    pairs = zip(escapes.T[:-1], escapes.T[1:], strict=True)
    at = np.stack([flattest(t, loss, *pair) for pair in pairs], axis=-1)
    named = {
        "loss": loss,
        "rate": -np.gradient(loss, t, axis=-1),
        "rank": found["rank"],
    }
    return {f"plateau_{name}": np.take_along_axis(x, at, axis=1) for name, x in named.items()}


def finite_steps(config: Config, key: jax.Array, sweep: Any) -> dict[str, np.ndarray]:
    """Losses at WARM_TIMES (orders, rates, starts, times); drift of balance in the first step."""
    networks, sigma = turned(key, warm_starts(config), config.sigma)
    model = models.deep_linear((config.width, config.width, len(config.values)))
    loss = half_squared_error(model.apply, examples="sum")

    def corrected(params, data):
        x, y, correction = data
        slope = jax.grad(loss)(params, (x, y))
        return loss(params, (x, y)) - correction * sum(jnp.sum(g**2) for g in slope)

    def observe(params, data):
        return {"loss": loss(params, data[:2]), "balance": balance_matrices(params)[0]}

    corrections = np.stack([0 * config.rates, config.rates / 4])
    shape = (*corrections.shape, config.starts)
    copies = corrections.size
    cases = members(
        at_scales(tuple(networks), np.ones(copies)),
        np.concatenate([sigma] * copies),
        np.tile(np.repeat(config.rates, config.starts), 2),
    )
    cases["data"] = (*cases["data"], np.repeat(corrections, config.starts))
    steps = np.unique([0, 1, *config.warm_steps.flat])
    run = sweep("finite_steps", training(corrected, observe), cases, record_at=steps)
    loss_at = run.records["loss"].reshape(*shape, -1)
    at = np.searchsorted(steps, config.warm_steps)[None, :, None]
    drift = np.diff(run.records["balance"][:, :2], axis=1)[:, 0]
    drift = drift.reshape(*shape, *drift.shape[1:])[0]
    return {
        "warm_losses": np.take_along_axis(
            loss_at, np.broadcast_to(at, (*shape, at.shape[-1])), axis=-1
        ),
        "drift": np.linalg.eigvalsh(drift),
        "rates": config.rates,
    }


def first_order(values: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Derivative at rate 0 of values (depths, rates, ...) whose rates are HALVINGS of the first."""
    steps = np.diff(rates).reshape(-1, *[1] * (values.ndim - 2))
    coarse, fine = np.moveaxis(np.diff(values, axis=1) / steps, 1, 0)
    return 2 * fine - coarse


def order(values: np.ndarray) -> float:
    """Order of an error, from the norms of the differences of values at HALVINGS (leading axis)."""
    first, second = np.diff(values, axis=0)
    return float(np.log2(np.linalg.norm(first) / np.linalg.norm(second)))


def growth_exponents(m: Arrays) -> np.ndarray:
    """Exponent, for every depth and mode, of what the escape time gains as STRENGTHS shrink."""
    gains = np.diff(m["escape_times"], axis=1)
    return np.array(
        [
            [fitted_exponent(STRENGTHS[depth][:-1], gain) for gain in of_depth.T]
            for depth, of_depth in zip(DEPTHS, gains, strict=True)
        ]
    )


def left_strength(p: Arrays, m: Arrays) -> np.ndarray:
    """Strength of the next mode on each plateau (depths, starts, plateaus), from the loss's rate.

    Alone it costs ``s u`` and makes the loss fall at the rate ``L s^2 u^(2-2/L)``.
    """
    depth, s = p["depths"][:, None, None], p["singular_values"][1:]
    return (np.abs(m["plateau_rate"]) / (depth * s**2)) ** (depth / (2 * depth - 2))


def rank_tolerance(p: Arrays, m: Arrays) -> np.ndarray:
    """Relative error of effective ranks: modes not yet learned, and what the last one still lacks.

    Near its target s a mode lacks d if the loss falls at the rate ``L s^(2-2/L) d^2``.
    """
    depth, s = p["depths"][:, None, None], p["singular_values"]
    total = np.cumsum(s)[:-1]
    share = np.sqrt(p["inputs"]) * left_strength(p, m) / total
    lacking = np.sqrt(np.abs(m["plateau_rate"]) / (depth * s[:-1] ** (2 - 2 / depth)))
    count = np.arange(len(total), 0, -1)
    return count * share * (1 + np.log(1 / share)) + lacking / total


CLAIMS = (
    Claim(
        "aligned networks: escape times of every mode, depth 2, 3 and 4",
        predicted=lambda p: p["escape_times"],
        measured=lambda m: m["escape_times"],
        tolerance=lambda p, m: escape_tolerance(p),
        because="finite steps delay growth by a fraction eta s/2 (twice that); the next order of "
        "the escape time is (u0/s)^(1-2/L), with a coefficient below 1, absent at L = 2",
    ),
    Claim(
        "aligned networks: exponent of the growth of escape times as u0 -> 0",
        predicted=lambda p: p["growth_exponents"][:, None],
        measured=growth_exponents,
        tolerance=0.01,
        because="time gained from one u0 to the next, free of what does not grow; finite steps add "
        "eta/2 times a logarithm, below 1 % of it",
        error="absolute",
    ),
    Claim(
        "random networks: exponent of the growth of escape times with 1/scale, less 0 (L = 2: log)",
        predicted=lambda p: p["scale_exponents"][:, None],
        measured=lambda m: np.median(order_of_error(m["random_times"].swapaxes(0, 1)), axis=1),
        tolerance=0.1,
        because="the flow from vanishing weights is homogeneous of degree L - 1; scale^2 as the "
        "next order leaves some percent",
        error="absolute",
    ),
    Claim(
        "random networks: losses of the plateaus, median over starts",
        predicted=lambda p: p["levels"][1:-1],
        measured=lambda m: np.median(m["plateau_loss"], axis=1),
        tolerance=lambda p, m: (
            1.5
            * np.median(p["singular_values"][1:] * left_strength(p, m), axis=1)
            / p["levels"][1:-1]
        ),
        because="what the next mode has learned where the loss falls slowest, seen in the rate of "
        "its fall; half as much for all else. A start may learn two modes together",
    ),
    Claim(
        "random networks: effective rank on the plateaus, median over starts",
        predicted=lambda p: p["ranks"],
        measured=lambda m: np.median(m["plateau_rank"], axis=1),
        tolerance=lambda p, m: np.median(rank_tolerance(p, m), axis=1),
        because="p ln(1/p) of modes not yet learned, and what the last learned one lacks, seen in "
        "the rate at which the loss falls; not yet aligned with it they are stronger, by up to the "
        "root of the number of inputs",
    ),
    Claim(
        "leading error of gradient descent, over eta",
        predicted=lambda p: p["gd_errors"],
        measured=lambda m: first_order(m["warm"], m["rates"]),
        tolerance=lambda p, m: (
            (p["learning_rate"] * p["stiffness"]) ** 2 * np.abs(p["gd_errors"]).max(axis=(1, 2))
        )[:, None, None],
        because="extrapolated without its next order; what is left is smaller by (eta times "
        "largest curvature)^2",
        error="absolute",
    ),
    Claim(
        "gradient descent at three rates follows the modified flow",
        predicted=lambda p: p["modified"],
        measured=lambda m: m["warm"],
        tolerance=lambda p, m: modified_tolerance(p),
        because="as far as the next order in eta: less than the leading error times eta times the "
        "largest curvature, at every rate",
        error="absolute",
    ),
    Claim(
        "order of the error of finite steps: on the loss, on the loss less (eta/4)|gradient|^2",
        predicted=lambda p: p["orders"],
        measured=lambda m: np.array([order(loss) for loss in m["warm_losses"]]),
        tolerance=0.1,
        because="the next order is smaller by eta times the curvature, 6 percent",
        error="absolute",
    ),
    Claim(
        "change of the balance of layers in one step",
        predicted=lambda p: p["drift"],
        measured=lambda m: m["drift"],
        tolerance=lambda p, m: 64 * np.finfo(float).eps / np.abs(p["drift"]),
        because="exact; what is left is rounding of the balance itself, of order 1",
    ),
)


def escape_tolerance(p: Arrays) -> np.ndarray:
    """Relative errors of escape times, (depths, start strengths, modes)."""
    depth, s = p["depths"][:, None, None], p["singular_values"]
    next_order = (p["start_strengths"][..., None] / s) ** (1 - 2 / depth)
    return p["learning_rate"] * s + np.where(depth > 2, next_order, 0)


def modified_tolerance(p: Arrays) -> np.ndarray:
    """Absolute errors of the modified flow, (depths, rates, 1, 1)."""
    leading = np.abs(p["gd_errors"]).max(axis=(1, 2)) * p["stiffness"]
    return (leading[:, None] * p["rates"] ** 2)[..., None, None]


EXPERIMENT = Experiment(
    name="jacot2021_saddles",
    source=papers.jacot2021("saddle-to-saddle dynamics; times as in Saxe et al. (2014)"),
    statement="From small weights the loss comes down in stairs, whose length diverges as the "
    "weights shrink, with the logarithm at depth 2 and a power beyond.",
    equations=(
        r"t_i = \frac{\tau}{2s_i}\ln\frac{s_i-u_0}{u_0} \;(L=2), \quad "
        r"t_i \simeq \frac{\tau\,u_0^{2/L-1}}{(L-2)s_i} \;(L>2), \quad "
        r"\mathrm{Loss}_k = \frac12\sum_{i>k} s_i^2",
        r"w_k - w(k\eta) = -\frac{\eta}{2} f(w)\ln\frac{f(w)}{f(w_0)} + O(\eta^2), \quad "
        r"\dot w = f(w) - \frac{\eta}{2} f'f + O(\eta^2)",
        r"\Delta(W_2^TW_2 - W_1W_1^T) = \eta^2\,(W_1E^TEW_1^T - W_2^TEE^TW_2)",
    ),
    quick=Config(),
    full=Config(width=8, learning_rate=0.004, starts=32, records=3000),
    cost=(15, 60),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
