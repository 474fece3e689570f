"""Gradient flow against hand-written solutions, conservation laws, and gradient descent.

Integration tolerance is 1e-9 per step; a few dozen steps of a contracting flow leave the solution
within 1e-8 relative, which is the tolerance used where nothing else is said. Float64 throughout.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.flow import gradient_flow
from dynamics.models import end_to_end, from_nnx

TIMES = np.array([0.0, 0.3, 1.0, 2.5, 4.0])


def quadratic(theta, data):
    curvature, target = data
    return 0.5 * jnp.sum(curvature * (theta - target) ** 2)


def scalar_product(params, s):
    """Two-layer scalar network: 1/2 (s - b a)^2."""
    a, b = params
    return 0.5 * jnp.sum((s - a * b) ** 2)


def logistic(t, s, u0, tau):
    return s * u0 / (u0 + (s - u0) * np.exp(-2 * s * t / tau))


def scalar_flow(a, b, s=1.0, times=TIMES, *, tau=1.0, rates=(1.0, 1.0), **options):
    """Flow of the scalar network, arguments in one form so that all tests share a compilation."""
    start = (jnp.full(1, a), jnp.full(1, b))
    options = {"loss": scalar_product, "times": times, "tau": tau, "layer_rates": rates, **options}
    return gradient_flow(start, jnp.array(s), **options)


def linear_loss(params, data):
    """1/2 of the squared error of a deep linear network, summed over examples."""
    x, y = data
    return 0.5 * jnp.sum((x @ end_to_end(params).T - y) ** 2)


def linear_task():
    """Weights (W1, W2) of a 4-5-3 network, and data (x, y) with six examples."""
    rng = np.random.default_rng(0)
    w1, w2, x, y = (0.4 * rng.normal(size=s) for s in ((5, 4), (3, 5), (6, 4), (6, 3)))
    return (w1, w2), (x, y)


# analytic solutions -----------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3),
    st.floats(-6.0, 3.0),
    st.sampled_from([(1.0, 1.0, 1.0), (0.0, 1e-3, 5.0), (0.2, 1.0, 9.0)]),
)
def test_quadratic_loss_relaxes_exponentially_on_every_time_scale(start, log_tau, curvature):
    theta, target, k = np.array(start), np.array([0.5, -1.0, 0.0]), np.array(curvature)
    tau = 10.0**log_tau
    flow = gradient_flow(theta, (k, target), loss=quadratic, times=tau * TIMES, tau=tau)
    decay = np.exp(-k[None, :] * TIMES[:, None])
    expected = target[None, :] + decay * (theta - target)[None, :]
    assert flow.converged
    np.testing.assert_allclose(flow.params, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(flow.times, tau * TIMES)


@pytest.mark.parametrize("u0", [1e-6, 1e-2, 2.5])
def test_two_layer_scalar_network_follows_the_logistic_curve(u0):
    s, tau = 1.5, 2.0
    times = np.linspace(1.0, 25.0, 5)  # does not contain 0: integration starts there all the same
    root = np.sqrt(u0)
    a, b = scalar_flow(root, root, s, times, tau=tau).params
    np.testing.assert_allclose((a * b)[:, 0], logistic(times, s, u0, tau), rtol=1e-8)


def test_solution_at_a_time_does_not_depend_on_the_other_times_and_restarts_agree():
    # Interpolating between its steps, the default solver would be off by 1e-7 relative.
    s, tau, root = 1.5, 2.0, np.sqrt(1e-4)
    far, near = np.array([0.0, 2.0, 6.0, 7.0, 20.0]), np.array([1.0, 6.0, 6.1, 6.2, 6.3])
    a, a_near = (scalar_flow(root, root, s, times, tau=tau).params[0] for times in (far, near))
    np.testing.assert_allclose(a[2], a_near[1], rtol=1e-8)
    middle = float(a[2, 0])
    restarted = scalar_flow(middle, middle, s, np.array([0.5, 1.0, 2.0, 3.0, 14.0]), tau=tau)
    np.testing.assert_allclose(restarted.params[0][np.array([1, 4])], a[3:], rtol=1e-8)


def test_flow_at_a_stationary_point_does_not_move():
    flow = scalar_flow(0.0, 0.0, 1.0)
    assert flow.converged
    np.testing.assert_array_equal(flow.params[0], np.zeros((5, 1)))


# conservation and dissipation -------------------------------------------------------------------


def test_balance_is_conserved_and_the_loss_dissipated_in_a_deep_linear_network():
    params, data = linear_task()
    tau, h = 1.7, 1e-3

    def look(params):
        w1, w2 = params
        gradient = jax.grad(linear_loss)(params, data)
        return {
            "balance": w2.T @ w2 - w1 @ w1.T,
            "first_layer": w1 @ w1.T,
            "loss": linear_loss(params, data),
            "gradient_square": sum(jnp.sum(g**2) for g in gradient),
        }

    times = np.array([0.0, 0.5 - h, 0.5, 0.5 + h, 10.0])
    flow = gradient_flow(params, data, loss=linear_loss, times=times, tau=tau, observe=look)
    seen = {name: np.asarray(record) for name, record in flow.records.items()}
    assert flow.params is None
    assert np.abs(seen["balance"] - seen["balance"][:1]).max() < 1e-8
    assert np.abs(seen["first_layer"] - seen["first_layer"][:1]).max() > 0.1  # yet all moves
    # dL/dt = -|grad L|^2 / tau; the central difference errs by h^2 times a rate cubed
    slope = (seen["loss"][3] - seen["loss"][1]) / (2 * h)
    np.testing.assert_allclose(slope, -seen["gradient_square"][2] / tau, rtol=1e-4)
    assert (np.diff(seen["loss"]) < 0).all()


def test_layer_rates_reweight_the_conserved_quantity():
    # tau da/dt = r_a b e, tau db/dt = r_b a e: a^2/r_a - b^2/r_b is constant
    a, b = (np.asarray(w)[:, 0] for w in scalar_flow(0.4, -0.2, 1.0, rates=(3.0, 0.5)).params)
    np.testing.assert_allclose(a**2 / 3.0 - b**2 / 0.5, 0.4**2 / 3.0 - 0.2**2 / 0.5, atol=1e-8)
    assert np.ptp(a**2 - b**2) > 0.1


def test_equal_layer_rates_are_a_change_of_time_unit_and_zero_freezes():
    fast, scaled = scalar_flow(0.4, -0.2, rates=(2.0, 2.0)), scalar_flow(0.4, -0.2, tau=0.5)
    np.testing.assert_allclose(fast.params, scaled.params, rtol=1e-12)
    frozen, trained = scalar_flow(0.4, -0.2, rates=(0.0, 1.0)).params
    np.testing.assert_array_equal(frozen, np.full((5, 1), 0.4))
    # tau db/dt = a (s - a b) with a fixed
    expected = 2.5 + (-0.2 - 2.5) * np.exp(-(0.4**2) * TIMES)
    np.testing.assert_allclose(trained[:, 0], expected, rtol=1e-8)


def test_gradient_descent_deviates_by_the_first_power_of_the_step():
    rngs = nnx.Rngs(0)  # a flax module, to see that its parameters can flow as they are
    network = nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), jnp.tanh, nnx.Linear(5, 3, rngs=rngs))
    apply, params = from_nnx(network, dtype=jnp.float64)
    data = linear_task()[1]

    def loss(params, data):
        return 0.5 * jnp.sum((apply(params, data[0]) - data[1]) ** 2)

    tau, time = 0.5, 1.0
    flow = gradient_flow(params, data, loss=loss, times=np.array([time]), tau=tau)
    end = jax.tree.map(lambda w: w[0], flow.params)

    @jax.jit
    def distance(steps):
        eta = time / tau / steps

        def body(_, w):
            return jax.tree.map(lambda p, g: p - eta * g, w, jax.grad(loss)(w, data))

        reached = jax.lax.fori_loop(0, steps, body, params)
        gaps = jax.tree.map(lambda p, q: jnp.sum((p - q) ** 2), reached, end)
        return jnp.sqrt(sum(jax.tree.leaves(gaps)))

    steps = np.array([200, 400, 800, 1600])
    errors = np.array([distance(k) for k in steps])
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.05  # the next order is eta = 1e-2 times a curvature of order one
    assert errors[-1] > 1e-6  # far above the error of integration


# failure, transformations, types ----------------------------------------------------------------


def explode(w, limit):
    """dw/dt = w^2, hence w = 1/(1/w(0) - t), until w passes a limit where the gradient is NaN."""
    return jnp.where(w > limit, jnp.nan, 1.0) * -(w**3) / 3


TO_BLOW_UP = np.array([0.0, 0.4, 0.9, 1.1, 2.0])
NO_LIMIT = np.array(1e300)


def test_blow_up_is_reported_and_leaves_what_came_before():
    def look(w):
        return {"w": w, "positive": w > 0, "count": jnp.array([1, 2])}

    flow = gradient_flow(1.0, NO_LIMIT, loss=explode, times=TO_BLOW_UP, observe=look)
    assert not flow.converged
    assert flow.reached.tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(flow.records["w"][:3], 1 / (1 - TO_BLOW_UP[:3]), rtol=1e-8)
    assert np.isnan(flow.records["w"][3:]).all()
    assert flow.records["positive"][:3].tolist() == [1.0, 1.0, 1.0]
    assert flow.records["count"][0].tolist() == [1.0, 2.0]
    assert np.isnan(flow.records["count"][3:]).all()
    assert flow.params is None
    # the vanishing step is noticed, not run into until the steps are used up
    assert flow.result == diffrax.RESULTS.dt_min_reached
    assert flow.n_steps < 2000


def test_under_jit_and_vmap_a_failing_member_leaves_the_others_as_they_are_alone():
    start = jnp.array([-1.0, 1.0, 0.1])

    def flow(w):
        return gradient_flow(w, NO_LIMIT, loss=explode, times=TO_BLOW_UP)

    many, alone = jax.jit(jax.vmap(flow))(start), flow(start[2])
    assert many.converged.tolist() == [True, False, True]
    assert many.reached.sum(1).tolist() == [5, 3, 5]
    assert many.n_steps[2] == alone.n_steps
    np.testing.assert_allclose(many.params[2], alone.params, rtol=1e-14)
    exact = 1 / (1 / start[::2, None] - TO_BLOW_UP[None, :])
    np.testing.assert_allclose(many.params[::2], exact, rtol=1e-8)


def test_a_gradient_that_is_nan_ends_the_flow_and_never_enters_the_parameters():
    # w passes 2 at t = 1/2
    flow = gradient_flow(jnp.array(1.0), np.array(2.0), loss=explode, times=TO_BLOW_UP)
    assert not flow.converged
    assert flow.reached.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(flow.params[1], 1 / 0.6, rtol=1e-8)


def test_running_out_of_steps_is_reported_and_another_solver_accepted():
    flow = scalar_flow(1.0, 1.0, 5.0, max_steps=3, solver=diffrax.Tsit5())
    assert not flow.converged
    assert int(flow.n_steps) == 3
    assert flow.reached.tolist() == [True, False, False, False, False]
    assert flow.result == diffrax.RESULTS.max_steps_reached


def test_derivatives_agree_with_those_of_the_logistic_curve():
    s, tau, t, u0 = 1.5, 2.0, 1.2, 0.1

    def strength(s, tau, root):
        flow = gradient_flow((root, root), s, loss=scalar_product, times=np.array([t]), tau=tau)
        return (flow.params[0] * flow.params[1])[0, 0]

    args = (jnp.asarray(s), jnp.asarray(tau), jnp.full(1, np.sqrt(u0)))
    by_flow = jax.jit(jax.grad(strength, argnums=(0, 1, 2)))(*args)

    def exact(s, tau, root):
        u0 = root[0] ** 2
        return s * u0 / (u0 + (s - u0) * jnp.exp(-2 * s * t / tau))

    for got, expected in zip(by_flow, jax.grad(exact, argnums=(0, 1, 2))(*args), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_implicit_solver_takes_few_steps_on_a_stiff_loss():
    curvature, start = np.array([1e4, 1.0, 0.1]), np.ones(3)
    common = {"loss": quadratic, "times": TIMES, "rtol": 1e-6}
    explicit = gradient_flow(start, (curvature, np.zeros(3)), **common)
    implicit = gradient_flow(start, (curvature, np.zeros(3)), solver=diffrax.Kvaerno5(), **common)
    assert explicit.converged
    assert implicit.converged
    exact = np.exp(-curvature[None, :] * TIMES[:, None])
    np.testing.assert_allclose(implicit.params, exact, rtol=1e-5, atol=1e-8)
    assert implicit.n_steps < explicit.n_steps / 20


def test_dtype_follows_the_parameters():
    start = (jnp.full(1, 0.5, jnp.float32), jnp.full(1, 0.5, jnp.float32))
    flow = gradient_flow(start, 1.0, loss=scalar_product, times=TIMES, tau=np.float64(1.0))
    assert flow.converged
    assert {flow.times.dtype, *(w.dtype for w in flow.params)} == {jnp.dtype(jnp.float32)}
    u = np.asarray(flow.params[0] * flow.params[1])[:, 0]
    np.testing.assert_allclose(u, logistic(TIMES, 1.0, 0.25, 1.0), rtol=1e-4)  # its rtol is 1e-5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"times": np.array([-1.0, 1.0])}, "times"),
        ({"times": np.array([0.0, 1.0, 1.0])}, "times"),
        ({"times": np.array([0.0, np.nan])}, "times"),
        ({"times": np.array([])}, "times"),
        ({"tau": 0.0}, "tau"),
        ({"tau": -1.0}, "tau"),
        ({"tau": np.nan}, "tau"),
        ({"rtol": 0.0}, "rtol"),
        ({"rtol": -1e-6}, "rtol"),
        ({"rtol": 1e-17}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"max_steps": 0}, "max_steps"),
        ({"data": {"target": jnp.array([1.0, np.nan])}}, "target.*finite"),
        ({"params": jnp.array([np.inf])}, "params.*finite"),
        ({"params": jnp.array([1])}, "params.*floating"),
        ({"params": {}}, "params.*floating"),
    ],
)
def test_bad_input_is_named(change, match):
    arguments = {"params": jnp.ones(1), "data": {"target": 0.0}, "times": TIMES, **change}
    with pytest.raises(ValueError, match=match):
        gradient_flow(loss=lambda w, data: jnp.sum(w**2), **arguments)


def test_checks_look_at_known_values_inside_jit_and_let_traced_ones_pass():
    def flow(params, tau, times):
        return gradient_flow(params, 2.0, loss=explode, times=times, tau=tau).params

    traced = jax.eval_shape(flow, jnp.array(1.0), jnp.array(1.0), jnp.ones(4))
    assert traced.shape == (4,)
    backwards, negative = jnp.array([1.0, 0.0]), jnp.array(-1.0)
    with pytest.raises(ValueError, match="times"):
        jax.eval_shape(lambda w: flow(w, 1.0, backwards), jnp.array(1.0))
    with pytest.raises(ValueError, match="tau"):
        jax.eval_shape(lambda w: flow(w, negative, TIMES), jnp.array(1.0))
