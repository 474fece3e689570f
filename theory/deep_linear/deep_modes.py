"""One mode of a deep linear network of any depth: velocity, time and strength.

A balanced, aligned network of L weight matrices follows, mode by mode (Saxe, McClelland & Ganguli
2014, arXiv:1312.6120),

    tau du/dt = L u^p (s - u),    p = 2 - 2/L.

Conventions: loss ``1/2 (s - u)^2`` per mode; ``s`` is the singular value of the input-output
correlation of whitened inputs, and whether that is a sum or a mean over examples is the caller's
choice and sets the unit of ``tau``. Gradient descent with learning rate ``eta`` has ``tau = 1`` and
``t = eta * step``. ``depth = inf`` means the limit of many layers with ``tau`` counted per layer
(``tau`` stands for ``tau / L``): ``tau du/dt = u^2 (s - u)``. All arguments broadcast.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from theory.arguments import (
    as_floats,
    keep_between,
    require_finite,
    require_nonnegative,
    require_positive,
    require_reached,
)
from theory.checks import is_concrete, require, require_depth
from theory.deep_linear.depth_integral import Depth, log_decay, power, work_between


def deep_mode_velocity(
    u: ArrayLike, s: ArrayLike, depth: Depth, weight_decay: ArrayLike = 0.0, tau: ArrayLike = 1.0
) -> Array:
    """Velocity ``du/dt`` of a balanced mode, with L2 weight decay on every layer.

    ``du/dt = (L |u|^(2 - 2/L) (s - u) - L weight_decay u) / tau``, from the loss
    ``1/2 (s - u)^2 + weight_decay/2 sum_l w_l^2``. At infinite depth without the factor L.
    Any real ``u``; ``s >= 0`` (0 is a spurious mode). Raises ``ValueError`` for a bad depth,
    negative ``s`` or ``weight_decay``, non-positive ``tau``, NaN.
    Source: Saxe et al. 2014, arXiv:1312.6120; Arora, Cohen & Hazan 2018, arXiv:1802.06509.

    >>> float(deep_mode_velocity(0.25, 1.0, depth=4))
    0.375
    """
    require_depth(depth, infinite=True)
    require_finite(u=u)
    require_nonnegative(s=s, weight_decay=weight_decay)
    require_positive(tau=tau)
    u, s, weight_decay, tau = as_floats(u, s, weight_decay, tau)
    gain = 1.0 if depth == 1 else jnp.abs(u) ** power(depth)
    return _layers(depth) * (gain * (s - u) - weight_decay * u) / tau


def deep_mode_time(
    u: ArrayLike, s: ArrayLike, u0: ArrayLike, depth: Depth, tau: ArrayLike = 1.0
) -> Array:
    """Time at which a balanced mode that starts at ``u0`` reaches ``u``.

    ``t = (tau / L) integral from u0 to u of dv / (v^(2-2/L) (s - v))``. ``u`` lies between ``u0``
    and ``s``, either side of ``s``; ``u = s`` takes for ever and gives ``inf``. ``u0 > 0`` from
    depth 3 on; at depth 2 a negative mode only ever decays towards 0. Exact to a few roundings,
    also next to ``u0`` and next to ``s``.
    Raises ``ValueError`` for a bad depth, ``s`` or ``tau`` not positive, ``u`` out of reach, NaN.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> round(float(deep_mode_time(0.5, 1.0, 0.01, depth=2)), 4)  # ln(99) / 2
    2.2976
    >>> round(float(deep_mode_time(0.5, 1.0, 0.01, depth=float("inf"))), 3)  # ln(99) + 98
    102.595
    """
    require_depth(depth, infinite=True)
    require_positive(s=s, tau=tau)
    _require_start(u0, depth)
    require_reached(u, s, u0, saddle=depth == 2)
    u, s, u0, tau = as_floats(u, s, u0, tau)
    return _time(u, s, u0, tau, depth=depth)


def deep_mode_strength(
    t: ArrayLike, s: ArrayLike, u0: ArrayLike, depth: Depth, tau: ArrayLike = 1.0
) -> Array:
    """Strength ``u(t)`` of a balanced mode of a depth-L linear network.

    The inverse of ``deep_mode_time``: closed form at depths 1 and 2, a fixed number of Newton steps
    beyond. ``u0 > 0`` on either side of ``s`` from depth 3 on, any sign below. Differentiable in
    ``t, s, u0, tau`` (by the differential equation, not through the iteration). The result has the
    accuracy the problem has: a relative rounding of ``t`` or ``u0`` moves u by the fraction
    ``t u'/u`` of it, up to ``(s/u0)^(1-2/L)`` during the escape from a small start.
    Raises ``ValueError`` for a bad depth, negative ``t``, non-positive ``s`` or ``tau``,
    ``u0 <= 0`` at depth 3 or more, NaN.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> round(float(deep_mode_strength(2.2976, 1.0, 0.01, depth=2)), 4)
    0.5
    >>> [round(float(deep_mode_strength(t, 2.0, 0.1, depth=3)), 3) for t in (0.0, 0.5, 5.0)]
    [0.1, 0.486, 2.0]
    """
    require_depth(depth, infinite=True)
    require_nonnegative(t=t)
    require_positive(s=s, tau=tau)
    _require_start(u0, depth)
    t, s, u0, tau = as_floats(t, s, u0, tau)
    return _strength(t, s, u0, tau, depth=depth)


def unlearning_mode_strength(
    t: ArrayLike, u0: ArrayLike, depth: Depth, tau: ArrayLike = 1.0
) -> Array:
    """Strength of a spurious mode (``s = 0``), which the data ask to forget.

    ``u = u0 (1 + (2L - 2) |u0|^p t/tau)^(-1/p)``, ``p = 2 - 2/L``: algebraic from depth 2 on;
    ``u0 e^(-t/tau)`` at depth 1. Odd in ``u0``. Raises ``ValueError`` for a bad depth, negative
    ``t``, non-positive ``tau``, NaN. Derived from the mode equation of Saxe et al. 2014,
    arXiv:1312.6120.

    >>> float(unlearning_mode_strength(1.5, 1.0, depth=2))
    0.25
    """
    require_depth(depth, infinite=True)
    require_nonnegative(t=t)
    require_positive(tau=tau)
    require_finite(u0=u0)
    t, u0, tau = as_floats(t, u0, tau)
    if depth == 1:
        return u0 * jnp.exp(-t / tau)
    p = power(depth)
    return u0 * jnp.exp(-jnp.log1p(_layers(depth) * p * jnp.abs(u0) ** p * (t / tau)) / p)


def half_learning_time(s: ArrayLike, u0: ArrayLike, depth: Depth, tau: ArrayLike = 1.0) -> Array:
    """Time at which a mode reaches half its target, ``u = s/2``.

    ``(tau / 2s) ln((s - u0) / u0)`` at depth 2, ``deep_mode_time(s/2, s, u0, depth, tau)`` in
    general. Needs ``u0 <= s/2``, and ``u0 > 0`` from depth 2 on; raises ``ValueError`` otherwise.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> round(float(half_learning_time(2.0, 0.02, depth=2)), 4)  # ln(99) / 4
    1.1488
    """
    require_depth(depth, infinite=True)
    require_positive(s=s, tau=tau)
    if depth != 1:
        require_positive(u0=u0)
    half = 0.5 * jnp.asarray(s)
    if is_concrete(s, u0):
        start, limit = np.broadcast_arrays(u0, half)
        require("u0", start, lambda start: start <= limit, "at most s/2, not yet half learned")
    return deep_mode_time(half, s, u0, depth, tau)


def escape_time_small_init(
    s: ArrayLike, u0: ArrayLike, depth: Depth, tau: ArrayLike = 1.0
) -> Array:
    """Leading-order time to leave the saddle at zero from a small start, ``u0 << s``.

    ``(tau / 2s) ln((s - u0) / u0)`` at depth 2, ``tau u0^(2/L - 1) / ((L - 2) s)`` beyond, whatever
    the end point: relative error of order ``(u0/s)^(1-2/L)`` (times ``ln(s/u0)`` at depth inf).
    Raises ``ValueError`` unless ``0 < u0 < s``, ``tau > 0`` and ``depth >= 2`` (there is no saddle
    at depth 1). Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> round(float(escape_time_small_init(1.0, 1e-4, depth=4)), 3)
    50.0
    """
    require_depth(depth, infinite=True)
    require("depth", depth, lambda depth: depth >= 2, "at least 2 (depth 1 has no saddle at zero)")
    require_positive(s=s, u0=u0, tau=tau)
    if is_concrete(s, u0):
        start, target = np.broadcast_arrays(u0, s)
        require("u0", start, lambda start: start < target, "below the target s")
    s, u0, tau = as_floats(s, u0, tau)
    if depth == 2:
        return tau / (2 * s) * jnp.log((s - u0) / u0)
    exponent = power(depth) - 1
    return tau * u0**-exponent / (exponent * _layers(depth) * s)


def steps_to_learn(w0: ArrayLike, wf: ArrayLike, depth: Depth, safety: ArrayLike = 1.0) -> Array:
    """Gradient-descent steps that take one mode from ``u = w0 s`` to ``wf s``.

    ``n = (1/safety) integral from w0 to wf of dw / (w^(2-2/L) (1 - w))`` at the learning rate
    ``safety / (L s^(2-2/L))``, ``safety/2`` of the critical one. Exact to first order in
    ``safety``. Bounded as depth grows, although ``n(inf) ~ 1/w0`` while ``n(2) ~ ln(1/w0)``.
    Raises ``ValueError`` unless ``0 < w0 <= wf < 1`` and ``0 < safety < 2`` (at 2 it diverges).
    Derived from the mode equation of Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> [round(float(steps_to_learn(0.02, 0.95, L)), 2) for L in (1, 2, 3, float("inf"))]
    [2.98, 6.84, 11.61, 55.78]
    """
    require_depth(depth, infinite=True)
    require("w0", w0, lambda w0: (w0 > 0) & (w0 < 1), "between 0 and 1")
    require("wf", wf, lambda wf: (wf > 0) & (wf < 1), "between 0 and 1")
    require("safety", safety, lambda safety: (safety > 0) & (safety < 2), "between 0 and 2")
    if is_concrete(w0, wf):
        start, end = np.broadcast_arrays(w0, wf)
        require("wf", end, lambda end: end >= start, "at least w0")
    w0, wf, safety = as_floats(w0, wf, safety)
    work = _layers(depth) * _time(wf, jnp.ones_like(wf), w0, jnp.ones_like(wf), depth=depth)
    return work / safety


def critical_learning_rate(s_max: ArrayLike, depth: int | np.integer) -> Array:
    """Learning rate above which gradient descent leaves the balanced aligned minimum.

    ``2 / (L s_max^(2 - 2/L))``: two over the largest Hessian eigenvalue of the loss
    ``1/2 |Sigma - W_L ... W_1|^2``, reached along the largest singular value. Raises ``ValueError``
    for ``s_max`` not positive or a bad depth.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> float(critical_learning_rate(4.0, depth=2))
    0.25
    """
    require_depth(depth)
    require_positive(s_max=s_max)
    (s_max,) = as_floats(s_max)
    return 2 / (_layers(depth) * s_max ** power(depth))


@functools.partial(jax.jit, static_argnames="depth")
def _time(u: Array, s: Array, u0: Array, tau: Array, *, depth: Depth) -> Array:
    u = keep_between(u0, s, u)
    endless = (u == s) | ((u == 0) & (depth == 2))  # takes for ever, unless it is there already
    start, end = jnp.where(endless, s / 2, u0), jnp.where(endless, s / 2, u)
    work = work_between(start, end, s, depth)
    time = tau * work / (_layers(depth) * s ** power(depth))
    return jnp.where(endless & (u != u0), jnp.inf, time)


@functools.partial(jax.jit, static_argnames="depth")
def _strength(t: Array, s: Array, u0: Array, tau: Array, *, depth: Depth) -> Array:
    work = _layers(depth) * s ** power(depth) * (t / tau)
    if depth == 2:  # up to s from u0 > 0; down the stable manifold of the saddle at 0 otherwise
        left, gone, rising = jnp.exp(-work), -jnp.expm1(-work), u0 > 0
        scale = jnp.where(rising, left, 1) + jnp.abs(u0 / s) * gone
        return keep_between(u0, s, u0 * jnp.where(rising, 1, left) / scale)
    decay = work if depth == 1 else log_decay(work, u0 / s, depth)
    return keep_between(u0, s, u0 * jnp.exp(-decay) - s * jnp.expm1(-decay))


def _layers(depth: Depth) -> float:
    return 1.0 if depth == np.inf else float(depth)


def _require_start(u0: ArrayLike, depth: Depth) -> None:
    expected = "positive and finite for depth >= 3" if depth > 2 else "finite"
    require("u0", u0, lambda x: np.isfinite(x) & ((x > 0) | (depth <= 2)), expected)
