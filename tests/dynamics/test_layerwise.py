"""The layerwise route against per-example Jacobians of the same networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.gram import gauss_newton_trace, gradient_gram
from dynamics.layerwise import layerwise_gram, layerwise_trace
from dynamics.models import deep_linear, mlp

N = 5
CASES = {
    "standard": {"parametrization": "standard", "weight_variance": 2.0, "bias_variance": 0.5},
    "ntk": {"parametrization": "ntk", "weight_variance": 2.0, "bias_variance": 0.5},
    "mean_field": {"parametrization": "mean_field", "weight_variance": 2.0, "bias_variance": 0.5},
    "no bias": {"parametrization": "ntk", "weight_variance": 2.0, "use_bias": False},
}
MODELS = {name: mlp((3, 6, 4, 2), activation="tanh", **case) for name, case in CASES.items()}


def routes(apply, params, x, **options):
    return {
        "gram": (layerwise_gram(params, x, **options), gradient_gram(apply, params, x)),
        "trace": (
            layerwise_trace(params, x, chunk=2, **options),
            gauss_newton_trace(apply, params, x),
        ),
    }


def mlp_routes(name):
    options = {key: value for key, value in CASES[name].items() if key != "use_bias"}
    apply = MODELS[name].apply
    return jax.jit(lambda params, x: routes(apply, params, x, activation="tanh", **options))


MLP_ROUTES = {name: mlp_routes(name) for name in CASES}


def check(found):
    for layerwise, exact in found.values():
        # the same sums in another order
        np.testing.assert_allclose(layerwise, exact, rtol=0, atol=1e-13 * np.abs(exact).max())


@given(seed=st.integers(0, 2**31 - 1), name=st.sampled_from(list(CASES)))
def test_equals_per_example_jacobians_in_every_parametrisation(seed, name):
    x = jnp.asarray(np.random.default_rng(seed).standard_normal((N, 3)))
    check(MLP_ROUTES[name](MODELS[name].init(jax.random.key(seed)), x))


@pytest.mark.parametrize("widths", [(3, 2), (3, 5, 4, 2)])
def test_deep_linear_networks(widths):
    model = deep_linear(widths)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((N, 3)))
    check(routes(model.apply, model.init(jax.random.key(0)), x))


def test_other_activations_and_single_precision():
    model = mlp((3, 8, 2), activation=jax.nn.softplus, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((N, 3)), jnp.float32)
    params = model.init(jax.random.key(0))
    gram = layerwise_gram(params, x, activation=jax.nn.softplus)
    trace = layerwise_trace(params, x, activation=jax.nn.softplus)
    assert gram.dtype == trace.dtype == jnp.float32
    np.testing.assert_allclose(gram, gradient_gram(model.apply, params, x), rtol=1e-4)
    np.testing.assert_allclose(trace, gauss_newton_trace(model.apply, params, x), rtol=1e-5)


def test_bad_input_is_refused():
    x, matrices = jnp.ones((4, 3)), (jnp.ones((2, 3)),)
    layers = mlp((3, 2)).init(jax.random.key(0))
    cases = [
        ((), x, {}, "params must hold at least one layer"),
        (layers, x, {}, "activation must be a function or one of linear, .* got None"),
        (layers, x, {"activation": "swish"}, "activation must be a function or one of"),
        (matrices, x, {"activation": "tanh"}, "activation must be None for bare matrices"),
        (matrices, x, {"parametrization": "mup"}, "parametrization must be standard"),
        (matrices, jnp.ones((4, 2)), {}, r"x must be \(n, 3\)"),
        (matrices, jnp.ones((0, 3)), {}, r"x must be \(n, 3\)"),
    ]
    for params, inputs, options, message in cases:
        for measure in (layerwise_gram, layerwise_trace):
            with pytest.raises(ValueError, match=message):
                measure(params, inputs, **options)
    with pytest.raises(ValueError, match="chunk must be an integer >= 1"):
        layerwise_trace(matrices, x, chunk=0)
