"""The spectrum of an operator as a density, by stochastic Lanczos quadrature.

Lanczos' method from a unit vector v gives nodes and weights with

    v^T f(A) v = sum_i weight_i f(node_i)      exact for polynomials of degree up to 2 steps - 1,

so that an average over random v is ``tr f(A) / N``, and the nodes are eigenvalues, smeared.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from dynamics.krylov import extend, krylov_space, ritz
from dynamics.operators import MatVec, flat_operator, random_signs, require_at_least


class Quadrature(NamedTuple):
    """Nodes and weights (probes, steps), nodes ascending; the weights of each probe sum to 1.

    ``dimension`` is the number of parameters N, ``num_matvecs`` that of products spent.
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    dimension: ArrayLike
    num_matvecs: ArrayLike


class FunctionTrace(NamedTuple):
    """``tr f(A)`` and its standard error, from the spread of the probes (nan for a single one)."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def spectral_density(
    matvec: MatVec,
    like: PyTree[Any],
    key: Key[Array, ""],
    *,
    num_probes: int,
    num_steps: int,
) -> Quadrature:
    """Nodes and weights of ``num_steps`` Lanczos steps from each of ``num_probes`` random vectors.

    Probes are random signs over sqrt(N), one after the other; ``num_steps`` (at most N are made)
    vectors are held in memory, with full reorthogonalisation: no ghost eigenvalues. An invariant
    subspace ends a probe exactly; the remaining nodes then have weight zero. The outermost nodes
    converge to the extreme eigenvalues; a weight below 1/N is not an eigenvalue counted.

    Raises ``ValueError`` for counts below 1 and as ``flat_operator``.
    Source: Ghorbani, Krishnan & Xiao (2019), arXiv 1901.10159; Golub & Meurant (1994).

    >>> found = spectral_density(lambda v: 2 * v, jnp.ones(5), jax.random.key(0),
    ...                          num_probes=3, num_steps=1)
    >>> found.nodes.round(12).tolist(), found.weights.round(12).tolist()
    ([[2.0], [2.0], [2.0]], [[1.0], [1.0], [1.0]])
    """
    require_at_least(1, num_probes=num_probes, num_steps=num_steps)
    operator = flat_operator(matvec, like)
    steps = min(num_steps, operator.dimension)

    def probe(key: Array) -> tuple[Array, Array]:
        start_key, fresh_key = jax.random.split(key)
        space = krylov_space(random_signs(start_key, operator)[None, :], steps)
        space = lax.fori_loop(0, steps, lambda _, s: extend(operator, s, fresh_key), space)
        found = ritz(space)
        return found.values, found.coefficients[0] ** 2

    nodes, weights = lax.map(probe, jax.random.split(key, num_probes))
    return Quadrature(nodes, weights, operator.dimension, num_probes * steps)


def trace_of_function(f: Callable[[Array], Array], quadrature: Quadrature) -> FunctionTrace:
    """``tr f(A) = N mean over probes of sum_i weight_i f(node_i)``, f elementwise and finite.

    The standard error is that of the probes; for an f that polynomials of degree 2 steps fit badly
    there is an error of the quadrature besides.

    >>> exact = Quadrature(jnp.array([[1.0, 3.0]]), jnp.array([[0.5, 0.5]]), 2, 2)
    >>> float(trace_of_function(jnp.square, exact).value)
    10.0
    """
    samples = quadrature.dimension * jnp.sum(quadrature.weights * f(quadrature.nodes), axis=1)
    probes = jnp.asarray(len(samples), samples.dtype)
    spread = jnp.sum((samples - jnp.mean(samples)) ** 2) / jnp.where(
        probes > 1, probes - 1, jnp.nan
    )
    return FunctionTrace(jnp.mean(samples), jnp.sqrt(spread / probes))


def density(
    quadrature: Quadrature, grid: Float[ArrayLike, " points"], *, width: ArrayLike
) -> Float[Array, " points"]:
    """Density of eigenvalues on ``grid``: nodes as Gaussians of standard deviation ``width``.

    Integrates to 1 over all reals. Raises ``ValueError`` for a width that is not positive.

    >>> one = Quadrature(jnp.zeros((1, 1)), jnp.ones((1, 1)), 1, 1)
    >>> round(float(density(one, jnp.zeros(1), width=2.0)[0]), 6)
    0.199471
    """
    if not isinstance(width, Tracer) and not (np.ndim(width) == 0 and float(np.asarray(width)) > 0):
        raise ValueError(f"width must be a positive number, got {width}")
    nodes, weights = quadrature.nodes.ravel(), quadrature.weights.ravel()
    points = jnp.asarray(grid, nodes.dtype)
    bumps = jax.scipy.stats.norm.pdf((points[:, None] - nodes[None, :]) / width) / width
    return bumps @ weights / len(quadrature.nodes)
