"""Kernels of pairs of examples, block by block, within a budget of memory.

A kernel is two functions: ``features(part)`` of m examples, arrays with the examples on the leading
axis, and ``pair(first, second)`` of two such features. Features of one block of rows are kept while
the columns pass by and are never stored, so that memory is that of two blocks, besides the kernel
itself. Where the examples are paired with themselves, blocks above the diagonal are mirrored.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from dynamics.operators import require_at_least

Features = Callable[[Array], PyTree[Any]]
Pair = Callable[[Any, Any], Array]

PAIRINGS = {
    "full": "iap,jbp->iajb",
    "each": "iap,jap->ija",
    "sum": "iap,jap->ij",
    "mean": "iap,jap->ij",
}


def pairwise(
    features: Features,
    pair: Pair,
    x1: Float[Array, "n1 ..."],
    x2: Float[Array, "n2 ..."] | None = None,
    *,
    chunk: int,
    axis: int = 1,
) -> Float[Array, "n1 ..."]:
    """``pair(features(x1), features(x2))`` in blocks of ``chunk`` by ``chunk`` examples.

    A block has the examples of x1 on its first axis and those of x2 on ``axis``. Where the chunk
    does not divide the examples the last block begins earlier and repeats a few. Features of x2 are
    computed anew for every block of rows: larger chunks are faster.

    Without x2, x1 with itself, in half the time: then ``pair(b, a)`` must be ``pair(a, b)`` with
    its first ``axis`` axes and the next ``axis`` exchanged.

    Raises ``ValueError`` for chunk < 1.

    >>> product = pairwise(lambda x: x, lambda a, b: a @ b.T, jnp.eye(3), chunk=2)
    >>> product.tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    require_at_least(1, chunk=chunk)
    if x2 is not None:
        return _rectangle(features, pair, x1, x2, chunk, axis)
    if len(x1) > chunk:
        return _triangle(features, pair, x1, chunk, axis)
    both = features(x1)
    return pair(both, both)


def _rectangle(
    features: Features, pair: Pair, x1: Array, x2: Array, chunk: int, axis: int
) -> Array:
    rows, columns = min(chunk, len(x1)), min(chunk, len(x2))

    def fill_rows(i: Any, kernel: Array) -> Array:
        first = features(lax.dynamic_slice_in_dim(x1, i * rows, rows))

        def fill(j: Any, kernel: Array) -> Array:
            second = features(lax.dynamic_slice_in_dim(x2, j * columns, columns))
            return _put(kernel, pair(first, second), i * rows, j * columns, axis)

        return lax.fori_loop(0, -(-len(x2) // columns), fill, kernel)

    like = [jax.eval_shape(features, part) for part in (x1[:rows], x2[:columns])]
    start = _zeros(jax.eval_shape(pair, *like), len(x1), len(x2), axis)
    return lax.fori_loop(0, -(-len(x1) // rows), fill_rows, start)


def _triangle(features: Features, pair: Pair, x: Array, chunk: int, axis: int) -> Array:
    """Blocks on and above the diagonal, row by row, and their mirror images."""

    def fill(carry: tuple[PyTree[Any], Array], corner: Array):
        (first, kernel), (i, j) = carry, corner
        second = features(lax.dynamic_slice_in_dim(x, j, chunk))
        # a row begins on the diagonal
        first = jax.tree.map(lambda new, old: jnp.where(i == j, new, old), second, first)
        block = pair(first, second)
        kernel = _put(kernel, block, i, j, axis)
        return (first, _put(kernel, _mirrored(block, axis), j, i, axis)), None

    like = jax.eval_shape(features, x[:chunk])
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    start = _zeros(jax.eval_shape(pair, like, like), len(x), len(x), axis)
    corners = chunk * jnp.stack(np.triu_indices(-(-len(x) // chunk)), axis=1)
    return lax.scan(fill, (none, start), corners)[0][1]


def _zeros(block: Any, rows: int, columns: int, axis: int) -> Array:
    """A kernel of these sizes, of such blocks."""
    shape = [*block.shape]
    shape[0], shape[axis] = rows, columns
    return jnp.zeros(shape, block.dtype)


def _put(kernel: Array, block: Array, row: Any, column: Any, axis: int) -> Array:
    # reading and writing move a block that overhangs inwards by the same amount
    corner = [0] * kernel.ndim
    corner[0], corner[axis] = row, column
    return lax.dynamic_update_slice(kernel, block, corner)


def _mirrored(block: Array, axis: int) -> Array:
    rest = range(2 * axis, block.ndim)
    return block.transpose(*range(axis, 2 * axis), *range(axis), *rest)


def pair_outputs(
    first: Float[Array, "n1 c p"], second: Float[Array, "n2 c p"], outputs: str
) -> Float[Array, "n1 ..."]:
    """Inner products over the last axis, of outputs as ``outputs`` says.

    "full" (n1, c, n2, c); "each" (n1, n2, c), every output with itself; "sum" and "mean" (n1, n2),
    the trace over outputs and 1/c of it. Raises ``ValueError`` for another name.

    >>> pair_outputs(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), "sum").tolist()
    [[6.0]]
    """
    require_outputs(outputs)
    products = jnp.einsum(PAIRINGS[outputs], first, second)
    return products / first.shape[1] if outputs == "mean" else products


def require_outputs(outputs: str) -> None:
    """Raise ``ValueError`` unless ``outputs`` is a key of ``PAIRINGS``.

    >>> require_outputs("trace")
    Traceback (most recent call last):
        ...
    ValueError: outputs must be one of full, each, sum, mean, got 'trace'
    """
    if outputs not in PAIRINGS:
        raise ValueError(f"outputs must be one of {', '.join(PAIRINGS)}, got {outputs!r}")


def within_memory(
    kernel: Callable[..., Array], args: tuple[Any, ...], *, most: int, memory: int
) -> Array:
    """``kernel(chunk, *args)`` with a chunk at which it needs at most ``memory`` bytes.

    Counted are result and intermediate values of the compiled program, as the compiler reports
    them, not the arguments. Chunks are tried from ``most`` downwards, a compilation each, so the
    one taken fits but need not be the largest that does. Inside ``vmap`` one element is counted.

    Raises ``ValueError`` with the bytes needed if a chunk of one example does not fit.

    >>> double = lambda chunk, x: 2.0 * x
    >>> within_memory(double, (jnp.ones(2),), most=1, memory=1000).tolist()
    [2.0, 2.0]
    """
    require_at_least(1, memory=memory)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), args)
    chunk = most
    while True:
        program = jax.jit(lambda *a, chunk=chunk: kernel(chunk, *a)).lower(*shapes).compile()
        used = program.memory_analysis()
        if used is None:
            raise ValueError(
                f"memory must be None: {jax.default_backend()} does not report its use"
            )
        result, need = (
            used.output_size_in_bytes,
            used.output_size_in_bytes + used.temp_size_in_bytes,
        )
        if need <= memory:
            return kernel(chunk, *args) if traced else program(*args)
        if chunk == 1:
            raise ValueError(
                f"memory must be at least {need} bytes for one example at a time, got {memory}"
            )
        # intermediate values are about proportional to the chunk
        share = max(0.0, (memory - result) / (need - result)) if need > result else 0.0
        chunk = max(1, min(chunk - 1, int(share * chunk)))
