"""Krylov spaces of a symmetric operator, grown product by product in an orthonormal basis.

Lanczos' method with full reorthogonalisation, started from one vector or from a block of b: the
vector behind ``basis[j]`` is ``A basis[j]`` made orthogonal to all others and stands b rows below.
Where nothing is left of it (an invariant subspace) a random direction takes its place, coupled to
the others by zero, so that no iteration divides by zero or ends early.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from dynamics.operators import FlatOperator


class KrylovSpace(NamedTuple):
    """A basis, and images of its first ``size`` vectors written in it.

    ``basis`` (rows, dimension): orthonormal rows, zero where not filled yet or where the space is
    full. ``images`` (rows, columns): column j holds the coefficients of ``A basis[j]``, so the
    square part of it is A on the space and the rows below couple to what lies outside.
    """

    basis: Float[Array, "rows dimension"]
    images: Float[Array, "rows columns"]
    size: Int[Array, ""]


class Ritz(NamedTuple):
    """Eigenvalues of A on the space, ascending, unused ones first, lowest and meaningless.

    ``coefficients`` (columns, columns): eigenvectors in the basis, one per column;
    ``residuals``: ``|A v - value v|`` of each, infinite for unused ones.
    """

    values: Float[Array, " columns"]
    coefficients: Float[Array, "columns columns"]
    residuals: Float[Array, " columns"]


def krylov_space(starts: Float[Array, "block dimension"], columns: int) -> KrylovSpace:
    """The space spanned by ``starts`` (independent), with room for ``columns`` products.

    >>> krylov_space(jnp.array([[3.0]]), 2).basis.tolist()
    [[1.0], [0.0], [0.0]]
    """
    block, dimension = starts.shape
    rows = block + columns
    q, r = jnp.linalg.qr(starts.T)
    q = q * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(q.dtype)[None, :]
    basis = jnp.zeros((rows, dimension), starts.dtype).at[:block].set(q.T)
    return KrylovSpace(basis, jnp.zeros((rows, columns), starts.dtype), jnp.zeros((), jnp.int32))


def extend(operator: FlatOperator, space: KrylovSpace, key: Key[Array, ""]) -> KrylovSpace:
    """One product: fills column ``size`` and appends a vector to the basis."""
    basis, images, j = space
    new_row = j + images.shape[0] - images.shape[1]
    coefficients, rest = _split(basis, operator.matvec(basis[j]))
    norm = jnp.linalg.norm(rest)
    scale = jnp.maximum(jnp.max(jnp.abs(images)), jnp.max(jnp.abs(coefficients)))
    alive = norm > 10 * jnp.finfo(operator.dtype).eps * scale
    room = new_row < operator.dimension

    def random_direction() -> Array:
        fresh = jax.random.normal(jax.random.fold_in(key, j), rest.shape, operator.dtype)
        fresh = _split(basis, fresh)[1]
        return fresh / jnp.linalg.norm(fresh)

    following = lax.cond(
        alive | ~room, lambda: rest / jnp.where(alive, norm, 1.0), random_direction
    )
    basis = basis.at[new_row].set(jnp.where(room, following, 0.0))
    images = images.at[:, j].set(coefficients)
    images = images.at[new_row, j].set(jnp.where(alive & room, norm, 0.0))
    return KrylovSpace(basis, images, j + 1)


def ritz(space: KrylovSpace) -> Ritz:
    """Eigenpairs of the operator on the space built so far."""
    _, images, size = space
    columns = images.shape[1]
    used = jnp.arange(columns) < size
    square = jnp.where(used[None, :] & used[:, None], images[:columns], 0.0)
    square = (square + square.T) / 2
    # unused directions get an eigenvalue below all others, of a magnitude that costs no digits
    below = -2 * jnp.linalg.norm(square) - jnp.finfo(square.dtype).tiny
    values, vectors = jnp.linalg.eigh(square + jnp.diag(jnp.where(used, 0.0, below)))
    outside = jnp.arange(images.shape[0]) >= size
    leaving = jnp.where(outside[:, None], images, 0.0) @ vectors
    residuals = jnp.where(
        jnp.arange(columns) >= columns - size, jnp.linalg.norm(leaving, axis=0), jnp.inf
    )
    return Ritz(values, vectors, residuals)


def _split(basis: Array, vector: Array) -> tuple[Array, Array]:
    """Coefficients in the basis, and what is orthogonal to it."""
    coefficients = basis @ vector
    vector = vector - coefficients @ basis
    again = basis @ vector  # once is not enough in floating point, twice is
    return coefficients + again, vector - again @ basis
