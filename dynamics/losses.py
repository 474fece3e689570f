"""Losses of a network, with every constant in view: squared error, cross-entropy, z-loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree


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


def log_losses(
    logits: Float[ArrayLike, "*examples classes"], targets: ArrayLike
) -> Float[Array, "*examples"]:
    """``ln Z - logit of the target``, in nats, ``Z = sum exp(logits)``: minus the log-likelihood.

    Raises ``ValueError`` unless targets are integers with the shape of the logits less the last
    axis.

    >>> log_losses(jnp.zeros((2, 4)), jnp.array([0, 3])).round(4).tolist()
    [1.3863, 1.3863]
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if not jnp.issubdtype(targets.dtype, jnp.integer) or targets.shape != logits.shape[:-1]:
        wanted = f"integers of shape {logits.shape[:-1]}"
        raise ValueError(f"targets must be {wanted}, got {targets.dtype} {targets.shape}")
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def cross_entropy(
    logits: Float[ArrayLike, "*examples classes"],
    targets: ArrayLike,
    *,
    z_weight: ArrayLike = 0.0,
) -> Float[Array, ""]:
    """Mean over all examples of ``log_losses + z_weight (ln Z)^2``, with its errors.

    The second term is the z-loss; the weight may be traced.
    Source: Wortsman et al. 2023, arXiv:2309.14322.

    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]), z_weight=1.0)), 4)
    3.3081
    """
    log_z = jax.nn.logsumexp(jnp.asarray(logits), axis=-1)
    return jnp.mean(log_losses(logits, targets)) + jnp.mean(z_weight * log_z**2)


def next_token_loss(
    apply: Callable[[PyTree[Any], Array], Array], *, z_weight: ArrayLike = 0.0
) -> Callable[[PyTree[Any], Int[ArrayLike, "*examples length"]], Array]:
    """``loss(params, tokens)``: cross-entropy of each token of a sequence given those before it.

    Of all tokens but the first, mean over positions and examples; ``apply(params, tokens[:-1])``
    gives logits (..., length - 1, vocabulary).

    >>> loss = next_token_loss(lambda w, tokens: jnp.zeros((*tokens.shape, 2)))
    >>> round(float(loss(None, jnp.array([[0, 1, 1]]))), 4)
    0.6931
    """

    def loss(params: PyTree[Any], tokens: Int[ArrayLike, "*examples length"]) -> Array:
        tokens = jnp.asarray(tokens)
        logits = apply(params, tokens[..., :-1])
        return cross_entropy(logits, tokens[..., 1:], z_weight=z_weight)

    return loss
