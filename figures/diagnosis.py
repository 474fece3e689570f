"""A diagnosis of a user's network, as a table for the terminal and as a figure."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from figures import regime, style, tables
from sims.diagnosis import ADAPTIVE, Diagnosis, Estimate


def report(found: Diagnosis) -> Group:
    """Everything a reader needs, in the order in which it is needed."""
    parts = [tables.facts(facts(found)), Text(), thresholds(found)]
    if found.stability.leading_samples:
        parts += [Text(), Text("samples that carry the instability"), samples(found)]
    for note in found.notes:
        parts += [Text(), Text(f"Note: {note}", style="yellow")]
    if found.regime is not None:
        parts += regime.report(found.regime)
    return Group(*parts)


def facts(found: Diagnosis) -> Iterator[tuple[str, str]]:
    """Rows (what, value) on the point, the curvature and the optimiser."""
    point, curvature, optimizer, stability = found[:4]
    yield "network", f"{point.parameters} parameters, {point.outputs} outputs"
    yield "loss", f"{tables.number(point.loss)} over {point.examples} examples"
    yield "loss normalization", point.normalization
    yield "norm of the gradient", tables.number(point.gradient_norm)
    yield "sharpness, largest eigenvalue", with_error(curvature.sharpness, "residual")
    yield "trace of the Hessian", with_error(curvature.trace, "standard error")
    yield "trace, Gauss-Newton", f"{tables.number(curvature.gauss_newton_trace)} (exact)"
    yield "Hessian beyond Gauss-Newton", f"{curvature.missed:.2%} of its norm"
    if np.isfinite(stability.frobenius_norm):
        yield "Frobenius norm, Gauss-Newton", f"{tables.number(stability.frobenius_norm)} (exact)"
    yield "products with the Hessian", str(curvature.products)
    hyper = "".join(f", {name} {tables.number(x)}" for name, x in optimizer.hyper.items())
    settings = f"learning rate {tables.number(optimizer.learning_rate)}"
    yield "optimizer", f"{optimizer.kind}, {settings}, batch size {optimizer.batch_size}{hyper}"
    yield "its full-batch edge", edge(found)
    yield "batch sharpness", with_error(stability.mean_of_ratios, "standard error")
    yield "the same, ratio of means", with_error(stability.ratio_of_means, "standard error")
    if np.isfinite(stability.growth):
        verdict = "stable" if stability.growth <= 1 else "unstable"
        yield "growth of the mean square", f"{stability.growth:.6f} per step: {verdict}"
        yield "Lyapunov exponent", with_error(stability.lyapunov, "standard error") + " per step"


def with_error(estimate: Estimate, kind: str) -> str:
    """A number with its error.

    >>> with_error(Estimate(12.3456789, 0.01), "residual")
    '12.346 (residual 0.01)'
    """
    return f"{tables.number(estimate.value)} ({kind} {tables.number(estimate.error, 2)})"


def edge(found: Diagnosis) -> str:
    """The optimiser's own edge, and where the sharpness lies beside it."""
    critical = found.optimizer.edge
    text = f"curvature {tables.number(critical)}"
    if found.optimizer.kind not in ADAPTIVE:
        share = found.curvature.sharpness.value / critical
        return f"{text}; the sharpness is at {share:.1%} of it"
    text = f"{text} of the preconditioned Hessian"
    largest = found.curvature.preconditioned
    if not np.isfinite(largest.value):
        return text
    return f"{text}, which has {with_error(largest, 'residual')}: {largest.value / critical:.1%}"


def thresholds(found: Diagnosis) -> Table:
    """Learning rates at the edge for each batch size, and how much of them is used."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("batch size", "exact edge", "bound", "learning rate / edge", ""):
        table.add_column(heading, justify="right")
    for batch in found.stability.thresholds:
        exact = np.isfinite(batch.exact)
        used = found.optimizer.learning_rate / (batch.exact if exact else batch.bound)
        table.add_row(
            str(batch.batch_size),
            tables.number(batch.exact) if exact else "unknown",
            tables.number(batch.bound),
            f"{used:.1%}" if exact else f"> {used:.1%}",
            "used" if batch.batch_size == found.optimizer.batch_size else "",
        )
    return table


def samples(found: Diagnosis) -> Table:
    """Samples with the largest share of the leading second-moment mode."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("sample", justify="right")
    table.add_column("share", justify="right")
    leading = zip(found.stability.leading_samples, found.stability.leading_shares, strict=True)
    for sample, share in leading:
        table.add_row(str(sample), f"{share:.1%}")
    return table


def draw(found: Diagnosis) -> Figure:
    """Edges by batch size, the Hessian's spectrum with the optimiser's edge, and the regime."""
    with style.paper():
        if found.regime is None:
            figure, axes = style.panels(1, 2)
        else:
            figure, axes = style.panels(1, 3, height=2.2)
            regime.draw(axes[0, 2], found.regime)
        edges(axes[0, 0], found)
        spectrum(axes[0, 1], found)
        style.panel_letters(axes)
        return figure


def edges(ax: Axes, found: Diagnosis) -> None:
    """Exact thresholds, bounds, and the learning rate in use."""
    batches = found.stability.thresholds
    sizes = [batch.batch_size for batch in batches]
    bounds = {"color": style.NEUTRAL, "linestyle": "--"}
    style.theory_line(ax, sizes, [batch.bound for batch in batches], "bound", **bounds)
    if np.isfinite(batches[0].exact):
        exact = [batch.exact for batch in batches]
        style.theory_line(ax, sizes, exact, "exact edge", marker="o", markersize=3)
    ax.axhline(found.optimizer.learning_rate, color="C1", linewidth=1)
    at = found.optimizer.batch_size, found.optimizer.learning_rate
    ax.plot(*at, "s", color="C1", label="in use", zorder=4)
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="learning rate")
    ax.legend(loc="lower right")


def spectrum(ax: Axes, found: Diagnosis) -> None:
    """Eigenvalues of the Hessian as a density over a symmetric logarithmic axis."""
    density = found.curvature.density
    nodes, weights = density.nodes.ravel(), density.weights.ravel() / len(density.nodes)
    largest, small = np.abs(nodes).max(), 1e-6 * np.abs(nodes).max()
    sides = np.geomspace(small, largest, 25)
    bins = np.concatenate([-sides[::-1], sides])
    counts = np.histogram(np.clip(nodes, bins[0], bins[-1]), bins, weights=weights)[0]
    counts *= int(np.asarray(density.dimension))
    ax.stairs(counts, bins, fill=True, alpha=0.4, color="C0")
    ax.axvline(found.optimizer.edge, color="C1", label="edge of the optimizer")
    sharpness = found.curvature.sharpness.value
    ax.axvline(sharpness, color=style.darker("C0"), linestyle=":", label="largest eigenvalue")
    ax.set_xscale("symlog", linthresh=small)
    decades = 10.0 ** np.arange(np.ceil(np.log10(10 * small)), np.log10(2 * largest), 3)
    negative = -decades[::-1] if nodes.min() < -10 * small else []
    ax.set_xticks([*negative, 0, *decades])
    ax.set_xlim(None if len(negative) else -small, None)
    ax.set(yscale="log", xlabel="eigenvalue of the Hessian", ylabel="eigenvalues per bin")
    ax.set_ylim(0.1, 100 * counts.max())  # room for the legend
    ax.legend(loc="upper center")
