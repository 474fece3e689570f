"""Tasks taken apart into modes: reconstruction, ties, consistency with the input covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.deep_linear.modes import decompose_task, loss_from_modes, two_layer_mode_strength

SHAPES = [(3, 5), (5, 3)]
STRENGTHS = {
    "generic": [3.0, 2.0, 0.7],
    "tied": [2.0, 2.0, 0.7],
    "all tied": [1.0, 1.0, 1.0],
    "deficient": [2.0, 1.0, 0.0],
    "tied and deficient": [1.5, 1.5, 0.0],
    "none": [0.0, 0.0, 0.0],
}


def task(rng, shape, strengths):
    """A task with the given singular values and a covariance that shares its right basis."""
    outputs, inputs = shape
    U = np.linalg.qr(rng.normal(size=(outputs, outputs)))[0]
    V = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0]
    variances = rng.uniform(0.5, 3.0, size=inputs)
    return U[:, :3] @ np.diag(strengths) @ V[:, :3].T, V @ np.diag(variances) @ V.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", STRENGTHS)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-6, 3).map(lambda e: 10.0**e))
def test_task_is_recovered_in_a_basis_that_decouples_it(shape, kind, seed, scale):
    sigma_yx, sigma_xx = task(np.random.default_rng(seed), shape, STRENGTHS[kind])
    U, s, V, lam = (np.asarray(x) for x in decompose_task(scale * sigma_yx, sigma_xx))
    assert U.shape == (shape[0], 3)
    assert V.shape == (shape[1], 3)
    np.testing.assert_allclose(s, scale * np.array(STRENGTHS[kind]), atol=1e-13 * scale)
    np.testing.assert_allclose(U @ np.diag(s) @ V.T, scale * sigma_yx, atol=1e-13 * scale)
    np.testing.assert_allclose(U.T @ U, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(V.T @ V, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(sigma_xx @ V, V * lam, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_whitened_task_has_unit_variances(shape):
    sigma_yx, _ = task(np.random.default_rng(0), shape, STRENGTHS["generic"])
    U, s, V, lam = (np.asarray(x) for x in decompose_task(sigma_yx))
    np.testing.assert_allclose(U @ np.diag(s) @ V.T, sigma_yx, atol=1e-14)
    np.testing.assert_array_equal(lam, np.ones(3))
    for pair in zip(decompose_task(sigma_yx, np.eye(shape[1])), (U, s, V, lam), strict=True):
        np.testing.assert_allclose(np.abs(pair[0]), np.abs(pair[1]), atol=1e-13)


def test_matrix_flow_with_correlated_inputs_follows_the_modes():
    rng = np.random.default_rng(1)
    sigma_yx, sigma_xx = task(rng, (3, 5), [1.5, 1.5, 0.6])
    U, s, V, lam = (np.asarray(x) for x in decompose_task(sigma_yx, sigma_xx))
    hidden = np.linalg.qr(rng.normal(size=(4, 4)))[0][:, :3]
    a, b = np.array([0.3, 0.1, 0.2]), np.array([0.1, 0.4, 0.2])
    start = np.concatenate([(hidden * a @ V.T).ravel(), (U * b @ hidden.T).ravel()])

    def unpack(packed):
        return packed[:20].reshape(4, 5), packed[20:].reshape(3, 4)

    def flow(_, packed):
        w1, w2 = unpack(packed)
        error = sigma_yx - w2 @ w1 @ sigma_xx
        return np.concatenate([(w2.T @ error).ravel(), (error @ w1.T).ravel()])

    times = np.array([0.5, 1.0, 3.0])
    path = solve_ivp(flow, (0, 3), start, "DOP853", times, rtol=1e-12, atol=1e-13).y
    # target s/lam, time constant 1/lam
    u = two_layer_mode_strength(times[:, None], s / lam, a * b, a**2 - b**2, 1 / lam)
    for packed, strengths in zip(path.T, u, strict=True):
        w1, w2 = unpack(packed)
        np.testing.assert_allclose(U.T @ w2 @ w1 @ V, np.diag(strengths), atol=1e-10)


def test_loss_from_modes_is_the_loss_above_its_minimum():
    rng = np.random.default_rng(2)
    sigma_yx, _ = task(rng, (3, 5), STRENGTHS["generic"])
    U, s, V, _ = (np.asarray(x) for x in decompose_task(sigma_yx))
    u = rng.normal(size=(2, 3))
    losses = [0.5 * np.sum((sigma_yx - U * row @ V.T) ** 2) for row in u]
    np.testing.assert_allclose(loss_from_modes(u, s), losses, rtol=1e-13)


def test_jit_equals_eager_and_dtype_follows():
    sigma_yx, sigma_xx = task(np.random.default_rng(3), (3, 5), STRENGTHS["generic"])
    for eager, compiled in zip(
        decompose_task(sigma_yx, sigma_xx), jax.jit(decompose_task)(sigma_yx, sigma_xx), strict=True
    ):
        np.testing.assert_allclose(compiled, eager, atol=1e-13)
    single = decompose_task(jnp.float32(sigma_yx), jnp.float32(sigma_xx))
    assert {x.dtype for x in single} == {jnp.dtype(jnp.float32)}


def test_inconsistent_covariance_is_measured():
    sigma_yx, sigma_xx = task(np.random.default_rng(4), (3, 5), STRENGTHS["generic"])
    _, _, V, _ = (np.asarray(x) for x in decompose_task(sigma_yx))
    outside = np.linalg.svd(V.T)[2][-1]  # in the space without modes: its basis is free
    for partner, size in ((V[:, 1], "0.25 "), (outside, "0.[12]")):
        mixed = sigma_xx + 0.25 * (np.outer(V[:, 0], partner) + np.outer(partner, V[:, 0]))
        with pytest.raises(ValueError, match=f"sigma_xx must be diagonal.*element of {size}"):
            decompose_task(sigma_yx, mixed)


@pytest.mark.parametrize(
    ("yx", "xx", "message"),
    [
        (np.ones(3), None, r"sigma_yx must be a matrix.*\(3,\)"),
        (np.ones((0, 3)), None, r"sigma_yx must be a matrix.*\(0, 3\)"),
        (np.array([[1.0, np.nan]]), None, "sigma_yx must be finite.*nan"),
        (np.ones((2, 3)), np.eye(2), r"sigma_xx must have shape \(3, 3\), got \(2, 2\)"),
        (np.ones((1, 2)), np.array([[1.0, np.inf], [np.inf, 1.0]]), "sigma_xx must be finite.*inf"),
        (np.ones((1, 2)), np.array([[1.0, 0.5], [0.0, 1.0]]), "sigma_xx must be symmetric.*0.5"),
        (np.diag([2.0, 1.0]), np.diag([1.0, 0.0]), "positive for s > 0.*0.0"),
        (np.diag([2.0, 1.0]), np.diag([-1.0, 1.0]), "positive for s > 0.*-1.0"),
    ],
)
def test_bad_matrices_are_named(yx, xx, message):
    with pytest.raises(ValueError, match=message):
        decompose_task(yx, xx)
