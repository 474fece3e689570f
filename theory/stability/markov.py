"""Token sources of known entropy: the loss that no network can beat.

A stationary source in which a token depends on the two before it has ``P[a, b, c]``, the
probability of c after a, b. The mean log loss of the best predictor is a conditional entropy, in
nats, which depends on how much of the past the predictor may see.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats
from theory.checks import Count, is_concrete, require, require_count

MOST_ROUNDS = 100_000


def lag_mixture(recent: ArrayLike, distant: ArrayLike, weight: ArrayLike) -> Float[Array, "v v v"]:
    """``P[a, b, c] = weight recent[b, c] + (1 - weight) distant[a, c]``.

    The next token follows the last one with probability ``weight``, the last but one otherwise;
    both matrices (v, v) have rows that sum to 1. Raises ``ValueError`` for other matrices and a
    weight outside [0, 1]. Source: Raftery 1985, J. R. Stat. Soc. B 47, 528.

    >>> lag_mixture(jnp.eye(2), jnp.full((2, 2), 0.5), 0.5)[0].tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    for name, matrix in (("recent", recent), ("distant", distant)):
        _require_stochastic(name, matrix, 2)
    if np.shape(recent) != np.shape(distant):
        shapes = f"{np.shape(recent)} and {np.shape(distant)}"
        raise ValueError(f"recent and distant must have one shape, got {shapes}")
    require("weight", weight, lambda w: (w >= 0) & (w <= 1), "between 0 and 1")
    recent, distant = as_floats(recent, distant)
    share = jnp.asarray(weight, recent.dtype)
    return share * recent[None] + (1 - share) * distant[:, None]


def stationary_pairs(transition: ArrayLike) -> Float[Array, "v v"]:
    """Probability of the pair a, b in the stationary source, ``pi(b, c) = sum_a pi(a, b) P_abc``.

    By iteration from the uniform distribution until nothing moves by more than rounding. Assumes
    that there is one such distribution and that the source forgets; after 1e5 rounds without that
    the result is NaN. Raises ``ValueError`` unless P is (v, v, v) with rows that sum to 1.

    >>> stationary_pairs(jnp.full((2, 2, 2), 0.5)).tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    _require_stochastic("transition", transition, 3)
    return _stationary_pairs(as_floats(transition)[0])


def after_one(transition: ArrayLike) -> Float[Array, "v v"]:
    """Probability of c after b when what came before b is not known, in the stationary source.

    >>> after_one(jnp.full((2, 2, 2), 0.5)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    pairs = stationary_pairs(transition)
    joint = jnp.einsum("ab,abc->bc", pairs, as_floats(transition)[0])
    return joint / jnp.sum(joint, axis=1, keepdims=True)


def conditional_entropies(transition: ArrayLike) -> Float[Array, "3"]:
    """Least mean log loss, in nats, for one who sees no token before, one, or two (all there is).

        H(X_1),  H(X_2 | X_1),  H(X_3 | X_1, X_2)

    The last is the entropy rate. Never increasing. transition and errors: ``stationary_pairs``.
    Source: Shannon 1948.

    >>> conditional_entropies(jnp.full((2, 2, 2), 0.5)).round(4).tolist()  # ln 2
    [0.6931, 0.6931, 0.6931]
    """
    (P,) = as_floats(transition)
    pairs = stationary_pairs(transition)
    single = jnp.sum(pairs, axis=0)
    given_one = jnp.sum(single[:, None] * entr(after_one(transition)))
    return jnp.stack([jnp.sum(entr(single)), given_one, jnp.sum(pairs[..., None] * entr(P))])


def least_loss(entropies: ArrayLike, context: Count) -> Float[Array, ""]:
    """Least mean log loss over the positions of a window: the first sees one token, others two.

        [H(X_2 | X_1) + (context - 1) H(X_3 | X_1, X_2)] / context

    of a causal network that is shown ``context`` tokens and asked for the one after each.
    entropies: (3,), of ``conditional_entropies``. Raises ``ValueError`` for another shape, a
    context that is not an integer >= 1.

    >>> float(least_loss(jnp.array([4.0, 3.0, 1.0]), 4))
    1.5
    """
    require_count(context=context)
    if np.shape(entropies) != (3,):
        raise ValueError(f"entropies must have shape (3,), got {np.shape(entropies)}")
    (entropies,) = as_floats(entropies)
    return (entropies[1] + (int(context) - 1) * entropies[2]) / int(context)


@jax.jit
def _stationary_pairs(P: Float[Array, "v v v"]) -> Float[Array, "v v"]:
    tolerance = 4 * jnp.finfo(P.dtype).eps

    def moving(state):
        rounds, _, change = state
        return (change > tolerance) & (rounds < MOST_ROUNDS)

    def move(state):
        rounds, pairs, _ = state
        new = jnp.einsum("ab,abc->bc", pairs, P)
        new = new / jnp.sum(new)
        return rounds + 1, new, jnp.sum(jnp.abs(new - pairs))

    start = jnp.full(P.shape[:2], 1 / P.shape[0] ** 2, P.dtype)
    _, pairs, change = lax.while_loop(moving, move, (0, start, jnp.ones((), P.dtype)))
    return jnp.where(change <= tolerance, pairs, jnp.nan)


def _require_stochastic(name: str, value: ArrayLike, axes: int) -> None:
    shape = np.shape(value)
    if len(shape) != axes or len(set(shape)) != 1:
        raise ValueError(f"{name} must have shape ({', '.join('v' * axes)}), got {shape}")
    if not is_concrete(value):
        return
    require(name, value, lambda p: p >= 0, "non-negative")
    precision = 1e-5 if jnp.result_type(value) == jnp.float32 else 1e-9
    require(
        f"sums of rows of {name}",
        np.sum(np.asarray(value), axis=-1),
        lambda s: np.abs(s - 1) < precision,
        "1",
    )
