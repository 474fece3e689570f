"""Imbalance and the initial weights made for it, against their definitions and real flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.deep_linear.modes import two_layer_mode_strength
from theory.deep_linear.riccati import (
    balanced_init,
    determinant_obstruction,
    hidden_orthogonal_init,
    imbalance_matrix,
    is_feasible_imbalance,
    is_lambda_balanced,
    rescale_layer_rates,
    wide_mode_imbalance,
)

SEEDS = st.integers(0, 2**32 - 1)
WIDTHS = st.sampled_from(
    [(3, 3, 3), (5, 3, 3), (5, 4, 3), (3, 4, 6), (3, 3, 5), (2, 7, 4), (4, 1, 2)]
)
IMBALANCES = st.sampled_from([0.0, 1e-3, 0.8, -0.9, 50.0, -50.0])


@given(seed=SEEDS, widths=WIDTHS, imbalance=IMBALANCES, scale=st.sampled_from([0.0, 1e-4, 0.7]))
def test_balanced_weights_or_a_reason(seed, widths, imbalance, scale):
    """Feasible or refused; feasible, too: a negative imbalance with more outputs than inputs."""
    n_in, hidden, n_out = widths
    limit = {True: n_out, False: n_in}[imbalance > 0]
    feasible = imbalance == 0 or hidden <= limit
    assert is_feasible_imbalance(*widths, imbalance) == feasible
    key = jax.random.key(seed)
    if not feasible:
        with pytest.raises(ValueError, match=f"n_hidden must be at most .* = {limit}"):
            balanced_init(key, *widths, scale, imbalance)
        return
    W1, W2 = balanced_init(key, *widths, scale, imbalance)
    assert (W1.shape, W2.shape) == ((hidden, n_in), (n_out, hidden))
    balanced, measured = is_lambda_balanced(W1, W2)
    size = np.sum(np.square(W1)) + np.sum(np.square(W2))
    assert bool(balanced)
    np.testing.assert_allclose(measured, imbalance, rtol=0, atol=1e-14 * size)
    if imbalance == 0:
        ranks = {np.linalg.matrix_rank(W) for W in (W1, W2)}
        assert ranks == {min(widths) if scale else 0}


def test_no_weights_where_infeasible():
    """W2^T W2 = W1 W1^T + lambda I has full rank for lambda > 0; W2 (2, 3) cannot have it."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        W2 = rng.standard_normal((2, 3))
        assert np.linalg.eigvalsh(W2.T @ W2 - 0.1 * np.eye(3))[0] < 0
    assert not is_feasible_imbalance(4, 3, 2, 0.1)


@pytest.mark.parametrize("imbalance", [0.0, 0.8, -0.8])
def test_entries_of_the_lighter_layer_and_isotropy(imbalance):
    """Mean square scale^2/fan-in; the other side averages to a multiple of the identity."""
    keys = jax.random.split(jax.random.key(1), 4000)
    W1, W2 = jax.vmap(lambda key: balanced_init(key, 3, 2, 3, 0.6, imbalance))(keys)
    squares = np.square(W1 if imbalance >= 0 else W2).mean(axis=0)
    np.testing.assert_allclose(squares, 0.36 / (3 if imbalance >= 0 else 2), rtol=0.15)
    for W in (W1, jnp.swapaxes(W2, 1, 2)):  # over inputs, over outputs
        gram = np.einsum("khi,khj->ij", W, W) / len(W)
        mean = np.trace(gram) / 3
        # entries of 4000 Gram matrices of size about their mean: 4 standard errors are 0.1
        np.testing.assert_allclose(gram, mean * np.eye(3), atol=0.1 * mean)


@given(seed=SEEDS, widths=WIDTHS)
def test_imbalance_is_conserved_for_any_gradient(seed, widths):
    """d(W2^T W2 - W1 W1^T)/dt = 0 along dW1 = -W2^T G, dW2 = -G W1^T, whatever G."""
    n_in, hidden, n_out = widths
    rng = np.random.default_rng(seed)
    W1, W2 = rng.standard_normal((hidden, n_in)), rng.standard_normal((n_out, hidden))
    G = rng.standard_normal((n_out, n_in))
    change = jax.jvp(imbalance_matrix, (W1, W2), (-W2.T @ G, -G @ W1.T))[1]
    np.testing.assert_allclose(change, 0, atol=1e-13)
    assert not bool(is_lambda_balanced(W1, W2)[0]) or hidden == 1
    assert bool(is_lambda_balanced(W1, W2, atol=1e3)[0])


def test_obstruction_only_where_it_exists():
    eye, task = np.eye(3), np.diag([2.0, 1.0, -0.5])
    assert bool(determinant_obstruction(eye, eye, task))
    assert not bool(determinant_obstruction(eye, eye, -task))
    assert not bool(determinant_obstruction(2 * eye, eye, task))  # imbalanced
    assert not bool(determinant_obstruction(eye, eye, np.diag([2.0, 1.0, 0.0])))
    assert not bool(determinant_obstruction(np.diag([1.0, 1, 0]), np.diag([1.0, 1, 0]), task))
    assert not bool(determinant_obstruction(eye[:2], eye[:, :2], task))  # a bottleneck
    assert not bool(determinant_obstruction(eye, eye[:2], task[:2]))


# --- orthogonal and wide starts: every mode of every task on its own ------------------------------


def flow_of_maps(W1, W2, task, times):
    """Maps W2 W1 under gradient flow of the weights on white inputs."""
    W1, W2 = np.asarray(W1), np.asarray(W2)

    def velocity(_, state):
        first, second = state[: W1.size].reshape(W1.shape), state[W1.size :].reshape(W2.shape)
        error = task - second @ first
        return np.concatenate([(second.T @ error).ravel(), (error @ first.T).ravel()])

    start = np.concatenate([W1.ravel(), W2.ravel()])
    path = solve_ivp(
        velocity, (0, times[-1]), start, t_eval=times, method="DOP853", rtol=1e-10, atol=1e-12
    ).y.T
    return [y[W1.size :].reshape(W2.shape) @ y[: W1.size].reshape(W1.shape) for y in path]


TIMES = np.linspace(0, 2, 6)


def predicted(task, kappa):
    U, s, Vt = np.linalg.svd(task, full_matrices=False)
    u = np.asarray(two_layer_mode_strength(TIMES[:, None], s[None, :], 0.0, kappa))
    return np.array([(U * strengths) @ Vt for strengths in u])


@settings(max_examples=15)
@given(seed=SEEDS, c=st.sampled_from([(0.5, 0.2), (0.0, 0.3), (2.0, 2.0), (1e-3, 0.0)]))
def test_hidden_orthogonal_start(seed, c):
    W1, W2 = hidden_orthogonal_init(jax.random.key(seed), 3, 6, 2, *c)
    np.testing.assert_allclose(W1.T @ W1, c[0] * np.eye(3), atol=1e-14)
    np.testing.assert_allclose(W2 @ W2.T, c[1] * np.eye(2), atol=1e-14)
    np.testing.assert_allclose(W2 @ W1, 0, atol=1e-14)
    task = np.random.default_rng(seed).standard_normal((2, 3))
    maps = flow_of_maps(W1, W2, task, TIMES)
    np.testing.assert_allclose(predicted(task, sum(c)), maps, atol=1e-8)


def test_wide_gaussian_start_approaches_it_as_the_root_of_the_width():
    """Root mean square over 12 draws at three widths; its spread leaves the exponent 0.1 unsure."""
    rng, sigma = np.random.default_rng(2), (0.5, 0.3)  # at width 1
    task = np.diag([1.0, 0.5]) @ np.eye(2, 3)
    widths, errors = np.array([32, 128, 512]), []
    for width in widths:
        spread = np.array(sigma) / np.sqrt(width)
        kappa = float(wide_mode_imbalance(*spread, width))
        np.testing.assert_allclose(kappa, 0.34)
        draws = []
        for _ in range(12):
            W1 = spread[0] * rng.standard_normal((width, 3))
            W2 = spread[1] * rng.standard_normal((2, width))
            draws.append(np.square(flow_of_maps(W1, W2, task, TIMES) - predicted(task, kappa)))
        errors.append(np.sqrt(np.mean(draws)))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.2, (slope, errors)


W, row = np.eye(2), np.ones((1, 2))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: imbalance_matrix(W, np.ones((2, 3))), r"W2 must have shape \(outputs, 2\)"),
        (lambda: imbalance_matrix(np.full((2, 2), np.inf), W), "W1 must be finite"),
        (lambda: is_lambda_balanced(W, W, atol=-1.0), "atol must be non-negative"),
        (lambda: is_feasible_imbalance(0, 1, 1, 0.0), "n_in must be an integer >= 1"),
        (lambda: is_feasible_imbalance(1, 1, 1, np.nan), "imbalance must be finite"),
        (lambda: balanced_init(KEY, 2, 2, 2, -1.0), "scale must be non-negative"),
        (lambda: balanced_init(KEY, 2, 2, 2, 1.0, det_sign=0), "det_sign must be 1, -1 or None"),
        (lambda: balanced_init(KEY, 2, 2, 3, 1.0, det_sign=1), "det_sign needs n_in = n_out"),
        (lambda: balanced_init(KEY, 3, 2, 3, 1.0, det_sign=1), "det_sign needs n_in = n_out"),
        (lambda: hidden_orthogonal_init(KEY, 2, 3, 2, 1.0, 1.0), "n_hidden must be at least"),
        (lambda: hidden_orthogonal_init(KEY, 2, 4, 2, -1.0, 1.0), "c1 must be non-negative"),
        (lambda: wide_mode_imbalance(-1.0, 1.0, 4), "sigma1 must be non-negative"),
        (lambda: determinant_obstruction(W, W, row), r"sigma_yx must have shape \(2, 2\)"),
        (lambda: rescale_layer_rates(W, W, W, 0.0, 1.0), "rate1 must be positive"),
        (lambda: rescale_layer_rates(W, W, row, 1.0, 1.0), r"sigma_yx must have shape \(2, 2\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
