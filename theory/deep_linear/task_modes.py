"""The task a linear network learns, taken apart into its modes, and the loss put together again."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from theory.arguments import as_floats, require_finite
from theory.checks import is_concrete, require


def decompose_task(
    sigma_yx: Float[ArrayLike, "..."], sigma_xx: Float[ArrayLike, "..."] | None = None
) -> tuple[
    Float[Array, "outputs modes"],
    Float[Array, " modes"],
    Float[Array, "inputs modes"],
    Float[Array, " modes"],
]:
    """Modes of a task: ``Sigma_yx = U diag(s) V^T`` and ``Sigma_xx V = V diag(lam)``.

    Returns ``(U, s, V, lam)`` of shapes (outputs, modes), (modes,), (inputs, modes), (modes,).
    ``sigma_yx`` is (outputs, inputs), ``sigma_xx`` (inputs, inputs), the identity (``lam = 1``) if
    not given; ``modes = min(outputs, inputs)``, s descending. Mode i then follows
    ``tau du/dt = 2u (s - lam u)``: target ``s/lam``, time constant ``tau/lam``. Where singular
    values tie (within ``sqrt(eps) s_max``) the basis is the one that diagonalises Sigma_xx. Both
    matrices are sums, or both means, over examples.
    Raises ``ValueError`` for wrong shapes, NaN, an asymmetric ``sigma_xx``, one that is not
    positive along a mode with ``s > 0``, and an inconsistent one: an off-diagonal element of
    ``V^T Sigma_xx V`` (V completed to a basis) above ``100 sqrt(eps)`` times the largest element.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> U, s, V, lam = decompose_task(jnp.array([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    >>> U.shape, V.shape, [round(float(x), 4) for x in s]
    ((2, 2), (3, 2), [3.0, 2.0])
    """
    if jnp.ndim(sigma_yx) != 2 or jnp.size(sigma_yx) == 0:
        shape = jnp.shape(sigma_yx)
        raise ValueError(f"sigma_yx must be a matrix (outputs, inputs), got shape {shape}")
    require_finite(sigma_yx=sigma_yx)
    if sigma_xx is None:
        (sigma_yx,) = as_floats(sigma_yx)
        U, s, Vt = jnp.linalg.svd(sigma_yx, full_matrices=False)
        return U, s, Vt.T, jnp.ones_like(s)
    _require_covariance(sigma_xx, jnp.shape(sigma_yx)[1])
    dtype = jnp.result_type(sigma_yx, sigma_xx, 1.0)
    sigma_yx, sigma_xx = jnp.asarray(sigma_yx, dtype), jnp.asarray(sigma_xx, dtype)
    U, s, V = _shared_basis(sigma_yx, sigma_xx)
    in_basis = V.T @ sigma_xx @ V[:, : s.size]
    lam = jnp.diagonal(in_basis)
    _require_consistent(in_basis, s, lam)
    return U, s, V[:, : s.size], lam


def loss_from_modes(
    u: Float[ArrayLike, "... modes"], s: Float[ArrayLike, "... modes"]
) -> Float[Array, "..."]:
    """Loss of a decoupled network, ``1/2 sum_i (s_i - u_i)^2`` over the last axis.

    Relative to its minimum (the part of ``Sigma_yx`` without modes adds a constant); whitened
    inputs. Leading axes broadcast. Raises ``ValueError`` for NaN.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> float(loss_from_modes(jnp.array([1.0, 0.0]), jnp.array([3.0, 1.0])))
    2.5
    """
    require_finite(u=u, s=s)
    u, s = as_floats(u, s)
    return 0.5 * jnp.sum((s - u) ** 2, axis=-1)


@jax.jit
def _shared_basis(sigma_yx: Array, sigma_xx: Array) -> tuple[Array, Array, Array]:
    """Singular vectors of sigma_yx (V complete), turned within ties to diagonalise sigma_xx."""
    U, s, Vt = jnp.linalg.svd(sigma_yx, full_matrices=True)
    tie = jnp.sqrt(jnp.finfo(s.dtype).eps) * s[0]
    every = jnp.zeros(Vt.shape[0], s.dtype).at[: s.size].set(s)
    group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), every[:-1] - every[1:] > tie]))
    together = group[:, None] == group[None, :]
    # eigenvalues of the scaled blocks lie within [-1, 1]: shifts of 3 keep the groups in order
    blocks = jnp.where(together, Vt @ sigma_xx @ Vt.T, 0)
    scale = jnp.linalg.norm(blocks) + jnp.finfo(s.dtype).tiny
    _, turn = jnp.linalg.eigh(blocks / scale + jnp.diag(3.0 * group.astype(s.dtype)))
    turn = jnp.where(together, turn, 0)
    # U turns with V, except where s = 0 leaves it free
    learned = s > tie
    both = learned[:, None] & learned[None, :]
    turn_U = jnp.where(both, turn[: s.size, : s.size], jnp.eye(s.size, dtype=s.dtype))
    return U[:, : s.size] @ turn_U, s, Vt.T @ turn


def _require_covariance(sigma_xx: ArrayLike, inputs: int) -> None:
    if jnp.shape(sigma_xx) != (inputs, inputs):
        shape = jnp.shape(sigma_xx)
        raise ValueError(f"sigma_xx must have shape ({inputs}, {inputs}), got {shape}")
    require_finite(sigma_xx=sigma_xx)
    if not is_concrete(sigma_xx):
        return
    matrix = np.asarray(sigma_xx)
    skew = np.abs(matrix - matrix.T).max()
    if skew > _tolerance(sigma_xx) * np.abs(matrix).max():
        raise ValueError(f"sigma_xx must be symmetric, got a skew part of {skew:.3g}")


def _require_consistent(in_basis: Array, s: Array, lam: Array) -> None:
    if not is_concrete(in_basis, s):
        return
    bound = _tolerance(in_basis) * float(jnp.abs(in_basis).max())
    diagonal = jnp.eye(*in_basis.shape, dtype=bool)
    off = float(jnp.abs(jnp.where(diagonal, 0, in_basis)).max())
    if off > bound:
        raise ValueError(
            "sigma_xx must be diagonal in the right singular vectors of sigma_yx, "
            f"got an off-diagonal element of {off:.3g} (tolerance {bound:.3g})"
        )
    learned = np.asarray(s > _tolerance(s) * s[0])
    require("sigma_xx along the modes", lam, lambda x: ~learned | (x > bound), "positive for s > 0")


def _tolerance(matrix: ArrayLike) -> float:
    return 100 * float(jnp.finfo(jnp.result_type(matrix, 1.0)).eps) ** 0.5
