"""Alignment, batch sharpness and preconditioned sharpness against their dense definitions."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dynamics.curvature import curvature_along, dense_matrix, hvp
from dynamics.gram import gauss_newton_trace
from dynamics.losses import half_squared_error
from dynamics.models import mlp
from dynamics.stability import (
    alignment_factor,
    batch_sharpness,
    preconditioned_sharpness,
    preconditioner,
)

SEEDS = st.integers(0, 2**31 - 1)
N, WIDTH = 6, 3
MODEL = mlp((WIDTH, 4, 2))
LOSS = half_squared_error(MODEL.apply, examples="mean")


def problem(seed):
    rng = np.random.default_rng(seed)
    batch = jnp.asarray(rng.standard_normal((N, WIDTH))), jnp.asarray(rng.standard_normal((N, 2)))
    return MODEL.init(jax.random.key(seed)), batch


@given(seed=SEEDS, outputs=st.integers(1, 3))
def test_alignment_is_the_ratio_of_dense_matrices(seed, outputs):
    rng = np.random.default_rng(seed)
    jacobians, residuals = rng.standard_normal((N, outputs, 9)), rng.standard_normal((N, outputs))
    hessian = np.einsum("iak,ial->kl", jacobians, jacobians) / N
    gradients = np.einsum("iak,ia->ik", jacobians, residuals)
    covariance = np.cov(gradients.T, bias=True)
    loss = (residuals**2).sum() / (2 * N)
    exact = np.trace(hessian @ covariance) / (2 * loss * (hessian**2).sum())
    gram = np.einsum("iak,jbk->iajb", jacobians, jacobians)
    np.testing.assert_allclose(alignment_factor(gram, residuals), exact, rtol=1e-11)
    if outputs == 1:
        flat = alignment_factor(gram[:, 0, :, 0], residuals[:, 0])
        np.testing.assert_allclose(flat, exact, rtol=1e-11)


def linear_loss(w, batch):
    x, y = batch
    return jnp.mean((x @ w - y) ** 2) / 2


@given(seed=SEEDS)
def test_one_example_a_batch_gives_the_trace_whatever_the_residuals(seed):
    """H = Gauss-Newton for a linear model: |g|^2 = e^2 |x|^2, g^T H g = e^2 |x|^4."""
    rng = np.random.default_rng(seed)
    x, w, y = rng.standard_normal((N, WIDTH)), rng.standard_normal(WIDTH), rng.standard_normal(N)
    found = sharpness_of_examples(jnp.asarray(w), (jnp.asarray(x), jnp.asarray(y)))
    # all examples once: the batches of one example, drawn 600 times
    exact = gauss_newton_trace(lambda w, x: x @ w, jnp.asarray(w), jnp.asarray(x))
    assert abs(float(found.value - exact)) <= 5 * float(found.standard_error) + 1e-12
    spread = (x**2).sum(1).std() / np.sqrt(600)
    np.testing.assert_allclose(found.standard_error, spread, rtol=0.3)


@jax.jit
def sharpness_of_examples(w, data):
    return batch_sharpness(linear_loss, w, data, jax.random.key(0), batch_size=1, num_batches=600)


def enumerated(params, data, size):
    """g^T H g and |g|^2 of every batch of this size, by dense Hessians."""

    @jax.jit
    def both(chosen):
        batch = jax.tree.map(lambda leaf: leaf[chosen], data)
        g = ravel_pytree(jax.grad(LOSS)(params, batch))[0]
        return g @ dense_matrix(partial(hvp, LOSS, params, batch), params) @ g, g @ g

    pairs = [both(jnp.array(chosen)) for chosen in combinations(range(N), size)]
    return np.array(pairs).T


def test_both_forms_are_averages_over_all_batches():
    params, data = problem(0)
    curvatures, norms = enumerated(params, data, 2)
    exact = {
        "mean_of_ratios": np.mean(curvatures / norms),
        "ratio_of_means": curvatures.mean() / norms.mean(),
    }
    assert abs(exact["mean_of_ratios"] / exact["ratio_of_means"] - 1) > 0.05
    for form, value in exact.items():
        found = jax.jit(
            lambda key, form=form: batch_sharpness(
                LOSS, params, data, key, batch_size=2, num_batches=2000, form=form
            )
        )(jax.random.key(1))
        assert abs(float(found.value) - value) <= 4.5 * float(found.standard_error)
        assert found.standard_error < 0.02 * value
        assert found.num_matvecs == 2000


def test_a_full_batch_is_the_curvature_along_the_gradient():
    params, data = problem(0)
    found = batch_sharpness(LOSS, params, data, jax.random.key(0), batch_size=N, num_batches=2)
    exact = curvature_along(LOSS, params, data, jax.grad(LOSS)(params, data))
    np.testing.assert_allclose(found.value, exact, rtol=1e-12)
    assert found.standard_error <= 1e-12
    alone = batch_sharpness(LOSS, params, data, jax.random.key(0), batch_size=N, num_batches=1)
    assert np.isnan(alone.standard_error)


OPTIMIZERS = {
    "adam": (optax.adam(0.1), {}),
    "adamw": (optax.adamw(0.1, b1=0.8, b2=0.99, eps=1e-4), {"b1": 0.8, "b2": 0.99, "eps": 1e-4}),
    "eps_root": (optax.adam(0.1, eps_root=1e-3), {"eps_root": 1e-3}),
    "rmsprop": (optax.rmsprop(0.1), {}),
    "rmsprop_outside": (
        optax.rmsprop(0.1, eps=1e-3, eps_in_sqrt=False),
        {"eps": 1e-3, "eps_root": 0},
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_preconditioner_is_what_optax_divides_by(name):
    """The step optax takes, times P over -eta, is the momentum it took it along."""
    optimizer, constants = OPTIMIZERS[name]
    params = problem(0)[0]
    state = optimizer.init(params)
    for seed in range(3):
        gradient = jax.grad(LOSS)(params, problem(seed)[1])
        update, state = optimizer.update(gradient, state, jax.tree.map(jnp.zeros_like, params))
    diagonal = preconditioner(state, **constants)
    moment = gradient if name.startswith("rmsprop") else state[0].mu
    step = jax.tree.map(lambda p, u: -p * u / 0.1, diagonal, update)
    for found, expected in zip(jax.tree.leaves(step), jax.tree.leaves(moment), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_preconditioned_sharpness_is_the_top_eigenvalue_of_the_product():
    params, data = problem(3)
    optimizer = optax.adam(0.1)
    gradient = jax.grad(LOSS)(params, data)
    state = optimizer.update(gradient, optimizer.init(params))[1]
    found = preconditioned_sharpness(
        LOSS, params, data, state, jax.random.key(0), num_matvecs=26, tolerance=1e-9
    )
    hessian = np.asarray(dense_matrix(partial(hvp, LOSS, params, data), params))
    diagonal = np.asarray(ravel_pytree(preconditioner(state))[0])
    exact = np.linalg.eigvals(hessian / diagonal[:, None]).real.max()
    assert found.converged
    np.testing.assert_allclose(found.values, [exact], rtol=1e-9)


def test_bad_input_is_refused():
    params, data = problem(0)
    key = jax.random.key(0)
    cases = [
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"batch_size": 7}, "batch_size must be at most the number of examples, 6, got 7"),
        ({"num_batches": 0}, "num_batches must be an integer >= 1"),
        ({"form": "both"}, "form must be"),
        ({"data": (data[0], data[1][:3])}, "data must agree"),
    ]
    for change, message in cases:
        options = {"data": data, "batch_size": 2, "num_batches": 2} | change
        with pytest.raises(ValueError, match=message):
            batch_sharpness(LOSS, params, options.pop("data"), key, **options)
    with pytest.raises(ValueError, match="gram must be"):
        alignment_factor(jnp.eye(3), jnp.ones(2))
    with pytest.raises(ValueError, match="must hold one Adam or RMSProp state, got 0"):
        preconditioner(optax.sgd(0.1).init(params))
    with pytest.raises(ValueError, match="at least one update"):
        preconditioner(optax.adam(0.1).init(params))
    state = optax.rmsprop(0.1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="opt_state must belong to params"):
        preconditioned_sharpness(LOSS, params, data, state, key)
