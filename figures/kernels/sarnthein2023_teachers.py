"""Students of random teachers: decay near the teacher, Adam where nothing should move, probes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.near_teachers import LEADING
from sims.kernels.random_teachers import DATA_SETS
from sims.kernels.sarnthein2023_teachers import mode_decay
from sims.rates import mean_and_error, without_step_error

STEP = "step of gradient descent"
PROBES = ("ridge", "nearest neighbours")
FLOOR = 1e-18  # below which nothing is drawn


def draw(result: Result) -> Figure:
    """Modes and divergence over time; a student equal to its teacher; gains of the probes."""
    figure, axes = style.panels(2, 2, height=4.8)
    modes(axes[0, 0], result)
    decay(axes[0, 1], result)
    still(axes[1, 0], result)
    gains(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def modes(ax: Axes, result: Result) -> None:
    """Amplitudes of the leading modes of the first teacher."""
    steps, found = result.predicted["steps"], mode_decay(result.measured)[0]
    for mode, color in enumerate(style.ordered_colors(LEADING)):
        style.simulation_points(ax, steps, found[:, mode], color=color)
        theory = result.predicted["modes"][0, :, mode]
        style.theory_line(ax, steps, theory, f"{mode + 1}", color=color)
    ax.set(xlabel=STEP, ylabel="amplitude / initial amplitude", xlim=(-0.4, 24))
    style.legend(ax, title="mode of the kernel", loc="upper right")


def decay(ax: Axes, result: Result) -> None:
    """Divergence of all students, in units of a squared: spread, mean, expectation."""
    steps, found = result.predicted["steps"], without_step_error(result.measured["divergence"])
    flat = found.reshape(-1, found.shape[-1])
    style.simulation_band(ax, steps, flat, "students", color="C0")
    mean, error = mean_and_error(flat)
    bars = {"mew": 0, "color": "C0", "elinewidth": 0.8}
    ax.errorbar(steps, mean, yerr=2 * error, fmt="o", label="their mean", **bars)
    style.theory_line(ax, steps, result.predicted["divergence"], "expectation", color="C0")
    ax.set(xlabel=STEP, ylabel="divergence / $a^2$, $a\\to0$", yscale="log")
    ax.legend(loc="upper right")


def still(ax: Axes, result: Result) -> None:
    """Divergence from the teacher of students that began equal to it, in single precision."""
    measured = result.measured
    steps = measured["still_steps"]
    for name, label, color in (("adam", "Adam", "C1"), ("sgd", "gradient descent", "C0")):
        for row in measured[f"still_{name}"]:
            shown = np.where(row > FLOOR, row, np.nan)
            ax.plot(steps, shown, color=color, alpha=0.7, label=label)
            label = None
    ax.set(xlabel="step", ylabel="divergence from the teacher, $a=0$", yscale="log")
    ax.set_ylim(FLOOR, 1e-3)
    ax.legend(title="prediction: 0", loc="upper right", ncols=2)


def gains(ax: Axes, result: Result) -> None:
    """Accuracy of probes on the student, before and after it learned, less that of the teacher."""
    a, accuracy = result.measured["localities"], result.measured["probe_accuracy"]
    for index, (name, color) in enumerate(zip(DATA_SETS, ("C2", "C3"), strict=True)):
        for probe, (label, mark) in enumerate(zip(PROBES, "os", strict=True)):
            after = accuracy[index, :, :, 2, probe] - accuracy[index, :, :, 0, probe]
            mean, error = mean_and_error(100 * after.T)
            x = a * 1.05 ** (2 * index + probe - 1.5)
            bars = {"mew": 0, "elinewidth": 0.8, "color": color, "linestyle": ":", "alpha": 0.8}
            ax.errorbar(x, mean, yerr=2 * error, fmt=mark, label=f"{name}, {label}", **bars)
    ax.axhline(0, color=style.NEUTRAL, linewidth=0.6)
    ax.set(xlabel="locality $a$ of the student", ylabel="gain over the teacher (% correct)")
    ax.set(xscale="log", xlim=(0.8 * a[0], 1.25 * a[-1]))
    ax.set_xticks(a, [f"{each:g}" for each in a])
    ax.minorticks_off()
    ax.set_ylim(None, ax.get_ylim()[1] + 0.5 * np.ptp(ax.get_ylim()))
    ax.legend(loc="upper left")
