"""``python -m benchmarks [NAME ...]``: run the benchmarks and print medians and ratios."""

from sims import backend

backend.prepare()

import importlib  # noqa: E402
import sys  # noqa: E402

import jax  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.timing import Timing  # noqa: E402

BENCHMARKS = ("mode_trajectories", "matrix_riccati", "generalization_curves", "seed_sweep")


def main(names: list[str]) -> None:
    """Print one table per benchmark; ratios are relative to its first row."""
    console = Console()
    console.print(f"jax {jax.__version__} on {', '.join(map(str, jax.devices()))}")
    for name in names or BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        many = hasattr(module, "tables")
        for table in module.tables() if many else [_table(str(module.__doc__), module.run())]:
            console.print(table)


def _table(title: str, timings: list[Timing]) -> Table:
    table = Table("what", "median [s]", "ratio", "remark", title=title)
    for timing in timings:
        ratio = timing.seconds / timings[0].seconds
        table.add_row(timing.name, f"{timing.seconds:.3g}", f"{ratio:.3g}", timing.remark)
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
