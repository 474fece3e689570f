"""Two-layer modes: the closed form against the differential equation, its symmetries and limits."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.deep_linear.modes import (
    loss_from_modes,
    mode_imbalance,
    two_layer_mode_strength,
    two_layer_mode_time,
    two_layer_mode_weights,
)

SCALE = st.floats(-6, 3).map(lambda exponent: 10.0**exponent)
SIGNED = st.tuples(SCALE, st.sampled_from([1.0, -1.0])).map(lambda pair: pair[0] * pair[1])


@st.composite
def modes(draw):
    """(s, u0, c, tau): every scale from 1e-6 to 1e3, degenerate starts and imbalances often."""
    s = draw(SCALE)
    u0 = draw(SIGNED | st.sampled_from([s, -s, s / 2, 0.0, 1e-6, -1e-6]))
    c = draw(SIGNED | st.sampled_from([0.0, 0.0, s, u0, -2 * s, 1e-6]))
    return s, u0, c, draw(SCALE)


def natural_rate(s, c):
    """K = sqrt(c^2 + 4 s^2), the rate of the last approach to s."""
    return float(np.hypot(c, 2 * s))


def velocity(u, s, c, tau=1.0):
    return np.hypot(c, 2 * u) * (s - u) / tau


def resolution(u, s, u0, c):
    """The scale of the trajectory around u, against which a zero crossing has to be judged."""
    return max(abs(u), min(s, abs(u0), abs(c)) if u0 < 0 else 0.0, 1e-300)


def logistic(t, s, u0):
    return s * u0 / (u0 + (s - u0) * np.exp(-2 * s * t))


# --- against the differential equation ----------------------------------------------------------


@given(modes(), st.floats(-3, 2))
@example((1.0, -1e3, 1e-6, 1.0), 1.5)
@example((1e3, -1e-6, 1e3, 1.0), -1.0)
@example((1e-6, 1e3, 0.0, 1.0), 1.0)
def test_strength_solves_the_mode_equation(mode, elapsed):
    s, u0, c, tau = mode
    t = 10.0**elapsed * tau / natural_rate(s, c)
    # in units of K: the step control of the oracle is relative, so no scale is out of its reach
    flow = solve_ivp(
        lambda _, u: velocity(u, s, c) / natural_rate(s, c),
        (0.0, 10.0**elapsed),
        [u0],
        method="DOP853",
        rtol=3e-14,
        atol=1e-30,
    )
    expected = flow.y[0, -1]
    u = float(two_layer_mode_strength(t, s, u0, c, tau))
    floor = 1e-15 * abs(u0) * (c == 0)  # what the oracle makes of a decay to exactly 0
    assert abs(u - expected) <= 1e-9 * resolution(expected, s, u0, c) + floor


@given(modes(), st.floats(-3, 2))
@example((125.48994849723228, -31.06956484053409, 1e-6, 1.0), 1.28859)  # next to the saddle
def test_strength_keeps_its_digits(mode, elapsed):
    s, u0, c, _ = mode
    assume(c != 0 or u0 > 0)
    t = 10.0**elapsed / natural_rate(s, c)
    with decimal.localcontext(decimal.Context(prec=80)):
        expected = float(strength_in_decimals(*(Decimal(x) for x in (t, s, u0, c))))
    u = float(two_layer_mode_strength(t, s, u0, c))
    assert abs(u - expected) <= 1e-14 * resolution(expected, s, u0, c) * (1 + 10.0**elapsed)


def strength_in_decimals(t, s, u0, c):
    """``1/(s - u)`` solves ``y'' = K^2 y - 4 s``: the solution with no care for rounding."""
    rate, rate0 = (c * c + 4 * s * s).sqrt(), (c * c + 4 * u0 * u0).sqrt()
    up, down = (rate * t).exp() / 2, (-rate * t).exp() / 2
    B = rate0 / rate * (up - down) + (c * c + 4 * s * u0) / rate**2 * (up + down - 1)
    return (u0 + s * B) / (1 + B)


@pytest.mark.parametrize("seed", range(4))
def test_hidden_vectors_follow_the_mode_with_their_imbalance(seed):
    rng = np.random.default_rng(seed)
    s = 1.3
    a0, b0 = rng.normal(size=(2, 3)) * [[0.3], [0.5]]

    def flow(_, weights):
        a, b = weights[:3], weights[3:]
        return np.concatenate([b, a]) * (s - a @ b)

    times = np.linspace(0.0, 4.0, 9)
    path = solve_ivp(
        flow,
        (0, 4),
        np.concatenate([a0, b0]),
        t_eval=times,
        rtol=1e-12,
        atol=1e-13,
        method="DOP853",
    ).y
    kappa = mode_imbalance(a0, b0)
    np.testing.assert_allclose(
        two_layer_mode_strength(times, s, a0 @ b0, kappa),
        np.sum(path[:3] * path[3:], axis=0),
        atol=1e-10,
    )
    np.testing.assert_allclose(mode_imbalance(path[:3].T, path[3:].T), float(kappa), rtol=1e-9)
    assert kappa == pytest.approx(np.sqrt((a0 @ a0 + b0 @ b0) ** 2 - 4 * (a0 @ b0) ** 2))


@given(modes(), st.floats(-3, 4))
@example((1.0, 0.5, 0.0, 1.0), 0.0)
@example((1.0, 1.0, 0.0, 1.0), 0.0)
def test_autodiff_velocity_is_the_right_hand_side(mode, elapsed):
    s, u0, c, tau = mode
    t = 10.0**elapsed * tau / natural_rate(s, c)
    u, slope = jax.value_and_grad(two_layer_mode_strength)(t, s, u0, c, tau)
    # u rounds to 1 part in 1e16: near s that is all that is left of s - u on the right-hand side
    rounding = 1e-15 * natural_rate(s, c) / tau * max(abs(float(u)), abs(c))
    assert abs(slope - velocity(u, s, c, tau)) <= 1e-9 * abs(slope) + 8 * rounding


gradients = jax.jit(jax.grad(two_layer_mode_strength, argnums=(0, 1, 2, 3, 4)))


@given(modes(), st.floats(-6, 8))
@example((1.0, 0.5, 0.0, 1.0), -6.0)
@example((1.0, -1.0, -2.0, 1.0), 0.0)  # c^2 + 4 s u0 = 0
def test_gradients_are_finite_and_consistent(mode, elapsed):
    s, u0, c, tau = mode
    t = 10.0**elapsed * tau / natural_rate(s, c)
    u = float(two_layer_mode_strength(t, s, u0, c, tau))
    by_t, by_s, by_u0, by_c, by_tau = (float(g) for g in gradients(t, s, u0, c, tau))
    assert np.isfinite([by_t, by_s, by_u0, by_c, by_tau]).all()
    # u is homogeneous of degree 1 in (s, u0, c, 1/t), and depends on t/tau only (Euler)
    terms = np.array([s * by_s, u0 * by_u0, c * by_c, -t * by_t, -u])
    assert abs(terms.sum()) <= 1e-11 * np.abs(terms).max()
    assert tau * by_tau == pytest.approx(-t * by_t, rel=1e-12, abs=1e-300)


@given(modes(), st.floats(-2, 1))
def test_gradients_match_finite_differences(mode, elapsed):
    s, u0, c, tau = mode
    assume(u0 != 0 or c != 0)  # the saddle: u has a kink in u0 there
    t = 10.0**elapsed * tau / natural_rate(s, c)
    slopes = gradients(t, s, u0, c, tau)[1:4]
    scale = resolution(float(two_layer_mode_strength(t, s, u0, c, tau)), s, u0, c)
    arguments, step = np.array([s, u0, c]), 1e-5
    for index, slope in enumerate(slopes):
        change = np.zeros(3)
        change[index] = step * abs(arguments[index])
        up, down = (
            float(two_layer_mode_strength(t, *(arguments + d), tau)) for d in (change, -change)
        )
        # central difference: error step^2 from the curvature, 1e-16/step from rounding
        error = abs(up - down - 2 * change[index] * slope)
        assert error <= 1e-7 * step * max(scale, abs(up), abs(down)) * (1 + 10.0**elapsed) ** 3


# --- invariants ---------------------------------------------------------------------------------


@given(modes(), st.floats(-3, 1.5))
def test_time_inverts_strength(mode, elapsed):
    s, u0, c, tau = mode
    assume((u0 != 0 or c != 0) and u0 != s)
    t = 10.0**elapsed * tau / natural_rate(s, c)
    u = float(two_layer_mode_strength(t, s, u0, c, tau))
    back = float(two_layer_mode_time(u, s, u0, c, tau))
    # a rounding of u, relative to its scale, is all the round trip may lose
    lost = 1e-14 * (resolution(u, s, u0, c) + abs(u0) * (u0 < 0)) / abs(velocity(u, s, c, tau) or 1)
    assert back == pytest.approx(t, rel=1e-10, abs=lost) or u == s


@given(modes(), st.floats(-3, 1.5))
def test_time_gradient_is_the_inverse_velocity(mode, elapsed):
    s, u0, c, tau = mode
    assume((u0 != 0 or c != 0) and u0 != s)
    t = 10.0**elapsed * tau / natural_rate(s, c)
    u = two_layer_mode_strength(t, s, u0, c, tau)
    assume(abs(s - u) > 1e-12 * s)
    by_u, by_s, by_u0, by_c, by_tau = time_gradients(u, s, u0, c, tau)
    assert np.isfinite([by_u, by_s, by_u0, by_c, by_tau]).all()
    assert by_u * velocity(u, s, c, tau) == pytest.approx(1, rel=1e-12)
    assert by_u0 * velocity(u0, s, c, tau) == pytest.approx(-1, rel=1e-9)
    assert by_tau * tau == pytest.approx(float(two_layer_mode_time(u, s, u0, c, tau)), rel=1e-12)


time_gradients = jax.jit(jax.grad(two_layer_mode_time, argnums=(0, 1, 2, 3, 4)))


@pytest.mark.parametrize(
    "case", [(1.0, 1.0, 1.0, 0.0), (1.0, 1.0, 0.1, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 1.0)]
)
def test_time_gradients_are_finite_at_rest_and_at_the_start(case):
    assert np.isfinite(time_gradients(*case, 1.0)).all()


@given(modes(), st.floats(0, 1.5))
def test_trajectories_are_monotone_and_never_cross_the_target(mode, elapsed):
    s, u0, c, tau = mode
    times = np.linspace(0.0, 10.0**elapsed, 64) * tau / natural_rate(s, c)
    u = np.asarray(two_layer_mode_strength(times, s, u0, c, tau))
    assert u[0] == pytest.approx(u0, rel=1e-15)
    low, high = min(u0, s), max(u0, s)
    assert np.all((u >= low) & (u <= high))
    rounding = 4e-15 * np.maximum(np.abs(u[1:]), min(s, abs(u0)))
    assert np.all(np.diff(u) * np.sign(s - u0) >= -rounding)
    loss = np.asarray(loss_from_modes(u[:, None], np.full((64, 1), s)))
    assert np.all(np.diff(loss) <= 1e-14 * loss[0])


@given(modes(), st.floats(-2, 1), st.floats(-2, 1))
def test_flow_composes(mode, first, second):
    s, u0, c, tau = mode
    t1, t2 = (10.0**x * tau / natural_rate(s, c) for x in (first, second))
    middle = float(two_layer_mode_strength(t1, s, u0, c, tau))
    through = float(two_layer_mode_strength(t2, s, middle, c, tau))
    direct = float(two_layer_mode_strength(t1 + t2, s, u0, c, tau))
    # the rounding of the middle value is carried on by v(u)/v(middle) <= K-scale ratio
    carried = 1e-15 * abs(middle) * np.hypot(c, 2 * direct) / max(np.hypot(c, 2 * middle), 1e-300)
    assert abs(through - direct) <= 1e-12 * resolution(direct, s, u0, c) + carried


@given(modes(), st.floats(-3, 4), SCALE)
def test_scaling_of_time_and_task(mode, elapsed, k):
    s, u0, c, tau = mode
    t = 10.0**elapsed * tau / natural_rate(s, c)
    u = float(two_layer_mode_strength(t, s, u0, c, tau))
    tolerance = 1e-13 * resolution(u, s, u0, c) * (1 + 10.0**elapsed)  # a rounding of K t
    assert two_layer_mode_strength(t / tau, s, u0, c) == pytest.approx(u, rel=0, abs=tolerance)
    scaled = two_layer_mode_strength(t / k, k * s, k * u0, k * c, tau)
    assert scaled / k == pytest.approx(u, rel=0, abs=tolerance)
    assert two_layer_mode_strength(t, s, u0, -c, tau) == u  # even in the imbalance


@pytest.mark.parametrize("u0", [0.02, 0.4, 1.7])
def test_balanced_limit_is_logistic_with_error_of_second_order(u0):
    t, s = 0.8, 1.1
    assert two_layer_mode_strength(t, s, u0) == pytest.approx(logistic(t, s, u0), rel=1e-14)
    imbalances = u0 * 2.0 ** -np.arange(4, 9)
    gaps = np.abs(np.asarray(two_layer_mode_strength(t, s, u0, imbalances)) - logistic(t, s, u0))
    order = np.polyfit(np.log(imbalances), np.log(gaps), 1)[0]
    assert order == pytest.approx(2, abs=0.01)  # next term c^4: relative (c/u0)^2 <= 1/256


def test_very_unbalanced_limit_is_exponential():
    t = np.linspace(0.0, 3.0, 7)
    for c in (1e4, 1e6):
        u = two_layer_mode_strength(t, 1.3, -0.4, c, tau=c)
        # rate sqrt(c^2 + 4 u^2) = c (1 + 2 u^2/c^2)
        np.testing.assert_allclose(
            u, 1.3 + (-0.4 - 1.3) * np.exp(-t), rtol=0, atol=10 / c**2 + 1e-14
        )


@given(modes(), st.sampled_from([1e4, 1e6, 1e12]))
def test_huge_times_reach_the_equilibrium(mode, elapsed):
    s, u0, c, tau = mode
    t = elapsed * tau / s
    u = float(two_layer_mode_strength(t, s, u0, c, tau))
    stuck = c == 0 and u0 <= 0
    assert u == (0.0 if stuck else pytest.approx(s, rel=1e-15))


def test_saddle_stops_a_balanced_mode_and_infinitesimal_imbalance_frees_it():
    u = two_layer_mode_strength(np.array([0.5, 5.0, 50.0]), 1.0, -0.7, 0.0)
    expected = -0.7 * np.exp(-2 * np.array([0.5, 5.0, 50.0]))
    np.testing.assert_allclose(u, expected / (1 - 0.7 * np.expm1(-2 * np.array([0.5, 5.0, 50.0]))))
    # the escape from the saddle takes ln(1/c) / s: a decade of imbalance more, ln(10) / s less
    waits = two_layer_mode_time(0.5, 1.0, -0.7, np.array([1e-3, 1e-4, 1e-5, 1e-6]))
    np.testing.assert_allclose(np.diff(waits), np.log(10), rtol=1e-5)


@given(SIGNED | st.just(0.0), SIGNED | st.just(0.0))
def test_weights_have_the_strength_and_the_imbalance(u, c):
    a2, b2 = (float(x) for x in two_layer_mode_weights(u, c))
    assert a2 >= 0
    assert b2 >= 0
    assert np.sqrt(a2) * np.sqrt(b2) == pytest.approx(abs(u), rel=1e-14)
    assert a2 - b2 == pytest.approx(c, abs=1e-15 * (a2 + b2))
    assert mode_imbalance(np.array([a2**0.5]), np.array([b2**0.5])) == pytest.approx(
        abs(c), abs=2e-15 * (a2 + b2)
    )


def test_gradients_of_weights_and_imbalance_are_finite_at_zero():
    for layer in (0, 1):
        slopes = jax.grad(lambda u, c, i=layer: two_layer_mode_weights(u, c)[i], (0, 1))(0.0, 0.0)
        assert np.isfinite(slopes).all()
    a = jnp.array([0.3, -0.2])
    assert np.isfinite(jax.grad(mode_imbalance)(a, a)).all()


# --- shapes, transformations, errors ------------------------------------------------------------


def test_jit_and_vmap_equal_eager():
    t, s = np.linspace(0.0, 3.0, 5)[:, None], np.array([1.0, 2.0, 3.0])
    for function, first in ((two_layer_mode_strength, t), (two_layer_mode_time, 0.3 + 0.2 * t)):
        eager = function(first, s, 0.1, 0.2)
        assert eager.shape == (5, 3)
        np.testing.assert_allclose(jax.jit(function)(first, s, 0.1, 0.2), eager, rtol=1e-14)
        rows = jax.vmap(function, in_axes=(0, None, None, None))(first[:, 0], 1.0, 0.1, 0.2)
        np.testing.assert_allclose(rows, eager[:, 0], rtol=1e-14)


def test_dtype_follows_the_arguments():
    s = jnp.asarray([1.0, 2.0], jnp.float32)
    u = two_layer_mode_strength(1.0, s, 0.1, 0.3)
    assert u.dtype == jnp.float32
    np.testing.assert_allclose(u, two_layer_mode_strength(1.0, np.float64(s), 0.1, 0.3), rtol=1e-5)
    assert two_layer_mode_strength(1, 1, 1).dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_layer_mode_strength(-1.0, 1.0, 0.1), "t must be non-negative.*-1.0"),
        (lambda: two_layer_mode_strength(1.0, 0.0, 0.1), "s must be positive.*0.0"),
        (lambda: two_layer_mode_strength(1.0, np.array([1.0, -2.0]), 0.1), "s must be.*-2.0"),
        (lambda: two_layer_mode_strength(1.0, 1.0, np.nan), "u0 must be finite.*nan"),
        (lambda: two_layer_mode_strength(1.0, 1.0, 0.1, np.inf), "imbalance must be finite.*inf"),
        (lambda: two_layer_mode_strength(1.0, 1.0, 0.1, 0.0, 0.0), "tau must be positive.*0.0"),
        (lambda: two_layer_mode_strength(np.nan, 1.0, 0.1), "t must be non-negative.*nan"),
        (lambda: two_layer_mode_time(1.5, 1.0, 0.1), "u must be between u0 and s.*1.5"),
        (lambda: two_layer_mode_time(0.05, 1.0, 0.1), "u must be between u0 and s.*0.05"),
        (lambda: two_layer_mode_time(0.5, 1.0, 2.0), "u must be between u0 and s.*0.5"),
        (lambda: two_layer_mode_time(np.nan, 1.0, 0.1), "u must be between.*nan"),
        (lambda: two_layer_mode_time(0.5, 1.0, -0.1), "u must be on u0's side of the saddle.*0.5"),
        (lambda: two_layer_mode_time(0.5, 1.0, 0.0), "u must be on u0's side of the saddle.*0.5"),
        (lambda: two_layer_mode_time(0.5, -1.0, 0.1), "s must be positive.*-1.0"),
        (lambda: two_layer_mode_weights(np.nan, 1.0), "u must be finite.*nan"),
        (lambda: mode_imbalance(np.ones(2), np.ones(3)), r"one shape.*\(2,\) and \(3,\)"),
        (lambda: mode_imbalance(np.array([np.nan]), np.ones(1)), "a must be finite.*nan"),
        (lambda: loss_from_modes(np.array([np.nan]), np.ones(1)), "u must be finite.*nan"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(modes(), st.floats(-12, 0).map(lambda e: 10.0**e), st.booleans())
def test_time_is_exact_to_rounding_at_either_end(mode, part, nearly):
    """The logistic's time keeps its relative accuracy next to u0 and next to s."""
    s, u0, _, _ = mode
    assume(u0 > 0)
    u = s + (u0 - s) * part if nearly else u0 + (s - u0) * part
    assume(min(u0, s) < u < max(u0, s))
    expected = np.log1p((u - u0) / (s - u) * (s / u0)) / (2 * s)
    assert two_layer_mode_time(u, s, u0) == pytest.approx(expected, rel=1e-13)


def test_reaching_the_target_takes_for_ever():
    assert two_layer_mode_time(1.0, 1.0, 0.1) == np.inf
    assert two_layer_mode_time(1.0, 1.0, 1.0) == 0
    assert two_layer_mode_time(0.0, 1.0, 0.0) == 0
    assert two_layer_mode_time(0.5, 1.0, -0.1, 1e-3) > 0
