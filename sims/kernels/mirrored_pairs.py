"""Networks trained to permute single bits, each with its mirror image, and what they do to others.

Outputs have shape (2, pairs, inputs, k): networks and mirror images, whose second layers begin with
opposite signs. ``ones`` (inputs,) counts the bits set in an input and ``right`` (inputs, k) marks
those to be set in the output. A ``config`` is that of ``sims.kernels.deluca2025_permutations``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.losses import half_squared_error
from dynamics.models import Layer, mlp
from dynamics.training import train
from sims.experiment import Arrays
from sims.rates import standard_error, without_step_error

GROUPS = (1, 4, 16)  # networks in an ensemble


def trained_pairs(
    config: Any, rng: np.random.Generator, width: int, targets: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, float]:
    """Outputs (2, pairs, inputs, k) of networks and their mirror images, largest training error."""
    k = config.bits
    sizes = [(config.pairs, width, k), (config.pairs, k, width)]
    first, second = (rng.standard_normal(size, np.float32) for size in sizes)
    model = mlp((k, width, k), activation="relu", parametrization="ntk", use_bias=False)
    loss = half_squared_error(model.apply, examples="sum")
    data = tuple(jnp.asarray(values, jnp.float32) for values in (np.eye(k), targets))
    test = jnp.asarray(x, jnp.float32)

    def one(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = (Layer(first, None), Layer(second, None))
        optimizer = optax.sgd(config.learning_rate)
        settings = {"loss": loss, "optimizer": optimizer, "steps": config.steps}
        end = train(jax.random.key(0), params, data, record_at=[config.steps], **settings).params
        error = jnp.max(jnp.abs(model.apply(end, data[0]) - data[1]))
        return model.apply(end, test), error

    run = jax.jit(jax.vmap(one))  # of the full batch: the key is not used
    (plain, error), (mirrored, mirrored_error) = run(first, second), run(first, -second)
    return np.array([plain, mirrored], float), float(max(error.max(), mirrored_error.max()))


def by_ones(config: Any, outputs: np.ndarray, ones: np.ndarray, right: np.ndarray) -> Arrays:
    """Of every pair, by number of ones: means of set and unset bits, and the mean variance."""
    pairs, count = outputs.mean(axis=0), outputs.shape[0] * outputs.shape[1]
    squares = (outputs - outputs.mean(axis=(0, 1))) ** 2 * count / (count - 1)
    rows = [ones == m for m in config.ones]
    return {
        "on": np.stack([pairs[:, row][:, right[row]].mean(axis=1) for row in rows], axis=1),
        "off": np.stack([pairs[:, row][:, ~right[row]].mean(axis=1) for row in rows[:-1]], axis=1),
        "variance": np.stack([squares[:, :, row].mean(axis=(0, 2, 3)) for row in rows], axis=1),
    }


def extrapolated(samples: np.ndarray) -> np.ndarray:
    """Mean of (widths, pairs, ...) as n -> infinity and its standard error, in n^(-1/2)."""
    errors = np.array([standard_error(values) for values in samples])
    weights = without_step_error(np.eye(len(samples)))
    error = np.sqrt(np.tensordot(weights**2, errors**2, axes=1))
    return np.array([without_step_error(samples.mean(axis=1)), error])


def ratio(variance: np.ndarray, off: np.ndarray) -> np.ndarray:
    """sigma^2/mu_off^2 and its standard error: unset bits have the smaller mean."""
    variance = variance[:, : off.shape[1]]
    relative = np.hypot(variance[1] / variance[0], 2 * off[1] / off[0])
    value = variance[0] / off[0] ** 2
    return np.array([value, value * relative])


def success(config: Any, outputs: np.ndarray, ones: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Share of inputs permuted by means of N networks, (2, ones, N): value and standard error."""
    found = []
    for size in GROUPS:
        groups = config.pairs // size
        shape = (2 * groups, size, *outputs.shape[2:])
        ensembles = outputs[:, : groups * size].reshape(shape).mean(axis=1)
        exact = ((ensembles > 0) == right).all(axis=2)
        shares = np.stack([exact[:, ones == m].mean(axis=1) for m in config.ones], axis=1)
        found.append([shares.mean(axis=0), standard_error(shares)])
    return np.moveaxis(np.array(found), 0, -1)
