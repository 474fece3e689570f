"""matfree and traceax on the common job, through their public calls; float32.

Both take any function as operator; the product with the Hessian is forward over reverse, as in this
library. matfree evaluates its samples all at once (``vmap``) unless it is given one at a time in a
loop, which needs less time and memory on CPUs. traceax always evaluates them at once, and its
default signs are integers, which an operator on float32 refuses.
"""
# pyright: reportMissingImports=false

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from benchmarks import clock


def matfree_trace(problem):
    from matfree import stochtrace

    params, batch = network(problem)
    sampler = stochtrace.sampler_signs(ravel_pytree(params)[0], num=100)
    estimate = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler)
    run = jax.jit(lambda params, batch, key: estimate(product(params, batch), key))
    return lambda seed: (float(run(params, batch, jax.random.key(seed))), 100)


def matfree_trace_in_a_loop(problem):
    from matfree import stochtrace

    params, batch = network(problem)
    sampler = stochtrace.sampler_signs(ravel_pytree(params)[0], num=1)
    estimate = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler)

    @jax.jit
    def run(params, batch, key):
        hessian = product(params, batch)
        return jnp.mean(jax.lax.map(lambda k: estimate(hessian, k), jax.random.split(key, 100)))

    return lambda seed: (float(run(params, batch, jax.random.key(seed))), 100)


def matfree_top(problem, steps):
    from matfree import decomp, eig

    params, batch = network(problem)
    decompose = eig.eigh_partial(decomp.tridiag_sym(steps))

    @jax.jit
    def run(params, batch, key):
        start = jax.random.normal(key, ravel_pytree(params)[0].shape)
        return jnp.max(decompose(product(params, batch), start)[0])

    return lambda seed: (float(run(params, batch, jax.random.key(seed))), steps)


def traceax_trace(problem):
    import lineax
    import traceax

    params, batch = network(problem)
    estimator = traceax.HutchinsonEstimator(traceax.RademacherSampler(jnp.float32))
    structure = jax.ShapeDtypeStruct(ravel_pytree(params)[0].shape, jnp.float32)

    @jax.jit
    def run(params, batch, key):
        operator = lineax.FunctionLinearOperator(
            product(params, batch), structure, lineax.symmetric_tag
        )
        return estimator.estimate(key, operator, 100)[0]

    return lambda seed: (float(run(params, batch, jax.random.key(seed))), 100)


def product(params, batch):
    """The Hessian of the mean squared error as a function of flat vectors."""
    unravel = ravel_pytree(params)[1]

    def loss(params):
        x, y = batch
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight.T + bias)
        return jnp.mean((x @ params[-1][0].T + params[-1][1] - y) ** 2)

    return lambda v: ravel_pytree(jax.jvp(jax.grad(loss), (params,), (unravel(v),))[1])[0]


def network(problem):
    """Weights and biases, and the batch, in float32."""
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in problem.items()}
    params = tuple((arrays[f"W{l}"], arrays[f"b{l}"]) for l in range(3))
    return params, (arrays["x"], arrays["y"])


if __name__ == "__main__":
    makers = (matfree_trace, matfree_trace_in_a_loop, matfree_top, traceax_trace)
    clock.main({maker.__name__: maker for maker in makers})
