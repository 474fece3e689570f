"""Velocities of the end-to-end map against gradient flow of the layers, at any depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.deep_linear.deep_modes import deep_mode_velocity
from theory.deep_linear.end_to_end import (
    end_to_end_velocity,
    orthogonal_init_grams,
    orthogonal_init_velocity,
    singular_value_velocity,
    singular_vector_velocity,
)
from theory.deep_linear.matrices import gram_roots
from theory.deep_linear.riccati import hidden_orthogonal_init

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.sampled_from([(3, 3), (2, 4), (3, 1)])  # (outputs, inputs)
# generic, equal, missing and nearly missing singular values
SPECTRA = st.one_of(
    st.lists(st.floats(0.05, 2.0), min_size=3, max_size=3),
    st.sampled_from([[1.0, 1.0, 1.0], [1.5, 1.5, 0.2], [2.0, 0.0, 0.0], [0, 0, 0], [1, 1e-9, 0]]),
)
DEPTHS = st.sampled_from([1, 2, 3, 5])


def orthogonal(rng, n, columns=None):
    return np.linalg.qr(rng.standard_normal((n, columns or n)))[0]


def balanced_layers(rng, shape, spectrum, depth, hidden=5):
    """Layers R_{l+1} S^{1/L} R_l^T, balanced; the hidden ones wider than the rank."""
    n_out, n_in = shape
    modes = min(shape)
    root = np.diag(np.array(spectrum[:modes], float) ** (1 / depth))
    frames = [orthogonal(rng, n_in, modes)]
    frames += [orthogonal(rng, hidden, modes) for _ in range(depth - 1)]
    frames.append(orthogonal(rng, n_out, modes))
    return [frames[l + 1] @ root @ frames[l].T for l in range(depth)]


def product(layers):
    return np.linalg.multi_dot(layers[::-1]) if len(layers) > 1 else layers[0]


def layer_velocities(layers, grad, decay):
    """-dLoss/dW_l = -(W_L ... W_{l+1})^T grad (W_{l-1} ... W_1)^T - decay W_l."""
    before, after = [np.eye(layers[0].shape[1])], [np.eye(layers[-1].shape[0])]
    for W in layers[:-1]:
        before.append(W @ before[-1])
    for W in layers[:0:-1]:
        after.append(after[-1] @ W)
    ends = zip(layers, before, after[::-1], strict=True)
    return [-above.T @ grad @ below.T - decay * W for W, below, above in ends]


@given(seed=SEEDS, shape=SHAPES, spectrum=SPECTRA, depth=DEPTHS, decay=st.sampled_from([0.0, 0.3]))
def test_velocity_against_the_product_rule(seed, shape, spectrum, depth, decay):
    """At any rank and with any ties: sum over layers of W_L ... dW_l ... W_1."""
    rng = np.random.default_rng(seed)
    layers = balanced_layers(rng, shape, spectrum, depth)
    grad = rng.standard_normal(shape)
    changes = layer_velocities(layers, grad, decay)
    expected = sum(product([*layers[:l], changes[l], *layers[l + 1 :]]) for l in range(depth))
    W = product(layers)
    # a singular value of 1e-9 is known within 1e-7 of itself, its root s^{2/5} within 1e-11
    tolerance = 1e-12 if min(x for x in (*spectrum, 1.0) if x > 0) > 1e-3 else 1e-10
    found = end_to_end_velocity(W, grad, depth, decay)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * (1 + depth))


def nonlinear_gradient(covariance, task):
    return lambda W: W @ covariance - task + 0.2 * W**3


@pytest.mark.parametrize(("shape", "depth", "decay"), [((3, 3), 3, 0.15), ((2, 4), 4, 0.0)])
def test_flow_against_the_layers(shape, depth, decay):
    """A loss that is not quadratic, inputs that are not white; 1e-8 is the integration's error."""
    rng = np.random.default_rng(depth)
    covariance = np.diag(np.linspace(1.7, 0.3, shape[1])) + 0.1
    gradient = nonlinear_gradient(covariance, rng.standard_normal(shape))
    layers = balanced_layers(rng, shape, [0.9, 0.6, 0.4], depth)
    ends = np.cumsum([W.size for W in layers])[:-1]
    options = {"t_eval": [0.4, 1.2, 2.5], "method": "DOP853", "rtol": 1e-11, "atol": 1e-13}

    def unpack(state):
        return [x.reshape(W.shape) for x, W in zip(np.split(state, ends), layers, strict=True)]

    def full(_, state):
        parts = unpack(state)
        changes = layer_velocities(parts, gradient(product(parts)), decay)
        return np.concatenate([change.ravel() for change in changes])

    def reduced(_, state):
        W = state.reshape(shape)
        return np.asarray(end_to_end_velocity(W, gradient(W), depth, decay)).ravel()

    start = np.concatenate([W.ravel() for W in layers])
    layers_flow = solve_ivp(full, (0, 2.5), start, **options)
    maps_flow = solve_ivp(reduced, (0, 2.5), product(layers).ravel(), **options)
    for state, W in zip(layers_flow.y.T, maps_flow.y.T, strict=True):
        np.testing.assert_allclose(W.reshape(shape), product(unpack(state)), rtol=0, atol=1e-8)


@given(seed=SEEDS, shape=SHAPES, depth=DEPTHS, decay=st.sampled_from([0.0, 0.3]))
def test_singular_values_and_vectors_move_with_the_map(seed, shape, depth, decay):
    """d(U S V^T)/dt put together from its parts is the velocity of the map, frames stay frames."""
    rng = np.random.default_rng(seed)
    modes = min(shape)
    s = np.array([1.9, 1.1, 0.4])[:modes]
    W = orthogonal(rng, shape[0], modes) @ np.diag(s) @ orthogonal(rng, shape[1], modes).T
    grad = rng.standard_normal(shape)
    U, s, Vt = (np.asarray(x) for x in jnp.linalg.svd(W, full_matrices=False))
    ds = np.asarray(singular_value_velocity(W, grad, depth, decay))
    dU, dV = (np.asarray(x) for x in singular_vector_velocity(W, grad, depth))
    whole = (dU * s) @ Vt + (U * ds) @ Vt + (U * s) @ dV.T
    expected = end_to_end_velocity(W, grad, depth, decay)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-11)
    for frame, change in ((U, dU), (Vt.T, dV)):
        np.testing.assert_allclose(frame.T @ change + change.T @ frame, 0, atol=1e-11)


@given(seed=SEEDS, depth=DEPTHS, decay=st.sampled_from([0.0, 0.2]))
def test_aligned_modes_move_as_scalars(seed, depth, decay):
    rng = np.random.default_rng(seed)
    s, u = rng.uniform(0.5, 2, 3), rng.uniform(0.1, 1, 3)
    U, V = orthogonal(rng, 3), orthogonal(rng, 3)
    W, task = U @ np.diag(u) @ V.T, U @ np.diag(s) @ V.T
    velocity = U.T @ np.asarray(end_to_end_velocity(W, W - task, depth, decay)) @ V
    np.testing.assert_allclose(
        velocity, np.diag(deep_mode_velocity(u, s, depth, decay)), rtol=0, atol=1e-12
    )


def test_ties_leave_vectors_finite_and_the_rest_right():
    rng = np.random.default_rng(0)
    W = orthogonal(rng, 3) @ np.diag([1.0, 1.0, 0.3]) @ orthogonal(rng, 3).T
    grad = rng.standard_normal((3, 3))
    U, s, Vt = (np.asarray(x) for x in jnp.linalg.svd(W))
    dU, dV = (np.asarray(x) for x in singular_vector_velocity(W, grad, 3))
    np.testing.assert_allclose((U.T @ dU)[:2, :2], 0, atol=1e-12)
    # what is left out is the block of the tie; all else adds up to the velocity
    ds = np.asarray(singular_value_velocity(W, grad, 3))
    missing = np.asarray(end_to_end_velocity(W, grad, 3)) - (
        (dU * s) @ Vt + (U * ds) @ Vt + (U * s) @ dV.T
    )
    block = U.T @ missing @ Vt.T
    np.testing.assert_allclose(block - np.pad(block[:2, :2], (0, 1)), 0, atol=1e-12)


# --- two layers on orthogonal hidden subspaces ---------------------------------------------------


@pytest.mark.parametrize("c", [(0.5, 0.2), (0.0, 0.4)])
def test_orthogonal_start_closes_in_the_map(c):
    """For a loss that is not quadratic and inputs that are not white; the layers' Grams as well."""
    rng = np.random.default_rng(1)
    W1, W2 = (np.asarray(W) for W in hidden_orthogonal_init(jax.random.key(1), 4, 9, 3, *c))
    covariance = np.diag([1.5, 1.0, 0.6, 0.2]) + 0.1
    gradient = nonlinear_gradient(covariance, rng.standard_normal((3, 4)))
    options = {"t_eval": [0.8, 2.0], "method": "DOP853", "rtol": 1e-11, "atol": 1e-13}

    def unpack(state):
        return [state[: W1.size].reshape(W1.shape), state[W1.size :].reshape(W2.shape)]

    def full(_, state):
        layers = unpack(state)
        changes = layer_velocities(layers, gradient(product(layers)), 0.0)
        return np.concatenate([change.ravel() for change in changes])

    def reduced(_, state):
        D = state.reshape(3, 4)
        return np.asarray(orthogonal_init_velocity(D, gradient(D), *c)).ravel()

    layers_flow = solve_ivp(full, (0, 2), np.concatenate([W1.ravel(), W2.ravel()]), **options)
    maps_flow = solve_ivp(reduced, (0, 2), np.zeros(12), **options)
    for state, D in zip(layers_flow.y.T, maps_flow.y.T, strict=True):
        first, second = unpack(state)
        np.testing.assert_allclose(D.reshape(3, 4), second @ first, rtol=0, atol=1e-8)
        grams = orthogonal_init_grams(second @ first, *c)
        np.testing.assert_allclose(grams[0], first.T @ first, rtol=0, atol=1e-9)
        np.testing.assert_allclose(grams[1], second @ second.T, rtol=0, atol=1e-9)


@given(seed=SEEDS, shape=SHAPES, spectrum=SPECTRA)
def test_orthogonal_start_without_weights_is_the_balanced_flow(seed, shape, spectrum):
    rng = np.random.default_rng(seed)
    W, grad = product(balanced_layers(rng, shape, spectrum, 2)), rng.standard_normal(shape)
    found = orthogonal_init_velocity(W, grad, 0.0, 0.0)
    np.testing.assert_allclose(found, end_to_end_velocity(W, grad, 2), rtol=0, atol=1e-13)


# --- derivatives ---------------------------------------------------------------------------------


@settings(max_examples=25)
@given(seed=SEEDS, spectrum=st.sampled_from([[1.3, 0.8, 0.3], [1.0, 1.0, 1.0], [1.5, 0.4, 0.4]]))
def test_derivative_of_roots_at_ties(seed, spectrum):
    """Against a central difference: step 1e-5 and values of order 1 make 1e-8 of it."""
    rng = np.random.default_rng(seed)
    W = jnp.array(orthogonal(rng, 4, 3) @ np.diag(spectrum) @ orthogonal(rng, 3).T)
    d_W, offset, step = jnp.array(rng.standard_normal((4, 3))), jnp.array(0.2), 1e-5

    def right_root(W, offset):
        return gram_roots(W, offset, 3)[1]

    found = jax.jvp(right_root, (W, offset), (d_W, jnp.array(1.0)))[1]
    ends = [right_root(W + sign * step * d_W, offset + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=0, atol=1e-7)


@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
def test_gradients_are_finite_at_ties_and_missing_ranks(spectrum):
    rng = np.random.default_rng(2)
    W = orthogonal(rng, 3) @ np.diag(spectrum) @ orthogonal(rng, 3).T
    grad = rng.standard_normal((3, 3))

    def loss(W, c):
        balanced = end_to_end_velocity(W, grad, 3)
        return jnp.sum(balanced**2) + jnp.sum(orthogonal_init_velocity(W, grad, c, c) ** 2)

    for c in (0.0, 0.3):
        for part in jax.jit(jax.grad(loss, (0, 1)))(W, c):
            assert np.all(np.isfinite(part))


def test_jit_vmap_and_single_precision():
    rng = np.random.default_rng(3)
    W, grad = rng.standard_normal((2, 3, 3)), rng.standard_normal((2, 3, 3))
    mapped = jax.jit(jax.vmap(lambda W, grad: end_to_end_velocity(W, grad, 3)))(W, grad)
    np.testing.assert_allclose(mapped[1], end_to_end_velocity(W[1], grad[1], 3), atol=1e-13)
    narrow = end_to_end_velocity(np.float32(W[1]), np.float32(grad[1]), 3, np.float32(0))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, mapped[1], atol=1e-5)


W = np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: end_to_end_velocity(W, np.ones((2, 3)), 2), r"grad must have shape \(2, 2\)"),
        (lambda: end_to_end_velocity(W, W, 0), "depth must be an integer >= 1"),
        (lambda: end_to_end_velocity(W, W, 2.0), "depth must be an integer >= 1"),
        (lambda: end_to_end_velocity(W, W, 2, -1.0), "weight_decay must be non-negative"),
        (lambda: end_to_end_velocity(np.ones(2), np.ones(2), 2), "W must be a matrix"),
        (lambda: singular_value_velocity(W, np.nan * W, 2), "grad must be finite"),
        (lambda: singular_vector_velocity(W, W[:1], 2), r"grad must have shape \(2, 2\)"),
        (lambda: orthogonal_init_velocity(W, W, -1.0, 1.0), "c1 must be non-negative"),
        (lambda: orthogonal_init_grams(W, 1.0, np.inf), "c2 must be non-negative and finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
