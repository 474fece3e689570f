"""Krylov spaces against matfree, and where they come to an end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from matfree import decomp

from dynamics.krylov import extend, krylov_space, ritz
from dynamics.operators import flat_operator

SEEDS = st.integers(0, 2**31 - 1)
SIZE, STEPS = 12, 6


@partial(jax.jit, static_argnums=2)
def grown(matrix, starts, columns):
    operator = flat_operator(lambda v: matrix @ v, starts[0])
    key = jax.random.key(0)
    return lax.fori_loop(
        0, columns, lambda _, s: extend(operator, s, key), krylov_space(starts, columns)
    )


@jax.jit
def tridiagonal_of_matfree(matrix, start):
    with jax.numpy_rank_promotion("allow"):
        return decomp.tridiag_sym(STEPS, reortho="full")(lambda v: matrix @ v, start).J_small


def symmetric(seed, eigenvalues):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]
    return jnp.asarray((rotation * eigenvalues) @ rotation.T)


def check(matrix, space, columns):
    """Orthonormal rows, and images that are those of the matrix."""
    basis, images = np.asarray(space.basis), np.asarray(space.images)
    filled = basis[np.abs(basis).max(axis=1) > 0]
    np.testing.assert_allclose(filled @ filled.T, np.eye(len(filled)), atol=1e-12)
    scale = np.abs(matrix).max()
    np.testing.assert_allclose(images.T @ basis, basis[:columns] @ matrix, atol=1e-11 * scale)


@given(seed=SEEDS)
def test_tridiagonal_matrix_is_that_of_matfree(seed):
    """Where it is well determined: later entries amplify the rounding of the first."""
    a = symmetric(seed, np.linspace(-1.0, 2.0, SIZE))
    start = jnp.asarray(np.random.default_rng(seed).standard_normal(SIZE))
    space = grown(a, start[None], SIZE)
    check(a, space, SIZE)
    found = np.asarray(space.images)[:STEPS, :STEPS]
    np.testing.assert_allclose(found, tridiagonal_of_matfree(a, start), atol=1e-9)


@given(seed=SEEDS, block=st.sampled_from([1, 3]), rank=st.integers(0, 4))
def test_invariant_subspaces_are_left_by_random_directions(seed, block, rank):
    eigenvalues = np.zeros(SIZE)
    eigenvalues[:rank] = np.random.default_rng(seed).integers(1, 3, rank)  # often multiple
    a = symmetric(seed, eigenvalues)
    starts = jnp.asarray(np.random.default_rng(seed).standard_normal((block, SIZE)))
    space = grown(a, starts, SIZE)
    check(np.asarray(a), space, SIZE)
    found = ritz(space)
    np.testing.assert_allclose(found.values, np.sort(eigenvalues), atol=1e-12)
    assert np.abs(found.residuals).max() <= 1e-12


def test_a_start_within_an_eigenspace():
    space = grown(jnp.diag(jnp.arange(12.0)), jnp.eye(12)[11:], 5)
    check(np.diag(np.arange(12.0)), space, 5)
    np.testing.assert_allclose(ritz(space).values[-1], 11.0, rtol=1e-14)
