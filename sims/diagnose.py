"""How stable a user's own network is under SGD: everything measured once, next to what theory says.

``diagnose(network, key)`` takes a ``sims.user_network.Network``. The Gram of all examples and
outputs gives exact thresholds while it is small enough; beyond ``gram_limit`` rows the report says
so and gives bounds instead.

Thresholds linearise the outputs: they are exact where the loss interpolates, and hold for the
Gauss-Newton part of the curvature elsewhere. How far the point is from a minimum is part of the
report: loss, norm of the gradient, and both traces. They are those of plain SGD and heavy ball;
for other optimisers the edge of the full batch is given, and SGD's thresholds are named as such.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dynamics.curvature import gauss_newton_vp, hvp
from dynamics.eigenpairs import top_eigenpairs
from dynamics.gram import gauss_newton_trace, gradient_gram
from dynamics.linearized_sgd import lyapunov_exponent
from dynamics.spectral_density import Quadrature, spectral_density
from dynamics.stability import batch_sharpness
from dynamics.trace_estimators import trace
from sims.output_curvature import kinked_examples, output_weights
from sims.user_network import Network
from theory.stability.bounds import stability_bounds
from theory.stability.mean_square import growth_rate, mean_square_threshold
from theory.stability.thresholds import optimizer_threshold

MISSED = 0.05  # share of the curvature that the linearised outputs may miss without a note
GRAM_LIMIT = 2048  # rows, examples times outputs, of the largest Gram that is formed
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
PROBES = 4  # random directions in which the Hessian is compared with the Gauss-Newton matrix
LEADING = 10  # samples named of those that carry the instability
REQUIRED = ("kind", "learning_rate", "batch_size")


class Estimate(NamedTuple):
    """A number and its error: a standard error or a residual, zero where it is exact."""

    value: float
    error: float


class Point(NamedTuple):
    """Where in parameter space, and on which loss."""

    examples: int
    outputs: int
    parameters: int
    normalization: str
    loss: float
    gradient_norm: float
    kinked_examples: int


class Curvature(NamedTuple):
    """Of the full loss; the Gauss-Newton trace is exact. ``products`` counts those with H.

    ``missed`` is the Frobenius distance of the Hessian from the Gauss-Newton matrix, in units of
    the latter's norm, from ``PROBES`` random directions: zero where the loss interpolates.
    """

    sharpness: Estimate
    trace: Estimate
    gauss_newton_trace: float
    missed: float
    density: Quadrature
    products: int


class Optimizer(NamedTuple):
    """Settings, and the curvature beyond which its full-batch version is unstable."""

    kind: str
    learning_rate: float
    batch_size: int
    hyper: dict[str, float]
    edge: float


class BatchThreshold(NamedTuple):
    """Learning rate at SGD's edge: exact, or nan; and an upper bound that needs no Gram."""

    batch_size: int
    exact: float
    bound: float


class Stability(NamedTuple):
    """Of linearised SGD at the given settings. nan and empty where the Gram was too large."""

    frobenius_norm: float
    thresholds: tuple[BatchThreshold, ...]
    growth: float
    lyapunov: Estimate
    leading_samples: tuple[int, ...]
    leading_shares: tuple[float, ...]
    mean_of_ratios: Estimate
    ratio_of_means: Estimate


class Diagnosis(NamedTuple):
    """The report, in sections, with what a reader must know to read it."""

    point: Point
    curvature: Curvature
    optimizer: Optimizer
    stability: Stability
    notes: tuple[str, ...]


def diagnose(
    network: Network,
    key: jax.Array,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    num_matvecs: int = 60,
    gram_limit: int = GRAM_LIMIT,
) -> Diagnosis:
    """Measure the curvature at ``network.params`` and hold the optimiser against its edges.

    ``num_matvecs`` bounds the products of each estimator. Raises ``ValueError`` for settings of the
    optimiser that are missing, unknown or out of range.
    """
    optimizer = _optimizer(network)
    edge_key, batch_key, path_key = jax.random.split(key, 3)
    curvature = _curvature(network, edge_key, num_matvecs)
    weights, normalization = output_weights(network)
    n, c = weights.shape[:2]
    sizes = sorted({optimizer.batch_size, n, *(int(b) for b in batch_sizes if 1 <= b <= n)})
    if n * c <= gram_limit:
        stability = _exact(network, weights, optimizer, sizes, path_key)
    else:
        stability = _bounded(network, weights, curvature, sizes)
    sharpness = {
        form: Estimate(*map(float, found[:2]))
        for form, found in _batch_sharpness(network, optimizer, batch_key, num_matvecs).items()
    }
    gradient = jax.grad(network.batch_loss)(network.params, network.data)
    point = Point(
        examples=n,
        outputs=c,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(network.params)),
        normalization=normalization,
        loss=float(network.batch_loss(network.params, network.data)),
        gradient_norm=float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))),
        kinked_examples=kinked_examples(network),
    )
    stability = stability._replace(**sharpness)
    notes = _notes(point, curvature, optimizer, stability, n * c, gram_limit)
    return Diagnosis(point, curvature, optimizer, stability, notes)


def _optimizer(network: Network) -> Optimizer:
    """Settings, checked by what uses them: nothing is guessed but plain SGD."""
    settings = {"kind": "gd", **network.optimizer}
    missing = [name for name in REQUIRED if name not in settings]
    if missing:
        raise ValueError(f"optimizer must have {', '.join(missing)}, got {dict(network.optimizer)}")
    n, size = len(network.data[0]), settings["batch_size"]
    if int(size) != size or not 1 <= size <= n:
        raise ValueError(f"batch_size must be an integer from 1 to {n} (all examples), got {size}")
    hyper = {name: float(value) for name, value in settings.items() if name not in REQUIRED}
    kind, rate = settings["kind"], float(settings["learning_rate"])
    edge = float(optimizer_threshold(kind, rate, **hyper))
    return Optimizer(kind, rate, int(size), hyper, edge)


def _curvature(network: Network, key: jax.Array, num_matvecs: int) -> Curvature:
    """Largest eigenvalue, trace and density of the full Hessian; params and data are arguments."""
    keys = jax.random.split(key, 3)

    @jax.jit
    def measure(params, data, keys):
        matvec = partial(hvp, network.batch_loss, params, data)
        top = top_eigenpairs(matvec, params, keys[0], num_matvecs=num_matvecs, tolerance=1e-4)
        total = trace(matvec, params, keys[1], num_matvecs=num_matvecs)
        density = spectral_density(
            matvec, params, keys[2], num_probes=2, num_steps=num_matvecs // 2
        )
        return top.values[0], top.residual_norms[0], top.num_matvecs, total, density

    value, residual, spent, total, density = measure(network.params, network.data, keys)
    weights, _ = output_weights(network)
    return Curvature(
        sharpness=Estimate(float(value), float(residual)),
        trace=Estimate(float(total.value), float(total.standard_error)),
        gauss_newton_trace=_gauss_newton_trace(network, weights),
        missed=_missed(network, keys[1]),
        density=jax.tree.map(np.asarray, density),
        products=PROBES + int(spent) + int(total.num_matvecs) + int(density.num_matvecs),
    )


def _missed(network: Network, key: jax.Array) -> float:
    """Relative distance of the Hessian from the Gauss-Newton matrix."""

    @jax.jit
    def measure(params, data, keys):
        def along(key):
            flat, back = ravel_pytree(params)
            v = back(jax.random.rademacher(key, flat.shape, flat.dtype))
            full = ravel_pytree(hvp(network.batch_loss, params, data, v))[0]
            part = ravel_pytree(gauss_newton_vp(network.apply, network.loss, params, data, v))[0]
            return jnp.sum((full - part) ** 2), jnp.sum(part**2)

        distance, size = jax.lax.map(along, keys)
        return jnp.sqrt(jnp.sum(distance) / jnp.sum(size))

    return float(measure(network.params, network.data, jax.random.split(key, PROBES)))


def _gauss_newton_trace(network: Network, weights: jax.Array) -> float:
    @jax.jit
    def measure(params, x, weights):
        return gauss_newton_trace(network.columns, params, x, output_weights=weights)

    return float(measure(network.params, network.data[0], weights))


def _exact(
    network: Network, weights: jax.Array, optimizer: Optimizer, sizes: Sequence[int], key: jax.Array
) -> Stability:
    """Everything that follows from the Gram."""
    gram = jax.jit(partial(gradient_gram, network.columns))(
        network.params, network.data[0], output_weights=weights
    )
    momentum = optimizer.hyper.get("momentum", 0.0) if optimizer.kind == "heavy_ball" else 0.0
    rate, size, n = optimizer.learning_rate, optimizer.batch_size, len(gram)
    thresholds = tuple(
        BatchThreshold(
            batch,
            float(mean_square_threshold(gram, batch, momentum).learning_rate),
            min(float(bound) for bound in stability_bounds(gram, batch)) * (1 + momentum),
        )
        for batch in sizes
    )
    growth = growth_rate(gram, rate, size, momentum)
    paths = lyapunov_exponent(
        key, gram, learning_rate=rate, batch_size=size, steps=1000, chains=16, momentum=momentum
    )
    leading = np.argsort(-np.asarray(growth.share))[: min(LEADING, n)]
    return Stability(
        frobenius_norm=float(jnp.linalg.norm(gram) / n),
        thresholds=thresholds,
        growth=float(growth.rate),
        lyapunov=Estimate(float(paths.value), float(paths.standard_error)),
        leading_samples=tuple(map(int, leading)),
        leading_shares=tuple(float(growth.share[i]) for i in leading),
        mean_of_ratios=NOTHING,
        ratio_of_means=NOTHING,
    )


NOTHING = Estimate(np.nan, np.nan)


def _bounded(
    network: Network, weights: jax.Array, curvature: Curvature, sizes: Sequence[int]
) -> Stability:
    """What is left without the Gram: bounds from the sharpness and the exact trace."""
    outputs = weights.shape[1]
    bounds = (
        min(2 / curvature.sharpness.value, 2 * outputs * size / curvature.gauss_newton_trace)
        for size in sizes
    )
    return Stability(
        frobenius_norm=np.nan,
        thresholds=tuple(
            BatchThreshold(size, np.nan, bound) for size, bound in zip(sizes, bounds, strict=True)
        ),
        growth=np.nan,
        lyapunov=NOTHING,
        leading_samples=(),
        leading_shares=(),
        mean_of_ratios=NOTHING,
        ratio_of_means=NOTHING,
    )


def _batch_sharpness(
    network: Network, optimizer: Optimizer, key: jax.Array, num_batches: int
) -> Mapping[str, Any]:
    def measure(form):
        @jax.jit
        def of(params, data, key):
            return batch_sharpness(
                network.batch_loss,
                params,
                data,
                key,
                batch_size=optimizer.batch_size,
                num_batches=num_batches,
                form=form,
            )

        return of(network.params, network.data, key)

    return {form: measure(form) for form in ("mean_of_ratios", "ratio_of_means")}


def _notes(
    point: Point,
    curvature: Curvature,
    optimizer: Optimizer,
    stability: Stability,
    rows: int,
    gram_limit: int,
) -> tuple[str, ...]:
    """What a reader must know before trusting a number."""
    notes = []
    if rows > gram_limit:
        notes.append(
            f"The Gram would have {rows} rows (examples x outputs), more than {gram_limit}: no "
            "exact thresholds, bounds only."
        )
    if curvature.missed > MISSED:
        notes.append(
            "Not close to an interpolating minimum: the Hessian differs from the Gauss-Newton "
            f"matrix by {curvature.missed:.0%} of its norm. Thresholds hold for the latter."
        )
    if point.kinked_examples:
        notes.append(
            f"{point.kinked_examples} of {point.examples} examples sit on a kink of the network, "
            "where products with the Hessian depend on rounding; Gram and its thresholds do not."
        )
    if optimizer.kind not in ("gd", "heavy_ball"):
        notes.append(
            f"Thresholds by batch size are those of plain SGD; for {optimizer.kind} only the "
            "full-batch edge is known, in the preconditioned curvature for adaptive methods."
        )
    if curvature.sharpness.error > 1e-3 * abs(curvature.sharpness.value):
        notes.append("The largest eigenvalue has not converged: ask for more products.")
    return tuple(notes)
