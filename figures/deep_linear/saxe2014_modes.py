"""Mode strengths over time on tree-structured data, and when each mode is half learned."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from figures import style
from sims.experiment import Result

SHOWN = np.array([1, 2, 3, 5, 12, 18, 31]) - 1  # the modes of the paper's figure


def draw(result: Result) -> Figure:
    """Linear and tanh networks' mode strengths; half-learning times against 1/s."""
    predicted, measured = result.predicted, result.measured
    figure, axes = style.panels(1, 3, height=2.5)
    shown = SHOWN[len(predicted["singular_values"]) > SHOWN]
    colors = style.ordered_colors(len(shown))
    for ax, network in zip(axes[0], ("linear", "tanh"), strict=False):
        for mode, color in zip(shown, colors, strict=True):
            scale = predicted["singular_values"][mode]
            curves = measured[network][:, :, mode] / scale
            style.simulation_band(ax, predicted["steps"], curves, color=color)
            theory = predicted["strengths"][:, mode] / scale
            style.theory_line(ax, predicted["steps"], theory, f"{mode + 1}", color=color)
        ax.set(xlabel="training step", ylabel=r"mode strength $u/s$", ylim=(-0.05, 1.2))
        ax.set_title(f"{network} network")
    axes[0, 0].legend(title="mode", ncols=2, loc="lower right", fontsize=6, title_fontsize=6)
    half_learning_times(axes[0, 2], result)
    style.panel_letters(axes)
    return figure


def half_learning_times(ax: Axes, result: Result) -> None:
    """Half-learning times against singular values: two networks, two predictions."""
    predicted, measured = result.predicted, result.measured
    s = predicted["singular_values"]
    for network, color in (("linear", "C0"), ("tanh", "C1")):
        times = measured[f"half_steps_{network}"]
        style.simulation_points(ax, s, times, network, color=color)
    style.theory_line(ax, s, predicted["half_steps"], "theory, random weights", color="C0")
    style.theory_line(
        ax,
        s,
        predicted["half_steps_aligned"],
        "theory, decoupled",
        color=style.NEUTRAL,
        linestyle="--",
    )
    ax.set(xscale="log", yscale="log", xlabel="singular value $s$", ylabel="half-learning step")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=6)
