"""Layers of tanh or of ReLU that learn bits of a cube under a fixed random readout.

``f = (1/n) sum_i r_i phi(w_i . x)`` with r ~ N(0, 1), no biases; only w is trained, by full batches
on fixed noisy copies of the conditions. A setting is a target, a separation of the inputs, a
standard deviation of the initial weights and one of the noise.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.models import ACTIVATIONS
from dynamics.regime import kernel_alignment
from dynamics.representation import parallelism_score
from sims.processes import generator, seed_keys, training
from theory.kernels.task_geometry import cube

BITS = cube(3)
TARGETS = {"bits": BITS[:, :2], "parity": np.stack([BITS[:, 0] * BITS[:, 1], 0 * BITS[:, 0]], 1)}
LAYERS = {"tanh": "odd", "relu": "relu"}


class Setting(NamedTuple):
    """What networks of a group share."""

    target: str
    separation: float
    gain: float
    noise: float


def embedded(setting: Setting) -> np.ndarray:
    """Inputs (conditions, features), and a last one that is constant for the parity, else 0."""
    s = setting.separation
    values, vectors = np.linalg.eigh((1 - s) * BITS @ BITS.T / 3 + s * np.eye(len(BITS)))
    x = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    constant = 1 / np.sqrt(3) if setting.target == "parity" else 0.0
    return np.pad(x, ((0, 0), (0, 1)), constant_values=constant)


def members(config: Any, settings: list[Setting], key: jax.Array) -> dict[str, Any]:
    """Networks of all settings, (settings x networks, ...); those of one index share all draws."""
    rng, networks = generator(key), config.networks
    x = np.stack([embedded(setting) for setting in settings])
    gain, noise = (np.array([getattr(s, name) for s in settings]) for name in ("gain", "noise"))
    weights = rng.standard_normal((networks, config.hidden, x.shape[2]))
    readouts = rng.standard_normal((networks, config.hidden, 2))
    errors = rng.standard_normal((networks, config.copies, *x.shape[1:]))
    errors[..., -1] = 0  # the constant input has none

    def scaled(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        return by.reshape(-1, *(1,) * values.ndim) * values

    copies = x[:, None, None] + scaled(errors, noise)
    y = np.stack([np.tile(TARGETS[setting.target], (config.copies, 1)) for setting in settings])
    data = {
        "x": copies.reshape(-1, config.copies * x.shape[1], x.shape[2]),
        "y": np.repeat(y, networks, axis=0),
        "conditions": np.repeat(x, networks, axis=0),
        "readout": np.concatenate([readouts] * len(settings)),
    }
    count = len(settings) * networks
    return {
        "key": seed_keys(key, count),
        "network": scaled(weights, gain).reshape(count, *weights.shape[1:]),
        "data": data,
        "learning_rate": np.full(count, config.learning_rate * config.hidden),
    }


def hidden(name: str, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Activity (examples, units)."""
    return ACTIVATIONS[name](x @ weights.T)


def logistic_loss(name: str, weights: jax.Array, data: Any) -> jax.Array:
    """``sum_j ln(1 + e^(-y_j f_j))``, mean over examples; a target 0 is none."""
    outputs = hidden(name, weights, data["x"]) @ data["readout"] / len(weights)
    losses = jnp.where(data["y"] == 0, 0.0, jax.nn.softplus(-data["y"] * outputs))
    return jnp.mean(jnp.sum(losses, axis=1))


def observe(name: str, weights: jax.Array, data: Any) -> dict[str, jax.Array]:
    """Kernel of the hidden layer over the clean conditions, and the loss."""
    h = hidden(name, weights, data["conditions"])
    return {"kernel": h @ h.T / len(weights), "loss": logistic_loss(name, weights, data)}


PROCESSES = {
    name: training(partial(logistic_loss, name), partial(observe, name)) for name in LAYERS
}


@jax.jit
@partial(jnp.vectorize, signature="(n,n),(n,n),(n,n)->(m)")
def measured_geometry(kernel: Any, inputs: Any, targets: Any) -> jax.Array:
    """Parallelism, mean over the first two bits, target and input alignment of a kernel."""
    values, vectors = jnp.linalg.eigh(kernel)
    h = vectors * jnp.sqrt(jnp.clip(values, 0))[None, :]  # a representation of this kernel
    parallel = jnp.mean(parallelism_score(h, BITS)[:2])
    aligned = [kernel_alignment(kernel, other, centered=True) for other in (targets, inputs)]
    return jnp.stack([parallel, *aligned])
