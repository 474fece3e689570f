"""How far weights, tangent kernel and outputs of networks leave the linearised one, over width."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.lee2019_linearized import (
    ERF,
    RELU,
    fall,
    fluctuation,
    wide_fall,
    wide_fluctuation,
)
from sims.kernels.width_fits import root_mean_square

COLORS = ("C0", "C1")  # of the activations
LABELS = ("erf", "ReLU")
WIDTH = "width $n$"
SHIFT = 1.025  # so that marks of two activations can be told apart


def draw(result: Result) -> Figure:
    """Root mean squares over networks; and ReLU's kernel over its theory, as n goes to infinity.

    Bars are 2 standard errors.
    """
    figure, axes = style.panels(2, 2, height=4.8)
    movement(axes[0, 0], result)
    drift(axes[0, 1], result)
    relu_limits(axes[1, 0], result)
    linearization(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def movement(ax: Axes, result: Result) -> None:
    """Of the weights, times sqrt(n): theory has no free constant."""
    n = result.measured["widths"]
    for index, color in enumerate(COLORS):
        found = root_mean_square(result.measured["movement"][index])
        shifted = n * SHIFT ** (2 * index - 1)
        error_bars(ax, shifted, np.sqrt(n) * found.value, np.sqrt(n) * found.error, color)
        theory = np.sqrt(n) * result.predicted["movement"][index]
        style.theory_line(ax, n, theory, LABELS[index], color=color)
    ax.set(
        xscale="log", xlabel=WIDTH, ylabel=r"$\sqrt{n}\;|\Delta\theta|/|\theta_0|$ of the weights"
    )
    ax.set_ylim(0.8 * ax.get_ylim()[0], None)
    style.plain_ticks(ax.xaxis)
    style.legend(ax, loc="lower left", ncols=2)


def drift(ax: Axes, result: Result) -> None:
    """Of the tangent kernel: ReLU's prefactors are predicted, erf's is fitted."""
    points(ax, result, "drift")
    guide(ax, result, "drift", ERF, -1.0, r"erf, $\propto n^{-1}$")
    n, theory = result.predicted["widths"], result.predicted["relu_drift"]
    style.theory_line(ax, n, theory, "ReLU, two leading orders", color=COLORS[RELU])
    logarithmic(ax, r"kernel's drift $|\Delta\Theta|/|\Theta_0|$")
    ax.legend(loc="lower left")


def relu_limits(ax: Axes, result: Result) -> None:
    """Mean fall of ReLU's diagonal and its variance, over their theories in the limit."""
    n, predicted, measured = result.measured["widths"], result.predicted, result.measured
    reach = np.array([0, n[0] ** -0.5])
    for name, found, fitted, power, label in (
        ("fall", fall(measured), wide_fall(measured), 0.5, "mean"),
        ("fluctuation", fluctuation(measured), wide_fluctuation(measured), 1.5, "variance"),
    ):
        color, over = {"mean": "C1", "variance": "C2"}[label], n**power / predicted[name]
        shifted = n**-0.5 + 4e-4 * (1 if label == "mean" else -1)
        error_bars(ax, shifted, found.value * over, found.error * np.abs(over), color)
        start = fitted.value / predicted[name]
        ends = [start, start + fitted.slope / predicted[name] * reach[1]]
        ax.plot(reach, ends, "--", color=style.darker(color), linewidth=1, label=f"{label}, fit")
    style.theory_line(ax, 0, 1, r"theory, $n\to\infty$", color="black", marker="D", clip_on=False)
    ax.set(xlim=(0, 1.06 * reach[1]), ylim=(0.5, None), xlabel=r"$n^{-1/2}$")
    ax.set(ylabel=r"$\Delta\Theta_{ii}$ of ReLU, simulation / theory")
    ax.legend(loc="lower right")


def linearization(ax: Axes, result: Result) -> None:
    """Of the outputs at test inputs, with the rate proven as a bound."""
    points(ax, result, "linearization")
    guide(ax, result, "linearization", ERF, -1.0, r"erf, $\propto n^{-1}$")
    n = result.measured["widths"]
    top = 2 * root_mean_square(result.measured["linearization"][RELU]).value[0]
    bound = {"color": style.NEUTRAL, "linestyle": "--"}
    style.theory_line(ax, n, top * (n / n[0]) ** -0.5, r"slope of the bound, $n^{-1/2}$", **bound)
    ax.plot([], [], "o", color=COLORS[RELU], mew=0, alpha=0.55, label="ReLU")
    logarithmic(ax, r"linearisation error of $f$")
    ax.legend(loc="lower left")


def error_bars(ax: Axes, x: np.ndarray, y: np.ndarray, errors: np.ndarray, color: str) -> None:
    """Averages with 2 standard errors."""
    marks = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
    ax.errorbar(x, y, yerr=2 * errors, color=color, **marks)


def points(ax: Axes, result: Result, name: str) -> None:
    """Root mean square over networks, of both activations."""
    for index, color in enumerate(COLORS):
        found = root_mean_square(result.measured[name][index])
        style.simulation_points(ax, result.measured["widths"], found.value, color=color)


def guide(ax: Axes, result: Result, name: str, index: int, slope: float, label: str) -> None:
    """A power law through what the widest networks have."""
    n = result.measured["widths"]
    last = root_mean_square(result.measured[name][index]).value[-1]
    style.theory_line(ax, n, last * (n / n[-1]) ** slope, label, color=COLORS[index])


def logarithmic(ax: Axes, label: str) -> None:
    """Both axes, with widths as they are."""
    ax.set(xscale="log", yscale="log", xlabel=WIDTH, ylabel=label)
    style.plain_ticks(ax.xaxis, ax.yaxis)
