"""Linearised networks on average: over random initialisations, and over noise in the labels.

A linearised network's outputs are ``f_t = f_0 + A_t (y - f_0(X))`` (``theory.kernels.linearized``).
In the limit of infinite width f_0 is a Gaussian process of mean 0 and covariance K (the NNGP
kernel), independent of A_t. Hence over initialisations

    E f_t(x) = A_t(x) y,    Cov = [-A_t, I] K [-A_t, I]^T   on (X, x).

Training all layers, A_t belongs to the tangent kernel: never a Bayesian posterior, and at no time
of less variance than that of the NNGP, the least of all predictors linear in y. Training the last
layer alone (NTK parametrisation, its bias included), the tangent kernel is K itself: at
t = infinity mean and covariance are those of the NNGP's posterior without noise.

Over labels ``y + noise_std * N(0, 1)``, f_0 given, what one mode gains it also gains in noise: with
noise, risk has a minimum at a finite time.

Errors are squared errors without 1/2, summed over outputs, averaged over the p test inputs.
Sources: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572; Lee et al. (2019), arXiv 1902.06720.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.arguments import require_finite, require_nonnegative
from theory.kernels.kernel_modes import KernelModes, SpectralFilter, flow_filter
from theory.kernels.linearized import heldout_outputs, smoother

GRID = 257  # times at which risk is looked at before the best is refined
REFINEMENTS = 48  # golden sections: 1e-10 of the grid's spacing


class Covariances(NamedTuple):
    """Covariance of initial outputs: train (n, n), cross (p, n) of test with train, test (p, p)."""

    train: ArrayLike
    cross: ArrayLike
    test: ArrayLike


class Ensemble(NamedTuple):
    """Mean (..., p) or (..., p, c) and covariance (..., p, p), the same for all outputs."""

    mean: Float[Array, "..."]
    covariance: Float[Array, "... p p"]


class Risk(NamedTuple):
    """Expected squared error ``total = bias + noise``, each with the axes of time."""

    total: Float[Array, "..."]
    bias: Float[Array, "..."]
    noise: Float[Array, "..."]


class Stopping(NamedTuple):
    """Best time (0 and infinity included) and the risk there, at the start and at the end.

    ``interior`` is whether stopping in between is better than both.
    """

    time: Float[Array, ""]
    risk: Float[Array, ""]
    risk_at_start: Float[Array, ""]
    risk_at_end: Float[Array, ""]
    interior: Bool[Array, ""]


def initialization_ensemble(
    modes: KernelModes,
    learning: SpectralFilter,
    cross_kernel: ArrayLike,
    initial: Covariances,
    targets: ArrayLike,
) -> Ensemble:
    """Mean and covariance over random initialisations of wide networks, while or after training.

        mean = A_t y,    covariance = K(x, x) + A_t K(X, X) A_t^T - A_t K(X, x) - K(x, X) A_t^T

    All layers: ``modes`` and ``cross_kernel`` (p, n) of the limit's tangent kernel Theta; the last
    layer alone: those of K, ``initial.train`` and ``initial.cross``. Test inputs may be, or
    contain, training inputs. targets (n,) or (n, c). Symmetric; semidefinite to rounding of K.
    Raises ``ValueError`` for shapes that do not fit, NaN.

    >>> from theory.kernels.kernel_modes import kernel_modes
    >>> covariances = Covariances(jnp.eye(2), jnp.array([[0.6, 0.0]]), jnp.eye(1))
    >>> modes = kernel_modes(covariances.train, loss="mean")  # the last layer alone: a posterior
    >>> learning = flow_filter(modes, jnp.inf)
    >>> y = jnp.array([1.0, 0.0])
    >>> found = initialization_ensemble(modes, learning, covariances.cross, covariances, y)
    >>> [round(float(x.squeeze()), 6) for x in found]
    [0.6, 0.64]
    """
    dtype = jnp.result_type(modes.vectors, *initial)
    train, cross, test = (jnp.asarray(value, dtype) for value in initial)
    p, n = len(test), len(modes.vectors)
    if (train.shape, cross.shape, test.shape) != ((n, n), (p, n), (p, p)):
        raise ValueError(
            f"initial must have the shapes {(n, n)}, {(p, n)}, {(p, p)},"
            f" got {train.shape}, {cross.shape}, {test.shape}"
        )
    require_finite(train=train, cross=cross, test=test)
    A = smoother(modes, learning, cross_kernel)
    mixed = jnp.einsum("...xi,yi->...xy", A, cross)
    spread = jnp.einsum("...xi,ij,...yj->...xy", A, train, A)
    covariance = spread - mixed - mixed.swapaxes(-1, -2)
    covariance += jnp.expand_dims(test, range(covariance.ndim - 2))
    mean = heldout_outputs(modes, learning, cross_kernel, 0.0, 0.0, targets)
    return Ensemble(mean, (covariance + covariance.swapaxes(-1, -2)) / 2)


def expected_risk(
    modes: KernelModes,
    learning: SpectralFilter,
    cross_kernel: ArrayLike,
    signal: ArrayLike,
    signal_test: ArrayLike,
    noise_std: ArrayLike,
) -> Risk:
    """Squared error at test inputs against the noiseless signal, averaged over label noise.

        mean_x |A_t(x) s(X) - s(x)|^2 + noise_std^2 mean_x |A_t(x)|^2

    signal s(X), (n,) or (n, c), and signal_test s(x), (p,) or (p, c), are those of the clean labels
    less the initial outputs; noise is independent for every label. Against noisy test labels
    add noise_std^2 per output. Raises ``ValueError`` for a negative noise_std, and as
    ``heldout_outputs``.

    >>> from theory.kernels.kernel_modes import kernel_modes
    >>> modes = kernel_modes(jnp.eye(1), loss="sum", ridge=1.0)
    >>> ended, one = flow_filter(modes, jnp.inf), jnp.ones(1)
    >>> [float(part) for part in expected_risk(modes, ended, jnp.eye(1), one, one, noise_std=2.0)]
    [1.25, 0.25, 1.0]
    """
    require_nonnegative(noise_std=noise_std)
    require_finite(signal_test=signal_test)
    missed = jnp.asarray(signal_test, modes.vectors.dtype)
    missed = heldout_outputs(modes, learning, cross_kernel, -missed, 0.0, signal)
    axes = learning.gain.ndim - 1
    inputs = missed.shape[axes]
    bias = jnp.sum(missed**2, axis=tuple(range(axes, missed.ndim))) / inputs
    seen = jnp.asarray(cross_kernel, missed.dtype).reshape(-1, len(modes.vectors)) @ modes.vectors
    power = jnp.einsum("xm,xm->m", seen, seen)
    # A row of the smoother is shared by all outputs, or there is one for each (kernels with them).
    outputs = jnp.size(signal) // len(modes.vectors)
    noise = outputs * jnp.asarray(noise_std, missed.dtype) ** 2
    noise = noise * jnp.einsum("...m,m->...", learning.gain**2, power) / inputs
    return Risk(bias + noise, bias, noise)


def stopping_time(
    modes: KernelModes,
    cross_kernel: ArrayLike,
    signal: ArrayLike,
    signal_test: ArrayLike,
    noise_std: ArrayLike,
) -> Stopping:
    """Time of gradient flow at which ``expected_risk`` is least.

    Looked for at 0, infinity and on a logarithmic grid from 1e-9/r_1 to 1e3 over the slowest rate,
    then refined by golden sections: risk, a sum of exponentials, may have several minima, but none
    narrower than about a factor e of time. Compiled. A single mode of a clean signal with
    coefficient s stops at ``ln(1 + s^2/noise_std^2)/r``. Raises ``ValueError`` as
    ``expected_risk``.

    >>> from theory.kernels.kernel_modes import kernel_modes
    >>> modes, one = kernel_modes(2 * jnp.eye(1), loss="sum"), jnp.ones(1)
    >>> found = stopping_time(modes, 2 * jnp.eye(1), one, one, noise_std=1.0)
    >>> round(2 * float(found.time), 6), bool(found.interior)  # ln 2
    (0.693147, True)
    """
    start = flow_filter(modes, 0.0)
    expected_risk(modes, start, cross_kernel, signal, signal_test, noise_std)  # complains by name
    return _stopping_time(modes, cross_kernel, signal, signal_test, noise_std)


@jax.jit
def _stopping_time(modes, cross_kernel, signal, signal_test, noise_std) -> Stopping:
    def risk(t):
        learning = flow_filter(modes, t)
        return expected_risk(modes, learning, cross_kernel, signal, signal_test, noise_std).total

    slowest = jnp.min(jnp.where(modes.rates > 0, modes.rates, jnp.inf))
    some = jnp.isfinite(slowest)
    low = jnp.log(jnp.where(some, 1e-9 / jnp.where(some, modes.rates[0], 1.0), 1.0))
    high = jnp.log(jnp.where(some, 1e3 / slowest, 1.0))
    grid = jnp.linspace(low, high, GRID)
    step = grid[1] - grid[0]
    best = grid[jnp.argmin(jax.lax.map(lambda log_t: risk(jnp.exp(log_t)), grid))]
    time = jnp.exp(_golden_section(lambda log_t: risk(jnp.exp(log_t)), best - step, best + step))
    times = jnp.stack([jnp.zeros_like(time), jnp.full_like(time, jnp.inf), time])
    risks = jax.lax.map(risk, times)
    rounding = 1e3 * jnp.finfo(risks.dtype).eps
    interior = risks[2] < (1 - rounding) * jnp.min(risks[:2])
    chosen = jnp.where(interior, 2, jnp.argmin(risks[:2]))
    return Stopping(times[chosen], risks[chosen], risks[0], risks[1], interior)


def _golden_section(f, low, high):
    """Where f, with one minimum between low and high, has it: to the root of rounding in f."""
    golden = (5**0.5 - 1) / 2

    def shrink(_, bracket):
        low, high = bracket
        left, right = high - golden * (high - low), low + golden * (high - low)
        falling = f(right) < f(left)
        return jnp.where(falling, left, low), jnp.where(falling, high, right)

    low, high = jax.lax.fori_loop(0, REFINEMENTS, shrink, (low, high))
    return (low + high) / 2
