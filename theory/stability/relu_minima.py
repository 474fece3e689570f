"""Curvature of two-layer ReLU networks: trace, flattest rescaling, and the path norm below them.

Network ``f(x) = sum_j a_j relu(w_j . x)``, loss ``(1/2n) sum_i (f(x_i) - y_i)^2``: half, mean over
samples. The output is almost everywhere linear in each single weight, so ``Tr H`` is that of the
Gauss-Newton matrix at every point and for any labels: the mean of ``|grad f(x_i)|^2`` over samples.
Stability of SGD with batches of one, ``Tr H <= 2/eta``, is hence a bound on a norm of the function.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_positive
from theory.stability.minima import as_matrix


def relu_trace(
    readout: ArrayLike,
    first: ArrayLike,
    x: ArrayLike,
) -> Float[Array, ""]:
    """Hessian trace of ``f = sum_j a_j relu(w_j . x)`` at almost every point, for any labels.

        Tr H = mean_i sum_j [relu(w_j . x_i)^2 + a_j^2 |x_i|^2 1(w_j . x_i > 0)]

    readout a: (hidden,); first: rows w_j (hidden, d); x: (n, d). Symmetric isotropic inputs, in
    the mean: ``1/2 sum_j (|w_j|^2 + d a_j^2)``, at least ``sqrt(d)`` times the ``path_norm``.
    Raises ``ValueError`` unless everything is finite and fits together. Source: derived here.

    >>> float(relu_trace(jnp.array([3.0]), jnp.array([[2.0]]), jnp.array([[1.0], [-1.0]])))
    6.5
    """
    by_first, by_readout = _relu_parts(readout, first, x)
    return jnp.sum(by_first + by_readout)


def flattest_rescaling(
    readout: ArrayLike,
    first: ArrayLike,
    x: ArrayLike,
) -> tuple[Float[Array, " hidden"], Float[Array, ""]]:
    """Rescaling of the neurons of a ReLU network that makes it flattest, and the trace there.

    ``(a_j / s_j, s_j w_j)`` is the same function for all ``s_j > 0``. With p_j = mean_i relu^2 and
    q_j = a_j^2 mean_i |x_i|^2 1, as in ``relu_trace``,

        s_j = (q_j / p_j)^(1/4),    min Tr H = 2 sum_j sqrt(p_j q_j).

    Returns s and the minimum; s_j is NaN for a neuron that is never active or has a_j = 0 (a
    neuron without use is flattest at one end). Arguments and errors of ``relu_trace``.
    Source: derived here.

    >>> s, trace = flattest_rescaling(jnp.array([4.0]), jnp.array([[1.0]]), jnp.array([[1.0]]))
    >>> float(s[0]), float(trace)
    (2.0, 8.0)
    """
    by_first, by_readout = _relu_parts(readout, first, x)
    useful = (by_first > 0) & (by_readout > 0)
    scale = jnp.where(useful, (by_first / jnp.where(useful, by_readout, 1)) ** 0.25, jnp.nan)
    return scale, 2 * jnp.sum(jnp.sqrt(by_first) * jnp.sqrt(by_readout))


def path_norm(readout: ArrayLike, first: ArrayLike) -> Float[Array, ""]:
    """Path norm ``P = sum_j |a_j| |w_j|`` of ``f = sum_j a_j relu(w_j . x)``.

    For symmetric isotropic inputs ``Tr H >= sqrt(d) P``, equal if and only if |w_j| = sqrt(d)
    |a_j|: mean-square stability of SGD with B = 1 keeps ``P <= 2/(eta sqrt(d))``. Raises
    ``ValueError`` unless finite and fitting. Source: Wu & Su 2023, arXiv:2305.17490.

    >>> float(path_norm(jnp.array([-2.0]), jnp.array([[3.0, 4.0]])))
    10.0
    """
    readout, first = _weights(readout, first)
    return jnp.sum(jnp.abs(readout) * jnp.linalg.norm(first, axis=1))


def homogeneous_sharpness(
    degree: ArrayLike, mean_square: ArrayLike, squared_norm: ArrayLike
) -> Float[Array, "..."]:
    """Rayleigh quotient ``k^2 mean_i |f(x_i)|^2 / |theta|^2`` of H along the weights themselves.

    For a network homogeneous of degree k in its weights theta, at an interpolating minimum: a lower
    bound on the largest eigenvalue. Raises ``ValueError`` unless all are positive. Derived here.

    >>> float(homogeneous_sharpness(2, mean_square=1.0, squared_norm=2.0))
    2.0
    """
    require_positive(degree=degree, mean_square=mean_square, squared_norm=squared_norm)
    degree, mean_square, squared_norm = as_floats(degree, mean_square, squared_norm)
    return degree**2 * mean_square / squared_norm


def _relu_parts(readout: ArrayLike, first: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """A neuron's two parts of the trace, from its first-layer gradient and from its readout's."""
    readout, first = _weights(readout, first)
    x = as_matrix(x=x)
    if x.shape[1] != first.shape[1]:
        raise ValueError(f"x must have {first.shape[1]} columns, as first has, got {x.shape[1]}")
    hidden = x @ first.T
    reach = jnp.sum(x**2, axis=1)[:, None] * (hidden > 0)
    return readout**2 * jnp.mean(reach, axis=0), jnp.mean(jnp.maximum(hidden, 0) ** 2, axis=0)


def _weights(readout: ArrayLike, first: ArrayLike) -> tuple[Array, Array]:
    first = as_matrix(first=first)
    if jnp.shape(readout) != first.shape[:1]:
        raise ValueError(f"readout must have shape {first.shape[:1]}, got {jnp.shape(readout)}")
    require_finite(readout=readout)
    return as_floats(readout)[0], first
