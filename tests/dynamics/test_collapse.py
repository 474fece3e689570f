"""Collapse metrics against loops over classes, and at exact collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.collapse import class_moments, neural_collapse

SEEDS = st.integers(0, 2**31 - 1)
K, P = 3, 5
UNEQUAL = np.array([0, 0, 1, 2, 2, 2, 0, 1, 2])
EQUAL = np.arange(12) % K


@given(seed=SEEDS, labels=st.sampled_from([UNEQUAL, EQUAL]))
def test_moments_and_metrics_against_loops(seed, labels):
    rng = np.random.default_rng(seed)
    h, classifier = rng.standard_normal((len(labels), P)), rng.standard_normal((K, P))
    classes = [h[labels == k] for k in range(K)]
    means = np.array([c.mean(0) for c in classes])
    within = np.mean([np.cov(c.T, bias=True) for c in classes], axis=0)
    between = np.cov(means.T, bias=True)
    found = class_moments(h, labels, n_classes=K)
    for value, expected in zip(found, (means, within, between), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-13)
    if labels is EQUAL:
        np.testing.assert_allclose(within + between, np.cov(h.T, bias=True), atol=1e-13)
    metrics = neural_collapse(h, labels, classifier, n_classes=K)
    # Sigma_B has rank K - 1: its pseudoinverse costs the condition number of what is left of it
    values = np.linalg.eigvalsh(between)[-K + 1 :]
    pseudoinverse = np.linalg.pinv(between, rcond=1e-10)
    np.testing.assert_allclose(
        metrics.variability,
        np.trace(within @ pseudoinverse) / K,
        rtol=1e-13 * values[-1] / values[0] + 1e-12,
    )
    np.testing.assert_allclose(
        metrics.scatter_ratio, np.trace(within) / np.trace(between), rtol=1e-12
    )


@given(seed=SEEDS, scale=st.floats(0.01, 100.0))
def test_a_rotated_simplex_is_collapsed_and_moving_off_it_shows(seed, scale):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((P, P)))[0][:K]
    simplex = (np.eye(K) - 1 / K) @ turn
    shift = rng.standard_normal((1, P))
    h = scale * simplex[EQUAL] + shift
    found = neural_collapse(h, EQUAL, 3 * simplex, n_classes=K)
    np.testing.assert_allclose(found, 0, atol=1e-11)  # the shift's rounding, relative to the scale
    away = h + 0.1 * scale * rng.standard_normal(h.shape)
    moved = neural_collapse(away, EQUAL, 3 * simplex + 0.1 * turn, n_classes=K)
    assert min(moved) > 1e-4
    # every metric is free of scale, shift and rotation
    other = np.linalg.qr(rng.standard_normal((P, P)))[0]
    again = neural_collapse(
        7 * away @ other + shift, EQUAL, (3 * simplex + 0.1 * turn) @ other, n_classes=K
    )
    np.testing.assert_allclose(again, moved, rtol=1e-9)


@given(seed=SEEDS)
def test_the_minimum_without_bias_is_an_orthogonal_frame(seed):
    """Unconstrained features, W H = (1 - c) I with W a multiple of the class means."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((P, P)))[0][:K]
    found = neural_collapse(0.4 * turn[EQUAL], EQUAL, 2 * turn, n_classes=K, frame="orthogonal")
    np.testing.assert_allclose(found, 0, atol=1e-13)
    # its class means, centred, are a simplex; a classifier that is not centred is not theirs
    centered = neural_collapse(0.4 * turn[EQUAL], EQUAL, 2 * turn, n_classes=K)
    np.testing.assert_allclose(centered[:3], 0, atol=1e-13)
    # cosine of I and I - 11^T/K is sqrt((K - 1)/K)
    expected = np.sqrt(2 - 2 * np.sqrt((K - 1) / K))
    np.testing.assert_allclose(centered.self_duality, expected, rtol=1e-12)


def test_compiled_without_classifier_and_with_bad_input():
    h = jnp.asarray(np.random.default_rng(0).standard_normal((12, P)))
    labels = jnp.asarray(EQUAL)
    compiled = jax.jit(lambda h, labels: neural_collapse(h, labels, n_classes=K))(h, labels)
    assert compiled.self_duality is None
    np.testing.assert_allclose(
        compiled[:3], neural_collapse(h, labels, n_classes=K)[:3], rtol=1e-12
    )
    with pytest.raises(ValueError, match=r"labels must be all of 0 to 3, got \[0, 1, 2\]"):
        neural_collapse(h, labels, n_classes=4)
    with pytest.raises(ValueError, match="n_classes must be an integer >= 2"):
        neural_collapse(h, 0 * labels, n_classes=1)
    with pytest.raises(ValueError, match="frame must be simplex or orthogonal, got 'etf'"):
        neural_collapse(h, labels, n_classes=K, frame="etf")
    with pytest.raises(ValueError, match=r"classifier must be \(3, 5\), got \(4, 5\)"):
        neural_collapse(h, labels, jnp.ones((4, P)), n_classes=K)
