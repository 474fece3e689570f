"""How stable a user's own network is under SGD, and how lazily it was trained: measured once.

``diagnose(network, key)`` takes a ``sims.user_network.Network``. The Gram of all examples and
outputs gives exact thresholds while it is small enough; beyond ``gram_limit`` rows the report says
so and gives bounds instead.

Thresholds linearise the outputs: they are exact where the loss interpolates, and hold for the
Gauss-Newton part of the curvature elsewhere. How far the point is from a minimum is part of the
report: loss, norm of the gradient, and both traces. They are those of plain SGD and heavy ball;
for other optimisers the edge of the full batch is given, and SGD's thresholds are named as such.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.curvature import hvp
from dynamics.eigenpairs import top_eigenpairs
from dynamics.gram import gauss_newton_trace, gradient_gram
from dynamics.kinks import kinks
from dynamics.linearized_sgd import lyapunov_exponent
from dynamics.spectral_density import spectral_density
from dynamics.stability import batch_sharpness, preconditioned_sharpness
from dynamics.trace_estimators import trace
from sims.diagnosis import (
    ADAPTIVE,
    NOTHING,
    BatchThreshold,
    Curvature,
    Diagnosis,
    Estimate,
    Optimizer,
    Point,
    Stability,
    edge_bound,
    read_optimizer,
)
from sims.network_regime import network_regime
from sims.output_curvature import kinked_examples, missed_share, output_weights
from sims.user_network import Network
from theory.stability.bounds import stability_bounds
from theory.stability.mean_square import growth_rate, mean_square_threshold, mean_threshold

MISSED = 0.05  # share of the curvature that the linearised outputs may miss without a note
GRAM_LIMIT = 2048  # rows, examples times outputs, of the largest Gram that is formed
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
PROBES = 4  # random directions in which the Hessian is compared with the Gauss-Newton matrix
LEADING = 10  # samples named of those that carry the instability


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
    optimizer = read_optimizer(network)
    edge_key, batch_key, path_key = jax.random.split(key, 3)
    weights, normalization = output_weights(network)
    curvature = _curvature(network, weights, edge_key, num_matvecs)._replace(
        preconditioned=_preconditioned(network, optimizer, edge_key, num_matvecs)
    )
    n, c = weights.shape[:2]
    sizes = sorted({optimizer.batch_size, n, *(int(b) for b in batch_sizes if 1 <= b <= n)})
    mean, ratio = _batch_sharpness(network, optimizer, batch_key, num_matvecs)
    stability = Stability(mean_of_ratios=mean, ratio_of_means=ratio)
    if n * c <= gram_limit:
        exact = _exact(network, weights, optimizer, sizes, path_key)
        stability = stability._replace(**exact)
    else:
        stability = stability._replace(thresholds=_bounded(optimizer, curvature, c, sizes))
    point = _point(network, (n, c), normalization)
    notes = _notes(point, curvature, optimizer, gram_limit)
    regime = None
    if network.initial is not None:
        regime = network_regime(network, network.initial, network.params)
    return Diagnosis(point, curvature, optimizer, stability, notes, regime)


def _point(network: Network, shape: tuple[int, int], normalization: str) -> Point:
    value, gradient = jax.value_and_grad(network.batch_loss)(network.params, network.data)
    pre_activations = kinks(network.apply, network.params, network.data[0])
    return Point(
        examples=shape[0],
        outputs=shape[1],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(network.params)),
        normalization=normalization,
        loss=float(value),
        gradient_norm=float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))),
        kinked_examples=kinked_examples(network),
        kinked_units=int(pre_activations.on_kink),
        units=pre_activations.inputs,
    )


def _curvature(network: Network, weights: jax.Array, key: jax.Array, num_matvecs: int) -> Curvature:
    """Largest eigenvalue, trace and density of the full Hessian; params and data are arguments."""
    keys = jax.random.split(key, 4)

    @jax.jit
    def measure(params, data, keys):
        matvec = partial(hvp, network.batch_loss, params, data)
        top = top_eigenpairs(matvec, params, keys[0], num_matvecs=num_matvecs, tolerance=1e-4)
        total = trace(matvec, params, keys[1], num_matvecs=num_matvecs)
        density = spectral_density(
            matvec, params, keys[2], num_probes=2, num_steps=num_matvecs // 2
        )
        return top.values[0], top.residual_norms[0], top.num_matvecs, total, density

    missed = jax.jit(partial(missed_share, network))(
        network.params, network.data, jax.random.split(keys[3], PROBES)
    )
    value, residual, spent, total, density = measure(network.params, network.data, keys)
    return Curvature(
        sharpness=Estimate(float(value), float(residual)),
        trace=Estimate(float(total.value), float(total.standard_error)),
        gauss_newton_trace=_gauss_newton_trace(network, weights),
        missed=float(missed),
        density=jax.tree.map(np.asarray, density),
        products=PROBES + int(spent) + int(total.num_matvecs) + int(density.num_matvecs),
    )


def _preconditioned(
    network: Network, optimizer: Optimizer, key: jax.Array, num_matvecs: int
) -> Estimate:
    """Largest eigenvalue of P^-1 H at the live state of an adaptive optimiser, if there is one."""
    if optimizer.kind not in ADAPTIVE or network.opt_state is None:
        return NOTHING
    sizes = {"num_matvecs": num_matvecs, "tolerance": 1e-4}
    found = preconditioned_sharpness(
        network.batch_loss,
        network.params,
        network.data,
        network.opt_state,
        key,
        **optimizer.constants,
        **sizes,
    )
    return Estimate(float(found.values[0]), float(found.residual_norms[0]))


def _gauss_newton_trace(network: Network, weights: jax.Array) -> float:
    @jax.jit
    def measure(params, x, weights):
        return gauss_newton_trace(network.columns, params, x, output_weights=weights)

    return float(measure(network.params, network.data[0], weights))


def _exact(
    network: Network, weights: jax.Array, optimizer: Optimizer, sizes: Sequence[int], key: jax.Array
) -> dict[str, Any]:
    """Everything of ``Stability`` that follows from the Gram."""
    gram = jax.jit(partial(gradient_gram, network.columns))(
        network.params, network.data[0], output_weights=weights
    )
    momentum = optimizer.momentum
    rate, size, n = optimizer.learning_rate, optimizer.batch_size, len(gram)
    thresholds = tuple(
        BatchThreshold(
            batch,
            float(mean_square_threshold(gram, batch, momentum).learning_rate),
            float(
                mean_threshold(gram, momentum) if momentum else min(stability_bounds(gram, batch))
            ),
        )
        for batch in sizes
    )
    growth = growth_rate(gram, rate, size, momentum)
    paths = lyapunov_exponent(
        key, gram, learning_rate=rate, batch_size=size, steps=1000, chains=16, momentum=momentum
    )
    leading = np.argsort(-np.asarray(growth.share))[: min(LEADING, n)]
    return {
        "frobenius_norm": float(jnp.linalg.norm(gram) / n),
        "thresholds": thresholds,
        "growth": float(growth.rate),
        "lyapunov": Estimate(float(paths.value), float(paths.standard_error)),
        "leading_samples": tuple(map(int, leading)),
        "leading_shares": tuple(float(growth.share[i]) for i in leading),
    }


def _bounded(
    optimizer: Optimizer, curvature: Curvature, outputs: int, sizes: Sequence[int]
) -> tuple[BatchThreshold, ...]:
    """What is left without the Gram: bounds from the sharpness and the exact trace."""
    momentum = optimizer.momentum
    curvatures = curvature.sharpness.value, curvature.gauss_newton_trace
    return tuple(
        BatchThreshold(size, np.nan, float(edge_bound(*curvatures, outputs, size, momentum)))
        for size in sizes
    )


def _batch_sharpness(
    network: Network, optimizer: Optimizer, key: jax.Array, num_batches: int
) -> Iterator[Estimate]:
    """Both forms, in the order of ``Stability``."""
    sizes = {"batch_size": optimizer.batch_size, "num_batches": num_batches}
    for form in ("mean_of_ratios", "ratio_of_means"):
        measure = jax.jit(partial(batch_sharpness, network.batch_loss, form=form, **sizes))
        found = measure(network.params, network.data, key)
        yield Estimate(float(found.value), float(found.standard_error))


def _notes(
    point: Point,
    curvature: Curvature,
    optimizer: Optimizer,
    gram_limit: int,
) -> tuple[str, ...]:
    """What a reader must know before trusting a number."""
    notes, rows = [], point.examples * point.outputs
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
    if point.kinked_examples or point.kinked_units:
        notes.append(
            f"On a kink: {point.kinked_units} of {point.units} inputs of ReLUs, slopes of "
            f"{point.kinked_examples} of {point.examples} examples. Products with the Hessian miss "
            "the jump there, and gradients depend on rounding."
        )
    if optimizer.kind not in ("gd", "heavy_ball"):
        notes.append(
            f"Thresholds by batch size are those of plain SGD; for {optimizer.kind} only the "
            "full-batch edge is known, in the preconditioned curvature for adaptive methods"
            + (", which needs opt_state." if optimizer.kind in ADAPTIVE else ".")
        )
    if curvature.sharpness.error > 1e-3 * abs(curvature.sharpness.value):
        notes.append("The largest eigenvalue has not converged: ask for more products.")
    return tuple(notes)
