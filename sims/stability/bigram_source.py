"""A source of bigrams, and tables of logits trained on what it has emitted.

Context i = 0, 1, ... is emitted with a frequency proportional to ``1/(i + 1)`` (Zipf's law). After
an odd context one token follows always; after an even one all do, the j-th in a random order with a
probability proportional to ``j^-(V - i)/4``, so that rarer contexts of the V tokens are less
certain. The corpus holds every pair as often as these laws say, rounded to integers: its own
frequencies are the exact ones of the training problem.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sims.processes import seed_keys, training_process
from sims.stability.noisy_valley import by_schedule, scheduled


class Corpus(NamedTuple):
    """Pairs (n, 2) of context and next token, and their table of counts (contexts, tokens)."""

    pairs: np.ndarray
    counts: np.ndarray

    @property
    def frequency(self) -> np.ndarray:
        """Of contexts."""
        return self.counts.sum(axis=1) / self.counts.sum()

    @property
    def probabilities(self) -> np.ndarray:
        """Of the next token after every context."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)

    @property
    def certain(self) -> np.ndarray:
        """Which contexts are followed by one token always."""
        return (self.counts > 0).sum(axis=1) == 1

    @property
    def entropy(self) -> np.ndarray:
        """Of the next token after every context: the least loss there is."""
        p = np.where(self.counts > 0, self.probabilities, 1.0)
        return -np.sum(p * np.log(p), axis=1)


def corpus(tokens: int, size: int, seed: int) -> Corpus:
    """About ``size`` pairs over a vocabulary of ``tokens``.

    >>> source = corpus(4, 100, 0)
    >>> source.certain.tolist(), bool(source.counts[0].min() > 0)
    ([False, True, False, True], True)
    """
    random, rank = np.random.default_rng(seed), np.arange(1, tokens + 1)
    law = np.zeros((tokens, tokens))
    for context in range(tokens):
        law[context] = random.permutation(rank ** (-(tokens - context) / 4)) * (1 - context % 2)
        law[context, random.integers(tokens)] += context % 2
    law *= (1 / rank / law.sum(axis=1))[:, None]
    counts = np.rint(size * law / law.sum()).astype(int)
    pairs = np.argwhere(np.ones_like(counts))
    return Corpus(np.repeat(pairs, counts.ravel(), axis=0), counts)


def cross_entropy(logits: jax.Array, pairs: jax.Array) -> jax.Array:
    """Mean over pairs of the cross-entropy of the next token; logits (contexts, tokens)."""
    log_p = jax.nn.log_softmax(logits[pairs[:, 0]])
    return -jnp.mean(jnp.take_along_axis(log_p, pairs[:, 1:], axis=1))


def train(
    source: Corpus, key: jax.Array, rates: Any, steps: Any, *, batch: int, count: int, sweep: Any
) -> np.ndarray:
    """Excess loss of every context over its entropy, (schedules, count, records, contexts).

    ``count`` tables of logits, from zero, for every schedule (schedules, steps). Contexts are
    weighted with their frequency: the sum over contexts is the excess of the mean loss.
    """
    share = jnp.asarray(source.counts / source.counts.sum())

    def observe(logits, shared):
        return {"loss": -jnp.sum(share * jax.nn.log_softmax(logits), axis=1)}

    process = training_process(
        lambda case, shared: jnp.zeros(source.counts.shape),
        cross_entropy,
        observe,
        optimizer=scheduled,
        batch_size=batch,
    )
    rates = jnp.repeat(jnp.asarray(rates), count, axis=0)
    cases: dict[str, Any] = {"rates": rates, "key": seed_keys(key, len(rates))}
    shared = {"data": jnp.asarray(source.pairs)}
    records = sweep("bigrams", process, cases, shared, record_at=steps).records["loss"]
    return by_schedule(records, count) - source.frequency * source.entropy
