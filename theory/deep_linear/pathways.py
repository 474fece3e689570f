"""Parallel deep linear pathways that race to explain the same input, and critical periods.

Pathways of D weight matrices each add their outputs, ``y = (Omega_a + Omega_b + ...) x``. With
white inputs, balanced layers and singular vectors aligned with the task, each mode of each pathway
has a strength K > 0. S being the singular value of the task, modes separate, pathways do not:

    tau dK_x/dt = D K_x^p (S - sum of all K),    p = 2 - 2/D.

Since ``K_x^-p dK_x/dt`` is the same for all pathways, differences of ``integral dK / K^p`` are
conserved. Until the mode is learned, an advantage of one pathway shrinks at depth 1, keeps its
ratio at depth 2, and is amplified beyond.

Conventions: loss ``1/2 (S - sum K)^2`` per mode; sums or means over examples are the caller's
choice and set the unit of ``tau``. ``depth = inf`` is the limit of many layers with ``tau`` counted
per layer: no factor D, p = 2. Pre-training and transfer between tasks that share no singular
vectors are compositions of matrix Riccati flows (depth 2), not of these scalar ones.
Source: Kleinman, Achille & Soatto 2023, arXiv:2308.12221; Shi, Shea-Brown & Buice 2022 (NeurIPS);
the solutions are derived here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.checks import Count, is_concrete, require, require_depth
from theory.deep_linear.deep_modes import deep_mode_strength
from theory.deep_linear.depth_integral import power
from theory.deep_linear.pathway_race import (
    final_split,
    loser_bound,
    race_invariant,
    require_strengths,
)

__all__ = [
    "critical_period_curve",
    "final_split",
    "loser_bound",
    "pathway_velocity",
    "race_invariant",
    "unbalanced_pathway_velocity",
]

DEFICITS = ("gradient_gate", "removed")


def pathway_velocity(
    K: ArrayLike, S: ArrayLike, depth: Count, tau: ArrayLike = 1.0
) -> Float[Array, "... pathways"]:
    """Velocity ``dK/dt`` of the strengths of any number of pathways, as in the module's head.

    K: (..., pathways); S: a scalar or of a shape that broadcasts with K's leading axes.
    Raises ``ValueError`` for K without an axis, negative (from depth 2 on) or not finite, S not
    finite, tau not positive, a bad depth.
    Source: Kleinman, Achille & Soatto 2023, arXiv:2308.12221.

    >>> [float(v) for v in pathway_velocity(jnp.array([1.0, 0.25]), S=2.0, depth=2)]
    [1.5, 0.375]
    """
    require_depth(depth, infinite=True)
    require("K", K, lambda K: K.ndim > 0, "an array (..., pathways)")
    require_strengths(depth, K=K)
    require_finite(S=S)
    require_positive(tau=tau)
    K, S, tau = as_floats(K, *(jnp.asarray(value)[..., None] for value in (S, tau)))
    layers = 1.0 if depth == np.inf else depth
    gain = 1.0 if depth == 1 else layers * K ** power(depth)
    return gain * (S - jnp.sum(K, axis=-1, keepdims=True)) / tau


def unbalanced_pathway_velocity(
    p: ArrayLike, S: ArrayLike, depth: Count, imbalance: ArrayLike = 1.0, tau: ArrayLike = 1.0
) -> Float[Array, "... pathways"]:
    """Velocity ``dp/dt`` of pathways with one weak layer p and D - 1 strong layers q (large init).

        tau dp/dt = q^(D-1) (S - sum of all K),   K = p q^(D-1),   q^2 = p^2 + imbalance

    where the imbalance ``q^2 - p^2 > 0`` is conserved and common to all modes. Small p is lazy:
    the pathway is linear in p until K becomes of order imbalance^(D/2). p, of either sign:
    (..., pathways); S and imbalance broadcast with its leading axes.
    Raises ``ValueError`` for p without an axis or not finite, S not finite, imbalance or tau not
    positive, a depth that is not an integer >= 1.
    Source: the public code of Kleinman, Achille & Soatto 2023, arXiv:2308.12221 (imbalance 1).

    >>> [float(v) for v in unbalanced_pathway_velocity(jnp.array([0.0, 0.0]), S=10.0, depth=5)]
    [10.0, 10.0]
    """
    require_depth(depth)
    require("p", p, lambda p: p.ndim > 0, "an array (..., pathways)")
    require_finite(p=p, S=S)
    require_positive(imbalance=imbalance, tau=tau)
    per_mode = (jnp.asarray(value)[..., None] for value in (S, imbalance, tau))
    p, S, imbalance, tau = as_floats(p, *per_mode)
    strong = (p**2 + imbalance) ** ((depth - 1) / 2)
    return strong * (S - jnp.sum(p * strong, axis=-1, keepdims=True)) / tau


def critical_period_curve(
    onset: ArrayLike,
    duration: ArrayLike,
    S: ArrayLike,
    K0: ArrayLike,
    depth: Count,
    deficit: str = "gradient_gate",
    tau: ArrayLike = 1.0,
) -> Array:
    """Final share ``K_a(inf)/S`` of pathway a, after a deficit of b from onset to onset + duration.

    Both start at K0 and grow together to K(onset); then, with ``deficit``

    * ``"gradient_gate"``, b keeps its output and learns nothing: a learns ``S - K(onset)``;
    * ``"removed"``, b neither speaks nor learns: a learns all of S;

    and from there the race goes to ``final_split``. 1/2 is no lasting effect, 1 exclusion of b.
    An early gate decides the race and one after learning (``onset -> inf``) does nothing: the
    window closes, later the deeper the network. A removal has a lasting effect at any age.
    Closed form at depths 1 and 2; beyond, compositions of ``deep_mode_strength`` and
    ``final_split``, with an error of some ``(S/K0)^(1 - 2/D)`` roundings: that much does the race
    amplify an early lead. Arguments broadcast; differentiable.
    Raises ``ValueError`` unless 0 < K0 <= S/2, onset and duration are non-negative, and the deficit
    is known.
    Source: derived here, for the model of Kleinman, Achille & Soatto 2023, arXiv:2308.12221.

    >>> [round(float(critical_period_curve(t, 1.0, 2.0, 0.02, depth=3)), 3) for t in (0, 1.5, 6)]
    [0.975, 0.685, 0.5]
    """
    require_depth(depth, infinite=True)
    require_nonnegative(onset=onset, duration=duration)
    require_positive(S=S, K0=K0, tau=tau)
    if deficit not in DEFICITS:
        raise ValueError(f"deficit must be one of {list(DEFICITS)}, got {deficit!r}")
    if is_concrete(S, K0):
        start, target = np.broadcast_arrays(K0, S)
        require("K0", start, lambda start: 2 * start <= target, "at most S/2, not yet learned")
    arguments = as_floats(onset, duration, S, K0, tau)
    return _critical_period_curve(*arguments, depth=depth, deficit=deficit)


@partial(jax.jit, static_argnames=("depth", "deficit"))
def _critical_period_curve(onset, duration, S, K0, tau, *, depth, deficit):
    # the sum of two equal pathways is one mode, at a rate 2^(1-p) times that of one alone
    K = deep_mode_strength(onset, S, 2 * K0, depth, tau * 2.0 ** (power(depth) - 1)) / 2
    task = S - K if deficit == "gradient_gate" else S
    Ka = deep_mode_strength(duration, task, K, depth, tau)
    return final_split(Ka, K, S, depth)[0] / S
