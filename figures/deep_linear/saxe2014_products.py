"""Singular values of random products: their spectra, what depth loses, how fast they grow."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result

SHOWN = (1, 2, 4, 8)  # depths, of those there are
DECADES = np.linspace(-3, 1, 29)


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
    for depth, color in zip(depths, style.ordered_colors(len(depths)), strict=True):
        draws = np.log10(measured["singular_values"][:, depth - 1])
        counts = np.array([np.histogram(values, DECADES)[0] for values in draws])
        density = counts / (draws.shape[1] * np.log(10) * np.diff(DECADES))
        centres = 10 ** ((DECADES[1:] + DECADES[:-1]) / 2)
        style.simulation_points(ax, centres, density, color=color)
        theory = predicted["log_density"][depth - 1]
        style.theory_line(ax, predicted["singular_value"], theory, f"{depth}", color=color)
    ax.set(xscale="log", xlim=(1e-3, 10), ylim=(0, None))
    ax.set(xlabel=r"singular value $\sigma$", ylabel=r"density of $\ln\sigma$")
    ax.legend(title="depth $L$", loc="upper left")


def lost_directions(ax: Axes, result: Result) -> None:
    """Fraction of singular values of Gaussian products below a few thresholds."""
    predicted, measured = result.predicted, result.measured
    depths, thresholds = predicted["depths"], predicted["thresholds"]
    for index, color in enumerate(style.ordered_colors(len(thresholds))):
        label = rf"$\sigma < {thresholds[index]:g}$"
        fraction = (measured["singular_values"] < thresholds[index]).mean(axis=2)
        style.simulation_points(ax, depths, fraction, color=color)
        style.theory_line(ax, depths, predicted["below"][:, index], label, color=color)
    ax.set(xlabel="depth $L$", ylabel="fraction of directions", ylim=(0, 1), xticks=depths)
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
    isometry = np.log(measured["orthogonal"][:, -1, : len(rank)]) / measured["orthogonal"].shape[1]
    style.simulation_points(ax, rank, isometry, "orthogonal", color="C1")
    style.theory_line(ax, rank, np.full(len(rank), predicted["orthogonal_exponent"]), color="C1")
    ax.set(xlabel="rank $i$ of singular value", ylabel=r"$\ln\sigma_i\,/\,L$")
    style.legend(ax, loc="lower left")
