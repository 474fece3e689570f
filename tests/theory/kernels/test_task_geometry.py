"""Closed forms against the kernels they summarise; the rich limit against its own dynamics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels import task_geometry as geometry

separations = st.floats(0, 1)
BITS = geometry.cube(3)
CODES = BITS[:, :2]


@given(separations, st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (3, 2), (1, 3)]))
def test_alignment_of_inputs_is_the_cka_of_their_kernel(s, target):
    count, degree = target
    columns = {
        1: BITS,
        2: np.stack([BITS[:, i] * BITS[:, j] for i, j in ((0, 1), (0, 2), (1, 2))], axis=1),
        3: BITS.prod(axis=1, keepdims=True),
    }[degree][:, :count]
    direct = geometry.kernel_cka(geometry.input_kernel(s, 3), columns @ columns.T)
    closed = geometry.input_target_alignment(s, 3, count, degree=degree)
    np.testing.assert_allclose(closed, direct, atol=1e-12)


@given(separations, st.integers(0, 2))
def test_parallelism_of_inputs_is_that_of_their_kernel(s, bit):
    direct = geometry.kernel_parallelism(geometry.input_kernel(s, 3), bit)
    np.testing.assert_allclose(geometry.input_parallelism(s, 3), direct, atol=1e-12)


def test_known_values():
    np.testing.assert_allclose(geometry.input_target_alignment(0.0, 3, 2), np.sqrt(2 / 3))
    np.testing.assert_allclose(geometry.input_target_alignment(1.0, 4, 1), 1 / np.sqrt(15))
    relu = geometry.rich_limit_kernel(geometry.cube(2), activation="relu")
    np.testing.assert_allclose(geometry.kernel_parallelism(relu, 0), 1 / (np.pi - 1))
    alone = geometry.rich_limit_kernel(BITS[:, :1], activation="relu")
    np.testing.assert_allclose(geometry.kernel_cka(alone, BITS[:, :1] @ BITS[:, :1].T), 1)


@given(st.integers(0, 2**32 - 1))
def test_parallelism_agrees_with_vectors_of_a_representation(seed):
    h = np.random.default_rng(seed).standard_normal((8, 5))
    for bit in range(3):
        vectors = [h[i] - h[i - 2 ** (2 - bit)] for i in range(8) if BITS[i, bit] > 0]
        units = np.array([v / np.linalg.norm(v) for v in vectors])
        direct = (units @ units.T)[np.triu_indices(4, 1)].mean()
        np.testing.assert_allclose(geometry.kernel_parallelism(h @ h.T, bit), direct, atol=1e-12)


@given(separations, st.integers(0, 2**32 - 1))
def test_units_of_the_limit_solve_their_equation(s, seed):
    """K_in [phi'(u) (Y r)] is along u where a unit is active, and against it elsewhere."""
    drive = CODES @ np.random.default_rng(seed).standard_normal(2)
    kernel, single = np.asarray(geometry.input_kernel(s, 3)), (1 - s) * 8 / 3 + s
    velocity = kernel @ np.where(drive > 0, drive, 0)
    active = drive > 0
    np.testing.assert_allclose(velocity[active], (single + s) / 2 * drive[active], atol=1e-12)
    assert np.all(velocity[~active] <= 1e-12)  # silent units stay silent
    slope = 1 / (1 + drive**2)  # any even function
    odd = kernel @ (slope * drive)
    np.testing.assert_allclose(odd, single * slope * drive, atol=1e-12)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_relu_limit_is_the_mean_over_readouts(orthogonal):
    rng = np.random.default_rng(0)
    draws = 200_000
    h = np.maximum(CODES @ rng.standard_normal((2, draws)), 0)
    if orthogonal:
        h = h * (rng.random(h.shape) < 0.5)
    found, kernel = (
        h @ h.T / draws,
        geometry.rich_limit_kernel(CODES, activation="relu", orthogonal=orthogonal),
    )
    scale = 0.5 if orthogonal else 1.0  # half are silent; the kernel is one up to a factor
    errors = np.sqrt(np.einsum("in,jn->ij", h**2, h**2) / draws - found**2) / np.sqrt(draws)
    assert np.all(np.abs(found - scale * np.asarray(kernel)) <= 5 * errors + 1e-12)


def test_transformations():
    s = jnp.linspace(0, 1, 5)
    found = jax.jit(lambda s: geometry.input_target_alignment(s, 3, 2))(s)
    each = [geometry.input_target_alignment(float(value), 3, 2) for value in s]
    np.testing.assert_allclose(found, each, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: geometry.cube(1), "n_bits"),
        (lambda: geometry.input_kernel(1.5, 3), "separation"),
        (lambda: geometry.input_parallelism(-0.1, 3), "separation"),
        (lambda: geometry.input_target_alignment(0.5, 3, 4), "n_targets"),
        (lambda: geometry.input_target_alignment(0.5, 3, 1, degree=4), "degree"),
        (lambda: geometry.kernel_parallelism(jnp.eye(6), 0), "kernel"),
        (lambda: geometry.kernel_parallelism(jnp.eye(8), 3), "bit"),
        (lambda: geometry.kernel_cka(jnp.full((4, 4), jnp.nan), jnp.eye(4)), "first"),
        (lambda: geometry.rich_limit_kernel(2 * CODES, activation="odd"), "y"),
        (lambda: geometry.rich_limit_kernel(BITS, activation="odd"), "y"),
        (lambda: geometry.rich_limit_kernel(CODES, activation="tanh"), "activation"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
