"""Learning time and optimal learning rate against depth, for three kinds of initial weights."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from figures import style
from sims.experiment import Result

COLORS = {"Gaussian": "C1", "orthogonal": "C2", "decoupled": "C0"}
ASIDE = {"Gaussian": 1.04, "orthogonal": 1.0, "decoupled": 1 / 1.04}  # points beside each other


def draw(result: Result) -> Figure:
    """Times and rates at the best of the rates; what Gaussian weights cost; small steps."""
    figure, axes = style.panels(2, 2, height=4.7)
    learning_times(axes[0, 0], result)
    learning_rates(axes[0, 1], result)
    slowdown(axes[1, 0], result)
    small_steps(axes[1, 1], result)
    for ax in axes.flat:
        against_depth(ax, result.predicted["depths"])
    style.panel_letters(axes)
    return figure


def learning_times(ax: Axes, result: Result) -> None:
    """Steps at the best rate; a triangle where the median network did not learn."""
    predicted, measured = result.predicted, result.measured
    for kind, color in COLORS.items():
        steps = measured[f"steps_{kind.lower()}"]
        at = ASIDE[kind] * predicted["depths"]
        learned = np.isfinite(np.median(steps, axis=0))
        style.simulation_points(ax, at[learned], steps[:, learned], kind, color=color)
        limit = np.full(np.count_nonzero(~learned), result.config.steps)
        ax.plot(at[~learned], limit, "^", color=color, mew=0, alpha=0.55, markersize=5)
    fraction = np.median(measured["rates_decoupled"] / predicted["critical_rates"])
    theory = predicted["curve_steps"][0] / (2 * fraction)
    style.theory_line(ax, predicted["curve_depths"], theory, color=COLORS["decoupled"])
    ax.axhline(result.config.steps, color=style.NEUTRAL, linewidth=0.6, linestyle=":", zorder=0)
    ax.text(predicted["depths"][0], 1.1 * result.config.steps, "end of training", fontsize=7)
    ax.set(yscale="log", ylabel="steps to learn", ylim=(2, 2.5 * result.config.steps))
    ax.set_title("each at its best learning rate")
    style.legend(ax, loc="upper left", bbox_to_anchor=(0.0, 0.87))


def learning_rates(ax: Axes, result: Result) -> None:
    """The best rate of each kind and the critical one, which falls as 1/L."""
    predicted, measured = result.predicted, result.measured
    for kind, color in COLORS.items():
        rates = measured[f"rates_{kind.lower()}"]
        style.simulation_points(ax, ASIDE[kind] * predicted["depths"], rates, color=color)
    critical = predicted["critical_rates"]
    style.theory_line(ax, predicted["depths"], critical, "critical", color=style.NEUTRAL)
    ax.set(yscale="log", ylabel="best learning rate")
    ax.set_title("optimal and critical learning rate")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="upper right")


def slowdown(ax: Axes, result: Result) -> None:
    """Median Gaussian over median orthogonal time, with its standard error."""
    predicted, measured = result.predicted, result.measured
    value, error = measured["log_slowdown"]
    known = np.isfinite(value) & np.isfinite(error)
    low_to_high = np.exp(value + np.array([[-1], [0], [1]]) * error)[:, known]
    style.simulation_points(ax, predicted["depths"][known], low_to_high, color="C1")
    label = r"balanced mode behind by $e^{L\mu}$"
    style.theory_line(ax, predicted["curve_depths"], predicted["curve_slowdown"], label, color="C1")
    ax.set(yscale="log", ylabel="ratio of steps", ylim=(0.7, 10 * low_to_high.max()))
    ax.set_title("Gaussian over orthogonal")
    ax.legend(loc="upper left")


def small_steps(ax: Axes, result: Result) -> None:
    """Steps at small rates by angle; dashed where they go as depth grows."""
    predicted, measured = result.predicted, result.measured
    angles = np.degrees(result.config.angles)
    colors = style.ordered_colors(len(angles))
    for index, color in enumerate(colors):
        label = f"${angles[index]:.0f}^\\circ$"
        found = measured["small_steps"][-1, index]
        style.simulation_points(ax, predicted["depths"], found, color=color)
        theory, limit = predicted["curve_steps"][index], predicted["curve_limits"][index]
        style.theory_line(ax, predicted["curve_depths"], theory, label, color=color)
        ax.axhline(limit, color=style.darker(color), linewidth=0.6, linestyle="--")
    ax.set(yscale="log", ylabel=r"steps $\times\; \eta L s^{2-2/L}$")
    ax.set_ylim(0.4 * predicted["curve_steps"].min(), None)  # room for the legend
    ax.set_title("square orthogonal, small learning rate")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(title=r"angle $\theta$", loc="lower right", ncols=3)


def against_depth(ax: Axes, depths: np.ndarray) -> None:
    ax.set(xscale="log", xlabel="depth $L$")
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.set_xticks([], minor=True)
