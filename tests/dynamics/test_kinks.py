"""Pre-activations on a kink, counted in the computation of any network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dynamics.kinks import kinks
from dynamics.models import mlp

X = jnp.array([0.0, 1e-9, 1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    ("function", "on_kink", "inputs"),
    [
        (jax.nn.relu, 2, 5),
        (lambda x: jnp.maximum(x, 0.0), 2, 5),
        (lambda x: jnp.maximum(0.0, x) - jnp.minimum(x, 0.0), 4, 10),
        (jnp.abs, 2, 5),
        (lambda x: jax.nn.relu(x - 3), 1, 5),
        (jax.nn.relu6, 2, 10),
        (jax.jit(jax.vmap(jax.checkpoint(jax.nn.relu))), 2, 5),
    ],
)
def test_kinks_are_counted_however_they_are_written(function, on_kink, inputs):
    found = kinks(function, X)
    assert (int(found.on_kink), found.inputs) == (on_kink, inputs)
    assert int(jax.jit(lambda x: kinks(function, x).on_kink)(X)) == on_kink


@pytest.mark.parametrize(
    "function",
    [jnp.tanh, jax.nn.softplus, jax.nn.gelu, jax.nn.softmax, jax.nn.log_softmax, jax.nn.silu],
)
def test_smooth_functions_have_none(function):
    assert kinks(function, X).inputs == 0


def test_pre_activations_of_a_network_are_those_computed_by_hand():
    """A bias chosen such that the first layer's pre-activations of one example vanish."""
    model = mlp((2, 3, 4, 1), activation="relu", bias_variance=1.0)
    first, *rest = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 2))
    generic = kinks(model.apply, (first, *rest), x)
    assert (int(generic.on_kink), generic.inputs) == (0, 5 * (3 + 4))
    moved = first._replace(bias=-first.weight @ x[2])
    assert int(kinks(model.apply, (moved, *rest), x).on_kink) == 3


def test_flax_modules_are_seen_through():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.relu(linen.Dense(3)(x)))

    net = Net()
    params = net.init(jax.random.key(0), X[:, None])
    found = kinks(net.apply, params, X[:, None])  # zero bias: x = 0 is on all three kinks
    assert (int(found.on_kink), found.inputs) == (3 * 2, 15)  # and x = 1e-9 is, to 1e-6


def test_the_tolerance_is_relative_to_the_array():
    scaled = kinks(jax.nn.relu, 1e-12 * X)
    assert int(scaled.on_kink) == 2
    wide = kinks(jax.nn.relu, X, tolerance=1.0)
    rms = float(np.sqrt(np.mean(np.square(X))))
    assert int(wide.on_kink) == int(np.sum(np.abs(X) <= rms))
