"""One verdict on a training run, lazy, intermediate or rich, with the evidence it rests on."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.gram import Apply
from dynamics.regime import (
    kernel_change,
    kernel_distance,
    kernel_target_alignment,
    linearization_error,
    weight_change,
)
from dynamics.tangent_kernel import empirical_ntk

# (lazy below, rich above). Conventions, not theorems: the points that cut into thirds, on a
# logarithmic axis, the gap between the largest value among lazy (alpha >= 8) and the smallest among
# rich runs (alpha <= 1/8) of F = alpha (f - f_0), two layers of 256 units in the NTK
# parametrisation, tanh and ReLU, three seeds each: 0.032 to 0.83, 0.015 to 1.9, 1.0e-4 to 2.9e-2
# and 5.1e-5 to 4.4e-2. By the laws in alpha all four change their mind at about the same alpha.
THRESHOLDS = {
    "weight_change": (0.1, 0.3),
    "kernel_change": (0.08, 0.4),
    "kernel_distance": (7e-4, 5e-3),
    "representation_distance": (5e-4, 5e-3),
}


class RegimeMeasures(NamedTuple):
    """What moved, as in ``dynamics.regime``; kernels are means over outputs.

    ``kernel_scale`` is the factor s for which s K0 is closest to K1. None: not asked for.
    """

    weight_change: Float[Array, ""]
    kernel_change: Float[Array, ""]
    kernel_scale: Float[Array, ""]
    kernel_distance: Float[Array, ""]
    centered_kernel_distance: Float[Array, ""]
    representation_distance: Float[Array, ""] | None
    target_alignment_gain: Float[Array, ""] | None
    linearization_error: Float[Array, ""] | None


class Evidence(NamedTuple):
    """One measure, its value, its two thresholds, and what it says by them."""

    measure: str
    value: float
    lazy_below: float
    rich_above: float
    says: str


class RegimeReport(NamedTuple):
    """``regime``: "lazy", "intermediate", "rich" or, if every measure is nan, "undefined".

    ``rescaled``: the kernel changed in size and hardly in direction.
    """

    regime: str
    evidence: tuple[Evidence, ...]
    rescaled: bool
    measures: RegimeMeasures


def regime_report(
    apply: Apply,
    params0: PyTree[Any],
    params1: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    y: Float[ArrayLike, "..."] | None = None,
    x_test: Float[ArrayLike, "n_test ..."] | None = None,
    *,
    hidden: Callable[[PyTree[Any], Array], Array] | None = None,
    chunk: int | None = None,
    thresholds: dict[str, tuple[float, float]] = THRESHOLDS,
) -> RegimeReport:
    """Whether training from ``params0`` to ``params1`` was lazy, and by which measures.

    The relative weight change, the relative change of the tangent kernel, the kernel distance and,
    if ``hidden`` is given, that of the representations each say lazy, intermediate or rich by
    ``THRESHOLDS``, which are conventions. The verdict is lazy if all say lazy, rich if at least
    half say rich, intermediate otherwise; nan says nothing. Effective rank, kernel-target alignment
    and linearisation error take no part: they do not separate the regimes reliably.

    Distances do not see a kernel that only grows. ``rescaled`` says that this is what happened:
    distance below, relative change above its thresholds; the factor is ``measures.kernel_scale``.

    Arguments and errors as ``regime_measures``, and ``ValueError`` inside ``jit``: a verdict needs
    numbers.

    >>> def scalar(w, x): return w[0] * w[1] * x[:, 0]
    >>> x, start = jnp.array([[1.0], [-0.5]]), jnp.array([1.0, 1.0])
    >>> report = regime_report(scalar, start, 21**0.5 * start, x)
    >>> report.regime, report.rescaled, round(float(report.measures.kernel_scale), 9)
    ('rich', True, 21.0)
    >>> regime_report(scalar, start, 1.01 * start, x).regime
    'lazy'
    """
    measures = regime_measures(apply, params0, params1, x, y, x_test, hidden=hidden, chunk=chunk)
    if isinstance(measures.kernel_change, Tracer):
        raise ValueError("params must be numbers, got tracers: call regime_measures inside jit")
    evidence = tuple(
        _evidence(name, float(value), *bounds)
        for name, bounds in thresholds.items()
        if (value := getattr(measures, name)) is not None
    )
    spoken = {piece.measure: piece.says for piece in evidence}
    rescaled = (spoken.get("kernel_distance"), spoken.get("kernel_change")) == ("lazy", "rich")
    return RegimeReport(_verdict(evidence), evidence, rescaled, measures)


def regime_measures(
    apply: Apply,
    params0: PyTree[Any],
    params1: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    y: Float[ArrayLike, "..."] | None = None,
    x_test: Float[ArrayLike, "n_test ..."] | None = None,
    *,
    hidden: Callable[[PyTree[Any], Array], Array] | None = None,
    chunk: int | None = None,
) -> RegimeMeasures:
    """All measures of ``dynamics.regime`` between two points of training, without a verdict.

    Args:
        x: inputs of the kernels, those of training for instance; y: targets (n,) or (n, c), for the
            gain in centred kernel-target alignment; x_test: for the relative linearisation error,
            which forms kernels of all outputs.
        hidden: ``hidden(params, x)``, activity (n, features), for the distance of the
            representations, which are not centred.
        chunk: examples whose Jacobians are held at a time, by default all.

    Raises ``ValueError`` for parameters of different structure or shapes, and as ``empirical_ntk``.

    >>> def scale(w, x): return w * x[:, 0]
    >>> found = regime_measures(scale, jnp.array(1.0), jnp.array(3.0), jnp.ones((2, 1)))
    >>> float(found.weight_change), float(found.kernel_change)
    (2.0, 0.0)
    """
    shapes = [jax.tree.map(jnp.shape, params) for params in (params0, params1)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"params1 must have the shapes of params0, {shapes[0]}, got {shapes[1]}")
    x = jnp.asarray(x)
    kernel = partial(empirical_ntk, apply, x=x, outputs="mean", chunk=chunk)
    first, second = kernel(params0), kernel(params1)
    turned = gain = error = None
    if hidden is not None:
        before, after = hidden(params0, x), hidden(params1, x)
        turned = kernel_distance(before @ before.T, after @ after.T)
    if y is not None:
        gain = kernel_target_alignment(second, y) - kernel_target_alignment(first, y)
    if x_test is not None:
        error = linearization_error(apply, params0, params1, x, x_test, relative=True)
    return RegimeMeasures(
        weight_change=weight_change(params0, params1, relative=True),
        kernel_change=kernel_change(first, second),
        kernel_scale=jnp.sum(first * second) / jnp.sum(first**2),
        kernel_distance=kernel_distance(first, second),
        centered_kernel_distance=kernel_distance(first, second, centered=True),
        representation_distance=turned,
        target_alignment_gain=gain,
        linearization_error=error,
    )


def _evidence(measure: str, value: float, lazy_below: float, rich_above: float) -> Evidence:
    if math.isnan(value):
        says = "undefined"
    else:
        says = "lazy" if value < lazy_below else "rich" if value > rich_above else "intermediate"
    return Evidence(measure, value, lazy_below, rich_above, says)


def _verdict(evidence: tuple[Evidence, ...]) -> str:
    says = [piece.says for piece in evidence if piece.says != "undefined"]
    if not says:
        return "undefined"
    if set(says) == {"lazy"}:
        return "lazy"
    return "rich" if 2 * says.count("rich") >= len(says) else "intermediate"
