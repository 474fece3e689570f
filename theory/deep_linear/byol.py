"""Linear self-supervised learning without contrastive pairs: BYOL, its alignment, DirectPred.

An online network W and a predictor Wp chase a target network Wa that is a moving average of W
(Tian, Chen & Ganguli 2021, arXiv:2102.06810):

    J = 1/2 E |Wp W x1 - stop_gradient(Wa x2)|^2,    G = -Wp W (X + X') + Wa X
    dWp/dt = alpha_p G W^T - eta Wp,    dW/dt = Wp^T G - eta W,    dWa/dt = beta (W - Wa)

where x1 and x2 are two augmented views of one example, X the covariance of their common mean and
X' that of the augmentation around it. Without a predictor (Wp = I) or stop-gradient nothing
balances the pull of ``-W X'``, and W collapses to zero.

Conventions: loss with 1/2, summed over features, averaged over data; t is the time of gradient flow
on the online network. ``weight_decay`` (eta) pulls equally on Wp and W and is not multiplied by
``alpha_p``, the predictor's relative learning rate; ``ema`` (beta) is the rate of the moving
average. Shapes: Wp and F = W W^T (features, features), W and Wa (features, inputs), X and Xp
(inputs, inputs). "Isotropic" means X = I and X' = aug_var I; with Wa = tau W and a symmetric Wp the
eigenvectors of F and Wp then align, and each pair of eigenvalues is a mode (``byol_modes``).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_finite, require_nonnegative, require_positive
from theory.checks import is_concrete, require
from theory.deep_linear.byol_modes import (
    ByolFixedPoints,
    ByolModeVelocity,
    byol_basin_time,
    byol_collapse_threshold,
    byol_fixed_points,
    byol_mode_imbalance,
    byol_mode_velocity,
)
from theory.deep_linear.direct_pred import direct_pred
from theory.deep_linear.matrices import as_matrices, require_shape
from theory.deep_linear.symmetric import measured_rounding, require_symmetric

__all__ = [
    "ByolFixedPoints",
    "ByolModeVelocity",
    "ByolVelocity",
    "IsotropicVelocity",
    "augmentation_variance",
    "byol_alignment_operator",
    "byol_basin_time",
    "byol_collapse_threshold",
    "byol_fixed_points",
    "byol_imbalance",
    "byol_isotropic_velocity",
    "byol_mode_imbalance",
    "byol_mode_velocity",
    "byol_velocity",
    "direct_pred",
]


class ByolVelocity(NamedTuple):
    """Time derivatives of predictor, online and target network."""

    Wp: Float[Array, "features features"]
    W: Float[Array, "features inputs"]
    Wa: Float[Array, "features inputs"]


class IsotropicVelocity(NamedTuple):
    """Time derivatives of a symmetric predictor and of the feature correlation F = W W^T."""

    Wp: Float[Array, "features features"]
    F: Float[Array, "features features"]


def byol_velocity(
    Wp: Float[ArrayLike, "..."],
    W: Float[ArrayLike, "..."],
    Wa: Float[ArrayLike, "..."],
    X: Float[ArrayLike, "..."],
    Xp: Float[ArrayLike, "..."],
    alpha_p: ArrayLike,
    weight_decay: ArrayLike,
    ema: ArrayLike,
) -> ByolVelocity:
    """Velocities of predictor, online and target network, as in the module's head; any data.

    Raises ``ValueError`` for shapes that do not match, X or Xp asymmetric, alpha_p not positive,
    weight_decay or ema negative, NaN.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> eye = jnp.eye(2)
    >>> byol_velocity(eye, eye, eye, eye, 0.5 * eye, 1.0, 0.0, ema=0.1).W.tolist()  # -W X'
    [[-0.5, 0.0], [0.0, -0.5]]
    """
    Wp, W, Wa, X, Xp = as_matrices(Wp=Wp, W=W, Wa=Wa, X=X, Xp=Xp)
    features, inputs = W.shape
    require_shape((features, features), Wp=Wp)
    require_shape(W.shape, Wa=Wa)
    require_shape((inputs, inputs), X=X, Xp=Xp)
    require_symmetric(X=X, Xp=Xp)
    require_positive(alpha_p=alpha_p)
    require_nonnegative(weight_decay=weight_decay, ema=ema)
    return _velocity(Wp, W, Wa, X, Xp, alpha_p, weight_decay, ema)


@jax.jit
def _velocity(Wp, W, Wa, X, Xp, alpha_p, eta, ema):
    G = Wa @ X - Wp @ W @ (X + Xp)
    return ByolVelocity(alpha_p * G @ W.T - eta * Wp, Wp.T @ G - eta * W, ema * (W - Wa))


def byol_imbalance(
    Wp: Float[ArrayLike, "..."], W: Float[ArrayLike, "..."], alpha_p: ArrayLike = 1.0
) -> Float[Array, "features features"]:
    """What decays as ``e^(-2 eta t)`` for any data and any target: ``W W^T - Wp^T Wp / alpha_p``.

    Raises ``ValueError`` for shapes that do not match, alpha_p not positive, NaN.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> byol_imbalance(jnp.eye(1), jnp.array([[1.0, 2.0]]), alpha_p=0.5).tolist()
    [[3.0]]
    """
    Wp, W = as_matrices(Wp=Wp, W=W)
    require_shape((W.shape[0], W.shape[0]), Wp=Wp)
    require_positive(alpha_p=alpha_p)
    return W @ W.T - Wp.T @ Wp / alpha_p


def augmentation_variance(
    X: Float[ArrayLike, "..."], Xp: Float[ArrayLike, "..."]
) -> Float[Array, ""]:
    """The ``aug_var`` of isotropic data: X = I and X' = aug_var I, measured and returned.

    Raises ``ValueError`` with the offending eigenvalue if one of X differs from 1, or one of Xp
    from their mean, by more than ``100 sqrt(eps)`` times the largest; for matrices that are not
    symmetric or of one shape.

    >>> round(float(augmentation_variance(jnp.eye(2), 0.5 * jnp.eye(2))), 4)
    0.5
    """
    X, Xp = as_matrices(X=X, Xp=Xp)
    require_shape(X.shape, Xp=Xp)
    require_symmetric(X=X, Xp=Xp)
    variance = jnp.trace(Xp) / Xp.shape[0]
    if is_concrete(X, Xp):
        _require_isotropic("X", X, 1.0)
        _require_isotropic("Xp", Xp, float(variance))
    return variance


def byol_isotropic_velocity(
    Wp: Float[ArrayLike, "..."],
    F: Float[ArrayLike, "..."],
    tau: ArrayLike,
    alpha_p: ArrayLike,
    weight_decay: ArrayLike,
    aug_var: ArrayLike,
) -> IsotropicVelocity:
    """Velocities of a symmetric predictor and of F = W W^T on isotropic data, target Wa = tau W.

        dWp/dt = -(alpha_p k / 2) {Wp, F} + alpha_p tau F - eta Wp,    {A, B} = AB + BA
        dF/dt  = -k {Wp^2, F} + tau {Wp, F} - 2 eta F,                 k = 1 + aug_var

    The symmetric part of ``byol_velocity``: exact while F and Wp commute, and if Wp is kept
    symmetric otherwise. Raises ``ValueError`` unless Wp and F are symmetric, of one shape and
    finite, tau is finite, alpha_p > 0, weight_decay and aug_var are non-negative.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> eye = jnp.eye(1)
    >>> [v.tolist() for v in byol_isotropic_velocity(0.5 * eye, eye, 1.0, 1.0, 0.0, aug_var=0.0)]
    [[[0.5]], [[0.5]]]
    """
    Wp, F = _symmetric_pair(Wp, F, tau, alpha_p, weight_decay, aug_var)
    return _isotropic_velocity(Wp, F, tau, alpha_p, weight_decay, aug_var)


@jax.jit
def _isotropic_velocity(Wp, F, tau, alpha_p, eta, aug_var):
    k, both = 1 + aug_var, _anticommutator(Wp, F)
    return IsotropicVelocity(
        alpha_p * (tau * F - k / 2 * both) - eta * Wp,
        tau * both - k * _anticommutator(Wp @ Wp, F) - 2 * eta * F,
    )


def byol_alignment_operator(
    Wp: Float[ArrayLike, "..."],
    F: Float[ArrayLike, "..."],
    tau: ArrayLike,
    alpha_p: ArrayLike,
    weight_decay: ArrayLike,
    aug_var: ArrayLike,
) -> Float[Array, "features features"]:
    """The K for which ``d[F, Wp]/dt = -{K, [F, Wp]}`` under ``byol_isotropic_velocity``.

    ``K = k (alpha_p F / 2 + Wp^2) - tau Wp + (3/2) eta I``, with k = 1 + aug_var. Eigenvectors of
    predictor and features align at least at the rate of twice the smallest eigenvalue of K while
    that is positive, as it always is for ``eta > tau^2 / (6 k)``. Arguments, errors and source as
    in ``byol_isotropic_velocity``.

    >>> byol_alignment_operator(0.5 * jnp.eye(1), jnp.eye(1), 1.0, 1.0, 0.0, aug_var=1.0).tolist()
    [[1.0]]
    """
    Wp, F = _symmetric_pair(Wp, F, tau, alpha_p, weight_decay, aug_var)
    return _alignment_operator(Wp, F, tau, alpha_p, weight_decay, aug_var)


@jax.jit
def _alignment_operator(Wp, F, tau, alpha_p, eta, aug_var):
    pull = (1 + aug_var) * (alpha_p / 2 * F + Wp @ Wp) - tau * Wp
    return pull + 1.5 * eta * jnp.eye(Wp.shape[0], dtype=Wp.dtype)


def _require_isotropic(name, matrix, value):
    close = max(measured_rounding(matrix), measured_rounding(jnp.full_like(matrix, value)))
    require(
        f"eigenvalues of {name}",
        jnp.linalg.eigvalsh(matrix),
        lambda x: np.abs(x - value) <= close,
        f"all {value:.6g} (isotropic data)",
    )


def _anticommutator(A, B):
    return A @ B + B @ A


def _symmetric_pair(Wp, F, tau, alpha_p, weight_decay, aug_var):
    Wp, F = as_matrices(Wp=Wp, F=F)
    require_shape(F.shape, Wp=Wp)
    require_symmetric(Wp=Wp, F=F)
    require_finite(tau=tau)
    require_positive(alpha_p=alpha_p)
    require_nonnegative(weight_decay=weight_decay, aug_var=aug_var)
    return Wp, F
