"""Groups, their irreducible representations, and the energy whose maxima they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.grokking.feature_energy import (
    ascend,
    energy,
    feature_gradient,
    group_energy,
    group_samples,
    maximal_energies,
    ridge_readout,
)
from theory.grokking.groups import (
    cyclic_table,
    irreps,
    quaternion_table,
    require_group,
    symmetric_table,
)

TABLES = {
    "Z7": cyclic_table(7),
    "Z6": cyclic_table(6),
    "S3": symmetric_table(3),
    "Q8": quaternion_table(),
}
seeds = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize("name", TABLES)
def test_characters_are_orthonormal_and_dimensions_squared_add_up(name):
    table = TABLES[name]
    require_group(table)
    found = irreps(table)
    gram = found.characters @ found.characters.conj().T / len(table)
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-9)
    assert np.sum(found.dimensions**2) == len(table)


def test_kinds_of_representations_are_the_known_ones():
    assert irreps(TABLES["Z7"]).indicators.tolist().count(0) == 6
    assert sorted(irreps(TABLES["Z6"]).indicators.tolist()) == [0, 0, 0, 0, 1, 1]
    assert irreps(symmetric_table(4)).dimensions.tolist() == [1, 1, 2, 3, 3]
    found = irreps(TABLES["Q8"])
    assert found.dimensions.tolist() == [1, 1, 1, 1, 2]
    assert found.indicators.tolist() == [1, 1, 1, 1, -1]


@given(seeds, st.sampled_from(["Z6", "S3"]))
def test_the_energy_of_all_pairs_is_a_convolution(seed, name):
    table = TABLES[name]
    w = np.random.default_rng(seed).standard_normal(2 * len(table))
    brute = float(energy(w, *group_samples(table)))
    assert float(group_energy(w, table)) == pytest.approx(brute, rel=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_ascent_from_random_starts_ends_at_representations(name):
    table = TABLES[name]
    start = jax.random.normal(jax.random.key(0), (24, 2 * len(table)))
    found = ascend(start, *group_samples(table), learning_rate=0.05, steps=6000)
    allowed = np.unique(maximal_energies(table)[1:].round(12))  # the trivial one has none
    distance = np.abs(np.asarray(found.energy)[:, None] - allowed[None]).min(axis=1)
    done = np.asarray(found.residual) < 1e-7  # starts beside a saddle take longer
    assert done.mean() > 0.8
    assert distance[done].max() < 1e-9
    halves = np.asarray(found.weights).reshape(24, 2, -1)
    np.testing.assert_allclose((halves**2).sum(axis=2)[done], 0.5, atol=1e-6)


def test_quaternionic_features_are_stationary_at_a_quarter_over_d():
    """u, v in the isotypic part of the 2-dimensional irrep of Q8: ascent inside it stays in it."""
    table = TABLES["Q8"]
    character = irreps(table).characters[-1].real
    inverse = np.argmax(table == 0, axis=1)
    projector = 2 / 8 * character[table[:, inverse]]  # d/M sum_g chi(g)^* rho(g)
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)
    start = jax.random.normal(jax.random.key(1), (8, 2, 8)) @ projector.T
    x, y = group_samples(table)
    found = ascend(start.reshape(8, -1), x, y, learning_rate=0.05, steps=300)
    np.testing.assert_allclose(found.energy, 8 / (4 * 2), rtol=1e-9)


@given(seeds, st.floats(1e-2, 10))
def test_what_reaches_the_features_is_the_gradient_behind_a_ridge_readout(seed, ridge):
    rng = np.random.default_rng(seed)
    features, y = jnp.asarray(rng.standard_normal((6, 4))), jnp.asarray(rng.standard_normal((6, 3)))
    readout = ridge_readout(features, y, ridge)
    gradient = jax.grad(lambda f: -jnp.sum((y - f @ readout) ** 2) / 2)(features)
    scale = float(jnp.abs(gradient).max())
    condition = 1 + float(jnp.sum(features**2)) / ridge
    np.testing.assert_allclose(
        feature_gradient(features, y, ridge), gradient, atol=1e-14 * condition * (1 + scale)
    )


def test_many_random_features_are_driven_along_the_energy():
    """The mean cosine grows with the number of features: 0.27, 0.63, 0.82 at 64, 512, 4096."""
    table, rng = cyclic_table(11), np.random.default_rng(0)
    x, y = (array[rng.permutation(121)[:70]] for array in group_samples(table))
    y = y - y.mean(axis=0, keepdims=True)

    def cosine(count):
        w = jax.random.normal(jax.random.key(2), (count, 22)) / 22**0.5
        h = x @ w.T
        features = h**2
        features = features - features.mean(axis=0, keepdims=True)
        driven = (feature_gradient(features, y, 1e-2) * 2 * h).T @ x
        climbing = jax.vmap(jax.grad(energy), (0, None, None))(w, x, y)
        products = jnp.sum(driven * climbing, axis=1)
        norms = jnp.linalg.norm(driven, axis=1) * jnp.linalg.norm(climbing, axis=1)
        return float(jnp.mean(products / norms))

    few, many = cosine(32), cosine(2048)
    assert many > 0.6
    assert many > few + 0.1


def test_tables_that_are_no_groups_are_refused():
    with pytest.raises(ValueError, match="square"):
        require_group(np.zeros((2, 3), int))
    loop = np.array(  # a Latin square with a unit, not associative
        [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
    )
    with pytest.raises(ValueError, match="associative"):
        irreps(loop)
