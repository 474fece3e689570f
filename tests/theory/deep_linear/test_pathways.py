"""Pathway races and deficits against integration of two whole deep linear pathways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from theory.deep_linear.deep_modes import deep_mode_velocity
from theory.deep_linear.pathways import (
    DEFICITS,
    critical_period_curve,
    final_split,
    loser_bound,
    pathway_velocity,
    race_invariant,
    unbalanced_pathway_velocity,
)

INF = float("inf")
DEPTHS = st.sampled_from([1, 2, 3, 4, 13, INF])
STRENGTHS = st.floats(-8, 4).map(lambda x: 10.0**x)
# Pairs of any ratio, and pairs that are equal or nearly so.
PAIRS = st.tuples(STRENGTHS, STRENGTHS) | st.builds(
    lambda K, k, sign: (K, K * (1 + sign * 10.0**-k)),
    STRENGTHS,
    st.floats(0.5, 15),
    st.sampled_from([-1, 0, 1]),
)
TASKS = st.floats(-3, 3).map(lambda x: 10.0**x)


# --- two whole pathways ---------------------------------------------------------------------------

S = np.array([2.0, 0.9])
WIDTH = 3


def orthogonal(rng, n, columns):
    return np.linalg.qr(rng.standard_normal((n, n)))[0][:, :columns]


class Network:
    """Two deep linear pathways, balanced and aligned with a task of singular values S."""

    def __init__(self, depth, seed):
        rng = np.random.default_rng(seed)
        self.depth, self.U, self.V = depth, orthogonal(rng, 2, 2), orthogonal(rng, 2, 2)
        self.bases = [
            [self.V, *(orthogonal(rng, WIDTH, 2) for _ in range(depth - 1)), self.U]
            for _ in range(2)
        ]
        sizes = [2, *[WIDTH] * (depth - 1), 2]
        self.shapes = 2 * list(zip(sizes[1:], sizes[:-1], strict=True))

    def start(self, *strengths):
        return np.concatenate(
            [
                (bases[l + 1] @ np.diag(K ** (1 / self.depth)) @ bases[l].T).ravel()
                for K, bases in zip(strengths, self.bases, strict=True)
                for l in range(self.depth)
            ]
        )

    def weights(self, state):
        cuts = np.cumsum([a * b for a, b in self.shapes])[:-1]
        flat = zip(np.split(state, cuts), self.shapes, strict=True)
        matrices = [part.reshape(shape) for part, shape in flat]
        return matrices[: self.depth], matrices[self.depth :]

    def run(self, state, duration, deficit=None):
        """Gradient flow; a deficit of the second pathway closes its gradient, or removes it."""
        task = self.U @ np.diag(S) @ self.V.T

        def flow(_, state):
            pathways = self.weights(state)
            maps = [product(weights) for weights in pathways]
            error = task - maps[0] - (0 if deficit == "removed" else maps[1])
            gates = 1.0, 0.0 if deficit else 1.0
            return np.concatenate(
                [
                    gate * (product(weights[l + 1 :]).T @ error @ product(weights[:l]).T).ravel()
                    if 0 < l < self.depth - 1
                    else gate * end_gradient(weights, error, l).ravel()
                    for gate, weights in zip(gates, pathways, strict=True)
                    for l in range(self.depth)
                ]
            )

        if duration == 0:
            return state
        solution = solve_ivp(flow, (0, duration), state, method="DOP853", rtol=1e-11, atol=1e-13)
        return solution.y[:, -1]

    def strengths(self, state):
        return [np.diag(self.U.T @ product(weights) @ self.V) for weights in self.weights(state)]


def product(weights):
    """W_last ... W_first."""
    total = weights[0]
    for weight in weights[1:]:
        total = weight @ total
    return total


def end_gradient(weights, error, l):
    after = product(weights[l + 1 :]).T @ error if l < len(weights) - 1 else error
    return after @ product(weights[:l]).T if l > 0 else after


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_race_of_whole_pathways(depth):
    network = Network(depth, seed=depth)
    Ka, Kb = np.array([0.05, 0.06]), np.array([0.03, 0.06])
    state = network.start(Ka, Kb)
    halfway = network.strengths(network.run(state, 0.7))
    np.testing.assert_allclose(
        race_invariant(*halfway, depth), race_invariant(Ka, Kb, depth), rtol=1e-8, atol=1e-9
    )
    settled = network.strengths(network.run(state, 60.0))
    split = final_split(Ka, Kb, S, depth)
    np.testing.assert_allclose(settled, split, rtol=1e-8)
    np.testing.assert_allclose(final_split(*halfway, S, depth), split, rtol=1e-8)
    if depth > 2:
        assert settled[1][0] < loser_bound(Ka, Kb, depth)[0]


@pytest.mark.parametrize(
    ("depth", "deficit"),
    [*((depth, "gradient_gate") for depth in (1, 2, 3, 4)), (1, "removed"), (3, "removed")],
)
def test_deficits_of_whole_pathways(depth, deficit):
    network, K0, duration = Network(depth, seed=7), 0.03, 0.8
    for onset in (0.0, 1.2):
        state = network.run(network.start(np.full(2, K0), np.full(2, K0)), onset)
        state = network.run(state, duration, deficit)
        share = network.strengths(network.run(state, 60.0))[0] / S
        for k in range(2):
            theory = critical_period_curve(3 * onset, 3 * duration, S[k], K0, depth, deficit, 3.0)
            np.testing.assert_allclose(theory, share[k], rtol=1e-8)


def test_unbalanced_pathways_of_one_weak_and_several_strong_layers():
    """Full pathways of scalars w_1 .. w_D: the strong ones stay equal, q^2 - p^2 is conserved."""
    depth, task, imbalance = 4, 3.0, 1.5
    p = np.array([0.05, -0.02])
    layers = np.stack([p, *[np.sqrt(p**2 + imbalance)] * (depth - 1)])

    def flow(_, state):
        weights = state.reshape(depth, 2)
        maps = weights.prod(0)
        return ((task - maps.sum()) * maps[None, :] / weights).ravel()

    times = np.array([0.0, 0.01, 0.05, 0.2])
    start = layers.ravel()
    solution = solve_ivp(
        flow, (0, 0.2), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14
    )
    reduced = solve_ivp(
        lambda _, p: np.asarray(unbalanced_pathway_velocity(p, task, depth, imbalance)),
        (0, 0.2),
        p,
        method="RK45",
        t_eval=times,
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(reduced.y, solution.y[:2], rtol=1e-8)


# --- the race ------------------------------------------------------------------------------------


@given(PAIRS, TASKS, DEPTHS)
def test_invariant_is_conserved_and_the_ratio_moves_with_depth(pair, task, depth):
    K = jnp.array(pair)
    velocity = pathway_velocity(K, task, depth)
    _, change = jax.jvp(lambda *K: race_invariant(*K, depth), tuple(K), tuple(velocity))
    # each term alone is the common factor D (S - K_a - K_b): they cancel to rounding
    assert abs(change) <= 1e-12 * 13 * abs(task - K.sum())
    growth = velocity / K
    lead = (growth[0] - growth[1]) * jnp.sign(K[0] - K[1]) * jnp.sign(task - K.sum())
    slack = 1e-12 * jnp.abs(growth).max()
    if depth == 1:
        assert lead <= slack
    elif depth == 2:
        assert abs(lead) <= slack
    else:
        assert lead >= -slack


@given(PAIRS, DEPTHS)
def test_invariant_is_the_integral_and_odd(pair, depth):
    Ka, Kb = pair
    value = float(race_invariant(Ka, Kb, depth))
    assert value == pytest.approx(-float(race_invariant(Kb, Ka, depth)), rel=1e-14)
    assert np.sign(value) == np.sign(Ka - Kb)
    # derivative K^-p in the first argument, and zero for equal pathways: that is the integral
    slope = jax.grad(race_invariant)(Ka, Kb, depth)
    if Ka != Kb:
        np.testing.assert_allclose(slope, Ka ** (2 / depth - 2), rtol=1e-10)


@given(PAIRS, TASKS, DEPTHS, TASKS)
def test_split_adds_up_conserves_and_scales(pair, task, depth, scale):
    end = [float(K) for K in final_split(*pair, task, depth)]
    assert sum(end) == pytest.approx(task, rel=1e-14)
    again = final_split(*pair[::-1], task, depth)
    larger = max(pair)
    np.testing.assert_allclose(again, end[::-1], rtol=1e-14, atol=1e-15 * (task + larger))
    scaled = final_split(*(scale * np.array(pair)), scale * task, depth)
    # depth 1 may end with a negative, or a nearly cancelled, loser
    np.testing.assert_allclose(
        scaled, scale * np.array(end), rtol=1e-10, atol=1e-14 * scale * larger
    )
    if depth == 1:
        assert end[0] - end[1] == pytest.approx(pair[0] - pair[1], abs=1e-14 * (task + larger))
        return
    assert min(end) > 0
    start, stop = race_invariant(*pair, depth), race_invariant(*end, depth)
    # rounding of the strengths moves the invariant by K^(1-p)
    slack = 1e-11 * sum(K ** (2 / depth - 1) for K in (*pair, *end))
    assert abs(start - stop) <= 1e-10 * abs(start) + slack
    if depth > 2:
        assert min(end) <= loser_bound(*pair, depth) * (1 + 1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4, 13, INF])
def test_split_against_bracketed_root(depth):
    g = 1 - 2 / depth
    invariant = (lambda a, b: np.log(a / b)) if depth == 2 else (lambda a, b: b**-g - a**-g)
    for Ka, Kb, task in [(0.3, 0.2, 1.0), (1e-3, 1e-6, 2.0), (0.01, 0.0099, 5.0), (9.0, 8.0, 1.0)]:
        start = invariant(Ka, Kb)
        loser = brentq(
            lambda x: invariant(task - x, x) - start,  # noqa: B023
            1e-9 * task,
            task / 2,
            xtol=1e-300,
            rtol=1e-14,
        )
        np.testing.assert_allclose(final_split(Ka, Kb, task, depth)[1], loser, rtol=1e-12)


@given(st.floats(-2, 0), st.floats(-2, 0), st.floats(-1, 1), st.sampled_from([1, 2, 3, 4, INF]))
def test_split_derivatives(log_a, log_b, log_task, depth):
    point = 10.0 ** np.array([log_a, log_b, log_task])
    exact = jax.jacobian(lambda x: jnp.stack(final_split(*x, depth)))(point)
    step = 1e-5 * point
    numerical = [
        (np.stack(final_split(*(point + h), depth)) - np.stack(final_split(*(point - h), depth)))
        for h in np.diag(step)
    ]
    # second-order differences: a relative 1e-10 of derivatives of order (K_end/K)^2 < 1e6
    np.testing.assert_allclose(
        exact, np.stack(numerical, 1) / (2 * step)[None, :], rtol=1e-6, atol=1e-7
    )


def test_split_of_extreme_pathways():
    """Ratios and tasks of hundreds of decades, equal pathways: finite, positive, exact sum."""
    Ka = np.array([1e-300, 1e-300, 1e300, 1e-10, 1.0])
    Kb = np.array([1e-300, 1.0, 1e300, 1e-200, 1e-300])
    task = np.array([1e10, 1e-10, 1.0, 1e20, 1.0])
    for depth in (2, 3, INF):
        a, b = final_split(Ka, Kb, task, depth)
        np.testing.assert_allclose(a + b, task, rtol=1e-15)
        assert (np.minimum(a, b) >= 0).all()
        assert (np.asarray(a)[[0, 2]] == np.asarray(b)[[0, 2]]).all()
        slope = jax.vmap(jax.grad(lambda *x: final_split(*x, depth)[0], (0, 1, 2)))(Ka, Kb, task)  # noqa: B023
        assert not np.isnan(slope).any()


def test_loser_is_capped_whatever_the_task():
    for depth in (3, 4, INF):
        bound = float(loser_bound(0.5, 0.05, depth))
        losers = np.asarray(final_split(0.5, 0.05, 10.0 ** np.arange(0, 30, 6), depth)[1])
        assert (np.diff(losers) > 0).all()
        assert losers[-1] < bound * (1 + 1e-14)
        np.testing.assert_allclose(losers[-1], bound, rtol=1e-7)
    assert np.isinf(loser_bound(0.3, 0.3, 3))
    # at depth 2 it is not: the ratio persists
    np.testing.assert_allclose(final_split(0.5, 0.05, 1e3, 2)[1], 1e3 / 11)


@given(STRENGTHS, TASKS, DEPTHS, TASKS)
def test_velocity_of_one_and_of_equal_pathways(K, task, depth, tau):
    alone = pathway_velocity(jnp.array([K]), task, depth, tau)[0]
    reference = deep_mode_velocity(K, task, depth, tau=tau)
    np.testing.assert_allclose(alone, reference, rtol=1e-13)
    three = pathway_velocity(jnp.full(3, K), task, depth, tau)
    np.testing.assert_allclose(three, three[0])
    p = 2 - 2 / depth
    joint = 3 ** (1 - p) * deep_mode_velocity(3 * K, task, depth, tau=tau)
    slack = 1e-13 * abs(joint) * (task + 3 * K) / max(abs(task - 3 * K), 1e-300)
    assert abs(3 * three[0] - joint) <= slack + 1e-300


# --- critical periods ----------------------------------------------------------------------------

ONSETS = st.floats(0, 20) | st.just(0.0)
CURVE_DEPTHS = st.sampled_from([1, 2, 3, INF])  # few, for each is compiled
STARTS = st.floats(-6, -0.31).map(lambda x: 10.0**x)  # K0/S below one half


def test_critical_period_at_depth_two_in_closed_form():
    onset, duration = np.linspace(0, 5, 11)[:, None], np.array([0.0, 0.3, 2.0, 10.0])
    task, K0 = 1.7, 0.02
    K = task / 2 * 2 * K0 / (2 * K0 + (task - 2 * K0) * np.exp(-2 * task * onset))
    rest = task - K
    Ka = rest * K / (K + (rest - K) * np.exp(-2 * rest * duration))
    curve = critical_period_curve(onset, duration, task, K0, 2)
    np.testing.assert_allclose(curve, Ka / (Ka + K), rtol=1e-13)


@pytest.mark.parametrize(
    ("depth", "shares"),
    [(2, [0.972, 0.548, 0.500]), (3, [0.975, 0.685, 0.500]), (4, [0.976, 0.8135, 0.500])],
)
def test_the_window_lengthens_with_depth(depth, shares):
    curve = [critical_period_curve(onset, 1.0, 2.0, 0.02, depth) for onset in (0.0, 1.5, 6.0)]
    np.testing.assert_allclose(curve, shares, atol=5e-4)


@given(ONSETS, st.floats(0, 10), TASKS, STARTS, CURVE_DEPTHS, st.sampled_from(DEFICITS))
def test_deficit_favours_the_other_pathway_by_its_duration(
    onset, duration, task, start, depth, deficit
):
    curve = [
        float(critical_period_curve(onset, d, task, start * task, depth, deficit))
        for d in (0.0, duration, 2 * duration)
    ]
    slack = 1e-14 / start ** (1 - 2 / depth) + 1e-14
    assert curve[0] == pytest.approx(0.5, abs=slack)  # no deficit, no effect
    assert curve[0] - slack <= curve[1] <= curve[2] + slack
    assert curve[2] <= 1 + 1e-14


@given(ONSETS, st.floats(0.01, 5), st.floats(0, 10), TASKS, STARTS, CURVE_DEPTHS)
def test_gate_matters_less_the_later_and_not_at_all_in_the_end(
    onset, delay, duration, task, start, depth
):
    early, late = (
        float(critical_period_curve(t, duration, task, start * task, depth))
        for t in (onset, onset + delay)
    )
    assert late <= early + 1e-14 / start ** (1 - 2 / depth) + 1e-14
    for never in (1e20, 1e300):
        share = critical_period_curve(never, duration, task, start * task, depth)
        # algebraically slow escapes at infinite depth are over by then as well
        assert share == pytest.approx(0.5, abs=1e-9)


def test_removal_has_a_lasting_effect_at_any_age():
    """A lone pathway grows from S/2 to S: then S and S/2 settle by the invariant."""
    share = critical_period_curve(1e6, 1e6, 2.0, 0.02, 2, "removed")
    np.testing.assert_allclose(share, 2 / 3, rtol=1e-12)
    for depth in (1, 3):
        share = critical_period_curve(1e6, 1e6, 2.0, 0.02, depth, "removed")
        np.testing.assert_allclose(share, final_split(2.0, 1.0, 2.0, depth)[0] / 2, rtol=1e-12)
        gate = critical_period_curve(0.5, 0.4, 2.0, 0.02, depth)
        assert critical_period_curve(0.5, 0.4, 2.0, 0.02, depth, "removed") > gate


@given(st.floats(-2, 2), st.floats(-2, 2), TASKS, CURVE_DEPTHS)
def test_curve_scales_with_task_and_tau(log_k, log_tau, task, depth):
    k, tau = 10.0**log_k, 10.0**log_tau
    reference = critical_period_curve(1.0, 0.5, task, 0.05 * task, depth)
    stretched = critical_period_curve(tau, 0.5 * tau, task, 0.05 * task, depth, tau=tau)
    np.testing.assert_allclose(stretched, reference, rtol=1e-10)
    speed = k ** (2 - 2 / depth)
    scaled = critical_period_curve(1 / speed, 0.5 / speed, k * task, 0.05 * k * task, depth)
    np.testing.assert_allclose(scaled, reference, rtol=1e-10)


@pytest.mark.parametrize("deficit", DEFICITS)
def test_curve_derivatives(deficit):
    point = np.array([0.8, 0.5, 1.5, 0.05])
    share = lambda x: critical_period_curve(*x, 3, deficit)  # noqa: E731
    exact = jax.grad(share)(point)
    numerical = [(share(point + h) - share(point - h)) / 2e-6 for h in 1e-6 * np.eye(4)]
    np.testing.assert_allclose(exact, numerical, rtol=1e-6, atol=1e-8)


# --- contracts -----------------------------------------------------------------------------------


def test_shapes_and_jit():
    K = jnp.array([[0.1, 0.2, 0.3], [0.5, 0.4, 0.1]])
    modes = jnp.array([2.0, 1.0])
    velocity = jax.jit(lambda K: pathway_velocity(K, modes, 3))(K)
    assert velocity.shape == (2, 3)
    np.testing.assert_allclose(velocity[1], pathway_velocity(K[1], 1.0, 3), rtol=1e-14)
    curve = jax.vmap(lambda t: critical_period_curve(t, 1.0, modes, 0.02, 3))(jnp.arange(3.0))
    assert curve.shape == (3, 2)
    np.testing.assert_allclose(
        curve[2, 1], critical_period_curve(2.0, 1.0, 1.0, 0.02, 3), rtol=1e-13
    )


def test_single_precision_follows_the_input():
    f = np.float32
    share = critical_period_curve(f(1.5), f(1), f(2), f(0.02), 3)
    assert share.dtype == jnp.float32
    np.testing.assert_allclose(share, critical_period_curve(1.5, 1.0, 2.0, 0.02, 3), rtol=1e-4)
    split = final_split(f(1e-3), f(1e-6), f(5), 4)
    np.testing.assert_allclose(split, final_split(1e-3, 1e-6, 5.0, 4), rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (pathway_velocity, (np.array([-1.0, 1.0]), 1.0, 2), "K must be non-negative"),
        (pathway_velocity, (1.0, 1.0, 2), "K must be an array"),
        (pathway_velocity, (np.ones(2), np.nan, 2), "S must be finite"),
        (pathway_velocity, (np.ones(2), 1.0, 0), "depth must be"),
        (unbalanced_pathway_velocity, (np.ones(2), 1.0, 3, 0.0), "imbalance must be positive"),
        (unbalanced_pathway_velocity, (np.ones(2), 1.0, INF), "depth must be an integer"),
        (race_invariant, (0.0, 1.0, 2), "Ka must be positive"),
        (race_invariant, (1.0, np.inf, 1), "Kb must be finite"),
        (final_split, (1.0, -1.0, 1.0, 3), "Kb must be positive"),
        (final_split, (1.0, 1.0, 0.0, 3), "S must be positive"),
        (final_split, (1.0, 1.0, 1.0, 2.5), "depth must be"),
        (loser_bound, (1.0, 1.0, 2), "depth must be above 2"),
        (critical_period_curve, (0.0, 1.0, 1.0, 0.6, 2), "K0 must be at most S/2"),
        (critical_period_curve, (-1.0, 1.0, 1.0, 0.1, 2), "onset must be non-negative"),
        (critical_period_curve, (0.0, np.nan, 1.0, 0.1, 2), "duration must be non-negative"),
        (critical_period_curve, (0.0, 1.0, 1.0, 0.1, 2, "blur"), "deficit must be one of"),
    ],
)
def test_bad_input_is_named(function, arguments, named):
    with pytest.raises(ValueError, match=named):
        function(*arguments)
