"""Averages over initialisations and label noise, against models drawn, enumerated or integrated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.optimize import minimize_scalar

from theory.kernels.kernel_modes import descent_filter, flow_filter, kernel_modes
from theory.kernels.linearized import smoother
from theory.kernels.linearized_ensembles import (
    Covariances,
    expected_risk,
    initialization_ensemble,
    stopping_time,
)

n, p, c = 4, 3, 2  # samples, test inputs, outputs
LAYERS = ("all", "last")


class Features:
    """f = phi v + J u: v is drawn at random, u starts at 0; all weights are trained, or v alone.

    Initial outputs have the covariance K = phi phi^T, the tangent kernel is K + J J^T, or K.
    """

    def __init__(self, seed, layers, *, width=7, repeated=False):
        rng = np.random.default_rng(seed)
        phi, J = rng.standard_normal((2, n + p, width))
        if repeated:
            phi[n], J[n] = phi[0], J[0]  # a test input that is trained on
        self.phi, self.trained = phi, np.hstack([phi, J]) if layers == "all" else phi
        self.y, self.width = rng.standard_normal((n, c)), width
        K, theta = phi @ phi.T, self.trained @ self.trained.T
        self.initial = Covariances(K[:n, :n], K[n:, :n], K[n:, n:])
        self.kernel, self.cross = theta[:n, :n], theta[n:, :n]

    def predicted(self, modes, learning, targets=None):
        targets = self.y if targets is None else targets
        return initialization_ensemble(modes, learning, self.cross, self.initial, targets)

    def posterior(self):
        """Mean and covariance of the Gaussian process, given the training set without noise."""
        K = self.initial
        A = np.linalg.solve(K.train, np.asarray(K.cross).T).T
        return A @ self.y, K.test - A @ np.asarray(K.cross).T


@given(
    seed=st.integers(0, 2**32 - 1),
    layers=st.sampled_from(LAYERS),
    loss=st.sampled_from(["mean", "sum"]),
    t=st.floats(0, 3),
)
def test_moments_are_those_of_the_integrated_response(seed, layers, loss, t):
    """Outputs depend linearly on v and y; the response, by matrix exponential in weights."""
    model = Features(seed, layers)
    samples, D, size = n if loss == "mean" else 1, model.trained, model.trained.shape[1]
    # d w/dt = D^T (y - D w)/samples: the block exponential maps (w_0, y) to w(t)
    block = np.zeros((size + n,) * 2)
    block[:size] = np.hstack([-D[:n].T @ D[:n], D[:n].T]) / samples
    response = D[n:] @ expm(t * block)[:size]
    by_v, by_y = response[:, : model.width], response[:, size:]
    modes = kernel_modes(model.kernel, loss=loss)
    found = model.predicted(modes, flow_filter(modes, t))
    scale = np.sum(model.phi**2) * (1 + t * np.trace(model.kernel)) * 1e-14
    np.testing.assert_allclose(found.mean, by_y @ model.y, atol=scale)
    np.testing.assert_allclose(found.covariance, by_v @ by_v.T, atol=scale)


@pytest.mark.parametrize("layers", LAYERS)
def test_moments_of_sampled_initialisations(layers):
    """Descent of 20000 models from random v: 4 standard errors of means and covariances."""
    model, draws, steps = Features(1, layers), 20_000, (0, 5, 200)
    modes = kernel_modes(model.kernel, loss="mean")
    eta = 0.5 / float(modes.rates[0])
    weights = np.zeros((model.trained.shape[1], draws))
    weights[: model.width] = np.random.default_rng(2).standard_normal((model.width, draws))
    D, y, expected = model.trained, model.y[:, :1], None
    expected = model.predicted(modes, descent_filter(modes, eta, np.array(steps)), model.y[:, 0])
    for k in range(max(steps) + 1):
        if k in steps:
            outputs, index = D[n:] @ weights, steps.index(k)
            covariance = np.asarray(expected.covariance[index])
            error = np.sqrt(np.diagonal(covariance) / draws)
            assert np.all(np.abs(outputs.mean(axis=1) - expected.mean[index]) <= 4 * error)
            # Gaussian outputs: Var(x_a x_b) = C_aa C_bb + C_ab^2
            squares = np.outer(np.diagonal(covariance), np.diagonal(covariance)) + covariance**2
            away = np.abs(np.cov(outputs) - covariance)
            assert np.all(away <= 4 * np.sqrt(squares / draws))
        weights = weights + eta / n * D[:n].T @ (y - D[:n] @ weights)


@given(seed=st.integers(0, 2**32 - 1), t=st.one_of(st.floats(0, 100), st.just(np.inf)))
def test_no_variance_is_below_the_posterior_which_the_last_layer_ends_at(seed, t):
    spreads = {}
    for layers in LAYERS:
        model = Features(seed, layers)
        modes = kernel_modes(model.kernel, loss="mean")
        mean, covariance = model.posterior()
        spreads[layers] = model.predicted(modes, flow_filter(modes, t)).covariance
        slack = 1e-13 * float(modes.conditioning) * np.sum(model.phi**2)
        assert np.linalg.eigvalsh(spreads[layers] - covariance)[0] >= -slack
        if layers == "last":
            ended = model.predicted(modes, flow_filter(modes, np.inf))
            np.testing.assert_allclose(ended.covariance, covariance, atol=slack)
            np.testing.assert_allclose(ended.mean, mean, atol=slack)


@given(seed=st.integers(0, 2**32 - 1), layers=st.sampled_from(LAYERS))
def test_start_and_end_on_trained_inputs(seed, layers):
    model = Features(seed, layers, repeated=True)
    modes = kernel_modes(model.kernel, loss="sum")
    found = model.predicted(modes, flow_filter(modes, np.array([0.0, np.inf])))
    np.testing.assert_array_equal(found.covariance[0], model.initial.test)
    np.testing.assert_array_equal(found.mean[0], 0)
    np.testing.assert_allclose(found.mean[1, 0], model.y[0], atol=1e-12)
    np.testing.assert_allclose(found.covariance[1, 0], 0, atol=1e-12)


def test_covariances_of_the_wrong_shape_are_named():
    model = Features(0, "last")
    modes = kernel_modes(model.kernel, loss="sum")
    learning = flow_filter(modes, 1.0)
    for name in ("train", "cross", "test"):
        wrong = model.initial._replace(**{name: np.ones((2, 2))})
        with pytest.raises(ValueError, match="initial"):
            initialization_ensemble(modes, learning, model.cross, wrong, model.y)


class Noisy:
    """A kernel, possibly with outputs, and a signal; risk enumerated over labels of two values."""

    def __init__(self, seed, blocks=False, ridge=0.0):
        rng = np.random.default_rng(seed)
        J = rng.standard_normal((n + p, c, 9) if blocks else (n + p, 6))
        axes = ((J.ndim - 1,), (J.ndim - 1,))
        self.kernel, self.cross = (np.tensordot(x, J[:n], axes) for x in (J[:n], J[n:]))
        signal = rng.standard_normal((n + p, c) if blocks else n + p)
        self.signal, self.signal_test = signal[:n], signal[n:]
        self.loss, self.ridge = ("mean", "sum")[seed % 2], ridge

    @property
    def modes(self):
        return kernel_modes(self.kernel, loss=self.loss, ridge=self.ridge)

    def risk(self, learning, noise):
        return expected_risk(self.modes, learning, self.cross, self.signal, self.signal_test, noise)


@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.booleans(),
    ridge=st.sampled_from([0.0, 0.2]),
    t=st.floats(0, 10),
    noise=st.floats(0, 2),
)
def test_risk_is_the_average_over_enumerated_labels(seed, blocks, ridge, t, noise):
    """Noise of +-noise_std has the moments that count, and 2^m labels."""
    problem = Noisy(seed, blocks, ridge)
    learning = flow_filter(problem.modes, np.array([t, np.inf]))
    A = np.asarray(smoother(problem.modes, learning, problem.cross))
    flips = np.array(list(itertools.product([-noise, noise], repeat=A.shape[-1])))
    labels = problem.signal.ravel()[None] + flips
    errors = np.einsum("txm,em->tex", A, labels) - problem.signal_test.ravel()[None, None]
    expected = np.mean(np.sum(errors**2, axis=-1), axis=1) / p
    found = problem.risk(learning, noise)
    np.testing.assert_allclose(found.total, expected, rtol=1e-11)
    np.testing.assert_allclose(found.bias + found.noise, found.total, rtol=1e-15)


def test_risk_of_separate_outputs_adds_up():
    problem, rng = Noisy(4), np.random.default_rng(0)
    learning = flow_filter(problem.modes, np.array([0.5, 3.0]))
    signals = rng.standard_normal((c, n + p))
    each = []
    for signal in signals:
        problem.signal, problem.signal_test = signal[:n], signal[n:]
        each.append(problem.risk(learning, 0.7))
    problem.signal, problem.signal_test = signals[:, :n].T, signals[:, n:].T
    for found, *parts in zip(problem.risk(learning, 0.7), *each, strict=True):
        np.testing.assert_allclose(found, sum(parts), rtol=1e-13)


@given(seed=st.integers(0, 2**32 - 1), noise=st.sampled_from([0.1, 0.5, 2.0]))
def test_stopping_time_has_the_least_risk_of_all_times(seed, noise):
    problem = Noisy(seed)
    modes = problem.modes
    found = stopping_time(modes, problem.cross, problem.signal, problem.signal_test, noise)
    rates, vectors = np.linalg.eigh(problem.kernel)
    samples = n if problem.loss == "mean" else 1

    def risk(log_t):
        gain = -np.expm1(-np.exp(log_t)[..., None] * rates / samples) / rates
        A = (problem.cross @ vectors) * gain[..., None, :] @ vectors.T
        missed = A @ problem.signal - problem.signal_test
        return np.mean(missed**2, axis=-1) + noise**2 * np.sum(A**2, axis=(-1, -2)) / p

    log_times = np.linspace(-12, 25, 3701)
    scanned = risk(log_times)
    assert float(found.risk_at_start) == pytest.approx(np.mean(problem.signal_test**2), rel=1e-12)
    assert float(found.risk_at_end) == pytest.approx(risk(np.array(60.0)), rel=1e-8)
    assert float(found.risk) <= scanned.min() * (1 + 1e-9)
    if found.interior:
        best = log_times[scanned.argmin()]
        near = minimize_scalar(
            lambda s: float(risk(np.array(s))),
            bounds=(best - 0.02, best + 0.02),
            method="bounded",
            options={"xatol": 1e-12},
        )
        assert float(found.risk) == pytest.approx(near.fun, rel=1e-9)
    else:
        assert float(found.time) in (0.0, np.inf)


@pytest.mark.parametrize("signal", [0.05, 1.0, 300.0])
@pytest.mark.parametrize("eigenvalue", [1e-3, 4.0])
def test_one_mode_stops_where_its_signal_equals_its_noise(signal, eigenvalue):
    kernel = np.array([[eigenvalue]])
    modes = kernel_modes(kernel, loss="sum")
    s = np.array([signal])
    found = stopping_time(modes, kernel, s, s, 2.0)
    exact = np.log1p(signal**2 / 4) / eigenvalue
    # A minimum is found to the root of the rounding of its value, over its curvature.
    assert float(found.time) == pytest.approx(exact, rel=1e-5)
    assert float(found.risk) == pytest.approx(1 / (1 / signal**2 + 1 / 4), rel=1e-12)
    assert found.interior


def test_nothing_to_stop_for():
    problem = Noisy(1)
    noiseless = stopping_time(problem.modes, problem.kernel, problem.signal, problem.signal, 0.0)
    assert noiseless.time == np.inf
    silent = stopping_time(problem.modes, problem.cross, 0 * problem.signal, np.zeros(p), 1.0)
    assert (float(silent.time), float(silent.risk)) == (0.0, 0.0)
    empty = kernel_modes(np.zeros((n, n)), loss="sum")
    found = stopping_time(empty, np.zeros((p, n)), problem.signal, problem.signal_test, 1.0)
    assert found.risk == found.risk_at_start == found.risk_at_end
    assert not found.interior
    for noise in (-1.0, np.nan):
        with pytest.raises(ValueError, match="noise_std"):
            stopping_time(problem.modes, problem.cross, problem.signal, problem.signal_test, noise)


def test_compiles_vectorises_and_differentiates_in_noise():
    problem = Noisy(2)
    args = (problem.modes, problem.cross, problem.signal, problem.signal_test)
    noises = jnp.array([0.3, 0.6])
    found = jax.jit(jax.vmap(lambda noise: stopping_time(*args, noise).risk))(noises)
    each = [float(stopping_time(*args, noise).risk) for noise in noises]
    np.testing.assert_allclose(found, each, rtol=1e-12)
    learning = flow_filter(problem.modes, 1.0)
    slope = jax.grad(lambda noise: problem.risk(learning, noise).total)(0.5)
    assert float(slope) == pytest.approx(4 * float(problem.risk(learning, 0.5).noise), rel=1e-12)
