"""One look for every figure: a dark solid line is theory, the lighter marks under it simulation.

Draw functions build a ``matplotlib.figure.Figure`` with ``panels`` (never pyplot, so there is no
global state to leak) and put marks on it with ``theory_line``, ``simulation_points`` and
``simulation_band``. ``save`` writes the same bytes for the same result: no dates, fixed salts.
"""

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from sims import atomic

STYLE_SHEET = Path(__file__).with_name("paper.mplstyle")
WIDTH = {1: 3.4, 2: 7.0}  # inches: one text column, both text columns
FORMATS = ("png", "pdf", "svg")
SPREAD = (0.16, 0.5, 0.84)  # central 68 % and median: one standard deviation, were it a Gaussian
NEUTRAL = "#4D4D4D"


@contextmanager
def paper() -> Iterator[None]:
    """Apply the style sheet, and nothing of the user's own matplotlibrc, within the block."""
    with mpl.rc_context(fname=STYLE_SHEET):
        yield


def panels(
    rows: int = 1, columns: int = 1, *, span: int = 2, height: float | None = None, **subplots: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, shape (rows, columns), ``span`` text columns wide.

    ``height`` is in inches (by default each panel has the proportions 4:3); further keywords go
    to ``Figure.subplots``.

    >>> figure, axes = panels(1, 3)
    >>> axes.shape
    (1, 3)
    """
    width = WIDTH[span]
    height = height or rows * 0.75 * width / columns
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def ordered_colors(count: int) -> list[str]:
    """Return ``count`` colours for an ordered quantity (mode rank, depth, gain), dark to light.

    Cut from viridis, which keeps its order in grey-scale and for colour-blind readers; its
    yellow end, too faint on white, is left out.
    """
    return [colors.to_hex(mpl.colormaps["viridis"](at)) for at in np.linspace(0.05, 0.85, count)]


def darker(color: Any, amount: float = 0.3) -> tuple[float, float, float]:
    """Return ``color`` moved towards black by the fraction ``amount``."""
    red, green, blue = colors.to_rgb(color)
    return red * (1 - amount), green * (1 - amount), blue * (1 - amount)


def theory_line(
    ax: Axes, x: Any, y: Any, label: str | None = None, *, color: Any = "C0", **line: Any
) -> Line2D:
    """Draw a prediction: a solid line, darker than the simulation it lies on."""
    options = {"color": darker(color), "label": label, "zorder": 3, **line}
    return ax.plot(np.asarray(x), np.asarray(y), **options)[0]


def simulation_points(
    ax: Axes, x: Any, values: Any, label: str | None = None, *, color: Any = "C0"
) -> None:
    """Draw measurements ``values`` (seeds, x) or (x,): the median, bars over the central 68 %.

    Quantiles, not standard deviations, so that bars stay positive on a logarithmic axis.
    """
    low, middle, high = _spread(values)
    style: dict[str, Any] = {"fmt": "o", "mew": 0, "alpha": 0.55, "elinewidth": 0.8, "zorder": 2}
    bars = np.stack([middle - low, high - middle])
    ax.errorbar(np.asarray(x), middle, yerr=bars, color=color, label=label, **style)


def simulation_band(
    ax: Axes, x: Any, values: Any, label: str | None = None, *, color: Any = "C0"
) -> None:
    """Draw measurements ``values`` (seeds, x): the central 68 % as a band, the median in it."""
    low, middle, high = _spread(values)
    x = np.asarray(x)
    ax.fill_between(x, low, high, color=color, alpha=0.28, linewidth=0, label=label, zorder=1)
    ax.plot(x, middle, color=color, alpha=0.55, linewidth=2.4, zorder=2)


def _spread(values: Any) -> np.ndarray:
    """Quantiles over the leading (seed) axis, shape (3, x); what diverged (NaN) is left out."""
    values = np.atleast_2d(np.asarray(values, float))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # nothing left there: nothing drawn
        return np.nanquantile(np.where(np.isfinite(values), values, np.nan), SPREAD, axis=0)


def legend(
    ax: Axes, *, simulation: Literal["points", "band"] | None = "points", **options: Any
) -> None:
    """Add a legend: the labelled series, then in grey what a line and a mark stand for."""
    handles, labels = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=darker(NEUTRAL)))
    labels.append("theory")
    if simulation == "points":
        handles.append(Line2D([], [], color=NEUTRAL, marker="o", linestyle="", mew=0, alpha=0.55))
    elif simulation == "band":
        handles.append(Patch(facecolor=NEUTRAL, alpha=0.4, linewidth=0))
    if simulation:
        labels.append("simulation")
    ax.legend(handles, labels, **options)


def plain_ticks(*axes: Axis) -> None:
    """Label 1, 2, 5, 10, ... as they are, on logarithmic axes that span about a decade.

    >>> _, ((panel,),) = panels()
    >>> panel.set_yscale("log"), plain_ticks(panel.yaxis)
    (None, None)
    """
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def panel_letters(axes: Iterable[Axes] | np.ndarray) -> None:
    """Letter the panels **a**, **b**, ... at their top left, in reading order."""
    flat: Sequence[Axes] = list(np.asarray(axes, dtype=object).flat)
    for index, ax in enumerate(flat):
        ax.set_title(chr(ord("a") + index), loc="left", fontweight="bold", fontsize=10)


def save(
    figure: Figure,
    stem: str | Path,
    formats: Iterable[str] = FORMATS,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write ``stem.png``, ``stem.pdf``, ...; each appears whole or not at all.

    ``metadata`` may hold ``Title``, ``Source`` and ``Description`` (the provenance, as JSON);
    they go into the fields each format has for them. Raises ValueError for an unknown format.
    """
    written = []
    for kind in formats:
        if kind not in FORMATS:
            raise ValueError(f"formats must be among {', '.join(FORMATS)}, got {kind!r}")
        buffer = io.BytesIO()
        with paper():
            figure.savefig(buffer, format=kind, metadata=_metadata(kind, metadata or {}))
        path = Path(f"{stem}.{kind}")
        atomic.write_bytes(path, buffer.getvalue())
        written.append(path)
    return tuple(written)


def _metadata(kind: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Translate to a format's own field names; ``None`` removes the date it would stamp."""
    title, source = metadata.get("Title", ""), metadata.get("Source", "")
    description = metadata.get("Description", "")
    if kind == "pdf":
        return {"Title": title, "Subject": description, "Keywords": source, "CreationDate": None}
    fields = {"Title": title, "Source": source, "Description": description}
    return fields | {"Date": None} if kind == "svg" else fields
