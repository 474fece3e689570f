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
from dynamics.pairwise import pair_outputs, pairwise, require_outputs

Apply = Callable[[PyTree[Any], Any], Array]


def gradient_gram(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    x2: Float[ArrayLike, "n2 ..."] | None = None,
    *,
    outputs: str = "full",
    chunk: int = 32,
    output_weights: Float[ArrayLike, "..."] | None = None,
) -> Float[Array, "n n2"] | Float[Array, "n c n2 c"] | Float[Array, "n n2 c"]:
    """Inner products of output gradients, ``K_(ia)(jb) = d f_a(x_i)/d theta . d f_b(x_j)/d theta``.

    Examples i of x and j of x2, by default x itself. (n, n2) if ``apply`` gives (n,), and
    (n, c, n2, c) if it gives (n, c): the empirical tangent kernel. Memory: the Jacobians of two
    chunks, 2 chunk c d numbers; for every pair of chunks one of them is computed anew, so larger
    chunks are faster.

    Args:
        outputs: "full"; "each" output with itself, (n, n2, c); "sum" or "mean" of these, (n, n2).
        output_weights: M, (n,) or (n, c, c), for ``M_i K_ij M_j^T``; see ``softmax_weights``. Only
            for the full kernel of x with itself.

    Raises:
        ValueError: outputs or weights of another shape, weights out of place, an unknown name, no
            examples, chunk < 1.

    >>> gradient_gram(lambda w, x: x @ w, jnp.ones(2), jnp.array([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[5.0, 2.0], [2.0, 1.0]]
    """
    x = jnp.asarray(x)
    x2 = None if x2 is None else jnp.asarray(x2)
    shape = _output_shape(apply, params, x, chunk)
    require_outputs(outputs)
    if x2 is not None:
        _output_shape(apply, params, x2, chunk)
    if output_weights is not None and (x2 is not None or outputs != "full"):
        raise ValueError('output_weights must be None unless outputs is "full" and x2 is None')
    weights = _require_weights(output_weights, shape)

    def pair(first: list[Array], second: list[Array]) -> Array:
        rows = [leaf.reshape(*leaf.shape[:2], -1) for leaf in first + second]
        pairs = zip(rows[: len(first)], rows[len(first) :], strict=True)
        return sum((pair_outputs(a, b, outputs) for a, b in pairs), jnp.zeros((), rows[0].dtype))

    jacobian = jax.vmap(lambda example: jacobian_leaves(apply, params, example))
    axis = 2 if outputs == "full" else 1
    gram = pairwise(jacobian, pair, x, x2, chunk=chunk, axis=axis)
    if weights is not None:
        gram = jnp.einsum("iab,ibjd,jed->iaje", weights, gram, weights)
    return gram.reshape(len(gram), -1) if len(shape) == 1 else gram


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
        leaves = jacobian_leaves(apply, params, row)
        if weight is not None:
            leaves = [jnp.tensordot(weight, leaf, axes=1) for leaf in leaves]
        return sum((jnp.sum(leaf**2) for leaf in leaves), jnp.zeros((), leaves[0].dtype))

    return jnp.mean(lax.map(squared_norm, (x, weights), batch_size=min(chunk, len(x))))


def jacobian_leaves(apply: Apply, params: PyTree[Any], example: Float[Array, "..."]) -> list[Array]:
    """Derivatives (c, ...) of the outputs at one example, by every array of parameters.

    The example comes without example axis. Leaves stay apart: joining them would be another copy.

    >>> jacobian_leaves(lambda w, x: x @ w, jnp.ones(2), jnp.array([3.0, 4.0]))[0].tolist()
    [[3.0, 4.0]]
    """
    return jax.tree.leaves(jax.jacrev(lambda p: apply(p, example[None])[0].reshape(-1))(params))


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
