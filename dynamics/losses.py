"""Losses ``loss(params, (x, y))`` of a network, with every constant in view."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree


def half_squared_error(
    apply: Callable[[PyTree[Any], Array], Array], *, examples: str
) -> Callable[[PyTree[Any], tuple[ArrayLike, ArrayLike]], Array]:
    """Half the squared error, summed over outputs; over examples the mean or the sum, as named.

        "mean":  (1/n) sum_i 1/2 |f(x_i) - y_i|^2        "sum":  sum_i 1/2 |f(x_i) - y_i|^2

    x has shape (n, n_in), y that of the outputs, (n, n_out). There is no default: the choice
    multiplies every learning rate by n. Raises ``ValueError`` for another word, and when the loss
    meets targets of another shape.

    >>> loss = half_squared_error(lambda w, x: w * x, examples="sum")
    >>> float(loss(2.0, (jnp.ones((3, 1)), jnp.zeros((3, 1)))))
    6.0
    """
    if examples not in ("mean", "sum"):
        raise ValueError(f'examples must be "mean" or "sum", got {examples!r}')

    def loss(params: PyTree[Any], data: tuple[ArrayLike, ArrayLike]) -> Array:
        x, y = (jnp.asarray(array) for array in data)
        outputs = apply(params, x)
        if outputs.shape != y.shape:  # (n, 1) and (n,) would broadcast to (n, n)
            raise ValueError(f"y must have the outputs' shape {outputs.shape}, got {y.shape}")
        total = 0.5 * jnp.sum((outputs - y) ** 2)
        return total / x.shape[0] if examples == "mean" else total

    return loss
