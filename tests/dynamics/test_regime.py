"""How far training moved a network, against what the movement is by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.models import mlp
from dynamics.regime import (
    kernel_alignment,
    kernel_change,
    representation_alignment,
    weight_change,
)
from dynamics.tangent_kernel import empirical_ntk

SEEDS = st.integers(0, 2**31 - 1)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_alignment_is_a_cosine(seed, scale):
    first, second = np.random.default_rng(seed).standard_normal((2, 6, 3))
    kernels = first @ first.T, second @ second.T
    found = float(kernel_alignment(*kernels))
    vectors = [k.ravel() / np.sqrt(np.trace(k @ k)) for k in kernels]
    np.testing.assert_allclose(found, vectors[0] @ vectors[1], rtol=1e-12)
    assert 0 <= found <= 1
    np.testing.assert_allclose(kernel_alignment(kernels[0], scale * kernels[1]), found, rtol=1e-12)
    np.testing.assert_allclose(representation_alignment(first, scale * second), found, rtol=1e-12)
    change = np.sqrt(((kernels[1] - kernels[0]) ** 2).sum() / (kernels[0] ** 2).sum())
    np.testing.assert_allclose(kernel_change(*kernels), change, rtol=1e-12)


@given(seed=SEEDS)
def test_representations_do_not_change_by_rotation(seed):
    rng = np.random.default_rng(seed)
    hidden, turn = rng.standard_normal((5, 4)), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert representation_alignment(hidden, hidden @ turn) == pytest.approx(1, abs=1e-14)


def test_weight_change_runs_over_all_leaves():
    params = mlp((2, 3, 1)).init(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    moved = jax.tree.map(lambda leaf: leaf + 2.0, params)
    np.testing.assert_allclose(weight_change(params, moved), 2 * np.sqrt(count), rtol=1e-14)


@given(seed=SEEDS)
def test_tangent_kernel_tells_how_a_small_gradient_step_moves_the_outputs(seed):
    """df/dt = Theta (y - f) by finite differences, on a nonlinear network with biases."""
    model = mlp((3, 5, 2), bias_variance=0.5)
    params = model.init(jax.random.key(seed))
    x, y = np.random.default_rng(seed).standard_normal((2, 4, 3))
    residual = (y[:, :2] - model.apply(params, x)).T.reshape(-1)

    def moved(step):
        def loss(params):
            return 0.5 * jnp.sum((model.apply(params, x) - y[:, :2]) ** 2)

        gradient = jax.grad(loss)(params)
        stepped = jax.tree.map(lambda w, g: w - step * g, params, gradient)
        return np.asarray(model.apply(stepped, x).T.reshape(-1))

    velocity = (moved(1e-5) - moved(-1e-5)) / 2e-5
    expected = empirical_ntk(model.apply, params, jnp.asarray(x)) @ residual
    # Central differences: third derivatives times h^2 = 1e-10, rounding eps / h = 2e-11.
    np.testing.assert_allclose(velocity, expected, atol=1e-8 * (1 + np.abs(expected).max()) ** 3)


def test_tangent_kernel_rejects_outputs_of_another_shape():
    with pytest.raises(ValueError, match="apply must give"):
        empirical_ntk(lambda w, x: w * x[:, None, None, 0], jnp.ones(()), jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="apply must give"):
        empirical_ntk(lambda w, x: jnp.sum(x @ w), jnp.ones(2), jnp.ones((4, 2)))
