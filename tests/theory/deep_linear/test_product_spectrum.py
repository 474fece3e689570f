"""The Fuss-Catalan density against its moments, its angle form, Marchenko-Pastur and samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.deep_linear.product_spectrum import (
    gaussian_product_cdf,
    gaussian_product_density,
    gaussian_product_edge,
)
from theory.deep_linear.random_products import fuss_catalan

FACTORS = st.integers(1, 20)


@given(L=FACTORS, fraction=st.floats(0.001, 0.999))
def test_density_on_the_angle_curve(L, fraction):
    """The explicit curve (x(phi), rho(phi)): the inversion x -> phi is what is on trial."""
    phi = fraction * np.pi / (L + 1)
    sines = np.sin(phi), np.sin(L * phi), np.sin((L + 1) * phi)
    x = sines[2] ** (L + 1) / (sines[0] * sines[1] ** L)
    rho = sines[0] ** 2 * sines[1] ** (L - 1) / sines[2] ** L / np.pi
    # At the edge x is quadratic in phi: rounding of x is amplified by 1/phi^2 <= 1e6 / (L+1)^2.
    np.testing.assert_allclose(gaussian_product_density(x, L), rho, rtol=1e-9)


@pytest.mark.parametrize("L", [1, 2, 3, 8])
def test_mass_is_one_and_moments_are_fuss_catalan(L):
    """Quadrature in w, x = x_max w^(L+1), w = 1 - (1-v)^2: smooth at both ends of the support."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    v = (1 + nodes) / 2
    w = 1 - (1 - v) ** 2
    edge = float(gaussian_product_edge(L))
    x = edge * w ** (L + 1)
    mass = np.asarray(gaussian_product_density(x, L)) * edge * (L + 1) * w**L * (1 - v) * weights
    for k in range(5):
        np.testing.assert_allclose(np.sum(mass * x**k), fuss_catalan(L, k), rtol=1e-11)


@given(fraction=st.floats(1e-6, 1 - 1e-6))
def test_one_factor_is_marchenko_pastur(fraction):
    x = 4 * fraction
    rtol = 1e-14 / (1 - fraction)  # rounding of 4 - x
    np.testing.assert_allclose(
        gaussian_product_density(x, 1), np.sqrt((4 - x) / x) / (2 * np.pi), rtol=rtol + 1e-13
    )
    angle = np.arccos(np.sqrt(fraction))
    np.testing.assert_allclose(
        gaussian_product_cdf(x, 1), 1 - (2 * angle - np.sin(2 * angle)) / np.pi, atol=1e-13
    )


@given(L=FACTORS, fraction=st.floats(1e-6, 0.99))
def test_density_is_the_derivative_of_the_distribution(L, fraction):
    x = fraction * gaussian_product_edge(L)
    slope = jax.grad(lambda x: gaussian_product_cdf(x, L))(x)
    np.testing.assert_allclose(slope, gaussian_product_density(x, L), rtol=1e-11)


def test_derivative_of_the_density_is_the_finite_difference():
    x, L, step = jnp.array([1e-3, 0.5, 3.0]), jnp.array([1, 2, 5]), 1e-5
    exact = jax.vmap(jax.grad(gaussian_product_density))(x, L)
    step = step * x
    rise = gaussian_product_density(x + step, L) - gaussian_product_density(x - step, L)
    # Second-order differences: relative error ~ 1e-10, rounding ~ 1e-16 / 1e-5.
    np.testing.assert_allclose(rise / (2 * step), exact, rtol=1e-8)


@pytest.mark.parametrize("L", [1, 4, 30])
def test_ends_of_the_support(L):
    edge = float(gaussian_product_edge(L))
    np.testing.assert_allclose(edge, (L + 1) ** (L + 1) / L**L, rtol=1e-13)
    x = np.array([0.0, 1e-300, 1e-12, edge * (1 - 1e-12), edge, 2 * edge])
    density, fraction = gaussian_product_density(x, L), gaussian_product_cdf(x, L)
    assert not np.isnan(density).any()
    assert (np.diff(fraction) >= 0).all()
    assert fraction[0] == 0
    np.testing.assert_allclose(fraction[3:], 1, atol=1e-14)
    assert np.isinf(density[0])
    np.testing.assert_allclose(density[-2:], 0)
    # F ~ (L+1) sin(pi/(L+1)) x^(1/(L+1)) / pi: how many singular values nearly vanish.
    limit = (L + 1) * np.sin(np.pi / (L + 1)) * x[1] ** (1 / (L + 1)) / np.pi
    rtol = 3 * x[1] ** (1 / (L + 1)) + 1e-12
    np.testing.assert_allclose(fraction[1], limit, rtol=rtol)


def test_histogram_of_sampled_products():
    """Bin masses of sampled singular values, with their 1/N correction extrapolated away."""
    L, edges = 3, np.array([0.0, 0.01, 0.1, 0.3, 1.0, 2.0, 4.0, 20.0])
    rng = np.random.default_rng(0)
    masses, variances = [], []
    for n, draws in ((16, 4000), (32, 2000)):
        product = np.eye(n)
        for _ in range(L):
            product = rng.standard_normal((draws, n, n)) / np.sqrt(n) @ product
        squared = np.linalg.svd(product, compute_uv=False) ** 2
        fractions = np.stack([np.histogram(row, edges)[0] for row in squared]) / n
        masses.append(fractions.mean(0))
        variances.append(fractions.var(0) / draws)
    extrapolated = 2 * masses[1] - masses[0]
    standard_error = np.sqrt(4 * variances[1] + variances[0])  # about 1e-3
    error = np.abs(extrapolated - np.diff(gaussian_product_cdf(edges, L)))
    assert (error <= 4 * standard_error + 0.1 / 16**2).all()  # the rest is O(1/N^2)


def test_single_precision_follows_the_input():
    x = jnp.array([1e-30, 1e-3, 1.0, 9.0], jnp.float32)
    density = gaussian_product_density(x, 3)
    assert density.dtype == jnp.float32
    exact = gaussian_product_density(np.asarray(x, np.float64), 3)
    np.testing.assert_allclose(density, exact, rtol=1e-4)


@pytest.mark.parametrize("function", [gaussian_product_density, gaussian_product_cdf])
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match="L must be an integer >= 1, got 0"):
        function(1.0, 0)
    with pytest.raises(ValueError, match="L must be an integer"):
        function(1.0, 2.5)
    with pytest.raises(ValueError, match="x must be non-negative"):
        function(np.array([1.0, -1.0]), 2)
    with pytest.raises(ValueError, match="x must be non-negative"):
        function(np.nan, 2)


def test_edge_refuses_a_product_of_nothing():
    with pytest.raises(ValueError, match="L must be an integer >= 1"):
        gaussian_product_edge(0)
