"""Ensembles that permute bits, against kernels written out and solved input by input."""

import itertools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from theory.kernels.kernel_modes import flow_filter, kernel_modes
from theory.kernels.linearized_ensembles import Covariances, initialization_ensemble
from theory.kernels.permutations import (
    ensemble_size,
    noise_to_signal,
    permutation_limit,
    success_probability,
    sufficient_ensemble_size,
)

G = 2 * np.pi - 1
EVERY = np.arange(1, 9)  # numbers of ones, up to the largest k here: one shape to compile


def relu_kernels(x1, x2, w):
    """Covariance and tangent kernel of f = (w/n)^.5 V relu((w/k)^.5 W x), by arc-cosines."""
    k = x1.shape[1]
    norms = np.linalg.norm(x1, axis=1)[:, None] * np.linalg.norm(x2, axis=1)[None]
    u = np.clip(x1 @ x2.T / norms, -1, 1)
    angle = np.pi - np.arccos(u)
    nngp = w**2 / k * norms * (u * angle + np.sqrt(1 - u**2)) / (2 * np.pi)
    return nngp, nngp + w**2 / k * (x1 @ x2.T) * angle / (2 * np.pi)


def inputs(k):
    """All test inputs, with 1 to k ones."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=k)))[1:]


def solved(k, w, order):
    """Mean (inputs, k) and variance (inputs,) after training, from the kernels."""
    bits, basis = inputs(k), np.eye(k)
    x = bits / np.sqrt(bits.sum(axis=1, keepdims=True))
    (K, theta), (K_x, theta_x) = (relu_kernels(other, basis, w) for other in (basis, x))
    A = np.linalg.solve(theta, theta_x.T).T
    spread = relu_kernels(x, x, w)[0] + A @ K @ A.T - A @ K_x.T - K_x @ A.T
    return A @ basis[order], np.diagonal(spread), bits[:, np.argsort(order)]


@given(k=st.integers(1, 8), w=st.floats(0.05, 5.0), seed=st.integers(0, 99))
def test_limit_is_the_solution_with_explicit_kernels(k, w, seed):
    order = np.random.default_rng(seed).permutation(k)
    basis = np.eye(k)
    mean, variance, _ = solved(k, w, order)
    bits = inputs(k)
    target = bits @ basis[order]  # P x, before the input is normalised
    row = bits.sum(axis=1).astype(int) - 1
    limit = permutation_limit(k, np.minimum(EVERY, k), weight_variance=w)
    on, off, spread = (np.asarray(value)[row] for value in limit)
    # Explicit kernels are differences of numbers of order 1 (mean) and w^2/k (variance).
    np.testing.assert_allclose(mean, np.where(target > 0, on[:, None], off[:, None]), atol=1e-13)
    np.testing.assert_allclose(variance, spread, atol=1e-13 * w**2)


def test_limit_is_that_of_linearised_networks_at_infinite_time():
    k, w, x = 6, 1.3, inputs(6)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    (K, theta), (K_x, theta_x) = (relu_kernels(other, np.eye(k), w) for other in (np.eye(k), x))
    modes = kernel_modes(theta, loss="mean")
    covariances = Covariances(K, K_x, relu_kernels(x, x, w)[0])
    found = initialization_ensemble(
        modes, flow_filter(modes, jnp.inf), theta_x, covariances, np.eye(k)
    )
    limit = permutation_limit(k, (x > 0).sum(axis=1), weight_variance=w)
    np.testing.assert_allclose(
        found.mean, np.where(x > 0, limit.on[:, None], limit.off[:, None]), atol=1e-12
    )
    np.testing.assert_allclose(np.diagonal(found.covariance), limit.variance, atol=1e-12)


def test_signs_and_trained_inputs():
    k, m = (grid.ravel() for grid in np.meshgrid(np.arange(1, 400), np.arange(1, 400)))
    k, m = k[m <= k], m[m <= k]
    limit = permutation_limit(k, m)
    new = m > 1
    assert np.all(np.asarray(limit.on) > 0)
    assert np.all(np.asarray(limit.off)[new] < 0)
    assert np.all(np.asarray(limit.variance)[new] > 0)
    trained = (np.asarray(value)[~new] for value in limit)
    for values, exact in zip(trained, (1.0, 0.0, 0.0), strict=True):
        assert np.all(values == exact)
    # m = 2 is the hardest input of every k
    ratio = np.asarray(noise_to_signal(k, m))
    for bits in (2, 3, 17, 399):
        assert m[k == bits][ratio[k == bits].argmax()] == 2


def test_noise_to_signal_grows_linearly_with_a_correction_of_order_one_over_k():
    k = np.array([10**3, 10**4, 10**5])
    ratio = np.asarray(noise_to_signal(k, 2))
    u = np.sqrt(0.5)
    nngp, ntk = (
        2 * np.pi * 2 * float(x[0, 0]) - 1
        for x in relu_kernels(np.ones((1, 2)) * u, np.eye(2)[:1], 1.0)
    )
    on, q = ntk / G, nngp / (np.pi - 1)
    constant = (np.pi - 1) * (1 - 2 * q**2 + 2 * (on - q) ** 2) * G**2
    constant /= 2 * np.pi * (2 * ntk - G) ** 2
    assert constant == pytest.approx(2.80363, abs=1e-5)
    error = ratio * k / (G + k) ** 2 / constant - 1
    np.testing.assert_allclose(error * k, error[-1] * k[-1], rtol=0.1)
    exponent = np.diff(np.log(ratio)) / np.diff(np.log(k))
    assert np.all(np.abs(1 - exponent) < 4 * G / k[:-1])  # d ln((g + k)^2/k)/d ln k = 1 - 2g/k
    assert noise_to_signal(7, 3, weight_variance=3.0) == pytest.approx(9 * noise_to_signal(7, 3))


@given(k=st.integers(2, 6), w=st.floats(0.3, 2.0), n=st.sampled_from([1, 4, 30]))
def test_success_is_the_product_over_bits(k, w, n):
    mean, variance, target = solved(k, w, np.arange(k))
    new = target.sum(axis=1) > 1
    right = norm.cdf(np.sqrt(n / variance[new, None]) * mean[new] * (2 * target[new] - 1))
    found = success_probability(k, np.minimum(EVERY, k), n, weight_variance=w)
    found = np.asarray(found)[target[new].sum(axis=1).astype(int) - 1]
    np.testing.assert_allclose(found, right.prod(axis=1), rtol=1e-10)
    assert float(success_probability(k, 1, n)) == 1


def test_success_is_the_share_of_sampled_ensembles():
    k, n, draws = 4, 9, 20_000
    mean, variance, target = solved(k, 1.0, np.array([2, 0, 3, 1]))
    permuted = inputs(k) @ np.eye(k)[[2, 0, 3, 1]]
    rng = np.random.default_rng(0)
    for row in (2, 6, 14):
        outputs = mean[row] + np.sqrt(variance[row]) * rng.standard_normal((draws, n, k))
        right = np.all((outputs.mean(axis=1) > 0) == (permuted[row] > 0), axis=1).mean()
        expected = float(success_probability(k, int(target[row].sum()), n))
        assert abs(right - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws) + 1e-3


@pytest.mark.parametrize("inputs_", ["one", "all"])
@pytest.mark.parametrize(("k", "failure", "w"), [(2, 0.3, 1.0), (5, 0.01, 1.0), (8, 1e-8, 0.1)])
def test_ensemble_size_is_the_smallest_that_suffices(inputs_, k, failure, w):
    size = ensemble_size(k, failure, inputs=inputs_, weight_variance=w)
    m = np.arange(2, k + 1)
    limit = permutation_limit(k, m, weight_variance=w)
    on, off = (np.abs(x) / np.sqrt(limit.variance) for x in (limit.on, limit.off))

    def fails(n):
        right = m * norm.logcdf(np.sqrt(n) * on) + (k - m) * norm.logcdf(np.sqrt(n) * off)
        each = -np.expm1(right)
        if inputs_ == "one":
            return each.max()
        return sum(comb(k, int(ones)) * p for ones, p in zip(m, each, strict=True))

    assert fails(size) <= failure
    assert size == 1 or fails(size - 1) > failure
    assert size <= sufficient_ensemble_size(k, failure, inputs=inputs_, weight_variance=w)


def test_sufficient_sizes_have_the_orders_of_the_tail_bound():
    """2 q ln(k/delta) and 2 q ln(k 2^k/delta) are 1383 and 3904 for k = 20, delta = 0.01."""
    q = float(noise_to_signal(20, 2))
    assert int(np.ceil(2 * q * np.log(20 / 0.01))) == 1383
    assert int(np.ceil(2 * q * np.log(20 * 2.0**20 / 0.01))) == 3904
    sizes = [sufficient_ensemble_size(20, 0.01, inputs=word) for word in ("one", "all")]
    assert sizes == [np.ceil(2 * q * np.log(x / 0.02)) for x in (20, 20 * 2.0**20)]
    many = np.array([2000, 4000])
    for word, order in (("one", many * np.log(many / 0.02)), ("all", many**2)):
        grown = [sufficient_ensemble_size(int(k), 0.01, inputs=word) for k in many]
        assert grown[1] / grown[0] == pytest.approx(order[1] / order[0], rel=4 * G / 2000)
    assert ensemble_size(1, 0.5, inputs="all") == 1


def test_compiles_and_differentiates():
    def chance(w):
        return success_probability(6, jnp.arange(1, 7), 20, weight_variance=w)

    w, step = 0.8, 1e-6
    slope = jax.jit(jax.jacfwd(chance))(w)
    numeric = (chance(w + step) - chance(w - step)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, atol=1e-8)
    assert np.all(np.asarray(slope)[1:] < 0)
    assert slope[0] == 0


def test_bad_input_is_named():
    for k, m, message in ((3, 4, "n_bits - n_ones"), (3, 0, "n_ones"), (2.5, 1, "n_bits")):
        with pytest.raises(ValueError, match=message):
            permutation_limit(k, m)
    with pytest.raises(ValueError, match="weight_variance"):
        noise_to_signal(3, 2, weight_variance=0.0)
    with pytest.raises(ValueError, match="n_models"):
        success_probability(3, 2, 0)
    for failure in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="failure"):
            ensemble_size(3, failure, inputs="one")
    with pytest.raises(ValueError, match="inputs"):
        ensemble_size(3, 0.1, inputs="each")
