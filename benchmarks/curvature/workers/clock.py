"""What every worker does around its call: arguments in, seconds, memory and values out as JSON.

    python WORKER.py CALL PROBLEM.npz FIRST_SEED REPEATS [OPTIONS as JSON]

A worker maps names of calls to makers: ``maker(problem, **options)`` imports its library, builds
what is not to be timed, and returns ``call(seed) -> (value, products)``. Memory is the highest
resident set after the maker has returned, less that at its return: imports and data do not count,
compilation does. Linux only; elsewhere it is not a number. NumPy and the standard library only:
this runs in every environment.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(makers):
    """Run the call that the command line names: once to warm up, then ``repeats`` times."""
    name, path, seed, repeats, *options = sys.argv[1:]
    with np.load(path) as problem:
        call = makers[name](dict(problem), **json.loads(options[0] if options else "{}"))
    before = _resident("VmRSS")
    _forget_peak()
    first, *rest = (_timed(call, int(seed) + k) for k in range(int(repeats) + 1))
    report = {
        "first": first["wall"],
        "runs": rest,
        "memory": _resident("VmHWM") - before,
    }
    print(json.dumps(report))


def _timed(call, seed):
    wall, cpu = time.perf_counter(), time.process_time()
    value, products = call(seed)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "value": value, "products": products}


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
