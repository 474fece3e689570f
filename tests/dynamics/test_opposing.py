"""Statistics of opposing signals against loops over examples and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics import models
from dynamics.losses import half_squared_error
from dynamics.opposing import (
    example_losses,
    gradient_cosine,
    group_correlation,
    opposing_groups,
)

SEEDS = st.integers(0, 2**16)
NETWORK = models.mlp((3, 4, 2))
LOSS = half_squared_error(NETWORK.apply, examples="mean")
FIRST, SECOND = np.array([0, 3]), np.array([1, 4, 5])


def problem(seed):
    rng = np.random.default_rng(seed)
    data = jnp.asarray(rng.standard_normal((6, 3))), jnp.asarray(rng.standard_normal((6, 2)))
    return NETWORK.init(jax.random.key(seed)), data


each = jax.jit(lambda params, data: example_losses(LOSS, params, data))
cosine = jax.jit(lambda params, data: gradient_cosine(LOSS, params, data, FIRST, SECOND))
gradient = jax.jit(jax.grad(LOSS))


@given(SEEDS)
def test_example_losses_are_those_of_single_examples_and_average_to_the_loss(seed):
    params, (x, y) = problem(seed)
    found = np.asarray(each(params, (x, y)))
    outputs = np.asarray(NETWORK.apply(params, x))
    np.testing.assert_allclose(found, ((outputs - y) ** 2).sum(axis=1) / 2, rtol=1e-12)
    assert found.mean() == pytest.approx(float(LOSS(params, (x, y))), rel=1e-12)


@given(SEEDS)
def test_cosine_is_that_of_the_mean_of_single_gradients(seed):
    params, data = problem(seed)

    def mean(group):
        single = [gradient(params, jax.tree.map(lambda a, i=i: a[i : i + 1], data)) for i in group]
        flat = [np.concatenate([np.ravel(w) for w in jax.tree.leaves(g)]) for g in single]
        return np.mean(flat, axis=0)

    a, b = mean(FIRST), mean(SECOND)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert float(cosine(params, data)) == pytest.approx(expected, abs=1e-10)


@given(SEEDS, st.integers(1, 5))
def test_groups_are_the_ends_of_the_sorted_changes(seed, size):
    changes = np.random.default_rng(seed).standard_normal((4, 10))
    found = opposing_groups(changes, size)
    order = np.argsort(changes, axis=-1)
    np.testing.assert_array_equal(found.rising, order[:, ::-1][:, :size])
    np.testing.assert_array_equal(found.falling, order[:, :size])
    swapped = opposing_groups(-changes, size)
    np.testing.assert_array_equal(swapped.rising, found.falling)


@given(SEEDS)
def test_correlation_is_numpys(seed):
    changes = np.random.default_rng(seed).standard_normal((9, 6))
    expected = np.corrcoef(changes[:, FIRST].mean(axis=1), changes[:, SECOND].mean(axis=1))[0, 1]
    assert float(group_correlation(changes, FIRST, SECOND)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: opposing_groups(jnp.zeros(5), 3), "size must be between 1 and half of the 5"),
        (lambda: opposing_groups(jnp.zeros(5), 0), "size must be between 1"),
        (lambda: group_correlation(jnp.zeros((1, 5)), FIRST, SECOND), "changes must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
