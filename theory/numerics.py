"""Arithmetic shared by theory modules: integer arguments and Gaussian averages."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.checks import Count, require, require_count

# The standard normal density beyond 13 is below 1e-37: nothing out there counts.
_REACH = 13.0


def gaussian_average(
    f: Callable[[Array], Array], width: ArrayLike = 1.0, *, n_nodes: Count = 201
) -> Float[Array, "..."]:
    """Average of f(z) over a standard normal z: int Dz f(z), Dz = e^{-z^2/2} dz / sqrt(2 pi).

    Trapezoidal rule in y, where z = width sinh(y). The rule converges geometrically at a rate set
    by the distance of the singularities of f from the real axis; ``width`` is that distance
    (1/sqrt(q) for tanh(sqrt(q) z)), and sinh crowds the nodes accordingly. Gauss-Hermite nodes
    do not adapt: for sech(10 z)^4 the average over 340 of them is still 30% off.

    ``f`` gets z of shape ``width.shape + (n_nodes,)`` and acts elementwise, broadcasting allowed;
    its last axis is averaged. The dtype follows ``width``. Rounding error for widths from 1e-3 up
    and for f of at most polynomial growth.

    Raises ``ValueError`` unless width > 0 and n_nodes is an integer >= 2.

    >>> round(float(gaussian_average(lambda z: z**4)), 4)
    3.0
    """
    require("width", width, lambda w: w > 0, "positive")
    require_count(n_nodes=n_nodes, least=2)
    width = jnp.asarray(width, jnp.result_type(width, 1.0))
    limit = jnp.arcsinh(_REACH / width)
    y = jnp.linspace(-limit, limit, int(n_nodes), axis=-1)
    z = width[..., None] * jnp.sinh(y)
    density = jnp.exp(-(z**2) / 2) / jnp.sqrt(2 * jnp.pi)
    step = width * 2 * limit / (n_nodes - 1)
    return step * jnp.sum(density * jnp.cosh(y) * f(z), axis=-1)
