"""Lazy or rich: the verdict on a user's network with its evidence, as a table and as a panel."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from figures import style, tables
from sims.network_regime import NetworkRegime


def report(found: NetworkRegime) -> Iterator[RenderableType]:
    """The verdict, what each measure says and by which thresholds, and notes."""
    yield Text()
    yield Text(f"regime of training: {found.report.regime} (on {found.examples} examples)")
    yield evidence(found)
    yield Text()
    yield tables.facts(facts(found))
    for note in found.notes:
        yield Text()
        yield Text(f"Note: {note}", style="yellow")


def evidence(found: NetworkRegime) -> Table:
    """The measures that decide, each beside its two thresholds."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("measure")
    for heading in ("value", "lazy below", "rich above", "says"):
        table.add_column(heading, justify="right")
    for piece in found.report.evidence:
        numbers = (piece.value, piece.lazy_below, piece.rich_above)
        shown = (tables.number(value, 3) for value in numbers)
        table.add_row(piece.measure.replace("_", " "), *shown, piece.says)
    return table


def facts(found: NetworkRegime) -> Iterator[tuple[str, str]]:
    """Rows (what, value) of the measures that take no part in the verdict."""
    measures = found.report.measures
    yield "kernel grew by a factor of", tables.number(float(measures.kernel_scale), 3)
    yield "kernel distance, centered", tables.number(float(measures.centered_kernel_distance), 3)
    if measures.target_alignment_gain is not None:
        gain = tables.number(float(measures.target_alignment_gain), 3)
        yield "gain in kernel-target alignment", gain


def draw(ax: Axes, found: NetworkRegime) -> None:
    """Every measure that decides, on the band between its thresholds."""
    pieces = found.report.evidence
    rows = np.arange(len(pieces))[::-1]
    values = [piece.value for piece in pieces if np.isfinite(piece.value)]
    smallest = min(piece.lazy_below for piece in pieces) / 100
    for row, piece in zip(rows, pieces, strict=True):
        width = piece.rich_above - piece.lazy_below
        ax.barh(row, width, left=piece.lazy_below, height=0.5, color=style.NEUTRAL, alpha=0.3)
        if np.isfinite(piece.value):
            ax.plot(max(piece.value, smallest), row, "o", color="C1", markersize=4)
    top = pieces[0]
    ax.text(top.lazy_below, rows[0] + 0.35, "lazy ", ha="right")
    ax.text(top.rich_above, rows[0] + 0.35, " rich", ha="left")
    largest = max([piece.rich_above for piece in pieces] + values)
    ax.set_xscale("log")
    ax.set_xlim(smallest / 2, 10 * largest)
    ax.set_yticks(rows, [piece.measure.replace("_", "\n") for piece in pieces])
    ax.set_ylim(-0.7, len(pieces) - 0.3)
    ax.set(xlabel="relative change", title=f"training: {found.report.regime}")
