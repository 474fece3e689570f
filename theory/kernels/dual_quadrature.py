"""Duals of any activation: Hermite series for smooth ones, quadrature split at kinks for others.

With phi(sqrt(a) z) = sum_k h_k(a) He_k(z)/sqrt(k!) and rho = c/sqrt(ab),

    E phi(u) phi(v) = sum_k h_k(a) h_k(b) rho^k,     E phi'(u) phi'(v) = sum_k g_k(a) g_k(b) rho^k,

g_k the coefficients of phi', h_{k+1}(a) = sqrt(a/(k+1)) g_k(a): a table for every variance, then
two polynomials for every pair. For kinked activations the series converges like a power of k; they
are integrated in polar coordinates of the plane, on sectors and rays between the kinks, for every
pair anew: some 10^4 evaluations each. (Products of Gauss-Hermite rules have errors of 1e-6 where
this has 1e-14, even for erf.) Derived here; the series is that of Daniely, Frostig & Singer (2016),
arXiv 1602.05897.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.checks import Count, require, require_count
from theory.kernels.moments import Dual, DualActivation, Moments, safe_sqrt, second_moments

Elementwise = Callable[[Array], Array]
KernelPair = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
MAX_TERMS = 200
TABLE_NODES, TABLE_END = 480, 13.0  # trapezoidal rule of the tables: to rounding at MAX_TERMS
RADIUS = 10.0  # where e^(-r^2/2) ends the polar rule
BATCH = 64  # pairs integrated at a time


def from_kernels(kernels: KernelPair) -> DualActivation:
    """The dual whose kernel and derivative kernel are ``kernels(a, b, c, determinant)``.

    >>> dual = from_kernels(lambda a, b, c, q: (a * b + 2 * c * c, 4 * c))  # phi(u) = u^2
    >>> [float(value) for value in dual(1.0, 1.0, 0.5).moments]
    [3.0, 3.0, 1.5, 6.75]
    """

    def dual(a, b, c, determinant=None):
        a, b, c, q = second_moments(a, b, c, determinant)
        first = kernels(a, a, a, jnp.zeros_like(a))[0]
        second = kernels(b, b, b, jnp.zeros_like(b))[0]
        kernel, derivative = kernels(a, b, c, q)
        return Dual(Moments(first, second, kernel, first * second - kernel * kernel), derivative)

    return dual


def hermite_dual(phi: Elementwise, *, terms: Count = 64, odd: bool = False) -> DualActivation:
    """Dual of a smooth elementwise function by its Hermite series, truncated after ``terms``.

    The error is at most ``hermite_remainder``. Where phi is analytic within a distance d of the
    real axis it is about ``exp(-2 d sqrt(terms/a))``: large variances need many terms. For tanh,
    d = pi/2, and 160 terms, it is 1e-15 at a = 1, 2e-9 at a = 4.

    Args:
        terms: of the series of phi', at most 200.
        odd: whether phi is odd up to a constant (tanh, sigmoid): half of the terms vanish.

    Raises ``ValueError`` for terms that are not an integer from 1 to 200.
    Source: Daniely, Frostig & Singer (2016), arXiv 1602.05897.

    >>> dual = hermite_dual(jnp.sin, terms=40)(1.0, 1.0, 0.5)
    >>> round(float(dual.kernel), 12), round(float(np.exp(-1) * np.sinh(0.5)), 12)
    (0.191700249782, 0.191700249782)
    """
    require_count(terms=terms)
    require("terms", terms, lambda n: n <= MAX_TERMS, f"at most {MAX_TERMS}")
    stride = 2 if odd else 1
    used = np.arange(0, int(terms), stride)[::-1]  # Horner's rule takes the highest first

    def kernels(a, b, c, q):
        del q
        mean_a, table_a = _hermite_table(phi, a, int(terms))
        mean_b, table_b = _hermite_table(phi, b, int(terms))
        s = safe_sqrt(a) * safe_sqrt(b)
        rho = c / jnp.where(s > 0, s, 1)
        power = rho**stride

        def add(totals, coefficients):
            of_a, of_b, count = coefficients
            term = of_a * of_b
            return (term / count + power * totals[0], term + power * totals[1]), None

        tables = [jnp.moveaxis(table[..., used], -1, 0) for table in (table_a, table_b)]
        start, counts = jnp.zeros_like(rho), jnp.asarray(used + 1, rho.dtype)
        integral, derivative = lax.scan(add, (start, start), (*tables, counts), unroll=8)[0]
        return mean_a * mean_b + c * integral, derivative

    return from_kernels(kernels)


def hermite_remainder(phi: Elementwise, a: ArrayLike, *, terms: Count = 64) -> Float[Array, "..."]:
    """What the series of ``hermite_dual`` leaves out of E phi(u)^2.

        R(a) = E phi(sqrt(a) z)^2 - sum_{k <= terms} h_k(a)^2

    The error of the kernel is at most sqrt(R(a) R(b)), at any c.

    Raises ``ValueError`` for negative a, or terms that are not an integer >= 1.

    >>> bool(abs(hermite_remainder(jnp.sin, 1.0, terms=20)) < 1e-14)
    True
    """
    a = second_moments(a, a, a).first
    z, weight = _trapezoid()
    values = phi(safe_sqrt(a)[..., None] * jnp.asarray(z, a.dtype).reshape((1,) * a.ndim + (-1,)))
    whole = jnp.dot(values**2, jnp.asarray(weight, a.dtype))
    return whole - hermite_dual(phi, terms=terms)(a, a, a).kernel


def quadrature_dual(
    phi: Elementwise, *, kinks: Sequence[float] = (), nodes: Count = 40
) -> DualActivation:
    """Dual of an elementwise function, smooth between its ``kinks``, pair by pair.

    Gauss-Legendre in polar coordinates, on panels that end where u or v crosses 0 or a kink: exact
    to 1e-10 or better at any angle, where phi varies on the scale of its inputs. First
    derivatives are exact (Price) where phi is continuous; higher ones are not.

    Args:
        kinks: where phi or its derivative jumps, finite numbers.
        nodes: of the rule on every panel, in both directions.

    Raises:
        ValueError: kinks that are not finite, nodes that are not an integer >= 1.

    >>> dual = quadrature_dual(jax.nn.relu, kinks=(0.0,))(1.0, 1.0, 0.0)
    >>> round(2 * math.pi * float(dual.kernel), 10), round(float(dual.derivative), 10)
    (1.0, 0.25)
    """
    require_count(nodes=nodes)
    require("kinks", list(kinks), np.isfinite, "finite")
    nodes, kinks = int(nodes), tuple(kinks)

    def average(pair):
        a, b, angle = pair
        u, v, weight = _polar_rule(a, b, angle, nodes, kinks)
        slopes = _slope(phi, u) * _slope(phi, v)
        return jnp.sum(weight * phi(u) * phi(v)), jnp.sum(weight * slopes)

    def kernels(a, b, c, q):
        angle = lax.stop_gradient(jnp.arctan2(safe_sqrt(q), c))
        s = safe_sqrt(a) * safe_sqrt(b)
        pairs = tuple(jnp.ravel(x) for x in jnp.broadcast_arrays(a, b, angle))
        found = lax.map(average, pairs, batch_size=BATCH)
        kernel, derivative = (x.reshape(angle.shape) for x in found)
        # So far at a fixed angle; the derivative by the angle is Price's identity.
        rho = c / jnp.where(s > 0, s, 1)
        return kernel + s * derivative * (rho - lax.stop_gradient(rho)), derivative

    return from_kernels(kernels)


def _hermite_table(phi: Elementwise, a: Array, terms: int) -> tuple[Array, Array]:
    """E phi(sqrt(a) z), and g_0 ... g_{terms-1} on a last axis."""
    z, weight = _trapezoid()
    basis = [np.ones_like(z), z]
    for k in range(1, terms - 1):
        basis.append((z * basis[k] - math.sqrt(k) * basis[k - 1]) / math.sqrt(k + 1))
    table = jnp.asarray(np.stack(basis[:terms], axis=1) * weight[:, None], a.dtype)
    at = safe_sqrt(a)[..., None] * jnp.asarray(z, a.dtype).reshape((1,) * a.ndim + (-1,))
    return jnp.dot(phi(at), jnp.asarray(weight, a.dtype)), jnp.dot(_slope(phi, at), table)


def _trapezoid() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for a Gaussian average in one dimension."""
    z = np.linspace(-TABLE_END, TABLE_END, TABLE_NODES)
    density = np.exp(-(z**2) / 2)
    return z, density / density.sum()


def _slope(phi: Elementwise, u: Array) -> Array:
    return jax.jvp(phi, (u,), (jnp.ones_like(u),))[1]


def _polar_rule(
    a: Array, b: Array, angle: Array, nodes: int, kinks: tuple[float, ...]
) -> tuple[Array, Array, Array]:
    """u = sqrt(a) r cos(f), v = sqrt(b) r cos(f - angle): values on (directions, radii), weights.

    Directions f are split on the axes of u and v, where both are on a kink, and halfway between, as
    kinks run off to infinity at the ends; radii where u or v is on a kink.
    """
    x, weight = (jnp.asarray(y, angle.dtype) / 2 for y in np.polynomial.legendre.leggauss(nodes))
    x = x + 0.5
    kink = jnp.asarray([k for k in kinks if k != 0], angle.dtype)
    tiny = jnp.finfo(angle.dtype).tiny ** 0.25
    at_u, at_v = (kink / jnp.maximum(safe_sqrt(y), tiny) for y in (a, b))
    across = at_v[None, :] - jnp.cos(angle) * at_u[:, None]
    both = jnp.arctan2(across, jnp.broadcast_to(jnp.sin(angle) * at_u[:, None], across.shape))
    axes = jnp.stack([jnp.zeros_like(angle), angle])
    axes = jnp.concatenate([axes + k * math.pi / 2 for k in range(4)])
    start = jnp.sort(jnp.concatenate([axes, both.ravel()]) % (2 * math.pi))
    width = (jnp.concatenate([start[1:], start[:1] + 2 * math.pi]) - start) / 2
    start, width = jnp.concatenate([start, start + width]), jnp.concatenate([width, width])
    direction = (start[:, None] + width[:, None] * x[None, :]).ravel()
    cos = jnp.stack([jnp.cos(direction), jnp.cos(direction - angle)])
    level = jnp.stack([at_u, at_v])[:, None, :] / jnp.where(cos == 0, tiny, cos)[:, :, None]
    level = jnp.where((level > 0) & (level < RADIUS), level, RADIUS)
    level = jnp.sort(jnp.concatenate([level[0], level[1]], axis=1), axis=1)
    ends = jnp.pad(level, ((0, 0), (1, 1)), constant_values=(0, RADIUS))
    length = jnp.diff(ends, axis=1)
    radius = ends[:, :-1, None] + length[:, :, None] * x[None, None, :]
    weights = length[:, :, None] * weight[None, None, :] * radius * jnp.exp(-(radius**2) / 2)
    weights = weights * ((width[:, None] * weight[None, :]).ravel() / (2 * math.pi))[:, None, None]
    u = safe_sqrt(a) * radius * cos[0][:, None, None]
    return u, safe_sqrt(b) * radius * cos[1][:, None, None], weights
