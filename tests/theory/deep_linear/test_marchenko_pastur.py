"""The quadrature against moments, Bessel functions and adaptive integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ive, loggamma

from theory.deep_linear.marchenko_pastur import (
    NODES,
    bulk_mass,
    marchenko_pastur_edges,
    marchenko_pastur_nodes,
)

# Generic alphas, and those whose lower edge nearly or exactly touches zero.
NEAR_ONE = st.builds(
    lambda k, sign: 1 + sign * 10.0**-k, st.floats(0.5, 17), st.sampled_from((-1, 1))
)
ALPHAS = st.floats(-6, 6).map(lambda x: 10.0**x) | NEAR_ONE | st.just(1.0)


def adaptive(f, alpha):
    """Integral of rho f by QUADPACK, square roots at the edges as weight functions."""
    lower, upper = (np.sqrt(alpha) - 1) ** 2, (np.sqrt(alpha) + 1) ** 2
    touching = alpha == 1  # there sqrt(lam) / lam is the weight
    value, _ = quad(
        lambda lam: f(max(lam, 1e-300)) / (2 * np.pi * (1 if touching else lam)),
        lower,
        upper,
        weight="alg",
        wvar=(-0.5 if touching else 0.5, 0.5),
        epsabs=0,
        epsrel=1e-12,
        limit=400,
    )
    return value


def bessel(t):
    """int rho e^(-lam t) at alpha = 1, which is e^(-2t) [I_0(2t) + I_1(2t)]."""
    t = np.asarray(t, float)
    x = 1 / (16 * np.maximum(t, 1e6))  # asymptotically; terms of order x^3 < 1e-22 are left out
    late = np.sqrt(16 * x / np.pi) * (1 - x - 1.5 * x**2)
    return np.where(t < 1e6, ive(0, 2 * np.minimum(t, 1e6)) + ive(1, 2 * np.minimum(t, 1e6)), late)


@given(alpha=ALPHAS)
def test_moments(alpha):
    """Mass min(1, alpha), mean alpha, and the next moments, which are Narayana polynomials."""
    lam, weight = marchenko_pastur_nodes(alpha)
    moments = [np.sum(weight * lam**k) for k in range(4)]
    expected = [min(1, alpha), alpha, alpha + alpha**2, alpha + 3 * alpha**2 + alpha**3]
    np.testing.assert_allclose(moments, expected, rtol=1e-12)
    np.testing.assert_allclose(bulk_mass(alpha), min(1, alpha), rtol=0)


@given(alpha=ALPHAS, log_gamma=st.floats(-12, 6))
def test_resolvent(alpha, log_gamma):
    """int rho/(lam + gamma) solves a quadratic equation once the zero eigenvalues are added."""
    gamma = 10.0**log_gamma
    lam, weight = marchenko_pastur_nodes(alpha)
    m = np.sum(weight / (lam + gamma)) + max(0, 1 - alpha) / gamma
    # with q = gamma m in (0, 1): q^2 + (gamma + alpha - 1) q = gamma, relative to its largest term
    q = gamma * m
    terms = np.array([q**2, (gamma + (alpha - 1)) * q, -gamma])
    assert abs(terms.sum()) <= 1e-12 * np.abs(terms).max()


@given(alpha=ALPHAS.filter(lambda alpha: alpha != 1))
def test_inverse_eigenvalue(alpha):
    """<1/lam> = 1/|alpha - 1| per non-zero eigenvalue: 1e15 where the edge is 1e-15 from zero."""
    lam, weight = marchenko_pastur_nodes(alpha)
    np.testing.assert_allclose(np.sum(weight / lam), min(1, alpha) / abs(alpha - 1), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.99, 1.0, 1.01, 2.0, 30.0])
@pytest.mark.parametrize("t", [0.1, 3.0, 100.0])
def test_against_adaptive_integration(alpha, t):
    lam, weight = marchenko_pastur_nodes(alpha)
    edge = (np.sqrt(alpha) - 1) ** 2  # so that nothing underflows: relative errors throughout
    for f in (
        lambda x: np.exp(-2 * (x - edge) * t),
        lambda x: x * np.exp(-(x - edge) * t),
        lambda x: np.expm1(-x * t) ** 2 / x,
        lambda x: x / (x + 1 / t) ** 2,
    ):
        np.testing.assert_allclose(
            np.sum(weight * f(np.asarray(lam))), adaptive(f, alpha), rtol=1e-10
        )


@pytest.mark.parametrize("distance", [0, -1e-15, 1e-15])
def test_touching_edge_at_any_time(distance):
    """Against Bessel functions. A distance from alpha = 1 takes half of it from every average."""
    alpha = 1 + distance
    lam, weight = (np.asarray(x) for x in marchenko_pastur_nodes(alpha))
    t = np.logspace(-3, 24, 28)
    left = np.exp(-lam * t[:, None])
    atol = abs(distance)
    np.testing.assert_allclose(np.sum(weight * left, axis=1), bessel(t), rtol=1e-11, atol=atol)
    # d/dt of the noise term is 2 [m(t) - m(2t)], m the average above
    slope = np.sum(weight * 2 * left * -np.expm1(-lam * t[:, None]), axis=1)
    exact = 2 * (bessel(t) - bessel(2 * t))
    np.testing.assert_allclose(slope, exact, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("n", [90, 120, 180])
def test_error_is_bounded_uniformly_in_time_and_alpha(n):
    """The aliasing error of the trapezoidal rule is a known Fourier transform at late times.

    There e^(-lam t) rho leaves e^(k y - c t e^(2y)), k = 3, or 1 if the edge touches zero: the
    relative error is 2 |Gamma(k/2 + i pi/step) / Gamma(k/2)|, of order e^(-pi^2/(2 step)) / step.
    """
    step = 72 / (n - 1)
    bound = 2 * np.exp(np.real(loggamma(1.5 + 1j * np.pi / step)) - loggamma(1.5))
    t = np.logspace(-3, 12, 61)[:, None]
    worst = 0.0
    for alpha in (0.5, 0.999, 1.0, 1 + 1e-6, 3.0):
        lower = float(marchenko_pastur_edges(alpha)[0])
        coarse, fine = (
            np.sum(np.asarray(weight) * np.exp(-(np.asarray(lam) - lower) * t), axis=1)
            for lam, weight in (marchenko_pastur_nodes(alpha, k) for k in (n, NODES))
        )
        worst = max(worst, np.abs(coarse / fine - 1).max())
    assert 0.5 * bound < worst < 1.1 * bound


def test_density_of_nodes_is_the_density():
    """Cumulative weights against the integral of rho up to a point: not the moments alone."""
    lam, weight = marchenko_pastur_nodes(0.5, 4000)
    for cut in (0.2, 1.0, 2.0):
        below, _ = quad(
            lambda x: np.sqrt((1 + np.sqrt(0.5)) ** 2 - x) / (2 * np.pi * x),
            (1 - np.sqrt(0.5)) ** 2,
            cut,
            weight="alg",
            wvar=(0.5, 0.0),
        )
        # a cut between nodes: half a weight of resolution
        assert abs(np.sum(np.where(lam < cut, weight, 0)) - below) < np.max(weight)


def test_any_shape_and_jit():
    alpha = jnp.array([[0.5], [1.0], [2.0]])
    lam, weight = jax.jit(marchenko_pastur_nodes, static_argnums=1)(alpha, 64)
    assert lam.shape == weight.shape == (3, 1, 64)
    assert (jnp.diff(lam) >= 0).all()
    np.testing.assert_allclose(lam[2, 0], marchenko_pastur_nodes(2.0, 64)[0], rtol=1e-14)


def test_single_precision_follows_the_input():
    alpha = jnp.array([0.1, 1.0, 10.0], jnp.float32)
    lam, weight = marchenko_pastur_nodes(alpha)
    assert lam.dtype == weight.dtype == jnp.float32
    assert (lam > 0).all()
    for t in (1.0, 1e8):
        average = jnp.sum(weight * jnp.exp(-lam * t), axis=1)
        wide = [np.asarray(x) for x in marchenko_pastur_nodes(np.asarray(alpha, np.float64))]
        expected = np.sum(wide[1] * np.exp(-wide[0] * t), axis=1)
        np.testing.assert_allclose(average, expected, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
def test_bad_alpha_is_named(alpha):
    for function in (bulk_mass, marchenko_pastur_edges, marchenko_pastur_nodes):
        with pytest.raises(ValueError, match="alpha must be positive"):
            function(alpha)


def test_bad_number_of_nodes_is_named():
    with pytest.raises(ValueError, match="n must be an integer >= 2, got 1"):
        marchenko_pastur_nodes(1.0, 1)
