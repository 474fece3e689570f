"""The forward solution against particles, real networks, the lazy limit and its own equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from theory.mean_field import deep_linear, two_layer
from theory.mean_field.particles import Particles
from theory.mean_field.problem import Problem, lazy_outputs, whitened_reduction

P, T = 3, 16
seeds = st.integers(0, 2**32 - 1)
layers = st.sampled_from([1, 2, 3])
run = {L: partial(deep_linear.solve, hidden_layers=L, steps=T) for L in (1, 2, 3)}


def identity(h):
    return h


@st.composite
def problems(draw, kinds=("generic", "low rank", "white", "parallel", "no target")):
    """Kx = x.x'/D of generic, few-featured, orthogonal or equal inputs; a stable learning rate."""
    rng = np.random.default_rng(draw(seeds))
    kind, gamma = draw(st.sampled_from(kinds)), draw(st.floats(0.05, 2.0))
    x = rng.standard_normal((P, 1 if kind == "low rank" else 5))
    x = np.ones((P, 1)) if kind == "parallel" else x
    kernel = 2.0 * np.eye(P) if kind == "white" else x @ x.T / x.shape[1]
    y = np.zeros(P) if kind == "no target" else rng.standard_normal(P)
    fastest = 4 * np.linalg.eigvalsh(kernel)[-1] / P * (1 + gamma * np.linalg.norm(y)) ** 2
    return Problem(jnp.asarray(kernel), jnp.asarray(y), gamma, 0.5 / fastest)


def sigma_points(kernel):
    """2(P + 1) particles whose second moments are those of the initial law."""
    values, vectors = np.linalg.eigh(kernel)
    root = vectors * np.sqrt(np.maximum(values, 0))
    axes = np.sqrt(P + 1) * np.concatenate([np.eye(P + 1), -np.eye(P + 1)])
    weights = jnp.full(len(axes), 1 / len(axes))
    return Particles(jnp.asarray(axes[:, :P] @ root.T), jnp.asarray(axes[:, P]), weights)


def require_close(found, expected, tolerance):
    """Within the tolerance times the largest number, at least 1."""
    scale = max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def require_same(one, other, tolerance=1e-12):
    """All kernels and responses are the same."""
    for ours, theirs in zip(jax.tree.leaves(one[1:5]), jax.tree.leaves(other[1:5]), strict=True):
        require_close(ours, theirs, tolerance)


@given(problems())
def test_one_hidden_layer_is_the_particle_solver_with_identity_activation(problem):
    """Linear particles depend on second moments only, which a few points have exactly."""
    path, start = run[1](problem), sigma_points(problem.input_kernel)
    particles = two_layer.solve(problem, start, activation=identity, steps=T)
    require_close(path.outputs, particles.outputs, 1e-13)
    kernels = two_layer.two_time_kernels(problem, start, path.outputs, activation=identity)
    require_close(path.features[0], kernels.feature, 1e-13)
    for mu in range(P):  # g does not know the sample
        require_close(path.gradients[0], kernels.gradient[:, mu, :, 0], 1e-13)
    last = two_layer.solve(problem, start, activation=identity, steps=T - 1).particles
    expected = two_layer.tangent_kernel(problem, last, activation=identity)
    require_close(deep_linear.tangent_kernels(problem, path)[-1], expected, 1e-13)


@given(problems(), layers)
def test_the_solution_satisfies_the_equations_in_closed_form(problem, L):
    """H = (1 - CD)^-1 (H + C G C^T) (1 - CD)^-T and its like, with C and D made from the result."""
    path = run[L](problem)
    eye, size = np.eye(T * P), T * P
    drive = problem.learning_rate * problem.gamma / P * (problem.targets[None] - path.outputs)
    later = np.tril(np.ones((T, T)), -1)
    inputs = np.broadcast_to(problem.input_kernel[None, :, None, :], (T, P, T, P))
    features = [inputs, *path.features]
    gradients = [*path.gradients, np.ones((T, T))]
    forward = [np.zeros((T, P, T)), *path.forward_responses]
    backward = [*path.backward_responses, np.zeros((T, T, P))]
    for l in range(L):
        C = np.einsum("tmsn,sn,ts->tms", features[l], drive, later) + forward[l]
        D = np.einsum("ts,sn,ts->tsn", gradients[l + 1], drive, later) + backward[l + 1]
        C, D = C.reshape(size, T), D.reshape(T, size)
        below, above = features[l].reshape(size, size), gradients[l + 1]
        left, right = np.linalg.inv(eye - C @ D), np.linalg.inv(np.eye(T) - D @ C)
        expected = left @ (below + C @ above @ C.T) @ left.T
        require_close(path.features[l].reshape(size, size), expected, 1e-11)
        require_close(path.gradients[l], right @ (above + D @ below @ D.T) @ right.T, 1e-11)
        require_close(path.forward_responses[l].reshape(size, T), left @ C, 1e-11)
        require_close(path.backward_responses[l].reshape(T, size), right @ D, 1e-11)
    cross = left @ (C @ above + below @ D.T) @ right.T
    outputs = np.diagonal(cross.reshape(T, P, T), axis1=0, axis2=2).T / problem.gamma
    require_close(path.outputs, outputs, 1e-11 / problem.gamma)


@given(problems(), layers)
def test_kernels_are_symmetric_and_positive_and_responses_causal(problem, L):
    path = run[L](problem)
    assert int(path.diverged_at) == -1
    np.testing.assert_array_equal(path.outputs[0], 0.0)
    kernels = [k.reshape(T * P, T * P) for k in path.features] + list(path.gradients)
    for kernel in kernels:
        require_close(kernel, kernel.T, 1e-15)
        values = np.linalg.eigvalsh(kernel)
        assert values[0] >= -1e-12 * values[-1]
    for response in path.forward_responses:
        assert not np.triu(np.moveaxis(response, 1, 0)).any()
    for response in path.backward_responses:
        assert not np.triu(np.moveaxis(response, 2, 0)).any()


@given(problems(), layers, seeds)
def test_symmetries(problem, L, seed):
    """Rotations of samples, of which permutations are some; signs; scales."""
    rng = np.random.default_rng(seed)
    kernel, y, gamma, eta = problem
    path = run[L](problem)
    q = jnp.asarray(np.linalg.qr(rng.standard_normal((P, P)))[0])
    turned = run[L](Problem(q @ kernel @ q.T, q @ y, gamma, eta))
    require_close(turned.outputs, path.outputs @ q.T, 1e-12)
    expected = jnp.einsum("am,bn,tmsn->tasb", q, q, path.features[-1])
    require_close(turned.features[-1], expected, 1e-12)
    require_close(turned.gradients[0], path.gradients[0], 1e-12)
    flipped = run[L](problem._replace(targets=-y))
    require_close(flipped.outputs, -path.outputs, 1e-13)
    for ours, theirs in zip(flipped.features, path.features, strict=True):
        require_close(ours, theirs, 1e-13)
    scaled = run[L](Problem(kernel, 3 * y, gamma / 3, eta))
    require_close(scaled.outputs, 3 * path.outputs, 1e-12)
    require_same(scaled, path)


@given(problems(kinds=("white", "no target")), layers)
def test_white_inputs_are_one_sample(problem, L):
    assume(np.allclose(problem.input_kernel, 2 * np.eye(P)))
    path, white = run[L](problem), whitened_reduction(problem)
    single, n = run[L](white.problem), white.direction
    require_close(path.outputs, single.outputs * n[None], 1e-13)
    across = 2 * (np.eye(P) - jnp.outer(n, n))
    for ours, theirs in zip(path.features, single.features, strict=True):
        expected = across[None, :, None, :] + theirs * jnp.outer(n, n)[None, :, None, :]
        require_close(ours, expected, 1e-13)
    for ours, theirs in zip(path.gradients, single.gradients, strict=True):
        require_close(ours, theirs, 1e-13)


@given(problems(kinds=("generic", "low rank", "white")), layers)
def test_small_gamma_is_lazy_with_an_error_of_gamma_squared(problem, L):
    """Ratio 4 for each halving; gamma |y| sets the size of the next order."""
    assume(np.linalg.norm(problem.targets) > 0.1)
    gamma = (
        0.1 / float(jnp.linalg.norm(problem.targets)) / max(1, float(problem.input_kernel.max()))
    )
    kernel = deep_linear.initial_tangent_kernel(problem, hidden_layers=L)
    lazy = lazy_outputs(problem, kernel, steps=T)
    errors = [
        jnp.abs(run[L](problem._replace(gamma=g)).outputs - lazy).max()
        for g in (gamma, gamma / 2, 1e-3 * gamma)
    ]
    assume(float(errors[0]) > 1e-9)  # inputs of which one sees nothing
    assert float(errors[0] / errors[1]) == pytest.approx(4, abs=0.1)
    assert float(errors[2]) < 1.1e-6 * float(errors[0]) + 1e-12 / gamma


def test_the_first_steps_do_not_know_how_many_there_are():
    problem = Problem(jnp.diag(jnp.array([1.0, 0.5, 0.2])), jnp.array([1.0, -1.0, 0.5]), 1.5, 0.2)
    long, short = run[2](problem), deep_linear.solve(problem, hidden_layers=2, steps=9)
    require_close(long.outputs[:9], short.outputs, 1e-14)
    require_close(long.features[1][:9, :, :9], short.features[1], 1e-13)
    require_close(long.gradients[0][:9, :9], short.gradients[0], 1e-13)
    require_close(long.forward_responses[0][:9, :, :9], short.forward_responses[0], 1e-13)
    require_close(long.backward_responses[1][:9, :9], short.backward_responses[1], 1e-13)


def test_outputs_follow_the_tangent_kernel_up_to_the_learning_rate():
    """At the same time tau the change per unit of time differs from K Delta/P by O(eta)."""
    problem = Problem(jnp.diag(jnp.array([1.0, 0.5, 0.2])), jnp.array([1.0, -1.0, 0.5]), 1.0, 0.4)

    def mismatch(eta, t):
        path = run[2](problem._replace(learning_rate=eta))
        kernel = deep_linear.tangent_kernels(problem, path)[t]
        slope = (path.outputs[t + 1] - path.outputs[t]) / eta
        return jnp.linalg.norm(slope - kernel @ (problem.targets - path.outputs[t]) / P)

    coarse, fine = mismatch(0.04, 6), mismatch(0.02, 12)
    assert float(coarse / fine) == pytest.approx(2, abs=0.1)


@partial(jax.jit, static_argnames=("width", "L"))
def network_run(key, x, y, gamma, eta, width, L):
    """Gradient descent of a deep linear network: outputs, H^l and G^l, centred at its start."""
    P, D = x.shape
    shapes = [(width, D), *[(width, width)] * (L - 1), (1, width)]
    keys = jax.random.split(key, L + 1)
    start = [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]

    def fields(params):
        h = [x @ params[0].T / D**0.5]
        for w in params[1:-1]:
            h.append(h[-1] @ w.T / width**0.5)
        g = [params[-1][0]]
        for w in params[-2:0:-1]:
            g.insert(0, w.T @ g[0] / width**0.5)
        return (h[-1] @ params[-1][0]) / (gamma * width), (h, g)

    def loss(params, centre):
        return jnp.sum((y - fields(params)[0] + centre) ** 2) / (2 * P)

    centre = fields(start)[0]

    def one(params, _):
        gradient = jax.grad(loss)(params, centre)
        moved = [w - eta * gamma**2 * width * d for w, d in zip(params, gradient, strict=True)]
        f, seen = fields(params)
        return moved, (f - centre, seen)

    _, (outputs, (h, g)) = jax.lax.scan(one, start, length=T)
    H = [jnp.einsum("tmi,sni->tmsn", a, a) / width for a in h]
    return outputs, H, [a @ a.T / width for a in g]


def test_real_networks_tend_to_the_solution_as_one_over_the_root_of_width():
    """The exponent fitted to the root mean square over 48 networks, within 2.5 times its own error:

    ``sqrt(2/(2 48))/log(256/16) = 0.052``, for the few numbers in which a network differs.
    """
    rng, L, count = np.random.default_rng(3), 2, 48
    x, y = jnp.asarray(rng.standard_normal((P, 5))), jnp.array([1.0, -1.0, 0.5])
    gamma, eta = 1.5, 0.15
    path = run[L](Problem(x @ x.T / 5, y, gamma, eta))
    assert float(jnp.abs(path.outputs[-1]).max()) > 0.3  # it has learned
    networks = jax.vmap(network_run, in_axes=(0, None, None, None, None, None, None))
    keys, widths = jax.random.split(jax.random.key(0), count), np.array([16, 64, 256])
    runs = [networks(keys, x, y, gamma, eta, int(n), L) for n in widths]
    expected = [path.outputs, path.features[1], path.gradients[0], path.gradients[1]]
    for i, limit in enumerate(expected):
        found = [(f, H[1], *G)[i] for f, H, G in runs]
        errors = [float(jnp.sqrt(jnp.mean((one - limit[None]) ** 2))) for one in found]
        assert np.polyfit(np.log(widths), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.13)
        mean, error = found[-1].mean(axis=0), found[-1].std(axis=0) / count**0.5
        assert float(jnp.linalg.norm(mean - limit)) < 3 * float(jnp.linalg.norm(error))


def test_derivatives_are_those_of_finite_differences_forwards_and_backwards():
    problem = Problem(jnp.array([[1.0, 0.3], [0.3, 0.8]]), jnp.array([1.0, -0.7]), 1.2, 0.3)

    def last(gamma):
        moved = problem._replace(gamma=gamma)
        return deep_linear.solve(moved, hidden_layers=2, steps=5).outputs[-1, 0]

    expected = (last(1.2 + 1e-5) - last(1.2 - 1e-5)) / 2e-5
    assert float(jax.grad(last)(1.2)) == pytest.approx(float(expected), rel=1e-8)
    assert float(jax.jacfwd(last)(1.2)) == pytest.approx(float(expected), rel=1e-8)


def test_many_problems_at_once():
    problem = Problem(jnp.eye(P), jnp.array([1.0, -1.0, 0.5]), jnp.array([0.5, 2.0]), 0.2)
    axes = Problem(None, None, 0, None)
    together = jax.vmap(lambda p: run[2](p).outputs, in_axes=(axes,))(problem)
    for gamma, outputs in zip(problem.gamma, together, strict=True):
        require_close(outputs, run[2](problem._replace(gamma=gamma)).outputs, 1e-13)


def test_a_run_that_leaves_the_finite_numbers_says_when():
    path = run[3](Problem(jnp.eye(P), jnp.ones(P), 1.0, 60.0))
    t = int(path.diverged_at)
    finite = np.isfinite(path.outputs).all(axis=1)
    assert 0 < t < T
    assert finite[:t].all()
    assert not finite[t]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_layers": 0}, "hidden_layers must be an integer >= 1, got 0"),
        ({"hidden_layers": 1.5}, "hidden_layers must be an integer >= 1, got 1.5"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"memory": 1000}, r"memory must be at least \d+ bytes for L = 2, T = 16, P = 3, got 1000"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    problem = Problem(jnp.eye(P), jnp.ones(P), 1.0, 0.1)
    with pytest.raises(ValueError, match=message):
        deep_linear.solve(problem, **({"hidden_layers": 2, "steps": T} | arguments))
