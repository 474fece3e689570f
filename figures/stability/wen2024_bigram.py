"""Bigram tables: losses of certain and uncertain contexts under schedules, and their curvature."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures import style
from sims.experiment import Result
from sims.stability.wen2024_bigram import COSINE, RATES, WSD

SCHEDULES = ((2, "constant", style.NEUTRAL), (COSINE, "cosine", "C2"), (WSD, "WSD", "C1"))


def draw(result: Result) -> Figure:
    """Uncertain contexts, certain contexts, excess against learning rate, curvature."""
    figure, axes = style.panels(2, 2, height=4.6)
    contexts(axes[0, 0], result, "uncertain")
    contexts(axes[0, 1], result, "certain")
    stable_excess(axes[1, 0], result)
    curvature(axes[1, 1], result)
    style.panel_letters(axes)
    return figure


def contexts(ax: Axes, result: Result, kind: str) -> None:
    """Excess loss of all contexts of a kind over steps; bands are two standard errors wide."""
    predicted, measured = result.predicted, result.measured
    first = 0 if kind == "certain" else 1
    for row, label, color in SCHEDULES:
        steps = measured["steps"][first:]
        found = measured[kind][row][:, first:].sum(axis=-1)
        theory = predicted[kind][row]
        theory = theory.sum(axis=-1) if kind == "certain" else theory
        mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(len(found))
        ax.fill_between(
            steps, mean - 2 * error, mean + 2 * error, color=color, alpha=0.35, linewidth=0
        )
        style.theory_line(ax, steps, theory, label, color=color)
    ax.set(yscale="log", xlabel="step", ylabel=f"excess loss, {kind} tokens")
    style.legend(ax, simulation="band", loc="lower left" if kind == "uncertain" else "upper right")


def stable_excess(ax: Axes, result: Result) -> None:
    """Excess of uncertain contexts in the stable phase against the learning rate."""
    predicted, gaps = result.predicted, result.measured["uncertain_gap"]
    for context, color in enumerate(style.ordered_colors(gaps.shape[-1])):
        samples = gaps[..., context]
        error = samples.std(axis=1) / np.sqrt(samples.shape[1])
        marks = {"fmt": "o", "color": color, "mew": 0, "alpha": 0.55, "elinewidth": 0.8}
        ax.errorbar(RATES, samples.mean(axis=1), yerr=2 * error, **marks)
        frequency = predicted["frequency"][::2][context]
        label = f"$f={frequency:.2f}$"
        style.theory_line(ax, RATES, predicted["uncertain_gap"][:, context], label, color=color)
    ax.set(xscale="log", yscale="log", xlabel=r"learning rate $\eta$")
    ax.set_ylabel("excess loss, stable phase")
    ax.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(title="uncertain context", loc="upper left")


def curvature(ax: Axes, result: Result) -> None:
    """Trace of every context's Hessian over its frequency, against the entropy of what follows."""
    predicted, measured = result.predicted, result.measured
    entropy, frequency = predicted["entropy"], predicted["frequency"]
    traces = [
        np.trace(h, axis1=-2, axis2=-1) / frequency
        for h in (measured["hessian"], predicted["hessian"])
    ]
    ax.plot(entropy, traces[0], "o", color="C0", mew=0, alpha=0.55, label="Hessian of the table")
    ax.plot(entropy, traces[1], "_", color=style.darker("C0"), ms=9, mew=1.4, label=r"$1-|p_i|^2$")
    ax.set(xlabel="entropy of the next token", ylabel="curvature (trace / frequency)")
    ax.legend(loc="upper left")
