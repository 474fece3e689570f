"""Singular values of random products: their spectra, what depth loses, how fast they grow."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result

SHOWN = (1, 2, 4, 8)  # depths, of those there are
DECADES = np.linspace(-3, 1, 49)


def draw(result: Result) -> Figure:
    """Spectra at several depths, the fraction below thresholds, growth rates at large depth."""
    figure, axes = style.panels(1, 3, height=2.5)
    spectra(axes[0, 0], result)
    lost_directions(axes[0, 1], result)
    growth_rates(axes[0, 2], result)
    style.panel_letters(axes)
    return figure


def spectra(ax: Axes, result: Result) -> None:
    """Singular values of Gaussian products against the density at infinite width."""
    predicted, measured = result.predicted, result.measured
    depths = [depth for depth in SHOWN if depth in predicted["depths"]]
    centres = 10 ** ((DECADES[1:] + DECADES[:-1]) / 2)
    for depth, color in zip(depths, style.ordered_colors(len(depths)), strict=True):
        values = measured["singular_values"][:, depth - 1]
        counts, _ = np.histogram(np.log10(values), DECADES)
        density = counts / (values.size * np.log(10) * np.diff(DECADES))
        there = counts > 0
        style.simulation_points(ax, centres[there], density[there], color=color)
        theory = predicted["log_density"][depth - 1]
        style.theory_line(ax, predicted["singular_value"], theory, f"{depth}", color=color)
    ax.set(xscale="log", xlim=(1e-3, 10), ylim=(0, None))
    ax.set(xlabel=r"singular value $\sigma$", ylabel=r"density of $\ln\sigma$")
    style.legend(ax, title="depth $L$", loc="upper left")


def lost_directions(ax: Axes, result: Result) -> None:
    """Fraction of singular values of Gaussian products below a few thresholds."""
    predicted, measured = result.predicted, result.measured
    depths, thresholds = predicted["depths"], predicted["thresholds"]
    for index, color in enumerate(style.ordered_colors(len(thresholds))):
        label = rf"$\sigma < {thresholds[index]:g}$"
        fraction = (measured["singular_values"] < thresholds[index]).mean(axis=2)
        style.simulation_points(ax, depths, fraction, color=color)
        style.theory_line(ax, depths, predicted["below"][:, index], label, color=color)
    ax.set(xlabel="depth $L$", ylabel="fraction of singular values", ylim=(0, 1), xticks=depths)
    ax.legend(loc="upper left")


def growth_rates(ax: Axes, result: Result) -> None:
    """Log singular values per layer: Gaussian products at several depths, an orthogonal one."""
    predicted, measured = result.predicted, result.measured
    depths, logs = measured["growth_depths"], measured["log_singular_values"]
    rank = np.arange(1, logs.shape[2] + 1)
    for index, color in enumerate(style.ordered_colors(len(depths))):
        rates = logs[:, index] / depths[index]
        style.simulation_points(ax, rank, rates, f"$L={depths[index]}$", color=color)
    style.theory_line(ax, rank, predicted["exponents"], color=style.NEUTRAL)
    label = f"orthogonal, $g={result.config.gain}$"
    isometry = np.log(measured["orthogonal"][:, -1, : len(rank)]) / measured["orthogonal"].shape[1]
    style.simulation_points(ax, rank, isometry, label, color="C1")
    style.theory_line(ax, rank, np.full(len(rank), predicted["orthogonal_exponent"]), color="C1")
    ax.set(xlabel="rank $i$ of singular value", ylabel=r"$\ln\sigma_i\,/\,L$")
    ax.legend(loc="lower left")
