"""The comparison of kernels, once and at small sizes: does everything still run?"""

from collections.abc import Iterator

from rich.table import Table

from benchmarks import kernels
from benchmarks.kernels.problems import Sizes

SMALL = Sizes((20, 64, 64, 4), examples=32, channels=(8, 8, 4), images=16, pixels=8, inputs=300)


def tables() -> Iterator[Table]:
    """The tables, without those of growth."""
    yield from kernels.comparisons(SMALL, rounds=1)
