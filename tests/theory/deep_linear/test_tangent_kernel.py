"""Tangent kernels against Jacobians, and the laws of laziness against trained networks."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import solve_ivp

from theory.deep_linear.end_to_end import end_to_end_velocity
from theory.deep_linear.modes import two_layer_mode_strength
from theory.deep_linear.riccati import (
    balanced_init,
    fukumizu_matrix,
    qqt,
    split_qqt,
    stack_weights,
)
from theory.deep_linear.tangent_kernel import (
    kernel_alignment,
    low_rank_laziness,
    ntk_balanced,
    ntk_two_layer,
    representation_alignment,
    rich_limit_ntk,
    weight_change,
)

SEEDS = st.integers(0, 2**32 - 1)
SPECTRA = st.sampled_from([[1.7, 0.9, 0.3], [1.0, 1.0, 1.0], [1.5, 0.0, 0.0], [1.2, 1.2, 0.4]])


def orthogonal(rng, n, columns=None):
    return np.linalg.qr(rng.standard_normal((n, columns or n)))[0]


@jax.jit
def jacobian_kernel(layers, X):
    """J J^T over all weights, outputs major."""

    def outputs(layers):
        y = X
        for W in layers:
            y = W @ y
        return y.ravel()

    jacobians = jax.tree.leaves(jax.jacobian(outputs)(layers))
    flat = [J.reshape(J.shape[0], -1) for J in jacobians]
    return sum(J @ J.T for J in flat)


@settings(max_examples=30)
@given(seed=SEEDS)
def test_two_layer_kernel_is_the_jacobian_kernel(seed):
    """Of any weights, balanced or not: the Grams of the layers are all that matters."""
    rng = np.random.default_rng(seed)
    W1, W2, X = (rng.standard_normal(shape) for shape in [(4, 3), (2, 4), (3, 5)])
    expected = jacobian_kernel([W1, W2], X)
    np.testing.assert_allclose(ntk_two_layer(W1.T @ W1, W2 @ W2.T, X), expected, atol=1e-12)


@pytest.mark.parametrize("imbalance", [0.0, 1.1])
def test_kernel_along_training(imbalance):
    """From P(t), against the Jacobian of the weights integrated to t."""
    rng, t = np.random.default_rng(1), 0.7
    task, X = rng.standard_normal((4, 3)), rng.standard_normal((3, 5))
    W1, W2 = (np.asarray(W) for W in balanced_init(jax.random.key(1), 3, 3, 4, 0.5, imbalance))

    def velocity(_, state):
        first, second = state[:9].reshape(3, 3), state[9:].reshape(4, 3)
        error = task - second @ first
        return np.concatenate([(second.T @ error).ravel(), (error @ first.T).ravel()])

    start = np.concatenate([W1.ravel(), W2.ravel()])
    end = solve_ivp(velocity, (0, t), start, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    expected = jacobian_kernel([end[:9].reshape(3, 3), end[9:].reshape(4, 3)], X)
    P = qqt(t, stack_weights(W1, W2), fukumizu_matrix(task, imbalance))
    first, product, second = split_qqt(P, 3)
    np.testing.assert_allclose(ntk_two_layer(first, second, X), expected, atol=1e-9)
    # d vec(W2 W1)/dt = NTK vec(Sigma - W2 W1)
    Q0, F = stack_weights(W1, W2), fukumizu_matrix(task, imbalance)
    change = jax.jacfwd(lambda t: qqt(t, Q0, F))(t)
    flow = ntk_two_layer(first, second, np.eye(3)) @ np.ravel(task - product)
    np.testing.assert_allclose(flow, np.ravel(split_qqt(change, 3)[1]), atol=1e-12)


@settings(max_examples=30)
@given(seed=SEEDS, spectrum=SPECTRA, depth=st.sampled_from([1, 2, 4]))
def test_balanced_kernel_is_the_jacobian_kernel(seed, spectrum, depth):
    """With its eigenvalues, and as the operator that moves the map."""
    rng = np.random.default_rng(seed)
    root = np.diag(np.array(spectrum) ** (1 / depth))
    frames = [orthogonal(rng, 3) for _ in range(depth + 1)]
    layers = [frames[l + 1] @ root @ frames[l].T for l in range(depth)]
    W = frames[-1] @ np.diag(spectrum) @ frames[0].T
    kernel = ntk_balanced(W, depth)
    np.testing.assert_allclose(kernel, jacobian_kernel(layers, np.eye(3)), atol=1e-11)
    powers = np.array(spectrum)[:, None] ** (2 * np.arange(depth) / depth)[None, :]
    eigenvalues = np.sort((powers @ powers[:, ::-1].T).ravel())
    np.testing.assert_allclose(np.linalg.eigvalsh(kernel), eigenvalues, atol=1e-11)
    grad = rng.standard_normal((3, 3))
    velocity = np.ravel(end_to_end_velocity(W, grad, depth))
    np.testing.assert_allclose(-kernel @ grad.ravel(), velocity, atol=1e-11)


@given(
    beta=arrays(float, 4, elements=st.floats(-3, 3)).filter(lambda b: np.linalg.norm(b) > 1e-2),
    depth=st.sampled_from([1, 2, 3, 7]),
)
def test_rich_limit_is_the_kernel_of_the_learned_map(beta, depth):
    found = rich_limit_ntk(beta, depth)
    np.testing.assert_allclose(found, ntk_balanced(beta[None, :], depth), rtol=1e-9, atol=1e-9)
    b = np.linalg.norm(beta)
    np.testing.assert_allclose(np.linalg.eigvalsh(found)[-1], depth * b ** (2 - 2 / depth))


# --- alignments ----------------------------------------------------------------------------------


def gram_of(rng, n, rank):
    factor = rng.standard_normal((n, rank))
    return factor @ factor.T


@given(
    seed=SEEDS, ranks=st.tuples(*[st.integers(1, 4)] * 2), scale=st.sampled_from([1e-200, 1, 1e150])
)
def test_alignments_are_cosines(seed, ranks, scale):
    rng = np.random.default_rng(seed)
    H0, H1 = (rng.standard_normal((rank, 4)) for rank in ranks)
    K0, K1 = H0.T @ H0, H1.T @ H1
    expected = np.sum(K0 * K1) / np.linalg.norm(K0) / np.linalg.norm(K1)
    found = kernel_alignment(scale * K0, K1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(representation_alignment(scale * H0, H1), expected, rtol=1e-12)
    assert 0 <= float(found) <= 1 + 1e-14
    np.testing.assert_allclose(kernel_alignment(K0, scale * K0), 1, rtol=1e-13)
    turn = orthogonal(rng, ranks[0])
    np.testing.assert_allclose(representation_alignment(turn @ H0, H0), 1, rtol=1e-13)


def test_weight_change_over_trees():
    before = {"a": np.array([1.0, 2.0]), "b": (np.array([[3.0]]),)}
    after = {"a": np.array([1.0, 4.0]), "b": (np.array([[2.0]]),)}
    np.testing.assert_allclose(weight_change(before, after), np.sqrt(5))
    slope = jax.grad(lambda W: weight_change(W, W))(np.ones((2, 2)))
    np.testing.assert_array_equal(slope, 0)


# --- laziness and rank ---------------------------------------------------------------------------

D, HIDDEN = 6, 8


def train(W, beta, duration):
    """W and a from a(0) = 0 under gradient flow of 1/2 |beta - W^T a|^2."""

    def velocity(_, state):
        first, a = state[: W.size].reshape(W.shape), state[W.size :]
        error = beta - first.T @ a
        return np.concatenate([np.outer(a, error).ravel(), first @ error])

    start = np.concatenate([W.ravel(), np.zeros(len(W))])
    end = solve_ivp(velocity, (0, duration), start, method="DOP853", rtol=1e-10, atol=1e-12).y[
        :, -1
    ]
    return end[: W.size].reshape(W.shape), end[W.size :]


def low_rank_start(rng, rank, sq_norm):
    V = orthogonal(rng, D, rank)
    return np.sqrt(sq_norm / rank) * orthogonal(rng, HIDDEN, rank) @ V.T, V


@settings(max_examples=15)
@given(
    seed=SEEDS,
    rank=st.sampled_from([1, 2, 4, D]),
    sq_norm=st.sampled_from([0.5, 6.0]),
    aligned=st.booleans(),
)
def test_laziness_against_trained_networks(seed, rank, sq_norm, aligned):
    rng = np.random.default_rng(seed)
    W0, V = low_rank_start(rng, rank, sq_norm)
    beta = V @ rng.standard_normal(rank) if aligned else rng.standard_normal(D)
    beta *= np.sqrt(1.7) / np.linalg.norm(beta)
    rho = 1.0 if aligned or rank == D else np.sum((V.T @ beta) ** 2) / 1.7
    if rho < 1e-2:
        return  # the start is too close to the saddle for the flow to leave it in time
    W, a = train(W0, beta, 200.0)
    kernels = [W0.T @ W0, W.T @ W + a @ a * np.eye(D)]
    expected = {
        "kernel_alignment": kernel_alignment(*kernels),
        "representation_alignment": representation_alignment(W0, W),
        "weight_change": weight_change(W0, W),
        "readout_norm": np.linalg.norm(a),
        "kernel_norm_ratio": np.linalg.norm(kernels[1]) / np.linalg.norm(kernels[0]),
    }
    found = low_rank_laziness(rank, D, sq_norm, 1.7, rho)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_small_weights_end_in_the_rich_limit():
    """Whatever their directions; what the start leaves behind is its Gram matrix, O(scale^2)."""
    rng, scales, errors = np.random.default_rng(3), np.array([0.04, 0.02, 0.01]), []
    W0, beta = rng.standard_normal((HIDDEN, D)), rng.standard_normal(D)
    for scale in scales:
        W, a = train(scale * W0, beta, 40.0)
        kernel = W.T @ W + a @ a * np.eye(D)
        errors.append(np.abs(kernel - rich_limit_ntk(beta, 2)).max())
    slope = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.2, (slope, errors)


def test_time_course_is_one_hidden_unit_of_imbalance_minus_sigma_squared():
    """Aligned it is the scalar solution; otherwise the single unit starts at sigma V V^T beta."""
    rng, t = np.random.default_rng(4), 1.3
    for rank, aligned in [(1, True), (3, False)]:
        W0, V = low_rank_start(rng, rank, 2.4)
        sigma = np.sqrt(2.4 / rank)
        beta = V @ rng.standard_normal(rank) if aligned else rng.standard_normal(D)
        inside = V @ (V.T @ beta)
        unit = np.concatenate([sigma * inside / np.linalg.norm(inside), [0.0]])
        P = qqt(t, unit[:, None], fukumizu_matrix(beta[None, :], -(sigma**2)))
        W, a = train(W0, beta, t)
        np.testing.assert_allclose(split_qqt(P, D)[1][0], W.T @ a, atol=1e-8)
        if aligned:
            s = np.linalg.norm(beta)
            strength = two_layer_mode_strength(t, s, 0.0, sigma**2)
            np.testing.assert_allclose(beta @ W.T @ a / s, strength, rtol=1e-8)


@given(
    n_in=st.sampled_from([5, 12, 30]),
    sq_norm=st.floats(-1, 1.7).map(lambda x: 10.0**x),
    target=st.floats(-1, 1).map(lambda x: 10.0**x),
)
def test_alignment_rises_with_rank_on_average_over_tasks(n_in, sq_norm, target):
    """At fixed norm; a task inside a low-rank start is the exception."""
    rank = np.arange(1, n_in + 1)
    average = low_rank_laziness(rank, n_in, sq_norm, target)
    for name in ("kernel_alignment", "representation_alignment"):
        value = np.asarray(average[name])
        assert np.all((value >= 0) & (value <= 1 + 1e-14))
    assert np.all(np.diff(average["kernel_alignment"]) > 0)
    aligned = low_rank_laziness(1, n_in, sq_norm, target, 1.0)
    assert aligned["kernel_alignment"] > average["kernel_alignment"][0]


@given(rank=st.integers(1, 12), target=st.floats(-1, 1).map(lambda x: 10.0**x))
def test_aligned_starts_become_lazy_with_their_norm(rank, target):
    sq_norm = np.geomspace(0.01, 1e4, 15) * target
    alignment = np.asarray(low_rank_laziness(rank, 12, sq_norm, target, 1.0)["kernel_alignment"])
    assert np.all(np.diff(alignment) > 0)
    assert 1 - alignment[-1] < 1e-3


def test_average_over_random_tasks_is_the_value_at_the_mean():
    """rho ~ Beta(r/2, (d-r)/2) enters both alignments linearly: 4 standard errors of 4000 draws."""
    for rank in (1, 3, 8):
        rho = np.random.default_rng(rank).beta(rank / 2, (12 - rank) / 2, 4000)
        draws = low_rank_laziness(rank, 12, 6.0, 1.7, rho)
        mean = low_rank_laziness(rank, 12, 6.0, 1.7)
        for name in ("kernel_alignment", "representation_alignment"):
            error = 4 * np.std(draws[name]) / np.sqrt(4000)
            assert abs(np.mean(draws[name]) - mean[name]) < error


def test_task_outside_the_start_moves_nothing_and_gradients_are_finite():
    still = low_rank_laziness(2, 12, 6.0, 1.7, 0.0)
    expected = [1.0, 1.0, 0.0, 0.0, 1.0]
    names = ["kernel_alignment", "representation_alignment", "weight_change", "readout_norm"]
    np.testing.assert_array_equal([still[n] for n in [*names, "kernel_norm_ratio"]], expected)
    for rho in (0.0, 0.5, 1.0):
        value = lambda c, b, r: sum(low_rank_laziness(2, 12, c, b, r).values())  # noqa: E731
        slopes = jax.jit(jax.grad(value, (0, 1, 2)))(6.0, 1.7, rho)
        assert np.all(np.isfinite(slopes))


eye = np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ntk_two_layer(eye, eye, np.ones((3, 1))), r"W1tW1 must have shape \(3, 3\)"),
        (lambda: ntk_two_layer(eye, np.ones((2, 3)), eye), r"W2W2t must have shape \(2, 2\)"),
        (lambda: ntk_balanced(eye, 0), "depth must be an integer >= 1"),
        (lambda: ntk_balanced(np.ones(3), 2), "W must be a matrix"),
        (lambda: rich_limit_ntk(np.zeros(3), 2), r"\|beta\| must be positive"),
        (lambda: rich_limit_ntk(eye, 2), "beta must be a vector"),
        (lambda: kernel_alignment(eye, np.eye(3)), r"K1 must have shape \(2, 2\)"),
        (lambda: kernel_alignment(eye, 0 * eye), r"\|K1\| must be positive"),
        (lambda: representation_alignment(eye, np.ones((2, 3))), r"H1 must have shape \(2, 2\)"),
        (lambda: weight_change([eye], [eye[0]]), "W1 must have the arrays of W0"),
        (lambda: weight_change([eye], [np.nan * eye]), r"W1\[0\] must be finite"),
        (lambda: low_rank_laziness(0, 5, 1.0, 1.0), "rank must be an integer >= 1"),
        (lambda: low_rank_laziness(6, 5, 1.0, 1.0), "rank must be at most n_in"),
        (lambda: low_rank_laziness(2, 5, 0.0, 1.0), "sq_norm must be positive"),
        (lambda: low_rank_laziness(2, 5, 1.0, 1.0, 1.5), "task_alignment must be between 0 and 1"),
        (lambda: low_rank_laziness(5, 5, 1.0, 1.0, 0.5), "task_alignment must be 1 at full rank"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
