"""The race of two deep linear pathways: what it conserves, and how it ends.

Model, conventions and sources as in ``pathways``: ``tau dK_x/dt = D K_x^p (S - K_a - K_b)``,
``p = 2 - 2/D``, whose solutions conserve ``integral from K_b to K_a of dK / K^p``.
"""

from functools import partial

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
from theory.checks import Count, require, require_depth
from theory.deep_linear.depth_integral import power

NEWTON_STEPS = 5  # four reach rounding from anywhere


def race_invariant(Ka: ArrayLike, Kb: ArrayLike, depth: Count) -> Array:
    """What two racing pathways conserve: ``integral from K_b to K_a of dK / K^p``, p = 2 - 2/D.

    ``K_a - K_b`` at depth 1, ``ln(K_a/K_b)`` at depth 2, beyond that
    ``(K_b^-g - K_a^-g) / g`` with ``g = 1 - 2/D``. Whatever the task, its singular value, and any
    common modulation of the error. Odd in its arguments, positive where a leads. They broadcast.
    Raises ``ValueError`` for K not positive (from depth 2 on) or not finite, a bad depth.
    Source: derived here, for the model of Kleinman, Achille & Soatto 2023, arXiv:2308.12221.

    >>> [round(float(race_invariant(1.0, 0.25, D)), 4) for D in (1, 2, 4)]
    [0.75, 1.3863, 2.0]
    """
    require_depth(depth, infinite=True)
    require_strengths(depth, positive=True, Ka=Ka, Kb=Kb)
    Ka, Kb = as_floats(Ka, Kb)
    return Ka - Kb if depth == 1 else _race_invariant(Ka, Kb, depth)


def final_split(
    Ka: ArrayLike, Kb: ArrayLike, S: ArrayLike, depth: Count
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Strengths of two pathways as t -> infinity: ``K_a + K_b = S`` at the same ``race_invariant``.

    From any positive strengths, above the target too (the removal of a deficit may leave them
    there). Closed form at depths 1 and 2, where depth 1 admits any sign; a few Newton steps in a
    coordinate that makes the equation nearly linear beyond. Differentiable, implicitly. At depth
    above 2 the loser stays below ``loser_bound`` however large S is. Arguments broadcast.
    Raises ``ValueError`` for S not positive, K not positive (from depth 2 on), a bad depth.
    Source: derived here, for the model of Kleinman, Achille & Soatto 2023, arXiv:2308.12221.

    >>> [[round(float(K), 4) for K in final_split(0.02, 0.01, 3.0, D)] for D in (1, 2, 4)]
    [[1.505, 1.495], [2.0, 1.0], [2.919, 0.081]]
    """
    require_depth(depth, infinite=True)
    require_strengths(depth, positive=True, Ka=Ka, Kb=Kb)
    require_positive(S=S)
    Ka, Kb, S = as_floats(Ka, Kb, S)
    return _final_split(Ka, Kb, S, depth=depth)


def loser_bound(Ka: ArrayLike, Kb: ArrayLike, depth: Count) -> Array:
    """Bound on the final strength of the weaker of two pathways, whatever the task; depth > 2.

    ``|K_b^-g - K_a^-g|^(-1/g)``, ``g = 1 - 2/D``: approached as S -> infinity; infinite for equal
    pathways. Arguments broadcast. Raises ``ValueError`` for depth 2 or less, K not positive.
    Source: derived here, for the model of Kleinman, Achille & Soatto 2023, arXiv:2308.12221.

    >>> round(float(loser_bound(1.0, 0.25, depth=4)), 4)
    1.0
    """
    require_depth(depth, infinite=True)
    require("depth", depth, lambda depth: depth > 2, "above 2 (an advantage is not amplified)")
    require_strengths(depth, positive=True, Ka=Ka, Kb=Kb)
    Ka, Kb = as_floats(Ka, Kb)
    lead, g = jnp.abs(_log_ratio(Ka, Kb)), power(depth) - 1
    equal = lead == 0
    advantage = -jnp.expm1(-g * jnp.where(equal, 1, lead))
    return jnp.where(equal, jnp.inf, jnp.minimum(Ka, Kb) * advantage ** (-1 / g))


def require_strengths(depth: Count, *, positive: bool = False, **strengths: ArrayLike) -> None:
    """Raise ``ValueError`` unless every strength is finite and, from depth 2 on, non-negative.

    >>> require_strengths(3, positive=True, Ka=0.0)
    Traceback (most recent call last):
        ...
    ValueError: Ka must be positive and finite, got 0.0
    """
    if depth == 1:
        require_finite(**strengths)
    elif positive:
        require_positive(**strengths)
    else:
        require_nonnegative(**strengths)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnames="depth")
def _race_invariant(Ka, Kb, depth):
    lead, g = _log_ratio(Ka, Kb), power(depth) - 1
    if depth == 2:
        return lead
    return jnp.exp(-g / 2 * (jnp.log(Ka) + jnp.log(Kb))) * 2 * jnp.sinh(g / 2 * lead) / g


@_race_invariant.defjvp
def _race_invariant_jvp(depth, primals, tangents):
    (Ka, Kb), (d_Ka, d_Kb), p = primals, tangents, power(depth)
    return _race_invariant(Ka, Kb, depth), Ka**-p * d_Ka - Kb**-p * d_Kb


@partial(jax.jit, static_argnames="depth")
def _final_split(Ka, Kb, S, *, depth):
    if depth == 1:
        return (S + Ka - Kb) / 2, (S - Ka + Kb) / 2
    return _positive_split(Ka, Kb, S, depth)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _positive_split(Ka, Kb, S, depth):
    lead = _log_ratio(Ka, Kb)
    if depth > 2:
        winner = jnp.maximum(Ka, Kb)
        lead = jnp.sign(lead) * _final_lead(jnp.abs(lead), S / winner, power(depth) - 1)
    return S * jax.nn.sigmoid(lead), S * jax.nn.sigmoid(-lead)


@_positive_split.defjvp
def _positive_split_jvp(depth, primals, tangents):
    # dK_a/K_a^p - dK_b/K_b^p is the same at the start and at the end, where dK_a + dK_b = dS
    (Ka, Kb, _), (d_Ka, d_Kb, d_S) = primals, tangents
    p, (end_a, end_b) = power(depth), _positive_split(*primals, depth)
    share_a = jax.nn.sigmoid(p * (jnp.log(end_a) - jnp.log(end_b)))
    share_b = 1 - share_a
    gain_a, gain_b = share_b * (end_a / Ka) ** p, share_a * (end_b / Kb) ** p
    shift = gain_a * d_Ka - gain_b * d_Kb
    return (end_a, end_b), (share_a * d_S + shift, share_b * d_S - shift)


def _final_lead(lead, growth, g):
    """``ln(K_winner/K_loser)`` at the end, from the one at the start and ``growth = S/K_winner``.

    In ``w = ln((K_winner/K_loser)^g - 1)`` the invariant reads ``w + g ln(S/K_winner)``; its slope
    in w, with K_winner + K_loser = S, lies between 0.8 and 1: Newton converges from anywhere.
    """
    tied = lead == 0
    start = g * jnp.where(tied, 1, lead)
    target = start + jnp.log(-jnp.expm1(-start)) + g * jnp.log(growth)

    def newton(_, w):
        lead = jax.nn.softplus(w) / g
        slope = 1 - jax.nn.sigmoid(-lead) * jax.nn.sigmoid(w)
        return w - (w + g * jax.nn.softplus(-lead) - target) / slope

    w = jax.lax.fori_loop(0, NEWTON_STEPS, newton, target)
    return jnp.where(tied, 0, jax.nn.softplus(w) / g)


def _log_ratio(Ka, Kb):
    """``ln(Ka/Kb)``, exactly odd, and to full relative accuracy for nearly equal K."""
    larger, smaller = jnp.maximum(Ka, Kb), jnp.minimum(Ka, Kb)
    return jnp.sign(Ka - Kb) * jnp.log1p((larger - smaller) / smaller)
