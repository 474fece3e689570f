"""Two-layer linear networks from small Gaussian weights: where the sigmoids effectively start.

From small weights a mode grows from noise. With a = W1 v and b = W2^T u its hidden vectors, the
linearised flow ``tau da/dt = s b``, ``tau db/dt = s a`` amplifies ``a + b`` and damps ``a - b``, so

    u(t) = a . b -> (|a + b|^2 / 4) e^{2 s t / tau}  =:  u_eff e^{2 s t / tau},

and the mode then follows the balanced logistic started at ``u_eff``. For independent entries of
variances sigma1^2 and sigma2^2, ``|a + b|^2`` is (sigma1^2 + sigma2^2) times a chi-square variable
with m degrees of freedom. Every stronger mode that has already been learned occupies one hidden
direction, which the competition term of the loss then closes to the others: m = N_h - (modes
learned before), so that the last modes of a network with few hidden units are late.

Conventions: inputs white, loss = 1/2 squared error, m >= 1. Corrections are O(u_eff / s).
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma
from jax.typing import ArrayLike
from jaxtyping import Array

from theory.checks import require


def effective_initial_strength(
    variance_first: ArrayLike,
    variance_second: ArrayLike,
    n_hidden: ArrayLike,
    learned_before: ArrayLike = 0,
) -> Array:
    """Geometric mean over Gaussian draws of the strength a mode effectively starts from.

        exp E ln u_eff = (sigma1^2 + sigma2^2)/2 * exp psi(m/2),   m = n_hidden - learned_before

    with psi the digamma function; (sigma1^2 + sigma2^2) N_h / 4 for wide networks. Learning times
    are linear in ln u_eff, which makes this the right average for them. Arguments broadcast.

    Raises:
        ValueError: negative variances, both zero, or no hidden direction left.

    Source: derived here, on the mode dynamics of Saxe, McClelland & Ganguli (2014), arXiv
    1312.6120; tested against gradient flow from sampled weights.

    >>> round(float(effective_initial_strength(1e-6, 1e-6, 200)) / 1e-4, 3)
    0.995
    """
    require("variance_first", variance_first, lambda v: v >= 0, "non-negative")
    require("variance_second", variance_second, lambda v: v >= 0, "non-negative")
    total = jnp.asarray(variance_first) + jnp.asarray(variance_second)
    require("variance_first + variance_second", total, lambda v: v > 0, "positive")
    free = _free_directions(n_hidden, learned_before, total.dtype)
    total, free = jnp.broadcast_arrays(total, free)
    return total / 2 * jnp.exp(digamma(free / 2))


def log_strength_variance(n_hidden: ArrayLike, learned_before: ArrayLike = 0) -> Array:
    """Variance over Gaussian draws of ln u_eff, ``psi'(m/2)`` with m = n_hidden - learned_before.

    psi' is the trigamma function; about 2/m. A half-learning time tau ln(s/u_eff)/(2 s) therefore
    has standard deviation ``tau sqrt(psi'(m/2)) / (2 s)`` from draw to draw.

    Raises:
        ValueError: no hidden direction left.

    >>> round(float(log_strength_variance(200)), 4)
    0.0101
    """
    return polygamma(1, _free_directions(n_hidden, learned_before, None) / 2)


def _free_directions(n_hidden: ArrayLike, learned_before: ArrayLike, dtype) -> Array:
    free = jnp.asarray(n_hidden) - jnp.asarray(learned_before)
    require("n_hidden - learned_before", free, lambda m: m >= 1, "at least 1")
    return jax.lax.convert_element_type(free, dtype or jnp.result_type(float))
