"""How well labels can be read from a representation: a ridge probe and nearest neighbours.

Activity ``h`` (n, features) and one-hot labels ``y`` (n, classes) of examples to learn from, and
the same of others, ``h_test`` and ``y_test``, on which the accuracy is taken. Ties go to the first
class.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dynamics.operators import require_at_least


def ridge_probe(
    h: Float[ArrayLike, "n features"],
    y: Float[ArrayLike, "_ _"],
    h_test: Float[ArrayLike, "_ _"],
    y_test: Float[ArrayLike, "_ _"],
    *,
    ridge: ArrayLike = 0.01,
) -> Float[Array, ""]:
    """Accuracy of ridge regression onto the labels, with a free intercept.

        min_(W, b)  (1/n) |H W + b - Y|^2 + ridge v |W|^2,    v the mean variance of a feature

    v makes it independent of the scale of the features. The largest output wins.

    Raises ``ValueError`` for shapes that do not fit together.

    >>> x, y = jnp.array([[0.0], [1.0], [3.0], [4.0]]), jnp.repeat(jnp.eye(2), 2, axis=0)
    >>> float(ridge_probe(x, y, jnp.array([[0.5], [2.5]]), jnp.eye(2)))
    1.0
    """
    h, y, h_test, y_test = _checked(h, y, h_test, y_test)
    center, mean = jnp.mean(h, axis=0, keepdims=True), jnp.mean(y, axis=0, keepdims=True)
    covariance = (h - center).T @ (h - center) / len(h)
    size = len(covariance)
    penalty = ridge * jnp.trace(covariance) / size
    right = (h - center).T @ (y - mean) / len(h)
    weights = jnp.linalg.solve(covariance + penalty * jnp.eye(size, dtype=h.dtype), right)
    return _accuracy((h_test - center) @ weights + mean, y_test)


def neighbor_probe(
    h: Float[ArrayLike, "n features"],
    y: Float[ArrayLike, "_ _"],
    h_test: Float[ArrayLike, "_ _"],
    y_test: Float[ArrayLike, "_ _"],
    *,
    neighbors: int = 15,
) -> Float[Array, ""]:
    """Accuracy of the majority among the ``neighbors`` nearest examples (Euclidean distance).

    Raises ``ValueError`` for shapes that do not fit together, neighbors < 1.

    >>> x, y = jnp.array([[0.0], [1.0], [3.0], [4.0]]), jnp.repeat(jnp.eye(2), 2, axis=0)
    >>> float(neighbor_probe(x, y, jnp.array([[0.5], [2.5]]), jnp.eye(2), neighbors=1))
    1.0
    """
    require_at_least(1, neighbors=neighbors)
    h, y, h_test, y_test = _checked(h, y, h_test, y_test)
    squares = jnp.sum(h**2, axis=1)[None, :] - 2 * h_test @ h.T  # up to what all of a row share
    nearest = jax.lax.top_k(-squares, min(neighbors, len(h)))[1]
    return _accuracy(jnp.sum(y[nearest], axis=1), y_test)


def _accuracy(scores: Array, y: Array) -> Array:
    return jnp.mean(jnp.argmax(scores, axis=1) == jnp.argmax(y, axis=1), dtype=scores.dtype)


def _checked(h: ArrayLike, y: ArrayLike, h_test: ArrayLike, y_test: ArrayLike) -> list[Array]:
    arrays = [jnp.asarray(array) for array in (h, y, h_test, y_test)]
    (n, features), (_, classes), (m, _), _ = (array.shape for array in arrays)
    wanted = [(n, features), (n, classes), (m, features), (m, classes)]
    if [array.shape for array in arrays] != wanted or not n or not m:
        raise ValueError(
            f"h, y, h_test, y_test must be (n, features), (n, classes), (m, features), "
            f"(m, classes), got shapes {[array.shape for array in arrays]}"
        )
    return arrays
