"""The empirical neural tangent kernel of a network: how its outputs move under gradient descent.

    Theta_(ia)(jb) = sum_theta d f_a(x_i)/d theta  d f_b(x_j)/d theta

for any ``apply(params, x)`` that treats its examples one by one (of flax modules, what
``dynamics.adapters`` returns). Gradient flow on ``sum_i 1/2 |f(x_i) - y_i|^2`` moves the outputs by
``df/dt = -Theta (f - y)``, on the mean over n examples by 1/n of that; the eigenvalues of Theta/n
that are not zero are those of the Gauss-Newton matrix of the mean.

    empirical_ntk   the matrix, of one or two sets of inputs, of all outputs or their trace
    ntk_diagonal    its blocks of an example with itself
    ntk_operator    its products with vectors, without forming it, for ``top_eigenpairs``,
                    ``spectral_density``, ``trace`` and ``dense_matrix`` of this package

A fully connected network has ``dynamics.layerwise.layerwise_gram``, the same numbers for a
hundredth of the price: time n^2 c^2 sum(widths), where Jacobians cost n^2 c^2 times the number of
parameters. Convolutions share weights, there the Jacobian is the better way.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.gram import Apply, gradient_gram, jacobian_leaves
from dynamics.operators import require_at_least
from dynamics.pairwise import pair_outputs, require_outputs, within_memory


def empirical_ntk(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "P ..."],
    x2: Float[ArrayLike, "P2 ..."] | None = None,
    *,
    outputs: str = "stacked",
    chunk: int | None = None,
    memory: int | None = None,
) -> Float[Array, "..."]:
    """Tangent kernel of ``apply`` at ``params`` between inputs x and x2, by default x itself.

    ``gradient_gram``, all at once unless told otherwise, as one matrix:

    * "stacked": rows and columns run over outputs and, within each, over examples, (c P, c P2)
    * "full": (P, c, P2, c), Theta_(ia)(jb) at [i, a, j, b]
    * "each": (P, P2, c), every output with itself
    * "sum", "mean": (P, P2), the trace over outputs, and 1/c of it, which is what neural-tangents
      returns by default; Theta of every output in the limit of infinite width

    (P, P2) in all cases if ``apply`` returns (P,).

    Args:
        chunk: so many examples' Jacobians at a time, by default all: 2 chunk c d numbers. Chunks
            are a loop, in which XLA on CPUs takes 20 times as long for derivatives of convolutions.
        memory: bytes for kernel and intermediate values. The chunk is then chosen, and the kernel
            compiled, so that the compiled program keeps within them; some compilations are spent on
            this. What a library called by the program allocates for itself is not in its books.

    Raises:
        ValueError: outputs of another shape, an unknown name, chunk < 1, chunk and memory together,
            and memory that does not suffice for one example at a time, with how much would.

    Source: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572.

    >>> empirical_ntk(lambda w, x: x @ w, jnp.ones(2), jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    x = jnp.asarray(x)
    x2 = None if x2 is None else jnp.asarray(x2)
    pairs = "full" if outputs == "stacked" else outputs
    most = max(len(x), 0 if x2 is None else len(x2)) if x.ndim else 1

    def kernel(chunk: int, *args: Any) -> Array:
        gram = gradient_gram(apply, *args, outputs=pairs, chunk=chunk)
        return _stacked(gram) if outputs == "stacked" else gram

    if memory is None:
        return kernel(most if chunk is None else chunk, params, x, x2)
    if chunk is not None:
        raise ValueError(f"chunk must be None if memory is given, got {chunk}")
    return within_memory(kernel, (params, x, x2), most=most, memory=memory)


def ntk_diagonal(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    *,
    outputs: str = "full",
    chunk: int = 32,
) -> Float[Array, "n c c"] | Float[Array, "n c"] | Float[Array, " n"]:
    """Tangent kernel of every example with itself, ``Theta_(ia)(ib)``.

    (n, c, c) for "full", (n, c) for "each", (n,) for "sum" and "mean", and (n,) in all cases if
    ``apply`` returns (n,). Memory: the Jacobians of one chunk. Errors as ``gradient_gram``.

    >>> ntk_diagonal(lambda w, x: x @ w, jnp.ones(2), jnp.array([[1.0, 2.0]])).tolist()
    [5.0]
    """
    x = jnp.asarray(x)
    require_outputs(outputs)
    require_at_least(1, chunk=chunk)
    shape = jax.eval_shape(apply, params, x).shape
    if len(shape) not in (1, 2) or shape[0] != len(x):
        raise ValueError(f"apply must give ({len(x)}, n_out) or ({len(x)},), got {shape}")

    def example(row: Array) -> Array:
        rows = [leaf.reshape(1, len(leaf), -1) for leaf in jacobian_leaves(apply, params, row)]
        block = sum(
            (pair_outputs(leaf, leaf, outputs) for leaf in rows), jnp.zeros((), rows[0].dtype)
        )
        return block.reshape(block.shape[1:2] * 2 if outputs == "full" else block.shape[2:])

    diagonal = lax.map(example, x, batch_size=min(chunk, len(x)))
    return diagonal.reshape(-1) if len(shape) == 1 else diagonal


def ntk_vp(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "P ..."],
    v: Float[ArrayLike, "..."],
    x2: Float[ArrayLike, "P2 ..."] | None = None,
    *,
    chunk: int | None = None,
) -> Float[Array, "..."]:
    """``Theta(x, x2) v`` without forming Theta: a vector-Jacobian, then a Jacobian-vector product.

    ``v`` is like the outputs at x2, by default x itself; the product is like those at x. The price
    is that of two or three gradients. Networks that mix examples are welcome here, with ``chunk``
    None; otherwise ``chunk`` examples are treated at a time, for the memory of their activations.

    Raises ``ValueError`` if v has another shape than the outputs, for chunk < 1.

    >>> ntk_vp(lambda w, x: x @ w, jnp.ones(2), jnp.eye(2), jnp.array([3.0, 4.0])).tolist()
    [3.0, 4.0]
    """
    x, v = jnp.asarray(x), jnp.asarray(v)
    x2 = x if x2 is None else jnp.asarray(x2)
    outputs = jax.eval_shape(apply, params, x2)
    if v.shape != outputs.shape:
        raise ValueError(f"v must have the shape of the outputs, {outputs.shape}, got {v.shape}")
    v = v.astype(outputs.dtype)

    def pull(part: Array, weights: Array) -> PyTree[Any]:
        return jax.vjp(lambda p: apply(p, part), params)[1](weights)[0]

    def push(part: Array, direction: PyTree[Any]) -> Array:
        return jax.jvp(lambda p: apply(p, part), (params,), (direction,))[1]

    if chunk is None:
        return push(x, pull(x2, v))
    require_at_least(1, chunk=chunk)
    # what fills up the last chunk has weight zero
    weighted = _parts(x2, chunk, "edge"), _parts(v, chunk, "constant")
    direction = lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, pull(*part)), None),
        jax.tree.map(jnp.zeros_like, params),
        weighted,
    )[0]
    pushed = lax.map(lambda part: push(part, direction), _parts(x, chunk, "edge"))
    return pushed.reshape(-1, *pushed.shape[2:])[: len(x)]


def ntk_operator(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "P ..."],
    *,
    outputs: str = "full",
    chunk: int | None = None,
) -> tuple[Callable[[Array], Array], Float[Array, "..."]]:
    """Products with Theta(x, x) and an array of zeros like the vectors, for every estimator here.

    ``top_eigenpairs(*ntk_operator(apply, params, x), key, k=3)`` are leading eigenvalues of the
    kernel of all outputs, on vectors (P, c) or (P,). With ``outputs`` "sum" or "mean" the kernel is
    the trace over outputs or 1/c of it, on vectors (P,), for c products each. ``chunk`` as in
    ``ntk_vp``. Raises ``ValueError`` for another name.

    >>> product, like = ntk_operator(lambda w, x: x @ w, jnp.ones(2), jnp.eye(2))
    >>> product(like + 1.0).tolist()
    [1.0, 1.0]
    """
    if outputs not in ("full", "sum", "mean"):
        raise ValueError(f"outputs must be one of full, sum, mean, got {outputs!r}")
    x = jnp.asarray(x)
    shape = jax.eval_shape(apply, params, x)
    product = partial(ntk_vp, apply, params, x, chunk=chunk)
    if outputs == "full" or len(shape.shape) == 1:
        return product, jnp.zeros(shape.shape, shape.dtype)

    def traced(v: Array) -> Array:
        def output(row: Array) -> Array:
            return product(v[:, None] * row[None, :]) @ row

        total = jnp.sum(lax.map(output, jnp.eye(shape.shape[1], dtype=shape.dtype)), axis=0)
        return total / shape.shape[1] if outputs == "mean" else total

    return traced, jnp.zeros(shape.shape[:1], shape.dtype)


def _stacked(gram: Array) -> Array:
    """(P, c, P2, c) as (c P, c P2), outputs first."""
    if gram.ndim == 4:
        gram = gram.transpose(1, 0, 3, 2)
    rows = math.prod(gram.shape[: gram.ndim // 2])
    return gram.reshape(rows, -1)


def _parts(x: Array, chunk: int, mode: str) -> Array:
    """Chunks of x on a new leading axis, the last one filled up as ``jnp.pad`` does in ``mode``."""
    filled = jnp.pad(x, [(0, -len(x) % chunk)] + [(0, 0)] * (x.ndim - 1), mode=mode)
    return filled.reshape(-1, chunk, *x.shape[1:])
