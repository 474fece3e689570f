"""Modes of any depth: against the differential equation, invariants, limits, gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.deep_linear.modes import (
    critical_learning_rate,
    deep_mode_strength,
    deep_mode_time,
    deep_mode_velocity,
    escape_time_small_init,
    half_learning_time,
    steps_to_learn,
    two_layer_mode_strength,
    two_layer_mode_time,
    unlearning_mode_strength,
)

INF = float("inf")
DEPTHS = (1, 2, 3, 100, INF)
EPS = 2.0**-52
SCALE = st.floats(-6, 3).map(lambda exponent: 10.0**exponent)


def power(depth):
    return 2 - 2 / depth


def layers(depth):
    return 1 if depth == INF else depth


def rate(s, depth, tau):
    """Work per time, L s^p / tau."""
    return layers(depth) * s ** power(depth) / tau


def escape_work(x0, depth):
    """Roughly the work the slow part takes: the wait at the saddle, or the fall from far above."""
    alpha = power(depth) - 1
    if depth <= 2:
        return max(np.log(1 / x0), 0.0) if depth == 2 else 0.0
    return x0**-alpha / alpha if x0 < 1 else x0 ** -(alpha + 1) / (alpha + 1)


@st.composite
def courses(draw, depth):
    """(t, s, u0, tau): every scale; times before, during and after the escape; starts at s too."""
    s, tau = draw(SCALE), draw(SCALE)
    u0 = draw(SCALE | st.sampled_from([s, s / 2, 2 * s, 1e-6, s * (1 - 1e-9), s * (1 + 1e-12)]))
    wait = escape_work(u0 / s, depth)
    work = draw(
        st.floats(-3, 1.5).map(lambda exponent: 10.0**exponent)
        | st.floats(0, 1).map(lambda part: part * wait)
        | st.floats(0, 20).map(lambda more: wait + more)
    )
    return work / rate(s, depth, tau), s, u0, tau


def condition(t, u, s, depth, tau):
    """Relative change of u per relative change of t: no float computation beats EPS times this."""
    x = u / s
    return t * rate(s, depth, tau) * x ** (power(depth) - 1) * abs(1 - x)


# --- against the differential equation ----------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
def test_strength_solves_the_mode_equation(depth, data):
    t, s, u0, tau = data.draw(courses(depth))
    alpha = power(depth) - 1

    def speed(_, v):  # of ln(u/s), which keeps the oracle relative; trial steps may run away
        v = np.minimum(v, 100.0)
        return -np.exp(alpha * v) * np.expm1(v)

    flow = solve_ivp(
        speed,
        (0.0, t * rate(s, depth, tau)),
        [np.log(u0 / s)],
        method="DOP853",
        rtol=3e-14,
        atol=1e-15,
        first_step=1e-6 * min(t * rate(s, depth, tau), (u0 / s) ** -(alpha + 1)) or None,
    )
    expected = s * np.exp(flow.y[0, -1])
    u = float(deep_mode_strength(t, s, u0, depth, tau))
    # formula and oracle both see t and u0 rounded: up to (s/u0)^(1-2/L) roundings at the escape
    assert u == pytest.approx(expected, rel=1e-9 + 500 * EPS * condition(t, u, s, depth, tau))


@pytest.mark.parametrize("depth", [2, 3, 100, 1000, INF])
@given(
    start=st.floats(-12, 12).map(lambda e: 10.0**e) | st.just(1 - 1e-4),
    part=st.floats(-12, 0).map(lambda e: 10.0**e),
    nearly=st.booleans(),
)
@example(start=1e-12, part=1e-12, nearly=False)
@example(start=1e-12, part=1e-12, nearly=True)
@example(start=1e12, part=1e-12, nearly=True)
def test_time_is_the_integral(depth, start, part, nearly):
    # from 1e-12 of the way to 1e-12 from the end, in ratios near the start and in gaps at the end
    end = 1 + (start - 1) * part if nearly else start ** (1 - part)
    assume(min(start, 1) < end < max(start, 1))
    time = float(deep_mode_time(end, 1.0, start, depth))
    expected = work_by_quadrature(start, end, depth) / layers(depth)
    assert time == pytest.approx(expected, rel=2e-12, abs=0)


def work_by_quadrature(x0, x, depth):
    """Integral of ``x^-p`` over ``ln((1 - x0)/(1 - x))``, in which neither end loses a digit."""
    total = np.log1p((x - x0) / (1 - x))
    cuts = np.concatenate([x0 * np.expm1(np.arange(60.0)), np.arange(0.0, total, 1.0), [total]])
    edges = np.unique(np.clip(cuts, 0, total))  # x grows by e per piece, or 1 - x shrinks by e
    nodes, weights = np.polynomial.legendre.leggauss(24)
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    decay = middle + half * nodes
    passed = x0 * np.exp(-decay) - np.expm1(-decay)
    return np.sum(half * weights * passed ** -power(depth))


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
def test_time_inverts_strength(depth, data):
    t, s, u0, tau = data.draw(courses(depth))
    u = float(deep_mode_strength(t, s, u0, depth, tau))
    back = float(deep_mode_time(u, s, u0, depth, tau))
    # what a few roundings of u and u0 amount to in time
    speeds = [abs(float(deep_mode_velocity(v, s, depth, 0.0, tau))) for v in (u, u0)]
    lost = 8 * EPS * (u / max(speeds[0], 1e-300) + u0 / max(speeds[1], 1e-300))
    assert back == pytest.approx(t, rel=1e-12, abs=lost) or u == s


def test_three_layer_matrix_flow_follows_the_modes():
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.normal(size=(2, 2)))[0] for _ in range(4)]
    s, u0, times = np.array([1.6, 0.7]), np.array([0.05, 0.1]), np.linspace(0.0, 4.0, 5)
    task = turns[3] @ np.diag(s) @ turns[0].T

    def flow(_, packed):
        w1, w2, w3 = packed.reshape(3, 2, 2)
        error = task - w3 @ w2 @ w1
        return np.stack([(w3 @ w2).T @ error, w3.T @ error @ w1.T, error @ (w2 @ w1).T]).ravel()

    start = np.stack([turns[i + 1] @ np.diag(np.cbrt(u0)) @ turns[i].T for i in range(3)])
    path = solve_ivp(flow, (0, 4), start.ravel(), "DOP853", times, rtol=1e-12, atol=1e-13).y
    for packed, u in zip(path.T, deep_mode_strength(times[:, None], s, u0, 3), strict=True):
        w1, w2, w3 = packed.reshape(3, 2, 2)
        np.testing.assert_allclose(turns[3].T @ w3 @ w2 @ w1 @ turns[0], np.diag(u), atol=1e-10)


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, INF])
@given(data=st.data())
def test_gradients_follow_from_the_equation(depth, data):
    t, s, u0, tau = data.draw(courses(depth))
    u = float(deep_mode_strength(t, s, u0, depth, tau))
    by_t, by_s, by_u0, by_tau = (float(g) for g in strength_gradients(t, s, u0, tau, depth=depth))
    assert np.isfinite([by_t, by_s, by_u0, by_tau]).all()
    speed, speed0 = (float(deep_mode_velocity(v, s, depth, 0.0, tau)) for v in (u, u0))
    rounding = 8 * EPS * rate(s, depth, tau) * s * (u / s) ** power(depth)  # of s - u
    assert by_t == pytest.approx(speed, rel=1e-12, abs=rounding)
    assert by_tau * tau == pytest.approx(-by_t * t, rel=1e-12)
    # elasticities: du/du0 = v(u)/v(u0), and u is homogeneous in (s, u0, t^(-1/p))
    sizes = np.array([u, s * by_s, u0 * by_u0, power(depth) * t * by_t])
    assert abs(sizes @ [-1, 1, 1, -1]) <= 1e-12 * np.abs(sizes).max()
    if abs(s - u0) > 1e-6 * s and abs(s - u) > 1e-6 * s:
        assert by_u0 * u0 == pytest.approx(u0 * speed / speed0, rel=1e-9, abs=1e-13 * u)


strength_gradients = jax.jit(
    lambda t, s, u0, tau, depth: jax.grad(
        lambda *a: deep_mode_strength(*a[:3], depth, a[3]), (0, 1, 2, 3)
    )(t, s, u0, tau),
    static_argnames="depth",
)


@pytest.mark.parametrize("depth", [2, 3])
def test_gradients_are_finite_at_the_edges(depth):
    t = np.array([0.0, 1.0, 1.0, 1.0, 1e4, 1e8, 1e300])
    u0 = np.array([0.1, 1.0, 2.0, 1e-9, 0.1, 1e-3, 0.5])
    slopes = jax.vmap(lambda t, u0: strength_gradients(t, 1.0, u0, 1.0, depth=depth))(t, u0)
    assert np.isfinite(slopes).all()
    assert slopes[0][1] == pytest.approx(0, abs=1e-15)  # at the target nothing moves,
    assert slopes[2][1] == pytest.approx(np.exp(-layers(depth)))  # and deviations die at rate L
    u = np.array([0.1, 1.0, 1.0, 1.5, 0.5])
    start = np.array([0.1, 1.0, 0.1, 2.0, 1e-9])
    by_u, by_s, by_u0 = time_gradients(u, np.ones(5), start, depth)
    assert np.isfinite([by_u, by_s, by_u0]).all()
    speed, speed0 = (deep_mode_velocity(v, 1.0, depth) for v in (u, start))
    moving = np.array([0, 3, 4])
    np.testing.assert_allclose((by_u * speed)[moving], 1, rtol=1e-12)
    np.testing.assert_allclose((by_u0 * speed0)[moving], -1, rtol=1e-12)


def time_gradients(u, s, u0, depth):
    gradient = jax.grad(lambda *a: deep_mode_time(*a, depth), (0, 1, 2))
    return jax.jit(jax.vmap(gradient))(u, s, u0)


def test_second_derivative_is_the_acceleration():
    s, u0, t, depth = 1.4, 0.2, 0.9, 3

    def strength(t):
        return deep_mode_strength(t, s, u0, depth)

    u = strength(t)
    slope = jax.grad(lambda v: deep_mode_velocity(v, s, depth))(u)
    expected = slope * deep_mode_velocity(u, s, depth)
    assert jax.grad(jax.grad(strength))(t) == pytest.approx(float(expected), rel=1e-10)


def test_second_derivative_in_the_start_at_the_target():
    s, t, depth = 1.4, 0.3, 3
    curvature = jax.jit(jax.hessian(lambda u0: deep_mode_strength(t, s, u0, depth)))(s)
    left = np.exp(-rate(s, depth, 1.0) * t)
    # du/du0 = v(u)/v(u0), expanded to first order in u0 - s
    assert curvature == pytest.approx(-2 * power(depth) / s * left * (1 - left), rel=1e-12)


# --- invariants ---------------------------------------------------------------------------------


@given(data=st.data())
def test_depth_two_is_the_balanced_two_layer_mode(data):
    t, s, u0, tau = data.draw(courses(2))
    u0 *= data.draw(st.sampled_from([1.0, -1.0]))
    u = float(deep_mode_strength(t, s, u0, 2, tau))
    expected = float(two_layer_mode_strength(t, s, u0, 0.0, tau))
    assert u == pytest.approx(expected, rel=1e-12, abs=0)
    if u not in (0, s):
        time = float(deep_mode_time(u, s, u0, 2, tau))
        assert time == pytest.approx(float(two_layer_mode_time(u, s, u0, 0.0, tau)), rel=1e-12)


def test_depth_one_is_exponential():
    t, u0 = np.linspace(0.0, 5.0, 6), np.array([[-2.0], [0.0], [0.3], [4.0]])
    u = deep_mode_strength(t[None], 1.5, u0, 1, 2.0)
    np.testing.assert_allclose(u, 1.5 + (u0 - 1.5) * np.exp(-t / 2), rtol=1e-14)
    np.testing.assert_allclose(deep_mode_time(u, 1.5, u0, 1, 2.0), np.broadcast_to(t, (4, 6)))


@pytest.mark.parametrize(("u0", "u"), [(0.05, 1.2), (4.0, 1.4)])
def test_infinite_depth_is_the_limit_with_error_one_over_depth(u0, u):
    s = 1.3
    limit = np.log(u * (s - u0) / (u0 * (s - u))) / s**2 + (1 / u0 - 1 / u) / s
    assert deep_mode_time(u, s, u0, INF) == pytest.approx(limit, rel=1e-13)
    assert deep_mode_strength(limit, s, u0, INF) == pytest.approx(u, rel=1e-12)
    gaps = [abs(L * float(deep_mode_time(u, s, u0, L)) - limit) for L in (100, 1000)]
    assert np.log10(gaps[1] / gaps[0]) == pytest.approx(-1, abs=0.05)  # next order 1/L^2


@pytest.mark.parametrize("depth", [2, 3, INF])
@given(data=st.data())
def test_trajectories_are_monotone_and_never_cross_the_target(depth, data):
    t, s, u0, tau = data.draw(courses(depth))
    u = np.asarray(deep_mode_strength(t * np.linspace(0.0, 1.0, 16), s, u0, depth, tau))
    assert u[0] == pytest.approx(u0, rel=1e-13)
    assert np.all((u >= min(u0, s)) & (u <= max(u0, s)))
    assert np.all(np.diff(u) * np.sign(s - u0) >= -1e-13 * np.maximum(u[1:], u[:-1]))


@pytest.mark.parametrize("depth", [1, 2, 3, INF])
@given(data=st.data(), k=SCALE)
def test_scaling_of_time_and_task(depth, data, k):
    t, s, u0, tau = data.draw(courses(depth))
    u = float(deep_mode_strength(t, s, u0, depth, tau))
    tolerance = 1e-13 + 50 * EPS * condition(t, u, s, depth, tau)
    assert deep_mode_strength(t / tau, s, u0, depth) == pytest.approx(u, rel=tolerance)
    scaled = deep_mode_strength(t * k ** -power(depth), k * s, k * u0, depth, tau)
    assert scaled / k == pytest.approx(u, rel=tolerance)


def test_extreme_times_end_at_start_and_target():
    for depth in (1, 2, 3, INF):
        for u0 in (1e-6, 0.3, 1.0, 1e3):
            assert deep_mode_strength(0.0, 1.0, u0, depth) == pytest.approx(u0, rel=1e-13)
            assert deep_mode_strength(1e200, 1.0, u0, depth) == 1


def test_negative_balanced_modes_decay_to_the_saddle():
    for t in (0.3, 3.0, 1e4):
        expected = -0.7 * np.exp(-2 * t) / (1 - 0.7 * np.expm1(-2 * t))
        u = float(deep_mode_strength(t, 1.0, -0.7, 2))
        assert u == pytest.approx(expected, rel=1e-13)
        assert deep_mode_time(u, 1.0, -0.7, 2) == pytest.approx(t if u else INF)


@pytest.mark.parametrize("depth", [1, 3, INF])
def test_velocity_with_weight_decay_is_the_gradient_of_the_layer_loss(depth):
    u, s, decay, tau = 0.4, 1.7, 0.2, 3.0
    L = 400 if depth == INF else depth

    def strength(weights):
        return jnp.exp(jnp.sum(jnp.log(weights)))

    def loss(weights):
        return 0.5 * (s - strength(weights)) ** 2 + 0.5 * decay * jnp.sum(weights**2)

    weights = jnp.full(L, u ** (1 / L))
    moved = jax.jvp(strength, (weights,), (-jax.grad(loss)(weights) / tau,))[1]
    velocity = float(deep_mode_velocity(u, s, depth, decay, tau))
    # the limit counts tau per layer; at L layers u^(2/L) is 1 up to 2 ln(u)/L
    expected, rel = (moved / L, 10 / L) if depth == INF else (moved, 1e-12)
    assert velocity == pytest.approx(float(expected), rel=rel)
    assert np.isfinite(jax.grad(lambda u: deep_mode_velocity(u, 1.0, depth))(0.0))


@pytest.mark.parametrize("depth", [1, 2, 5, INF])
@pytest.mark.parametrize("u0", [0.8, -0.8, 0.0])
def test_unlearning_solves_its_equation(depth, u0):
    t, tau = 7.0, 2.0
    flow = solve_ivp(
        lambda _, u: -layers(depth) * np.abs(u) ** power(depth) * u / tau,
        (0.0, t),
        [u0],
        rtol=1e-12,
        atol=1e-15,
        method="DOP853",
    )
    u = float(unlearning_mode_strength(t, u0, depth, tau))
    assert u == pytest.approx(flow.y[0, -1], rel=1e-9)
    slope = jax.grad(lambda t: unlearning_mode_strength(t, u0, depth, tau))(t)
    assert slope == pytest.approx(float(deep_mode_velocity(u, 0.0, depth, 0.0, tau)), rel=1e-12)


# --- learning times -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 6, INF])
def test_escape_time_is_approached_at_its_rate(depth):
    s, tau, alpha = 2.0, 3.0, power(depth) - 1
    starts = s * 10.0 ** -np.arange(4.0, 10.0)
    escape = np.asarray(escape_time_small_init(s, starts, depth, tau))
    relative = np.abs(np.asarray(half_learning_time(s, starts, depth, tau)) / escape - 1)
    if depth == INF:
        relative /= np.log(s / starts)  # the 1/x of the expansion integrates to a logarithm
    order = np.polyfit(np.log(starts), np.log(relative), 1)[0]
    assert order == pytest.approx(alpha, abs=0.03)  # next term: relative (u0/s)^alpha, < 0.05


def test_half_learning_time_in_closed_form():
    s, u0 = np.array([0.5, 3.0]), np.array([1e-4, 1.0])
    np.testing.assert_allclose(
        half_learning_time(s, u0, 2, 1.5), 1.5 / (2 * s) * np.log((s - u0) / u0)
    )
    np.testing.assert_allclose(half_learning_time(s, u0, 1), np.log((s - u0) / (s / 2)))
    np.testing.assert_allclose(escape_time_small_init(s, u0, 2), np.log((s - u0) / u0) / (2 * s))
    assert half_learning_time(2.0, 1.0, 3) == 0
    assert deep_mode_strength(half_learning_time(1.3, 0.01, 3), 1.3, 0.01, 3) == pytest.approx(0.65)


def test_steps_to_learn_known_values():
    steps = [float(steps_to_learn(0.02, 0.95, L)) for L in DEPTHS]
    np.testing.assert_allclose(steps, [2.98, 6.84, 11.6, 52.8, 55.8], rtol=2e-3)
    assert steps_to_learn(0.02, 0.95, 3, 0.1) == pytest.approx(10 * steps[2])


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_gradient_descent_takes_the_predicted_steps(depth):
    s, w0, wf = 1.3, 0.02, 0.95
    safeties = 0.4 * 2.0 ** -np.arange(5)
    lags = []
    for safety in safeties:
        learning_rate = safety / (depth * s ** power(depth))
        weight, target, steps = (w0 * s) ** (1 / depth), (wf * s) ** (1 / depth), 0
        while weight < target:
            last = weight
            weight += learning_rate * weight ** (depth - 1) * (s - weight**depth)
            steps += 1
        crossing = steps - (weight - target) / (weight - last)
        lags.append(safety * (crossing - float(steps_to_learn(w0, wf, depth, safety))))
    # Euler steps lag by half a step of ln of the velocity's ratio: first order in the step size
    speeds = [w ** (1 - 1 / depth) * (1 - w) for w in (w0, wf)]
    coefficient = 0.5 * np.log(speeds[1] / speeds[0])
    assert np.all(np.abs(lags / safeties - coefficient) < 2 * safeties)
    order = np.polyfit(np.log(safeties), np.log(np.abs(lags)), 1)[0]
    assert order == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("depth", [2, 3])
def test_critical_learning_rate_is_the_edge_of_gradient_descent(depth):
    rng = np.random.default_rng(depth)
    s = np.array([1.8, 1.1])
    minimum = jnp.stack([jnp.diag(s ** (1 / depth))] * depth)

    def loss(weights):
        product = jnp.eye(2)
        for weight in weights:
            product = weight @ product
        return 0.5 * jnp.sum((jnp.diag(s) - product) ** 2)

    @jax.jit
    def descend(weights, learning_rate):
        step = lambda _, w: w - learning_rate * jax.grad(loss)(w)  # noqa: E731
        return loss(jax.lax.fori_loop(0, 150, step, weights))

    critical = float(critical_learning_rate(s.max(), depth))
    hessian = jax.jit(jax.hessian(lambda flat: loss(flat.reshape(minimum.shape))))(minimum.ravel())
    assert np.linalg.eigvalsh(hessian)[-1] == pytest.approx(2 / critical, rel=1e-12)
    weights = minimum + 1e-5 * rng.normal(size=minimum.shape)
    # the unstable direction moves by 0.96^150 = 2e-3 below the edge, 1.04^150 = 400 above
    assert descend(weights, 0.98 * critical) < 0.1 * loss(weights)
    assert descend(weights, 1.02 * critical) > 10 * loss(weights)


# --- shapes, transformations, errors ------------------------------------------------------------


@pytest.mark.parametrize(("function", "depth"), [(deep_mode_strength, 3), (deep_mode_time, 2)])
def test_jit_and_vmap_equal_eager(function, depth):
    first, s = np.linspace(0.3, 0.9, 4)[:, None], np.array([1.0, 2.0, 3.0])
    eager = function(first, s, 0.1, depth)
    assert eager.shape == (4, 3)
    compiled = jax.jit(function, static_argnums=3)(first, s, 0.1, depth)
    np.testing.assert_allclose(compiled, eager, rtol=1e-13)
    rows = jax.vmap(lambda row: function(row, s, 0.1, depth))(first)
    np.testing.assert_allclose(rows, eager, rtol=1e-13)


def test_dtype_follows_the_arguments():
    s = jnp.asarray([1.0, 2.0], jnp.float32)
    u = deep_mode_strength(1.0, s, 0.3, INF)
    assert u.dtype == jnp.float32
    np.testing.assert_allclose(u, deep_mode_strength(1.0, np.float64(s), 0.3, INF), rtol=1e-5)
    assert deep_mode_time(u, s, 0.3, INF).dtype == jnp.float32
    assert half_learning_time(s, 0.3, INF).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deep_mode_strength(1.0, 1.0, 0.1, 0), "depth must be.*got 0"),
        (lambda: deep_mode_strength(1.0, 1.0, 0.1, 2.5), "depth must be.*got 2.5"),
        (lambda: deep_mode_strength(1.0, 1.0, 0.1, True), "depth must be.*got True"),
        (lambda: deep_mode_strength(-1.0, 1.0, 0.1, 3), "t must be non-negative.*-1.0"),
        (lambda: deep_mode_strength(1.0, 0.0, 0.1, 3), "s must be positive.*0.0"),
        (lambda: deep_mode_strength(1.0, 1.0, 0.0, 3), "u0 must be positive.*depth >= 3.*0.0"),
        (lambda: deep_mode_strength(1.0, 1.0, -0.1, INF), "u0 must be positive.*-0.1"),
        (lambda: deep_mode_strength(1.0, 1.0, np.nan, 1), "u0 must be finite.*nan"),
        (lambda: deep_mode_strength(1.0, 1.0, 0.1, 3, -2.0), "tau must be positive.*-2.0"),
        (lambda: deep_mode_time(1.5, 1.0, 0.1, 3), "u must be between u0 and s.*1.5"),
        (lambda: deep_mode_time(0.05, 1.0, 0.1, 3), "u must be between u0 and s.*0.05"),
        (lambda: deep_mode_time(0.5, 1.0, -0.1, 2), "u must be on u0's side.*0.5"),
        (lambda: deep_mode_time(0.5, 1.0, np.array([0.1, 0.7]), 3), "u must be between.*0.5"),
        (lambda: deep_mode_time(np.nan, 1.0, 0.1, 3), "u must be between.*nan"),
        (lambda: deep_mode_velocity(0.5, -1.0, 3), "s must be non-negative.*-1.0"),
        (lambda: deep_mode_velocity(np.nan, 1.0, 3), "u must be finite.*nan"),
        (lambda: deep_mode_velocity(0.5, 1.0, 3, -0.1), "weight_decay must be non-neg.*-0.1"),
        (lambda: unlearning_mode_strength(-1.0, 0.5, 2), "t must be non-negative.*-1.0"),
        (lambda: half_learning_time(1.0, 0.6, 3), "u0 must be at most s/2.*0.6"),
        (lambda: half_learning_time(1.0, 0.0, 2), "u0 must be positive.*0.0"),
        (lambda: escape_time_small_init(1.0, 1.0, 3), "u0 must be below the target s.*1.0"),
        (lambda: escape_time_small_init(1.0, 0.1, 1), "depth must be at least 2.*1"),
        (lambda: steps_to_learn(0.0, 0.5, 3), "w0 must be between 0 and 1.*0.0"),
        (lambda: steps_to_learn(0.5, 1.0, 3), "wf must be between 0 and 1.*1.0"),
        (lambda: steps_to_learn(0.5, 0.4, 3), "wf must be at least w0.*0.4"),
        (lambda: steps_to_learn(0.1, 0.4, 3, 2.0), "safety must be between 0 and 2.*2.0"),
        (lambda: critical_learning_rate(0.0, 2), "s_max must be positive.*0.0"),
        (lambda: critical_learning_rate(1.0, 0), "depth must be.*got 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_reaching_the_target_takes_for_ever():
    for depth in (1, 2, 3, INF):
        assert deep_mode_time(1.0, 1.0, 0.1, depth) == INF
        assert deep_mode_time(1.0, 1.0, 3.0, depth) == INF
        assert deep_mode_time(1.0, 1.0, 1.0, depth) == 0
    assert deep_mode_time(0.0, 1.0, 0.0, 2) == 0
