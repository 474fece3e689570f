"""Grokking in polynomial regression, exactly: two moments of the weights at any width and any time.

    f(x) = (alpha/N) sum_i phi(w_i . x),   phi(h) = h + (eps/2) h^2,   readout fixed at 1,
    y(x) = (beta . x)^2 / 2,               x ~ N(0, I/D),
    loss = (1/P) sum (y - f)^2 (no 1/2),   w_i <- w_i - eta (N/alpha^2) d loss/d w_i.

phi' is affine, so that one affine map w -> B w + b moves every neuron: the mean weight ``wbar`` and
the second moment ``M = (1/N) sum_i w_i w_i^T`` follow a closed recursion, whatever N is,

    f = alpha wbar.x + (alpha eps/2) x^T M x
    b = (2 eta/(alpha P)) X^T (y - f),   B = I + (2 eta eps/(alpha P)) sum (y - f) x x^T
    wbar <- B wbar + b,   M <- B M B + (B wbar) b^T + b (B wbar)^T + b b^T

and width enters through their initial values only; at infinite width wbar = 0, M = sigma^2 I.
A step costs P D^2 + D^3. With T = alpha eps M - beta beta^T the test loss is

    (tr T)^2/(4 D^2)  +  |T|_F^2/(2 D^2)  +  alpha^2 |wbar|^2/D.
    trace                misalignment        linear power

Laziness: alpha large (time then counts in eta alone, as the rate carries 1/alpha^2). ``centered``
subtracts the initial network from the output. Without it alpha also sets the initial output
(alpha eps/2)|x|^2, which training must take back: the long tail of the published figure is this.
With it training ends early and the test loss stays where it is.

Source: Kumar, Bordelon, Gershman & Pehlevan (2023), arXiv 2310.06110, for the model; recursion,
decomposition and limits derived here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.arguments import require_finite, require_positive
from theory.checks import Count, require, require_count


class Statistics(NamedTuple):
    """Mean weight (D,) and second moment of the weights (D, D)."""

    mean: Float[Array, " D"]
    second_moment: Float[Array, "D D"]


class LossTerms(NamedTuple):
    """The three terms of the test loss; their sum is ``total``."""

    trace: Float[Array, "..."]
    misalignment: Float[Array, "..."]
    linear: Float[Array, "..."]

    @property
    def total(self) -> Any:
        return self.trace + self.misalignment + self.linear


class Training(NamedTuple):
    """Losses at ``steps`` (records,), the final statistics, and the first step not finite or -1."""

    steps: Int[Array, " records"]
    train_loss: Float[Array, " records"]
    test_loss: LossTerms
    statistics: Statistics
    diverged_at: Int[Array, ""]


def infinite_width(n_in: Count, weight_scale: ArrayLike = 1.0) -> Statistics:
    """Statistics of infinitely many weights ``w ~ N(0, weight_scale^2 I)``.

    >>> infinite_width(2).second_moment.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    require_count(n_in=n_in)
    require_positive(weight_scale=weight_scale)
    scale = jnp.asarray(weight_scale, jnp.result_type(weight_scale, 1.0))
    return Statistics(jnp.zeros(n_in, scale.dtype), scale**2 * jnp.eye(n_in, dtype=scale.dtype))


def weight_statistics(weights: Float[ArrayLike, "N D"]) -> Statistics:
    """Statistics of a network's own weights.

    >>> weight_statistics(jnp.array([[1.0, 0.0], [1.0, 2.0]])).mean.tolist()
    [1.0, 1.0]
    """
    weights = jnp.asarray(weights)
    return Statistics(jnp.mean(weights, axis=0), weights.T @ weights / len(weights))


def targets(x: Float[ArrayLike, "P D"], beta: Float[ArrayLike, " D"]) -> Float[Array, " P"]:
    """``y = (beta . x)^2 / 2``.

    >>> targets(jnp.array([[2.0, 0.0]]), jnp.array([1.0, 5.0])).tolist()
    [2.0]
    """
    return (jnp.asarray(x) @ jnp.asarray(beta)) ** 2 / 2


def outputs(
    statistics: Statistics, x: Float[ArrayLike, "P D"], *, alpha: ArrayLike, epsilon: ArrayLike
) -> Float[Array, " P"]:
    """The network's output ``alpha wbar.x + (alpha epsilon/2) x^T M x``.

    >>> outputs(infinite_width(2), jnp.array([[1.0, 1.0]]), alpha=2.0, epsilon=0.5).tolist()
    [1.0]
    """
    x, alpha = jnp.asarray(x), jnp.asarray(alpha)
    mean, second_moment = statistics
    quadratic = jnp.sum((x @ second_moment) * x, axis=1)
    return alpha * (x @ mean) + alpha * epsilon / 2 * quadratic


def population_loss(
    statistics: Statistics,
    beta: Float[ArrayLike, " D"],
    *,
    alpha: ArrayLike,
    epsilon: ArrayLike,
    start: Statistics | None = None,
) -> LossTerms:
    """Expected squared error on a fresh x ~ N(0, I/D), in its three terms; all are non-negative.

    ``start`` are the statistics whose output is subtracted, for a centred network.

    >>> beta = jnp.array([1.0, 1.0])
    >>> learnt = Statistics(jnp.zeros(2), jnp.outer(beta, beta))
    >>> float(population_loss(learnt, beta, alpha=2.0, epsilon=0.5).total)
    0.0
    """
    beta = jnp.asarray(beta)
    mean, second_moment = statistics
    if start is not None:
        mean, second_moment = mean - start.mean, second_moment - start.second_moment
    difference = alpha * epsilon * second_moment - jnp.outer(beta, beta)
    n_in = len(beta)
    return LossTerms(
        trace=jnp.trace(difference) ** 2 / (4 * n_in**2),
        misalignment=jnp.sum(difference**2) / (2 * n_in**2),
        linear=jnp.asarray(alpha) ** 2 * jnp.sum(mean**2) / n_in,
    )


def step(
    statistics: Statistics,
    x: Float[ArrayLike, "P D"],
    errors: Float[ArrayLike, " P"],
    *,
    alpha: ArrayLike,
    epsilon: ArrayLike,
    learning_rate: ArrayLike = 1.0,
) -> Statistics:
    """One step of gradient descent, ``errors`` being y - f at the examples x.

    >>> after = step(infinite_width(1), jnp.ones((1, 1)), jnp.ones(1), alpha=2.0, epsilon=0.5)
    >>> after.mean.tolist(), after.second_moment.tolist()
    ([1.0], [[3.25]])
    """
    x, errors = jnp.asarray(x), jnp.asarray(errors)
    mean, second_moment = statistics
    rate = 2 * jnp.asarray(learning_rate) / (alpha * len(x))
    shift = rate * (x.T @ errors)
    matrix = jnp.eye(x.shape[1], dtype=shift.dtype) + rate * epsilon * (x.T * errors[None]) @ x
    moved = matrix @ mean
    cross = jnp.outer(moved, shift)
    second_moment = matrix @ second_moment @ matrix + cross + cross.T + jnp.outer(shift, shift)
    return Statistics(moved + shift, second_moment)


def train(
    start: Statistics,
    x: Float[ArrayLike, "P D"],
    beta: Float[ArrayLike, " _"],
    *,
    alpha: ArrayLike,
    epsilon: ArrayLike,
    learning_rate: ArrayLike = 1.0,
    records: Count,
    record_every: Count = 1,
    centered: bool = False,
) -> Training:
    """Full-batch gradient descent of the statistics: exact for every width, D + D^2 numbers.

    Args:
        start: ``infinite_width(D)`` or ``weight_statistics`` of a network.
        records, record_every: losses are recorded at steps 0, record_every, ..., and the run ends
            ``record_every`` steps after the last record. Static; the others may be traced.
        centered: subtract the initial network from the output.

    Raises ``ValueError`` for alpha or learning rate <= 0, an epsilon that is zero or not finite, no
    examples, and shapes that do not fit. A run that leaves the finite numbers says at which step.

    >>> x, beta = jnp.array([[1.0, 0.2], [0.3, -1.0]]), jnp.array([1.0, 1.0])
    >>> run = train(infinite_width(2), x, beta, alpha=1.0, epsilon=0.5, records=300)
    >>> bool(run.train_loss[-1] < 1e-3 * run.train_loss[0]), int(run.diverged_at)
    (True, -1)
    """
    x, beta = jnp.asarray(x), jnp.asarray(beta)
    require_positive(alpha=alpha, learning_rate=learning_rate)
    require_finite(epsilon=epsilon)
    require("epsilon", epsilon, lambda e: e != 0, "different from 0 (the target is quadratic)")
    require_count(records=records, record_every=record_every)
    if x.ndim != 2 or 0 in x.shape or {beta.shape, start.mean.shape} != {x.shape[1:]}:
        shapes = f"{x.shape}, {beta.shape}, {start.mean.shape}"
        raise ValueError(f"x, beta and start must be (P, D), (D,) and (D,), P > 0, got {shapes}")
    y, scales = targets(x, beta), {"alpha": alpha, "epsilon": epsilon}
    reference = outputs(start, x, **scales) if centered else jnp.zeros_like(y)

    def errors(statistics: Statistics) -> Array:
        return y - (outputs(statistics, x, **scales) - reference)

    def one(carry, _):
        statistics, k, left_at = carry
        moved = step(statistics, x, errors(statistics), **scales, learning_rate=learning_rate)
        lost = (left_at < 0) & ~jnp.isfinite(jnp.trace(moved.second_moment))
        return (moved, k + 1, jnp.where(lost, k + 1, left_at)), None

    def block(carry, _):
        loss = jnp.mean(errors(carry[0]) ** 2)
        terms = population_loss(carry[0], beta, **scales, start=start if centered else None)
        return jax.lax.scan(one, carry, length=int(record_every))[0], (carry[1], loss, terms)

    begin = (jax.tree.map(lambda leaf: leaf.astype(y.dtype), start), jnp.int32(0), jnp.int32(-1))
    (end, _, left_at), found = jax.lax.scan(block, begin, length=int(records))
    return Training(*found, end, left_at)
