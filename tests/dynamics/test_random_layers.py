"""Sampled layers against networks with weights, symmetries of activations, and common noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.models import mlp
from dynamics.random_layers import LayerMoments, sample_layers

SEEDS = st.integers(0, 2**31 - 1)
WIDTH, STEPS, NETWORKS, N_IN = 4, 3, 20_000, 3
C_W, C_b = 1.6, 0.3
X, DX = np.array([0.7, -1.1, 0.4]), np.array([0.5, -0.8, 0.6])


@jax.jit
def layers(noise, square, overlap, change):
    first = LayerMoments(square, overlap, change)
    return {
        name: sample_layers(noise, first, activation=name, weight_variance=2.0)
        for name in ("relu", "linear")
    }


def noise(seed):
    return np.random.default_rng(seed).standard_normal((STEPS, 2, WIDTH))


@jax.jit
def sampled(noise):
    products = [C_W * np.dot(a, b) / N_IN for a, b in ((X, X), (X, DX), (DX, DX))]
    first = LayerMoments(*map(jnp.asarray, (C_b + products[0], products[1], products[2])))
    sample = jax.vmap(
        lambda one: sample_layers(
            one, first, activation="tanh", weight_variance=C_W, bias_variance=C_b
        )
    )
    return jax.tree.map(lambda values: values[:, -1], sample(noise))


@jax.jit
def with_weights(keys):
    """Two units of the last layer, and their changes, of networks with weight matrices."""
    widths = (N_IN, *[WIDTH] * STEPS, 2)
    model = mlp(widths, activation="tanh", weight_variance=C_W, bias_variance=C_b)

    def one(key):
        params = model.init(key)
        return jax.jvp(lambda x: model.apply(params, x), (jnp.asarray(X),), (jnp.asarray(DX),))

    return jax.vmap(one)(keys)


def test_the_last_layer_has_the_moments_of_networks_with_weights():
    """Given G, E z^2 = G and E z_1^2 z_2^2 = G^2 for units 1 and 2, and likewise for changes."""
    numbers = np.random.default_rng(0).standard_normal((NETWORKS, STEPS, 2, WIDTH))
    G, c, D = (np.asarray(moment) for moment in sampled(numbers))
    z, dz = map(np.asarray, with_weights(jax.random.split(jax.random.key(1), NETWORKS)))
    pairs = [
        (G, (z**2).mean(axis=1)),
        (c, (z * dz).mean(axis=1)),
        (D, (dz**2).mean(axis=1)),
        (G**2, (z**2).prod(axis=1)),
        (D**2, (dz**2).prod(axis=1)),
        (G * D, (z**2 * dz[:, ::-1] ** 2).mean(axis=1)),
        (c**2, (z * dz).prod(axis=1)),
    ]
    for mine, theirs in pairs:
        error = np.hypot(mine.std(), theirs.std()) / np.sqrt(NETWORKS)
        assert abs(mine.mean() - theirs.mean()) < 4.5 * error
        assert error < 0.25 * abs(theirs.mean())  # what is wrong by a factor of two is seen


@given(seed=SEEDS, square=st.floats(0.1, 10), cosine=st.floats(-1, 1), scale=st.floats(0.1, 10))
def test_scaling_an_input_or_its_perturbation_scales_what_they_become(seed, square, cosine, scale):
    """phi(c z) = c phi(z), and dz is linear in its first layer."""
    numbers, change = noise(seed), 2.0
    overlap = cosine * np.sqrt(square * change)
    base = layers(numbers, square, overlap, change)
    longer = layers(numbers, scale**2 * square, scale * overlap, change)
    stronger = layers(numbers, square, scale * overlap, scale**2 * change)
    for name, found in base.items():
        for other, powers in ((longer[name], (2, 1, 0)), (stronger[name], (0, 1, 2))):
            for a, b, power in zip(found, other, powers, strict=True):
                # a root of rounding errors where one unit is active and z, dz are proportional
                np.testing.assert_allclose(b, a * scale**power, rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, square=st.floats(0.1, 10))
def test_a_perturbation_along_the_input_stays_along_it_and_schwarz_holds(seed, square):
    along = layers(noise(seed), square, square, square)
    across = layers(noise(seed), square, 0.0, 1.0)
    for name in along:
        np.testing.assert_allclose(along[name].overlap, along[name].square, rtol=1e-6)
        np.testing.assert_allclose(along[name].change, along[name].square, rtol=1e-6)
        G, c, D = across[name]
        assert np.all(c**2 <= G * D * (1 + 1e-6))
        np.testing.assert_array_equal(G, along[name].square)  # the noise is shared


def test_entries_are_what_they_are_alone_and_dtypes_follow_the_noise():
    numbers = noise(0).astype(np.float32)
    first = LayerMoments(*(jnp.array([1.0, 2.0], jnp.float32) for _ in range(3)))
    both = sample_layers(numbers, first, activation="relu", weight_variance=np.array([2.0, 1.0]))
    alone = sample_layers(
        numbers, LayerMoments(*(x[1] for x in first)), activation=jax.nn.relu, weight_variance=1.0
    )
    assert both.square.dtype == jnp.float32
    np.testing.assert_allclose(both.square[:, 1], alone.square, rtol=1e-5)


def test_a_layer_that_fell_silent_stays_so():
    dead = sample_layers(
        -np.abs(noise(0)),
        LayerMoments(*jnp.array([1.0, 0.0, 1.0])),
        activation="relu",
        weight_variance=2.0,
    )
    assert all(np.all(np.asarray(moment)[1:] == 0) for moment in dead)


def test_bad_arguments_are_named():
    first = LayerMoments(*jnp.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"noise must have shape .* got \(2, 3\)"):
        sample_layers(np.ones((2, 3)), first, activation="relu", weight_variance=1.0)
    with pytest.raises(ValueError, match=r"activation must be one of .*, got 'step'"):
        sample_layers(np.ones((1, 2, 3)), first, activation="step", weight_variance=1.0)
