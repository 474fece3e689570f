"""How far training moves a wide but finite network: its weights, and a ReLU network's kernel.

One output, NTK parametrisation (``dynamics.models.mlp``), loss summed over examples: df/dt = -Theta
(f - y). Initial outputs of a wide network are f_0 ~ N(0, K). The weights' movement is of order one,
that of the linearised network (``theory.kernels.linearized``); relative to weights of squared norm
proportional to n it is of order n^-1/2.

With one hidden layer of n units and a smooth activation the tangent kernel moves by O(1/n), on
average and at random. ReLU is different. Movements of pre-activations, of order n^-1/2, carry about
sqrt(n) units over their kink. A unit that goes silent on an example is no longer moved by it and
does not come back, one that is silent is not moved to begin with: there is an excess of losses, and

    Theta_T - Theta_0 = O(n^-1/2) on average + O(n^-3/4) at random + O(n^-1).

Closed forms of the first two are here for inputs orthogonal to each other and no biases, where an
example moves no other example's pre-activations. With w the weight variance, q = w |x|^2/n_in that
of pre-activations, r = y - f and the impulse ``C_i(t) = int_0^t r_i``, a unit of readout weight v
and initial pre-activation h on example i is silenced if ``0 < h < -sqrt(w/n) q v C_i(t)`` at some
t. Densities of h at 0, moments of v and Theta's part ``(w q/n) sum v^2 1(h > 0)`` give, with
``R_i = max(C_i, 0) - min(C_i, 0)`` over training,

    E (Theta_T - Theta_0)_ii   = -(w q)^(3/2) R_i / (pi sqrt(n))
    Var (Theta_T - Theta_0)_ii = (4/pi) (w q)^(5/2) R_i / n^(3/2).

Corrections are smaller by sqrt(n). Other entries of the kernel move by O(1/n). Derived here; the
bound n^-1/2 on the kernel's movement is Lee et al.'s (2019), arXiv 1902.06720.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import erf
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_nonnegative, require_positive
from theory.kernels.kernel_modes import KernelModes, SpectralFilter


class Impulse(NamedTuple):
    """Mean ``size`` E|C_i| and mean ``square`` E C_i^2 over initialisations, each (..., n)."""

    size: Float[Array, "... n"]
    square: Float[Array, "... n"]


class Drift(NamedTuple):
    """``mean`` and ``variance`` of a change of the tangent kernel's diagonal."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]


def weight_movement(
    modes: KernelModes, learning: SpectralFilter, covariance: ArrayLike, targets: ArrayLike
) -> Float[Array, "..."]:
    """Mean squared ``theory.kernels.linearized.weight_distance`` over initialisations.

        E |theta_t - theta_0|^2 = sum_j (g_j^2/lambda_j) [(v_j . y)^2 + v_j^T K v_j]

    ``modes`` and ``learning`` of the infinitely wide network's tangent kernel, covariance K (n, n)
    of the initial outputs, targets (n,); the result has the filter's axes of time. Networks of
    finite width deviate by a relative O(n_examples/width). Raises ``ValueError`` for shapes that
    do not fit, NaN.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(4 * jnp.eye(1), loss="sum")
    >>> float(weight_movement(modes, flow_filter(modes, jnp.inf), jnp.eye(1), jnp.ones(1)))
    0.5
    """
    mean, spread = _residuals(modes, covariance, targets)
    power = mean**2 + jnp.diagonal(spread)
    return jnp.einsum("...m,...m,m->...", learning.learned, learning.gain, power)


def impulse_moments(
    modes: KernelModes, learning: SpectralFilter, covariance: ArrayLike, targets: ArrayLike
) -> Impulse:
    """Moments of the impulse ``C_i = int_0^t (y - f)_i`` over initialisations.

    C is Gaussian of mean ``G y`` and covariance ``G K G``, ``G = sum_j (g_j/lambda_j) v_j v_j^T``;
    after gradient descent the integral is eta times the sum over steps. Where no residual changes
    its sign on the way, ``|C_i|`` is the range R_i of the module. Arguments and errors as
    ``weight_movement``.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(jnp.eye(1), loss="sum")
    >>> found = impulse_moments(modes, flow_filter(modes, jnp.inf), jnp.eye(1), jnp.zeros(1))
    >>> [round(float(x[0]), 6) for x in found]  # sqrt(2/pi) and 1
    [0.797885, 1.0]
    """
    mean, spread = _residuals(modes, covariance, targets)
    mean = jnp.einsum("im,...m,m->...i", modes.vectors, learning.gain, mean)
    push = jnp.einsum("im,...m->...im", modes.vectors, learning.gain)
    variance = jnp.einsum("...im,mk,...ik->...i", push, spread, push)
    std = jnp.sqrt(jnp.maximum(variance, 0.0))
    steep = jnp.abs(mean) / jnp.where(std > 0, std, 1.0) / math.sqrt(2.0)
    folded = std * math.sqrt(2 / math.pi) * jnp.exp(-(steep**2)) + jnp.abs(mean) * erf(steep)
    return Impulse(jnp.where(std > 0, folded, jnp.abs(mean)), mean**2 + variance)


def relu_kernel_drift(
    impulse: ArrayLike,
    width: ArrayLike,
    *,
    weight_variance: ArrayLike,
    preactivation_variance: ArrayLike,
) -> Drift:
    """Change of ``Theta_ii`` of a ReLU network with one hidden layer, to leading order in width.

    ``impulse`` R_i >= 0; all arguments broadcast. Orthogonal inputs, no biases: the module. Raises
    ``ValueError`` for a negative or infinite impulse, and for what must be positive and is not.

    >>> found = relu_kernel_drift(1.0, 100, weight_variance=1.0, preactivation_variance=1.0)
    >>> [round(float(x), 6) for x in found]  # -1/(10 pi) and 4/(1000 pi)
    [-0.031831, 0.001273]
    """
    require_nonnegative(impulse=impulse)
    require_positive(
        width=width,
        weight_variance=weight_variance,
        preactivation_variance=preactivation_variance,
    )
    R, n, w, q = as_floats(impulse, width, weight_variance, preactivation_variance)
    mean = -((w * q) ** 1.5) * R / (math.pi * jnp.sqrt(n))
    return Drift(mean, 4 / math.pi * (w * q) ** 2.5 * R / n**1.5)


def _residuals(
    modes: KernelModes, covariance: ArrayLike, targets: ArrayLike
) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Mean and covariance of ``y - f_0`` along the kernel's principal components."""
    require_finite(covariance=covariance, targets=targets)
    rows = len(modes.vectors)
    covariance, targets = (jnp.asarray(x, modes.vectors.dtype) for x in (covariance, targets))
    if covariance.shape != (rows, rows) or targets.shape != (rows,):
        raise ValueError(
            f"covariance and targets must have shapes {(rows, rows)} and {(rows,)}, "
            f"got {covariance.shape} and {targets.shape}"
        )
    return modes.vectors.T @ targets, modes.vectors.T @ covariance @ modes.vectors
