"""The setting: laziness against repeated steps, white inputs, the flow against integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.mean_field.linear_flow import linear_flow
from theory.mean_field.problem import (
    Problem,
    checked,
    first_lost,
    lazy_outputs,
    require_memory,
    whitened_reduction,
)

GOOD = Problem(jnp.eye(2), jnp.ones(2), gamma=1.0, learning_rate=0.1)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans())
def test_lazy_outputs_are_steps_with_a_kernel_that_stays(seed, rank, started):
    """Stable or not, singular kernels included."""
    rng = np.random.default_rng(seed)
    root, y, f = rng.standard_normal((3, rank)), rng.standard_normal(3), rng.standard_normal(3)
    kernel, f = root @ root.T, f * started
    eta = 1.5 * rng.uniform()
    problem = Problem(np.eye(3), y, 1.0, eta)
    found = lazy_outputs(problem, kernel, steps=12, initial=f)
    for row in found:
        np.testing.assert_allclose(row, f, rtol=0, atol=1e-11 * max(1, np.abs(f).max()))
        f = f + eta / 3 * kernel @ (y - f)


@given(
    st.floats(0.05, 5.0),
    st.floats(-3.0, 3.0),
    st.floats(0.0, 3.0),
    st.floats(0.2, 3.0),
)
def test_the_flow_in_closed_form_is_that_of_integration(tau, y, gamma, q):
    """Of outputs and kernels: f' = (H + q G)(y - f), H' = q G', G' = 2 gamma^2 (y - f) f."""

    def force(_, state):
        f, H, G = state
        error = y - f
        return [(H + q * G) * error, 2 * gamma**2 * q * error * f, 2 * gamma**2 * error * f]

    end = solve_ivp(force, (0, tau), [0.0, q, 1.0], rtol=1e-11, atol=1e-13).y[:, -1]
    found = linear_flow(tau, y, gamma=gamma, input_kernel=q)
    np.testing.assert_allclose(jnp.stack(found), end, rtol=1e-8, atol=1e-9)


def test_the_flow_is_lazy_without_gamma_and_ends_at_the_target():
    times = jnp.array([0.0, 0.3, jnp.inf])
    lazy = linear_flow(times, 2.0, gamma=0.0, input_kernel=0.5)
    np.testing.assert_allclose(lazy.output, 2 * -np.expm1(-np.asarray(times)), rtol=1e-14)
    np.testing.assert_allclose(lazy.feature, 0.5, rtol=1e-15)
    rich = linear_flow(jnp.inf, 1e3, gamma=1e3)
    assert float(rich.output) == pytest.approx(1e3, rel=1e-14)
    assert float(rich.feature) == pytest.approx((1 + 1e12) ** 0.5, rel=1e-14)
    slope = jax.grad(lambda g: linear_flow(1.0, 1.0, gamma=g).output)(0.5)
    ends = [float(linear_flow(1.0, 1.0, gamma=g).output) for g in (0.5 - 1e-5, 0.5 + 1e-5)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-7)


def test_white_inputs_without_a_target_have_no_direction():
    white = whitened_reduction(Problem(3 * jnp.eye(2), jnp.zeros(2), 1.0, 0.5))
    assert white.problem.input_kernel.tolist() == [[3.0]]
    assert float(white.problem.learning_rate) == 0.25
    assert white.direction.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.0}, "gamma must be positive and finite, got 0.0"),
        ({"gamma": -1.0}, "gamma must be positive and finite, got -1.0"),
        ({"gamma": jnp.ones(2)}, r"gamma must be a number, got shape \(2,\)"),
        ({"learning_rate": jnp.inf}, "learning_rate must be positive and finite, got inf"),
        ({"targets": jnp.array([1.0, jnp.nan])}, "targets must be finite, got nan"),
        ({"targets": jnp.ones(3)}, r"\(P, P\) and \(P,\), P > 0, got \(2, 2\) and \(3,\)"),
        ({"targets": jnp.ones(0), "input_kernel": jnp.ones((0, 0))}, "P > 0"),
        ({"input_kernel": jnp.array([[1.0, jnp.inf], [0, 1]])}, "input_kernel must be finite"),
        ({"input_kernel": jnp.array([[1.0, 0.5], [0, 1]])}, "symmetric, got differences of 0.5"),
        ({"input_kernel": jnp.diag(jnp.array([1.0, -1]))}, "semidefinite, got eigenvalue -1.0"),
    ],
)
def test_bad_problems_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        checked(GOOD._replace(**change))


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"tangent_kernel must be \(2, 2\), got \(3, 3\)"):
        lazy_outputs(GOOD, jnp.eye(3), steps=2)
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        lazy_outputs(GOOD, jnp.eye(2), steps=0)
    kernel = jnp.diag(jnp.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"multiple of the identity .*, got a difference of 0.5"):
        whitened_reduction(GOOD._replace(input_kernel=kernel))
    for change in ({"times": -1.0}, {"gamma": -1.0}, {"target": jnp.nan}, {"input_kernel": 0.0}):
        good = {"times": 1.0, "target": 1.0, "gamma": 1.0, "input_kernel": 1.0}
        with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
            linear_flow(**(good | change))


def test_budgets_and_divergence():
    require_memory(None, 10, "all")
    require_memory(10, 10, "all")
    with pytest.raises(ValueError, match="memory must be at least 10 bytes for all, got nan"):
        require_memory(float("nan"), 10, "all")
    outputs = jnp.zeros((3, 2))
    assert int(first_lost(outputs)) == -1
    assert int(first_lost(outputs, jnp.array([jnp.nan]))) == 3
    assert int(first_lost(outputs.at[1, 1].set(jnp.nan), jnp.array([jnp.nan]))) == 1


def test_a_problem_keeps_its_dtype():
    single = Problem(jnp.eye(2, dtype=jnp.float32), jnp.ones(2, jnp.float32), 1.0, 0.1)
    assert {value.dtype for value in checked(single)} == {jnp.dtype("float32")}
