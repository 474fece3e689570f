"""Hill moments, the best decay, drift along the river, and the bigram block, by other routes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.river_valley import (
    bigram_hessian,
    hill_moment_step,
    optimal_decay,
    river_force,
    stable_gap,
    valley_losses,
)
from theory.stability.schedules import inverse_decay, wsd

POSITIVE = st.floats(-2, 1).map(lambda x: 10.0**x)


@given(st.floats(0.01, 1.99), POSITIVE, POSITIVE)
def test_stable_gap_is_the_fixed_point(rate, curvature, noise):
    eta = rate / curvature
    moment = 2 * float(stable_gap(eta, curvature, noise)) / curvature
    again = hill_moment_step(moment, eta, curvature, noise)
    assert again == pytest.approx(moment, rel=1e-12)
    start = hill_moment_step(2 * moment, eta, curvature, noise)  # a contraction by (1 - eta h)^2
    expected = moment * (1 + (1 - rate) ** 2)
    assert start == pytest.approx(expected, rel=1e-12)


@given(POSITIVE, POSITIVE, POSITIVE, st.integers(0, 2**16))
def test_no_schedule_beats_the_optimal_decay(moment, curvature, noise, seed):
    best, rng = optimal_decay(moment, curvature, noise, 8), np.random.default_rng(seed)

    def final(rates):
        now = moment
        for eta in rates:
            now = (1 - eta * curvature) ** 2 * now + eta**2 * noise
        return now

    least = final(np.asarray(best.rates))
    assert least == pytest.approx(float(best.moments[-1]), rel=1e-12)
    np.testing.assert_allclose(np.diff(1 / np.asarray(best.rates)), curvature, rtol=1e-8)
    near = np.asarray(best.rates) * np.exp(0.3 * rng.standard_normal((20, 8)))
    far = rng.uniform(0, 2 / curvature, (20, 8))
    assert all(final(rates) >= least * (1 - 1e-12) for rates in (*near, *far))


def test_optimal_decay_is_stationary_halves_the_rate_and_is_an_inverse_decay():
    eta, curvature, noise = 0.3, 3.0, 0.5
    moment = 2 * float(stable_gap(eta, curvature, noise)) / curvature
    rates, moments = optimal_decay(moment, curvature, noise, 12)
    assert rates[0] == pytest.approx(eta / 2)
    last = lambda rates: valley_losses(  # noqa: E731
        rates, jnp.array([curvature]), noise_variance=noise, moments=moment
    ).hill[-1]
    assert jnp.abs(jax.grad(last)(rates)).max() < 1e-14
    assert last(rates) == pytest.approx(curvature * float(moments[-1]) / 2)
    np.testing.assert_allclose(inverse_decay(rates[0], rates[-1], 11), rates[1:], rtol=1e-12)


def test_moments_are_those_of_simulated_descent():
    hills, noise, runs = jnp.array([0.5, 3.0]), 0.5, 10_000
    rates = wsd(0.3, 30, 10)

    def step(y, inputs):
        eta, key = inputs
        kick = jnp.sqrt(noise) * jax.random.normal(key, y.shape)
        y = y - eta * (hills[None] * y + kick)
        return y, jnp.sum(hills[None] * y**2, axis=1) / 2

    keys = jax.random.split(jax.random.key(0), 30)
    _, losses = jax.lax.scan(step, jnp.full((runs, 2), 2.0), (rates, keys))
    found = valley_losses(rates, hills, noise_variance=noise, moments=4.0)
    errors = np.std(losses, axis=1) / np.sqrt(runs)
    assert (np.abs(np.mean(losses, axis=1) - found.hill) < 4 * errors).all()
    np.testing.assert_array_equal(found.river, 0)


def test_stable_phase_sits_at_the_gap_and_the_river_flows_on():
    hills, eta = jnp.array([0.5, 2.0, 8.0]), 0.2
    losses = valley_losses(
        wsd(eta, 400, 50),
        hills,
        noise_variance=0.02,
        moments=1.0,
        river_curvature=0.004,
        river_start=10.0,
    )
    gap = float(jnp.sum(stable_gap(eta, hills, 0.02)))
    assert losses.hill[349] == pytest.approx(gap, rel=1e-12)
    assert losses.hill[-1] < gap / 3
    shrink = (1 - np.asarray(wsd(eta, 400, 50)) * 0.004).prod()
    assert losses.river[-1] == pytest.approx(0.002 * (10 * shrink) ** 2, rel=1e-12)


def test_noise_pushes_towards_flatter_parts():
    eta, noise, runs, steps, slope = 0.05, 1.0, 1000, 2000, -0.005
    curvature, bend = lambda x: 2 + 1.5 * jnp.tanh(x), lambda x: 1.5 / jnp.cosh(x) ** 2

    def sgd(state, key):
        x, y = state
        kick = jnp.sqrt(noise) * jax.random.normal(key, y.shape)
        return (
            x - eta * (bend(x) * y**2 / 2 + slope),
            y - eta * (curvature(x) * y + kick),
        ), None

    def averaged(state, _):
        x, m = state
        force = river_force(slope, bend(x), m)
        return (x - eta * force, hill_moment_step(m, eta, curvature(x), noise)), None

    keys = jax.random.split(jax.random.key(1), steps)
    (x, _), _ = jax.lax.scan(sgd, (jnp.zeros(runs), jnp.zeros(runs)), keys)
    (mean, _), _ = jax.lax.scan(averaged, (jnp.array(0.0),) * 2, None, length=steps)
    assert float(mean) < 0 < -slope * eta * steps  # upstream, against the slope
    # what is neglected: fluctuations of x, relative order eta; and 4 standard errors
    tolerance = eta * abs(float(mean)) + 4 * float(jnp.std(x)) / np.sqrt(runs)
    assert float(jnp.mean(x)) == pytest.approx(float(mean), abs=tolerance)


def test_bigram_block_is_the_hessian_of_cross_entropy():
    rng = np.random.default_rng(0)
    logits, frequency = jnp.asarray(rng.standard_normal((2, 4))), np.array([0.3, 0.7])
    targets = jax.nn.softmax(jnp.asarray(rng.standard_normal((2, 4))))

    def loss(z):
        return -jnp.sum(frequency[:, None] * targets * jax.nn.log_softmax(z))

    found = bigram_hessian(frequency, jax.nn.softmax(logits))
    full = jax.hessian(loss)(logits)
    for i in range(2):
        np.testing.assert_allclose(found[i], full[i, :, i], atol=1e-14)
        np.testing.assert_array_equal(full[i, :, 1 - i], 0)
    certain = bigram_hessian(1.0, np.array([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(certain, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stable_gap(1.0, 2.0, 1.0), r"learning_rate \* curvature must be below 2"),
        (lambda: stable_gap(0.0, 2.0, 1.0), "learning_rate must be positive"),
        (lambda: hill_moment_step(-1.0, 0.1, 1.0, 1.0), "moment must be non-negative"),
        (lambda: optimal_decay(1.0, 1.0, 0.0, 3), "noise_variance must be positive"),
        (lambda: optimal_decay(1.0, 1.0, 1.0, 0), "steps must be an integer >= 1"),
        (
            lambda: valley_losses(1.0, np.ones(1), noise_variance=1.0, moments=1.0),
            "rates must be a vector",
        ),
        (
            lambda: valley_losses(np.ones(1), -np.ones(1), noise_variance=1.0, moments=1.0),
            "hills must be non-negative",
        ),
        (lambda: river_force(np.nan, 1.0, 1.0), "slope must be finite"),
        (lambda: bigram_hessian(1.0, np.array([0.5, 0.6])), "sum of probabilities must be 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
