"""A sweep with all that a checkpoint must carry: keys, momentum, counters, a member that diverges.

``python minibatch_sweep.py CHUNK DIRECTORY RESULT.npz [RANK PORT]`` runs it with a checkpoint after
every chunk and stores the result. With several devices, or as one of two processes, it first
gives up half-way, as after a crash, and then goes on from its checkpoint.
"""

from sims import backend

backend.prepare()

import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from dynamics.training import TrainState, optimizer_step  # noqa: E402
from sims.checkpoint import Checkpointing  # noqa: E402
from sims.sweep import Process, sweep  # noqa: E402

MEMBERS, STEPS, DIVERGING = 11, 600, 6


def loss(params, data):
    inputs, targets = data
    hidden = jnp.tanh(inputs @ params["first"].T)
    return jnp.mean(jnp.sum((hidden @ params["second"].T - targets) ** 2, axis=1)) / 2


def optimizer(case):
    return optax.sgd(case["learning_rate"], momentum=0.9)


def init(case, shared):
    params = case["params"]
    return TrainState(params, optimizer(case).init(params), case["key"]), jnp.int32(0)


def step(k, state, case, shared):
    update = optimizer_step(loss, optimizer(case), batch_size=4, sampling="reshuffle")
    return update(k, state[0], shared), state[1] + 1


def observe(state, case, shared):
    return {"loss": loss(state[0].params, shared), "visits": state[1]}


def problem():
    """Positional arguments of ``sweep``. One learning rate is far beyond stability."""
    draw = np.random.default_rng(0)
    rates = np.geomspace(1e-3, 1e-1, MEMBERS)
    rates[DIVERGING] = 1e300
    params = {name: draw.normal(size=(MEMBERS, 4, 4)) / 2 for name in ("first", "second")}
    keys = jax.random.split(jax.random.key(1), MEMBERS)
    cases = {"key": keys, "learning_rate": rates, "params": params}
    return "net", Process(init, step, observe), cases, tuple(draw.normal(size=(2, 12, 4)))


RECORD_AT = [0, 1, 2, 3, 10, 100, 317, STEPS]


def flat(result):
    """Every array of a result under its path, to be stored or compared."""
    leaves = jax.tree_util.tree_leaves_with_path(result)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Crash:
    """Progress that gives up half-way, on every process after the same chunk."""

    def update(self, done, total, diverged):
        if done >= total // 2:
            raise InterruptedError


class Dawdle:
    """Progress that takes its time, so that there is some in which to be killed."""

    def update(self, done, total, diverged):
        time.sleep(0.01)


def main(chunk, directory, output, rank=None, port=None):
    if rank is not None:
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
    options = {
        "record_at": RECORD_AT,
        "chunk": int(chunk),
        "checkpoint": Checkpointing(Path(directory), every=0),
    }
    if len(jax.devices()) > 1:
        try:
            sweep(*problem(), **options, progress=Crash())
        except InterruptedError:
            print("interrupted", flush=True)
    result = sweep(*problem(), **options, progress=Dawdle())
    np.savez(output, **flat(result))
    print(jax.process_count(), "processes,", len(jax.devices()), "devices", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
