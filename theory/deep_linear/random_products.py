"""Random products of weight matrices: deep linear and deep tanh networks at initialisation.

A product of L square weight matrices at gain g is the input-output map of a deep linear network
at initialisation; with the slopes of tanh in between it is the Jacobian of a deep tanh network.
Orthogonal factors give a multiple of an isometry; Gaussian ones (N x N, independent entries of
variance 1/N) spread the singular values over ever more decades as L grows. A gain g multiplies
every factor, hence squared singular values by g^(2L). The whole limiting density of the Gaussian
product is in ``product_spectrum``.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.checks import Count, require_count
from theory.numerics import gaussian_average

CRITICAL_GAIN = 1.0
"""Gain of the order-chaos transition of tanh networks: chi(0) = g^2 tanh'(0)^2 = 1."""


def fuss_catalan(L: ArrayLike, k: ArrayLike) -> Float[Array, "..."]:
    """Moments of the squared singular values of a product of L Gaussian matrices, N -> infinity.

    m_k = C((L+1) k, k) / (L k + 1), the Fuss-Catalan numbers; m_1 = 1, m_2 = L + 1. At finite N
    they are approached with corrections O(1/N). L and k broadcast; computed in floating point, to
    a few roundings (not exact integers).

    Raises ``ValueError`` unless L >= 1 and k >= 0 are integers.
    Source: Penson and Zyczkowski (2011), arXiv:1103.3453.

    >>> [int(fuss_catalan(2, k)) for k in range(5)]
    [1, 1, 3, 12, 55]
    """
    require_count(L=L)
    require_count(k=k, least=0)
    return _fuss_catalan(L, k)


@jax.jit
def _fuss_catalan(L, k):
    L, k = as_floats(L, k)
    # Integers: rounding removes the error of gammaln wherever it is below one half.
    return jnp.round(jnp.exp(gammaln((L + 1) * k + 1) - gammaln(k + 1) - gammaln(L * k + 2)))


def lyapunov_exponents(N: Count) -> Float[Array, " N"]:
    """Growth rates of the singular values of a long product of Gaussian N x N matrices.

    mu_i = lim log(sigma_i)/L = [log(2/N) + psi((N - i + 1)/2)] / 2, i = 1..N, decreasing, psi the
    digamma function. Gain g adds log g to all of them. The gap between them at every N is why no
    gain makes a deep Gaussian product an isometry; N -> infinity gives log(1 - (i-1)/N) / 2.

    Raises ``ValueError`` unless N is an integer >= 1.
    Source: Newman (1986), Communications in Mathematical Physics 103.

    >>> bool(jnp.all(jnp.diff(lyapunov_exponents(5)) < 0))
    True
    """
    require_count(N=N)
    remaining = jnp.arange(int(N), 0, -1)
    return (jnp.log(2 / N) + digamma(remaining / 2)) / 2


def orthogonal_product_singular_value(g: ArrayLike, L: ArrayLike) -> Float[Array, "..."]:
    """Every singular value of a product of L orthogonal matrices at gain g: g^L, exactly, any N.

    g and L broadcast. Raises ``ValueError`` unless g > 0 and L is an integer >= 1.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

    >>> float(orthogonal_product_singular_value(2.0, 3))
    8.0
    """
    require_count(L=L)
    require_positive(g=g)
    g, L = as_floats(g, L)
    return g**L


class MeanField(NamedTuple):
    """Pre-activation variances q_0..q_{L-1} and chi(q_0)..chi(q_{L-1}), layers leading."""

    q: Float[Array, "layers ..."]
    chi: Float[Array, "layers ..."]


def tanh_mean_field(g: ArrayLike, q0: ArrayLike, L: Count) -> MeanField:
    """Signal variance and Jacobian gain, layer by layer, in a wide random tanh network.

    h_l = g W_l x_l, x_{l+1} = tanh(h_l), l = 0..L-1, W_l orthogonal or Gaussian:
    q_{l+1} = g^2 int Dz tanh^2(sqrt(q_l) z),   chi_l = g^2 int Dz sech^4(sqrt(q_l) z).

    q_l is the variance over units of the pre-activation h_l, so q0 = g^2 |x_0|^2 / N is that of
    the first one: not of the input, and with the gain in it. chi_l uses q_l of the same layer:
    it is the mean squared singular value of dx_{l+1}/dx_l = g diag(1 - tanh^2 h_l) W_l. No biases.
    Entry l of both outputs is layer l; g and q0 broadcast to the trailing axes. Exact as N ->
    infinity, corrections O(1/N).

    Raises ``ValueError`` unless g > 0, q0 >= 0 and L is an integer >= 1.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120; Poole, Lahiri, Raghu,
    Sohl-Dickstein and Ganguli (2016), arXiv:1606.05340.

    >>> q, chi = tanh_mean_field(0.5, 0.0, 3)
    >>> [round(float(x), 4) for x in chi]
    [0.25, 0.25, 0.25]
    """
    _require_tanh(g, q0, L)
    return _mean_field(g, q0, L=int(L))


@partial(jax.jit, static_argnames="L")
def _mean_field(g, q0, L):
    g, q0 = as_floats(g, q0)

    def layer(q, _):
        return g**2 * q * _variance_ratio(q), (q, g**2 * _slope_moment(q, 1))

    _, layers = jax.lax.scan(layer, q0, length=L)
    return MeanField(*layers)


def mean_squared_singular_value(g: ArrayLike, q0: ArrayLike, L: Count) -> Float[Array, "..."]:
    """Mean squared singular value of the Jacobian dx_L/dx_0 of a wide random tanh network.

    prod_{l=0}^{L-1} chi_l, with the layers, conventions and errors of ``tanh_mean_field``. Same
    for orthogonal and Gaussian weights. g and q0 broadcast.

    >>> round(float(mean_squared_singular_value(0.5, 0.0, 2)), 4)
    0.0625
    """
    return jnp.prod(tanh_mean_field(g, q0, L).chi, axis=0)


class FixedPoint(NamedTuple):
    """Variance q*, |g^2 int Dz tanh^2(sqrt(q*) z) - q*| / q* (0 at q* = 0), and whether small."""

    q: Float[Array, "..."]
    residual: Float[Array, "..."]
    converged: Bool[Array, "..."]


def tanh_fixed_point(g: ArrayLike) -> FixedPoint:
    """Variance q*(g) that a deep tanh network's pre-activations settle to.

    q* = g^2 int Dz tanh^2(sqrt(q*) z): 0 up to ``CRITICAL_GAIN``, the positive root above it,
    where q* ~ (g^2 - 1)/2 and chi(q*) ~ 1 + (g^2 - 1)^2 / 3 > 1 stays near 1. Any shape of g.

    Raises ``ValueError`` unless g > 0.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

    >>> bool(tanh_fixed_point(1.5).converged), float(tanh_fixed_point(0.9).q)
    (True, 0.0)
    """
    require_positive(g=g)
    return _fixed_point(g)


@jax.jit
def _fixed_point(g):
    (g,) = as_floats(g)
    square = jnp.where(g > CRITICAL_GAIN, g, CRITICAL_GAIN) ** 2

    def excess(q):
        return 1 / _variance_ratio(q) - square

    # q / int Dz tanh^2 is concave in q with slope between 2 (at q = 0) and 1: starting below the
    # root, each step at least halves the distance and none passes it.
    def climb(excess, q):
        return jax.lax.fori_loop(0, 60, lambda _, q: q - excess(q) / 2, q)

    def divide(slope, y):
        return y / slope(jnp.ones_like(y))

    q = jax.lax.custom_root(excess, (square - 1) / 2, climb, divide)
    q = jnp.where((g > CRITICAL_GAIN) & (q > 0), q, 0.0)
    residual = jnp.where(q > 0, jnp.abs(square * _variance_ratio(q) - 1), 0.0)
    return FixedPoint(q, residual, residual <= 64 * jnp.finfo(q.dtype).eps)


def jacobian_variance(
    g: ArrayLike, L: Count, *, ensemble: str = "orthogonal", q0: ArrayLike | None = None
) -> Float[Array, "..."]:
    """Relative variance of the squared singular values of a wide random tanh network's Jacobian.

    Var(x)/mean(x)^2 = sum_l [mu_2(q_l)/mu_1(q_l)^2 - 1 - s_1], x the squared singular values of
    dx_L/dx_0, mu_k(q) = int Dz sech^(4k)(sqrt(q) z), s_1 = 0 for orthogonal and -1 for Gaussian
    weights. ``q0=None`` puts every layer at the fixed point q*(g), where the sum is L equal
    terms; otherwise q_l follows ``tanh_mean_field``. Gaussian at q = 0 is L, the variance of
    the linear product. g and q0 broadcast. N -> infinity.

    Raises ``ValueError`` unless g > 0, q0 >= 0, L is an integer >= 1, and the ensemble known.
    Source: Pennington, Schoenholz and Ganguli (2017), arXiv:1711.04735.

    >>> round(float(jacobian_variance(0.9, 10, ensemble="gaussian")), 3)
    10.0
    """
    _require_tanh(g, 0.0 if q0 is None else q0, L)
    known = {"orthogonal": 0.0, "gaussian": 1.0}
    if ensemble not in known:
        raise ValueError(f"ensemble must be one of {sorted(known)}, got {ensemble!r}")
    if q0 is None:
        return L * _layer_variance(_fixed_point(g).q, known[ensemble])
    return _layer_variance(_mean_field(g, q0, L=int(L)).q, known[ensemble]).sum(axis=0)


@jax.jit
def _layer_variance(q, weights):
    slopes = _slope_moment(q, 2) / _slope_moment(q, 1) ** 2 - 1
    return jnp.maximum(slopes, 0.0) + weights  # rounding must not make a variance negative


def _slope_moment(q, k):
    """int Dz sech^(4k)(sqrt(q) z): moments of the squared slopes of tanh."""
    return _average(lambda y: (1 - y * _tanh_square(y)) ** (2 * k), q)


def _variance_ratio(q):
    """int Dz tanh^2(sqrt(q) z) / q, smooth and 1 at q = 0."""
    return _average(_tanh_square, q, weight=lambda z: z**2)


def _average(f, q, weight=jnp.ones_like):
    """int Dz weight(z) f(q z^2)."""
    return gaussian_average(lambda z: weight(z) * f(q[..., None] * z**2), 1 / jnp.sqrt(1 + q))


def _tanh_square(y):
    """tanh^2(sqrt(y)) / y, which is analytic at y = 0; 5 terms are exact below 1e-3."""
    small = y < 1e-3
    near, far = jnp.where(small, y, 0.0), jnp.where(small, 1.0, y)
    series = 1 - near * (2 / 3 - near * (17 / 45 - near * (62 / 315 - near * 1382 / 14175)))
    return jnp.where(small, series, jnp.tanh(jnp.sqrt(far)) ** 2 / far)


def _require_tanh(g, q0, L):
    require_positive(g=g)
    require_nonnegative(q0=q0)
    require_count(L=L)
