"""The tangent Gram of a data set, in which all of SGD's linear stability is written.

At a minimum where every sample's loss ``1/2 |f_i - y_i|^2`` vanishes, with J_i (c, d) the Jacobian
of the c outputs at sample i,

    H = (1/n) sum_i J_i^T J_i,   K_ij = J_i J_j^T   (n, c, n, c), or (n, n) for one output.

Nonzero eigenvalues of H are those of K/n. Rows J_i in the eigenbasis of H, the *features*, are all
that the second moments of SGD need: n c numbers a mode instead of d.

Normalisation: loss L = (1/n) sum_i 1/2 |f_i - y_i|^2, summed over outputs. Descending another
multiple ``a L`` of it means ``a`` times the Gram. For cross-entropy at a near-stationary point use
``Q_i^(1/2) J_i`` in place of J_i, ``Q_i = diag(p_i) - p_i p_i^T`` (the Gauss-Newton matrix).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.checks import Count, is_concrete, require, require_count


class GramModes(NamedTuple):
    """Eigenvalues of H (n c,), ascending, and features (n, c, n c): J_i in the eigenbasis.

    Where the Gram has no rank (eigenvalues below rounding), both are exactly zero.
    """

    eigenvalues: Float[Array, " modes"]
    features: Float[Array, "n c modes"]


def mixing_weight(n: Count, batch_size: Count, replacement: bool = False) -> float:
    """Weight p of the single-sample part in the noise of minibatches of B among n samples.

        p = (n - B) / (B (n - 1)) without replacement,   p = 1/B with

    Batches are independent from step to step. A step with the mean of a batch has the second
    moments of a full step taken with probability 1 - p and of a one-sample step with p; without
    replacement ``(1 - p)/n + p = 1/B``.

    Raises ``ValueError`` unless n >= 2 and 1 <= B (<= n without replacement) are integers.
    Source: Mulayoff & Michaeli (2024), arXiv 2306.07850, Proposition 2.

    >>> mixing_weight(10, 1), mixing_weight(10, 10), mixing_weight(10, 5, replacement=True)
    (1.0, 0.0, 0.2)
    """
    require_count(least=2, n=n)
    require_count(batch_size=batch_size)
    if replacement:
        return 1 / float(batch_size)
    if batch_size > n:
        raise ValueError(
            f"batch_size must be at most n = {n} without replacement, got {batch_size}"
        )
    return float((n - batch_size) / (batch_size * (n - 1)))


def as_gram(gram: ArrayLike) -> Float[Array, "n c n c"]:
    """The Gram as (n, c, n, c), checked.

    Raises ``ValueError`` unless it has shape (n, n) or (n, c, n, c) with n >= 2, is float64
    (thresholds differ from a norm by digits that float32 does not have), finite, and, to 1e-9
    of the largest entry on its diagonal, symmetric with a diagonal that is not negative.
    """
    gram = jnp.asarray(gram)
    if gram.ndim == 2:
        gram = gram[:, None, :, None]
    if gram.ndim != 4 or gram.shape[:2] != gram.shape[2:] or gram.shape[0] < 2:
        raise ValueError(f"gram must be (n, n) or (n, c, n, c) with n >= 2, got {gram.shape}")
    if gram.dtype != jnp.float64:
        raise ValueError(f"gram must be float64 (enable jax_enable_x64), got {gram.dtype}")
    require("gram", gram, np.isfinite, "finite")
    if is_concrete(gram):
        flat = np.asarray(gram).reshape(gram.shape[0] * gram.shape[1], -1)
        scale, smallest = np.diagonal(flat).max(initial=0.0), np.diagonal(flat).min(initial=0.0)
        if not scale > 0:
            raise ValueError(f"gram must be nonzero and positive, got a largest diagonal {scale}")
        asymmetry = np.abs(flat - flat.T).max()
        if asymmetry > 1e-9 * scale:
            raise ValueError(f"gram must be symmetric, got differences of {asymmetry}")
        if smallest < -1e-9 * scale:
            raise ValueError(f"gram must be positive semidefinite, got diagonal {smallest}")
    return gram


def gram_modes(gram: Float[Array, "n c n c"]) -> GramModes:
    """Eigenvalues of H and features, of a Gram that ``as_gram`` has checked.

    >>> gram_modes(as_gram(np.diag([2.0, 8.0]))).eigenvalues.tolist()
    [1.0, 4.0]
    """
    n, c = gram.shape[:2]
    flat = gram.reshape(n * c, n * c)
    values, vectors = jnp.linalg.eigh((flat + flat.T) / 2)
    kept = values > n * c * jnp.finfo(values.dtype).eps * values[-1]
    values = jnp.where(kept, values, 0.0)
    features = vectors * jnp.sqrt(values)[None, :]
    return GramModes(values / n, features.reshape(n, c, n * c))
