"""Switching units of ReLU networks: a brute-force count, scalings, and linearised residuals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels.gate_switching import summed_residuals, switching_distance
from theory.kernels.infinite_width import mlp_kernels
from theory.kernels.kernel_modes import descent_filter, flow_filter, kernel_modes

N, D, C, PROBES = 6, 3, 2, 4
KEY = jax.random.key(1)


def problem(seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((N, D))
    kernel = mlp_kernels(x, activation="relu", depth=2, weight_variance=2.0).ntk
    return x, random.standard_normal((N, C)), np.asarray(kernel)


def distance(x, summed, kernel, width=100, samples=1000):
    probes, kernel = x[:PROBES], kernel[:PROBES, :PROBES]
    return switching_distance(KEY, x, summed, probes, kernel, width=width, samples=samples)


def test_against_units_that_are_drawn_and_moved():
    """Sum over units of the squared turn of the kernel by switching alone, units one by one."""
    x, summed, whole = problem(0)
    z, kernel = x[:PROBES], whole[:PROBES, :PROBES]
    w, n, units = 2.0, 1e4, 400_000
    random = np.random.default_rng(1)
    v, a = random.standard_normal((units, D)), random.standard_normal((units, C))
    gates = v @ x.T > 0
    step = w / np.sqrt(D * n) / N * ((a @ summed.T) * gates) @ x  # of v
    before, after = v @ z.T > 0, (v + step) @ z.T > 0
    size = np.sum(a**2, axis=1) / C
    squares = []
    for unit in np.flatnonzero((before != after).any(axis=1)):
        change = np.outer(after[unit], after[unit]) * 1.0 - np.outer(before[unit], before[unit])
        jump = w**2 / (n * D) * size[unit] * change * (z @ z.T)
        along = np.sum(jump * kernel) / np.linalg.norm(kernel)
        squares.append(np.sum(jump**2) - along**2)
    scale = n / units / (2 * np.sum(kernel**2))
    counted, error = scale * np.sum(squares), scale * np.sqrt(np.sum(np.square(squares)))
    found = distance(x, summed, whole, width=int(n), samples=20_000)
    assert len(squares) > 800
    assert abs(counted - float(found.value)) < 4 * (error + float(found.standard_error))


@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_scales_with_residuals_width_and_not_with_their_sign(seed, factor):
    x, summed, kernel = problem(seed)
    both = np.stack([summed, -factor * summed])
    value = distance(x, both, kernel).value
    wider = distance(x, both, kernel, width=400).value
    np.testing.assert_allclose(value[1], factor * value[0], rtol=1e-9)
    np.testing.assert_allclose(wider, value / 8, rtol=1e-9)
    assert np.all(value > 0)


@given(st.integers(0, 2**31))
def test_grows_in_proportion_to_the_length_of_all_inputs(seed):
    """Theta and D as s^2, the motion of h as s^2, the density of h as 1/s: S as s."""
    x, summed, kernel = problem(seed)
    value, larger = (distance(s * x, summed, s**2 * kernel).value for s in (1.0, 3.0))
    np.testing.assert_allclose(larger, 3 * value, rtol=1e-9)


def test_summed_residuals_are_those_of_descent_added_up():
    _, start, kernel = problem(3)
    modes, rate, steps = kernel_modes(kernel, loss="mean"), 0.05, 40
    total, left = np.zeros_like(start), start
    for _ in range(steps):
        total = total + rate * left
        left = left - rate * kernel @ left / N
    found = summed_residuals(modes, descent_filter(modes, rate, np.array([0, steps])), start)
    np.testing.assert_allclose(found, [np.zeros_like(start), total], rtol=1e-9, atol=1e-12)


def test_summed_residuals_in_the_end_are_those_of_the_inverse_kernel():
    _, start, _ = problem(4)
    kernel = np.diag(np.arange(1.0, N + 1))
    modes = kernel_modes(kernel, loss="sum")
    found = summed_residuals(modes, flow_filter(modes, jnp.inf), start)
    np.testing.assert_allclose(found, np.linalg.solve(kernel, start), rtol=1e-12)


def test_bad_arguments_are_named():
    x, summed, kernel = problem(0)
    with pytest.raises(ValueError, match="summed"):
        distance(x, summed[:-1], kernel)
    with pytest.raises(ValueError, match="kernel"):
        switching_distance(KEY, x, summed, x, kernel[:2, :2], width=10)
    with pytest.raises(ValueError, match="width"):
        distance(x, summed, kernel, width=0)
    with pytest.raises(ValueError, match="samples"):
        distance(x, summed, kernel, samples=1)
    modes = kernel_modes(kernel, loss="sum")
    with pytest.raises(ValueError, match="residuals"):
        summed_residuals(modes, flow_filter(modes, 1.0), summed[:-1])
