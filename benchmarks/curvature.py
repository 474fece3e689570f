"""Trace and sharpness of a trained 100-256-256-10 ReLU network, 1000 examples, float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import Timing, median_seconds
from dynamics.curvature import hvp, layerwise_trace, top_eigenpairs, trace
from dynamics.models import mlp
from dynamics.training import train

WIDTHS, EXAMPLES, STEPS, PROBES = (100, 256, 256, 10), 1000, 150, 100
MODEL = mlp(WIDTHS, activation="relu", weight_variance=2.0, dtype=jnp.float32)


def loss(params, batch):
    """Mean over examples and outputs, without the half: many frameworks' default."""
    return jnp.mean((MODEL.apply(params, batch[0]) - batch[1]) ** 2)


def run() -> list[Timing]:
    """Median times in float32; the first entry is the estimate the others are compared with."""
    params, batch = _trained()
    key = jax.random.key(1)
    exact = jax.jit(lambda p, b: 2 / WIDTHS[-1] * layerwise_trace(p, b[0], activation="relu"))
    reference = float(exact(params, batch))
    timings = []
    for method in ("hutchinson", "xtrace"):
        estimate = jax.jit(partial(_trace, method))
        error = float(estimate(params, batch, key).value) / reference - 1
        seconds = median_seconds(lambda f=estimate: f(params, batch, key), repeats=3)
        remark = f"{PROBES} products, off by {error:.1e}"
        timings.append(Timing(f"trace, {method}", seconds, remark))
    seconds = median_seconds(lambda: exact(params, batch))
    timings.append(Timing("trace, layer by layer", seconds, "exact: ReLU"))
    sharpness = jax.jit(_sharpness)
    found = sharpness(params, batch, key)
    close = _sharpness(params, batch, key, num_matvecs=60, tolerance=1e-6)
    error = abs(float(found.values[0] / close.values[0]) - 1)
    seconds = median_seconds(lambda: sharpness(params, batch, key), repeats=3)
    remark = f"{int(found.num_matvecs)} products, off by {error:.0e}"
    timings.append(Timing("top eigenvalue, residual 1e-3", seconds, remark))
    return timings


def _trained():
    """Network and data after 150 steps of Adam on a smooth random teacher."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((EXAMPLES, WIDTHS[0]))
    y = np.tanh(x @ draw.standard_normal((WIDTHS[0], WIDTHS[-1])) / WIDTHS[0] ** 0.5)
    batch = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    params = MODEL.init(jax.random.key(0))
    fit = jax.jit(
        lambda params, batch: (
            train(
                jax.random.key(0),
                params,
                batch,
                loss=loss,
                optimizer=optax.adam(1e-3),
                steps=STEPS,
                record_at=[STEPS],
            ).params
        )
    )
    return fit(params, batch), batch


def _trace(method, params, batch, key):
    hessian = partial(hvp, loss, params, batch)
    return trace(hessian, params, key, num_matvecs=PROBES, method=method)


def _sharpness(params, batch, key, **options):
    return top_eigenpairs(partial(hvp, loss, params, batch), params, key, **options)
