"""Random networks layer by layer, sampled exactly and without weight matrices.

For ``z_1 = b + W x``, ``z_{l+1} = b + W phi(z_l)`` with W ~ N(0, C_W/n), b ~ N(0, C_b), the units
of layer l + 1 are, given layer l, independent Gaussians, and so are they together with their
changes dz when the input is perturbed: given layer l, (z_i, dz_i) has the covariance

    E z^2  = C_b + C_W mean_j phi(z_lj)^2            square
    E z dz = C_W mean_j phi(z_lj) phi'(z_lj) dz_lj   overlap
    E dz^2 = C_W mean_j (phi'(z_lj) dz_lj)^2         change

and drawing n such pairs from it draws the next layer, at a price of n instead of n^2. Nothing is
approximated: the three numbers have the distribution they have in a network of width n.

Parametrisation: C_W = ``weight_variance`` (sigma_w^2), C_b = ``bias_variance`` (sigma_b^2), which
are equal functions in the standard and the NTK parametrisation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dynamics.models import ACTIVATIONS, Activation


class LayerMoments(NamedTuple):
    """Of a unit z and its change dz, given the layer before: E z^2, E z dz and E dz^2."""

    square: Float[Array, "..."]
    overlap: Float[Array, "..."]
    change: Float[Array, "..."]


def sample_layers(
    noise: Float[ArrayLike, "..."],
    first: LayerMoments,
    *,
    activation: Activation,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike = 0.0,
) -> LayerMoments:
    """The random moments of layers 1, ..., steps + 1 of one network, layers leading.

    ``first`` holds those of layer 1, which are not random: ``C_b + C_W |x|^2/n_0``,
    ``C_W x.dx/n_0`` and ``C_W |dx|^2/n_0`` for an input x and its perturbation dx. ``noise``
    (steps, 2, width) are independent standard normal numbers, two for every unit of the layers
    1, ..., steps. ``first`` and the variances broadcast to (...), and all entries see the same
    noise: each is a network, and differences between them fluctuate little. Where z and dz are
    proportional, dz is known to half of the digits of its dtype.

    Raises ``ValueError`` for noise of another shape and an unknown activation.

    >>> noise = jax.random.normal(jax.random.key(0), (2, 2, 10**5))
    >>> first = LayerMoments(*jnp.array([1.0, 0.0, 1.0]))
    >>> found = sample_layers(noise, first, activation="relu", weight_variance=2.0)
    >>> found.square.round(1).tolist(), found.change.round(1).tolist()
    ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    """
    noise = jnp.asarray(noise)
    if noise.ndim != 3 or noise.shape[1] != 2 or noise.shape[2] < 1:
        raise ValueError(f"noise must have shape (steps, 2, width), got {noise.shape}")
    if not callable(activation) and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    phi = activation if callable(activation) else ACTIVATIONS[activation]
    *start, C_W, C_b = jnp.broadcast_arrays(
        *(jnp.asarray(value, noise.dtype) for value in (*first, weight_variance, bias_variance))
    )

    def next_layer(moments: LayerMoments, noise: Array) -> tuple[LayerMoments, LayerMoments]:
        a, da = _activations(phi, moments, noise)
        new = LayerMoments(
            C_b + C_W * jnp.mean(a**2, axis=-1),
            C_W * jnp.mean(a * da, axis=-1),
            C_W * jnp.mean(da**2, axis=-1),
        )
        return new, new

    begin = LayerMoments(*start)
    rest = jax.lax.scan(next_layer, begin, noise)[1]
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), begin, rest)


def _activations(phi, moments: LayerMoments, noise: Array) -> tuple[Array, Array]:
    """phi(z) and phi'(z) dz of units drawn with the given moments, (..., width) each."""
    square, overlap, change = (moment[..., None] for moment in moments)
    unit, other = (jnp.broadcast_to(row, (*square.shape[:-1], len(row))) for row in noise)
    slope = jnp.where(square > 0, overlap / jnp.where(square > 0, square, 1.0), 0.0)
    free = jnp.sqrt(jnp.maximum(change - slope * overlap, 0.0))  # of dz, given z
    z = jnp.sqrt(square) * unit
    return jax.jvp(phi, (z,), (slope * z + free * other,))
