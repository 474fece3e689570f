"""Transformers over learning rates: losses, attention logits, ln Z; remedies, and laws of AdamW."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from figures import style
from sims.experiment import Result
from sims.rates import mean_and_error
from sims.stability.wortsman2023_proxies import (
    ALL,
    DECAYS,
    PLAIN,
    VARIANTS,
    extrapolated,
    logit_bounds,
    sensitivities,
)

COLORS = ("C1", "C4", "C2", "C0")  # of the variants
RATE = r"learning rate $\eta$"
FINAL = -1  # record


def draw(result: Result) -> Figure:
    """Losses and what remedies do to them; attention logits; ln Z; the z-loss and decay alone."""
    figure, axes = style.panels(2, 3, height=4.6)
    losses(axes[0, 0], result)
    sensitivity(axes[0, 1], result)
    attention_logits(axes[0, 2], result)
    log_z(axes[1, 0], result)
    z_rates(axes[1, 1], result)
    weight_decay(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def variants(ax: Axes, result: Result, values: np.ndarray, chosen: tuple[int, ...]) -> None:
    """Values (variants, rates, seeds) over rates, joined by thin lines."""
    rates = result.predicted["learning_rates"]
    for index in chosen:
        color, name = COLORS[index], VARIANTS[index].name
        style.simulation_points(ax, rates, values[index].T, name, color=color)
        ax.plot(rates, np.median(values[index], axis=-1), color=color, alpha=0.4, zorder=1)
    ax.set(xscale="log", xlabel=RATE)


def losses(ax: Axes, result: Result) -> None:
    """Final losses, the least loss there is, and the least without a look at the past."""
    predicted = result.predicted
    variants(ax, result, result.measured["loss"][..., FINAL], (0, 1, 2, 3))
    single, given_one, _ = predicted["entropies"]
    lines = {
        "unigram": single,
        "bigram": given_one,
        "floor": predicted["least_loss"],
    }
    for name, value in lines.items():
        ax.axhline(float(value), color=style.darker(style.NEUTRAL), linewidth=0.8, zorder=3)
        at = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        ax.annotate(name, (0, float(value)), (4, 1.5), fontsize=6.5, va="bottom", **at)
    ax.set(ylabel="final loss (nats per token)")


def sensitivity(ax: Axes, result: Result) -> None:
    """Learning-rate sensitivity of every variant: each seed, mean and standard error."""
    found = sensitivities(result.measured)
    for row, (values, color) in enumerate(zip(found, COLORS, strict=True)):
        ax.plot(values, np.full(len(values), row), "o", color=color, alpha=0.35, mew=0)
        mean, error = mean_and_error(values)
        ax.errorbar(mean, row, xerr=error, fmt="|", color=style.darker(color), ms=9, capsize=2)
    ax.set_yticks(range(len(VARIANTS)), [v.name.replace(", ", ",\n") for v in VARIANTS])
    ax.tick_params(axis="y", labelsize=7, length=0)
    for label, color in zip(ax.get_yticklabels(), COLORS, strict=True):
        label.set_color(style.darker(color))
    ax.set(xlabel="learning-rate sensitivity (nats)", xlim=(0, None))
    ax.set(ylim=(len(VARIANTS) - 0.5, -0.5))


def attention_logits(ax: Axes, result: Result) -> None:
    """Final attention logits, extrapolation of those without qk-norm, bound of those with it."""
    measured, rates = result.measured, result.predicted["learning_rates"]
    logits = measured["attention_logit"][..., FINAL, :].max(axis=-1)
    variants(ax, result, logits, (PLAIN, len(VARIANTS) - 1))
    grid = np.geomspace(rates[-5], rates[-1], 61)
    fit = np.exp(extrapolated(measured, 2, grid)[PLAIN])
    fitted = grid <= rates[-2]
    for part, dashes in ((fitted, "-"), (grid >= rates[-2], ":")):
        ax.plot(grid[part], fit[part], dashes, color=style.darker(COLORS[PLAIN]), zorder=3)
    bound = np.median(logit_bounds(measured)[ALL][..., FINAL, :].max(axis=-1), axis=-1)
    style.theory_line(ax, rates, bound, "bound with qk-norm", color=COLORS[ALL])
    ax.plot([], [], ":", color=style.darker(COLORS[PLAIN]), label="quadratic, extrapolated")
    ax.set(yscale="log", ylabel=r"largest attention logit")
    ax.legend(loc="upper left", fontsize=6.5)


def log_z(ax: Axes, result: Result) -> None:
    """Mean ln Z of the outputs at the end of training."""
    variants(ax, result, result.measured["log_z"][..., FINAL], (0, 1, 3))
    ax.axhline(0, color=style.NEUTRAL, linewidth=0.6, zorder=0)
    ax.set(ylabel=r"final $\ln Z$, mean over tokens")
    ax.legend(loc="center right", fontsize=6.5)


def z_rates(ax: Axes, result: Result) -> None:
    """Rate at which the z-loss alone moves ln Z."""
    predicted = result.predicted
    weights = predicted["z_weights"]
    style.simulation_points(ax, weights, result.measured["z_rates"], "simulation")
    style.theory_line(ax, weights, predicted["z_rates"], r"theory, $2w/v$")
    ax.set(xscale="log", yscale="log", xlabel="weight $w$ of the z-loss")
    ax.set(ylabel=r"decay rate of $\ln Z$, one softmax")
    ax.legend(loc="upper left")


def weight_decay(ax: Axes, result: Result) -> None:
    """Root mean square weights under random gradients, two ways to decay."""
    predicted, measured = result.predicted, result.measured
    rates, names = predicted["decay_rates"], list(DECAYS)
    for row, color in enumerate(("C0", "C3")):
        style.simulation_points(ax, rates, np.sqrt(measured["squares"][0, row]), color=color)
        style.theory_line(ax, rates, predicted["rms"][row], names[row], color=color)
    ax.set(xscale="log", yscale="log", xlabel=RATE, ylabel="root mean square weight")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
    ax.set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"], minor=False)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    style.legend(ax, loc="upper left", title="weight decay", fontsize=6.5)
