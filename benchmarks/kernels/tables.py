"""What the benchmark prints."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.runner import Result
from benchmarks.tables import costs


def comparison(title: str, results: Sequence[Result]) -> Table:
    """Costs, ratios of CPU seconds to the first row's, and errors.

    Errors are the largest ones, relative to the largest value; on the diagonal to each value.
    """
    headings = ("what", "CPU [s]", "ratio", "wall [s]", "memory [MB]", "error off", "on diagonal")
    table = Table(*headings, title=title)
    for result in results:
        if result.problem:
            table.add_row(result.contender.label, result.problem, *[""] * 5)
            continue
        error, diagonal = result.values[0]
        ratio = f"{result.cpu / results[0].cpu:.3g}"
        errors = f"{error:.1e}", f"{diagonal:.1e}"
        table.add_row(result.contender.label, *costs(result, ratio), *errors)
    return table
