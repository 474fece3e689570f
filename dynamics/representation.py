"""What a network has learned so far, seen in the modes of its task."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def mode_strengths(
    linear_map: Float[ArrayLike, "n_out n_in"],
    left_vectors: Float[ArrayLike, "n_out modes"],
    right_vectors: Float[ArrayLike, "n_in modes"],
) -> Float[Array, " modes"]:
    """Strength of every mode of a map: ``u_i = (U^T W V)_ii``.

    U and V hold the task's left and right singular vectors as columns; W is the map the network
    computes, ``W_L ... W_1`` for a deep linear one.

    >>> mode_strengths(jnp.diag(jnp.array([2.0, 3.0])), jnp.eye(2), jnp.eye(2)).tolist()
    [2.0, 3.0]
    """
    left, right = jnp.asarray(left_vectors), jnp.asarray(right_vectors)
    return jnp.sum(left * (jnp.asarray(linear_map) @ right), axis=0)


def balance_matrices(
    params: Sequence[Float[Array, "_ _"]],
) -> tuple[Float[Array, "_ _"], ...]:
    """What gradient flow conserves of a deep linear network: ``W_{l+1}^T W_{l+1} - W_l W_l^T``.

    params: (W_1, ..., W_L), L >= 2; one matrix (n_l, n_l) per hidden layer, all zero in a balanced
    network. Gradient descent changes them at second order in its step, weight decay shrinks them.

    Source: Arora, Cohen & Hazan (2018), arXiv 1802.06509.

    >>> balance_matrices((jnp.ones((1, 2)), jnp.full((3, 1), 2.0)))[0].tolist()
    [[10.0]]
    """
    return tuple(after.T @ after - before @ before.T for before, after in pairwise(params))


def effective_rank(linear_map: Float[ArrayLike, "n_out n_in"]) -> Float[Array, ""]:
    """``exp(H)`` of the singular values of a map as a distribution: how many it spreads over.

        H = -sum_i p_i ln p_i,   p_i = sigma_i / sum_j sigma_j

    Between 1 and the rank, which it is if all singular values are equal; nan for a zero map.

    Source: Roy & Vetterli (2007), "The effective rank".

    >>> round(float(effective_rank(jnp.diag(jnp.array([2.0, 2.0, 0.0])))), 12)
    2.0
    """
    values = jnp.linalg.svd(jnp.asarray(linear_map), compute_uv=False)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(values / jnp.sum(values))))


def first_crossing(times: ArrayLike, values: ArrayLike, level: ArrayLike) -> Any:
    """When each curve first reaches its level from below, linearly interpolated.

    ``times`` (records,), ``values`` (..., records, curves), ``level`` () or (curves,); returns
    (..., curves). ``inf`` where the level is never reached (censored), ``times[0]`` where the
    curve starts above it. NaN counts as not reached.

    >>> first_crossing(jnp.arange(3.0), jnp.array([[0.0], [1.0], [4.0]]), 2.5).tolist()
    [1.5]
    """
    times, values = jnp.asarray(times, float), jnp.asarray(values, float)
    level = jnp.broadcast_to(jnp.asarray(level, float), values.shape[-1:])
    excess = values - jnp.broadcast_to(level, values.shape)
    above = excess >= 0
    after = jnp.argmax(above, axis=-2, keepdims=True)
    before = jnp.maximum(after - 1, 0)
    high = jnp.take_along_axis(excess, after, axis=-2)
    low = jnp.take_along_axis(excess, before, axis=-2)
    rise = jnp.where(high > low, high - low, 1.0)
    crossing = times[after] - (times[after] - times[before]) * high / rise
    reached = jnp.any(above, axis=-2)
    return jnp.where(reached, jnp.where(after > 0, crossing, times[0])[..., 0, :], jnp.inf)
