"""Two-layer networks whose outputs are scaled, F = alpha (f - f_0): shared by lazy-training papers.

Networks are in the NTK parametrisation, ``f(x) = n^(-1/2) a . phi(W x n_in^(-1/2))``, without
biases, all weights N(0, 1) at the start. F learns y on ``(1/alpha^2) mean_i 1/2 (F_i - y_i)^2``,
which is the loss of an unscaled f that learns ``f_0 + y/alpha``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.layerwise import layerwise_gram
from dynamics.models import ACTIVATIONS, Activation, Layer, Model, mlp

PARAMETRIZATION = "ntk"


def two_layer(n_in: int, n_hidden: int, activation: Activation) -> Model:
    """The network; inputs (examples, n_in), outputs (examples, 1)."""
    widths = (n_in, n_hidden, 1)
    return mlp(widths, activation=activation, parametrization=PARAMETRIZATION, use_bias=False)


def mirrored(params: Any) -> Any:
    """Every second unit like the one before it, with the opposite readout: f = 0 everywhere.

    It stays its own mirror image: whatever is odd in the readout vanishes.
    """
    first, second = (layer.weight for layer in params)
    signs = jnp.tile(jnp.array([1, -1], second.dtype), len(first) // 2)
    units, readout = (jnp.repeat(w[::2], 2, axis=0) for w in (first, second[0]))
    return Layer(units, None), Layer((signs * readout)[None], None)


def tangent_kernel(params: Any, x: jax.Array, activation: Activation) -> jax.Array:
    """Kernel (examples, examples) of f."""
    return layerwise_gram(
        params, x, activation=activation, parametrization=PARAMETRIZATION, outputs="sum"
    )


def hidden_activity(params: Any, x: jax.Array, activation: str) -> jax.Array:
    """Activity (examples, n_hidden) of the hidden units."""
    first = params[0].weight
    return ACTIVATIONS[activation](x @ first.T / np.sqrt(first.shape[1]))


def on_sphere(draw: np.random.Generator, examples: int, n_in: int) -> np.ndarray:
    """Random inputs of length sqrt(n_in), (examples, n_in)."""
    x = draw.standard_normal((examples, n_in))
    return np.sqrt(n_in) * x / np.linalg.norm(x, axis=1, keepdims=True)
