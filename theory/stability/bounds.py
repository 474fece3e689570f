"""Necessary conditions for SGD's mean-square stability, and the threshold of fresh Gaussian data.

Every bound is an upper bound of ``mean_square_threshold`` that needs less than the whole Gram.
Conventions and shapes as in ``theory.stability.gram``: ``H = (1/n) sum_i J_i^T J_i`` of the loss
that is descended, p = ``mixing_weight``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.checks import Count, require, require_count
from theory.stability.gram import GramModes, as_gram, gram_modes, mixing_weight
from theory.stability.krylov import increasing_root


class StabilityBounds(NamedTuple):
    """Upper bounds of the mean-square threshold, as learning rates."""

    mean: Float[Array, ""]
    top_direction: Float[Array, ""]
    frobenius: Float[Array, ""]
    trace: Float[Array, ""]


def stability_bounds(
    gram: ArrayLike, batch_size: Count, replacement: bool = False
) -> StabilityBounds:
    """Four learning rates, none of them below the exact mean-square threshold eta*.

        mean:           2 / l,                                                l = lmax(H)
        top_direction:  2 l / (l^2 + (p/n) sum_i (v^T H_i v - l)^2),          H v = l v
        frobenius:      2 Tr H / ((1-p) |H|_F^2 + (p/n) sum_i |H_i|_F^2)
        trace:          2 c B / Tr H

    With one output, the last is "Tr H <= 2 B / eta"; with c outputs the factor c is needed (H_i = I
    has Tr H = c and eta* = 2 at B = 1). Both follow with ``Sigma = I``; orthogonal gradients of
    equal norm attain them.

    Raises ``ValueError`` for a bad Gram or batch size.
    Source: Mulayoff & Michaeli (2024), arXiv 2306.07850, eqs. 15 and 16; the trace bound for one
    output Wu & Su (2023), arXiv 2305.17490, for c outputs derived here.

    >>> [round(float(rate), 12) for rate in stability_bounds(2 * np.eye(6), batch_size=3)]
    [6.0, 3.0, 3.0, 3.0]
    """
    gram = as_gram(gram)
    p = mixing_weight(gram.shape[0], batch_size, replacement)
    return _bounds(gram, p, float(batch_size))


def nonuniformity(gram: ArrayLike) -> Float[Array, ""]:
    """Non-uniformity of the samples' curvature, ``s = lmax(S)^(1/2)``, S = (1/n) sum H_i^2 - H^2.

    ``lmax[(1 - eta H)^2 + p eta^2 S] <= 1`` suffices for mean-square stability;
    ``s <= 1/(eta sqrt(p))`` is necessary for that condition but not for stability, which there are
    stable minima beyond. A diagnostic, then, not a region.

    Raises ``ValueError`` for a bad Gram.
    Source: Wu, Ma & E (2018), "How SGD selects the global minima in over-parameterized learning".

    >>> round(float(nonuniformity(np.diag([2.0, 2.0]))), 12)  # H_i^2 = 4, H = 1 in either direction
    1.0
    """
    return _nonuniformity(as_gram(gram))


def gaussian_population_threshold(
    covariance_eigenvalues: Float[ArrayLike, "..."], batch_size: Count
) -> Float[Array, ""]:
    """Mean-square threshold of linear regression on fresh Gaussian inputs, B of them a step.

        1 = (eta/B) sum_k s_k / (2 - eta (1 + 1/B) s_k),     x ~ N(0, diag(s))

    ``2 B / (d + B + 1)`` for d equal s_k = 1. covariance_eigenvalues: (d,), not negative, one > 0;
    loss 1/2 E (w.x - y)^2. Exact to rounding. Raises ``ValueError`` outside these domains.
    Source: derived here; B = 1 is known from the least-mean-squares filter.

    >>> round(float(gaussian_population_threshold(np.ones(10), batch_size=4)), 12)  # 8/15
    0.533333333333
    """
    s = jnp.asarray(covariance_eigenvalues)
    require_count(batch_size=batch_size)
    require("covariance_eigenvalues", s, lambda s: (s >= 0) & np.isfinite(s), "finite and >= 0")
    require("covariance_eigenvalues", s.sum(), lambda total: total > 0, "of positive sum")
    fourth = 1 + 1 / batch_size

    def excess(x, carry):  # x = 1/eta; the inverse of a harmonic sum is concave, nearly linear
        return batch_size / jnp.sum(s / (2 * x - fourth * s)) - 1, carry

    top = fourth * s.max()
    low, high = (top + s.max() / batch_size) / 2, (top + s.sum() / batch_size) / 2
    return 1 / increasing_root(excess, low, high, None).x


@jax.jit
def _bounds(gram: Array, p: Array, batch_size: Array) -> StabilityBounds:
    modes = gram_modes(gram)
    n, c = modes.features.shape[:2]
    top, trace = modes.eigenvalues[-1], modes.eigenvalues.sum()
    along = jnp.sum(modes.features[:, :, -1] ** 2, axis=1)  # v^T H_i v
    squared = (1 - p) * jnp.sum(modes.eigenvalues**2) + p / n * jnp.sum(_own_blocks(gram) ** 2)
    return StabilityBounds(
        mean=2 / top,
        top_direction=2 * top / (top**2 + p * jnp.mean((along - top) ** 2)),
        frobenius=2 * trace / squared,
        trace=2 * c * batch_size / trace,
    )


@jax.jit
def _nonuniformity(gram: Array) -> Array:
    """In the eigenbasis of H, where ``H_i^2 = g_i^T K_ii g_i``."""
    modes: GramModes = gram_modes(gram)
    weighted = jnp.einsum("icd,ida->ica", _own_blocks(gram), modes.features)
    second = jnp.einsum("ica,icb->ab", modes.features, weighted) / modes.features.shape[0]
    spread = second - jnp.diag(modes.eigenvalues**2)
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh((spread + spread.T) / 2)[-1], 0.0))


def _own_blocks(gram: Array) -> Array:
    """``K_ii = J_i J_i^T`` (n, c, c): |K_ii|_F = |H_i|_F."""
    return jnp.einsum("icid->icd", gram)
