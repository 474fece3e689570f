"""Networks that learn x_1 x_2 on four points of the unit circle, and what is seen of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.models import Model
from sims.experiment import Arrays
from sims.kernels.relu_networks import drawn, tangent_kernel
from sims.processes import seed_keys

DATA_ANGLES = np.array([-2.2, -0.7, 0.6, 1.9])


def on_circle(angles: np.ndarray) -> np.ndarray:
    """Points of the unit circle, (n, 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Training inputs on the circle and the targets x_1 x_2."""
    x = on_circle(DATA_ANGLES)
    return x, x.prod(axis=1)


def cases(config: Any, model: Model, draw: np.random.Generator, count: int) -> dict[str, Any]:
    """The networks twice: to learn the target, then a small part of it beyond their own f_0."""
    networks, (x, y) = drawn(model, draw, count), data()
    start = jax.jit(jax.vmap(model.apply, (0, None)))(networks, x.astype(np.float32))[..., 0]
    targets = np.concatenate([np.tile(y, (count, 1)), start + config.small * y[None]])
    return {
        "network": jax.tree.map(lambda w: np.concatenate([w, w]), networks),
        "data": (np.tile(x, (2 * count, 1, 1)).astype(np.float32), targets.astype(np.float32)),
        "learning_rate": np.full(2 * count, config.learning_rate, np.float32),
        "key": seed_keys(jax.random.key(0), 2 * count),  # full batch: not used
    }


def observe(model: Model, points: np.ndarray, params: Any, data: Any) -> dict[str, jax.Array]:
    """Kernel and outputs on the circle."""
    return {
        "kernel": tangent_kernel(params, jnp.asarray(points)),
        "f": model.apply(params, points)[:, 0],
    }


def summary(records: dict[str, np.ndarray], count: int) -> Arrays:
    """Kernels against x_0 before and after, outputs after learning, and how far kernels moved."""
    moved = np.diff(np.asarray(records["kernel"], float), axis=1)[:, 0]
    return {
        "kernel": records["kernel"][:count, :, moved.shape[1] // 2],
        "f": records["f"][:count, 1],
        "growth": moved[:count].mean(axis=(1, 2)),
        "change": (moved[:count] ** 2).mean(axis=(1, 2)),
        "shift": (moved[count:] ** 2).mean(axis=(1, 2)),
    }
