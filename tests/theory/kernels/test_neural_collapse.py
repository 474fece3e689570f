"""Unconstrained features against minimisation from random starts; the central path by autodiff."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory.kernels.neural_collapse import (
    anchored_features,
    central_path_velocity,
    collapse_rates,
    collapsed_minimum,
)

K, n, p = 3, 4, 5  # classes, samples of each, features
TARGETS = np.repeat(np.eye(K), n, axis=0)


@partial(jax.jit, static_argnames="bias")
def free_loss(vector, lw, lh, *, bias):
    """The loss of all of W, H and b, written out."""
    W, H = vector[: K * p].reshape(K, p), vector[K * p : -K].reshape(K * n, p)
    b = vector[-K:] if bias else jnp.zeros(K)
    error = jnp.sum((H @ W.T + b[None] - TARGETS) ** 2) / (2 * K * n)
    return error + lw / 2 * jnp.sum(W**2) + lh / 2 * jnp.sum(H**2)


free_loss_and_gradient = jax.jit(jax.value_and_grad(free_loss), static_argnames="bias")


@jax.jit
def reduced_loss(H, lw, lh):
    """The loss of features (K, n, p), the classifier solved for."""
    flat, N = H.reshape(-1, p), K * n
    W = jnp.linalg.solve(flat.T @ flat / N + lw * jnp.eye(p), flat.T @ TARGETS / N).T
    error = jnp.sum((flat @ W.T - TARGETS) ** 2) / (2 * N)
    return error + lw / 2 * jnp.sum(W**2) + lh / 2 * jnp.sum(H**2)


reduced_gradient = jax.jit(jax.value_and_grad(reduced_loss))


@jax.jit
def scatters(H):
    """tr Sigma_W, tr Sigma_B and their ratio, sample by sample."""
    means = H.mean(axis=1, keepdims=True)
    within = jnp.mean(jnp.sum((H - means) ** 2, axis=-1))
    centre = H.mean(axis=(0, 1), keepdims=True)
    between = jnp.mean(jnp.sum((means - centre) ** 2, axis=-1))
    return jnp.stack([within, between, within / between])


velocity = jax.jit(central_path_velocity)
rates = jax.jit(collapse_rates)
DECAYS = ((0.02, 0.01), (0.05, 0.002), (0.1, 0.15))  # c = 0.085, 0.06, 0.73


@st.composite
def feature_arrays(draw):
    """Generic; of class means far apart, or close; far from the origin; collapsed; on a line."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread, apart, shift = (10 ** draw(st.floats(-2, 1)) for _ in range(3))
    H = spread * rng.standard_normal((K, n, p)) + apart * rng.standard_normal((K, 1, p))
    kind = draw(st.sampled_from(["generic", "shifted", "collapsed", "line"]))
    if kind == "shifted":
        H = H + shift * rng.standard_normal(p)
    elif kind == "collapsed":
        H = np.repeat(H.mean(axis=1, keepdims=True), n, axis=1)
    elif kind == "line":
        H = H * np.eye(p)[0]
    return H


def minimised(lw, lh, bias, seed):
    start = np.random.default_rng(seed).standard_normal(K * p + K * n * p + K)
    found = minimize(
        lambda v: tuple(np.asarray(x) for x in free_loss_and_gradient(v, lw, lh, bias=bias)),
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-17, "gtol": 1e-11},
    )
    v = found.x
    H = v[K * p : -K].reshape(K, n, p)
    return found.fun, v[: K * p].reshape(K, p), H, v[-K:] * bias


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("decays", [*DECAYS, (0.3, 0.4)])  # the last: c = 2.1
def test_random_starts_end_at_the_closed_form(decays, bias):
    lw, lh = decays
    exact = collapsed_minimum(K, n, weight_decay=lw, feature_decay=lh, bias=bias)
    assert float(exact.coupling) == pytest.approx(K * np.sqrt(n * lw * lh), rel=1e-14)
    for seed in (0, 1):
        value, W, H, b = minimised(lw, lh, bias, seed)
        means = H.mean(axis=1)
        assert value == pytest.approx(float(exact.value), rel=1e-9)
        # The value is quadratic at the minimum: matrices have the root of its digits, and less
        # near c = 1, where the curvature is least.
        close = partial(np.testing.assert_allclose, atol=1e-6)
        close(H, np.broadcast_to(means[:, None], H.shape))
        close(means @ means.T, exact.class_means @ exact.class_means.T)
        close(W @ W.T, exact.weights @ exact.weights.T)
        close(means @ W.T + b[None], exact.outputs)
        close(b, exact.bias)


@given(
    lw=st.floats(1e-3, 1.0), lh=st.floats(1e-3, 1.0), bias=st.booleans(), seed=st.integers(0, 99)
)
def test_rotated_minimum_is_stationary_and_has_its_value(lw, lh, bias, seed):
    exact = collapsed_minimum(K, n, weight_decay=lw, feature_decay=lh, bias=bias)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((p, p)))[0][:K]
    H = np.repeat(exact.class_means @ turn, n, axis=0)
    v = np.concatenate([(exact.weights @ turn).ravel(), H.ravel(), exact.bias])
    value, gradient = free_loss_and_gradient(v, lw, lh, bias=bias)
    assert float(value) == pytest.approx(float(exact.value), rel=1e-13)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)
    np.testing.assert_allclose(
        exact.outputs, exact.class_means @ exact.weights.T + exact.bias[None], atol=1e-14
    )
    if float(exact.coupling) >= 1:
        assert not np.any(exact.class_means)
        assert not np.any(exact.weights)


def test_value_and_its_slope_are_continuous_at_the_collapse():
    def value(lw):
        return collapsed_minimum(K, n, weight_decay=lw, feature_decay=1 / (K**2 * n)).value

    at = jax.vmap(jax.value_and_grad(value))(jnp.array([1 - 1e-6, 1.0, 1 + 1e-6]))
    np.testing.assert_allclose(at[0], 0.5, atol=1e-12)
    np.testing.assert_allclose(at[1], 0.0, atol=1e-6)


@given(H=feature_arrays(), lw=st.floats(1e-3, 10.0), lh=st.floats(0, 1.0))
def test_velocity_is_the_gradient_with_the_classifier_solved_for(H, lw, lh):
    found = velocity(H, weight_decay=lw, feature_decay=lh)
    value, gradient = reduced_gradient(H, lw, lh)
    # rounding of a solve, whose condition is |H|^2/(N lw), and of W ~ 1/|H|
    condition = 1 + np.sum(H**2) / (K * n * lw)
    scale = float(jnp.max(jnp.abs(gradient))) + float(jnp.max(jnp.abs(found.weights)))
    np.testing.assert_allclose(found.features, -gradient, atol=1e-13 * condition * scale)
    v = np.concatenate([found.weights.ravel(), H.ravel(), np.zeros(K)])
    assert float(free_loss(v, lw, lh, bias=False)) == pytest.approx(float(value), rel=1e-9)


@given(H=feature_arrays(), lw=st.floats(1e-3, 10.0), lh=st.floats(0, 1.0))
def test_rates_are_the_derivatives_along_the_path(H, lw, lh):
    found = rates(H, weight_decay=lw, feature_decay=lh)
    moved = velocity(H, weight_decay=lw, feature_decay=lh)
    values, slopes = jax.jvp(scatters, (H,), (moved.features,))
    np.testing.assert_allclose(found[:3], values, rtol=1e-12, atol=1e-14)
    _, between, ratio = (float(value) for value in values)
    # What the derivative by autodiff rounds: the motion times the distances, and the solve.
    condition = 1 + np.sum(H**2) / (K * n * lw)
    rounding = 1e-14 * condition * np.sqrt(float(jnp.sum(moved.features**2) * jnp.sum(H**2)))
    np.testing.assert_allclose(found.within_rate, slopes[0], rtol=1e-9, atol=rounding)
    np.testing.assert_allclose(found.between_rate, slopes[1], rtol=1e-9, atol=rounding)
    tolerance = rounding * (1 + ratio) / between
    np.testing.assert_allclose(found.ratio_rate, slopes[2], rtol=1e-9, atol=tolerance)
    assert found.ratio_rate <= 0
    without = rates(H, weight_decay=lw)
    assert float(without.ratio_rate) == pytest.approx(float(found.ratio_rate), rel=1e-12)
    assert without.within_rate <= 0 <= without.between_rate


def test_integrated_path_collapses_at_these_rates():
    lw, lh = 0.1, 0.02
    H = np.random.default_rng(6).standard_normal((K, n, p)) + np.eye(K, p)[:, None]
    times = np.linspace(0, 30, 301)
    path = solve_ivp(
        lambda _, v: velocity(
            v.reshape(H.shape), weight_decay=lw, feature_decay=lh
        ).features.ravel(),
        (0, times[-1]),
        H.ravel(),
        t_eval=times,
        rtol=1e-9,
        atol=1e-11,
    ).y.T.reshape(-1, *H.shape)
    found = jax.vmap(partial(collapse_rates, weight_decay=lw, feature_decay=lh))(path)
    measured = np.asarray(jax.vmap(scatters)(path))
    assert np.all(np.diff(measured[:, 2]) < 0)
    for value, rate in zip(measured.T, found[3:], strict=True):
        simpson = (times[2] - times[0]) / 6 * (rate[:-2:2] + 4 * rate[1:-1:2] + rate[2::2])
        change = value[2::2] - value[:-2:2]
        # Simpson's rule in steps of 0.1, of what changes within times of order 1/lw
        np.testing.assert_allclose(simpson, change, atol=1e-6 * np.abs(value[0]))


def test_anchored_minimum_to_first_order():
    """Error of second order: it falls by 100 when anchoring rises by 10."""
    lw, lh, rng = 0.05, 0.01, np.random.default_rng(8)
    H = 0.5 * rng.standard_normal((K, n, p)) + rng.standard_normal((K, 1, p))
    errors = []
    for beta in (10.0, 100.0):

        def anchored(v, beta=beta):
            value, gradient = reduced_gradient(v.reshape(H.shape), lw, lh)
            away = v - H.ravel()
            return float(value) + beta / 2 * away @ away, np.ravel(gradient) + beta * away

        options = {"maxiter": 3000, "ftol": 1e-18, "gtol": 1e-13}
        best = minimize(anchored, H.ravel(), jac=True, method="L-BFGS-B", options=options).x
        found = anchored_features(H, beta, weight_decay=lw, feature_decay=lh)
        errors.append(np.linalg.norm(best.reshape(H.shape) - found))
        assert scatters(best.reshape(H.shape))[2] < scatters(H)[2]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)


@given(H=feature_arrays(), seed=st.integers(0, 99))
def test_rotations_and_relabellings_change_nothing(H, seed):
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.standard_normal((p, p)))[0], rng.permutation(K)
    found, turned = (velocity(x, weight_decay=0.3) for x in (H, (H @ turn)[order]))
    scale = 1e-12 * (1 + np.sum(H**2)) * (1 + float(jnp.max(jnp.abs(found.features))))
    np.testing.assert_allclose((found.features @ turn)[order], turned.features, atol=scale)
    np.testing.assert_allclose((found.weights @ turn)[order], turned.weights, atol=scale)


def test_bad_input_is_named():
    good: dict[str, Any] = {"weight_decay": 0.1, "feature_decay": 0.1}
    for counts, message in (((1, 2), "n_classes"), ((2, 0), "samples_per_class")):
        with pytest.raises(ValueError, match=message):
            collapsed_minimum(*counts, **good)
    for name in good:
        with pytest.raises(ValueError, match=name):
            collapsed_minimum(2, 1, **{**good, name: -1.0})
        with pytest.raises(ValueError, match=name):
            central_path_velocity(np.ones((2, 1, 1)), **{**good, name: -1.0})
    with pytest.raises(ValueError, match="features"):
        central_path_velocity(np.full((2, 1, 1), np.nan), **good)
    with pytest.raises(ValueError, match="classes"):
        central_path_velocity(np.ones((1, 2, 2)), **good)
    with pytest.raises(ValueError, match="scatter"):
        collapse_rates(np.ones((2, 1, 1)), **good)
    with pytest.raises(ValueError, match="anchoring"):
        anchored_features(np.ones((2, 1, 1)), 0.0, **good)
