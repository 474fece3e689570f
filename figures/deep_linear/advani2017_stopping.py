"""Early stopping, ridge regression and training to the end; when to stop; how much to penalize."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.advani2017_stopping import PENALTIES, stopped
from sims.experiment import Result

SHOWN_SNR = 2.0  # or the nearest there is
SHOWN_ALPHAS = (0.5, 1.0, 2.0)  # of those there are


def draw(result: Result) -> Figure:
    """Errors against alpha, stopping times against signal-to-noise, ridge penalties."""
    figure, axes = style.panels(1, 3, height=2.5)
    shown = int(np.abs(result.predicted["snrs"] - SHOWN_SNR).argmin())
    errors(axes[0, 0], result, shown)
    stopping_times(axes[0, 1], result)
    penalties(axes[0, 2], result, shown)
    style.panel_letters(axes)
    return figure


def errors(ax: Axes, result: Result, setting: int) -> None:
    """Generalization error at the end of training, stopped in time, and of the best ridge."""
    predicted, measured = result.predicted, result.measured
    alphas, best = predicted["alphas"], np.flatnonzero(PENALTIES == 1)[0]
    at_best_time = np.stack(
        [curves[:, curves.mean(axis=0).argmin()] for curves in measured["stopped"][..., setting]]
    )
    found = {
        "final": (measured["final"][..., setting], "end of training"),
        "stopped": (at_best_time, "stopped at best time"),
        "ridge": (measured["ridge"][:, :, best, setting], "best ridge"),
    }
    for (name, (values, label)), color in zip(found.items(), ("C1", "C0", "C2"), strict=True):
        kept = (alphas != 1) | (name != "final")
        style.simulation_points(ax, alphas[kept], values[kept].T, color=color)
        line = {"color": color, "linestyle": "--" if name == "ridge" else "-"}
        style.theory_line(
            ax, predicted["line_alphas"], predicted[f"line_{name}"][:, setting], label, **line
        )
    ax.set(xlabel=r"examples per input $\alpha$", ylim=(0, 4.5))
    ax.set_ylabel(r"generalization error $E_g$ ($\sigma_w^2$)")
    ax.set_title(f"SNR {predicted['snrs'][setting]:g}")
    ax.legend(loc="upper right")


def stopping_times(ax: Axes, result: Result) -> None:
    """Times of least generalization error, at several alphas."""
    predicted, times = result.predicted, stopped(result.measured, 0)
    for index, color in shown_alphas(result):
        label = rf"$\alpha={predicted['alphas'][index]:g}$"
        style.simulation_points(ax, predicted["snrs"], times[index], color=color)
        line = predicted["line_times"][index]
        style.theory_line(ax, predicted["line_snrs"], line, label, color=color)
    ax.set(
        xscale="log", yscale="log", xlabel=r"signal-to-noise ratio $\sigma_w^2/\sigma_\epsilon^2$"
    )
    ax.set_ylabel(r"optimal stopping time ($\eta\,\times$ steps)")
    style.legend(ax, loc="upper left")


def penalties(ax: Axes, result: Result, setting: int) -> None:
    """Ridge regression at several penalties, at several alphas; dotted: stopped in time."""
    predicted, measured = result.predicted, result.measured
    for index, color in shown_alphas(result):
        ridge = measured["ridge"][index, ..., setting]
        style.simulation_points(ax, PENALTIES, ridge, color=color)
        style.theory_line(ax, PENALTIES, predicted["ridge"][:, index, setting], color=color)
        level = predicted["stopped"][index, setting]
        ax.axhline(level, color=style.darker(color), linestyle=":", linewidth=0.8)
    ax.plot([], [], color=style.NEUTRAL, linestyle=":", linewidth=0.8, label="best early stopping")
    ax.set_xscale("log", base=2)
    ax.set(xlabel=r"ridge penalty $\gamma\,\sigma_w^2/\sigma_\epsilon^2$")
    ax.set_ylabel(r"generalization error $E_g$ ($\sigma_w^2$)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))
    ax.set_title(f"SNR {predicted['snrs'][setting]:g}")
    ax.legend(loc="upper right")


def shown_alphas(result: Result) -> list[tuple[int, str]]:
    """Index and colour of each alpha that has curves of its own."""
    alphas = result.predicted["alphas"]
    shown = [index for index, alpha in enumerate(alphas) if alpha in SHOWN_ALPHAS]
    return list(zip(shown, ("C0", "C1", "C2"), strict=False))
