"""Initial weights: exact Gaussian, Haar orthogonal, and aligned with the modes of a task.

Matrices act from the left and have shape (n_out, n_in). The default dtype, ``float``, is JAX's own
(float64 under x64). Gaussian numbers are not truncated, unlike those of flax's initialisers.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Key


def gaussian_init(
    key: Key[Array, ""], shape: tuple[int, int], dtype: Any = float
) -> Float[Array, "n_out n_in"]:
    """A matrix of independent, untruncated ``W_ij ~ N(0, 1/n_in)``.

    >>> gaussian_init(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    return jax.random.normal(key, shape, dtype) / math.sqrt(shape[1])


def orthogonal_init(
    key: Key[Array, ""], shape: tuple[int, int], dtype: Any = float
) -> Float[Array, "n_out n_in"]:
    """A Haar-random matrix with orthonormal columns (n_out >= n_in) or rows (n_out < n_in).

    QR of a Gaussian matrix with the signs of diag(R) moved into Q: without them the distribution
    is that of LAPACK's sign convention, not Haar's.

    Source: Mezzadri (2007), arXiv math-ph/0609050.

    >>> w = orthogonal_init(jax.random.key(0), (5, 3))
    >>> bool(jnp.allclose(w.T @ w, jnp.eye(3), atol=1e-6))
    True
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (max(shape), min(shape)), dtype))
    q = jnp.where(jnp.diagonal(r)[None, :] < 0, -q, q)
    return q if shape[0] >= shape[1] else q.T


def aligned_init(
    key: Key[Array, ""],
    widths: Sequence[int],
    left_vectors: Float[ArrayLike, "n_out modes"],
    right_vectors: Float[ArrayLike, "n_in modes"],
    strengths: Float[ArrayLike, " modes"] | Float[ArrayLike, "depth modes"],
) -> tuple[Float[Array, "_ _"], ...]:
    """Deep linear weights that are decoupled in the modes of a task.

    ``W_l = R_{l+1} D_l R_l^T``, ``R_1 = V`` (right vectors), ``R_{L+1} = U`` (left vectors), in
    between Haar-random orthonormal columns; hence ``W_L ... W_1 = U (D_L ... D_1) V^T``. On a task
    ``Sigma_yx = U S V^T`` with inputs white (or with covariance diagonal in V) gradient flow keeps
    this form and every mode learns on its own.

    Args:
        widths: (n_0, ..., n_L), each at least the number of modes.
        left_vectors, right_vectors: orthonormal columns, one per mode.
        strengths: the mode strengths u0 (modes,), shared out in balance, ``D_l = |u0|^{1/L}`` with
            the sign of u0 on the first layer; or D_1, ..., D_L themselves (L, modes), which for
            two layers are the rows a and b, u0 = a b.

    Raises:
        ValueError: shapes that do not fit together, a layer narrower than the number of modes,
            columns that are not orthonormal, strengths that are not finite.

    Source: Saxe, McClelland & Ganguli (2014), arXiv 1312.6120.

    >>> from dynamics.models import end_to_end
    >>> u, v, u0 = jnp.eye(4)[:, :2], jnp.eye(3)[:, :2], jnp.array([0.1, -0.2])
    >>> params = aligned_init(jax.random.key(0), (3, 5, 4), u, v, u0)
    >>> bool(jnp.allclose(u.T @ end_to_end(params) @ v, jnp.diag(u0), atol=1e-6))
    True
    """
    depth = len(matrix_shapes(widths))
    left, right, diagonals = (jnp.asarray(a) for a in (left_vectors, right_vectors, strengths))
    _check_aligned(widths, left, right, diagonals)
    if diagonals.ndim == 1:
        shared = jnp.abs(diagonals) ** (1.0 / depth)
        signed = jnp.where(diagonals < 0, -shared, shared)
        diagonals = jnp.stack([signed] + [shared] * (depth - 1))
    dtype = jnp.result_type(left, right, diagonals)
    hidden = [
        orthogonal_init(k, (n, left.shape[1]), dtype)
        for k, n in zip(layer_keys(key, depth - 1), widths[1:-1], strict=True)
    ]
    bases = [right, *hidden, left]
    return tuple(
        (bases[l + 1] * diagonals[l][None, :]) @ bases[l].T.astype(dtype) for l in range(depth)
    )


def _check_aligned(widths: Sequence[int], left: Array, right: Array, diagonals: Array) -> None:
    depth, modes = len(widths) - 1, left.shape[1]
    wanted = {"left_vectors": (widths[-1], modes), "right_vectors": (widths[0], modes)}
    for name, basis in (("left_vectors", left), ("right_vectors", right)):
        if basis.shape != wanted[name]:
            raise ValueError(f"{name} must have shape {wanted[name]}, got {basis.shape}")
        tolerance = math.sqrt(jnp.finfo(basis.dtype).eps)
        if not holds(basis, lambda r, to=tolerance: np.abs(r.T @ r - np.eye(modes)) < to):
            raise ValueError(f"{name} must have orthonormal columns, got\n{basis}")
    if diagonals.shape not in ((modes,), (depth, modes)):
        raise ValueError(
            f"strengths must have shape {(modes,)} or {(depth, modes)}, got {diagonals.shape}"
        )
    if not holds(diagonals, np.isfinite):
        raise ValueError(f"strengths must be finite, got {diagonals}")
    if min(widths) < modes:
        raise ValueError(f"widths must all be at least the {modes} modes, got {tuple(widths)}")


def holds(value: Any, condition: Callable[[np.ndarray], Any]) -> bool:
    """Whether a condition holds everywhere; a traced value has the benefit of the doubt.

    >>> holds([0.5, jnp.nan], np.isfinite)
    False
    """
    return isinstance(value, Tracer) or bool(np.all(condition(np.asarray(value))))


def matrix_shapes(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Shapes (n_l, n_{l-1}) of the weight matrices of a network with these widths.

    Raises:
        ValueError: widths that are not two or more positive integers.

    >>> matrix_shapes((3, 5, 2))
    [(5, 3), (2, 5)]
    """
    positive = all(isinstance(n, (int, np.integer)) and n >= 1 for n in widths)
    if len(widths) < 2 or not positive:
        raise ValueError(f"widths must be two or more positive integers, got {tuple(widths)}")
    return [(int(n_out), int(n_in)) for n_in, n_out in pairwise(widths)]


def layer_keys(key: Key[Array, ""], count: int) -> list[Key[Array, ""]]:
    """One key per layer; the key of a layer does not depend on how many layers follow.

    >>> len(layer_keys(jax.random.key(0), 3))
    3
    """
    return [jax.random.fold_in(key, layer) for layer in range(count)]
