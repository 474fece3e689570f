"""Stability beyond the second moment of independent batches: higher moments, reshuffled epochs.

Linearised SGD multiplies the output errors e (n c,) by a random matrix a step,

    e' = (I - (eta/B) K P_batch) e,          P_batch the projector onto the batch's samples.

Almost every path grows or shrinks as ``exp(lyapunov t)``; the k-th moment as ``rate_k^t``, with
``lyapunov <= ln(rate_k)/k`` increasing in k. What training obeys is the path: it may sit somewhat
beyond the mean-square threshold (k = 2), never where the Lyapunov exponent is positive, for which
there is no formula (``dynamics.linearized_sgd`` measures it).

Reshuffling visits every sample once an epoch in a new random order. Its rates and those of
independent batches are different numbers, hence different functions. Gram as in
``theory.stability.gram``.

Source: moments, Ma & Ying (2021), arXiv 2105.13462 (recalled). Grams and the average over
reshuffled epochs derived here.
"""

import functools
import itertools
import math

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from theory.checks import Count, require_count
from theory.stability.gram import as_gram, gram_modes, mixing_weight

ENUMERABLE = 200_000  # entries of all batches' operators together


def moment_growth_rate(
    gram: ArrayLike, learning_rate: float, batch_size: Count, order: Count = 2
) -> float:
    """Growth per step of the k-th moment tensor of linearised SGD, by enumerating all batches.

        spectral radius of E[(I - eta H_B)^(x k)] on the range of H, batches without replacement

    Exact and exponentially dear: for problems of a few samples. Even orders bound ``E |delta|^k``.
    Raises ``ValueError`` for a bad Gram, batch size, order < 1, or a problem too large.

    >>> round(moment_growth_rate(np.diag([1.0, 1.0]), 1.0, batch_size=1, order=4), 12)
    0.5
    """
    gram = as_gram(gram)
    require_count(order=order)
    mixing_weight(gram.shape[0], batch_size)
    factors = _batch_factors(gram, float(learning_rate), int(batch_size))
    return _spectral_radius(_mean_power(factors, int(order)))


def reshuffled_growth_rate(
    gram: ArrayLike, learning_rate: float, batch_size: Count, order: Count = 2
) -> float:
    """As ``moment_growth_rate`` if every epoch visits every sample once, in random order.

    The average over all orders of one epoch's product, to the power of one step. Reshuffling is
    more stable than independent batches. For problems of a few samples only; raises ``ValueError``
    as ``moment_growth_rate``, and unless B divides n.

    >>> round(reshuffled_growth_rate(np.diag([1.0, 1.0]), 0.5, batch_size=1), 12)
    0.5
    """
    gram = as_gram(gram)
    n, size = gram.shape[0], int(batch_size)
    require_count(batch_size=batch_size, order=order)
    if size > n or n % size:
        raise ValueError(f"batch_size must divide n = {n} to reshuffle, got {batch_size}")
    factors = _batch_factors(gram, float(learning_rate), 1, scale=1 / size)
    eye = np.eye(factors.shape[-1])
    products = []
    for ordering in itertools.permutations(range(n)):
        product = eye
        for batch in np.reshape(ordering, (-1, size)):
            product = (factors[batch].sum(axis=0) - (size - 1) * eye) @ product
        products.append(product)
        if len(products) * eye.size > ENUMERABLE:
            raise ValueError(f"gram must be of a few samples to enumerate all orders, got n = {n}")
    return _spectral_radius(_mean_power(np.array(products), int(order))) ** (size / n)


def _batch_factors(gram: Array, eta: float, size: int, scale: float | None = None) -> np.ndarray:
    """``I - eta H_B`` of every batch in the eigenbasis of H: (batches, r, r)."""
    modes = gram_modes(gram)
    kept = np.asarray(modes.eigenvalues) > 0
    features = np.asarray(modes.features)[:, :, kept]
    n, rank = features.shape[0], features.shape[-1]
    if math.comb(n, size) * rank**2 > ENUMERABLE:
        raise ValueError(f"gram must be of a few samples to enumerate batches, got n = {n}")
    curvature = np.einsum("ica,icb->iab", features, features) * (scale or 1 / size)
    batches = np.array(list(itertools.combinations(range(n), size)))
    return np.eye(rank) - eta * curvature[batches].sum(axis=1)


def _mean_power(factors: np.ndarray, order: int) -> np.ndarray:
    """Mean of Kronecker powers of the factors."""
    entries = factors.shape[-1] ** (2 * order)
    if entries > 4_000_000:
        raise ValueError(f"gram must have a rank r with r^(2 order) <= 4e6, got {entries:.1e}")
    powers = [functools.reduce(np.kron, [factor] * order) for factor in factors]
    return np.mean(powers, axis=0)


def _spectral_radius(matrix: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())
