"""SGD on the network linearised at an interpolating minimum, simulated in many chains.

With ``e_i = J_i delta`` (outputs less targets), K_ij = J_i J_j^T and a batch of B examples,

    u' = momentum u + (eta/B) sum_{j in batch} K_.j e_j,      e' = e - u',

the loss being the reference one, half the squared error, summed over outputs, averaged over the
batch. Noise multiplies e: the norm of a typical chain and its mean square grow at different rates,
and the mean square of many steps is carried by chains too rare to be drawn. Hence three numbers:
means over chains for few steps, the rate of typical chains, and, by copying chains in proportion to
their growth, that of the mean square.

``sampling`` is "iid" (fresh batches of different examples), "replacement" (examples of a batch
independent of each other), or "reshuffle" (epochs in random order, B divides n; what most code
does, and more stable than theories of independent batches say).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from dynamics.operators import require_at_least

State = tuple[Array, Array]  # residuals and velocities, (chains, n c) each


class Estimate(NamedTuple):
    """A mean over chains or groups of chains, and its standard error."""

    value: Float[Array, "..."]
    standard_error: Float[Array, "..."]


def mean_squares(
    key: Key[Array, ""],
    gram: Float[ArrayLike, "..."],
    residuals: Float[ArrayLike, "..."],
    *,
    learning_rate: ArrayLike,
    batch_size: int,
    steps: int,
    chains: int,
    sampling: str = "iid",
    momentum: ArrayLike = 0.0,
) -> Estimate:
    """``E |e_k|^2`` for k = 0..steps, from independent chains that start at ``residuals``.

    Unbiased; but after many steps the distribution is so broad that neither the mean nor its error
    bar can be trusted: a standard error above a tenth of the value is a warning. For rates see
    ``mean_square_growth``.

    Args:
        gram: (n, n) or (n, c, n, c), as ``gradient_gram`` returns it; residuals (n,) or (n, c).

    Raises:
        ValueError: shapes that do not fit, B outside 1..n (beyond n only with replacement), B that
            does not divide n ("reshuffle"), counts below 1 or fewer than 2 chains, an unknown
            sampling, a momentum outside [0, 1).

    >>> full = mean_squares(jax.random.key(0), jnp.eye(2), jnp.ones(2), learning_rate=1.0,
    ...                     batch_size=2, steps=1, chains=2)
    >>> full.value.tolist()
    [2.0, 0.5]
    """
    residuals = jnp.asarray(residuals)
    step, _ = _stepper(gram, learning_rate, batch_size, sampling, momentum)
    if jnp.shape(gram) != residuals.shape * 2:
        raise ValueError(f"residuals must fit gram {jnp.shape(gram)}, got {residuals.shape}")
    _require_run(steps, chains)
    start = jnp.broadcast_to(residuals.ravel(), (chains, residuals.size))

    def advance(state: State, k: Array) -> tuple[State, Array]:
        state = step(key, k, state)
        return state, jnp.sum(state[0] ** 2, axis=1)

    _, squares = lax.scan(advance, (start, jnp.zeros_like(start)), jnp.arange(steps))
    squares = jnp.concatenate([jnp.sum(start**2, axis=1)[None], squares])
    return _mean(squares)


def lyapunov_exponent(
    key: Key[Array, ""],
    gram: Float[ArrayLike, "..."],
    *,
    learning_rate: ArrayLike,
    batch_size: int,
    steps: int,
    chains: int,
    sampling: str = "iid",
    momentum: ArrayLike = 0.0,
) -> Estimate:
    """Rate per step at which ``ln |e|`` of almost every chain grows; negative: typically stable.

    Mean over chains of the growth in the second half of ``steps``, the first half being spent on
    forgetting the start. Typical chains can shrink where the mean square grows. Arguments and
    errors as ``mean_squares``, with at least 2 steps (2 epochs for "reshuffle").

    >>> full = lyapunov_exponent(jax.random.key(0), jnp.eye(2), learning_rate=1.0, batch_size=2,
    ...                          steps=4, chains=2)
    >>> round(float(full.value), 9) == round(float(jnp.log(0.5)), 9)
    True
    """
    step, cycle = _stepper(gram, learning_rate, batch_size, sampling, momentum)
    cycles = _require_run(steps, chains, cycle)
    growth = _growth_of_chains(step, cycle, cycles, key, _random_start(key, gram, chains))
    return _mean(jnp.mean(growth[cycles // 2 :], axis=0) / cycle)


def mean_square_growth(
    key: Key[Array, ""],
    gram: Float[ArrayLike, "..."],
    *,
    learning_rate: ArrayLike,
    batch_size: int,
    steps: int,
    chains: int,
    sampling: str = "iid",
    momentum: ArrayLike = 0.0,
    groups: int = 8,
) -> Estimate:
    """Factor per step by which ``E |e|^2`` grows in the long run; below 1: mean-square stable.

    Each of ``groups`` independent populations of ``chains`` is resampled after every step (epoch)
    in proportion to the squared growth of its chains, so that it follows the law that carries the
    mean square; the growth of the population's mean is then the rate. First half of ``steps`` left
    out, standard error from the spread of the groups. Not in it: the bias of finite populations,
    O(1/chains), and what is left of the start. Arguments and errors as ``lyapunov_exponent``, with
    groups >= 2.

    Source: resampling as in Del Moral (2004), "Feynman-Kac Formulae".

    >>> full = mean_square_growth(jax.random.key(0), jnp.eye(2), learning_rate=1.0, batch_size=2,
    ...                           steps=4, chains=2)
    >>> round(float(full.value), 9)
    0.25
    """
    require_at_least(2, groups=groups)
    step, cycle = _stepper(gram, learning_rate, batch_size, sampling, momentum)
    cycles = _require_run(steps, chains, cycle)

    def population(key: Array) -> Array:
        start = _random_start(key, gram, chains)
        growth = _growth_of_chains(step, cycle, cycles, key, start, resample=True)
        means = jax.nn.logsumexp(2 * growth[cycles // 2 :], axis=1) - jnp.log(chains)
        return jnp.exp(jnp.mean(means) / cycle)

    return _mean(lax.map(population, jax.random.split(key, groups)))


def _stepper(
    gram: ArrayLike, learning_rate: ArrayLike, batch_size: int, sampling: str, momentum: ArrayLike
) -> tuple[Callable[[Array, Array, State], State], int]:
    """A step ``(key, k, state) -> state`` of all chains, and how many make a renewal."""
    gram = jnp.asarray(gram)
    if gram.ndim not in (2, 4) or gram.shape[: gram.ndim // 2] != gram.shape[gram.ndim // 2 :]:
        raise ValueError(f"gram must be (n, n) or (n, c, n, c), got {gram.shape}")
    n, size = len(gram), int(np.prod(gram.shape[: gram.ndim // 2]))
    _require_batches(n, batch_size, sampling)
    if not isinstance(momentum, Tracer) and not 0 <= float(np.asarray(momentum)) < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    cycle = n // batch_size if sampling == "reshuffle" else 1
    square = gram.reshape(size, size)

    def step(key: Array, k: Array, state: State) -> State:
        e, u = state
        keys = jax.random.split(jax.random.fold_in(key, k // cycle), len(e))
        counts = jax.vmap(lambda key: _counts(key, k % cycle, n, batch_size, sampling))(keys)
        weights = jnp.repeat(counts.astype(e.dtype) / batch_size, size // n, axis=1)
        u = jnp.asarray(momentum * u + learning_rate * (weights * e) @ square, e.dtype)
        return e - u, u

    return step, cycle


def _counts(key: Array, turn: Array, n: int, batch_size: int, sampling: str) -> Array:
    """How often each of n examples is in the batch."""
    if sampling == "replacement":
        return jnp.zeros(n, jnp.int32).at[jax.random.randint(key, (batch_size,), 0, n)].add(1)
    if sampling == "iid" and batch_size == 1:  # nothing to sort
        return jnp.arange(n) == jax.random.randint(key, (), 0, n)
    return jax.random.permutation(key, jnp.arange(n) // batch_size) == turn


def _growth_of_chains(
    step: Callable[[Array, Array, State], State],
    cycle: int,
    cycles: int,
    key: Array,
    state: State,
    resample: bool = False,
) -> Float[Array, "cycles chains"]:
    """``ln`` of the factor by which each chain's norm grows in each cycle, chains renormalised."""
    step_key, draw_key = jax.random.split(key)

    def advance(state: State, index: Array) -> tuple[State, Array]:
        state = lax.fori_loop(
            0, cycle, lambda k, state: step(step_key, index * cycle + k, state), state
        )
        norms = jnp.sqrt(jnp.sum(state[0] ** 2 + state[1] ** 2, axis=1))
        e, u = (part / jnp.where(norms > 0, norms, 1.0)[:, None] for part in state)
        if resample:
            chosen = _systematic(jax.random.fold_in(draw_key, index), norms**2)
            e, u = e[chosen], u[chosen]
        return (e, u), jnp.log(norms)

    return lax.scan(advance, state, jnp.arange(cycles))[1]


def _systematic(key: Array, weights: Float[Array, " chains"]) -> Array:
    """Indices, each on average as often as its share of the weights, at the least variance."""
    count = len(weights)
    edges = jnp.cumsum(weights) / jnp.sum(weights)
    points = (jnp.arange(count) + jax.random.uniform(key, dtype=weights.dtype)) / count
    return jnp.minimum(jnp.searchsorted(edges, points), count - 1)


def _random_start(key: Array, gram: ArrayLike, chains: int) -> State:
    """Residuals that a displacement of the parameters can cause: in the range of the Gram."""
    gram = jnp.asarray(gram)
    size = int(np.prod(gram.shape[: gram.ndim // 2]))
    e = jax.random.normal(jax.random.fold_in(key, 2**31 - 1), (chains, size), gram.dtype)
    e = e @ gram.reshape(size, size)
    e = e / jnp.linalg.norm(e, axis=1, keepdims=True)
    return e, jnp.zeros_like(e)


def _mean(samples: Float[Array, "... samples"]) -> Estimate:
    count = samples.shape[-1]
    error = jnp.std(samples, axis=-1, ddof=1) / jnp.sqrt(jnp.asarray(count, samples.dtype))
    return Estimate(jnp.mean(samples, axis=-1), error)


def _require_batches(n: int, batch_size: int, sampling: str) -> None:
    require_at_least(1, batch_size=batch_size)
    if sampling not in ("iid", "replacement", "reshuffle"):
        raise ValueError(f'sampling must be "iid", "replacement" or "reshuffle", got {sampling!r}')
    if sampling != "replacement" and batch_size > n:
        raise ValueError(f"batch_size must be at most n = {n}, got {batch_size}")
    if sampling == "reshuffle" and n % batch_size:
        raise ValueError(f"batch_size must divide n = {n}, got {batch_size}")


def _require_run(steps: int, chains: int, cycle: int = 0) -> int:
    """Number of cycles in ``steps``; two at least, if any are asked for."""
    require_at_least(2, chains=chains)
    require_at_least(max(1, 2 * cycle), steps=steps)
    return steps // max(cycle, 1)
