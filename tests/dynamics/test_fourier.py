"""Participation ratios: bounds, invariances, pruning against removal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.fourier import inverse_participation_ratio, neuron_ipr, prune
from dynamics.models import mlp

P = 7
seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(0, P - 1), st.floats(1e-3, 1e3))
def test_bounds_and_invariances(seed, shift, factor):
    v = np.random.default_rng(seed).standard_normal(P)
    found = float(inverse_participation_ratio(v))
    assert 2 / (P + 1) - 1e-12 <= found <= 1 + 1e-12
    moved = float(inverse_participation_ratio(factor * np.roll(v, shift)))
    assert moved == pytest.approx(found, rel=1e-9)


@given(st.integers(1, (P - 1) // 2), st.floats(0, 6.3))
def test_single_frequencies_have_one_and_a_flat_spectrum_the_least(frequency, phase):
    wave = np.cos(2 * np.pi * frequency * np.arange(P) / P + phase)
    assert float(inverse_participation_ratio(wave)) == pytest.approx(1, abs=1e-12)
    assert float(inverse_participation_ratio(np.eye(P)[0])) == pytest.approx(2 / (P + 1), abs=1e-12)
    order = float(inverse_participation_ratio(np.eye(P)[0], order=3))
    assert order == pytest.approx((2 / (P + 1)) ** 2, abs=1e-12)


@given(seeds, st.booleans())
def test_pruned_neurons_are_as_good_as_removed(seed, lowest):
    rng = np.random.default_rng(seed)
    model = mlp((2 * P, 6, P), activation="square", use_bias=False)
    params = model.init(jax.random.key(seed))
    scores = neuron_ipr(params)
    assert np.asarray((scores > 0) & (scores <= 1 + 1e-12)).all()
    order = np.argsort(scores if lowest else -scores)[2:]
    x = rng.standard_normal((3, 2 * P))
    left = np.square(x @ params[0].weight[order].T) @ params[1].weight[:, order].T
    pruned = prune(params, scores, 1 / 3, lowest=lowest)
    np.testing.assert_allclose(model.apply(pruned, x), left, rtol=1e-9, atol=1e-12)


def test_other_shapes_are_refused():
    params = mlp((2 * P, 6, P + 1)).init(jax.random.key(0))
    with pytest.raises(ValueError, match="2p"):
        neuron_ipr(params)
    good = mlp((2 * P, 6, P)).init(jax.random.key(0))
    with pytest.raises(ValueError, match="scores"):
        prune(good, jnp.ones(5), 0.5)
    with pytest.raises(ValueError, match="order"):
        inverse_participation_ratio(jnp.ones(3), order=1)
