"""The integral that times a mode of linear BYOL on its invariant parabola.

With the scaled inverse ``v = tau / (k p)`` of the predictor's eigenvalue, ``h = eta k / tau^2`` and
time in units of ``k / tau^2``, the parabola of Tian, Chen & Ganguli (2021, arXiv:2102.06810) has

    dv/dt = q / v,    q = 1 - v + h v^2 = (1 - a v) (1 - b v),    a + b = 1,  a b = h,

so that ``t = integral v dv / q``: two logarithms for h < 1/4, a logarithm and an arctan beyond.
Each form cancels in the other's domain; what stands here is free of that for any h >= 0. Nothing
is checked: the ends are of one sign, with no zero of q between them.
"""

import jax.numpy as jnp
from jax import Array

SERIES_TERMS = 10  # of functions used below 1e-2, where 1e-2^10 is below float64 rounding
WEAK = 0.125  # half of the h at which the equilibria meet


def time_between(v0: Array, v: Array, h: Array) -> Array:
    """``integral from v0 to v of x dx / (1 - x + h x^2)``."""
    weak = h < WEAK
    gentle = _weak_decay(v, v0, jnp.where(weak, h, 0))
    return jnp.where(weak, gentle, _strong_decay(v, v0, jnp.where(weak, WEAK, h)))


def _weak_decay(v, v0, h):
    """``[I(b) - I(a)] / (b - a)`` with ``I(c) = integral dv / (1 - c v)``; a = 0 at h = 0."""
    root = jnp.sqrt(1 - 4 * h)
    b = (1 + root) / 2

    def integral(c):
        z = (v0 - v) / (1 - c * v0)
        return -z * _log1p_ratio(jnp.maximum(c * z, -1 + jnp.finfo(z.dtype).eps))

    return (integral(b) - integral(h / b)) / root


def _strong_decay(v, v0, h):
    """``[ln(q/q0) + integral dv / q] / 2h``, regular where the equilibria meet and beyond.

    ``4 h q = y^2 - d`` with ``y = 2 h v - 1``, ``d = 1 - 4h``, so the integral is one of
    ``2 dy / (y^2 - d)``: an artanh for d > 0, an arctan for d < 0, and a series in d between them.
    """
    y, y0, d = 2 * h * v - 1, 2 * h * v0 - 1, 1 - 4 * h
    step, across = y - y0, y * y0 - d
    start, end = jnp.abs(y0**2 - d), jnp.abs(y**2 - d)
    start, end = (jnp.maximum(x, jnp.finfo(x.dtype).tiny) for x in (start, end))
    change = jnp.sign(y0**2 - d) * step * (y + y0) / start
    near = jnp.abs(change) < 0.5
    log_part = jnp.where(near, jnp.log1p(jnp.where(near, change, 0)), jnp.log(end / start))
    regular = (across > 0) | (d > 0)
    ratio = step / jnp.where(across == 0, 1, across)
    w = d * ratio**2
    small = regular & (jnp.abs(w) < 1e-2)
    series = ratio * _power_series(jnp.where(small, w, 0), lambda n: 1 / (2 * n + 1))
    rho = safe_sqrt(jnp.abs(d)) + (d == 0)
    limit = 1 - jnp.finfo(w.dtype).eps
    above = jnp.arctanh(jnp.clip(jnp.where(small | (d <= 0), 0, rho * ratio), -limit, limit)) / rho
    arctan = ~small & (d < 0)
    below = jnp.arctan2(jnp.where(arctan, rho * step, 0), jnp.where(arctan, across, 1)) / rho
    return (log_part + 2 * jnp.where(small, series, jnp.where(d > 0, above, below))) / (2 * h)


def _log1p_ratio(z):
    """``log1p(z) / z``, 1 at z = 0."""
    small = jnp.abs(z) < 1e-2
    far = jnp.where(small, 1, z)
    series = _power_series(jnp.where(small, z, 0), lambda n: (-1) ** n / (n + 1))
    return jnp.where(small, series, jnp.log1p(far) / far)


def _power_series(z, coefficient):
    total = jnp.zeros_like(z)
    for n in reversed(range(SERIES_TERMS)):
        total = total * z + coefficient(n)
    return total


def safe_sqrt(x):
    """Square root where x > 0, else 0, with derivative 0 there."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
