"""256 seeds of a 64-64-64 linear network, 2000 steps of gradient descent: one program or a loop."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import Timing, median_seconds
from dynamics import models, training
from dynamics.losses import half_squared_error
from sims.processes import seed_keys, training_process
from sims.sweep import sweep

WIDTHS, SEEDS, STEPS, RATE = (64, 64, 64), 256, 2000, 0.1
LOOPED = 8  # seeds that the loop really runs; its time is proportional to their number


def run() -> list[Timing]:
    """The sweep, compiled before; the first call, compilation included; a loop of jitted steps."""
    model = models.deep_linear(WIDTHS, gain=0.1)
    loss = half_squared_error(model.apply, examples="sum")
    target = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0]
    data = jnp.eye(64), jnp.asarray(target)
    keys = seed_keys(jax.random.key(0), SEEDS)
    process = training_process(
        lambda case, shared: model.init(case["key"]),
        loss,
        lambda params, shared: {"loss": loss(params, shared["data"])},
    )
    cases = {"key": keys, "learning_rate": jnp.full(SEEDS, RATE)}

    def swept() -> np.ndarray:  # losses before and after, (2, seeds)
        run = sweep("seeds", process, cases, {"data": data}, record_at=[0, STEPS])
        return run.records["loss"].T

    start = time.perf_counter()
    initial, together = swept()
    first = time.perf_counter() - start
    per_seed, alone = _loop(loss, model, keys[:LOOPED], data)
    difference = np.max(np.abs(together[:LOOPED] - alone) / initial[:LOOPED])
    extrapolated = (
        f"median of {LOOPED} seeds, times {SEEDS}; losses differ by {difference:.0e} of the first"
    )
    return [
        Timing("vmapped sweep", median_seconds(swept, repeats=3)),
        Timing("the same, first call", first, "one run, compilation included"),
        Timing("Python loop over jitted steps", per_seed * SEEDS, extrapolated),
    ]


def _loop(loss, model, keys, data) -> tuple[float, np.ndarray]:
    step = jax.jit(training.optimizer_step(loss, optax.sgd(RATE)), donate_argnums=1)

    def train(key):
        params = model.init(key)
        state = training.TrainState(params, optax.sgd(RATE).init(params), key)
        for k in range(STEPS):
            state = step(k, state, data)
        return float(loss(state.params, data))

    train(keys[0])  # compiles
    seconds, final = [], []
    for key in keys:
        start = time.perf_counter()
        final.append(train(key))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), np.array(final)
