"""The matrix Riccati solution against the full weights, and the symmetries it must have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.deep_linear import riccati
from theory.deep_linear.modes import mode_imbalance, two_layer_mode_strength
from theory.deep_linear.riccati import (
    balanced_init,
    factor_qqt,
    fukumizu_matrix,
    imbalance_matrix,
    qqt,
    qqt_factor,
    qqt_limit,
    rescale_layer_rates,
    split_qqt,
    stack_weights,
)

# (inputs, hidden, outputs): square, overcomplete, a bottleneck, one hidden unit
SHAPES = [(3, 3, 3), (4, 6, 2), (3, 2, 4), (3, 1, 2)]
FEASIBLE = {(3, 3, 3): (0.0, 1.2, -0.7), (4, 6, 2): (0.0,), (3, 2, 4): (0.0, 0.9, -1.1)}
SEEDS = st.integers(0, 2**32 - 1)
# generic singular values and the degenerate ones: repeated, missing, nearly repeated, none at all
SPECTRA = st.one_of(
    st.lists(st.floats(0.05, 3.0), min_size=4, max_size=4),
    st.sampled_from(
        [
            [1.5, 1.5, 1.5, 1.5],
            [2.0, 0, 0, 0],
            [2.0, 2.0, 0, 0],
            [1, 1 + 1e-9, 0.5, 0],
            [0, 0, 0, 0],
        ]
    ),
)


def orthogonal(rng, n, columns):
    return np.linalg.qr(rng.standard_normal((n, columns)))[0]


def make_task(rng, shape, spectrum):
    n_in, _, n_out = shape
    modes = min(n_in, n_out)
    left, right = orthogonal(rng, n_out, modes), orthogonal(rng, n_in, modes)
    return left @ np.diag(np.array(spectrum[:modes], float)) @ right.T


def make_weights(seed, shape, imbalance, scale=0.6):
    """Balanced weights; a single hidden unit is balanced as it comes, and says with what."""
    if shape[1] > 1:
        return *balanced_init(jax.random.key(seed), *shape, scale, imbalance), imbalance
    rng = np.random.default_rng(seed)
    W1, W2 = rng.standard_normal((1, shape[0])), rng.standard_normal((shape[2], 1))
    return W1, W2, float(np.sum(W2**2) - np.sum(W1**2))


def integrate(W1, W2, task, times, decay=0.0, rates=(1.0, 1.0), variance=1.0):
    """The weights under gradient flow, independently of any closed form."""
    W1, W2 = np.asarray(W1), np.asarray(W2)

    def velocity(_, state):
        first, second = state[: W1.size].reshape(W1.shape), state[W1.size :].reshape(W2.shape)
        error = task - variance * second @ first
        change = [rates[0] * (second.T @ error - decay * first)]
        change.append(rates[1] * (error @ first.T - decay * second))
        return np.concatenate([part.ravel() for part in change])

    start = np.concatenate([W1.ravel(), W2.ravel()])
    flow = solve_ivp(
        velocity, (0, times[-1]), start, t_eval=times, method="DOP853", rtol=1e-11, atol=1e-13
    )
    return [(y[: W1.size].reshape(W1.shape), y[W1.size :].reshape(W2.shape)) for y in flow.y.T]


def assert_close(found, expected, tolerance):
    """Relative to the largest entry: the blocks of P mix large and small numbers."""
    scale = max(np.abs(np.asarray(expected)).max(), 1e-300)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


TIMES = np.array([0.0, 0.3, 1.0, 3.0])
cases = st.sampled_from(SHAPES).flatmap(
    lambda shape: st.tuples(st.just(shape), st.sampled_from(FEASIBLE.get(shape, (0.0,))))
)


@settings(max_examples=15)
@given(case=cases, seed=SEEDS, spectrum=SPECTRA)
def test_against_the_weights(case, seed, spectrum):
    """1e-8 is what the integration is good for where modes grow by e^{f t}, f t < 10."""
    shape, imbalance = case
    task = make_task(np.random.default_rng(seed), shape, spectrum)
    W1, W2, imbalance = make_weights(seed, shape, imbalance)
    path = integrate(W1, W2, task, TIMES)
    found = qqt(TIMES, stack_weights(W1, W2), fukumizu_matrix(task, imbalance))
    for P, (first, second) in zip(found, path, strict=True):
        Q = np.concatenate([first.T, second])
        assert_close(P, Q @ Q.T, 1e-8)
        np.testing.assert_allclose(
            imbalance_matrix(first, second), imbalance * np.eye(shape[1]), atol=1e-9
        )
    first_gram, product, second_gram = split_qqt(found[-1], shape[0])
    first, second = path[-1]
    assert_close(product, second @ first, 1e-8)
    assert_close(first_gram, first.T @ first, 1e-8)
    assert_close(second_gram, second @ second.T, 1e-8)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_weight_decay_against_the_weights(shape):
    task = make_task(np.random.default_rng(1), shape, [2.0, 0.8, 0.3, 0.1])
    W1, W2, _ = make_weights(1, shape, 0.0)
    path = integrate(W1, W2, task, TIMES, decay=0.5)
    found = qqt(TIMES, stack_weights(W1, W2), fukumizu_matrix(task, weight_decay=0.5))
    for P, (first, second) in zip(found, path, strict=True):
        Q = np.concatenate([first.T, second])
        assert_close(P, Q @ Q.T, 1e-8)


def test_imbalance_decays_with_weight_decay():
    """Why no closed form is offered for both at once."""
    shape, decay = (3, 3, 3), 0.35
    W1, W2, imbalance = make_weights(2, shape, 1.3)
    task = make_task(np.random.default_rng(2), shape, [2.0, 1.0, 0.5])
    for t, weights in zip(TIMES, integrate(W1, W2, task, TIMES, decay=decay), strict=True):
        expected = imbalance * np.exp(-2 * decay * t) * np.eye(3)
        np.testing.assert_allclose(imbalance_matrix(*weights), expected, atol=1e-9)


def test_tau_and_learning_rates_of_layers():
    """One hidden unit: exact from arbitrary weights, at any pair of learning rates."""
    rng, rates = np.random.default_rng(3), (0.4, 2.5)
    W1, W2, task = rng.standard_normal((1, 3)), rng.standard_normal((2, 1)), np.ones((2, 3))
    path = integrate(W1, W2, task, TIMES, rates=rates)
    same = rescale_layer_rates(W1, W2, task, *rates)
    imbalance = imbalance_matrix(same.W1, same.W2)[0, 0]
    F = fukumizu_matrix(same.sigma_yx, imbalance)
    found = qqt(2.0 * TIMES, stack_weights(same.W1, same.W2), F, tau=2.0 / same.time_scale)
    for P, (first, second) in zip(found, path, strict=True):
        assert_close(same.map_scale * split_qqt(P, 3)[1], second @ first, 1e-8)


def test_white_inputs_of_any_variance():
    rng, variance = np.random.default_rng(4), 1.7
    W1, W2, task = rng.standard_normal((1, 3)), rng.standard_normal((2, 1)), np.ones((2, 3))
    path = integrate(W1, W2, task, TIMES, variance=variance)
    root = np.sqrt(variance)
    same = rescale_layer_rates(root * W1, W2, task / root, variance, 1.0)
    F = fukumizu_matrix(same.sigma_yx, imbalance_matrix(same.W1, same.W2)[0, 0])
    found = qqt(same.time_scale * TIMES, stack_weights(same.W1, same.W2), F)
    for P, (first, second) in zip(found, path, strict=True):
        assert_close(same.map_scale * split_qqt(P, 3)[1], root * second @ first, 1e-8)


@given(case=cases, seed=SEEDS, spectrum=SPECTRA, t=st.floats(0, 30))
def test_rank_and_spectrum_at_every_time(case, seed, spectrum, t):
    """P is a Gram matrix; balance ties the spectra of its two blocks together."""
    shape, imbalance = case
    n_in, hidden, n_out = shape
    task = make_task(np.random.default_rng(seed), shape, spectrum)
    W1, W2, imbalance = make_weights(seed, shape, imbalance)
    P = np.asarray(qqt(t, stack_weights(W1, W2), fukumizu_matrix(task, imbalance)))
    np.testing.assert_allclose(P, P.T, rtol=0, atol=1e-14 * P.max())
    values = np.linalg.eigvalsh(P)[::-1]
    assert values[-1] >= -1e-13 * values[0]
    assert np.all(np.abs(values[hidden:]) <= 1e-13 * values[0])
    if hidden <= min(n_in, n_out):
        first, _, second = (np.asarray(block) for block in split_qqt(P, n_in))
        tops = [np.linalg.eigvalsh(gram)[::-1][:hidden] for gram in (first, second)]
        # the balance of the weights handed over is good to 1e-15 and grows as e^{2 f t} if at all
        np.testing.assert_allclose(tops[0] + imbalance, tops[1], rtol=0, atol=1e-9 * values[0])


@given(case=cases, seed=SEEDS, spectrum=SPECTRA, t=st.floats(0, 20))
def test_rotations_of_inputs_outputs_and_hidden_units(case, seed, spectrum, t):
    shape, imbalance = case
    n_in, hidden, n_out = shape
    rng = np.random.default_rng(seed)
    task = make_task(rng, shape, spectrum)
    W1, W2, imbalance = (np.asarray(x) for x in make_weights(seed, shape, imbalance))
    O, R, H = (orthogonal(rng, n, n) for n in (n_out, n_in, hidden))
    P = qqt(t, stack_weights(W1, W2), fukumizu_matrix(task, imbalance))
    turned_start = stack_weights(H @ W1 @ R.T, O @ W2 @ H.T)
    turned = qqt(t, turned_start, fukumizu_matrix(O @ task @ R.T, imbalance))
    turn = np.block([[R, np.zeros((n_in, n_out))], [np.zeros((n_out, n_in)), O]])
    # a rounding of the start grows at most as e^{f t} in amplitude; f t < 65 only where learned
    growth = np.exp(min(max(spectrum) * t, 16))
    assert_close(turned, turn @ P @ turn.T, 1e-13 * growth)


@given(case=cases, seed=SEEDS, spectrum=SPECTRA, times=st.tuples(*[st.floats(0, 4)] * 2))
def test_semigroup(case, seed, spectrum, times):
    """Two flows one after the other are one; the second may start from P or from its factor."""
    shape, imbalance = case
    task = make_task(np.random.default_rng(seed), shape, spectrum)
    W1, W2, imbalance = make_weights(seed, shape, imbalance)
    Q0, F = stack_weights(W1, W2), fukumizu_matrix(task, imbalance)
    whole = qqt(sum(times), Q0, F)
    assert_close(qqt(times[1], qqt_factor(times[0], Q0, F), F), whole, 1e-9)
    assert_close(qqt(times[1], factor_qqt(qqt(times[0], Q0, F), shape[1]), F), whole, 1e-8)


@given(
    case=cases,
    seed=SEEDS,
    spectrum=SPECTRA,
    t=st.floats(0, 10),
    factor=st.floats(-2, 2).map(lambda x: 10.0**x),
)
def test_scaling(case, seed, spectrum, t, factor):
    """tau is a unit of time, and a task k times as strong is learned k times as fast."""
    shape, imbalance = case
    task = make_task(np.random.default_rng(seed), shape, spectrum)
    W1, W2, imbalance = make_weights(seed, shape, imbalance)
    Q0, F = stack_weights(W1, W2), fukumizu_matrix(task, imbalance)
    P = qqt(t, Q0, F)
    assert_close(qqt(factor * t, Q0, F, tau=factor), P, 1e-10)
    assert_close(qqt(t / factor, np.sqrt(factor) * Q0, factor * F), factor * P, 1e-10)


def test_task_switches():
    """Learning, reversal and a third task, by composition, against the weights."""
    rng, shape = np.random.default_rng(5), (3, 3, 3)
    first = make_task(rng, shape, [2.0, 1.2, 0.7])
    tasks = [first, -0.5 * first, make_task(rng, shape, [1.5, 1.0, 1.0])]
    W1, W2, imbalance = make_weights(5, shape, 0.4)
    weights, Q = (W1, W2), stack_weights(W1, W2)
    for task, duration in zip(tasks, [1.5, 4.0, 2.0], strict=True):
        weights = integrate(*weights, task, np.array([0.0, duration]))[-1]
        Q = qqt_factor(duration, Q, fukumizu_matrix(task, imbalance))
        expected = stack_weights(*weights)
        assert_close(Q @ Q.T, expected @ expected.T, 1e-8)


@given(
    seed=SEEDS,
    s=st.floats(0.1, 3.0),
    scale=st.floats(-6, 0.5).map(lambda x: 10.0**x),
    t=st.floats(0, 30),
)
def test_one_mode_is_the_scalar_solution(seed, s, scale, t):
    """1-1-1: the module of modes, in terms of hyperbolic functions, against matrices."""
    a, b = scale * np.random.default_rng(seed).standard_normal(2)
    imbalance = b * b - a * a
    P = qqt(t, np.array([[a], [b]]), fukumizu_matrix(np.array([[s]]), imbalance))
    expected = two_layer_mode_strength(t, s, a * b, mode_imbalance(np.array([a]), np.array([b])))
    # the overlap a + b with the growing direction carries the rounding of a and b
    lost = max(1.0, (abs(a) + abs(b)) / abs(a + b))
    np.testing.assert_allclose(P[1, 0], expected, rtol=1e-11 * lost, atol=1e-14 * scale**2)


@settings(max_examples=25)
@given(case=cases, seed=SEEDS, spectrum=SPECTRA)
def test_limit_is_where_the_flow_ends(case, seed, spectrum):
    """By t = 1e7 gaps of 1e-2 are closed, eigenvalues 0 are gone as 1/t, roundings grown by f t."""
    shape, imbalance = case
    spectrum = np.round(np.array(spectrum, float), 2)
    task = make_task(np.random.default_rng(seed), shape, spectrum)
    W1, W2, imbalance = make_weights(seed, shape, imbalance)
    Q0, F = stack_weights(W1, W2), fukumizu_matrix(task, imbalance)
    end = qqt_limit(Q0, F)
    np.testing.assert_allclose(qqt(1e7, Q0, F), end.qqt, rtol=0, atol=1e-6)
    values = np.linalg.eigvalsh(end.qqt)
    assert int(end.learned) == np.sum(values > 1e-9)
    growing = np.sum(np.linalg.eigvalsh(F) > 1e-9)
    assert int(end.missed) == min(shape[1], growing) - int(end.learned)
    if shape != (3, 3, 3) or imbalance:  # otherwise see the determinant obstruction
        assert int(end.missed) == 0
        U, s, Vt = np.linalg.svd(task)
        kept = np.where(np.arange(s.size) < shape[1], s, 0)
        product = split_qqt(end.qqt, shape[0])[1]
        np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False), kept, atol=1e-9)
        if shape[1] >= s.size or s[shape[1]] < s[shape[1] - 1] - 1e-3:  # then it is unique
            np.testing.assert_allclose(product, (U[:, : s.size] * kept) @ Vt[: s.size], atol=1e-9)


@given(seed=SEEDS, imbalance=st.sampled_from([1.2, -0.7, 0.05]))
def test_final_kernels_of_both_layers(seed, imbalance):
    shape = (3, 3, 3)
    task = make_task(np.random.default_rng(seed), shape, [2.0, 1.1, 0.4])
    W1, W2, _ = make_weights(seed, shape, imbalance)
    end = qqt_limit(stack_weights(W1, W2), fukumizu_matrix(task, imbalance))
    first, product, second = split_qqt(end.qqt, 3)
    U, s, Vt = np.linalg.svd(task)
    root = np.sqrt(s**2 + imbalance**2 / 4)
    assert_close(product, task, 1e-12)
    assert_close(first, (Vt.T * (root - imbalance / 2)) @ Vt, 1e-12)
    assert_close(second, (U * (root + imbalance / 2)) @ U.T, 1e-12)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_weight_decay_is_a_soft_threshold(shape):
    spectrum = [2.0, 0.9, 0.2]
    task = make_task(np.random.default_rng(6), shape, spectrum)
    W1, W2, _ = make_weights(6, shape, 0.0)
    Q0, (U, s, Vt) = stack_weights(W1, W2), np.linalg.svd(task, full_matrices=False)
    for decay in [0.1, 0.5, 0.9]:
        end = qqt_limit(Q0, fukumizu_matrix(task, weight_decay=decay))
        left = np.maximum(s - decay, 0)
        left[shape[1] :] = 0
        expected = (U * left) @ Vt
        if int(end.missed) == 0:
            assert_close(split_qqt(end.qqt, shape[0])[1], expected, 1e-12)
            assert int(end.learned) == np.sum(left > 0)
        assert_close(qqt(1e4, Q0, fukumizu_matrix(task, weight_decay=decay)), end.qqt, 1e-3)
    collapsed = qqt_limit(Q0, fukumizu_matrix(task, weight_decay=s[0]))
    assert int(collapsed.learned) == 0
    assert not np.any(collapsed.qqt)


def test_limit_on_whitened_data_is_least_squares():
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((4, 30)), rng.standard_normal((2, 30))
    values, vectors = np.linalg.eigh(X @ X.T / 30)
    X = vectors @ np.diag(values**-0.5) @ vectors.T @ X
    W1, W2, _ = make_weights(7, (4, 6, 2), 0.0)
    F = fukumizu_matrix(Y @ X.T / 30, sigma_xx=X @ X.T / 30)
    product = split_qqt(qqt_limit(stack_weights(W1, W2), F).qqt, 4)[1]
    assert_close(product, Y @ np.linalg.pinv(X), 1e-12)


def test_cut_through_equal_eigenvalues_is_made_by_the_start():
    """Two equal modes, one hidden unit: the direction learned is the start's share of both."""
    F, Q0 = fukumizu_matrix(np.diag([2.0, 2.0])), np.array([[0.3], [0.1], [0.3], [0.1]])
    end = qqt_limit(Q0, F)
    direction = np.array([3.0, 1.0]) / np.sqrt(10.0)
    assert_close(split_qqt(end.qqt, 2)[1], 2 * np.outer(direction, direction), 1e-14)
    assert_close(qqt(1e3, Q0, F), end.qqt, 1e-13)


def test_lazy_limit_freezes_one_kernel_and_decays_exponentially():
    """Corrections are of order s^2/lambda^2 and |W2 W1(0)|: the exponent -2 is measured."""
    task = make_task(np.random.default_rng(8), (3, 3, 3), [0.6, 0.5, 0.3])
    changes, deviations = [], []
    imbalances = np.array([20.0, 80.0, 320.0])
    for imbalance in imbalances:
        W1, W2, _ = make_weights(8, (3, 3, 3), imbalance, scale=1e-3)
        t = np.array([0.0, 1.0 / imbalance, 10.0 / imbalance])
        P = qqt(t, stack_weights(W1, W2), fukumizu_matrix(task, imbalance))
        _, product, kernel = split_qqt(P, 3)
        changes.append(np.abs(kernel[2] - kernel[0]).max() / imbalance)
        exponential = task + (product[0] - task) * np.exp(-1.0)
        deviations.append(np.abs(product[1] - exponential).max())
    slopes = [np.polyfit(np.log(imbalances), np.log(x), 1)[0] for x in (changes, deviations)]
    np.testing.assert_allclose(slopes, -2.0, atol=0.15)


def test_spectrum_of_the_fukumizu_matrix():
    rng = np.random.default_rng(9)
    for shape, imbalance, decay in [
        ((4, 6, 2), 0.8, 0.0),
        ((3, 2, 4), -1.1, 0.0),
        ((3, 3, 3), 0, 1),
    ]:
        n_in, _, n_out = shape
        task = rng.standard_normal((n_out, n_in))
        root = np.sqrt(np.linalg.svd(task, compute_uv=False) ** 2 + imbalance**2 / 4)
        rest = np.full(abs(n_out - n_in), np.sign(n_out - n_in) * imbalance / 2)
        expected = np.sort(np.concatenate([root, -root, rest])) - decay
        F = fukumizu_matrix(task, imbalance, decay)
        np.testing.assert_allclose(np.linalg.eigvalsh(F), expected, atol=1e-13)


def test_shapes_of_time_jit_and_vmap():
    task = make_task(np.random.default_rng(10), (3, 3, 3), [2.0, 1.0, 0.5])
    W1, W2, _ = make_weights(10, (3, 3, 3), 0.0)
    Q0, F, t = stack_weights(W1, W2), fukumizu_matrix(task), np.array([[0.0, 0.5], [2.0, 9.0]])
    whole = qqt(t, Q0, F)
    assert whole.shape == (2, 2, 6, 6)
    assert qqt_factor(t, Q0, F).shape == (2, 2, 6, 3)
    compiled = jax.jit(qqt)
    for index in np.ndindex(2, 2):
        np.testing.assert_allclose(compiled(t[index], Q0, F), whole[index], rtol=0, atol=1e-13)
    starts = jnp.stack([Q0, 2 * Q0])
    mapped = jax.vmap(qqt, (None, 0, None))(0.5, starts, F)
    np.testing.assert_allclose(mapped[0], whole[0, 1], rtol=0, atol=1e-13)
    ends = jax.vmap(qqt_limit, (0, None))(starts, F)
    np.testing.assert_allclose(ends.qqt[0], qqt_limit(Q0, F).qqt, rtol=0, atol=1e-13)
    assert ends.learned.shape == ends.missed.shape == (2,)


def test_everything_promised_is_here():
    for name in riccati.__all__:
        assert callable(getattr(riccati, name))


eye, row = np.eye(2), np.ones((1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qqt(-1.0, np.ones((4, 2)), np.eye(4)), "t must be non-negative"),
        (lambda: qqt(1.0, np.ones((4, 2)), np.eye(4), tau=0.0), "tau must be positive"),
        (lambda: qqt(1.0, np.ones((3, 2)), np.eye(4)), r"Q0 must have shape \(4, 2\)"),
        (lambda: qqt(1.0, np.ones(4), np.eye(4)), "Q0 must be a matrix"),
        (lambda: qqt(1.0, np.ones((4, 2)), np.ones((4, 3))), r"F must have shape \(4, 4\)"),
        (lambda: qqt(1.0, np.ones((4, 2)), np.triu(np.ones((4, 4)))), "F must be symmetric"),
        (lambda: qqt(1.0, np.full((4, 2), np.nan), np.eye(4)), "Q0 must be finite"),
        (lambda: qqt_limit(np.ones((4, 2)), np.triu(np.ones((4, 4)))), "F must be symmetric"),
        (lambda: stack_weights(eye, row.T), r"W2 must have shape \(outputs, 2\)"),
        (lambda: fukumizu_matrix(np.ones(3)), "sigma_yx must be a matrix"),
        (lambda: fukumizu_matrix(eye, weight_decay=-0.1), "weight_decay must be non-negative"),
        (lambda: fukumizu_matrix(eye, 0.5, 0.1), "imbalance must be 0 with weight decay"),
        (lambda: fukumizu_matrix(eye, sigma_xx=np.diag([1.0, 1.7])), "got the eigenvalue 1.7"),
        (lambda: fukumizu_matrix(eye, sigma_xx=np.eye(3)), r"sigma_xx must have shape \(2, 2\)"),
        (lambda: split_qqt(np.eye(4), 4), "P must be square and larger than n_in = 4"),
        (lambda: split_qqt(np.ones((2, 3)), 1), "P must be square"),
        (lambda: factor_qqt(np.eye(3), 2), "P must have rank at most n_hidden = 2, got rank 3"),
        (lambda: factor_qqt(-np.eye(3), 3), "P must be positive semi-definite"),
        (lambda: factor_qqt(np.eye(3), 0), "n_hidden must be an integer >= 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
