"""Modular addition in closed form: quadratic networks that solve it, with and without randomness.

    f(n1, n2) = W2 (W1 [e_n1; e_n2])^2,   W1 (N, 2p), W2 (p, N),   class n1 + n2 mod p.

A neuron with frequency k and phases phi_1, phi_2 has weights ``cos(2 pi k n/p + phi_1)`` from n1,
``cos(2 pi k n/p + phi_2)`` from n2 and ``cos(2 pi k q/p + phi_1 + phi_2)`` to class q. Only the
part ``2 cos a cos b -> cos(a + b)`` of the square is in phase with the outgoing weight: on average
over phases and over the frequencies 1 ... (p-1)/2

    (2/N) f -> (2/(p-1)) sum_k cos(2 pi k (n1 + n2 - q)/p) = 1 on the class, -1/(p-1) elsewhere,

random phases leave noise of order 1/sqrt(N). ``exact_network`` chooses six phases per frequency
such that all unwanted harmonics cancel: 3(p-1) neurons solve the task without error.

Sources: Gromov (2023), arXiv 2301.02679, for random phases, whose signs and normalisation are our
own; the exact network is derived here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from theory.checks import Count, require_count

PHASES = 6  # per frequency, 2 pi j/6; with 3, 4 or 5 some harmonic always survives
RATIO = 4  # phi_2 = RATIO phi_1: 1 + r, 3 + r, 1 - r, 2, 2r, 1 + 3r, 2 + 2r are no multiples of 6


class ModularNetwork(NamedTuple):
    """Weights ``first`` (N, 2p) on the two one-hot summands, ``second`` (p, N) to the classes."""

    first: Float[Array, "N inputs"]
    second: Float[Array, "p N"]


def addition_table(p: Count) -> tuple[Int[np.ndarray, "pairs two"], Int[np.ndarray, " pairs"]]:
    """All p^2 pairs (n1, n2), n2 fastest, and n1 + n2 mod p. ``ValueError`` unless p is odd, >= 3.

    >>> pairs, classes = addition_table(3)
    >>> pairs[5].tolist(), int(classes[5])
    ([1, 2], 0)
    """
    _require_odd(p)
    pairs = np.stack(np.divmod(np.arange(p**2), p), axis=1)
    return pairs, pairs.sum(axis=1) % p


def one_hot_pairs(pairs: Int[ArrayLike, "n two"], p: Count) -> Float[Array, "n inputs"]:
    """Pairs as concatenated one-hot vectors (n, 2p).

    >>> one_hot_pairs(np.array([[0, 2]]), 3).tolist()
    [[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    pairs = jnp.asarray(pairs)
    return jax.nn.one_hot(pairs, int(p)).reshape(len(pairs), -1)


def network_outputs(network: ModularNetwork, pairs: Int[ArrayLike, "n two"]) -> Float[Array, "n p"]:
    """``W2 (W1 [e_n1; e_n2])^2``, by looking up columns.

    >>> pairs, classes = addition_table(5)
    >>> f = network_outputs(exact_network(5), pairs)
    >>> bool(jnp.all(jnp.argmax(f, axis=1) == classes))
    True
    """
    pairs, (first, second) = jnp.asarray(pairs), network
    p = len(second)
    return (first[:, pairs[:, 0]] + first[:, p + pairs[:, 1]]).T ** 2 @ second.T


def exact_network(p: Count) -> ModularNetwork:
    """A network of 3(p-1) neurons with outputs ``delta - 1/p`` on every pair, for every odd p.

    Derived here. ``ValueError`` unless p is odd and at least 3.

    >>> exact_network(5).first.shape
    (12, 10)
    """
    _require_odd(p)
    frequencies = jnp.repeat(jnp.arange(1, (p - 1) // 2 + 1), PHASES)
    phases = jnp.tile(2 * jnp.pi * jnp.arange(PHASES) / PHASES, (p - 1) // 2)
    network = _network(p, frequencies, phases, RATIO * phases)
    return network._replace(second=network.second * 4 / (p * PHASES))


def random_phase_network(key: Key[Array, ""], p: Count, n_hidden: Count) -> ModularNetwork:
    """Random frequency and independent uniform phases for every neuron, ``second`` times 2/N.

    Outputs are 1 on the class and -1/(p-1) elsewhere, plus noise of order 1/sqrt(N).

    >>> random_phase_network(jax.random.key(0), 5, 8).second.shape
    (5, 8)
    """
    _require_odd(p)
    require_count(n_hidden=n_hidden)
    frequency_key, phase_key = jax.random.split(key)
    frequencies = jax.random.randint(frequency_key, (int(n_hidden),), 1, (p + 1) // 2)
    phases = jax.random.uniform(phase_key, (2, int(n_hidden)), maxval=2 * jnp.pi)
    network = _network(p, frequencies, *phases)
    return network._replace(second=network.second * 2 / n_hidden)


def _network(p: Count, frequencies: Array, phase1: Array, phase2: Array) -> ModularNetwork:
    angles = 2 * jnp.pi * frequencies[:, None] * jnp.arange(p)[None] / p
    waves = [jnp.cos(angles + phase[:, None]) for phase in (phase1, phase2, phase1 + phase2)]
    return ModularNetwork(jnp.concatenate(waves[:2], axis=1), waves[2].T)


def _require_odd(p: Count) -> None:
    require_count(least=3, p=p)
    if p % 2 == 0:
        raise ValueError(f"p must be odd, got {p}")
