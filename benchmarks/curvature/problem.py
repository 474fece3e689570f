"""The common job: a trained ReLU network, its data, and what its curvature really is.

Inputs are Gaussian, targets a smooth random teacher with 5 % noise, the loss is the mean over
examples and outputs of the squared error (without the half: many frameworks' default), training is
150 steps of Adam. Weights and data are rounded to float32 before the reference values are computed
from them in float64, so that a library's error is its own and float32's, not the rounding of its
input. Networks for thresholds are made in the same way, with one output.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks.environments import BUILD
from dynamics.curvature import gauss_newton_trace, hvp
from dynamics.models import Layer, mlp
from dynamics.training import train

INPUTS, TEACHER = 100, 20


class Problem(NamedTuple):
    """``x`` (n, inputs), ``y`` (n, outputs), one ``Layer`` per weight matrix; all float64."""

    x: np.ndarray
    y: np.ndarray
    params: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


class Reference(NamedTuple):
    """Trace of the Hessian and its two largest eigenvalues."""

    trace: float
    top: float
    second: float


def trained_network(examples: int, width: int, outputs: int, steps: int = 150) -> Problem:
    """A 100-width-width-outputs network after training, rounded to float32."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((examples, INPUTS))
    hidden = np.tanh(2 * x @ draw.standard_normal((INPUTS, TEACHER)) / INPUTS**0.5)
    y = hidden @ draw.standard_normal((TEACHER, outputs)) / TEACHER**0.5
    y = y + 0.05 * draw.standard_normal(y.shape)
    model = mlp((INPUTS, width, width, outputs), activation="relu", weight_variance=2.0)
    fit = jax.jit(
        lambda params, data: (
            train(
                jax.random.key(0),
                params,
                data,
                loss=mean_squared_error,
                optimizer=optax.adam(1e-3),
                steps=steps,
                record_at=[steps],
            ).params
        )
    )
    params = fit(model.init(jax.random.key(0)), (jnp.asarray(x), jnp.asarray(y)))
    return jax.tree.map(lambda leaf: np.float64(np.float32(leaf)), Problem(x, y, params))


def apply(params, x):
    """The ReLU network, written out as every worker writes it."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer.weight.T + layer.bias[None, :])
    return x @ params[-1].weight.T + params[-1].bias[None, :]


def mean_squared_error(params, batch):
    """Mean over examples and outputs of the squared error."""
    return jnp.mean((apply(params, batch[0]) - batch[1]) ** 2)


def reference(problem: Problem) -> Reference:
    """In float64: the trace from per-example Jacobians, eigenvalues by ARPACK to 1e-10.

    The Hessian of a ReLU network has the trace of its Gauss-Newton matrix, here 2/outputs times
    that of the reference normalisation.
    """
    params, batch = problem.params, (problem.x, problem.y)
    gauss_newton = jax.jit(lambda p, x: gauss_newton_trace(apply, p, x))(params, problem.x)
    flat, unravel = ravel_pytree(params)
    product = jax.jit(
        lambda p, b, v: ravel_pytree(hvp(mean_squared_error, p, b, unravel(v)))[0],
    )
    hessian = LinearOperator(
        (flat.size, flat.size),
        matvec=lambda v: np.asarray(product(params, batch, v.ravel())),  # pyright: ignore
        dtype=np.float64,  # pyright: ignore[reportCallIssue]
    )
    pair = eigsh(hessian, k=2, which="LA", tol=1e-10, return_eigenvectors=False)  # pyright: ignore
    values = np.asarray(pair)
    trace = 2 / problem.y.shape[1] * float(gauss_newton)
    return Reference(trace, float(values.max()), float(values.min()))


def written(problem: Problem) -> Path:
    """The problem as an npz file: x, y, W0, b0, W1, ... (fan-out, fan-in)."""
    widths = (problem.x.shape[1], *(len(layer.weight) for layer in problem.params))
    path = BUILD / f"{len(problem.x)}-examples-{'-'.join(map(str, widths))}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"x": problem.x, "y": problem.y}
    for l, layer in enumerate(problem.params):
        arrays |= {f"W{l}": layer.weight, f"b{l}": layer.bias}
    np.savez(path, **arrays)
    return path
