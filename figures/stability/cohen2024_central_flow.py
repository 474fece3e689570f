"""The central flow of one network in time; all networks' losses, variances and distances."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from figures import style
from sims.experiment import Result
from sims.stability.cohen2024_central_flow import EVERY, average

SHOWN = 1  # the network drawn over time
WINDOW = 60  # steps over which its curves are smoothed: about one swing of the sharpness
STEP = "training step"


def draw(result: Result) -> Figure:
    """Above one network over time, below averages of all."""
    figure, axes = style.panels(2, 3, height=4.4)
    losses(axes[0, 0], result)
    sharpness(axes[0, 1], result)
    variance(axes[0, 2], result)
    average_losses(axes[1, 0], result)
    variances(axes[1, 1], result)
    distances(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the ``WINDOW`` steps about each step that has them."""
    return np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")


def smoothed_steps(result: Result) -> np.ndarray:
    """The steps in the middle of those."""
    return smooth(result.predicted["steps"])


def losses(ax: Axes, result: Result) -> None:
    """Loss of gradient descent, at every step and smoothed, and three predictions of it."""
    predicted, measured = result.predicted, result.measured
    steps, raw = predicted["steps"], measured["loss"][SHOWN]
    ax.plot(steps, raw, color="C0", alpha=0.3, linewidth=0.6, label="gradient descent")
    smoothed = smooth(raw)
    ax.plot(
        smoothed_steps(result), smoothed, color="C0", alpha=0.55, linewidth=2.4, label="smoothed"
    )
    style.theory_line(ax, steps, predicted["loss"][SHOWN], r"$L+\mathrm{Tr}\,\Sigma/\eta$")
    line = {"color": "C1", "linestyle": "--"}
    style.theory_line(ax, steps, predicted["flow_loss"][SHOWN], r"$L$ alone", **line)
    flow = measured["gradient_flow_loss"][SHOWN]
    ax.plot(measured["middles"], flow, color=style.NEUTRAL, linestyle=":", label="gradient flow")
    ax.set(yscale="log", xlabel=STEP, ylabel="loss")
    ax.set_ylim(None, 30 * ax.get_ylim()[1])
    ax.legend(loc="upper right", ncols=2, fontsize=6)


def sharpness(ax: Axes, result: Result) -> None:
    """Sharpness over the edge."""
    predicted, measured = result.predicted, result.measured
    steps = predicted["steps"]
    ax.plot(
        steps[::EVERY],
        measured["sharpness"][SHOWN],
        color="C0",
        alpha=0.55,
        linewidth=2.0,
        label="gradient descent",
    )
    style.theory_line(ax, steps, predicted["sharpness"][SHOWN], "central flow")
    flow = measured["gradient_flow_sharpness"][SHOWN]
    ax.plot(measured["middles"], flow, color=style.NEUTRAL, linestyle=":", label="gradient flow")
    ax.set(xlabel=STEP, ylabel=r"sharpness $\eta S/2$")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.55 * (high - low))
    ax.legend(loc="upper left")


def variance(ax: Axes, result: Result) -> None:
    """Variance of the oscillation."""
    steps, found = result.predicted["steps"], result.measured["variance"][SHOWN]
    ax.plot(steps, found, color="C0", alpha=0.3, linewidth=0.6, label="gradient descent")
    ax.plot(
        smoothed_steps(result),
        smooth(found),
        color="C0",
        alpha=0.55,
        linewidth=2.4,
        label="smoothed",
    )
    style.theory_line(ax, steps, result.predicted["variance"][SHOWN], r"$\mathrm{Tr}\,\Sigma$")
    ax.set(xlabel=STEP, ylabel="variance of the oscillation", ylim=(0, None))
    ax.legend(loc="upper right")


def average_losses(ax: Axes, result: Result) -> None:
    """Average loss of every network against what is predicted, with and without Sigma."""
    found = average(result.measured["loss"])
    for name, label, color in (
        ("loss", r"$L+\mathrm{Tr}\,\Sigma/\eta$", "C0"),
        ("flow_loss", r"$L$ alone", "C1"),
    ):
        points(ax, average(result.predicted[name]), found, label, color)
    diagonal(ax)
    ax.set(xlabel="average loss, predicted", ylabel="average loss, gradient descent")
    ax.legend(loc="lower right")


def variances(ax: Axes, result: Result) -> None:
    """Variances of every network's oscillation along its two leading directions."""
    for index, color in ((0, "C0"), (1, "C2")):
        predicted, measured = (
            source["variances"][:, index] for source in (result.predicted, result.measured)
        )
        points(ax, predicted, measured, ("first", "second")[index], color)
    diagonal(ax)
    ax.set(xlabel=r"eigenvalue of average $\Sigma$", ylabel="variance, gradient descent")
    ax.legend(title="direction", loc="lower right")


def distances(ax: Axes, result: Result) -> None:
    """Distance of every network's averaged weights from either flow."""
    predicted, measured = result.predicted, result.measured
    for flow, label, color in (
        (measured["gradient_flow"], "gradient flow", style.NEUTRAL),
        (predicted["weights"], "central flow", "C0"),
    ):
        gap = np.linalg.norm(measured["weights"] - flow, axis=-1)
        style.simulation_band(ax, measured["middles"], gap, label, color=color)
    ax.set(yscale="log", xlabel=STEP, ylabel="distance of average weights")
    ax.set_ylim(None, 4 * ax.get_ylim()[1])
    ax.legend(title="from", loc="upper left", ncols=2)


def points(ax: Axes, x: np.ndarray, y: np.ndarray, label: str, color: str) -> None:
    """A point for every network."""
    ax.plot(x, y, "o", color=color, mew=0, alpha=0.7, label=label)


def diagonal(ax: Axes) -> None:
    """Logarithmic axes with the line on which prediction and measurement agree."""
    ax.set(xscale="log", yscale="log")
    decades = np.log10(ax.get_xlim()[1] / ax.get_xlim()[0])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3) if decades < 2 else (1,)))
        axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False))
        axis.set_minor_formatter(NullFormatter())
    ends = np.array(
        [min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])]
    )
    style.theory_line(ax, ends, ends, color=style.NEUTRAL, zorder=1)
    ax.set(xlim=ends, ylim=ends)
