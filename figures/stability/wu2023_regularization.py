"""Curvature, norm and test error of what SGD and gradient descent find, against the rate."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.stability.wu2023_regularization import NETWORKS

SGD, GD = "C0", "C1"
TITLES = {"diagonal": "diagonal", "relu": "ReLU"}
RATE = r"learning rate $\eta$"


def draw(result: Result) -> Figure:
    """A row each: curvature over training, its end against the rate, norm, test error."""
    figure, axes = style.panels(2, 4, height=4.0)
    for row, network in zip(axes, NETWORKS, strict=True):
        over_training(row[0], result, network)
        at_the_end(row[1], result, network)
        norms(row[2], result, network)
        generalization(row[3], result, network)
    style.panel_letters(axes)
    return figure


def over_training(ax: Axes, result: Result, network: str) -> None:
    """Trace over training by SGD at every rate, in units of its bound at the final rate."""
    m = result.measured
    rates, steps = m[f"{network}_sgd_rates"], m[f"{network}_sgd_steps"] / 1000
    for index, color in enumerate(style.ordered_colors(len(rates))):
        trace = m[f"{network}_sgd_trace"][index]
        label = f"{rates[index]:g}"
        ax.plot(steps, rates[index] * trace.T / 2, color=color, alpha=0.75)
        ax.plot([], [], color=color, label=label)
    ax.axhline(1, color=style.darker(style.NEUTRAL))
    ax.set(xlabel="step / 1000", ylabel=r"$\eta\,\mathrm{Tr}\,H/2$ at the final $\eta$")
    ax.set(yscale="log", ylim=(0.04, 4), title=TITLES[network])
    style.plain_ticks(ax.yaxis)
    ax.legend(title=r"SGD, $\eta$", fontsize=6, title_fontsize=6, loc="lower right", ncols=2)


def at_the_end(ax: Axes, result: Result, network: str) -> None:
    """Trace after SGD and largest eigenvalue after GD: both bounds are 2/eta."""
    p, m = result.predicted, result.measured
    for method, name, bound, color, label in (
        ("sgd", "trace", "trace", SGD, r"SGD: $\mathrm{Tr}\,H$"),
        ("gd", "sharpness", "sharpness", GD, r"GD: $\lambda_{\max}(H)$"),
    ):
        rates = m[f"{network}_{method}_rates"]
        end = m[f"{network}_{method}_{name}"][..., -1]
        style.simulation_points(ax, rates, end.T, label, color=color)
        style.theory_line(ax, rates, p[f"{network}_{bound}"], color=color)
    ax.plot([], [], color=style.darker(style.NEUTRAL), label=r"bound $2/\eta$")
    ax.set(xscale="log", yscale="log", xlabel=RATE, ylabel="curvature at the end")
    ax.legend(fontsize=6, loc="lower left")


def norms(ax: Axes, result: Result, network: str) -> None:
    """Norm of the function found; the bound of the trace is one of the norm."""
    p, m = result.predicted, result.measured
    for method, color in (("sgd", SGD), ("gd", GD)):
        rates, norm = m[f"{network}_{method}_rates"], m[f"{network}_{method}_norm"]
        style.simulation_points(ax, rates, norm.T, method.upper(), color=color)
    rates, bound = m[f"{network}_sgd_rates"], p[f"{network}_norm"]
    shown = slice(1, None)
    label = r"$1/\eta$ (SGD)" if network == "diagonal" else r"$2/\eta\sqrt{d}$ (SGD, $n\to\infty$)"
    style.theory_line(ax, rates[shown], bound[shown], label, color=SGD)
    ax.set(xscale="log", yscale="log", xlabel=RATE, ylim=(1.5, 120))
    ax.set_ylabel(r"$|\beta|_1$" if network == "diagonal" else r"path norm $\sum_j|a_j||w_j|$")
    style.plain_ticks(ax.yaxis)
    ax.legend(fontsize=6, loc="lower left")


def generalization(ax: Axes, result: Result, network: str) -> None:
    """Test error, and its mean over starts."""
    m = result.measured
    for method, color in (("sgd", SGD), ("gd", GD)):
        rates, test = m[f"{network}_{method}_rates"], m[f"{network}_{method}_test"][..., -1]
        style.simulation_points(ax, rates, test.T, method.upper(), color=color)
        ax.plot(rates, np.mean(test, axis=1), color=color, alpha=0.55)
    ax.set(xscale="log", yscale="log", xlabel=RATE, ylabel="test loss at the end")
    style.plain_ticks(ax.yaxis)
    ax.legend(fontsize=6, loc="lower left")
