"""What ``ldyn`` prints: tables for people, plain data for ``--json``."""

import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sims import config
from sims.backend import Backend
from sims.experiment import Experiment, Result, Verdict
from sims.store import plain

WIDTH_WHEN_PIPED = 120


class Output(Console):
    """A console as wide as the terminal (120 columns in a pipe or a file) on stdout or stderr."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        piped = not stream.isatty() and "COLUMNS" not in os.environ
        super().__init__(stderr=stderr, highlight=False, width=WIDTH_WHEN_PIPED if piped else None)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line what a reader who went away means."""
        raise


def number(value: float, digits: int = 5) -> str:
    """So many significant digits, without trailing zeros.

    >>> number(0.5), number(1234567.0), number(3.14159e-9, 3)
    ('0.5', '1.2346e+06', '3.14e-09')
    """
    return f"{value:.{digits}g}"


def numbers(verdict: Verdict) -> tuple[str, str, str, str]:
    """Predicted, measured, error and tolerance of a verdict; for errors three digits are enough."""
    pair = number(verdict.predicted), number(verdict.measured)
    return *pair, number(verdict.error, 3), number(verdict.tolerance, 3)


def seconds(value: float) -> str:
    """A duration as people say it.

    >>> seconds(0.2), seconds(12.3), seconds(200), seconds(7300)
    ('0.2 s', '12 s', '3 min 20 s', '2 h 1 min')
    """
    if value < 9.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def size(count: float) -> str:
    """A number of bytes as people say it.

    >>> size(0), size(2048), size(3.4e6)
    ('0 B', '2.0 kB', '3.4 MB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {'kMGT'[power - 1]}B"


def experiments(listed: Iterable[Experiment]) -> Table:
    """Name, cost of the quick and the full preset, statement and source."""
    table = _table()
    table.add_column("experiment", style="bold", no_wrap=True)
    table.add_column("quick", justify="right", no_wrap=True)
    table.add_column("full", justify="right", no_wrap=True)
    table.add_column("claim and source")
    for experiment in listed:
        quick, full = experiment.cost
        source = Text(str(experiment.source), style="dim")
        statement = Group(Text(experiment.statement), source)
        table.add_row(experiment.name, seconds(quick), seconds(full), statement)
    return table


def claims(outcomes: Iterable[tuple[Experiment, Result]]) -> Table:
    """Every claim with its verdict; why its tolerance has that size stands below its name."""
    table = _table()
    table.add_column("claim, and why the tolerance", ratio=1)
    for heading in ("predicted", "measured", "error", "tolerance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for experiment, result in outcomes:
        table.add_row(Text(result.name, style="bold"))
        kinds = {claim.name: claim.error for claim in experiment.claims}
        for verdict in result.verdicts:
            why = f"{kinds.get(verdict.claim, '')} error; {verdict.because}"
            name = Group(Text(verdict.claim), Padding(Text(why, style="dim"), (0, 0, 0, 2)))
            mark = Text("holds", "green") if verdict.holds else Text("FAILS", "bold red")
            table.add_row(name, *numbers(verdict), mark)
        table.add_section()
    return table


def tally(verdicts: Iterable[Verdict]) -> str:
    """How many claims hold.

    >>> tally([Verdict("speed", 1.0, 1.0, 0.0, 0.1, "rounding", holds=True)])
    '1 of 1 claims hold'
    """
    holds = [verdict.holds for verdict in verdicts]
    return f"{sum(holds)} of {len(holds)} claims hold"


def presets(experiment: Experiment) -> Table:
    """The fields of an experiment's config, as ``--set`` takes them."""
    table = _table()
    table.add_column("field", no_wrap=True)
    table.add_column("type", style="dim")
    table.add_column("quick", overflow="fold")
    table.add_column("full", overflow="fold")
    rows = zip(config.describe(experiment.quick), config.describe(experiment.full), strict=True)
    for quick, full in rows:
        table.add_row(*map(Text, (quick.name, quick.type, quick.default, full.default)))
    return table


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Two columns: what, and its value."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def health(backend: Backend) -> Text:
    """One line if the backend is sound, otherwise every probe that failed."""
    if backend.sound:
        return Text("sound: every probe of jit(vmap(reduce(A @ row))) agrees with NumPy", "green")
    lines = [f"UNSOUND: {len(backend.failures)} probes of jit(vmap(reduce(A @ row))) are wrong"]
    return Text("\n  ".join([*lines, *backend.failures]), "bold red")


def listing(experiment: Experiment) -> dict[str, Any]:
    """One experiment as plain data."""
    quick, full = experiment.cost
    rows = zip(config.describe(experiment.quick), config.describe(experiment.full), strict=True)
    return {
        "name": experiment.name,
        "statement": experiment.statement,
        "source": asdict(experiment.source),
        "cost_seconds": {"quick": quick, "full": full},
        "claims": [claim.name for claim in experiment.claims],
        "fields": [
            {"name": a.name, "type": a.type, "quick": a.default, "full": b.default} for a, b in rows
        ],
    }


def record(experiment: Experiment, result: Result) -> dict[str, Any]:
    """One run as plain data. Whether it came from the store is not part of what it is."""
    provenance = {name: value for name, value in result.provenance.items() if name != "cached"}
    return plain(
        {
            "name": result.name,
            "source": asdict(experiment.source),
            "config": asdict(result.config),
            "holds": all(verdict.holds for verdict in result.verdicts),
            "verdicts": result.verdicts,
            "provenance": provenance,
        }
    )


def _table() -> Table:
    return Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False, header_style="dim")


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return a nested mapping as rows (dotted name, text).

    >>> flatten({"packages": {"jax": "0.10.1"}, "seed": 0, "failures": []})
    [('packages.jax', '0.10.1'), ('seed', '0'), ('failures', 'none')]
    """
    if isinstance(tree, Mapping):
        dotted = f"{prefix}." if prefix else ""
        return [row for key, value in tree.items() for row in flatten(value, f"{dotted}{key}")]
    if isinstance(tree, (list, tuple)):
        return [(prefix, ", ".join(str(item) for item in tree) or "none")]
    if isinstance(tree, bool) or tree is None:
        return [(prefix, {True: "yes", False: "no", None: "unknown"}[tree])]
    return [(prefix, number(tree) if isinstance(tree, float) else str(tree))]
