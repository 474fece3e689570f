"""The catapult maps against gradient descent by automatic differentiation, and its phases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.catapult import (
    PHASES,
    Catapult,
    DataCatapult,
    catapult_phase,
    catapult_step,
    catapult_step_data,
    data_kernel,
    imbalance_factor,
    peak_time,
)

SEEDS = st.integers(0, 2**16)
WIDTH, M, D = 12, 4, 3


@jax.jit
def descend_single(params, eta):
    gradient = jax.grad(lambda p: (p[0] @ p[1]) ** 2 / (2 * WIDTH))(params)
    return params - eta * gradient


def start(output, kernel):
    return Catapult(jnp.asarray(output, float), jnp.asarray(kernel, float))


def summary(params):
    u, v = params
    return start(u @ v / np.sqrt(WIDTH), (u @ u + v @ v) / WIDTH)


def imbalance(params):
    u, v = params
    return u @ u - v @ v


@given(SEEDS, st.floats(0.01, 4.5))
def test_steps_equal_gradient_descent(seed, rate):
    params = np.random.default_rng(seed).standard_normal((2, WIDTH))
    state = summary(params)
    eta = rate / state.kernel
    for _ in range(3):
        after = np.asarray(descend_single(params, eta))
        found = catapult_step(state, eta, WIDTH)
        np.testing.assert_allclose(np.stack(found), np.stack(summary(after)), rtol=1e-9, atol=1e-12)
        factor = imbalance_factor(state.output, eta, WIDTH)
        np.testing.assert_allclose(imbalance(after), factor * imbalance(params), atol=1e-10)
        assert (found.kernel - state.kernel) * (eta * state.kernel - 4) >= 0
        params, state = after, summary(after)


@jax.jit
def descend_data(w, v, x, y, eta):
    outputs = lambda w, v: x @ w.T @ v / np.sqrt(WIDTH)  # noqa: E731
    gradient = jax.grad(lambda w, v: jnp.mean((outputs(w, v) - y) ** 2) / 2, (0, 1))(w, v)
    w, v = w - eta * gradient[0], v - eta * gradient[1]
    jacobian = jax.jacobian(outputs, (0, 1))(w, v)
    flat = jnp.concatenate([jacobian[0].reshape(M, -1), jacobian[1]], axis=1)
    return w, v, outputs(w, v), flat @ flat.T


def data_state(*values):
    return DataCatapult(*map(jnp.asarray, values))


@given(SEEDS, st.floats(0.01, 2.0))
def test_steps_with_data_equal_gradient_descent(seed, eta):
    rng = np.random.default_rng(seed)
    x, y, v = rng.standard_normal((M, D)), rng.standard_normal(M), rng.standard_normal(WIDTH)
    w = rng.standard_normal((WIDTH, D))
    hidden, gram = x @ w.T, x @ x.T
    state = data_state(hidden @ v / np.sqrt(WIDTH), hidden @ hidden.T / WIDTH, v @ v / WIDTH)
    for _ in range(3):
        w, v, outputs, kernel = descend_data(w, v, x, y, eta)
        state = catapult_step_data(state, gram, y, eta, WIDTH)
        scale = 1e-12 * (1 + np.abs(kernel).max() + np.abs(outputs).max()) ** 3
        np.testing.assert_allclose(state.outputs, outputs, atol=scale)
        np.testing.assert_allclose(data_kernel(state, gram), kernel, atol=scale)


def path(rate, width, steps=400):
    """Losses and kernels from f = 1, lambda = 2 on, at eta lambda_0 = rate."""

    def step(state, _):
        f, kernel = catapult_step(state, rate / 2, width)
        return Catapult(f, kernel), (f**2 / 2, kernel)

    return jax.lax.scan(step, start(1.0, 2.0), None, length=steps)[1]


def test_lazy_networks_keep_their_kernel_as_width_grows():
    for width in (1e3, 1e5):
        losses, kernels = path(1.5, width)
        # the sum of all moves, (eta/n)(4 - eta lambda) sum f^2 with sum f^2 = 1/(1 - 0.25)
        assert float(losses[-1]) < 1e-30
        assert float(kernels[-1]) == pytest.approx(
            2 - 0.75 * 2.5 / (0.75 * width), abs=5 / width**2
        )
    assert PHASES[int(catapult_phase(0.75, 2.0))] == "lazy"


@pytest.mark.parametrize("rate", [2.5, 3.0, 3.6])
def test_catapults_reach_a_loss_of_order_width_and_end_stable(rate):
    peaks = []
    for width in (1e4, 1e6, 1e8):
        losses, kernels = path(rate, width, steps=4000)
        assert PHASES[int(catapult_phase(rate / 2, 2.0))] == "catapult"
        assert float(losses[-1]) < 1e-6
        assert rate / 2 * float(kernels[-1]) < 2
        peaks.append(float(losses.max()) / width)
    # of order n: the overshoot depends on where the last step lands, not on a power of n
    assert max(peaks) < 4 * min(peaks)


def test_rates_above_four_diverge():
    losses, _ = path(4.2, 1e4, steps=30)
    assert not float(losses[-1]) < 1e100
    assert PHASES[int(catapult_phase(2.1, 2.0))] == "divergent"


@pytest.mark.parametrize("rate", [2.4, 3.0])
def test_time_of_the_peak_grows_with_the_logarithm_of_width(rate):
    widths = np.array([1e4, 1e8, 1e12])
    found = np.array([np.argmax(path(rate, width)[0]) for width in widths])
    np.testing.assert_allclose(np.diff(found), np.diff(peak_time(rate / 2, 2.0, widths)), atol=1)


def test_infinite_width_is_a_frozen_kernel():
    f, kernel = catapult_step(start(3.0, 1.5), 0.2, np.inf)
    assert (float(f), float(kernel)) == (pytest.approx(3 * 0.7), 1.5)


def test_transformations_and_dtype():
    state = Catapult(jnp.ones(3, "f4"), jnp.full(3, 2.0, "f4"))
    step = jax.jit(jax.vmap(catapult_step, in_axes=(0, None, None)))(state, 0.5, 10)
    assert step.output.dtype == jnp.float32
    np.testing.assert_allclose(np.stack(step), np.stack(catapult_step(state, 0.5, 10)), rtol=1e-6)
    data = data_state(jnp.ones(2, "f4"), jnp.eye(2, dtype="f4"), np.float32(1))
    after = catapult_step_data(data, jnp.eye(2, dtype="f4"), jnp.zeros(2, "f4"), 0.1, 5)
    assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype("f4")}


ONE = np.ones(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: catapult_step(start(1.0, 1.0), 0.0, 4), "learning_rate must be positive"),
        (lambda: catapult_step(start(1.0, 1.0), 1.0, 0), "width must be positive, got 0"),
        (lambda: catapult_step(start(1.0, -1.0), 1.0, 4), "kernel must be non-negative"),
        (lambda: catapult_step(start(np.nan, 1.0), 1.0, 4), "output must be finite"),
        (lambda: catapult_phase(1.0, -1.0), "kernel must be non-negative"),
        (lambda: peak_time(1.0, 1.0, 10), r"learning_rate \* kernel must be in \(2, 4\), got 1.0"),
        (
            lambda: catapult_step_data(data_state(ONE, ONE, 1.0), ONE[None], ONE, 0.1, 4),
            r"hidden must have shape \(1, 1\), got \(1,\)",
        ),
        (
            lambda: catapult_step_data(data_state(ONE, ONE[None], 1.0), ONE[None], 1.0, 0.1, 4),
            r"targets must have shape \(1,\), got \(\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
