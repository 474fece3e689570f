"""Lambda-balanced networks of three shapes: their weights, their task, and how they are trained.

``W2^T W2 - W1 W1^T = lambda I``: the second layer is the heavier one if lambda > 0, the first if
lambda < 0. Two shapes are funnels: one has more inputs than hidden units and outputs, in the other
it is the outputs that are more. In the third, a square, all three are as many. A heavy layer that
is a square matrix can hardly turn; one that is not has to, or the task cannot be learned.

The loss is half the squared error, meaned over examples, of white inputs; the task has the same
singular values in every shape. Time is eta times steps, eta chosen by the network's largest
curvature, so that a network's steps are equally fine at every lambda.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models, regime
from dynamics.initialization import orthogonal_init
from dynamics.losses import half_squared_error
from dynamics.representation import balance_matrices, mode_strengths
from dynamics.tangent_kernel import empirical_ntk
from sims.processes import training_process
from theory.deep_linear import modes, riccati

Weights = tuple[Any, Any]  # (W1, W2), networks on leading axes
FACTORS = np.array([2.0, 1.0, 0.5])  # of the learning rates, to measure the error they make


class Problem(NamedTuple):
    """What a prediction has to know: the task (outputs, inputs), and the initial weights."""

    task: jax.Array
    weights: Weights


def largest_curvature(imbalances: Any, singular_value: float) -> np.ndarray:
    """Of the loss in the modes of the task, at the minimum: the squared weights of the strongest.

    >>> largest_curvature(np.array([0.0, 3.0]), 2.0).tolist()
    [4.0, 5.0]
    """
    return np.asarray(sum(modes.two_layer_mode_weights(singular_value, imbalances)))


def random_task(key: jax.Array, n_in: int, n_out: int, singular_values: Any) -> jax.Array:
    """A map of random singular vectors and the given singular values.

    >>> task = random_task(jax.random.key(0), 3, 2, [2.0, 1.0])
    >>> jnp.linalg.svd(task, compute_uv=False).round(6).tolist()
    [2.0, 1.0]
    """
    s = jnp.asarray(singular_values, float)
    left, right = jax.random.split(key)
    U, V = orthogonal_init(left, (n_out, s.size)), orthogonal_init(right, (n_in, s.size))
    return (U * s[None, :]) @ V.T


def problem(
    key: jax.Array, widths: tuple[int, int, int], s: Any, imbalances: Any, start: float
) -> Problem:
    """A random task, and for every imbalance weights whose map is about ``start`` in size.

    Of a square network it has the sign of the task's determinant, without which a balanced one
    could not learn it.
    """
    task_key, weight_key = jax.random.split(key)
    n_in, _, n_out = widths
    task = random_task(task_key, n_in, n_out, s)
    sign = int(jnp.sign(jnp.linalg.det(task))) if n_in == n_out else None
    light = np.sqrt(np.minimum(*modes.two_layer_mode_weights(start, np.asarray(imbalances))))

    drawn = [
        riccati.balanced_init(weight_key, *widths, scale, float(imbalance), sign)
        for scale, imbalance in zip(light, imbalances, strict=True)
    ]
    W1, W2 = (jnp.stack(layers) for layers in zip(*drawn, strict=True))
    return Problem(task, (W1, W2))


def hidden_rotation(key: jax.Array, weights: Weights) -> Weights:
    """The same networks in another basis of their hidden units, which no prediction knows."""
    W1, W2 = weights
    R = orthogonal_init(key, (W1.shape[-2], W1.shape[-2]))
    return R @ W1, W2 @ R.T


def white_inputs(key: jax.Array, examples: int, n_in: int) -> jax.Array:
    """Inputs (examples, n_in) with ``x^T x = examples I``, exactly.

    >>> x = white_inputs(jax.random.key(0), 4, 2)
    >>> bool(jnp.allclose(x.T @ x, 4 * jnp.eye(2), atol=1e-5))
    True
    """
    return np.sqrt(examples) * orthogonal_init(key, (examples, n_in))


MODEL = models.deep_linear((1, 1, 1))  # its apply takes weights of any shape
LOSS = half_squared_error(MODEL.apply, examples="mean")
TRAINING = training_process(
    lambda case, shared: case["weights"],
    LOSS,
    lambda params, shared: dict(zip(("W1", "W2"), params, strict=True)),
)


def train_and_observe(
    name: str, starts: list[Weights], data: Any, rates: np.ndarray, schedule: np.ndarray, sweep: Any
) -> tuple[dict[str, np.ndarray], list[Weights]]:
    """Train on data (inputs, task) at ``FACTORS`` times the learning rates, from weights for each.

    ``schedule`` are the steps to record at the largest factor. Returns what ``observe`` sees and
    the drift of the mean imbalance over the learning rate, (factors, networks, ...), and the
    weights that each factor ends with.
    """
    found, ends = [], []
    for factor, start in zip(FACTORS, starts, strict=True):
        steps = np.rint(schedule * FACTORS[0] / factor).astype(int)
        weights = _train(f"{name}_rate_{factor:g}", start, data, factor * rates, steps, sweep)
        records = observe(weights, data)
        imbalance = records.pop("imbalance")
        drift = (imbalance[:, -1] - imbalance[:, 0]) / (factor * rates)
        found.append(records | {"drift": drift})
        ends.append(tuple(layer[:, -1] for layer in weights))
    return jax.tree.map(lambda *arrays: np.stack(arrays), *found), ends


def _train(
    name: str, weights: Weights, data: Any, rates: np.ndarray, steps: np.ndarray, sweep: Any
) -> Weights:
    """Weights of every network at the given steps: (networks, records, ...)."""
    keys = jax.random.split(jax.random.key(0), len(rates))  # full batch: not used
    cases = {"weights": weights, "learning_rate": jnp.asarray(rates), "key": keys}
    shared = {"data": _examples(data)}
    records = sweep(name, TRAINING, cases, shared, record_at=steps).records
    return records["W1"], records["W2"]


def _examples(data: Any) -> tuple[jax.Array, jax.Array]:
    x, task = data
    return x, x @ task.T


def observe(weights: Weights, data: Any) -> dict[str, Any]:
    """What is measured on weights (networks, records, ...) and data (inputs, task).

    Loss, mean imbalance, kernel alignment with the start, and relative changes of the layers' Gram
    matrices, (networks, records) each; squared weights of both layers along the modes of the task,
    (networks, records, 2, modes).
    """
    left, _, right, _ = modes.decompose_task(data[1])
    return jax.tree.map(np.asarray, _observe(weights, _examples(data), left, right))


@jax.jit
def _observe(weights: Weights, data: Any, left: Any, right: Any) -> dict[str, jax.Array]:
    """One network after the other, to bound the memory that kernels take."""

    def network(path):
        kernels = jax.vmap(partial(empirical_ntk, MODEL.apply), (0, None))(path, data[0])
        first = jax.vmap(lambda W1: W1.T @ W1)(path[0])
        second = jax.vmap(lambda W2: W2 @ W2.T)(path[1])
        along = jax.vmap(mode_strengths, (0, None, None))
        return {
            "loss": jax.vmap(LOSS, (0, None))(path, data),
            "imbalance": jax.vmap(_mean_imbalance)(path),
            "alignment": _since_start(regime.kernel_alignment, kernels),
            "first_change": _since_start(regime.kernel_change, first),
            "second_change": _since_start(regime.kernel_change, second),
            "layers": jnp.stack([along(first, right, right), along(second, left, left)], axis=1),
        }

    return jax.lax.map(network, weights)


def _mean_imbalance(params: Weights) -> jax.Array:
    return jnp.mean(jnp.diagonal(balance_matrices(params)[0]))


def _since_start(compare: Callable[..., Any], path: jax.Array) -> jax.Array:
    return jax.vmap(compare, (None, 0))(path[0], path)
