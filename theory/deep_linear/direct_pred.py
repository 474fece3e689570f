"""DirectPred: the predictor of linear BYOL set from the feature correlation instead of learned.

Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_nonnegative
from theory.deep_linear.matrices import as_matrices
from theory.deep_linear.symmetric import require_semidefinite

VARIANTS = ("paper", "released")
RELEASED_FLOOR = 1e-4


def direct_pred(
    F: Float[ArrayLike, "..."], eps: ArrayLike, variant: str = "paper"
) -> Float[Array, "features features"]:
    """Predictor ``Wp = U diag(p) U^T`` for the feature correlation ``F = U diag(s) U^T``.

        "paper"     p_j = sqrt(s_j) + eps max_i s_i
        "released"  p_j = max(sqrt(s_j / max_i s_i) + eps, 1e-4)

    "paper" with eps = 0 is the invariant parabola of the modes at alpha_p = 1; eps > 0 rescues
    modes that start below ``p_minus``. "released" is what the authors' published trainer computes
    at its documented settings: it scales the top eigenvalue to 1 + eps, which is another rule.
    F: (features, features), E[f f^T] or a running average of it; eps: a scalar. Smooth in F where
    eigenvalues coincide; the infinite slopes at zero eigenvalues are given as 0.
    Raises ``ValueError`` for another variant, eps negative, F not symmetric or not positive
    semi-definite (up to the roundings allowed by ``measured_rounding``, which count as 0), NaN.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810, from memory; their trainer, "boost_scale"
    in github.com/facebookresearch/luckmatters, ssl/real-dataset/byol_trainer.py.

    >>> F = jnp.diag(jnp.array([4.0, 1.0]))
    >>> direct_pred(F, eps=0.125).round(4).tolist()
    [[2.5, 0.0], [0.0, 1.5]]
    >>> direct_pred(F, eps=0.125, variant="released").round(4).tolist()
    [[1.125, 0.0], [0.0, 0.625]]
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
    if jnp.ndim(eps) != 0:
        raise ValueError(f"eps must be a scalar, got shape {jnp.shape(eps)}")
    require_nonnegative(eps=eps)
    (F,) = as_matrices(F=F)
    require_semidefinite(F=F)
    return _direct_pred(F, eps, variant=variant)


@functools.partial(jax.jit, static_argnames="variant")
def _direct_pred(F, eps, *, variant):
    identity = jnp.eye(F.shape[0], dtype=F.dtype)
    largest = jnp.maximum(jnp.linalg.eigvalsh(F)[-1], 0)
    if variant == "paper":
        return _root(F, jnp.zeros((), F.dtype)) + eps * largest * identity
    scale = jnp.where(largest > 0, largest, 1)
    floor = jnp.maximum(RELEASED_FLOOR - eps, 0).astype(F.dtype)
    return _root(F / scale, floor) + eps * identity


@jax.custom_jvp
def _root(F, floor):
    """``U diag(max(sqrt(s), floor)) U^T`` for F = U diag(s) U^T."""
    return _root_jvp((F, floor), (jnp.zeros_like(F), jnp.zeros_like(floor)))[0]


@_root.defjvp
def _root_jvp(primals, tangents):
    # In F's basis dF is multiplied by (r_i - r_j) / (s_i - s_j), where s_i - s_j is the difference
    # times the sum of e = sqrt(s), and r = e (no cancellation) unless the floor holds r.
    (F, floor), (d_F, d_floor) = primals, tangents
    s, U = jnp.linalg.eigh(F)
    e = jnp.sqrt(jnp.maximum(s, 0))
    r, held = jnp.maximum(e, floor), (e <= floor).astype(F.dtype)
    gap, total = e[:, None] - e[None, :], e[:, None] + e[None, :]
    tied = jnp.broadcast_to(1 - held[:, None], gap.shape)
    slope = jnp.where(gap == 0, tied, (r[:, None] - r[None, :]) / jnp.where(gap == 0, 1, gap))
    slope = slope / jnp.where(total == 0, jnp.inf, total)
    symmetric = (d_F + d_F.T) / 2
    tangent = U @ (slope * (U.T @ symmetric @ U)) @ U.T + d_floor * (U * held[None, :]) @ U.T
    return (U * r[None, :]) @ U.T, tangent
