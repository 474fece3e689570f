"""An experiment pairs a prediction with a measurement, and claims compare the two.

Plain data and plain functions. ``predict(config)`` evaluates theory, ``simulate(config, key)``
trains or samples; both return a dict of named arrays. A claim reads one number (or array) from
each and says how far apart they may be, and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """Where a prediction comes from. ``where`` names the figure or section it reproduces."""

    authors: str
    year: int
    title: str
    arxiv: str
    where: str

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}), arXiv:{self.arxiv}, {self.where}"


@dataclass(frozen=True)
class Claim:
    """``|measured - predicted| <= tolerance``, elementwise, relative to ``|predicted|`` by default.

    ``predicted`` reads the prediction only and ``measured`` the measurement only, so that
    agreement is evidence. ``tolerance`` is a number, or a function of both dicts where it follows
    from them (4 standard errors, c*eta); ``because`` says why it has that size. Predicted values
    must not be zero: a relative error of zero means nothing, and a claim that cannot fail under a
    factor of two is a defect (``error="absolute"`` is for quantities that live on a fixed scale,
    such as fitted exponents).
    """

    name: str
    predicted: Callable[[Arrays], Any]
    measured: Callable[[Arrays], Any]
    tolerance: float | Callable[[Arrays, Arrays], Any]
    because: str
    error: Literal["relative", "absolute"] = "relative"


class Verdict(NamedTuple):
    """A claim's outcome, reported at its worst element (largest error in units of tolerance)."""

    claim: str
    predicted: float
    measured: float
    error: float
    tolerance: float
    because: str
    holds: bool


@dataclass(frozen=True)
class Experiment:
    """One paper's (or claim group's) prediction paired with its measurement.

    ``statement`` is one sentence for humans; ``equations`` are LaTeX lines for the report.
    ``quick`` and ``full`` are two instances of one frozen config dataclass; ``cost`` is their
    measured wall time in seconds on two CPU cores. ``simulate(config, key, sweep=...)`` may
    take the runner's ``sweep`` to gain checkpoints, progress and sharding.
    """

    name: str
    source: Source
    statement: str
    equations: tuple[str, ...]
    quick: Any
    full: Any
    cost: tuple[float, float]
    predict: Callable[[Any], Arrays]
    simulate: Callable[..., Arrays]
    claims: tuple[Claim, ...]


class Result(NamedTuple):
    """What one run gave: everything a figure, a table or a report may show."""

    name: str
    config: Any
    predicted: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    verdicts: tuple[Verdict, ...]
    provenance: dict[str, Any]


def judge(claim: Claim, predicted: Arrays, measured: Arrays) -> Verdict:
    """Hold one claim against the arrays; NaN on either side, or an empty array, fails it."""
    theory, found = np.broadcast_arrays(
        np.asarray(claim.predicted(predicted), float), np.asarray(claim.measured(measured), float)
    )
    tolerance = claim.tolerance
    if callable(tolerance):
        tolerance = tolerance(predicted, measured)
    allowed = np.broadcast_to(np.asarray(tolerance, float), theory.shape)
    if theory.size == 0:
        return Verdict(claim.name, np.nan, np.nan, np.nan, np.nan, claim.because, holds=False)
    scale = np.abs(theory) if claim.error == "relative" else np.ones_like(theory)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(found - theory) / scale
        excess = np.where(np.isfinite(error), error / allowed, np.inf)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
    holds = bool(np.all(np.isfinite(error)) and np.all(error <= allowed))
    return Verdict(
        claim.name,
        float(theory[worst]),
        float(found[worst]),
        float(error[worst]),
        float(allowed[worst]),
        claim.because,
        holds,
    )


def judge_all(experiment: Experiment, predicted: Arrays, measured: Arrays) -> tuple[Verdict, ...]:
    """Verdicts of every claim of an experiment, in the order they are listed."""
    return tuple(judge(claim, predicted, measured) for claim in experiment.claims)
