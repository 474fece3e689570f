"""Implicit bias of diagonal networks against integrated gradient flow, KKT and linear programs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize

from theory.kernels.diagonal_linear import implicit_bias, implicit_bias_unequal
from theory.kernels.diagonal_links import (
    flow_tangent_kernel,
    flow_weights,
    inverse_link,
    link,
    link_slope,
    potential,
)

depths = st.sampled_from([2, 3, 4])


@st.composite
def problems(draw):
    """X (3, 6) or (4, 3), generic, nearly or exactly singular; a solution in the row space."""
    n, d = draw(st.sampled_from([(3, 6), (4, 3)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.standard_normal((n, d))
    kind = draw(st.sampled_from(["generic", "near", "repeated", "zero row"]))
    if kind == "near":
        X[1] = X[0] + 1e-6 * X[1]
    elif kind == "repeated":
        X[1] = 2 * X[0]
    elif kind == "zero row":
        X[1] = 0
    return X, X @ rng.standard_normal(d)


# compiled once a depth: eager, every call dispatches some hundred operations
compiled_inverse = jax.jit(inverse_link, static_argnames="depth")
compiled_potential = jax.jit(potential, static_argnames="depth")


def row_space(X):
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    kept = s > 1e-13 * s[0]
    return Vt[kept], s[0] / s[kept][-1]


LOSSES = {  # derivative by the outputs
    "squares": lambda error, weight: 2 * error,
    "weighted": lambda error, weight: weight * error,
    "log cosh": lambda error, weight: np.tanh(error),
}


def integrated(X, y, plus, minus, depth, loss, time):
    """Weights (w_+, w_-) of gradient flow, by a stiff integrator that knows no link."""
    d, weight = X.shape[1], np.linspace(0.5, 2, len(y))

    def velocity(_, w):
        u, v = w[:d], w[d:]
        pull = X.T @ LOSSES[loss](X @ (u**depth - v**depth) - y, weight)
        return np.concatenate([-depth * u ** (depth - 1) * pull, depth * v ** (depth - 1) * pull])

    start = np.concatenate([np.broadcast_to(plus, d), np.broadcast_to(minus, d)]).astype(float)
    options = {"method": "LSODA", "rtol": 1e-11, "atol": 1e-14}
    found = integrate.solve_ivp(velocity, (0, time), start, **options).y[:, -1]
    return found[:d], found[d:]


@pytest.mark.parametrize(
    ("depth", "alpha", "loss"),
    [
        (2, 0.05, "squares"),
        (2, 0.4, "log cosh"),
        (2, 3.0, "weighted"),
        (3, 0.3, "weighted"),
        (3, 1.0, "log cosh"),
        (4, 0.5, "squares"),
    ],
)
def test_gradient_flow_ends_here_whatever_the_loss(depth, alpha, loss):
    """Limits reached exponentially; the integrator's tolerance is 1e-11 a step."""
    rng = np.random.default_rng(depth)
    X = rng.standard_normal((3, 7))
    y = X[:, :2] @ np.array([1.0, -0.7])
    u, v = integrated(X, y, alpha, alpha, depth, loss, 400.0)
    end = implicit_bias(X, y, alpha, depth=depth)
    assert end.converged
    np.testing.assert_allclose(end.beta, u**depth - v**depth, atol=2e-8)
    # on the way there: weights and tangent kernel are functions of beta
    u, v = integrated(X, y, alpha, alpha, depth, loss, 0.05)
    beta = u**depth - v**depth
    np.testing.assert_allclose(flow_weights(beta, alpha, depth=depth), (u, v), rtol=1e-8)
    jacobian = np.concatenate(
        jax.jacobian(lambda u, v: jnp.asarray(X) @ (u**depth - v**depth), (0, 1))(
            jnp.asarray(u), jnp.asarray(v)
        ),
        axis=1,
    )
    kernel = flow_tangent_kernel(X, beta, alpha, depth=depth)
    np.testing.assert_allclose(kernel, jacobian @ jacobian.T, rtol=1e-8, atol=1e-8)
    if depth == 2:
        np.testing.assert_allclose(u * v, alpha**2, rtol=1e-8)
        closed = 4 * (X * np.sqrt(beta**2 + 4 * alpha**4)) @ X.T
        np.testing.assert_allclose(kernel, closed, rtol=1e-8, atol=1e-8)


def test_gradient_flow_from_unequal_weights_and_unreachable_labels():
    rng = np.random.default_rng(4)
    plus, minus = rng.uniform(0.2, 1.5, (2, 6))
    for X, y in (
        (rng.standard_normal((3, 6)), rng.standard_normal(3)),
        (np.repeat(rng.standard_normal((2, 6)), 2, axis=0), rng.standard_normal(4)),
    ):
        u, v = integrated(X, y, plus, minus, 2, "squares", 200.0)
        found = implicit_bias_unequal(X, y, plus, minus)
        assert found.converged
        np.testing.assert_allclose(found.beta, u**2 - v**2, atol=2e-8)
    start = implicit_bias_unequal(X, X @ (plus**2 - minus**2), plus, minus)
    np.testing.assert_allclose(start.beta, plus**2 - minus**2, atol=1e-12)


@given(problem=problems(), exponent=st.floats(-3, 3), depth=depths)
def test_solution_is_the_point_of_least_potential(problem, exponent, depth):
    """Interpolation, dual coordinates in the row space, and no lower point in its null space."""
    (X, y), alpha = problem, 10.0**exponent
    found = implicit_bias(X, y, alpha, depth=depth)
    beta = np.asarray(found.beta)
    basis, condition = row_space(X)
    assert found.converged
    assert float(found.residual) < 1e-9
    np.testing.assert_allclose(X @ beta, y, atol=1e-8 * np.linalg.norm(y))
    z = np.asarray(inverse_link(beta / alpha**depth, depth=depth))
    outside = z - basis.T @ (basis @ z)
    # The row space of a nearly singular X is known up to its condition number times rounding.
    assert np.abs(outside).max() <= (1e-9 + 1e-15 * condition) * np.abs(z).max()
    null = np.linalg.svd(basis)[2][len(basis) :]
    least = float(compiled_potential(beta, alpha, depth=depth))
    for direction in null:
        for step in (-0.1, 0.1):
            other = beta + step * np.linalg.norm(beta) * direction
            assert float(compiled_potential(other, alpha, depth=depth)) >= least * (1 - 1e-9)


@given(
    problem=problems(), exponent=st.floats(-1.5, 1.5), scale=st.floats(-2, 2), depth=depths,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_scale_law_and_symmetries(problem, exponent, scale, depth, seed):
    (X, y), alpha, s = problem, 10.0**exponent, 10.0**scale
    rng, solve = np.random.default_rng(seed), partial(implicit_bias, depth=depth)
    beta = np.asarray(solve(X, y, alpha).beta)
    size = np.linalg.norm(beta)
    _, condition = row_space(X)
    slack = size * (1e-9 + 1e-13 * condition)
    scaled = s * np.asarray(solve(X, y / s, alpha / s ** (1 / depth)).beta)
    np.testing.assert_allclose(scaled, beta, atol=slack)
    order = rng.permutation(X.shape[1])
    signs = rng.choice([-1.0, 1.0], X.shape[1])
    moved = np.asarray(solve((X * signs)[:, order], y, alpha).beta)
    np.testing.assert_allclose(moved, (signs * beta)[order], atol=slack)
    mixed = np.linalg.qr(rng.standard_normal((len(X), len(X))))[0]  # samples mixed: same equations
    np.testing.assert_allclose(solve(mixed @ X, mixed @ y, alpha).beta, beta, atol=slack)
    if depth == 2:
        equal = implicit_bias_unequal(X, y, alpha, alpha).beta
        np.testing.assert_allclose(equal, beta, atol=slack)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_large_initialization_is_the_minimum_norm_solution(depth):
    """With an error of relative order alpha^(-2 D): the link is odd."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((3, 6)), rng.standard_normal(3)
    least = np.linalg.pinv(X) @ y
    alphas = np.array([4.0, 8.0]) if depth == 2 else np.array([3.0, 5.0])
    errors = [np.linalg.norm(implicit_bias(X, y, a, depth=depth).beta - least) for a in alphas]
    slope = np.diff(np.log(errors)) / np.diff(np.log(alphas))
    assert slope[0] == pytest.approx(-2 * depth, abs=10 * alphas[0] ** (-2 * depth) + 1e-3)


@given(problem=problems(), depth=depths)
def test_larger_initialization_is_the_minimum_norm_solution_of_any_problem(problem, depth):
    """Relative error of order (|beta|/alpha^D)^2, and the rounding of a solve."""
    X, y = problem
    least = np.linalg.pinv(X, rcond=1e-13) @ y
    size, condition = np.abs(least).max(), row_space(X)[1]
    alpha = (1e5 * (1 + size)) ** (1 / depth)
    found = implicit_bias(X, y, alpha, depth=depth)
    assert found.converged
    allowed = size * ((size / alpha**depth) ** 2 + 1e-13 * condition)
    np.testing.assert_allclose(found.beta, least, atol=allowed)


def least_l1(X, y):
    """The minimum l1 solution, and the least possible off-support dual value m."""
    n, d = X.shape
    found = optimize.linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y)
    beta = found.x[:d] - found.x[d:]
    on = np.abs(beta) > 1e-9
    off, bound = X[:, ~on].T, -np.ones((np.sum(~on), 1))
    m = optimize.linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.block([[off, bound], [-off, bound]]),
        b_ub=np.zeros(2 * len(off)),
        A_eq=np.c_[X[:, on].T, np.zeros(on.sum())],
        b_eq=np.sign(beta[on]),
        bounds=[(None, None)] * (n + 1),
    ).fun
    return beta, m, int(on.sum())


@pytest.mark.parametrize(("seed", "support"), [(0, 4), (1, 4), (2, 2), (3, 2)])
def test_small_initialization_is_the_minimum_l1_solution(seed, support):
    """Rates alpha^(2 (1 - m)) for D = 2 and alpha^D for D >= 3, also where duals are not unique."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((4, 8))
    y = X[:, :2] @ np.array([1.0, -0.7]) if support == 2 else rng.standard_normal(4)
    sparse, m, nonzero = least_l1(X, y)
    assert nonzero == support
    rates = {2: (2 * (1 - m), (1e-6, 1e-7)), 3: (3, (2e-3, 1e-3)), 4: (4, (2e-2, 1e-2))}
    for depth, (rate, alphas) in rates.items():
        errors = [np.linalg.norm(implicit_bias(X, y, a, depth=depth).beta - sparse) for a in alphas]
        slope = np.log(errors[1] / errors[0]) / np.log(alphas[1] / alphas[0])
        # the next order is smaller by a power of alpha: 3% for the alphas here
        assert slope == pytest.approx(rate, rel=0.03)


@given(
    size=st.floats(-6, 6), sign=st.sampled_from([-1.0, 1.0]), depth=st.sampled_from([2, 3, 4, 7])
)
def test_links_potentials_and_their_derivatives(size, sign, depth):
    b = sign * 10.0**size
    z = inverse_link(b, depth=depth)
    # rounding of z, seen through the slope of the link
    slack = 4e-16 * float(link_slope(z, depth=depth)) / abs(b) * max(1.0, abs(float(z)))
    assert float(link(z, depth=depth)) == pytest.approx(b, rel=1e-12 + slack)
    slope = float(jax.grad(partial(link, depth=depth))(z))
    assert float(link_slope(z, depth=depth)) == pytest.approx(slope, rel=1e-9)
    back = jax.grad(partial(compiled_inverse, depth=depth))(b)
    assert float(back) == pytest.approx(1 / slope, rel=1e-9)
    alpha = 0.7
    gradient = jax.grad(partial(compiled_potential, depth=depth))(jnp.array([b]), alpha)
    expected = inverse_link(b / alpha**depth, depth=depth)
    assert float(gradient[0]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_potential_is_the_integral_of_the_dual_coordinate(depth):
    for b in (1e-3, 0.5, 20.0):
        area = integrate.quad(lambda t: float(compiled_inverse(t, depth=depth)), 0, b, epsrel=1e-9)[
            0
        ]
        assert float(potential(jnp.array([b, -b]), 1.0, depth=depth)) == pytest.approx(
            2 * area, rel=1e-8
        )
    b = 3.7
    closed = 2 - np.sqrt(4 + b**2) + b * np.arcsinh(b / 2)
    assert float(potential(jnp.array([b]), 1.0)) == pytest.approx(closed, rel=1e-14)


def test_no_slope_is_lost_at_zero():
    for depth in (2, 3):
        hessian = jax.hessian(partial(compiled_potential, depth=depth))(jnp.zeros(2), 1.0)
        np.testing.assert_allclose(hessian, np.eye(2) / link_slope(0.0, depth=depth), atol=1e-15)
        nothing = implicit_bias(jnp.ones((1, 2)), jnp.zeros(1), 1.0, depth=depth)
        assert nothing.converged
        assert nothing.beta.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("depth", [2, 3])
def test_derivatives_and_transformations(depth):
    rng = np.random.default_rng(1)
    X, y = jnp.asarray(rng.standard_normal((3, 6))), jnp.asarray(rng.standard_normal(3))
    target = jnp.asarray(rng.standard_normal(6))

    def product(X, y, alpha):
        return target @ implicit_bias(X, y, alpha, depth=depth).beta

    gradients = jax.grad(product, (0, 1, 2))(X, y, 0.5)
    for position, gradient in enumerate(gradients):
        arguments, h = [X, y, jnp.asarray(0.5)], 1e-5
        direction = jnp.asarray(rng.standard_normal(gradient.shape))
        ends = []
        for step in (h, -h):
            moved = arguments[position] + step * direction
            ends.append(product(*arguments[:position], moved, *arguments[position + 1 :]))
        slope = float(ends[0] - ends[1]) / (2 * h)
        assert float(jnp.sum(gradient * direction)) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    alphas = jnp.array([0.1, 0.5, 2.0])
    mapped = jax.jit(jax.vmap(product, (None, None, 0)))(X, y, alphas)
    np.testing.assert_allclose(mapped, [product(X, y, a) for a in alphas], rtol=1e-10)
    single = implicit_bias(X.astype(jnp.float32), y.astype(jnp.float32), 0.5, depth=depth)
    assert single.beta.dtype == jnp.float32
    assert single.converged
    np.testing.assert_allclose(single.beta, implicit_bias(X, y, 0.5, depth=depth).beta, atol=1e-5)


def test_failure_is_a_field():
    """1 - |z| = alpha^(D-2) below rounding: no digits left to solve with."""
    found = implicit_bias(np.ones((1, 2)) * [1.0, 2.0], np.ones(1), 1e-5, depth=6)
    assert not found.converged
    assert float(found.residual) > 1e-8
    assert np.all(np.isfinite(found.beta))


def test_bad_input_is_named():
    X, y = np.eye(2, 3), np.ones(2)
    for arguments, message in (
        ((np.ones(3), y, 1.0), "X must be a matrix"),
        ((X, np.ones(3), 1.0), "y must have shape"),
        ((X * np.nan, y, 1.0), "X must be finite"),
        ((X, y * np.inf, 1.0), "y must be finite"),
        ((X, y, 0.0), "alpha must be positive"),
        ((X, y, np.ones(3)), "alpha must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            implicit_bias(*arguments)
    for depth in (1, 2.5):
        with pytest.raises(ValueError, match="depth"):
            implicit_bias(X, y, 1.0, depth=depth)
        with pytest.raises(ValueError, match="depth"):
            link(0.1, depth=depth)
    with pytest.raises(ValueError, match="w_plus"):
        implicit_bias_unequal(X, y, -1.0, 1.0)
    with pytest.raises(ValueError, match="w_minus"):
        implicit_bias_unequal(X, y, 1.0, np.ones(2))
    with pytest.raises(ValueError, match="beta"):
        flow_tangent_kernel(X, np.ones(2), 1.0)
    with pytest.raises(ValueError, match="alpha"):
        flow_weights(np.ones(2), -1.0)
    with pytest.raises(ValueError, match="beta"):
        potential(np.array([np.nan]), 1.0)
    with pytest.raises(ValueError, match="b must"):
        inverse_link(np.inf)
