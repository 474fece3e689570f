"""Self-stabilization: how gradient descent oscillates at the edge of stability and stays there.

Along the top eigenvector of the Hessian let x be the displacement and ``y = S - 2/eta`` the excess
sharpness. With progressive sharpening ``alpha = -grad L . grad S`` and ``beta = |grad S|^2``,

    x' = -(1 + eta y) x,    y' = y + eta (alpha - beta x^2/2):

y grows until x does, x^2 pushes y back. The map is exact for gradient descent on ``L = (2/eta + y)
x^2/2 - alpha y`` (beta = 1), time is counted in steps, and the loss is the one descended.

It has the two-cycle ``x = +-sqrt(2 alpha/beta), y = 0``; as eta -> 0 at fixed eta*steps it
conserves ``y^2/2 + beta x^2/4 - alpha ln|x|``; at finite eta this grows: it spirals outwards.

Sources: Damian, Nichani & Lee 2022, arXiv:2209.15594 (the map); energy, period, growth and the
stationary balance derived here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.stability.sharpness import Eigensolver, Loss, curvature_gradients, dense_eigenpairs


class Oscillation(NamedTuple):
    """Displacement x along the top eigenvector and excess sharpness ``y = S - 2/eta``."""

    displacement: Array
    excess: Array


class Sharpening(NamedTuple):
    """alpha, beta, sharpness S and its unit eigenvector u of a loss at a point."""

    alpha: Float[Array, ""]
    beta: Float[Array, ""]
    sharpness: Float[Array, ""]
    direction: Float[Array, " d"]


def self_stabilization_step(
    state: Oscillation, learning_rate: ArrayLike, alpha: ArrayLike, beta: ArrayLike = 1.0
) -> Oscillation:
    """One step of the reduced map ``x' = -(1 + eta y) x, y' = y + eta (alpha - beta x^2/2)``.

    Arguments broadcast. Raises ``ValueError`` for a learning rate or beta not positive, alpha, x
    or y not finite. Source: Damian, Nichani & Lee 2022, arXiv:2209.15594.

    >>> step = self_stabilization_step(Oscillation(2.0, 1.0), learning_rate=0.5, alpha=1.0)
    >>> [float(x) for x in step]
    [-3.0, 0.5]
    """
    require_positive(learning_rate=learning_rate, beta=beta)
    require_finite(alpha=alpha, **state._asdict())
    x, y, eta, alpha, beta = as_floats(*state, learning_rate, alpha, beta)
    return Oscillation(-(1 + eta * y) * x, y + eta * (alpha - beta * x**2 / 2))


def two_cycle_amplitude(alpha: ArrayLike, beta: ArrayLike = 1.0) -> Array:
    """Displacement ``sqrt(2 alpha/beta)`` at which oscillation and sharpening balance, at y = 0.

    Its square is the variance of the oscillation in the central flow. Arguments broadcast. Raises
    ``ValueError`` unless both are positive. Source: Damian, Nichani & Lee 2022, arXiv:2209.15594.

    >>> float(two_cycle_amplitude(8.0))
    4.0
    """
    require_positive(alpha=alpha, beta=beta)
    alpha, beta = as_floats(alpha, beta)
    return jnp.sqrt(2 * alpha / beta)


def oscillation_energy(state: Oscillation, alpha: ArrayLike, beta: ArrayLike = 1.0) -> Array:
    """Energy ``y^2/2 + beta x^2/4 - alpha ln|x|``, conserved as eta -> 0.

    A step raises it by ``eta^2/2 (alpha - beta x^2/2)^2 + eta^2 beta x^2 y^2/4 + alpha (eta y -
    ln|1 + eta y|)``: O(eta) over a fixed time eta*steps, and never negative while ``eta y > -1``.
    Infinite at x = 0. Arguments broadcast. Raises ``ValueError`` unless alpha and beta are
    positive, x and y finite. Source: derived here.

    >>> float(oscillation_energy(Oscillation(-1.0, 2.0), alpha=1.0))
    2.25
    """
    require_positive(alpha=alpha, beta=beta)
    require_finite(**state._asdict())
    x, y, alpha, beta = as_floats(*state, alpha, beta)
    return y**2 / 2 + beta * x**2 / 4 - alpha * jnp.log(jnp.abs(x))


def oscillation_period(learning_rate: ArrayLike, alpha: ArrayLike) -> Array:
    """Steps ``2 pi / arctan(eta sqrt(2 alpha))`` in a small oscillation about the two-cycle.

    The map linearised there (in |x|) has multipliers ``1 +- i eta sqrt(2 alpha)``; the period is
    close to ``2 pi / (eta sqrt(2 alpha))`` and independent of beta. Arguments broadcast. Raises
    ``ValueError`` unless both are positive. Source: derived here.

    >>> round(float(oscillation_period(1.0, 0.5)), 12)
    8.0
    """
    return 2 * jnp.pi / jnp.arctan(_frequency(learning_rate, alpha))


def oscillation_growth(learning_rate: ArrayLike, alpha: ArrayLike) -> Array:
    """Factor ``sqrt(1 + 2 alpha eta^2)`` by which a small oscillation grows in one step.

    Size of the multipliers in ``oscillation_period``; arguments and errors as there. Larger ones
    grow, too: see ``oscillation_energy``. Source: derived here.

    >>> round(float(oscillation_growth(2.0, 1.0)), 12)
    3.0
    """
    return jnp.sqrt(1 + _frequency(learning_rate, alpha) ** 2)


def stationary_excess(
    learning_rate: ArrayLike,
    alpha: ArrayLike,
    beta: ArrayLike,
    noise_variance: ArrayLike,
    *,
    coupling: ArrayLike = 0.0,
    imbalance: ArrayLike = 0.0,
) -> Array:
    """Mean excess sharpness of the map with gradient noise, ``x' = -(1 + eta y) x + eta xi``.

        E y = -(eta/4 alpha) { beta (sigma^2 + E[y^2 x^2]) + 2 E[(alpha - beta x^2/2)^2] }

    exactly, in any stationary state: ``noise_variance`` is sigma^2 = E xi^2, ``coupling`` is
    E[y^2 x^2] and ``imbalance`` E[(alpha - beta x^2/2)^2]. Without the two the leading term in
    eta of Liao et al. remains, too small by factors (2 to 60): noise keeps the oscillation going.
    Arguments broadcast. Raises ``ValueError`` for a learning rate, alpha or beta not positive,
    negative moments. Sources: Liao et al. 2026, arXiv:2604.21016 (leading term); balance derived
    here.

    >>> float(stationary_excess(0.5, alpha=1.0, beta=2.0, noise_variance=4.0))
    -1.0
    """
    require_positive(learning_rate=learning_rate, alpha=alpha, beta=beta)
    require_nonnegative(noise_variance=noise_variance, coupling=coupling, imbalance=imbalance)
    eta, alpha, beta, noise, coupling, imbalance = as_floats(
        learning_rate, alpha, beta, noise_variance, coupling, imbalance
    )
    return -eta / (4 * alpha) * (beta * (noise + coupling) + 2 * imbalance)


def progressive_sharpening_coeffs(
    loss: Loss, w: Float[Array, " d"], *, eigensolver: Eigensolver = dense_eigenpairs
) -> Sharpening:
    """Coefficients alpha and beta of a loss at w, with its sharpness S and eigenvector u.

        alpha = -P grad L . P grad S,    beta = |P grad S|^2,    P = 1 - u u^T.

    P removes the oscillating direction, in which the gradient is large and averages out. Where
    the averaged motion along u is at rest, ``u . (grad L + sigma^2 grad S / 2) = 0`` with
    ``sigma^2 = 2 alpha/beta``, the ratio alpha/beta is the same without P. The top eigenvalue must
    be simple. ``loss`` is a function of the flat vector w; differentiable three times.
    Source: Damian, Nichani & Lee 2022, arXiv:2209.15594.

    >>> toy = lambda w: (10 + w[1]) * w[0] ** 2 / 2 - 0.5 * w[1]  # sharpness 10 + w_1
    >>> [float(x) for x in progressive_sharpening_coeffs(toy, jnp.zeros(2))[:3]]
    [0.5, 1.0, 10.0]
    """
    values, vectors = eigensolver(loss, w, 1)
    u = vectors[0]
    slope = curvature_gradients(loss, w, vectors[:1])[0, 0]
    slope, downhill = slope - u * (u @ slope), -jax.grad(loss)(w)
    return Sharpening(downhill @ slope, slope @ slope, values[0], u)


def _frequency(learning_rate: ArrayLike, alpha: ArrayLike) -> Array:
    require_positive(learning_rate=learning_rate, alpha=alpha)
    eta, alpha = as_floats(learning_rate, alpha)
    return eta * jnp.sqrt(2 * alpha)
