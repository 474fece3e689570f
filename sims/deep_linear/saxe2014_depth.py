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
  slower than a decoupled mode by a factor bounded in depth, except for theta = pi, which sticks
  at the saddle at zero (half of all orthogonal matrices, those of determinant -1, have it). With
  fewer outputs than inputs nothing sticks, but there is no closed form.
* Gaussian: singular values of the product lag behind by ``e^(L mu_i)``, mu_i the Lyapunov
  exponents, exactly so in their mean logarithm. How much slower a balanced mode would be that
  starts that far behind tells how the time grows with depth, up to a prefactor that we have no
  theory for: Gaussian networks are neither balanced nor aligned.
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from scipy.integrate import quad

from dynamics.representation import first_crossing
from sims import papers
from sims.deep_linear.deep_networks import (
    Group,
    Task,
    decoupled_network,
    lasting_steps,
    log_gain,
    random_networks,
    train,
)
from sims.experiment import Arrays, Claim, Experiment
from sims.rates import fitted_exponent, order_of_error, without_step_error
from sims.sweep import sweep
from theory.deep_linear import modes
from theory.deep_linear.random_products import lyapunov_exponents

STEP_FACTORS = np.array([2.0, 1.0, 0.5])  # of the small learning rate, to measure its error
BRACKET = np.array([0.8, 1.2])  # of the critical learning rate: errors shrink, errors grow
OFF_MINIMUM = 1e-6  # relative distance from the minimum at which they are watched
WATCHED = 10  # steps, for the same purpose
CURVE_POINTS = 60


@dataclass(frozen=True)
class Config:
    """Depths count weight matrices; hidden layers are as wide as the input."""

    depths: tuple[int, ...] = (2, 4, 6, 10, 20)
    n_in: int = 8
    n_out: int = 4
    singular_value: float = 2.0
    start: float = 0.1
    target: float = 0.9
    small_rate: float = 0.1  # over half the critical one
    rates: int = 5
    seeds: int = 16
    steps: int = 800

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
        slowest = rotated_steps(self.start, self.target, max(self.depths), self.angles[-1])
        needed = int(1.1 * slowest / (self.small_rate * STEP_FACTORS[-1]))
        if self.steps < max(needed, WATCHED):
            raise ValueError(
                f"steps must be at least {needed} at the smallest rate, got {self.steps}"
            )

    @property
    def task(self) -> Task:
        """White inputs, ``n_out`` modes of one strength."""
        return Task(self.n_in, self.n_out, self.singular_value)

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
        "start": w0,
        "step_size": config.small_rate * STEP_FACTORS.max(),
        "log_gain": np.array(depths) * exponents(config).mean(),
        "log_slowdown": np.log(lagging_steps(config) / decoupled),
        "within_reach": within_reach(config),
        **curves(config),
    }


def curves(config: Config) -> Arrays:
    """The same between the depths, for the eye: by angle (rows), their limits, the slowdown."""
    w0, wf = config.start, config.target
    depths = np.geomspace(config.depths[0], config.depths[-1], CURVE_POINTS)
    by_angle = np.array([rotated_steps(w0, wf, L, config.angles) for L in depths]).T
    lag = np.exp(depths * exponents(config)[-1])
    lagging = [rotated_steps(w0 * x, wf, L, 0.0) for x, L in zip(lag, depths, strict=True)]
    return {
        "curve_depths": depths,
        "curve_steps": by_angle,
        "curve_limits": rotated_steps(w0, wf, np.inf, config.angles),
        "curve_slowdown": np.array(lagging) / by_angle[0],
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
    end = 1 - (1 - target) / np.abs(1 - z0)
    nearest = np.clip((z0 / (z0 - 1)).real, 0, end)  # where the line passes zero, and how closely
    distance = np.abs(z0 + (1 - z0) * nearest)

    def pace(v):  # x = nearest + distance sinh(v): smooth however small the start
        x = nearest + distance * np.sinh(v)
        return distance * np.cosh(v) * np.abs(z0 + (1 - z0) * x) ** (2 / depth - 2) / (1 - x)

    return quad(pace, *np.arcsinh(np.array([-nearest, end - nearest]) / distance))[0]


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


def groups(config: Config, depth: int, key: jax.Array) -> dict[str, Group]:
    """All that is trained at one depth."""
    critical, w0 = config.critical_rate(depth), config.start
    tried = critical * np.geomspace(1.2, 0.2, config.rates)
    small = critical / 2 * config.small_rate * STEP_FACTORS
    random, aligned = jax.random.split(key)
    gaussian, orthogonal = random_networks(
        config.task, random, w0, depth, seeds=config.seeds, deepest=max(config.depths)
    )
    network = partial(decoupled_network, config.task, aligned, depth=depth)
    return {
        "gaussian": Group(gaussian, tried),
        "orthogonal": Group(orthogonal, tried),
        "decoupled": Group(network(w0), tried),
        "rotated": Group(network(w0, angles=config.angles), small),
        "minimum": Group(network(1 - OFF_MINIMUM), critical * BRACKET),
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every kind at every depth; depths are the last axis of what is found."""
    found = []
    for depth in config.depths:
        trained = groups(config, depth, jax.random.fold_in(key, depth))
        errors = train(f"depth_{depth}", config.task, trained, config.steps, sweep)
        found.append(evaluate(config, depth, trained, errors))
    by_depth = jax.tree.map(lambda *arrays: np.stack(arrays, axis=-1), *found)
    return by_depth | {
        "depths": np.array(config.depths),
        "log_slowdown": log_slowdown(by_depth["steps_gaussian"], by_depth["steps_orthogonal"]),
        "within_reach": within_reach(config),
    }


def evaluate(
    config: Config, depth: int, trained: dict[str, Group], errors: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the claims and the figure need of the networks of one depth."""
    found = {
        "small_steps": small_steps(config, depth, trained["rotated"], errors["rotated"][0]),
        "critical_rates": stability_limit(trained["minimum"], errors["minimum"][0]),
        "log_gain": log_gain(config.task, trained["gaussian"].networks) - np.log(config.start),
    }
    for kind in ("gaussian", "orthogonal", "decoupled"):
        steps = lasting_steps(np.sqrt(np.mean(errors[kind] ** 2, axis=-1)), 1 - config.target)
        best = steps.min(axis=1)
        rates = trained[kind].rates[steps.argmin(axis=1)]
        found[f"steps_{kind}"] = best
        found[f"rates_{kind}"] = np.where(np.isfinite(best), rates, np.nan)
    return found


def small_steps(config: Config, depth: int, group: Group, errors: np.ndarray) -> np.ndarray:
    """Steps until each pair has learned, (r, pairs), as if at learning rate 1/(L s^(2-2/L))."""
    progress = -np.log(np.maximum(errors, np.finfo(float).tiny))
    steps = first_crossing(np.arange(config.steps + 1), progress, -np.log(1 - config.target))
    return np.asarray(steps) * group.rates[:, None] * 2 / config.critical_rate(depth)


def stability_limit(group: Group, errors: np.ndarray) -> float:
    """Learning rate at which errors near the minimum neither shrink nor grow.

    Beyond the rate that takes them to zero at once, the factor per step is linear in the rate.
    """
    error = errors.mean(axis=-1)
    factor = (error[:, WATCHED] / error[:, 0]) ** (1 / WATCHED)
    return float(np.interp(1.0, factor, group.rates))


def log_slowdown(gaussian: np.ndarray, orthogonal: np.ndarray) -> np.ndarray:
    """Log ratio of median times (seeds, depths) in row 0, in row 1 its standard error.

    From quartiles, as if log times were normal: some Gaussian networks never learn.
    """
    value, variance = 0.0, 0.0
    for sign, times in ((1, gaussian), (-1, orthogonal)):
        log_times, seeds = np.sort(np.log(times), axis=0), len(times)
        with np.errstate(invalid="ignore"):  # no time to learn: inf - inf
            spread = (log_times[-1 - seeds // 4] - log_times[seeds // 4]) / 1.349
        value = value + sign * np.median(log_times, axis=0)
        variance = variance + np.pi / 2 * spread**2 / seeds
    return np.array([value, np.sqrt(variance)])


def growth(found: Arrays, log_times: np.ndarray) -> np.ndarray:
    """Least-squares slope of log times against depth, where Gaussian networks can learn."""
    reached = found["within_reach"]
    return slope_weights(found) @ log_times[reached]


def slope_weights(found: Arrays) -> np.ndarray:
    """Weights of the values within reach in their slope against depth."""
    depths = found["depths"][found["within_reach"]]
    return (depths - depths.mean()) / np.sum((depths - depths.mean()) ** 2)


def growth_tolerance(measured: Arrays) -> float:
    """Sampling error of the slope, and a prefactor that changes by a factor of two."""
    reached = measured["within_reach"]
    sampling = np.linalg.norm(slope_weights(measured) * measured["log_slowdown"][1, reached])
    return 4 * sampling + np.log(2) / np.ptp(measured["depths"][reached])


def depth_limit(measured: Arrays) -> float:
    """Steps of a decoupled mode in infinitely many layers: the two deepest without their 1/L."""
    near, far = measured["depths"][-2:]
    early, late = without_step_error(measured["small_steps"])[0, -2:]
    return (far * late - near * early) / (far - near)


CLAIMS = (
    Claim(
        "flow: steps that decoupled networks take",
        predicted=lambda p: p["decoupled"],
        measured=lambda m: without_step_error(m["small_steps"])[0],
        tolerance=lambda p, m: p["step_size"] ** 3,
        because="extrapolated to zero learning rate without its first and second order",
    ),
    Claim(
        "flow: steps that square orthogonal networks take, by angle",
        predicted=lambda p: p["rotated"].T,
        measured=lambda m: without_step_error(m["small_steps"])[1:],
        tolerance=lambda p, m: p["step_size"] ** 3,
        because="extrapolated to zero learning rate without its first and second order",
    ),
    Claim(
        "order of the error of finite steps",
        predicted=lambda p: 1.0,
        measured=lambda m: np.median(order_of_error(m["small_steps"])),
        tolerance=0.1,
        because="gradient descent errs by O(eta); the next order adds at most a tenth",
        error="absolute",
    ),
    Claim(
        "steps that infinitely deep decoupled networks take",
        predicted=lambda p: p["limit"],
        measured=depth_limit,
        tolerance=lambda p, m: 2 * np.log(p["start"]) ** 2 / np.prod(p["depths"][-2:]),
        because="extrapolated from two depths without its 1/L; of n's alternating series in 1/L "
        "the next term is at most 2 (ln(w0)/L)^2",
    ),
    Claim(
        "critical learning rate",
        predicted=lambda p: p["critical_rates"],
        measured=lambda m: m["critical_rates"],
        tolerance=lambda p, m: 3e-5 * p["depths"],
        because="errors grow to 3e-5 while watched, and act on themselves through L layers",
    ),
    Claim(
        "optimal learning rate of orthogonal networks falls with depth as the critical one",
        predicted=lambda p: fitted_exponent(p["depths"], p["critical_rates"]),
        measured=lambda m: fitted_exponent(m["depths"], np.median(m["rates_orthogonal"], axis=0)),
        tolerance=lambda p, m: np.log(2) / np.log(p["depths"][-1] / p["depths"][0]),
        because="descent is fastest somewhere between half the critical rate, Newton's step at "
        "the minimum, and all of it: a factor of two over the range of depths",
        error="absolute",
    ),
    Claim(
        "mean log singular value of Gaussian networks at the start",
        predicted=lambda p: p["log_gain"],
        measured=lambda m: m["log_gain"].mean(axis=0),
        tolerance=lambda p, m: (
            4
            * m["log_gain"].std(axis=0, ddof=1)
            / np.sqrt(len(m["log_gain"]))
            / np.abs(p["log_gain"])
        ),
        because="4 standard errors over networks; exact at every depth and width",
    ),
    Claim(
        "exponential growth with depth of the time of Gaussian over that of orthogonal networks",
        predicted=lambda p: growth(p, p["log_slowdown"]),
        measured=lambda m: growth(m, m["log_slowdown"][0]),
        tolerance=lambda p, m: growth_tolerance(m),
        because="4 standard errors over networks, and a prefactor of order one that may change by "
        "a factor of two: the law is for balanced networks",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="saxe2014_depth",
    source=papers.saxe2014("learning time and optimal learning rate against depth"),
    statement="Learning time is bounded in depth from decoupled or orthogonal weights, and grows "
    "exponentially from Gaussian ones.",
    equations=(
        r"n(L) = \int_{w_0}^{w_f} \frac{dw}{w^{2-2/L}(1-w)} \le n(\infty)",
        r"\eta_{\mathrm{crit}} = \frac{2}{L s^{2-2/L}}",
        r"\dot z = L\,|sz|^{2-2/L}(1-z), \quad z(0) = w_0 e^{i\theta}",
        r"\frac{n_{\mathrm{Gauss}}}{n_{\mathrm{orth}}} \sim "
        r"\frac{n(L;\, w_0 e^{L\mu})}{n(L;\, w_0)}",
        r"\mu = \frac12\left[\ln\frac{2}{N} + \psi\left(\frac{N-N_o+1}{2}\right)\right]",
    ),
    quick=Config(),
    full=Config(
        depths=(2, 4, 8, 16, 32, 64, 100), n_in=32, n_out=10, rates=8, seeds=12, steps=1100
    ),
    cost=(23, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
