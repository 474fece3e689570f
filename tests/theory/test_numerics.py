"""Gaussian averages against closed forms, Gauss-Hermite nodes and adaptive quadrature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from theory.checks import require_count
from theory.numerics import gaussian_average

WIDTHS = st.one_of(st.sampled_from([1e-3, 1.0]), st.floats(-3, 0).map(lambda x: 10.0**x))


@given(width=WIDTHS, degree=st.integers(0, 13))
def test_moments_are_double_factorials_whatever_the_width(width, degree):
    exact = 0.0 if degree % 2 else float(math.prod(range(1, degree, 2)))
    got = gaussian_average(lambda z: z**degree, width)
    # Rounding of terms as large as the neighbouring even moment.
    scale = math.prod(range(1, degree + 1, 2))
    assert abs(float(got) - exact) <= 1e-12 * scale


@given(width=st.floats(-3, 2).map(lambda x: 10.0**x))
def test_a_gaussian_bump_of_the_given_width(width):
    got = gaussian_average(lambda z: jnp.exp(-((z / width) ** 2) / 2), width)
    np.testing.assert_allclose(got, width / np.sqrt(1 + width**2), rtol=1e-13)


@pytest.mark.parametrize("q", [0.01, 0.3, 1.0])
def test_agrees_with_gauss_hermite_where_that_converges(q):
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    expected = np.sum(weights * np.tanh(np.sqrt(q) * nodes) ** 2) / np.sqrt(2 * np.pi)
    got = gaussian_average(lambda z: jnp.tanh(jnp.sqrt(q) * z) ** 2, 1 / np.sqrt(1 + q))
    # 200 Hermite nodes are converged to 1e-13 up to q = 1 (and 1e-3 off at q = 10).
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("q", [10.0, 1e3, 1e6])
def test_resolves_functions_far_narrower_than_the_gaussian(q):
    def integrand(x):  # x = sqrt(q) z, the scale of the peak
        return 2 * np.cosh(x) ** -4 * np.exp(-(x**2) / (2 * q)) / np.sqrt(2 * np.pi * q)

    expected = quad(integrand, 0, 20, epsabs=0, epsrel=1e-13, limit=200)[0]
    got = gaussian_average(lambda z: (1 - jnp.tanh(jnp.sqrt(q) * z) ** 2) ** 2, 1 / np.sqrt(1 + q))
    np.testing.assert_allclose(got, expected, rtol=1e-11)


def test_width_may_be_a_batch_and_sets_the_dtype():
    width = jnp.asarray([[0.1, 1.0, 0.5]], jnp.float32)
    got = gaussian_average(lambda z: z**2 + 1, width)
    assert got.shape == (1, 3)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 2.0, rtol=1e-6)
    assert gaussian_average(jnp.cos).dtype == jnp.float64


def test_derivative_obeys_the_gaussian_identity():
    """d/dq <f(sqrt(q) z)> = <f''(sqrt(q) z)>/2, through jit, vmap and grad."""

    def average(q, f):
        return gaussian_average(lambda z: f(jnp.sqrt(q) * z), 1 / jnp.sqrt(1 + q))

    q = jnp.array([0.2, 1.0, 7.0])
    second = jax.vmap(jax.grad(jax.grad(jnp.tanh)))
    left = jax.jit(jax.vmap(jax.grad(lambda q: average(q, lambda x: jnp.tanh(x) * x))))(q)
    # (x tanh x)'' = 2 tanh' + x tanh''
    right = jax.vmap(
        lambda q: average(q, lambda x: 2 * (1 - jnp.tanh(x) ** 2) + x * second(x)) / 2
    )(q)
    np.testing.assert_allclose(left, right, rtol=1e-11)


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan])
def test_refuses_a_width_that_is_not_positive(width):
    with pytest.raises(ValueError, match="width must be positive"):
        gaussian_average(jnp.cos, width)


@pytest.mark.parametrize("n_nodes", [1, 0, 9.0])
def test_refuses_a_node_count_that_is_none(n_nodes):
    with pytest.raises(ValueError, match="n_nodes must be an integer"):
        gaussian_average(jnp.cos, n_nodes=n_nodes)


def test_counts_are_integers_from_the_least_on():
    require_count(n=1, m=np.array([1, 2], np.int32))
    require_count(n=0, least=0)
    for value in (0, -1, 2.0, True, np.array([1, 0])):
        with pytest.raises(ValueError, match="n must be an integer >= 1, got"):
            require_count(n=value)
