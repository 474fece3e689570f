"""Opposing signals in a linear network, and in digits at the edge of stability."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from figures import style
from sims.experiment import Result
from sims.stability.rosenfeld2023_signals import CONVERGED

LABELS = ("patch, one class", "patch, other class", "others")
GROUPS = ("C0", "C1", style.NEUTRAL)  # of the groups + and - (or of either digit), and the rest


def draw(result: Result) -> Figure:
    """Above the linear network: flow, final sharpness, a spike. Below the digits."""
    figure, axes = style.panels(2, 3, height=4.6)
    flow(axes[0, 0], result)
    final_sharpness(axes[0, 1], result)
    spike(axes[0, 2], result)
    sharpness(axes[1, 0], result)
    group_losses(axes[1, 1], result)
    opposing_changes(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def strength_colors(result: Result) -> list[str]:
    """One for each strength of the outlier (or size of the patch)."""
    return style.ordered_colors(len(result.predicted["strengths"]))


def flow(ax: Axes, result: Result) -> None:
    """Sharpness along the gradient flow: the law and the Hessian of the network."""
    predicted, measured = result.predicted, result.measured
    for index, color in enumerate(strength_colors(result)):
        label = rf"$\kappa={predicted['strengths'][index]:g}$"
        style.simulation_points(ax, predicted["times"], measured["sharpness"][index], color=color)
        style.theory_line(ax, predicted["times"], predicted["sharpness"][index], label, color=color)
    ax.set(yscale="log", xlabel=r"time $t$ (learning rate $\times$ steps)", ylabel="sharpness")
    ax.set_ylim(None, 4 * ax.get_ylim()[1])
    style.legend(ax, loc="upper left", ncols=2)


def final_sharpness(ax: Axes, result: Result) -> None:
    """Where gradient descent ends: balanced up to the threshold, then below 2/eta."""
    predicted, measured = result.predicted, result.measured
    rates = measured["learning_rates"]
    converged = measured["final_bulk"] < CONVERGED
    for index, color in enumerate(strength_colors(result)):
        found = np.where(converged[index], measured["final_sharpness"][index], np.nan)
        ax.plot(rates, found, "o", color=color, mew=0, alpha=0.55, zorder=2)
        below = np.array([rates[0], predicted["threshold"][index]])
        level = np.full(2, predicted["balanced_sharpness"][index])
        style.theory_line(ax, below, level, color=color)
        flattest = predicted["flattest"][index]
        ax.plot(2 / flattest, flattest, "_", color=style.darker(color), ms=10, mew=1.5, zorder=4)
    style.theory_line(ax, rates, 2 / rates, r"$2/\eta$", color=style.NEUTRAL, linestyle="--")
    ax.plot([], [], "_", color=style.NEUTRAL, ms=10, mew=1.5, label="flattest minimum")
    ax.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$", ylabel="final sharpness")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="upper right")


def spike(ax: Axes, result: Result) -> None:
    """Losses of the groups in a run above the threshold: the outlier's weight swings."""
    losses, theory = result.measured["descent_losses"][-1], result.predicted["jump_losses"]
    steps = result.measured["descent_steps"]
    shown = slice(*window(theory))
    for group, color, label in ((1, GROUPS[0], "+ outliers"), (2, GROUPS[1], r"$-$ outliers")):
        ax.plot(steps[shown], losses[shown, group], "o", color=color, mew=0, alpha=0.55)
        style.theory_line(ax, steps[shown], theory[shown, group], label, color=color)
    style.theory_line(ax, steps[shown], theory[shown, 0], "others", color=GROUPS[2])
    ax.set(xlabel="step", ylabel="mean loss of the group")
    ax.legend(loc="upper left")


def window(losses: np.ndarray) -> tuple[int, int]:
    """Steps about the largest difference between the groups."""
    peak = int(np.argmax(np.abs(losses[:, 1] - losses[:, 2])))
    return max(peak - 16, 0), min(peak + 12, len(losses))


def sharpness(ax: Axes, result: Result) -> None:
    """Sharpness on the digits, for every size of the patch; one image of each planted class."""
    predicted, measured = result.predicted, result.measured
    edge = float(predicted["digit_edge"])
    for index, color in enumerate(style.ordered_colors(len(predicted["patches"]))):
        label = f"{predicted['patches'][index]:g}"
        curves = measured["digit_sharpness"][index].T
        lines = ax.plot(measured["snapshots"], curves, color=color, alpha=0.7, linewidth=0.9)
        lines[0].set_label(label)
    ax.axhline(edge, color=style.darker(style.NEUTRAL), linestyle="--", zorder=1)
    ax.text(0.02, edge, r"$2/\eta$", va="bottom", transform=ax.get_yaxis_transform())
    ax.set(xlabel="step", ylabel="sharpness", ylim=(0, 1.9 * edge))
    ax.legend(title="size of patch", loc="upper right", ncols=3, columnspacing=0.8)
    for place, image in enumerate(measured["images"]):
        inset = ax.inset_axes((0.03 + 0.17 * place, 0.8, 0.15, 0.2))
        pixels = image + predicted["patches"][-1] * measured["patch"]
        side = round(np.sqrt(image.size))
        inset.imshow(pixels.reshape(side, side), cmap="gray", vmin=-0.6, vmax=1)
        inset.set(xticks=[], yticks=[])
        inset.spines[:].set_visible(True)


def group_losses(ax: Axes, result: Result) -> None:
    """Losses of the planted groups and of the others about the largest spike, largest patch."""
    measured = result.measured
    losses, groups = measured["example_losses"][-1, 0], measured["groups"]
    rest = np.setdiff1d(np.arange(losses.shape[1]), groups)
    means = np.array([losses[:, group].mean(axis=1) for group in (*groups, rest)])
    at_edge = len(losses) - int(result.predicted["edge_steps"])
    peak = at_edge + int(np.argmax(means[:2, at_edge:].max(axis=0)))
    shown = slice(max(peak - 22, 0), peak + 18)
    for mean, color, label in zip(means, GROUPS, LABELS, strict=True):
        ax.plot(np.arange(len(losses))[shown], mean[shown], ".-", color=color, label=label, ms=3)
    ax.set(xlabel="step", ylabel="mean loss of the group")
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
    ax.legend(loc="upper left")


def opposing_changes(ax: Axes, result: Result) -> None:
    """Change of one group's loss against the other's, in every step at the edge."""
    measured = result.measured
    for index, color in ((0, style.NEUTRAL), (-1, "C3")):
        losses = measured["example_losses"][index, 0, -result.predicted["edge_steps"] :]
        x, y = (np.diff(losses[:, group].mean(axis=1)) for group in measured["groups"])
        share = 100 * measured["precision"][index].mean()
        label = f"patch {result.predicted['patches'][index]:g}: {share:.0f} %"
        ax.plot(x, y, ".", color=color, mew=0, alpha=0.6, label=label)
    ax.set(xlabel="change of loss, one class", ylabel="change of loss, other class")
    ax.legend(title="planted among\nlargest changes", loc="upper right")
