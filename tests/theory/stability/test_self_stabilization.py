"""The reduced map against gradient descent, its linearization and its stationary state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.self_stabilization import (
    Oscillation,
    oscillation_energy,
    oscillation_growth,
    oscillation_period,
    progressive_sharpening_coeffs,
    self_stabilization_step,
    stationary_excess,
    two_cycle_amplitude,
)

POSITIVE = st.floats(-1, 0.5).map(lambda x: 10.0**x)


def state(x, y):
    return Oscillation(jnp.asarray(x, float), jnp.asarray(y, float))


def toy(w, eta, alpha, beta):
    """Sharpness ``2/eta + sqrt(beta) z`` along x: the reduced map, with y = sqrt(beta) z."""
    x, z = w
    return (2 / eta + jnp.sqrt(beta) * z) * x**2 / 2 - alpha / jnp.sqrt(beta) * z


descend = jax.jit(lambda w, eta, *model: w - eta * jax.grad(toy)(w, eta, *model))


@given(st.floats(0.01, 0.3), POSITIVE, POSITIVE, st.integers(0, 99))
def test_map_is_gradient_descent_on_the_toy(eta, alpha, beta, seed):
    w = 0.3 * np.random.default_rng(seed).standard_normal(2)
    found = state(w[0], np.sqrt(beta) * w[1])
    for _ in range(5):
        w = descend(w, eta, alpha, beta)
        found = self_stabilization_step(found, eta, alpha, beta)
        np.testing.assert_allclose(np.stack(found), [w[0], np.sqrt(beta) * w[1]], rtol=1e-10)


@given(st.floats(0.01, 1.0), POSITIVE, POSITIVE)
def test_two_cycle_and_the_linearized_map_about_it(eta, alpha, beta):
    amplitude = float(two_cycle_amplitude(alpha, beta))
    flipped = self_stabilization_step(state(amplitude, 0.0), eta, alpha, beta)
    np.testing.assert_allclose(np.stack(flipped), [-amplitude, 0], atol=1e-14 * (1 + alpha))
    step = lambda v: jnp.stack(self_stabilization_step(Oscillation(*v), eta, alpha, beta))  # noqa: E731
    jacobian = np.diag([-1.0, 1.0]) @ jax.jacobian(step)(jnp.array([amplitude, 0.0]))
    multiplier = np.linalg.eigvals(jacobian)[0]
    np.testing.assert_allclose(oscillation_growth(eta, alpha), np.abs(multiplier), rtol=1e-10)
    period = 2 * np.pi / np.abs(np.angle(multiplier))
    np.testing.assert_allclose(oscillation_period(eta, alpha), period, rtol=1e-6)


def path(start, eta, alpha, beta, steps):
    def step(now, _):
        after = self_stabilization_step(now, eta, alpha, beta)
        return after, after

    return jax.lax.scan(step, start, None, length=steps)[1]


def test_small_oscillations_have_the_period_and_the_growth():
    eta, alpha, beta = 0.05, 0.5, 2.0
    start = state(1.00001 * float(two_cycle_amplitude(alpha, beta)), 0.0)
    y = np.asarray(path(start, eta, alpha, beta, 1300).excess)
    crossings = np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0))
    spent = crossings - y[crossings] / (y[crossings + 1] - y[crossings])  # interpolated
    np.testing.assert_allclose(np.diff(spent), oscillation_period(eta, alpha), rtol=1e-3)
    depths = [-part.min() for part in np.split(y, crossings)[1:-1]]
    growth = float(oscillation_growth(eta, alpha)) ** float(oscillation_period(eta, alpha))
    np.testing.assert_allclose(np.divide(depths[1:], depths[:-1]), growth, rtol=1e-2)


def test_energy_drifts_in_proportion_to_the_learning_rate():
    alpha, beta, drifts = 0.3, 2.0, []
    start = state(0.1, 0.2)
    for eta in (0.02, 0.01, 0.005, 0.0025):
        energies = oscillation_energy(path(start, eta, alpha, beta, int(20 / eta)), alpha, beta)
        drifts.append(float(jnp.max(jnp.abs(energies - oscillation_energy(start, alpha, beta)))))
    orders = np.log2(np.divide(drifts[:-1], drifts[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.1)  # relative correction of order eta
    assert abs(orders[-1] - 1) < abs(orders[0] - 1)


@given(
    st.floats(0.01, 1.0),
    POSITIVE,
    POSITIVE,
    st.floats(-2, 2, allow_subnormal=False),
    st.floats(-0.9, 2),
)
def test_energy_rises_by_the_stated_amount(eta, alpha, beta, x, move):
    now = state(x or 1.0, move / eta)
    rise = oscillation_energy(self_stabilization_step(now, eta, alpha, beta), alpha, beta)
    rise = float(rise - oscillation_energy(now, alpha, beta))
    x, y = (float(value) for value in now)
    pull = (eta * (alpha - beta * x**2 / 2)) ** 2 / 2 + beta * (eta * x * y) ** 2 / 4
    rounding = 1e-14 * (y**2 + beta * x**2 + alpha * (1 + abs(np.log(abs(x)))))
    assert rise == pytest.approx(pull + alpha * (move - np.log1p(move)), rel=1e-10, abs=rounding)
    assert rise >= -rounding


def test_stationary_excess_balances_a_noisy_run():
    eta, alpha, beta, sigma, runs = 0.05, 0.5, 2.0, 1.0, 400

    def step(carry, key):
        now, total = carry
        x, y = self_stabilization_step(now, eta, alpha, beta)
        after = Oscillation(x + eta * sigma * jax.random.normal(key, x.shape), y)
        x, y = after
        return (after, total + jnp.stack([y, y**2 * x**2, (alpha - beta * x**2 / 2) ** 2])), None

    @jax.jit
    def averages(start, key, steps=8000):
        carry = (start, jnp.zeros((3, runs)))
        (end, total), _ = jax.lax.scan(step, carry, jax.random.split(key, steps))
        return end, total / steps

    burn_in, key = jax.random.split(jax.random.key(0))
    start = state(np.full(runs, two_cycle_amplitude(alpha, beta)), np.zeros(runs))
    start, _ = averages(start, burn_in)
    _, (excess, coupling, imbalance) = averages(start, key)
    moments = {"coupling": coupling, "imbalance": imbalance}
    gaps = np.asarray(excess - stationary_excess(eta, alpha, beta, sigma**2, **moments))
    error = gaps.std() / np.sqrt(runs)
    assert abs(gaps.mean()) < 4 * error
    assert error < 0.01 * abs(np.mean(excess))
    leading = stationary_excess(eta, alpha, beta, sigma**2)
    assert np.mean(excess) < 1.5 * leading  # noise keeps the oscillation going


def test_coefficients_of_a_network():
    """alpha is how fast gradient flow sharpens; at the fixed point along u, P changes no ratio."""
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.standard_normal((9, 2))), jnp.asarray(rng.standard_normal(9))

    def loss(w):
        return jnp.mean((jnp.tanh(x @ w[:8].reshape(2, 4)) @ w[8:] - y) ** 2) / 2

    w = jnp.asarray(rng.standard_normal(12))
    alpha, beta, sharpness, u = jax.jit(lambda w: progressive_sharpening_coeffs(loss, w))(w)
    spectrum = jax.jit(lambda w: jnp.linalg.eigvalsh(jax.hessian(loss)(w))[-1])
    assert sharpness == pytest.approx(float(spectrum(w)))
    project = jnp.eye(12) - jnp.outer(u, u)
    gradient, slope, step = project @ jax.grad(loss)(w), np.zeros(12), 1e-5
    for i, move in enumerate(step * np.eye(12)):
        slope[i] = (spectrum(w + move) - spectrum(w - move)) / (2 * step)
    np.testing.assert_allclose(alpha, -gradient @ slope, rtol=1e-6)
    np.testing.assert_allclose(beta, slope @ project @ slope, rtol=1e-6)
    # tilt the loss along u until the averaged force there vanishes
    tilt = -(jax.grad(loss)(w) @ u) - alpha / beta * (u @ slope)
    full = -(jax.grad(loss)(w) + tilt * u) @ slope
    np.testing.assert_allclose(full / (slope @ slope), alpha / beta, rtol=1e-6)


def test_coefficients_of_the_toy_are_its_own():
    model = (0.1, 0.7, 3.0)
    found = progressive_sharpening_coeffs(lambda w: toy(w, *model), jnp.array([0.0, 0.2]))
    np.testing.assert_allclose(found[:3], [0.7, 3.0, 20 + np.sqrt(3) * 0.2], rtol=1e-12)


def test_transformations_and_dtype():
    start = Oscillation(jnp.ones(3, "f4"), jnp.zeros(3, "f4"))
    after = jax.jit(jax.vmap(self_stabilization_step, (0, None, None)))(start, 0.1, 0.5)
    assert after.excess.dtype == jnp.float32
    assert jax.grad(lambda a: oscillation_period(0.1, a))(0.5) < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: self_stabilization_step(state(1, 1), 0.0, 1.0), "learning_rate must be positive"),
        (lambda: self_stabilization_step(state(1, 1), 1.0, 1.0, 0.0), "beta must be positive"),
        (lambda: self_stabilization_step(state(np.nan, 1), 1.0, 1.0), "displacement must be fin"),
        (lambda: two_cycle_amplitude(-1.0), "alpha must be positive"),
        (lambda: oscillation_energy(state(1, np.inf), 1.0), "excess must be finite"),
        (lambda: oscillation_growth(0.1, 0.0), "alpha must be positive"),
        (lambda: stationary_excess(0.1, 1.0, 1.0, -1.0), "noise_variance must be non-negative"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
