"""Tanh networks at the edge of stability that a weak force sharpens: two maps, and training them.

Networks start from interpolation, displaced along the top eigenvector, at the rate that puts them
exactly at the edge; a weak force s pulls their weights outwards, which sharpens them. As s -> 0
everything else at fixed ratio (x, y ~ sqrt s, steps ~ 1/sqrt s), gradient descent follows the map
with relaxing directions (theory.stability.relaxing_modes) up to a fraction O(sqrt s). The
two-variable map with ``alpha = -grad L . grad S``, ``beta = |grad S|^2`` does not become exact:
part of these gradients lies along curved directions, which relax within the oscillation. The
networks are the first whose second largest curvature is below 0.7 of the largest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.curvature import dense_matrix, hvp
from sims.experiment import Arrays, Claim
from sims.processes import seed_keys, training
from sims.stability import tanh_networks
from theory.stability.relaxing_modes import relaxing_stabilization_step, sharpening_modes
from theory.stability.self_stabilization import Oscillation

EVERY = 6  # steps between records


@dataclass(frozen=True)
class Pulled:
    """Forces, each 1/4 of the last, on networks drawn from seeds.

    ``displacement`` is that at the start, over the square root of the force; networks are trained
    for ``steps`` at the smallest force, and the first half, quarter ... counts at those before.
    """

    forces: tuple[float, ...] = (0.01, 0.0025, 0.000625)
    network_seeds: tuple[int, ...] = (0, 2, 4, 5)
    displacement: float = 0.25
    steps: int = 480

    def __post_init__(self) -> None:
        forces = np.array(self.forces)
        if len(forces) < 2 or min(forces) <= 0 or not np.allclose(forces[1:], forces[:-1] / 4):
            raise ValueError(f"forces must be positive, each 1/4 of the last, got {self.forces}")
        if len(self.network_seeds) < 2:
            raise ValueError(f"network_seeds must be at least 2, got {self.network_seeds}")
        if not self.displacement > 0:
            raise ValueError(f"displacement must be positive, got {self.displacement}")
        if self.steps < 2 ** len(forces) * EVERY:
            least = 2 ** len(forces) * EVERY
            raise ValueError(f"steps must be at least {least}, got {self.steps}")

    @property
    def schedule(self) -> np.ndarray:
        """Steps at which networks are looked at."""
        return np.arange(0, self.steps, EVERY)


def iterate(step: Callable, start: Oscillation, count: int) -> Oscillation:
    """The states after 0, ..., count steps."""
    path = jax.lax.scan(lambda state, _: (step(state), state), start, None, length=count + 1)
    return path[1]


def network_maps(config: Pulled) -> Arrays:
    """Displacement and excess (networks, forces, records) halfway through steps, by both maps."""

    def of_one(weights, x, force):
        y = tanh_networks.apply(weights, x)
        pull = force * weights / jnp.linalg.norm(weights)
        pulled_loss = lambda w: pulled(w, {"x": x, "y": y, "pull": pull})  # noqa: E731
        modes = sharpening_modes(pulled_loss, weights)
        rate = 2 / modes.sharpness
        kick = config.displacement * jnp.sqrt(force)

        def path(alpha, beta, curvature):
            step = partial(
                relaxing_stabilization_step,
                learning_rate=rate,
                alpha=alpha,
                beta=beta,
                curvature=curvature,
            )
            states = iterate(step, Oscillation(kick, jnp.zeros(alpha.shape)), config.steps)
            x, y = states.displacement, states.excess.sum(axis=-1)
            halfway = (jnp.abs(x[:-1] - x[1:]) / 2, (y[:-1] + y[1:]) / 2)
            return [values[config.schedule] for values in halfway]

        both = modes.alpha.sum()[None], modes.beta.sum()[None], jnp.zeros(1)
        names = ("network_x", "network_y", "two_variable_x", "two_variable_y")
        return dict(zip(names, (*path(*modes[:3]), *path(*both)), strict=True))

    networks = tanh_networks.drawn(config.network_seeds)
    over_forces = jax.vmap(of_one, (None, None, 0))
    found = jax.jit(jax.vmap(over_forces, (0, 0, None)))(
        networks.weights, networks.x, jnp.array(config.forces)
    )
    return found | {"schedule": config.schedule, "forces": np.array(config.forces)}


def pulled(w: jax.Array, data: Arrays) -> jax.Array:
    """A network's loss with a force on its weights."""
    return tanh_networks.loss(w, (data["x"], data["y"])) - data["pull"] @ w


def train_pulled(config: Pulled, key: jax.Array, sweep: Any) -> Arrays:
    """Displacement and excess sharpness of networks, (networks, forces, records), halfway."""
    rotation = jax.random.orthogonal(key, tanh_networks.INPUTS)
    weights, x, _ = tanh_networks.turned(rotation, tanh_networks.drawn(config.network_seeds))
    forces = jnp.array(config.forces)

    def case(w, x, force):
        y = tanh_networks.apply(w, x)
        values, vectors = jnp.linalg.eigh(hessian(w, x, y))
        top = vectors[:, -1] * jnp.sign(vectors[:, -1] @ w)
        rate = 2 / values[-1]
        data = {"x": x, "y": y, "pull": force * w / jnp.linalg.norm(w), "top": top, "rate": rate}
        start = w + config.displacement * jnp.sqrt(force) * top
        return {"network": start, "data": data, "learning_rate": rate}

    build = jax.jit(jax.vmap(jax.vmap(case, (None, None, 0)), (0, 0, None)))
    shape = (len(weights), len(forces))
    cases = jax.tree.map(
        lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), build(weights, x, forces)
    )
    cases["key"] = seed_keys(jax.random.key(0), len(cases["learning_rate"]))  # not used
    run = sweep("networks", training(pulled, halfway), cases, record_at=config.schedule)
    return {name: values.reshape(*shape, -1) for name, values in run.records.items()}


def hessian(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Of the network's loss."""
    return dense_matrix(partial(hvp, tanh_networks.loss, w, (x, y)), w)


def halfway(w: jax.Array, data: Arrays) -> dict[str, jax.Array]:
    """Half of what the coming step is along the top direction; the sharpness where it is half done.

    There what alternates from step to step is left out.
    """
    move = data["rate"] / 2 * jax.grad(pulled)(w, data)
    sharpness = jnp.linalg.eigvalsh(hessian(w - move, data["x"], data["y"]))[-1]
    return {
        "network_x": jnp.abs(data["top"] @ move),
        "network_y": sharpness - 2 / data["rate"],
    }


def first_oscillation(arrays: Arrays, name: str) -> np.ndarray:
    """Paths (networks, forces, records) in units of sqrt(force); 0 after each one's last step."""
    values = np.asarray(arrays[name])
    count = values.shape[1]
    ends = values.shape[2] / 2.0 ** np.arange(count)[::-1]
    kept = np.arange(values.shape[2]) < ends[:, None]
    return np.where(kept, values * 2.0 ** np.arange(count)[:, None], 0.0)


def departures(p: Arrays, m: Arrays, variable: str, theory: str = "network") -> np.ndarray:
    """Largest departure of each network from a map, (networks, forces), over the map's peak."""
    measured = first_oscillation(m, f"network_{variable}")
    predicted = first_oscillation(p, f"{theory}_{variable}")
    return np.abs(measured - predicted).max(axis=-1) / np.abs(predicted).max(axis=-1)


def halving(p: Arrays, m: Arrays, variable: str) -> np.ndarray:
    """Departure allowed at all forces but the largest, where it is measured: half at each."""
    peaks = np.abs(first_oscillation(p, f"network_{variable}")).max(axis=-1)
    largest = departures(p, m, variable).max(axis=0)[0]
    return 1.5 * largest * (peaks * 0.5 ** np.arange(peaks.shape[1]))[:, 1:, None]


def network_claim(name: str, variable: str) -> Claim:
    """That networks follow the map to first order in their amplitude."""
    return Claim(
        name,
        predicted=lambda p: first_oscillation(p, f"network_{variable}")[:, 1:],
        measured=lambda m: first_oscillation(m, f"network_{variable}")[:, 1:],
        tolerance=lambda p, m: halving(p, m, variable),
        because="a fraction of order sqrt(force): half of the largest departure of any network at "
        "the four times larger force, and so on; 1.5 for higher orders. Over sqrt(force)",
        error="absolute",
    )
