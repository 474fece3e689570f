"""The oscillation at the edge of stability: phase portraits, period, energy, networks."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from figures import style
from sims.experiment import Result
from sims.stability.damian2022_self_stabilization import (
    CURVE_RATES,
    DRIFT_RATES,
    LINEAR_RATES,
    energy_drifts,
    in_time,
)
from sims.stability.pulled_networks import departures

EXCESS = r"excess sharpness $y$"
Values = Callable[[str], np.ndarray]
SHOWN = (0, -1)  # network and force in the panels of one network


def draw(result: Result) -> Figure:
    """Above the loss for which the map is exact, below networks."""
    figure, axes = style.panels(2, 3, height=4.4)
    spiral(axes[0, 0], result)
    period(axes[0, 1], result)
    energy(axes[0, 2], result)
    network_portrait(axes[1, 0], result)
    network_path(axes[1, 1], result)
    network_errors(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def spiral(ax: Axes, result: Result) -> None:
    """The exact loss at the largest and the smallest learning rate."""
    for index, color, every in ((0, "C1", 10), (-1, "C0", 80)):
        paths = (
            in_time(source[name])[index]
            for source in (result.predicted, result.measured)
            for name in "xy"
        )
        x, y, found_x, found_y = paths
        ax.plot(np.abs(found_x[::every]), found_y[::every], "o", color=color, mew=0, alpha=0.55)
        style.theory_line(ax, np.abs(x), y, f"{DRIFT_RATES[index]:g}", color=color)
    ax.plot(np.sqrt(result.predicted["variance"]), 0, "+", color=style.NEUTRAL, ms=7, zorder=4)
    ax.set(xlabel=r"displacement $|x|$", ylabel=EXCESS)
    ax.set_ylim(None, 1.9 * ax.get_ylim()[1])
    style.legend(ax, title=r"learning rate $\eta$", loc="upper right", ncols=2)


def period(ax: Axes, result: Result) -> None:
    """Period and growth of small oscillations, over their limits for small learning rates."""
    frequency = np.sqrt(2 * float(result.measured["alpha"]))
    for name, color in (("period", "C0"), ("growth", "C1")):
        for rates in (CURVE_RATES, LINEAR_RATES):
            angle = rates * frequency
            limit = 2 * np.pi / angle if name == "period" else angle**2 / 2
            if rates is CURVE_RATES:
                curve = result.predicted[f"curve_{name}"] / limit
                style.theory_line(ax, angle, curve, name, color=color)
            else:
                style.simulation_points(ax, angle, result.measured[name] / limit, color=color)
    ax.axhline(1, color=style.NEUTRAL, linestyle="--", linewidth=0.8)
    ax.set(xlabel=r"$\eta\sqrt{2\alpha}$", ylabel=r"over its limit as $\eta\to0$")
    style.legend(ax, loc="upper left")


def energy(ax: Axes, result: Result) -> None:
    """Drift of the energy over a fixed time."""
    drifts = energy_drifts(result.measured)
    style.simulation_points(ax, DRIFT_RATES, drifts, color="C0")
    slope = drifts[-1] * (DRIFT_RATES / DRIFT_RATES[-1]) ** result.predicted["drift_exponent"]
    style.theory_line(ax, DRIFT_RATES, slope, r"$\propto\eta$", color="C0")
    sparse_logarithmic(ax)
    ax.set(xlabel=r"learning rate $\eta$", ylabel="drift of the energy")
    style.legend(ax, loc="upper left")


def scaled(result: Result, source: str, name: str) -> np.ndarray:
    """One network's path at the smallest force, over the square root of the force."""
    values = getattr(result, source)[name][SHOWN]
    return values / np.sqrt(result.predicted["forces"][SHOWN[1]])


def network_portrait(ax: Axes, result: Result) -> None:
    """Displacement and excess sharpness of one network."""
    found = (scaled(result, "measured", f"network_{name}") for name in "xy")
    ax.plot(*found, "o", color="C2", mew=0, alpha=0.55)
    x, y = (lambda theory, v=v: scaled(result, "predicted", f"{theory}_{v}") for v in "xy")
    both_maps(ax, x, y)
    ax.set(xlabel=r"displacement $|x|/\sqrt{s}$", ylabel=EXCESS + r"$/\sqrt{s}$")


def network_path(ax: Axes, result: Result) -> None:
    """Excess sharpness of the same network over time."""
    steps = result.predicted["schedule"]
    ax.plot(steps, scaled(result, "measured", "network_y"), "o", color="C2", mew=0, alpha=0.55)
    both_maps(ax, lambda _: steps, lambda theory: scaled(result, "predicted", f"{theory}_y"))
    ax.set(xlabel="training step", ylabel=EXCESS + r"$/\sqrt{s}$")
    ax.set_ylim(None, ax.get_ylim()[1] + 0.55 * np.ptp(ax.get_ylim()))
    style.legend(ax, loc="upper right")


def both_maps(ax: Axes, x: Values, y: Values) -> None:
    """The map with relaxing directions and the two-variable map."""
    style.theory_line(ax, x("network"), y("network"), "relaxing map", color="C2")
    line = {"color": style.NEUTRAL, "linestyle": "--"}
    style.theory_line(ax, x("two_variable"), y("two_variable"), "two-variable map", **line)


def network_errors(ax: Axes, result: Result) -> None:
    """Largest departure of the excess sharpness of every network from either map."""
    amplitude = np.sqrt(result.predicted["forces"])
    for theory, label, color in (
        ("two_variable", "two-variable map", style.NEUTRAL),
        ("network", "relaxing map", "C2"),
    ):
        errors = departures(result.predicted, result.measured, "y", theory)
        style.simulation_points(ax, amplitude, errors, label, color=color)
    typical = np.median(errors, axis=0)
    slope = typical[-1] * amplitude / amplitude[-1]
    style.theory_line(ax, amplitude, slope, r"$\propto\sqrt{s}$", color="C2")
    sparse_logarithmic(ax)
    ax.set(xlabel=r"$\sqrt{s}$, force on the weights $s$")
    ax.set(ylabel="departure from the map / peak", ylim=(None, 3))
    ax.legend(loc="upper left")


def sparse_logarithmic(ax: Axes) -> None:
    """Logarithmic axes of about a decade: ticks at 1, 2, 5, none labelled in between."""
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
