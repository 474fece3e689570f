"""Hessian spectra against automatic differentiation of the networks themselves."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import solve_ivp

from theory.deep_linear.hessian import (
    hessian_spectrum_trajectory,
    minimum_hessian_eigenvalues,
    sharpness_trajectory,
    two_layer_hessian_spectrum,
)

N = 3
# Generic values over six decades, and the degenerate ones: equal, zero, one mode alone.
STRENGTHS = st.one_of(
    arrays(float, N, elements=st.floats(-3, 3).map(lambda x: 10.0**x)),
    st.sampled_from([[1.0, 1.0, 1.0], [2.0, 2.0, 0.5], [3.0, 0.0, 0.0], [1.0, 1e-8, 0.0]]).map(
        np.array
    ),
)
WEIGHTS = st.one_of(
    arrays(float, N, elements=st.floats(-3, 3)),
    st.sampled_from([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]).map(np.array),
)


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def hessian_eigenvalues(sigma, weights):
    """Of 1/2 |sigma - W_L ... W_1|^2 with respect to all weights, by autodiff."""
    flat, unravel = jax.flatten_util.ravel_pytree(weights)

    def loss(parameters):
        product = jnp.eye(sigma.shape[1])
        for matrix in unravel(parameters):
            product = matrix @ product
        return jnp.sum((sigma - product) ** 2) / 2

    return jnp.linalg.eigvalsh(jax.hessian(loss)(flat))


compiled_hessian_eigenvalues = jax.jit(hessian_eigenvalues)


@pytest.mark.parametrize("s", [[1.8, 1.1, 0.6], [2.0, 2.0, 2.0], [1.5, 0.5, 0.0]])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_minimum_against_autodiff(s, depth):
    """In rotated bases, with the zero eigenvalues of the flat directions."""
    rng, s = np.random.default_rng(depth), np.array(s)
    frames = [orthogonal(rng, N) for _ in range(depth + 1)]
    root = np.diag(s ** (1 / depth))
    weights = [frames[l + 1] @ root @ frames[l].T for l in range(depth)]
    sigma = frames[-1] @ np.diag(s) @ frames[0].T
    found = compiled_hessian_eigenvalues(sigma, weights)
    flat = np.zeros((depth - 1) * N**2)
    expected = np.sort([*flat, *np.ravel(minimum_hessian_eigenvalues(s, depth))])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(s=STRENGTHS, depth=st.sampled_from([1, 2, 5]), scale=st.sampled_from([0.1, 7.0]))
def test_sharpness_and_symmetries_at_the_minimum(s, depth, scale):
    values = np.asarray(minimum_hessian_eigenvalues(s, depth))
    assert (values >= 0).all()
    np.testing.assert_allclose(values.max(), depth * s.max() ** (2 - 2 / depth), rtol=1e-12)
    np.testing.assert_allclose(values, values.T, rtol=1e-12)
    rescaled = minimum_hessian_eigenvalues(scale * s, depth)
    np.testing.assert_allclose(rescaled, scale ** (2 - 2 / depth) * values, rtol=1e-12)


@pytest.fixture(scope="module")
def network_spectrum():
    """Eigenvalues at W_1 = R diag(a) V^T, W_2 = U diag(b) R^T with 2 idle units, compiled once."""
    rng, hidden = np.random.default_rng(0), N + 2
    U, V, R = orthogonal(rng, N), orthogonal(rng, N), orthogonal(rng, hidden)[:, :N]

    @jax.jit
    def spectrum(s, a, b):
        weights = [R @ jnp.diag(a) @ V.T, U @ jnp.diag(b) @ R.T]
        return hessian_eigenvalues(U @ jnp.diag(s) @ V.T, weights)

    return spectrum


@given(s=STRENGTHS, a=WEIGHTS, b=WEIGHTS)
def test_whole_spectrum_against_autodiff(network_spectrum, s, a, b):
    found = network_spectrum(s, a, b)
    predicted = two_layer_hessian_spectrum(s, a, b, extra_hidden=2)
    scale = np.abs(found).max() + np.abs(s).max()
    np.testing.assert_allclose(predicted, found, atol=1e-12 * scale)


@given(s=STRENGTHS, a=WEIGHTS, b=WEIGHTS)
def test_trace_and_idle_units(s, a, b):
    spectrum = np.asarray(two_layer_hessian_spectrum(s, a, b))
    assert (np.diff(spectrum) >= 0).all()
    scale = np.abs(spectrum).max() + 1e-300
    trace = N * (np.sum(a**2) + np.sum(b**2))
    np.testing.assert_allclose(spectrum.sum(), trace, atol=1e-13 * N * scale)
    wider = two_layer_hessian_spectrum(s, a, b, extra_hidden=2)
    assert wider.shape == (2 * N * (N + 2),)
    idle = np.repeat([s - a * b, a * b - s], 2)
    np.testing.assert_allclose(wider, np.sort([*spectrum, *idle]), atol=1e-13 * scale)
    # Idle units never set the sharpness.
    np.testing.assert_allclose(wider[-1], spectrum[-1], atol=1e-13 * scale)


@given(s=STRENGTHS, a=WEIGHTS)
def test_balanced_closed_forms(s, a):
    u = a**2
    e = s - u
    i, k = np.triu_indices(N, 1)
    expected = [3 * u - s, s - u]
    for sign in (1, -1):
        middle = u[i] + u[k] + sign * (e[i] + e[k])
        root = np.sqrt((u[k] - u[i] + sign * (e[i] - e[k])) ** 2 + 4 * u[i] * u[k])
        expected += [(middle + root) / 2, (middle - root) / 2]
    expected = np.sort(np.concatenate(expected))
    scale = np.abs(expected).max() + 1e-300
    np.testing.assert_allclose(two_layer_hessian_spectrum(s, a, a), expected, atol=1e-13 * scale)


@given(s=STRENGTHS)
def test_two_layer_minimum_two_ways(s):
    """Balanced minimum: the spectrum is that of any depth at depth 2, its top 2 s_1."""
    root = np.sqrt(s)
    spectrum = np.asarray(two_layer_hessian_spectrum(s, root, root))
    minimum = np.ravel(minimum_hessian_eigenvalues(s, 2))
    expected = np.sort([*np.zeros(N**2), *minimum])
    np.testing.assert_allclose(spectrum, expected, atol=1e-13 * spectrum[-1])
    np.testing.assert_allclose(spectrum[-1], 2 * s.max(), rtol=1e-13)


def test_batches_and_derivatives():
    """Leading axes are batch axes; gradients are finite where eigenvalues coincide."""
    rng = np.random.default_rng(5)
    s, a, b = rng.random((3, 4, N))
    batch = two_layer_hessian_spectrum(s, a, b)
    mapped = jax.vmap(two_layer_hessian_spectrum)(s, a, b)
    np.testing.assert_allclose(batch, mapped, rtol=1e-12, atol=1e-14)

    def trace(a):
        return two_layer_hessian_spectrum(np.ones(N), a, a).sum()

    np.testing.assert_allclose(jax.grad(trace)(np.ones(N)), 4 * N, rtol=1e-13)
    slope = jax.jacrev(lambda s: minimum_hessian_eigenvalues(s, 2))(np.array([2.0, 1.0, 0.5]))
    i, k = np.indices((N, N))
    np.testing.assert_allclose(slope, np.eye(N)[i] + np.eye(N)[k], rtol=1e-13)


@pytest.mark.parametrize("imbalance", [0.0, 0.8, -0.8])
def test_trajectories_against_a_trained_network(imbalance, network_spectrum):
    """Mode weights by numerical integration of gradient flow, Hessian by autodiff."""
    s, u0 = np.array([2.0, 1.2, 0.5]), np.array([0.01, 0.02, 0.01])
    r = np.sqrt(imbalance**2 + 4 * u0**2)
    start = np.concatenate([np.sqrt((r + imbalance) / 2), np.sqrt((r - imbalance) / 2)])

    def flow(_, weights):
        a, b = weights[:N], weights[N:]
        return np.concatenate([b, a]) * np.tile(s - a * b, 2)

    t = np.array([0.0, 0.5, 1.5, 4.0, 30.0])
    path = solve_ivp(flow, (0, 30), start, t_eval=t, method="DOP853", rtol=1e-12, atol=1e-14).y.T
    expected = np.array([network_spectrum(s, w[:N], w[N:]) for w in path])
    found = sharpness_trajectory(t, s, u0, imbalance)
    np.testing.assert_allclose(found, expected[:, -1], rtol=1e-9)
    whole = hessian_spectrum_trajectory(t, s, u0, imbalance, extra_hidden=2)
    np.testing.assert_allclose(whole, expected, atol=1e-9 * expected.max())
    np.testing.assert_allclose(found[-1], np.sqrt(imbalance**2 + 4 * s[0] ** 2), rtol=1e-9)
    slower = sharpness_trajectory(2.0 * t, s, u0, imbalance, tau=2.0)
    np.testing.assert_allclose(slower, found, rtol=1e-12)


@settings(max_examples=20)
@given(
    s=arrays(float, N, elements=st.floats(-2, 2).map(lambda x: 10.0**x)),
    fraction=st.floats(-12, -6).map(lambda x: 10.0**x),
)
def test_progressive_sharpening(s, fraction):
    """From s_1 at the saddle to 2 s_1 at the minimum, and never beyond."""
    u0 = np.full(N, fraction * s.min())
    t = np.linspace(0, 1, 9) * 40 / s.min()
    path = np.asarray(sharpness_trajectory(t, s, u0))
    np.testing.assert_allclose(path[[0, -1]], s.max() * np.array([1, 2]), rtol=1e-5)
    assert (path <= 2 * s.max() * (1 + 1e-12)).all()


def test_sharpness_keeps_the_shape_of_time_and_has_derivatives():
    s, u0 = np.array([2.0, 1.0, 0.5]), np.array([1e-3, 0.0, 1e-3])  # one mode stays at rest
    path = sharpness_trajectory(np.array([[0.0, 1.0], [2.0, 9.0]]), s, u0)
    assert path.shape == (2, 2)
    slope = jax.grad(lambda t: sharpness_trajectory(t, s, u0))(1.0)
    step = 1e-5
    ends = sharpness_trajectory(np.array([1 - step, 1 + step]), s, u0)
    np.testing.assert_allclose(slope, np.diff(ends)[0] / (2 * step), rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: minimum_hessian_eigenvalues(s, 0), "depth must be an integer >= 1"),
        (lambda s: minimum_hessian_eigenvalues(s, 2.5), "depth must be an integer >= 1"),
        (lambda s: minimum_hessian_eigenvalues(-s, 2), "s must be a vector of non-negative"),
        (lambda s: minimum_hessian_eigenvalues(1.0, 2), "s must be a vector of non-negative"),
        (lambda s: two_layer_hessian_spectrum(s, s, s[:2]), "s, a, b must have one shape"),
        (lambda s: two_layer_hessian_spectrum(1.0, 1.0, 1.0), "s, a, b must have one shape"),
        (lambda s: two_layer_hessian_spectrum(s, s, s, -1), "extra_hidden must be an integer >= 0"),
        (lambda s: two_layer_hessian_spectrum(s, s, np.nan * s), "b must be finite"),
        (lambda s: sharpness_trajectory(1.0, s, s[:2]), "s and u0 must be vectors of one length"),
        (lambda s: sharpness_trajectory(-1.0, s, s), "t must be non-negative"),
        (lambda s: hessian_spectrum_trajectory(-1.0, s, s), "t must be non-negative"),
        (
            lambda s: hessian_spectrum_trajectory(1.0, s, s, extra_hidden=-1),
            "extra_hidden must be an integer >= 0",
        ),
        (lambda s: sharpness_trajectory(1.0, -s, s), "s must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([1.0, 2.0, 3.0]))
