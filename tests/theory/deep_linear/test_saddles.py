"""Plateaus of small initialisation against the integrated network and its own tangent kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from theory.deep_linear.deep_modes import deep_mode_strength, half_learning_time
from theory.deep_linear.saddles import (
    growing_strengths,
    plateau_kernel_alignment,
    plateau_weights,
    saddle_schedule,
)

D, H, O = 6, 5, 3  # inputs, hidden, outputs
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, outputs=1, size=1.0):
    """W1, W2 and a task with singular values of order one."""
    rng = np.random.default_rng(seed)
    shapes = ((H, D), (outputs, H), (outputs, D))
    W1, W2, sigma_yx = (rng.standard_normal(shape) for shape in shapes)
    return size * W1, size * W2, sigma_yx / np.sqrt(D)


def train(W1, W2, sigma_yx, times):
    """Weights at the times under gradient flow of the whole network."""
    start, unravel = ravel_pytree((W1, W2))

    @jax.jit
    def velocity(flat):
        W1, W2 = unravel(flat)
        E = sigma_yx - W2 @ W1
        return ravel_pytree((W2.T @ E, E @ W1.T))[0]

    path = solve_ivp(
        lambda _, y: np.asarray(velocity(y)),
        (0, times[-1]),
        start,
        t_eval=times,
        method="DOP853",
        rtol=1e-12,
        atol=1e-18,
    )
    return [[np.asarray(x) for x in unravel(y)] for y in path.y.T]


def loss(W1, W2, sigma_yx):
    return 0.5 * np.sum((sigma_yx - W2 @ W1) ** 2)


# --- plateau ------------------------------------------------------------------------------------


@given(SEEDS, st.floats(0, 5), st.sampled_from([1.0, 0.2, 7.0]))
def test_plateau_solves_the_linearised_flow(seed, t, tau):
    W1, W2, sigma_yx = draw(seed, outputs=O)
    at_zero = plateau_weights(0.0, W1, W2, sigma_yx, tau)
    np.testing.assert_array_equal(at_zero[0], W1)
    np.testing.assert_array_equal(at_zero[1], W2)
    (W1_t, W2_t), (d_W1, d_W2) = plateau_slope(t * tau, W1, W2, sigma_yx, tau)
    scale = 1e-12 * (np.abs(W1_t).max() + np.abs(W2_t).max()) * 10
    np.testing.assert_allclose(tau * d_W1, W2_t.T @ sigma_yx, atol=scale)
    np.testing.assert_allclose(tau * d_W2, sigma_yx @ W1_t.T, atol=scale)


@jax.jit
def plateau_slope(t, W1, W2, sigma_yx, tau):
    return jax.jvp(lambda t: plateau_weights(t, W1, W2, sigma_yx, tau), (t,), (1.0,))


def test_plateau_keeps_the_shape_of_time():
    W1, W2, sigma_yx = draw(0, outputs=O)
    t = np.array([[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]])
    W1_t, W2_t = plateau_weights(t, W1, W2, sigma_yx)
    assert W1_t.shape == (2, 3, H, D)
    assert W2_t.shape == (2, 3, O, H)
    single = plateau_weights(1.5, W1, W2, sigma_yx)
    np.testing.assert_allclose(W1_t[1, 1], single[0], rtol=1e-13)
    np.testing.assert_allclose(W2_t[1, 1], single[1], rtol=1e-13)


@pytest.mark.parametrize("outputs", [1, O])
def test_plateau_error_is_second_order_in_the_initial_size(outputs):
    """Relative to the weights, against the whole network: W2 W1 is what the plateau neglects."""
    sizes, errors = np.array([1e-2, 3e-3, 1e-3]), []
    for size in sizes:
        W1, W2, sigma_yx = draw(1, outputs, size)
        ((trained, _),) = train(W1, W2, sigma_yx, np.array([2.0]))
        predicted, _ = plateau_weights(2.0, W1, W2, sigma_yx)
        errors.append(np.linalg.norm(predicted - trained) / np.linalg.norm(trained))
    exponent = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(exponent - 2) < 0.03
    assert errors[-1] < 1e-4


def test_plateau_in_its_limit_is_exact():
    W1, W2, sigma_yx = draw(2, O, 1e-8)
    times = np.array([0.5, 1.0, 3.0])
    predicted = plateau_weights(times, W1, W2, sigma_yx)
    for k, (W1_t, W2_t) in enumerate(train(W1, W2, sigma_yx, times)):
        np.testing.assert_allclose(predicted[0][k], W1_t, atol=1e-9 * np.abs(W1_t).max())
        np.testing.assert_allclose(predicted[1][k], W2_t, atol=1e-9 * np.abs(W2_t).max())


# --- silent alignment ---------------------------------------------------------------------------


@jax.jit
def measured_alignment(W1, W2, sigma_yx):
    """Cosine of the tangent kernel on the unit inputs, by autodiff, with I + v v^T."""
    flat, unravel = ravel_pytree((W1, W2))

    def outputs(flat):
        W1, W2 = unravel(flat)
        return (W2 @ W1)[0]

    J = jax.jacobian(outputs)(flat)
    kernel, v = J @ J.T, sigma_yx[0] / jnp.linalg.norm(sigma_yx)
    target = jnp.eye(D) + v[:, None] * v[None, :]
    return jnp.sum(kernel * target) / jnp.linalg.norm(kernel) / jnp.linalg.norm(target)


@given(SEEDS, st.floats(0, 6), st.floats(-8, 0).map(lambda x: 10.0**x))
def test_alignment_is_that_of_the_plateau_weights(seed, t, size):
    W1, W2, sigma_yx = draw(seed, 1, size)
    at_t = plateau_weights(t, W1, W2, sigma_yx)
    found = float(plateau_kernel_alignment(t, W1, W2, sigma_yx))
    np.testing.assert_allclose(found, measured_alignment(*at_t, sigma_yx), rtol=1e-11)
    assert 0 < found <= 1 + 1e-14


def test_kernel_aligns_before_the_loss_moves():
    W1, W2, sigma_yx = draw(3, 1, 1e-6)
    rate = np.linalg.norm(sigma_yx)
    times = np.array([1e-9, 1.0, 2.0, 4.0]) / rate
    predicted = np.asarray(plateau_kernel_alignment(times, W1, W2, sigma_yx))
    path = train(W1, W2, sigma_yx, times)
    found = [float(measured_alignment(*weights, sigma_yx)) for weights in path]
    np.testing.assert_allclose(predicted, found, rtol=1e-8)
    assert predicted[0] < 0.9 < 0.99 < predicted[-1]
    start = loss(*path[0], sigma_yx)
    assert all(abs(loss(*weights, sigma_yx) / start - 1) < 1e-6 for weights in path)


@given(SEEDS)
def test_misalignment_decays_at_twice_the_task(seed):
    W1, W2, sigma_yx = draw(seed)
    rate = np.linalg.norm(sigma_yx)
    x = np.array([6.0, 8.0])
    off = 1 - np.asarray(plateau_kernel_alignment(x / rate, W1, W2, sigma_yx))
    if growing_strengths(W1, W2, sigma_yx)[0] < 0.2:  # the alignment begins later
        return
    np.testing.assert_allclose(np.log(off[0] / off[1]) / (x[1] - x[0]), 2, rtol=0.02)


@pytest.mark.parametrize("case", ["generic", "tiny", "never growing", "frozen", "fading only"])
def test_alignment_is_finite_at_any_time(case):
    W1, W2, sigma_yx = draw(4)
    v = sigma_yx / np.linalg.norm(sigma_yx)
    if case == "tiny":
        W1, W2 = 1e-160 * W1, 1e-160 * W2
    if case in ("never growing", "fading only"):
        W1 = W1 - W1 @ v.T @ v - W2.T @ v
    if case == "fading only":
        W1 = W1 @ v.T @ v
    if case == "frozen":
        W1, W2 = W1 - W1 @ v.T @ v, 0 * W2
    t = np.array([0.0, 1.0, 30.0, 1e3, 1e8])
    found = np.asarray(plateau_kernel_alignment(t, W1, W2, sigma_yx))
    assert np.isfinite(found).all()
    slopes = jax.grad(lambda *x: plateau_kernel_alignment(2.0, *x), (0, 1, 2))(W1, W2, sigma_yx)
    assert all(np.isfinite(slope).all() for slope in slopes)
    if case in ("generic", "tiny"):
        np.testing.assert_allclose(found[2:], 1, rtol=1e-12)


def test_alignment_derivatives():
    W1, W2, sigma_yx = draw(5)
    v = sigma_yx / np.linalg.norm(sigma_yx)
    W2 = -W1 @ v.T @ np.ones((1, 1))
    W2 = W2.T  # the growing part is zero: its derivative is not lost
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(x.shape) for x in (W1, W2, sigma_yx)]

    def reading(step):
        moved = [x + step * d for x, d in zip((W1, W2, sigma_yx), directions, strict=True)]
        return plateau_kernel_alignment(0.7, *moved)

    step = 1e-5
    expected = (reading(step) - reading(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(reading)(0.0), expected, rtol=1e-6)


def test_single_precision():
    W1, W2, sigma_yx = (x.astype(np.float32) for x in draw(6, 1, 1e-3))
    double = plateau_kernel_alignment(2.0, *draw(6, 1, 1e-3))
    single = plateau_kernel_alignment(np.float32(2.0), W1, W2, sigma_yx)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=1e-5)
    predicted = plateau_weights(2.0, *draw(6, 1, 1e-3))
    found = plateau_weights(np.float32(2.0), W1, W2, sigma_yx)
    for narrow, wide in zip(found, predicted, strict=True):
        np.testing.assert_allclose(narrow, wide, atol=1e-4 * np.abs(wide).max())


# --- timing -------------------------------------------------------------------------------------


@given(SEEDS)
def test_growing_strengths_are_what_grows(seed):
    """u_i(t) e^(-2 s_i t) on the plateau tends to them; rotating hidden units does nothing."""
    W1, W2, sigma_yx = draw(seed, O)
    U, s, Vt = np.linalg.svd(sigma_yx, full_matrices=False)
    found = growing_strengths(W1, W2, sigma_yx)
    t = 10 / s[0]
    W1_t, W2_t = plateau_weights(t, W1, W2, sigma_yx)
    grown = np.diag(U.T @ np.asarray(W2_t) @ np.asarray(W1_t) @ Vt.T)
    # the modes share hidden units: only the strongest is not lost in the rounding of another
    np.testing.assert_allclose(grown[0] * np.exp(-2 * s[0] * t), found[0], rtol=1e-9)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((H, H)))[0]
    np.testing.assert_allclose(
        growing_strengths(turn @ W1, W2 @ turn.T, sigma_yx), found, rtol=1e-10
    )


def test_half_learning_time_of_a_network_from_its_growing_strength():
    """One output, arbitrary small weights: the error falls as the square of their size."""
    sizes, errors = np.array([3e-2, 1e-2, 3e-3]), []
    for size in sizes:
        W1, W2, sigma_yx = draw(7, 1, size)
        s = np.linalg.norm(sigma_yx)
        u0 = float(growing_strengths(W1, W2, sigma_yx)[0])
        time = float(half_learning_time(s, u0, 2))
        ((W1_t, W2_t),) = train(W1, W2, sigma_yx, np.array([time]))
        u = float((W2_t @ W1_t @ sigma_yx.T)[0, 0]) / s
        errors.append(abs(u / s - 0.5))
    exponent = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert 1.7 < exponent < 2.3  # logarithms of the size come with it
    assert errors[-1] < 1e-3


@given(
    s=arrays(float, 3, elements=st.floats(0.1, 10)),
    depth=st.sampled_from([2, 3, 5, float("inf")]),
)
def test_schedule_is_ordered(s, depth):
    times, losses = saddle_schedule(s, 1e-3, depth)
    assert (np.diff(times) >= 0).all()
    assert (np.diff(losses) < 0).all()
    np.testing.assert_allclose(losses[0], 0.5 * np.sum(s**2), rtol=1e-12)
    assert float(losses[-1]) == 0
    np.testing.assert_allclose(-2 * np.diff(losses), np.sort(s)[::-1] ** 2, rtol=1e-10)


@pytest.mark.parametrize(("depth", "u0"), [(2, 1e-20), (3, 1e-9), (4, 1e-8)])
def test_schedule_is_the_staircase_of_the_exact_loss(depth, u0):
    """Losses halfway between events, and the events where the exact loss is halfway down."""
    s = np.array([1.0, 3.0, 2.0])
    times, losses = (np.asarray(x) for x in saddle_schedule(s, u0, depth, tau=2.0))

    def exact(t):
        u = deep_mode_strength(t[:, None], s[None, :], u0, depth, tau=2.0)
        return 0.5 * np.sum((s[None, :] - np.asarray(u)) ** 2, axis=1)

    between = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [2 * times[-1]]])
    np.testing.assert_allclose(exact(between), losses, atol=2e-3)
    grid = np.linspace(0, 1.5 * times[-1], 20001)
    path = exact(grid)
    for time, before, after in zip(times, losses, losses[1:], strict=False):
        crossing = grid[np.argmax(path < (before + after) / 2)]
        np.testing.assert_allclose(crossing, time, rtol=0.05)


def test_schedule_of_unequal_starts():
    """A weak mode with a head start goes first."""
    times, losses = saddle_schedule(np.array([2.0, 1.0]), np.array([1e-12, 1e-3]), 2)
    assert times[0] < times[1]
    np.testing.assert_allclose(losses, [2.5, 2.0, 0.0], rtol=1e-14)


# --- bad input ----------------------------------------------------------------------------------

W1, W2, TASK = np.ones((3, 2)), np.ones((1, 3)), np.ones((1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plateau_weights(1.0, W1, np.ones((1, 2)), TASK), "W2 must have shape"),
        (lambda: plateau_weights(1.0, W1, W2, np.ones((2, 2))), "sigma_yx must have shape"),
        (lambda: plateau_weights(-1.0, W1, W2, TASK), "t must be non-negative"),
        (lambda: plateau_weights(1.0, W1, W2, TASK, tau=0.0), "tau must be positive"),
        (lambda: plateau_weights(1.0, W1, W2, TASK, tau=np.ones(2)), "tau must be a scalar"),
        (lambda: plateau_weights(1.0, np.nan * W1, W2, TASK), "W1 must be finite"),
        (lambda: growing_strengths(W1[0], W2, TASK), "W1 must be a matrix"),
        (
            lambda: plateau_kernel_alignment(1.0, W1, np.ones((2, 3)), np.ones((2, 2))),
            r"W2 must have shape \(1, hidden\)",
        ),
        (lambda: plateau_kernel_alignment(1.0, W1, W2, 0 * TASK), "sigma_yx must be non-zero"),
        (lambda: plateau_kernel_alignment(1.0, 0 * W1, 0 * W2, TASK), "weight must be non-zero"),
        (lambda: saddle_schedule(np.array(1.0), 1e-3, 2), "s must be a vector"),
        (lambda: saddle_schedule(np.ones(2), 1e-3, 1), "depth must be at least 2"),
        (lambda: saddle_schedule(np.ones(2), 2.0, 2), "u0 must be below the target"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
