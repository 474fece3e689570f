"""One of two processes that run an experiment twice: each has a store of its own.

Run as ``python cached_run.py STORE PROCESS PORT``; prints what the two runs gave, as JSON.
"""

from sims import backend

backend.prepare()

import json  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from sims import runner  # noqa: E402
from sims.experiment import Claim, Experiment, Source  # noqa: E402
from sims.store import Store  # noqa: E402
from sims.sweep import Process  # noqa: E402


@dataclass(frozen=True)
class Config:
    members: int = 3


HALVE = Process(
    init=lambda case, shared: case,
    step=lambda k, state, case, shared: state / 2,
    observe=lambda state, case, shared: {"x": state},
)


def simulate(config, key, sweep):
    cases = jax.random.uniform(key, (config.members,))
    return sweep("halve", HALVE, cases, record_at=[0, 2]).records


EXPERIMENT = Experiment(
    name="halving",
    source=Source("Anybody", 2014, "Title", "1312.6120", "Fig. 1"),
    statement="two halvings make a quarter",
    equations=("x_2 = x_0 / 4",),
    quick=Config(),
    full=Config(),
    cost=(1.0, 1.0),
    predict=lambda config: {"ratio": np.array(0.25)},
    simulate=simulate,
    claims=(
        Claim("ratio", lambda p: p["ratio"], lambda m: m["x"][:, 1] / m["x"][:, 0], 1e-12, "exact"),
    ),
)


def main(store, process, port):
    backend.ROW_LENGTHS, backend.BATCHES = (3,), (40000,)  # a real probe, but a short one
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    runs = [runner.run(EXPERIMENT, EXPERIMENT.quick, store=Store(store)) for _ in range(2)]
    print(
        json.dumps(
            [
                [run.provenance["cached"], run.measured["x"].tolist(), run.verdicts[0].holds]
                for run in runs
            ]
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
