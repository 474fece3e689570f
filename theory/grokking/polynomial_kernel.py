"""Kernel, lazy limit and population flow of the model of ``polynomial_regression``.

In units in which a step with eta = 1 moves the outputs by ``(2/P) K (y - f)`` to first order, the
tangent kernel (N/alpha^2 times the sum of products of gradients) is

    K(x, x') = x.x' [1 + eps wbar.(x + x') + eps^2 x^T M x'].

At wbar = 0, M = I, over x ~ N(0, I/D): linear functions have eigenvalue 1/D, traceless quadratic
ones 2 eps^2/D^2, |x|^2 has eps^2 (1/D + 2/D^2). The quadratic target is misaligned: its eigenvalue
is the small one.

Source: Kumar, Bordelon, Gershman & Pehlevan (2023), arXiv 2310.06110, for the model; derived here.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_positive
from theory.checks import Count, require_count
from theory.grokking.polynomial_regression import (
    LossTerms,
    Statistics,
    infinite_width,
    population_loss,
    targets,
)


class Eigenvalues(NamedTuple):
    """Of the initial kernel under the law of the inputs."""

    linear: Float[Array, "..."]
    traceless: Float[Array, "..."]
    radial: Float[Array, "..."]


class Overlaps(NamedTuple):
    """Eigenvalues of M along the teacher and across it."""

    parallel: Float[Array, "..."]
    perpendicular: Float[Array, "..."]


def tangent_kernel(
    statistics: Statistics,
    x: Float[ArrayLike, "P D"],
    x2: Float[ArrayLike, "P2 D"] | None = None,
    *,
    epsilon: ArrayLike,
) -> Float[Array, "P P2"]:
    """The kernel K between x and x2, by default x itself.

    >>> tangent_kernel(infinite_width(2), jnp.array([[1.0, 1.0]]), epsilon=0.5).tolist()
    [[3.0]]
    """
    x = jnp.asarray(x)
    x2 = x if x2 is None else jnp.asarray(x2)
    mean, second_moment = statistics
    linear = (x @ mean)[:, None] + (x2 @ mean)[None]
    return (x @ x2.T) * (1 + epsilon * linear + epsilon**2 * (x @ second_moment @ x2.T))


def initial_eigenvalues(n_in: Count, epsilon: ArrayLike) -> Eigenvalues:
    """Eigenvalues of the initial kernel at infinite width, unit weights, x ~ N(0, I/D).

    >>> [float(value) for value in initial_eigenvalues(2, 1.0)]
    [0.5, 0.5, 1.0]
    """
    require_count(n_in=n_in)
    require_finite(epsilon=epsilon)
    d, eps = as_floats(n_in, epsilon)
    return Eigenvalues(1 / d, 2 * eps**2 / d**2, eps**2 * (1 / d + 2 / d**2))


def lazy_limit(
    x: Float[ArrayLike, "P D"], beta: Float[ArrayLike, " D"], *, epsilon: ArrayLike
) -> LossTerms:
    """Test loss of the kernel interpolant, where centred training ends as alpha -> infinity.

    From infinite width with unit weights, c = K(X, X)^-1 y: ``alpha wbar = X^T c`` and
    ``alpha eps (M - I) = 2 eps^2 sum c_mu x_mu x_mu^T``. The error at finite alpha is O(1/alpha).
    Not finite where K is singular (more examples than D + D(D+1)/2).

    >>> x, beta = jnp.eye(2), jnp.array([1.0, 1.0])
    >>> bool(lazy_limit(x, beta, epsilon=1.0).total > 0)
    True
    """
    x, beta = jnp.asarray(x), jnp.asarray(beta)
    start = infinite_width(x.shape[1])
    kernel = tangent_kernel(start, x, epsilon=epsilon)
    c = jnp.linalg.solve(kernel, targets(x, beta))
    # alpha = epsilon = 1 in ``population_loss``: the factors are in the statistics
    end = Statistics(x.T @ c, 2 * jnp.asarray(epsilon) ** 2 * (x.T * c[None]) @ x)
    return population_loss(end, beta, alpha=1.0, epsilon=1.0)


def population_velocity(
    overlaps: Overlaps,
    *,
    n_in: Count,
    alpha: ArrayLike,
    epsilon: ArrayLike,
    beta_square: ArrayLike,
) -> Overlaps:
    """d/dt of the eigenvalues of M for infinitely many examples, t = eta times steps, wbar = 0.

        T_par = alpha eps a - |beta|^2,   T_perp = alpha eps b,   tr T = T_par + (D - 1) T_perp
        a' = -(2 eps/(alpha D^2)) a (tr T + 2 T_par),   b' the same with T_perp

    Raises ``ValueError`` for alpha or |beta|^2 that is not positive.

    >>> still = population_velocity(
    ...     Overlaps(2.0, 0.0), n_in=3, alpha=1.0, epsilon=0.5, beta_square=1.0
    ... )
    >>> [abs(float(value)) for value in still]
    [0.0, 0.0]
    """
    require_count(n_in=n_in)
    require_positive(alpha=alpha, beta_square=beta_square)
    a, b, alpha, eps, square = as_floats(*overlaps, alpha, epsilon, beta_square)
    along, across = alpha * eps * a - square, alpha * eps * b
    total, rate = along + (n_in - 1) * across, -2 * eps / (alpha * n_in**2)
    return Overlaps(rate * a * (total + 2 * along), rate * b * (total + 2 * across))
