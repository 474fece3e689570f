"""Modes, crossing times and the geometry of activity against what they are by construction."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.losses import half_squared_error
from dynamics.models import deep_linear
from dynamics.representation import (
    balance_matrices,
    ccgp,
    effective_rank,
    first_crossing,
    mode_strengths,
    parallelism_score,
    participation_ratio,
    task_alignment,
)

SEEDS = st.integers(0, 2**31 - 1)


@given(st.integers(0, 2**32 - 1))
def test_mode_strengths_recover_the_singular_values_of_a_built_map(seed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, 3)))[0] for n in (5, 4))
    strengths = rng.standard_normal(3)
    found = mode_strengths(left @ np.diag(strengths) @ right.T, left, right)
    np.testing.assert_allclose(found, strengths, atol=1e-14)


def test_mode_strengths_see_only_the_diagonal():
    """A map that moves mode 1 into mode 2 has no strength in either."""
    assert mode_strengths(jnp.array([[0.0, 7.0], [0.0, 0.0]]), jnp.eye(2), jnp.eye(2)).sum() == 0


@given(st.floats(0.05, 0.95), st.floats(0.1, 5.0))
def test_crossing_of_a_straight_line_is_exact(level, slope):
    times = np.linspace(0, 10, 7)
    found = first_crossing(times, (slope * times)[:, None], level)
    np.testing.assert_allclose(found, [level / slope], rtol=1e-12)


def test_crossing_of_a_sigmoid_converges_quadratically_with_the_spacing():
    """Linear interpolation errs by h^2/8 u''/u' at most; at a third of the height u'' is not 0."""
    errors = []
    for records in (40, 80, 160, 320):
        times = np.linspace(0, 20, records + 1)
        curve = 1 / (1 + np.exp(7.3 - times))
        errors.append(abs(float(first_crossing(times, curve[:, None], 1 / 3)[0]) - 7.3 + np.log(2)))
    assert max(errors[2:]) < max(errors[:2]) / 4
    assert errors[-1] < (20 / 320) ** 2 / 8


def test_first_crossing_of_curves_that_never_get_there_or_start_above():
    times = np.array([0.0, 1.0, 2.0])
    values = np.array([[0.0, 5.0, np.nan], [0.5, 6.0, np.nan], [0.9, 4.0, np.nan]])
    assert first_crossing(times, values, 1.0).tolist() == [np.inf, 0.0, np.inf]


def test_first_crossing_takes_the_first_of_several_and_maps_over_seeds():
    values = np.array([[0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 2.0]])[:, :, None]
    assert first_crossing(np.arange(4.0), values, np.array([1.0])).tolist() == [[0.5], [2.5]]
    batched = jax.jit(jax.vmap(lambda v: first_crossing(np.arange(4.0), v, 1.0)))(values)
    assert batched.tolist() == [[0.5], [2.5]]


def test_half_squared_error_against_loops():
    rng = np.random.default_rng(0)
    w, x, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    total = sum(0.5 * (w @ x[i] - y[i])[o] ** 2 for i in range(5) for o in range(2))
    for examples, expected in (("sum", total), ("mean", total / 5)):
        loss = half_squared_error(lambda w, x: x @ w.T, examples=examples)
        np.testing.assert_allclose(loss(w, (x, y)), expected, rtol=1e-14)
    with pytest.raises(ValueError, match="examples"):
        half_squared_error(lambda w, x: x, examples="all")
    loss = half_squared_error(lambda w, x: x @ w.T, examples="mean")
    with pytest.raises(ValueError, match="y must have"):
        loss(w, (x, y[:, 0]))


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.integers(1, 4))
def test_effective_rank_counts_equal_singular_values_at_any_scale(seed, scale, rank):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, 4)))[0] for n in (6, 5))
    flat = scale * left[:, :rank] @ right[:, :rank].T
    # Rounding leaves singular values x ~ eps, each of which adds x ln(1/x) to the entropy.
    np.testing.assert_allclose(effective_rank(flat), rank, rtol=1e-12)
    general = left @ np.diag(rng.uniform(0.1, 1, 4)) @ right.T
    assert 1 < effective_rank(general) < 4
    np.testing.assert_allclose(effective_rank(scale * general), effective_rank(general), rtol=1e-12)


@given(st.integers(0, 2**31 - 1))
def test_balance_matrices_feel_gradient_descent_at_second_order_only(seed):
    """Exact one-step change of hidden layer 1: eta^2 times squares of the layers' gradients."""
    model = deep_linear((3, 4, 4, 2))
    params = model.init(jax.random.key(seed))
    x, y = np.random.default_rng(seed).standard_normal((2, 5, 3))
    loss = half_squared_error(model.apply, examples="mean")
    grads = jax.grad(loss)(params, (x, y[:, :2]))
    before = balance_matrices(params)
    assert [b.shape for b in before] == [(4, 4), (4, 4)]
    after = balance_matrices(tuple(w - 0.01 * g for w, g in zip(params, grads, strict=True)))
    for layer in range(2):
        low, high = grads[layer], grads[layer + 1]
        exact = 1e-4 * (high.T @ high - low @ low.T)
        scale = max(float(jnp.sum(w**2)) for w in params)
        np.testing.assert_allclose(after[layer] - before[layer], exact, atol=1e-14 * scale)


@given(seed=SEEDS, scale=st.floats(0.1, 10.0))
def test_participation_ratio_of_eigenvalues_and_of_either_gram_matrix(seed, scale):
    h = np.random.default_rng(seed).standard_normal((7, 4))
    values = np.linalg.svd(h, compute_uv=False) ** 2
    expected = values.sum() ** 2 / (values**2).sum()
    for kernel in (h @ h.T, h.T @ h, scale * h.T @ h):
        np.testing.assert_allclose(participation_ratio(kernel), expected, rtol=1e-12)
    assert 1 <= expected <= 4
    np.testing.assert_allclose(participation_ratio(np.eye(5)), 5, rtol=1e-14)


def cube(k):
    return np.array(list(product([1.0, -1.0], repeat=k)))


@pytest.mark.parametrize(("k", "q"), [(2, 1), (3, 1), (3, 2), (3, 3), (4, 3)])
def test_alignment_of_a_cube_with_q_of_its_bits(k, q):
    """Centred Gram matrices of orthogonal +-1 columns: q common of k, sqrt(q/k)."""
    found = task_alignment(cube(k), np.eye(2**k), cube(k)[:, :q])
    np.testing.assert_allclose(found.target, np.sqrt(q / k), rtol=1e-13)
    # the cube's Gram matrix is 2^k times a projection of rank k within that of rank 2^k - 1
    np.testing.assert_allclose(found.input, np.sqrt(k / (2**k - 1)), rtol=1e-13)


@pytest.mark.parametrize("conditions", [2, 8, 16])
def test_alignment_of_unstructured_activity_with_a_balanced_label(conditions):
    label = np.repeat([1.0, -1.0], conditions // 2)[:, None]
    found = task_alignment(np.eye(conditions), np.eye(conditions), label)
    np.testing.assert_allclose(found.target, 1 / np.sqrt(conditions - 1), rtol=1e-13)
    np.testing.assert_allclose(found.input, 1, rtol=1e-13)


@jax.jit
def geometry(h):
    return parallelism_score(h, cube(3)), ccgp(h, cube(3))


@given(seed=SEEDS)
def test_factorised_embeddings_are_abstract_and_one_hot_codes_are_not(seed):
    rng = np.random.default_rng(seed)
    axes = rng.uniform(0.1, 3, (3, 1)) * np.linalg.qr(rng.standard_normal((8, 3)))[0].T
    score, accuracy = geometry(cube(3) @ axes + rng.standard_normal((1, 8)))
    np.testing.assert_allclose(score, 1, atol=1e-12)
    assert accuracy.tolist() == [1.0] * 3
    # parallel is enough for the one; the other wants the axes of different bits to be unlike
    skewed = axes + rng.standard_normal((3, 8))
    np.testing.assert_allclose(geometry(cube(3) @ skewed)[0], 1, atol=1e-12)
    score, accuracy = geometry(np.eye(8)[rng.permutation(8)])
    np.testing.assert_allclose(score, 0, atol=1e-14)
    assert accuracy.tolist() == [0.5] * 3


def test_leaning_axes_spoil_generalisation_though_they_are_parallel():
    """Axes w_1 and w_2: the other bit shifts the decoder's output by 2 w_1.w_2/|w_1|^2."""
    for lean, expected in ((0.49, 1.0), (0.51, 0.5)):
        axes = np.array([[1.0, 0.0], [lean, 1.0]])
        assert float(ccgp(cube(2) @ axes, cube(2))[0]) == expected


@given(seed=SEEDS)
def test_geometry_against_loops_on_any_activity(seed):
    """Two examples per condition; cosines pair by pair, decoders by least squares in the primal."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(16)
    bits = np.concatenate([cube(3), cube(3)])[order]
    h = rng.standard_normal((16, 5))
    ridge = 0.3
    means = np.stack([h[(bits == corner).all(1)].mean(0) for corner in cube(3)])
    scores, accuracies = [], []
    for bit in range(3):
        pairs = [
            (i, j)
            for i, a in enumerate(cube(3))
            for j, b in enumerate(cube(3))
            if a[bit] > b[bit] and np.delete(a, bit).tolist() == np.delete(b, bit).tolist()
        ]
        vectors = [means[i] - means[j] for i, j in pairs]
        vectors = [v / np.linalg.norm(v) for v in vectors]
        scores.append(np.mean([u @ v for n, u in enumerate(vectors) for v in vectors[:n]]))
        right = []
        for other, side in product(set(range(3)) - {bit}, (1, -1)):
            seen = bits[:, other] == side
            columns = np.column_stack([h, np.ones(16)])
            penalty = ridge * np.diag([1.0] * 5 + [0.0])
            normal = columns[seen].T @ columns[seen] + penalty
            weights = np.linalg.solve(normal, columns[seen].T @ bits[seen, bit])
            right.append(np.mean((columns[~seen] @ weights) * bits[~seen, bit] > 0))
        accuracies.append(np.mean(right))
    np.testing.assert_allclose(parallelism_score(h, bits), scores, atol=1e-12)
    np.testing.assert_allclose(ccgp(h, bits, ridge=ridge), accuracies, atol=1e-12)


def test_geometry_can_be_compiled_and_refuses_incomplete_designs():
    bits = cube(2)
    score, accuracy = jax.jit(lambda h: (parallelism_score(h, bits), ccgp(h, bits)))(bits)
    np.testing.assert_allclose(score, 1, rtol=1e-14)
    assert accuracy.tolist() == [1.0, 1.0]
    for measure in (parallelism_score, ccgp):
        with pytest.raises(ValueError, match="bits must have all 4 combinations, got 3"):
            measure(bits[:3], bits[:3])
        with pytest.raises(ValueError, match="bits must be"):
            measure(bits, (bits + 1) / 2)
        with pytest.raises(ValueError, match="k >= 2"):
            measure(bits, bits[:, :1])
