"""Leading eigenvalues and eigenvectors of a symmetric operator on parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from dynamics.krylov import KrylovSpace, extend, krylov_space, ritz
from dynamics.operators import MatVec, flat_operator, require_at_least


class Eigenpairs(NamedTuple):
    """``values`` (k,), ``vectors`` (a pytree of unit vectors, k on the leading axis of each leaf).

    ``residual_norms`` (k,) are ``|A v - value v|``: each interval ``value +- residual_norm`` holds
    an eigenvalue. ``num_matvecs`` counts the products spent; ``converged`` says whether all
    residuals are within tolerance.
    """

    values: Float[Array, " k"]
    vectors: PyTree[Any]
    residual_norms: Float[Array, " k"]
    num_matvecs: Int[Array, ""]
    converged: Bool[Array, ""]


def top_eigenpairs(
    matvec: MatVec,
    like: PyTree[Any],
    key: Key[Array, ""],
    *,
    k: int = 1,
    num_matvecs: int = 20,
    tolerance: float = 1e-3,
    which: str = "LA",
    block_size: int | None = None,
) -> Eigenpairs:
    """The k largest ("LA", descending) or smallest ("SA", ascending) eigenvalues of ``matvec``.

    Largest algebraic, not largest in magnitude: the sharpness of a loss with a strongly negative
    eigenvalue is not that eigenvalue. Block Lanczos with full reorthogonalisation from random
    vectors, stopped as soon as every residual is below ``tolerance |value|`` (or below rounding).
    Near the end errors of the values are the squares of the residuals over the gap to the rest of
    the spectrum, so that 1e-3 gives about 1e-6. A residual proves that an eigenvalue is near, not
    that it is the largest: where the second is 5 % below, about one random start in 200 stops at
    it with ``tolerance`` 1e-3, none of 400 did with 1e-4, for one or two products more.

    Args:
        matvec: a symmetric operator on pytrees like ``like``.
        num_matvecs: most products to spend; that many vectors are held in memory.
        block_size: eigenvalues are found with multiplicity up to this, by default k. Symmetries
            make multiple eigenvalues (a linear layer of c outputs has each c times). With simple
            eigenvalues 1 needs the fewest products.

    Raises:
        ValueError: k or num_matvecs below 1, fewer parameters than k or fewer products than k, a
            negative tolerance, an unknown ``which``, a block size outside 1..num_matvecs.

    Source: Lanczos (1950), J. Res. Nat. Bur. Standards 45, 255; Golub & Underwood (1977).

    >>> curvature = jnp.array([3.0, -5.0, 1.0])
    >>> top = top_eigenpairs(lambda v: curvature * v, jnp.ones(3), jax.random.key(0))
    >>> [round(value, 9) for value in top.values.tolist()], bool(top.converged)
    ([3.0], True)
    """
    operator = flat_operator(matvec, like)
    columns, block = _sizes(operator.dimension, k, num_matvecs, block_size)
    _require_choices(tolerance, which)
    sign = 1 if which == "LA" else -1
    upward = operator._replace(matvec=lambda v: sign * operator.matvec(v))
    key, fresh_key = jax.random.split(key)
    starts = jax.random.normal(key, (block, operator.dimension), operator.dtype)

    def leading(space: KrylovSpace) -> tuple[Array, Array, Array, Array]:
        found = ritz(space)
        values, residuals = found.values[::-1][:k], found.residuals[::-1][:k]
        rounding = 10 * jnp.finfo(operator.dtype).eps * jnp.max(jnp.abs(space.images))
        done = residuals <= jnp.maximum(tolerance * jnp.abs(values), rounding)
        return values, found.coefficients[:, ::-1][:, :k], residuals, jnp.all(done)

    def unfinished(space: KrylovSpace) -> Array:
        return (space.size < columns) & ~leading(space)[-1]

    def grow(space: KrylovSpace) -> KrylovSpace:
        return extend(upward, space, fresh_key)

    space = lax.while_loop(unfinished, grow, krylov_space(starts, columns))
    values, coefficients, residuals, converged = leading(space)
    vectors = coefficients.T @ space.basis[:columns]
    vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = jax.vmap(operator.unravel)(vectors)
    return Eigenpairs(sign * values, vectors, residuals, space.size, converged)


def _sizes(dimension: int, k: int, num_matvecs: int, block_size: int | None) -> tuple[int, int]:
    require_at_least(1, k=k, num_matvecs=num_matvecs)
    if k > min(dimension, num_matvecs):
        raise ValueError(
            f"k must be at most the number of parameters, {dimension}, "
            f"and of products, {num_matvecs}, got {k}"
        )
    columns, block = min(num_matvecs, dimension), k if block_size is None else block_size
    require_at_least(1, block_size=block)
    if block > columns:
        raise ValueError(f"block_size must be at most {columns}, got {block_size}")
    return columns, block


def _require_choices(tolerance: float, which: str) -> None:
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance}")
    if which not in ("LA", "SA"):
        raise ValueError(f'which must be "LA" or "SA", got {which!r}')
