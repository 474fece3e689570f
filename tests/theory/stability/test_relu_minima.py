"""Curvature of ReLU networks against automatic differentiation, away from the kinks."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.relu_minima import (
    flattest_rescaling,
    homogeneous_sharpness,
    path_norm,
    relu_trace,
)

N, D, HIDDEN = 8, 3, 5
SEEDS = st.integers(0, 2**16)


def network(params, x):
    readout, first = params
    return jnp.maximum(x @ first.T, 0) @ readout


@jax.jit
def hessian(params, x, y):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda w: jnp.mean((network(unravel(w), x) - y) ** 2) / 2)(flat)


def draw(seed):
    """(readout, first), inputs and labels; no pre-activation is anywhere near zero."""
    rng = np.random.default_rng(seed)
    params = rng.standard_normal(HIDDEN), rng.standard_normal((HIDDEN, D))
    return params, rng.standard_normal((N, D)), rng.standard_normal(N)


@given(SEEDS)
def test_trace_at_any_point_for_any_labels(seed):
    params, x, y = draw(seed)
    found = jnp.trace(hessian(params, x, y))
    np.testing.assert_allclose(relu_trace(*params, x), found, rtol=1e-12)


@given(SEEDS)
def test_symmetric_whitened_inputs_tie_the_trace_to_the_path_norm(seed):
    (readout, first), x, _ = draw(seed)
    half = np.linalg.qr(x)[0] * np.sqrt(N)
    x = np.concatenate([half, -half])  # second moments exactly I
    trace = float(relu_trace(readout, first, x))
    sizes = np.sum(first**2, axis=1) + D * readout**2
    assert trace == pytest.approx(sizes.sum() / 2, rel=1e-12)
    least = np.sqrt(D) * float(path_norm(readout, first))
    assert trace >= least * (1 - 1e-12)
    scale, flattest = flattest_rescaling(readout, first, x)
    assert flattest == pytest.approx(least, rel=1e-12)
    rescaled = np.linalg.norm(first, axis=1) * scale
    np.testing.assert_allclose(rescaled, np.sqrt(D) * np.abs(readout) / scale, rtol=1e-12)


@given(SEEDS)
def test_rescaling_keeps_the_function_and_reaches_the_minimum(seed):
    (readout, first), x, y = draw(seed)
    scale, least = (np.asarray(z) for z in flattest_rescaling(readout, first, x))
    used = np.isfinite(scale)
    kept = np.where(used, scale, 1.0)
    flat = (readout / kept, kept[:, None] * first)
    np.testing.assert_allclose(network(flat, x), network((readout, first), x), atol=1e-12)
    np.testing.assert_allclose(jnp.trace(hessian(flat, x, y)), least, rtol=1e-12)
    slope = trace_slope(np.where(used, np.log(scale), 0.0), readout, first, x)
    assert np.abs(slope).max() <= 1e-12 * least  # and the trace is convex in log s
    assert trace_slope(np.where(used, np.log(scale) + 0.1, 0.0), readout, first, x).sum() > 0


@jax.jit
@jax.grad
def trace_slope(log_scale, readout, first, x):
    scale = jnp.exp(log_scale)
    return relu_trace(readout / scale, scale[:, None] * first, x)


@given(SEEDS, st.sampled_from([1.0, 3.0]))
def test_homogeneity_bounds_the_sharpness_from_below(seed, scale):
    params, x, _ = draw(seed)
    readout, first = scale * params[0], params[1]
    y = network((readout, first), x)
    matrix, theta = hessian((readout, first), x, y), np.concatenate([readout, first.ravel()])
    norm = theta @ theta
    if not np.mean(y**2) > 0:
        return
    found = homogeneous_sharpness(2, np.mean(y**2), norm)
    np.testing.assert_allclose(found, theta @ matrix @ theta / norm, rtol=1e-10)
    assert found <= np.linalg.eigvalsh(matrix)[-1] * (1 + 1e-12)


def test_gaussian_inputs_have_the_isotropic_trace_in_the_mean():
    (readout, first), _, _ = draw(5)
    samples = np.random.default_rng(0).standard_normal((50, 800, D))
    traces = jax.vmap(lambda x: relu_trace(readout, first, x))(jnp.asarray(samples))
    expected = (np.sum(first**2) + D * np.sum(readout**2)) / 2
    error = float(np.std(traces)) / np.sqrt(len(samples))
    assert np.mean(traces) == pytest.approx(expected, abs=4 * error)


def test_idle_neurons_have_no_best_scale():
    readout, first = np.array([0.0, 1.0, 1.0]), np.array([[1.0], [-1.0], [2.0]])
    scale, least = flattest_rescaling(readout, first, np.array([[1.0]]))
    np.testing.assert_allclose(scale, [np.nan, np.nan, 2**-0.5])
    assert least == pytest.approx(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relu_trace(np.ones(2), np.ones(2), np.ones((1, 2))), "first must be a matrix"),
        (lambda: relu_trace(np.ones(3), np.ones((2, 2)), np.ones((1, 2))), "readout must have sh"),
        (lambda: relu_trace(np.ones(2), np.ones((2, 2)), np.ones((1, 3))), "x must have 2 columns"),
        (lambda: path_norm(np.full(1, np.nan), np.ones((1, 2))), "readout must be finite"),
        (lambda: homogeneous_sharpness(2, 1.0, 0.0), "squared_norm must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
