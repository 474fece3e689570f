"""The tangent kernel on the unit circle, how it varies and moves with width, and outputs."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.circle_networks import DATA_ANGLES
from sims.kernels.jacot2018_kernel import growths, shifts, spreads
from sims.kernels.relu_networks import each

QUARTERS = np.pi / 2 * np.arange(-2, 3)
NAMES = (r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$")
NORMAL_TENTH = 1.2815515655446004  # standard deviations from the median to a tail of 10 %


def draw(result: Result) -> Figure:
    """Kernels of the narrowest and the widest networks; rates; outputs after training."""
    figure, axes = style.panels(2, 2, height=4.8)
    kernels(axes[0, 0], result, 0)
    kernels(axes[0, 1], result, -1)
    top = max(ax.get_ylim()[1] for ax in axes[0])
    for ax in axes[0]:
        ax.set_ylim(0, top)
    rates(axes[1, 0], result)
    outputs(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def around(ax: Axes) -> None:
    """Angles of the circle as x."""
    ax.set(xlabel=r"angle $\gamma$ on the unit circle", xlim=(-np.pi, np.pi))
    ax.set_xticks(QUARTERS, NAMES)


def closed(values: np.ndarray) -> np.ndarray:
    """The last angle once more what the first is."""
    return np.concatenate([values, values[..., :1]], axis=-1)


def angles(result: Result) -> np.ndarray:
    """From -pi to pi, both included."""
    return np.append(result.predicted["angles"], np.pi)


def kernels(ax: Axes, result: Result, index: int) -> None:
    """Before and after training, of the networks of one width, and the limit."""
    width, found = result.predicted["widths"][index], each(dict(result.measured), "kernel")[index]
    for stage, (label, color) in enumerate((("before training", "C0"), ("after training", "C1"))):
        style.simulation_band(ax, angles(result), closed(found[:, stage]), label, color=color)
    limit = closed(result.predicted["kernel"])
    style.theory_line(ax, angles(result), limit, r"$n=\infty$", color=style.NEUTRAL)
    around(ax)
    ax.set(ylabel=r"tangent kernel $\Theta(x_0,x(\gamma))$")
    ax.legend(title=f"width $n={width}$", loc="upper right")


def rates(ax: Axes, result: Result) -> None:
    """Spread, growth and movement of the kernel, relative to it, with the predicted powers."""
    p, m = dict(result.predicted), dict(result.measured)
    widths, size = p["widths"], np.sqrt(p["size"])
    series = (
        (spreads, "spread_exponent", r"spread at $t=0$, $\sim n^{-1/2}$", "C0"),
        (growths, "growth_exponent", r"growth, target learned, $\sim n^{-1}$", "C1"),
        (shifts, "shift_exponent", r"change, a tenth learned, $\sim n^{-3/4}$", "C2"),
    )
    for values, exponent, label, color in series:
        found, errors = values(m) / size
        mark = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
        ax.errorbar(widths, found, yerr=errors, color=color, **mark)
        power = widths ** float(p[exponent])
        slope = power * np.exp(np.mean(np.log(found / power)))
        style.theory_line(ax, widths, slope, label, color=color)
    ax.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="relative to the kernel")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.7)
    ax.set_xticks(widths, [f"{width}" for width in widths])
    ax.minorticks_off()
    style.legend(ax, loc="upper right")


def outputs(ax: Axes, result: Result) -> None:
    """Tenths of the ensemble after training, of the widest networks, and the Gaussian's."""
    p, gamma = result.predicted, angles(result)
    found = each(dict(result.measured), "f")[-1]
    low, middle, high = closed(np.quantile(found, (0.1, 0.5, 0.9), axis=0))
    mean, std = closed(p["mean"]), closed(p["std"])
    ax.fill_between(gamma, low, high, color="C0", alpha=0.28, linewidth=0, zorder=1)
    ax.plot(gamma, middle, color="C0", alpha=0.55, linewidth=2.4, zorder=2)
    style.theory_line(ax, gamma, mean, "median", color="C0")
    for sign, label in ((-1, None), (1, "10 %, 90 %")):
        tenth = mean + sign * NORMAL_TENTH * std
        style.theory_line(ax, gamma, tenth, label, color="C0", linestyle="--", linewidth=0.9)
    data = {"color": style.NEUTRAL, "ms": 5, "zorder": 5, "label": "training data"}
    ax.plot(DATA_ANGLES, p["targets"], "x", **data)
    around(ax)
    ax.set(ylabel=rf"output after training, $n={p['widths'][-1]}$")
    ax.set_ylim(None, ax.get_ylim()[1] + 0.75 * np.ptp(ax.get_ylim()))
    style.legend(ax, simulation="band", loc="upper right", ncols=2)
