"""The river valley: noise, learning rate and decay in a loss of steep hills and a slow river.

    L = (eps/2)(x - x*)^2 + sum_j (h_j/2) y_j^2,    gradients along y_j with noise of variance s2,

theta' = theta - eta (gradient + noise). Along the river x the learning rate is speed; in every hill
direction it keeps up a second moment m and with it a loss,

    m' = (1 - eta h)^2 m + eta^2 s2,    gap h m/2 -> eta s2 / (2 (2 - eta h)) ~ eta s2/4,

nearly independent of the curvature h. Decaying eta removes it. Expectations over the noise are
exact. Schedules themselves: ``schedules``.

Source: Wen et al. 2024, arXiv:2410.05192, for the picture; constants derived here.
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
from theory.checks import Count, require, require_count


class Decay(NamedTuple):
    """Learning rates (steps,) and the second moments before, between and after (steps + 1,)."""

    rates: Float[Array, " steps"]
    moments: Float[Array, " steps_and_start"]


class ValleyLosses(NamedTuple):
    """Expected loss along the river and in all hills after each step, (steps,) each."""

    river: Float[Array, " steps"]
    hill: Float[Array, " steps"]


def hill_moment_step(
    moment: ArrayLike, learning_rate: ArrayLike, curvature: ArrayLike, noise_variance: ArrayLike
) -> Array:
    """Second moment in a hill direction after a step: ``(1 - eta h)^2 m + eta^2 s2``.

    Arguments broadcast. Raises ``ValueError`` if one is negative or not finite.

    >>> float(hill_moment_step(4.0, learning_rate=0.5, curvature=1.0, noise_variance=8.0))
    3.0
    """
    require_nonnegative(moment=moment, learning_rate=learning_rate)
    require_nonnegative(curvature=curvature, noise_variance=noise_variance)
    m, eta, h, noise = as_floats(moment, learning_rate, curvature, noise_variance)
    return (1 - eta * h) ** 2 * m + eta**2 * noise


def stable_gap(learning_rate: ArrayLike, curvature: ArrayLike, noise_variance: ArrayLike) -> Array:
    """Stationary loss ``h m/2 = eta s2 / (2 (2 - eta h))`` of a hill direction.

    The second moment there is ``m = 2 gap / h``, the fixed point of ``hill_moment_step``. Arguments
    broadcast. Raises ``ValueError`` unless the learning rate and h are positive, eta h < 2 and s2
    non-negative. Source: Wen et al. 2024, arXiv:2410.05192 (leading order); derived here.

    >>> float(stable_gap(0.5, curvature=2.0, noise_variance=4.0))
    1.0
    """
    require_positive(learning_rate=learning_rate, curvature=curvature)
    require_nonnegative(noise_variance=noise_variance)
    eta, h, noise = as_floats(learning_rate, curvature, noise_variance)
    require("learning_rate * curvature", eta * h, lambda x: x < 2, "below 2 (stable)")
    return eta * noise / (2 * (2 - eta * h))


def optimal_decay(
    moment: ArrayLike, curvature: ArrayLike, noise_variance: ArrayLike, steps: Count
) -> Decay:
    """Schedule that makes the second moment of a hill direction least after ``steps`` steps.

        eta_t = h m_t / (h^2 m_t + s2),    1/m_{t+1} = 1/m_t + h^2/s2

    so that ``1/eta_t`` rises linearly with slope h: an inverse decay. Greedy and optimal at once,
    since m' increases with m. From the stationary state of a rate eta it begins at eta/2. The last
    moment gives the least gap, h m/2. Scalar arguments. Raises ``ValueError`` unless moment,
    curvature and noise variance are positive and steps an integer >= 1. Source: derived here.

    >>> decay = optimal_decay(1.0, curvature=1.0, noise_variance=1.0, steps=2)
    >>> [round(1 / float(rate), 6) for rate in decay.rates], round(1 / float(decay.moments[-1]), 6)
    ([2.0, 3.0], 3.0)
    """
    require_positive(moment=moment, curvature=curvature, noise_variance=noise_variance)
    require_count(steps=steps)
    m, h, noise = as_floats(moment, curvature, noise_variance)
    elapsed = jnp.arange(int(steps) + 1, dtype=m.dtype)
    moments = m / (1 + elapsed * h**2 * m / noise)
    return Decay(h * moments[:-1] / (h**2 * moments[:-1] + noise), moments)


def valley_losses(
    rates: ArrayLike,
    hills: ArrayLike,
    *,
    noise_variance: ArrayLike,
    moments: ArrayLike,
    river_curvature: ArrayLike = 0.0,
    river_start: ArrayLike = 0.0,
) -> ValleyLosses:
    """Expected losses after every step of a schedule, ``(eps/2) x^2`` and ``sum_j h_j m_j / 2``.

    rates: (steps,); hills h_j: (hills,); noise_variance s2 and initial moments m_j: numbers or
    (hills,); river_curvature eps; river_start ``x - x*``. Raises ``ValueError`` for rates or hills
    not vectors, something negative (but river_start) or not finite.

    >>> losses = valley_losses(jnp.ones(2), jnp.ones(1), noise_variance=4.0, moments=9.0)
    >>> losses.hill.tolist()
    [2.0, 2.0]
    """
    for name, value in {"rates": rates, "hills": hills}.items():
        if jnp.ndim(value) != 1:
            raise ValueError(f"{name} must be a vector, got shape {jnp.shape(value)}")
    require_nonnegative(rates=rates, hills=hills, noise_variance=noise_variance, moments=moments)
    require_nonnegative(river_curvature=river_curvature)
    require_finite(river_start=river_start)
    hills, noise, moments = as_floats(hills, noise_variance, moments)
    rates = jnp.asarray(rates, hills.dtype)
    slow, x = (jnp.asarray(value, hills.dtype) for value in (river_curvature, river_start))

    def step(state, eta):
        x, m = state
        x, m = (1 - eta * slow) * x, (1 - eta * hills) ** 2 * m + eta**2 * noise
        return (x, m), ValleyLosses(slow * x**2 / 2, jnp.sum(hills * m) / 2)

    return jax.lax.scan(step, (x, moments), rates)[1]


def river_force(slope: ArrayLike, curvature_slope: ArrayLike, moment: ArrayLike) -> Array:
    """Mean gradient along a river whose hills change: ``q'(x) + h'(x) m / 2``.

    For ``L = q(x) + h(x) y^2 / 2``: noise, through the second moment m of y, pushes towards flatter
    parts, upstream if need be. Leading order in the slowness of x, ``x' = x - eta force``; several
    hills add up. Arguments broadcast. Raises ``ValueError`` unless finite, m non-negative.
    Source: derived here.

    >>> float(river_force(-1.0, curvature_slope=4.0, moment=1.0))
    1.0
    """
    require_finite(slope=slope, curvature_slope=curvature_slope)
    require_nonnegative(moment=moment)
    slope, curvature_slope, moment = as_floats(slope, curvature_slope, moment)
    return slope + curvature_slope * moment / 2


def bigram_hessian(frequency: ArrayLike, probabilities: ArrayLike) -> Float[Array, "... v v"]:
    """Hessian block ``frequency (diag(p) - p p^T)`` of the logits that follow one context.

    Cross-entropy of a table of logits, weighted with the frequency of contexts; p the model's
    probabilities (..., v). Its trace ``frequency (1 - |p|^2)`` vanishes for certain tokens: their
    logits are the river, uncertain tokens the hills. Raises ``ValueError`` unless frequencies and
    probabilities are non-negative and p adds up to 1 (to 1e-6).
    Source: Wen et al. 2024, arXiv:2410.05192.

    >>> bigram_hessian(0.5, jnp.array([0.5, 0.5])).tolist()
    [[0.125, -0.125], [-0.125, 0.125]]
    """
    require_nonnegative(frequency=frequency, probabilities=probabilities)
    p, frequency = as_floats(probabilities, jnp.asarray(frequency)[..., None])
    total = jnp.sum(p, axis=-1)
    require("sum of probabilities", total, lambda x: abs(x - 1) < 1e-6, "1")
    diagonal = jnp.einsum("...i,ij->...ij", p, jnp.eye(p.shape[-1], dtype=p.dtype))
    return frequency[..., None] * (diagonal - p[..., :, None] * p[..., None, :])
