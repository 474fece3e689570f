"""When to stop learning from noisy examples: one mode at a time, and all of them at once.

The setting is that of ``generalization``, with ``r = (signal_var + init_var) / noise_var``. A
mode of eigenvalue lam contributes, per unit of noise_var,

    e(t) = r e^(-2 lam t/tau) + (1 - e^(-lam t/tau))^2 / lam

to the generalization error: unlearned signal at first, fitted noise later. Its minimum moves to
later times as lam decreases, so the minimum of the sum over modes lies between those of the two
edges of the spectrum. It is unique: ``dE_g/dt`` is the Laplace transform of

    2 noise_var [rho(mu) - (1 + r mu/2)/2 rho(mu/2)],

and a Laplace transform has no more sign changes than its original. That one has a single sign
change, the ratio of rho(mu) to the subtracted term being decreasing in mu.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.deep_linear.marchenko_pastur import marchenko_pastur_edges, marchenko_pastur_nodes

BISECTIONS = 64  # of log t, whose range is below 700: beyond the resolution of float64


def mode_stopping_time(
    lam: ArrayLike,
    signal_var: ArrayLike,
    init_var: ArrayLike,
    noise_var: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Array:
    """Time at which a mode of eigenvalue lam of X^T X generalizes best.

    ``(tau/lam) ln(1 + lam r)``, ``tau r`` for lam = 0, ``r = (signal_var + init_var)/noise_var``;
    infinite without noise. Its contribution to the error is then ``r noise_var / (1 + lam r)``.
    Arguments broadcast. Raises ``ValueError`` for a negative lam or variance, tau not positive,
    NaN. Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> round(float(mode_stopping_time(0.5, signal_var=1.0, init_var=0.0, noise_var=0.25)), 4)
    2.1972
    """
    _require_setting(signal_var, init_var, noise_var, tau)
    require_nonnegative(lam=lam)
    lam, signal_var, init_var, noise_var, tau = as_floats(lam, signal_var, init_var, noise_var, tau)
    unlearned = signal_var + init_var
    time = _mode_time(lam, _signal_to_noise(unlearned, noise_var))
    return tau * _unless_trivial(time, unlearned, noise_var)


def optimal_stopping_time(
    alpha: ArrayLike,
    signal_var: ArrayLike,
    init_var: ArrayLike,
    noise_var: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Array:
    """Time at which ``generalization_error`` is least, over all times.

    The single root of dE_g/dt, by bisection between the stopping times of the largest and the
    smallest eigenvalue: it always converges. Differentiable in every argument (implicitly). For
    large r it grows as ``(tau/lam_-) ln(r lam_- / 2^(3/2))``, lam_- the smallest non-zero
    eigenvalue, but at alpha = 1 as ``tau r (1 + sqrt2)/4``. Infinite without noise (nothing is to
    be gained by stopping), zero where signal_var + init_var = 0. Arguments broadcast.
    Raises ``ValueError`` for alpha or tau not positive, a negative variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667; uniqueness and limits derived here.

    >>> round(float(optimal_stopping_time(2.0, signal_var=1.0, init_var=0.0, noise_var=0.5)), 3)
    1.119
    """
    _require_setting(signal_var, init_var, noise_var, tau)
    require_positive(alpha=alpha)
    return _optimal_time(alpha, signal_var, init_var, noise_var, tau)


@jax.jit
def _optimal_time(alpha, signal_var, init_var, noise_var, tau):
    alpha, signal_var, init_var, noise_var, tau = as_floats(
        alpha, signal_var, init_var, noise_var, tau
    )
    unlearned = signal_var + init_var
    ratio = _signal_to_noise(unlearned, noise_var)
    fixed = jax.lax.stop_gradient((alpha, ratio))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        early = _slope(jnp.exp(middle), *fixed) < 0
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    smallest, largest = marchenko_pastur_edges(fixed[0])
    bracket = jnp.log(_mode_time(largest, fixed[1])), jnp.log(_mode_time(smallest, fixed[1]))
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, bracket)
    time = jnp.exp((low + high) / 2)
    # adds zero, but carries the derivative of the root
    slope, bend = jax.jvp(lambda t: _slope(t, alpha, ratio), (time,), (jnp.ones_like(time),))
    time = time - (slope - jax.lax.stop_gradient(slope)) / jax.lax.stop_gradient(bend)
    return tau * _unless_trivial(time, unlearned, noise_var)


def _slope(t, alpha, ratio):
    """dE_g/dt for noise_var = tau = 1, times e^(lam_- t) / 2 lest it underflow."""
    lam, weight = marchenko_pastur_nodes(alpha)
    t, ratio, smallest = t[..., None], ratio[..., None], marchenko_pastur_edges(alpha)[0][..., None]
    left, gone = jnp.exp(-lam * t), -jnp.expm1(-lam * t)
    return jnp.sum(weight * jnp.exp((smallest - lam) * t) * (gone - ratio * lam * left), axis=-1)


def _mode_time(lam, ratio):
    x = lam * ratio
    flat = x == 0
    return ratio * jnp.where(flat, 1, jnp.log1p(x) / jnp.where(flat, 1, x))


def _signal_to_noise(unlearned, noise_var):
    """The ratio r, and a stand-in of 1 where it does not decide."""
    decides = (unlearned > 0) & (noise_var > 0)
    return jnp.where(decides, unlearned, 1) / jnp.where(decides, noise_var, 1)


def _unless_trivial(time, unlearned, noise_var):
    """Nothing to learn: stop at once. Nothing but signal: never stop."""
    return jnp.where(unlearned == 0, 0, jnp.where(noise_var == 0, jnp.inf, time))


def _require_setting(signal_var, init_var, noise_var, tau):
    require_nonnegative(signal_var=signal_var, init_var=init_var, noise_var=noise_var)
    require_positive(tau=tau)
