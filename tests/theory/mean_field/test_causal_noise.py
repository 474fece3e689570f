"""Sources drawn while their covariance grows: singular ones included, and their sample moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.mean_field.causal_noise import extend_factor, matched_noise

SIZE, BLOCK = 8, 2
EPS = np.finfo(float).eps
extend = jax.jit(extend_factor)


@st.composite
def covariances(draw):
    """K (8, 8) of any rank, from steep to flat spectra, with equal rows or zero ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(0, SIZE))
    root = rng.standard_normal((SIZE, rank)) * draw(st.sampled_from([1.0, 0.3, 1e-2])) ** np.arange(
        rank
    )
    kind = draw(st.sampled_from(["generic", "static", "zero rows"]))
    if kind == "static":
        root = np.tile(root[:BLOCK], (SIZE // BLOCK, 1))
    elif kind == "zero rows":
        root[::3] = 0
    return draw(st.sampled_from([1e-6, 1.0, 1e6])) * root @ root.T


def grown(covariance):
    factor = jnp.zeros((SIZE, SIZE))
    for start in range(0, SIZE, BLOCK):
        # what is not known yet must not matter
        rows = (
            covariance[start : start + BLOCK] + np.triu(np.full((SIZE, SIZE), 7.0), 1)[start:][:2]
        )
        factor = extend(factor, jnp.asarray(rows), start)
    return np.asarray(factor)


@given(covariance=covariances())
def test_factor_is_lower_triangular_and_has_the_covariance(covariance):
    """Backward stable: a dropped pivot is below 64 n eps of its diagonal element."""
    factor = grown(covariance)
    assert np.array_equal(factor, np.tril(factor))
    scale = np.abs(covariance).max(initial=0)
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=0, atol=65 * SIZE * EPS * scale)


@given(covariance=covariances())
def test_regular_covariances_have_the_cholesky_factor(covariance):
    covariance = covariance + np.eye(SIZE) * max(np.trace(covariance), 1.0)
    np.testing.assert_allclose(grown(covariance), np.linalg.cholesky(covariance), rtol=1e-12)


def test_what_does_not_change_gets_no_noise_of_its_own():
    kernel = np.array([[1.0, 0.3], [0.3, 2.0]])
    factor = grown(np.tile(kernel, (SIZE // BLOCK, SIZE // BLOCK)))
    np.testing.assert_allclose(factor[:, :2], np.tile(np.linalg.cholesky(kernel), (4, 1)))
    assert not factor[:, 2:].any()


def test_sample_moments_are_exact_and_fewer_steps_are_the_beginning_of_more():
    def flat(steps, samples=100):
        noise = matched_noise(jax.random.key(3), steps=steps, sites=2, samples=samples)
        return [np.asarray(part).reshape(2 * steps, samples) for part in noise]

    even, odd = flat(7)
    both = np.concatenate([even, odd])
    np.testing.assert_allclose(both @ both.T / 100, np.eye(28), atol=1e-13)
    np.testing.assert_allclose(both.mean(axis=1), 0, atol=1e-14)
    assert np.array_equal(even[:, :50], even[:, 50:])
    assert np.array_equal(odd[:, :50], -odd[:, 50:])
    for short, long in zip(flat(4), (even, odd), strict=True):
        np.testing.assert_allclose(short, long[:8], atol=1e-13)


@pytest.mark.parametrize("samples", [56, 57, 59, 0, 100.0])
def test_wrong_numbers_of_samples_are_refused(samples):
    with pytest.raises(ValueError, match="samples must be"):
        matched_noise(jax.random.key(0), steps=7, sites=2, samples=samples)
