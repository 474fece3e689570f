"""Kernel alignment and loss over time, how silent it is, and the kernel that learning ends with."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.atanasov2022_alignment import DEEP, HALVINGS, LEVELS
from sims.experiment import Result

TIME = r"time $t/\tau$"
START = 0  # the random start whose curves are drawn


def draw(result: Result) -> Figure:
    """Loss, misalignment, their times; loss when aligned, final kernel, two outputs."""
    figure, axes = style.panels(2, 3, height=4.5)
    losses(axes[0, 0], result)
    misalignments(axes[0, 1], result)
    times(axes[0, 2], result)
    silence(axes[1, 0], result)
    final_kernels(axes[1, 1], result)
    two_outputs(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def scales(result: Result) -> list[tuple[int, str, str]]:
    """Index, label and colour of the largest scale and of the small ones."""
    values = result.predicted["scales"]
    shown = [0, *range(len(HALVINGS), len(values))]
    colors = style.ordered_colors(len(shown))
    return [(i, power_of_ten(values[i]), c) for i, c in zip(shown, colors, strict=True)]


def power_of_ten(value: float) -> str:
    exponent = np.log10(value)
    return f"{value:g}" if exponent % 1 else f"$10^{{{exponent:.0f}}}$"


def losses(ax: Axes, result: Result) -> None:
    """Losses of networks from one random start at several scales; the kernel's alignment."""
    predicted, measured = result.predicted, result.measured
    t = predicted["times"]
    for index, text, color in scales(result):
        loss = measured["loss"][index, START]
        ax.plot(t, loss, color=color, alpha=0.55, linewidth=2.4, zorder=2)
        style.theory_line(ax, t, predicted["loss"][index, START], text, color=color)
    aligned = predicted["alignment"][START]
    style.theory_line(ax, t, aligned, "alignment", color=style.NEUTRAL, linestyle="--")
    ax.set(xlabel=TIME, ylabel="loss / initial loss; alignment", xlim=(0, 1.25 * t[-1]))
    ax.legend(title=r"scale $\epsilon$", loc="center right")


def misalignments(ax: Axes, result: Result) -> None:
    """How far the kernel is from its direction at the end, at several scales."""
    t, aligned = result.predicted["times"], result.predicted["alignment"][START]
    drawn = scales(result)  # one within the other, because they coincide
    widths = np.linspace(6, 1.8, len(drawn))
    for width, (index, text, color) in zip(widths, drawn, strict=True):
        found = 1 - result.measured["alignment"][index, START]
        ax.plot(t, found, color=color, alpha=0.7, linewidth=width, zorder=2, label=text)
    style.theory_line(ax, t, 1 - aligned, "plateau theory", color=style.NEUTRAL)
    ax.set(yscale="log", xlim=(0, 0.75 * t[-1]), ylim=(1e-12, 1))
    ax.set(xlabel=TIME, ylabel=r"misalignment $1-\cos$")
    ax.legend(loc="upper right")


def times(ax: Axes, result: Result) -> None:
    """When the kernel is aligned, and when the loss drops, against the scale."""
    eps = result.predicted["scales"]
    order = np.argsort(eps)
    drop, aligned = result.measured["drop_times"], result.measured["alignment_times"][-1]
    style.simulation_points(ax, eps, drop.T, "loss at 1/4", color="C0")
    style.theory_line(
        ax, eps[order], np.median(result.predicted["escape_times"], axis=1)[order], color="C0"
    )
    style.simulation_points(ax, eps, aligned.T, f"alignment {LEVELS[-1]:g}", color="C1")
    level = np.median(result.predicted["alignment_times"][-1])
    style.theory_line(ax, eps[order], np.full(len(eps), level), color="C1")
    ax.set(xscale="log", xlabel=r"scale $\epsilon$", ylabel=TIME, ylim=(0, 1.35 * drop.max()))
    style.legend(ax, loc="upper right")


def silence(ax: Axes, result: Result) -> None:
    """Relative change of the loss when a level of alignment is reached."""
    eps = result.predicted["scales"]
    order = np.argsort(eps)
    for level, found, theory, color in zip(
        LEVELS,
        result.measured["loss_change"],
        result.predicted["loss_change"],
        ("C2", "C1"),
        strict=True,
    ):
        style.simulation_points(ax, eps, found.T, f"{level:g}", color=color)
        style.theory_line(ax, eps[order], np.median(theory, axis=1)[order], color=color)
    ax.set(xscale="log", yscale="log", xlabel=r"scale $\epsilon$", ylabel="relative change of loss")
    style.legend(ax, title="when alignment is", loc="lower right")


def final_kernels(ax: Axes, result: Result) -> None:
    """Distance of the final kernel from the rich limit at three depths, and its order."""
    largest = [result.config.largest_scale, *(scale for scale, _ in DEEP.values())]
    colors = style.ordered_colors(len(largest))
    for depth, scale, kernels, limit, color in zip(
        (2, *DEEP),
        largest,
        result.measured["final"],
        result.predicted["final"],
        colors,
        strict=True,
    ):
        eps = scale * HALVINGS
        found = np.abs(np.linalg.eigvalsh(kernels) - limit).max(axis=-1) / limit.max()
        style.simulation_points(ax, eps, found.T, f"$L={depth}$", color=color)
        reference = np.median(found[-1]) * (eps / eps[-1]) ** 2
        ax.plot(eps, reference, color=style.darker(color), linestyle="--", linewidth=0.8)
    ax.plot(
        [], [], color=style.NEUTRAL, linestyle="--", linewidth=0.8, label=r"$\propto\epsilon^2$"
    )
    ax.set(xscale="log", yscale="log", xlabel=r"scale $\epsilon$")
    ax.set(ylabel="kernel's distance from rich limit")
    ax.legend(loc="lower right")


def two_outputs(ax: Axes, result: Result) -> None:
    """Alignment and loss of a network with two outputs."""
    predicted, measured = result.predicted, result.measured
    t = predicted["times"]
    loss, aligned = measured["two_loss"][START], measured["two_alignment"][START]
    ax.plot(t, loss / loss[0], color="C0", alpha=0.55, linewidth=2.4, label="loss")
    ax.plot(t, aligned, color="C1", alpha=0.55, linewidth=2.4, label="alignment")
    on = predicted["two_on_plateau"][START]
    style.theory_line(ax, t[on], predicted["two_alignment"][START][on], color="C1")
    level = float(predicted["two_level"])
    ax.axhline(level, color=style.darker("C1"), linestyle="--", linewidth=0.8)
    first, second = predicted["two_values"] ** 2
    ax.axhline(second / (first + second), color=style.darker("C0"), linestyle="--", linewidth=0.8)
    ax.set(xlabel=TIME, ylabel="alignment; loss / initial loss", ylim=(-0.03, 1.08))
    ax.set(xlim=(0, 0.75 * t[-1]))
    ax.set_title("two outputs")
    ax.legend(loc="center right")
