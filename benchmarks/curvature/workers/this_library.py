"""This library on the common job in float32, and exact thresholds of SGD in float64."""

from sims import backend

backend.prepare()

from functools import partial  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from benchmarks import clock  # noqa: E402
from dynamics.curvature import (  # noqa: E402
    gauss_newton_trace,
    hessian_form,
    hvp,
    layerwise_gram,
    layerwise_trace,
    top_eigenpairs,
    trace,
)
from dynamics.models import Layer, mlp  # noqa: E402
from theory.stability.mean_square import mean_square_threshold  # noqa: E402


def hutchinson(problem, forms):
    loss, params, batch = network(problem, jnp.float32)

    @jax.jit
    def run(params, batch, key):
        form = partial(hessian_form, loss, params, batch) if forms else None
        hessian = partial(hvp, loss, params, batch)
        return trace(hessian, params, key, num_matvecs=100, method="hutchinson", form=form).value

    return lambda seed: (float(run(params, batch, jax.random.key(seed))), 100)


def xtrace(problem):
    loss, params, batch = network(problem, jnp.float32)

    @jax.jit
    def run(params, batch, key):
        return trace(partial(hvp, loss, params, batch), params, key, num_matvecs=100).value

    return lambda seed: (float(run(params, batch, jax.random.key(seed))), 100)


def layerwise(problem):
    _, params, (x, y) = network(problem, jnp.float32)
    run = jax.jit(lambda params, x: 2 / y.shape[1] * layerwise_trace(params, x, activation="relu"))
    return lambda seed: (float(run(params, x)), None)


def jacobians(problem):
    _, params, (x, y) = network(problem, jnp.float32)
    run = jax.jit(lambda params, x: 2 / y.shape[1] * gauss_newton_trace(apply(params), params, x))
    return lambda seed: (float(run(params, x)), None)


def top(problem, tolerance):
    loss, params, batch = network(problem, jnp.float32)

    @jax.jit
    def run(params, batch, key):
        hessian = partial(hvp, loss, params, batch)
        found = top_eigenpairs(hessian, params, key, tolerance=tolerance)
        return found.values[0], found.num_matvecs

    def call(seed):
        value, products = run(params, batch, jax.random.key(seed))
        return float(value), int(products)

    return call


def gram(problem):
    _, params, (x, _) = network(problem, jnp.float64)
    run = jax.jit(lambda params, x: layerwise_gram(params, x, activation="relu")[:, 0, :, 0])
    return lambda seed: (float(run(params, x)[0, 0]), None)


def threshold(problem, batch_size, momentum=0.0):
    """Gram and threshold together: from weights and inputs to a learning rate."""
    _, params, (x, _) = network(problem, jnp.float64)
    run = jax.jit(lambda params, x: layerwise_gram(params, x, activation="relu")[:, 0, :, 0])

    def call(seed):
        found = mean_square_threshold(run(params, x), batch_size, momentum)
        if not found.converged:
            raise ArithmeticError("the threshold did not converge")
        return float(found.learning_rate), None

    return call


def network(problem, dtype):
    """The mean squared error, the parameters of an ``mlp``, and the batch."""
    arrays = {name: jnp.asarray(array, dtype) for name, array in problem.items()}
    params = tuple(Layer(arrays[f"W{l}"], arrays[f"b{l}"]) for l in range(3))

    def loss(params, batch):
        return jnp.mean((apply(params)(params, batch[0]) - batch[1]) ** 2)

    return loss, params, (arrays["x"], arrays["y"])


def apply(params):
    widths = (params[0].weight.shape[1], *(len(layer.bias) for layer in params))
    return mlp(widths, activation="relu").apply


if __name__ == "__main__":
    makers = (hutchinson, xtrace, layerwise, jacobians, top, gram, threshold)
    clock.main({maker.__name__: maker for maker in makers})
