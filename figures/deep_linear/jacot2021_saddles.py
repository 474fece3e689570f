"""Stairs of the loss, their times and ranks, and errors of gradient descent against its step."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.jacot2021_saddles import DEPTHS, HALVINGS
from sims.experiment import Result

TIME = r"time $t$ / first escape time"
SHOWN = 5.0  # first escape times


def draw(result: Result) -> Figure:
    """Losses of aligned and random networks, ranks; escape times, theirs from random, errors."""
    figure, axes = style.panels(2, 3, height=4.5)
    aligned_losses(axes[0, 0], result)
    random_curves(axes[0, 1], result, "loss", result.predicted["levels"][1:-1])
    random_curves(axes[0, 2], result, "rank", result.predicted["ranks"])
    escape_times(axes[1, 0], result)
    random_times(axes[1, 1], result)
    step_errors(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def colors() -> list[str]:
    """One for each depth."""
    return style.ordered_colors(len(DEPTHS))


def aligned_losses(ax: Axes, result: Result) -> None:
    """Balanced aligned networks, with the levels of the plateaus."""
    predicted, measured = result.predicted, result.measured
    for index, (depth, color) in enumerate(zip(DEPTHS, colors(), strict=True)):
        unit = predicted["escape_times"][index, -1, 0]
        t, loss = measured[f"times_{depth}"] / unit, measured[f"small_loss_{depth}"]
        ax.plot(t, loss, color=color, alpha=0.55, linewidth=2.4, zorder=2)
        t, loss = predicted["curves"][index]
        style.theory_line(ax, t / unit, loss, f"$L={depth}$", color=color)
    plateau_lines(ax, predicted["levels"][1:-1])
    ax.set(xlabel=TIME, ylabel="loss", xlim=(0, 3.8))
    ax.set_title("aligned networks")
    ax.legend(title="theory", loc="upper right")


def random_curves(ax: Axes, result: Result, name: str, levels: np.ndarray) -> None:
    """Random networks of the smallest scale, in time over their own first escape."""
    for index, (depth, color) in enumerate(zip(DEPTHS, colors(), strict=True)):
        first = result.measured["random_times"][index, -1].min(axis=-1)
        times, values = result.measured[f"times_{depth}"], result.measured[f"{name}_{depth}"]
        grid = np.linspace(0.02, SHOWN, 500)
        pairs = zip(first, values, strict=True)
        curves = [np.interp(grid * unit, times, value) for unit, value in pairs]
        ax.plot(grid, np.transpose(curves), color=color, alpha=0.5, linewidth=0.8, zorder=2)
        ax.plot([], [], color=color, label=f"$L={depth}$")
    plateau_lines(ax, levels)
    ax.set(xlabel=TIME, ylabel={"loss": "loss", "rank": "effective rank"}[name], xlim=(0, SHOWN))
    ax.set_title("random networks")
    ax.legend(loc="upper right" if name == "loss" else "lower right")


def plateau_lines(ax: Axes, levels: np.ndarray) -> None:
    """Predicted values on the plateaus."""
    for level in levels:
        ax.axhline(level, color=style.NEUTRAL, linestyle="--", linewidth=0.8, zorder=1)


def escape_times(ax: Axes, result: Result) -> None:
    """Escape times of the slowest mode of aligned networks against the strength they start from."""
    predicted = result.predicted
    for index, (depth, color) in enumerate(zip(DEPTHS, colors(), strict=True)):
        u0 = predicted["start_strengths"][index]
        found = result.measured["escape_times"][index, :, -1]
        style.simulation_points(ax, u0, found, f"$L={depth}$", color=color)
        style.theory_line(ax, u0, predicted["escape_times"][index, :, -1], color=color)
    ax.set(
        xscale="log", yscale="log", xlabel="initial strength $u_0$", ylabel=r"escape time $t/\tau$"
    )
    ax.set_title("aligned networks")
    style.legend(ax, loc="upper left")


def random_times(ax: Axes, result: Result) -> None:
    """How the escape times of all modes grow as the scale of random weights shrinks."""
    predicted = result.predicted
    for index, (depth, color) in enumerate(zip(DEPTHS, colors(), strict=True)):
        found = result.measured["random_times"][index]
        growth = found / found[:1]
        shrunk = 1 / HALVINGS
        flat = growth.reshape(len(growth), -1).T
        style.simulation_points(ax, shrunk, flat, f"$L={depth}$", color=color)
        x = np.linspace(1, shrunk[-1], 50)
        law = x ** -predicted["scale_exponents"][index]
        if depth == 2:
            gained = np.log(x)[:, None] / predicted["singular_values"]
            law = 1 + np.mean(gained / np.median(found[0], axis=0), axis=-1)
        style.theory_line(ax, x, law, color=color)
    ax.set(xscale="log", yscale="log", xlabel="largest scale / scale")
    ax.set(ylabel="relative escape time", ylim=(0.8, 30))
    ax.set_xticks(shrunk, [f"{x:g}" for x in shrunk])
    ax.set_xticks([], minor=True)
    ax.set_title("random networks")
    style.legend(ax, loc="upper left")


def step_errors(ax: Axes, result: Result) -> None:
    """Largest error of gradient descent: from the flow, and from the modified flow."""
    predicted, measured = result.predicted, result.measured
    rates = predicted["rates"]
    for index, (depth, color) in enumerate(zip(DEPTHS, colors(), strict=True)):
        leading = np.abs(predicted["gd_errors"][index]).max()
        style.theory_line(ax, rates, leading * rates, color=color)
        for flow, marker in (("warm", "o"), ("modified", "s")):
            gap = np.abs(measured["warm"][index] - predicted[flow][index]).max(axis=(1, 2))
            label = f"$L={depth}$" if flow == "warm" else None
            ax.plot(rates, gap, marker, color=color, mew=0, alpha=0.55, label=label)
        square = gap[0] * (rates / rates[0]) ** 2
        ax.plot(rates, square, color=style.darker(color), linestyle="--", linewidth=0.8)
    ax.plot([], [], color=style.NEUTRAL, linestyle="--", linewidth=0.8, label=r"$\propto\eta^2$")
    ax.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$")
    ax.set(ylabel=r"error of $w$", ylim=(1e-6, 0.1))
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xticks([], minor=True)
    ax.annotate("flow", (rates[-1], 2.2e-4), fontsize=7)
    ax.annotate("modified flow", (rates[-1], 2.2e-6), fontsize=7)
    style.legend(ax, simulation=None, loc="upper left", ncols=2)
