"""Loss and kernel in three phases, powers of the width, and a ReLU network on digits."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures import style
from sims.experiment import Result
from sims.stability.lewkowycz2020_catapult import peaks

STEPS = 40  # of the trajectories drawn
BOUND = 1e6  # beyond which they are not
EDGE = {"color": style.NEUTRAL, "linestyle": "--", "linewidth": 0.9}


def draw(result: Result) -> Figure:
    """Loss and kernel over time of the widest network; powers of the width; ReLU network."""
    figure, axes = style.panels(2, 2, height=4.8)
    trajectories(axes[0, 0], axes[0, 1], result)
    powers(axes[1, 0], result)
    relu(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def trajectories(left: Axes, right: Axes, result: Result) -> None:
    """Loss and eta lambda of the widest network from its first start, at every rate."""
    predicted, measured = result.predicted, result.measured
    width, step = predicted["widths"][-1], np.arange(STEPS + 1)
    colors = style.ordered_colors(len(predicted["stiffness"]))
    for index, (stiffness, color) in enumerate(zip(predicted["stiffness"], colors, strict=True)):
        rate = measured["rates"][index]
        theory, network = (
            found["single_state"][-1, index, 0, : STEPS + 1] for found in (predicted, measured)
        )
        for states, mark in ((network, style.simulation_points), (theory, style.theory_line)):
            f, kernel = np.where(np.abs(states) < BOUND, states, np.nan).T
            loss, scaled = width * f**2 / 2, rate * kernel
            label = f"{stiffness:g}" if mark is style.theory_line else None
            mark(left, step, loss, label, color=color)
            mark(right, step, np.where(scaled < 6, scaled, np.nan), label, color=color)
    left.set(xlabel="training step", ylabel="loss", yscale="log", ylim=(1e-16, 1e8))
    style.legend(left, title=r"$\eta\lambda_0$", loc="upper right", ncols=3)
    right.axhline(2, label=r"$\lambda=2/\eta$", **EDGE)
    right.set(xlabel="training step", ylabel=r"tangent kernel $\eta\lambda$", ylim=(0, 5.6))
    handles, labels = right.get_legend_handles_labels()
    right.legend(handles[-1:], labels[-1:], loc="upper right")


def powers(ax: Axes, result: Result) -> None:
    """Largest loss of catapults and change of the kernel of lazy networks, over the width."""
    predicted, measured = result.predicted, result.measured
    widths, colors = measured["widths"], style.ordered_colors(len(predicted["stiffness"]))
    _, largest = peaks(measured)
    kernel = measured["single_state"][..., 1][:, measured["lazy"]]
    change = kernel[..., 0] - kernel[..., -1]
    for values, chosen, power in (
        (largest, measured["turning"], predicted["peak_exponent"]),
        (change, measured["lazy"], predicted["lazy_exponent"]),
    ):
        for index, which in enumerate(np.flatnonzero(chosen)):
            points = values[:, index].T
            style.simulation_points(ax, widths, points, color=colors[which])
            through = np.exp(np.mean(np.log(points.mean(axis=0) / widths**power)))
            style.theory_line(ax, widths, through * widths**power, color=colors[which])
    ax.text(0.5, 0.62, r"largest loss, slope $1$", transform=ax.transAxes, ha="center")
    ax.text(
        0.5, 0.34, r"$\lambda_0-\lambda_\infty$, slope $-1$", transform=ax.transAxes, ha="center"
    )
    ax.set(xscale="log", yscale="log", xlabel="width $n$")
    ax.set(ylabel="largest loss; change of kernel", xlim=(0.8 * widths[0], 1.25 * widths[-1]))
    ax.set_xticks(widths, [f"{n}" for n in widths])
    ax.xaxis.set_minor_formatter(NullFormatter())


def relu(ax: Axes, result: Result) -> None:
    """Final curvature and test accuracy of ReLU networks on digits, over the learning rate."""
    measured = result.measured
    x, final = measured["relu_scale"], measured["relu_stiffness"][:, -1]
    ax.plot(x, final, "o-", color="C0", alpha=0.7, label=r"final $\eta\lambda$")
    ax.axhline(2, label=r"$\lambda=2/\eta$", **EDGE)
    ax.plot([], [], "s-", color="C1", alpha=0.7, label="test accuracy")
    ax.set(xlabel=r"learning rate $\eta\lambda_0$ (ReLU, digits)", ylabel=r"final $\eta\lambda$")
    ax.set_ylim(0, 5.2)
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.plot(x, measured["relu_accuracy"][:, -1], "s-", color="C1", alpha=0.7)
    right.set(ylabel="test accuracy", ylim=(0.0, 1.35))
    right.set_yticks(np.linspace(0, 1, 6))
    ax.legend(loc="upper left", ncols=3, columnspacing=0.8)
