"""Mode strengths and crossing times against what they are by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.losses import half_squared_error
from dynamics.models import deep_linear
from dynamics.representation import (
    balance_matrices,
    effective_rank,
    first_crossing,
    mode_strengths,
)


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


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.integers(1, 4))
def test_effective_rank_counts_equal_singular_values_at_any_scale(seed, scale, rank):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, 4)))[0] for n in (6, 5))
    flat = scale * left[:, :rank] @ right[:, :rank].T
    # Rounding leaves singular values x ~ eps, each of which adds x ln(1/x) to the entropy.
    np.testing.assert_allclose(effective_rank(flat), rank, rtol=1e-12)
    general = left @ np.diag(rng.uniform(0.1, 1, 4)) @ right.T
    assert 1 < effective_rank(general) < 4
    np.testing.assert_allclose(effective_rank(scale * general), effective_rank(general), rtol=1e-12)


@given(st.integers(0, 2**31 - 1))
def test_balance_matrices_feel_gradient_descent_at_second_order_only(seed):
    """Exact one-step change of hidden layer 1: eta^2 times squares of the layers' gradients."""
    model = deep_linear((3, 4, 4, 2))
    params = model.init(jax.random.key(seed))
    x, y = np.random.default_rng(seed).standard_normal((2, 5, 3))
    loss = half_squared_error(model.apply, examples="mean")
    grads = jax.grad(loss)(params, (x, y[:, :2]))
    before = balance_matrices(params)
    assert [b.shape for b in before] == [(4, 4), (4, 4)]
    after = balance_matrices(tuple(w - 0.01 * g for w, g in zip(params, grads, strict=True)))
    for layer in range(2):
        low, high = grads[layer], grads[layer + 1]
        exact = 1e-4 * (high.T @ high - low @ low.T)
        scale = max(float(jnp.sum(w**2)) for w in params)
        np.testing.assert_allclose(after[layer] - before[layer], exact, atol=1e-14 * scale)
