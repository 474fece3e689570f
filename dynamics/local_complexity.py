"""Local complexity: how many units switch in the neighbourhood of a point.

Around x lies the cross-polytope with vertices ``x +- r v_i``, v_i orthonormal directions. A unit
counts if its pre-activation does not have one sign at all vertices: a boundary between linear
regions of a ReLU network passes. Of the first layer, exactly the units with
``|w.x + b| < r max_i |w.v_i|``.

Source: Humayun, Balestriero & Baraniuk (2024), arXiv 2402.15555.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from dynamics.operators import require_at_least

PreActivations = Callable[[PyTree[Any], Array], Any]


def orthonormal_directions(
    key: Key[Array, ""], dimension: int, count: int, dtype: Any = None
) -> Float[Array, "count dimension"]:
    """``count`` random orthonormal vectors. ``ValueError`` unless 1 <= count <= dimension.

    >>> v = orthonormal_directions(jax.random.key(0), 5, 2)
    >>> bool(jnp.allclose(v @ v.T, jnp.eye(2), atol=1e-5))
    True
    """
    require_at_least(1, count=count)
    if count > dimension:
        raise ValueError(f"count must be at most the dimension {dimension}, got {count}")
    drawn = jax.random.normal(key, (dimension, count), dtype or jnp.result_type(float))
    return jnp.linalg.qr(drawn)[0].T


def local_complexity(
    pre_activations: PreActivations,
    params: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    directions: Float[ArrayLike, "k d"],
    *,
    radius: ArrayLike,
    chunk: int = 64,
) -> Float[Array, "n layers"]:
    """Units of every layer that switch between the vertices ``x +- radius v_i``, for every x.

    ``pre_activations(params, x)`` gives one array (n, units ...) per layer, in any pytree, whose
    leaves are the layers. ``directions`` v_i are used at every x, with features flattened; a mean
    over x is the local complexity of a data set. ``chunk`` points, with 2 k vertices each, are
    treated at a time.

    Raises ``ValueError`` for a radius that is not positive and directions of another dimension.

    >>> def first_layer(w, x): return [x @ w]
    >>> w, x = jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.array([[0.1, 0.0], [3.0, 0.0]])
    >>> local_complexity(first_layer, w, x, jnp.eye(2), radius=0.5).tolist()
    [[2.0], [0.0]]
    """
    x, directions = jnp.asarray(x), jnp.asarray(directions)
    if not isinstance(radius, Tracer) and not np.all(np.asarray(radius) > 0):
        raise ValueError(f"radius must be positive, got {radius}")
    require_at_least(1, chunk=chunk)
    if directions.ndim != 2 or directions.shape[1] != x[0].size:
        raise ValueError(f"directions must be (k, {x[0].size}), got {directions.shape}")
    steps = jnp.asarray(radius) * jnp.concatenate([directions, -directions])
    steps = steps.reshape(-1, *x.shape[1:]).astype(x.dtype)

    def at(point: Array) -> Array:
        layers = jax.tree.leaves(pre_activations(params, point[None] + steps))
        return jnp.stack([_switching(layer) for layer in layers]).astype(x.dtype)

    return lax.map(at, x, batch_size=min(chunk, len(x)))


def _switching(layer: Array) -> Array:
    signs = jnp.sign(layer)
    return jnp.sum(jnp.any(signs != signs[:1], axis=0))
