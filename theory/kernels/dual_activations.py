"""Dual activations: what an activation does to the covariance of two Gaussian pre-activations.

For (u, v) Gaussian with mean zero, a = E u^2, b = E v^2, c = E uv,

    kernel E[phi(u) phi(v)],      derivative kernel E[phi'(u) phi'(v)] = d kernel / d c  (Price).

A dual is a function ``dual(a, b, c, determinant=None)`` of arrays that broadcast, and returns
``Dual(moments, derivative)``: E phi(u)^2 and E phi(v)^2 (with the shapes of a and b), the kernel
and the determinant of these three, hence ``dual(*moments)``. The determinant ``q = ab - c^2``
carries the digits of a small angle (``theory.kernels.moments``). Given it, the ReLU family has the
angle to 1e-12 relative in float64, exactly 0 where q = 0; without, q is a difference with its
rounding. Derivatives are finite everywhere, also at c = +-sqrt(ab), where those of the derivative
kernel of a kinked activation diverge and are left out.

Closed forms here, series and quadrature for any activation in ``theory.kernels.dual_quadrature``;
``DUALS`` holds them by the names of ``dynamics.models.ACTIVATIONS``.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from numpy.polynomial import Chebyshev, Polynomial

from theory.checks import require
from theory.kernels.dual_quadrature import from_kernels, hermite_dual
from theory.kernels.moments import Dual, DualActivation, Moments, safe_sqrt, second_moments


def linear_dual(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, determinant: ArrayLike | None = None
) -> Dual:
    """Dual of the identity: kernel c, derivative kernel 1.

    >>> float(linear_dual(2.0, 1.0, 0.5).kernel)
    0.5
    """
    moments = second_moments(a, b, c, determinant)
    return Dual(moments, jnp.ones_like(moments.mixed))


def square_dual(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, determinant: ArrayLike | None = None
) -> Dual:
    """Dual of the square: kernel ``ab + 2 c^2``, derivative kernel ``4 c``.

    >>> float(square_dual(1.0, 2.0, 1.0).kernel)
    4.0
    """
    a, b, c, q = second_moments(a, b, c, determinant)
    moments = Moments(3 * a * a, 3 * b * b, a * b + 2 * c * c, 4 * q * (2 * a * b + c * c))
    return Dual(moments, 4 * c)


def leaky_relu_dual(slope: ArrayLike = 0.01) -> DualActivation:
    """Dual of ``max(u, 0) + slope min(u, 0)``: 0 is ReLU, -1 the absolute value, 1 the identity.

    With p = (1 + slope)/2, r = (1 - slope)/2 it is ``p u + r |u|``, and with the angle theta

        kernel = p^2 c + r^2 E|uv|,   E|uv| = (2/pi) (sqrt(q) + (pi/2 - theta) c)
        derivative kernel = p^2 + r^2 (1 - 2 theta/pi).

    Raises ``ValueError`` for a slope that is not finite.
    Source: Cho & Saul (2009), Kernel Methods for Deep Learning.

    >>> dual = leaky_relu_dual(-1.0)(1.0, 1.0, 0.0)
    >>> round(float(dual.kernel), 6), float(dual.derivative)  # (E|u|)^2, and sign is odd
    (0.63662, 0.0)
    """
    require("slope", slope, np.isfinite, "finite")

    def dual(a, b, c, determinant=None):
        return _kinked(second_moments(a, b, c, determinant), slope)

    return dual


def relu_dual(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, determinant: ArrayLike | None = None
) -> Dual:
    """Dual of ReLU: ``[sqrt(q) + (pi - theta) c]/(2 pi)`` and ``(pi - theta)/(2 pi)``.

    >>> dual = relu_dual(1.0, 1.0, 0.0)
    >>> round(2 * math.pi * float(dual.kernel), 12), float(dual.derivative)
    (1.0, 0.25)
    """
    return _kinked(second_moments(a, b, c, determinant), 0.0)


def abs_dual(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, determinant: ArrayLike | None = None
) -> Dual:
    """Dual of the absolute value: ``E|uv|`` and ``1 - 2 theta/pi``.

    >>> float(abs_dual(1.0, 4.0, -2.0).kernel)
    2.0
    """
    return _kinked(second_moments(a, b, c, determinant), -1.0)


def erf_dual(scale: ArrayLike = 1.0) -> DualActivation:
    """Dual of ``erf(scale u)``. With k = 2 scale^2 and D = 1 + k a + k b + k^2 q,

        kernel = (2/pi) arcsin(k c / sqrt((1 + k a)(1 + k b))) = (2/pi) atan2(k c, sqrt D)
        derivative kernel = (2 k/pi) / sqrt D.

    ``scale`` = 1/sqrt(2) is the g of Saad & Solla. Raises ``ValueError`` for a scale not finite.
    Source: Williams (1997), Computing with Infinite Networks.

    >>> round(float(erf_dual()(0.5, 0.5, 0.5).kernel), 12)  # (2/pi) arcsin(1/2)
    0.333333333333
    """
    require("scale", scale, np.isfinite, "finite")

    def kernels(a, b, c, q):
        k = jnp.asarray(2 * scale * scale, c.dtype)
        root = jnp.sqrt(1 + k * (a + b) + k * k * q)
        return 2 / math.pi * jnp.arctan2(k * c, root), 2 * k / math.pi / root

    return from_kernels(kernels)


def _gelu_kernels(a: Array, b: Array, c: Array, q: Array) -> tuple[Array, Array]:
    """By partial integration; P = E Phi(u) Phi(v), R = E of the product of the two densities."""
    d = 1 + a + b + q
    density = 1 / (2 * math.pi * jnp.sqrt(d))
    both = 0.25 + jnp.arctan2(c, jnp.sqrt(d)) / (2 * math.pi)
    kernel = c * both + density * (c * c + a * b * d) / ((1 + a) * (1 + b))
    return kernel, both + density * c * (1 / (1 + a) + 1 / (1 + b) + 1 / d)


def gelu_dual(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, determinant: ArrayLike | None = None
) -> Dual:
    """Dual of the exact GELU, ``u Phi(u)``. With D = 1 + a + b + q, P = 1/4 + asin/(2 pi) and

        asin = arcsin(c / sqrt((1 + a)(1 + b))) = atan2(c, sqrt D),     R = 1/(2 pi sqrt D):
        kernel = c P + R (c^2 + a b D) / ((1 + a)(1 + b))
        derivative kernel = P + R c [1/(1 + a) + 1/(1 + b) + 1/D].

    Derived here, by partial integration.

    >>> dual = gelu_dual(1.0, 1.0, 0.0)
    >>> round(float(dual.kernel), 12), round(float(1 / (4 * jnp.pi)), 12)  # (E u Phi(u))^2
    (0.079577471546, 0.079577471546)
    """
    return from_kernels(_gelu_kernels)(a, b, c, determinant)


DUALS: dict[str, DualActivation] = {
    "linear": linear_dual,
    "relu": relu_dual,
    "abs": abs_dual,
    "square": square_dual,
    "erf": erf_dual(),
    "scaled_erf": erf_dual(math.sqrt(0.5)),
    "gelu": gelu_dual,
    "tanh": hermite_dual(jnp.tanh, terms=160, odd=True),
    "sigmoid": hermite_dual(jax.nn.sigmoid, terms=80, odd=True),
}


def as_dual(activation: str | Callable[..., Dual]) -> DualActivation:
    """The dual of that name, or the function itself. Raises ``ValueError`` for unknown names.

    >>> as_dual("relu") is relu_dual
    True
    """
    if callable(activation):
        return activation
    if activation not in DUALS:
        names = ", ".join(DUALS)
        raise ValueError(f"activation must be a dual or one of {names}, got {activation!r}")
    return DUALS[activation]


def _kinked(moments: Moments, slope: ArrayLike) -> Dual:
    """Dual of p u + r |u|, by the folded angle: that of (u, v) or of (u, -v), at most pi/2.

    With the tangent t of half of it, in [0, 1], everything is a sum of terms of one sign, hence
    relative precision at both ends:

        sin = 2 t/(1 + t^2),    1 - cos = t sin,    1 + cos = 2/(1 + t^2),    angle = 2 atan t,
        E|uv| = |c| + (2/pi) s (sin - angle cos),       sin - angle cos = t^2 sin (m + atan(t)/t),

    m = (1 - atan(t)/t)/t^2, a polynomial: on CPUs, XLA calls atan2 for one number after the other,
    for more than half of the time of a kernel.
    """
    a, b, c, q = moments
    slope = jnp.asarray(slope, c.dtype)
    p2, r2 = (1 + slope) ** 2 / 4, (1 - slope) ** 2 / 4
    root_a, root_b = safe_sqrt(a), safe_sqrt(b)
    s, some = root_a * root_b, (a > 0) & (b > 0)
    inverse = 1 / jnp.where(a > 0, root_a, 1) * (1 / jnp.where(b > 0, root_b, 1))
    obtuse = c < 0
    sign = jnp.where(obtuse, -1, 1).astype(c.dtype)
    cos = jnp.where(some, sign * c * inverse, 1)
    t = safe_sqrt(q) * inverse / (1 + cos)
    t2 = t * t
    missing = _missing_arc(t2)
    arc = 1 - t2 * missing
    excess = 2 / math.pi * t * (missing + arc)  # (2/pi) (sin - angle cos) / (1 - cos)
    opening = 2 / (1 + t2)
    kernel = (p2 + r2 * sign) * c + r2 * s * opening * t2 * excess
    derivative = (p2 + r2 * sign) - r2 * sign * (4 / math.pi) * t * arc
    below = p2 * jnp.where(obtuse, 1, t2) + r2 * t2 * (1 - excess)
    above = p2 * jnp.where(obtuse, t2, 1) + r2 * (1 + t2 * excess)
    size, norm = s * opening, p2 + r2
    return Dual(Moments(norm * a, norm * b, kernel, size * size * below * above), derivative)


def _missing_arc(square: Array) -> Array:
    """``(1 - atan(t)/t)/t^2`` of t^2 in [0, 1], to rounding."""
    complement, total = 1 - square, jnp.zeros_like(square)
    for coefficient in _coefficients(19 if square.dtype.itemsize > 4 else 9)[::-1]:
        total = coefficient + complement * total
    return total


@functools.cache
def _coefficients(terms: int) -> tuple[float, ...]:
    """Of powers of z = 1 - t^2 in ``int_0^1 y^2/(1 + t^2 y^2) dy``.

    Exact at z = 0, a right angle; its difference quotient is interpolated.
    """
    x, weights = np.polynomial.legendre.leggauss(40)
    y2 = ((1 + x) / 2) ** 2

    def quotient(z: np.ndarray) -> np.ndarray:
        return y2**2 / ((1 + y2) * (1 + (1 - z[:, None]) * y2)) @ weights / 2

    found = Chebyshev.interpolate(quotient, terms - 2, domain=[0, 1])
    powers = found.convert(kind=Polynomial, domain=[0, 1], window=[0, 1]).coef
    return (1 - math.pi / 4, *map(float, powers))
