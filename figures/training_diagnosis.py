"""A diagnosis along training, as a table for the terminal and as a figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from figures import regime, style, tables
from sims.diagnosis import ADAPTIVE
from sims.training_diagnosis import Watched

ROWS = 13  # of the table; the figure and the JSON have every record


def report(watched: Watched) -> Group:
    """Settings, a table of some of the records, and what became of the run."""
    optimizer, parts = watched.optimizer, []
    hyper = "".join(f", {name} {tables.number(x)}" for name, x in optimizer.hyper.items())
    settings = f"learning rate {tables.number(optimizer.learning_rate)}"
    parts.append(
        tables.facts(
            [
                (
                    "optimizer",
                    f"{optimizer.kind}, {settings}, batch size {optimizer.batch_size}{hyper}",
                ),
                ("its full-batch edge", f"curvature {tables.number(optimizer.edge)}"),
            ]
        )
    )
    parts += [Text(), _table(watched)]
    for note in notes(watched):
        parts += [Text(), Text(f"Note: {note}", style="yellow")]
    return Group(*parts, *regime.report(watched.regime))


def _table(watched: Watched) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = {"step": watched.steps, **_shown(watched)}
    for heading in columns:
        table.add_column(heading, justify="right")
    count = len(watched.steps)
    for row in np.unique(np.linspace(0, count - 1, min(ROWS, count)).round().astype(int)):
        table.add_row(*(_cell(name, float(values[row])) for name, values in columns.items()))
    return table


def _shown(watched: Watched) -> dict[str, np.ndarray]:
    """Columns of the table by their headings."""
    records, rate = watched.records, watched.optimizer.learning_rate
    shown = {"loss": records["loss"], "sharpness": records["sharpness"], "trace": records["trace"]}
    if "preconditioned" in records:
        shown["preconditioned"] = records["preconditioned"]
    if np.isfinite(records["edge"]).any():
        return shown | {
            "learning rate / edge": rate / records["edge"],
            "growth": records["growth"],
            "missed": records["missed"],
        }
    return shown | {"learning rate / bound": rate / records["bound"], "missed": records["missed"]}


def _cell(heading: str, value: float) -> str:
    if heading == "step":
        return str(int(value))
    if not np.isfinite(value):
        return "-"
    if heading == "missed" or heading.startswith("learning rate"):
        return f"{value:.1%}"
    return f"{value:.6f}" if heading == "growth" else tables.number(value)


def notes(watched: Watched) -> list[str]:
    """What a reader must know before trusting a number."""
    found, records = [], watched.records
    if watched.diverged_at >= 0:
        found.append(f"Training left the finite numbers at step {watched.diverged_at}.")
    if not np.isfinite(records["edge"]).any():
        found.append("The Gram is too large to decompose at every record: bounds only.")
    if watched.optimizer.kind not in ("gd", "heavy_ball"):
        found.append(f"Edges are those of plain SGD, not of {watched.optimizer.kind}.")
    reached = np.isfinite(records["sharpness"])
    rough = records["residual"][reached] > 1e-2 * np.abs(records["sharpness"][reached])
    if rough.any():
        found.append(
            f"The largest eigenvalue is not converged to 1 % at {rough.sum()} of "
            f"{reached.sum()} records: ask for more products."
        )
    return found


def draw(watched: Watched) -> Figure:
    """Loss, curvature beside the full batch's edge, learning rate over SGD's edge, regime."""
    with style.paper():
        figure, axes = style.panels(2, 2)
        axes[0, 0].plot(watched.steps, watched.records["loss"])
        axes[0, 0].set(yscale="log", xlabel="step", ylabel="loss")
        _curvature(axes[0, 1], watched)
        _edges(axes[1, 0], watched)
        regime.draw(axes[1, 1], watched.regime)
        style.panel_letters(axes)
        return figure


def _curvature(ax: Axes, watched: Watched) -> None:
    adaptive = watched.optimizer.kind in ADAPTIVE
    name = "preconditioned" if adaptive else "sharpness"
    label = "preconditioned sharpness" if adaptive else "sharpness"
    ax.plot(watched.steps, watched.records[name], label=label)
    if not adaptive:
        ax.plot(watched.steps, watched.records["trace"], label="trace", color="C2")
    edge = f"full-batch edge, {watched.optimizer.kind}"
    ax.axhline(watched.optimizer.edge, color=style.NEUTRAL, linestyle="--", label=edge)
    ax.set(yscale="log", xlabel="step", ylabel="curvature")
    ax.legend(loc="best")


def _edges(ax: Axes, watched: Watched) -> None:
    records, rate = watched.records, watched.optimizer.learning_rate
    if np.isfinite(records["edge"]).any():
        ax.plot(watched.steps, rate / records["edge"], label="exact edge")
    bound = rate / records["bound"]
    ax.plot(watched.steps, bound, color=style.NEUTRAL, linestyle="--", label="bound")
    ax.axhline(1, color="C1", linewidth=1)
    size = watched.optimizer.batch_size
    ax.set(xlabel="step", ylabel="learning rate / edge", title=f"batch size {size}")
    ax.legend(loc="best")
