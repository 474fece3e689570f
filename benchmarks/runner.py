"""Runs calls of libraries against each other: each in its own process, in turn, on one core.

A round runs every contender once, so that a busy spell of the machine hits all of them; those that
need more than ``clock.LONG`` seconds for a call take part in the first only. A process warms up
with one call (which compiles, where a library compiles) and times the next ones; what is reported
are medians over all rounds. CPU seconds are the fair column on a machine that does other things as
well.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.clock import LONG
from benchmarks.environments import environment, last_line

ROOT = Path(__file__).resolve().parents[1]  # workers import benchmarks.clock
PATIENCE = 900  # seconds that a process may take


class Contender(NamedTuple):
    """A call of a library on a problem: ``call`` names a maker in its worker."""

    label: str
    library: str
    call: str
    options: dict[str, Any] = {}  # noqa: RUF012 (never written to)


class Result(NamedTuple):
    """Medians of a contender's runs, or why there are none.

    ``first`` is the wall time of the warm-up, ``memory`` in bytes the highest resident set over
    that before it, ``values`` those of all runs that have one.
    """

    contender: Contender
    cpu: float = np.nan
    wall: float = np.nan
    first: float = np.nan
    memory: float = np.nan
    values: tuple[Any, ...] = ()
    products: float | None = None
    problem: str = ""


def race(
    contenders: Sequence[Contender],
    problem: Path,
    *,
    workers: Mapping[str, Path],
    rounds: int,
    repeats: int,
    x64: bool,
) -> list[Result]:
    """Every contender's result on a problem, in float32 or (JAX only) with float64 enabled.

    ``workers`` are the scripts that call the libraries.
    """
    reports: dict[str, list[dict]] = {contender.label: [] for contender in contenders}
    failures: dict[str, str] = {}
    for turn in range(rounds):
        for contender in contenders:
            done = reports[contender.label]
            if contender.label in failures or any(r["runs"][0]["cpu"] > LONG for r in done):
                continue
            print(f"round {turn + 1} of {rounds}: {contender.label}", file=sys.stderr)
            script = workers[contender.library]
            report = _run(contender, script, problem, turn * (repeats + 1), repeats, x64)
            if isinstance(report, str):
                failures[contender.label] = report
            else:
                done.append(report)
    return [
        Result(contender, problem=failures[contender.label])
        if contender.label in failures
        else _medians(contender, reports[contender.label])
        for contender in contenders
    ]


def _medians(contender: Contender, reports: list[dict]) -> Result:
    runs = [run for report in reports for run in report["runs"]]
    products = [run["products"] for run in runs if run["products"] is not None]
    return Result(
        contender,
        cpu=float(np.median([run["cpu"] for run in runs])),
        wall=float(np.median([run["wall"] for run in runs])),
        first=float(np.median([report["first"] for report in reports])),
        memory=float(np.median([report["memory"] for report in reports])),
        values=tuple(run["value"] for run in runs if run["value"] is not None),
        products=float(np.median(products)) if products else None,
    )


def _run(
    contender: Contender, script: Path, problem: Path, seed: int, repeats: int, x64: bool
) -> dict | str:
    """One process: what it reports, or the last thing it said."""
    python, trouble = environment(contender.library)
    if python is None:
        return f"no environment: {trouble}"
    arguments = (contender.call, problem, seed, repeats, json.dumps(contender.options))
    command = [str(part) for part in (python, script, *arguments)]
    try:
        with one_core():
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=_surroundings(x64),
                timeout=PATIENCE,
            )
    except subprocess.TimeoutExpired:
        return f"no answer in {PATIENCE} s"
    if done.returncode:
        return last_line(done.stderr)
    return json.loads(last_line(done.stdout))


def _surroundings(x64: bool) -> dict[str, str]:
    """This process's environment, with one thread for every library that asks it."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    jax = {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(x64))}
    return {**os.environ, **threads, **jax, "PYTHONPATH": str(ROOT)}


@contextmanager
def one_core() -> Iterator[None]:
    """Processes started here run on one core, where the system lets them be bound to one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
