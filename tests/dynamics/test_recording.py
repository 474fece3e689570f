"""The recorded loop against plain Python loops; cuts, divergence and schedules."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynamics.recording import advance, begin, record_schedule, require_schedule

STEPS = 24
LONG = 400  # 8^343 overflows
SCHEDULE = np.array([0, 1, 2, 5, 11, 17, 24])


# A noisy linear map: (x, visits, key). Every leaf kind a run may carry.
def noisy(k, state):
    x, visits, key = state
    noise = jax.random.normal(jax.random.fold_in(key, k), x.shape)
    return 0.9 * x + 0.1 * noise, visits + 1, key


def look(state):
    x, visits, _ = state
    return {"x": x, "square": jnp.sum(x**2), "visits": visits}


def initial(seed=0):
    return jnp.array([1.0, -2.0]), jnp.int32(0), jax.random.key(seed)


def by_hand(schedule):
    """The same map as a Python loop with NumPy arithmetic."""
    x, key = np.array([1.0, -2.0]), jax.random.key(0)
    seen = [x]
    for k in range(STEPS):
        x = 0.9 * x + 0.1 * np.asarray(jax.random.normal(jax.random.fold_in(key, k), (2,)))
        seen.append(x)
    return np.array(seen)[schedule]


compiled = jax.jit(lambda run, at, start, stop: advance(noisy, look, run, at, start, stop))


def assert_same(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, np.array([0]), np.array([3, 7]), np.arange(STEPS + 1)], ids=len
)
def test_records_are_those_of_a_plain_loop(schedule):
    run = advance(noisy, look, begin(look, initial(), schedule), schedule, 0, STEPS)
    expected = by_hand(schedule)
    # float64 rounding over 24 contracting steps, XLA may fuse multiply and add: a few ulp
    np.testing.assert_allclose(run.records["x"], expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(run.records["square"], (expected**2).sum(1), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(run.records["visits"], schedule)
    assert run.diverged_at == -1


@given(cuts=st.lists(st.integers(0, STEPS), max_size=6))
@example(cuts=list(range(STEPS)))
@example(cuts=[])
def test_cutting_a_run_changes_no_bit(cuts):
    run = begin(look, initial(), SCHEDULE)
    whole = compiled(run, SCHEDULE, 0, STEPS)
    edges = [0, *sorted(cuts), STEPS]
    for start, stop in pairwise(edges):
        run = compiled(run, SCHEDULE, start, stop)
    assert_same(run, whole)


def test_records_not_reached_are_marked():
    run = compiled(begin(look, initial(), SCHEDULE), SCHEDULE, 0, 11)
    assert np.isfinite(run.records["square"][:5]).all()
    assert np.isnan(run.records["square"][5:]).all()
    assert run.records["visits"].tolist() == [0, 1, 2, 5, 11, 0, 0]


def scaled_until_overflow(factor, start):
    """Reference: first step at which repeated multiplication is not finite, and its value."""
    x = np.float64(start)
    with np.errstate(over="ignore", under="ignore"):
        for k in range(LONG):
            if not np.isfinite(x):
                return k, x
            x = x * np.float64(factor)
    return (-1 if np.isfinite(x) else LONG), x


@jax.jit
def multiplied(factors, starts, at):
    def member(factor, start):
        run = begin(lambda x: {"x": x}, start, at)
        return advance(lambda k, x: factor * x, lambda x: {"x": x}, run, at, 0, LONG)

    return jax.vmap(member)(factors, starts)


@given(
    factors=st.lists(st.floats(-8, 8, allow_subnormal=False), min_size=4, max_size=4),
    starts=st.lists(
        st.one_of(st.floats(1e-3, 1e3), st.sampled_from([0.0, np.inf, -np.inf, np.nan, 1e308])),
        min_size=4,
        max_size=4,
    ),
)
@example(factors=[2.0, 1.0, -1.0, 1e300], starts=[1.0, 1e308, 1.0, 1.0])
def test_divergence_is_found_at_its_very_step(factors, starts):
    at = np.array([0, 1, 3, 100, LONG])
    cases = np.array(factors), np.array(starts)
    run = multiplied(*cases, at)
    for i, (factor, start) in enumerate(zip(*cases, strict=True)):
        step, value = scaled_until_overflow(factor, start)
        assert run.diverged_at[i] == step
        # frozen at its first non-finite value; else equal, but XLA flushes subnormals to zero
        np.testing.assert_allclose(run.state[i], value, rtol=0, atol=1e-300)
        late = at >= step if step >= 0 else np.zeros(at.shape, bool)
        np.testing.assert_array_equal(np.isnan(run.records["x"][i]), late)


def test_a_state_without_floats_never_diverges():
    at = np.array([0, 2])
    run = begin(lambda n: {"n": n}, jnp.int32(7), at)
    run = advance(lambda k, n: n + k, lambda n: {"n": n}, run, at, 0, 3)
    assert (run.records["n"].tolist(), int(run.diverged_at)) == ([7, 8], -1)


def test_observing_stays_conditional_under_vmap():
    """Otherwise every member would be observed at every step."""

    def members(factors):
        run = begin(lambda x: {"x": jnp.sin(x)}, factors, SCHEDULE)
        return advance(
            lambda k, x: factors * x, lambda x: {"x": jnp.sin(x)}, run, SCHEDULE, 0, STEPS
        )

    program = str(jax.make_jaxpr(jax.vmap(members))(jnp.ones(3)))
    loop = program[program.index("scan[") :]
    assert "cond[" in loop
    assert loop.index("sin") > loop.index("cond[")


def test_static_and_traced_bounds_agree():
    run = begin(look, initial(), SCHEDULE)
    static = jax.jit(lambda run: advance(noisy, look, run, SCHEDULE, 0, STEPS))(run)
    traced = compiled(run, SCHEDULE, 0, STEPS)
    # two programs for one arithmetic: equal up to fused multiply-adds
    np.testing.assert_allclose(static.records["x"], traced.records["x"], rtol=0, atol=1e-14)


def test_reverse_mode_passes_through_a_static_loop():
    """d/da of x_k = a^k at a recorded step is k a^(k-1)."""

    def recorded(a):
        run = begin(lambda x: {"x": x}, 1.0, SCHEDULE)
        run = advance(lambda k, x: a * x, lambda x: {"x": x}, run, SCHEDULE, 0, STEPS)
        return run.records["x"]

    slope = jax.jacrev(recorded)(1.1)
    expected = SCHEDULE * 1.1 ** (SCHEDULE - 1.0)
    np.testing.assert_allclose(slope, expected, rtol=1e-13)  # rounding of 24 products


def test_a_step_that_changes_the_shape_of_the_state_is_refused():
    run = begin(lambda x: {"x": x}, jnp.ones((3, 1)), SCHEDULE)
    with pytest.raises(TypeError):
        advance(lambda k, x: x @ jnp.ones((1, 3)), lambda x: {"x": x}, run, SCHEDULE, 0, 2)


spacings = st.sampled_from(["linear", "log"])


@given(st.integers(0, 10**9), st.integers(2, 300), spacings)
@example(0, 2, "log")
@example(1, 2, "log")
@example(2, 2, "log")
@example(2, 3, "log")
@example(10**9, 2, "linear")
def test_schedules_increase_from_zero_to_the_end(steps, count, spacing):
    schedule = record_schedule(steps, count, spacing=spacing)
    assert np.issubdtype(schedule.dtype, np.integer)
    assert (schedule[0], schedule[-1], len(schedule)) == (0, steps, min(count, steps + 1))
    assert (np.diff(schedule) >= 1).all()
    np.testing.assert_array_equal(require_schedule(schedule, steps), schedule)


@given(st.integers(1, 10**9), st.integers(2, 300), spacings)
def test_schedules_are_spaced_as_they_say(steps, count, spacing):
    gaps = np.diff(record_schedule(steps, count, spacing=spacing))
    if spacing == "linear":
        assert gaps.max() - gaps.min() <= 1
    else:  # convex: gaps never shrink by more than what rounding to integers takes away
        assert (np.diff(gaps) >= -1).all()


@given(st.integers(4, 10**12))
def test_log_schedules_are_geometric(steps):
    _, first, middle, last = record_schedule(steps, 4, spacing="log")
    assert (first, last) == (1, steps)
    assert abs(middle - np.sqrt(steps)) <= 0.5 + 1e-9  # rounded to an integer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 3), "steps must be >= 0, got -1"),
        ((5, 1), "count must be >= 2"),
        ((5, 3, "cubic"), "spacing must be"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    steps, count, *spacing = arguments
    with pytest.raises(ValueError, match=message):
        record_schedule(steps, count, **({"spacing": spacing[0]} if spacing else {}))


@pytest.mark.parametrize(
    "record_at", [[], [0, 0], [2, 1], [-1, 3], [0, 11], [0.5, 2.0], [[0, 1]], 3, 2**40]
)
def test_record_steps_out_of_order_or_range_are_refused(record_at):
    with pytest.raises(ValueError, match="record_at must"):
        require_schedule(record_at, 10)
