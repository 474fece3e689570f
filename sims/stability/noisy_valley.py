"""Toy valleys descended by stochastic gradients: a river x, hills y, and noise along the hills.

The noise is that of minibatches of one example. Example i has the loss ``L(x, y) + xi_i . y``; the
rows xi are those of a Hadamard matrix, without its constant column: they add up to zero, and have
the covariance ``s2 I`` exactly. So the minibatch gradient has noise of variance s2 in every hill
direction, white in time, and of the river none.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import hadamard

from sims.processes import seed_keys, training_process
from sims.sweep import Process

Valley = Callable[[jax.Array, jax.Array], jax.Array]  # loss of x () and y (hills,)


def noise(variance: float, hills: int) -> jax.Array:
    """The rows xi (examples, hills), as few as will do.

    >>> xi = noise(2.0, 3)
    >>> bool(jnp.allclose(xi.T @ xi / len(xi), 2.0 * jnp.eye(3))), xi.sum(axis=0).tolist()
    (True, [0.0, 0.0, 0.0])
    """
    rows = hadamard(2 ** hills.bit_length())
    return jnp.asarray(np.sqrt(variance) * rows[:, 1 : hills + 1])


def scheduled(case: Any) -> optax.GradientTransformation:
    """Gradient descent at the member's own schedule ``case["rates"]`` (steps,)."""
    return optax.sgd(lambda step: case["rates"][step])


def noisy_loss(valley: Valley) -> Callable[[Any, Any], jax.Array]:
    """Mean loss of a batch of examples (batch, hills)."""
    return lambda params, batch: valley(*params) + jnp.mean(batch, axis=0) @ params[1]


def descent(valley: Valley, observe: Callable[..., dict[str, jax.Array]]) -> Process:
    """Descent of a valley from ``case["start"]``, (x, y); ``observe(x, y)`` is recorded."""
    return training_process(
        lambda case, shared: case["start"],
        noisy_loss(valley),
        lambda params, shared: observe(*params),
        optimizer=scheduled,
        batch_size=1,
    )


def chains(key: jax.Array, rates: Any, count: int, x: float, y: Any) -> dict[str, Any]:
    """Members: ``count`` independent runs of every schedule (schedules, steps), schedules first.

    All start at x, and at +-y at random; y (hills,), or (schedules, hills).
    """
    rates = jnp.repeat(jnp.asarray(rates), count, axis=0)
    y = jnp.broadcast_to(jnp.asarray(y), (len(rates) // count, np.shape(y)[-1]))
    signs = jax.random.rademacher(key, (len(rates), y.shape[-1]), float)
    return {
        "rates": rates,
        "start": (jnp.full(len(rates), float(x)), signs * jnp.repeat(y, count, axis=0)),
        "key": seed_keys(jax.random.fold_in(key, 1), len(rates)),
    }


def by_schedule(records: np.ndarray, count: int) -> np.ndarray:
    """Records of ``chains``, (schedules, count, ...)."""
    return records.reshape(-1, count, *records.shape[1:])
