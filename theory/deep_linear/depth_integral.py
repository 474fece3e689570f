"""The integral that times a balanced mode of a network of depth L, and its inverse.

In units of the target, ``x = u/s``, and with the dimensionless time ``work = L s^p t / tau``,
``p = 2 - 2/L``, the mode equation of Saxe, McClelland & Ganguli (2014, arXiv:1312.6120) is
``dx/dwork = x^p (1 - x)``. In ``y = logit(z)``, with ``z = x`` below the target and ``z = 1/x``
above it,

    work = Phi(y) - Phi(y0),    dPhi/dy = (1 + e^-y)^g,    g = p - 1 below, g = -p above.

Integrating ``dPhi/dz = z^(-1-g) / (1-z)`` term by term gives series that shrink by 2 per term:

    z <= 1/2:  -z^-g / g + z^(1-g) / (1-g) + sum_{k>=2} z^(k-g) / (k-g)
    z >= 1/2:  -ln(1-z) - sum_{k>=1} (1+g)_k / (k! k) (1-z)^k + constant.

The coordinate ``r = e^(-g y)`` for y < 0, ``1 - g y`` for y > 0, straightens Phi up to a slope
``(1 + e^-|y|)^g`` between 1 and 2^g, so that Newton's method in r converges from anywhere.

The series and the inverse are for depths from 3 on and positive ``u0``. Nothing is checked here.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Weight matrices, or infinity for the limit of many.
Depth = int | np.integer | float

SERIES_TERMS = 56  # 2^-56 is below float64 rounding
NEWTON_STEPS = 7  # six reach rounding from anywhere in 1e-30 < x < 1e30


def power(depth: Depth) -> float:
    """The exponent ``p = 2 - 2/L`` of the mode equation, 2 at infinite depth."""
    return float(2 - 2 / depth)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def work_between(u0: Array, u: Array, s: Array, depth: Depth) -> Array:
    """Dimensionless time ``integral dx / (|x|^p (1 - x))`` from ``u0/s`` to ``u/s``, any depth."""
    decay = jnp.log1p((u - u0) / (s - u))  # ln((1 - x0) / (1 - x))
    if depth == 1:
        return decay
    if depth == 2:  # up to s, or from below zero up to the saddle at 0
        up = u0 > 0
        return jnp.log1p((u - u0) / (s - jnp.where(up, u, u0)) * (s / jnp.where(up, u0, -u)))
    below = u0 < s
    start, end = _coordinate(u0, s, below), _coordinate(u, s, below)
    step = decay + jnp.where(below, jnp.log1p((u - u0) / u0), 0)
    rising, falling = (
        jnp.where(step < 1, _short_integral(start, step, g), _phi(end, g) - _phi(start, g))
        for g in (power(depth) - 1, -power(depth))
    )
    return jnp.where(below, rising, falling)


@work_between.defjvp
def _work_between_jvp(depth, primals, tangents):
    (u0, u, s), (d_u0, d_u, d_s) = primals, tangents
    rate0, rate = (jnp.abs(x / s) ** -power(depth) / (s - x) for x in (u0, u))
    change = rate * (d_u - u / s * d_s) - rate0 * (d_u0 - u0 / s * d_s)
    return work_between(u0, u, s, depth), change


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_decay(work: Array, x0: Array, depth: Depth) -> Array:
    """``ln((1 - x0) / (1 - x))`` after the dimensionless time ``work``; regular at ``x0 = 1`` too.

    Its derivatives are ``x^p`` and ``((x/x0)^p - 1) / (1 - x0)``, by implicit differentiation.
    """
    below = x0 < 1
    start = _coordinate(x0, jnp.ones_like(x0), below)
    rising = _advance(work, start, power(depth) - 1)
    falling = _advance(work, start, -power(depth))
    # 1 - x is 1/(1 + e^y) below the target and -e^-y above
    return jnp.where(below, jax.nn.softplus(rising) - jax.nn.softplus(start), falling - start)


@log_decay.defjvp
def _log_decay_jvp(depth, primals, tangents):
    (work, x0), (d_work, d_x0) = primals, tangents
    p, decay = power(depth), log_decay(work, x0, depth)
    done = -jnp.expm1(-decay)
    x = x0 * jnp.exp(-decay) + done
    excess = jnp.expm1(p * jnp.log1p((1 - x0) * done / x0))  # (x/x0)^p - 1
    at_target = x0 == 1
    slope = jnp.where(at_target, p * done, excess / jnp.where(at_target, 1, 1 - x0))
    return decay, x**p * d_work + slope * d_x0


def _coordinate(u: Array, s: Array, below: Array) -> Array:
    """``logit(u/s)`` below the target, ``logit(s/u)`` above; large but finite at the target."""
    closest = s * jnp.finfo(s.dtype).eps ** 2
    return jnp.log(jnp.where(below, u, s) / jnp.maximum(jnp.abs(s - u), closest))


def _advance(work: Array, start: Array, g: float) -> Array:
    """The ``y >= start`` with ``Phi(y) - Phi(start) = work``, by Newton's method in r."""
    origin = _phi(start, g)

    def newton(_, y):
        slope = jnp.exp(g * jnp.log1p(jnp.exp(-jnp.abs(y))))
        r = jnp.where(y < 0, jnp.exp(-g * jnp.minimum(y, 0)), 1 - g * y)
        r = r + g * (_phi(y, g) - origin - work) / slope
        negative = (r - 1) * g > 0
        y = jnp.where(negative, -jnp.log(jnp.where(negative & (r > 0), r, 1)) / g, (1 - r) / g)
        return jnp.maximum(y, start)

    return jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)


def _phi(y: Array, g: float) -> Array:
    """The antiderivative of ``(1 + e^-y)^g``, up to a constant."""
    low, high, join = _series(g)
    log_z = jax.nn.log_sigmoid(jnp.minimum(y, 0))
    upper = jnp.maximum(y, 0)
    rest = jax.nn.sigmoid(-upper)  # 1 - z
    head = -jnp.exp(-g * log_z) / g + _second_term(log_z, g, jnp)
    below_half = head + jnp.exp((2 - g) * log_z) * _horner(low, jnp.exp(log_z))
    above_half = jax.nn.softplus(upper) - rest * _horner(high, rest) + join
    return jnp.where(y < 0, below_half, above_half)


def _short_integral(start: Array, step: Array, g: float) -> Array:
    """``Phi(start + step) - Phi(start)`` for steps up to 1, to the last digit however short.

    Gauss-Legendre with poles at distance pi from an interval of half-length 1/2: 13^-16.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    total = jnp.zeros_like(start)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        y = start + 0.5 * (1 + node) * step
        total = total + weight * jnp.exp(g * jax.nn.softplus(-y))
    return 0.5 * step * total


def _second_term(log_z: Any, g: float, numpy: Any) -> Any:
    """``z^(1-g) / (1-g)``, less the constant ``1/(1-g)`` for g > 0: at infinite depth ``ln z``.

    For g < 0 the whole of Phi vanishes with z, and a constant would drown it.
    """
    if g == 1:
        return log_z
    return (numpy.expm1 if g > 0 else numpy.exp)((1 - g) * log_z) / (1 - g)


@functools.cache
def _series(g: float) -> tuple[list[float], list[float], float]:
    """Coefficients upwards from ``z^(2-g)`` and from ``1 - z``; the constant that joins at 1/2."""
    k = np.arange(1, SERIES_TERMS + 1)
    low, high = 1 / (k + 1 - g), np.cumprod((g + k) / k) / k
    head = -(2**g) / g + _second_term(-np.log(2), g, np)
    from_low = head + 0.5 ** (2 - g) * np.polyval(low[::-1], 0.5)
    from_high = np.log(2) - 0.5 * np.polyval(high[::-1], 0.5)
    return low.tolist(), high.tolist(), float(from_low - from_high)


def _horner(coefficients: list[float], x: Array) -> Array:
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total
