"""The causal sweep against matrices, particles, differentiation, tangent kernels and networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.mean_field import deep, deep_linear, two_layer
from theory.mean_field.causal_noise import extend_factor, matched_noise
from theory.mean_field.particles import Particles
from theory.mean_field.problem import Problem, lazy_outputs

T, P, S = 6, 2, 60
SIZES = {"hidden_layers": 2, "steps": T, "samples": S}
KEY = jax.random.key(5)
# Roundings decide on a pivot at the threshold, 64 n eps, whose noise is the root of that: 4e-7.
TIE = np.sqrt(64 * T * P * np.finfo(float).eps)


def identity(h):
    return h


@st.composite
def problems(draw):
    """Two samples: generic, equal, parallel or one of them zero; lazy to rich; a zero target."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((P, 3))
    kind = draw(st.sampled_from(["generic", "equal", "opposite", "zero"]))
    x[1] = {"generic": x[1], "equal": x[0], "opposite": -2 * x[0], "zero": 0 * x[0]}[kind]
    kernel = x @ x.T / 3
    gamma = draw(st.sampled_from([0.01, 0.5, 2.0]))
    y = rng.standard_normal(P) * draw(st.sampled_from([np.ones(P), np.array([1.0, 0.0])]))
    return Problem(*map(jnp.asarray, (kernel, y, gamma, 0.2 / (1 + np.trace(kernel)))))


def solve(problem, activation=jnp.tanh, key=KEY, **sizes):
    return deep.solve(key, problem, activation=activation, **{**SIZES, **sizes})


def require_close(found, expected, rtol):
    """Each array to rtol of its largest element."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, np.abs(b).max()))


@pytest.mark.parametrize("layers", [2, 3])
@given(problem=problems())
def test_linear_activations_have_no_sampling_error(layers, problem):
    """Matched moments make averages of linear fields exact: the matrices, responses included."""
    found = solve(problem, identity, hidden_layers=layers)
    exact = deep_linear.solve(problem, hidden_layers=layers, steps=T)
    require_close(found.outputs, exact.outputs, 1e-10)
    require_close(found.features, exact.features, 1e-10)
    gradients = [np.broadcast_to(g[:, None, :, None], (T, P, T, P)) for g in exact.gradients]
    require_close(list(found.gradients), gradients, 1e-10)
    # g is one for all samples: a response to the source of one is shared among the sources of all
    forward = [response.sum(axis=-1) for response in found.forward_responses]
    require_close(forward, list(exact.forward_responses[:-1]), 1e-10)
    backward = [np.broadcast_to(b[:, None], (T, P, T, P)) for b in exact.backward_responses[1:]]
    require_close(list(found.backward_responses), backward, 1e-10)


def replay(source, C, D):
    """phi(h), g, z of one neuron with tanh, as the equations say; sources (u, r), (T, P) each."""
    p, g, z = [], [], []
    for t in range(T):
        h = source[0][t] + sum(C[t, :, s] @ g[s] for s in range(t))
        p.append(jnp.tanh(h))
        z.append(source[1][t] + sum(D[t, :, s] @ p[s] for s in range(t + 1)))
        g.append((1 - jnp.tanh(h) ** 2) * z[t])
    return jnp.stack(p), jnp.stack(g), jnp.stack(z)


@partial(jax.jit, static_argnames="layer")
def replayed(problem, path, layer):
    """Kernels, output and responses of a layer given those of the others, at once for all times."""
    drive = problem.learning_rate * problem.gamma / P * (problem.targets[None] - path.outputs)
    past = jnp.tril(jnp.ones((T, T)), -1)[:, None, :, None] * drive[None, None]
    still = jnp.broadcast_to(problem.input_kernel[None, :, None, :], (T, P, T, P))
    feature = path.features[0] if layer else still
    gradient = jnp.ones_like(still) if layer else path.gradients[1]
    C = feature * past + (path.forward_responses[0] if layer else 0)
    D = gradient * past + (0 if layer else path.backward_responses[0])
    noise = matched_noise(jax.random.fold_in(KEY, layer), steps=T, sites=P, samples=S)
    sources = []
    for covariance, white in zip((feature, gradient), noise, strict=True):
        factor = extend_factor(jnp.zeros((T * P, T * P)), covariance.reshape(T * P, T * P), 0)
        sources.append(jnp.moveaxis((factor @ white.reshape(T * P, S)).reshape(T, P, S), 2, 0))
    p, g, z = jax.vmap(partial(replay, C=C, D=D))(sources)
    jacobians = jax.vmap(jax.jacfwd(partial(replay, C=C, D=D)))(sources)
    responses = jacobians[0][1].mean(axis=0), jacobians[1][0].mean(axis=0)
    kernels = [jnp.einsum("atm,asn->tmsn", field, field) / S for field in (p, g)]
    return kernels, responses, jnp.mean(z * p, axis=0) / problem.gamma


@given(problem=problems())
def test_kernels_and_responses_are_those_of_the_fields_they_make(problem):
    """Self-consistency; averages over forward-mode Jacobians instead of adjoint rows."""
    path = solve(problem)
    kernels, responses, _ = replayed(problem, path, 0)
    require_close(kernels, [path.features[0], path.gradients[0]], TIE)
    require_close(responses[0], path.forward_responses[0], TIE)
    kernels, responses, outputs = replayed(problem, path, 1)
    require_close(kernels, [path.features[1], path.gradients[1]], TIE)
    require_close(responses[1], path.backward_responses[0], TIE)
    require_close(outputs, path.outputs, TIE / float(problem.gamma))


@given(problem=problems())
def test_causality_symmetry_and_signs(problem):
    path = solve(problem)
    assert np.abs(path.outputs[0]).max() <= 1e-14 / float(problem.gamma)  # pairs z -> -z
    for t in range(T):
        assert not np.asarray(path.forward_responses[0])[t, :, t:].any()
        assert not np.asarray(path.backward_responses[0])[t, :, t + 1 :].any()
    for kernel in (*path.features, *path.gradients):
        matrix = np.asarray(kernel).reshape(T * P, T * P)
        assert np.array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix)[0] >= -1e-12 * np.trace(matrix)
    flipped = solve(problem._replace(targets=-problem.targets))
    odd = (flipped.outputs, flipped.forward_responses, flipped.backward_responses)
    expected = jax.tree.map(
        jnp.negative, (path.outputs, path.forward_responses, path.backward_responses)
    )
    require_close(odd, expected, TIE)
    require_close((flipped.features, flipped.gradients), (path.features, path.gradients), TIE)
    half = solve(problem._replace(targets=2 * problem.targets, gamma=problem.gamma / 2))
    require_close(half.outputs, 2 * path.outputs, 1e-12)
    require_close(half.gradients, path.gradients, 1e-12)


def data(kernel=((1.0, 0.3), (0.3, 0.8)), y=(1.0, -0.6), gamma=2.0, learning_rate=0.8):
    return Problem(*map(jnp.asarray, (kernel, y, gamma, learning_rate)))


def test_fewer_steps_are_the_beginning_of_more():
    short, long = solve(data(), steps=4), solve(data())
    require_close(short.outputs, long.outputs[:4], 1e-11)
    for name in ("features", "gradients", "forward_responses", "backward_responses"):
        cut = [array[:4, :, :4] for array in getattr(long, name)]
        require_close(list(getattr(short, name)), cut, 1e-11)


def test_one_hidden_layer_is_the_particles_of_its_sources():
    """The same noise as initial h and z of ``two_layer``, ReLU allowed: no responses."""
    problem = data()
    e, odd = matched_noise(jax.random.fold_in(KEY, 0), steps=T, sites=P, samples=S)
    start = Particles(
        (jnp.linalg.cholesky(problem.input_kernel) @ e[0]).T, odd[0, 0], jnp.ones(S) / S
    )
    exact = two_layer.solve(problem, start, activation=jax.nn.relu, steps=T).outputs
    require_close(solve(problem, jax.nn.relu, hidden_layers=1).outputs, exact, 1e-12)


def lazy_kernel(kernel):
    """Tangent kernel of two hidden tanh layers by Gauss-Hermite quadrature over pairs."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"))
    weights = np.outer(weights, weights) / (2 * np.pi)
    tangent = kernel
    for _ in range(2):
        h = np.tensordot(np.linalg.cholesky(kernel), z, 1)
        kernel, slopes = (
            np.einsum("aij,bij,ij->ab", f, f, weights) for f in (np.tanh(h), 1 / np.cosh(h) ** 2)
        )
        tangent = kernel + slopes * tangent
    return tangent


MANY = {"steps": 8, "samples": 2000}


def spread(runs):
    """Mean and standard error of each array over runs."""
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *runs)
    return (
        jax.tree.map(lambda a: a.mean(axis=0), stacked),
        jax.tree.map(lambda a: a.std(axis=0, ddof=1) / np.sqrt(len(a)), stacked),
    )


def test_lazy_limit_is_the_tangent_kernel():
    """At gamma = 0.01 the difference is sampling: 4 standard errors of 8 keys."""
    problem = data(gamma=0.01)
    keys = jax.random.split(KEY, 8)
    mean, error = spread([(solve(problem, key=key, **MANY).outputs,) for key in keys])
    exact = lazy_outputs(problem, lazy_kernel(np.asarray(problem.input_kernel)), steps=8)
    assert np.linalg.norm(error[0]) < 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(mean[0] - exact) < 4 * np.linalg.norm(error[0]) + 1e-4


def halving_ratio(run, gamma):
    """|f(gamma) - f(gamma/2)| / |f(gamma/2) - f(gamma/4)| of outputs."""
    first, second, third = (np.asarray(run(data(gamma=gamma / k))) for k in (1, 2, 4))
    return np.linalg.norm(first - second) / np.linalg.norm(second - third)


def tanh_mirrored(h):
    return jnp.tanh(h)


def test_small_gamma_is_lazy_to_second_order(monkeypatch):
    """Ratio 4, the next order being gamma^2 relative to it: 0.2 off at gamma = 0.4 (linear).

    Sampling adds a term gamma/sqrt(samples), linear in the noise that comes after the start: it
    leaves when that noise comes with both signs for the same start.
    """

    def mirrored(key, *, samples, steps, **sizes):
        pairs = matched_noise(key, samples=samples // 2, steps=steps, **sizes)
        signs = jnp.where(jnp.arange(steps) == 0, 1.0, -1.0)[:, None, None]
        return [jnp.concatenate([part, signs * part], axis=2) for part in pairs]

    ratio = halving_ratio(lambda problem: solve(problem, identity).outputs, 0.04)
    assert abs(ratio - 4) < 0.01
    monkeypatch.setattr(deep, "matched_noise", mirrored)
    ratio = halving_ratio(lambda problem: solve(problem, tanh_mirrored, samples=104).outputs, 0.04)
    assert abs(ratio - 4) < 0.05


WIDTH, NETWORKS = 500, 24


@jax.jit
def network_run(key, x, problem):
    """Outputs, Phi^l and G^l of two hidden layers under gradient descent by autodiff.

    Outputs at the start are subtracted; g is the derivative by the pre-activations, times gamma N.
    """
    _, y, gamma, eta = problem
    shapes = (x.shape[1], WIDTH), (WIDTH, WIDTH), (WIDTH,)
    keys = jax.random.split(key, 3)
    params = [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]

    def fields(params, shift):
        first = x @ params[0] / np.sqrt(x.shape[1]) + shift[0]
        second = jnp.tanh(first) @ params[1] / np.sqrt(WIDTH) + shift[1]
        return jnp.tanh(second) @ params[2] / (gamma * WIDTH), jnp.tanh(jnp.stack([first, second]))

    none = jnp.zeros((2, len(y), WIDTH))
    start = fields(params, none)[0]

    def step(params, _):
        loss = lambda p: jnp.sum((y - fields(p, none)[0] + start) ** 2) / (2 * len(y))  # noqa: E731
        f, features = fields(params, none)
        g = jax.grad(lambda shift: fields(params, shift)[0].sum())(none) * gamma * WIDTH
        rate = eta * gamma**2 * WIDTH
        params = jax.tree.map(lambda p, d: p - rate * d, params, jax.grad(loss)(params))
        return params, (f - start, features, g)

    f, *both = jax.lax.scan(step, params, None, length=MANY["steps"])[1]
    kernels = [jnp.einsum("tlmi,slni->ltmsn", a, a) / WIDTH for a in both]
    return f, *kernels[0], *kernels[1]


@pytest.fixture(scope="module")
def networks():
    """A problem and mean, standard error of f, Phi^1, Phi^2, G^1, G^2 of networks that learn it."""
    x = np.array([[1.0, -0.5, 0.2, 1.4], [0.3, 1.2, -0.9, 0.8]])
    problem = data(x @ x.T / 4)
    keys = jax.random.split(jax.random.key(11), NETWORKS)
    return problem, *spread([network_run(key, x, problem) for key in keys])


def predictions(problem, activation, count=6):
    paths = [solve(problem, activation, key, **MANY) for key in jax.random.split(KEY, count)]
    return spread([(path.outputs, *path.features, *path.gradients) for path in paths])


def distances(found, expected):
    size = np.linalg.norm
    return np.array([size(a - b) / size(b) for a, b in zip(found, expected, strict=True)])


def allowed(networks, errors):
    """3 standard errors of both sides, relative, and a correction of order 1/width."""
    _, mean, error = networks
    pairs = zip(error, errors, mean, strict=True)
    size = np.linalg.norm
    return np.array([3 * np.hypot(size(a), size(b)) / size(c) for a, b, c in pairs]) + 5 / WIDTH


def test_finite_networks_agree(networks):
    problem, mean, _ = networks
    found, errors = predictions(problem, jnp.tanh)
    limits = allowed(networks, errors)
    assert (limits < [0.03, 0.05, 0.05, 0.1, 0.07]).all()
    assert (distances(found, mean) < limits).all()


def tanh_without_responses(h):
    return jnp.tanh(h)


def tanh_without_equal_time(h):
    return jnp.tanh(h)


def test_networks_tell_when_responses_are_left_out(networks, monkeypatch):
    """Without any: f 9% off, kernels 8-22%, up to 4 times what is allowed; without B(t,t): f 1%,
    within what is allowed, but Phi^1 10% and G^1 18% off."""
    problem, mean, _ = networks
    respond = deep.response_row

    def earlier(t, *fields, of):
        return respond(t, *fields, of=of).at[:, t].set(0.0)

    for activation, instead in (
        (tanh_without_responses, lambda t, C, *_, of: jnp.zeros_like(C[0])),
        (tanh_without_equal_time, earlier),
    ):
        monkeypatch.setattr(deep, "response_row", instead)
        found, errors = predictions(problem, activation, count=3)
        missed = distances(found, mean) / allowed(networks, errors)
        assert missed.max() > 2


def test_divergence_is_reported():
    path = solve(data(learning_rate=1e60), identity)
    assert 0 < int(path.diverged_at) < T
    assert np.isfinite(path.outputs[: int(path.diverged_at)]).all()
    assert int(solve(data(), identity).diverged_at) == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 48}, "samples must be even and at least 50"),
        ({"samples": 61}, "samples must be even"),
        ({"hidden_layers": 0}, "hidden_layers must be an integer >= 1"),
        ({"steps": 2.5}, "steps must be an integer >= 1"),
        ({"memory": 1000}, "memory must be at least"),
        ({"activation": jax.nn.relu}, "activation must have a phi''.* got relu"),
        ({"activation": jnp.abs}, "got abs"),
        ({"activation": jax.nn.selu}, "got selu"),
        ({"activation": jnp.sign, "hidden_layers": 1}, "activation must have a phi',.* got sign"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        solve(data(), **change)


def test_bad_problem_is_named():
    with pytest.raises(ValueError, match="gamma must be positive"):
        solve(data(gamma=0.0))
