"""Top Hessian eigenpairs of a loss given as a function, and how they change with the parameters.

A loss here is any smooth ``loss(w) -> scalar`` of a flat vector w; eigenvalues are those of the
loss as it is given, whatever its normalisation. Sharpness S is the largest (not the largest in
size) eigenvalue. Anything that finds eigenpairs of large problems can take the place of
``dense_eigenpairs``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.checks import Count, require_count

Loss = Callable[[Array], Array]
# (loss, w, k) -> the k largest eigenvalues, descending, and unit eigenvectors as rows (k, d)
Eigensolver = Callable[[Loss, Array, int], tuple[Array, Array]]


def dense_eigenpairs(
    loss: Loss, w: Float[Array, " d"], k: Count
) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """The k largest eigenvalues of the Hessian at w, descending, and eigenvectors as rows.

    From the full d x d matrix: for up to a few hundred parameters. Raises ``ValueError`` unless
    1 <= k <= d.

    >>> values, vectors = dense_eigenpairs(lambda w: w[0] ** 2 + 3 * w[1] ** 2, jnp.zeros(2), 1)
    >>> values.tolist(), jnp.abs(vectors).tolist()
    ([6.0], [[0.0, 1.0]])
    """
    require_count(k=k)
    if k > w.size:
        raise ValueError(f"k must be at most the number of parameters {w.size}, got {k}")
    values, vectors = jnp.linalg.eigh(jax.hessian(loss)(w))
    return values[::-1][: int(k)], vectors[:, ::-1].T[: int(k)]


def curvature_gradients(
    loss: Loss, w: Float[Array, " d"], directions: Float[Array, "k d"]
) -> Float[Array, "k k d"]:
    """Gradients of ``u_i . H(w) u_j`` with respect to w, the directions u held fixed.

    For unit eigenvectors the diagonal is the gradient of their eigenvalues, if these are simple;
    the off-diagonal says how near-degenerate ones mix. Symmetric in i and j. One reverse pass over
    a Hessian-vector product for each pair.

    >>> curvature_gradients(lambda w: w[0] ** 3, jnp.ones(2), jnp.eye(2)[:1]).tolist()
    [[[6.0, 0.0]]]
    """
    k = len(directions)
    rows, columns = jnp.triu_indices(k)

    def gradient(u: Array, v: Array) -> Array:
        curvature = lambda point: u @ jax.jvp(jax.grad(loss), (point,), (v,))[1]  # noqa: E731
        return jax.grad(curvature)(w)

    pairs = jax.vmap(gradient)(directions[rows], directions[columns])
    full = jnp.zeros((k, k, w.size), pairs.dtype)
    return full.at[rows, columns].set(pairs).at[columns, rows].set(pairs)
