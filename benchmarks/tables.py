"""What the tables of several benchmarks have in common."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from benchmarks.runner import Result

MEGABYTE = 2**20


def growth(title: str, quantity: str, sizes: Sequence[int], results: Sequence[Result]) -> Table:
    """Costs along one size, and the exponent of the CPU time in its upper half."""
    measured = [
        (size, result.cpu)
        for size, result in zip(sizes, results, strict=True)
        if not result.problem
    ]
    upper = np.log(measured[len(measured) // 2 :])
    exponent = np.polyfit(upper[:, 0], upper[:, 1], 1)[0] if len(upper) > 1 else np.nan
    title = f"{title}; CPU time as its power {exponent:.1f} at the end"
    table = Table(quantity, "CPU [s]", "wall [s]", "memory [MB]", "first call [s]", title=title)
    for size, result in zip(sizes, results, strict=True):
        if result.problem:
            table.add_row(str(size), result.problem, "", "", "")
        else:
            table.add_row(str(size), *costs(result), f"{result.first:.3g}")
    return table


def costs(result: Result, *after_cpu: str) -> tuple[str, ...]:
    """CPU and wall seconds and megabytes, with more columns after the first."""
    memory = f"{result.memory / MEGABYTE:.0f}"
    return f"{result.cpu:.3g}", *after_cpu, f"{result.wall:.3g}", memory
