"""Local complexity: the first layer in closed form, deeper ones by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.local_complexity import local_complexity, orthonormal_directions

seeds = st.integers(0, 2**32 - 1)


def layers(params, x):
    first = x @ params[0] + params[1][None]
    return first, jax.nn.relu(first) @ params[2]


@jax.jit
def measured(params, x, v, radius):
    return local_complexity(layers, params, x, v, radius=radius, chunk=3)


def drawn(seed):
    rng = np.random.default_rng(seed)
    params = [jnp.asarray(rng.standard_normal(s)) for s in ((5, 16), (16,), (16, 8))]
    return params, jnp.asarray(rng.standard_normal((4, 5)))


@given(seeds, st.floats(1e-3, 10))
def test_first_layer_is_the_closed_form_and_the_second_an_enumeration(seed, radius):
    params, x = drawn(seed)
    v = orthonormal_directions(jax.random.key(seed), 5, 3)
    found = measured(params, x, v, radius)
    reach = radius * np.abs(v @ params[0]).max(axis=0)
    expected = (np.abs(x @ params[0] + params[1][None]) < reach[None]).sum(axis=1)
    np.testing.assert_array_equal(found[:, 0], expected)
    for point, count in zip(x, found[:, 1], strict=True):
        vertices = np.concatenate([point[None] + radius * v, point[None] - radius * v])
        positive = np.asarray(layers(params, vertices)[1]) > 0
        assert count == np.sum(positive.any(axis=0) & ~positive.all(axis=0))


@given(seeds)
def test_small_neighbourhoods_have_no_boundaries_and_large_ones_all_through_the_origin(seed):
    params, x = drawn(seed)
    v = orthonormal_directions(jax.random.key(1), 5, 5)
    tiny = measured(params, x, v, 1e-12)
    assert float(jnp.sum(tiny)) == 0
    huge = measured(params, x, v, 1e9)
    np.testing.assert_array_equal(huge[:, 0], 16)


def test_directions_are_orthonormal_and_shapes_are_checked():
    v = orthonormal_directions(jax.random.key(0), 6, 4)
    np.testing.assert_allclose(v @ v.T, np.eye(4), atol=1e-12)
    with pytest.raises(ValueError, match="count"):
        orthonormal_directions(jax.random.key(0), 3, 4)
    params, x = drawn(0)
    with pytest.raises(ValueError, match="radius"):
        local_complexity(layers, params, x, jnp.eye(5), radius=0.0)
    with pytest.raises(ValueError, match="directions"):
        local_complexity(layers, params, x, jnp.eye(4), radius=1.0)
