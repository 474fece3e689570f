"""Ridge regression on the data of ``generalization``: the benchmark for early stopping.

Loss ``1/2 |y - X w|^2 + gamma/2 |w|^2``, summed over examples and trained to convergence from zero
weights (from any weights if gamma > 0). With the Marchenko-Pastur law, zero eigenvalues included,

    E(gamma) = int rho (signal_var gamma^2 + noise_var lam) / (lam + gamma)^2 + noise_var.

The resolvent ``m = int rho / (lam + gamma)`` solves ``gamma m^2 + (gamma + alpha - 1) m = 1``;
``q = gamma m`` and ``p = 1/m`` are the two roots with p - q = gamma + alpha - 1, p q = gamma, and

    E(gamma) = noise_var + [signal_var q (q + gamma) + noise_var alpha / (1 + p)] / (p + q),

in which nothing cancels. Source: Advani & Saxe 2017, arXiv:1710.03667; this form derived here.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from theory.arguments import as_floats, require_nonnegative, require_positive


def ridge_error(
    gamma: ArrayLike, alpha: ArrayLike, signal_var: ArrayLike, noise_var: ArrayLike
) -> Array:
    """Generalization error of ridge regression, as in the module's head; N -> infinity.

    gamma = 0 is the end of gradient flow from zero weights (infinite at alpha = 1, unless
    noise_var = 0). Arguments broadcast; alpha is the number of examples per input, whose variance
    is 1/N; errors are squared errors on fresh noisy examples, without factor 1/2.
    Raises ``ValueError`` for alpha not positive, a negative gamma or variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> [round(float(ridge_error(g, 2.0, 1.0, 0.5)), 4) for g in (0.0, 0.5, 5.0)]
    [1.0, 0.7808, 1.0863]
    """
    require_nonnegative(gamma=gamma, signal_var=signal_var, noise_var=noise_var)
    require_positive(alpha=alpha)
    return _ridge_error(gamma, alpha, signal_var, noise_var)


def optimal_ridge_error(alpha: ArrayLike, signal_var: ArrayLike, noise_var: ArrayLike) -> Array:
    """Least error of ridge regression, at ``gamma = noise_var / signal_var``.

    ``noise_var (1 + m) = noise_var + q signal_var``: the error of the Bayes-optimal estimator,
    below which no training curve of ``generalization`` gets. Arguments broadcast.
    Raises ``ValueError`` for alpha not positive, a negative variance, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> round(float(optimal_ridge_error(2.0, 1.0, 0.5)), 4)
    0.7808
    """
    require_nonnegative(signal_var=signal_var, noise_var=noise_var)
    require_positive(alpha=alpha)
    return _optimal_ridge_error(alpha, signal_var, noise_var)


@jax.jit
def _ridge_error(gamma, alpha, signal_var, noise_var):
    gamma, alpha, signal_var, noise_var = as_floats(gamma, alpha, signal_var, noise_var)
    p, q = _roots(gamma + (alpha - 1), gamma)
    singular = p + q == 0  # gamma = 0 at alpha = 1
    excess = signal_var * q * (q + gamma) + noise_var * alpha / (1 + p)
    excess = excess / jnp.where(singular, 1, p + q)
    diverging = jnp.where(noise_var == 0, 0, jnp.inf)
    return noise_var + jnp.where(singular, diverging, excess)


@jax.jit
def _optimal_ridge_error(alpha, signal_var, noise_var):
    alpha, signal_var, noise_var = as_floats(alpha, signal_var, noise_var)
    difference = noise_var + (alpha - 1) * signal_var
    return noise_var + _roots(difference, noise_var * signal_var)[1]


def _roots(difference, product):
    """The p, q >= 0 with ``p - q = difference`` and ``p q = product``."""
    square = difference**2 + 4 * product
    zero = square == 0
    total = jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
    larger = (total + jnp.abs(difference)) / 2
    smaller = product / jnp.where(zero, 1, larger)
    return jnp.where(difference >= 0, larger, smaller), jnp.where(difference >= 0, smaller, larger)
