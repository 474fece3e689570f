"""Jacobians of deep tanh networks: spectra at several gains, and their moments layer by layer."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures import style
from sims.experiment import Result

ENSEMBLES = ("orthogonal", "Gaussian")  # in the order of the arrays
POINTS = 15  # along a curve over layers, at most about so many


def draw(result: Result) -> Figure:
    """Spectra and relative variances of either ensemble; signal and mean square of both."""
    figure, axes = style.panels(2, 3, height=4.3)
    for index, name in enumerate(ENSEMBLES):
        spectra(axes[0, index], result, index)
        relative_variance(axes[1, index], result, index)
        axes[0, index].set_title(f"{name} weights")
        axes[1, index].set_title(f"{name} weights")
    axes[1, 0].legend(title="gain $g$", loc="upper left", ncols=2)
    layer_by_layer(axes[0, 2], result, "signal_variance", first=0)
    axes[0, 2].set(xlabel="layer $l$", ylabel="variance $q_l$ of pre-activations")
    style.legend(axes[0, 2], simulation=None, loc="lower left")
    layer_by_layer(axes[1, 2], result, "mean_square", first=1)
    axes[1, 2].set(xlabel="depth $L$", ylabel="mean squared singular value")
    style.panel_letters(axes)
    return figure


def gains(result: Result) -> Iterator[tuple[int, float, str]]:
    """Index, value and colour of every gain."""
    values = result.predicted["gains"]
    return zip(range(len(values)), values, style.ordered_colors(len(values)), strict=True)


def spectra(ax: Axes, result: Result, ensemble: int) -> None:
    """Ordered singular values of the whole network's Jacobian; theory knows their rms."""
    values = result.measured["singular_values"][ensemble]  # (draws, gains, n)
    rank = (np.arange(values.shape[2]) + 0.5) / values.shape[2]
    all_rms = np.sqrt(result.predicted["mean_square"][-1])
    for index, _, color in gains(result):
        style.simulation_band(ax, rank, values[:, index], color=color)
        style.theory_line(ax, [0, 1], [all_rms[index]] * 2, color=color, linestyle="--")
    ax.set(yscale="log", ylim=(all_rms.min() / 100, 10 * max(all_rms.max(), 1)))
    ax.set(xlabel="rank of singular value / $N$", ylabel=r"singular value $\sigma$ (dashed: rms)")


def relative_variance(ax: Axes, result: Result, ensemble: int) -> None:
    """Variance of squared singular values over their squared mean, as depth grows."""
    predicted, measured = (
        side["relative_variance"][ensemble] for side in (result.predicted, result.measured)
    )
    depth = np.arange(1, len(predicted) + 1)
    shown = slice(None, None, 1 + len(depth) // POINTS)
    for index, gain, color in gains(result):
        style.simulation_points(ax, depth[shown], measured[:, shown, index], color=color)
        style.theory_line(ax, depth, predicted[:, index], f"{gain:g}", color=color)
    ax.set(xlabel="depth $L$", ylabel=r"relative variance of $\sigma^2$", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def layer_by_layer(ax: Axes, result: Result, name: str, *, first: int) -> None:
    """A quantity that theory has the same for both ensembles: points, and a band for Gaussian."""
    orthogonal, gaussian = result.measured[name]
    layers = np.arange(first, first + orthogonal.shape[1])
    shown = slice(None, None, 1 + len(layers) // POINTS)
    for index, _, color in gains(result):
        points, band = ENSEMBLES if index == 0 else (None, None)
        style.simulation_band(ax, layers, gaussian[..., index], band, color=color)
        style.simulation_points(ax, layers[shown], orthogonal[:, shown, index], points, color=color)
        style.theory_line(ax, layers, result.predicted[name][:, index], color=color)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
