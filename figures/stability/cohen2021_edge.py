"""Loss and sharpness at the edge of stability, four optimisers, and thresholds on quadratics."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.stability.frozen_optimizers import optimizers

START = 0  # whose trajectories are drawn
THRESHOLD = {"linestyle": "--", "linewidth": 0.9}
FLOW = {"color": "black", "linewidth": 1.2, "zorder": 4}
MOMENTUM = (("heavy ball", "C2"), ("Nesterov", "C3"), ("Adam", "C4"))


def draw(result: Result) -> Figure:
    """Loss and sharpness over time; sharpness over threshold; thresholds on quadratics."""
    figure, axes = style.panels(2, 2, height=4.8)
    over_time(axes[0, 0], result, "loss", r"training loss")
    over_time(axes[0, 1], result, "sharpness", r"sharpness $\lambda_{\max}(H)$")
    other_optimizers(axes[1, 0], result)
    thresholds(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def over_time(ax: Axes, result: Result, name: str, label: str) -> None:
    """One quantity of gradient descent at every rate, and of gradient flow, over flow time."""
    measured, limits = result.measured, result.predicted["gd"]
    colors = style.ordered_colors(len(limits))
    for rate, limit, curves, color in zip(
        measured["rates"], limits, measured[name], colors, strict=True
    ):
        time = measured["steps"] * rate
        ax.plot(time, curves[START], color=color, alpha=0.8, label=rf"$\eta={rate:g}$")
        if name == "sharpness":
            ax.axhline(limit, color=style.darker(color), **THRESHOLD)
    flow = measured[f"flow_{name}"][START]
    ax.plot(measured["flow_times"], flow, label="gradient flow", **FLOW)
    last = measured["steps"][-1] * measured["rates"][0]
    ax.set(xlabel=r"training time $\eta\times$ steps", ylabel=label, xlim=(0, last))
    if name == "loss":
        ax.set(yscale="log", ylim=(None, 200))
        ax.legend(loc="upper right", ncols=2)
    else:
        ax.plot([], [], color=style.NEUTRAL, label=r"theory, $2/\eta$", **THRESHOLD)
        ax.set_ylim(0, 1.3 * flow.max())
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles[-2:], labels[-2:], loc="upper right", ncols=2)


def other_optimizers(ax: Axes, result: Result) -> None:
    """Sharpness over threshold with momentum, and Adam's preconditioned one."""
    predicted, measured = result.predicted, result.measured
    ratios = [*(measured["momentum"] / predicted["momentum"][:, None, None])]
    ratios.append(measured["adam"] / predicted["adam"])
    for (name, color), ratio in zip(MOMENTUM, ratios, strict=True):
        ax.plot(measured["steps"], ratio[START], color=color, alpha=0.8, label=name)
    ax.axhline(1, color=style.NEUTRAL, label="theory", zorder=4, **THRESHOLD)
    ax.set(xlabel="training step", ylabel="sharpness / threshold", ylim=(0, 1.9))
    ax.legend(ncols=2, loc="upper right")


def thresholds(ax: Axes, result: Result) -> None:
    """Curvatures at which frozen optimisers turn unstable on quadratics, smallest first."""
    edges, names = result.predicted["quadratic"], list(optimizers())
    order = np.argsort(edges)
    at = np.arange(len(order))
    line = {"color": style.darker("C0"), "zorder": 3}
    ax.hlines(edges[order], at - 0.4, at + 0.4, label="theory", **line)
    style.simulation_points(ax, at, result.measured["quadratic"][order], "optax on quadratics")
    ax.set(yscale="log", ylabel=r"unstable curvature $\times\,\eta$", ylim=(1, 80))
    ax.set_xticks(at, [names[i] for i in order], rotation=40, ha="right", rotation_mode="anchor")
    ax.legend(loc="upper left")
