"""Small transformers on tokens of known entropy, in every variant and at every learning rate.

Tokens come from a source in which the next one follows either the last or the last but one,
each by a Zipf law over a ranking of its own: ``P(c | a, b) = w A[b, c] + (1 - w) B[a, c]`` with
the rows of A and B Zipf laws in random order. What the last but one says takes attention to learn.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dynamics.losses import log_losses, next_token_loss
from dynamics.training import TrainState, optimizer_step
from dynamics.transformer import Transformer, TransformerParams, largest_attention_logit
from sims.sweep import Process
from theory.stability import markov

BETAS = (0.9, 0.95)  # of AdamW
CLIP = 1.0  # global norm of gradients


class Source(NamedTuple):
    """``transition`` P(c | a, b) (v, v, v), ``opening`` P(c | b) and ``pairs`` P(a, b) (v, v)."""

    transition: np.ndarray
    opening: np.ndarray
    pairs: np.ndarray

    def sample(self, draw: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Sequences (count, length) of the stationary source, length >= 2."""
        v = len(self.pairs)
        start = draw.choice(v * v, size=count, p=self.pairs.ravel())
        tokens = np.empty((count, length), np.int32)
        tokens[:, 0], tokens[:, 1] = np.divmod(start, v)
        below = self.transition.cumsum(axis=-1)
        below[..., -1] = 1.0  # rounding must not leave a gap
        for t in range(2, length):
            level = draw.random(count)[:, None]
            tokens[:, t] = np.argmax(level < below[tokens[:, t - 2], tokens[:, t - 1]], axis=-1)
        return tokens

    def log_losses(self, tokens: np.ndarray) -> np.ndarray:
        """Log losses (count, length - 1) of the source itself, who sees what a network sees."""
        a, b, c = (tokens[:, i : i + tokens.shape[1] - 2] for i in range(3))
        first = self.opening[tokens[:, 0], tokens[:, 1]]
        return -np.log(np.concatenate([first[:, None], self.transition[a, b, c]], axis=1))


def zipf_source(
    draw: np.random.Generator, vocabulary: int, exponent: float, weight: float
) -> Source:
    """A random source of the kind described above."""
    law = np.arange(1.0, vocabulary + 1) ** -exponent
    law = law / law.sum()
    rows = [law[draw.permutation(vocabulary)] for _ in range(2 * vocabulary)]
    recent, distant = np.split(np.stack(rows), 2)
    transition = np.asarray(markov.lag_mixture(recent, distant, weight))
    found = (markov.after_one(transition), markov.stationary_pairs(transition))
    opening, pairs = map(np.asarray, found)
    return Source(transition, opening, pairs / pairs.sum())


def adamw(case: Any) -> optax.GradientTransformation:
    """AdamW with clipping; a step's rate is ``case["rates"][step]``, its decay rate * decay."""
    descent = optax.adamw(
        lambda step: case["rates"][step], b1=BETAS[0], b2=BETAS[1], weight_decay=case["decay"]
    )
    return optax.flatten(optax.chain(optax.clip_by_global_norm(CLIP), descent))


def training(model: Transformer) -> Process:
    """A transformer trained on fresh tokens at every step; all its weights are recorded, in a row.

    A case has ``params``, ``rates``, ``decay``, ``z_weight`` and the index ``seed`` of its tokens
    in ``shared``, (seeds, steps, batch, length).
    """

    def init(case, shared):
        return TrainState(case["params"], adamw(case).init(case["params"]), case["key"])

    def step(k, state, case, shared):
        loss = next_token_loss(model.apply, z_weight=case["z_weight"])
        return optimizer_step(loss, adamw(case))(k, state, shared[case["seed"], k])

    def observe(state, case, shared):
        return {"weights": ravel_pytree(state.params)[0]}

    return Process(init, step, observe)


def examine(
    model: Transformer, like: TransformerParams, weights: np.ndarray, tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """What networks (..., weights in a row) do with tokens (count, length), gains if they have any.

    Mean log loss and mean ln Z (...); largest attention logit (..., depth); gains (..., depth, d).
    """
    unravel = ravel_pytree(like)[1]

    def one(row):
        params = unravel(row)
        activity = model.observe(params, tokens[:, :-1])
        maps = [block.attention for block in params.blocks]
        gains = {name: [getattr(m, name) for m in maps] for name in ("query_gain", "key_gain")}
        return {
            "loss": jnp.mean(log_losses(activity.logits, tokens[:, 1:])),
            "log_z": jnp.mean(jax.nn.logsumexp(activity.logits, axis=-1)),
            "attention_logit": largest_attention_logit(activity.attention_logits, causal=True),
        } | {name: jnp.stack(x) for name, x in gains.items() if x[0] is not None}

    rows = jnp.asarray(weights.reshape(-1, weights.shape[-1]))
    found = jax.jit(lambda rows: jax.lax.map(one, rows))(rows)
    shape = weights.shape[:-1]
    return {name: np.asarray(x).reshape(*shape, *x.shape[1:]) for name, x in found.items()}


def members(rows: Sequence[Mapping[str, Any]], keys: jax.Array) -> dict[str, Any]:
    """Cases of a sweep, one for every row, of host arrays; ``key`` is that of the row's seed."""
    stacked = jax.tree.map(lambda *values: np.stack(values), *rows)
    return {**stacked, "key": keys[stacked["seed"]]}
