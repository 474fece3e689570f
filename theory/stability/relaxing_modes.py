"""Self-stabilization where curved directions relax: the reduced map, mode by mode.

The two-variable map of ``self_stabilization`` takes the gradient of the loss and of its sharpness S
as constant. In a network both also point along directions that are curved themselves, by less than
2/eta, and displacements there relax. With (lambda_i, v_i) the eigenpairs of the Hessian but for the
top one, y_i what direction i adds to the excess sharpness ``y = S - 2/eta = sum_i y_i`` and

    alpha_i = -(v_i . grad L)(v_i . grad S),    beta_i = (v_i . grad S)^2,

    x' = -(1 + eta y) x,    y_i' = (1 - eta lambda_i) y_i + eta (alpha_i - beta_i x^2/2).

Without curvature the sums of alpha_i, beta_i, y_i obey the two-variable map. Otherwise its period
takes alpha from the directions that are slower than the oscillation, while two-cycle and central
flow know only ``2 alpha/beta``, the same with all directions as with the flat ones alone once the
others rest. Gradient descent that oscillates with amplitude sigma departs from this map by a
fraction O(sigma).

Source: Damian, Nichani & Lee 2022, arXiv:2209.15594 (their predicted dynamics, here with
coefficients held fixed and written in eigendirections of the Hessian).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_nonnegative, require_positive
from theory.stability.self_stabilization import Oscillation
from theory.stability.sharpness import Loss, curvature_gradients


class SharpeningModes(NamedTuple):
    """alpha_i, beta_i, lambda_i of the d - 1 other directions; sharpness S, its eigenvector u."""

    alpha: Float[Array, " modes"]
    beta: Float[Array, " modes"]
    curvature: Float[Array, " modes"]
    sharpness: Float[Array, ""]
    direction: Float[Array, " d"]


def sharpening_modes(loss: Loss, w: Float[Array, " d"]) -> SharpeningModes:
    """Coefficients of the map for a loss at w, curvatures ascending.

    Sums of alpha_i and beta_i are those of ``progressive_sharpening_coeffs``. From the full
    Hessian: for up to a few hundred parameters. ``loss`` is a function of the flat vector w, three
    times differentiable; the top eigenvalue must be simple. Raises ``ValueError`` for fewer than
    two parameters. Source: see the module.

    >>> toy = lambda w: (10 + w[1]) * w[0] ** 2 / 2 - 0.5 * w[1] + 3 * w[1] ** 2 / 2
    >>> [x.tolist() for x in sharpening_modes(toy, jnp.zeros(2))[:4]]
    [[0.5], [1.0], [3.0], 10.0]
    """
    if w.size < 2:
        raise ValueError(f"w must have at least 2 parameters, got {w.size}")
    values, vectors = jnp.linalg.eigh(jax.hessian(loss)(w))
    top, others = vectors[:, -1], vectors[:, :-1].T
    slope = others @ curvature_gradients(loss, w, top[None])[0, 0]
    downhill = -others @ jax.grad(loss)(w)
    return SharpeningModes(downhill * slope, slope**2, values[:-1], values[-1], top)


def relaxing_stabilization_step(
    state: Oscillation,
    learning_rate: ArrayLike,
    alpha: ArrayLike,
    beta: ArrayLike,
    curvature: ArrayLike,
) -> Oscillation:
    """One step of the map for x and every y_i at the head of this module.

    ``state.displacement`` x and the learning rate have shapes (...), ``state.excess`` y_i and the
    coefficients (..., modes), or what broadcasts to them. Raises ``ValueError`` for a learning rate
    not positive, beta negative, anything not finite. Source: see the module.

    >>> start = Oscillation(2.0, jnp.array([1.0, -1.0]))
    >>> step = relaxing_stabilization_step(start, 0.5, jnp.array([1.0, 2.0]), 1.0, 1.0)
    >>> float(step.displacement), step.excess.tolist()
    (-2.0, [0.0, -0.5])
    """
    require_positive(learning_rate=learning_rate)
    require_nonnegative(beta=beta)
    require_finite(alpha=alpha, curvature=curvature, **state._asdict())
    x, eta = (jnp.asarray(value)[..., None] for value in (state.displacement, learning_rate))
    x, y, eta, alpha, beta, curvature = as_floats(x, state.excess, eta, alpha, beta, curvature)
    factor = 1 + eta[..., 0] * y.sum(axis=-1)
    excess = (1 - eta * curvature) * y + eta * (alpha - beta * x**2 / 2)
    return Oscillation(-factor * x[..., 0], excess)
