"""Width against output scale: collapse on the richness, where it fails, and what is not seen."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.geiger2020_phase import LINEAR, RANDOM, SCALAR_ALPHAS, TANH

GAMMA = r"richness $\gamma=1/(\alpha\sqrt{n})$"
ALPHA = r"scale of the output $\alpha$"
CHANGE = r"kernel change $|\Delta\Theta|/|\Theta_0|$"


def draw(result: Result) -> Figure:
    """Linear networks; tanh ones against gamma and alpha; the plane; other starts; blindness."""
    figure, axes = style.panels(2, 3, height=4.4)
    linear(axes[0, 0], result)
    tanh(axes[0, 1], result, TANH)
    tanh(axes[0, 2], result, TANH, against_alpha=True)
    plane(figure, axes[1, 0], result)
    tanh(axes[1, 1], result, RANDOM)
    blindness(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def linear(ax: Axes, result: Result) -> None:
    """Three measures of linear networks of all widths, and the infinitely wide one."""
    measures = {
        "kernel_change": "kernel change",
        "kernel_distance": "kernel distance",
        "weight_change": "weight change",
    }
    for (name, label), color in zip(measures.items(), ("C0", "C1", "C2"), strict=True):
        for column, gammas in enumerate(result.predicted["richness"][:-1].T):
            style.simulation_points(
                ax, gammas, result.measured[name][:-1, LINEAR, column].T, color=color
            )
        curve = result.predicted["curve_richness"], result.predicted[f"curve_{name}"]
        style.theory_line(ax, *curve, label, color=color)
    ax.set(xscale="log", yscale="log", xlabel=GAMMA, ylabel="linear networks, mirrored")
    ax.set_ylim(1e-13, None)
    ax.legend(loc="lower right")


def tanh(ax: Axes, result: Result, kind: int, against_alpha: bool = False) -> None:
    """Kernel change of tanh networks from one kind of start, every width in its colour."""
    widths = result.predicted["widths"]
    lines = tanh_lines(result, kind)
    for column, color in enumerate(style.ordered_colors(len(widths))):
        gammas = result.predicted["richness"][:-1, column]
        x = 1 / (gammas * np.sqrt(widths[column])) if against_alpha else gammas
        values = result.measured["kernel_change"][:-1, kind, column].T
        style.simulation_points(ax, x, values, f"$n={widths[column]}$", color=color)
        if not against_alpha and (kind == RANDOM or column == 0):
            shade = color if kind == RANDOM else style.NEUTRAL
            style.theory_line(ax, *lines[column], color=shade, linewidth=0.8)
    start = "mirrored" if kind == TANH else r"$f_{\theta_0}$ subtracted"
    ax.set(xscale="log", yscale="log", xlabel=ALPHA if against_alpha else GAMMA, ylabel=CHANGE)
    ax.set_title(f"tanh, {start}", fontsize=8)
    ax.legend(loc="lower left" if against_alpha else "lower right")


def tanh_lines(result: Result, kind: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lazy laws through the median of the widest network at the smallest gamma, by width."""
    widths, gammas = result.predicted["widths"], result.predicted["richness"][:-1, 0]
    first = np.median(result.measured["kernel_change"][0, kind, -1])
    if kind == TANH:
        lazy = gammas[gammas <= 0.3]
        return [(lazy, first * (lazy / lazy[0]) ** 2)] * len(widths)
    lazy = gammas[:2]
    return [(lazy, first * lazy / lazy[0] * np.sqrt(widths[-1] / width)) for width in widths]


def plane(figure: Figure, ax: Axes, result: Result) -> None:
    """Kernel change in the plane of width and alpha, and lines of fixed gamma."""
    widths, gammas = result.predicted["widths"], result.predicted["richness"]
    alphas = 1 / (gammas * np.sqrt(widths)[None])
    change = np.median(result.measured["kernel_change"][:, TANH], axis=-1)
    marks = ax.scatter(
        np.broadcast_to(widths, alphas.shape).ravel(),
        alphas.ravel(),
        c=np.log10(change).ravel(),
        s=60,
        marker="s",
        cmap="viridis",
        zorder=2,
    )
    figure.colorbar(marks, ax=ax, label=r"$\log_{10}$ kernel change")
    line = np.array([widths[0] / 2, widths[-1] * 2])
    for gamma in (0.01, 0.1, 1.0, 10.0):
        style.theory_line(ax, line, 1 / (gamma * np.sqrt(line)), color=style.NEUTRAL, linewidth=0.7)
        ax.text(
            line[1],
            1 / (gamma * np.sqrt(line[1])),
            rf" $\gamma={gamma:g}$",
            fontsize=6,
            va="center",
        )
    ax.set(xscale="log", yscale="log", xlabel=r"width $n$", ylabel=ALPHA)
    ax.set_xlim(line[0] / 1.2, line[1] * 5)


def blindness(ax: Axes, result: Result) -> None:
    """Scalar networks: the kernel grows, the alignment does not notice."""
    alphas = np.geomspace(SCALAR_ALPHAS.min(), SCALAR_ALPHAS.max(), 51)
    order = np.argsort(SCALAR_ALPHAS)
    change = np.interp(
        np.log(alphas),
        np.log(SCALAR_ALPHAS[order]),
        np.log(result.predicted["scalar_change"][order]),
    )
    style.simulation_points(ax, SCALAR_ALPHAS, result.measured["scalar_change"], color="C0")
    style.theory_line(ax, alphas, np.exp(change), "kernel change", color="C0")
    style.simulation_points(ax, SCALAR_ALPHAS, result.measured["scalar_alignment"], color="C1")
    one = np.full(len(alphas), float(result.predicted["scalar_alignment"]))
    style.theory_line(ax, alphas, one, "kernel alignment", color="C1")
    ax.set(xscale="log", yscale="log", xlabel=ALPHA)
    ax.set_ylabel("scalar linear network")
    ax.legend(loc="upper right")
