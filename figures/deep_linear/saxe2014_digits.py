"""Sigmoids on real data, whitened and raw, and predicted against measured learning times."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result

INPUTS = ("whitened", "raw")


def draw(result: Result) -> Figure:
    """Mode strengths over training for both kinds of inputs; half-learning times."""
    figure, axes = style.panels(1, 3, height=2.5)
    for ax, inputs in zip(axes[0], INPUTS, strict=False):
        sigmoids(ax, result, inputs)
    half_learning_times(axes[0, 2], result)
    style.panel_letters(axes)
    return figure


def sigmoids(ax: Axes, result: Result, inputs: str) -> None:
    """Every mode's strength over its target."""
    predicted, measured = result.predicted, result.measured
    steps, target = predicted[f"steps_{inputs}"], predicted[f"targets_{inputs}"]
    colors = style.ordered_colors(len(target))
    for mode, color in enumerate(colors):
        found = measured[f"strengths_{inputs}"][:, :, mode] / target[mode]
        style.simulation_band(ax, steps, found, color=color)
        theory = predicted[f"strengths_{inputs}"][:, mode] / target[mode]
        label = {0: "first mode", len(target) - 1: "last mode"}.get(mode)
        style.theory_line(ax, steps, theory, label, color=color)
    ax.set(xlabel="training step", ylabel=r"mode strength $u \lambda / s$")
    ax.set_title(f"{inputs} inputs")
    ax.legend(loc="lower right")


def half_learning_times(ax: Axes, result: Result) -> None:
    """Measured against predicted half-learning times, relative to the prediction."""
    predicted, measured = result.predicted, result.measured
    for inputs, color in zip(INPUTS, ("C0", "C1"), strict=True):
        theory = predicted[f"half_steps_{inputs}"]
        ratio = measured[f"half_steps_{inputs}"] / theory
        modes = np.arange(1, len(theory) + 1) + (0.12 if inputs == "raw" else -0.12)
        style.simulation_points(ax, modes, ratio, inputs, color=color)
    style.theory_line(ax, ax.get_xlim(), [1, 1], "theory", color=style.NEUTRAL)
    ax.set(xlabel="mode", ylabel="half-learning time / theory", ylim=(0.85, 1.15))
    ax.legend()
