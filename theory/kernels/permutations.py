"""Learning to permute bits exactly, by an ensemble of wide networks shown one bit at a time.

Two-layer ReLU networks ``f(x) = (w/n)^(1/2) V relu((w/k)^(1/2) W x)``, entries of V and W standard
normal, k inputs and k outputs, n -> infinity, trained by gradient flow to the end on the k pairs
e_i -> P e_i. A test input has m ones among k bits and is divided by its length, sqrt(m). At it a
network's outputs are independent Gaussians of equal variance; their mean is mu_on for the bits that
P x sets and mu_off for the others. With u = 1/sqrt(m), K the covariance of initial outputs and
Theta the tangent kernel,

    d = u (pi/2 + arcsin u) - u^2/(1 + sqrt(1 - u^2))      2 pi k K(e_i, x)/w^2 = 1 + d or 1
    e = d + u (pi/2 + arcsin u)                            2 pi k Theta(e_i, x)/w^2 = 1 + e or 1
    mu_off = (g - m e)/(g (g + k)),    mu_on = mu_off + e/g,    g = 2 pi - 1
    sigma^2 = w^2/(2 pi k) {(pi - 1) [1 - m q^2 + m (mu_on - q)^2 + (k - m) mu_off^2]
                            + g^2 mu_off^2},    q = d/(pi - 1)

in which every term is non-negative. mu_off < 0 < mu_on for m >= 2; m = 1 is a training input. The
mean of N networks, rounded at 0, is P x if all k signs are right. The means do not depend on w: the
spread of initial outputs is noise here, and smaller weights need fewer networks.

Setting: arXiv 2502.16763 (w = 1). Equations derived here.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, log_ndtr, logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_positive
from theory.checks import Count, require, require_count


class PermutationLimit(NamedTuple):
    """Mean of the bits to be set (on) and of the others (off), and the variance of each."""

    on: Float[Array, "..."]
    off: Float[Array, "..."]
    variance: Float[Array, "..."]


def permutation_limit(
    n_bits: ArrayLike, n_ones: ArrayLike, *, weight_variance: ArrayLike = 1.0
) -> PermutationLimit:
    """Mean and variance, over wide trained networks, of an output at an input of m ones.

    n_bits k, n_ones m and weight_variance w broadcast. Raises ``ValueError`` unless
    1 <= n_ones <= n_bits are integers and the weight variance is positive.

    >>> limit = permutation_limit(5, 2)
    >>> [round(float(value), 4) for value in limit]
    [0.5606, -0.0146, 0.0132]
    """
    require_count(n_bits=n_bits, n_ones=n_ones)
    require("n_bits - n_ones", jnp.subtract(n_bits, n_ones), lambda x: x >= 0, "non-negative")
    require_positive(weight_variance=weight_variance)
    k, m, w = as_floats(n_bits, n_ones, weight_variance)
    trained = m == 1  # interpolated: exactly, not to rounding
    u = jnp.where(trained, 0.5, 1 / jnp.sqrt(m))
    angle, g = jnp.pi / 2 + jnp.arcsin(u), 2 * jnp.pi - 1
    d = u * angle - u**2 / (1 + jnp.sqrt(1 - u**2))
    e, q = d + u * angle, d / (jnp.pi - 1)
    off = (g - m * e) / (g * (g + k))
    on = off + e / g
    spread = 1 - m * q**2 + m * (on - q) ** 2 + (k - m) * off**2
    variance = w**2 / (2 * jnp.pi * k) * ((jnp.pi - 1) * spread + g**2 * off**2)
    known = (jnp.ones_like(on), jnp.zeros_like(off), jnp.zeros_like(variance))
    values = zip(known, (on, off, variance), strict=True)
    return PermutationLimit(*(jnp.where(trained, exact, value) for exact, value in values))


def noise_to_signal(
    n_bits: ArrayLike, n_ones: ArrayLike, *, weight_variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """``sigma^2 / min(mu_on, -mu_off)^2``: networks until a bit's mean stands out by one sigma.

    0 for training inputs. Inputs with two ones are the hardest (seen, not proven), with a ratio of
    ``2.80363 w^2 (g + k)^2/k (1 + O(1/k))``: linear in k, but only beyond several times g = 5.3.
    All arguments broadcast; raises ``ValueError`` as ``permutation_limit``.

    >>> [round(float(noise_to_signal(k, 2)) / k, 1) for k in (10, 1000, 100000)]
    [6.7, 2.8, 2.8]
    """
    limit = permutation_limit(n_bits, n_ones, weight_variance=weight_variance)
    signal = jnp.where(limit.variance > 0, jnp.minimum(limit.on, -limit.off), 1.0)
    return limit.variance / signal**2


_noise_to_signal = jax.jit(noise_to_signal)  # one program per k, not one per operation


def success_probability(
    n_bits: ArrayLike, n_ones: ArrayLike, n_models: ArrayLike, *, weight_variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Probability that the rounded mean of N networks is P x for one input x of m ones.

        Phi(N^(1/2) mu_on/sigma)^m Phi(-N^(1/2) mu_off/sigma)^(k - m)

    Arguments broadcast. Raises ``ValueError`` unless n_models is an integer >= 1, and as
    ``permutation_limit``.

    >>> round(float(success_probability(5, 2, n_models=100)), 3)
    0.725
    """
    require_count(n_models=n_models)
    return jnp.exp(_log_success(n_bits, n_ones, n_models, weight_variance))


def sufficient_ensemble_size(
    n_bits: Count, failure: float, *, inputs: str, weight_variance: float = 1.0
) -> int:
    """Number of networks enough by the tail bound ``Phi(-x) <= e^(-x^2/2)/2`` for every bit.

        N = 2 max_m (sigma^2/mu^2) ln(k/(2 failure)),   k 2^k in place of k for all inputs

    O(k ln k) for ``inputs="one"`` (any single input is permuted with probability 1 - failure) and
    O(k^2) for ``inputs="all"`` (all 2^k at once). Raises ``ValueError`` for n_bits not an integer
    >= 1, failure not between 0 and 1, another word for inputs, a weight variance not positive.

    >>> sufficient_ensemble_size(20, 0.01, inputs="one"), ensemble_size(20, 0.01, inputs="one")
    (1257, 966)
    """
    _require_task(n_bits, failure, inputs)
    require_positive(weight_variance=weight_variance)
    ratio = jnp.max(_noise_to_signal(n_bits, _ones(n_bits), weight_variance=weight_variance))
    # In logarithms: 2^k is beyond floats for k > 1023.
    events = math.log(n_bits) + (n_bits * math.log(2) if inputs == "all" else 0)
    return max(1, math.ceil(2 * float(ratio) * (events - math.log(2 * failure))))


def ensemble_size(
    n_bits: Count, failure: float, *, inputs: str, weight_variance: float = 1.0
) -> int:
    """Smallest number of networks that fail with at most the given probability.

    ``inputs="one"``: at whichever single input, exactly. ``inputs="all"``: at any of the 2^k, with
    probabilities of different inputs, which are not independent, added: enough, and least for
    this sum. Otherwise as ``sufficient_ensemble_size``, which is its upper bound. Found by
    bisection.

    >>> [ensemble_size(5, 0.01, inputs="all", weight_variance=w) for w in (1.0, 0.1)]
    [716, 8]
    """
    high = sufficient_ensemble_size(n_bits, failure, inputs=inputs, weight_variance=weight_variance)
    ones, low = _ones(n_bits), 0

    def enough(n_models: int) -> bool:
        log_failure = _log_failure(n_bits, ones, n_models, weight_variance, inputs=inputs)
        return bool(log_failure <= math.log(failure))

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@partial(jax.jit, static_argnames="inputs")
def _log_failure(n_bits, n_ones, n_models, weight_variance, *, inputs) -> Array:
    """Of the worst number of ones, or summed over all inputs."""
    log_success = _log_success(n_bits, n_ones, n_models, weight_variance)
    log_failure = jnp.log(-jnp.expm1(log_success))
    if inputs == "one":
        return jnp.max(log_failure)
    k, m = as_floats(n_bits, n_ones)
    return logsumexp(gammaln(k + 1) - gammaln(m + 1) - gammaln(k - m + 1) + log_failure)


def _log_success(n_bits, n_ones, n_models, weight_variance) -> Array:
    limit = permutation_limit(n_bits, n_ones, weight_variance=weight_variance)
    k, m, n = as_floats(n_bits, n_ones, n_models)
    random = limit.variance > 0
    scale = jnp.sqrt(n / jnp.where(random, limit.variance, 1.0))
    right = m * log_ndtr(scale * limit.on) + (k - m) * log_ndtr(-scale * limit.off)
    return jnp.where(random, right, 0.0)


def _ones(n_bits: Count) -> Array:
    """Numbers of ones of inputs that are not trained on, (1,) where there is none."""
    return jnp.arange(2, n_bits + 1) if n_bits > 1 else jnp.ones(1, int)


def _require_task(n_bits: Count, failure: float, inputs: str) -> None:
    require_count(n_bits=n_bits)
    require("failure", failure, lambda p: (p > 0) & (p < 1), "between 0 and 1")
    if inputs not in ("one", "all"):
        raise ValueError(f"inputs must be 'one' or 'all', got {inputs!r}")
