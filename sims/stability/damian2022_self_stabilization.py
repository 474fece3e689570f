"""Self-stabilization: the oscillation of gradient descent at the edge, in a map and in networks.

Damian, Nichani & Lee (2022): what grows along the top eigenvector flattens the loss and so stops
itself. First the loss of which the two-variable map is gradient descent, in a random direction of
ten parameters; then tanh networks (sims.stability.pulled_networks). All settings are our own.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys, training
from sims.rates import fitted_exponent
from sims.stability.pulled_networks import (
    Pulled,
    iterate,
    network_claim,
    network_maps,
    train_pulled,
)
from sims.sweep import sweep
from theory.stability.self_stabilization import (
    Oscillation,
    oscillation_energy,
    oscillation_growth,
    oscillation_period,
    self_stabilization_step,
    two_cycle_amplitude,
)

SIZE = 10  # parameters of the exact loss
DRIFT_RATES = 0.02 / 2 ** np.arange(4)  # learning rates at which the energy's drift is measured
DRIFT_TIME = 20.0  # learning rate times steps
START = (0.1, 0.2)  # displacement and excess from which it is
LINEAR_RATES = np.array([0.05, 0.1, 0.2, 0.4])  # of small oscillations
CURVE_RATES = np.linspace(LINEAR_RATES[0], LINEAR_RATES[-1], 36)  # to draw theory
LINEAR_STEPS = 100
NEAR = 1e-6  # their size, relative to the two-cycle


@dataclass(frozen=True)
class Config(Pulled):
    """Sharpening alpha and response beta of the exact loss; networks as in ``Pulled``."""

    alpha: float = 0.3
    beta: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def predict(config: Config) -> Arrays:
    """The map from the start, at every rate; small oscillations; networks, both maps."""
    horizon = int(DRIFT_TIME / DRIFT_RATES[-1])
    start = Oscillation(*(jnp.full(len(DRIFT_RATES), value) for value in START))
    path = iterate(
        lambda state: self_stabilization_step(state, DRIFT_RATES, config.alpha, config.beta),
        start,
        horizon,
    )
    return {
        "x": path.displacement.T,
        "y": path.excess.T,
        "variance": two_cycle_amplitude(config.alpha, config.beta) ** 2,
        "period": oscillation_period(LINEAR_RATES, config.alpha),
        "growth": oscillation_growth(LINEAR_RATES, config.alpha) - 1,
        "curve_period": oscillation_period(CURVE_RATES, config.alpha),
        "curve_growth": oscillation_growth(CURVE_RATES, config.alpha) - 1,
        "drift_exponent": 1.0,
        **network_maps(config),
    }


def exact_loss(w: jax.Array, data: Arrays) -> jax.Array:
    """The loss whose gradient descent is the map: sharpness ``2/eta + z`` along one direction."""
    x, z = data["top"] @ w, data["slope"] @ w
    return (2 / data["rate"] + z) * x**2 / 2 - data["alpha"] * z / data["beta"]


EXACT = training(exact_loss, lambda w, data: {"x": data["top"] @ w, "y": data["slope"] @ w})


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Gradient descent on the exact loss in a random plane, and of pulled networks."""
    plane, rotation = jax.random.split(key)
    axes = np.asarray(jax.random.orthogonal(plane, SIZE))[:2]
    steps = np.arange(int(DRIFT_TIME / DRIFT_RATES[-1]) + 1)
    drift = sweep("drift", EXACT, exact_cases(config, axes, DRIFT_RATES, START), record_at=steps)
    near = (float(two_cycle_amplitude(config.alpha, config.beta)) * (1 + NEAR), 0.0)
    cases = exact_cases(config, axes, LINEAR_RATES, near)
    small = sweep("linear", EXACT, cases, record_at=np.arange(LINEAR_STEPS + 1))
    angle, size = multipliers(small.records["y"])
    return {
        **drift.records,
        "alpha": config.alpha,
        "beta": config.beta,
        "period": 2 * np.pi / angle,
        "growth": size - 1,
        **train_pulled(config, rotation, sweep),
    }


def exact_cases(config: Config, axes: np.ndarray, rates: np.ndarray, start: Any) -> dict[str, Any]:
    """Gradient descent at every rate from one displacement and excess, other weights at zero."""
    top, slope = axes[0], np.sqrt(config.beta) * axes[1]
    first = start[0] * top + start[1] * slope / config.beta
    shared = {"top": top, "slope": slope, "alpha": config.alpha, "beta": config.beta}
    every = {name: np.stack([value] * len(rates)) for name, value in shared.items()}
    return {
        "network": np.stack([first] * len(rates)),
        "data": every | {"rate": rates},
        "learning_rate": rates,
        "key": seed_keys(jax.random.key(0), len(rates)),  # full batch: not used
    }


def multipliers(y: np.ndarray) -> np.ndarray:
    """Angle and size of ``m`` in ``y_k = Re c m^k``, (2, members), from a linear recursion."""
    found = []
    for path in y:
        past = np.stack([path[1:-1], path[:-2]], axis=1)
        scale = np.abs(past).max(axis=1, keepdims=True)  # every step counts alike
        first, second = np.linalg.lstsq(past / scale, path[2:] / scale[:, 0], rcond=None)[0]
        size = np.sqrt(-second)
        found.append((np.arccos(first / (2 * size)), size))
    return np.array(found).T


def in_time(values: np.ndarray) -> list[np.ndarray]:
    """Paths (rates, steps) up to ``DRIFT_TIME`` each."""
    counts = np.rint(DRIFT_TIME / DRIFT_RATES).astype(int) + 1
    return [path[:count] for path, count in zip(np.asarray(values), counts, strict=True)]


def energy_drifts(m: Arrays) -> np.ndarray:
    """Largest change of the energy over ``DRIFT_TIME``, for every rate."""
    paths = zip(in_time(m["x"]), in_time(m["y"]), strict=True)
    states = [Oscillation(jnp.asarray(x), jnp.asarray(y)) for x, y in paths]
    energies = [oscillation_energy(state, m["alpha"], m["beta"]) for state in states]
    return np.array([np.max(np.abs(energy - energy[0])) for energy in energies])


CLAIMS = (
    Claim(
        "exact loss: displacement and excess at every step",
        predicted=lambda p: np.concatenate([*in_time(p["x"]), *in_time(p["y"])]),
        measured=lambda m: np.concatenate([*in_time(m["x"]), *in_time(m["y"])]),
        tolerance=1e-9,
        because="gradient descent is the map: rounding over thousands of steps",
        error="absolute",
    ),
    Claim(
        "period of small oscillations",
        predicted=lambda p: p["period"],
        measured=lambda m: m["period"],
        tolerance=1e-3,
        because="their size, which grows to 1e-4 of the two-cycle; ten times that",
    ),
    Claim(
        "growth of small oscillations per step",
        predicted=lambda p: p["growth"],
        measured=lambda m: m["growth"],
        tolerance=1e-3,
        because="as for the period",
    ),
    Claim(
        "order in the learning rate of the energy's drift over a fixed time",
        predicted=lambda p: p["drift_exponent"],
        measured=lambda m: fitted_exponent(DRIFT_RATES, energy_drifts(m)),
        tolerance=0.1,
        because="each step adds O(eta^2), of a relative error O(eta)",
        error="absolute",
    ),
    Claim(
        "average squared displacement, 2 alpha/beta",
        predicted=lambda p: p["variance"] * np.ones(len(DRIFT_RATES)),
        measured=lambda m: np.array([np.mean(x[:-1] ** 2) for x in in_time(m["x"])]),
        tolerance=lambda p, m: (
            np.array([1.001 * np.abs(y[-1] - y[0]) for y in in_time(m["y"])])
            / (DRIFT_TIME * m["alpha"])
        ),
        because="sharpness balances: the average over a time T is off by the change of y over "
        "alpha T, exactly; 0.1 % for rounding",
    ),
    network_claim("networks: displacement over the first oscillation", "x"),
    network_claim("networks: excess sharpness over the first oscillation", "y"),
)

EXPERIMENT = Experiment(
    name="damian2022_self_stabilization",
    source=papers.damian2022("the oscillation at the edge of stability"),
    statement="At the edge of stability a growing oscillation lowers the sharpness and so ends.",
    equations=(
        r"x' = -(1+\eta y)\,x, \quad y' = y + \eta\left(\alpha - \frac{\beta}{2}x^2\right)",
        r"\frac{y^2}{2} + \frac{\beta x^2}{4} - \alpha\ln|x| = \mathrm{const} + O(\eta), \quad "
        r"T = \frac{2\pi}{\arctan(\eta\sqrt{2\alpha})}",
        r"y = \sum_i y_i, \quad y_i' = (1-\eta\lambda_i)\,y_i"
        r" + \eta\left(\alpha_i - \frac{\beta_i}{2}x^2\right)",
    ),
    quick=Config(),
    full=Config(
        forces=(0.01, 0.0025, 0.000625, 0.00015625),
        network_seeds=(0, 2, 4, 5, 6, 7, 9),
        steps=960,
    ),
    cost=(9, 40),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
