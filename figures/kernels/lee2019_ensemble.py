"""Ensembles of trained networks: mean and spread over the circle and over time, of two kinds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.circle_ensembles import ANGLES, GRID, HELD_OUT, LAYERS, TARGETS
from sims.kernels.ensemble_statistics import sample_covariance, variances
from sims.kernels.lee2019_ensemble import GAP, networks

COLORS = {"all": "C0", "last": "C1"}
EARLY = 2  # recorded step of the first panel
LABELS = {"all": "all layers (NTK)", "last": "last layer (NNGP)"}


def draw(result: Result) -> Figure:
    """Functions early, and after training of either kind; mean and deviation over time; end."""
    figure, axes = style.panels(2, 3, height=4.6)
    functions(axes[0, 0], result, "all", EARLY)
    functions(axes[0, 1], result, "all", -1)
    functions(axes[0, 2], result, "last", -1)
    limits = [ax.get_ylim() for ax in axes[0]]
    for ax in axes[0]:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits) + 1.5)
    over_time(axes[1, 0], result, "mean", r"mean in the widest gap")
    over_time(axes[1, 1], result, "std", r"standard deviation there")
    spread(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def on_grid(result: Result, layers: str, step: int) -> tuple[np.ndarray, ...]:
    """Mean and standard deviation of theory at a recorded step, then of networks."""
    index, first, count = LAYERS.index(layers), len(HELD_OUT), len(result.config.steps)
    covariance = result.predicted["covariance"][index, step % count]
    mean = result.predicted["mean"][index, step % count, first:]
    outputs = result.measured["outputs"][index, :, step, first:]
    std = np.sqrt(np.maximum(np.diagonal(covariance)[first:], 0))
    return mean, std, outputs.mean(axis=0), outputs.std(axis=0, ddof=1)


def functions(ax: Axes, result: Result, layers: str, step: int) -> None:
    """Mean over networks and two standard deviations to both sides, over the circle."""
    mean, std, found, spread = on_grid(result, layers, step)
    color = COLORS[layers]
    ax.fill_between(GRID, found - 2 * spread, found + 2 * spread, color=color, alpha=0.28, lw=0)
    ax.plot(GRID, found, color=color, alpha=0.55, linewidth=2.4)
    for edge, line in ((mean, "-"), (mean - 2 * std, ":"), (mean + 2 * std, ":")):
        style.theory_line(ax, GRID, edge, color=color, linestyle=line)
    ax.plot(ANGLES, TARGETS, "o", color="black", ms=4, zorder=5)
    ax.axvline(HELD_OUT[GAP] - 2 * np.pi * (HELD_OUT[GAP] > np.pi), color=style.NEUTRAL, lw=0.6)
    steps = result.config.steps[step]
    what = "all layers" if layers == "all" else "last layer"
    ax.text(0.03, 0.95, f"{what}, {steps} steps", transform=ax.transAxes, va="top")
    ax.set(xlabel="angle on the circle", ylabel="output $f$", xlim=(-np.pi, np.pi))


def over_time(ax: Axes, result: Result, what: str, label: str) -> None:
    """At the held-out input in the widest gap, with 2 standard errors."""
    steps = np.array(result.config.steps)
    for layers in LAYERS:
        mean, std, found, spread = in_gap(result, layers)
        count, color = len(networks(result.measured, layers)), COLORS[layers]
        theory, value = (mean, found) if what == "mean" else (std, spread)
        error = 2 * spread / np.sqrt(count if what == "mean" else 2 * count)
        marks = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
        ax.errorbar(steps, value, yerr=error, color=color, **marks)
        style.theory_line(ax, steps, theory[:-1], LABELS[layers], color=color)
        ax.axhline(theory[-1], color=style.darker(color), linestyle="--", linewidth=0.8)
    ax.plot([], [], "--", color=style.NEUTRAL, linewidth=0.8, label="theory, at the end")
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel="training step", ylabel=label, xlim=(-0.2, 1.3 * steps[-1]))
    if what == "std":  # room for the legend of both panels
        ax.legend(loc="upper right")


def in_gap(result: Result, layers: str) -> tuple[np.ndarray, ...]:
    """Mean and standard deviation over time of theory, then of networks."""
    index = LAYERS.index(layers)
    covariance = result.predicted["covariance"][index]
    outputs = networks(result.measured, layers)
    return (
        result.predicted["mean"][index, :, GAP],
        np.sqrt(variances(covariance)[:, GAP]),
        outputs.mean(axis=0)[:, GAP],
        np.sqrt(variances(sample_covariance(outputs))[:, GAP]),
    )


def spread(ax: Axes, result: Result) -> None:
    """Standard deviations after training, of both kinds."""
    for layers in LAYERS:
        _, std, _, found = on_grid(result, layers, -1)
        ax.plot(GRID, found, color=COLORS[layers], alpha=0.55, linewidth=2.4)
        style.theory_line(ax, GRID, std, LABELS[layers], color=COLORS[layers])
    ax.plot(ANGLES, np.zeros(len(ANGLES)), "o", color="black", ms=4, clip_on=False, zorder=5)
    ax.set(xlabel="angle on the circle", ylabel="standard deviation at the end")
    ax.set(xlim=(-np.pi, np.pi), ylim=(0, 1.45 * ax.get_ylim()[1]))
    style.legend(ax, simulation=None, loc="upper center")
