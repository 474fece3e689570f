"""Spectral dynamics against linear models f = f_0 + J theta, integrated or iterated in weights."""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from dynamics.gram import gradient_gram
from dynamics.models import mlp
from theory.kernels.kernel_modes import (
    descent_filter,
    flow_filter,
    kernel_modes,
    max_learning_rate,
)
from theory.kernels.linearized import (
    heldout_outputs,
    smoother,
    train_outputs,
    weight_distance,
)

EPS = np.finfo(float).eps
n, c, p, d = 4, 2, 3, 6  # samples, outputs, test inputs, weights of each output


class Linear:
    """f = f_0 + J theta on training and test inputs; outputs share J, or have rows of their own."""

    def __init__(self, rng, kind, blocks, loss, ridge):
        weights = d if kind != "wide" else 2 * n * c
        J = rng.standard_normal((n + p, c, weights) if blocks else (n + p, weights))
        if kind == "repeated":
            J[1] = J[0]
        elif kind == "close":
            J[1] = J[0] + 1e-6 * J[1]
        elif kind == "orthogonal":  # eigenvalues alike
            size = min(weights, J[:n].size // weights)
            J.reshape(-1, weights)[:size] = 2 * np.eye(size, weights)
        elif kind == "zero":
            J[:n] = 0
        self.J, self.blocks, self.loss, self.ridge = J, blocks, loss, ridge
        self.start, self.targets = rng.standard_normal((2, n + p, c))
        axes = (J.ndim - 1,) * 2
        self.kernel, self.cross = (
            np.tensordot(x, J[:n], (axes[:1], axes[:1])) for x in (J[:n], J[n:])
        )
        train = J[:n].reshape(-1, weights)
        samples = n if loss == "mean" else 1
        self.hessian = train.T @ train / samples + ridge * np.eye(weights)
        residual = (self.targets - self.start)[:n].reshape(len(train), -1)
        self.force = train.T @ residual / samples
        self.sharpness = np.linalg.eigvalsh(self.hessian)[-1]

    @cached_property
    def modes(self):
        return kernel_modes(self.kernel, loss=self.loss, ridge=self.ridge)

    def outputs(self, theta):
        moved = self.J.reshape(-1, self.J.shape[-1]) @ theta
        f = self.start + moved.reshape(self.start.shape)
        return f[:n], f[n:]

    def flowed(self, t):
        """d theta/dt = force - hessian theta, by one matrix exponential."""
        size, columns = self.force.shape
        block = np.zeros((size + columns,) * 2)
        block[:size] = np.concatenate([-self.hessian, self.force], axis=1)
        return self.outputs(expm(t * block)[:size, size:])

    def descended(self, eta, steps):
        theta = np.zeros_like(self.force)
        for _ in range(steps):
            theta = theta - eta * (self.hessian @ theta - self.force)
        return self.outputs(theta)

    def predicted(self, learning):
        start, targets = self.start, self.targets[:n]
        return (
            np.asarray(train_outputs(self.modes, learning, start[:n], targets)),
            np.asarray(
                heldout_outputs(self.modes, learning, self.cross, start[n:], start[:n], targets)
            ),
        )

    def close(self, learning, expected, growth):
        """To rounding, which ``growth`` multiplies, of the outputs and of J theta."""
        for found, exact in zip(self.predicted(learning), expected, strict=True):
            scale = np.abs(exact).max() + np.abs(self.J).max()
            np.testing.assert_allclose(found, exact, rtol=0, atol=200 * EPS * growth * scale)


KINDS = ("generic", "wide", "repeated", "close", "orthogonal", "zero")


@st.composite
def linear_models(draw, kinds=KINDS, ridges=(0.0, 0.0, 0.3)):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind, blocks = draw(st.sampled_from(kinds)), draw(st.booleans())
    loss, ridge = draw(st.sampled_from(["mean", "sum"])), draw(st.sampled_from(ridges))
    return Linear(rng, kind, blocks, loss, ridge)


@given(model=linear_models(), decades=st.floats(-6, 4))
def test_flow_is_the_matrix_exponential_in_weights(model, decades):
    t = 10**decades / max(model.sharpness, 1)
    # Eigenvalues are known to rounding of the largest: a mode's phase r t, to rounding of r_1 t.
    model.close(flow_filter(model.modes, t), model.flowed(t), 1 + 10**decades)


@given(
    model=linear_models(),
    factor=st.sampled_from([1e-9, 0.3, 1.0, 1.9, 2.5]),
    steps=st.sampled_from([0, 1, 2, 41]),
)
def test_descent_is_iterated_in_weights(model, factor, steps):
    eta = factor / max(model.sharpness, 1e-3)
    growth = (1 + steps) * max(1, abs(1 - factor)) ** steps
    learning = descent_filter(model.modes, eta, steps)
    model.close(learning, model.descended(eta, steps), growth)
    rank = int(model.modes.rank)
    assert bool(learning.converges) == (factor < 2 or rank == 0)
    if rank:
        assert float(max_learning_rate(model.modes)) == pytest.approx(
            2 / model.sharpness, rel=1e-12
        )
    else:
        assert max_learning_rate(model.modes) == np.inf


@given(model=linear_models(kinds=("generic", "wide", "repeated", "orthogonal", "zero")))
def test_infinite_time_is_the_minimum_closest_to_the_start(model):
    """Least squares of least norm, or ridge regression, solved by SVD in weights."""
    theta = np.linalg.pinv(model.hessian, rcond=1e-11) @ model.force
    eta = 1.5 / max(model.sharpness, 1)
    growth = 10 * float(model.modes.conditioning)  # a kernel knows J's singular values squared
    for learning in (flow_filter(model.modes, np.inf), descent_filter(model.modes, eta, np.inf)):
        model.close(learning, model.outputs(theta), growth)
    if model.ridge == 0:
        rank = np.linalg.matrix_rank(model.J[:n].reshape(-1, model.J.shape[-1]))
        assert int(model.modes.rank) == rank


@given(model=linear_models(ridges=(0.0,)), t=st.floats(0, 5), s=st.floats(0, 5))
def test_flow_is_a_semigroup_that_starts_at_the_start_and_shrinks_the_residual(model, t, s):
    modes, start, y = model.modes, model.start[:n], model.targets[:n]
    first, both = (train_outputs(modes, flow_filter(modes, x), start, y) for x in (t, t + s))
    again = train_outputs(modes, flow_filter(modes, s), first, y)
    np.testing.assert_allclose(again, both, atol=1e-13 * (1 + model.sharpness * (t + s)))
    begun = model.predicted(flow_filter(modes, 0.0))
    for found, exact in zip(begun, (start, model.start[n:]), strict=True):
        np.testing.assert_array_equal(found, exact)
    residuals = [np.asarray(f - y) for f in (start, first, both)]
    sizes = [np.linalg.norm(residual) for residual in residuals]
    assert np.all(np.diff(sizes) <= 1e-14 * sizes[0])
    # also in the norm of the kernel's inverse, over directions that it moves
    size = n * c if model.blocks else n
    values, vectors = np.linalg.eigh(model.kernel.reshape(size, size))
    moved = values > 1e-6 * values[-1]
    along = [vectors.T[moved] @ residual.reshape(size, -1) for residual in residuals]
    weighted = [np.sum(part**2 / values[moved, None]) for part in along]
    assert np.all(np.diff(weighted) <= 1e-9 * weighted[0])


@given(model=linear_models(), t=st.floats(0, 10))
def test_losses_differ_by_the_number_of_samples(model, t):
    mean = kernel_modes(model.kernel, loss="mean", ridge=model.ridge)
    total = kernel_modes(model.kernel, loss="sum", ridge=n * model.ridge)
    found, same = flow_filter(mean, t), flow_filter(total, t / n)
    np.testing.assert_allclose(found.learned, same.learned, rtol=1e-12)
    np.testing.assert_allclose(found.gain, same.gain, rtol=1e-12)


@given(model=linear_models(), t=st.floats(1e-2, 10))
def test_small_steps_follow_the_flow_to_first_order(model, t):
    modes, errors = model.modes, []
    for steps in (1000, 2000):
        eta = t / steps / max(model.sharpness, 1)
        flow, found = flow_filter(modes, eta * steps), descent_filter(modes, eta, steps)
        errors.append(np.abs(flow.learned - found.learned).max())
    if int(modes.rank):
        assert errors[0] <= t / 1000  # max of x e^-x/2 times eta r
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("t", [1e-18, 1e-6])
def test_beginnings_are_accurate_relative_to_what_has_been_learned(t):
    eigenvalues = np.array([3.0, 1e-3, 1e-12])
    modes = kernel_modes(np.diag(eigenvalues), loss="sum")
    exact = t * eigenvalues - (t * eigenvalues) ** 2 / 2  # + O(t^3), below 1e-17
    np.testing.assert_allclose(flow_filter(modes, t).learned, exact, rtol=1e-11)
    np.testing.assert_allclose(descent_filter(modes, t, 1).learned, t * eigenvalues, rtol=1e-15)


def test_times_and_learning_rates_have_axes_in_front():
    model = Linear(np.random.default_rng(0), "generic", True, "mean", 0.0)
    times = np.array([[0.0, 0.3], [2.0, np.inf]])
    many = model.predicted(flow_filter(model.modes, times))
    assert [x.shape for x in many] == [(2, 2, n, c), (2, 2, p, c)]
    A = np.asarray(smoother(model.modes, flow_filter(model.modes, times), model.cross))
    residual = (model.targets - model.start)[:n].ravel()
    moved = model.start[n:] + (A @ residual).reshape(2, 2, p, c)
    np.testing.assert_allclose(many[1], moved, atol=1e-12)
    for index in np.ndindex(2, 2):
        one = model.predicted(flow_filter(model.modes, times[index]))
        for found, exact in zip(many, one, strict=True):
            np.testing.assert_allclose(found[index], exact, rtol=1e-14)
    eta = float(max_learning_rate(model.modes)) * np.array([0.5, 0.9, 1.1])
    learning = descent_filter(model.modes, eta, 3)
    assert learning.converges.tolist() == [True, True, False]
    assert descent_filter(model.modes, eta[:, None], np.arange(2)).learned.shape == (3, 2, n * c)


def test_descent_beyond_the_edge_is_flagged():
    modes = kernel_modes(jnp.diag(jnp.array([4.0, 1.0])), loss="sum")
    found = descent_filter(modes, 1.0, np.array([3, 4, np.inf]))
    np.testing.assert_allclose(found.learned[:2, 0], [1 + 27, 1 - 81], rtol=1e-14)
    assert np.isnan(found.learned[2, 0])
    assert not found.converges.any()
    np.testing.assert_array_equal(found.learned[:, 1], 1)  # eta r = 1: learned in one step


def test_status_of_degenerate_kernels():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 2))
    modes = kernel_modes(x @ x.T, loss="mean")
    assert int(modes.rank) == 2
    values = np.linalg.svd(x, compute_uv=False)
    assert float(modes.conditioning) == pytest.approx((values[0] / values[1]) ** 2, rel=1e-12)
    assert modes.semidefinite
    assert not np.any(modes.rates[2:])
    wrong = kernel_modes(np.diag([1.0, -1e-3]), loss="mean")
    assert not wrong.semidefinite
    assert int(wrong.rank) == 1
    nothing = kernel_modes(np.zeros((3, 3)), loss="sum", ridge=1.0)
    assert (int(nothing.rank), float(nothing.conditioning)) == (0, 1.0)
    assert not np.any(flow_filter(nothing, np.inf).learned)


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_a_linearised_network_trained_by_autodiff(loss):
    """The conventions of (n, c, n, c) kernels as measured, with steps of jax.grad."""
    model = mlp((3, 8, c), activation="tanh", parametrization="ntk")
    keys = jax.random.split(jax.random.key(1), 4)
    params = model.init(keys[0])
    x, x_test = jax.random.normal(keys[1], (n, 3)), jax.random.normal(keys[2], (p, 3))
    y = jax.random.normal(keys[3], (n, c))

    def linear(move, x):
        start, moved = jax.jvp(lambda q: model.apply(q, x), (params,), (move,))
        return start + moved

    def objective(move):
        error = 0.5 * jnp.sum((linear(move, x) - y) ** 2)
        return error / n if loss == "mean" else error

    modes = kernel_modes(gradient_gram(model.apply, params, x), loss=loss)
    eta, move = 0.4 * float(max_learning_rate(modes)), jax.tree.map(jnp.zeros_like, params)
    slope = jax.jit(jax.grad(objective))
    for _ in range(7):
        move = jax.tree.map(lambda a, g: a - eta * g, move, slope(move))
    learning, start = descent_filter(modes, eta, 7), model.apply(params, x)
    cross = gradient_gram(model.apply, params, x_test, x)
    found = heldout_outputs(modes, learning, cross, model.apply(params, x_test), start, y)
    np.testing.assert_allclose(
        train_outputs(modes, learning, start, y), linear(move, x), atol=1e-12
    )
    np.testing.assert_allclose(found, linear(move, x_test), atol=1e-12)


def test_compiles_vectorises_and_differentiates():
    rng = np.random.default_rng(3)
    J, y = rng.standard_normal((2, n, d)), rng.standard_normal(n)

    @jax.jit
    def outputs(J, t):
        modes = kernel_modes(J @ J.T, loss="mean")
        return train_outputs(modes, flow_filter(modes, t), 0.0, y)

    for t in (0.0, 1.3, np.inf):
        both = jax.vmap(outputs, (0, None))(J, t)
        np.testing.assert_allclose(both[1], outputs(J[1], t), rtol=1e-12)
        slope = jax.jvp(lambda J, t=t: outputs(J, t), (J[0],), (J[1],))[1]
        step = 1e-6 * J[1]
        numeric = (outputs(J[0] + step, t) - outputs(J[0] - step, t)) / 2e-6
        np.testing.assert_allclose(slope, numeric, atol=1e-8)

    def learned(x, steps):
        modes = kernel_modes(jnp.diag(x), loss="sum")
        return jnp.sum(descent_filter(modes, 1.0, steps).learned)

    x = jnp.array([1.7, 0.3, 1.0])
    for steps in (3, np.inf):
        exact = 3 * (1 - x) ** 2 * (steps == 3)
        found = jax.grad(partial(learned, steps=steps))(x)
        np.testing.assert_allclose(found[:2], exact[:2], atol=1e-12)
        assert np.all(np.isfinite(found))


def test_float32_stays_float32():
    modes = kernel_modes(np.eye(3, dtype=np.float32), loss="mean")
    learning = descent_filter(modes, 0.5, 3)
    found = train_outputs(modes, learning, np.zeros(3, np.float32), np.ones(3, np.float32))
    assert {x.dtype for x in (modes.rates, learning.learned, found)} == {jnp.float32.dtype}


def test_bad_input_is_named():
    good = np.eye(2)
    for kernel, message in (
        (np.ones((2, 3)), "kernel"),
        (np.ones(2), "kernel"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (np.full((2, 2), np.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_modes(kernel, loss="mean")
    with pytest.raises(ValueError, match="loss"):
        kernel_modes(good, loss="average")
    with pytest.raises(ValueError, match="ridge"):
        kernel_modes(good, loss="mean", ridge=-1.0)
    modes = kernel_modes(good, loss="mean")
    for t in (-1.0, np.nan):
        with pytest.raises(ValueError, match="t must"):
            flow_filter(modes, t)
    for eta, steps, message in ((0.0, 1, "learning_rate"), (1.0, 1.5, "steps"), (1.0, -1, "steps")):
        with pytest.raises(ValueError, match=message):
            descent_filter(modes, eta, steps)
    learning = flow_filter(modes, 1.0)
    with pytest.raises(ValueError, match="targets"):
        train_outputs(modes, learning, 0.0, np.ones(3))
    with pytest.raises(ValueError, match="initial"):
        train_outputs(modes, learning, np.nan, np.ones(2))
    with pytest.raises(ValueError, match="cross_kernel"):
        heldout_outputs(modes, learning, np.ones((1, 3)), 0.0, 0.0, np.ones(2))


@given(seed=st.integers(0, 2**31 - 1), t=st.floats(0.01, 10), ridge=st.sampled_from([0.0, 0.3]))
def test_weights_move_as_far_as_those_of_the_linear_model(seed, t, ridge):
    rng = np.random.default_rng(seed)
    J, residual = rng.standard_normal((n, d)), rng.standard_normal((n, c))
    hessian, force = J.T @ J / n + ridge * np.eye(d), J.T @ residual / n
    block = np.zeros((d + c, d + c))
    block[:d] = np.concatenate([-hessian, force], axis=1)
    theta = expm(t * block)[:d, d:]
    modes = kernel_modes(J @ J.T, loss="mean", ridge=ridge)
    found = weight_distance(modes, flow_filter(modes, np.array([t, np.inf])), 1.0, residual + 1.0)
    np.testing.assert_allclose(found[0], np.linalg.norm(theta), rtol=1e-7)
    if ridge > 0:
        np.testing.assert_allclose(found[1], np.linalg.norm(np.linalg.solve(hessian, force)))
    else:
        least = np.linalg.lstsq(J, residual, rcond=None)[0]
        np.testing.assert_allclose(found[1], np.linalg.norm(least), rtol=1e-6)
