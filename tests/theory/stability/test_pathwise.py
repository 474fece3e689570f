"""Paths of linearised SGD, its higher moments and its stationary state, against enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.mean_square import growth_rate, mean_square_threshold
from theory.stability.pathwise import (
    moment_growth_rate,
    reshuffled_growth_rate,
)
from theory.stability.stationary import stationary_covariance

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, n=4, d=2):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return rows, rows @ rows.T


@given(seed=SEEDS, size=st.integers(1, 4), factor=st.floats(0.2, 2.0))
def test_second_moment_by_enumeration_is_the_growth_rate(seed, size, factor):
    _, gram = problem(seed)
    eta = factor * float(mean_square_threshold(gram, size).learning_rate)
    expected = float(growth_rate(gram, eta, size).rate)
    assert moment_growth_rate(gram, eta, size) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("order", "threshold"), [(1, 0.3636), (2, 0.2178), (4, 0.2127)])
def test_higher_moments_grow_earlier(order, threshold):
    """One weight, curvatures 1 and 10: 4/11, 22/101, and a root found by bisection elsewhere."""
    h = np.array([1.0, 10.0])
    gram = np.sqrt(np.outer(h, h))
    low, high = (
        moment_growth_rate(gram, threshold - 1e-4, 1, order),
        moment_growth_rate(gram, threshold + 1e-4, 1, order),
    )
    assert low < 1 < high
    direct = np.abs(np.mean((1 - 0.3 * h) ** order))
    assert moment_growth_rate(gram, 0.3, 1, order) == pytest.approx(direct, rel=1e-12)


@given(seed=SEEDS, size=st.sampled_from([1, 2]))
def test_reshuffled_growth_is_the_average_over_all_orders(seed, size):
    rows, gram = problem(seed)
    eta = 0.9 * float(mean_square_threshold(gram, size).learning_rate)
    total = 0.0
    for order in itertools.permutations(range(4)):
        product = np.eye(2)
        for start in range(0, 4, size):
            batch = rows[list(order[start : start + size])]
            product = (np.eye(2) - eta * batch.T @ batch / size) @ product
        total = total + np.kron(product, product) / 24
    expected = np.abs(np.linalg.eigvals(total)).max() ** (size / 4)
    assert reshuffled_growth_rate(gram, eta, size) == pytest.approx(expected, rel=1e-9)


@given(seed=SEEDS, size=st.integers(1, 5), replacement=st.booleans(), factor=st.floats(0.05, 0.95))
def test_stationary_state_is_the_fixed_point_of_the_enumerated_recursion(
    seed, size, replacement, factor
):
    """Regression with more samples than weights: Sigma from a linear solve in d^2 dimensions."""
    n, d = 6, 2
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d))
    residual = rng.standard_normal(n)
    residual -= rows @ np.linalg.lstsq(rows, residual, rcond=None)[0]
    gram = rows @ rows.T
    rate = mean_square_threshold(gram, size, replacement=replacement).learning_rate
    eta = factor * float(rate)
    every = itertools.product(range(n), repeat=size)
    chosen = list(every if replacement else itertools.combinations(range(n), size))
    step, noise = 0.0, 0.0
    for batch in chosen:
        x, r = rows[list(batch)], residual[list(batch)]
        move, kick = np.eye(d) - eta * x.T @ x / size, -eta * x.T @ r / size
        step, noise = step + np.kron(move, move), noise + np.kron(kick, kick)
    sigma = np.linalg.solve(np.eye(d * d) - step / len(chosen), noise / len(chosen)).reshape(d, d)
    found = stationary_covariance(gram, residual, eta, size, replacement)
    assert found.converged
    np.testing.assert_allclose(
        found.moment, rows @ sigma @ rows.T, atol=1e-8 * np.abs(rows @ sigma @ rows.T).max()
    )
    expected = 0.5 * np.mean(np.einsum("ia,ab,ib->i", rows, sigma, rows))
    assert float(found.excess_loss) == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_stationary_state_says_when_there_is_none():
    gram = np.ones((2, 2))
    assert not stationary_covariance(gram, np.array([1.0, -1.0]), 2.1, 1).converged


def test_bad_input_is_named():
    gram = np.eye(4)
    with pytest.raises(ValueError, match="sum to zero"):
        stationary_covariance(gram, np.ones(4), 0.1, 1)
    with pytest.raises(ValueError, match="residuals"):
        stationary_covariance(gram, np.ones(3), 0.1, 1)
    with pytest.raises(ValueError, match="divide"):
        reshuffled_growth_rate(gram, 0.1, 3)
    with pytest.raises(ValueError, match="few samples"):
        moment_growth_rate(np.eye(40), 0.1, 20)
    with pytest.raises(ValueError, match="order"):
        moment_growth_rate(gram, 0.1, 1, order=0)
