"""The map with relaxing directions against gradient descent and against the two-variable map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.relaxing_modes import relaxing_stabilization_step, sharpening_modes
from theory.stability.self_stabilization import (
    Oscillation,
    progressive_sharpening_coeffs,
    self_stabilization_step,
    two_cycle_amplitude,
)

MODES = 3


def toy(w, eta, alpha, slope, curvature):
    """Sharpness ``2/eta + slope . z`` along x; z is curved: the map, with y_i = slope_i z_i."""
    x, z = w[0], w[1:]
    return (2 / eta + slope @ z) * x**2 / 2 - alpha / slope @ z + curvature @ z**2 / 2


descend = jax.jit(lambda w, eta, *model: w - eta * jax.grad(toy)(w, eta, *model))
ETA, SEED = st.floats(0.01, 0.3), st.integers(0, 99)


def drawn(seed):
    """A state (x, z), and the toy's alpha, slope and curvatures."""
    normal = np.random.default_rng(seed).standard_normal
    slope = normal(MODES)
    coefficients = normal(MODES), slope + np.sign(slope), normal(MODES) ** 2
    return 0.3 * normal(MODES + 1), coefficients


@given(ETA, SEED)
def test_map_is_gradient_descent_on_the_toy(eta, seed):
    w, (alpha, slope, curvature) = drawn(seed)
    found = Oscillation(jnp.asarray(w[0]), jnp.asarray(slope * w[1:]))
    for _ in range(5):
        w = descend(w, eta, alpha, slope, curvature)
        found = relaxing_stabilization_step(found, eta, alpha, slope**2, curvature)
    np.testing.assert_allclose(found.displacement, w[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.excess, slope * w[1:], rtol=1e-10, atol=1e-12)


@given(ETA, SEED)
def test_without_curvature_sums_obey_the_two_variable_map(eta, seed):
    w, (alpha, slope, _) = drawn(seed)
    modes = relaxing_stabilization_step(
        Oscillation(jnp.asarray(w[0]), jnp.asarray(w[1:])), eta, alpha, slope**2, 0.0
    )
    start = Oscillation(jnp.asarray(w[0]), jnp.asarray(w[1:].sum()))
    two = self_stabilization_step(start, eta, alpha.sum(), (slope**2).sum())
    np.testing.assert_allclose(modes.displacement, two.displacement, rtol=1e-12)
    np.testing.assert_allclose(modes.excess.sum(), two.excess, rtol=1e-10, atol=1e-12)


@given(ETA, SEED)
def test_two_cycle_of_the_flat_direction_survives_relaxation(eta, seed):
    """Others rest at ``(alpha_i - beta_i sigma^2/2)/lambda_i``; x as there."""
    _, (alpha, slope, curvature) = drawn(seed)
    alpha, curvature = np.abs(alpha), np.array([0.0, *curvature[1:] + 0.1])
    x = float(two_cycle_amplitude(alpha[0], slope[0] ** 2))
    y = np.zeros(MODES)
    y[1:] = (alpha[1:] - slope[1:] ** 2 * x**2 / 2) / curvature[1:]
    y[0] = -y[1:].sum()
    state = Oscillation(jnp.asarray(x), jnp.asarray(y))
    after = relaxing_stabilization_step(state, eta, alpha, slope**2, curvature)
    np.testing.assert_allclose(after.displacement, -x, rtol=1e-9)
    np.testing.assert_allclose(after.excess, y, rtol=1e-9, atol=1e-9)


def test_modes_of_the_toy_are_its_own():
    _, (alpha, slope, curvature) = drawn(1)
    model = [jnp.asarray(values) for values in (alpha, slope, curvature)]
    loss = lambda w: toy(w, 0.1, *model)  # noqa: E731
    order = np.argsort(curvature)
    found = sharpening_modes(loss, jnp.zeros(MODES + 1))
    expected = (alpha, slope**2, curvature)
    for value, own in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(value, own[order], rtol=1e-10)
    assert found.sharpness == pytest.approx(20)
    assert jnp.abs(found.direction).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_modes_of_a_network_add_up():
    normal = np.random.default_rng(1).standard_normal
    x, y, w = jnp.asarray(normal((9, 2))), jnp.asarray(normal(9)), jnp.asarray(normal(12))

    def loss(w):
        return jnp.mean((jnp.tanh(x @ w[:8].reshape(2, 4)) @ w[8:] - y) ** 2) / 2

    modes = jax.jit(lambda w: sharpening_modes(loss, w))(w)
    whole = jax.jit(lambda w: progressive_sharpening_coeffs(loss, w))(w)
    np.testing.assert_allclose(modes.alpha.sum(), whole.alpha, rtol=1e-9)
    np.testing.assert_allclose(modes.beta.sum(), whole.beta, rtol=1e-9)
    np.testing.assert_allclose(modes.sharpness, whole.sharpness, rtol=1e-12)
    trace = jnp.trace(jax.jit(jax.hessian(loss))(w))
    np.testing.assert_allclose(modes.curvature.sum() + modes.sharpness, trace, rtol=1e-9)


def test_transformations_and_dtype():
    start = Oscillation(jnp.ones(4, "f4"), jnp.zeros((4, MODES), "f4"))
    step = jax.jit(jax.vmap(relaxing_stabilization_step, (0, None, None, None, None)))
    after = step(start, 0.1, jnp.ones(MODES, "f4"), 1.0, 0.5)
    assert after.excess.shape == (4, MODES)
    assert after.excess.dtype == after.displacement.dtype == jnp.float32
    whole = relaxing_stabilization_step(start, 0.1, jnp.ones(MODES, "f4"), 1.0, 0.5)
    np.testing.assert_allclose(after.excess, whole.excess, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 1.0, 0.0), "learning_rate must be positive"),
        ((0.1, np.nan, 1.0, 0.0), "alpha must be finite"),
        ((0.1, 1.0, -1.0, 0.0), "beta must be non-negative"),
        ((0.1, 1.0, 1.0, np.inf), "curvature must be finite"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        relaxing_stabilization_step(Oscillation(jnp.ones(()), jnp.zeros(2)), *arguments)


def test_one_parameter_has_no_other_direction():
    with pytest.raises(ValueError, match="w must have at least 2 parameters, got 1"):
        sharpening_modes(lambda w: w[0] ** 2, jnp.ones(1))
