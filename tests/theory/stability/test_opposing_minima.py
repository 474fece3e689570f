"""Minima of the opposing-signals model against autodiff, and where descent settles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.opposing_minima import (
    flattest_sharpness,
    minimum_sharpness,
    settled_sharpness,
)
from theory.stability.opposing_signals import (
    OpposingState,
    opposing_learning_rate,
    opposing_loss,
    opposing_sharpness,
    opposing_step,
)

POSITIVE = st.floats(-1, 1).map(lambda x: 10.0**x)
STRENGTHS = st.floats(-1, 1.5).map(lambda x: 10.0**x)


@jax.jit
def hessian(head, target, strength):
    """At the minimum with this head; coordinates (c, b, o)."""

    def loss(w):
        return opposing_loss(OpposingState(w[0], w[1:-1], w[-1]), target, strength)

    w = jnp.concatenate([jnp.array([head]), target / head, jnp.zeros(1)])
    return jax.grad(loss)(w), jax.hessian(loss)(w)


@given(POSITIVE, POSITIVE, STRENGTHS, st.booleans())
def test_sharpness_of_any_minimum_is_the_hessians(z, s, strength, negative):
    target = s * jnp.array([0.6, -0.8, 0.0])
    head = (-1) ** negative * np.sqrt(z)
    slope, curvature = hessian(head, target, strength)
    np.testing.assert_allclose(slope, 0, atol=1e-12 * (1 + s / z))
    found = jnp.linalg.eigvalsh(curvature)[-1]
    np.testing.assert_allclose(minimum_sharpness(z, s, strength), found, rtol=1e-10)


@given(POSITIVE, STRENGTHS)
def test_flattest_is_the_least_over_minima_and_at_most_the_balanced(s, strength):
    heads = s * np.geomspace(0.01, 10, 4001)
    least = float(jnp.min(minimum_sharpness(heads, s, strength)))
    flattest = float(flattest_sharpness(s, strength))
    assert flattest <= least * (1 + 1e-12)
    assert flattest == pytest.approx(least, rel=5e-3)  # spacing of the heads
    balanced = float(minimum_sharpness(s, s, strength))
    assert balanced == pytest.approx(float(opposing_sharpness(s, s, strength)), rel=1e-12)
    assert flattest <= balanced * (1 + 1e-12)


def test_descent_settles_as_far_below_the_edge_as_it_was_above():
    """The error, in units of the excess, is of the order of kappa times the excess."""
    strength, errors = 4.0, []
    for excess in (0.04, 0.02, 0.01):
        eta = (1 + excess) * float(opposing_learning_rate(1.0, strength))
        state = OpposingState(jnp.array(0.5), jnp.array([0.5]), jnp.array(1e-6))
        end = jax.jit(lambda state, eta=eta: jax.lax.fori_loop(0, 4000, step(eta), state))(state)
        found = float(strength * end.head**2)
        predicted = float(settled_sharpness(1.0, strength, eta))
        errors.append((found - predicted) / (strength - 2 / eta))
        assert found < 2 / eta < strength
    assert max(errors) < strength * 0.04
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.05)


def step(learning_rate):
    def one(_, state):
        return opposing_step(state, jnp.ones(1), 4.0, learning_rate)

    return one


@given(POSITIVE, st.floats(2, 30), st.floats(0.1, 1.0))
def test_stable_rates_stay_balanced(s, strength, fraction):
    eta = fraction * float(opposing_learning_rate(s, strength))
    settled = float(settled_sharpness(s, strength, eta))
    assert settled == pytest.approx(strength * s, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minimum_sharpness(0.0, 1.0, 1.0), "head_squared must be positive"),
        (lambda: minimum_sharpness(1.0, 1.0, -1.0), "strength must be non-negative"),
        (lambda: flattest_sharpness(0.0, 1.0), "target_norm must be positive"),
        (lambda: settled_sharpness(1.0, 1.5, 0.1), "strength must be at least 2, got 1.5"),
        (lambda: settled_sharpness(1.0, 3.0, 0.0), "learning_rate must be positive"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
