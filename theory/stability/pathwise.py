"""Stability beyond the second moment: Lyapunov exponents, higher moments, reshuffled epochs.

Linearised SGD multiplies the output errors e (n c,) by a random matrix a step,

    e' = (I - (eta/B) K P_batch) e,          P_batch the projector onto the batch's samples.

Almost every path grows or shrinks as ``exp(lyapunov t)``; the k-th moment as ``rate_k^t``, with
``lyapunov <= ln(rate_k)/k`` increasing in k. What training obeys is the path: it may sit somewhat
beyond the mean-square threshold (k = 2), never where the Lyapunov exponent is positive.

Samplings, never compared silently: ``"iid"``, an independent batch without replacement a step;
``"replacement"``, with replacement within a batch; ``"reshuffle"``, every sample once an epoch in
a new random order (n must be a multiple of B). Gram as in ``theory.stability.gram``.

Source: moments, Ma & Ying (2021), arXiv 2105.13462; in probability, Ziyin et al. (2023), arXiv
2303.13093 (both recalled). Grams and the average over reshuffled epochs derived here.
"""

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from theory.checks import Count, require, require_count
from theory.stability.gram import as_gram, gram_modes, mixing_weight

SAMPLINGS = ("iid", "replacement", "reshuffle")
ENUMERABLE = 200_000  # entries of all batches' operators together


class Lyapunov(NamedTuple):
    """Exponent per step with its standard error over chains, and the number of steps taken."""

    exponent: Float[Array, ""]
    standard_error: Float[Array, ""]
    steps: int


def lyapunov_exponent(
    key: Key[Array, ""],
    gram: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: Count,
    *,
    steps: Count = 2000,
    chains: Count = 16,
    sampling: str = "iid",
) -> Lyapunov:
    """Growth rate per step of almost every path of linearised SGD, by Monte Carlo.

    Chains start at random and forget it for a fifth of the steps; their norms are kept in
    logarithms, so that nothing over- or underflows. ``steps`` are rounded up to whole epochs.

    Raises ``ValueError`` for a bad Gram, batch size, learning rate <= 0, fewer than 10 steps or 2
    chains, an unknown sampling, and n not a multiple of B where samples are reshuffled.

    >>> found = lyapunov_exponent(jax.random.key(0), np.diag([1.0, 1.0]), 0.5, 2, steps=20)
    >>> round(float(found.exponent), 6), round(float(np.log(1 - 0.5 / 2)), 6)
    (-0.287682, -0.287682)
    """
    gram = as_gram(gram)
    n = gram.shape[0]
    mixing_weight(n, batch_size, sampling == "replacement")  # checks the batch size
    require("learning_rate", learning_rate, lambda x: (x > 0) & np.isfinite(x), "positive")
    require_count(least=10, steps=steps)
    require_count(least=2, chains=chains)
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {SAMPLINGS}, got {sampling!r}")
    if sampling == "reshuffle" and n % int(batch_size):
        raise ValueError(f"batch_size must divide n = {n} to reshuffle, got {batch_size}")
    per_round = n // int(batch_size) if sampling == "reshuffle" else 1
    rounds = -(-int(steps) // per_round)
    eta = jnp.asarray(learning_rate, gram.dtype)
    logs = _chains(key, gram, eta, int(batch_size), rounds, int(chains), sampling)
    error = logs.std(ddof=1) / np.sqrt(float(chains))
    return Lyapunov(logs.mean(), error, rounds * per_round)


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
    total = 0.0
    for factor in factors:
        power = factor
        for _ in range(order - 1):
            power = np.kron(power, factor)
        total = total + power
    return total / len(factors)


def _spectral_radius(matrix: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


@partial(jax.jit, static_argnames=("size", "rounds", "chains", "sampling"))
def _chains(
    key: Array, gram: Array, eta: Array, size: int, rounds: int, chains: int, sampling: str
) -> Float[Array, " chains"]:
    """Mean log growth per step of every chain, the first fifth of the rounds left out."""
    n, c = gram.shape[:2]
    columns = gram.reshape(n * c, n, c)

    def batches(key):  # (steps of one round, B)
        if sampling == "replacement":
            return jax.random.randint(key, (1, size), 0, n)
        order = jax.random.permutation(key, n)
        return order.reshape(-1, size) if sampling == "reshuffle" else order[None, :size]

    def step(error, batch):
        pull = jnp.einsum("ksc,sc->k", columns[:, batch], error.reshape(n, c)[batch])
        return error - eta / size * pull, None

    def one_round(error, key):
        error, _ = jax.lax.scan(step, error, batches(key))
        norm = jnp.linalg.norm(error)
        return error / norm, jnp.log(norm)

    def chain(key):
        start, draws = jax.random.split(key)
        error = columns.reshape(n * c, n * c) @ jax.random.normal(start, (n * c,), gram.dtype)
        _, logs = jax.lax.scan(one_round, error, jax.random.split(draws, rounds))
        return logs[rounds // 5 :].mean() / (n // size if sampling == "reshuffle" else 1)

    return jax.vmap(chain)(jax.random.split(key, chains))
