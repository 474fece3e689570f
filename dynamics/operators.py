"""Symmetric linear operators on parameters, seen as operators on vectors.

An operator is any function ``matvec(v)`` of a pytree like the parameters that returns another one,
``functools.partial(hvp, loss, params, batch)`` for instance. Estimators flatten it once and apply
it to one vector at a time, unless told otherwise: on CPUs batches of products are slower, and
everywhere they need the memory of as many backward passes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

MatVec = Callable[[PyTree[Any]], PyTree[Any]]


class FlatOperator(NamedTuple):
    """An operator on vectors (dimension,) of one dtype, and the way back to pytrees.

    ``form`` is ``v^T A v`` where that is known at a lower price than a product.
    """

    matvec: Callable[[Array], Array]
    dimension: int
    dtype: Any
    unravel: Callable[[Array], PyTree[Any]]
    form: Callable[[Array], Array] | None = None


def flat_operator(
    matvec: MatVec, like: PyTree[Any], form: Callable[[PyTree[Any]], Array] | None = None
) -> FlatOperator:
    """``matvec`` and ``form`` on flat vectors, in the common dtype of the leaves of ``like``.

    Raises ``ValueError`` unless ``like`` holds real floating-point numbers, at least one, and
    ``matvec`` returns as many as it takes.

    >>> double = flat_operator(lambda v: {"w": 2 * v["w"]}, {"w": jnp.ones((1, 2))})
    >>> double.matvec(jnp.array([1.0, 3.0])).tolist(), double.dimension
    ([2.0, 6.0], 2)
    """
    flat, unravel = ravel_pytree(like)
    if flat.size == 0 or not jnp.issubdtype(flat.dtype, jnp.floating):
        raise ValueError(
            f"like must hold real floating-point arrays, got {flat.size} numbers of {flat.dtype}"
        )

    def flat_matvec(vector: Array) -> Array:
        return ravel_pytree(matvec(unravel(vector)))[0].astype(flat.dtype)

    image = jax.eval_shape(flat_matvec, flat)
    if image.shape != flat.shape:
        raise ValueError(f"matvec must return {flat.size} numbers, got {image.size}")
    flat_form = None if form is None else lambda vector: form(unravel(vector)).astype(flat.dtype)
    return FlatOperator(flat_matvec, flat.size, flat.dtype, unravel, flat_form)


def products(
    operator: FlatOperator, vectors: Float[Array, "count dimension"], probe_batch: int = 1
) -> Float[Array, "count dimension"]:
    """Images of the rows of ``vectors``, ``probe_batch`` at a time."""
    return lax.map(operator.matvec, vectors, batch_size=_batch(probe_batch))


def quadratic_forms(
    operator: FlatOperator, keys: Key[Array, " count"], probe_batch: int = 1
) -> Float[Array, " count"]:
    """``v^T A v`` for one vector of random signs per key; never more than a batch in memory."""
    form = operator.form or (lambda probe: probe @ operator.matvec(probe))
    return lax.map(
        lambda key: form(random_signs(key, operator)), keys, batch_size=_batch(probe_batch)
    )


def random_signs(key: Key[Array, ""], operator: FlatOperator) -> Float[Array, " dimension"]:
    """A vector of independent signs, each +1 or -1 with probability 1/2."""
    return jax.random.rademacher(key, (operator.dimension,), operator.dtype)


def random_sphere(
    key: Key[Array, ""], operator: FlatOperator, count: int
) -> Float[Array, "count dimension"]:
    """Independent vectors, uniform on the sphere of radius sqrt(dimension)."""
    normal = jax.random.normal(key, (count, operator.dimension), operator.dtype)
    norms = jnp.linalg.norm(normal, axis=1, keepdims=True)
    return normal * (jnp.sqrt(jnp.asarray(operator.dimension, operator.dtype)) / norms)


def dense_matrix(matvec: MatVec, like: PyTree[Any]) -> Float[Array, "dimension dimension"]:
    """The matrix of an operator, column by column: as many products as parameters.

    For small networks and as an oracle. Coordinates are those of ``ravel_pytree(like)``. Raises
    ``ValueError`` as ``flat_operator``.

    >>> dense_matrix(lambda v: (v[1], v[0]), (jnp.ones(()), jnp.ones(()))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    operator = flat_operator(matvec, like)
    return products(operator, jnp.eye(operator.dimension, dtype=operator.dtype)).T


def require_at_least(least: int, **values: int) -> None:
    """Raise ``ValueError`` unless every named value is an integer >= ``least``.

    >>> require_at_least(1, num_matvecs=0)
    Traceback (most recent call last):
        ...
    ValueError: num_matvecs must be an integer >= 1, got 0
    """
    for name, value in values.items():
        integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not integer or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")


def _batch(probe_batch: int) -> int | None:
    require_at_least(1, probe_batch=probe_batch)
    return None if probe_batch == 1 else probe_batch  # None: a plain loop, nothing is vmapped
