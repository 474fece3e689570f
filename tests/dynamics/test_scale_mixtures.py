"""Entropies of Gaussian scale mixtures against closed forms and quadrature, and information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from dynamics.scale_mixtures import mixture_entropy, mixture_information

VARIANCES = st.lists(st.floats(0.03, 30), min_size=3, max_size=3).map(np.array)


@jax.jit
def evaluated(variances, weights):
    entropy = [mixture_entropy(variances, dimension=n, weights=weights) for n in (1, 2, 3)]
    return jnp.stack(entropy), mixture_information(variances, weights=weights)


@given(variance=st.floats(1e-3, 1e3))
def test_of_one_variance_it_is_that_of_a_gaussian(variance):
    entropy, information = evaluated(np.full(3, variance), np.full(3, 1 / 3))
    expected = np.arange(1, 4) / 2 * np.log(2 * np.pi * np.e * variance)
    np.testing.assert_allclose(entropy, expected, atol=1e-10)
    np.testing.assert_allclose(information, 0, atol=1e-10)


@given(variances=VARIANCES, share=st.floats(0.05, 0.9))
def test_one_output_against_adaptive_quadrature(variances, share):
    weights = np.array([share, (1 - share) / 2, (1 - share) / 2])

    def integrand(z):
        p = weights @ (np.exp(-(z**2) / (2 * variances)) / np.sqrt(2 * np.pi * variances))
        return -2 * p * np.log(p) if p > 0 else 0.0

    knots = np.sqrt(variances.min()) * np.array([1.0, 3.0, 10.0])
    limit = 12 * np.sqrt(variances.max())
    expected = quad(integrand, 0, limit, points=knots[knots < limit], limit=400, epsabs=1e-11)[0]
    np.testing.assert_allclose(evaluated(variances, weights)[0][0], expected, atol=1e-8)


@given(variances=VARIANCES, scale=st.floats(0.1, 10))
def test_information_does_not_depend_on_units_and_is_not_negative(variances, scale):
    equal = np.full(3, 1 / 3)
    entropy, information = evaluated(variances, equal)
    scaled, same = evaluated(scale * variances, equal)
    np.testing.assert_allclose(scaled - entropy, np.arange(1, 4) / 2 * np.log(scale), atol=1e-9)
    np.testing.assert_allclose(information, same, atol=1e-9)
    assert information >= -1e-10


def test_two_classes_far_apart_are_told_by_the_sizes_of_outputs():
    """Many outputs reveal which variance it was: information tends to the entropy of that, ln 2."""
    variances = jnp.array([1.0, 1000.0])
    found = mixture_information(variances, n_first=6, n_second=6)
    np.testing.assert_allclose(found, np.log(2), rtol=1e-3)


def test_weights_count_draws():
    repeated = mixture_information(jnp.array([1.0, 2.0, 2.0, 2.0]))
    weighted = mixture_information(jnp.array([1.0, 2.0]), weights=jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(repeated, weighted, rtol=1e-9)


def test_bad_dimensions_are_named():
    with pytest.raises(ValueError, match="dimension"):
        mixture_entropy(jnp.ones(2), dimension=0)
    with pytest.raises(ValueError, match="n_second"):
        mixture_information(jnp.ones(2), n_second=0)
