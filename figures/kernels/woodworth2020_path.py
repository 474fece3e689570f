"""The path of diagonal linear networks: coefficients, both ends, tangent kernels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from sims.experiment import Result
from sims.kernels.woodworth2020_path import DEPTHS, FRACTIONS, kernel_ratios

SHOWN = 0  # problem in the panels of coefficients
COLORS = ("C0", "C1")  # of the depths
ALPHA = r"initial weights $\alpha$"
L1, L2 = r"least $\ell_1$", r"least $\ell_2$"


def draw(result: Result) -> Figure:
    """Coefficients along the path, distances to both ends, the kernel at the end and before."""
    figure, axes = style.panels(2, 3, height=4.4)
    for row in range(len(DEPTHS)):
        coefficients(axes[0, row], result, row)
    norms(axes[0, 2], result)
    approach(axes[1, 0], result, "least_l1", r"$|\beta_\infty-\beta_{\ell_1}|$")
    approach(axes[1, 1], result, "least_l2", r"$|\beta_\infty-\beta_{\ell_2}|$")
    kernels(axes[1, 2], result)
    style.panel_letters(axes)
    return figure


def coefficients(ax: Axes, result: Result, row: int) -> None:
    """All coefficients of one problem against alpha, and what they tend to."""
    alphas = result.predicted["alphas"][row]
    limits = [result.predicted[name][SHOWN] for name in ("least_l1", "least_l2")]
    order = np.argsort(-np.abs(limits[0]))
    for index, color in zip(order, style.ordered_colors(len(order)), strict=True):
        measured = result.measured["beta"][row, SHOWN, :, index]
        style.simulation_points(ax, alphas, measured, color=color)
        curve = result.predicted["curve_beta"][row, SHOWN, :, index]
        at = result.predicted["curve_alphas"][row]
        style.theory_line(ax, at, curve, color=color, linewidth=0.8)
        for at, limit in zip((alphas[0] / 4, alphas[-1] * 4), limits, strict=True):
            ax.plot(at, limit[index], marker="_", color=color, markersize=7)
    ax.set(xscale="log", xlabel=ALPHA, ylabel=r"coefficients $\beta_\infty$")
    ax.set_title(rf"$D={DEPTHS[row]}$", fontsize=8)
    for at, where, text in ((0.02, "left", L1), (0.98, "right", L2)):
        ax.text(at, 0.75, text, transform=ax.transAxes, ha=where, fontsize=7)


def norms(ax: Axes, result: Result) -> None:
    """Excess of the l1 norm over the least, in all problems."""
    for row, color in enumerate(COLORS):
        alphas = result.predicted["alphas"][row]
        least = np.abs(result.predicted["least_l1"]).sum(axis=-1)[:, None]
        found = np.abs(result.measured["beta"][row]).sum(axis=-1) / least
        curves = np.abs(result.predicted["curve_beta"][row]).sum(axis=-1) / least
        at = result.predicted["curve_alphas"][row]
        for number, (values, curve) in enumerate(zip(found, curves, strict=True)):
            style.simulation_points(ax, alphas, values, color=color)
            label = None if number else rf"$D={DEPTHS[row]}$"
            style.theory_line(ax, at, curve, label, color=color, linewidth=0.8)
    ax.axhline(1, color=style.NEUTRAL, linestyle=":", linewidth=0.8)
    ax.set(xscale="log", xlabel=ALPHA, ylabel=r"$\|\beta_\infty\|_1$ over the least")
    style.legend(ax, loc="upper left")


def approach(ax: Axes, result: Result, name: str, label: str) -> None:
    """Distance to one end of the path against alpha, every problem, with its power."""
    rich = name == "least_l1"
    powers = result.predicted["rich_exponents" if rich else "lazy_exponents"]
    for row, color in enumerate(COLORS):
        alphas = result.predicted["alphas"][row]
        at = 0 if rich else -1
        near = alphas <= 0.1 if rich else alphas >= 1
        beta = result.measured["beta"][row] - result.predicted[name][:, None]
        for error, power in zip(np.linalg.norm(beta, axis=-1), powers[row], strict=True):
            style.simulation_points(ax, alphas, error, color=color)
            line = error[at] * (alphas[near] / alphas[at]) ** power
            style.theory_line(ax, alphas[near], line, color=color, linewidth=0.8)
    ax.set(xscale="log", yscale="log", xlabel=ALPHA, ylabel=label)
    texts = (
        (r"$\propto\alpha^{2(1-m)}$", r"$\propto\alpha^{3}$")
        if rich
        else (r"$\propto\alpha^{-4}$", r"$\propto\alpha^{-6}$")
    )
    for text, color in zip(texts, COLORS, strict=True):
        ax.plot([], [], color=style.darker(color), label=text)
    ax.legend(loc="lower right" if rich else "lower left")


def kernels(ax: Axes, result: Result) -> None:
    """Eigenvalues of the final kernel against theory's, and errors of the formula on the way."""
    for row, color in enumerate(COLORS):
        expected = result.predicted["kernel_eigenvalues"][row].ravel()
        found = np.linalg.eigvalsh(result.measured["kernel"][row, :, :, -1]).ravel()
        ax.plot(expected, found, "o", color=color, mew=0, alpha=0.4, label=rf"$D={DEPTHS[row]}$")
    ends = np.array([expected.min(), expected.max()])
    style.theory_line(ax, ends, ends, color=style.NEUTRAL)
    worst = np.max(np.abs(kernel_ratios(result.measured) - 1))
    ax.text(
        0.97,
        0.05,
        f"along the flow, {len(FRACTIONS)} times:\nrelative error {worst:.0e}",
        transform=ax.transAxes,
        ha="right",
        fontsize=6,
    )
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="final kernel's eigenvalues, theory", ylabel="measured")
    ax.legend(loc="upper left")
