"""Semidefinite complementarity: its three conditions, special cases and symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.complementarity import complementary_matrix

solve = jax.jit(complementary_matrix)
SEEDS = st.integers(0, 2**16)
SIZES = st.sampled_from([2, 3])


def problem(seed, k, d=12):
    """A random gap and the response ``g_ij . g_kl`` of vectors symmetric in their indices."""
    rng = np.random.default_rng(seed)
    gap, vectors = rng.standard_normal((k, k)), rng.standard_normal((k, k, d))
    gap, vectors = gap + gap.T, vectors + np.swapaxes(vectors, 0, 1)
    return jnp.asarray(gap), jnp.einsum("ijp,klp->ijkl", vectors, vectors)


@given(SEEDS, SIZES)
def test_the_three_conditions(seed, k):
    gap, response = problem(seed, k)
    found, residual = (np.asarray(x) for x in solve(gap, response))
    slack = np.asarray(gap + jnp.einsum("ijkl,kl->ij", response, found))
    assert residual <= 1e-11
    assert np.linalg.eigvalsh(found).min() >= -1e-12
    assert np.linalg.eigvalsh(slack).min() >= -1e-8
    assert abs(np.sum(found * slack)) <= 1e-8 * np.abs(found).max(initial=1e-3)


@given(SEEDS, SIZES, st.floats(0.01, 100))
def test_rotations_and_scales_go_through(seed, k, scale):
    gap, response = problem(seed, k)
    found = np.asarray(solve(gap, response).solution)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((k, k)))[0]
    turned = jnp.einsum("ai,bj,ck,dl,ijkl->abcd", q, q, q, q, response)
    again = np.asarray(solve(scale * (q @ gap @ q.T), turned).solution)
    np.testing.assert_allclose(again, scale * q @ found @ q.T, atol=1e-7 * scale)


@given(SEEDS, SIZES)
def test_nothing_is_needed_where_the_gap_is_open(seed, k):
    gap, response = problem(seed, k)
    assert not np.any(solve(gap @ gap, response).solution)


@given(st.floats(-3, 3), st.floats(0.01, 10))
def test_one_direction_in_closed_form_and_inside_a_larger_problem(gap, slope):
    single = complementary_matrix(jnp.full((1, 1), gap), jnp.full((1, 1, 1, 1), slope))
    assert single.solution.item() == pytest.approx(max(0.0, -gap / slope))
    response = jnp.zeros((2, 2, 2, 2)).at[0, 0, 0, 0].set(slope)
    double = solve(jnp.diag(jnp.array([gap, 1.0])), response)
    expected = [[single.solution.item(), 0], [0, 0]]
    np.testing.assert_allclose(double.solution, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2])
def test_without_response_there_is_no_oscillation(k):
    found = complementary_matrix(-jnp.eye(k, dtype="f4"), jnp.zeros((k,) * 4, "f4"))
    assert found.solution.dtype == jnp.float32
    assert not np.any(found.solution)
