"""What every worker does around its call: arguments in, seconds, memory and values out as JSON.

    python WORKER.py CALL PROBLEM.npz FIRST_SEED REPEATS [OPTIONS as JSON]

A worker maps names of calls to makers: ``maker(problem, **options)`` imports its library, builds
what is not to be timed, and returns ``call(seed) -> (value, products)``. Values are numbers, or
whatever ``judge(problem, value)`` makes numbers of, once, when everything is measured. Memory is
the highest resident set after the maker has returned, less that at its return: imports and data do
not count, compilation does. Linux only; elsewhere it is not a number. NumPy and the standard
library only: this runs in every environment.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np

LONG = 5.0  # CPU seconds; calls that take longer are timed once
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(makers, judge=None):
    """Run the call that the command line names: once to warm up, then ``repeats`` times."""
    name, path, seed, repeats, *options = sys.argv[1:]
    with np.load(path) as problem:
        problem = dict(problem)
    call = makers[name](problem, **json.loads(options[0] if options else "{}"))
    before = _resident("VmRSS")
    _forget_peak()
    runs, value = [], None
    for k in range(int(repeats) + 1):
        value = None  # the result before must not be in the way of this one
        run, value = _timed(call, int(seed) + k)
        runs.append(run if judge else run | {"value": value})
        if k > 0 and run["cpu"] > LONG:
            break
    memory = _resident("VmHWM") - before
    if judge:
        runs[-1]["value"] = judge(problem, value)
    print(json.dumps({"first": runs[0]["wall"], "runs": runs[1:], "memory": memory}))


def _timed(call, seed):
    wall, cpu = time.perf_counter(), time.process_time()
    value, products = call(seed)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "value": None, "products": products}, value


def _resident(field):
    """Bytes in the resident set, now (VmRSS) or at most (VmHWM)."""
    if not STATUS.exists():
        return math.nan
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def _forget_peak():
    """Let the highest resident set start from here: imports may have needed more."""
    if CLEAR.exists():
        CLEAR.write_text("5")
