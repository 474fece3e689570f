"""Both ends of the path of diagonal linear networks, by enumeration and by the path itself."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels.diagonal_limits import approach_exponents, path_ends
from theory.kernels.diagonal_linear import implicit_bias

N, D = 3, 6
SEEDS = st.integers(0, 2**31 - 1)


def problem(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, D)), rng.standard_normal(N)


def by_enumeration(X, y):
    """Vertices: the basic solutions, of which the least is found; its dual is unique."""
    best = min(
        ((columns, np.linalg.solve(X[:, columns], y)) for columns in combinations(range(D), N)),
        key=lambda vertex: np.abs(vertex[1]).sum(),
    )
    columns, values = list(best[0]), best[1]
    beta = np.zeros(D)
    beta[columns] = values
    dual = np.linalg.solve(X[:, columns].T, np.sign(values))
    return beta, np.abs(np.delete(X, columns, axis=1).T @ dual).max()


@given(seed=SEEDS)
def test_generic_problems_agree_with_enumeration(seed):
    X, y = problem(seed)
    ends, (beta, bound) = path_ends(X, y), by_enumeration(X, y)
    np.testing.assert_allclose(np.abs(ends.least_l1).sum(), np.abs(beta).sum(), rtol=1e-6)
    if bound < 0.999:  # else two vertices are as good
        np.testing.assert_allclose(ends.least_l1, beta, atol=1e-6 * np.abs(beta).max())
        assert ends.dual_bound == pytest.approx(bound, abs=1e-6)
    np.testing.assert_allclose(X @ ends.least_l2, y, atol=1e-9)
    # no component in the null space
    null = np.eye(D) - np.linalg.pinv(X) @ X
    np.testing.assert_allclose(null @ ends.least_l2, 0, atol=1e-9 * np.abs(y).max())


@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_scaling_the_labels_scales_the_ends_and_no_exponent(seed, scale):
    X, y = problem(seed)
    ends, scaled = path_ends(X, y), path_ends(X, scale * y)
    np.testing.assert_allclose(scaled.least_l2, scale * ends.least_l2, rtol=1e-9)
    if ends.dual_bound < 0.999:
        np.testing.assert_allclose(scaled.least_l1, scale * ends.least_l1, atol=1e-6)
        assert scaled.dual_bound == pytest.approx(ends.dual_bound, abs=1e-6)


@pytest.mark.parametrize(("seed", "support"), [(0, 3), (4, 3), (1, 1), (8, 1)])
def test_exponents_are_those_of_the_path(seed, support):
    X, y = problem(seed)
    y = X[:, 0] if support == 1 else y
    ends = path_ends(X, y)
    assert np.sum(np.abs(ends.least_l1) > 1e-9) == support
    small = {2: (1e-6, 1e-7), 3: (2e-3, 1e-3)}
    for depth, alphas in small.items():
        rich, lazy = approach_exponents(ends.dual_bound, depth=depth)
        for power, end, pair in ((rich, ends.least_l1, alphas), (lazy, ends.least_l2, (8, 16))):
            found = [implicit_bias(X, y, a, depth=depth).beta for a in pair]
            errors = [np.linalg.norm(beta - end) for beta in found]
            slope = np.log(errors[1] / errors[0]) / np.log(pair[1] / pair[0])
            # the next order is smaller by a power of alpha: 3% for the alphas here
            assert slope == pytest.approx(power, rel=0.03)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="y must have shape"):
        path_ends(np.eye(2), np.ones(3))
    with pytest.raises(ValueError, match="y must be reached"):
        path_ends(np.ones((2, 3)), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="depth must be"):
        approach_exponents(0.5, depth=1)
