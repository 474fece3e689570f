"""Products with curvature against dense matrices; smooth activations, and why."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dynamics.adapters import from_linen
from dynamics.curvature import (
    curvature_along,
    dense_matrix,
    gauss_newton_vp,
    hessian_form,
    hvp,
    inner,
    require_deterministic,
)
from dynamics.losses import half_squared_error
from dynamics.models import mlp

SEEDS = st.integers(0, 2**31 - 1)
N, N_IN, N_OUT = 5, 3, 2
MODELS = {
    name: mlp((N_IN, 4, N_OUT), activation=name, bias_variance=0.3)
    for name in ("tanh", "relu", "linear")
}


def half_square(outputs, y):
    return 0.5 * jnp.sum((outputs - y) ** 2) / N


def problem(seed, activation="tanh"):
    rng = np.random.default_rng(seed)
    params = MODELS[activation].init(jax.random.key(seed))
    batch = rng.standard_normal((N, N_IN)), rng.standard_normal((N, N_OUT))
    u, v = (
        jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), params)
        for _ in range(2)
    )
    return params, jax.tree.map(jnp.asarray, batch), u, v


@partial(jax.jit, static_argnums=0)
def matrices(activation, params, batch):
    """Hessian and Gauss-Newton matrix, by products and by nested derivatives of flat vectors."""
    apply = MODELS[activation].apply
    loss = half_squared_error(apply, examples="mean")
    products = (
        dense_matrix(partial(hvp, loss, params, batch), params),
        dense_matrix(partial(gauss_newton_vp, apply, half_square, params, batch), params),
    )
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacfwd(lambda w: apply(unravel(w), batch[0]).ravel())(flat)
    dense = jax.hessian(lambda w: loss(unravel(w), batch))(flat), jacobian.T @ jacobian / N
    return products, dense


@given(seed=SEEDS)
def test_products_equal_dense_matrices(seed):
    params, batch, _, _ = problem(seed)
    products, dense = matrices("tanh", params, batch)
    for found, expected in zip(products, dense, strict=True):
        # rounding of sums of a few hundred products
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    assert np.linalg.eigvalsh(products[1])[0] > -1e-13 * np.abs(products[1]).max()


@jax.jit
def forms(params, batch, u, v):
    loss = half_squared_error(MODELS["tanh"].apply, examples="mean")
    hessian = partial(hvp, loss, params, batch)
    mixed = jax.tree.map(lambda a, b: 2 * a - 3 * b, u, v)
    reverse_twice = jax.grad(lambda p: inner(jax.grad(loss)(p, batch), v))(params)
    return (
        hessian(u),
        hessian(v),
        hessian(mixed),
        reverse_twice,
        curvature_along(loss, params, batch, v),
        hessian_form(loss, params, batch, v),
    )


@given(seed=SEEDS)
def test_hessian_is_symmetric_and_linear_and_both_orders_of_differentiation_agree(seed):
    params, batch, u, v = problem(seed)
    hu, hv, mixed, reverse_twice, along, form = forms(params, batch, u, v)
    size = float(jnp.sqrt(inner(hu, hu) * inner(v, v)) + jnp.sqrt(inner(hv, hv) * inner(u, u)))
    assert abs(float(inner(u, hv) - inner(v, hu))) <= 1e-14 * size
    np.testing.assert_allclose(along, inner(v, hv) / inner(v, v), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(form, inner(v, hv), rtol=0, atol=1e-14 * size)
    flat = [np.asarray(ravel_pytree(tree)[0]) for tree in (hu, hv, mixed, reverse_twice)]
    scale = np.abs(flat[0]).max() + np.abs(flat[1]).max()
    np.testing.assert_allclose(flat[2], 2 * flat[0] - 3 * flat[1], rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(flat[3], flat[1], rtol=0, atol=1e-13 * scale)


@given(seed=SEEDS, activation=st.sampled_from(["relu", "linear"]))
def test_hessian_and_gauss_newton_have_one_trace_if_layers_are_piecewise_linear(seed, activation):
    """At random parameters and labels: second derivatives of f in one and the same W_l vanish."""
    params, batch, _, _ = problem(seed, activation)
    (hessian, gauss_newton), _ = matrices(activation, params, batch)
    np.testing.assert_allclose(np.trace(hessian), np.trace(gauss_newton), rtol=1e-12)


@given(seed=SEEDS, scale=st.floats(1e-6, 1e3))
def test_hessian_leaves_gauss_newton_in_proportion_to_the_residuals(seed, scale):
    params, (x, y), _, _ = problem(seed)
    outputs = MODELS["tanh"].apply(params, x)
    gaps = []
    for residuals in (y, scale * y):
        (hessian, gauss_newton), _ = matrices("tanh", params, (x, outputs - residuals))
        gaps.append(np.asarray(hessian - gauss_newton))
    size = np.abs(gauss_newton).max()  # the difference is rounded at this level
    tolerance = 1e-13 * (1 + scale) * (size + np.abs(gaps[0]).max())
    np.testing.assert_allclose(gaps[1], scale * gaps[0], rtol=0, atol=tolerance)


def test_flax_modules_and_float32_pass_through():
    module = linen.Sequential([linen.Dense(4), jnp.tanh, linen.Dense(N_OUT)])
    _, (x, y), _, _ = problem(0)
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    model = from_linen(module, x)
    params = model.init(jax.random.key(0))
    loss = half_squared_error(model.apply, examples="mean")
    hessian = dense_matrix(partial(hvp, loss, params, (x, y)), params)
    assert hessian.dtype == jnp.float32
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-6)
    double = jax.tree.map(lambda a: a.astype(jnp.float64), (params, x, y))
    exact = dense_matrix(partial(hvp, loss, double[0], double[1:]), double[0])
    np.testing.assert_allclose(hessian, exact, atol=1e-5)


def test_on_the_kink_of_a_relu_products_and_differences_disagree():
    """The trap for property tests: training puts pre-activations onto kinks, and there no
    second derivative exists. The product takes one side, a central difference averages both."""

    def loss(w, x):
        return jnp.sum(jax.nn.relu(w * x)) ** 2 / 2

    gradient = jax.grad(loss)
    found = hvp(loss, 0.0, jnp.ones(1), 1.0)
    for step in (1e-2, 1e-5, 1e-8):
        difference = (gradient(step, jnp.ones(1)) - gradient(-step, jnp.ones(1))) / (2 * step)
        np.testing.assert_allclose(difference, 0.5, rtol=1e-9)
    assert found in (0.0, 1.0)


def test_a_loss_that_draws_at_random_is_noticed():
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="loss must be deterministic"):
        require_deterministic(lambda w, x: w * random.normal(), 1.0, None)
    for value in (1.0, 0.0, float("nan"), float("inf")):
        require_deterministic(lambda w, x: jnp.asarray(w), value, None)


def test_vectors_of_other_shapes_are_refused():
    params, batch, _, v = problem(0)
    loss = half_squared_error(MODELS["tanh"].apply, examples="mean")
    for wrong in (v[:1], jax.tree.map(lambda leaf: leaf[..., :1], v)):
        with pytest.raises(ValueError, match="v must have the shapes of params"):
            hvp(loss, params, batch, wrong)
        with pytest.raises(ValueError, match="v must have the shapes of params"):
            hessian_form(loss, params, batch, wrong)
        with pytest.raises(ValueError, match="v must have the shapes of params"):
            gauss_newton_vp(MODELS["tanh"].apply, half_square, params, batch, wrong)
    with pytest.raises(ValueError, match="like must hold real floating-point"):
        dense_matrix(lambda v: v, jnp.arange(3))
    with pytest.raises(ValueError, match="matvec must return 3 numbers, got 2"):
        dense_matrix(lambda v: v[:2], jnp.ones(3))
