"""The mean-square threshold at given minima, and the curvature at which training ends."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.stability.mulayoff2024_threshold import FACTORS, OUTER

RATE = r"learning rate $\eta$"
RATIO = r"$\eta\,/\,\eta^*$"
BOUNDS = (
    ("trace", r"$2B/\mathrm{Tr}\,H$", ":"),
    ("top_direction", "top eigenvector", "--"),
    ("mean", r"$2/\lambda_{\max}$ (GD)", "-."),
)


def draw(result: Result) -> Figure:
    """Row one: growth, threshold, kicks at given minima. Row two: where training ends."""
    figure, axes = style.panels(2, 3, height=4.4)
    growth(axes[0, 0], result)
    threshold(axes[0, 1], result)
    kicks(axes[0, 2], result)
    sharpness(axes[1, 0], result)
    at_threshold(axes[1, 1], result)
    exponents(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def series(result: Result) -> list[tuple[int, int, str]]:
    """Index, batch size and colour of every batch size, the full batch last."""
    sizes = result.config.all_sizes
    return list(zip(range(len(sizes)), sizes, style.ordered_colors(len(sizes)), strict=True))


def growth(ax: Axes, result: Result) -> None:
    """Growth of the second moment per step at the random problem's minimum."""
    p, m = result.predicted, result.measured
    for index, size, color in series(result)[:-1]:
        bars = {"fmt": "o", "mew": 0, "alpha": 0.55, "color": color}
        ax.errorbar(FACTORS, m["growth"][index], 4 * m["growth_error"][index], **bars)
        style.theory_line(ax, FACTORS, p["growth"][index], f"$B = {size}$", color=color)
    ax.axhline(1, color=style.NEUTRAL, linewidth=0.6, linestyle=":")
    ax.set(xlabel=RATIO, ylabel="second moment's growth per step")
    ax.set_title("random problem", fontsize=8)
    style.legend(ax, loc="upper left")


def threshold(ax: Axes, result: Result) -> None:
    """Exact threshold and its bounds against the batch size, random problem."""
    p, m = result.predicted, result.measured
    sizes = p["sizes"]
    for name, label, dashes in BOUNDS:
        ax.plot(sizes, p[name], color=style.NEUTRAL, linestyle=dashes, linewidth=0.8, label=label)
    style.theory_line(ax, sizes, p["curve"], r"exact $\eta^*$")
    style.simulation_points(ax, m["sizes"], m["crossing"], "simulated growth = 1")
    ax.set(xscale="log", yscale="log", xlabel="batch size $B$", ylabel=r"threshold $\eta^*$")
    style.plain_ticks(ax.xaxis, ax.yaxis)
    ax.set_ylim(0.7 * p["curve"][0], 1.6 * p["mean"][0])
    ax.set_title("random problem", fontsize=8)
    ax.legend(fontsize=6, loc="lower right")


def kicks(ax: Axes, result: Result) -> None:
    """Mean squared output error of the network after a kick, below and above the threshold."""
    p, m = result.predicted, result.measured
    steps = np.arange(1, p["kicked"].shape[-1] + 1)
    for index, size, color in series(result)[:-1]:
        for which, factor in enumerate(FACTORS[OUTER]):
            mean, error = m["kicked"][:, index, which]
            dashes, label = ("-", f"$B = {size}$") if factor > 1 else ("--", None)
            bars = {"fmt": "o", "mew": 0, "alpha": 0.55, "color": color}
            ax.errorbar(steps, mean, 4 * error, **bars)
            line = {"color": color, "linestyle": dashes}
            style.theory_line(ax, steps, p["kicked"][index, which], label, **line)
    below, above = FACTORS[OUTER]
    for factor, dashes in ((above, "-"), (below, "--")):
        ax.plot([], [], color=style.NEUTRAL, linestyle=dashes, label=rf"${factor:g}\,\eta^*$")
    ax.set(yscale="log", xlabel="step after the kick", ylabel="mean squared error / the kick's")
    style.plain_ticks(ax.yaxis)
    ax.set(xticks=steps, ylim=(None, 2.2 * p["kicked"].max()))
    ax.set_title("tanh network", fontsize=8)
    ax.legend(fontsize=6, ncols=2, loc="upper left")


def sharpness(ax: Axes, result: Result) -> None:
    """Largest eigenvalue at the end of training against the rate."""
    m = result.measured
    for index, size, color in series(result):
        label = f"$B = {size}$" if size < result.config.examples else "GD"
        end = m["sharpness"][index, ..., -1]
        style.simulation_points(ax, m["rates"][index], end.T, label, color=color)
        ax.plot(m["rates"][index], np.median(end, axis=1), color=color, alpha=0.4)
    bound = result.predicted["sharpness_bound"]
    style.theory_line(ax, m["rates"][-1], bound, r"$2/\eta$", color=style.NEUTRAL)
    ax.set(xscale="log", yscale="log", xlabel=RATE, ylabel=r"sharpness $\lambda_{\max}$ at the end")
    style.plain_ticks(ax.yaxis)
    ax.set_title("training from large weights", fontsize=8)
    ax.legend(fontsize=6, loc="lower left")


def at_threshold(ax: Axes, result: Result) -> None:
    """Rate over the exact threshold of the end point, and over the bound 2B/Tr H."""
    m, n = result.measured, result.config.examples
    for index, size, color in series(result):
        rates, scale = m["rates"][index], size if size < n else np.nan
        exact = rates[:, None] / m["end_threshold"][index]
        style.simulation_points(ax, rates, exact.T, color=color)
        trace = rates[:, None] * m["trace"][index, ..., -1] / (2 * scale)
        ax.plot(np.repeat(rates, trace.shape[1]), trace.ravel(), "_", color=color, alpha=0.8)
    ax.axhline(1, color=style.darker(style.NEUTRAL))
    ax.plot([], [], "o", color=style.NEUTRAL, mew=0, alpha=0.55, label=RATIO)
    ax.plot([], [], "_", color=style.NEUTRAL, label=r"$\eta\,\mathrm{Tr}\,H/2B$")
    ax.set(xscale="log", xlabel=RATE, ylabel="rate / threshold at the end", ylim=(0, 1.25))
    ax.legend(fontsize=6, loc="lower right")


def exponents(ax: Axes, result: Result) -> None:
    """Lyapunov exponents of end points against rate over threshold."""
    m = result.measured
    for index, size, color in series(result)[:-1]:
        ratio = m["rates"][index][:, None] / m["end_threshold"][index]
        mean, error = m["lyapunov"][:, index].reshape(2, -1)
        bars = {"fmt": "o", "mew": 0, "alpha": 0.55, "color": color, "label": f"$B = {size}$"}
        ax.errorbar(ratio.ravel(), mean, 4 * error, **bars)
    ax.axhline(0, color=style.darker(style.NEUTRAL))
    ax.axvline(1, color=style.NEUTRAL, linewidth=0.6, linestyle=":")
    ax.set(xlabel=RATIO + " of the end point", ylabel="Lyapunov exponent per step")
    ax.legend(fontsize=6, loc="lower left")
