"""Small tanh networks of one output, whose data and first weights are part of the question.

A prediction of what one network does has to know it, so networks are drawn from seeds in the
config: Gaussian inputs, targets ``sin 2 x_1 + x_2 x_3`` times ``TARGET``, weights N(0, 1/fan-in),
biases 0. What the key of a run draws is a rotation of the inputs, on which no prediction depends.
Weights are one flat vector; the loss is half the squared error, mean over examples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.losses import half_squared_error

INPUTS, HIDDEN, EXAMPLES = 4, 16, 24
MODEL = models.mlp((INPUTS, HIDDEN, 1), activation="tanh")
TARGET = 0.7  # strength; at 1 sharpness rises so fast that one network in thirty diverges
FIRST = HIDDEN * INPUTS  # weights of the first layer
SIZE = FIRST + 2 * HIDDEN + 1


class Networks(NamedTuple):
    """Stacked: ``weights`` (networks, d), ``x`` (networks, examples, inputs), ``y`` (..., 1)."""

    weights: jax.Array
    x: jax.Array
    y: jax.Array


def apply(weights: jax.Array, x: jax.Array) -> jax.Array:
    """The network as a function of its weights (d,): outputs (examples, 1).

    >>> apply(jnp.ones(SIZE), jnp.zeros((2, INPUTS))).shape
    (2, 1)
    """
    ends = np.cumsum([FIRST, HIDDEN, HIDDEN])
    first, shift, second, offset = jnp.split(weights, ends)
    hidden = models.Layer(first.reshape(HIDDEN, INPUTS), shift)
    return MODEL.apply((hidden, models.Layer(second[None], offset)), x)


loss = half_squared_error(apply, examples="mean")


def drawn(seeds: Sequence[int]) -> Networks:
    """One network and its data for every seed.

    >>> [array.shape for array in drawn((0, 1))]
    [(2, 97), (2, 24, 4), (2, 24, 1)]
    """
    return Networks(
        *(jnp.asarray(np.stack(arrays)) for arrays in zip(*map(_draw, seeds), strict=True))
    )


def _draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    normal = np.random.default_rng(seed).standard_normal
    x, first, second = normal((EXAMPLES, INPUTS)), normal(FIRST), normal(HIDDEN)
    y = TARGET * (np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3])
    layers = first / np.sqrt(INPUTS), np.zeros(HIDDEN), second / np.sqrt(HIDDEN), np.zeros(1)
    return np.concatenate(layers), x, y


def turned(rotation: jax.Array, networks: Networks) -> Networks:
    """The same networks with inputs, and the weights that read them, rotated by one matrix.

    >>> networks = drawn((0,))
    >>> weights, x, _ = turned(jax.random.orthogonal(jax.random.key(0), INPUTS), networks)
    >>> bool(jnp.allclose(apply(weights[0], x[0]), apply(networks.weights[0], networks.x[0])))
    True
    """
    weights = turned_weights(rotation, networks.weights)
    return Networks(weights, networks.x @ rotation.T, networks.y)


def turned_weights(rotation: jax.Array, weights: jax.Array) -> jax.Array:
    """Weights (..., d) of the networks so rotated; undone by the transpose.

    >>> turned_weights(-jnp.eye(INPUTS), jnp.ones(SIZE)).sum().tolist()
    -31.0
    """
    first = weights[..., :FIRST].reshape(*weights.shape[:-1], HIDDEN, INPUTS) @ rotation.T
    flat = first.reshape(*weights.shape[:-1], FIRST)
    return jnp.concatenate([flat, weights[..., FIRST:]], axis=-1)
