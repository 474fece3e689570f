"""Random products and tanh networks at initialisation, against sampling, quadrature and limits."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq

from theory.deep_linear.random_products import (
    CRITICAL_GAIN,
    fuss_catalan,
    jacobian_variance,
    lyapunov_exponents,
    mean_squared_singular_value,
    orthogonal_product_singular_value,
    tanh_fixed_point,
    tanh_mean_field,
)

DEPTH = 6  # one static value: every other compiles anew
GAINS = st.one_of(
    st.sampled_from([1e-3, 0.5, 1.0, 1.0 + 1e-12, 1.01, 2.0]),
    st.floats(-3, 1.5).map(lambda x: 10.0**x),
)
VARIANCES = st.one_of(st.sampled_from([0.0, 1e-300]), st.floats(-12, 3).map(lambda x: 10.0**x))


def gaussian_quad(f, q):
    """int Dz f(sqrt(q) z) for even f, by adaptive quadrature in x = sqrt(q) z (q > 0)."""
    scale = 1 / np.sqrt(2 * np.pi * q)
    reach = min(13 * np.sqrt(q), 30.0)  # tanh is 1 to rounding beyond 20

    def integrand(x):
        return 2 * scale * f(x) * np.exp(-(x**2) / (2 * q))

    near = quad(integrand, 0, reach, epsabs=0, epsrel=1e-12, limit=200)[0]
    return near + f(reach) * math.erfc(reach / np.sqrt(2 * q))


# --- products of matrices ------------------------------------------------------------------------


@pytest.mark.parametrize("L", [1, 2, 3, 7])
def test_fuss_catalan_counts_trees(L):
    """B = 1 + z B^(L+1) term by term, in integers: the generating function of (L+1)-ary trees."""
    order = 9
    moments = [1]
    for _ in range(1, order):
        power = [1] + [0] * (order - 1)
        padded = moments + [0] * (order - len(moments))
        for _ in range(L + 1):
            power = [sum(power[j] * padded[i - j] for j in range(i + 1)) for i in range(order)]
        moments.append(power[len(moments) - 1])
    got = fuss_catalan(L, np.arange(order))
    assert [int(m) for m in got] == moments


@given(L=st.integers(1, 40), k=st.integers(0, 40))
def test_fuss_catalan_for_large_arguments(L, k):
    exact = math.comb((L + 1) * k, k) // (L * k + 1)
    # exp(gammaln): the relative error is the rounding of logarithms up to 5e3.
    np.testing.assert_allclose(fuss_catalan(L, k), float(exact), rtol=1e-11)


def second_moment(N, L):
    """Exact E tr((P P^T)^2)/N for L real Gaussian factors (Wick's theorem, one factor a time)."""
    mean_square, square_mean = 1.0, 1.0
    for _ in range(L):
        mean_square, square_mean = (
            mean_square * (1 + 1 / N) + square_mean,
            square_mean + 2 * mean_square / N**2,
        )
    return mean_square


@pytest.mark.parametrize("L", [1, 2, 5])
def test_second_moment_is_the_limit_of_the_exact_finite_one(L):
    limit = fuss_catalan(L, 2)
    errors = np.array([second_moment(N, L) - limit for N in (10**3, 10**4)])
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.02)  # O(1/N)
    assert abs(errors[1]) < 1e-2


def test_third_moment_of_sampled_products():
    """1/N corrections extrapolated away, 4 standard errors."""
    rng, L = np.random.default_rng(1), 2
    moments, variances = [], []
    for n, draws in ((24, 4000), (48, 1000)):
        product = np.eye(n)
        for _ in range(L):
            product = rng.standard_normal((draws, n, n)) / np.sqrt(n) @ product
        squared = product @ np.swapaxes(product, 1, 2)
        third = np.trace(squared @ squared @ squared, axis1=1, axis2=2) / n
        moments.append(third.mean())
        variances.append(third.var() / draws)
    error = 2 * moments[1] - moments[0] - fuss_catalan(L, 3)
    standard_error = np.sqrt(4 * variances[1] + variances[0])
    assert standard_error < 0.2
    assert abs(error) < 4 * standard_error + 60 / 24**2  # the rest is O(1/N^2)


def test_lyapunov_exponents_of_a_sampled_product():
    """Accumulated by QR; the columns' growth is independent from factor to factor."""
    rng, N, chains, length = np.random.default_rng(2), 5, 300, 60
    frame, growth = np.eye(N), []
    for _ in range(length):
        frame, upper = np.linalg.qr(rng.standard_normal((chains, N, N)) / np.sqrt(N) @ frame)
        growth.append(np.log(np.abs(np.diagonal(upper, axis1=1, axis2=2))))
    growth = np.concatenate(growth)
    standard_error = growth.std(0) / np.sqrt(len(growth))
    error = growth.mean(0) - lyapunov_exponents(N)
    assert (np.abs(error) < 4 * standard_error).all()


def test_lyapunov_exponents_of_wide_products():
    N = 1000
    i = np.arange(N)
    exponents = lyapunov_exponents(N)
    # log(1 - (i - 1)/N)/2 with corrections 1/(N - i + 1): psi(x) = log(x) - 1/(2x) - ...
    error = np.abs(exponents - np.log1p(-i / N) / 2) * (N - i)
    assert (error < 1).all()
    np.testing.assert_allclose(error[:100], 0.5, rtol=0.01)
    assert lyapunov_exponents(1).shape == (1,)


def test_orthogonal_products_are_isometries_times_a_gain():
    rng, g, L = np.random.default_rng(3), 1.1, 30
    product = np.eye(12)
    for _ in range(L):
        product = g * np.linalg.qr(rng.standard_normal((12, 12)))[0] @ product
    values = np.linalg.svd(product, compute_uv=False)
    np.testing.assert_allclose(values, orthogonal_product_singular_value(g, L), rtol=1e-13)


# --- tanh networks -------------------------------------------------------------------------------


@given(g=GAINS, q0=VARIANCES)
def test_one_layer_against_adaptive_quadrature(g, q0):
    q, chi = tanh_mean_field(g, q0, DEPTH)
    assert q[0] == q0
    if q0 <= 1e-12:  # linear: tanh(x) = x, sech(x) = 1 to rounding
        np.testing.assert_allclose([q[1], chi[0]], [g**2 * q0, g**2], rtol=1e-11)
        return
    np.testing.assert_allclose(q[1], g**2 * gaussian_quad(lambda x: np.tanh(x) ** 2, q0), 1e-10)
    np.testing.assert_allclose(chi[0], g**2 * gaussian_quad(lambda x: np.cosh(x) ** -4, q0), 1e-10)


@pytest.mark.parametrize("q0", [1e-5, 1e-4, 1e-3])
def test_weak_signals_to_the_last_digit(q0):
    """int Dz tanh^2(sqrt(q) z) = sum_n t_n (2n-1)!! q^n, t_n from tanh' = 1 - tanh^2, exactly."""
    tanh = {1: Fraction(1)}
    for order in range(3, 20, 2):
        square = sum(tanh[i] * tanh[order - 1 - i] for i in range(1, order - 1, 2))
        tanh[order] = -square / order
    expected = 0.0
    for n in range(8, 0, -1):
        t = -(2 * n + 1) * tanh[2 * n + 1]
        expected += float(t) * math.prod(range(1, 2 * n, 2)) * q0**n
    # A few roundings; the first neglected term is below 1e-16 even for q0 = 1e-3.
    np.testing.assert_allclose(tanh_mean_field(1.0, q0, DEPTH).q[1], expected, rtol=2e-15)


@given(g=GAINS, q0=VARIANCES)
def test_signals_and_slopes_stay_in_their_bounds(g, q0):
    q, chi = np.asarray(tanh_mean_field(g, q0, DEPTH))
    assert np.isfinite(q).all()
    assert (q[1:] <= g**2 * np.minimum(q[:-1], 1) * (1 + 1e-12)).all()
    assert (chi <= g**2 * (1 + 1e-12)).all()
    assert (chi >= 0).all()
    np.testing.assert_allclose(mean_squared_singular_value(g, q0, DEPTH), np.prod(chi), rtol=1e-13)
    for ensemble, floor in (("orthogonal", 0.0), ("gaussian", DEPTH)):
        assert jacobian_variance(g, DEPTH, ensemble=ensemble, q0=q0) >= floor


def sample_jacobians(rng, ensemble, g, q0, n, L, draws):
    """Pre-activation variances and first two moments of the Jacobian's squared singular values."""
    x = rng.standard_normal((draws, n, 1))
    x *= np.sqrt(n * q0) / g / np.linalg.norm(x, axis=1, keepdims=True)
    jacobian, variances = np.eye(n), []
    for _ in range(L):
        weights = rng.standard_normal((draws, n, n)) / np.sqrt(n)
        if ensemble == "orthogonal":
            weights, upper = np.linalg.qr(weights)
            weights = weights * np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, None, :]
        h = g * weights @ x
        x = np.tanh(h)
        jacobian = g * (1 - x**2) * (weights @ jacobian)
        variances.append(np.mean(h**2, axis=(1, 2)))
    squared = jacobian @ np.swapaxes(jacobian, 1, 2)
    first = np.trace(squared, axis1=1, axis2=2) / n
    return np.stack([*variances, first, np.sum(squared**2, axis=(1, 2)) / n])


@pytest.mark.parametrize("ensemble", ["orthogonal", "gaussian"])
def test_recursion_and_jacobian_moments_of_wide_networks(ensemble):
    """Sampled networks of width 16 and 32, 1/N corrections extrapolated away."""
    rng, g, q0, L = np.random.default_rng(4), 1.3, 0.6, 4
    means, variances = [], []
    for n, draws in ((16, 4000), (32, 2000)):
        sampled = sample_jacobians(rng, ensemble, g, q0, n, L, draws)
        mean = sampled.mean(1)
        # The relative variance m_2/m_1^2 - 1, with its standard error to first order.
        ratio = mean[-1] / mean[-2] ** 2
        sampled[-1] = ratio * (sampled[-1] / mean[-1] - 2 * sampled[-2] / mean[-2] + 1)
        sampled[-1] += ratio - 1 - sampled[-1].mean()
        means.append(sampled.mean(1))
        variances.append(sampled.var(1) / draws)
    q, _ = tanh_mean_field(g, q0, L)
    mean_square = mean_squared_singular_value(g, q0, L)
    spread = jacobian_variance(g, L, ensemble=ensemble, q0=q0)
    expected = np.array([*q, mean_square, spread])
    error = np.abs(2 * means[1] - means[0] - expected)
    standard_error = np.sqrt(4 * variances[1] + variances[0])
    # The rest is O(1/N^2), with coefficients of a few times the value (variance of the product:
    # L^3/6 pairings).
    rest = expected * np.array([2.0] * (L + 1) + [L**3 / 6]) / 16**2
    assert (standard_error < 0.04 * expected).all()
    assert (error <= 4 * standard_error + rest).all()


def test_layers_broadcast_over_gains_and_inputs():
    g, q0 = np.array([[0.8], [1.2]]), np.array([0.1, 0.5, 2.0])
    q, chi = np.asarray(tanh_mean_field(g, q0, DEPTH))
    assert q.shape == chi.shape == (DEPTH, 2, 3)
    alone = tanh_mean_field(1.2, 2.0, DEPTH)
    np.testing.assert_allclose([q[:, 1, 2], chi[:, 1, 2]], alone, rtol=1e-13)
    assert jacobian_variance(g, DEPTH, q0=q0).shape == (2, 3)
    mapped = jax.vmap(jax.jit(lambda g: tanh_fixed_point(g).q))(g[:, 0])
    np.testing.assert_allclose(mapped, [tanh_fixed_point(x).q for x in (0.8, 1.2)], rtol=1e-13)


@pytest.mark.parametrize("g", [1.02, 1.3, 2.0, 6.0])
def test_fixed_point_against_root_finding(g):
    def excess(q):
        return g**2 * gaussian_quad(lambda x: np.tanh(x) ** 2, q) / q - 1

    expected = brentq(excess, 1e-3, g**2, xtol=1e-14)
    found = tanh_fixed_point(g)
    assert found.converged
    np.testing.assert_allclose(found.q, expected, rtol=1e-9)


@given(g=GAINS)
def test_fixed_point_is_one(g):
    found = tanh_fixed_point(g)
    assert found.converged
    assert (found.q > 0) == (g > CRITICAL_GAIN)
    q, chi = tanh_mean_field(g, float(found.q), DEPTH)
    np.testing.assert_allclose(q[1], q[0], rtol=1e-12)
    # Ordered or critical: chi = g^2 <= 1; chaotic: chi > 1. Up to rounding near g = 1.
    assert chi[0] <= 1 + 1e-13 if g <= CRITICAL_GAIN else chi[0] >= 1 - 1e-13
    layers = jacobian_variance(g, DEPTH, q0=float(found.q))
    np.testing.assert_allclose(jacobian_variance(g, DEPTH), layers, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("g", "start"), [(0.7, 3.0), (1.4, 1e-3), (1.4, 9.0)])
def test_deep_signals_reach_the_fixed_point(g, start):
    q, _ = tanh_mean_field(g, start, 200)
    # The slope of the map at the fixed point is below 0.6 here: 0.6^200 is nothing.
    np.testing.assert_allclose(q[-1], tanh_fixed_point(g).q, rtol=1e-12, atol=1e-30)


def test_just_above_the_critical_gain():
    """q* = (g^2-1)/2 (1 + O(g-1)) and chi - 1 = (g^2-1)^2/3 (1 + O(g-1)): a wide near-isometry."""
    excess = np.array([1e-2, 1e-3])  # g^2 - 1
    g = np.sqrt(1 + excess)
    q = tanh_fixed_point(g).q
    chi = tanh_mean_field(g, q, 1).chi[0]
    for ratio in (q / (excess / 2), (chi - 1) / (excess**2 / 3)):
        error = np.abs(ratio - 1)
        assert error[1] < 0.005
        np.testing.assert_allclose(error[0] / error[1], 10, rtol=0.1)


def test_far_above_the_critical_gain():
    """Units saturate: q*/g^2 = 1 - sqrt(2/(pi q*)) + O(1/q*^(3/2))."""
    g = np.array([30.0, 300.0])
    q = np.asarray(tanh_fixed_point(g).q)
    error = np.abs(q / g**2 - 1 + np.sqrt(2 / (np.pi * q)))
    assert (error < q**-1.5).all()


@given(L=st.integers(1, 50))
def test_linear_networks_are_the_weak_signal_limit(L):
    """Silent networks are linear: orthogonal ones isometries, Gaussian ones Fuss-Catalan."""
    np.testing.assert_allclose(jacobian_variance(0.5, L), 0, atol=1e-14)
    expected = fuss_catalan(L, 2) / fuss_catalan(L, 1) ** 2 - 1
    np.testing.assert_allclose(jacobian_variance(0.5, L, ensemble="gaussian"), expected, rtol=1e-13)


def test_derivatives_are_finite_and_right():
    """At the singular points q = 0 and g = 1 too."""

    def of_variance(q0):
        q, chi = tanh_mean_field(1.3, q0, 2)
        return jnp.stack([q[1], chi[0]])

    def of_gain(g):
        return jnp.stack([tanh_fixed_point(g).q, jacobian_variance(g, 3)])

    np.testing.assert_allclose(jax.jacrev(of_variance)(0.0), [1.69, -2 * 1.69], rtol=1e-13)
    g = np.array([0.9, 1.0, 1 + 1e-12, 1.5, 40.0])
    found = jax.vmap(jax.jacrev(of_gain))(g)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[2, 0], 1.0, rtol=1e-3)  # q* = g - 1; cancellation: eps/q*
    step = 1e-5
    rise = tanh_fixed_point(g + step).q - tanh_fixed_point(g - step).q
    np.testing.assert_allclose(found[3:, 0], rise[3:] / (2 * step), rtol=1e-7)


def test_single_precision_follows_the_input():
    g = jnp.array([0.5, 1.05, 3.0], jnp.float32)
    found, exact = tanh_fixed_point(g), tanh_fixed_point(np.asarray(g, np.float64))
    assert found.q.dtype == jnp.float32
    assert found.converged.all()
    np.testing.assert_allclose(found.q, exact.q, rtol=1e-4)
    chi = tanh_mean_field(g, 0.3, 5).chi
    assert chi.dtype == jnp.float32
    np.testing.assert_allclose(chi, tanh_mean_field(np.float64(g), 0.3, 5).chi, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fuss_catalan(0, 2), "L must be an integer >= 1, got 0"),
        (lambda: fuss_catalan(2, -1), "k must be an integer >= 0, got -1"),
        (lambda: fuss_catalan(2, 1.5), "k must be an integer"),
        (lambda: lyapunov_exponents(0), "N must be an integer >= 1, got 0"),
        (lambda: lyapunov_exponents(2.5), "N must be an integer"),
        (lambda: orthogonal_product_singular_value(0.0, 2), "g must be positive"),
        (lambda: orthogonal_product_singular_value(1.0, 0), "L must be an integer"),
        (lambda: tanh_mean_field(-1.0, 0.5, 3), "g must be positive"),
        (lambda: tanh_mean_field(1.0, -0.5, 3), "q0 must be non-negative"),
        (lambda: tanh_mean_field(1.0, np.nan, 3), "q0 must be non-negative"),
        (lambda: tanh_mean_field(1.0, 0.5, 0), "L must be an integer"),
        (lambda: mean_squared_singular_value(1.0, 0.5, 1.0), "L must be an integer"),
        (lambda: tanh_fixed_point(np.array([1.0, 0.0])), "g must be positive"),
        (lambda: jacobian_variance(1.0, 0), "L must be an integer"),
        (lambda: jacobian_variance(1.0, 2, q0=-1.0), "q0 must be non-negative"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_ensemble_is_named():
    with pytest.raises(ValueError, match=r"ensemble must be one of .*'ginibre'"):
        jacobian_variance(1.0, 2, ensemble="ginibre")
