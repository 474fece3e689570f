"""The networks as JAX functions ``apply(params, x)``, and calls of compiled kernels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PICTURES = ("NHWC", "HWIO", "NHWC")


def perceptron_params(problem):
    """Weights (fan-in, fan-out): transposed in ``perceptron`` they hide from neural-tangents."""
    return [
        (jnp.asarray(problem[f"W{l}"].T), jnp.asarray(problem[f"b{l}"]))
        for l in range(sum(name.startswith("W") for name in problem))
    ]


def perceptron(params, x):
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias[None, :])
    return x @ params[-1][0] + params[-1][1][None, :]


def convolution_params(problem):
    return [jnp.asarray(problem[f"W{l}"]) for l in range(3)]


def convolutions(params, x):
    for kernel in params[:-1]:
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=PICTURES)
        x = jax.nn.relu(x)
    return jnp.mean(x, axis=(1, 2)) @ params[-1]


NETWORKS = {
    "perceptron": (perceptron, perceptron_params),
    "convolutions": (convolutions, convolution_params),
}


def network(problem, name):
    """``apply``, parameters and inputs, in float32 unless float64 is enabled."""
    apply, params = NETWORKS[name]
    return apply, params(problem), jnp.asarray(problem["x"])


def compiled(kernel, *args, limit=None):
    """A call that compiles the first time, and refuses if its values take more bytes."""

    @functools.cache
    def program():
        found = jax.jit(kernel).lower(*args).compile()
        used: Any = found.memory_analysis()
        need = used.temp_size_in_bytes + used.output_size_in_bytes
        if limit is not None and need > limit:
            raise MemoryError(f"not run: asks for {need / 2**30:.0f} GB")
        return found

    return lambda seed: (jax.block_until_ready(program()(*args)), None)
