"""Means, success and number of the networks that permute bits, and what finite width adds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.deluca2025_permutations import bias_exponent
from sims.kernels.mirrored_pairs import GROUPS

ON, OFF = "C0", "C1"


def draw(result: Result) -> Figure:
    """Mean outputs, success of ensembles, the bias of finite width, the number needed."""
    figure, axes = style.panels(2, 2, height=4.8)
    means(axes[0, 0], result)
    success(axes[0, 1], result)
    bias(axes[1, 0], result)
    needed(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def means(ax: Axes, result: Result) -> None:
    """Mean output of bits to be set and of the others, extrapolated to infinite width."""
    predicted, measured = result.predicted, result.measured
    for name, color, label in (("on", ON, "to be set"), ("off", OFF, "others")):
        ones = predicted["ones"][: len(predicted[name])]
        style.theory_line(ax, ones, predicted[name], label, color=color)
        points(ax, ones, *measured[name], color=color)
        spread = np.sqrt(predicted["variance"][: len(ones)])
        low, high = predicted[name] - spread, predicted[name] + spread
        ax.fill_between(ones, low, high, color=color, alpha=0.15, linewidth=0)
    ax.axhline(0, color=style.NEUTRAL, linewidth=0.6)
    ax.set(xlabel="ones in the input $m$", ylabel="output", xticks=predicted["ones"])
    ax.set(ylim=(None, 1.0))
    style.legend(ax, title=r"bits, mean $\pm\sigma$", loc="upper right", ncols=2)


def success(ax: Axes, result: Result) -> None:
    """Probability that an ensemble is right in every bit, by the number of ones."""
    predicted, (value, error) = result.predicted, result.measured["success"]
    for index, color in enumerate(style.ordered_colors(len(predicted["ones"]))):
        label = f"{predicted['ones'][index]}"
        curve = predicted["curve_success"][index]
        style.theory_line(ax, predicted["curve_sizes"], curve, label, color=color)
        points(ax, np.array(GROUPS), value[index], error[index], color=color)
    ax.set(xscale="log", xlabel="networks in the ensemble $N$", ylabel="success probability")
    ax.set(ylim=(0, 1.02))
    ax.legend(title="ones $m$", loc="lower right")


def bias(ax: Axes, result: Result) -> None:
    """What finite width adds to the mean of set bits at inputs of two ones."""
    measured = result.measured
    width, samples = measured["widths"], measured["two_ones"]
    limit = result.predicted["on"][0]
    value, error = samples.mean(axis=1) - limit, samples.std(axis=1) / np.sqrt(samples.shape[1])
    points(ax, width, value, error, color=ON)
    fit = f"measured power ${bias_exponent(measured)[0]:.2f}$"
    for power, line in ((-0.5, "-"), (-1.0, ":")):
        guide = value[0] * (width / width[0]) ** power
        label = r"$\sim n^{-1/2}$" if power == -0.5 else r"$\sim 1/n$"
        style.theory_line(ax, width, guide, label, color=style.NEUTRAL, linestyle=line)
    ax.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="mean output less its limit")
    ax.set_xticks(width, [f"{n}" for n in width])
    ax.minorticks_off()
    ax.legend(title=f"$m=2$; {fit}", loc="lower left")


def needed(ax: Axes, result: Result) -> None:
    """Networks needed over the number of bits, and the noise to signal behind them."""
    predicted, measured = result.predicted, result.measured
    k, ratios = predicted["ratios_of_k"], predicted["ratios"]
    for row, label, color in ((1, r"$N$, all inputs", "C2"), (0, r"$N$, any one input", "C4")):
        sizes = predicted["ensemble_sizes"][row]
        look = {"color": color, "marker": "D", "markersize": 3}
        style.theory_line(ax, predicted["sizes_of_k"], sizes, label, **look)
    style.theory_line(ax, k, ratios, r"$\sigma^2/\mu^2$", color=ON)
    ax.plot(k, ratios[-1] * k / k[-1], color=style.NEUTRAL, linestyle=":", label=r"$\sim k$")
    value, error = measured["noise_to_signal"][:, 0]
    points(ax, np.array([result.config.bits]), value, error, color=ON)
    ax.set(xscale="log", yscale="log", xlabel="bits $k$", ylabel="number of networks")
    ax.legend(loc="lower right")


def points(ax: Axes, x: np.ndarray, value: np.ndarray, error: np.ndarray, *, color: str) -> None:
    """A measurement and its standard error."""
    look = {"mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
    ax.errorbar(x, value, yerr=error, fmt="o", color=color, **look)
