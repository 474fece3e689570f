"""Lazy training: distances over the scale of the output, from random and mirrored starts."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.chizat2019_lazy import LAWS, STARTS

COLORS = ("C0", "C1")  # of the starts
ALPHA = r"scale of the output $\alpha$"


def draw(result: Result) -> Figure:
    """The weights' distance; four traces of nonlinearity; outputs on test inputs."""
    figure, axes = style.panels(2, 3, height=4.4)
    weights(axes[0, 0], result)
    for ax, name, label in (
        (axes[0, 1], "linearization_error", r"$|F-F_{\rm lin}|/|F|$ on test inputs"),
        (axes[0, 2], "kernel_change", r"kernel change $|\Delta\Theta|/|\Theta_0|$"),
        (axes[1, 0], "kernel_distance", r"kernel distance $1-\cos(\Theta_0,\Theta)$"),
        (axes[1, 1], "representation_distance", "representation distance"),
    ):
        law(ax, result, name, label)
    heldout(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def weights(ax: Axes, result: Result) -> None:
    """Distance of the weights times alpha, and its lazy limit at infinite width."""
    alphas = result.predicted["alphas"]
    for start, color, values in zip(
        STARTS, COLORS, result.measured["weight_distance"], strict=True
    ):
        style.simulation_points(ax, alphas, alphas[None] * values, f"{start} start", color=color)
    limit = float(result.predicted["weight_distance"])
    style.theory_line(ax, alphas[[0, -1]], np.full(2, limit), color=style.NEUTRAL)
    ax.set(xscale="log", xlabel=ALPHA, ylabel=r"$\alpha\,|\theta_\infty-\theta_0|$")
    ax.set(xlim=(alphas[0] / 1.5, alphas[-1] * 1.5), ylim=(0.82 * limit, 1.1 * limit))
    style.legend(ax, loc="lower right")


def law(ax: Axes, result: Result, name: str, label: str) -> None:
    """One measure, and powers of alpha through the median at its largest value."""
    alphas = result.predicted["alphas"]
    lazy = alphas[alphas >= result.config.fitted_from / 4]
    powers = result.predicted["exponents"][list(LAWS).index(name)]
    for color, power, values in zip(COLORS, powers, result.measured[name], strict=True):
        style.simulation_points(ax, alphas, values, color=color)
        line = np.median(values[:, -1]) * (lazy / alphas[-1]) ** power
        style.theory_line(ax, lazy, line, rf"$\propto\alpha^{{{power:g}}}$", color=color)
    ax.set(xscale="log", yscale="log", xlabel=ALPHA, ylabel=label)
    ax.set_xlim(alphas[0] / 1.5, alphas[-1] * 1.5)
    ax.legend(loc="lower left")


def heldout(ax: Axes, result: Result) -> None:
    """F on test inputs at the largest alpha, against regression with the infinitely wide kernel."""
    limit = result.predicted["heldout"]
    ends = np.array([limit.min(), limit.max()]) + np.array([-0.3, 0.3])
    style.theory_line(ax, ends, ends, color=style.NEUTRAL)
    for color, values in zip(COLORS, result.measured["heldout"][..., -1, :], strict=True):
        style.simulation_points(ax, limit, values, color=color)
    ax.set(xlabel=r"kernel regression, $n=\infty$", ylabel=r"$F$ on test inputs")
    ax.set_title(rf"$\alpha={result.predicted['alphas'][-1]:g}$", fontsize=8)
