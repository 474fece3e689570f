"""Curvature and stability of trained ReLU networks, against five libraries on one common job.

    (a) trace of the Hessian from 100 products, and exactly       94 218 parameters, 1000 examples
    (b) its largest eigenvalue to 1e-3                            the same, float32
    (c) exact mean-square threshold of SGD, which has no peers    94 381 parameters, 256 examples
    (d) how its cost grows with examples, parameters and batch size, in float64

Every library is called through its public functions, in an environment of its own
(``benchmarks.environments``), in a process of its own, in turns, on one core and one thread
(``benchmarks.runner``). Takes a quarter of an hour on a quiet machine, and the first time what pip
needs for five environments (4 GB).
"""

from collections.abc import Iterator
from functools import partial

from rich.table import Table

from benchmarks import runner
from benchmarks.curvature.contenders import THRESHOLDS, TOPS, TRACES, WORKERS, threshold
from benchmarks.curvature.problem import reference, trained_network, written
from benchmarks.curvature.tables import comparison, thresholds
from benchmarks.tables import growth

race = partial(runner.race, workers=WORKERS)
ROUNDS, REPEATS = 3, 2
EXAMPLES, WIDTH, BATCH = 256, 260, 8
MORE_EXAMPLES = (64, 128, 256, 512, 1000, 2000)
MORE_WIDTHS = (64, 128, 256, 512, 1024)
MORE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def tables() -> Iterator[Table]:
    """The tables, one after the other as they are measured."""
    problem = trained_network(1000, 256, 10)
    path, exact = written(problem), reference(problem)
    size = f"{problem.parameters} parameters, {len(problem.x)} examples"
    results = race(TRACES, path, rounds=ROUNDS, repeats=REPEATS, x64=False)
    yield comparison(f"(a) Trace of the Hessian, {size}", results, exact.trace)
    results = race(TOPS, path, rounds=ROUNDS, repeats=REPEATS, x64=False)
    gap = f"the next is {1 - exact.second / exact.top:.1%} smaller"
    yield comparison(f"(b) Largest eigenvalue of the Hessian; {gap}", results, exact.top)
    problem = trained_network(EXAMPLES, WIDTH, 1)
    size = f"{problem.parameters} parameters, {len(problem.x)} examples"
    results = race(THRESHOLDS, written(problem), rounds=ROUNDS, repeats=REPEATS, x64=True)
    yield thresholds(f"(c) Exact learning rate at the edge of SGD's stability, {size}", results)
    yield from growths()


def growths() -> Iterator[Table]:
    """The threshold's cost in one process per size: examples, parameters, batch size."""
    results = [_one(n, WIDTH, BATCH) for n in MORE_EXAMPLES]
    yield growth("(d) Cost against examples", "examples", MORE_EXAMPLES, results)
    sizes = [trained_network(2, width, 1, steps=0).parameters for width in MORE_WIDTHS]
    results = [_one(EXAMPLES, width, BATCH) for width in MORE_WIDTHS]
    yield growth("(d) Cost against parameters", "parameters", sizes, results)
    results = [_one(EXAMPLES, WIDTH, batch) for batch in MORE_BATCHES]
    yield growth("(d) Cost against batch size", "batch size", MORE_BATCHES, results)


def _one(examples: int, width: int, batch: int) -> runner.Result:
    path = written(trained_network(examples, width, 1))
    (result,) = race([threshold(batch)], path, rounds=1, repeats=1, x64=True)
    return result
