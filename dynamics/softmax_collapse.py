"""Where cross-entropy stops teaching: softmax collapse, and what Prieto et al. do against it.

In floating point ``logsumexp(z) - z_y`` is exactly zero once the logit of the class leads by more
than the digits can tell: 24 ln 2 = 16.6 in float32, 37 in float64. The sample then has no gradient:
softmax collapse. Towards it leads naive loss minimisation: for a network that is positively
homogeneous of degree d in its weights, ``theta . grad loss = d mean_i <z_i, dloss/dz_i>``, negative
once all samples are right, so that scaling the weights up lowers the loss and changes no decision.

    log_stablemax       a softmax that grows like its logits, s(z) = z + 1 for z >= 0, 1/(1 - z)
                        below, so that no sample is lost
    perpendicular       an optax transformation that takes the part along the weights out of the
                        gradient (perpGrad, OrthoGrad): by tensor, norm restored, or over all
    collapsed_fraction  samples whose loss is exactly zero
    scaling_cosine      cos(-grad, theta), 1 where training only scales the weights

Source: Prieto, Barsbey, Mediano & Birdal (2025), arXiv 2501.04697, formulas from the authors' code.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree


def log_stablemax(logits: Float[ArrayLike, "... K"]) -> Float[Array, "... K"]:
    """Logarithm of ``s(z_k) / sum_j s(z_j)``, s = z + 1 for z >= 0 and 1/(1 - z) for z < 0.

    s is positive, increasing and once continuously differentiable. In place of ``log_softmax``.

    >>> [round(float(log), 6) for log in log_stablemax(jnp.array([1.0, 0.0, -1.0]))]
    [-0.559616, -1.252763, -1.94591]
    """
    logits = jnp.asarray(logits)
    # both branches stay finite, also in reverse mode
    positive, negative = jnp.maximum(logits, 0.0), jnp.minimum(logits, 0.0)
    log_s = jnp.log1p(positive) - jnp.log1p(-negative)
    return log_s - jnp.log(jnp.sum(jnp.exp(log_s), axis=-1, keepdims=True))


def collapsed_fraction(
    logits: Float[ArrayLike, "n K"], labels: Int[ArrayLike, " n"]
) -> Float[Array, ""]:
    """Share of samples whose cross-entropy is exactly zero in the dtype of ``logits``.

    Evaluated as ``log_softmax`` is; these samples have no gradient. 0 to 1.

    >>> logits = jnp.array([[17.0, 0.0], [16.0, 0.0]], dtype=jnp.float32)
    >>> float(collapsed_fraction(logits, jnp.array([0, 0])))
    0.5
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    log_shares = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return jnp.mean((log_shares == 0).astype(logits.dtype))


def scaling_cosine(gradient: PyTree[Any], params: PyTree[Any]) -> Float[Array, ""]:
    """``cos(-gradient, params)``: how much of descent is growth of the weights, from -1 to 1.

    >>> float(scaling_cosine(jnp.array([-3.0, 0.0]), jnp.array([2.0, 0.0])))
    1.0
    """
    norms = optax.tree.norm(gradient) * optax.tree.norm(params)
    return -_inner(gradient, params) / norms


def perpendicular(scope: str = "tensor") -> optax.GradientTransformation:
    """Takes the part along the weights out of gradients, ``g - (w.g / w.w) w``; put it first.

    * ``"tensor"``: of each array for itself, then rescaled to the norm the gradient had, as in the
      authors' code. A gradient along its weights alone (up to rounding) becomes zero.
    * ``"all"``: of all parameters as one vector, not rescaled, as in the paper's formula: the
      norm of the weights is then constant along the flow.

    Zero weights leave their gradient as it is. Raises ``ValueError`` for another scope.

    >>> update = perpendicular("all")
    >>> w = jnp.array([1.0, 0.0])
    >>> update.update(jnp.array([3.0, 4.0]), update.init(w), w)[0].tolist()
    [0.0, 4.0]
    """
    if scope not in ("tensor", "all"):
        raise ValueError(f'scope must be "tensor" or "all", got {scope!r}')

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params must be given to update: the direction to be taken out")
        if scope == "tensor":
            return jax.tree.map(_turned, updates, params), state
        share = _share(_inner(params, updates), _inner(params, params))
        return jax.tree.map(lambda g, w: g - share * w, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _turned(gradient: Array, weights: Array) -> Array:
    """The part of a gradient perpendicular to its weights, with the norm of the whole."""
    share = _share(jnp.vdot(weights, gradient), jnp.vdot(weights, weights))
    rest = gradient - share * weights
    whole, left = jnp.linalg.norm(gradient), jnp.linalg.norm(rest)
    # what is left of a gradient along the weights is rounding: do not blow it up
    rounding = 4 * gradient.size**0.5 * jnp.finfo(gradient.dtype).eps
    kept = left > rounding * whole
    return jnp.where(kept, rest * (whole / jnp.where(kept, left, 1.0)), 0.0)


def _inner(first: PyTree[Any], second: PyTree[Any]) -> Array:
    return jnp.asarray(optax.tree.vdot(first, second))


def _share(along: Array, square: Array) -> Array:
    return jnp.where(square > 0, along / jnp.where(square > 0, square, 1.0), 0.0)
