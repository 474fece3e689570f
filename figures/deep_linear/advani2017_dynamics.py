"""Generalization and training error over time, overtraining, and what initial weights cost."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.deep_linear.advani2017_dynamics import ALPHAS, EQUAL, FEWER
from sims.experiment import Result

COLORS = ("C0", "C1", "C2")  # of the alphas
TIME = r"training time $t$ (learning rate $\times$ steps)"
LATE = 1.0  # where the law of overtraining begins to be drawn


def draw(result: Result) -> Figure:
    """Errors over time at three alphas; nothing but noise to learn; three initial variances."""
    figure, axes = style.panels(2, 2, height=4.8)
    error_curves(axes[0, 0], result, "generalization", r"generalization error $E_g$")
    error_curves(axes[0, 1], result, "training", r"training error $E_t$")
    overtraining(axes[1, 0], result)
    initial_weights(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def error_curves(ax: Axes, result: Result, name: str, label: str) -> None:
    """One error from zero initial weights, at every alpha."""
    for index, color in enumerate(COLORS):
        curve(ax, result, name, index, 0, f"{ALPHAS[index]:g}", color)
    ax.set(xlabel=TIME, ylabel=f"{label} (signal variance)", ylim=(0, None))
    style.legend(ax, simulation="band", title=r"examples per input $\alpha$", loc="best")


def overtraining(ax: Axes, result: Result) -> None:
    """Students of pure noise: what they fit of it, and the law of alpha = 1."""
    noise_var = float(result.predicted["noise_var"])
    for index, color in enumerate(COLORS):
        curve(ax, result, "generalization", index, -1, None, color, above=noise_var)
    t = result.predicted["times"][EQUAL][1:]
    late, fitted = t >= LATE, result.predicted["overtraining"] - noise_var
    law = {"color": style.NEUTRAL, "linestyle": "--", "zorder": 4}
    style.theory_line(ax, t[late], fitted[late], r"law of $\alpha=1$, $\sim\sqrt{t}$", **law)
    ax.set(yscale="log", xlim=(LATE / 10, None), ylim=(1e-2, None))
    ax.set(xlabel=TIME, ylabel=r"noise fitted, $E_g-\sigma_\epsilon^2$")
    ax.legend(title="nothing but noise to learn", loc="upper left")


def initial_weights(ax: Axes, result: Result) -> None:
    """Generalization error with fewer examples than inputs, from several initial variances."""
    variances = result.predicted["init_vars"]
    for index, color in enumerate(style.ordered_colors(len(variances))):
        curve(ax, result, "generalization", FEWER, index, f"{variances[index]:g}", color)
        frozen = result.predicted["frozen"][index]
        ax.axhline(frozen, color=style.darker(color), linestyle=":", linewidth=0.8)
    ax.plot([], [], color=style.NEUTRAL, linestyle=":", linewidth=0.8, label="frozen part")
    ax.set(xlabel=TIME, ylabel=rf"generalization error $E_g$ at $\alpha={ALPHAS[FEWER]:g}$")
    ax.set(ylim=(0, 1.25 * ax.get_ylim()[1]))
    ax.legend(title=r"initial variance $\sigma_0^2$", loc="upper right", ncols=2)


def curve(
    ax: Axes,
    result: Result,
    name: str,
    index: int,
    setting: int,
    label: str | None,
    color: str,
    above: float = 0.0,
) -> None:
    """One error, less ``above``, over (logarithmic) time, at one alpha and in one setting."""
    predicted, measured = result.predicted, result.measured
    t = predicted["times"][index][1:]
    style.simulation_band(ax, t, measured[name][index, :, 1:, setting] - above, color=color)
    style.theory_line(ax, t, predicted[name][index, 1:, setting] - above, label, color=color)
    ax.set(xscale="log")
