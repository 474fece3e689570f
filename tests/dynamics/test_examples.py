"""Scores of examples against the tangent kernel, loops over networks, and steps of training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.examples import el2n, grand
from dynamics.models import mlp
from dynamics.tangent_kernel import ntk_diagonal

SEEDS = st.integers(0, 2**31 - 1)
N, D, C, NETWORKS = 5, 3, 4, 3
MODEL = mlp((D, 6, C), activation="gelu", bias_variance=0.3)


def problem(seed, networks=NETWORKS):
    rng = np.random.default_rng(seed)
    params = jax.vmap(MODEL.init)(jax.random.split(jax.random.key(seed), networks))
    labels = jax.nn.one_hot(jnp.asarray(rng.integers(0, C, N)), C, dtype=float)
    return params, jnp.asarray(rng.standard_normal((N, D))), labels


@jax.jit
def scores(params, x, y):
    """Both scores, and by network errors, gradient norms and tangent kernel blocks."""

    def one(network):
        error = jax.nn.softmax(MODEL.apply(network, x)) - y
        return error, ntk_diagonal(MODEL.apply, network, x)

    errors, blocks = jax.vmap(one)(params)
    norms = jnp.sqrt(jnp.einsum("sna,snab,snb->sn", errors, blocks, errors))
    found = {chunk: grand(MODEL.apply, params, x, y, chunk=chunk) for chunk in (2, 32)}
    return found, el2n(MODEL.apply, params, x, y), norms, jnp.linalg.norm(errors, axis=2)


def is_mean_of(score, samples):
    np.testing.assert_allclose(score.value, samples.mean(0), rtol=1e-12)
    expected = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    # differences of like numbers
    np.testing.assert_allclose(score.standard_error, expected, rtol=1e-9, atol=1e-12)


@given(seed=SEEDS)
def test_scores_are_means_over_networks_of_kernel_and_error_norms(seed):
    """|grad CE|^2 = (p - y)^T Theta(x, x) (p - y), the gradient of no loss on the right."""
    found, error, norms, lengths = scores(*problem(seed))
    for score in found.values():
        is_mean_of(score, np.asarray(norms))
    is_mean_of(error, np.asarray(lengths))
    assert np.all(np.asarray(error.value) <= np.sqrt(2))


def test_a_single_network_has_no_standard_error():
    for score in scores(*problem(0, networks=1))[0].values():
        assert np.isfinite(score.value).all()
        assert np.isnan(score.standard_error).all()


def test_leaving_an_example_out_changes_a_step_by_at_most_the_gradient_norms():
    params, x, y = problem(1, networks=1)
    network = jax.tree.map(lambda leaf: leaf[0], params)
    norms = np.asarray(grand(MODEL.apply, params, x, y).value)

    def losses(p):
        return -jnp.sum(y * jax.nn.log_softmax(MODEL.apply(p, x)), axis=1)

    gradients = jax.jacrev(losses)(network)
    rate = 1e-6

    def after(kept):
        return losses(jax.tree.map(lambda w, g: w - rate * g[kept].sum(0), network, gradients))

    everyone = np.arange(N)
    for left_out in range(N):
        change = np.abs(after(everyone) - after(everyone[everyone != left_out]))
        # second order in the rate
        assert np.all(change <= rate * norms * norms[left_out] * (1 + 1e-3))
        np.testing.assert_allclose(change[left_out], rate * norms[left_out] ** 2, rtol=1e-3)


def test_bad_input_is_refused():
    params, x, y = problem(0)
    single = jax.tree.map(lambda leaf: leaf[0], params)
    for score in (grand, el2n):
        measure = partial(score, MODEL.apply)
        with pytest.raises(ValueError, match="params must have networks on one leading axis"):
            measure(single, x, y)
        with pytest.raises(ValueError, match="apply must give logits like y"):
            measure(params, x, y[:, :2])
    with pytest.raises(ValueError, match="chunk must be an integer >= 1"):
        grand(MODEL.apply, params, x, y, chunk=0)
