"""Balance between the two layers of a linear network: what it allows, and what it forbids.

``W2^T W2 - W1 W1^T`` (hidden, hidden) is conserved by gradient flow, for any loss of ``W2 W1``.
Weights are lambda-balanced if it is lambda times the identity. Saxe et al.'s constant of a mode,
``c = a^2 - b^2`` (first layer minus second), has the opposite sign. W1 is (hidden, inputs), W2
(outputs, hidden).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.arguments import require_finite, require_nonnegative, require_positive
from theory.checks import Count, require_count
from theory.deep_linear.matrices import as_layers, as_matrices, require_shape


class RescaledProblem(NamedTuple):
    """A problem with one learning rate that stands for a problem with a rate per layer.

    It runs from W1, W2 on the task sigma_yx; its time is ``time_scale`` times the original time,
    and the original map is ``map_scale`` times its map ``W2 W1``.
    """

    W1: Float[Array, "hidden inputs"]
    W2: Float[Array, "outputs hidden"]
    sigma_yx: Float[Array, "outputs inputs"]
    time_scale: Float[Array, ""]
    map_scale: Float[Array, ""]


def imbalance_matrix(
    W1: Float[ArrayLike, "..."], W2: Float[ArrayLike, "..."]
) -> Float[Array, "hidden hidden"]:
    """Imbalance of two layers, ``W2^T W2 - W1 W1^T``, conserved by gradient flow.

    With weight decay gamma it decays as ``e^{-2 gamma t/tau}``. Raises ``ValueError`` for layers
    that do not fit together, NaN or infinity.
    Source: Fukumizu 1998; sign as in Domine et al. 2024, arXiv:2409.14623.

    >>> imbalance_matrix(jnp.ones((1, 2)), jnp.full((1, 1), 3.0)).tolist()
    [[7.0]]
    """
    W1, W2 = as_layers(W1, W2)
    return W2.T @ W2 - W1 @ W1.T


def is_lambda_balanced(
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    atol: ArrayLike | None = None,
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether ``W2^T W2 - W1 W1^T = lambda I`` within atol, and lambda (its mean diagonal).

    atol bounds the largest deviation of an entry; by default rounding, 100 eps times
    ``|W1|^2 + |W2|^2`` (Frobenius). A single hidden unit is balanced whatever its weights, with
    lambda = ``|W2|^2 - |W1|^2``. Raises ``ValueError`` for layers that do not fit together, NaN
    or a negative atol. Source: Domine et al. 2024, arXiv:2409.14623.

    >>> balanced, imbalance = is_lambda_balanced(jnp.eye(2), 2 * jnp.eye(2))
    >>> bool(balanced), float(imbalance)
    (True, 3.0)
    """
    difference = imbalance_matrix(W1, W2)
    if atol is not None:
        require_nonnegative(atol=atol)
    hidden = difference.shape[0]
    mean = jnp.trace(difference) / hidden
    deviation = jnp.max(jnp.abs(difference - mean * jnp.eye(hidden, dtype=mean.dtype)))
    return deviation <= (_rounding(W1, W2) if atol is None else atol), mean


def is_feasible_imbalance(n_in: Count, n_hidden: Count, n_out: Count, imbalance: float) -> bool:
    """Whether weights with ``W2^T W2 - W1 W1^T = imbalance I`` exist for these widths.

    A positive imbalance makes ``W2^T W2`` positive definite, which takes n_hidden <= n_out; a
    negative one takes n_hidden <= n_in; zero is always possible. The size does not matter.
    Raises ``ValueError`` for widths that are not integers >= 1 or an imbalance that is not finite.

    >>> is_feasible_imbalance(3, 3, 5, -0.9), is_feasible_imbalance(3, 4, 5, -0.9)
    (True, False)
    """
    require_count(n_in=n_in, n_hidden=n_hidden, n_out=n_out)
    require_finite(imbalance=imbalance)
    if imbalance == 0:
        return True
    return bool(n_hidden <= (n_out if imbalance > 0 else n_in))


def determinant_obstruction(
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    sigma_yx: Float[ArrayLike, "..."],
) -> Bool[Array, ""]:
    """Whether balance keeps these weights from ever learning the last mode of a square task.

    True if inputs = outputs, both ``Sigma_yx`` and ``W2 W1`` have full rank, the weights are
    balanced (lambda = 0, within rounding) and

        sign det(W2 W1) != sign det(Sigma_yx).

    Gradient flow with lambda = 0 keeps the sign, so it ends in the saddle that lacks the weakest
    mode, at a loss ``s_min^2 / 2`` above the minimum (whitened inputs). That is half of all random
    balanced starts. Closed forms that invert ``U^T Ut + V^T Vt`` fail there, ``qqt`` does not.
    Simulations leave the saddle when rounding errors have grown as ``e^{s_min t}``.
    With lambda != 0, or inputs != outputs, no such obstruction exists.
    Raises ``ValueError`` for shapes that do not fit together, NaN or infinity.

    >>> W1, W2, task = jnp.eye(2), jnp.eye(2), jnp.diag(jnp.array([2.0, -1.0]))
    >>> bool(determinant_obstruction(W1, W2, task)), bool(determinant_obstruction(W1, W2, -W1))
    (True, False)
    """
    W1, W2 = as_layers(W1, W2)
    (task,) = as_matrices(sigma_yx=sigma_yx)
    product = W2 @ W1
    require_shape(product.shape, sigma_yx=task)
    if product.shape[0] != product.shape[1] or W1.shape[0] < W1.shape[1]:
        return jnp.array(False)
    U, s, Vt = jnp.linalg.svd(jnp.stack([product, task]))
    opposite = jnp.prod(jnp.linalg.slogdet(U @ Vt)[0]) < 0
    full_rank = jnp.all(s[:, -1] > s.shape[1] * jnp.finfo(s.dtype).eps * s[:, 0])
    balanced = jnp.max(jnp.abs(W2.T @ W2 - W1 @ W1.T)) <= _rounding(W1, W2)
    return opposite & full_rank & balanced


def rescale_layer_rates(
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    sigma_yx: Float[ArrayLike, "..."],
    rate1: ArrayLike,
    rate2: ArrayLike,
) -> RescaledProblem:
    """The problem with one learning rate that two layers with a rate each are equivalent to.

    With E = Sigma_yx - W2 W1, ``tau dW1/dt = rate1 W2^T E`` and ``tau dW2/dt = rate2 E W1^T``
    become ``tau dW1'/dt' = W2'^T E'``, ``tau dW2'/dt' = E' W1'^T`` in

        W1' = W1/sqrt(rate1), W2' = W2/sqrt(rate2), Sigma' = Sigma/sqrt(rate1 rate2),
        t' = rate1 rate2 t,   W2 W1 = sqrt(rate1 rate2) W2' W1'.

    What is conserved is the imbalance of the primed weights. White inputs of variance v are the
    case rate1 = v, rate2 = 1 in units in which it is 1: ``sqrt(v) W1`` and ``Sigma_yx / sqrt(v)``.
    Raises ``ValueError`` for shapes that do not fit together, NaN, rates that are not positive.
    Source: Kunin et al. 2024, arXiv:2406.06158 (one hidden unit).

    >>> rescaled = rescale_layer_rates(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)), 4., 9.)
    >>> float(rescaled.time_scale), float(rescaled.map_scale), round(float(rescaled.W2[0, 0]), 4)
    (36.0, 6.0, 0.3333)
    """
    require_positive(rate1=rate1, rate2=rate2)
    W1, W2 = as_layers(W1, W2)
    (task,) = as_matrices(sigma_yx=sigma_yx)
    require_shape((W2.shape[0], W1.shape[1]), sigma_yx=task)
    root1, root2 = jnp.sqrt(jnp.asarray(rate1, W1.dtype)), jnp.sqrt(jnp.asarray(rate2, W1.dtype))
    scale = root1 * root2
    return RescaledProblem(W1 / root1, W2 / root2, task / scale, scale**2, scale)


def _rounding(W1: ArrayLike, W2: ArrayLike) -> Array:
    """What rounding may leave in an entry of ``W2^T W2 - W1 W1^T``."""
    W1, W2 = as_layers(W1, W2)
    return 100 * jnp.finfo(W1.dtype).eps * (jnp.sum(W1 * W1) + jnp.sum(W2 * W2))
