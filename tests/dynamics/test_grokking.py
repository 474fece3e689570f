"""Statistics of curve pairs: closed forms of shifted and scaled curves, invariances, censoring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.grokking import crossing_time, curve_statistics, log_area, running_median

TIMES = np.geomspace(1e-3, 1e7, 4001)
STEP = np.log(TIMES[1] / TIMES[0])
delays = st.floats(1.5, 1e3)
exponents = st.floats(0.5, 2.0)


def power(t, scale, exponent):
    return (1 + t / scale) ** -exponent


@given(delays, exponents, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_curve_that_comes_c_times_later_has_log_area_and_delays_ln_c(c, exponent, unit, loss):
    """Exact for the area but at its kinks, where the trapezoidal rule errs by O(step)^2."""
    train, test = (loss * power(TIMES, scale, exponent) for scale in (1.0, c))
    found = curve_statistics(unit * TIMES, train, test, levels=(0.5, 0.1), floor=1e-2)
    assert bool(found.saturated)
    # the curves start 1e-3 and 1e-3 / c below their limit at t -> 0
    start = 2 * exponent * 1e-3 / abs(np.log(1e-2)) * np.log(1e10)
    assert float(found.log_area) == pytest.approx(np.log(c), abs=start + STEP)
    np.testing.assert_allclose(found.log_delay, np.log(c), atol=1e-2)
    assert int(found.uncensored) == 2
    assert found.test_peak == 1


@given(delays, exponents)
def test_swapping_the_curves_flips_the_area(c, exponent):
    train, test = power(TIMES, 1.0, exponent), power(TIMES, c, 1.0)
    forth, back = log_area(TIMES, train, test), log_area(TIMES, test, train)
    assert float(forth) == pytest.approx(-float(back), abs=1e-12)


@given(st.floats(1e-3, 0.9), st.floats(1e-3, 0.9), exponents)
def test_lower_levels_are_crossed_later_and_where_the_curve_says(a, b, exponent):
    values = power(TIMES, 1.0, exponent)
    found = crossing_time(TIMES, values, np.array([a, b]))
    times = np.asarray(found.time)
    assert (times[0] <= times[1]) == (a >= b) or times[0] == times[1]
    exact = np.array([a, b]) ** (-1 / exponent) - 1
    inside = ~np.asarray(found.already_below)
    # linear in logarithms: off by the curvature over one step, relative to the slope
    slope = exponent * exact / (1 + exact)
    allowed = STEP**2 / np.minimum(slope, 1) + 1e-9
    assert (np.abs(np.log(times / exact))[inside] <= allowed[inside]).all()


@given(st.integers(0, 2**32 - 1))
def test_the_last_crossing_counts(seed):
    """Against a search in plain Python, on rough curves."""
    values = np.random.default_rng(seed).uniform(0.1, 1.0, 12)
    times = np.arange(1.0, 13.0)
    found = crossing_time(times, values, 0.5)
    above = [i for i, v in enumerate(values) if v > 0.5]
    if not above:
        assert bool(found.already_below)
        assert found.time == 1.0
    elif above[-1] == 11:
        assert bool(found.censored)
        assert found.time == np.inf
    else:
        i = above[-1]
        assert i + 1 <= found.time <= i + 2


def test_what_never_happened_is_not_made_up():
    t = np.geomspace(1.0, 100.0, 50)
    found = curve_statistics(t, 1 / t, np.full(50, 2.0))
    assert np.isinf(found.test.time).all()
    assert np.asarray(found.test.censored).all()
    assert np.isnan(found.log_delay).all()
    assert np.isnan(found.median_log_delay)
    assert int(found.uncensored) == 0
    assert not bool(found.saturated)
    assert np.isnan(found.transition_width) or np.isinf(found.transition_width)


def test_a_loss_of_zero_and_one_of_nan():
    t = np.array([1.0, 2.0, 3.0])
    gone = crossing_time(t, np.array([1.0, 0.5, 0.0]), 0.1)
    assert 2 < float(gone.time) < 3
    lost = crossing_time(t, np.array([1.0, 0.01, np.nan]), 0.1)
    assert bool(lost.censored)


def test_spikes_are_smoothed_away_and_the_peak_is_that_of_the_test_curve():
    t = np.geomspace(1.0, 1e4, 200)
    test = power(t, 10.0, 1.0)
    spiked = test.copy()
    spiked[150] = 3.0
    rough, smooth = (curve_statistics(t, test, spiked, window=w) for w in (1, 3))
    assert float(rough.test_peak) == pytest.approx(3.0 / test[0])
    assert float(smooth.test_peak) == pytest.approx(1.0)
    assert float(rough.test.time[0]) > 50 * float(smooth.test.time[0])
    np.testing.assert_allclose(
        running_median(jnp.asarray(spiked), 3)[2:-2],
        np.median([spiked[1:-3], spiked[2:-2], spiked[3:-1]], axis=0),
    )


def test_statistics_of_many_runs_at_once():
    runs = np.stack([power(TIMES, c, 1.0) for c in (10.0, 100.0)])
    train = np.broadcast_to(power(TIMES, 1.0, 1.0), runs.shape)
    found = jax.jit(jax.vmap(lambda a, b: curve_statistics(TIMES, a, b)))(train, runs)
    np.testing.assert_allclose(found.median_log_delay, np.log([10.0, 100.0]), atol=1e-2)


@pytest.mark.parametrize(
    ("times", "values", "level", "message"),
    [
        ([1.0], [1.0], 0.5, "T at least 2"),
        ([0.0, 1.0], [1.0, 0.1], 0.5, "positive and increase"),
        ([1.0, 2.0], [1.0, -0.1], 0.5, "negative"),
        ([1.0, 2.0], [1.0, 0.1], 0.0, "level"),
    ],
)
def test_bad_curves_are_refused(times, values, level, message):
    with pytest.raises(ValueError, match=message):
        crossing_time(jnp.array(times), jnp.array(values), level)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="floor"):
        log_area(TIMES, TIMES, TIMES, floor=1.0)
    with pytest.raises(ValueError, match="window"):
        running_median(TIMES, 2)
