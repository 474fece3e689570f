"""Where SGD's noise comes to rest: the stationary second moment around a regular minimum.

At a minimum that does not interpolate, every sample keeps a residual r_i and with it a gradient
``J_i^T r_i``; they sum to zero. SGD never stops there, and its second moment has a limit while
``eta < mean_square_threshold``. In the language of ``theory.stability.transfer`` the noise of the
residuals adds a source to the blocks, ``V = T (V + r r^T)``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.checks import Count, is_concrete, require
from theory.stability.gram import as_gram, gram_modes, mixing_weight
from theory.stability.transfer import between_modes, inverted, threshold_delta, transfer

BALANCE = 1e-6  # how small sum_i J_i^T r_i must be, in units of the r.m.s. of its terms
ACCURACY = 1e-12  # of the linear solve


class Stationary(NamedTuple):
    """Second moment ``E[e e^T]`` of the output errors e_i = J_i delta, and the loss it costs.

    moment has the Gram's shape; excess_loss is ``1/2 Tr(H Sigma)``; converged tells whether the
    linear solve reached its accuracy and a positive moment, which it cannot beyond the threshold.
    """

    moment: Float[Array, "..."]
    excess_loss: Float[Array, ""]
    converged: Bool[Array, ""]


def stationary_covariance(
    gram: ArrayLike,
    residuals: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: Count,
    replacement: bool = False,
) -> Stationary:
    """Stationary second moment of linearised SGD around a regular minimum, on the range of H.

        vec Sigma = eta p (2 C - eta D)^+ vec((1/n) sum_i J_i^T r_i r_i^T J_i)

    residuals: r_i (n,) or (n, c), with ``sum_i J_i^T r_i = 0``. Outside the range of H, which no
    gradient of these samples touches, nothing moves. Iterates are uncorrelated with the batch.

    Raises ``ValueError`` for a bad Gram, batch size or learning rate <= 0, residuals of another
    shape or not finite, and residuals whose gradients do not sum to zero (measured).
    Source: Mulayoff & Michaeli (2024), arXiv 2306.07850, eq. 17; in Gram form derived here.

    >>> found = stationary_covariance(np.ones((2, 2)), np.array([1.0, -1.0]), 0.5, batch_size=1)
    >>> round(float(found.excess_loss), 12)  # eta r^2 / (2 (2 - eta)), one weight of curvature 1
    0.166666666667
    """
    shape = np.shape(gram)
    gram, residuals = as_gram(gram), jnp.asarray(residuals)
    n, c = gram.shape[:2]
    require("learning_rate", learning_rate, lambda x: (x > 0) & np.isfinite(x), "positive")
    require("residuals", residuals, np.isfinite, "finite")
    if residuals.size != n * c or len(residuals) != n:
        raise ValueError(f"residuals must have shape ({n},) or ({n}, {c}), got {residuals.shape}")
    residuals = residuals.reshape(n, c)
    _require_balanced(gram, residuals)
    p = mixing_weight(n, batch_size, replacement)
    found = _stationary(gram, residuals, jnp.asarray(learning_rate, gram.dtype), p)
    return found._replace(moment=found.moment.reshape(shape))


def _require_balanced(gram: Array, residuals: Array) -> None:
    """Raise unless ``|sum_i J_i^T r_i|`` is small beside the root sum of squares of its terms."""
    if not is_concrete(gram, residuals):
        return
    products = np.einsum("ic,icjd,jd->ij", residuals, gram, residuals)
    total, terms = abs(products.sum()), np.trace(products)
    if total > BALANCE**2 * max(terms, np.finfo(float).tiny) + 1e-13 * np.abs(products).sum():
        raise ValueError(
            "residuals must have gradients that sum to zero, got a sum of "
            f"{np.sqrt(total / terms):.1e} of their root sum of squares"
        )


@jax.jit
def _stationary(gram: Array, residuals: Array, eta: Array, p: Array) -> Stationary:
    modes = gram_modes(gram)
    n, c, _ = modes.features.shape
    inverse = p / n * inverted(modes, threshold_delta(1 / eta, modes.eigenvalues, p))

    def operator(blocks):
        return transfer(blocks, modes.features, inverse)

    source = residuals[:, :, None] * residuals[:, None, :]
    driven = operator(source)
    blocks, _ = jax.scipy.sparse.linalg.cg(
        lambda v: v - operator(v), driven, tol=ACCURACY, maxiter=10 * n * c * c
    )
    missing = jnp.linalg.norm(blocks - operator(blocks) - driven)
    variances = jnp.trace(blocks, axis1=1, axis2=2)
    rows = modes.features.reshape(n * c, -1)
    moment = rows @ (between_modes(blocks + source, modes.features) * inverse) @ rows.T
    return Stationary(
        moment,
        variances.mean() / 2,
        (missing <= 100 * ACCURACY * jnp.linalg.norm(driven)) & jnp.all(variances >= 0),
    )
