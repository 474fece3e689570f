"""Learning time against depth: bounded from decoupled and orthogonal weights, not from Gaussian.

Saxe, McClelland & Ganguli (2014) trained networks of 3 to 100 layers with 1000 hidden units on
MNIST, from Gaussian, greedily pre-trained and random orthogonal weights, each at the best of 20
learning rates (recalled from the paper, not verified). In place of MNIST we take a task that has
just what the theory needs, white inputs and equally strong modes, ``Sigma_yx = s U V^T``, with
fewer outputs than inputs; all sizes, depths (of weight matrices) and rates are our own. Decoupled
weights stand for pre-trained ones, which on such a task they are. All start from the same gain,
``E |W_L ... W_1|_F^2 = n_out (w0 s)^2``, and a network counts as trained once its
root-mean-square error stays below ``(1 - wf) s``: when its modes reach ``wf s`` if they are
decoupled.

How much of this is theory:

* Decoupled, in small steps: all of it. Learning time is bounded in depth.
* Square orthogonal, in small steps: all of it. Such a network starts as a rotation of the task,
  and each eigenvalue ``w0 s e^(i theta)`` of the rotation runs straight to s (``rotated_steps``):
  later than a decoupled mode by a factor bounded in depth, except for theta = pi, which sticks
  at the saddle at zero (half of all orthogonal matrices, those of determinant -1, have it). With
  fewer outputs than inputs nothing sticks, but there is no closed form.
* Gaussian: singular values of the product lag behind by ``e^(L mu_i)``, mu_i the Lyapunov
  exponents, exactly so in their mean logarithm. How much slower a balanced mode would be that
  starts that far behind tells how the time grows with depth, up to a prefactor that we have no
  theory for: Gaussian networks are neither balanced nor aligned.
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.integrate import quad
from scipy.linalg import block_diag

from dynamics.initialization import aligned_init, gaussian_init, orthogonal_init
from dynamics.losses import half_squared_error
from dynamics.representation import first_crossing
from sims.experiment import Arrays, Claim, Experiment, Source
from sims.processes import seed_keys, training_process
from sims.rates import fitted_exponent, order_of_error, without_step_error
from sims.sweep import sweep
from theory.deep_linear import modes
from theory.deep_linear.random_products import lyapunov_exponents

STEP_FACTORS = np.array([2.0, 1.0, 0.5])  # of the small learning rate, to measure its error
BRACKET = np.array([0.8, 1.2])  # of the critical learning rate: errors shrink, errors grow
OFF_MINIMUM = 1e-6  # relative distance from the minimum at which they are watched
WATCHED = 10  # steps, for the same purpose

Params = tuple[Any, Any]  # equal layers (L-1, n_in, n_in), the last one (n_out, n_in)


@dataclass(frozen=True)
class Config:
    """Depths count weight matrices; hidden layers are as wide as the input."""

    depths: tuple[int, ...] = (2, 4, 8, 12, 24)
    n_in: int = 8
    n_out: int = 4
    singular_value: float = 2.0
    start: float = 0.1
    target: float = 0.9
    small_rate: float = 0.1  # over half the critical one
    rates: int = 6
    seeds: int = 16
    steps: int = 600

    def __post_init__(self) -> None:
        if len(self.depths) < 3 or min(np.diff((1, *self.depths))) < 1:
            raise ValueError(f"depths must be 3 or more, increasing from 2 up, got {self.depths}")
        if self.n_out % 2 or not 4 <= self.n_out <= self.n_in:
            raise ValueError(f"n_out must be even, from 4 to n_in={self.n_in}, got {self.n_out}")
        if not 0 < self.start < self.target < 1:
            raise ValueError(
                f"start and target must satisfy 0 < start < target < 1, got {self.start} and "
                f"{self.target}"
            )
        for name in ("rates", "seeds"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")

    @property
    def angles(self) -> np.ndarray:
        """By which the pairs of outputs of a rotated network start rotated; the first is not."""
        return np.pi * np.arange(self.n_out // 2) / (self.n_out // 2)

    def critical_rate(self, depth: int) -> float:
        """Learning rate at which the decoupled minimum loses its stability."""
        return float(modes.critical_learning_rate(self.singular_value, depth))


def predict(config: Config) -> Arrays:
    """Steps at learning rate ``1/(L s^(2-2/L))`` were it small, critical rates, lags, slowdowns."""
    w0, wf, depths = config.start, config.target, config.depths
    decoupled = np.array([modes.steps_to_learn(w0, wf, L) for L in depths])
    return {
        "depths": np.array(depths),
        "decoupled": decoupled,
        "rotated": np.array([rotated_steps(w0, wf, L, config.angles[1:]) for L in depths]),
        "limit": modes.steps_to_learn(w0, wf, np.inf),
        "critical_rates": np.array([config.critical_rate(L) for L in depths]),
        "log_gain": np.array(depths) * exponents(config).mean(),
        "slowdown": lagging_steps(config) / decoupled,
        "within_reach": within_reach(config),
    }


@partial(np.vectorize, excluded=(0, 1, 2), otypes=[float])
def rotated_steps(start: float, target: float, depth: float, angle: float) -> float:
    """Steps, at rate ``1/(L s^(2-2/L))``, of a balanced pair of modes that starts out rotated.

        n = int_0^xf dx / (|z|^(2-2/L) (1 - x)),   z = z0 + (1 - z0) x,   z0 = w0 e^(i theta),

    ``|1 - z| = 1 - wf`` at xf. Two modes of one strength s whose map starts as ``w0 s`` times a
    rotation by theta remain s times a scaled rotation, the complex number z, and balanced layers
    move it by ``dz/dt = L |s z|^(2-2/L) (1 - z)``: straight towards 1. ``theta = 0`` is
    ``steps_to_learn``; at ``theta = pi`` z sticks at 0. First order in the learning rate.
    """
    z0 = start * np.exp(1j * angle)
    nearest = np.clip((z0 / (z0 - 1)).real, 0, 1)  # where the line passes zero

    def pace(x):
        return np.abs(z0 + (1 - z0) * x) ** (2 / depth - 2) / (1 - x)

    return quad(pace, 0, 1 - (1 - target) / np.abs(1 - z0), points=[nearest], limit=200)[0]


def exponents(config: Config) -> np.ndarray:
    """Lyapunov exponents of the singular values that a Gaussian network has, (n_out,)."""
    return np.asarray(lyapunov_exponents(config.n_in))[: config.n_out]


def lagging_steps(config: Config) -> np.ndarray:
    """Steps of a decoupled mode that starts where the weakest of a Gaussian network does."""
    lag = np.exp(np.array(config.depths) * exponents(config)[-1])
    pairs = zip(lag, config.depths, strict=True)
    return np.array([modes.steps_to_learn(config.start * x, config.target, L) for x, L in pairs])


def within_reach(config: Config) -> np.ndarray:
    """Depths at which most Gaussian networks have time to learn."""
    return lagging_steps(config) < config.steps / 4


def end_to_end(params: Params) -> jax.Array:
    """``W_L ... W_1``, multiplied from the outputs down because they are fewer than the inputs.

    The scan keeps compilation as short for 100 layers as for 2.
    """
    hidden, last = params
    return lax.scan(lambda product, w: (product @ w, None), last, hidden, reverse=True)[0]


def apply(params: Params, x: jax.Array) -> jax.Array:
    """The network, inputs (..., n_in)."""
    return x @ end_to_end(params).T


def pair_errors(params: Params, shared: Any) -> dict[str, jax.Array]:
    """Error of each pair of outputs: root of the sum over inputs, mean over the two, squared."""
    x, y = shared["data"]
    error = (apply(params, x) - y).reshape(len(x), -1, 2)
    return {"errors": jnp.sqrt(jnp.sum(error**2, axis=(0, 2)) / 2)}


TRAINING = training_process(
    lambda case, shared: case["network"], half_squared_error(apply, examples="sum"), pair_errors
)


class Group(NamedTuple):
    """Networks, stacked (k, ...), and the learning rates (r,) at which each of them is trained."""

    networks: Params
    rates: np.ndarray


def groups(config: Config, depth: int, key: jax.Array) -> dict[str, Group]:
    """All that is trained at one depth, in the order of its keys."""
    critical = config.critical_rate(depth)
    tried = critical * np.geomspace(1.2, 0.2, config.rates)
    gaussian, orthogonal, aligned = jax.random.split(key, 3)
    straight, isometry = 0 * config.angles, partial(decoupled, config, depth, aligned)
    return {
        "gaussian": Group(random_networks(config, depth, gaussian, gaussian_init), tried),
        "orthogonal": Group(random_networks(config, depth, orthogonal, orthogonal_init), tried),
        "decoupled": Group(isometry(config.start, straight), tried),
        "rotated": Group(
            isometry(config.start, config.angles), critical / 2 * config.small_rate * STEP_FACTORS
        ),
        "minimum": Group(isometry(1 - OFF_MINIMUM, straight), critical * BRACKET),
    }


def random_networks(config: Config, depth: int, key: jax.Array, init: Any) -> Params:
    """A network per seed, layers from ``init`` (as many as the deepest has, to compile once)."""
    gain = (config.start * config.singular_value) ** (1 / depth)
    keys = jax.vmap(seed_keys, (0, None))(seed_keys(key, config.seeds), max(config.depths))
    layers = gain * np.asarray(square_layers(init, keys, config.n_in))[:, :depth]
    return layers[:, :-1], layers[:, -1, : config.n_out]


@partial(jax.jit, static_argnums=(0, 2))
def square_layers(init: Any, keys: jax.Array, n: int) -> jax.Array:
    """An (n, n) matrix for each of the keys (seeds, layers)."""
    return jax.vmap(jax.vmap(lambda key: init(key, (n, n))))(keys)


def decoupled(
    config: Config, depth: int, key: jax.Array, strength: float, angles: np.ndarray
) -> Params:
    """A balanced network (k = 1): ``strength`` times the task, pairs of outputs rotated."""
    rotations = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles]
    left, right = jnp.asarray(block_diag(*rotations)), jnp.eye(config.n_in, config.n_out)
    strengths = jnp.full(config.n_out, strength * config.singular_value)
    widths = (config.n_in,) * depth + (config.n_out,)
    *hidden, last = aligned_init(key, widths, left, right, strengths)
    return np.stack(hidden)[None], np.asarray(last)[None]


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every kind at every depth; depths are the last axis of what is found."""
    found = []
    for depth in config.depths:
        trained = groups(config, depth, jax.random.fold_in(key, depth))
        errors = train(config, f"depth_{depth}", trained, sweep)
        found.append(
            learning_times(config, trained, errors)
            | {
                "small_steps": small_steps(config, trained["rotated"], errors["rotated"], depth),
                "critical_rates": stability_limit(trained["minimum"], errors["minimum"]),
                "log_gain": log_gain(config, trained["gaussian"]),
            }
        )
    by_depth = jax.tree.map(lambda *arrays: np.stack(arrays, axis=-1), *found)
    return by_depth | {"depths": np.array(config.depths), "within_reach": within_reach(config)}


def train(
    config: Config, name: str, trained: dict[str, Group], sweep: Any
) -> dict[str, np.ndarray]:
    """Errors over s, (k, r, steps + 1, pairs), of all groups: trained in one sweep."""
    cases = [members(group) for group in trained.values()]
    together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *cases)
    keys = seed_keys(jax.random.key(0), len(together["learning_rate"]))  # full batch: never used
    x = np.eye(config.n_in)
    run = sweep(
        name,
        TRAINING,
        together | {"key": keys},
        {"data": (x, config.singular_value * x[:, : config.n_out])},
        record_at=np.arange(config.steps + 1),
    )
    ends = np.cumsum([len(case["learning_rate"]) for case in cases])
    errors = np.split(run.records["errors"] / config.singular_value, ends[:-1])
    return {
        kind: error.reshape(-1, len(group.rates), *error.shape[1:])
        for (kind, group), error in zip(trained.items(), errors, strict=True)
    }


def members(group: Group) -> dict[str, Any]:
    """Every network of a group at each of its rates, as cases of a sweep."""
    count, rates = len(group.networks[1]), group.rates
    return {
        "network": jax.tree.map(lambda w: np.repeat(w, len(rates), axis=0), group.networks),
        "learning_rate": np.tile(rates, count),
    }


def learning_times(
    config: Config, trained: dict[str, Group], errors: dict[str, np.ndarray]
) -> Arrays:
    """Steps to learn at the best of the rates, and that rate: inf and NaN if none succeeds."""
    found = {}
    for kind in ("gaussian", "orthogonal", "decoupled"):
        close = np.sqrt(np.mean(errors[kind] ** 2, axis=-1)) <= 1 - config.target
        lasting = np.where(close[..., -1], config.steps + 1 - np.argmin(close[..., ::-1], -1), np.inf)
        best = lasting.argmin(axis=1)
        found[f"steps_{kind}"] = lasting.min(axis=1)
        found[f"rates_{kind}"] = np.where(
            np.isfinite(lasting.min(axis=1)), trained[kind].rates[best], np.nan
        )
    return found


def small_steps(config: Config, group: Group, errors: np.ndarray, depth: int) -> np.ndarray:
    """Steps until each pair has learned, (r, pairs), in units of those at rate 1/(L s^(2-2/L))."""
    steps, decades = np.arange(config.steps + 1), -np.log(errors[0])
    crossing = np.asarray(first_crossing(steps, decades, -np.log(1 - config.target)))
    return crossing * group.rates[:, None] * 2 / config.critical_rate(depth)


def stability_limit(group: Group, errors: np.ndarray) -> float:
    """Learning rate at which an error near the minimum neither shrinks nor grows.

    The factor per step is linear in the rate beyond the one that would take it to zero.
    """
    error = errors[0].mean(axis=-1)
    return np.interp(1.0, (error[:, WATCHED] / error[:, 0]) ** (1 / WATCHED), group.rates)


def log_gain(config: Config, group: Group) -> np.ndarray:
    """Mean log singular value of every network's map, relative to ``w0 s``."""
    hidden, last = group.networks
    maps = reduce(np.matmul, np.moveaxis(hidden, 1, 0)[::-1], last)
    values = np.linalg.svd(maps, compute_uv=False)
    return np.log(values / (config.start * config.singular_value)).mean(axis=1)


def growth(found: Arrays, log_times: np.ndarray) -> float:
    """Slope of log times against depth, over the depths within reach of Gaussian networks."""
    return weights(found) @ log_times[found["within_reach"]]


def weights(found: Arrays) -> np.ndarray:
    """Of the depths within reach in a least-squares slope."""
    centred = found["depths"][found["within_reach"]]
    centred = centred - centred.mean()
    return centred / np.sum(centred**2)


def log_slowdown(measured: Arrays) -> np.ndarray:
    """Log of how much longer the median Gaussian network takes than the median orthogonal one."""
    return np.log(np.median(measured["steps_gaussian"], 0) / np.median(measured["steps_orthogonal"], 0))


def slowdown_tolerance(predicted: Arrays, measured: Arrays) -> float:
    """Sampling of two medians (central 68 % as +-1 s.d.), and a prefactor that changes twofold."""
    variance = 0.0
    for kind in ("gaussian", "orthogonal"):
        low, high = np.quantile(np.log(measured[f"steps_{kind}"]), (0.16, 0.84), axis=0)
        variance = variance + (high - low) ** 2 / 4 * np.pi / 2 / len(measured[f"steps_{kind}"])
    depths = measured["depths"][measured["within_reach"]]
    sampling = np.sqrt(weights(measured) ** 2 @ variance[measured["within_reach"]])
    return 4 * sampling + np.log(2) / (depths[-1] - depths[0])


def depth_limit(found: Arrays, times: np.ndarray) -> np.ndarray:
    """Times extrapolated to infinite depth from the two deepest networks, without their 1/L."""
    (near, far), (early, late) = found["depths"][-2:], times[-2:]
    return (far * late - near * early) / (far - near)


CLAIMS = (
    Claim(
        "flow: steps that decoupled networks take",
        predicted=lambda p: p["decoupled"],
        measured=lambda m: without_step_error(m["small_steps"][:, 0]),
        tolerance=0.01,
        because="extrapolated to zero learning rate; kappa^2 = 0.04 at the largest bounds the rest",
    ),
    Claim(
        "flow: steps that square orthogonal networks take, by angle",
        predicted=lambda p: p["rotated"].T,
        measured=lambda m: without_step_error(m["small_steps"][:, 1:]),
        tolerance=0.01,
        because="extrapolated to zero learning rate; kappa^2 = 0.04 at the largest bounds the rest",
    ),
    Claim(
        "order of the error of finite steps",
        predicted=lambda p: 1.0,
        measured=lambda m: np.median(order_of_error(m["small_steps"])),
        tolerance=0.1,
        because="gradient descent errs by O(eta)",
        error="absolute",
    ),
    Claim(
        "steps that infinitely deep decoupled networks take",
        predicted=lambda p: p["limit"],
        measured=lambda m: depth_limit(m, without_step_error(m["small_steps"][:, 0])),
        tolerance=0.1,
        because="",
    ),
    Claim(
        "critical learning rate",
        predicted=lambda p: p["critical_rates"],
        measured=lambda m: m["critical_rates"],
        tolerance=1e-3,
        because="",
    ),
    Claim(
        "optimal learning rate of orthogonal networks falls with depth as the critical one",
        predicted=lambda p: fitted_exponent(p["depths"], p["critical_rates"]),
        measured=lambda m: fitted_exponent(m["depths"], np.median(m["rates_orthogonal"], axis=0)),
        tolerance=lambda p, m: np.log(2) / np.log(p["depths"][-1] / p["depths"][0]),
        because="descent is fastest between half the critical rate (Newton's step at the minimum) "
        "and all of it: a factor of two over the range of depths",
        error="absolute",
    ),
    Claim(
        "mean log singular value of Gaussian networks",
        predicted=lambda p: p["log_gain"],
        measured=lambda m: m["log_gain"].mean(axis=0),
        tolerance=lambda p, m: 4
        * m["log_gain"].std(axis=0, ddof=1)
        / np.sqrt(len(m["log_gain"]))
        / np.abs(p["log_gain"]),
        because="4 standard errors over networks; exact at every depth and width",
    ),
    Claim(
        "exponential growth with depth of the time Gaussian networks take over orthogonal ones",
        predicted=lambda p: growth(p, np.log(p["slowdown"])),
        measured=lambda m: growth(m, log_slowdown(m)),
        tolerance=slowdown_tolerance,
        because="",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="saxe2014_depth",
    source=Source(
        "Saxe, McClelland & Ganguli",
        2014,
        "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
        "1312.6120",
        "learning time and optimal learning rate against depth",
    ),
    statement="Learning time is bounded in depth from decoupled or orthogonal weights and grows "
    "exponentially from Gaussian ones.",
    equations=(
        r"n(L) = \int_{w_0}^{w_f} \frac{dw}{w^{2-2/L}(1-w)} \le n(\infty), \qquad "
        r"\eta_{\mathrm{crit}} = \frac{2}{L s^{2-2/L}}",
    ),
    quick=Config(),
    full=Config(),
    cost=(10, 300),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
