"""How far low-rank networks move from where they began, and aligned ones; recurrent networks."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.liu2023_laziness import ALIGNED, MEASURES
from sims.experiment import Result

RANDOM_COLOR, ALIGNED_COLOR = "C0", "C1"
ANY_RANK = r"rank of initial weights $r$"
KERNEL = "kernel alignment"


def draw(result: Result) -> Figure:
    """Three measures against rank; kernel alignment against task, norm; recurrent networks."""
    figure, axes = style.panels(2, 3, height=4.4)
    by_rank(axes[0, 0], result, "kernel_alignment", KERNEL)
    by_rank(axes[0, 1], result, "representation_alignment", "representation alignment")
    by_rank(axes[0, 2], result, "weight_change", "change of weights $|W-W_0|$")
    by_task(axes[1, 0], result)
    by_norm(axes[1, 1], result)
    recurrent(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def by_rank(ax: Axes, result: Result, name: str, label: str) -> None:
    """A measure against rank, of random and of aligned tasks."""
    ranks = result.predicted["ranks"]
    count, row = len(ranks), MEASURES.index(name)
    random, aligned = result.measured[f"random_{name}"][:count], result.measured[name][:count]
    means(ax, ranks, random, "random task, mean", RANDOM_COLOR)
    style.theory_line(ax, ranks, result.predicted["average"][row, :count], color=RANDOM_COLOR)
    theory = result.predicted[name][:count, ALIGNED]
    style.simulation_points(ax, ranks, aligned[:, ALIGNED], "aligned task", color=ALIGNED_COLOR)
    style.theory_line(ax, ranks, theory, color=ALIGNED_COLOR)
    ax.set(xscale="log", xlabel=ANY_RANK, ylabel=label, ylim=(0, None))
    ax.set_xticks(ranks, [f"{rank}" for rank in ranks])
    ax.minorticks_off()
    if row == 0:
        style.legend(ax, loc="lower right", fontsize=6)


def means(ax: Axes, x: np.ndarray, values: np.ndarray, label: str | None, color: str) -> None:
    """Averages over tasks (x, tasks), bars of one standard error: theory has no medians."""
    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    mark = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
    ax.errorbar(x, values.mean(axis=1), yerr=error, color=color, label=label, **mark)


def by_task(ax: Axes, result: Result) -> None:
    """Kernel alignment of single networks against how far their task is aligned with them."""
    predicted, measured = result.predicted, result.measured
    ranks = predicted["line_ranks"]
    for row, (rank, color) in enumerate(zip(ranks, style.ordered_colors(len(ranks)), strict=True)):
        found = measured["random_task_alignment"][row], measured["random_kernel_alignment"][row]
        ax.plot(*found, "o", color=color, alpha=0.35, markersize=2.4, mew=0)
        given = predicted["alignments"][row], measured["kernel_alignment"][row]
        ax.plot(*given, "D", color=color, alpha=0.8, markersize=3, mew=0)
        line = predicted["line_alignments"][row], predicted["lines"][row]
        style.theory_line(ax, *line, f"{rank}", color=color, linewidth=0.8)
    ax.set(xlabel=r"task alignment $\rho$", ylabel=KERNEL, ylim=(0, 1.03))
    ax.legend(title="rank", fontsize=6, title_fontsize=6, loc="lower right")


def by_norm(ax: Axes, result: Result) -> None:
    """Kernel alignment of low-rank networks against the norm that they start with."""
    norms = result.predicted["sq_norms"]
    random = result.measured["random_kernel_alignment"][-len(norms) :]
    aligned = result.measured["kernel_alignment"][-len(norms) :, ALIGNED]
    means(ax, norms, random, None, RANDOM_COLOR)
    style.simulation_points(ax, norms, aligned, color=ALIGNED_COLOR)
    for curve, color in zip(result.predicted["curves"], (RANDOM_COLOR, ALIGNED_COLOR), strict=True):
        style.theory_line(ax, result.predicted["curve_norms"], curve, color=color)
    ax.set(xscale="log", xlabel=r"initial norm $|W_0|^2$", ylabel=KERNEL, ylim=(0, 1.03))
    ax.set_title(f"rank {result.config.low_rank}", fontsize=8)


def recurrent(ax: Axes, result: Result) -> None:
    """Kernel alignment of recurrent networks against the rank of their recurrent weights."""
    ranks = np.array(result.config.recurrent_ranks)
    found = result.measured["recurrent_alignment"]
    ax.plot(ranks, found.T, color="C2", alpha=0.25, linewidth=0.6)
    ax.plot(ranks, found.mean(axis=0), "o-", color="C2")
    ax.set(xscale="log", xlabel="rank of recurrent weights", ylabel=KERNEL, ylim=(0, 1.03))
    ax.set_xticks(ranks, [f"{rank}" for rank in ranks])
    ax.minorticks_off()
    ax.set_title("recurrent network, no theory", fontsize=8)
