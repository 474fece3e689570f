"""Gram and Gauss-Newton trace against dense Jacobians and products with curvature."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dynamics.curvature import dense_matrix, gauss_newton_vp
from dynamics.gram import gauss_newton_trace, gradient_gram, softmax_weights
from dynamics.models import committee, mlp
from dynamics.tangent_kernel import empirical_ntk

SEEDS = st.integers(0, 2**31 - 1)
N = 7
MODEL = mlp((3, 4, 2), activation="gelu", bias_variance=0.3)


def problem(seed):
    params = MODEL.init(jax.random.key(seed))
    return params, jnp.asarray(np.random.default_rng(seed).standard_normal((N, 3)))


def half_square(outputs, y):
    return 0.5 * jnp.sum((outputs - y) ** 2) / N


def cross_entropy(logits, labels):
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1))


@jax.jit
def measured(params, x):
    flat, unravel = ravel_pytree(params)
    return {
        "grams": [gradient_gram(MODEL.apply, params, x, chunk=chunk) for chunk in (1, 3, 7, 99)],
        "traces": [gauss_newton_trace(MODEL.apply, params, x, chunk=chunk) for chunk in (1, 3, 99)],
        "jacobian": jax.jacfwd(lambda w: MODEL.apply(unravel(w), x))(flat),
        "gauss_newton": dense_matrix(
            partial(gauss_newton_vp, MODEL.apply, half_square, params, (x, jnp.zeros((N, 2)))),
            params,
        ),
    }


@given(seed=SEEDS)
def test_gram_and_trace_are_those_of_the_dense_jacobian(seed):
    found = measured(*problem(seed))
    exact = np.einsum("iak,jbk->iajb", found["jacobian"], found["jacobian"])
    scale = np.abs(exact).max()
    for gram in found["grams"]:  # chunks that divide the examples, that do not, that exceed them
        np.testing.assert_allclose(gram, exact, rtol=0, atol=1e-13 * scale)
    for trace in found["traces"]:
        np.testing.assert_allclose(
            trace, np.sum(np.asarray(found["jacobian"]) ** 2) / N, rtol=1e-13
        )


@given(seed=SEEDS)
def test_gauss_newton_and_gram_have_the_same_spectrum(seed):
    found = measured(*problem(seed))
    gram = np.linalg.eigvalsh(np.asarray(found["grams"][0]).reshape(2 * N, 2 * N) / N)[::-1]
    exact = np.linalg.eigvalsh(found["gauss_newton"])[::-1]
    np.testing.assert_allclose(gram, exact[: 2 * N], rtol=0, atol=1e-13 * exact[0])
    np.testing.assert_allclose(exact[2 * N :], 0, atol=1e-13 * exact[0])


@jax.jit
def of_cross_entropy(params, x, labels):
    weights = softmax_weights(MODEL.apply(params, x))
    return (
        gradient_gram(MODEL.apply, params, x, chunk=3, output_weights=weights),
        gauss_newton_trace(MODEL.apply, params, x, chunk=3, output_weights=weights),
        dense_matrix(
            partial(gauss_newton_vp, MODEL.apply, cross_entropy, params, (x, labels)), params
        ),
    )


@given(seed=SEEDS)
def test_output_weights_make_it_the_gauss_newton_matrix_of_cross_entropy(seed):
    params, x = problem(seed)
    labels = jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(2), N))
    gram, trace, gauss_newton = of_cross_entropy(params, x, labels)
    exact = np.linalg.eigvalsh(gauss_newton)
    np.testing.assert_allclose(trace, exact.sum(), rtol=1e-12)
    found = np.linalg.eigvalsh(np.asarray(gram).reshape(2 * N, 2 * N) / N)
    np.testing.assert_allclose(found, exact[-2 * N :], rtol=0, atol=1e-13 * exact[-1])


def test_networks_without_an_output_axis():
    """(n,) outputs give (n, n); weights of examples are then numbers."""
    model = committee(3, 4, second_layer="trained")
    params, x = model.init(jax.random.key(0)), problem(0)[1]
    exact = empirical_ntk(model.apply, params, x)
    np.testing.assert_allclose(gradient_gram(model.apply, params, x, chunk=2), exact, rtol=1e-12)
    weights = jnp.arange(1.0, N + 1)
    weighted = gradient_gram(model.apply, params, x, output_weights=weights)
    np.testing.assert_allclose(weighted, np.outer(weights, weights) * exact, rtol=1e-12)
    trace = gauss_newton_trace(model.apply, params, x, output_weights=weights)
    np.testing.assert_allclose(trace, np.trace(weighted) / N, rtol=1e-12)


def test_the_tangent_kernel_runs_over_outputs_first():
    params, x = problem(0)
    gram = np.asarray(gradient_gram(MODEL.apply, params, x))
    kernel = np.asarray(empirical_ntk(MODEL.apply, params, x))
    for o, i, p, j in ((0, 0, 1, 0), (1, 2, 0, 6), (1, 6, 1, 5)):
        np.testing.assert_allclose(kernel[o * N + i, p * N + j], gram[i, o, j, p], rtol=1e-12)


def test_bad_input_is_refused():
    params, x = problem(0)
    for measure in (gradient_gram, gauss_newton_trace):
        with pytest.raises(ValueError, match="chunk must be an integer >= 1"):
            measure(MODEL.apply, params, x, chunk=0)
        with pytest.raises(ValueError, match="x must hold examples"):
            measure(MODEL.apply, params, x[:0])
        with pytest.raises(ValueError, match="apply must give"):
            measure(lambda w, x: jnp.sum(x), params, x)
        with pytest.raises(ValueError, match="output_weights must be"):
            measure(MODEL.apply, params, x, output_weights=jnp.ones((N, 2)))
