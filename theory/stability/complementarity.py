"""Semidefinite complementarity: the least oscillation that keeps curvatures from growing.

Over symmetric k x k matrices, find X with

    X >= 0,   A + B[X] >= 0,   <X, A + B[X]> = 0,

A symmetric, B positive semidefinite and symmetric as a map of matrices: the minimum of ``1/2
<X, B[X]> + <A, X>`` over positive semidefinite X. No conic solver is needed for the few directions
of a central flow: accelerated proximal gradient, the projection being an eigenvalue clipping.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TOLERANCE = 1e-11  # change in the last iteration, relative to the size of the solution
ITERATIONS = 5000


class Complementary(NamedTuple):
    """X, and by how much the last iteration still changed it, relative to its size."""

    solution: Float[Array, "k k"]
    residual: Float[Array, ""]


def complementary_matrix(
    gap: Float[Array, "k k"], response: Float[Array, "k k k k"]
) -> Complementary:
    """The X of the module's head, for ``A = gap`` and ``B[X]_ij = sum_kl response_ijkl X_kl``.

    k = 1: ``max(0, -A/B)``. Beyond that FISTA (step one over the largest eigenvalue of B, restarted
    whenever momentum points uphill), until the relative change is below 1e-11 or after 5000
    iterations: ``residual`` says which. Unique where B is positive definite; X is exactly 0 where A
    is positive semidefinite. Symmetry and B's sign are the caller's duty.
    Source: Cohen et al. 2024, arXiv:2410.24206 (the problem); method as in Beck & Teboulle 2009
    and O'Donoghue & Candes 2015, arXiv:1204.3982 (restarts).

    >>> identity = jnp.einsum("ik,jl->ijkl", jnp.eye(2), jnp.eye(2))  # X: positive part of -A
    >>> complementary_matrix(jnp.diag(jnp.array([-2.0, 3.0])), identity).solution.tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    if len(gap) == 1:
        slope = response[0, 0]
        move = jnp.where(slope > 0, -gap / jnp.where(slope > 0, slope, 1), 0.0)
        return Complementary(jnp.maximum(move, 0.0), jnp.zeros((), gap.dtype))
    return _accelerated(gap, response)


class _State(NamedTuple):
    solution: Array
    ahead: Array
    momentum: Array
    residual: Array
    count: Array


def _accelerated(gap: Array, response: Array) -> Complementary:
    k = len(gap)
    steepest = jnp.linalg.eigvalsh(response.reshape(k * k, k * k))[-1]
    step = jnp.where(steepest > 0, 1 / jnp.where(steepest > 0, steepest, 1), 0.0)

    def body(state: _State) -> _State:
        slope = gap + jnp.einsum("ijkl,kl->ij", response, state.ahead)
        solution = _positive_part(state.ahead - step * slope)
        change, move = solution - state.ahead, solution - state.solution
        uphill = jnp.sum(change * move) < 0
        kept = jnp.where(uphill, 1.0, state.momentum)
        momentum = (1 + jnp.sqrt(1 + 4 * kept**2)) / 2
        ahead = solution + jnp.where(uphill, 0.0, (kept - 1) / momentum) * move
        size = jnp.max(jnp.abs(solution))
        residual = jnp.max(jnp.abs(change)) / jnp.where(size > 0, size, 1)
        return _State(solution, ahead, momentum, residual, state.count + 1)

    def unfinished(state: _State) -> Array:
        return (state.residual > TOLERANCE) & (state.count < ITERATIONS)

    zero, one = jnp.zeros_like(gap), jnp.ones((), gap.dtype)
    start = _State(zero, zero, one, jnp.inf * one, jnp.array(0))
    end = jax.lax.while_loop(unfinished, body, start)
    return Complementary(end.solution, end.residual)


def _positive_part(matrix: Array) -> Array:
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * jnp.maximum(values, 0)[None]) @ vectors.T
