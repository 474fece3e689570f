"""Movement of weights and of ReLU's kernel, against descent, quadrature and random units."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from theory.kernels.finite_width import impulse_moments, relu_kernel_drift, weight_movement
from theory.kernels.kernel_modes import descent_filter, flow_filter, kernel_modes

n = 3  # examples
seeds = st.integers(0, 2**32 - 1)
positive = st.floats(0.1, 10)


def linear_model(seed):
    """Features of a model of which half the weights begin at random, the others at 0; targets."""
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((n, 8))
    return features, features[:, :4] @ features[:, :4].T, draw.standard_normal(n)


@given(seed=seeds, steps=st.integers(0, 30))
def test_weights_move_as_descent_moves_them(seed, steps):
    features, covariance, y = linear_model(seed)
    kernel = features @ features.T
    rate = 1 / np.linalg.eigvalsh(kernel)[-1]
    modes = kernel_modes(jnp.asarray(kernel), loss="sum")
    learned = descent_filter(modes, rate, steps)
    moved = np.zeros((8, n))  # by a unit residual in every example
    summed = np.zeros((n, n))
    for _ in range(steps):
        residual = np.eye(n) - features @ moved
        moved += rate * features.T @ residual
        summed += rate * residual
    second = np.outer(y, y) + covariance  # E (y - f_0)(y - f_0)^T
    expected = np.trace(moved @ second @ moved.T)
    np.testing.assert_allclose(weight_movement(modes, learned, covariance, y), expected, atol=1e-9)
    square = impulse_moments(modes, learned, covariance, y).square
    np.testing.assert_allclose(square, np.diag(summed @ second @ summed.T), rtol=1e-8, atol=1e-9)


@given(mean=st.floats(-5, 5), std=st.floats(0.1, 5), rate=positive)
def test_size_of_the_impulse_is_a_folded_gaussian_mean(mean, std, rate):
    modes = kernel_modes(rate * jnp.eye(1), loss="sum")
    learned = flow_filter(modes, jnp.inf)
    found = impulse_moments(modes, learned, jnp.array([[std**2]]), jnp.array([mean]))

    def folded(z):
        return abs(mean + std * z) / rate * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    kink = min(max(-mean / std, -40), 40)
    expected = quad(folded, -40, kink)[0] + quad(folded, kink, 40)[0]
    np.testing.assert_allclose(found.size[0], expected, rtol=1e-6)


@given(seed=seeds)
def test_an_impulse_without_spread_is_its_own_size(seed):
    features, _, y = linear_model(seed)
    modes = kernel_modes(jnp.asarray(features @ features.T), loss="sum")
    times = jnp.array([0.0, 1.0, jnp.inf])
    found = impulse_moments(modes, flow_filter(modes, times), jnp.zeros((n, n)), y)
    np.testing.assert_allclose(found.size**2, found.square, rtol=1e-9, atol=1e-12)
    assert not found.size[0].any()


@given(impulse=positive, w=positive, q=positive, down=st.booleans())
def test_drift_counts_the_units_that_are_silenced(impulse, w, q, down):
    """Units of readout v and pre-activation h, integrated instead of expanded in 1/sqrt(n)."""
    width = 1e10 * (1 + w * impulse**2 * q)
    part = w * q / width  # of the kernel's diagonal, times v^2

    def silenced(power):
        def density(v):  # of readouts that push down, times the share of units within reach
            reach = np.sqrt(w / width) * q * v * impulse
            share = reach * np.exp(-(reach**2) / (8 * q)) / np.sqrt(2 * np.pi * q)  # midpoint
            return (part * v**2) ** power * share * np.exp(-(v**2) / 2) / np.sqrt(2 * np.pi)

        return width * quad(density, 0, 12, epsabs=0)[0]

    found = relu_kernel_drift(impulse, width, weight_variance=w, preactivation_variance=q)
    np.testing.assert_allclose(found.mean, -silenced(1), rtol=1e-5)
    np.testing.assert_allclose(found.variance, silenced(2), rtol=1e-5)


def test_random_units_without_any_formula():
    """One example, |x|^2 = n_in: units are moved in small steps of time, some fall silent."""
    draw, width, networks = np.random.default_rng(0), 2500, 400
    w, residuals = 1.7, 0.3 * np.exp(-np.linspace(0, 4, 60))
    h = np.sqrt(w) * draw.standard_normal((networks, width))
    v = draw.standard_normal((networks, width))
    start = h > 0
    for step in residuals:
        h += np.sqrt(w / width) * v * w * step * (h > 0)
    change = w * w / width * np.sum(v**2 * ((h > 0).astype(float) - start), axis=1)
    found = relu_kernel_drift(residuals.sum(), width, weight_variance=w, preactivation_variance=w)
    error = change.std() / np.sqrt(networks)
    assert abs(change.mean() - found.mean) < 4 * error
    assert abs(change.var() / found.variance - 1) < 4 * np.sqrt(2 / networks)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"impulse": -1.0}, "impulse must be non-negative"),
        ({"width": 0}, "width must be positive"),
        ({"weight_variance": jnp.nan}, "weight_variance must be positive"),
    ],
)
def test_bad_drift_is_refused(bad, message):
    good = {"impulse": 1.0, "width": 10, "weight_variance": 1.0, "preactivation_variance": 1.0}
    with pytest.raises(ValueError, match=message):
        relu_kernel_drift(**(good | bad))


@pytest.mark.parametrize(
    ("covariance", "targets"), [(np.eye(2), np.ones(n)), (np.eye(n), np.ones((n, 1)))]
)
def test_shapes_that_do_not_fit_are_refused(covariance, targets):
    modes = kernel_modes(jnp.eye(n), loss="sum")
    with pytest.raises(ValueError, match="covariance and targets must have shapes"):
        weight_movement(modes, flow_filter(modes, 1.0), covariance, targets)
