"""Tree-structured data: formulas against explicit trees, eigensolvers and sampling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.deep_linear.semantic import (
    level_learning_times,
    object_analyzers,
    sample_tree_dataset,
    tree_covariance,
    tree_singular_values,
)

TREES = st.sampled_from([(2, 1), (2, 4), (3, 2), (5, 1), (1, 3)])
BRANCHED = st.sampled_from([(2, 1), (2, 5), (7, 2)])
FLIPS = st.one_of(
    st.sampled_from([0.0, 0.5, 1e-12, 0.5 - 1e-12]),
    st.floats(0, 0.5),
    st.floats(-9, -1).map(lambda x: 10.0**x),
)
# Levels differ by (branching (1 - 2 flip)^2)^5 at most: beyond 0.45 that drowns in rounding.
INNER_FLIPS = st.one_of(st.floats(-9, -1).map(lambda x: 10.0**x), st.floats(0.1, 0.45))


def walk_covariance(branching, depth, flip):
    """E[y_i y_j] by walking up from both leaves until the paths (child numbers) agree."""
    paths = list(itertools.product(range(branching), repeat=depth))
    covariance = np.empty((len(paths), len(paths)))
    for i, j in itertools.product(range(len(paths)), repeat=2):
        common = 0
        while common < depth and paths[i][common] == paths[j][common]:
            common += 1
        covariance[i, j] = (1 - 2 * flip) ** (2 * (depth - common))
    return covariance


@given(tree=TREES, flip=FLIPS)
def test_covariance_of_an_explicit_tree(tree, flip):
    np.testing.assert_allclose(
        tree_covariance(*tree, flip), walk_covariance(*tree, flip), rtol=1e-12, atol=1e-30
    )


@given(tree=TREES, flip=FLIPS, n_features=st.sampled_from([1, 1000]))
def test_spectrum_is_that_of_the_covariance(tree, flip, n_features):
    values, multiplicity = tree_singular_values(*tree, flip, n_features)
    expected = np.linalg.eigvalsh(walk_covariance(*tree, flip))
    found = np.sort(np.repeat(np.asarray(values) ** 2 / n_features, multiplicity))
    np.testing.assert_allclose(found, expected, atol=1e-14 * len(expected) ** 2)


@given(tree=TREES, flip=FLIPS)
def test_trace_is_the_number_of_items(tree, flip):
    branching, depth = tree
    values, multiplicity = map(np.asarray, tree_singular_values(*tree, flip, 10))
    assert values.shape == multiplicity.shape == (depth + 1,)
    assert multiplicity.sum() == branching**depth
    np.testing.assert_allclose(np.sum(multiplicity * values**2), 10 * branching**depth, rtol=1e-13)


@given(tree=BRANCHED, flip=INNER_FLIPS)
def test_broad_distinctions_have_larger_singular_values(tree, flip):
    values = np.asarray(tree_singular_values(*tree, flip, 1).values)
    assert (np.diff(values) < 0).all()
    assert (values > 0).all()


@given(tree=BRANCHED)
def test_identical_and_unrelated_items(tree):
    """No flips: one mode, of all items. Coin flips: no structure, all modes alike."""
    items = tree[0] ** tree[1]
    same, _ = tree_singular_values(*tree, 0.0, 9)
    np.testing.assert_allclose(same, [3 * np.sqrt(items), *np.zeros(tree[1])], rtol=1e-15)
    unrelated, _ = tree_singular_values(*tree, 0.5, 9)
    np.testing.assert_allclose(unrelated, 3.0, rtol=1e-15)


@given(flip=st.floats(-200, -10).map(lambda x: 10.0**x))
def test_rare_flips_lose_no_digits(flip):
    """L_l -> 4 flip sum_{j<=D-l} B^j: the finest level has the variance of a single branch."""
    values = np.asarray(tree_singular_values(3, 3, flip, 1).values)
    expected = 4 * flip * np.cumsum(3 ** np.arange(3))[::-1]
    np.testing.assert_allclose(values[1:] ** 2, expected, rtol=1e-8)


@given(tree=TREES, flip=FLIPS)
def test_object_analyzers_diagonalise_the_covariance(tree, flip):
    vectors, level = map(np.asarray, object_analyzers(*tree))
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-14)
    values, multiplicity = tree_singular_values(*tree, flip, 1)
    np.testing.assert_array_equal(np.bincount(level, minlength=tree[1] + 1), multiplicity)
    values = np.asarray(values)
    diagonal = vectors @ walk_covariance(*tree, flip) @ vectors.T
    np.testing.assert_allclose(diagonal, np.diag(values[level] ** 2), atol=1e-12)


@pytest.fixture(scope="module")
def sampled():
    branching, depth, flip, n_features = 3, 2, 0.2, 20_000
    data = sample_tree_dataset(jax.random.key(0), branching, depth, flip, n_features)
    return (branching, depth, flip, n_features), np.asarray(data)


def test_samples_have_the_covariance(sampled):
    (branching, depth, flip, n_features), data = sampled
    assert data.shape == (branching**depth, n_features)
    np.testing.assert_array_equal(np.abs(data), 1)
    covariance = np.asarray(tree_covariance(branching, depth, flip))
    # A product of two signs has variance 1 - covariance^2.
    standard_error = np.sqrt((1 - covariance**2) / n_features)
    error = np.abs(data @ data.T / n_features - covariance)
    assert (error <= 4 * standard_error).all()
    assert (np.abs(data.mean(1)) <= 4 / np.sqrt(n_features)).all()  # fair coin at the root


def test_samples_have_the_singular_values(sampled):
    """Variance of the features along each object analyzer, 4 standard errors."""
    (branching, depth, flip, n_features), data = sampled
    vectors, level = map(np.asarray, object_analyzers(branching, depth))
    values = np.asarray(tree_singular_values(branching, depth, flip, n_features).values)
    squares = (vectors @ data) ** 2
    standard_error = squares.std(1) * np.sqrt(n_features)
    error = np.abs(squares.sum(1) - values[level] ** 2)
    assert (error <= 4 * standard_error).all()
    # The sampled singular values themselves are off by 1/sqrt(features).
    found = np.linalg.svd(data, compute_uv=False)
    np.testing.assert_allclose(found, values[level], rtol=4 / np.sqrt(n_features) * len(level))


def test_samples_at_the_extremes():
    key = jax.random.key(1)
    same = np.asarray(sample_tree_dataset(key, 2, 3, 0.0, 5000))
    np.testing.assert_array_equal(same, np.broadcast_to(same[0], (8, 5000)))
    assert len(np.unique(same[0])) == 2
    unrelated = np.asarray(sample_tree_dataset(key, 2, 3, 0.5, 5000))
    correlation = unrelated @ unrelated.T / 5000
    assert (np.abs(correlation - np.eye(8)) <= 4 / np.sqrt(5000)).all()


def test_samples_depend_on_the_key_and_nothing_else():
    def sample(key):
        return sample_tree_dataset(key, 2, 3, 0.3, 5000)

    keys = jax.random.split(jax.random.key(2), 2)
    first, second = np.asarray(jax.vmap(sample)(keys))
    assert (first != second).any()
    np.testing.assert_array_equal(first, sample(keys[0]))


@given(tree=BRANCHED, flip=st.floats(0.01, 0.45), layers=st.sampled_from([2, 3]))
def test_levels_are_learned_from_the_root_down(tree, flip, layers):
    """Progressive differentiation: half-learning times strictly increase with the level."""
    times = np.asarray(level_learning_times(*tree, flip, 1000, 1e-6, layers=layers))
    assert times.shape == (tree[1] + 1,)
    assert (np.diff(times) > 0).all()
    if layers == 2:
        s = np.asarray(tree_singular_values(*tree, flip, 1000).values)
        np.testing.assert_allclose(times, np.log((s - 1e-6) / 1e-6) / (2 * s), rtol=1e-9)
        slower = level_learning_times(*tree, flip, 1000, 1e-6, tau=3.0)
        np.testing.assert_allclose(slower, 3 * times, rtol=1e-13)


def test_derivatives_and_dtypes():
    def eigenvalues(flip):
        return tree_singular_values(2, 3, flip, 1).values ** 2

    flips = np.array([1e-6, 0.1, 0.5])
    slopes = jax.vmap(jax.jacfwd(eigenvalues))(flips)
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[2], 0, atol=1e-14)  # rho = (1 - 2 flip)^2 has its minimum
    step = 1e-6
    rise = (eigenvalues(0.1 + step) - eigenvalues(0.1 - step)) / (2 * step)
    np.testing.assert_allclose(slopes[1], rise, rtol=1e-8)
    flip = jnp.float32(0.1)
    assert tree_singular_values(2, 3, flip, 10).values.dtype == jnp.float32
    assert tree_covariance(2, 3, flip).dtype == jnp.float32
    assert sample_tree_dataset(jax.random.key(0), 2, 3, flip, 4).dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2, 0.1), "branching must be an integer >= 1, got 0"),
        ((2.5, 2, 0.1), "branching must be an integer >= 1, got 2.5"),
        ((2, 0, 0.1), "depth must be an integer >= 1, got 0"),
        ((2, 1.0, 0.1), "depth must be an integer >= 1, got 1.0"),
        ((2, 2, -0.1), "flip must be between 0 and 1/2, got -0.1"),
        ((2, 2, 0.6), "flip must be between 0 and 1/2, got 0.6"),
        ((2, 2, np.nan), "flip must be between 0 and 1/2, got nan"),
    ],
)
def test_bad_trees_are_named(arguments, message):
    key = jax.random.key(0)
    calls = (
        lambda: tree_covariance(*arguments),
        lambda: tree_singular_values(*arguments, 10),
        lambda: sample_tree_dataset(key, *arguments, 10),
        lambda: level_learning_times(*arguments, 10, 1e-3),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: object_analyzers(0, 2), "branching must be an integer"),
        (lambda: object_analyzers(2, 0), "depth must be an integer"),
        (lambda: tree_singular_values(2, 2, 0.1, 0), "n_features must be positive"),
        (lambda: sample_tree_dataset(jax.random.key(0), 2, 2, 0.1, 0), "n_features must be an"),
        (lambda: level_learning_times(2, 2, 0.0, 10, 1e-3), "s must be positive"),
        (lambda: level_learning_times(2, 2, 0.1, 10, -1.0), "u0 must be positive"),
        (lambda: level_learning_times(2, 2, 0.1, 10, 1e-3, layers=0), "depth must be an integer"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
