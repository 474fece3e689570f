"""This library's kernels."""

from sims import backend

backend.prepare()

import jax.numpy as jnp  # noqa: E402
import judges  # noqa: E402
import networks  # noqa: E402

from benchmarks import clock  # noqa: E402
from dynamics.layerwise import layerwise_gram  # noqa: E402
from dynamics.models import Layer  # noqa: E402
from dynamics.tangent_kernel import empirical_ntk  # noqa: E402
from theory.kernels.infinite_width import mlp_kernels  # noqa: E402


def layerwise(problem, outputs):
    params = tuple(Layer(w.T, b) for w, b in networks.perceptron_params(problem))

    def kernel(params, x):
        return layerwise_gram(params, x, activation="relu", outputs=outputs)

    return networks.compiled(kernel, params, jnp.asarray(problem["x"]))


def jacobians(problem):
    apply, params, x = networks.network(problem, "convolutions")

    def kernel(params, x):
        return empirical_ntk(apply, params, x, outputs="full")

    return networks.compiled(kernel, params, x)


def infinite(problem, memory=None):
    def kernel(x):
        return mlp_kernels(
            x,
            activation="relu",
            depth=5,
            weight_variance=2.0,
            bias_variance=0.01,
            memory=memory,
        ).ntk

    return networks.compiled(kernel, jnp.asarray(problem["x"]))


if __name__ == "__main__":
    makers = (layerwise, jacobians, infinite)
    clock.main({maker.__name__: maker for maker in makers}, judges.errors)
