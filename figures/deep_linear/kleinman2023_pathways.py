"""Races of two pathways: phase portraits, what becomes of a lead, and critical periods."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.kleinman2023_pathways import TASKS
from sims.experiment import Result

SHOWN = 1  # mode of the critical-period curves
LOSER = 1  # pair of starts


def draw(result: Result) -> Figure:
    """Two portraits and growth of leads; losers, critical periods on a tree and on digits."""
    figure, axes = style.panels(2, 3, height=4.6)
    depths = result.predicted["depths"]
    portrait(axes[0, 0], result, int(np.argmin(np.abs(depths - 2))))
    portrait(axes[0, 1], result, len(depths) - 1)
    leads(axes[0, 2], result)
    losers(axes[1, 0], result)
    critical_periods(axes[1, 1], result)
    digits(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def portrait(ax: Axes, result: Result, index: int) -> None:
    """Paths of random starts along the curves of constant invariant, to the line K_a + K_b = S."""
    theory, found = result.predicted["paths"][index], result.measured["paths"][index]
    for race in np.ndindex(*theory.shape[2:]):
        a, b = found[(slice(None), slice(None), *race)]
        ax.plot(a, b, color="C0", alpha=0.4, linewidth=2.4, zorder=2)
        ax.plot(a[0], b[0], "o", color="C0", mew=0, markersize=2.6, zorder=4)
        style.theory_line(ax, *theory[(slice(None), slice(None), *race)], linewidth=0.7)
    ax.plot([0, 1], [1, 0], color=style.NEUTRAL, linestyle="--", linewidth=0.8, zorder=1)
    ax.set(xlabel="pathway a, $K_a/S$", ylabel="pathway b, $K_b/S$")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_title(f"depth {result.predicted['depths'][index]}")


def leads(ax: Axes, result: Result) -> None:
    """Final over initial log ratio of strengths against the growth of the strengths."""
    growth = 1 / (2 * result.predicted["lead_starts"])
    for depth, index, color in by_depth(result):
        found = result.measured["leads"][index, -1]
        style.simulation_points(ax, growth, found, color=color)
        theory = result.predicted["leads"][index]
        style.theory_line(ax, growth, theory, f"{depth}", color=color)
    ax.set(xscale="log", yscale="log", xlabel="growth of strengths $S/2K(0)$")
    ax.set(ylabel="growth of a small lead", ylim=(None, 1e3))
    ax.legend(title="depth", ncols=2, loc="upper left")


def losers(ax: Axes, result: Result) -> None:
    """Final strength of the weaker of two pathways against the strength of the task."""
    for _, index, color in by_depth(result):
        found = result.measured["losers"][index, -1, :, LOSER]
        style.simulation_points(ax, TASKS, found, color=color)
        theory = result.predicted["fine_losers"][index, :, LOSER]
        style.theory_line(ax, result.predicted["fine_tasks"], theory, color=color)
        bound = result.predicted["bound"][index, LOSER]
        if np.isfinite(bound):
            ax.axhline(bound, color=style.darker(color), linestyle=":", linewidth=0.9)
    ax.plot([], [], color=style.NEUTRAL, linestyle=":", linewidth=0.9, label="bound")
    ax.set(xscale="log", yscale="log", xlabel="strength of the task $S$")
    ax.set(ylabel=r"final strength of the loser $K_b(\infty)$")
    ax.legend(loc="upper left")


def critical_periods(ax: Axes, result: Result) -> None:
    """Final share of pathway a against the onset of the deficit of b, by depth."""
    predicted, measured = result.predicted, result.measured
    for depth, index, color in by_depth(result):
        for kind, line in zip(range(predicted["curves"].shape[1]), ("-", "--"), strict=False):
            found = measured["curves"][index, -1, kind, :, SHOWN]
            style.simulation_points(ax, predicted["onset_times"], found, color=color)
            theory, label = predicted["fine_curves"][index, kind, :, SHOWN], f"{depth}"
            style.theory_line(
                ax,
                predicted["fine_onset_times"],
                theory,
                None if kind else label,
                color=color,
                linestyle=line,
            )
    ax.set(xlabel="onset of the deficit, $t$", ylabel=r"final share $K_a/S$", ylim=(0.47, 1.01))
    ax.set_title(f"tree, mode with $S = {predicted['singular_values'][SHOWN]:.2f}$")
    ax.legend(title="depth", loc="upper right")


def digits(ax: Axes, result: Result) -> None:
    """The same on handwritten digits, depth 2, from random weights."""
    times = result.predicted["digit_onsets"]
    style.simulation_points(ax, times, result.measured["digit_curves"], color="C1")
    fine = result.predicted["fine_digit_onsets"], result.predicted["fine_digit_curve"]
    style.theory_line(ax, *fine, color="C1")
    ax.set(xlabel="onset of the deficit, $t$", ylabel=r"final share, mean over modes")
    ax.set(ylim=(0.47, 1.01))
    ax.set_title("whitened digits, depth 2")
    style.legend(ax, loc="upper right")


def by_depth(result: Result) -> list[tuple[int, int, str]]:
    """Depths, their index and colour."""
    depths = result.predicted["depths"].tolist()
    return list(zip(depths, range(len(depths)), style.ordered_colors(len(depths)), strict=True))
