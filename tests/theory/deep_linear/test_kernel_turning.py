"""How fast kernels of linear networks turn: against autodiff along the flow, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.deep_linear import kernel_turning, tangent_kernel

SIZES = (3, 4, 2)  # inputs, hidden units, outputs
SEEDS = st.integers(0, 2**31)


def network(seed):
    random = np.random.default_rng(seed)
    n_in, hidden, n_out = SIZES
    return (
        random.standard_normal((hidden, n_in)),
        random.standard_normal((n_out, hidden)),
        random.standard_normal((n_out, n_in)),
        random.standard_normal((n_in, 5)),
    )


@jax.jit
def kernel_and_change(W1, W2, target, X):
    """The kernel, and its derivative along minus the gradient of the loss over the inputs X."""

    def loss(weights):
        return 0.5 * jnp.sum(((target - weights[1] @ weights[0]) @ X) ** 2)

    def kernel(weights):
        return tangent_kernel.ntk_two_layer(weights[0].T @ weights[0], weights[1] @ weights[1].T, X)

    descent = jax.tree.map(jnp.negative, jax.grad(loss)((W1, W2)))
    return jax.jvp(kernel, ((W1, W2),), (descent,))


lazy_rate = jax.jit(kernel_turning.lazy_turning_rate)


@given(SEEDS)
def test_velocity_is_the_derivative_along_gradient_flow_of_any_data(seed):
    W1, W2, target, X = network(seed)
    _, change = kernel_and_change(W1, W2, target, X)
    linear_map = W2 @ W1
    found = kernel_turning.ntk_velocity(linear_map, (target - linear_map) @ X @ X.T, X)
    np.testing.assert_allclose(found, change, rtol=1e-9, atol=1e-9 * np.abs(change).max())


@given(SEEDS, st.floats(-3, 3))
def test_turning_rate_is_that_of_the_angle_and_blind_to_growth(seed, growth):
    W1, W2, target, X = network(seed)
    kernel, change = kernel_and_change(W1, W2, target, X)
    rate = float(kernel_turning.turning_rate(kernel, change))
    grown = float(kernel_turning.turning_rate(kernel, change + growth * kernel))
    dt = 1e-5 * float(jnp.linalg.norm(kernel) / jnp.linalg.norm(change))
    distance = kernel_turning.kernel_distance(kernel - dt * change / 2, kernel + dt * change / 2)
    np.testing.assert_allclose(np.sqrt(2 * float(distance)) / dt, rate, rtol=1e-6)
    np.testing.assert_allclose(grown, rate, rtol=1e-8)


@given(SEEDS)
def test_distance_is_one_minus_the_alignment(seed):
    W1, W2, target, X = network(seed)
    kernel, change = kernel_and_change(W1, W2, target, X)
    other = kernel + change
    distance = kernel_turning.kernel_distance(kernel, other)
    alignment = tangent_kernel.kernel_alignment(kernel, other)
    np.testing.assert_allclose(distance, 1 - alignment, atol=1e-12)


@given(SEEDS, st.sampled_from([0.0, 1.0]))
def test_lazy_rate_at_the_start_is_exact(seed, scale):
    W1, W2, change, _ = network(seed)
    W1 = scale * W1  # 0: a start of f_0 = 0
    inputs = jnp.eye(SIZES[0])
    kernel, velocity = kernel_and_change(W1, W2, W2 @ W1 + change, inputs)
    found = lazy_rate(0.0, W1, W2, change)
    np.testing.assert_allclose(
        found, kernel_turning.turning_rate(kernel, velocity), rtol=1e-9, atol=1e-12
    )


@given(SEEDS)
def test_lazy_rate_falls_as_one_over_alpha_and_from_zero_maps_as_its_square(seed):
    W1, W2, change, _ = network(seed)
    for first, power in ((W1, 1), (0 * W1, 2)):
        rates = [kernel_turning.lazy_turning_rate(1.0, first, W2, change / a) for a in (1e6, 2e6)]
        np.testing.assert_allclose(rates[0] / rates[1], 2.0**power, rtol=1e-3)


def test_bad_arguments_are_named():
    good = jnp.eye(2)
    with pytest.raises(ValueError, match="error"):
        kernel_turning.ntk_velocity(good, jnp.ones((2, 3)), good)
    with pytest.raises(ValueError, match="kernel"):
        kernel_turning.turning_rate(0 * good, good)
    with pytest.raises(ValueError, match="kernel"):
        kernel_turning.kernel_distance(good, 0 * good)
    with pytest.raises(ValueError, match="t must be"):
        kernel_turning.lazy_turning_rate(-1.0, good, good, good)
    with pytest.raises(ValueError, match="change"):
        kernel_turning.lazy_turning_rate(1.0, good, good, jnp.ones((2, 3)))
