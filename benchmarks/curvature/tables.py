"""What the benchmark prints."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from benchmarks.runner import Result
from benchmarks.tables import costs


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
        table.add_row(result.contender.label, products, *costs(result, ratio), f"{error:.0e}")
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
        table.add_row(result.contender.label, *costs(result), *last)
    return table
