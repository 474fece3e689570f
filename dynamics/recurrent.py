"""A vanilla recurrent network, and low-rank connectivity of a given strength.

``h_t = phi(W h_{t-1} + U x_t)``, ``h_0 = 0``, read out after the last step: ``y = V h_T``.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Key

from dynamics.adapters import Model
from dynamics.initialization import gaussian_init, layer_keys, matrix_shapes
from dynamics.models import ACTIVATIONS, Activation


class Recurrent(NamedTuple):
    """Weights: ``inputs`` U, ``recurrent`` W and ``outputs`` V."""

    inputs: Float[Array, "n_hidden n_in"]
    recurrent: Float[Array, "n_hidden n_hidden"]
    outputs: Float[Array, "n_out n_hidden"]


def recurrent_network(
    n_in: int,
    n_hidden: int,
    n_out: int,
    *,
    activation: Activation = "tanh",
    gain: ArrayLike = 1.0,
    dtype: Any = float,
) -> Model:
    """A recurrent network without biases that answers once, after a whole sequence.

    Inputs (examples, steps, n_in), outputs (examples, n_out). All weights are N(0, 1/fan-in), those
    of the recurrent ones times ``gain``, which may be traced. Raises ``ValueError`` for sizes that
    are not positive integers, an unknown activation, and, by ``apply``, inputs of another shape.

    >>> import jax
    >>> model = recurrent_network(3, 5, 2)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 6, 3))).shape
    (4, 2)
    """
    first, readout = matrix_shapes((n_in, n_hidden, n_out))
    shapes = (first, (n_hidden, n_hidden), readout)
    if not callable(activation) and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    phi = activation if callable(activation) else ACTIVATIONS[activation]

    def init(key: Key[Array, ""]) -> Recurrent:
        keys = layer_keys(key, 3)
        U, W, V = (gaussian_init(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        return Recurrent(U, jnp.asarray(gain, dtype) * W, V)

    def apply(params: Recurrent, x: Any) -> Array:
        x = jnp.asarray(x)
        if x.ndim != 3 or x.shape[-1] != n_in:
            raise ValueError(f"x must have shape (examples, steps, {n_in}), got {x.shape}")
        driven = jnp.swapaxes(x @ params.inputs.T, 0, 1)
        start = jnp.zeros_like(driven[0])
        last, _ = lax.scan(lambda h, u: (phi(h @ params.recurrent.T + u), None), start, driven)
        return last @ params.outputs.T

    return Model(init, apply)


def reduce_rank(
    weight: Float[Array, "n_out n_in"], rank: int | Int[ArrayLike, ""]
) -> Float[Array, "n_out n_in"]:
    """The best approximation of a matrix by one of lower rank, scaled to its Frobenius norm.

    Keeps the ``rank`` >= 1 largest singular values, which may be traced.

    Source: Liu et al. (2023), arXiv 2310.08513 (their released code).

    >>> reduce_rank(jnp.diag(jnp.array([4.0, 3.0])), 1).round(4).tolist()
    [[5.0, 0.0], [0.0, 0.0]]
    """
    left, s, right = jnp.linalg.svd(weight, full_matrices=False)
    kept = jnp.where(jnp.arange(len(s)) < rank, s, 0)
    kept = kept * jnp.linalg.norm(s) / jnp.linalg.norm(kept)
    return (left * kept[None, :]) @ right
