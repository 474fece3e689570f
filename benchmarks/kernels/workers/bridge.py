"""neural-tangents' kernels through the bridge ``theory.kernels.stax``."""

from sims import backend

backend.prepare()

import jax.numpy as jnp  # noqa: E402
import judges  # noqa: E402
import networks  # noqa: E402

from benchmarks import clock  # noqa: E402
from theory.kernels.stax import neural_tangents  # noqa: E402


def empirical(problem, network, outputs, implementation, limit):
    nt = neural_tangents()
    apply, params, x = networks.network(problem, network)
    traced = () if outputs == "full" else (-1,)
    kernel = nt.empirical_ntk_fn(
        apply, trace_axes=traced, vmap_axes=0, implementation=implementation
    )
    return networks.compiled(lambda params, x: kernel(x, None, params), params, x, limit=limit)


def infinite(problem, both=False):
    """The tangent kernel alone, or with the covariance, which ours returns as well."""
    stax = neural_tangents().stax
    layer = stax.Dense(1, 2.0**0.5, 0.1)
    kernel = stax.serial(*4 * (layer, stax.Relu()), layer)[2]
    asked = ("ntk", "nngp") if both else "ntk"

    def run(x):
        found = kernel(x, None, asked)
        return tuple(found) if both else found

    return networks.compiled(run, jnp.asarray(problem["x"]))


def errors(problem, kernel):
    return judges.errors_by_pairs(problem, kernel[0] if isinstance(kernel, tuple) else kernel)


if __name__ == "__main__":
    clock.main({"empirical": empirical, "infinite": infinite}, errors)
