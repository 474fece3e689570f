"""What a diagnosis of a user's own network holds, and how its optimiser's settings are read."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dynamics.spectral_density import Quadrature
from sims.network_regime import NetworkRegime
from sims.user_network import Network
from theory.stability.thresholds import (
    largest_learning_rate,
    optimizer_threshold,
    trace_threshold,
)

REQUIRED = ("kind", "learning_rate", "batch_size")
PRECONDITIONER = ("b1", "b2", "eps", "eps_root")  # constants of an adaptive method's state
ADAPTIVE = ("rmsprop", "adam", "adamw", "nadam")


class Estimate(NamedTuple):
    """A number and its error: a standard error or a residual, zero where it is exact."""

    value: float
    error: float


NOTHING = Estimate(np.nan, np.nan)


class Point(NamedTuple):
    """Where in parameter space, and on which loss.

    ``kinked_units`` of ``units`` inputs of ReLUs (one for each example) sit on the kink;
    ``kinked_examples`` counts examples whose outputs change slope there, whatever the cause.
    """

    examples: int
    outputs: int
    parameters: int
    normalization: str
    loss: float
    gradient_norm: float
    kinked_examples: int
    kinked_units: int
    units: int


class Curvature(NamedTuple):
    """Of the full loss; the Gauss-Newton trace is exact. ``products`` counts those with H.

    ``missed`` is the Frobenius distance of the Hessian from the Gauss-Newton matrix, in units of
    the latter's norm, from a few random directions: zero where the loss interpolates.
    ``preconditioned`` is the largest eigenvalue of P^-1 H for the optimiser's live state, nan
    without one.
    """

    sharpness: Estimate
    trace: Estimate
    gauss_newton_trace: float
    missed: float
    density: Quadrature
    products: int
    preconditioned: Estimate = NOTHING


class Optimizer(NamedTuple):
    """Settings, and the curvature beyond which its full-batch version is unstable.

    ``constants`` are those of an adaptive method's preconditioner, as far as they are given.
    """

    kind: str
    learning_rate: float
    batch_size: int
    hyper: dict[str, float]
    constants: dict[str, float]
    edge: float

    @property
    def momentum(self) -> float:
        """That of heavy ball; other optimisers are read as plain SGD, which a note says."""
        return self.hyper.get("momentum", 0.0) if self.kind == "heavy_ball" else 0.0


class BatchThreshold(NamedTuple):
    """Learning rate at SGD's edge: exact, or nan; and an upper bound of it.

    With momentum only the bound of the mean is known, GD's ``(2 + 2 beta) / lmax``.
    """

    batch_size: int
    exact: float
    bound: float


class Stability(NamedTuple):
    """Of linearised SGD at the given settings. nan and empty where the Gram was too large.

    ``mean_of_ratios`` and ``ratio_of_means`` are the two forms of the batch sharpness.
    """

    mean_of_ratios: Estimate
    ratio_of_means: Estimate
    thresholds: tuple[BatchThreshold, ...] = ()
    frobenius_norm: float = np.nan
    growth: float = np.nan
    lyapunov: Estimate = NOTHING
    leading_samples: tuple[int, ...] = ()
    leading_shares: tuple[float, ...] = ()


class Diagnosis(NamedTuple):
    """The report, in sections, with what a reader must know to read it.

    ``regime`` is that of training from ``network.initial``, None where that is not given.
    """

    point: Point
    curvature: Curvature
    optimizer: Optimizer
    stability: Stability
    notes: tuple[str, ...]
    regime: NetworkRegime | None = None


def read_optimizer(network: Network) -> Optimizer:
    """Settings, checked by what uses them: nothing is guessed but plain SGD.

    Raises ``ValueError`` for settings that are missing, unknown or out of range.
    """
    settings = {"kind": "gd", **network.optimizer}
    missing = [name for name in REQUIRED if name not in settings]
    if missing:
        raise ValueError(f"optimizer must have {', '.join(missing)}, got {dict(network.optimizer)}")
    n, size = len(network.data[0]), settings["batch_size"]
    if int(size) != size or not 1 <= size <= n:
        raise ValueError(f"batch_size must be an integer from 1 to {n} (all examples), got {size}")
    kind, rate = settings["kind"], float(settings["learning_rate"])
    hyper = {name: float(value) for name, value in settings.items() if name not in REQUIRED}
    constants = {}
    if kind in ADAPTIVE:
        constants = {name: hyper[name] for name in PRECONDITIONER if name in hyper}
        kept = "b1" if kind != "rmsprop" else ""
        hyper = {name: value for name, value in hyper.items() if name not in {*constants} - {kept}}
    edge = float(optimizer_threshold(kind, rate, **hyper))
    return Optimizer(kind, rate, int(size), hyper, constants, edge)


def edge_bound(
    sharpness: ArrayLike, trace: ArrayLike, outputs: int, batch_size: int, momentum: float
) -> jax.Array:
    """Learning rate that SGD's edge does not exceed: GD's and, without momentum, the trace's.

    The Gauss-Newton trace of c outputs bounds it by 2 c B/tr, ``trace_threshold`` turned round.

    >>> float(edge_bound(4.0, 10.0, outputs=1, batch_size=2, momentum=0.0))
    0.4
    """
    positive = jnp.maximum(sharpness, jnp.finfo(float).tiny)  # no bound where nothing is convex
    mean = largest_learning_rate("heavy_ball", positive, momentum=momentum)
    return mean if momentum else jnp.minimum(mean, trace_threshold(trace, batch_size, outputs))
