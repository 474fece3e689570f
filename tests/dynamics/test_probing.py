"""Probes against scikit-learn, and what must not change their accuracy."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from dynamics.probing import neighbor_probe, ridge_probe

N, M, D, K = 40, 25, 6, 3
ridge = jax.jit(ridge_probe)
nearest = jax.jit(neighbor_probe, static_argnames="neighbors")


def problem(seed):
    """Overlapping classes: activity and one-hot labels, to learn from and to test."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((K, D))
    labels = rng.integers(K, size=N + M)
    h = 3 + means[labels] + rng.standard_normal((N + M, D))
    y = np.eye(K)[labels]
    return h[:N], y[:N], h[N:], y[N:]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 10))
def test_ridge_probe_is_ridge_regression(seed, strength):
    h, y, h_test, y_test = problem(seed)
    alpha = strength * len(h) * h.var(axis=0).mean()
    outputs = Ridge(alpha=alpha).fit(h, y).predict(h_test)
    accuracy = np.mean(outputs.argmax(axis=1) == y_test.argmax(axis=1))
    np.testing.assert_allclose(ridge(h, y, h_test, y_test, ridge=strength), accuracy, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_neighbor_probe_is_that_of_scikit_learn(seed):
    h, y, h_test, y_test = problem(seed)
    oracle = KNeighborsClassifier(5).fit(h, y.argmax(axis=1))
    accuracy = oracle.score(h_test, y_test.argmax(axis=1))
    np.testing.assert_allclose(nearest(h, y, h_test, y_test, neighbors=5), accuracy, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_scale_shift_and_rotation_do_not_count(seed, scale):
    h, y, h_test, y_test = problem(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]
    moved = (scale * h @ rotation + 1, y, scale * h_test @ rotation + 1, y_test)
    np.testing.assert_allclose(ridge(*moved), ridge(h, y, h_test, y_test), atol=1e-12)


def test_bad_arguments_are_named():
    h, y, h_test, y_test = problem(0)
    with pytest.raises(ValueError, match="y_test"):
        ridge_probe(h, y, h_test, y_test[:, :2])
    with pytest.raises(ValueError, match="h, y"):
        neighbor_probe(h, y[:-1], h_test, y_test)
    with pytest.raises(ValueError, match="neighbors"):
        neighbor_probe(h, y, h_test, y_test, neighbors=0)
