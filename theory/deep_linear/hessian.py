"""Curvature of the loss of deep linear networks: at the minimum, and along aligned trajectories.

Loss 1/2 |Sigma - W_L ... W_1|^2 (half, summed over entries; whitened inputs), Sigma square
(n x n) with singular values s. "Aligned" weights are diagonal in the task's singular bases.
Two layers: W_1 = R diag(a) V^T, W_2 = U diag(b) R^T, Sigma = U diag(s) V^T. A task of rank below
n lists its zero singular values. Gradient descent of step eta is stable while the largest
eigenvalue (the sharpness) is below 2/eta.
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
from theory.checks import Count, require, require_count, require_depth
from theory.deep_linear.modes import two_layer_mode_strength, two_layer_mode_weights


def minimum_hessian_eigenvalues(s: ArrayLike, depth: Count) -> Float[Array, "modes modes"]:
    """Hessian eigenvalues at the balanced aligned minimum of a deep linear network.

    lambda_ik = sum_{l=1}^{L} s_i^{2(l-1)/L} s_k^{2(L-l)/L}, one per pair (i, k) of an output and
    an input mode; all other eigenvalues are zero. The largest is L s_1^{2-2/L}, so the largest
    stable learning rate is 2/(L s_1^{2-2/L}).

    s: (modes,); depth L weight matrices, static. Square layers at least n wide, every layer
    carrying s_i^{1/L} of each mode. Gradients need s > 0.

    Raises ``ValueError`` unless s is a vector of non-negative numbers and depth an integer >= 1.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120 (the largest eigenvalue).

    >>> [[float(x) for x in row] for row in minimum_hessian_eigenvalues(jnp.array([3.0, 1.0]), 2)]
    [[6.0, 4.0], [4.0, 2.0]]
    """
    require_depth(depth)
    require("s", s, lambda s: (s >= 0) & (s.ndim == 1), "a vector of non-negative numbers")
    return _minimum_eigenvalues(s, depth=int(depth))


@partial(jax.jit, static_argnames="depth")
def _minimum_eigenvalues(s, depth):
    (s,) = as_floats(s)
    layer = 2 * np.arange(depth) / depth
    # (modes, layers): the mode's strength below layer l and, reversed, above it.
    powers = s[:, None] ** jnp.asarray(layer, s.dtype)[None, :]
    return powers @ powers[:, ::-1].T


def two_layer_hessian_spectrum(
    s: ArrayLike, a: ArrayLike, b: ArrayLike, extra_hidden: Count = 0
) -> Float[Array, "... parameters"]:
    """All Hessian eigenvalues of an aligned two-layer linear network, ascending.

    With e = s - a b, the Hessian splits into independent blocks:
    one per mode, [[b^2, ab - e], [ab - e, a^2]];
    one per pair i < k in the order (dW_2[i,k], dW_1[i,k], dW_2[k,i], dW_1[k,i]), made of
    outer((a_k, b_i)), outer((a_i, b_k)) and the couplings -e_i between the first and the last,
    -e_k between the second and the third; and +-e_i per mode and idle hidden unit.
    Balanced (a = b, u = a^2): mode eigenvalues 3u - s and s - u, pair eigenvalues
    [u_i + u_k + z (e_i + e_k) +- sqrt((u_k - u_i + z (e_i - e_k))^2 + 4 u_i u_k)] / 2, z = +-1.

    s, a (first layer), b (second layer): (..., modes), signs free; ``extra_hidden`` (static)
    hidden units beyond the modes have zero weights. Returns (..., 2 n (n + extra_hidden)), one
    per parameter; they add up to n (sum a^2 + sum b^2).

    Raises ``ValueError`` if the shapes differ, an entry is not finite, or extra_hidden is not an
    integer >= 0.

    >>> ones = jnp.ones(1)
    >>> [round(float(x), 6) for x in two_layer_hessian_spectrum(3 * ones, ones, ones)]
    [0.0, 2.0]
    """
    shapes = [np.shape(x) for x in (s, a, b)]
    if not shapes[0] or len(set(shapes)) > 1:
        raise ValueError(f"s, a, b must have one shape (..., modes), got {shapes}")
    require_finite(s=s, a=a, b=b)
    require_count(extra_hidden=extra_hidden, least=0)
    return _spectrum(s, a, b, extra_hidden=int(extra_hidden))


@partial(jax.jit, static_argnames="extra_hidden")
def _spectrum(s, a, b, extra_hidden):
    s, a, b = as_floats(s, a, b)
    e = s - a * b
    idle = jnp.repeat(jnp.concatenate([e, -e], axis=-1), extra_hidden, axis=-1)
    blocks = [_eigenvalues(_mode_blocks(a, b, e)), _eigenvalues(_pair_blocks(a, b, e)), idle]
    return jnp.sort(jnp.concatenate(blocks, axis=-1), axis=-1)


def _eigenvalues(blocks):
    """Eigenvalues of (..., blocks, size, size), flattened to (..., blocks * size)."""
    values = jnp.linalg.eigvalsh(blocks)
    return values.reshape(*values.shape[:-2], -1)


def _mode_blocks(a, b, e):
    coupling = a * b - e
    rows = [jnp.stack([b * b, coupling], axis=-1), jnp.stack([coupling, a * a], axis=-1)]
    return jnp.stack(rows, axis=-2)


def _pair_blocks(a, b, e):
    i, k = np.triu_indices(a.shape[-1], k=1)
    first = jnp.stack([a[..., k], b[..., i]], axis=-1)
    second = jnp.stack([a[..., i], b[..., k]], axis=-1)
    zero = jnp.zeros_like(e[..., i])
    # Curvature of the residual: dW_2[i,k] couples to dW_1[k,i] only, through e_i.
    cross = jnp.stack(
        [jnp.stack([zero, -e[..., i]], axis=-1), jnp.stack([-e[..., k], zero], axis=-1)], axis=-2
    )
    upper = jnp.concatenate([first[..., :, None] * first[..., None, :], cross], axis=-1)
    lower = jnp.concatenate(
        [jnp.swapaxes(cross, -1, -2), second[..., :, None] * second[..., None, :]], axis=-1
    )
    return jnp.concatenate([upper, lower], axis=-2)


def hessian_spectrum_trajectory(
    t: ArrayLike,
    s: ArrayLike,
    u0: ArrayLike,
    imbalance: ArrayLike = 0.0,
    tau: ArrayLike = 1.0,
    extra_hidden: Count = 0,
) -> Float[Array, "... parameters"]:
    """All Hessian eigenvalues at times t of an aligned two-layer network under gradient flow.

    ``two_layer_hessian_spectrum`` along the exact mode dynamics, ascending at each time. Balanced
    and small u0: from +-s_i at the saddle to s_i + s_k and zeros at the minimum.

    t: any shape, in units of tau; s, u0: (modes,), imbalance c = a^2 - b^2: scalar or (modes,);
    ``extra_hidden`` (static) idle hidden units. Returns t.shape + (2 n (n + extra_hidden),).

    Raises ``ValueError`` unless s and u0 are vectors of one length, t >= 0, s > 0, tau > 0,
    extra_hidden an integer >= 0 and everything is finite.

    >>> spectrum = hessian_spectrum_trajectory(50.0, jnp.array([2.0, 1.0]), jnp.array([1e-6, 1e-6]))
    >>> [abs(round(float(x), 3)) for x in spectrum]
    [0.0, 0.0, 0.0, 0.0, 2.0, 3.0, 3.0, 4.0]
    """
    _require_trajectory(t, s, u0, imbalance, tau)
    require_count(extra_hidden=extra_hidden, least=0)
    return _trajectory(t, s, u0, imbalance, tau, extra_hidden=int(extra_hidden))


def sharpness_trajectory(
    t: ArrayLike, s: ArrayLike, u0: ArrayLike, imbalance: ArrayLike = 0.0, tau: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """Largest Hessian eigenvalue at times t of an aligned two-layer network under gradient flow.

    The top of ``hessian_spectrum_trajectory``, with its arguments and errors. Balanced and
    small u0: from s_1 at the saddle up to 2 s_1 at the minimum (progressive sharpening); with
    a common imbalance c it ends at sqrt(c^2 + 4 s_1^2). Idle hidden units never set it: their
    eigenvalues +-(s_i - u_i) lie within those of mode i. Returns the shape of t.

    >>> s, u0 = jnp.array([2.0, 1.0]), jnp.array([1e-6, 1e-6])
    >>> [round(float(x), 3) for x in sharpness_trajectory(jnp.array([0.0, 50.0]), s, u0)]
    [2.0, 4.0]
    """
    _require_trajectory(t, s, u0, imbalance, tau)
    return _trajectory(t, s, u0, imbalance, tau, extra_hidden=0)[..., -1]


def _require_trajectory(t, s, u0, imbalance, tau):
    if np.ndim(s) != 1 or np.shape(s) != np.shape(u0):
        raise ValueError(
            f"s and u0 must be vectors of one length, got shapes {np.shape(s)} and {np.shape(u0)}"
        )
    require_nonnegative(t=t)
    require_positive(s=s, tau=tau)
    require_finite(u0=u0, imbalance=imbalance)


@partial(jax.jit, static_argnames="extra_hidden")
def _trajectory(t, s, u0, imbalance, tau, *, extra_hidden):
    t, s, u0, imbalance, tau = as_floats(jnp.asarray(t)[..., None], s, u0, imbalance, tau)
    u = two_layer_mode_strength(t, s, u0, imbalance, tau)
    a_squared, b_squared = two_layer_mode_weights(u, imbalance)
    a, b = _safe_sqrt(a_squared), jnp.sign(u) * _safe_sqrt(b_squared)
    return _spectrum(s, a, b, extra_hidden=extra_hidden)


def _safe_sqrt(x):
    """Square root whose derivative at 0 is 0 instead of infinite (a mode that stays at rest)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
