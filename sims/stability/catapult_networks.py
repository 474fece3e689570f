"""Two-layer linear networks with prescribed inner products of their weights, and a ReLU network.

``f = v^T W x / sqrt(n)`` on inputs X (m, d): gradient descent on its loss depends on W (n, d) and
v (n,) through their inner products alone, so that these are given and the key of a run draws the
rest, the directions in the space of hidden units. Loss ``(1/2m) sum_i (f_i - y_i)^2``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.layerwise import layerwise_gram
from dynamics.losses import half_squared_error
from dynamics.tangent_kernel import empirical_ntk
from sims import data
from sims.processes import generator, seed_keys, training_process
from sims.sweep import Process

RELU = {"activation": "relu", "parametrization": "ntk", "weight_variance": 2.0}


class Task(NamedTuple):
    """Inputs X (m, d), targets (m,), and what a network of width n is at the start.

    ``gram``: inner products of the columns of (W, v), (..., d + 1, d + 1), members leading.
    """

    x: np.ndarray
    y: np.ndarray
    gram: np.ndarray


def weights_with_gram(key: jax.Array, gram: np.ndarray, width: int) -> np.ndarray:
    """Matrices (members, width, k) whose columns have the inner products ``gram`` (members, k, k).

    >>> gram = np.array([[[2.0, 1.0], [1.0, 3.0]]])
    >>> columns = weights_with_gram(jax.random.key(0), gram, 5)
    >>> bool(np.allclose(columns.swapaxes(1, 2) @ columns, gram))
    True
    """
    members, k, _ = gram.shape
    frames = np.linalg.qr(generator(key).standard_normal((members, width, k)))[0]
    return frames @ np.linalg.cholesky(gram).swapaxes(1, 2)


def linear_network(width: int, d: int) -> Process:
    """Training; records outputs (m,), tangent kernel (m, m) and ``|W|^2 - |v|^2`` at every step."""
    ntk = models.mlp(
        (d, width, 1), activation="linear", parametrization="ntk", use_bias=False
    )  # W x / sqrt(d)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return ntk.apply(params, np.sqrt(d) * x)

    def observe(params: Any, shared: Any) -> dict[str, jax.Array]:
        x, _ = shared["data"]
        first, second = (jnp.sum(layer.weight**2) for layer in params)
        return {
            "outputs": apply(params, x)[:, 0],
            "kernel": empirical_ntk(apply, params, x),
            "imbalance": first - second,
        }

    def init(case: Any, shared: Any) -> Any:
        weight, readout = case["columns"][:, :-1], case["columns"][:, -1]
        return models.Layer(weight, None), models.Layer(readout[None], None)

    return training_process(init, half_squared_error(apply, examples="mean"), observe)


def train_linear(
    name: str, key: jax.Array, task: Task, rates: np.ndarray, width: int, steps: int, sweep: Any
) -> dict[str, np.ndarray]:
    """Records (members, steps + 1, ...) of one network for each learning rate."""
    columns = weights_with_gram(key, task.gram, width)
    cases = {
        "columns": columns,
        "learning_rate": rates,
        "key": seed_keys(jax.random.key(0), len(rates)),  # full batch: not used
    }
    shared = {"data": (jnp.asarray(task.x), jnp.asarray(task.y[:, None]))}
    process = linear_network(width, task.x.shape[1])
    return sweep(name, process, cases, shared, record_at=np.arange(steps + 1)).records


def train_relu(
    key: jax.Array, stiffness: np.ndarray, width: int, examples: int, steps: int, sweep: Any
) -> dict[str, np.ndarray]:
    """Odd digits against even: curvature and accuracy at the end, by ``eta lambda_0``.

    Two-layer ReLU networks with one output and targets +-1; the curvature lambda is the largest
    eigenvalue of the Gauss-Newton matrix, lmax(Theta)/m, times the network's own learning rate.
    """
    digits = data.load("digits")
    x = jnp.asarray(digits.x / np.sqrt((digits.x**2).mean()))
    y = jnp.asarray(2.0 * (digits.y.argmax(axis=1) % 2) - 1)[:, None]
    order = np.random.default_rng(0).permutation(len(x))
    seen, unseen = order[:examples], order[examples:]
    model = models.mlp((x.shape[1], width, 1), use_bias=False, **RELU)

    def curvature(params: Any) -> jax.Array:
        gram = layerwise_gram(params, x[seen], **RELU).reshape(examples, examples)
        return jnp.linalg.eigvalsh(gram)[-1] / examples

    def observe(params: Any, shared: Any) -> dict[str, jax.Array]:
        right = model.apply(params, shared["unseen"][0]) * shared["unseen"][1] > 0
        return {"curvature": curvature(params), "accuracy": jnp.mean(right)}

    params = model.init(key)
    rates = stiffness / jax.jit(curvature)(params)
    loss = half_squared_error(model.apply, examples="mean")
    cases = {"learning_rate": rates, "key": seed_keys(key, len(stiffness))}
    shared = {"data": (x[seen], y[seen]), "unseen": (x[unseen], y[unseen])}
    process = training_process(lambda *_: params, loss, observe)
    found = sweep("relu", process, cases, shared, record_at=np.array([0, steps])).records
    return {
        "relu_stiffness": np.asarray(rates)[:, None] * found["curvature"],
        "relu_accuracy": found["accuracy"],
    }
