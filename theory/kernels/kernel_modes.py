"""Kernel principal components, and how much of each gradient flow or descent has learned.

With a tangent kernel Theta that stays as it is, and the half squared error summed over outputs,

    loss="sum":   L = sum_i 1/2 |f_i - y_i|^2,         rates r_j = lambda_j      (+ ridge)
    loss="mean":  L = (1/n) sum_i 1/2 |f_i - y_i|^2,   rates r_j = lambda_j / n  (+ ridge)

every kernel principal component v_j, Theta v_j = lambda_j v_j, of the residual learns by itself:

    g_j = (1 - e^(-r_j t)) s_j         in flow time t
    g_j = (1 - (1 - eta r_j)^k) s_j    after k steps of size eta

A ridge adds (ridge/2) |theta - theta_0|^2 to the loss: the end is ridge regression of the residual
with Theta + n ridge I (mean) or Theta + ridge I (sum), s_j = 1 - ridge/r_j; without, s_j = 1.
Eigenvalues below rounding, m eps lambda_1, are zero modes, never learned: in exact arithmetic no
other input sees them either. Nothing is regularised unasked.

The spectrum is computed once (``kernel_modes``), a ``SpectralFilter`` holds g at all times; what
comes of it is in ``linearized`` and ``linearized_ensembles``. Functions compile, vectorise, and
differentiate in everything; in the kernel only where its eigenvalues are distinct.

Sources: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572; Lee et al. (2019), arXiv 1902.06720.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from theory.arguments import as_floats, require_finite, require_nonnegative, require_positive
from theory.checks import is_concrete, require


class KernelModes(NamedTuple):
    """Principal components of a tangent kernel of m = n (or n c) rows, largest eigenvalue first.

    ``vectors`` (m, m) in columns; ``eigenvalues`` and ``rates`` are exactly 0 for zero modes.
    ``samples`` divides the loss (n or 1); ``rank`` counts the modes that learn; ``conditioning`` is
    the largest over the smallest eigenvalue of these; ``semidefinite`` is False if an eigenvalue is
    negative beyond rounding (a kernel in too low a precision, or not a kernel).
    """

    eigenvalues: Float[Array, " m"]
    vectors: Float[Array, "m m"]
    rates: Float[Array, " m"]
    samples: Float[Array, ""]
    rank: Int[Array, ""]
    conditioning: Float[Array, ""]
    semidefinite: Bool[Array, ""]


class SpectralFilter(NamedTuple):
    """What has been learned of every mode at every time.

    ``learned`` (..., m): the part g_j of the residual; ``gain`` g_j / lambda_j, 0 for zero modes;
    ``converges``: whether going on leads to a limit (flow always does, descent if eta r_1 < 2).
    Where it does not, finite numbers of steps still have exactly descent's outputs, until those
    leave the range of floats; infinitely many give NaN.
    """

    learned: Float[Array, "... m"]
    gain: Float[Array, "... m"]
    converges: Bool[Array, "..."]


def kernel_modes(kernel: ArrayLike, *, loss: str, ridge: ArrayLike = 0.0) -> KernelModes:
    """Kernel principal components and the rates at which gradient flow learns them.

    kernel: (n, n) or (n, c, n, c); loss: "mean" or "sum" (over the n samples: the module).
    Raises ``ValueError`` for another shape or loss, NaN, asymmetry beyond the root of rounding, a
    negative ridge.

    >>> modes = kernel_modes(jnp.diag(jnp.array([1.0, 4.0])), loss="mean")
    >>> modes.rates.tolist(), int(modes.rank)
    ([2.0, 0.5], 2)
    """
    flat, n = _flattened(kernel)
    if loss not in ("mean", "sum"):
        raise ValueError(f"loss must be 'mean' or 'sum', got {loss!r}")
    require_nonnegative(ridge=ridge)
    values, vectors = jnp.linalg.eigh((flat + flat.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    cutoff = len(flat) * jnp.finfo(flat.dtype).eps * jnp.max(jnp.abs(values))
    kept = values > cutoff
    samples = jnp.asarray(n if loss == "mean" else 1, flat.dtype)
    rates = jnp.where(kept, values / samples + jnp.asarray(ridge, flat.dtype), 0.0)
    smallest = jnp.min(jnp.where(kept, values, jnp.inf))
    return KernelModes(
        eigenvalues=jnp.where(kept, values, 0.0),
        vectors=vectors,
        rates=rates,
        samples=samples,
        rank=jnp.sum(kept),
        conditioning=jnp.where(kept[0], values[0] / smallest, 1.0),
        semidefinite=values[-1] >= -cutoff,
    )


def max_learning_rate(modes: KernelModes) -> Float[Array, ""]:
    """Learning rate below which gradient descent converges, ``2 / r_1``; infinite for Theta = 0.

    >>> float(max_learning_rate(kernel_modes(4 * jnp.eye(2), loss="mean")))
    1.0
    """
    return 2 / modes.rates[0]


def flow_filter(modes: KernelModes, t: ArrayLike) -> SpectralFilter:
    """What gradient flow ``d theta/dt = -grad L`` has learned at times t (...), infinity included.

    Raises ``ValueError`` for a negative time or NaN.

    >>> modes = kernel_modes(jnp.diag(jnp.array([1.0, 0.0])), loss="sum")
    >>> flow_filter(modes, jnp.array([0.0, jnp.inf])).learned.tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    require("t", t, lambda x: x >= 0, "non-negative")
    t = jnp.asarray(t, modes.rates.dtype)[..., None]
    ended = jnp.isinf(t)
    share = -jnp.expm1(-_along(modes.rates, t) * jnp.where(ended, 1.0, t))
    return _filter(modes, jnp.where(ended, 1.0, share), jnp.ones(t.shape[:-1], bool))


def descent_filter(
    modes: KernelModes, learning_rate: ArrayLike, steps: ArrayLike
) -> SpectralFilter:
    """What ``steps`` (...) steps of gradient descent of a learning rate (...) have learned.

    steps and learning_rate broadcast; steps are whole numbers or infinity. Accurate to rounding for
    small learning rates, where the filter is that of flow at ``t = learning_rate * steps`` up to
    O(learning_rate). Raises ``ValueError`` for steps that are not, a learning rate that is
    not positive and finite.

    >>> modes = kernel_modes(jnp.eye(1), loss="sum")
    >>> descent_filter(modes, 0.5, jnp.array([1, 2])).learned[:, 0].tolist()
    [0.5, 0.75]
    >>> bool(descent_filter(modes, 2.5, 10).converges)
    False
    """
    require("steps", steps, lambda k: (k >= 0) & (k == np.floor(k)), "whole numbers >= 0")
    require_positive(learning_rate=learning_rate)
    dtype = modes.rates.dtype
    eta, k = jnp.broadcast_arrays(jnp.asarray(learning_rate, dtype), jnp.asarray(steps, dtype))
    eta, k = eta[..., None], k[..., None]
    a = eta * _along(modes.rates, eta)
    at_once = a == 1  # a single step learns it all
    below, above = jnp.where(a < 1, a, 0.5), jnp.where(a > 1, a, 1.5)
    ended = jnp.isinf(k)
    count = jnp.where(ended, 1.0, k)
    oscillating = 1 - (1 - 2 * jnp.mod(count, 2)) * jnp.exp(count * jnp.log(above - 1))
    share = jnp.where(a < 1, -jnp.expm1(count * jnp.log1p(-below)), oscillating)
    share = jnp.where(at_once, jnp.minimum(count, 1.0), share)
    share = jnp.where(ended, jnp.where(a < 2, 1.0, jnp.nan), share)
    return _filter(modes, share, jnp.max(a, axis=-1) < 2)


def _filter(modes: KernelModes, share: Array, converges: Array) -> SpectralFilter:
    """From 1 - e^(-r t), or what takes its place: divided by n r, which may be tiny, not by 0."""
    kept = _along(modes.rates > 0, share)
    rates = jnp.where(kept, _along(modes.rates, share), 1.0)
    gain = jnp.where(kept, share / (modes.samples * rates), 0.0)
    return SpectralFilter(gain * _along(modes.eigenvalues, gain), gain, converges)


def _along(values: Array, like: Array) -> Array:
    """Values of modes (m,), with the axes of time in front."""
    return jnp.expand_dims(values, range(like.ndim - 1))


def _flattened(kernel: ArrayLike) -> tuple[Array, int]:
    """The kernel as a matrix, checked, and the number of samples."""
    (kernel,) = as_floats(kernel)
    half = kernel.shape[: kernel.ndim // 2]
    if kernel.ndim not in (2, 4) or kernel.shape != 2 * half or kernel.size == 0:
        raise ValueError(f"kernel must be (n, n) or (n, c, n, c), got {kernel.shape}")
    require_finite(kernel=kernel)
    flat = kernel.reshape(math.prod(half), math.prod(half))
    if is_concrete(flat):
        asymmetry, scale = jnp.max(jnp.abs(flat - flat.T)), jnp.max(jnp.abs(flat))
        if asymmetry > float(jnp.finfo(flat.dtype).eps) ** 0.5 * scale:
            raise ValueError(f"kernel must be symmetric, got differences of {asymmetry}")
    return flat, half[0]
