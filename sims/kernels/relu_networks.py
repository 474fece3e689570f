"""Deep ReLU networks and their kernels at infinite width; statistics over widths.

Jacot, Gabriel & Hongler's parametrisation: ``h_l = W_l a_{l-1}/sqrt(n_{l-1}) + beta b_l``, all
parameters N(0, 1), no factor 2 for ReLU; four weight matrices and beta = 0.1, as in the paper. The
loss is half the squared error, mean over examples, so that ``df/dt = -(Theta/N)(f - y)``.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.layerwise import layerwise_gram
from dynamics.models import Model, mlp
from sims.experiment import Arrays
from theory.kernels.infinite_width import Kernels, mlp_kernels

DEPTH = 4
BETA = 0.1
VARIANCES: dict[str, Any] = {"activation": "relu", "weight_variance": 1.0, "bias_variance": BETA**2}


def network(n_in: int, width: int) -> Model:
    """One output, three hidden layers of ``width`` units, single precision."""
    widths = (n_in, *[width] * (DEPTH - 1), 1)
    return mlp(widths, parametrization="ntk", dtype=jnp.float32, **VARIANCES)


def drawn(model: Model, generator: np.random.Generator, count: int) -> Any:
    """Parameters of so many networks, networks leading: all are N(0, 1) in this parametrisation."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda array: generator.standard_normal((count, *array.shape), dtype=np.float32), shapes
    )


def tangent_kernel(params: Any, x: jax.Array) -> jax.Array:
    """Of a network of finite width, (n, n)."""
    return layerwise_gram(params, x, parametrization="ntk", outputs="sum", **VARIANCES)


def limit_kernels(x: np.ndarray, x2: np.ndarray | None = None) -> Kernels:
    """Covariance and tangent kernel of networks of infinite width."""
    return mlp_kernels(x, x2, depth=DEPTH, **VARIANCES)


def squared_error(model: Model, params: Any, data: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Half the squared error, mean over the examples (x, y)."""
    x, y = data
    return jnp.mean((model.apply(params, x)[:, 0] - y) ** 2) / 2


def each(m: Arrays, name: str) -> list[np.ndarray]:
    """Measurements ``name_0``, ``name_1``, ... of the networks of every width."""
    return [np.asarray(m[f"{name}_{index}"], float) for index in range(len(m["widths"]))]


def without_width(widths: Sequence[int], narrow: Any, wide: Any) -> Any:
    """A value at the first and the last width extrapolated to infinite width: 1/n removed.

    >>> float(without_width((10, 40), 3 + 1 / 10, 3 + 1 / 40))
    3.0
    """
    first, last = widths[0], widths[-1]
    return (last * wide - first * narrow) / (last - first)


def width_error(widths: Sequence[int], narrow: Any, wide: Any) -> np.ndarray:
    """Standard error of ``without_width``, from those at the two widths.

    >>> float(width_error((10, 40), 0.0, 3.0))
    4.0
    """
    first, last = widths[0], widths[-1]
    return np.hypot(last * np.asarray(wide), first * np.asarray(narrow)) / (last - first)


def exponent_error(x: Any, relative_errors: Any) -> float:
    """Standard error of ``sims.rates.fitted_exponent`` from independent relative errors of y.

    >>> round(exponent_error([1.0, np.e], [0.3, 0.4]), 12)
    0.5
    """
    spread = np.log(x) - np.mean(np.log(x))
    return float(np.linalg.norm(spread * np.asarray(relative_errors)) / np.sum(spread**2))
