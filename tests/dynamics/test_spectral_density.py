"""Lanczos quadrature: exact moments, traces of functions, densities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.operators import flat_operator, random_signs
from dynamics.spectral_density import (
    Quadrature,
    density,
    spectral_density,
    trace_of_function,
)

SEEDS = st.integers(0, 2**31 - 1)
SIZE = 16


@partial(jax.jit, static_argnums=(2, 3))
def quadrature(matrix, key, num_probes, num_steps):
    return spectral_density(
        lambda v: matrix @ v, jnp.ones(SIZE), key, num_probes=num_probes, num_steps=num_steps
    )


def symmetric(seed, eigenvalues):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]
    return jnp.asarray((rotation * eigenvalues) @ rotation.T)


def probe(key):
    """The unit vector of a single probe, from the documented splits of the key."""
    operator = flat_operator(lambda v: v, jnp.ones(SIZE))
    start = jax.random.split(jax.random.split(key, 1)[0])[0]
    return np.asarray(random_signs(start, operator)) / np.sqrt(SIZE)


@given(seed=SEEDS)
def test_moments_are_exact_up_to_degree_twice_the_steps_less_one(seed):
    a = symmetric(seed, np.random.default_rng(seed).uniform(-1, 1, SIZE))
    found = quadrature(a, jax.random.key(seed), 1, 4)
    nodes, weights = np.asarray(found.nodes)[0], np.asarray(found.weights)[0]
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-13)
    assert (np.diff(nodes) > 0).all()
    start = power = probe(jax.random.key(seed))
    for degree in range(1, 8):
        power = np.asarray(a) @ power
        np.testing.assert_allclose(weights @ nodes**degree, start @ power, rtol=0, atol=1e-13)
    beyond = start @ np.asarray(a) @ power  # one degree more, and it is below the true moment
    assert weights @ nodes**8 < beyond - 1e-10


@given(seed=SEEDS, rank=st.integers(0, 3))
def test_invariant_subspaces_end_a_probe_exactly(seed, rank):
    eigenvalues = np.r_[np.arange(1.0, rank + 1), np.zeros(SIZE - rank)]
    a = symmetric(seed, eigenvalues)
    found = quadrature(a, jax.random.key(seed), 1, 8)
    start = probe(jax.random.key(seed))
    values, vectors = np.linalg.eigh(np.asarray(a))
    exact = np.exp(values) @ (vectors.T @ start) ** 2
    np.testing.assert_allclose(np.exp(found.nodes) @ found.weights[0], [exact], rtol=1e-12)
    # nodes that carry weight are eigenvalues
    carried = np.asarray(found.nodes)[np.asarray(found.weights) > 1e-12]
    assert np.abs(carried[:, None] - eigenvalues).min(axis=1).max(initial=0) < 1e-9


def test_traces_of_functions_within_their_standard_error():
    eigenvalues = np.linspace(0, 3, SIZE)
    found = quadrature(symmetric(0, eigenvalues), jax.random.key(0), 200, 8)
    assert (found.dimension, found.num_matvecs) == (SIZE, 1600)
    for f in (jnp.exp, jnp.square):
        estimate = trace_of_function(f, found)
        exact = f(eigenvalues).sum()
        assert abs(float(estimate.value) - exact) <= 5 * float(estimate.standard_error)
        assert estimate.standard_error < exact / 20
    # more steps than parameters: the whole spectrum
    full = quadrature(symmetric(0, eigenvalues), jax.random.key(0), 2, 99)
    assert full.num_matvecs == 2 * SIZE
    np.testing.assert_allclose(full.nodes[0], eigenvalues, atol=1e-9)
    assert np.isnan(
        trace_of_function(jnp.exp, quadrature(jnp.eye(SIZE), jax.random.key(0), 1, 4))[1]
    )


def test_density_is_a_density_and_shows_where_eigenvalues_are():
    eigenvalues = np.r_[np.zeros(12), np.full(4, 5.0)]
    found = quadrature(symmetric(0, eigenvalues), jax.random.key(0), 64, 2)
    grid = np.linspace(-4, 9, 4001)
    values = np.asarray(density(found, grid, width=0.3))
    step = grid[1] - grid[0]
    assert values.min() >= 0
    np.testing.assert_allclose(values.sum() * step, 1, rtol=1e-9)
    upper = values[grid > 2.5].sum() * step
    # share 1/4; probes of random signs: variance at most 2 tr P / N^2 over 64 probes
    assert abs(upper - 0.25) <= 5 * np.sqrt(2 * 4 / SIZE**2 / 64)


def test_bad_input_is_refused():
    for name in ("num_probes", "num_steps"):
        counts = {"num_probes": 1, "num_steps": 1, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1"):
            spectral_density(lambda v: v, jnp.ones(2), jax.random.key(0), **counts)
    one = Quadrature(jnp.zeros((1, 1)), jnp.ones((1, 1)), 1, 1)
    for width in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="width must be a positive number"):
            density(one, jnp.zeros(1), width=width)
