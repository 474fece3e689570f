"""Closed-form curvature of linear models against automatic differentiation."""

from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from theory.deep_linear.hessian import minimum_hessian_eigenvalues
from theory.stability.minima import (
    deep_linear_trace,
    diagonal_spectrum,
    difference_of_squares_spectrum,
    flattest_spectrum,
    ladder,
    two_layer_linear_spectrum,
)

N, D = 7, 3


def product_network(weights, x):
    return x @ jnp.prod(jnp.stack(weights), axis=0)[:, None]


def squares_network(weights, x):
    return x @ (weights[0] ** 2 - weights[1] ** 2)[:, None]


def linear_network(weights, x):
    for matrix in weights:
        x = x @ matrix.T
    return x


@partial(jax.jit, static_argnames="network")
def hessian(network, weights, x, y):
    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    return jax.hessian(lambda w: jnp.sum((network(unravel(w), x) - y) ** 2) / (2 * len(x)))(flat)


def at_whitened_minimum(network, weights, seed):
    """Eigenvalues, descending, where ``X^T X / n = I`` and every residual vanishes."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((N, D)))[0]
    x = jnp.asarray(np.sqrt(N) * basis)
    return np.linalg.eigvalsh(hessian(network, weights, x, network(weights, x)))[::-1]


def anywhere(network, weights, seed, n_out=1):
    """Trace for random inputs and labels, and the inputs."""
    x, y = (np.random.default_rng(seed).standard_normal((N, k)) for k in (D, n_out))
    return np.trace(hessian(network, weights, jnp.asarray(x), jnp.asarray(y))), x


def descending(values):
    return np.sort(np.ravel(values))[::-1]


NUMBERS = st.floats(-2, 2) | st.sampled_from([0.0, 1.0, -1.0])
diagonals = st.sampled_from([1, 2, 4]).flatmap(
    lambda depth: arrays(float, (depth, D), elements=NUMBERS)
)
SEEDS = st.integers(0, 2**16)


@given(diagonals, SEEDS)
def test_diagonal_network(weights, seed):
    spectrum, layers = diagonal_spectrum(weights), list(jnp.asarray(weights))
    found = at_whitened_minimum(product_network, layers, seed)
    np.testing.assert_allclose(found[:D], descending(spectrum), atol=1e-11)
    np.testing.assert_allclose(found[D:], 0, atol=1e-11)
    trace, x = anywhere(product_network, layers, seed)
    np.testing.assert_allclose(trace, spectrum @ jnp.mean(x**2, axis=0), atol=1e-11)


@given(arrays(float, (2, D), elements=NUMBERS), SEEDS)
def test_difference_of_squares(weights, seed):
    spectrum, layers = difference_of_squares_spectrum(*weights), list(jnp.asarray(weights))
    found = at_whitened_minimum(squares_network, layers, seed)
    np.testing.assert_allclose(found[:D], descending(spectrum), atol=1e-11)
    trace, x = anywhere(squares_network, layers, seed)
    np.testing.assert_allclose(trace, spectrum @ jnp.mean(x**2, axis=0), atol=1e-11)


@given(diagonals)
def test_no_diagonal_network_is_flatter_than_the_balanced_one(weights):
    depth, beta = len(weights), np.prod(weights, axis=0)
    least = np.asarray(flattest_spectrum(beta, depth))
    assert (np.asarray(diagonal_spectrum(weights)) >= least - 1e-11).all()
    balanced = np.abs(beta) ** (1 / depth) * np.ones((depth, 1))
    np.testing.assert_allclose(diagonal_spectrum(balanced), least, atol=1e-12)


@given(arrays(float, D, elements=NUMBERS))
def test_ladder_of_two_layers_is_the_norms_of_the_function(beta):
    norms = [np.linalg.norm(beta, order) for order in (1, 2, np.inf)]
    np.testing.assert_allclose(ladder(flattest_spectrum(beta)), 2 * np.array(norms), atol=1e-12)


@pytest.mark.parametrize(("hidden", "n_out"), [(1, 4), (5, 1), (2, 2)])
def test_two_layer_linear_spectrum(hidden, n_out):
    rng = np.random.default_rng(hidden)
    weights = [rng.standard_normal((hidden, D)), rng.standard_normal((n_out, hidden))]
    spectrum = np.asarray(two_layer_linear_spectrum(*weights))
    found = at_whitened_minimum(linear_network, list(map(jnp.asarray, weights)), 0)
    # pairs beyond the number of weights do not occur: their value is 0
    expected, length = descending(spectrum), len(found)
    np.testing.assert_allclose(found, np.pad(expected, (0, length))[:length], atol=1e-12)
    assert not expected[length:].any()
    norms = [np.linalg.norm(matrix, 2) ** 2 for matrix in weights]
    assert spectrum.max() == pytest.approx(sum(norms))


def test_balanced_two_layer_spectrum_is_that_of_the_mode_formula():
    rng, s = np.random.default_rng(3), np.array([2.0, 1.0, 0.3])
    u, v, r = (np.linalg.qr(rng.standard_normal((D, D)))[0] for _ in range(3))
    root = np.diag(np.sqrt(s))
    found = two_layer_linear_spectrum(r @ root @ v.T, u @ root @ r.T)
    np.testing.assert_allclose(found, minimum_hessian_eigenvalues(s, 2), atol=1e-12)


@pytest.mark.parametrize("widths", [(D, 2), (D, 2, 4), (D, 4, 3, 2)])
def test_deep_linear_trace_anywhere(widths):
    rng = np.random.default_rng(len(widths))
    weights = [rng.standard_normal(shape) for shape in zip(widths[1:], widths[:-1], strict=True)]
    found, x = anywhere(linear_network, list(map(jnp.asarray, weights)), 1, widths[-1])
    np.testing.assert_allclose(deep_linear_trace(weights, x.T @ x / N), found, rtol=1e-12)


def test_transformations_and_dtype():
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2, D)), jnp.float32)
    rows = jax.vmap(diagonal_spectrum)(weights)
    assert rows.dtype == jnp.float32
    np.testing.assert_allclose(rows, jnp.sum(weights**2, axis=1), rtol=1e-6)
    trace = deep_linear_trace([weights[0], jnp.eye(2, dtype=jnp.float32)], jnp.eye(D, dtype="f4"))
    assert trace.dtype == jnp.float32
    slope = jax.grad(lambda b: jnp.sum(flattest_spectrum(b, 3)))(jnp.array([-8.0]))
    np.testing.assert_allclose(slope, -4 * 8 ** (1 / 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagonal_spectrum(np.ones(3)), "weights must be a matrix, got shape"),
        (lambda: diagonal_spectrum(np.full((2, 2), np.nan)), "weights must be finite"),
        (lambda: flattest_spectrum(np.ones(2), 0), "depth must be an integer >= 1"),
        (lambda: ladder(np.array([1.0, -1.0])), "spectrum must be non-negative.*-1.0"),
        (lambda: difference_of_squares_spectrum(np.ones(2), np.full(2, np.inf)), "v must be fin"),
        (lambda: two_layer_linear_spectrum(np.ones((2, 3)), np.ones((1, 3))), "follow each other"),
        (lambda: deep_linear_trace([], np.eye(2)), "weights must be layers that follow"),
        (lambda: deep_linear_trace([np.eye(2)], np.eye(3)), r"sigma_xx must have shape \(2, 2\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
