"""Networks linearised at initialisation: outputs while and after they are trained.

With the frozen tangent kernel Theta, its principal components v_j and eigenvalues lambda_j, and g_j
the part of each that gradient flow or descent has learned (``theory.kernels.kernel_modes``, where
the loss is defined),

    f_t(x) = f_0(x) + sum_j Theta(x, X) v_j  (g_j/lambda_j)  v_j^T (y - f_0(X))

on all inputs x, training inputs X included. Exact for models linear in their parameters, and for
networks of infinite width in NTK parametrisation.

Kernels are (n, n) where outputs do not interact (infinite width), targets then (n,) or (n, c); or
(n, c, n, c) with targets (n, c), as ``dynamics.gram.gradient_gram`` measures. Functions compile,
vectorise and differentiate.

Sources: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572; Lee et al. (2019), arXiv 1902.06720.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite
from theory.kernels.kernel_modes import KernelModes, SpectralFilter


def train_outputs(
    modes: KernelModes, learning: SpectralFilter, initial: ArrayLike, targets: ArrayLike
) -> Float[Array, "..."]:
    """Outputs on the training set, ``f_0 + sum_j g_j v_j v_j^T (y - f_0)``.

    initial and targets (n,) or (n, c) broadcast; the result has the filter's axes in front of
    theirs. Raises ``ValueError`` for shapes that do not fit the kernel, NaN.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(jnp.eye(2), loss="sum")
    >>> train_outputs(modes, flow_filter(modes, jnp.inf), 0.0, jnp.array([1.0, -1.0])).tolist()
    [1.0, -1.0]
    """
    initial, targets = _outputs(modes, initial, targets)
    residual = _coefficients(modes, targets - initial)
    moved = jnp.einsum("im,...m,mc->...ic", modes.vectors, learning.learned, residual)
    moved = moved.reshape(*moved.shape[:-2], *targets.shape)
    return _before(initial, moved) + moved


def heldout_outputs(
    modes: KernelModes,
    learning: SpectralFilter,
    cross_kernel: ArrayLike,
    initial_test: ArrayLike,
    initial: ArrayLike,
    targets: ArrayLike,
) -> Float[Array, "..."]:
    """Outputs at other inputs x, ``f_0(x) + Theta(x, X) sum_j (g_j/lambda_j) v_j v_j^T (y - f_0)``.

    cross_kernel Theta(x, X): (p, n) or (p, c, n, c); initial_test (p,) or (p, c), or a number. The
    result has the filter's axes in front of (p,) or (p, c). Raises ``ValueError`` as
    ``train_outputs``.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(2 * jnp.eye(2), loss="mean")
    >>> learning = flow_filter(modes, jnp.inf)
    >>> heldout_outputs(modes, learning, jnp.ones((1, 2)), 0.0, 0.0, jnp.array([1.0, 3.0])).tolist()
    [2.0]
    """
    initial, targets = _outputs(modes, initial, targets)
    cross = _cross(modes, cross_kernel)
    residual = _coefficients(modes, targets - initial)
    seen = cross @ modes.vectors
    moved = jnp.einsum("xm,...m,mc->...xc", seen, learning.gain, residual)
    shape = (np.shape(cross_kernel)[0], *targets.shape[1:])
    initial_test = jnp.broadcast_to(jnp.asarray(initial_test, moved.dtype), shape)
    moved = moved.reshape(*moved.shape[:-2], *shape)
    return _before(initial_test, moved) + moved


def smoother(
    modes: KernelModes, learning: SpectralFilter, cross_kernel: ArrayLike
) -> Float[Array, "... p m"]:
    """The matrix ``A_t = Theta(x, X) sum_j (g_j/lambda_j) v_j v_j^T`` of f_t = f_0 + A_t (y - f_0).

    (..., p, n), or (..., p c, n c) for kernels with outputs. Raises ``ValueError`` for shapes that
    do not fit.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(jnp.eye(2), loss="sum", ridge=1.0)
    >>> smoother(modes, flow_filter(modes, jnp.inf), jnp.eye(2)).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    seen = _cross(modes, cross_kernel) @ modes.vectors
    return jnp.einsum("xm,...m,im->...xi", seen, learning.gain, modes.vectors)


def weight_distance(
    modes: KernelModes, learning: SpectralFilter, initial: ArrayLike, targets: ArrayLike
) -> Float[Array, "..."]:
    """How far the weights have moved: ``|theta_t - theta_0|``.

        |theta_t - theta_0|^2 = sum_j (g_j^2/lambda_j) (v_j^T (y - f_0))^2,

    after all of training ``(y - f_0)^T Theta^+ (y - f_0)``, the least with which y can be reached.
    Summed over outputs, which do not share weights where their kernel is (n, n). The result has the
    filter's axes. Raises ``ValueError`` as ``train_outputs``.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(4 * jnp.eye(2), loss="mean")
    >>> float(weight_distance(modes, flow_filter(modes, jnp.inf), 0.0, jnp.array([6.0, 8.0])))
    5.0
    """
    initial, targets = _outputs(modes, initial, targets)
    power = jnp.sum(_coefficients(modes, targets - initial) ** 2, axis=1)
    return jnp.sqrt(jnp.einsum("...m,...m,m->...", learning.learned, learning.gain, power))


def _before(start: Array, moved: Array) -> Array:
    """The outputs at the start, with the axes of time in front."""
    return jnp.expand_dims(start, range(moved.ndim - start.ndim))


def _outputs(modes: KernelModes, initial: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    require_finite(initial=initial, targets=targets)
    initial, targets = as_floats(initial, jnp.asarray(targets, modes.vectors.dtype))
    rows = len(modes.vectors)
    if targets.ndim not in (1, 2) or rows not in (targets.shape[0], targets.size):
        raise ValueError(f"targets must fit a kernel of {rows} rows, got shape {targets.shape}")
    return initial, targets


def _coefficients(modes: KernelModes, residual: Array) -> Array:
    """v_j^T residual, (m, c) where outputs do not interact and (m, 1) where the kernel has them."""
    return modes.vectors.T @ residual.reshape(len(modes.vectors), -1)


def _cross(modes: KernelModes, cross_kernel: ArrayLike) -> Array:
    cross = jnp.asarray(cross_kernel, modes.vectors.dtype)
    require_finite(cross_kernel=cross)
    shape, rows = cross.shape, len(modes.vectors)
    if cross.ndim not in (2, 4) or math.prod(shape[cross.ndim // 2 :]) != rows:
        raise ValueError(
            f"cross_kernel must be (p, n) or (p, c, n, c) for {rows} rows, got {shape}"
        )
    return cross.reshape(math.prod(shape[: cross.ndim // 2]), rows)
