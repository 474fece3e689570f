"""Modes of linear BYOL in their plane and over time, what collapses, and DirectPred."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.byol_predictions import INPUTS
from sims.experiment import Result

KEPT, LOST = "C0", "C1"
AVERAGED = -1  # the network whose target is a moving average
FINEST = -1  # of the step sizes


def draw(result: Result) -> Figure:
    """Phase plane; paths over time; collapse; equilibria; DirectPred; decay."""
    figure, axes = style.panels(2, 3, height=4.6)
    phase_plane(axes[0, 0], result)
    over_time(axes[0, 1], result)
    collapse(axes[0, 2], result)
    equilibria(axes[1, 0], result)
    direct_pred(axes[1, 1], result)
    decay(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def phase_plane(ax: Axes, result: Result) -> None:
    """Velocities, paths in the colour of where they end, parabola and edge of the basins."""
    predicted, measured = result.predicted, result.measured
    p, s = predicted["field_p"], predicted["field_s"]
    flow = {"color": "#C8C8C8", "linewidth": 0.5, "arrowsize": 0.5, "density": 0.9, "zorder": 0}
    ax.streamplot(p, s, *predicted["field"], **flow)
    ax.plot(p, predicted["parabola"], color=style.NEUTRAL, linestyle=":", label="parabola")
    for network in range(predicted["paths"].shape[1] - 1):
        for mode in range(predicted["paths"].shape[-1]):
            theory = predicted["paths"][:, network, :, mode]
            found = measured["paths"][FINEST, :, network, :, mode]
            color = KEPT if theory[1, -1] > 0.1 else LOST
            ax.plot(*found, color=color, alpha=0.35, linewidth=2.4)
            style.theory_line(ax, *theory, color=color, linewidth=0.7)
            ax.plot(*theory[:, 0], "o", color=style.darker(color), markersize=1.8)
    edge = {"color": "black", "linestyle": "--", "label": "edge of basins"}
    style.theory_line(ax, predicted["edge"], predicted["edge_features"], **edge)
    ax.plot(measured["edge"], measured["features"], "s", color="black", alpha=0.55, markersize=3)
    ax.set(xlabel="predictor $p$", ylabel="features $s$", xlim=(-0.8, 1.2), ylim=(0, 0.8))
    ax.legend(loc="lower center", fontsize=6, bbox_to_anchor=(0.55, 1.0), ncols=2)


def over_time(ax: Axes, result: Result) -> None:
    """Predictor and features of every mode of the network with a moving average as its target."""
    t = result.predicted["times"]
    modes = result.predicted["paths"].shape[-1]
    for mode, color in enumerate(style.ordered_colors(modes)):
        theory = result.predicted["paths"][:, AVERAGED, :, mode]
        found = result.measured["paths"][FINEST, :, AVERAGED, :, mode]
        for values, drawn, line in zip(found, theory, ("-", "--"), strict=True):
            ax.plot(t, values, color=color, alpha=0.35, linewidth=2.4)
            style.theory_line(ax, t, drawn, color=color, linestyle=line, linewidth=0.8)
    for name, line in (("predictor $p$", "-"), ("features $s$", "--")):
        ax.plot([], [], color=style.NEUTRAL, linestyle=line, label=name)
    ax.set(xlabel="training time $t$", ylabel="mode, averaged target", ylim=(0, 1.25))
    ax.legend(loc="upper right", fontsize=6)


def collapse(ax: Axes, result: Result) -> None:
    """Strength of features over the plane of augmentation and weight decay, and its boundary."""
    predicted, measured = result.predicted, result.measured
    x, y = predicted["plane_aug_vars"], predicted["plane_decays"]
    kept = np.ma.masked_equal(predicted["plane"], 0)
    shades = ax.pcolormesh(x, y, kept, cmap="Blues", vmin=0, vmax=1.2, rasterized=True)
    bar = ax.figure.colorbar(shades, ax=ax, label="equilibrium $p_+$", boundaries=np.linspace(0, 1))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_ticks([0, 0.5, 1])
    style.theory_line(ax, x, predicted["plane_boundary"], color="C1")
    style.simulation_points(ax, predicted["aug_vars"], measured["boundary"], color="C1")
    ax.text(0.62, 0.24, "all collapse", ha="center")
    ax.set(xlabel=r"augmentation variance $\sigma^2$", ylabel=r"weight decay $\eta$", ylim=(0, 0.3))


def equilibria(ax: Axes, result: Result) -> None:
    """Where modes settle and from where on, against weight decay."""
    predicted, measured = result.predicted, result.measured
    decays, (minus, plus) = predicted["plane_decays"], predicted["branches"]
    there = np.isfinite(minus)
    x = predicted["weight_decays"]
    style.theory_line(ax, decays[there], plus[there], "$p_+$, kept", color=KEPT)
    style.simulation_points(ax, x, measured["p_plus"].T, color=KEPT)
    style.theory_line(ax, decays[there], minus[there], "$p_-$, edge", color=LOST, linestyle="--")
    style.simulation_points(ax, x, measured["p_minus"], color=LOST)
    ax.set(xlabel=r"weight decay $\eta$", ylabel="predictor on the parabola $p$", ylim=(0, 0.9))
    ax.legend(loc="center left", fontsize=6, bbox_to_anchor=(0.0, 0.5))


def direct_pred(ax: Axes, result: Result) -> None:
    """The least features that DirectPred keeps."""
    x = result.predicted["eps"]
    style.theory_line(ax, x, result.predicted["direct_edge"], color="C2")
    style.simulation_points(ax, x, result.measured["direct_edge"], color="C2")
    top = 1.4 * result.predicted["direct_edge"].max()
    ax.text(0.95, 0.85, "kept", transform=ax.transAxes, ha="right")
    ax.text(0.05, 0.08, "lost", transform=ax.transAxes)
    ax.set(xlabel=r"DirectPred $\epsilon$", ylabel=r"initial features $\sqrt{s}$", ylim=(0, top))


def decay(ax: Axes, result: Result) -> None:
    """Imbalance, weights without a predictor, features under DirectPred as released."""
    predicted, measured = result.predicted, result.measured
    last = len(predicted["decays"]) - 1
    curves = [
        ("imbalance", predicted["imbalance"], measured["imbalance"][FINEST], style.NEUTRAL),
        *(
            (name, predicted["decays"][row], measured["decays"][FINEST, row], color)
            for name, row, color in (
                ("no predictor", 0, "C3"),
                (None, INPUTS - 1, "C3"),
                ("DirectPred, released", INPUTS, "C2"),
                (None, last, "C2"),
            )
        ),
    ]
    for name, theory, found, color in curves:
        ax.plot(predicted["times"], found, color=color, alpha=0.35, linewidth=2.4)
        style.theory_line(ax, predicted["times"], theory, name, color=color, linewidth=0.8)
    ax.set(yscale="log", ylim=(1e-6, 1e3), xlabel="training time $t$", ylabel="norm over its start")
    ax.legend(fontsize=6, loc="upper right")
