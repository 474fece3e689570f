"""Runs the experiments that are named on stdin, as ``ldyn`` does, and answers with their keys.

Run as ``python experiments.py STORE``: a process for many, because each must probe its backend.
"""

from sims import backend

backend.prepare()

import sys  # noqa: E402
import traceback  # noqa: E402

import jax  # noqa: E402

from sims import catalogue, runner  # noqa: E402
from sims.store import Store  # noqa: E402

for line in sys.stdin:
    key = ""
    try:
        experiment = catalogue.find(line.strip())
        result = runner.run(experiment, experiment.quick, store=Store(sys.argv[1]))
        key = result.provenance["key"]
    except Exception:  # the next one may do better
        traceback.print_exc()
    jax.clear_caches()  # thousands of programs would exhaust the process's memory maps
    print(key, flush=True)
