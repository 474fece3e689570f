"""Mode strengths and crossing times against what they are by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.losses import half_squared_error
from dynamics.representation import first_crossing, mode_strengths


@given(st.integers(0, 2**32 - 1))
def test_mode_strengths_recover_the_singular_values_of_a_built_map(seed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in (5, 4))
    strengths = rng.standard_normal(3)
    found = mode_strengths(left @ np.diag(strengths) @ right.T, left, right)
    np.testing.assert_allclose(found, strengths, atol=1e-14)


def test_mode_strengths_see_only_the_diagonal():
    """A map that moves mode 1 into mode 2 has no strength in either."""
    assert mode_strengths(jnp.array([[0.0, 7.0], [0.0, 0.0]]), jnp.eye(2), jnp.eye(2)).sum() == 0


@given(st.floats(0.05, 0.95), st.floats(0.1, 5.0))
def test_crossing_of_a_straight_line_is_exact(level, slope):
    times = np.linspace(0, 10, 7)
    found = first_crossing(times, (slope * times)[:, None], level)
    np.testing.assert_allclose(found, [level / slope], rtol=1e-12)


def test_crossing_of_a_sigmoid_converges_quadratically_with_the_spacing():
    """Linear interpolation errs by h^2/8 u''/u' at most; at a third of the height u'' is not 0."""
    errors = []
    for records in (40, 80, 160, 320):
        times = np.linspace(0, 20, records + 1)
        curve = 1 / (1 + np.exp(7.3 - times))
        errors.append(abs(float(first_crossing(times, curve[:, None], 1 / 3)[0]) - 7.3 + np.log(2)))
    assert max(errors[2:]) < max(errors[:2]) / 4
    assert errors[-1] < (20 / 320) ** 2 / 8


def test_first_crossing_of_curves_that_never_get_there_or_start_above():
    times = np.array([0.0, 1.0, 2.0])
    values = np.array([[0.0, 5.0, np.nan], [0.5, 6.0, np.nan], [0.9, 4.0, np.nan]])
    assert first_crossing(times, values, 1.0).tolist() == [np.inf, 0.0, np.inf]


def test_first_crossing_takes_the_first_of_several_and_maps_over_seeds():
    values = np.array([[0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 2.0]])[:, :, None]
    assert first_crossing(np.arange(4.0), values, np.array([1.0])).tolist() == [[0.5], [2.5]]
    batched = jax.jit(jax.vmap(lambda v: first_crossing(np.arange(4.0), v, 1.0)))(values)
    assert batched.tolist() == [[0.5], [2.5]]


def test_half_squared_error_against_loops():
    rng = np.random.default_rng(0)
    w, x, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    total = sum(0.5 * (w @ x[i] - y[i])[o] ** 2 for i in range(5) for o in range(2))
    for examples, expected in (("sum", total), ("mean", total / 5)):
        loss = half_squared_error(lambda w, x: x @ w.T, examples=examples)
        np.testing.assert_allclose(loss(w, (x, y)), expected, rtol=1e-14)
    with pytest.raises(ValueError, match="examples"):
        half_squared_error(lambda w, x: x, examples="all")
    loss = half_squared_error(lambda w, x: x @ w.T, examples="mean")
    with pytest.raises(ValueError, match="y must have"):
        loss(w, (x, y[:, 0]))
