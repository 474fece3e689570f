"""Outputs that are Gaussians of one random variance: their entropy and mutual information.

Given its last hidden layer, the n outputs of a random network are independent N(0, G) with one
random G, which ``dynamics.random_layers`` samples. Averaged over G their density depends on the
radius only,

    p_n(r) = mean_G (2 pi G)^(-n/2) e^(-r^2/(2 G)),     h_n = -int p_n ln p_n S_n r^(n-1) dr,

with S_n the surface of the unit sphere, and the information that n_1 outputs have of n_2 others is
``h_(n_1) + h_(n_2) - h_(n_1 + n_2)``. No expansion in the fluctuations of G is made.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dynamics.operators import require_at_least

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(300)
_REACH = 9.0  # largest radius, in units of the largest standard deviation


def mixture_entropy(
    variances: Float[ArrayLike, " draws"],
    *,
    dimension: int,
    weights: Float[ArrayLike, " draws"] | None = None,
) -> Float[Array, ""]:
    """Entropy (nats) of ``dimension`` outputs that share a variance drawn from ``variances``.

    ``weights``, by default equal, are the draws' probabilities and add up to one. Gauss-Legendre
    over the radius, of rounding error for variances within a factor of a thousand of each other.
    Raises ``ValueError`` for dimension < 1.

    >>> round(float(mixture_entropy(jnp.ones(3), dimension=2)), 6)  # ln(2 pi e)
    2.837877
    """
    require_at_least(1, dimension=dimension)
    G = jnp.asarray(variances)
    weights = jnp.full_like(G, 1 / len(G)) if weights is None else jnp.asarray(weights)
    reach = _REACH * jnp.sqrt(jnp.max(G))
    # squared nodes crowd at small radii, where narrow components are
    half = (jnp.asarray(_NODES, G.dtype) + 1) / 2
    radius, step = reach * half**2, reach * half * jnp.asarray(_WEIGHTS, G.dtype)
    exponent = -(radius[None, :] ** 2) / (2 * G[:, None])
    density = weights @ (jnp.exp(exponent) / (2 * jnp.pi * G[:, None]) ** (dimension / 2))
    surface = 2 * math.pi ** (dimension / 2) / math.gamma(dimension / 2)
    inside = jnp.where(density > 0, density * jnp.log(jnp.where(density > 0, density, 1.0)), 0.0)
    return -surface * jnp.sum(step * radius ** (dimension - 1) * inside)


def mixture_information(
    variances: Float[ArrayLike, " draws"],
    *,
    n_first: int = 1,
    n_second: int = 1,
    weights: Float[ArrayLike, " draws"] | None = None,
) -> Float[Array, ""]:
    """Mutual information (nats) of n_1 and n_2 outputs sharing a variance drawn from ``variances``.

    Its plug-in bias is that of any nonlinear function of a mean, O(1/draws). Arguments and errors
    as ``mixture_entropy``, n_first and n_second for its dimension.

    >>> float(mixture_information(jnp.ones(3)).round(9))  # one variance: independent outputs
    0.0
    """
    sizes = (n_first, n_second, n_first + n_second)
    require_at_least(1, n_first=n_first, n_second=n_second)
    first, second, both = (
        mixture_entropy(variances, dimension=size, weights=weights) for size in sizes
    )
    return first + second - both
