"""Linear models whose curvature has a closed form: traces anywhere, spectra at whitened minima.

Loss ``L = (1/2n) sum_i |f(x_i) - y_i|^2``: half, mean over samples, sum over outputs. Another
multiple of L multiplies every result. Where the output is (almost everywhere) linear in each
single weight, as in all models here but ``u^2 - v^2``, where second derivatives cancel in pairs,
the residuals drop out of the trace: ``Tr H`` is that of the Gauss-Newton matrix at **every** point
and for any labels. Spectra hold at interpolating minima of whitened inputs, ``X^T X / n = I``.

The same curvature ties stability to the norm of the solution, through the *ladder*

    stochastic gradient descent (B = 1)  Tr H <= 2/eta     bounds |beta|_1,
    loss stability                       |H|_F             bounds |beta|_2,
    gradient descent                     lmax <= 2/eta     bounds |beta|_inf,

for f = sum_j a_j b_j x_j, since ``flattest_spectrum(beta) = 2 |beta_j|`` cannot be undercut: so
SGD keeps ``|beta|_1 <= 1/eta`` and GD ``|beta|_inf <= 1/eta``. The ReLU network: ``relu_minima``;
balanced deep linear networks: ``theory.deep_linear.hessian``.

Source: Wu & Su 2023, arXiv:2305.17490 (trace and l1 norm); the closed forms are derived here.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite
from theory.checks import Count, require, require_count


class Ladder(NamedTuple):
    """Trace, Frobenius norm, largest eigenvalue: l1, l2 and l-infinity norm of a spectrum."""

    trace: Float[Array, "..."]
    frobenius: Float[Array, "..."]
    largest: Float[Array, "..."]


def ladder(spectrum: ArrayLike) -> Ladder:
    """The three curvatures by which the notions of stability judge a minimum.

    ``spectrum``: (..., modes), non-negative eigenvalues; zeros may be left out. Raises
    ``ValueError`` if one is negative or not finite.

    >>> [float(x) for x in ladder(jnp.array([3.0, 4.0]))]
    [7.0, 5.0, 4.0]
    """
    require("spectrum", spectrum, lambda x: (x >= 0) & (x < np.inf), "non-negative and finite")
    (spectrum,) = as_floats(spectrum)
    frobenius = jnp.linalg.norm(spectrum, axis=-1)
    return Ladder(jnp.sum(spectrum, axis=-1), frobenius, jnp.max(spectrum, axis=-1))


def diagonal_spectrum(weights: ArrayLike) -> Float[Array, " d"]:
    """Nonzero Hessian eigenvalues of ``f = sum_j prod_l w_lj x_j`` at a whitened minimum.

        mu_j = sum_l prod_{k != l} w_kj^2    (a_j^2 + b_j^2 for two layers),

    one per input, in its order; the other (depth - 1) d are zero. With second moments m_j of the
    inputs ``sum_j mu_j m_j`` is the trace at any point, for any labels.

    weights: (depth, d). Raises ``ValueError`` unless a finite matrix.

    >>> diagonal_spectrum(jnp.array([[1.0, 2.0], [3.0, 0.0]])).tolist()
    [10.0, 4.0]
    """
    weights = as_matrix(weights=weights)
    others = jnp.array(
        [jnp.prod(jnp.delete(weights, l, axis=0) ** 2, 0) for l in range(len(weights))]
    )
    return jnp.sum(others, axis=0)


def flattest_spectrum(beta: ArrayLike, depth: Count = 2) -> Float[Array, "... d"]:
    """Least curvature with which a diagonal network can compute ``f = beta . x``.

        mu_j >= L |beta_j|^(2 - 2/L),   equal if and only if the L factors are equal in size:

    every entry of ``diagonal_spectrum``, hence trace, norm and largest eigenvalue (``ladder``).
    ``depth`` = L layers. Raises ``ValueError`` unless beta is finite and L an integer >= 1.
    Source: derived here (inequality of the means).

    >>> flattest_spectrum(jnp.array([-3.0, 1.0])).tolist()
    [6.0, 2.0]
    """
    require_count(depth=depth)
    require_finite(beta=beta)
    (beta,) = as_floats(beta)
    return depth * jnp.abs(beta) ** (2 - 2 / int(depth))


def difference_of_squares_spectrum(u: ArrayLike, v: ArrayLike) -> Float[Array, "... d"]:
    """Nonzero Hessian eigenvalues ``4 (u_j^2 + v_j^2)`` of ``f = sum_j (u_j^2 - v_j^2) x_j``.

    At a whitened minimum; weighted with the inputs' second moments, ``sum_j mu_j m_j`` is the trace
    at any point. Raises ``ValueError`` unless u and v are finite.

    >>> difference_of_squares_spectrum(jnp.array([1.0]), jnp.array([2.0])).tolist()
    [20.0]
    """
    require_finite(u=u, v=v)
    u, v = as_floats(u, v)
    return 4 * (u**2 + v**2)


def two_layer_linear_spectrum(first: ArrayLike, second: ArrayLike) -> Float[Array, "n_out n_in"]:
    """Hessian eigenvalues of ``f = W_2 W_1 x`` at a whitened minimum, balanced or not.

        mu_ij = sigma_i(W_2)^2 + sigma_j(W_1)^2,    lmax = |W_2|^2 + |W_1|^2 (spectral norms),

    for all pairs of an output and an input direction, singular values sigma descending and filled
    up with zeros; the other eigenvalues are zero. Raises ``ValueError`` unless the matrices are
    finite and fit together. Source: derived here.

    >>> two_layer_linear_spectrum(jnp.eye(2), jnp.array([[2.0, 0.0]])).tolist()
    [[5.0, 5.0]]
    """
    first, second = _chain([first, second])
    inner = _squared_singular_values(first, first.shape[1])
    return _squared_singular_values(second, second.shape[0])[:, None] + inner[None, :]


def deep_linear_trace(weights: Sequence[ArrayLike], sigma_xx: ArrayLike) -> Float[Array, ""]:
    """Hessian trace of ``f = W_L ... W_1 x`` at any weights, for any data.

        Tr H = sum_l |W_L ... W_{l+1}|_F^2  tr(W_{l-1} ... W_1 Sigma_xx W_1^T ... W_{l-1}^T)

    weights: (W_1, ..., W_L); sigma_xx: X^T X / n. Two layers: ``|W_2|_F^2 tr(Sigma_xx) + n_out
    tr(W_1 Sigma_xx W_1^T)``. Raises ``ValueError`` unless everything is finite and fits together.
    Source: derived here.

    >>> float(deep_linear_trace([jnp.eye(2), jnp.array([[2.0, 0.0]])], jnp.eye(2)))
    10.0
    """
    matrices, moments = _chain(weights), as_matrix(sigma_xx=sigma_xx)
    if moments.shape != (matrices[0].shape[1],) * 2:
        expected = (matrices[0].shape[1],) * 2
        raise ValueError(f"sigma_xx must have shape {expected}, got {moments.shape}")
    identity, terms = jnp.eye(matrices[-1].shape[0], dtype=moments.dtype), []
    for layer, matrix in enumerate(matrices):
        above = reduce(lambda product, w: product @ w, reversed(matrices[layer + 1 :]), identity)
        terms.append(jnp.sum(above**2) * jnp.trace(moments))
        moments = matrix @ moments @ matrix.T
    return jnp.sum(jnp.stack(terms))


def as_matrix(**matrix: ArrayLike) -> Float[Array, "rows columns"]:
    """The one named argument as a floating matrix; ``ValueError`` unless it is finite and one.

    >>> as_matrix(first=jnp.ones(2))
    Traceback (most recent call last):
        ...
    ValueError: first must be a matrix, got shape (2,)
    """
    ((name, value),) = matrix.items()
    if jnp.ndim(value) != 2:
        raise ValueError(f"{name} must be a matrix, got shape {jnp.shape(value)}")
    require_finite(**matrix)
    return as_floats(value)[0]


def _chain(weights: Sequence[ArrayLike]) -> list[Array]:
    """The layers W_1, ..., W_L, each of which takes what the one before gives."""
    matrices = [as_matrix(**{f"weights[{l}]": matrix}) for l, matrix in enumerate(weights)]
    shapes = [matrix.shape for matrix in matrices]
    fits = all(above[1] == below[0] for below, above in pairwise(shapes))
    if not shapes or not fits:
        raise ValueError(f"weights must be layers that follow each other, got shapes {shapes}")
    return matrices


def _squared_singular_values(matrix: Array, length: int) -> Array:
    values = jnp.linalg.svd(matrix, compute_uv=False) ** 2
    return jnp.pad(values, (0, length - len(values)))
