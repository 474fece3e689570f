"""Delayed generalisation in numbers: when training and test curves fall, and how far apart.

    crossing_time     when a curve falls through a level for good; censored if it does not
    log_area          int d(ln t) [g_train - g_test], the mean over levels of ln(t_test / t_train)
    curve_statistics  both, at several levels, with what else a pair of curves tells

Curves are losses, or errors 1 - accuracy (report both: they need not agree), sampled at times
``t > 0``. Levels are relative to the first value of each curve. Everything is interpolated linearly
in ``(ln t, ln loss)``. Spikes: smooth by ``running_median`` first, the last crossing is robust to
single ones only then.

With ``g(v) = ln(v / v_0) / ln(floor)`` clipped to [0, 1], the log-area needs no level. For a test
curve that is the training curve c times later it is exactly ln c, if both fall below the floor
within the window. It does not change with the unit of time or of the loss. It is too small if the
test curve ends above its floor: ``CurveStatistics.saturated`` says whether it did not.

No numbers are made up: what did not happen within the window has time inf and a flag.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

LEVELS = (0.5, 0.2, 0.1, 0.05, 0.01)


class Crossing(NamedTuple):
    """When a curve fell below a level for good.

    ``time`` is inf where ``censored`` (above the level at the end), and the first time of the
    window where ``already_below``: the true time is then earlier.
    """

    time: Float[Array, "..."]
    censored: Bool[Array, "..."]
    already_below: Bool[Array, "..."]


class CurveStatistics(NamedTuple):
    """Delay of a test curve behind a training curve.

    ``train``, ``test``: crossings at each level (levels,). ``log_delay``: ``ln(t_test / t_train)``
    at each level, nan where either crossing is censored or before the window; ``median_log_delay``
    over the ``uncensored`` others (nan if there are none). ``log_area`` with its flag
    ``saturated``: both curves end below the floor. ``test_peak``: largest test value over the
    first, what memorising costs. ``transition_width``: ``ln(t_10% / t_90%)`` of the test curve.
    """

    levels: Float[Array, " levels"]
    train: Crossing
    test: Crossing
    log_delay: Float[Array, " levels"]
    median_log_delay: Float[Array, ""]
    uncensored: Int[Array, ""]
    log_area: Float[Array, ""]
    saturated: Bool[Array, ""]
    test_peak: Float[Array, ""]
    transition_width: Float[Array, ""]
    final_train: Float[Array, ""]
    final_test: Float[Array, ""]


def crossing_time(
    times: Float[ArrayLike, " T"], values: Float[ArrayLike, " T"], level: Float[ArrayLike, "..."]
) -> Crossing:
    """Time of the last downward crossing of ``level``, after which the curve stays at or below it.

    One crossing per level, in the shape of ``level``. A nan value counts as above. Raises
    ``ValueError`` for fewer than two times, times that do not increase from above zero, negative
    values, levels that are not positive.

    >>> found = crossing_time(jnp.array([1.0, 10.0, 100.0]), jnp.array([1.0, 1.0, 0.01]), 0.1)
    >>> round(float(found.time), 6), bool(found.censored)
    (31.622777, False)
    """
    times, values = _curve(times, values)
    level = jnp.asarray(level, values.dtype)
    if not isinstance(level, Tracer) and not bool(jnp.all(level > 0)):
        raise ValueError(f"level must be positive, got {level}")
    found = jax.vmap(lambda one: _last_crossing(times, values, one))(level.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(level.shape), found)


def _last_crossing(times: Array, values: Array, level: Array) -> Crossing:
    above = ~(values <= level)
    last = len(values) - 1 - jnp.argmax(above[::-1])
    start = jnp.minimum(last, len(values) - 2)
    logs = _log(jnp.stack([values[start], values[start + 1], level]))
    share = (logs[0] - logs[2]) / jnp.where(logs[0] > logs[1], logs[0] - logs[1], 1.0)
    ends = jnp.log(times[start]), jnp.log(times[start + 1])
    inside = jnp.exp(ends[0] + share * (ends[1] - ends[0]))
    censored, below = above[-1], ~jnp.any(above)
    time = jnp.where(below, times[0], jnp.where(censored, jnp.inf, inside))
    return Crossing(time, censored, below)


def log_area(
    times: Float[ArrayLike, " T"],
    train: Float[ArrayLike, " T"],
    test: Float[ArrayLike, " T"],
    *,
    floor: float = 1e-2,
) -> Float[Array, ""]:
    """Area between the two curves over the logarithm of time, each on a logarithmic scale.

    ``int d(ln t) [g_train - g_test]``, g = 0 at a curve's first value and 1 from ``floor`` times
    that value down: the mean over log-levels of ``ln(t_test / t_train)``. By the trapezoidal rule:
    sample densely in ln t. Raises ``ValueError`` as ``crossing_time`` and for a floor outside
    (0, 1).

    >>> t = jnp.geomspace(1e-4, 1e4, 2001)
    >>> round(float(jnp.exp(log_area(t, jnp.exp(-t / 10), jnp.exp(-t / 300)))), 2)
    30.0
    """
    if not 0 < floor < 1:
        raise ValueError(f"floor must be between 0 and 1, got {floor}")
    times, train = _curve(times, train)
    times, test = _curve(times, test)
    return jnp.trapezoid(_fallen(train, floor) - _fallen(test, floor), jnp.log(times))


def _fallen(values: Array, floor: float) -> Array:
    """0 at the first value, 1 from ``floor`` times it down."""
    return jnp.clip((_log(values) - _log(values[0])) / np.log(floor), 0.0, 1.0)


def running_median(values: Float[ArrayLike, " T"], window: int) -> Float[Array, " T"]:
    """Median over ``window`` neighbouring samples, an odd number; the ends are repeated.

    >>> running_median(jnp.array([1.0, 1.0, 9.0, 1.0, 1.0]), 3).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    values = jnp.asarray(values)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and at least 1, got {window}")
    padded = jnp.pad(values, window // 2, mode="edge")
    shifts = jnp.stack([padded[i : i + len(values)] for i in range(window)])
    return jnp.median(shifts, axis=0)


def curve_statistics(
    times: Float[ArrayLike, " T"],
    train: Float[ArrayLike, " T"],
    test: Float[ArrayLike, " T"],
    *,
    levels: Sequence[float] = LEVELS,
    floor: float = 1e-2,
    window: int = 1,
) -> CurveStatistics:
    """Everything a training and a test curve say about delayed generalisation.

    Crossings at ``levels`` relative to each curve's first value, after a running median over
    ``window`` samples; no single level decides. Pure, for ``jit`` and ``vmap`` over runs. Raises
    ``ValueError`` as its parts do.

    >>> t = jnp.geomspace(1e-4, 1e4, 2001)
    >>> found = curve_statistics(t, 1 / (1 + t), 1 / (1 + t / 200))
    >>> round(float(jnp.exp(found.median_log_delay)), 1), int(found.uncensored)
    (200.0, 4)
    """
    curves = [running_median(curve, window) for curve in (train, test)]
    relative = jnp.asarray(levels, curves[0].dtype)
    fits, generalises = (crossing_time(times, curve, relative * curve[0]) for curve in curves)
    ok = ~(fits.censored | generalises.censored | fits.already_below | generalises.already_below)
    delays = jnp.where(ok, jnp.log(generalises.time / jnp.where(ok, fits.time, 1.0)), jnp.nan)
    tenths = crossing_time(times, curves[1], jnp.array([0.1, 0.9]) * curves[1][0]).time
    return CurveStatistics(
        levels=relative,
        train=fits,
        test=generalises,
        log_delay=delays,
        median_log_delay=jnp.nanmedian(delays),
        uncensored=jnp.sum(ok),
        log_area=log_area(times, *curves, floor=floor),
        saturated=(curves[0][-1] <= floor * curves[0][0]) & (curves[1][-1] <= floor * curves[1][0]),
        test_peak=jnp.max(curves[1]) / curves[1][0],
        transition_width=jnp.log(tenths[0] / tenths[1]),
        final_train=curves[0][-1],
        final_test=curves[1][-1],
    )


def _curve(times: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    """Both as arrays of one floating dtype, checked where they are known."""
    times, values = jnp.asarray(times), jnp.asarray(values)
    if times.shape != values.shape or times.ndim != 1 or len(times) < 2:
        raise ValueError(
            f"times and values must be (T,) with T at least 2, got {times.shape}, {values.shape}"
        )
    if not isinstance(times, Tracer) and not (times[0] > 0 and bool(jnp.all(jnp.diff(times) > 0))):
        raise ValueError("times must be positive and increase")
    if not isinstance(values, Tracer) and bool(jnp.any(values < 0)):
        raise ValueError("values must not be negative")
    dtype = jnp.result_type(values.dtype, jnp.float32)
    return times.astype(dtype), values.astype(dtype)


def _log(values: Array) -> Array:
    """The logarithm; zero, a loss beyond its floating-point numbers, counts as the smallest."""
    return jnp.log(jnp.maximum(values, jnp.finfo(values.dtype).tiny))
