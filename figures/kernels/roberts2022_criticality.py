"""Random networks with depth: kernels, fluctuations, criticality, and information of outputs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.layer_statistics import CRITICAL, DEEP_NAMES, GAINS, KERNELS, NONLINEAR
from sims.kernels.layer_statistics import TANGENT_DEPTHS as DEPTHS
from sims.kernels.sampled_layers import ACTIVATION_NAMES

LABELS = {"tanh": "tanh", "gelu": "GELU", "relu": "ReLU", "linear": "linear", "scaled_erf": "erf"}
COLORS = dict(zip(LABELS, ("C0", "C1", "C2", "C3", "C4"), strict=True))
STYLES = ("--", "-", ":")  # of the gains
SHOWN = 12  # layers of deep networks, of which points are drawn
SPREADS = 0.4  # of the information, to which it is drawn


def draw(result: Result) -> Figure:
    """K and V over depth, susceptibilities, deep networks, tangent kernel, information."""
    figure, axes = style.panels(2, 3, height=4.8)
    kernels(axes[0, 0], result)
    fluctuations(axes[0, 1], result)
    growth(axes[0, 2], result)
    universality(axes[1, 0], result)
    tangent_kernels(axes[1, 1], result)
    information(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def kernels(ax: Axes, result: Result) -> None:
    """K over depth at, below and above criticality; a linear network's is that of ReLU."""
    predicted, (measured, error) = result.predicted["kernel"], result.measured["kernel"]
    layers = np.arange(1, len(predicted) + 1)
    for index, name in enumerate(ACTIVATION_NAMES[:3]):
        for case, line in enumerate(STYLES):
            label = LABELS[name] if case == CRITICAL else None
            points(ax, layers, measured[:, index, case], error[:, index, case], COLORS[name])
            theory = predicted[:, index, case]
            style.theory_line(ax, layers, theory, label, color=COLORS[name], linestyle=line)
    for case in (0, 2):
        label = rf"${GAINS[case]:g}\,C_W$"
        ax.plot([], [], color=style.NEUTRAL, linestyle=STYLES[case], label=label)
    ax.set(yscale="log", xlabel="layer $l$", ylabel="mean square preactivation $K$")
    ax.set(ylim=(None, 30 * ax.get_ylim()[1]))
    ax.legend(loc="upper left", ncols=2)


def fluctuations(ax: Axes, result: Result) -> None:
    """n times the relative variance of G at criticality."""
    predicted, measured = result.predicted, result.measured
    layers = np.arange(1, len(predicted["kernel"]) + 1)
    for index, name in enumerate(ACTIVATION_NAMES):
        scale = predicted["kernel"][1:, index, CRITICAL] ** 2
        value, error = (row[1:, index, CRITICAL] / scale for row in measured["vertex"])
        points(ax, layers[1:], value, error, COLORS[name])
        theory = predicted["vertex"][1:, index, CRITICAL] / scale
        style.theory_line(ax, layers[1:], theory, LABELS[name], color=COLORS[name])
    ax.set(xlabel="layer $l$", ylabel=r"fluctuations $V/K^2$", ylim=(0, None))
    style.legend(ax, loc="upper left")


def growth(ax: Axes, result: Result) -> None:
    """Both susceptibilities of single critical layers."""
    predicted, (measured, error) = result.predicted["maps"], result.measured["maps"]
    for index, name in enumerate(ACTIVATION_NAMES[:3]):
        for which, line in ((1, "-"), (2, "--")):
            label = LABELS[name] if which == 1 else None
            points(ax, KERNELS, measured[which, index], error[which, index], COLORS[name])
            theory = predicted[which, index]
            style.theory_line(ax, KERNELS, theory, label, color=COLORS[name], linestyle=line)
    ax.plot([], [], color=style.NEUTRAL, label=r"$\chi_\parallel$")
    ax.plot([], [], color=style.NEUTRAL, linestyle="--", label=r"$\chi_\perp$")
    ax.set(xscale="log", xlabel="kernel $K$", ylabel="growth in one critical layer")
    ax.legend(loc="lower left")


def universality(ax: Axes, result: Result) -> None:
    """Deep tanh and erf networks: powers of depth, drawn through the last layer."""
    predicted, measured = result.predicted, result.measured
    layers, means = measured["deep_layers"], measured["deep"].mean(axis=0)
    at = np.unique(np.geomspace(1, len(layers), SHOWN).astype(int)) - 1
    labels = (r"$K$", r"$\prod\chi_\parallel$", r"$\prod\chi_\perp$")
    for which, color in enumerate(style.ordered_colors(3)):
        for index, marker in zip(range(len(DEEP_NAMES)), "os", strict=True):
            curve = means[:, which, index]
            ax.plot(layers[at], curve[at], marker, color=color, mew=0, alpha=0.55, zorder=2)
            power = predicted["exponents"][index, which]
            start = (
                predicted["coefficient"][index] if which == 0 else curve[-1] / layers[-1] ** power
            )
            label = rf"{labels[which]} $\sim l^{{{power:g}}}$" if index == 0 else None
            late = layers >= 4
            style.theory_line(ax, layers[late], start * layers[late] ** power, label, color=color)
    ax.plot([], [], "o", color=style.NEUTRAL, mew=0, alpha=0.55, label="tanh")
    ax.plot([], [], "s", color=style.NEUTRAL, mew=0, alpha=0.55, label="erf")
    ax.set(xscale="log", yscale="log", xlabel="layer $l$", ylabel=r"$K$ and growth, class $K^*=0$")
    ax.legend(loc="lower left")


def tangent_kernels(ax: Axes, result: Result) -> None:
    """Mean tangent kernel over depth."""
    predicted, (value, error) = (
        result.predicted["tangent_kernel"],
        result.measured["tangent_kernel"],
    )
    layers = np.arange(1, len(predicted) + 1)
    for index, name in enumerate(ACTIVATION_NAMES[NONLINEAR]):
        points(ax, np.array(DEPTHS), value[:, index], error[:, index], COLORS[name])
        style.theory_line(ax, layers, predicted[:, index], LABELS[name], color=COLORS[name])
    ax.set(xlabel="depth $L$", ylabel=r"mean tangent kernel $H$", ylim=(0, None))
    ax.legend(loc="upper left")


def information(ax: Axes, result: Result) -> None:
    """Of one output about another: sampled networks, and the series with its maximum."""
    predicted, measured = result.predicted, result.measured
    value, error = measured["information"]
    for row, color in enumerate(style.ordered_colors(len(value))):
        n = result.config.widths[row]
        spread = predicted["spread"][row]
        kept = spread <= SPREADS
        points(ax, spread[kept], value[row, kept], error[row, kept], color, f"$n={n}$")
    curve, best = predicted["curve_information"], float(predicted["optimal_spread"])
    positive = curve > 0
    style.theory_line(ax, predicted["curve_spread"][positive], curve[positive], "series, to $u^3$")
    ax.axvline(
        best, ymax=0.5, color=style.NEUTRAL, linestyle=":", linewidth=0.8, label="its maximum"
    )
    ax.set(xlabel=r"$u=\mathrm{Var}\,G/K^2$ (ReLU)", ylabel="mutual information (nats)")
    ax.set(ylim=(0, None), xlim=(0, SPREADS))
    ax.legend(loc="upper left")


def points(
    ax: Axes,
    x: np.ndarray,
    value: np.ndarray,
    error: np.ndarray,
    color: str,
    label: str | None = None,
) -> None:
    """A measurement and its standard error."""
    look = {"mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
    ax.errorbar(x, value, yerr=error, fmt="o", color=color, label=label, **look)
