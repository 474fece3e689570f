"""What theory says of lambda-balanced networks: the matrix Riccati equation, evaluated for many.

Networks are on the leading axis and times on the next. Of the initial weights the stacked form
Q0 = [W1^T; W2] is needed, of the data nothing but the task, because inputs are white.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theory.deep_linear import discrete, modes, riccati, tangent_kernel

QUADRATURE = 400  # points in time over which ``imbalance_drift`` integrates
EARLY = 1e-6  # the first of them but zero, over the last


def stack(weights: tuple[Any, Any]) -> jax.Array:
    """Q0 = [W1^T; W2] of weights W1 (networks, hidden, inputs), W2 (networks, outputs, hidden).

    >>> stack((jnp.ones((4, 2, 3)), jnp.ones((4, 1, 2)))).shape
    (4, 4, 2)
    """
    return _stack(*weights)


_stack = jax.jit(jax.vmap(riccati.stack_weights))


def generators(task: Any, imbalances: Any) -> jax.Array:
    """F of every network, (networks, N, N).

    >>> generators(jnp.eye(2), [0.0, 1.0]).shape
    (2, 4, 4)
    """
    return _generators(task, jnp.asarray(imbalances, float))


_generators = jax.jit(jax.vmap(riccati.fukumizu_matrix, (None, 0)))


def path(start: Any, task: Any, imbalances: Any, times: Any) -> jax.Array:
    """Q(t), a factor of P = Q Q^T, of every network at its times: (networks, times, N, hidden).

    start: (networks, N, hidden); times: (networks, times).

    >>> path(jnp.ones((2, 3, 1)), jnp.ones((1, 2)), [0.0, 1.0], jnp.ones((2, 7))).shape
    (2, 7, 3, 1)
    """
    return _paths(jnp.asarray(times), start, generators(task, imbalances))


_paths = jax.jit(jax.vmap(riccati.qqt_factor))


def observe(Q: Any, task: Any) -> dict[str, np.ndarray]:
    """Loss, kernel alignment with the start, relative change of the layers' Gram matrices.

    (networks, times) each, of factors Q (networks, times, N, hidden), the first time the start.
    The alignment is that on any white inputs, since a rotation of the inputs does not change it.
    """
    return jax.tree.map(np.asarray, _observe(Q, task))


@jax.jit
def _observe(Q: jax.Array, task: jax.Array) -> dict[str, jax.Array]:
    """One network after the other, to bound the memory that kernels take."""
    inputs = jnp.eye(task.shape[1])

    def network(Q):
        first, maps, second = riccati.split_qqt(Q @ jnp.swapaxes(Q, -1, -2), task.shape[1])
        kernels = jax.vmap(tangent_kernel.ntk_two_layer, (0, 0, None))(first, second, inputs)
        align = jax.vmap(tangent_kernel.kernel_alignment, (None, 0))
        return {
            # half the squared error, entries counted as modes
            "loss": modes.loss_from_modes(maps.reshape(len(Q), -1), task.reshape(1, -1)),
            "alignment": align(kernels[0], kernels),
            "first_change": relative_change(first),
            "second_change": relative_change(second),
        }

    return jax.lax.map(network, Q)


def relative_change(gram: Any) -> jax.Array:
    """``|G(t) - G(0)| / |G(0)|`` (Frobenius) of matrices (times, n, n).

    >>> relative_change(jnp.array([[[2.0]], [[3.0]]])).tolist()
    [0.0, 0.5]
    """
    return jnp.linalg.norm(gram - gram[:1], axis=(1, 2)) / jnp.linalg.norm(gram[0])


def fine_times(last: Any) -> np.ndarray:
    """Times (networks, points) from 0 to ``last``, dense enough to integrate over.

    >>> fine_times(np.ones(2)).shape
    (2, 401)
    """
    times = np.geomspace(EARLY, 1.0, QUADRATURE)[None, :] * np.asarray(last)[:, None]
    return np.concatenate([np.zeros((len(times), 1)), times], axis=1)


def imbalance_drift(Q: Any, task: Any, times: Any) -> np.ndarray:
    """By how much small steps change the mean imbalance until the last time, over their size.

    Every step adds its ``balance_drift``, of second order in its size, at the weights of the flow,
    of which Q are factors at ``fine_times``. The trapezoidal rule in the logarithm of time, where
    the integrand is smooth and ends flat at both ends, converges faster than any power.
    """
    speed, later = np.asarray(_drift_speed(Q, task)), times[:, 1:]
    first = (speed[:, 0] + speed[:, 1]) / 2 * later[:, 0]
    return first + np.trapezoid(speed[:, 1:] * later, np.log(later), axis=1)


def final_layers(singular_values: Any, imbalances: Any) -> np.ndarray:
    """Squared weights of the two layers along the modes of the task in the end, (networks, 2, s).

    ``W1^T W1 -> V (sqrt(S^2 + lambda^2/4) - lambda/2) V^T``, with + for ``W2 W2^T`` along U.

    >>> final_layers(np.array([2.0]), np.array([3.0])).tolist()
    [[[1.0], [4.0]]]
    """
    weights = modes.two_layer_mode_weights(singular_values[None], -np.asarray(imbalances)[:, None])
    return np.stack(weights, axis=1)


@jax.jit
def _drift_speed(Q: jax.Array, task: jax.Array) -> jax.Array:
    """Drift of the mean imbalance over time and step size."""

    def speed(Q):
        W1, W2 = Q[: task.shape[1]].T, Q[task.shape[1] :]
        return jnp.trace(discrete.balance_drift(W1, W2, task - W2 @ W1, 1.0)) / len(W1)

    return jax.vmap(jax.vmap(speed))(Q)
