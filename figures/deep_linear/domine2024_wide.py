"""Wide Gaussian weights: mode strengths, their fluctuations, learning times, kernel alignment."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.domine2024_wide import TWINS, fluctuations
from sims.experiment import Result

SHOWN = 1  # of the widths, over time
KAPPA = r"size of the initial weights $\kappa = c_1 + c_2$"


def draw(result: Result) -> Figure:
    """Strengths over time and fluctuations against width; times and kernels against kappa."""
    figure, axes = style.panels(2, 2, height=4.8)
    strengths(axes[0, 0], result)
    spread(axes[0, 1], result)
    half_times(axes[1, 0], result)
    alignment(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def settings(result: Result) -> list[tuple[int, str, str]]:
    """Index, label and colour of every setting."""
    pairs = result.config.settings
    colors = style.ordered_colors(len(pairs))
    return [(i, f"${pairs[i][0]:g},\\,{pairs[i][1]:g}$", colors[i]) for i in range(len(pairs))]


def strengths(ax: Axes, result: Result) -> None:
    """The strongest mode at one width; of settings of one kappa, one."""
    for index, label, color in settings(result):
        if index == TWINS[1]:
            continue
        t = result.predicted["times"][index]
        found = result.measured["strengths"][SHOWN][:, index, :, 0]
        style.simulation_band(ax, t, found, color=color)
        style.theory_line(ax, t, result.predicted["strengths"][index, :, 0], label, color=color)
    ax.set(xlabel=r"training time $t$ (learning rate $\times$ steps)")
    ax.set_xlim(0, 4 / result.predicted["singular_values"][0])
    ax.set(ylabel="strength of the strongest mode")
    ax.set_title(f"{result.measured['widths'][SHOWN]} hidden units")
    style.legend(ax, simulation="band", title=r"$c_1,\, c_2$", loc="lower right")


def spread(ax: Axes, result: Result) -> None:
    """Root mean square fluctuations over initial weights, which fall as 1/sqrt(width)."""
    widths = result.measured["widths"]
    found = np.sqrt(fluctuations(result.measured["strengths"]).mean(axis=1))
    for index, label, color in settings(result):
        theory = result.predicted["scaled_spread"][index] / np.sqrt(widths)
        style.simulation_points(ax, widths, found[:, index], color=color)
        style.theory_line(ax, widths, theory, label, color=color)
    ax.set(xscale="log", yscale="log", xlabel="hidden units $N_h$")
    ax.set_ylabel("fluctuations of mode strengths")
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.set_xticks([], minor=True)
    style.legend(ax, title=r"$c_1,\, c_2$", ncols=2, loc="upper right")
    ax.set_ylim(None, 4 * found.max())


def half_times(ax: Axes, result: Result) -> None:
    """When modes are half learned at the largest width."""
    predicted, s = result.predicted, result.predicted["singular_values"]
    for mode, color in zip((0, len(s) - 1), ("C0", "C1"), strict=True):
        label = f"$s = {s[mode]:g}$"
        found = result.measured["half_times"][:, :, mode]
        style.simulation_points(ax, predicted["imbalances"], found, color=color)
        theory = predicted["curve_half_times"][:, mode]
        style.theory_line(ax, predicted["curve_imbalances"], theory, label, color=color)
    ax.set(xscale="log", yscale="log", xlabel=KAPPA, ylabel="time to half-learn a mode")
    style.legend(ax, loc="lower left")


def alignment(ax: Axes, result: Result) -> None:
    """Tangent kernel in the end against that at the start, at the largest width."""
    predicted = result.predicted
    style.simulation_points(ax, predicted["imbalances"], result.measured["alignment"])
    style.theory_line(ax, predicted["curve_imbalances"], predicted["curve_alignment"])
    ax.set(xscale="log", xlabel=KAPPA, ylabel="kernel alignment with start")
    style.legend(ax, loc="lower right")
