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


def answer(name: str) -> str:
    """The key of a run in the store, or nothing if it failed; the next one may do better."""
    try:
        experiment = catalogue.find(name)
        result = runner.run(experiment, experiment.quick, store=Store(sys.argv[1]))
        return result.provenance["key"]
    except Exception:
        traceback.print_exc()
        return ""
    finally:
        jax.clear_caches()  # thousands of programs would exhaust the process's memory maps


if __name__ == "__main__":
    for line in sys.stdin:
        print(answer(line.strip()), flush=True)
