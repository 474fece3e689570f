"""Particles against real networks, the lazy limit, gradient flow in closed form and quadrature."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from theory.kernels.infinite_width import mlp_kernels
from theory.mean_field import two_layer
from theory.mean_field.linear_flow import linear_flow
from theory.mean_field.particles import (
    Particles,
    network_particles,
    quadrature_particles,
    sampled_particles,
)
from theory.mean_field.problem import Problem, lazy_outputs

P, T, N, D = 3, 20, 8, 2  # fewer features than samples: a singular kernel
seeds = st.integers(0, 2**32 - 1)
gammas = st.floats(0.1, 3.0)
activations = st.sampled_from([jnp.tanh, jax.nn.relu, jax.nn.softplus])
ONE = Problem(jnp.eye(1), jnp.ones(1), 1.0, 0.5)
TWO = Problem(jnp.array([[1.0, 0.3], [0.3, 0.8]]), jnp.array([1.0, -0.7]), 1.0, 0.5)


def identity(h):
    return h


def drawn(seed, gamma, width=N):
    """Inputs, a network (W, a) and the problem, at a stable learning rate."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((P, D)), rng.standard_normal(P)
    first, second = rng.standard_normal((width, D)), rng.standard_normal(width)
    kernel = x @ x.T / D
    fastest = 4 * np.linalg.eigvalsh(kernel)[-1] * (1 + gamma * np.linalg.norm(y)) / P
    problem = Problem(jnp.asarray(kernel), jnp.asarray(y), gamma, 0.3 / fastest)
    return jnp.asarray(x), (jnp.asarray(first), jnp.asarray(second)), problem


def paired(seed, gamma):
    """The neurons of a network and their partners with the other sign of the readout."""
    x, (first, second), problem = drawn(seed, gamma)
    h = first @ x.T / D**0.5
    return network_particles(jnp.tile(h, (2, 1)), jnp.concatenate([second, -second])), problem


def require_close(found, expected, tolerance):
    """Within the tolerance times the largest number, at least 1."""
    scale = max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@partial(jax.jit, static_argnames=("activation",))
def descend(params, x, problem, activation):
    """Gradient descent of a network of finite width: its weights and outputs at every step."""
    width, scale = len(params[1]), problem.learning_rate * problem.gamma**2 * len(params[1])

    def network(params):
        return activation(x @ params[0].T / D**0.5) @ params[1] / (problem.gamma * width)

    def loss(params):
        return jnp.sum((problem.targets - network(params)) ** 2) / (2 * P)

    def one(params, _):
        gradient = jax.grad(loss)(params)
        moved = jax.tree.map(lambda w, g: w - scale * g, params, gradient)
        return moved, (params, network(params))

    return jax.lax.scan(one, params, length=T)


@given(seeds, gammas, activations, st.sampled_from([1, N]))
def test_a_networks_own_neurons_are_its_gradient_descent(seed, gamma, activation, width):
    """Any activation and width; f is divided by gamma, and so are its rounding errors."""
    x, params, problem = drawn(seed, gamma, width)
    end, (weights, outputs) = descend(params, x, problem, activation)
    start = network_particles(params[0] @ x.T / D**0.5, params[1])
    path = two_layer.solve(problem, start, activation=activation, steps=T)
    assert int(path.diverged_at) == -1
    require_close(path.outputs, outputs, 1e-12)
    require_close(path.particles.preactivations, end[0] @ x.T / D**0.5, 1e-12)
    require_close(path.particles.readouts, end[1], 1e-12)
    options = {"activation": activation, "every": 6}
    kernels = two_layer.two_time_kernels(problem, start, path.outputs, **options)
    assert kernels.steps.tolist() == [0, 6, 12, 18]
    h = jnp.einsum("tid,md->tmi", weights[0], x)[::6] / D**0.5
    g = jnp.vectorize(jax.grad(activation))(h) * weights[1][::6, None]
    for found, field in ((kernels.feature, activation(h)), (kernels.gradient, g)):
        require_close(found, jnp.einsum("tmi,sni->tmsn", field, field) / width, 1e-12)
    now = network_particles(h[-1].T, weights[1][18])
    diagonal = kernels.feature[-1, :, -1] + problem.input_kernel * kernels.gradient[-1, :, -1]
    tangent = two_layer.tangent_kernel(problem, now, activation=activation)
    require_close(diagonal, tangent, 1e-12)


@given(seeds, gammas, activations, st.integers(1, 2 * N))
def test_kernels_are_positive_and_the_same_in_blocks(seed, gamma, activation, chunk):
    start, problem = paired(seed, gamma)
    options = {"activation": activation, "every": 6}
    path = two_layer.solve(problem, start, activation=activation, steps=T)
    whole = two_layer.two_time_kernels(problem, start, path.outputs, **options)
    size = 4 * P
    for kernel in (whole.feature, whole.gradient):
        flat = kernel.reshape(size, size)
        require_close(flat, flat.T, 1e-13)
        values = np.linalg.eigvalsh(flat)
        assert values[0] >= -1e-12 * values[-1]
    chunk = 5 if chunk < N else N  # few programs
    memory = 8 * (4 * size**2 + T * P + chunk * (5 * 4 + 8) * P)
    blocks = two_layer.two_time_kernels(problem, start, path.outputs, **options, memory=memory)
    require_close(blocks.feature, whole.feature, 1e-13)
    require_close(blocks.gradient, whole.gradient, 1e-13)


@given(seeds, gammas, activations, st.permutations(range(P)))
def test_symmetries(seed, gamma, activation, order):
    """Of pairs of particles: those of width infinity, for activations of no symmetry as well."""
    start, problem = paired(seed, gamma)
    kernel, y, _, _ = problem

    def both(problem, particles):
        path = two_layer.solve(problem, particles, activation=activation, steps=T)
        options = {"activation": activation, "every": 6}
        return path.outputs, two_layer.two_time_kernels(problem, particles, path.outputs, **options)

    outputs, kernels = both(problem, start)
    require_close(outputs[0], jnp.zeros(P), 1e-14 / gamma)
    flipped, same = both(problem._replace(targets=-y), start)
    require_close(flipped, -outputs, 1e-12)
    require_close(same.feature, kernels.feature, 1e-12)
    scaled, same = both(problem._replace(targets=2 * y, gamma=gamma / 2), start)
    require_close(scaled, 2 * outputs, 1e-12)
    require_close(same.gradient, kernels.gradient, 1e-12)
    order = np.array(order)
    turned = start._replace(preactivations=start.preactivations[:, order])
    moved = problem._replace(input_kernel=kernel[order][:, order], targets=y[order])
    permuted, same = both(moved, turned)
    require_close(permuted, outputs[:, order], 1e-12)
    require_close(same.feature, kernels.feature[:, order][:, :, :, order], 1e-12)


@given(seeds, st.sampled_from([jnp.tanh, jax.nn.softplus]))
def test_small_gamma_is_lazy_with_an_error_of_gamma_squared(seed, activation):
    """Ratio 4 for each halving, for pairs of particles: gamma f is odd in gamma y."""
    start, problem = paired(seed, 1.0)
    kernel = two_layer.tangent_kernel(problem, start, activation=activation)
    lazy = lazy_outputs(problem, kernel, steps=T)
    gamma = 0.02 / float(jnp.linalg.norm(problem.targets))

    def error(gamma):
        path = two_layer.solve(problem._replace(gamma=gamma), start, activation=activation, steps=T)
        return float(jnp.abs(path.outputs - lazy).max())

    assume(error(gamma) > 1e-9)  # inputs of which one sees nothing
    assert error(gamma) / error(gamma / 2) == pytest.approx(4, abs=0.1)
    assert error(1e-3 * gamma) < 1.1e-6 * error(gamma) + 1e-14 / (1e-3 * gamma)


@pytest.mark.parametrize(("name", "nodes", "error"), [("erf", 60, 1e-9), ("relu", 60, 1e-2)])
def test_quadrature_has_the_tangent_kernel_of_infinite_width(name, nodes, error):
    """An independent recursion, in closed form; relu's kink costs nodes^-1 in phi'^2."""
    x = jnp.array([[1.0, 0.4], [0.3, -0.9]])
    problem = Problem(x @ x.T / 2, jnp.ones(2), 1.0, 0.1)
    activation = {"erf": jax.scipy.special.erf, "relu": jax.nn.relu}[name]
    start = quadrature_particles(problem, nodes=nodes)
    found = two_layer.tangent_kernel(problem, start, activation=activation)
    require_close(found, mlp_kernels(x, activation=name, depth=2).ntk, error)


@pytest.mark.parametrize("kernel", [TWO.input_kernel, jnp.ones((2, 2)), jnp.array([[2.0]])])
def test_particles_have_the_moments_of_the_initial_law(kernel):
    problem = Problem(kernel, jnp.ones(len(kernel)), 1.0, 0.1)
    h, z, w = quadrature_particles(problem, nodes=40)
    both = jnp.concatenate([h, z[:, None]], axis=1)
    expected = jax.scipy.linalg.block_diag(kernel, jnp.eye(1))
    require_close(both.T @ (w[:, None] * both), expected, 1e-8)
    require_close(w @ both, jnp.zeros(len(kernel) + 1), 1e-14)
    h, z, w = sampled_particles(jax.random.key(1), problem, samples=20_000)
    both = jnp.concatenate([h, z[:, None]], axis=1)
    error = 4 * float(kernel.max()) * (2 / 10_000) ** 0.5  # 4 standard errors of a variance
    require_close(both.T @ (w[:, None] * both), expected, error)
    assert abs(float(w @ z)) < 1e-15


def test_quadrature_converges_as_stated():
    def outputs(problem, nodes, activation):
        start = quadrature_particles(problem, nodes=nodes)
        return two_layer.solve(problem, start, activation=activation, steps=40).outputs

    smooth = [outputs(ONE, n, jnp.tanh) for n in (60, 120, 240)]
    assert 3e-6 < float(jnp.abs(smooth[0] - smooth[2]).max()) < 3e-5
    assert 2e-9 < float(jnp.abs(smooth[1] - smooth[2]).max()) < 2e-8
    kinked = [outputs(ONE, n, jax.nn.relu) for n in (40, 80, 320)]
    errors = [float(jnp.abs(some - kinked[2]).max()) for some in kinked[:2]]
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.6)


def test_sampled_particles_approach_quadrature_as_one_over_the_root_of_their_number():
    """The exponent fitted to 48 samples each; its own error is that of test_deep_linear, 0.05."""
    exact = two_layer.solve(
        TWO, quadrature_particles(TWO, nodes=48), activation=jnp.tanh, steps=T
    ).outputs
    keys, sizes = jax.random.split(jax.random.key(0), 48), np.array([20, 80, 320])

    def outputs(key, samples):
        start = sampled_particles(key, TWO, samples=samples)
        return two_layer.solve(TWO, start, activation=jnp.tanh, steps=T).outputs

    found = [jax.vmap(partial(outputs, samples=int(n)))(keys) for n in sizes]
    errors = [float(jnp.sqrt(jnp.mean((some - exact[None]) ** 2))) for some in found]
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.13)
    mean, error = found[-1].mean(axis=0), found[-1].std(axis=0) / 48**0.5
    assert float(jnp.linalg.norm(mean - exact)) < 3 * float(jnp.linalg.norm(error))


@pytest.mark.parametrize("target", [1.0, -0.4])
def test_linear_particles_tend_to_the_flow_in_closed_form(target):
    """Richardson's extrapolation in eta, twice, leaves eta^3; the second moments are exact."""
    axes = 2**0.5 * np.concatenate([np.eye(2), -np.eye(2)])
    q, gamma, tau = 0.7, 2.0, 1.0
    h, z = jnp.asarray(q**0.5 * axes[:, :1]), jnp.asarray(axes[:, 1])
    start = Particles(h, z, jnp.full(4, 0.25))
    found = []
    for n in (250, 500, 1000):
        problem = Problem(jnp.array([[q]]), jnp.array([target]), gamma, tau / n)
        h, z, w = two_layer.solve(problem, start, activation=identity, steps=n).particles
        found.append(jnp.array([w @ (h[:, 0] * z) / gamma, w @ h[:, 0] ** 2, w @ z**2]))
    once = [2 * fine - coarse for coarse, fine in pairwise(found)]
    expected = jnp.stack(linear_flow(tau, target, gamma=gamma, input_kernel=q))
    assert float(jnp.abs(found[0] - expected).max()) > 1e-5  # there is something to extrapolate
    require_close((4 * once[1] - once[0]) / 3, expected, 1e-7)


def test_training_ends_at_the_targets_with_features_of_the_closed_form():
    start = quadrature_particles(ONE._replace(gamma=2.0), nodes=40)
    problem = Problem(jnp.eye(1), jnp.ones(1), 2.0, 0.01)
    path = two_layer.solve(problem, start, activation=identity, steps=600)
    assert float(path.outputs[-1, 0]) == pytest.approx(1.0, abs=1e-9)
    h, _, w = path.particles
    expected = float(linear_flow(jnp.inf, 1.0, gamma=2.0).feature)  # sqrt(1 + gamma^2 y^2)
    assert expected == pytest.approx(5**0.5, rel=1e-14)
    assert float(w @ h[:, 0] ** 2) == pytest.approx(expected, rel=0.02)  # O(eta)


def test_the_first_steps_do_not_know_how_many_there_are():
    start, problem = paired(1, 1.0)
    long = two_layer.solve(problem, start, activation=jnp.tanh, steps=T)
    short = two_layer.solve(problem, start, activation=jnp.tanh, steps=7)
    np.testing.assert_array_equal(long.outputs[:7], short.outputs)


def test_derivatives_are_those_of_finite_differences():
    start, problem = paired(2, 1.2)

    @jax.jit
    def last(gamma):
        moved = problem._replace(gamma=gamma)
        return two_layer.solve(moved, start, activation=jnp.tanh, steps=T).outputs[-1, 0]

    expected = (last(1.2 + 1e-5) - last(1.2 - 1e-5)) / 2e-5
    assert float(jax.grad(last)(1.2)) == pytest.approx(float(expected), rel=1e-7)


def test_a_run_that_leaves_the_finite_numbers_says_when():
    start, problem = paired(3, 1.0)
    wild = problem._replace(learning_rate=1e6)
    path = two_layer.solve(wild, start, activation=identity, steps=T)
    t = int(path.diverged_at)
    finite = np.isfinite(path.outputs).all(axis=1)
    assert 0 < t < T
    assert finite[:t].all()
    assert not finite[t]
    last = two_layer.solve(problem._replace(learning_rate=1e308, gamma=1e9), start, steps=1, **TANH)
    assert int(last.diverged_at) == 1  # only the particles
    assert np.isfinite(last.outputs).all()


GOOD = network_particles(jnp.ones((4, 2)), jnp.ones(4))
TANH = {"activation": jnp.tanh}


@pytest.mark.parametrize(
    ("particles", "options", "message"),
    [
        (GOOD._replace(preactivations=jnp.ones((4, 3))), {}, r"particles must be \(S, 2\)"),
        (GOOD._replace(weights=jnp.ones(4)), {}, "sum of weights must be 1, got 4.0"),
        (GOOD, {"activation": jnp.sum}, r"activation must act elementwise, got \(\) from \(4, 2\)"),
        (GOOD, {"steps": 0}, "steps must be an integer >= 1, got 0"),
        (GOOD, {"memory": 100}, r"memory must be at least 576 bytes for S = 4, T = 2, P = 2"),
    ],
)
def test_bad_arguments_are_named(particles, options, message):
    with pytest.raises(ValueError, match=message):
        two_layer.solve(TWO, particles, **({"activation": jnp.tanh, "steps": 2} | options))


def test_bad_particles_and_records_are_named():
    three = Problem(jnp.eye(3), jnp.ones(3), 1.0, 0.1)
    with pytest.raises(ValueError, match=r"1 or 2 samples \(a grid\), got 3"):
        quadrature_particles(three, nodes=4)
    with pytest.raises(ValueError, match="memory must be at least 32000 bytes for 1000 particles"):
        quadrature_particles(TWO, nodes=10, memory=31_999)
    with pytest.raises(ValueError, match="samples must be even, for antithetic pairs, got 5"):
        sampled_particles(jax.random.key(0), TWO, samples=5)
    with pytest.raises(ValueError, match=r"\(S, P\) and \(S,\), got \(4,\) and \(4,\)"):
        network_particles(jnp.ones(4), jnp.ones(4))
    with pytest.raises(ValueError, match=r"outputs must be \(T, 2\), got \(5, 3\)"):
        two_layer.two_time_kernels(TWO, GOOD, jnp.ones((5, 3)), **TANH)
    with pytest.raises(ValueError, match="every must be an integer >= 1, got 0"):
        two_layer.two_time_kernels(TWO, GOOD, jnp.ones((5, 2)), **TANH, every=0)
    with pytest.raises(ValueError, match=r"memory must be at least \d+ bytes for R = 5, P = 2"):
        two_layer.two_time_kernels(TWO, GOOD, jnp.ones((5, 2)), **TANH, memory=10)
