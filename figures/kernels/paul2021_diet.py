"""Scores before training against length, their agreement, left-out examples, and pruning."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.example_scores import (
    EL2N,
    GRAND,
    deviations,
    shared_error,
    shared_variance,
    single_variance,
)
from sims.kernels.pruned_digits import POLICIES
from sims.rates import mean_and_error

LENGTH = r"length $|x|$"
POLICY_COLORS = (style.NEUTRAL, "C1", "C0", "C3", "C2")
POLICY_MARKS = ("o", "^", "v", "^", "v")


def draw(result: Result) -> Figure:
    """Scores, their spread, what ensembles agree on; left-out examples, early scores, pruning."""
    figure, axes = style.panels(2, 3, height=4.6)
    by_length(axes[0, 0], result)
    spread(axes[0, 1], result)
    agreement(axes[0, 2], result)
    left_out(axes[1, 0], result)
    early(axes[1, 1], result)
    pruning(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def by_length(ax: Axes, result: Result) -> None:
    """Both scores of raw examples at the largest width, over those of the mean length."""
    raw = result.measured["raw_scores"][-1]
    count = raw.shape[-1]
    lengths, theory = result.predicted["lengths"][:count], result.predicted["scores"][:, :count]
    order = np.argsort(lengths)
    for score, label, color in ((GRAND, "GraNd", "C0"), (EL2N, "EL2N", "C1")):
        mean, error = mean_and_error(raw[score])
        ax.errorbar(lengths, mean, yerr=error, fmt="o", color=color, alpha=0.45, mew=0, label=label)
        style.theory_line(ax, lengths[order], theory[score][order], color=color)
    ax.set(xlabel=LENGTH, ylabel="score before training", ylim=(0, 1.45 * ax.get_ylim()[1]))
    style.legend(ax, loc="upper left", ncols=2)


def spread(ax: Axes, result: Result) -> None:
    """How far GraNd/EL2N of single networks is from its mean."""
    widths, found = result.predicted["widths"], np.sqrt(deviations(result.measured))
    style.simulation_points(ax, widths, found.T, color="C0")
    power = result.predicted["deviation_exponent"]
    typical = np.sqrt(np.mean(found[-1] ** 2)) * (widths / widths[-1]) ** power
    style.theory_line(ax, widths, typical, r"$\propto n^{-1/2}$", color="C0")
    ax.set(xscale="log", yscale="log", xlabel=r"width $n$")
    ax.set(ylabel=r"spread of $\ln(\mathrm{GraNd}/\mathrm{EL2N})$")
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.set_xticks([], minor=True)
    style.plain_ticks(ax.yaxis)
    style.legend(ax, loc="lower left")


def agreement(ax: Axes, result: Result) -> None:
    """GraNd of two halves of the networks, raw and on the sphere, over the mean."""
    sphere = np.swapaxes(result.measured["sphere_scores"], 0, 1)
    for scores, label, color in (
        (result.measured["raw_scores"], "raw", "C0"),
        (sphere, "on the sphere", "C1"),
    ):
        halves(ax, scores[-1, GRAND], label, color)
    ax.set(xlabel="GraNd/mean, half of the networks", ylabel="the other half, before training")


def halves(ax: Axes, scores: np.ndarray, label: str, color: str, size: float = 4) -> None:
    """Scores (networks, examples) of one half of the networks against the other's, over the mean.

    The legend has the share of one network's variance that two networks agree on.
    """
    middle = len(scores) // 2
    first, second = scores[:middle].mean(axis=0), scores[middle:].mean(axis=0)
    first, second = first / first.mean(), second / second.mean()
    share = shared_variance(scores) / single_variance(scores)
    error = shared_error(scores) / single_variance(scores)
    label = rf"{label}: ${share:.2f}\pm{error:.2f}$"
    ax.plot(first, second, "o", color=color, alpha=0.5, mew=0, markersize=size, label=label)
    ax.axline((1, 1), slope=1, color=style.NEUTRAL, linewidth=0.6, linestyle="--", zorder=0)
    ax.legend(title="variance shared", loc="upper left", handletextpad=0.1, fontsize=6)


def left_out(ax: Axes, result: Result) -> None:
    """Change of losses over eta at the largest eta against -g.g_j."""
    expected, found = -result.measured["gram"].ravel(), result.measured["change"][0].ravel()
    ax.plot(expected, found, "o", color="C0", alpha=0.4, mew=0, markersize=3)
    ends = np.array([expected.min(), expected.max()])
    style.theory_line(ax, ends, ends, color="C0")
    ax.set(xlabel=r"$-g\cdot g_j$", ylabel=r"change of loss$\,/\,\eta$, by example $j$")
    style.legend(ax, loc="upper left")


def early(ax: Axes, result: Result) -> None:
    """EL2N early in training of two halves of the networks."""
    halves(ax, result.measured["early_el2n"], "EL2N", "C2", size=2)
    ax.set(xlabel="EL2N/mean, half of the networks", ylabel="the other half, early in training")


def pruning(ax: Axes, result: Result) -> None:
    """Test accuracy against the fraction kept: mean and standard error over seeds."""
    fraction = result.predicted["kept"] / result.config.train
    for policy, values, color, mark in zip(
        POLICIES, result.measured["accuracy"], POLICY_COLORS, POLICY_MARKS, strict=True
    ):
        mean, error = mean_and_error(values.T)
        line = {"color": color, "marker": mark, "mew": 0, "linewidth": 1.0, "label": policy}
        ax.errorbar(fraction, mean, yerr=error, **line)
    whole = result.measured["full_accuracy"].mean()
    ax.axhline(whole, color=style.NEUTRAL, linewidth=0.8, linestyle="--", label="all")
    ax.set(xscale="log", xlabel="fraction of examples kept", ylabel="test accuracy")
    ax.set_xticks(fraction, [f"1/{round(1 / part)}" for part in fraction], minor=False)
    ax.set_xticks([], minor=True)
    ax.legend(title="kept", loc="lower right", fontsize=6, title_fontsize=6)
