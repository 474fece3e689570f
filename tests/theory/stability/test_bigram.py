"""Bigram tables: the river against an integration, the hills against Lyapunov's equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.stability.bigram import certain_loss, uncertain_gap

TOKENS = 5
FREQUENCIES = st.floats(0.01, 1.0)


@jax.jit
def velocity(logits, frequency):
    return -frequency * jax.grad(lambda w: -jax.nn.log_softmax(w)[2])(logits)


@pytest.mark.parametrize("frequency", [0.05, 0.7])
def test_certain_loss_is_that_of_the_gradient_flow_of_all_logits(frequency):
    times = np.geomspace(0.1, 1000, 9)
    flow = solve_ivp(
        lambda t, w: np.asarray(velocity(w, frequency)),
        (0, times[-1]),
        np.zeros(TOKENS),
        t_eval=times,
        rtol=1e-10,
        atol=1e-12,
        method="LSODA",
    )
    found = -np.asarray(jax.nn.log_softmax(flow.y, axis=0))[2]
    np.testing.assert_allclose(certain_loss(times, frequency, TOKENS), found, rtol=1e-6)


@given(st.floats(0, 1e6), FREQUENCIES, st.sampled_from([2, 5, 50]))
def test_certain_loss_depends_on_frequency_times_time_and_falls(t, frequency, tokens):
    found = float(certain_loss(t, frequency, tokens))
    assert found == pytest.approx(float(certain_loss(t * frequency, 1.0, tokens)), rel=1e-9)
    assert 0 < found <= np.log(tokens) * (1 + 1e-12)
    assert float(certain_loss(2 * t + 1, frequency, tokens)) < found


def test_certain_loss_ends_as_one_over_time():
    t = 1e9
    assert float(certain_loss(t, 0.5, 4)) * 0.5 * t * 4 / 3 == pytest.approx(1, rel=1e-6)


@given(st.integers(0, 2**16), FREQUENCIES, st.floats(0.01, 1.0), st.floats(0.001, 0.5))
def test_uncertain_gap_solves_lyapunovs_equation(seed, frequency, eta, noise):
    """Noise enumerated token by token, stationary covariance S = (1-eH)S(1-eH) + e^2 c Cov."""
    p = np.random.default_rng(seed).dirichlet(np.full(TOKENS, 3.0)) + 1e-3
    p /= p.sum()
    gradients = p[None] - np.eye(TOKENS)  # of a pair (i, t), nothing for other contexts
    covariance = frequency * np.einsum("t,ti,tj->ij", p, gradients, gradients)
    curvature = np.asarray(jax.hessian(lambda w: -p @ jax.nn.log_softmax(w))(jnp.log(p)))
    shrink = np.eye(TOKENS) - eta * frequency * curvature + np.ones((TOKENS, TOKENS)) / TOKENS / 2
    forced = eta**2 * noise * covariance.ravel()
    moments = np.linalg.solve(np.eye(TOKENS**2) - np.kron(shrink, shrink), forced)
    expected = frequency * np.sum(curvature.ravel() * moments) / 2
    found = float(uncertain_gap(eta, frequency, p, noise))
    assert found == pytest.approx(expected, rel=1e-8)


@given(st.integers(0, 2**16), FREQUENCIES)
def test_uncertain_gap_is_a_quarter_of_the_trace_at_small_rates(seed, frequency):
    p = np.random.default_rng(seed).dirichlet(np.full(TOKENS, 3.0), 3) + 1e-3
    p /= p.sum(axis=1, keepdims=True)
    trace = frequency * (1 - (p**2).sum(axis=1))
    found = uncertain_gap(1e-6, frequency, p, 0.1)
    np.testing.assert_allclose(found, 1e-6 * 0.1 * trace / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certain_loss(-1.0, 0.5, 4), "t must be non-negative"),
        (lambda: certain_loss(1.0, 0.5, 1), "tokens must be an integer >= 2"),
        (lambda: uncertain_gap(0.1, 0.5, jnp.array([1.0, 0.0]), 0.1), "probabilities must be"),
        (lambda: uncertain_gap(9.0, 1.0, jnp.array([0.5, 0.5]), 0.1), "learning_rate"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
