"""What a network has learned so far: modes of its task, and the geometry of its activity.

    mode_strengths, balance_matrices, first_crossing    deep linear networks along training
    effective_rank, participation_ratio                 dimension of a spectrum
    task_alignment                                      CKA of activity with inputs and with targets
    parallelism_score, ccgp                             abstract coding of the bits of a task

Activity ``h`` has examples on the leading axis; ``bits`` (examples, k) are +1 or -1 and known
before anything is compiled. For collapse onto class means see ``dynamics.collapse``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dynamics.regime import cka


def mode_strengths(
    linear_map: Float[ArrayLike, "n_out n_in"],
    left_vectors: Float[ArrayLike, "n_out modes"],
    right_vectors: Float[ArrayLike, "n_in modes"],
) -> Float[Array, " modes"]:
    """Strength of every mode of a map: ``u_i = (U^T W V)_ii``.

    U and V hold the task's left and right singular vectors as columns; W is the map the network
    computes, ``W_L ... W_1`` for a deep linear one.

    >>> mode_strengths(jnp.diag(jnp.array([2.0, 3.0])), jnp.eye(2), jnp.eye(2)).tolist()
    [2.0, 3.0]
    """
    left, right = jnp.asarray(left_vectors), jnp.asarray(right_vectors)
    return jnp.sum(left * (jnp.asarray(linear_map) @ right), axis=0)


def balance_matrices(
    params: Sequence[Float[Array, "_ _"]],
) -> tuple[Float[Array, "_ _"], ...]:
    """What gradient flow conserves of a deep linear network: ``W_{l+1}^T W_{l+1} - W_l W_l^T``.

    params: (W_1, ..., W_L), L >= 2; one matrix (n_l, n_l) per hidden layer, all zero in a balanced
    network. Gradient descent changes them at second order in its step, weight decay shrinks them.

    Source: Arora, Cohen & Hazan (2018), arXiv 1802.06509.

    >>> balance_matrices((jnp.ones((1, 2)), jnp.full((3, 1), 2.0)))[0].tolist()
    [[10.0]]
    """
    return tuple(after.T @ after - before @ before.T for before, after in pairwise(params))


def effective_rank(linear_map: Float[ArrayLike, "n_out n_in"]) -> Float[Array, ""]:
    """``exp(H)`` of the singular values of a map as a distribution: how many it spreads over.

        H = -sum_i p_i ln p_i,   p_i = sigma_i / sum_j sigma_j

    Between 1 and the rank, which it is if all singular values are equal; nan for a zero map.

    Source: Roy & Vetterli (2007), "The effective rank".

    >>> round(float(effective_rank(jnp.diag(jnp.array([2.0, 2.0, 0.0])))), 12)
    2.0
    """
    values = jnp.linalg.svd(jnp.asarray(linear_map), compute_uv=False)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(values / jnp.sum(values))))


def participation_ratio(kernel: Float[ArrayLike, "n n"]) -> Float[Array, ""]:
    """``(tr K)^2 / tr K^2`` of a symmetric positive semidefinite matrix, an effective dimension.

    Between 1 and the rank, which it is if all non-zero eigenvalues are equal; nan for zero. The
    dimension of a representation is that of the covariance of its features, or of the centred Gram
    matrix of its examples, which has the same eigenvalues.

    >>> round(float(participation_ratio(jnp.diag(jnp.array([2.0, 2.0, 0.0])))), 12)
    2.0
    """
    kernel = jnp.asarray(kernel)
    return jnp.trace(kernel) ** 2 / jnp.sum(kernel**2)


class TaskAlignment(NamedTuple):
    """CKA of a representation with the inputs and with the targets, each between 0 and 1."""

    input: Float[Array, ""]
    target: Float[Array, ""]


def task_alignment(
    h: Float[ArrayLike, "P features"],
    x: Float[ArrayLike, "P n_in"],
    y: Float[ArrayLike, "P n_out"],
) -> TaskAlignment:
    """Whether activity looks like the inputs or like the targets, CKA(HH^T, XX^T), CKA(HH^T, YY^T).

    ``dynamics.regime.cka`` over P conditions, linear and centred. Of inputs that are the corners of
    a cube and q of its k bits as targets the CKA is sqrt(q/k); of orthogonal inputs and a balanced
    label it is 1/sqrt(P - 1).

    >>> cube = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> [round(float(value), 6) for value in task_alignment(cube, cube, cube[:, :1])]
    [1.0, 0.707107]
    """
    return TaskAlignment(cka(h, x), cka(h, y))


def parallelism_score(
    h: Float[ArrayLike, "P features"], bits: Float[ArrayLike, "P k"]
) -> Float[Array, " k"]:
    """How parallel a bit's coding vectors are, for each of k >= 2 bits: 1 if it is abstract.

    A coding vector of bit b is the difference of activity between two conditions that differ in b
    only; the score is the mean cosine over all pairs of the 2^(k-1) coding vectors. Here conditions
    are paired by their other bits; Bernardi et al. take the best of all pairings. Several examples
    of a condition are averaged first. nan if two conditions have the same activity.

    Raises ``ValueError`` unless bits are +-1, k >= 2, and all 2^k combinations occur.

    Source: Bernardi et al. (2020), Cell 183, 954.

    >>> cube = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> parallelism_score(cube, cube).round(12).tolist()
    [1.0, 1.0]
    >>> abs(parallelism_score(jnp.eye(4), cube)).round(12).tolist()
    [0.0, 0.0]
    """
    design, mean = _conditions(bits)
    means = jnp.asarray(h)
    means = jnp.asarray(mean, means.dtype) @ means
    scores = []
    for bit in range(design.shape[1]):
        # conditions are in lexicographic order: those of each side match, row by row
        vectors = means[design[:, bit] > 0] - means[design[:, bit] < 0]
        vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
        count = len(vectors)
        total = jnp.sum(jnp.sum(vectors, axis=0) ** 2)  # of all cosines, each vector's own included
        scores.append((total - count) / (count * (count - 1)))
    return jnp.stack(scores)


def ccgp(
    h: Float[ArrayLike, "P features"], bits: Float[ArrayLike, "P k"], *, ridge: ArrayLike = 0.0
) -> Float[Array, " k"]:
    """Cross-condition generalisation performance of a linear decoder, for each of k >= 2 bits.

    The decoder of a bit is trained where another bit has one value and tested where it has the
    other: accuracy, the mean over all other bits and both directions. It is least squares on the
    labels +-1 with a free intercept, ``min |h w + b - label|^2 + ridge |w|^2``, of least norm at
    ridge 0. An output that is zero, up to the square root of rounding, counts as half right, so
    that conditions unrelated to those of training give chance, 1/2. Coding vectors that are exactly
    parallel do not suffice for 1: with axes w_1 and w_2 of two bits the decoder of the first is
    shifted by 2 w_1.w_2/|w_1|^2 between the values of the second, and half wrong if that exceeds 1.

    Raises ``ValueError`` as ``parallelism_score``.

    Source: Bernardi et al. (2020), Cell 183, 954, with other decoders.

    >>> cube = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> ccgp(cube, cube).tolist(), ccgp(jnp.eye(4), cube).tolist()
    ([1.0, 1.0], [0.5, 0.5])
    """
    h, signs = jnp.asarray(h), np.asarray(bits)
    design, _ = _conditions(bits)

    def accuracy(bit: int, seen: np.ndarray) -> Array:
        labels = jnp.asarray(signs[:, bit], h.dtype)
        guess = _decode(h[seen], labels[seen], h[~seen], ridge) * labels[~seen]
        tie = jnp.sqrt(jnp.finfo(h.dtype).eps)
        return jnp.mean(jnp.where(jnp.abs(guess) <= tie, 0.5, guess > 0))

    bits_range = range(design.shape[1])
    return jnp.stack(
        [
            jnp.mean(
                jnp.stack(
                    [
                        accuracy(bit, signs[:, other] == side)
                        for other in bits_range
                        if other != bit
                        for side in (1, -1)
                    ]
                )
            )
            for bit in bits_range
        ]
    )


def _decode(h: Array, labels: Array, h_new: Array, ridge: ArrayLike) -> Array:
    """Outputs on ``h_new`` of ridge regression with an intercept, in its dual form."""
    center, mean = jnp.mean(h, axis=0, keepdims=True), jnp.mean(labels)
    values, vectors = jnp.linalg.eigh((h - center) @ (h - center).T)
    kept = values > len(values) * jnp.finfo(h.dtype).eps * values[-1]
    inverse = jnp.where(kept, 1 / jnp.where(kept, values + ridge, 1.0), 0.0)
    dual = vectors @ (inverse * (vectors.T @ (labels - mean)))
    return (h_new - center) @ ((h - center).T @ dual) + mean


def _conditions(bits: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The 2^k conditions (2^k, k) in lexicographic order, and the matrix that averages examples."""
    signs = np.asarray(bits)
    if signs.ndim != 2 or signs.shape[1] < 2 or not np.all(np.abs(signs) == 1):
        raise ValueError(f"bits must be +1 or -1, (P, k) with k >= 2, got shape {signs.shape}")
    design, which = np.unique(signs, axis=0, return_inverse=True)
    if len(design) != 2 ** signs.shape[1]:
        raise ValueError(
            f"bits must have all {2 ** signs.shape[1]} combinations, got {len(design)}"
        )
    member = which.reshape(1, -1) == np.arange(len(design))[:, None]
    return design, member / member.sum(1, keepdims=True)


def first_crossing(times: ArrayLike, values: ArrayLike, level: ArrayLike) -> Any:
    """When each curve first reaches its level from below, linearly interpolated.

    ``times`` (records,), ``values`` (..., records, curves), ``level`` () or (curves,); returns
    (..., curves). ``inf`` where the level is never reached (censored), ``times[0]`` where the
    curve starts above it. NaN counts as not reached.

    >>> first_crossing(jnp.arange(3.0), jnp.array([[0.0], [1.0], [4.0]]), 2.5).tolist()
    [1.5]
    """
    times, values = jnp.asarray(times, float), jnp.asarray(values, float)
    level = jnp.broadcast_to(jnp.asarray(level, float), values.shape[-1:])
    excess = values - jnp.broadcast_to(level, values.shape)
    above = excess >= 0
    after = jnp.argmax(above, axis=-2, keepdims=True)
    before = jnp.maximum(after - 1, 0)
    high = jnp.take_along_axis(excess, after, axis=-2)
    low = jnp.take_along_axis(excess, before, axis=-2)
    rise = jnp.where(high > low, high - low, 1.0)
    crossing = times[after] - (times[after] - times[before]) * high / rise
    reached = jnp.any(above, axis=-2)
    return jnp.where(reached, jnp.where(after > 0, crossing, times[0])[..., 0, :], jnp.inf)
