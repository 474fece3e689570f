"""The report: one HTML file with figures, equations, claims and provenance inside it.

It asks the network for nothing: figures are embedded as PNG, equations are MathML, there is no
script. The same results give the same bytes.
"""

import base64
import shlex
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jinja2
from latex2mathml.converter import convert
from markupsafe import Markup, escape

from figures.tables import flatten, numbers
from sims import atomic, config
from sims.experiment import Experiment, Result

CSS_PIXELS_PER_INCH = 120  # a 7 in figure fills the text column; 300 dpi then is 2.5 x its pixels


class Entry(NamedTuple):
    """One experiment in the report; ``png`` is its figure, or None if it has no draw function."""

    experiment: Experiment
    result: Result
    png: bytes | None


def write(path: Path | str, entries: Sequence[Entry]) -> Path:
    """Write the report atomically. Raises StorageError if it cannot be written."""
    atomic.write_bytes(path, render(entries).encode())
    return Path(path)


def render(entries: Sequence[Entry]) -> str:
    """Return the report as one HTML document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    verdicts = [verdict for entry in entries for verdict in entry.result.verdicts]
    return environment.get_template("report.html.j2").render(
        sections=[_section(entry) for entry in entries],
        held=sum(verdict.holds for verdict in verdicts),
        total=len(verdicts),
    )


def _section(entry: Entry) -> dict[str, Any]:
    experiment, result, png = entry
    errors = {claim.name: claim.error for claim in experiment.claims}
    return {
        "experiment": experiment,
        "rows": [(v, errors.get(v.claim, ""), numbers(v)) for v in result.verdicts],
        "held": sum(verdict.holds for verdict in result.verdicts),
        "equations": [equation(latex) for latex in experiment.equations],
        "figure": png and _image(png),
        "config": _differences(experiment.quick, result.config),
        "command": reproduce(experiment, result),
        "provenance": flatten(_merged(result.provenance)),
    }


def _merged(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance with its environment one level up, and without whether the store had it."""
    own = {name: value for name, value in provenance.items() if name != "cached"}
    return own | own.pop("environment", {})


def equation(latex: str) -> Markup:
    """Return MathML for a LaTeX formula, or the formula itself as code where it has no MathML.

    >>> equation(r"u(t)")[:5], equation(r"\\unknown{x}")
    (Markup('<math'), Markup('<code class="latex">\\\\unknown{x}</code>'))
    """
    try:
        mathml = convert(latex, display="block")
        ElementTree.fromstring(mathml)
    except Exception:  # the converter raises a dozen different errors for what it cannot parse
        mathml = "\\"
    if "\\" in mathml:  # a command that the converter does not know is passed through
        return Markup('<code class="latex">{}</code>').format(latex)
    return Markup(mathml.replace("<math ", f'<math alttext="{escape(latex)}" ', 1))


def _image(png: bytes) -> dict[str, Any]:
    """A data URI and the size on the page, read from the PNG's header and its pHYs chunk."""
    width, height = struct.unpack(">II", png[16:24])
    at = png.find(b"pHYs")
    per_metre = struct.unpack(">I", png[at + 4 : at + 8])[0] if at > 0 else 300 / 0.0254
    scale = CSS_PIXELS_PER_INCH / (per_metre * 0.0254)
    return {
        "uri": "data:image/png;base64," + base64.b64encode(png).decode(),
        "width": round(width * scale),
        "height": round(height * scale),
    }


def _differences(preset: Any, used: Any) -> list[tuple[str, str, bool]]:
    """Rows (field, value, whether the preset has another value), as ``--set`` writes values."""
    rows = zip(config.describe(preset), config.describe(used), strict=True)
    return [(now.name, now.default, now.default != then.default) for then, now in rows]


def reproduce(experiment: Experiment, result: Result) -> str:
    """Return the command that computes this result again, from the nearer of the two presets."""
    changes = {}
    for flag, preset in (("", experiment.quick), ("--full", experiment.full)):
        rows = _differences(preset, result.config)
        changes[flag] = [f"--set={name}={value}" for name, value, new in rows if new]
    flag = min(changes, key=lambda name: len(changes[name]))
    seed = result.provenance.get("seed", 0)
    words = ["ldyn", "run", result.name, flag, *changes[flag], f"--seed={seed}" if seed else ""]
    return shlex.join(word for word in words if word)
