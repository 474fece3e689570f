"""Velocities of tangent kernels: of linear networks, powers of alpha and dt, ReLU in training."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.turning_networks import HALVINGS, SWITCHING_STEP, TANH_ALPHAS, TANH_STEP
from sims.kernels.turning_predictions import MIRRORED, RANDOM

TIME = "training time $t$ (rate $\\times$ steps)"
OMEGA = r"angular velocity $\omega$ (rad / time)"
START = 0  # the linear network that is drawn
SHOWN = slice(0, None, 2)  # of the alphas


def draw(result: Result) -> Figure:
    """Linear networks; powers of alpha; powers of dt; ReLU networks in training."""
    figure, axes = style.panels(2, 3, height=4.6)
    linear(axes[0, 0], result, "rate", OMEGA)
    linear(axes[0, 1], result, "distance", r"distance from start $S(0,t)$")
    powers_of_alpha(axes[0, 2], result)
    powers_of_dt(axes[1, 0], result)
    lazy_training(axes[1, 1], result)
    velocities(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def linear(ax: Axes, result: Result, name: str, label: str) -> None:
    """One linear network's path at several alphas."""
    predicted, measured = result.predicted, result.measured
    t, alphas = predicted["times"], predicted["alphas"][SHOWN]
    theory, found = (source[name][START, RANDOM, SHOWN] for source in (predicted, measured))
    for alpha, line, band, color in zip(
        alphas, theory, found, style.ordered_colors(len(alphas)), strict=True
    ):
        ax.plot(t, band, color=color, alpha=0.45, linewidth=3.4, zorder=2)
        style.theory_line(ax, t, line, f"{alpha:g}", color=color)
    ax.set(xscale="log", yscale="log", xlabel=r"time $t$, two-layer linear", ylabel=label)
    if name == "rate":
        ax.set(ylim=(1e-6, None))
        ax.legend(title=r"$\alpha$", loc="lower left", ncols=2)


def powers_of_alpha(ax: Axes, result: Result) -> None:
    """Angular velocity of tanh networks at the last record, random and mirrored starts."""
    for kind, color, label in ((RANDOM, "C0", "random"), (MIRRORED, "C1", r"mirrored, $f_0=0$")):
        rate = result.measured["tanh_rate"][:, kind, :, -1]
        style.simulation_points(ax, TANH_ALPHAS, rate, label, color=color)
        power = result.predicted["alpha_exponents"][kind]
        slope = np.median(rate[:, -1]) * (TANH_ALPHAS / TANH_ALPHAS[-1]) ** power
        style.theory_line(ax, TANH_ALPHAS, slope, rf"$\alpha^{{{power:.0f}}}$", color=color)
    ax.set(xscale="log", yscale="log", xlabel=r"output scale $\alpha$, tanh", ylabel=OMEGA)
    ax.legend(loc="lower left")


def powers_of_dt(ax: Axes, result: Result) -> None:
    """S against dt, of tanh networks and of ReLU networks at the start."""
    predicted, measured = result.predicted, result.measured
    lazy = np.searchsorted(TANH_ALPHAS, 1.0)
    found = measured["tanh_distances"][:, RANDOM, lazy, 0]
    dt = TANH_STEP * HALVINGS
    style.simulation_points(ax, dt, found, "tanh", color="C0")
    omega = np.median(measured["tanh_rate"][:, RANDOM, lazy, 0])
    smooth(ax, omega, dt, "C0")
    dt = SWITCHING_STEP * HALVINGS
    for width, rate, chords, omegas, color in zip(
        predicted["widths"],
        predicted["switching"],
        measured["relu_distances"],
        measured["relu_rate"],
        ("C1", "C2", "C3"),
        strict=False,
    ):
        style.simulation_points(ax, dt, chords, f"ReLU, $n={width}$", color=color)
        style.theory_line(ax, dt, rate * dt, color=color)
        smooth(ax, np.median(omegas), dt, color)
    ax.plot([], [], color=style.NEUTRAL, linestyle=":", label=r"$\omega^2 dt^2/2$, autodiff")
    ax.set(xscale="log", yscale="log", xlabel=r"interval $dt$", ylabel=r"distance $S(t,t+dt)$")
    style.legend(ax, loc="upper left", fontsize=6)


def smooth(ax: Axes, omega: float, dt: np.ndarray, color: str) -> None:
    """What an angular velocity makes of S."""
    ax.plot(dt, (omega * dt) ** 2 / 2, color=style.darker(color), linestyle=":", zorder=4)


def lazy_training(ax: Axes, result: Result) -> None:
    """S(0, t) of ReLU networks on digits in lazy training: mean and its standard errors."""
    t, found = result.predicted["relu_times"][1:], result.measured["lazy_distance"]
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    ax.errorbar(t, found.mean(axis=0), yerr=error, fmt="o", color="C1", alpha=0.55, mew=0)
    style.theory_line(ax, t, result.predicted["lazy_distance"], color="C1")
    ax.set(xlabel=TIME, ylabel=r"$S(0,t)$, lazy ReLU", ylim=(0, None), xlim=(0, None))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    style.legend(ax, loc="lower right")


def velocities(ax: Axes, result: Result) -> None:
    """S/dt from record to record, rich and lazy; the theory is of the lazy ones."""
    dt = np.diff(result.predicted["relu_times"])
    middle = result.predicted["relu_times"][:-1] + dt / 2
    for name, alpha, color in (
        ("rich", result.config.rich, "C0"),
        ("lazy", result.config.lazy, "C1"),
    ):
        found = result.measured[f"{name}_steps"] / dt
        error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
        label = rf"{name}, $\alpha={alpha:.3g}$"
        mark = {"fmt": "o", "color": color, "alpha": 0.55, "mew": 0, "label": label}
        ax.errorbar(middle, found.mean(axis=0), yerr=error, **mark)
    style.theory_line(ax, middle, result.predicted["lazy_steps"] / dt, color="C1")
    ax.set(yscale="log", xlabel=TIME, ylabel=r"kernel velocity $S(t,t+dt)/dt$, ReLU")
    low, high = ax.get_ylim()
    ax.set(ylim=(low, high * (high / low) ** 0.45))
    style.legend(ax, loc="upper right")
