"""From lazy to rich by the scale of the output: a linear network of infinite width, exactly.

A two-layer network ``f(x) = n^(-1/2) a . W x d^(-1/2)`` of n units, all weights N(0, 1) (the NTK
parametrisation), f = 0 at the start (mirrored units, say); ``F = alpha f`` learns

    y = b . x d^(-1/2)

on white inputs, X^T X proportional to the identity, by gradient flow on ``(1/alpha^2) |F - y|^2``,
times any constant. For n -> infinity only the richness ``gamma = 1/(alpha n^(1/2))`` matters:
weights turn hyperbolically in the plane of a and ``w = W b/|b|``,

    a_t = a cosh z + w sinh z,   w_t = w cosh z + a sinh z,   sinh 2z = gamma |b|  at the end,

and the tangent kernel of f goes from 2 X X^T/d to ``X [(C + 1) I + (C - 1) b b^T/|b|^2] X^T/d``,
C = cosh 2z = (1 + gamma^2 |b|^2)^(1/2). All that moves grows with gamma^2 |b|^2 (the weights, with
its square root) while it is small, the lazy side; on the rich side kernels grow like gamma |b|.

Relative corrections are of order d/n, those of the kernel's direction d^2/n. Sources: Geiger,
Spigler, Jacot & Wyart (2020), arXiv 1906.08034, for the scaling; the closed form is derived here.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative
from theory.checks import Count, require_count


class Movement(NamedTuple):
    """Where training ends, relative to the start, as ``dynamics.regime`` measures it (...).

    ``kernel_change`` |K1 - K0|/|K0|; ``kernel_distance`` 1 - cosine of K0 and K1; ``weight_change``
    |theta_1 - theta_0|/|theta_0|. Frobenius norms.
    """

    kernel_change: Float[Array, "..."]
    kernel_distance: Float[Array, "..."]
    weight_change: Float[Array, "..."]


def scaled_linear_network(richness: ArrayLike, target_norm: ArrayLike, n_in: Count) -> Movement:
    """How far training moves the network, at gamma = ``richness``, |b| = ``target_norm``.

        kernel_change    (C - 1)/2 ((d + 3)/d)^(1/2)
        kernel_distance  1 - (1 - s)^(1/2),  s = (C - 1)^2 (d - 1)/(d |K1|^2),
                         |K1|^2 = (C + 1)^2 (d - 1) + 4 C^2
        weight_change    2 (c (c - 1)/(d + 1))^(1/2),  c = cosh z = ((1 + C)/2)^(1/2)

    without cancellation at small gamma. ``n_in`` is d. The kernel's distance has a limit for gamma
    -> infinity, its change has none, and for d = 1 the distance is zero: the kernel only grows.
    Raises ``ValueError`` for negative or infinite arguments and d < 1.

    >>> moved = scaled_linear_network(3.0**0.5, 1.0, n_in=1)
    >>> [round(float(value), 6) for value in moved[:2]]  # C = 2: K1 = 4, K0 = 2
    [1.0, 0.0]
    """
    require_nonnegative(richness=richness, target_norm=target_norm)
    require_count(n_in=n_in)
    gamma, norm = as_floats(richness, target_norm)
    d = int(n_in)
    power = (gamma * norm) ** 2
    C = jnp.sqrt(1 + power)
    grown = power / (C + 1)  # C - 1
    sine2 = grown**2 * (d - 1) / (d * ((C + 1) ** 2 * (d - 1) + 4 * C**2))
    cosh = jnp.sqrt((C + 1) / 2)
    return Movement(
        kernel_change=grown / 2 * jnp.sqrt((d + 3) / d),
        kernel_distance=sine2 / (1 + jnp.sqrt(1 - sine2)),
        weight_change=jnp.sqrt(2 * cosh * grown / ((cosh + 1) * (d + 1))),
    )
