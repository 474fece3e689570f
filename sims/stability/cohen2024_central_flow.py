"""Central flow: where gradient descent goes at the edge of stability, and what it costs there.

Cohen, Damian, Talwalkar, Kolter & Lee (2024): averaged over its oscillation, gradient descent
follows a smooth flow. Networks, data and learning rates are our own: tanh networks of 97 weights,
the first that were drawn, each trained at the rate that puts its first weights just below the edge,
so that an oscillation is there from the start. (Where the edge is reached late, gradient descent
stays above it for hundreds of steps until rounding errors have grown, and the flow does not.)

What is compared are averages over steps and over networks. In one network the average over K steps
departs from the flow's by ``-2 (change of S) / (eta^2 beta K)`` of loss, because the sharpness S
swings around the edge (theory.stability.self_stabilization): tens of per cent, of either sign. Such
oscillations are also beyond the third derivatives that the flow knows: of the next 24 networks one
is thrown far off its flow by the first swing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.curvature import dense_matrix, hvp
from dynamics.flow import gradient_flow
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys, training
from sims.stability.tanh_networks import INPUTS, drawn, loss, turned, turned_weights
from sims.sweep import sweep
from theory.stability.central_flow import central_flow_step
from theory.stability.sharpness import dense_eigenpairs

SETTLED = 30  # steps after which averages begin
CRITICAL = 3  # directions that may be at the edge together
EVERY = 4  # steps between looks at the sharpness
WINDOW = 30  # steps of the averages of which the path is made
FLOW_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Config:
    """Learning rates are ``start_at`` times 2 over the sharpness of the first weights."""

    networks: int = 8
    steps: int = 240
    start_at: float = 0.97
    network_seed: int = 0

    def __post_init__(self) -> None:
        if self.networks < 4:
            raise ValueError(f"networks must be at least 4, got {self.networks}")
        if self.steps < 2 * (SETTLED + WINDOW):
            least = 2 * (SETTLED + WINDOW)
            raise ValueError(f"steps must be at least {least}, got {self.steps}")
        if not 0 < self.start_at < 1:
            raise ValueError(f"start_at must be in (0, 1), got {self.start_at}")

    @property
    def seeds(self) -> range:
        """Of the networks."""
        return range(self.network_seed, self.network_seed + self.networks)


def predict(config: Config) -> Arrays:
    """The flow of every network: weights, losses, sharpness, covariance of the oscillation."""

    def flow(start, x, y):
        at_hand = lambda w: loss(w, (x, y))  # noqa: E731
        rate = config.start_at * 2 / dense_eigenpairs(at_hand, start, 1)[0][0]

        def step(carry, k):
            w, total = carry
            after, info = central_flow_step(at_hand, w, rate, max_critical=CRITICAL)
            covariance = info.directions.T @ info.sigma @ info.directions
            seen = {
                "weights": w,
                "flow_loss": info.loss,
                "loss": info.predicted_loss,
                "sharpness": info.eigenvalues[0] * rate / 2,
                "variance": jnp.trace(info.sigma),
            }
            return (after, total + jnp.where(k >= SETTLED, covariance, 0)), seen

        empty = jnp.zeros((start.size, start.size))
        (_, total), path = jax.lax.scan(step, (start, empty), jnp.arange(config.steps))
        variances = jnp.linalg.eigvalsh(total / (config.steps - SETTLED))[::-1][:CRITICAL]
        return path | {"variances": variances}

    found = each(flow, *drawn(config.seeds))
    return {"steps": np.arange(config.steps), **found, "weights": windows(found["weights"])}


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Gradient descent and gradient flow of the same networks, their inputs rotated."""
    rotation = jax.random.orthogonal(key, INPUTS)
    weights, *data = turned(rotation, drawn(config.seeds))
    rates = config.start_at * 2 / each(sharpness, weights, *data)
    cases = {
        "network": weights,
        "data": tuple(data),
        "learning_rate": rates,
        "key": seed_keys(jax.random.key(0), config.networks),  # full batch: not used
    }
    descent = training(loss, lambda w, data: {"weights": w, "loss": loss(w, data)})
    run = sweep("descent", descent, cases, record_at=np.arange(config.steps + 1))
    path = run.records["weights"]
    centre, swing = (path[:, :-1] + path[:, 1:]) / 2, (path[:, :-1] - path[:, 1:]) / 2
    looks = each(all_of(sharpness), centre[:, ::EVERY], *data)
    return {
        "loss": run.records["loss"][:, :-1],
        "centre_loss": each(all_of(lambda w, x, y: loss(w, (x, y))), centre, *data),
        "sharpness": looks * rates[:, None] / 2,
        "variance": np.sum(swing**2, axis=-1),
        "variances": second_moments(swing[:, SETTLED:]),
        "weights": np.asarray(turned_weights(rotation.T, jnp.asarray(windows(centre)))),
        **flow_without_oscillation(config, rotation, weights, data, rates),
    }


def each(function: Callable, *arrays: Any) -> Any:
    """``function`` of one network at a time, compiled once."""
    found = jax.jit(lambda arrays: jax.lax.map(lambda one: function(*one), arrays))(arrays)
    return jax.tree.map(np.asarray, found)


def all_of(function: Callable) -> Callable:
    """``function(w, x, y)`` of every w in a path, one after the other."""
    return lambda path, x, y: jax.lax.map(lambda w: function(w, x, y), path)


def windows(path: np.ndarray) -> np.ndarray:
    """Means over ``WINDOW`` steps of (networks, steps, d): (networks, windows, d)."""
    count = path.shape[1] // WINDOW
    return path[:, : count * WINDOW].reshape(len(path), count, WINDOW, -1).mean(axis=2)


def sharpness(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Largest eigenvalue of the Hessian."""
    return jnp.linalg.eigvalsh(dense_matrix(partial(hvp, loss, w, (x, y)), w))[-1]


def second_moments(swing: np.ndarray) -> np.ndarray:
    """Largest eigenvalues of the mean of ``s s^T`` over steps: (networks, CRITICAL)."""
    return np.linalg.svd(swing, compute_uv=False)[:, :CRITICAL] ** 2 / swing.shape[1]


def flow_without_oscillation(
    config: Config, rotation: jax.Array, weights: Any, data: Any, rates: Any
) -> Arrays:
    """Gradient flow in the middle of every window: its loss, sharpness and weights."""
    middles = WINDOW * (np.arange(config.steps // WINDOW) + 0.5)

    def flow(w, x, y, rate):
        path = gradient_flow(w, (x, y), loss=loss, times=middles * rate, rtol=FLOW_TOLERANCE).params
        return {
            "gradient_flow": path,
            "gradient_flow_loss": jax.vmap(lambda w: loss(w, (x, y)))(path),
            "gradient_flow_sharpness": all_of(sharpness)(path, x, y) * rate / 2,
        }

    found = each(flow, weights, *data, rates)
    back = np.asarray(turned_weights(rotation.T, found["gradient_flow"]))
    return found | {"gradient_flow": back, "middles": middles}


def average(values: np.ndarray) -> np.ndarray:
    """Over all steps of (networks, steps) since ``SETTLED``."""
    return np.asarray(values)[:, SETTLED:].mean(axis=1)


def travelled(weights: np.ndarray) -> np.ndarray:
    """Distance of the last window's average weights from the first's, for every network."""
    return np.linalg.norm(np.asarray(weights)[:, -1] - np.asarray(weights)[:, 0], axis=1)


def claim(name: str, key: str, of: Callable, because: str, measured: str | None = None) -> Claim:
    """The mean over networks of ``of`` an array, to four standard errors of the difference."""
    found = measured or key

    def four_errors(p: Arrays, m: Arrays) -> float:
        gap = of(m[found]) - of(p[key])
        return 4 * gap.std(ddof=1) / np.sqrt(len(gap)) / of(p[key]).mean()

    return Claim(
        name,
        predicted=lambda p: of(p[key]).mean(),
        measured=lambda m: of(m[found]).mean(),
        tolerance=four_errors,
        because=f"4 standard errors over networks{because}",
    )


CLAIMS = (
    Claim(
        "average sharpness, in units of 2/eta",
        predicted=lambda p: average(p["sharpness"]).mean(),
        measured=lambda m: m["sharpness"][:, SETTLED // EVERY :].mean(),
        tolerance=lambda p, m: m["sharpness"][:, SETTLED // EVERY :].std(axis=1).mean(),
        because="its standard deviation over steps: where directions take turns at the edge, the "
        "largest curvature is above their common average by up to the swing of each",
    ),
    claim(
        "average loss, L + Tr(Sigma)/eta",
        "loss",
        average,
        ": each average is off by the phases of the swing when it begins and ends",
    ),
    claim(
        "average loss at the centre of the oscillation, L",
        "flow_loss",
        average,
        ", as for the whole loss",
        measured="centre_loss",
    ),
    claim(
        "average variance of the oscillation, Tr(Sigma)",
        "variance",
        average,
        ", as for the loss, of which it is the larger part",
    ),
    claim(
        "variance along the direction that oscillates most, an eigenvalue of the average Sigma",
        "variances",
        lambda variances: variances[:, 0],
        ", as for the whole variance",
    ),
    claim(
        "distance from the first weights",
        "weights",
        travelled,
        ": what violent oscillations add to the path is beyond the third derivatives",
    ),
)

EXPERIMENT = Experiment(
    name="cohen2024_central_flow",
    source=papers.cohen2024("central flow of gradient descent"),
    statement="At the edge of stability the average of gradient descent follows a smooth flow.",
    equations=(
        r"\dot w = -\eta\left[\nabla L + \frac12\nabla\langle\Sigma, H(w)\rangle\right], \quad "
        r"\Sigma \succeq 0,\ H \preceq \frac{2}{\eta},\ "
        r"\left\langle\Sigma, \frac{2}{\eta} - H\right\rangle = 0",
        r"\overline{L(w_t)} = L(w) + \frac{\mathrm{Tr}\,\Sigma}{\eta}",
    ),
    quick=Config(),
    full=Config(networks=32, steps=600),
    cost=(14, 100),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
