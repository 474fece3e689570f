"""Small random weights: as part of the question, trained, and the plateaus that they lead to.

What a network does after a random start depends on that start, and a prediction has to know it.
The weights are therefore drawn from a seed in the config. What the key of a run draws is a rotation
of the inputs and one of the hidden units, on which no prediction depends; or all the weights, where
no prediction knows them.

Inputs are orthonormal (``x = I``, one example per input), so that the task is Sigma_yx alone; the
loss is half the squared error, summed.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import ortho_group

from sims.processes import generator, seed_keys


class Starts(NamedTuple):
    """Two-layer weights: ``first`` (starts, hidden, inputs), ``second`` (starts, out, hidden)."""

    first: np.ndarray
    second: np.ndarray


def standard_starts(seed: int, count: int, n_in: int, n_hidden: int, n_out: int) -> Starts:
    """Weights N(0, 1), to be scaled; their law is invariant under rotations.

    >>> [w.shape for w in standard_starts(0, 5, 4, 3, 2)]
    [(5, 3, 4), (5, 2, 3)]
    """
    normal = np.random.default_rng(seed).standard_normal
    return Starts(normal((count, n_hidden, n_in)), normal((count, n_out, n_hidden)))


def gaussian_networks(key: jax.Array, widths: tuple[int, ...], count: int) -> tuple[Any, ...]:
    """Deep linear networks (count, ...) with weights N(0, 1/fan-in), drawn without compiling.

    >>> [w.shape for w in gaussian_networks(jax.random.key(0), (4, 3, 2), 5)]
    [(5, 3, 4), (5, 2, 3)]
    """
    normal = generator(key).standard_normal
    return tuple(normal((count, n, m)) / np.sqrt(m) for m, n in pairwise(widths))


def turned(key: jax.Array, starts: Starts, sigma_yx: np.ndarray) -> tuple[Starts, np.ndarray]:
    """Starts and their tasks (starts, out, inputs), with inputs and hidden units rotated.

    >>> starts, sigma = standard_starts(0, 5, 4, 3, 2), np.ones((2, 4))
    >>> found, tasks = turned(jax.random.key(0), starts, sigma)
    >>> overlap = found.second @ found.first @ tasks.swapaxes(1, 2)
    >>> bool(np.allclose(overlap, starts.second @ starts.first @ sigma.T))
    True
    """
    count, n_hidden, n_in = starts.first.shape
    random = generator(key)
    inputs, hidden = (ortho_group.rvs(n, count, random_state=random) for n in (n_in, n_hidden))
    back = inputs.swapaxes(1, 2)
    first, second = hidden @ starts.first @ back, starts.second @ hidden.swapaxes(1, 2)
    return Starts(first, second), sigma_yx @ back


def members(networks: Any, sigma_yx: Any, learning_rates: Any) -> dict[str, Any]:
    """Cases of ``training``: networks stacked (members, ...), tasks and rates that broadcast."""
    count = len(jax.tree.leaves(networks)[0])
    y = jnp.asarray(sigma_yx).swapaxes(-1, -2)
    x = jnp.eye(y.shape[-2])
    return {
        "network": jax.tree.map(jnp.asarray, networks),
        "data": tuple(jnp.broadcast_to(a, (count, *a.shape[-2:])) for a in (x, y)),
        "learning_rate": jnp.broadcast_to(jnp.asarray(learning_rates, float), count),
        "key": seed_keys(jax.random.key(0), count),  # full batch: not used
    }


def at_scales(networks: Any, scales: Any) -> Any:
    """Networks (starts, ...) times each of the scales: (scales * starts, ...)."""
    return jax.tree.map(
        lambda w: np.concatenate([scale * np.asarray(w) for scale in scales]), networks
    )


def flattest(times: np.ndarray, loss: np.ndarray, since: Any, until: Any) -> np.ndarray:
    """Index of the record, between two times, at which each loss (..., records) falls slowest.

    ``since`` and ``until`` have the leading shape of ``loss``.

    >>> loss = np.array([9.0, 5.0, 4.1, 4.0, 3.9, 3.0, 1.0, 0.0])
    >>> int(flattest(np.arange(8.0), loss, 0.5, 5.5))
    3
    """
    rate = np.abs(np.gradient(loss, times, axis=-1))
    since, until = np.asarray(since)[..., None], np.asarray(until)[..., None]
    inside = (times > since) & (times < until)
    return np.argmin(np.where(inside, rate, np.inf), axis=-1)
