"""Scores of untrained networks of infinite width: two classes by quadrature, limits, bounds."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels.data_diet import initial_scores

KEY = jax.random.key(0)
VARIANCES = np.array([0.0, 0.1, 1.0, 10.0, 1e6])


def test_two_classes_against_quadrature():
    """|p - e_1| = sqrt(2) sigmoid(-sqrt(2 K) z), z standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    error = np.sqrt(2) / (1 + np.exp(np.sqrt(2 * VARIANCES[1:4])[:, None] * nodes[None, :]))
    expected = error @ weights / np.sqrt(2 * np.pi)
    found = initial_scores(KEY, VARIANCES[1:4], 1.0, classes=2, samples=40_000)
    assert np.all(np.abs(found.el2n / expected - 1) < 4 * found.relative_error)


def test_limits_of_small_and_large_logits():
    classes = 10
    found = initial_scores(KEY, VARIANCES, 1.0, classes=classes, samples=40_000)
    np.testing.assert_allclose(found.el2n[0], np.sqrt(1 - 1 / classes), rtol=1e-12)
    wrong = np.sqrt(2) * (1 - 1 / classes)  # certain, and right one time in ten
    assert abs(found.el2n[-1] / wrong - 1) < 4 * found.relative_error[-1] + 0.01


@given(st.floats(0, 100), st.floats(0, 100), st.sampled_from([2, 10]))
def test_grand_is_el2n_times_the_root_of_the_kernel_and_both_are_bounded(nngp, ntk, classes):
    found = initial_scores(KEY, nngp, ntk, classes=classes, samples=256)
    np.testing.assert_allclose(found.grand, np.sqrt(ntk) * found.el2n, rtol=1e-12)
    assert 0 < found.el2n <= np.sqrt(2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="nngp"):
        initial_scores(KEY, -1.0, 1.0, classes=2)
    with pytest.raises(ValueError, match="classes"):
        initial_scores(KEY, 1.0, 1.0, classes=1)
    with pytest.raises(ValueError, match="samples"):
        initial_scores(KEY, 1.0, 1.0, classes=2, samples=1)
