"""Lazy or rich: how far training has moved a network's weights, features and tangent kernel.

An alignment of 1 with the start means that nothing but a scale has changed (lazy); the further
below 1, the richer. No kernel is centred.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree


def kernel_alignment(
    first: Float[ArrayLike, "n n"], second: Float[ArrayLike, "n n"]
) -> Float[Array, ""]:
    """Cosine of the angle between two kernels, ``tr(K0^T K1) / (|K0| |K1|)`` (Frobenius).

    Between 0 and 1 for positive semidefinite kernels; nan if either is zero.

    >>> round(float(kernel_alignment(jnp.eye(4), jnp.diag(jnp.array([1.0, 0.0, 0.0, 0.0])))), 12)
    0.5
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    return jnp.sum(first * second) / (jnp.linalg.norm(first) * jnp.linalg.norm(second))


def kernel_change(
    first: Float[ArrayLike, "n n"], second: Float[ArrayLike, "n n"]
) -> Float[Array, ""]:
    """Relative change of a kernel, ``|K1 - K0| / |K0|`` (Frobenius), scale included.

    >>> float(kernel_change(jnp.eye(2), 3 * jnp.eye(2)))
    2.0
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    return jnp.linalg.norm(second - first) / jnp.linalg.norm(first)


def representation_alignment(
    first: Float[ArrayLike, "P features"], second: Float[ArrayLike, "P features"]
) -> Float[Array, ""]:
    """``kernel_alignment`` of the Gram matrices of two hidden representations of P examples.

    Rotations of the hidden space do not count as change.

    >>> h = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> round(float(representation_alignment(h, h[:, ::-1])), 12)
    1.0
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    return kernel_alignment(first @ first.T, second @ second.T)


def weight_change(first: PyTree[Any], second: PyTree[Any]) -> Float[Array, ""]:
    """Distance ``|theta_1 - theta_0|`` (Euclidean) between two pytrees of parameters.

    >>> float(weight_change((jnp.zeros(1), jnp.zeros(1)), (jnp.full(1, 3.0), jnp.full(1, 4.0))))
    5.0
    """
    moved = jax.tree.map(lambda a, b: jnp.sum((b - a) ** 2), first, second)
    return jnp.sqrt(sum(jax.tree.leaves(moved)))
