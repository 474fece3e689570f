"""The reconstructed model against networks on enumerated examples, autodiff and integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.stability.opposing_signals import (
    OpposingState,
    balanced_path,
    group_losses,
    opposing_invariant,
    opposing_learning_rate,
    opposing_loss,
    opposing_sharpness,
    opposing_step,
)

D = 3
SEEDS = st.integers(0, 2**16)
POSITIVE = st.floats(-1, 1).map(lambda x: 10.0**x)


def draw(seed):
    rng = np.random.default_rng(seed)
    state = OpposingState(*(jnp.asarray(rng.standard_normal(shape)) for shape in ((), D, ())))
    return state, jnp.asarray(rng.standard_normal(D))


def network_losses(state, target, size, gain, direction):
    """Loss of each example of each group: a bulk with second moments exactly I, both signs."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((8, D)))[0] * np.sqrt(8)
    bulk = np.concatenate([basis, -basis])
    losses = []
    for sign in (0, 1, -1):
        outlier = sign * np.sqrt(size) * np.broadcast_to(direction, (16, len(direction)))
        x = np.concatenate([bulk, outlier], axis=1)
        y = bulk @ target + gain * np.linalg.norm(outlier, axis=1)
        first = jnp.concatenate([state.bulk, state.outlier * direction])
        losses.append(jnp.mean((state.head * (x @ first) - y) ** 2) / 2)
    return losses


@given(SEEDS, POSITIVE, st.floats(-2, 2), st.floats(0.01, 1.0))
def test_losses_are_those_of_a_network_on_examples(seed, size, gain, probability):
    state, target = draw(seed)
    direction = np.array([0.6, 0.8])
    found = group_losses(state, target, size, gain)
    expected = network_losses(state, target, size, gain, direction)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    weights = np.array([1 - probability, probability / 2, probability / 2])
    constant = probability * size * gain**2 / 2
    total = float(opposing_loss(state, target, probability * size)) + constant
    assert weights @ np.asarray(found) == pytest.approx(total, rel=1e-10)


slope = jax.jit(jax.grad(opposing_loss))


@given(SEEDS, POSITIVE, st.floats(0.01, 1.0))
def test_step_is_gradient_descent(seed, strength, eta):
    state, target = draw(seed)
    expected = jax.tree.map(lambda w, g: w - eta * g, state, slope(state, target, strength))
    found = opposing_step(state, target, strength, eta)
    for name in state._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)


def test_groups_pull_the_outlier_apart():
    state, target = draw(3)
    pull = [
        jax.grad(lambda s, i=i: group_losses(s, target, 4.0, 0.7)[i])(state._replace(outlier=0.0))
        for i in (1, 2)
    ]
    assert float(pull[0].outlier) == -float(pull[1].outlier) != 0
    assert jnp.allclose(pull[0].bulk, pull[1].bulk)


def flow(state, target, strength, times):
    def velocity(_, w):
        now = OpposingState(w[0], w[1:-1], w[-1])
        change = slope(now, target, strength)
        return -np.concatenate([[change.head], change.bulk, [change.outlier]])

    start = np.concatenate([[state.head], state.bulk, [state.outlier]])
    path = solve_ivp(velocity, (0, times[-1]), start, t_eval=times, rtol=1e-11, atol=1e-14).y
    return OpposingState(path[0], path[1:-1].T, path[-1])


def test_flow_conserves_the_invariant():
    state, target = draw(1)
    path = flow(state, target, 5.0, np.linspace(0, 2, 5))
    np.testing.assert_allclose(opposing_invariant(path), opposing_invariant(state), atol=1e-9)


def balanced(head, target, outlier):
    return OpposingState(head, head * target / np.linalg.norm(target), outlier)


@pytest.mark.parametrize("head", [0.05, 1.9])  # learning, and unlearning
def test_balanced_path_solves_the_flow(head):
    target, strength, times = np.array([0.6, -0.8, 1.0]), 8.0, np.linspace(0, 3, 7)
    path = flow(balanced(head, target, 1e-7), target, strength, times)
    squared, decay = balanced_path(times, head, np.linalg.norm(target), strength)
    np.testing.assert_allclose(path.head**2, squared, rtol=1e-8)
    np.testing.assert_allclose(path.outlier, 1e-7 * decay, atol=1e-13)
    early = 1e-6
    rate = -np.log(float(balanced_path(early, head, np.linalg.norm(target), strength)[1])) / early
    assert rate == pytest.approx(strength * head**2, rel=1e-4)


@jax.jit
def top_eigenvalue(head, target, strength):
    loss = lambda w: opposing_loss(OpposingState(w[0], w[1:-1], w[-1]), target, strength)  # noqa: E731
    bulk = head * target / jnp.linalg.norm(target)
    at = jnp.concatenate([head[None], bulk, jnp.zeros(1)])
    return jnp.linalg.eigvalsh(jax.hessian(loss)(at))[-1]


@given(SEEDS, POSITIVE, st.floats(0.0, 10.0))
def test_sharpness_on_the_balanced_path(seed, head, strength):
    target = np.random.default_rng(seed).standard_normal(D)
    found = opposing_sharpness(head**2, np.linalg.norm(target), strength)
    assert found == pytest.approx(float(top_eigenvalue(jnp.array(head), target, strength)))


@pytest.mark.parametrize("strength", [1.0, 12.0])  # the bulk or the outlier is sharper
def test_descent_is_unstable_above_the_learning_rate(strength):
    target = np.array([2.0, 0.0, 0.0])
    largest = float(opposing_learning_rate(2.0, strength))

    def run(eta, steps=3000):
        step = lambda state, _: (opposing_step(state, target, strength, eta), None)  # noqa: E731
        start = jax.tree.map(jnp.asarray, balanced(0.7, target, 1e-3))
        return jax.lax.scan(step, start, None, length=steps)[0]

    below, above = run(0.97 * largest), run(1.03 * largest)
    assert float(below.head) ** 2 == pytest.approx(2.0, rel=1e-5)
    assert abs(float(below.outlier)) < 1e-6
    assert float(opposing_loss(below, target, strength)) < 1e-12
    if strength > 2:  # the outlier has taken weight from the head, down to the edge or below
        assert float(opposing_loss(above, target, strength)) < 1e-12
        assert strength * float(above.head) ** 2 < 2 / (1.03 * largest)
    else:
        assert float(opposing_loss(above, target, strength)) > 1e-4


def test_long_times_do_not_overflow_and_dtype_follows():
    squared, decay = balanced_path(jnp.asarray([0.0, 1e4], "f4"), 0.1, 2.0, 3.0)
    assert squared.dtype == decay.dtype == jnp.float32
    np.testing.assert_allclose(squared, [0.01, 2.0], rtol=1e-5)
    np.testing.assert_allclose(decay, [1.0, 0.0], rtol=1e-5)


GOOD = OpposingState(jnp.array(1.0), jnp.ones(D), jnp.array(0.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: opposing_loss(GOOD, np.ones(2), 1.0), "bulk and target must have one last axis"),
        (lambda: opposing_loss(GOOD, np.ones(D), -1.0), "strength must be non-negative"),
        (lambda: opposing_step(GOOD, np.ones(D), 1.0, 0.0), "learning_rate must be positive"),
        (lambda: group_losses(GOOD, np.ones(D), -1.0, 1.0), "size must be non-negative"),
        (lambda: opposing_invariant(GOOD._replace(outlier=np.nan)), "outlier must be finite"),
        (lambda: balanced_path(1.0, 0.0, 1.0, 1.0), "head0 must be positive"),
        (lambda: opposing_learning_rate(0.0, 1.0), "target_norm must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
