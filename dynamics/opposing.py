"""Opposing signals in a network: which examples' losses move most in a step, and against which.

Near the edge of stability a few examples carry the oscillation: groups that share a feature and
disagree about it. Their losses rise and fall in turn while the loss of the others hardly moves.
Nothing here knows the groups; they are read off the losses.

Source: Rosenfeld & Risteski 2023, arXiv:2311.04163, for the idea of ranking examples by the change
of their loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from dynamics.curvature import inner

Loss = Callable[[PyTree[Any], PyTree[Any]], Array]


class OpposingGroups(NamedTuple):
    """Indices (..., size) of the examples whose loss rose most, and of those where it fell most."""

    rising: Int[Array, "... size"]
    falling: Int[Array, "... size"]


def example_losses(loss: Loss, params: PyTree[Any], data: PyTree[Any]) -> Float[Array, " n"]:
    """Loss of every example, ``loss(params, batch of that example)``.

    Every array in ``data`` has the n examples on its leading axis. A loss that is a mean over
    examples is the mean of these; changes from step to step are their differences.

    >>> mean_square = lambda w, x: jnp.mean((w - x) ** 2)
    >>> example_losses(mean_square, 1.0, jnp.array([1.0, 3.0])).tolist()
    [0.0, 4.0]
    """
    batches = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], data)
    return jax.vmap(loss, (None, 0))(params, batches)


def opposing_groups(changes: Float[ArrayLike, "... n"], size: int) -> OpposingGroups:
    """The ``size`` examples whose loss rose most in a step, and the ``size`` where it fell most.

    ``changes``: loss after the step less loss before, the n examples on the last axis; most first.
    At random a group of m planted examples has the share m/n of either. Raises ``ValueError``
    unless ``size`` is in 1..n/2, so that no example is in both.

    >>> opposing_groups(jnp.array([0.1, 5.0, -3.0, 0.0]), 1)
    OpposingGroups(rising=Array([1], dtype=int32), falling=Array([2], dtype=int32))
    """
    changes = jnp.asarray(changes)
    n = changes.shape[-1] if changes.ndim else 0
    if not 1 <= size <= n / 2:
        raise ValueError(f"size must be between 1 and half of the {n} examples, got {size}")
    rising, falling = (jax.lax.top_k(sign * changes, size)[1] for sign in (1, -1))
    return OpposingGroups(rising, falling)


def group_correlation(
    changes: Float[ArrayLike, "steps n"],
    first: Int[ArrayLike, " a"],
    second: Int[ArrayLike, " b"],
) -> Float[Array, ""]:
    """Correlation over steps of the mean loss changes of two groups of examples.

    -1: what one group gains in a step the other loses; +1: they learn together. Independent changes
    give 0 with a standard deviation ``1/sqrt(steps)``. nan where one of them never changes. Raises
    ``ValueError`` for fewer than two steps.

    >>> swing = jnp.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0], [3.0, -6.0, 0.1]])
    >>> round(float(group_correlation(swing, jnp.array([0]), jnp.array([1]))), 9)
    -1.0
    """
    changes = jnp.asarray(changes)
    if len(changes) < 2:
        raise ValueError(f"changes must be (2 or more steps, n), got {changes.shape}")
    means = [changes[:, jnp.asarray(group)].mean(axis=1) for group in (first, second)]
    a, b = (mean - mean.mean() for mean in means)
    return jnp.sum(a * b) / jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))


def gradient_cosine(
    loss: Loss,
    params: PyTree[Any],
    data: PyTree[Any],
    first: Int[ArrayLike, " a"],
    second: Int[ArrayLike, " b"],
) -> Float[Array, ""]:
    """Cosine of the angle between the loss gradients of two groups of examples.

    -1: the signals oppose each other, and a full batch of both sees neither. nan where one of the
    gradients vanishes.

    >>> half_square = lambda w, x: jnp.mean((w - x) ** 2) / 2
    >>> pull = (jnp.array([0]), jnp.array([1]))
    >>> float(gradient_cosine(half_square, 0.0, jnp.array([1.0, -2.0]), *pull))
    -1.0
    """

    def gradient(group: ArrayLike) -> PyTree[Any]:
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[jnp.asarray(group)], data)
        return jax.grad(loss)(params, batch)

    a, b = gradient(first), gradient(second)
    return inner(a, b) / jnp.sqrt(inner(a, a) * inner(b, b))
