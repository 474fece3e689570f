"""Generalization error at 3 x 1000 points (alpha, time): closed form against sampled data sets."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Timing, median_seconds
from theory.deep_linear.generalization import finite_sample_path, generalization_error

ALPHAS, TIMES, INPUTS = (0.5, 1.0, 2.0), 1000, 100
NOISE_VAR = 0.5  # the signal's variance is 1, initial weights are zero
DATA_SETS = (32, 512)
BATCH = 32  # data sets at a time


def run() -> list[Timing]:
    """Median times; the first entry is ours, the others come as close as their samples let them."""
    times = np.geomspace(1e-2, 1e2, TIMES)
    closed = jax.jit(
        lambda t: jnp.stack([generalization_error(t, a, 1.0, 0.0, NOISE_VAR) for a in ALPHAS])
    )
    exact = closed(times)
    timings = [Timing("closed form", median_seconds(lambda: closed(times)))]
    for draws in DATA_SETS:
        keys = jax.random.split(jax.random.key(0), draws)
        sampled = jax.jit(lambda t, keys: jnp.stack([_sampled(t, keys, a) for a in ALPHAS]))
        error = np.asarray(jnp.abs(sampled(times, keys) / exact - 1))
        seconds = median_seconds(lambda f=sampled, k=keys: f(times, k), repeats=3)
        remark = (
            f"N = {INPUTS}, gradient flow of each by its SVD; differs by "
            f"{np.median(error):.0e} (median), {error.max():.0e} (largest)"
        )
        timings.append(Timing(f"mean over {draws} data sets", seconds, remark))
    return timings


def _sampled(times: jax.Array, keys: jax.Array, alpha: float) -> jax.Array:
    """E_g over time, averaged over one data set, teacher and student per key."""
    examples = int(alpha * INPUTS)

    def one(key):
        for_x, for_teacher, for_noise = jax.random.split(key, 3)
        x = jax.random.normal(for_x, (examples, INPUTS)) / np.sqrt(INPUTS)
        teacher = jax.random.normal(for_teacher, (INPUTS,))
        y = x @ teacher + np.sqrt(NOISE_VAR) * jax.random.normal(for_noise, (examples,))
        path = finite_sample_path(times, x, y, jnp.zeros(INPUTS))
        return jnp.mean((path - teacher[None]) ** 2, axis=-1) + NOISE_VAR

    return jnp.mean(jax.lax.map(one, keys, batch_size=BATCH), axis=0)
