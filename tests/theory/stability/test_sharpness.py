"""Eigenpairs and their gradients against finite differences of the spectrum itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.sharpness import curvature_gradients, dense_eigenpairs

D = 5
MIXING = jnp.asarray(np.random.default_rng(0).standard_normal((D, D)))
SCALES = jnp.arange(1.0, D + 1)


def loss(w):
    return jnp.sum(SCALES * jnp.cos(MIXING @ w)) + jnp.sum(w**4) / 4


eigenpairs = jax.jit(lambda w: dense_eigenpairs(loss, w, D))
gradients = jax.jit(lambda w, directions: curvature_gradients(loss, w, directions))
SEEDS = st.integers(0, 2**16)


@given(SEEDS)
def test_eigenpairs_are_those_of_the_hessian_descending(seed):
    w = np.random.default_rng(seed).standard_normal(D)
    values, vectors = (np.asarray(x) for x in eigenpairs(w))
    angles = np.asarray(MIXING @ w)  # Hessian written out by hand
    matrix = -(MIXING.T * (SCALES * np.cos(angles))[None]) @ MIXING + np.diag(3 * w**2)
    np.testing.assert_allclose(vectors.T @ np.diag(values) @ vectors, matrix, atol=1e-11)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(D), atol=1e-12)
    assert (np.diff(values) <= 0).all()


@given(SEEDS)
def test_gradients_are_the_slopes_of_the_eigenvalues(seed):
    rng = np.random.default_rng(seed)
    w, move = rng.standard_normal((2, D))
    values, vectors = eigenpairs(w)
    slopes = np.asarray(gradients(w, vectors)) @ move
    np.testing.assert_allclose(slopes, slopes.T, rtol=1e-12)
    step, gaps = 1e-5, -np.diff(values)
    found = (np.asarray(eigenpairs(w + step * move)[0]) - eigenpairs(w - step * move)[0]) / 2 / step
    # third-order remainder, which near-degenerate pairs make large by 1/gap^2
    error = 1e3 * step**2 * np.abs(slopes).max() ** 3 / min(gaps.min(), 1) ** 2
    np.testing.assert_allclose(np.diag(slopes), found, atol=error + 1e-7)


def test_fewer_pairs_are_the_first_ones_and_the_number_is_checked():
    w = jnp.ones(D)
    np.testing.assert_allclose(dense_eigenpairs(loss, w, 2)[0], eigenpairs(w)[0][:2], rtol=1e-12)
    with pytest.raises(ValueError, match="k must be at most the number of parameters 5, got 6"):
        dense_eigenpairs(loss, w, 6)
    with pytest.raises(ValueError, match="k must be an integer >= 1"):
        dense_eigenpairs(loss, w, 0)
