"""The recurrent network against a loop in NumPy, low-rank weights against the SVD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.recurrent import recurrent_network, reduce_rank

KEY = jax.random.key(0)


@pytest.mark.parametrize(("name", "phi"), [("tanh", np.tanh), ("linear", lambda h: h)])
def test_it_is_the_loop_over_steps(name, phi):
    model = recurrent_network(3, 5, 2, activation=name, gain=1.5)
    params, x = model.init(KEY), np.random.default_rng(0).normal(size=(4, 6, 3))
    U, W, V = map(np.asarray, params)
    for example, output in zip(x, np.asarray(model.apply(params, x)), strict=True):
        h = np.zeros(5)
        for row in example:
            h = phi(W @ h + U @ row)
        np.testing.assert_allclose(output, V @ h, rtol=1e-12, atol=1e-14)  # dozens of roundings


def test_gain_scales_the_recurrent_weights_alone():
    plain, strong = (recurrent_network(3, 400, 2, gain=g).init(KEY) for g in (1.0, 2.0))
    np.testing.assert_array_equal(strong.recurrent, 2 * plain.recurrent)
    np.testing.assert_array_equal(strong.inputs, plain.inputs)
    np.testing.assert_array_equal(strong.outputs, plain.outputs)
    # 160 000 squares of variance 2: four standard errors are 1.4 %
    assert abs(np.var(plain.recurrent) * 400 - 1) < 0.015


@given(seed=st.integers(0, 99), rank=st.integers(1, 4))
def test_reduced_rank_keeps_the_leading_directions_and_the_norm(seed, rank):
    weight = np.random.default_rng(seed).normal(size=(5, 4))
    found = np.asarray(jax.jit(reduce_rank)(weight, rank))
    _, s, right = np.linalg.svd(weight)
    wanted = weight @ right[:rank].T @ right[:rank] * np.linalg.norm(s) / np.linalg.norm(s[:rank])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert np.linalg.matrix_rank(found) == rank
    np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(weight), rtol=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="activation must be one of"):
        recurrent_network(3, 5, 2, activation="sine")
    with pytest.raises(ValueError, match="positive integers"):
        recurrent_network(3, 0, 2)
    model = recurrent_network(3, 5, 2)
    with pytest.raises(ValueError, match=r"x must have shape \(examples, steps, 3\), got \(4, 3\)"):
        model.apply(model.init(KEY), jnp.ones((4, 3)))
