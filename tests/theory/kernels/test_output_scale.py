"""Linear networks from lazy to rich: against the weights' hyperbolic turn, and against descent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels.output_scale import scaled_linear_network


def turned(gamma, norm, d):
    """The end from 2 d + 2 units that are exactly as if infinitely many, weights by weights."""
    units = 2 * d + 2
    basis = np.linalg.qr(np.random.default_rng(d).standard_normal((units, d + 1)))[0]
    a, W = np.sqrt(units) * basis[:, 0], np.sqrt(units) * basis[:, 1:]
    z = np.arcsinh(gamma * norm) / 2
    a1, W1 = a * np.cosh(z) + W[:, 0] * np.sinh(z), W.copy()
    W1[:, 0] = W[:, 0] * np.cosh(z) + a * np.sinh(z)
    return (a, W), (a1, W1), units


@given(gamma=st.floats(1e-3, 1e3), norm=st.floats(0.1, 10), d=st.integers(1, 6))
def test_movement_is_that_of_weights_that_turn(gamma, norm, d):
    start, end, units = turned(gamma, norm, d)
    first, last = (np.eye(d) * (a @ a) / units + W.T @ W / units for a, W in (start, end))
    moved = sum(np.sum((w1 - w0) ** 2) for w0, w1 in zip(start, end, strict=True))
    size = sum(np.sum(w**2) for w in start)
    found = scaled_linear_network(gamma, norm, n_in=d)
    rounding = 1e-13 / min(1, gamma * norm) ** 2  # of differences, here; not in the closed form
    change = np.linalg.norm(last - first) / np.linalg.norm(first)
    np.testing.assert_allclose(found.kernel_change, change, rtol=1e-9 + rounding)
    units_apart = first / np.linalg.norm(first) - last / np.linalg.norm(last)
    distance = np.sum(units_apart**2) / 2
    np.testing.assert_allclose(found.kernel_distance, distance, rtol=1e-9 + rounding, atol=1e-30)
    np.testing.assert_allclose(found.weight_change, np.sqrt(moved / size), rtol=1e-9 + rounding)
    # the function that the weights compute: f = alpha n^(-1/2) a W = a W/(gamma n)
    np.testing.assert_allclose(end[0] @ end[1][:, 0] / units, gamma * norm, rtol=1e-9)


def test_gradient_descent_turns_weights_hyperbolically():
    """From units that are exactly as if infinitely many: equal to the order of the step."""
    d, gamma, b, steps = 3, 1.5, np.array([1.0, -2.0, 0.5]), 40_000
    (a, W), _, units = turned(gamma, 1.0, d)
    start = a.copy(), W.copy()
    for _ in range(steps):
        error = gamma * b - a @ W / units  # of n^(-1) a W against gamma b; white inputs
        a, W = a + 5e-4 * W @ error, W + 5e-4 * np.outer(a, error)
    first, last = (np.eye(d) * (v @ v) / units + V.T @ V / units for v, V in (start, (a, W)))
    found = scaled_linear_network(gamma, np.linalg.norm(b), n_in=d)
    change = np.linalg.norm(last - first) / np.linalg.norm(first)
    np.testing.assert_allclose(found.kernel_change, change, rtol=5e-3)


def test_limits_and_errors():
    lazy, lazier = (scaled_linear_network(gamma, 1.0, n_in=4) for gamma in (1e-5, 1e-6))
    ratios = [float(x / y) for x, y in zip(lazy, lazier, strict=True)]
    np.testing.assert_allclose(ratios, [1e2, 1e4, 1e1], rtol=1e-9)
    rich, richer = (scaled_linear_network(gamma, 1.0, n_in=4) for gamma in (1e7, 1e8))
    np.testing.assert_allclose(richer.kernel_change / rich.kernel_change, 10, rtol=1e-6)
    # K1 ~ 1 + b b^T/|b|^2: trace d + 1, squared norm d + 3
    np.testing.assert_allclose(rich.kernel_distance, 1 - 5 / np.sqrt(4 * 7), rtol=1e-6)
    with pytest.raises(ValueError, match="richness must be non-negative"):
        scaled_linear_network(-1.0, 1.0, n_in=2)
    with pytest.raises(ValueError, match="n_in must be"):
        scaled_linear_network(1.0, 1.0, n_in=0)
