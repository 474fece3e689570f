"""Schedules: their phases, lengths and shapes."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.schedules import DECAYS, inverse_decay, wsd, wsd_s

PHASES = st.integers(0, 7)


@given(PHASES, PHASES, PHASES, st.sampled_from(sorted(DECAYS)), st.floats(0.01, 10))
def test_phases_have_their_lengths_and_directions(warmup, stable, decay, shape, peak):
    steps = warmup + stable + decay
    if steps == 0:
        return
    rates = np.asarray(wsd(peak, steps, decay, warmup_steps=warmup, decay=shape))
    assert rates.shape == (steps,)
    assert ((rates > 0) & (rates <= peak)).all()
    np.testing.assert_allclose(rates[:warmup], peak * np.arange(1, warmup + 1) / max(warmup, 1))
    np.testing.assert_array_equal(rates[warmup : warmup + stable], peak)
    assert (np.diff(rates[warmup + stable :]) < 0).all()
    assert (rates[warmup + stable :] < peak).all()


@pytest.mark.parametrize(
    ("shape", "middle"),
    [("linear", 0.5), ("sqrt", 1 - 0.5**0.5), ("cosine", 0.5), ("exponential", 0.1)],
)
def test_decays_at_half_time(shape, middle):
    assert wsd(2.0, 9, 9, decay=shape)[4] == pytest.approx(2 * middle)


@given(st.lists(st.integers(3, 9), min_size=1, max_size=4), st.integers(0, 3))
def test_wsd_s_is_one_wsd_after_another(lengths, decay):
    checkpoints = tuple(int(x) for x in np.cumsum(lengths))
    rates = np.asarray(wsd_s(0.5, checkpoints, decay))
    assert len(rates) == checkpoints[-1]
    for part in np.split(rates, checkpoints[:-1]):
        np.testing.assert_array_equal(part, wsd(0.5, len(part), decay))


@given(st.floats(0.1, 10), st.floats(0.001, 0.05), st.integers(2, 9))
def test_inverse_decay_is_linear_in_the_inverse(start, final, steps):
    rates = 1 / np.array([start, *np.asarray(inverse_decay(start, final, steps))])
    np.testing.assert_allclose(np.diff(rates), (1 / final - 1 / start) / steps, rtol=1e-9)


def test_dtype_follows_the_rate():
    assert wsd(jnp.float32(1), 5, 2, warmup_steps=1, decay="sqrt").dtype == jnp.float32
    assert inverse_decay(jnp.float32(1), jnp.float32(0.1), 5).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wsd(1.0, 3, 2, warmup_steps=2), "must be at most steps = 3, got 2 \\+ 2"),
        (lambda: wsd(1.0, 3, 1, decay="steep"), "decay must be one of linear, sqrt.*'steep'"),
        (lambda: wsd(0.0, 3, 1), "peak must be positive"),
        (lambda: wsd(1.0, 3, -1), "decay_steps must be an integer >= 0"),
        (lambda: wsd_s(1.0, (), 1), "checkpoints must be one or more"),
        (lambda: wsd_s(1.0, (3, 4), 2), "checkpoints must be at least decay_steps = 2 apart"),
        (lambda: inverse_decay(1.0, 0.0, 3), "final must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
