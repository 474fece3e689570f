"""The neurons of a two-layer network as particles: drawn, on the nodes of a quadrature, or its own.

Averages over the initial law h ~ N(0, Kx), z ~ N(0, 1) of ``theory.mean_field.two_layer`` are sums
``sum_s w_s (...)`` over particles, with weights w that add up to 1. Particles are on the leading
axis of all arrays.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from theory.checks import Count, require, require_count
from theory.deep_linear.matrices import factor_qqt
from theory.mean_field.problem import Problem, checked, require_memory

REACH = 8.5  # the normal density beyond is below rounding


class Particles(NamedTuple):
    """Neurons: pre-activations h (S, P), readouts z (S,), weights (S,) that add up to 1."""

    preactivations: Float[Array, "S P"]
    readouts: Float[Array, " S"]
    weights: Float[Array, " S"]


def network_particles(preactivations: ArrayLike, readouts: ArrayLike) -> Particles:
    """A network's own neurons, all of the same weight 1/S.

    preactivations: ``x W^T/sqrt(D)`` of the samples, neurons first: (S, P); readouts: (S,). Raises
    ``ValueError`` for other shapes or no neurons.

    >>> network_particles(jnp.ones((4, 2)), jnp.ones(4)).weights.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    dtype = jnp.result_type(preactivations, readouts, 1.0)
    h, z = jnp.asarray(preactivations, dtype), jnp.asarray(readouts, dtype)
    if z.ndim != 1 or h.ndim != 2 or len(h) != len(z) or h.size == 0:
        shapes = f"{h.shape} and {z.shape}"
        raise ValueError(f"preactivations and readouts must be (S, P) and (S,), got {shapes}")
    return Particles(h, z, jnp.full_like(z, 1 / len(z)))


def sampled_particles(
    key: Key[Array, ""], problem: Problem, *, samples: Count, antithetic: bool = True
) -> Particles:
    """Particles drawn from the initial law, of equal weights.

    Antithetic: pairs (h, z), (h, -z), so that f(0) = 0 up to rounding, without the noise of order
    ``1/(gamma sqrt(S))`` of independent ones. Kx may be singular. Raises ``ValueError`` for a bad
    problem, samples < 1, or odd if antithetic.

    >>> problem = Problem(jnp.eye(2), jnp.ones(2), gamma=1.0, learning_rate=0.1)
    >>> particles = sampled_particles(jax.random.key(0), problem, samples=6)
    >>> particles.preactivations.shape, abs(float(particles.readouts.sum())) < 1e-15
    ((6, 2), True)
    """
    kernel = checked(problem).input_kernel
    require_count(samples=samples)
    if antithetic:
        require("samples", samples, lambda s: s % 2 == 0, "even, for antithetic pairs")
    drawn, P = int(samples) // (2 if antithetic else 1), len(kernel)
    normal = jax.random.normal(key, (drawn, P + 1), kernel.dtype)
    h, z = normal[:, :P] @ factor_qqt(kernel, P).T, normal[:, P]
    if antithetic:
        h, z = jnp.concatenate([h, h]), jnp.concatenate([z, -z])
    return network_particles(h, z)


def quadrature_particles(
    problem: Problem, *, nodes: Count, memory: int | float | None = None
) -> Particles:
    """Particles on a product of Gauss-Legendre nodes, for one or two samples.

    ``nodes^(P + 1)`` particles in [-8.5, 8.5]^(P + 1), with the normal density in their weights: no
    noise, f(0) = 0 up to rounding. For analytic phi the error falls geometrically, at a rate set by
    its poles: in the outputs of tanh at gamma = 1, eta = 0.5, 40 steps, it is 1e-5, 6e-9 and 2e-14
    with 60, 120 and 240 nodes for one sample, 3e-6 with 60 for two. relu, with its kink, has 1e-3
    with 60, falling as nodes^-2. (Gauss-Hermite nodes stall at 4e-4 for tanh.)

    ``memory``: bytes that the particles may take, None for no limit. Raises ``ValueError`` for a
    bad problem or more than two samples, nodes < 2, less memory than needed.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.1)
    >>> particles = quadrature_particles(problem, nodes=60)
    >>> round(float(particles.weights @ particles.preactivations[:, 0] ** 2), 12)
    1.0
    """
    kernel = checked(problem).input_kernel
    require_count(nodes=nodes, least=2)
    P, n = len(kernel), int(nodes)
    if P > 2:
        raise ValueError(f"input_kernel must be that of 1 or 2 samples (a grid), got {P}")
    size = n ** (P + 1)
    require_memory(memory, size * (P + 2) * kernel.dtype.itemsize, f"{size} particles")
    x, mass = np.polynomial.legendre.leggauss(n)
    x, mass = REACH * x, mass * np.exp(-((REACH * x) ** 2) / 2)
    grid = np.stack(np.meshgrid(*[x] * (P + 1), indexing="ij"), -1).reshape(size, P + 1)
    masses = np.meshgrid(*[mass / mass.sum()] * (P + 1), indexing="ij")
    weights = jnp.asarray(np.prod(masses, axis=0).reshape(size), kernel.dtype)
    grid = jnp.asarray(grid, kernel.dtype)
    return Particles(grid[:, :P] @ factor_qqt(kernel, P).T, grid[:, P], weights)
