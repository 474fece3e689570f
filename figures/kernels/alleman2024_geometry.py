"""Inputs, random and trained layers of tanh and of ReLU, against the separation of inputs."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import style
from sims.experiment import Result
from sims.kernels.alleman2024_geometry import INPUT, LIMIT, PARALLELISM, TARGET
from sims.kernels.fixed_readouts import LAYERS
from sims.rates import mean_and_error

COLORS = dict(zip(LAYERS, ("C0", "C1"), strict=True))
NAMES = {"tanh": "tanh", "relu": "ReLU"}
SEPARATION = "separation of the conditions $s$"
INPUT_LABELS = (
    "parallelism of a bit",
    "CKA with two bits",
    "CKA with one bit",
    "CKA with a parity",
)
POOLED = ("pooled", "error")
APART = 0.012  # of the marks of the two nonlinearities


def draw(result: Result) -> Figure:
    """Inputs; random layers; three measures of trained layers; where the order is reversed."""
    figure, axes = style.panels(2, 3, height=4.8)
    of_inputs(axes[0, 0], result)
    random_layers(axes[0, 1], result)
    trained(axes[0, 2], result, PARALLELISM, "parallelism of a target bit, trained")
    trained(axes[1, 0], result, TARGET, "target alignment (CKA), trained")
    trained(axes[1, 1], result, INPUT, "input alignment (CKA), trained")
    order(axes[1, 2], result)
    key_of_marks(axes[0, 2])
    for ax in axes.flat:
        ax.set_xticks([0, 0.5, 1])
    style.panel_letters(axes)
    return figure


def of_inputs(ax: Axes, result: Result) -> None:
    """What is known of the inputs alone."""
    predicted, measured = result.predicted, result.measured
    rows = zip(predicted["inputs_curve"], measured["inputs"], INPUT_LABELS, strict=True)
    for (curve, found, label), color in zip(rows, ("C2", "C3", "C4", "C5"), strict=True):
        ax.plot(predicted["separations"], found, "o", color=color, mew=0, alpha=0.55, clip_on=False)
        style.theory_line(ax, predicted["separations_curve"], curve, label, color=color)
    ax.set(xlabel=SEPARATION, ylabel="geometry of the inputs", ylim=(0, 1.5))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(loc="upper left", ncols=1, fontsize=7)


def random_layers(ax: Axes, result: Result) -> None:
    """Before training: layers of infinite width, and all units of the networks together."""
    predicted, measured = result.predicted, result.measured
    for layer, (name, color) in enumerate(COLORS.items()):
        found, error = (measured[f"bits_{what}"][layer, :, 0] for what in POOLED)
        for column, dash in ((PARALLELISM, "-"), (TARGET, "--")):
            curve = predicted["initial_curve"][column, layer]
            line = {"color": color, "linestyle": dash}
            label = NAMES[name] if column == PARALLELISM else None
            style.theory_line(ax, predicted["separations_curve"], curve, label, **line)
            bars(ax, apart(predicted, layer), found[:, column], 2 * error[:, column], color, "o")
    ax.plot([], [], color=style.NEUTRAL, label="parallelism")
    ax.plot([], [], color=style.NEUTRAL, linestyle="--", label="target alignment")
    ax.set(xlabel=SEPARATION, ylabel="random layers", ylim=(-0.05, 1.55))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(loc="upper left", fontsize=7)


def trained(ax: Axes, result: Result, column: int, label: str) -> None:
    """One measure after training: the limit of small weights, its networks, the protocol's."""
    predicted, measured = result.predicted, result.measured
    s = predicted["separations_curve"]
    for layer, (name, color) in enumerate(COLORS.items()):
        x, curve = apart(predicted, layer), predicted["rich_curve"][column, layer]
        style.theory_line(ax, s[:-1], curve[:-1], NAMES[name], color=color)
        ax.plot(s[-1], curve[-1], "_", color=style.darker(color), markersize=9, mew=1.2, zorder=4)
        pooled, error = (measured[f"{LIMIT}_{what}"][layer, :, 1, column] for what in POOLED)
        bars(ax, x, pooled, 2 * error, color, "o")
        each = measured["bits_each"][layer, :, :, 1, column]
        mean, error = mean_and_error(each)
        bars(ax, x, mean, 2 * error, color, "D", mfc="white", mew=0.8, linestyle=":")
    ax.set(xlabel=SEPARATION, ylabel=label)


def order(ax: Axes, result: Result) -> None:
    """Target alignment of tanh less that of ReLU, with bits and with a parity as targets."""
    targets = (("bits", "two bits", "C3"), ("parity", "parity of two bits", "C5"))
    for index, (group, label, color) in enumerate(targets):
        tanh, relu = result.measured[f"{group}_each"][:, :, :, 1, TARGET]
        mean, error = mean_and_error(tanh - relu)
        x = apart(result.predicted, index)
        bars(ax, x, mean, 2 * error, color, "D", mfc="white", mew=0.8, linestyle=":", label=label)
    ax.axhline(0, color=style.NEUTRAL, linewidth=0.6)
    ax.set(xlabel=SEPARATION, ylabel="target alignment, tanh $-$ ReLU")
    ax.set_ylim(None, ax.get_ylim()[1] + 0.45 * np.ptp(ax.get_ylim()))
    ax.legend(title="protocol, with the target", loc="upper left")


def apart(predicted: Any, layer: int) -> np.ndarray:
    """Separations, moved a little so that marks of the two do not cover each other."""
    return predicted["separations"] + APART * (2 * layer - 1)


def bars(ax: Axes, x: Any, y: Any, error: Any, color: str, mark: str, **style_of: Any) -> None:
    """Marks with bars of two standard errors."""
    options = {"mew": 0, "elinewidth": 0.8, "linestyle": "", "zorder": 2, **style_of}
    ax.errorbar(x, y, yerr=error, fmt=mark, color=color, alpha=0.7, **options)


def key_of_marks(ax: Axes) -> None:
    """What lines and marks stand for, on the panel that has the room."""
    handles, _ = ax.get_legend_handles_labels()
    grey: dict[str, Any] = {"color": style.NEUTRAL}
    handles += [
        Line2D([], [], **grey, marker="o", linestyle="", mew=0, alpha=0.7, label="small weights"),
        Line2D([], [], **grey, marker="D", linestyle=":", mfc="white", mew=0.8, label="protocol"),
    ]
    ax.set_ylim(0.1, 1.62)
    ax.set_yticks(np.linspace(0.2, 1, 5))
    ax.legend(handles=handles, loc="upper left", ncols=2, title="lines: limit of vanishing weights")
