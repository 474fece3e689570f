"""Loss, tangent kernel and layers of lambda-balanced networks, from lazy to rich to lazy."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.domine2024_balanced import FUNNEL, SQUARE
from sims.experiment import Result

SHOWN = (-12.0, -3.0, 0.0, 3.0, 12.0)  # imbalances of curves over time
SMALLEST = -1  # of the learning rates
TIME = r"training time $t$ (learning rate $\times$ steps)"
SPAN = (0.006, 200.0)  # of the times drawn
NAMES = {SQUARE: "square", FUNNEL: "funnel"}
LAYERS = {1: "second", -1: "first"}  # the heavier one, by the sign of the imbalance


def draw(result: Result) -> Figure:
    """Loss over time of both shapes and kernel of one; the end, against lambda; a second task."""
    figure, axes = style.panels(2, 3, height=4.6)
    over_time(axes[0, 0], result, "loss", SQUARE)
    over_time(axes[0, 1], result, "loss", FUNNEL)
    over_time(axes[0, 2], result, "alignment", FUNNEL)
    axes[0, 2].set(ylabel="kernel alignment with start", ylim=(None, 1.02))
    style.legend(axes[0, 0], title=r"imbalance $\lambda$")
    heavy_layers(axes[1, 0], result)
    final_layers(axes[1, 1], result)
    second_task(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def over_time(ax: Axes, result: Result, name: str, shape: int) -> None:
    """Curves of one shape at the imbalances shown."""
    for index, color in shown(result):
        theory = result.predicted[name][shape, index]
        found = result.measured[name][SMALLEST, shape, index]
        curve(ax, result, index, theory, found, color)
    ax.set(xscale="log", xlim=SPAN, xlabel=TIME, ylabel="loss")
    ax.set_title(f"{NAMES[shape]} network")


def second_task(ax: Axes, result: Result) -> None:
    """Loss of the funnel on the task it is given after the first."""
    for index, color in shown(result):
        theory = result.predicted["switch_loss"][index]
        curve(ax, result, index, theory, result.measured["switch_loss"][SMALLEST, index], color)
    ax.set(xscale="log", xlim=SPAN, xlabel="time since the second task began")
    ax.set_ylabel("loss on the second task")
    ax.set_title("funnel, second task")


def curve(
    ax: Axes, result: Result, index: int, theory: np.ndarray, found: np.ndarray, color: str
) -> None:
    """Theory and simulation of one network."""
    t = result.predicted["times"][index]
    within = (t >= SPAN[0]) & (t <= SPAN[1])
    label = f"${result.predicted['imbalances'][index]:g}$"
    style.simulation_points(ax, t[within][::2], found[within][::2], color=color)
    style.theory_line(ax, t[within], theory[within], label, color=color)


def shown(result: Result) -> list[tuple[int, str]]:
    """Indices and colours of the imbalances shown."""
    at = np.flatnonzero(np.isin(result.predicted["imbalances"], SHOWN))
    return list(zip(at.tolist(), style.ordered_colors(len(at)), strict=True))


def heavy_layers(ax: Axes, result: Result) -> None:
    """How far the heavy layer's Gram matrix has moved in the end: if it is square, and if not."""
    cases = [(SQUARE, 1), (SQUARE, -1), (FUNNEL, 1)]
    for shape, sign in cases:
        heavy_layer(ax, result, shape, sign, "square" if shape == FUNNEL else None, "C0")
    heavy_layer(ax, result, FUNNEL, -1, "not square", "C1")
    size = np.abs(result.predicted["imbalances"]).max() / np.array([4, 1])
    low = result.predicted["second_change"][SQUARE, -1, -1]
    ax.plot(size, 0.5 * low * (size[-1] / size) ** 2, ":", color=style.NEUTRAL, linewidth=0.8)
    ax.text(size[0] / 1.3, 3 * low, r"$\lambda^{-2}$", color=style.NEUTRAL)
    ax.set(xscale="log", yscale="log", xlabel=r"size of the imbalance $|\lambda|$")
    ax.set_ylabel("relative change of Gram matrix")
    ax.legend(title="heavier layer", loc="lower left")


def heavy_layer(
    ax: Axes, result: Result, shape: int, sign: int, label: str | None, color: str
) -> None:
    """The same for one shape and sign of the imbalance."""
    lam = result.predicted["imbalances"]
    side, name = sign * lam > 0, f"{LAYERS[sign]}_change"
    found = result.measured[name][SMALLEST, shape, side, -1]
    style.simulation_points(ax, abs(lam[side]), found, color=color)
    theory = result.predicted[name][shape, side, -1]
    style.theory_line(ax, abs(lam[side]), theory, label, color=color)


def final_layers(ax: Axes, result: Result) -> None:
    """Squared weights of the strongest mode in both layers, of both shapes."""
    predicted = result.predicted
    for layer, color in ((0, "C2"), (1, "C3")):
        found = result.measured["layers"][SMALLEST, :, :, -1, layer, 0]
        theory = predicted["curve_layers"][:, layer, 0]
        style.simulation_points(ax, predicted["imbalances"], found, color=color)
        label = f"layer {layer + 1}"
        style.theory_line(ax, predicted["curve_imbalances"], theory, label, color=color)
    ax.set(yscale="log", xlabel=r"imbalance $\lambda$", ylabel="squared weight, strongest mode")
    ax.legend(loc="upper center")
