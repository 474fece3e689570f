"""Minima of the model of opposing signals, and where gradient descent settles among them.

The loss ``1/2 |c b - beta|^2 + 1/2 kappa c^2 o^2`` of ``opposing_signals`` is least wherever
``c b = beta`` and o = 0, one minimum for every ``z = c^2``. The Hessian has there the eigenvalues

    kappa z (along o),    z + s^2/z (along the bulk),    z, and zeros,    s = |beta|.

Balanced weights (z = s) have the sharpness ``max(kappa, 2) s``; a smaller head makes the outlier
flatter and the bulk sharper. Gradient descent that is unstable along o slides along the minima
towards smaller heads while o grows, and on until o has vanished again: close above the threshold it
ends as far below 2/eta as it had been above.

Model reconstructed from descriptions of Rosenfeld & Risteski 2023, arXiv:2311.04163, whose text was
not seen: constants derived here.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.checks import require
from theory.stability.opposing_signals import opposing_learning_rate


def minimum_sharpness(
    head_squared: ArrayLike, target_norm: ArrayLike, strength: ArrayLike
) -> Float[Array, "..."]:
    """Largest Hessian eigenvalue ``max(kappa z, z + s^2/z)`` at the minimum with ``z = c^2``.

    ``strength`` is kappa = p a, ``target_norm`` s = |beta|. Arguments broadcast. Raises
    ``ValueError`` unless z and s are positive and kappa non-negative. Source: derived here.

    >>> [float(minimum_sharpness(z, target_norm=1.0, strength=5.0)) for z in (0.25, 0.5, 1.0)]
    [4.25, 2.5, 5.0]
    """
    require_positive(head_squared=head_squared, target_norm=target_norm)
    require_nonnegative(strength=strength)
    z, s, strength = as_floats(head_squared, target_norm, strength)
    return jnp.maximum(strength * z, z + s**2 / z)


def flattest_sharpness(target_norm: ArrayLike, strength: ArrayLike) -> Float[Array, "..."]:
    """Sharpness of the flattest minimum, ``kappa s / sqrt(kappa - 1)``, or 2s for kappa < 2.

    Where both eigenvalues are equal, ``z = s / sqrt(kappa - 1)``; below kappa = 2 at the balanced
    minimum. Two over it is the largest learning rate at which any minimum is stable. Arguments
    broadcast. Raises ``ValueError`` for kappa negative, s not positive. Source: derived here.

    >>> float(flattest_sharpness(target_norm=1.0, strength=5.0))
    2.5
    """
    require_nonnegative(strength=strength)
    require_positive(target_norm=target_norm)
    s, strength = as_floats(target_norm, strength)
    larger = jnp.maximum(strength, 2.0)
    return s * larger / jnp.sqrt(larger - 1)


def settled_sharpness(
    target_norm: ArrayLike, strength: ArrayLike, learning_rate: ArrayLike
) -> Float[Array, "..."]:
    """Sharpness at which gradient descent from a balanced start ends: ``4/eta - kappa s``.

    While o oscillates with a growing and then shrinking amplitude, ``d(ln o^2)`` per step is
    ``2 eta kappa (z - z*)``, ``z* = 2/(eta kappa)``, and z falls in proportion to o^2. An o that
    returns to (almost) nothing has spent as much above as below z*. To leading order in the excess
    ``epsilon = eta kappa s / 2 - 1``; the next is of the order of kappa epsilon. Stable rates keep
    ``kappa s``. Arguments broadcast. Raises ``ValueError`` unless the arguments are positive and
    kappa >= 2, so that it is the outlier that becomes unstable. Source: derived here.

    >>> float(settled_sharpness(target_norm=1.0, strength=4.0, learning_rate=0.5125))
    3.80487804878...
    """
    require_positive(target_norm=target_norm, learning_rate=learning_rate)
    require("strength", strength, lambda x: x >= 2, "at least 2")
    s, strength, eta = as_floats(target_norm, strength, learning_rate)
    stable = eta <= opposing_learning_rate(s, strength)
    return jnp.where(stable, strength * s, 4 / eta - strength * s)
