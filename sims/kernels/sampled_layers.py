"""Random networks of four activations at and around criticality, layer by layer: theory, samples.

All activations of a setting are iterated, or sampled, side by side in one program: kernels,
variances and moments have shape (activations, ...), and ``side_by_side`` applies to each row its
own. Criticality is where these activations are at the given variances of weights and biases
(``theory.kernels.criticality`` finds them; networks are drawn at these).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.models import ACTIVATIONS
from dynamics.random_layers import LayerMoments, sample_layers
from theory.kernels.depth_recursions import LayerStatistics, layer_step, susceptibilities

ACTIVATION_NAMES = ("tanh", "gelu", "relu", "linear")
WEIGHT_VARIANCE = np.array([1.0, 1.98305826, 2.0, 1.0])  # critical
BIAS_VARIANCE = np.array([0.0, 0.17292239, 0.0, 0.0])


class Depths(NamedTuple):
    """Of layers 1, ..., L, leading: statistics, and products of the susceptibilities before."""

    statistics: LayerStatistics
    parallel: jax.Array
    perpendicular: jax.Array


class Samples(NamedTuple):
    """Of sampled layers, (draws, depth, activations, ...): G, and what perturbations grow to.

    ``square`` is G; ``parallel`` its derivative by the G of layer 1, whose mean is the product of
    chi_par at infinite width: a longer input. ``perpendicular`` is the mean squared change of the
    units under a perturbation across the input, one in layer 1: the product of chi_perp.
    """

    square: np.ndarray
    parallel: np.ndarray
    perpendicular: np.ndarray


def side_by_side(names: tuple[str, ...]) -> Callable[[jax.Array], jax.Array]:
    """Row i of the leading axis through the activation ``names[i]``."""
    return _SideBySide(names)


class _SideBySide(NamedTuple):  # equal for equal names, so that programs are found again
    names: tuple[str, ...]

    def __call__(self, z: jax.Array) -> jax.Array:
        return jnp.stack([ACTIVATIONS[name](row) for name, row in zip(self.names, z, strict=True)])


@partial(jax.jit, static_argnames=("names", "depth"))
def depth_statistics(
    kernel: jax.Array, C_W: jax.Array, C_b: jax.Array, *, names: tuple[str, ...], depth: int
) -> Depths:
    """The recursion of theory from layer 1 at equal widths, V and G1 to be divided by the width."""
    activation = side_by_side(names)

    def forward(state: Depths, _: None) -> tuple[Depths, Depths]:
        kernel = state.statistics.kernel
        chi = susceptibilities(kernel, activation=activation, weight_variance=C_W)
        new = Depths(
            layer_step(
                state.statistics,
                1.0,
                1.0,
                activation=activation,
                weight_variance=C_W,
                bias_variance=C_b,
            ),
            state.parallel * chi.parallel,
            state.perpendicular * chi.perpendicular,
        )
        return new, new

    zero, one = jnp.zeros_like(kernel), jnp.ones_like(kernel)
    first = Depths(LayerStatistics(kernel, zero, zero, kernel), one, one)
    rest = jax.lax.scan(forward, first, length=depth - 1)[1]
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)


def sampled_layers(
    rng: np.random.Generator,
    kernel: np.ndarray,
    C_W: np.ndarray,
    C_b: np.ndarray,
    *,
    names: tuple[str, ...],
    draws: int,
    depth: int,
    width: int,
) -> Samples:
    """Layers 1, ..., depth of random networks; G is ``kernel`` (activations, ...) in the first."""
    noise = rng.standard_normal((draws, depth - 1, 2, width), np.float32)
    found = _sample(noise, *map(np.float32, (kernel, C_W, C_b)), names=names)
    return Samples(*(np.asarray(values, float) for values in found))


@partial(jax.jit, static_argnames="names")
def _sample(noise, kernel, C_W, C_b, *, names) -> Samples:
    variances = {"weight_variance": C_W, "bias_variance": C_b}
    zero, one = jnp.zeros_like(kernel), jnp.ones_like(kernel)

    def network(numbers: jax.Array) -> Samples:
        def layers(square: jax.Array) -> LayerMoments:
            first = LayerMoments(square, zero, one)
            return sample_layers(numbers, first, activation=side_by_side(names), **variances)

        moments, longer = jax.jvp(layers, (kernel,), (one,))
        return Samples(moments.square, longer.square, moments.change)

    return jax.vmap(network)(noise)
