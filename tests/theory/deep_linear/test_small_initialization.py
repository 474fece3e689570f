"""Effective initial strengths against gradient flow from sampled Gaussian weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory.deep_linear.small_initialization import (
    effective_initial_strength,
    log_strength_variance,
)

S = np.array([4.0, 1.0])  # the first mode has long been learned when the second starts to grow
N_HIDDEN, SIGMA_1, SIGMA_2, DRAWS = 4, 1e-7, 2e-7, 100


def measured_log_strengths(seed: int) -> np.ndarray:
    """ln u_eff of both modes of one network, read off its half-learning times under full flow."""
    rng = np.random.default_rng(seed)
    shapes = (N_HIDDEN, 2), (2, N_HIDDEN)
    start = [s * rng.standard_normal(n) for s, n in zip((SIGMA_1, SIGMA_2), shapes, strict=True)]

    def flow(_, state):
        first, second = state[: 2 * N_HIDDEN].reshape(shapes[0]), state[2 * N_HIDDEN :]
        second = second.reshape(shapes[1])
        error = np.diag(S) - second @ first
        return np.concatenate([(second.T @ error).ravel(), (error @ first.T).ravel()])

    def crossing(mode):
        def event(_, state):
            first = state[: 2 * N_HIDDEN].reshape(shapes[0])[:, mode]
            return state[2 * N_HIDDEN :].reshape(shapes[1])[mode] @ first - S[mode] / 2

        return event

    solution = solve_ivp(
        flow,
        (0, 60),
        np.concatenate([w.ravel() for w in start]),
        events=[crossing(0), crossing(1)],
        rtol=1e-8,
        atol=1e-14,
    )
    halves = np.array([times[0] for times in solution.t_events])
    return np.log(S) - 2 * S * halves  # s/u_eff - 1 = e^{2 s t_half}, and u_eff/s is 1e-13


@pytest.fixture(scope="module")
def log_strengths():
    return np.array([measured_log_strengths(seed) for seed in range(DRAWS)])


def test_mean_log_strength_within_four_standard_errors(log_strengths):
    learned = np.array([0, 1])  # the first mode takes one of the four hidden directions
    expected = jnp.log(effective_initial_strength(SIGMA_1**2, SIGMA_2**2, N_HIDDEN, learned))
    standard_error = np.sqrt(log_strength_variance(N_HIDDEN, learned) / DRAWS)
    deviation = np.abs(log_strengths.mean(axis=0) - expected) / standard_error
    assert np.all(deviation < 4), deviation
    # the shift by one hidden direction is resolved: ignoring it misses by more than that
    ignored = jnp.log(effective_initial_strength(SIGMA_1**2, SIGMA_2**2, N_HIDDEN))
    assert np.abs(log_strengths.mean(axis=0)[1] - ignored) > 4 * standard_error[1]


def test_log_strength_variance_within_four_standard_errors(log_strengths):
    """Var of a sample variance is (kurtosis - 1 + 2/(n-1)) v^2/n; kurtosis of ln chi^2 is < 9."""
    expected = np.asarray(log_strength_variance(N_HIDDEN, np.array([0, 1])))
    relative = log_strengths.var(axis=0, ddof=1) / expected - 1
    assert np.all(np.abs(relative) < 4 * np.sqrt(8 / DRAWS)), relative


def test_against_chi_square_samples():
    draws = 4e-6 / 4 * np.random.default_rng(0).chisquare(7, size=200_000)
    standard_error = np.sqrt(float(log_strength_variance(9, 2)) / draws.size)
    expected = float(jnp.log(effective_initial_strength(1e-6, 3e-6, 9, 2)))
    assert abs(np.log(draws).mean() - expected) < 4 * standard_error


def test_wide_limit_has_error_one_over_width():
    """exp psi(m/2) = m/2 - 1/2 + O(1/m): the relative distance to the wide limit is 1/m."""
    widths = np.array([100, 200, 400])
    ratio = effective_initial_strength(1.0, 1.0, widths) / (2.0 * widths / 4)
    np.testing.assert_allclose((1 - ratio) * widths, 1.0, atol=0.02)


def test_jit_vmap_and_gradient_agree_with_eager():
    eager = effective_initial_strength(1e-3, 2e-3, 16, 3)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(effective_initial_strength, (None, None, None, 0)))(
            1e-3, 2e-3, 16, jnp.array([3, 4])
        )[0],
        eager,
        rtol=1e-14,
    )
    slope = jax.grad(effective_initial_strength)(1e-3, 2e-3, 16)
    np.testing.assert_allclose(slope, effective_initial_strength(1e-3, 2e-3, 16) / 3e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1.0, 1.0, 4), "variance_first"),
        ((1.0, np.nan, 4), "variance_second"),
        ((0.0, 0.0, 4), "variance_first \\+ variance_second"),
        ((1.0, 1.0, 4, 4), "n_hidden - learned_before"),
    ],
)
def test_bad_input_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        effective_initial_strength(*arguments)
