"""Averages over the Marchenko-Pastur law: the spectrum of N x N Gram matrices of Gaussian data.

P = alpha N examples with N independent inputs of variance 1/N, N -> infinity. The eigenvalues of
X^T X (a sum over examples, X of shape (P, N)) have the density

    rho(lam) = sqrt((lam_+ - lam)(lam - lam_-)) / (2 pi lam),    lam_+- = (sqrt(alpha) +- 1)^2,

plus a fraction 1 - alpha of exact zeros where alpha < 1. At alpha = 1 the lower edge touches zero.

The quadrature is the trapezoidal rule in y, with lam = lam_- + (lam_+ - lam_-) / (1 + e^(-2y)).
In the strip |Im y| < pi/4 the real part of lam stays above lam_-, and the density has its poles
at Im y = pi/2, wherever alpha puts the edges. Functions bounded for Re lam > 0, such as
e^(-lam t), are thus integrated with an error of order e^(-pi^2 / (2 step)) at every alpha and t,
which a rule in lam, or in the angle between its edges, does not achieve near alpha = 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_positive
from theory.checks import Count, require_count

NODES = 512
"""A step of 0.141: the error of e^(-lam t) is below 1e-13, relative to the average itself."""

# Of the mass, e^-60 lies beyond the left end at alpha = 1 (less elsewhere), e^-36 beyond the right.
_LEFT, _RIGHT = 60.0, 12.0


def bulk_mass(alpha: ArrayLike) -> Float[Array, "..."]:
    """Fraction of non-zero eigenvalues, min(1, alpha); the mean eigenvalue is alpha.

    alpha: examples per input, any shape. Raises ``ValueError`` unless alpha > 0.
    Source: Marchenko and Pastur (1967).

    >>> [float(bulk_mass(alpha)) for alpha in (0.25, 4.0)]
    [0.25, 1.0]
    """
    require_positive(alpha=alpha)
    (alpha,) = as_floats(alpha)
    return jnp.minimum(alpha, 1)


def marchenko_pastur_edges(alpha: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Smallest and largest non-zero eigenvalue, (sqrt(alpha) -+ 1)^2, N -> infinity.

    Both to full relative accuracy, the lower one near alpha = 1 too. alpha: any shape.
    Raises ``ValueError`` unless alpha > 0. Source: Marchenko and Pastur (1967).

    >>> [float(edge) for edge in marchenko_pastur_edges(4.0)]
    [1.0, 9.0]
    """
    require_positive(alpha=alpha)
    (alpha,) = as_floats(alpha)
    root = jnp.sqrt(alpha)
    return ((alpha - 1) / (1 + root)) ** 2, (1 + root) ** 2


def marchenko_pastur_nodes(
    alpha: ArrayLike, n: Count = NODES
) -> tuple[Float[Array, "... n"], Float[Array, "... n"]]:
    """Nodes and weights of averages over the continuous part of the Marchenko-Pastur law.

        int rho(lam) f(lam) dlam = sum_k weight_k f(lam_k)

    The zero eigenvalues at alpha < 1 are not in it: the weights add up to ``bulk_mass(alpha)``.
    With the default n the relative error is 1e-12 or less in float64 for f = e^(-lam t),
    (1 - e^(-lam t))^2 / lam, 1/(lam + gamma) and powers of lam: at every alpha from 1e-6 to 1e6
    and every t, except that close to alpha = 1 it also needs t < 1e25 or so (the smallest node
    there is 4 e^-120).

    alpha: examples per input, any shape; n (static): number of nodes. Returns (lam, weight) of
    shape alpha.shape + (n,), lam ascending (near the edges within rounding).

    Raises ``ValueError`` unless alpha > 0 and n is an integer >= 2.
    Source: Marchenko and Pastur (1967); the quadrature is derived here.

    >>> lam, weight = marchenko_pastur_nodes(0.5)
    >>> round(float(jnp.sum(weight)), 4), round(float(jnp.sum(weight * lam)), 4)
    (0.5, 0.5)
    """
    require_positive(alpha=alpha)
    require_count(n=n, least=2)
    return _nodes(alpha, n=int(n))


@partial(jax.jit, static_argnames="n")
def _nodes(alpha, n):
    (alpha,) = as_floats(alpha)
    lower, upper = marchenko_pastur_edges(alpha)
    # The smallest node is 4 e^(-2 left) at alpha = 1: a normal number in any precision.
    left = min(_LEFT, -0.45 * float(np.log(float(jnp.finfo(alpha.dtype).tiny))))
    y = jnp.linspace(-left, _RIGHT, n, dtype=alpha.dtype)
    step = (left + _RIGHT) / (n - 1)
    above, below = jax.nn.sigmoid(2 * y), jax.nn.sigmoid(-2 * y)
    alpha, lower, upper, above, below = jnp.broadcast_arrays(
        alpha[..., None], lower[..., None], upper[..., None], above, below
    )
    lam = lower * below + upper * above
    return lam, 16 / jnp.pi * step * alpha * jnp.sqrt(above * below) * (above * below / lam)
