"""The toy river valley: stable phase, schedules at equal compute, decay, and a winding river."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures import style
from sims.experiment import Result
from sims.stability.wen2024_river import CHECKPOINTS, decays

# of the compared schedules: rows, names and colours
COMPARED = ((0, "WSD-S", "C0"), (3, "WSD", "C1"), (6, "cosine", "C2"))


def draw(result: Result) -> Figure:
    """Gap against learning rate; schedules; losses; decays; a learned schedule; the force."""
    figure, axes = style.panels(2, 3, height=4.6)
    stable_gap(axes[0, 0], result)
    schedules(axes[0, 1], result)
    losses(axes[0, 2], result)
    final_decays(axes[1, 0], result)
    learned_decay(axes[1, 1], result)
    winding_force(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def stable_gap(ax: Axes, result: Result) -> None:
    """Loss of single hills in the stable phase, at every learning rate."""
    predicted, measured = result.predicted, result.measured
    rates, hills = predicted["rates"], predicted["hills"]
    shown = np.arange(len(hills))[::3]
    for hill, color in zip(shown, style.ordered_colors(len(shown)), strict=True):
        label = f"$h={hills[hill]:g}$"
        error = measured["gap"][:, :, hill].std(axis=0) / np.sqrt(len(measured["gap"]))
        mean = measured["gap"][:, :, hill].mean(axis=0)
        marks = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8}
        ax.errorbar(rates, mean, yerr=2 * error, color=color, **marks)
        curve = predicted["gap_curves"][:, hill]
        style.theory_line(ax, predicted["all_rates"], curve, label, color=color)
    ax.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$", ylabel="loss of a hill")
    ax.set_xticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
    ax.xaxis.set_minor_formatter(NullFormatter())
    style.legend(ax, loc="upper left")


def schedules(ax: Axes, result: Result) -> None:
    """Schedules up to the last checkpoint."""
    for row, label, color in COMPARED:
        rates = result.predicted["schedules"][row]
        used = np.arange(len(rates))[rates > 0]
        ax.plot(used, rates[used], color=color, label=label)
    ax.set(xlabel="step", ylabel=r"learning rate $\eta$", ylim=(0, 0.27))
    ax.legend(loc="upper left", ncols=3, columnspacing=0.8, handlelength=1.2)


def losses(ax: Axes, result: Result) -> None:
    """Loss over steps; the compute at checkpoints counts branches that were thrown away."""
    predicted, measured = result.predicted, result.measured
    steps = measured["schedule_steps"]
    for row, label, color in COMPARED:
        used = steps <= np.count_nonzero(predicted["schedules"][row])
        theory = (predicted["river"] + predicted["hill"])[row]
        found = (measured["river"] + measured["hill"])[row].mean(axis=0)
        ax.plot(steps[used][::2], found[used][::2], "o", color=color, mew=0, alpha=0.55)
        style.theory_line(ax, steps[used], theory[used], label, color=color)
    for checkpoint in CHECKPOINTS:
        ax.axvline(checkpoint, color=style.NEUTRAL, linestyle=":", linewidth=0.8, zorder=0)
    ax.set(yscale="log", xlabel="step", ylabel="loss")
    ax.set_yticks([0.1, 0.15, 0.2, 0.25], ["0.1", "0.15", "0.2", "0.25"])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="upper right")


def final_decays(ax: Axes, result: Result) -> None:
    """Loss after decays from one stationary state, over the least there is."""
    least = result.predicted["least_gap"]
    names, losses = list(decays()), result.measured["decay_losses"] / least
    order = np.argsort(result.predicted["decay_gaps"])[::-1]
    mean, error = losses.mean(axis=0), losses.std(axis=0) / np.sqrt(len(losses))
    theory = (result.predicted["decay_gaps"] / least)[order]
    marks = {"fmt": "o", "color": "C0", "mew": 0, "alpha": 0.55, "elinewidth": 0.8}
    ax.errorbar(
        mean[order], np.arange(len(order)), xerr=2 * error[order], label="simulation", **marks
    )
    bars = {"color": style.darker("C0"), "ms": 12, "mew": 1.4, "label": "theory"}
    ax.plot(theory, np.arange(len(order)), "|", **bars)
    ax.legend(loc="upper right")
    ax.set_yticks(np.arange(len(order)), [names[index] for index in order])
    ax.set(xscale="log", xlabel="final loss / least possible", ylim=(-0.6, len(order) - 0.4))
    ax.set_xticks([1, 2, 5], ["1", "2", "5"])
    ax.xaxis.set_minor_formatter(NullFormatter())


def learned_decay(ax: Axes, result: Result) -> None:
    """Inverse learning rates of the optimal decay and of those learned by descent."""
    inverse, steps = 1 / result.measured["learned"], np.arange(len(result.predicted["decays"][0]))
    style.simulation_points(ax, steps, inverse, "learned by descent")
    style.theory_line(ax, steps, 1 / result.predicted["decays"][0], "optimal")
    ax.set(xlabel="step of the decay", ylabel=r"$1/\eta$", ylim=(0, None))
    ax.legend(loc="upper left")


def winding_force(ax: Axes, result: Result) -> None:
    """Mean velocity along a river whose hills steepen downstream."""
    rates = result.predicted["winding_rates"]
    force = result.measured["force"]
    error = force.std(axis=0) / np.sqrt(len(force))
    marks = {"fmt": "o", "color": "C0", "mew": 0, "alpha": 0.55, "elinewidth": 0.8}
    ax.errorbar(rates, -1e3 * force.mean(axis=0), yerr=2e3 * error, **marks)
    style.theory_line(ax, rates, -1e3 * result.predicted["force"])
    ax.axhline(0, color=style.NEUTRAL, linestyle=":", linewidth=0.8, zorder=0)
    ax.set(xlabel=r"learning rate $\eta$", ylabel=r"velocity downstream ($10^{-3}$)")
    top = 1e3 * float((result.predicted["drag"] - result.predicted["force"])[0])
    ax.axhline(top, color=style.NEUTRAL, linestyle="--", linewidth=0.8, zorder=0)
    ax.text(0.98, top, "without noise", va="bottom", ha="right", transform=ax.get_yaxis_transform())
    ax.set_ylim(None, 1.3 * top)
