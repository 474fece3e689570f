"""Digits on kernel principal components, and how network functions move along and off them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.jacot2018_digits import COMPONENTS, EARLY, LINE, deviations
from sims.kernels.relu_networks import each

TIME = r"time $t$ (learning rate $\times$ steps)"
MARKED = {0: ("C0", "o"), 1: ("C1", "s"), 4: ("C2", "^")}  # digits told apart by these components


def draw(result: Result) -> Figure:
    """Above one component, below four at once, width, and digits that were not learned."""
    figure, axes = style.panels(2, 3, height=4.4)
    plane(axes[0, 0], result)
    along(axes[0, 1], result, "line", "moved along component 2")
    off_the_line(axes[0, 2], result)
    four(axes[1, 0], result)
    along(axes[1, 1], result, "held_out", "the same, digits held out")
    off_by_width(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def plane(ax: Axes, result: Result) -> None:
    """Training digits on the second and third component of the limit kernel."""
    components, labels = result.predicted["components"], result.predicted["labels"]
    rest = ~np.isin(labels, list(MARKED))
    ax.plot(*components[rest, 1:].T, ".", color="0.75", ms=3, mew=0, label="others")
    for digit, (color, mark) in MARKED.items():
        points = components[labels == digit, 1:].T
        ax.plot(*points, mark, color=color, ms=3.5, mew=0, label=f"{digit}")
    ax.set(xlabel="kernel component 2", ylabel="kernel component 3")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))
    ax.legend(title="digit", loc="upper left", ncols=4, columnspacing=0.6, handletextpad=0.1)


def along(ax: Axes, result: Result, name: str, label: str) -> None:
    """Movement over what there is to be learned, of the narrowest and the widest networks."""
    p, found = result.predicted, each(dict(result.measured), name)
    for at, color in ((0, "C1"), (-1, "C0")):
        text = f"$n={p['widths'][at]}$"
        style.simulation_band(ax, p["times"][1:], found[at], text, color=color)
    learned = p["learned"][:, LINE]
    style.theory_line(ax, p["times"][1:], learned, r"$n=\infty$", color=style.NEUTRAL)
    ax.set(xlabel=TIME, ylabel=label, xlim=(0, None), ylim=(0, 1.15))
    ax.legend(loc="lower right")


def off_the_line(ax: Axes, result: Result) -> None:
    """Movement in all other directions, at every width."""
    p, found = result.predicted, each(dict(result.measured), "off")
    for width, off, color in zip(p["widths"], found, style.ordered_colors(len(found)), strict=True):
        style.simulation_band(ax, p["times"][1:], off, f"{width}", color=color)
    top = 1.5 * ax.get_ylim()[1]
    ax.set(xlabel=TIME, ylabel="moved off the line (r.m.s.)", xlim=(0, None), ylim=(0, top))
    ax.legend(title="width $n$", loc="upper right", ncols=len(found), columnspacing=0.8)


def four(ax: Axes, result: Result) -> None:
    """Four components learned at once, by the widest networks."""
    p, found = result.predicted, each(dict(result.measured), "four")[-1]
    colors = style.ordered_colors(len(COMPONENTS))
    for index, color in enumerate(colors):
        style.simulation_points(ax, p["times"][1:], found[..., index], color=color)
        label = f"{COMPONENTS[index]}"
        style.theory_line(ax, p["times"][1:], p["learned"][:, index], label, color=color)
    ax.set(xlabel=TIME, ylabel=f"part learned, $n={p['widths'][-1]}$", xlim=(0, None))
    ax.set_ylim(0, 1.75)
    ax.set_yticks((0, 0.5, 1))
    style.legend(ax, title="component", loc="upper left", ncols=3, columnspacing=0.8)


def off_by_width(ax: Axes, result: Result) -> None:
    """Movement off the line, early in training and at its end, with the predicted power."""
    p, m = result.predicted, dict(result.measured)
    widths = p["widths"]
    for record, label, color in ((EARLY, "early", "C0"), (-1, "end", "C1")):
        found, errors = deviations(m, record)
        mark = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
        ax.errorbar(widths, found, yerr=errors, color=color, label=label, **mark)
        if record == EARLY:
            power = widths ** float(p["off_exponent"])
            slope = power * np.exp(np.mean(np.log(found / power)))
            style.theory_line(ax, widths, slope, r"$\sim n^{-1/2}$", color=color)
    ax.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="moved off the line (r.m.s.)")
    ax.set_xticks(widths, [f"{width}" for width in widths])
    style.plain_ticks(ax.yaxis)
    ax.set_xticks([], minor=True)
    ax.set_ylim(None, 1.3 * ax.get_ylim()[1])
    ax.legend(loc="upper right")
