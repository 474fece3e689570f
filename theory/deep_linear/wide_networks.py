"""Two wide linear layers with independent Gaussian weights: how far a network is from the limit.

Entries of variances c1/N_h (first layer) and c2/N_h (second), inputs white. As the width N_h grows
every mode follows ``two_layer_mode_strength(t, s, 0, imbalance=c1 + c2)``, see
``balanced_initialization.wide_mode_imbalance``. At a finite width a mode's hidden vectors a, b have

    u0 = a.b,    kappa = sqrt((|a|^2 + |b|^2)^2 - 4 (a.b)^2) = |a|^2 + |b|^2 + O(1/N_h),

which fluctuate as 1/sqrt(N_h). The overlaps with other modes' hidden vectors are as large, but
enter the strength of a mode in products of two only: to first order each mode is on its own.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_positive
from theory.deep_linear.modes import two_layer_mode_strength


def wide_mode_variance(
    t: ArrayLike,
    s: ArrayLike,
    c1: ArrayLike,
    c2: ArrayLike,
    n_hidden: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """Variance over Gaussian weights of the strength u(t) of a mode of a wide two-layer network.

        Var u = [c1 c2 (du/du0)^2 + 2 (c1^2 + c2^2) (du/dkappa)^2] / n_hidden

    at u0 = 0, kappa = c1 + c2, to leading order in 1/n_hidden: ``Var a.b = c1 c2 / n_hidden`` and
    ``Var |a|^2 = 2 c1^2 / n_hidden``, uncorrelated. c1 c2 / n_hidden at the start, 0 in the end.
    c1 and c2 are the entries' variances times n_hidden, s a singular value of the task. Arguments
    broadcast; relative corrections are of order (inputs + outputs) / n_hidden.

    Raises ``ValueError`` for negative t, other arguments that are not positive, NaN.
    Source: derived here.

    >>> start, end = wide_mode_variance(jnp.array([0.0, 50.0]), 1.0, 0.5, 0.2, 100)
    >>> round(float(start), 6), round(float(end), 6)
    (0.001, 0.0)
    """
    require_positive(c1=c1, c2=c2, n_hidden=n_hidden)
    t, s, c1, c2, n_hidden, tau = jnp.broadcast_arrays(*as_floats(t, s, c1, c2, n_hidden, tau))
    none, unit = jnp.zeros_like(t), jnp.ones_like(t)

    def strength(u0: Array, kappa: Array) -> Array:
        return two_layer_mode_strength(t, s, u0, kappa, tau)

    at = (none, c1 + c2)
    by_start, by_kappa = (jax.jvp(strength, at, way)[1] for way in ((unit, none), (none, unit)))
    return (c1 * c2 * by_start**2 + 2 * (c1**2 + c2**2) * by_kappa**2) / n_hidden
