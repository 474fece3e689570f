"""Learning-rate sensitivity and its invariances; remedies against autodiff, optax and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from theory.stability.sensitivity import (
    adam_update_size,
    attention_logit_bound,
    attention_logit_degree,
    independent_decay_rms,
    lr_sensitivity,
    z_loss,
    z_loss_decay_rate,
    z_loss_gradient,
)

RATES = np.array([3e-4, 1e-3, 2e-3, 1e-2, 5e-2, 0.3])
INIT = 10.0
LOSSES = arrays(float, len(RATES), elements=st.floats(0, 12) | st.sampled_from([np.nan, np.inf]))
MEASURES = st.sampled_from(["log", "linear"])


@given(LOSSES, MEASURES, st.floats(-5, 5))
def test_invariances_of_the_sensitivity(losses, measure, shift):
    found = float(lr_sensitivity(RATES, losses, INIT, measure=measure))
    assert 0 <= found <= INIT
    shifted = lr_sensitivity(RATES, losses + shift, INIT + shift, measure=measure)
    assert shifted == pytest.approx(found, abs=1e-12)
    rescaled = lr_sensitivity(7 * RATES, losses, INIT, measure=measure)
    assert rescaled == pytest.approx(found, rel=1e-12, abs=1e-14)


@given(LOSSES, st.integers(0, 5), st.floats(0, 5), MEASURES)
def test_sensitivity_grows_with_every_loss_but_the_best(losses, index, extra, measure):
    clipped = np.where(np.isfinite(losses), np.minimum(losses, INIT), INIT)
    if index == np.argmin(clipped):
        return
    worse = losses.copy()
    worse[index] += extra
    before, after = (lr_sensitivity(RATES, x, INIT, measure=measure) for x in (losses, worse))
    assert after >= before - 1e-14


def test_flat_curves_and_divergence():
    assert lr_sensitivity(RATES, np.full(6, 3.0), INIT) == 0
    assert lr_sensitivity(RATES, np.full(6, np.nan), INIT) == 0
    half = np.where(RATES > 5e-3, np.nan, 2.0)
    capped = np.where(RATES > 5e-3, INIT, 2.0)
    assert lr_sensitivity(RATES, half, INIT) == lr_sensitivity(RATES, capped, INIT)


def test_trapezoid_converges_to_the_integral_of_a_parabola():
    low, best, high = np.log([3e-4, 1e-2, 3e-1])
    exact = 0.1 * ((high - best) ** 3 + (best - low) ** 3) / (3 * (high - low))
    errors = []
    for n in (100, 200, 400):
        # a grid with the minimum on it
        left, right = np.linspace(low, best, n), np.linspace(best, high, n)
        grid = np.concatenate([left, right[1:]])
        errors.append(lr_sensitivity(np.exp(grid), 2 + 0.1 * (grid - best) ** 2, INIT) - exact)
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.05)


@given(arrays(float, 5, elements=st.floats(-20, 20)), st.floats(0, 1))
def test_z_loss_gradient(logits, weight):
    expected = jax.grad(z_loss)(jnp.asarray(logits), weight)
    np.testing.assert_allclose(z_loss_gradient(logits, weight), expected, atol=1e-12)


def test_z_loss_curves_the_shift_and_moves_no_probability():
    rng = np.random.default_rng(0)
    target = jax.nn.softmax(jnp.asarray(rng.standard_normal(7)))
    weight = 1e-2

    def loss(z):
        return -jnp.sum(target * jax.nn.log_softmax(z)) + z_loss(z, weight)

    at = jnp.log(target)  # the minimum of both terms: ln Z = 0
    np.testing.assert_allclose(jax.grad(loss)(at), 0, atol=1e-15)
    shift = jnp.ones(7) / np.sqrt(7)
    curvature = jax.hessian(loss)(at)
    np.testing.assert_allclose(shift @ curvature @ shift, 2 * weight / 7, rtol=1e-10)


@given(st.integers(0, 2**16), st.sampled_from([1e-5, 1e-4, 1e-3]))
def test_log_z_decays_with_the_slowest_curvature(seed, weight):
    """Of cross-entropy + z-loss at ln Z = 0: the smallest eigenvalue, up to the next order."""
    p = np.random.default_rng(seed).dirichlet(np.full(6, 5.0))
    curvature = np.diag(p) - np.outer(p, p) + 2 * weight * np.outer(p, p)
    slowest = np.linalg.eigvalsh(curvature)[0]
    next_order = 2 * weight * (np.mean(1 / p) / 6 - 1)
    found = float(z_loss_decay_rate(weight, 6))
    assert slowest == pytest.approx(found, rel=2 * next_order + 1e-9)
    small = 2 * weight / (6 * p.min())  # of which what is left out is the square
    assert slowest == pytest.approx(found * (1 - next_order), rel=4 * small**2 + 1e-9)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("input_gain", [False, True])
def test_degree_of_attention_logits(qk_norm, input_gain):
    rng = np.random.default_rng(0)
    gain, (Q, K), gains = rng.normal(size=6), rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 4))
    n = rng.normal(size=(2, 6))

    def logit(scale):
        x = n * (scale * gain if input_gain else 1.0)
        q, k = (scale * m @ row for m, row in zip((Q, K), x, strict=True))
        if qk_norm:
            q, k = (
                (u - u.mean()) / u.std() * scale * g for u, g in zip((q, k), gains, strict=True)
            )
        return q @ k

    degree = attention_logit_degree(qk_norm=qk_norm, input_gain=input_gain)
    assert np.log2(logit(2.0) / logit(1.0)) == pytest.approx(degree, abs=1e-10)


@given(st.integers(0, 2**16))
def test_normalized_logits_stay_below_the_bound(seed):
    rng = np.random.default_rng(seed)
    x = 1e3 * rng.standard_normal((2, 40, 8))
    unit = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    gains = rng.standard_normal((2, 8))
    queries, keys = unit * gains[:, None]
    bound = float(attention_logit_bound(*gains))
    assert np.abs(queries @ keys.T / np.sqrt(8)).max() <= bound
    same = np.diag(unit[0] @ unit[0].T) / np.sqrt(8)  # equal vectors, gains 1
    np.testing.assert_allclose(same, attention_logit_bound(np.ones(8), np.ones(8)), rtol=1e-12)


@pytest.mark.parametrize("gradient", [1e-5, -1e-8, 1e-10])
def test_update_size_is_that_of_optax(gradient):
    optimizer = optax.adam(1.0, eps=1e-8)
    state, update = optimizer.init(jnp.zeros(())), jnp.zeros(())
    for _ in range(5):
        update, state = optimizer.update(jnp.asarray(gradient), state)
    np.testing.assert_allclose(np.abs(np.asarray(update)), adam_update_size(gradient), rtol=1e-9)


@pytest.mark.parametrize("steps", [50, 3000])
def test_weights_under_independent_decay(steps):
    eta, decay, runs = 0.1, 2e-3, 2000

    def step(theta, key):
        return (1 - decay) * theta - eta * jax.random.rademacher(key, (runs,), float), None

    keys = jax.random.split(jax.random.key(0), steps)
    squares = np.asarray(jax.lax.scan(step, jnp.zeros(runs), keys)[0]) ** 2
    error = squares.std() / np.sqrt(runs)
    found = float(independent_decay_rms(eta, decay, steps))
    assert squares.mean() == pytest.approx(found**2, abs=4 * error)
    limit = float(independent_decay_rms(eta, decay))
    assert limit == pytest.approx(eta / np.sqrt(2 * decay - decay**2))
    assert found < limit


@pytest.mark.parametrize(("decay", "momentum"), [(0.02, 0.9), (0.3, 0.5), (1.2, 0.7), (0.1, 0.0)])
def test_momentum_and_decay_by_the_stationary_covariance(decay, momentum):
    """Of the linear recursion of (weight, average): the matrix equation S = F S F^T + noise."""
    a, b, eta = 1 - decay, momentum, 0.3
    step = np.array([[a, -eta * b], [0, b]])
    drive = np.array([-eta * (1 - b), 1 - b])
    operator = np.eye(4) - np.kron(step, step)
    covariance = np.linalg.solve(operator, np.outer(drive, drive).ravel())
    found = independent_decay_rms(eta, decay, momentum=momentum)
    assert float(found) == pytest.approx(np.sqrt(covariance[0]), rel=1e-10)


def test_sensitivity_of_many_curves_at_once():
    losses = np.random.default_rng(0).uniform(1, 12, (3, 4, 6))
    found = lr_sensitivity(RATES, losses, np.full((3, 1), INIT))
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found[1, 2], lr_sensitivity(RATES, losses[1, 2], INIT), rtol=1e-12)
    single = lr_sensitivity(RATES.astype("f4"), losses.astype("f4"), np.float32(INIT))
    assert single.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lr_sensitivity(RATES, np.ones(5), 1.0), r"\(n,\) and \(..., n\), n >= 2, got"),
        (lambda: lr_sensitivity(RATES[::-1], np.ones(6), 1.0), "steps of learning_rates must be p"),
        (lambda: lr_sensitivity(-RATES, np.ones(6), 1.0), "learning_rates must be positive"),
        (lambda: lr_sensitivity(RATES, np.ones(6), np.inf), "init_loss must be finite"),
        (lambda: lr_sensitivity(RATES, np.ones(6), 1.0, measure="x"), "measure must be one of log"),
        (lambda: z_loss(np.ones(2), -1.0), "weight must be non-negative"),
        (lambda: attention_logit_bound(np.ones(2), np.ones(3)), "must have one shape"),
        (lambda: adam_update_size(1.0, 0.0), "eps must be positive"),
        (lambda: independent_decay_rms(1.0, 2.0), r"weight_decay must be in \(0, 2\), got 2.0"),
        (lambda: independent_decay_rms(1.0, 1.0, -1), "steps must be non-negative"),
        (lambda: independent_decay_rms(1.0, 1.0, momentum=1), r"momentum must be in \[0, 1\)"),
        (lambda: z_loss_decay_rate(-1.0, 3), "weight must be non-negative"),
        (lambda: z_loss_decay_rate(1.0, 0), "vocabulary must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
