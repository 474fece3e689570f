"""What the formulas for whole weight matrices share: argument checks, factors and roots."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_finite
from theory.checks import Count, is_concrete, require_count


def as_matrices(**named: ArrayLike) -> list[Array]:
    """The named values as matrices in their common floating dtype.

    Raises ``ValueError`` for one that is not a matrix, is empty, or holds NaN or infinity.

    >>> as_matrices(sigma_yx=jnp.ones(3))
    Traceback (most recent call last):
        ...
    ValueError: sigma_yx must be a matrix, got shape (3,)
    """
    for name, value in named.items():
        if jnp.ndim(value) != 2 or jnp.size(value) == 0:
            raise ValueError(f"{name} must be a matrix, got shape {jnp.shape(value)}")
    require_finite(**named)
    dtype = jnp.result_type(*named.values(), 1.0)
    return [jnp.asarray(value, dtype) for value in named.values()]


def as_layers(W1: ArrayLike, W2: ArrayLike) -> list[Array]:
    """W1 (hidden, inputs) and W2 (outputs, hidden) in their common floating dtype.

    Raises ``ValueError`` for layers that do not fit together, NaN or infinity.

    >>> as_layers(jnp.ones((2, 3)), jnp.ones((4, 5)))
    Traceback (most recent call last):
        ...
    ValueError: W2 must have shape (outputs, 2) to follow W1 of shape (2, 3), got (4, 5)
    """
    W1, W2 = as_matrices(W1=W1, W2=W2)
    if W2.shape[1] != W1.shape[0]:
        wanted = f"shape (outputs, {W1.shape[0]}) to follow W1 of shape {W1.shape}"
        raise ValueError(f"W2 must have {wanted}, got {W2.shape}")
    return [W1, W2]


def require_shape(shape: tuple[int, ...], **named: Array) -> None:
    """Raise ``ValueError`` unless every named array has this shape.

    >>> require_shape((2, 2), grad=jnp.ones((2, 3)))
    Traceback (most recent call last):
        ...
    ValueError: grad must have shape (2, 2), got (2, 3)
    """
    for name, value in named.items():
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {value.shape}")


def require_symmetric(name: str, value: ArrayLike) -> None:
    """Raise ``ValueError`` unless a concrete matrix (last two axes) is symmetric within rounding.

    >>> require_symmetric("F", jnp.array([[0.0, 1.0], [0.0, 0.0]]))
    Traceback (most recent call last):
        ...
    ValueError: F must be symmetric, got a skew part of 1
    """
    if not is_concrete(value):
        return
    matrix = np.asarray(value)
    skew = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max()
    if skew > 100 * float(jnp.finfo(jnp.result_type(value, 1.0)).eps) * np.abs(matrix).max():
        raise ValueError(f"{name} must be symmetric, got a skew part of {skew:.3g}")


def require_white(sigma_xx: ArrayLike, n_in: int) -> None:
    """Raise ``ValueError`` unless a concrete sigma_xx (n_in, n_in) is the identity.

    Eigenvalues may be off by 100 sqrt(eps).

    >>> require_white(jnp.diag(jnp.array([1.0, 0.5])), 2)
    Traceback (most recent call last):
        ...
    ValueError: sigma_xx must be the identity (white inputs), got the eigenvalue 0.5
    """
    (covariance,) = as_matrices(sigma_xx=sigma_xx)
    require_shape((n_in, n_in), sigma_xx=covariance)
    require_symmetric("sigma_xx", covariance)
    if not is_concrete(covariance):
        return
    values = np.linalg.eigvalsh(np.asarray(covariance))
    worst = values[np.argmax(np.abs(values - 1))]
    if not abs(worst - 1) <= 100 * float(jnp.finfo(covariance.dtype).eps) ** 0.5:
        raise ValueError(
            f"sigma_xx must be the identity (white inputs), got the eigenvalue {worst:.6g}"
        )


def factor_qqt(P: Float[ArrayLike, "..."], n_hidden: Count) -> Float[Array, "N hidden"]:
    """A factor Q (N, n_hidden) of a positive semi-definite matrix, ``Q Q^T = P``.

    Eigenvalues below N eps times the largest count as zero. The derivative is exact for whatever
    depends on ``Q Q^T`` only (Q is known up to a rotation), as long as the rank of P stays.
    Raises ``ValueError`` for a P that is not a symmetric matrix, not positive semi-definite, or of
    a rank above n_hidden (beyond sqrt(eps) times the largest eigenvalue).

    >>> Q = factor_qqt(jnp.array([[1.0, 2.0], [2.0, 4.0]]), 1)
    >>> (Q @ Q.T).round(4).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    (P,) = as_matrices(P=P)
    require_count(n_hidden=n_hidden)
    require_symmetric("P", P)
    if is_concrete(P):
        values = np.linalg.eigvalsh(np.asarray(P))[::-1]
        slack = float(jnp.finfo(P.dtype).eps) ** 0.5 * abs(values).max()
        if values[-1] < -slack:
            raise ValueError(f"P must be positive semi-definite, got the eigenvalue {values[-1]}")
        rank = int((values > slack).sum())
        if rank > n_hidden:
            raise ValueError(f"P must have rank at most n_hidden = {n_hidden}, got rank {rank}")
    return _root(P, int(n_hidden))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def gram_roots(
    W: Float[Array, "n m"], offset: Float[Array, ""], depth: int
) -> tuple[Float[Array, "n n"], Float[Array, "m m"]]:
    """``(W W^T + offset^2 I)^{1/depth}`` and ``(W^T W + offset^2 I)^{1/depth}``.

    From the singular values of W, so without squaring their rounding errors; those below rounding
    count as zero. First derivatives are exact whether or not singular values repeat; at two
    singular values zero (and no offset) the root has a cusp, and the derivative is taken as 0.

    >>> [root.tolist() for root in gram_roots(2 * jnp.eye(1), jnp.array(0.0), 2)]
    [[[2.0]], [[2.0]]]
    """
    return _rebuild(*_singular_roots(W, offset, depth))


@gram_roots.defjvp
def _gram_roots_jvp(depth, primals, tangents):
    (W, offset), (d_W, d_offset) = primals, tangents
    U, V, S, root = _singular_roots(W, offset, depth)
    n, m = W.shape
    d_W = U.T @ d_W @ V
    lift = offset * d_offset
    left, right = (
        d_W @ S.T + lift * jnp.eye(n, dtype=W.dtype),
        d_W.T @ S + lift * jnp.eye(m, dtype=W.dtype),
    )
    # divided differences of x^{1/L}: (y_i - y_k) / (y_i^L - y_k^L) = 1 / sum_j y_i^j y_k^{L-1-j}
    powers = root[:, None] ** jnp.arange(depth, dtype=root.dtype)[None, :]
    steps = powers @ powers[:, ::-1].T
    slope = jnp.where(steps > 0, 1 / jnp.where(steps > 0, steps, 1), 0)
    d_left = U @ (slope[:n, :n] * (left + left.T)) @ U.T
    d_right = V @ (slope[:m, :m] * (right + right.T)) @ V.T
    return _rebuild(U, V, S, root), (d_left, d_right)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _root(P: Array, n_hidden: int) -> Array:
    vectors, roots = _principal(P, n_hidden)
    return vectors * roots[None, :]


@_root.defjvp
def _root_jvp(n_hidden, primals, tangents):
    # (1 - Pi/2) dP Q^+T with Pi the projector onto the range of Q: times Q^T, plus transpose, dP
    (P,), (d_P,) = primals, tangents
    vectors, roots = _principal(P, n_hidden)
    kept = roots > 0
    inverse = jnp.where(kept, 1 / jnp.where(kept, roots, 1), 0)
    along = 0.5 * (d_P + d_P.T) @ (vectors * inverse[None, :])
    inside = jnp.where(kept[:, None], vectors.T @ along, 0)
    return vectors * roots[None, :], along - 0.5 * vectors @ inside


def _principal(P: Array, n_hidden: int) -> tuple[Array, Array]:
    """The n_hidden largest eigenvectors of P and the roots of their eigenvalues, 0 if too few."""
    values, vectors = jnp.linalg.eigh(P)
    beyond = max(n_hidden - values.size, 0)
    values = jnp.pad(values[::-1][:n_hidden], (0, beyond))
    vectors = jnp.pad(vectors[:, ::-1][:, :n_hidden], ((0, 0), (0, beyond)))
    kept = values > P.shape[0] * jnp.finfo(P.dtype).eps * values[0]
    return vectors, jnp.sqrt(jnp.where(kept, values, 0))


def _singular_roots(W, offset, depth):
    """U, V, S with ``W = U S V^T``, U and V square; ``(sigma^2 + offset^2)^{1/depth}``, padded."""
    n, m = W.shape
    U, s, Vt = jnp.linalg.svd(W, full_matrices=True)
    s = jnp.where(s > max(n, m) * jnp.finfo(s.dtype).eps * s[0], s, 0)
    S = jnp.zeros_like(W).at[jnp.arange(s.size), jnp.arange(s.size)].set(s)
    padded = jnp.zeros(max(n, m), s.dtype).at[: s.size].set(s)
    return U, Vt.T, S, jnp.hypot(padded, offset) ** (2 / depth)


def _rebuild(U, V, S, root):
    n, m = S.shape
    return (U * root[None, :n]) @ U.T, (V * root[None, :m]) @ V.T
