"""The central flow: the smooth path about which gradient descent oscillates at the edge.

Time t counts steps of gradient descent with learning rate eta on a loss L; S is its sharpness,

    dw/dt = -eta [grad L + 1/2 grad_w <Sigma, H(w)>],
    Sigma >= 0,   H <= 2/eta,   <Sigma, 2/eta - H> = 0:

Sigma is the covariance of the oscillation along the eigenvectors of H at 2/eta, as large as it must
be to keep their eigenvalues from growing. Below the edge Sigma = 0: gradient flow. With one
critical direction Sigma is ``max(0, 2 alpha/beta)``, alpha = -grad L . grad S, beta = |grad S|^2,
and w moves down the gradient projected off grad S: L falls. The oscillation adds ``1/2 <Sigma, H> =
Tr(Sigma)/eta`` to the average of the loss over time.

Not covered: the delay until an oscillation has grown out of rounding errors (long where gradients
are small when the edge is reached), and violent oscillations, beyond the third derivative.

Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, arXiv:2410.24206.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_positive
from theory.checks import Count, require_count
from theory.stability.complementarity import complementary_matrix
from theory.stability.sharpness import Eigensolver, Loss, curvature_gradients, dense_eigenpairs

CRITICAL = 0.975  # eigenvalues above this part of 2/eta may reach the edge within a substep


class CentralFlowInfo(NamedTuple):
    """What the flow does at the start of a step; k followed directions of d parameters.

    loss: L(w). predicted_loss: the average of gradient descent's loss, ``L + Tr(Sigma)/eta``.
    eigenvalues (k,), descending: the first is the sharpness. directions (k, d): eigenvectors of the
    parameters as one vector. sigma (k, k): covariance of the oscillation in these directions; its
    eigenvalues are the variances. residual: of the complementarity problem (0 if closed form).
    saturated: one more direction than followed is critical; ``max_critical`` should be larger.
    """

    loss: Float[Array, ""]
    predicted_loss: Float[Array, ""]
    eigenvalues: Float[Array, " k"]
    directions: Float[Array, "k d"]
    sigma: Float[Array, "k k"]
    residual: Float[Array, ""]
    saturated: Array


def central_flow_step(
    loss: Callable[[Any], Array],
    w: Any,
    learning_rate: ArrayLike,
    *,
    num_substeps: Count = 2,
    max_critical: Count = 4,
    eigensolver: Eigensolver = dense_eigenpairs,
) -> tuple[Any, CentralFlowInfo]:
    """The central flow of gradient descent for the time of one of its steps.

    Euler substeps of length 1/num_substeps; in each, Sigma solves ``0 <= Sigma, 0 <= 2/eta - H'``,
    H' the Hessian at its end to first order, for the up to ``max_critical`` directions with
    eigenvalues above 1.95/eta: closed form for one, ``complementary_matrix`` for more. The error
    at the edge is of second order in the substep if all directions that come near it are followed,
    else of first. Along critical directions w relaxes at the rate 2: hence at least two substeps.

    ``loss(w)`` is any smooth function of a pytree w of one dtype; ``eigensolver`` takes it as a
    function of the flat vector, the default builds the whole Hessian. Returns w and the
    ``CentralFlowInfo`` of the start of the step. Pure; compile it with ``jax.jit`` over w.

    Raises ``ValueError`` for a learning rate not positive, num_substeps not an integer >= 2,
    max_critical not an integer >= 1. Source: Cohen et al. 2024, arXiv:2410.24206.

    >>> toy = lambda w: (20 + w[1]) * w[0] ** 2 / 2 - 0.5 * w[1]  # at the edge for eta = 0.1
    >>> w, info = central_flow_step(toy, jnp.zeros(2), 0.1, max_critical=1)
    >>> w.tolist(), info.sigma.tolist(), float(info.predicted_loss)
    ([0.0, 0.0], [[1.0]], 10.0)
    """
    require_positive(learning_rate=learning_rate)
    require_count(least=2, num_substeps=num_substeps)
    require_count(max_critical=max_critical)
    flat, unravel = ravel_pytree(w)
    eta = jnp.asarray(learning_rate, flat.dtype)
    k = int(min(max_critical, flat.size))
    flat_loss: Loss = lambda point: loss(unravel(point))  # noqa: E731

    def substep(point: Array, _: None) -> tuple[Array, CentralFlowInfo]:
        velocity, info = _velocity(flat_loss, point, eta, k, 1 / int(num_substeps), eigensolver)
        return point + velocity / int(num_substeps), info

    flat, infos = jax.lax.scan(substep, flat, None, length=int(num_substeps))
    return unravel(flat), jax.tree.map(lambda x: x[0], infos)


def _velocity(
    loss: Loss, w: Array, eta: Array, k: int, duration: float, eigensolver: Eigensolver
) -> tuple[Array, CentralFlowInfo]:
    """``dw/dt`` for the coming substep, and the state it starts from."""
    value, slope = jax.value_and_grad(loss)(w)
    eigenvalues, directions = eigensolver(loss, w, min(k + 1, w.size))
    saturated = jnp.any(eigenvalues[k:] > CRITICAL * 2 / eta)
    eigenvalues, directions = eigenvalues[:k], directions[:k]
    critical = eigenvalues > CRITICAL * 2 / eta
    # a direction that is not critical neither needs nor gets any oscillation
    both = critical[:, None] & critical[None, :]
    gradients = curvature_gradients(loss, w, directions) * both[..., None]
    gap = jnp.diag(2 / eta - eigenvalues) + duration * eta * gradients @ slope
    response = duration * eta / 2 * jnp.einsum("ijp,klp->ijkl", gradients, gradients)
    sigma, residual = complementary_matrix(gap, response)
    velocity = -eta * (slope + jnp.einsum("ijp,ij->p", gradients, sigma) / 2)
    predicted = value + jnp.trace(sigma) / eta
    return velocity, CentralFlowInfo(
        value, predicted, eigenvalues, directions, sigma, residual, saturated
    )
