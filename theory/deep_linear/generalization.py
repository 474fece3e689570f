"""How well a linear network that learns from few noisy examples generalizes, and when to stop.

A teacher ``y = wbar . x + eps`` labels P = alpha N examples with N inputs; a student learns from

    x_i ~ N(0, 1/N), wbar_i ~ N(0, signal_var), eps ~ N(0, noise_var), w_i(0) ~ N(0, init_var)

by gradient flow ``tau dw/dt = X^T (y - X w)``, X of shape (P, N): loss 1/2 |y - X w|^2, summed
over examples. Averages over data, teacher and start as N -> infinity, where

    A = signal_var + init_var,    int: over the continuous part of the Marchenko-Pastur law,
    E_g(t) = int rho [A e^(-2 lam t/tau) + noise_var (1 - e^(-lam t/tau))^2 / lam]
             + (1 - alpha)_+ A + noise_var,
    E_t(t) = int rho (lam A + noise_var) e^(-2 lam t/tau) / alpha + (1 - 1/alpha)_+ noise_var.

E_g is the mean of ``(y - w . x)^2`` over fresh noisy examples, E_t over the P training examples;
neither has the factor 1/2 of the loss. One sample of finite N scatters around both by O(N^-1/2).
Arguments broadcast. Source: Advani & Saxe 2017, arXiv:1710.03667.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.deep_linear.finite_sample import finite_sample_path
from theory.deep_linear.marchenko_pastur import bulk_mass, marchenko_pastur_nodes
from theory.deep_linear.ridge import optimal_ridge_error, ridge_error
from theory.deep_linear.stopping import mode_stopping_time, optimal_stopping_time

__all__ = [
    "bulk_mass",
    "final_generalization_error",
    "final_training_error",
    "finite_sample_path",
    "frozen_error",
    "generalization_error",
    "marchenko_pastur_nodes",
    "mode_stopping_time",
    "optimal_ridge_error",
    "optimal_stopping_error",
    "optimal_stopping_time",
    "overtraining_law",
    "ridge_error",
    "training_error",
]


def generalization_error(
    t: ArrayLike,
    alpha: ArrayLike,
    signal_var: ArrayLike,
    init_var: ArrayLike,
    noise_var: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Array:
    """Mean squared error E_g(t) on fresh noisy examples, as in the module's head.

    ``E_g(0) = signal_var + init_var + noise_var``. Relative error 1e-12 or less in float64, for
    alpha from 1e-6 to 1e6 and all t (below 1e25 tau at alpha = 1). It has a single minimum over t,
    at ``optimal_stopping_time``.
    Raises ``ValueError`` for alpha or tau not positive, a negative t or variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> times = jnp.array([0.0, 2.0, 1000.0])
    >>> [round(float(e), 3) for e in generalization_error(times, 2.0, 1.0, 0.0, 0.5)]
    [1.5, 0.815, 1.0]
    """
    _require_setting(t, alpha, signal_var, init_var, noise_var, tau)
    return _generalization_error(t, alpha, signal_var, init_var, noise_var, tau)


def training_error(
    t: ArrayLike,
    alpha: ArrayLike,
    signal_var: ArrayLike,
    init_var: ArrayLike,
    noise_var: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Array:
    """Mean squared error E_t(t) over the training examples, as in the module's head.

    Never increases; ``E_t(0) = E_g(0)``. Arguments, accuracy and errors raised as for
    ``generalization_error``. Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> times = jnp.array([0.0, 2.0, 1000.0])
    >>> [round(float(e), 3) for e in training_error(times, 2.0, 1.0, 0.0, 0.5)]
    [1.5, 0.272, 0.25]
    """
    _require_setting(t, alpha, signal_var, init_var, noise_var, tau)
    return _training_error(t, alpha, signal_var, init_var, noise_var, tau)


def frozen_error(alpha: ArrayLike, signal_var: ArrayLike, init_var: ArrayLike) -> Array:
    """Error that no training removes: ``(1 - alpha)_+ (signal_var + init_var)``.

    With fewer examples than inputs, weights in the null space of the data never move. There the
    teacher stays unknown and the initial weights stay on, which is why they should be small.
    Raises ``ValueError`` for alpha not positive, a negative variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> float(frozen_error(0.25, signal_var=1.0, init_var=1.0))
    1.5
    """
    _require_setting(0.0, alpha, signal_var, init_var, 0.0, 1.0)
    alpha, signal_var, init_var = as_floats(alpha, signal_var, init_var)
    return _positive_part(1 - alpha) * (signal_var + init_var)


def final_generalization_error(
    alpha: ArrayLike, signal_var: ArrayLike, init_var: ArrayLike, noise_var: ArrayLike
) -> Array:
    """E_g as t -> infinity: the frozen error, and noise fitted along with the signal.

    ``noise_var alpha / (alpha - 1)`` for alpha > 1, and for alpha < 1
    ``(1 - alpha) (signal_var + init_var) + noise_var / (1 - alpha)``. Infinite at alpha = 1, where
    it grows as in ``overtraining_law``, unless noise_var = 0.
    Raises ``ValueError`` for alpha not positive, a negative variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> [float(final_generalization_error(a, 1.0, 0.0, 0.5)) for a in (0.5, 1.0, 2.0)]
    [1.5, inf, 1.0]
    """
    _require_setting(0.0, alpha, signal_var, init_var, noise_var, 1.0)
    return _final_generalization_error(alpha, signal_var, init_var, noise_var)


def final_training_error(alpha: ArrayLike, noise_var: ArrayLike) -> Array:
    """E_t as t -> infinity: ``(1 - 1/alpha)_+ noise_var``, zero while P <= N: all can be fitted.

    Raises ``ValueError`` for alpha not positive, a negative variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> [float(final_training_error(a, 1.0)) for a in (0.5, 4.0)]
    [0.0, 0.75]
    """
    _require_setting(0.0, alpha, 0.0, 0.0, noise_var, 1.0)
    alpha, noise_var = as_floats(alpha, noise_var)
    return _positive_part(1 - 1 / alpha) * noise_var


def overtraining_law(
    t: ArrayLike,
    signal_var: ArrayLike,
    init_var: ArrayLike,
    noise_var: ArrayLike,
    tau: ArrayLike = 1.0,
) -> Array:
    """E_g(t) at alpha = 1 and late times: noise is fitted as sqrt(t), without end.

        noise_var [1/2 + 2 (2 - sqrt2) sqrt(t / (pi tau))]
        + [signal_var + init_var + noise_var (2 sqrt2 - 1)/8] / sqrt(2 pi t/tau)

    up to a relative O((tau/t)^(3/2)). Its minimum, and with it the optimal stopping time at large
    signal-to-noise ratio, is linear in that ratio: t = tau (1 + sqrt2)/4 (signal_var + init_var) /
    noise_var, while at other alphas the stopping time grows with its logarithm only.
    Raises ``ValueError`` for t or tau not positive, a negative variance, NaN.
    Source: derived here, from the model of Advani & Saxe 2017, arXiv:1710.03667.

    >>> late = 100.0, 1.0, 0.0, 0.5
    >>> round(float(overtraining_law(*late) / generalization_error(late[0], 1.0, *late[1:])), 4)
    1.0
    """
    require_positive(t=t)
    _require_setting(t, 1.0, signal_var, init_var, noise_var, tau)
    t, signal_var, init_var, noise_var, tau = as_floats(t, signal_var, init_var, noise_var, tau)
    t = t / tau
    growing = 0.5 + 2 * (2 - np.sqrt(2)) * jnp.sqrt(t / np.pi)
    shrinking = signal_var + init_var + noise_var * (2 * np.sqrt(2) - 1) / 8
    return noise_var * growing + shrinking / jnp.sqrt(2 * np.pi * t)


def optimal_stopping_error(
    alpha: ArrayLike, signal_var: ArrayLike, init_var: ArrayLike, noise_var: ArrayLike
) -> Array:
    """The least E_g(t) over all t, reached at ``optimal_stopping_time``.

    Without noise that is the final error. Never below ``optimal_ridge_error``, which it comes
    close to for init_var = 0. Independent of tau. Differentiable.
    Raises ``ValueError`` for alpha not positive, a negative variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> round(float(optimal_stopping_error(2.0, 1.0, 0.0, 0.5)), 3)
    0.79
    """
    _require_setting(0.0, alpha, signal_var, init_var, noise_var, 1.0)
    return _optimal_stopping_error(alpha, signal_var, init_var, noise_var)


@jax.jit
def _generalization_error(t, alpha, signal_var, init_var, noise_var, tau):
    t, alpha, signal_var, init_var, noise_var, tau = as_floats(
        t, alpha, signal_var, init_var, noise_var, tau
    )
    unlearned = signal_var + init_var
    lam, weight = marchenko_pastur_nodes(alpha)
    work = lam * (t / tau)[..., None]
    left, gone = jnp.exp(-work), -jnp.expm1(-work)
    mode_error = unlearned[..., None] * left**2 + noise_var[..., None] * gone * (gone / lam)
    bulk = jnp.sum(weight * mode_error, axis=-1)
    return bulk + _positive_part(1 - alpha) * unlearned + noise_var


@jax.jit
def _training_error(t, alpha, signal_var, init_var, noise_var, tau):
    t, alpha, signal_var, init_var, noise_var, tau = as_floats(
        t, alpha, signal_var, init_var, noise_var, tau
    )
    lam, weight = marchenko_pastur_nodes(alpha)
    left = jnp.exp(-lam * (t / tau)[..., None])
    mode_error = (lam * (signal_var + init_var)[..., None] + noise_var[..., None]) * left**2
    # without the positive part the second term would belong to a sum over all N eigenvalues
    bulk = jnp.sum(weight * mode_error, axis=-1) / alpha
    return bulk + _positive_part(1 - 1 / alpha) * noise_var


@jax.jit
def _final_generalization_error(alpha, signal_var, init_var, noise_var):
    alpha, signal_var, init_var, noise_var = as_floats(alpha, signal_var, init_var, noise_var)
    gap = jnp.abs(alpha - 1)
    fitted = noise_var * jnp.maximum(alpha, 1) / jnp.where(gap == 0, 1, gap)
    fitted = jnp.where(gap == 0, jnp.where(noise_var == 0, 0, jnp.inf), fitted)
    return _positive_part(1 - alpha) * (signal_var + init_var) + fitted


@jax.jit
def _optimal_stopping_error(alpha, *variances):
    time = optimal_stopping_time(alpha, *variances)
    endless = jnp.isinf(time)
    stopped = _generalization_error(jnp.where(endless, 0, time), alpha, *variances, 1.0)
    return jnp.where(endless, _final_generalization_error(alpha, *variances), stopped)


def _positive_part(x):
    return jnp.maximum(x, 0)


def _require_setting(t, alpha, signal_var, init_var, noise_var, tau):
    require_nonnegative(t=t, signal_var=signal_var, init_var=init_var, noise_var=noise_var)
    require_positive(alpha=alpha, tau=tau)
