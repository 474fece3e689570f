"""Angular velocities and chords of kernels: rotations, real networks, and what ReLU hides."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dynamics import models
from dynamics.layerwise import layerwise_gram
from dynamics.losses import half_squared_error
from dynamics.turning import chord_distances, descent, turning_rate

DTS = 1e-3 * np.array([1.0, 0.5, 0.25])


def rotated(params):
    """A kernel in a plane at an angle, of some size."""
    angle, size = params
    return size * jnp.diag(jnp.array([jnp.cos(angle), jnp.sin(angle)]))


@given(st.floats(-3, 3), st.floats(0.1, 10), st.floats(-2, 2), st.floats(-2, 2))
def test_rate_of_a_rotation_is_its_angular_velocity_whatever_the_size_does(angle, size, turn, grow):
    rate = turning_rate(rotated, (jnp.array(angle), jnp.array(size)), (turn, grow))
    np.testing.assert_allclose(rate, abs(turn), atol=1e-12)


def network(activation):
    options = {"activation": activation, "parametrization": "ntk", "weight_variance": 2.0}
    model = models.mlp((4, 32, 2), use_bias=False, **options)
    kernel = partial(layerwise_gram, outputs="mean", **options)
    loss = half_squared_error(model.apply, examples="mean")

    @jax.jit
    def look(key, dts):
        init, inputs, labels = jax.random.split(key, 3)
        params = model.init(init)
        x, y = jax.random.normal(inputs, (6, 4)), jax.random.normal(labels, (6, 2))
        velocity = descent(loss, params, (x, y))
        chords = chord_distances(lambda p: kernel(p, x), params, velocity, dts)
        return turning_rate(lambda p: kernel(p, x), params, velocity), chords

    return look


LOOK = {activation: network(activation) for activation in ("tanh", "relu")}


@given(st.integers(0, 2**31))
def test_chords_of_smooth_networks_tend_to_the_exact_rate(seed):
    rate, chords = LOOK["tanh"](jax.random.key(seed), DTS)
    speeds = np.sqrt(2 * np.asarray(chords)) / DTS
    limit = (speeds[0] - 6 * speeds[1] + 8 * speeds[2]) / 3
    np.testing.assert_allclose(limit, rate, rtol=1e-6)


def test_derivatives_of_relu_kernels_miss_the_switching():
    keys = jax.random.split(jax.random.key(0), 16)
    dt = np.array([0.2])
    rates, chords = jax.vmap(LOOK["relu"], (0, None))(keys, dt)
    smooth = np.mean((np.asarray(rates) * dt) ** 2 / 2)
    assert np.mean(np.asarray(chords)) > 3 * smooth


def test_descent_is_minus_the_gradient():
    found = descent(lambda w, a: jnp.sum(a * w**2), jnp.array([1.0, 2.0]), 3.0)
    assert found.tolist() == [-6.0, -12.0]
