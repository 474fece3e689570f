"""Opposing signals: groups of examples that pull a feature apart sharpen the loss as it is learned.

Inputs ``x = (x_b, x_o)``: a bulk of unit second moments and an outlier ``x_o = +-sqrt(a) u`` along
a unit vector u with probability p/2 each, else 0. Targets ``y = beta . x_b + g |x_o|``: the size of
the outlier matters, its sign does not. A two-layer linear network ``f = c (b . x_b + b_o . x_o)``
has the population loss (half, mean over examples)

    L = 1/2 |c b - beta|^2 + 1/2 kappa c^2 o^2 + const,    o = u . b_o,   kappa = p a:

the groups +- cancel in the gradient of everything but o, which has nothing to gain. Under gradient
flow (t = eta * step) ``c^2 - |b|^2 - o^2`` is conserved. On the balanced aligned path, ``b = c
beta/|beta|`` and o small, ``z = c^2`` is a logistic that ends at ``s = |beta|``, and the Hessian
has the eigenvalues kappa z (along o), 3z - s, s - z, z, and zeros for what is left of b_o. Gradient
descent is unstable if and only if the last sharpness, ``max(kappa, 2) s``, exceeds 2/eta. If o is
what is unstable, it oscillates, the loss spikes and c shrinks.

Model reconstructed from descriptions of Rosenfeld & Risteski 2023, arXiv:2311.04163, whose text was
not seen: constants derived here.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.deep_linear.modes import two_layer_mode_strength


class OpposingState(NamedTuple):
    """Head c, bulk weights b (..., d) and outlier weight ``o = u . b_o``."""

    head: Array
    bulk: Array
    outlier: Array


class GroupLosses(NamedTuple):
    """Mean loss of the examples without outlier, and of those with one of either sign."""

    bulk: Float[Array, "..."]
    plus: Float[Array, "..."]
    minus: Float[Array, "..."]


def group_losses(
    state: OpposingState, target: ArrayLike, size: ArrayLike, gain: ArrayLike
) -> GroupLosses:
    """Mean losses of the three groups, ``1/2 |c b - beta|^2 + (0 or a (+-c o - g)^2 / 2)``.

    ``size`` is a = |x_o|^2 and ``gain`` g. Slopes in o are ``a c (c o -+ g)``: opposite at o = 0.
    Weighted with 1 - p, p/2 and p/2 they add up to the loss. Shapes: target (..., d), all else
    (...). Raises ``ValueError`` unless b and beta fit, all is finite and a >= 0.
    Source: derived here, after Rosenfeld & Risteski 2023, arXiv:2311.04163.

    >>> start = OpposingState(1.0, jnp.ones(2), 0.5)
    >>> [float(x) for x in group_losses(start, jnp.ones(2), size=8.0, gain=0.5)]
    [0.0, 0.0, 4.0]
    """
    require_nonnegative(size=size)
    require_finite(gain=gain)
    residual, c, _, o, size, gain = _arrays(state, target, size, gain)
    bulk = jnp.sum(residual**2, axis=-1) / 2
    plus, minus = (size / 2 * (sign * c * o - gain) ** 2 for sign in (1, -1))
    return GroupLosses(bulk, bulk + plus, bulk + minus)


def opposing_loss(state: OpposingState, target: ArrayLike, strength: ArrayLike) -> Array:
    """Population loss ``1/2 |c b - beta|^2 + 1/2 kappa c^2 o^2``, without its constant.

    ``strength`` is kappa = p a. Shapes and errors as in ``group_losses``.

    >>> float(opposing_loss(OpposingState(1.0, jnp.ones(2), 0.5), jnp.ones(2), strength=8.0))
    1.0
    """
    require_nonnegative(strength=strength)
    residual, c, _, o, strength = _arrays(state, target, strength)
    return (jnp.sum(residual**2, axis=-1) + strength * (c * o) ** 2) / 2


def opposing_step(
    state: OpposingState, target: ArrayLike, strength: ArrayLike, learning_rate: ArrayLike
) -> OpposingState:
    """One step of gradient descent on ``opposing_loss``.

        c' = c - eta [(c b - beta) . b + kappa c o^2],   b' = b - eta c (c b - beta),
        o' = (1 - eta kappa c^2) o

    Shapes and errors as in ``group_losses``; the learning rate is positive.

    >>> step = opposing_step(OpposingState(1.0, jnp.ones(1), 1.0), jnp.ones(1), 2.0, 0.5)
    >>> [float(jnp.sum(x)) for x in step]
    [0.0, 1.0, 0.0]
    """
    require_nonnegative(strength=strength)
    require_positive(learning_rate=learning_rate)
    residual, c, b, o, strength, eta = _arrays(state, target, strength, learning_rate)
    slope = jnp.sum(residual * b, axis=-1) + strength * c * o**2
    bulk = b - (eta * c)[..., None] * residual
    return OpposingState(c - eta * slope, bulk, o - eta * strength * c**2 * o)


def opposing_invariant(state: OpposingState) -> Float[Array, "..."]:
    """What gradient flow conserves: ``c^2 - |b|^2 - o^2``.

    Shapes (...), (..., d), (...). Raises ``ValueError`` unless finite and fitting.

    >>> float(opposing_invariant(OpposingState(3.0, jnp.ones(2), 2.0)))
    3.0
    """
    _, c, b, o = _arrays(state, state.bulk)
    return c**2 - jnp.sum(b**2, axis=-1) - o**2


def balanced_path(
    t: ArrayLike, head0: ArrayLike, target_norm: ArrayLike, strength: ArrayLike
) -> tuple[Array, Array]:
    """Gradient flow from the balanced aligned start: ``c^2(t)``, and how far the outlier decayed.

        c^2 = s / (1 + r e^(-2 s t)),   o(t)/o(0) = [(1 + r)/(e^(2 s t) + r)]^(kappa/2),
        r = s/c_0^2 - 1,  s = |beta|

    exact as o -> 0, where it does not act back: ``o ~ e^(-kappa c_0^2 t)`` first, a valley that is
    entered before the bulk is learned. Arguments broadcast. Raises ``ValueError`` for t or strength
    negative, c_0 or |beta| not positive. Source: derived here.

    >>> [round(float(x), 4) for x in balanced_path(1.0, 0.5, target_norm=1.0, strength=4.0)]
    [0.7112, 0.1482]
    """
    require_nonnegative(t=t, strength=strength)
    require_positive(head0=head0, target_norm=target_norm)
    t, head0, s, strength = as_floats(t, head0, target_norm, strength)
    ratio = s / head0**2 - 1
    # the logarithm of o, with e^(2 s t) taken out: large times do not overflow
    decay = 2 * s * t + jnp.log1p(ratio * jnp.exp(-2 * s * t)) - jnp.log1p(ratio)
    return two_layer_mode_strength(t, s, head0**2), jnp.exp(-strength / 2 * decay)


def opposing_sharpness(
    head_squared: ArrayLike, target_norm: ArrayLike, strength: ArrayLike
) -> Array:
    """Largest Hessian eigenvalue ``max(kappa z, 3z - s, s - z)``, z = c^2, on the balanced path.

    At o = 0. Once the outlier is above the bulk the sharpness grows in proportion to z, from the
    start of learning to ``kappa s``. Arguments broadcast. Raises ``ValueError`` for z or kappa
    negative, s = |beta| not positive. Source: derived here.

    >>> float(opposing_sharpness(0.5, target_norm=1.0, strength=6.0))
    3.0
    """
    require_nonnegative(head_squared=head_squared, strength=strength)
    require_positive(target_norm=target_norm)
    z, s, strength = as_floats(head_squared, target_norm, strength)
    return jnp.maximum(strength * z, jnp.maximum(3 * z - s, s - z))


def opposing_learning_rate(target_norm: ArrayLike, strength: ArrayLike) -> Array:
    """Largest learning rate ``2 / (max(kappa, 2) |beta|)`` at which the balanced minimum is stable.

    Above it gradient descent leaves the balanced path and ends where ``kappa c^2 < 2/eta``.
    Arguments broadcast. Raises ``ValueError`` for kappa negative, |beta| not positive.
    Source: derived here.

    >>> float(opposing_learning_rate(target_norm=2.0, strength=10.0))
    0.1
    """
    s = as_floats(target_norm)[0]
    return 2 / opposing_sharpness(s, s, strength)


def _arrays(state: OpposingState, target: ArrayLike, *numbers: ArrayLike) -> list[Array]:
    """Residual ``c b - beta``, c, b, o and the numbers, checked, in one dtype."""
    if jnp.ndim(target) == 0 or jnp.shape(state.bulk)[-1:] != jnp.shape(target)[-1:]:
        shapes = f"{jnp.shape(state.bulk)} and {jnp.shape(target)}"
        raise ValueError(f"bulk and target must have one last axis (..., d), got {shapes}")
    require_finite(target=target, **state._asdict())
    dtype = jnp.result_type(*state, target, *numbers, 1.0)
    c, b, o, beta, *rest = (jnp.asarray(x, dtype) for x in (*state, target, *numbers))
    return [c[..., None] * b - beta, c, b, o, *rest]
