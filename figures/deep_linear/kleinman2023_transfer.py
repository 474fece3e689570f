"""Loss on a task after a fixed time of fine-tuning, against the time spent on another before.

Points are gradient descent at three step sizes, extrapolated to step zero.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.rates import without_step_error

TIME = "pre-training time"


def draw(result: Result) -> Figure:
    """Two layers that see all entries, completion by depth, and digits."""
    figure, axes = style.panels(1, 3, height=2.5)
    exact(axes[0, 0], result, "full", "C0")
    axes[0, 0].set(ylabel="loss after fine-tuning", title="all entries seen, depth 2")
    style.legend(axes[0, 0], loc="lower right")
    completion(axes[0, 1], result)
    exact(axes[0, 2], result, "digits", "C1")
    axes[0, 2].set(ylabel="loss after fine-tuning", title="digits relabelled, depth 2")
    style.panel_letters(axes)
    return figure


def exact(ax: Axes, result: Result, name: str, color: str) -> None:
    """Composed Riccati flows; dotted, without pre-training."""
    predicted = result.predicted
    times, loss = predicted[f"{name}_times"], predicted[f"{name}_loss"]
    style.simulation_points(
        ax, times, without_step_error(result.measured[f"{name}_loss"]), color=color
    )
    fine = predicted[f"{name}_fine_times"], predicted[f"{name}_fine_loss"]
    style.theory_line(ax, *fine, color=color)
    ax.axhline(loss[0], color=style.NEUTRAL, linestyle=":", linewidth=0.9)
    ax.text(times[-1], loss[0], "no pre-training", ha="right", va="bottom", fontsize=7)
    ax.set(xlabel=TIME, ylim=(0, None))


def completion(ax: Axes, result: Result) -> None:
    """Error of the entries not seen, by depth."""
    predicted, depths = result.predicted, result.predicted["depths"].tolist()
    for index, color in enumerate(style.ordered_colors(len(depths))):
        found = without_step_error(result.measured["unseen_loss"])[index]
        style.simulation_points(ax, predicted["full_times"], found, color=color)
        theory = predicted["unseen_fine_loss"][index]
        style.theory_line(
            ax, predicted["unseen_fine_times"], theory, f"{depths[index]}", color=color
        )
    ax.set(xlabel=TIME, ylabel="error of unseen entries", title="matrix completion")
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
    ax.legend(title="depth", ncols=3, loc="upper right")
