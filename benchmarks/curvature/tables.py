"""What the benchmark prints."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from benchmarks.curvature.runner import Result

MEGABYTE = 2**20


def comparison(title: str, results: Sequence[Result], exact: float) -> Table:
    """Costs of every contender, and its root mean square error relative to ``exact``.

    Ratios are those of CPU seconds to the first row's.
    """
    table = Table(
        "what", "products", "CPU [s]", "ratio", "wall [s]", "memory [MB]", "error", title=title
    )
    for result in results:
        if result.problem:
            table.add_row(result.contender.label, result.problem, *[""] * 5)
            continue
        error = np.sqrt(np.mean((np.array(result.values) / exact - 1) ** 2))
        products = "" if result.products is None else f"{result.products:.0f}"
        ratio = f"{result.cpu / results[0].cpu:.3g}"
        table.add_row(result.contender.label, products, *_costs(result, ratio), f"{error:.0e}")
    return table


def thresholds(title: str, results: Sequence[Result]) -> Table:
    """Costs of thresholds, which no other library computes, and the learning rates."""
    headings = ("what", "CPU [s]", "wall [s]", "memory [MB]", "first call [s]", "value")
    table = Table(*headings, title=title)
    for result in results:
        if result.problem:
            table.add_row(result.contender.label, result.problem, *[""] * 4)
            continue
        last = f"{result.first:.3g}", f"{result.values[0]:.6g}"
        table.add_row(result.contender.label, *_costs(result), *last)
    return table


def growth(quantity: str, sizes: Sequence[int], results: Sequence[Result]) -> Table:
    """Costs along one size, and the exponent of the CPU time in its upper half."""
    measured = [
        (size, result.cpu)
        for size, result in zip(sizes, results, strict=True)
        if not result.problem
    ]
    upper = np.log(measured[len(measured) // 2 :])
    exponent = np.polyfit(upper[:, 0], upper[:, 1], 1)[0] if len(upper) > 1 else np.nan
    title = f"(d) Cost against {quantity}; CPU time as its power {exponent:.1f} at the end"
    table = Table(quantity, "CPU [s]", "wall [s]", "memory [MB]", "first call [s]", title=title)
    for size, result in zip(sizes, results, strict=True):
        if result.problem:
            table.add_row(str(size), result.problem, "", "", "")
        else:
            table.add_row(str(size), *_costs(result), f"{result.first:.3g}")
    return table


def _costs(result: Result, *after_cpu: str) -> tuple[str, ...]:
    memory = f"{result.memory / MEGABYTE:.0f}"
    return f"{result.cpu:.3g}", *after_cpu, f"{result.wall:.3g}", memory
