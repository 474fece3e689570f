"""Modes of linear BYOL: eigenvalues of predictor and features, collapse, basins, learning times.

With white inputs, isotropic augmentation (variance ``aug_var`` = s2) and a symmetric predictor that
has aligned with the features (see ``byol``), each common eigenvector carries one eigenvalue p of
the predictor Wp, one s of the feature correlation F = W W^T, and one ratio tau of target to online
network, which obey (Tian, Chen & Ganguli 2021, arXiv:2102.06810), with k = 1 + s2,

    dp/dt = alpha_p s (tau - k p) - eta p
    ds/dt = 2 p s (tau - k p) - 2 eta s
    dtau/dt = beta (1 - tau) - (tau / 2s) ds/dt.

``s - p^2/alpha_p`` decays as ``e^(-2 eta t)``. Where it vanishes, on the invariant parabola,

    dp/dt = p^2 (tau - k p) - eta p        at constant tau, whatever alpha_p.

Conventions: ``tau`` is the target's ratio and not a time constant; t is the time of gradient flow
on the online network, on ``1/2 E |.|^2``; ``weight_decay`` (eta) pulls equally on Wp and W,
``alpha_p`` multiplies the gradient of Wp only; ``ema`` (beta) is the rate of the moving average.
The paper has one tau for all modes; exactly, each mode has its own. All arguments broadcast.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.checks import is_concrete, require
from theory.deep_linear.byol_integral import safe_sqrt, time_between


class ByolModeVelocity(NamedTuple):
    """Time derivatives of the predictor's and the features' eigenvalue, and of the EMA ratio."""

    p: Float[Array, "..."]
    s: Float[Array, "..."]
    tau: Float[Array, "..."]


class ByolFixedPoints(NamedTuple):
    """Equilibria of p on the invariant parabola; beyond collapse p_minus = inf and p_plus = 0.

    ``p_minus`` is the edge of the basin: a start above it ends at ``p_plus``, one below at 0. Where
    ``exists`` is false no start is above, and all end in the collapsed state ``p_plus = 0``.
    """

    p_minus: Float[Array, "..."]
    p_plus: Float[Array, "..."]
    exists: Bool[Array, "..."]


def byol_mode_velocity(
    p: ArrayLike,
    s: ArrayLike,
    tau: ArrayLike,
    alpha_p: ArrayLike,
    weight_decay: ArrayLike,
    aug_var: ArrayLike,
    ema: ArrayLike,
) -> ByolModeVelocity:
    """Velocities of the modes, with an EMA ratio per mode, as in the module's head.

    Regular at s = 0, since s divides out of dtau/dt. For a fixed tau leave the third one out.
    Raises ``ValueError`` unless p and tau are finite, alpha_p > 0, and s, weight_decay, aug_var
    and ema are non-negative.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> velocity = byol_mode_velocity(0.5, 0.25, 1.0, 1.0, 0.0, aug_var=0.0, ema=0.1)
    >>> [float(v) for v in velocity]
    [0.125, 0.125, -0.25]
    """
    require_finite(p=p, tau=tau)
    require_positive(alpha_p=alpha_p)
    require_nonnegative(s=s, weight_decay=weight_decay, aug_var=aug_var, ema=ema)
    p, s, tau, alpha_p, eta, aug_var, ema = as_floats(
        p, s, tau, alpha_p, weight_decay, aug_var, ema
    )
    pull = tau - (1 + aug_var) * p
    growth = p * pull - eta  # (ds/dt) / 2s
    return ByolModeVelocity(
        alpha_p * s * pull - eta * p, 2 * s * growth, ema * (1 - tau) - tau * growth
    )


def byol_mode_imbalance(p: ArrayLike, s: ArrayLike, alpha_p: ArrayLike = 1.0) -> Array:
    """What decays as ``e^(-2 eta t)`` in each mode, whatever tau does: ``s - p^2 / alpha_p``.

    Raises ``ValueError`` unless p is finite, s non-negative and alpha_p positive.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> float(byol_mode_imbalance(0.5, 0.5))
    0.25
    """
    require_finite(p=p)
    require_nonnegative(s=s)
    require_positive(alpha_p=alpha_p)
    p, s, alpha_p = as_floats(p, s, alpha_p)
    return s - p**2 / alpha_p


def byol_collapse_threshold(aug_var: ArrayLike, tau: ArrayLike = 1.0) -> Array:
    """Weight decay beyond which every mode collapses: ``tau^2 / (4 (1 + aug_var))``.

    Raises ``ValueError`` unless aug_var is non-negative and tau positive.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> float(byol_collapse_threshold(0.25))
    0.2
    """
    require_nonnegative(aug_var=aug_var)
    require_positive(tau=tau)
    aug_var, tau = as_floats(aug_var, tau)
    return tau**2 / (4 * (1 + aug_var))


def byol_fixed_points(
    weight_decay: ArrayLike, aug_var: ArrayLike, tau: ArrayLike = 1.0
) -> ByolFixedPoints:
    """Equilibria ``p_minus <= p_plus`` on the invariant parabola, and whether there are any.

    ``p_pm = (tau +- sqrt(tau^2 - 4 eta (1 + aug_var))) / (2 (1 + aug_var))``. With weight decay
    p = 0, the collapsed state, is stable too, and p_minus separates the two basins. At
    ``byol_collapse_threshold`` p_minus and p_plus meet, in a point that attracts from above only;
    beyond it ``exists`` is false and p_minus = inf, p_plus = 0 say that everything collapses.
    Where they meet, the infinite slope of the square root is given as 0. Never NaN.
    Raises ``ValueError`` unless weight_decay and aug_var are non-negative and tau is positive.
    Source: Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> [float(x) for x in byol_fixed_points(0.1875, aug_var=0.0)]
    [0.25, 0.75, 1.0]
    >>> [float(x) for x in byol_fixed_points(0.3, aug_var=0.0)]
    [inf, 0.0, 0.0]
    """
    require_nonnegative(weight_decay=weight_decay, aug_var=aug_var)
    require_positive(tau=tau)
    return _fixed_points(*as_floats(weight_decay, aug_var, tau))


def byol_basin_time(
    p: ArrayLike,
    p0: ArrayLike,
    weight_decay: ArrayLike,
    aug_var: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Array:
    """Time at which a mode on the invariant parabola, started at ``p0``, reaches ``p``; tau fixed.

        t = integral from p0 to p of dx / (x^2 (tau - k x) - eta x),    k = 1 + aug_var

    on either side of, at, and beyond the collapse threshold. The mode moves towards ``p_plus`` from
    above ``p_minus`` and towards 0 from below it; an equilibrium takes for ever and gives inf. p
    lies between p0 and the equilibrium ahead; values behind p0 give negative times inside jit. The
    error is that of moving p and p0 by a few roundings, times p0/p_plus for starts far above.
    Raises ``ValueError`` for p out of reach, weight_decay or aug_var negative, tau not positive.
    Source: derived here, for the modes of Tian, Chen & Ganguli 2021, arXiv:2102.06810.

    >>> round(float(byol_basin_time(0.5, 0.1, 0.0, aug_var=0.0)), 4)  # 8 + ln 9
    10.1972
    """
    require_nonnegative(weight_decay=weight_decay, aug_var=aug_var)
    require_positive(tau=tau)
    require_finite(p=p, p0=p0)
    values = as_floats(p, p0, weight_decay, aug_var, tau)
    if is_concrete(*values):
        _require_ahead(*values)
    return _basin_time(*values)


def _require_ahead(p, p0, *parameters):
    fixed = _fixed_points(*parameters)
    ahead = jnp.where(p0 > fixed.p_minus, fixed.p_plus, jnp.where(p0 == fixed.p_minus, p0, 0))
    slack = 16 * jnp.finfo(p.dtype).eps * jnp.maximum(jnp.abs(p0), jnp.abs(ahead))
    reached = (p >= jnp.minimum(p0, ahead) - slack) & (p <= jnp.maximum(p0, ahead) + slack)
    expected = "between p0 and the equilibrium it moves towards"
    require("p", p, lambda _: np.asarray(reached), expected)


@jax.jit
def _fixed_points(eta, aug_var, tau):
    k = 1 + aug_var
    remaining = 1 - eta / (tau**2 / (4 * k))
    exists = remaining >= -8 * jnp.finfo(remaining.dtype).eps  # at the threshold, but for roundings
    root = safe_sqrt(remaining)
    p_plus = tau * (1 + root) / (2 * k)
    p_minus = jnp.minimum(2 * eta / (tau * (1 + root)), p_plus)
    return ByolFixedPoints(
        jnp.where(exists, p_minus, jnp.inf), jnp.where(exists, p_plus, 0), exists
    )


# In x = k p / tau, with time in units of k / tau^2: dx/dt = x^2 (1 - x) - h x, h = eta k / tau^2.
@jax.jit
def _basin_time(p, p0, eta, aug_var, tau):
    unit = (1 + aug_var) / tau
    x, x0, h = p * unit, p0 * unit, eta * unit / tau
    root = safe_sqrt(1 - 4 * h)
    b = (1 + root) / 2
    apart = _same_side(x, x0, 0.0)
    for edge in (h / b, b):
        apart &= (h > 0.25) | _same_side(x, x0, edge)
    v, v0 = 1 / jnp.where(apart, x, 2.0), 1 / jnp.where(apart, x0, 2.0)
    time = time_between(v0, v, h)
    return unit / tau * jnp.where(apart, time, jnp.where(x == x0, 0, jnp.inf))


def _same_side(x, x0, edge):
    """Whether x and x0 are on one side of the equilibrium, neither at it but for roundings."""
    blur = 4 * jnp.finfo(x.dtype).eps * edge
    return ((x > edge + blur) & (x0 > edge + blur)) | ((x < edge - blur) & (x0 < edge - blur))
