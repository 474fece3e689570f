"""Neural collapse: minima of free features, the way there, and networks on digits beside."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.rates import without_step_error

COUPLING = r"coupling $c = K\sqrt{n\lambda_W\lambda_H}$"
RATIO = r"$\mathrm{tr}\,\Sigma_W\,/\,\mathrm{tr}\,\Sigma_B$"
STEP = "training step + 1"
METRICS = (("nc1", "NC1", "C0"), ("nc2", "NC2", "C1"), ("nc3", "NC3", "C2"))


def draw(result: Result) -> Figure:
    """Above, free features: minima and the central path. Below: springs, and networks."""
    figure, axes = style.panels(2, 3, height=4.5)
    loss(axes[0, 0], result)
    outputs(axes[0, 1], result)
    path(axes[0, 2], result)
    springs(axes[1, 0], result)
    layers(axes[1, 1], result)
    metrics(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def loss(ax: Axes, result: Result) -> None:
    """Loss at the minima, of all balances and starts."""
    p, m = result.predicted, result.measured
    for bias, (label, color) in enumerate((("no bias", "C0"), ("bias", "C1"))):
        style.theory_line(ax, p["curve"], p["curve_value"][:, 0, bias], label, color=color)
        found = m["loss"][:, :, bias].reshape(len(p["couplings"]), -1)
        style.simulation_points(ax, p["couplings"], found.T, color=color)
    ax.set(xlabel=COUPLING, ylabel="loss at the minimum", xlim=(0, None), ylim=(0, None))
    style.legend(ax, loc="lower right")


def outputs(ax: Axes, result: Result) -> None:
    """Outputs of class means at the minima: their own class, and others."""
    p, m = result.predicted, result.measured
    own = np.eye(m["outputs"].shape[-1], dtype=bool)
    series = ((0, own, "own", "C0"), (1, own, "own, bias", "C1"), (1, ~own, "other, bias", "C4"))
    for bias, which, label, color in series:
        curve = p["curve_outputs"][:, 0, bias][:, which][:, 0]
        style.theory_line(ax, p["curve"], curve, label, color=color)
        found = m["outputs"][:, :, bias][..., which].reshape(len(p["couplings"]), -1)
        style.simulation_points(ax, p["couplings"], found.T, color=color)
    ax.set(xlabel=COUPLING, ylabel="output for a class", xlim=(0, None), ylim=(-0.04, 1.04))
    style.legend(ax, loc="upper right")


def path(ax: Axes, result: Result) -> None:
    """Ratio of scatters on the central path, with and without feature decay."""
    p, m = result.predicted, result.measured
    decays, starts = result.config.feature_decays, result.config.path_starts
    colors = ("C0", "C1", "C2", "C4", "C5")
    for index, (decay, color) in enumerate(zip(decays, colors, strict=False)):
        rows = slice(index * starts, (index + 1) * starts)
        label = rf"$\lambda_H = {decay:g}/N$" if decay else r"$\lambda_H = 0$"
        found = without_step_error(m["within"])[rows] / without_step_error(m["between"])[rows]
        for theory, values in zip(p["within"][rows] / p["between"][rows], found, strict=True):
            style.simulation_points(ax, p["times"], values, color=color)
            style.theory_line(ax, p["times"], theory, label, color=color, linewidth=0.9)
            label = None
    ax.set(yscale="log", xlabel=r"time $t/N$", ylabel=RATIO)
    style.plain_ticks(ax.yaxis)
    style.legend(ax, loc="lower left")


def springs(ax: Axes, result: Result) -> None:
    """What the first step along the central path leaves out, relative to it."""
    p, m = result.predicted, result.measured
    weakness = 1 / m["spring_strength"][:, 0]
    series = (("spring_velocity", "displacement", "C0"), ("spring_fall", "fall of ratio", "C1"))
    for name, label, color in series:
        step, found = p[name], m[name]
        axes = tuple(range(2, found.ndim))
        size = np.sqrt(np.sum(step**2, axis=tuple(axis - 1 for axis in axes)))
        errors = np.sqrt(np.sum((found - step) ** 2, axis=axes)) / size
        style.simulation_points(ax, weakness, errors.T, color=color)
        slope = np.median(errors[-1]) * (weakness / weakness[-1]) ** p["orders"][1]
        style.theory_line(ax, weakness, slope, rf"{label}, $\propto 1/\beta$", color=color)
    ax.set(xscale="log", yscale="log", xlabel=r"weakness of the spring, $1/\beta N$")
    ax.set(ylabel="left out by the first step", ylim=(None, 3 * ax.get_ylim()[1]))
    style.plain_ticks(ax.xaxis)
    ax.legend(loc="upper left")


def layers(ax: Axes, result: Result) -> None:
    """Digits: ratio of scatters by layer, with the largest weight decay and without (dotted)."""
    m = result.measured
    steps, ratios = m["digits_steps"], m["digits_ratios"]
    for layer, color in enumerate(style.ordered_colors(ratios.shape[-1])):
        kept = np.median(ratios[0, :, :, layer], axis=0)
        ax.plot(1 + steps, kept, color=color, linestyle=":", linewidth=1.2)
        style.simulation_band(ax, 1 + steps, ratios[-1, :, :, layer], f"{layer + 1}", color=color)
    ax.plot([], [], color=style.NEUTRAL, linestyle=":", linewidth=1.2, label="no decay")
    ax.set(xscale="log", yscale="log", xlabel=STEP, ylabel=RATIO)
    ax.legend(title="digits, hidden layer", loc="lower left")


def metrics(ax: Axes, result: Result) -> None:
    """Digits: NC1 to NC3 of the last hidden layer."""
    m = result.measured
    steps = 1 + m["digits_steps"]
    for name, label, color in METRICS:
        values = m[f"digits_{name}"]
        style.simulation_band(ax, steps, values[-1], label, color=color)
        ax.plot(steps, np.median(values[0], axis=0), color=color, linestyle=":", linewidth=1.2)
    ax.set(xscale="log", yscale="log", xlabel=STEP, ylabel="distance from collapse")
    ax.legend(title="digits, last layer", loc="lower left")
