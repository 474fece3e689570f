"""Per-example Jacobians of any network, and the exact curvature they make.

With J_i (c, d) the Jacobian of the c outputs at example i, for the reference loss
``(1/n) sum_i 1/2 |f(x_i) - y_i|^2`` (mean over examples, sum over outputs),

    Gauss-Newton matrix  G = (1/n) sum_i J_i^T J_i,   tr G = (1/n) sum_i |J_i|_F^2
    Gram                 K_ij = J_i J_j^T

and the nonzero eigenvalues of G are those of K/n. Jacobians are formed for ``chunk`` examples at a
time and never stored; the network must treat examples one by one. For fully connected networks
``dynamics.layerwise`` is faster still. Other losses enter through ``output_weights`` M_i, which
replace J_i by M_i J_i: M_i^T M_i is the Hessian of the loss in the outputs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.operators import require_at_least

Apply = Callable[[PyTree[Any], Any], Array]


def gradient_gram(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    *,
    chunk: int = 32,
    output_weights: Float[ArrayLike, "..."] | None = None,
) -> Float[Array, "n n"] | Float[Array, "n c n c"]:
    """Inner products of output gradients, ``K_(ia)(jb) = d f_a(x_i)/d theta . d f_b(x_j)/d theta``.

    (n, n) if ``apply`` gives (n,), and (n, c, n, c) if it gives (n, c): the empirical tangent
    kernel. Memory: the Jacobians of two chunks, 2 chunk c d numbers; for every pair of chunks one
    of them is computed anew, so larger chunks are faster.

    Args:
        output_weights: M, (n,) or (n, c, c), for ``M_i K_ij M_j^T``; see ``softmax_weights``.

    Raises:
        ValueError: outputs or weights of another shape, no examples, chunk < 1.

    >>> gradient_gram(lambda w, x: x @ w, jnp.ones(2), jnp.array([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[5.0, 2.0], [2.0, 1.0]]
    """
    x = jnp.asarray(x)
    shape = _output_shape(apply, params, x, chunk)
    weights = _require_weights(output_weights, shape)
    n, c = shape[0], math.prod(shape[1:])
    jacobian = jax.vmap(lambda example: example_jacobian(apply, params, example))
    if n <= chunk:
        rows = jacobian(x).reshape(n * c, -1)
        gram = rows @ rows.T
    else:
        gram = _by_chunks(lambda part: jacobian(part).reshape(chunk * c, -1), x, chunk)
    gram = gram[: n * c, : n * c].reshape(n, c, n, c)
    if weights is not None:
        gram = jnp.einsum("iab,ibjd,jed->iaje", weights, gram, weights)
    return gram.reshape(shape + shape)


def gauss_newton_trace(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    *,
    chunk: int = 32,
    output_weights: Float[ArrayLike, "..."] | None = None,
) -> Float[Array, ""]:
    """Exact trace ``(1/n) sum_i |M_i J_i|_F^2`` of the Gauss-Newton matrix, no probes.

    For networks that are piecewise linear in each layer (ReLU, linear) it is the trace of the
    Hessian at any labels. Arguments and errors as ``gradient_gram``; memory chunk c d numbers.

    >>> float(gauss_newton_trace(lambda w, x: x @ w, jnp.ones(2), jnp.array([[1.0, 2.0]])))
    5.0
    """
    x = jnp.asarray(x)
    shape = _output_shape(apply, params, x, chunk)
    weights = _require_weights(output_weights, shape)

    def squared_norm(example: tuple[Array, Array | None]) -> Array:
        row, weight = example
        jacobian = example_jacobian(apply, params, row)
        return jnp.sum((jacobian if weight is None else weight @ jacobian) ** 2)

    return jnp.mean(lax.map(squared_norm, (x, weights), batch_size=min(chunk, len(x))))


def example_jacobian(
    apply: Apply, params: PyTree[Any], example: Float[Array, "..."]
) -> Float[Array, "c d"]:
    """Jacobian of the outputs at one example, without example axis; parameters flattened.

    >>> example_jacobian(lambda w, x: x @ w, jnp.ones(2), jnp.array([3.0, 4.0])).tolist()
    [[3.0, 4.0]]
    """
    rows = jax.jacrev(lambda p: apply(p, example[None])[0].reshape(-1))(params)
    leaves = jax.tree.leaves(rows)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def softmax_weights(logits: Float[Array, "n c"]) -> Float[Array, "n c c"]:
    """Output weights of cross-entropy: ``M_i^T M_i = diag(p_i) - p_i p_i^T``, p_i = softmax.

    ``M = diag(sqrt p) - sqrt(p) p^T``. With them K and the trace are those of the Gauss-Newton
    matrix of the mean cross-entropy, at any labels.

    >>> m = softmax_weights(jnp.zeros((1, 2)))[0]
    >>> (m.T @ m).round(12).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    p = jax.nn.softmax(logits, axis=-1)
    root = jnp.sqrt(p)
    eye = jnp.eye(p.shape[-1], dtype=p.dtype)
    return root[:, :, None] * (eye[None] - p[:, None, :])


def _by_chunks(jacobian: Callable[[Array], Array], x: Array, chunk: int) -> Array:
    """``J J^T`` in blocks of chunk by chunk examples; the last chunk repeats its last example."""
    count = -(-len(x) // chunk)
    filled = jnp.concatenate([x, jnp.broadcast_to(x[-1:], (count * chunk - len(x), *x.shape[1:]))])
    parts = filled.reshape(count, chunk, *x.shape[1:])

    def row_of_blocks(part: Array) -> Array:
        rows = jacobian(part)
        return lax.map(lambda other: rows @ jacobian(other).T, parts)

    blocks = lax.map(row_of_blocks, parts)
    size = count * blocks.shape[-1]
    return blocks.transpose(0, 2, 1, 3).reshape(size, size)


def _output_shape(apply: Apply, params: PyTree[Any], x: Array, chunk: int) -> tuple[int, ...]:
    require_at_least(1, chunk=chunk)
    if jnp.ndim(x) == 0 or len(x) == 0:
        raise ValueError(f"x must hold examples on its leading axis, got shape {jnp.shape(x)}")
    shape = jax.eval_shape(apply, params, x).shape
    if len(shape) not in (1, 2) or shape[0] != len(x):
        raise ValueError(f"apply must give ({len(x)}, n_out) or ({len(x)},), got {shape}")
    return shape


def _require_weights(weights: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    """Weights as (n, c, c)."""
    if weights is None:
        return None
    weights = jnp.asarray(weights)
    if weights.shape != shape + shape[1:]:
        raise ValueError(f"output_weights must be {shape + shape[1:]}, got {weights.shape}")
    n, c = shape[0], math.prod(shape[1:])
    return weights.reshape(n, c, c)
