"""Limiting spectrum of a product of L Gaussian matrices: the Fuss-Catalan (Raney) distribution.

The factors are N x N with independent entries of variance 1/N, N -> infinity; x is a squared
singular value of their product, so x has mean 1 and moments ``random_products.fuss_catalan``.
Gain g per factor multiplies x by g^(2L). Finite N changes the bulk by O(1/N).
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative
from theory.checks import require_count


def gaussian_product_edge(L: ArrayLike) -> Float[Array, "..."]:
    """Largest squared singular value of a product of L Gaussian matrices, N -> infinity.

    x_max = (L+1)^(L+1) / L^L, growing as e (L + 1/2); L = 1 is Marchenko-Pastur's 4. The smallest
    is 0. Raises ``ValueError`` unless L is an integer >= 1.
    Source: Penson and Zyczkowski (2011), arXiv:1103.3453.

    >>> [float(gaussian_product_edge(L)) for L in (1, 2)]
    [4.0, 6.75]
    """
    require_count(L=L)
    (L,) = as_floats(L)
    return (L + 1) * ((L + 1) / L) ** L


def gaussian_product_density(x: ArrayLike, L: ArrayLike) -> Float[Array, "..."]:
    """Density of the squared singular values x of a product of L Gaussian matrices, N -> infinity.

    In terms of the angle phi, 0 < phi < pi/(L+1), for which
    x = sin^(L+1)((L+1) phi) / (sin(phi) sin^L(L phi)),
    rho(x) = sin((L+1) phi) sin(phi) / (pi x sin(L phi)).

    Zero beyond the edge, infinite at x = 0, where rho ~ x^(-L/(L+1)). The singular values
    sqrt(x) =: y have density 2 y rho(y^2). L = 1 is Marchenko-Pastur, sqrt((4-x)/x) / (2 pi).
    x and L broadcast; the derivative with respect to x is the true one inside the support.

    Raises ``ValueError`` for L not an integer >= 1 or x < 0.
    Source: Penson and Zyczkowski (2011), arXiv:1103.3453; Forrester and Liu (2014),
    arXiv:1404.5759 (the parametrisation by an angle).

    >>> round(float(gaussian_product_density(2.0, 1) * 2 * jnp.pi), 9)
    1.0
    """
    _require_spectrum(x, L)
    return _density(x, L)


def gaussian_product_cdf(x: ArrayLike, L: ArrayLike) -> Float[Array, "..."]:
    """Fraction of the squared singular values of a product of L Gaussian matrices below x.

    F(x) = 1 - [(L+1) phi - L sin((L+1) phi) sin(phi) / sin(L phi)] / pi, N -> infinity, phi(x) as
    in ``gaussian_product_density``, of which it is the integral: N [F(x_2) - F(x_1)] is the
    expected count of a histogram bin. (With w = sin((L+1) phi) e^(i phi) / sin(L phi) the
    resolvent is w/x and w^(L+1) = x (w - 1), so its integral is L w - log(w - 1).)
    x and L broadcast.

    Raises ``ValueError`` for L not an integer >= 1 or x < 0.

    >>> round(float(gaussian_product_cdf(2.0, 1)), 6)  # 1/2 + 1/pi
    0.81831
    """
    _require_spectrum(x, L)
    return _cdf(x, L)


@jax.jit
def _density(x, L):
    x, L, inside = _support(x, L)
    _, resolvent = _spectral_point(jnp.where(inside, x, 1.0), L)
    density = resolvent / (jnp.pi * jnp.where(inside, x, 1.0))
    return jnp.where(inside, density, jnp.where(x == 0, jnp.inf, 0.0))


@jax.jit
def _cdf(x, L):
    x, L, inside = _support(x, L)
    complement, resolvent = _spectral_point(jnp.where(inside, x, 1.0), L)
    below = jnp.minimum((complement + L * resolvent) / jnp.pi, 1.0)
    return jnp.where(inside, below, jnp.where(x > 0, 1.0, 0.0))


def _support(x, L):
    x, L = as_floats(x, L)
    return x, L, (x > 0) & (x < (L + 1) * ((L + 1) / L) ** L)


def _spectral_point(x, L):
    """pi - (L+1) phi, and x times the imaginary part of the resolvent, at x inside the support.

    Bisection in v = log tan(theta/2), theta = (L+1) phi, resolves both ends: sin(theta) =
    1/cosh(v), and 400 reaches the smallest float64 for L = 1. 60 halvings exhaust float64.
    """

    def excess(v):
        theta = 2 * jnp.arctan(jnp.exp(v))
        log_sin_theta = jnp.log(2.0) - jnp.abs(v) - jnp.log1p(jnp.exp(-2 * jnp.abs(v)))
        phi = theta / (L + 1)
        log_x = (L + 1) * log_sin_theta - jnp.log(jnp.sin(phi)) - L * jnp.log(jnp.sin(L * phi))
        return log_x - jnp.log(x)

    def bisect(excess, low):
        def halve(_, bracket):
            low, high = bracket
            middle = (low + high) / 2
            below = excess(middle) > 0  # log_x decreases with v
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        return sum(jax.lax.fori_loop(0, 60, halve, (low, jnp.full_like(low, 400.0)))) / 2

    def divide(slope, y):  # the slope vanishes at the edge, where the density's derivative is inf
        return y / jnp.minimum(slope(jnp.ones_like(y)), -jnp.finfo(y.dtype).eps)

    v = jax.lax.custom_root(excess, jnp.full_like(x, -20.0), bisect, divide)
    phi = 2 * jnp.arctan(jnp.exp(v)) / (L + 1)
    return 2 * jnp.arctan(jnp.exp(-v)), jnp.sin(phi) / (jnp.cosh(v) * jnp.sin(L * phi))


def _require_spectrum(x, L):
    require_count(L=L)
    require_nonnegative(x=x)
