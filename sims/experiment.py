"""An experiment pairs a prediction with a measurement, and claims compare the two.

Plain data and plain functions. ``predict(config)`` evaluates theory, ``simulate(config, key)``
trains or samples; both return a dict of named arrays. A claim reads one number (or array) from
each and says how far apart they may be, and why.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

Arrays = Mapping[str, Any]  # of NumPy or JAX arrays


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
    must not be zero: an error relative to zero means nothing, and a claim that cannot fail under a
    factor of two is a defect (``error="absolute"`` is for quantities that live on a fixed scale,
    such as fitted exponents). Raises ``ValueError`` for a relative tolerance of 0.5 or more: no
    prediction that is twice the measured value would fail it.
    """

    name: str
    predicted: Callable[[Arrays], Any]
    measured: Callable[[Arrays], Any]
    tolerance: float | Callable[[Arrays, Arrays], Any]
    because: str
    error: Literal["relative", "absolute"] = "relative"

    def __post_init__(self) -> None:
        limit = 0.5 if self.error == "relative" else np.inf
        if not callable(self.tolerance) and not 0 <= self.tolerance < limit:
            raise ValueError(
                f"tolerance of claim {self.name!r} must be at least 0 and below {limit} "
                f"({self.error} error), got {self.tolerance}"
            )


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
    take the runner's ``sweep`` to gain checkpoints, progress and sharding. The name is also the
    name of a folder in the store. Raises ``ValueError`` for a name that cannot be one, configs
    that are not two of a kind, and claims that are missing or share a name.
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

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"name must be a plain word like 'saxe2014_modes', got {self.name!r}")
        kind = type(self.quick)
        frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        if not frozen or type(self.full) is not kind:
            raise ValueError(f"quick and full of {self.name} must be of one frozen dataclass")
        if not self.claims or len({claim.name for claim in self.claims}) < len(self.claims):
            raise ValueError(f"claims of {self.name} must be present and have distinct names")


def is_name(text: str) -> bool:
    """Whether an experiment may be called this: a plain word, good for a folder and a command."""
    return bool(re.fullmatch(r"[a-z0-9][a-z0-9_]*", text)) and text not in ("all", "quarantine")


def accepts_sweep(simulate: Callable[..., Any]) -> bool:
    """Whether a ``simulate`` wants the runner's ``sweep``."""
    return "sweep" in inspect.signature(simulate).parameters


class Result(NamedTuple):
    """What one run gave: everything a figure, a table or a report may show."""

    name: str
    config: Any
    predicted: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    verdicts: tuple[Verdict, ...]
    provenance: dict[str, Any]


def judge(claim: Claim, predicted: Arrays, measured: Arrays) -> Verdict:
    """Hold one claim against the arrays and report its worst element.

    Predicted, measured and tolerance broadcast together. Empty arrays, NaN or infinity anywhere
    (a tolerance without bound included) fail the claim. Raises ``ValueError`` naming the claim if
    the values are complex or do not broadcast.

    >>> claim = Claim("speed", lambda p: p["v"], lambda m: m["v"], 0.1, "two digits")
    >>> judge(claim, {"v": np.array([1.0, 2.0])}, {"v": np.array([1.05, 2.5])})[:4]
    ('speed', 2.0, 2.5, 0.25)
    """
    tolerance = claim.tolerance
    if callable(tolerance):
        tolerance = tolerance(predicted, measured)
    theory, found, allowed = _broadcast(
        claim, claim.predicted(predicted), claim.measured(measured), tolerance
    )
    if theory.size == 0:
        return Verdict(claim.name, np.nan, np.nan, np.nan, np.nan, claim.because, holds=False)
    scale = np.abs(theory) if claim.error == "relative" else np.ones_like(theory)
    with np.errstate(all="ignore"):
        error = np.abs(found - theory) / scale
        held = np.isfinite(error) & np.isfinite(allowed) & (error <= allowed)
        excess = np.nan_to_num(error / allowed, nan=np.inf, posinf=np.inf)
    # Whatever fails ranks above whatever holds; 0/0, an exact claim that is met, ranks as just met.
    rank = np.where(held, np.minimum(excess, 1.0), 1.0 + np.maximum(excess, 1.0))
    worst = np.unravel_index(np.argmax(rank), rank.shape)
    return Verdict(
        claim.name,
        predicted=float(theory[worst]),
        measured=float(found[worst]),
        error=float(error[worst]),
        tolerance=float(allowed[worst]),
        because=claim.because,
        holds=bool(held.all()),
    )


def judge_all(experiment: Experiment, predicted: Arrays, measured: Arrays) -> tuple[Verdict, ...]:
    """Verdicts of every claim of an experiment, in the order they are listed."""
    return tuple(judge(claim, predicted, measured) for claim in experiment.claims)


def corruptions(claim: Claim, predicted: Arrays) -> Iterator[Claim]:
    """The claim with its prediction spoilt, in every way that a sharp claim must notice.

    * doubled, and sign flipped: unless the prediction is zero throughout, where neither changes it;
    * wrong power: ``p |p| / g`` with ``g`` the geometric mean of ``|p|``, for relative claims
      whose predictions span at least a factor of four (one number has no power to get wrong);
      ``p + 1`` for absolute claims, whose predictions are exponents and their like.

    A test judges each against the arrays of a run in which the claim holds and requires that it
    fails.

    >>> claim = Claim("rate", lambda p: p["rate"], lambda m: m["rate"], 0.1, "fit", "absolute")
    >>> [spoilt.name for spoilt in corruptions(claim, {"rate": np.array(-1.0)})]
    ['rate, doubled', 'rate, sign flipped', 'rate, wrong power']
    """
    values = np.asarray(claim.predicted(predicted), float)
    spoilers: dict[str, Callable[[np.ndarray], Any]] = {}
    if np.any(values != 0):
        spoilers |= {"doubled": lambda p: 2 * p, "sign flipped": lambda p: -p}
    if claim.error == "absolute":
        spoilers["wrong power"] = lambda p: p + 1
    elif np.abs(values).max() >= 4 * np.abs(values).min():
        spoilers["wrong power"] = lambda p: p * np.abs(p) / np.exp(np.mean(np.log(np.abs(p))))
    for how, spoil in spoilers.items():
        yield replace(claim, name=f"{claim.name}, {how}", predicted=_after(claim.predicted, spoil))


def _after(read: Callable[[Arrays], Any], spoil: Callable[[np.ndarray], Any]) -> Callable:
    return lambda predicted: spoil(np.asarray(read(predicted), float))


def _broadcast(claim: Claim, *values: Any) -> list[np.ndarray]:
    arrays = [np.asarray(value) for value in values]
    try:
        if any(np.iscomplexobj(array) for array in arrays):
            raise ValueError("complex values")
        return [np.asarray(array, float) for array in np.broadcast_arrays(*arrays)]
    except ValueError as error:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"claim {claim.name!r} must compare real values that broadcast; predicted, measured "
            f"and tolerance have shapes {shapes}: {error}"
        ) from error
