"""Exact neural tangent kernels of linear networks, and how far training moves them.

The kernel is J J^T, J the Jacobian of all outputs with respect to all weights. Small movement
(alignment near 1) is called lazy, large movement rich. Alignments are cosines without centring.

Sources: Jacot, Gabriel & Hongler 2018, arXiv:1806.07572; Braun et al. 2022; Domine et al. 2024,
arXiv:2409.14623; Liu, Baratin, Cornford, Mihalas, Shea-Brown & Lajoie 2023, arXiv:2310.08513.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from theory.arguments import (
    as_floats,
    require_finite,
    require_positive,
)
from theory.checks import Count, is_concrete, require, require_count, require_depth
from theory.deep_linear.matrices import as_matrices, gram_roots, require_shape


def ntk_two_layer(
    W1tW1: Float[ArrayLike, "..."], W2W2t: Float[ArrayLike, "..."], X: Float[ArrayLike, "..."]
) -> Float[Array, "n n"]:
    """Tangent kernel of ``y = W2 W1 x`` on the inputs X, from the diagonal blocks of ``qqt``.

    ``I (x) X^T W1^T W1 X + W2 W2^T (x) X^T X``, outputs major: entry (o P + p, o' P + p') belongs
    to output o of example p. W1tW1 (inputs, inputs), W2W2t (outputs, outputs), X (inputs, P
    examples as columns); n = outputs P. With X = I, and errors ``E = Sigma_yx - W2 W1`` on whitened
    inputs, ``tau d vec(W2 W1)/dt = NTK vec(E)`` (rows stacked).
    Raises ``ValueError`` for shapes that do not fit together, NaN.
    Source: Braun et al. 2022.

    >>> ntk_two_layer(jnp.array([[4.0]]), jnp.array([[1.0]]), jnp.array([[1.0, 2.0]])).tolist()
    [[5.0, 10.0], [10.0, 20.0]]
    """
    first, second, X = as_matrices(W1tW1=W1tW1, W2W2t=W2W2t, X=X)
    require_shape((X.shape[0], X.shape[0]), W1tW1=first)
    require_shape((second.shape[0], second.shape[0]), W2W2t=second)
    outputs = jnp.eye(second.shape[0], dtype=X.dtype)
    return jnp.kron(outputs, X.T @ first @ X) + jnp.kron(second, X.T @ X)


def ntk_balanced(W: Float[ArrayLike, "..."], depth: Count) -> Float[Array, "n n"]:
    """Tangent kernel of a balanced deep linear network with the map W, on orthonormal inputs.

    ``sum_{j=1..L} (W W^T)^{(L-j)/L} (x) (W^T W)^{(j-1)/L}``, the kernel of the entries of W, rows
    stacked: W (outputs, inputs), n = outputs inputs. Eigenvalues
    ``sum_j s_i^{2(L-j)/L} s_k^{2(j-1)/L}``. On inputs X (columns) it is
    ``(I (x) X^T) NTK (I (x) X)``. Any rank; once differentiable as ``end_to_end_velocity`` is.
    Raises ``ValueError`` for a W that is not a matrix, NaN or a bad depth.
    Source: Arora, Cohen & Hazan 2018, arXiv:1802.06509 (the preconditioner).

    >>> ntk_balanced(jnp.array([[4.0]]), depth=2).tolist()
    [[8.0]]
    """
    (W,) = as_matrices(W=W)
    require_depth(depth)
    return _ntk_balanced(W, depth=int(depth))


def rich_limit_ntk(beta: Float[ArrayLike, "..."], depth: Count) -> Float[Array, "inputs inputs"]:
    """Final tangent kernel of a deep linear network with one output, from vanishing weights.

    ``b^{2-2/L} (I + (L-1) bhat bhat^T)`` in input space, for the teacher beta = b bhat, (inputs,),
    whitened inputs; on inputs X it is ``X^T NTK X``. It is ``ntk_balanced`` of the final map.
    Raises ``ValueError`` for a beta that is not a non-zero vector, NaN or a bad depth.
    Source: Atanasov, Bordelon & Pehlevan 2022, arXiv:2111.00034 (kernel alignment in rich
    linear networks).

    >>> rich_limit_ntk(jnp.array([4.0, 0.0]), depth=2).tolist()
    [[8.0, 0.0], [0.0, 4.0]]
    """
    require_depth(depth)
    require_finite(beta=beta)
    (beta,) = as_floats(beta)
    if beta.ndim != 1 or beta.size == 0:
        raise ValueError(f"beta must be a vector, got shape {beta.shape}")
    require("|beta|", jnp.sum(beta**2), lambda norm: norm > 0, "positive")
    b = jnp.linalg.norm(beta)
    direction = beta / b
    spread = (depth - 1) * direction[:, None] * direction[None, :]
    return b ** (2 - 2 / depth) * (jnp.eye(beta.size, dtype=b.dtype) + spread)


def kernel_alignment(K0: Float[ArrayLike, "..."], K1: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    """Alignment of two kernels, ``tr(K0 K1) / (|K0| |K1|)`` (Frobenius), without centring.

    In [0, 1] for positive semi-definite matrices of one shape; 1 for equal directions (lazy).
    Raises ``ValueError`` for shapes that differ, NaN or a kernel that is zero.
    Source: Liu et al. 2023, arXiv:2310.08513.

    >>> round(float(kernel_alignment(jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0])))), 4)
    0.7071
    """
    K0, K1 = as_matrices(K0=K0, K1=K1)
    require_shape(K0.shape, K1=K1)
    require_shape((K0.shape[0], K0.shape[0]), K0=K0)
    return jnp.sum(_unit("K0", K0) * _unit("K1", K1))


def representation_alignment(
    H0: Float[ArrayLike, "..."], H1: Float[ArrayLike, "..."]
) -> Float[Array, ""]:
    """Alignment of two hidden representations H0, H1 (hidden, examples) of the same examples.

    The ``kernel_alignment`` of the Gram matrices ``H^T H`` over examples, without forming them;
    the numbers of hidden units may differ. In [0, 1]; no centring.
    Raises ``ValueError`` for different numbers of examples, NaN or activity that is zero.
    Source: Liu et al. 2023, arXiv:2310.08513.

    >>> round(float(representation_alignment(jnp.eye(2), jnp.array([[3.0, 0.0]]))), 4)
    0.7071
    """
    H0, H1 = as_matrices(H0=H0, H1=H1)
    require_shape((H1.shape[0], H0.shape[1]), H1=H1)
    H0, H1 = _unit("H0", H0), _unit("H1", H1)
    overlap = jnp.sum((H0 @ H1.T) ** 2)
    return overlap / (jnp.linalg.norm(H0 @ H0.T) * jnp.linalg.norm(H1 @ H1.T))


def weight_change(W0: PyTree, W1: PyTree) -> Float[Array, ""]:
    """How far weights have moved, ``|W1 - W0|`` (Frobenius), over all arrays of two pytrees.

    Raises ``ValueError`` for different structures or shapes, NaN or infinity.
    Source: Liu et al. 2023, arXiv:2310.08513.

    >>> float(weight_change([jnp.zeros(2), 1.0], [jnp.array([0.0, 3.0]), 5.0]))
    5.0
    """
    before, after = jax.tree.leaves_with_path(W0), jax.tree.leaves_with_path(W1)
    shapes = [[(path, jnp.shape(leaf)) for path, leaf in leaves] for leaves in (before, after)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ValueError(f"W1 must have the arrays of W0, {shapes[0]}, got {shapes[1]}")
    for (path, start), (_, end) in zip(before, after, strict=True):
        where = jax.tree_util.keystr(path)
        require_finite(**{f"W0{where}": start, f"W1{where}": end})
    changes = [
        jnp.ravel(end) - jnp.ravel(start)
        for (_, start), (_, end) in zip(before, after, strict=True)
    ]
    return _norm(jnp.concatenate(changes))


def low_rank_laziness(
    rank: ArrayLike,
    n_in: ArrayLike,
    sq_norm: ArrayLike,
    target_sq_norm: ArrayLike,
    task_alignment: ArrayLike | None = None,
) -> dict[str, Array]:
    """How far training moves ``y = a^T W x`` from a W(0) of rank r and from a(0) = 0.

    W(0) (hidden, d = n_in) has r equal singular values sigma, ``sigma^2 = sq_norm / r``, with the
    right singular vectors V; whitened inputs, teacher beta with ``|beta|^2 = target_sq_norm`` and
    ``rho = |V^T beta|^2 / |beta|^2 = task_alignment``. One hidden direction takes part, an exact
    single hidden unit of imbalance -sigma^2. With ``q = sqrt(sigma^4 + 4 |beta|^2)``,
    ``A = (q - sigma^2)/2`` and ``T = (q + sigma^2)/2`` the results, broadcast, are

        kernel_alignment          [sigma^2 (r-1) + T rho + A r] / (sqrt(r) N),
                                  N^2 = sigma^4 (r-1) + T^2 + A^2 d + 2 A (sigma^2 (r-1) + T)
        representation_alignment  [sigma^2 (r-1) + T rho] / sqrt(r (sigma^4 (r-1) + T^2))
        weight_change             |W(inf) - W(0)| = sqrt(T + sigma^2 - 2 sigma sqrt(T rho))
        readout_norm              |a(inf)| = sqrt(A)
        kernel_norm_ratio         |K(inf)| / |K(0)| = N / (sigma^2 sqrt(r)),

    K = ``W^T W + |a|^2 I`` the tangent kernel, and representations those of white probes. For
    teachers of random direction ``rho ~ Beta(r/2, (d-r)/2)``; both alignments are linear in rho, so
    that their average is their value at the mean r/d, the default. rho = 0 is a saddle where
    nothing moves; the limit rho -> 0 is another one. Norms of the kernel grow, alignments with
    the task average rise, with the rank at fixed sq_norm.

    Raises ``ValueError`` unless 1 <= rank <= n_in are integers, sq_norm and target_sq_norm are
    positive, and 0 <= task_alignment <= 1 (= 1 at full rank).
    Source: derived here, on the setting of Liu et al. 2023, arXiv:2310.08513.

    >>> average = low_rank_laziness(jnp.array([1, 12]), 12, 6.0, 1.7)
    >>> [round(float(alignment), 3) for alignment in average["kernel_alignment"]]
    [0.12, 0.984]
    """
    require_count(rank=rank, n_in=n_in)
    require_positive(sq_norm=sq_norm, target_sq_norm=target_sq_norm)
    fraction = jnp.asarray(rank) / jnp.asarray(n_in)
    require("rank", fraction, lambda f: f <= 1, "at most n_in (as a fraction of it, at most 1)")
    rho = fraction if task_alignment is None else task_alignment
    require("task_alignment", rho, lambda x: (x >= 0) & (x <= 1), "between 0 and 1")
    if is_concrete(fraction, rho):
        free, aligned = np.broadcast_arrays(fraction < 1, rho)
        require("task_alignment", aligned, lambda x: free | (x == 1), "1 at full rank")
    return _low_rank_laziness(rank, n_in, sq_norm, target_sq_norm, rho)


@partial(jax.jit, static_argnames="depth")
def _ntk_balanced(W, *, depth):
    left, right = gram_roots(W, jnp.zeros((), W.dtype), depth)
    lefts, rights = (list(_powers(root, depth)) for root in (left, right))
    return sum(jnp.kron(lefts[depth - 1 - j], rights[j]) for j in range(depth))


def _powers(root, count):
    power = jnp.eye(root.shape[0], dtype=root.dtype)
    for _ in range(count):
        yield power
        power = power @ root


@jax.jit
def _low_rank_laziness(rank, n_in, sq_norm, target_sq_norm, rho):
    r, d, sq_norm, b2, rho = as_floats(rank, n_in, sq_norm, target_sq_norm, rho)
    sigma2 = sq_norm / r
    q = jnp.sqrt(sigma2**2 + 4 * b2)
    A, T = 2 * b2 / (q + sigma2), 0.5 * (q + sigma2)
    idle = sigma2 * (r - 1)  # of the directions that take no part
    features = jnp.sqrt(sigma2 * idle + T**2)
    kernel = jnp.sqrt(features**2 + A**2 * d + 2 * A * (idle + T))
    moving = rho > 0
    root = jnp.sqrt(jnp.where(moving, rho, 1))
    # T + sigma^2 - 2 sigma sqrt(T rho), without cancellation near rho = 1
    turned = 2 * jnp.sqrt(T * sigma2) * (1 - rho) / (1 + root)
    change = jnp.sqrt((A / (jnp.sqrt(T) + jnp.sqrt(sigma2))) ** 2 + turned)
    return {
        "kernel_alignment": jnp.where(moving, (idle + T * rho + A * r) / (jnp.sqrt(r) * kernel), 1),
        "representation_alignment": jnp.where(
            moving, (idle + T * rho) / (jnp.sqrt(r) * features), 1
        ),
        "weight_change": jnp.where(moving, change, 0),
        "readout_norm": jnp.where(moving, jnp.sqrt(A), 0),
        "kernel_norm_ratio": jnp.where(moving, kernel / (sigma2 * jnp.sqrt(r)), 1),
    }


def _unit(name: str, matrix: Array) -> Array:
    """The matrix divided by its Frobenius norm."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix)))
    require(f"|{name}|", size, lambda x: x > 0, "positive")
    scaled = matrix / size
    return scaled / jnp.linalg.norm(scaled)


def _norm(vector: Array) -> Array:
    """Euclidean norm; its gradient at 0 is taken as 0."""
    square = jnp.sum(vector**2)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
