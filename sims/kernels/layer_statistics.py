"""What is measured on random networks of four activations: layers, maps, depth, tangent kernels.

Samples come from ``sims.kernels.sampled_layers``; networks for the tangent kernel have weights. A
``config`` holds widths and numbers of draws (``sims.kernels.roberts2022_criticality``).
"""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.layerwise import layerwise_gram
from dynamics.models import Layer
from dynamics.scale_mixtures import mixture_information
from sims.experiment import Arrays
from sims.kernels.sampled_layers import (
    ACTIVATION_NAMES,
    BIAS_VARIANCE,
    WEIGHT_VARIANCE,
    Samples,
    sampled_layers,
)
from sims.rates import fitted_exponent, jackknife, standard_error, without_step_error

GAINS = np.array([0.8, 1.0, 1.25])  # weight variance over its critical value
CRITICAL = 1  # of them
SMOOTH, SCALE_INVARIANT = slice(0, 2), slice(2, 4)  # of the activations
RELU = ACTIVATION_NAMES.index("relu")
KERNELS = np.logspace(-2, 2, 13)
DEEP_NAMES = ("tanh", "scaled_erf")  # both of the class K* = 0 at C_b = 0, phi'(0)^2 C_W = 1
DEEP_WEIGHT_VARIANCE = np.array([1.0, np.pi / 2])
TANGENT_DEPTHS = (2, 5)
NONLINEAR = slice(0, 3)  # of the activations: a linear network's kernel is that of ReLU
N_IN = 8  # inputs, and outputs, of networks with weights
BLOCKS = 20  # of draws, for the standard error of the information


def settings(kernels: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, ...]:
    """K in layer 1, C_W and C_b, (activations, cases): every activation in the same cases."""
    C_W = WEIGHT_VARIANCE[:, None] * gains[None]
    return tuple(np.broadcast_arrays(kernels[None], C_W, BIAS_VARIANCE[:, None]))


def layer_statistics(config: Any, found: list[Samples]) -> Arrays:
    """K, products of both susceptibilities and V as N -> infinity; E G^2/K^2 at every width."""
    squares = [samples.square for samples in found]
    samples = {
        "kernel": squares,
        "parallel": [samples.parallel for samples in found],
        "perpendicular": [samples.perpendicular for samples in found],
        "vertex": [
            n * (G - G.mean(axis=0)) ** 2 * config.draws / (config.draws - 1)
            for n, G in zip(config.widths, squares, strict=True)
        ],
    }
    kept = [G[:, 1:, SCALE_INVARIANT, CRITICAL].swapaxes(1, 2) ** 2 for G in squares]
    moments = np.array([[G.mean(axis=0), standard_error(G)] for G in kept]).swapaxes(0, 1)
    return {name: extrapolated(by_width) for name, by_width in samples.items()} | {
        "second_moment": moments
    }


def extrapolated(by_width: list[np.ndarray]) -> np.ndarray:
    """Mean as N -> infinity from samples at N, 2N, 4N, and its standard error."""
    means = np.array([samples.mean(axis=0) for samples in by_width])
    weights = without_step_error(np.eye(len(by_width)))  # of the three, in that mean
    errors = [w * standard_error(s) for w, s in zip(weights, by_width, strict=True)]
    return np.array([without_step_error(means), np.sqrt(np.sum(np.square(errors), axis=0))])


def information(config: Any, squares: list[np.ndarray]) -> Arrays:
    """Of one output about another, (2, widths, layers): its value and standard error."""
    G = jnp.asarray(np.array(squares).swapaxes(1, 2)).reshape(-1, config.draws)
    block = np.arange(config.draws) * BLOCKS // config.draws
    kept = np.concatenate([np.ones((1, config.draws)), np.arange(BLOCKS)[:, None] != block[None]])
    weights = jnp.asarray(kept / kept.sum(axis=1, keepdims=True))

    @jax.jit
    def values(variances: jax.Array) -> jax.Array:
        of = partial(mixture_information, variances)
        return jax.vmap(lambda w: of(weights=w))(weights)

    found = np.array([values(variances) for variances in G])
    error = np.sqrt((BLOCKS - 1) * found[:, 1:].var(axis=1))
    return {"information": np.array([found[:, 0], error]).reshape(2, len(squares), -1)}


def map_statistics(config: Any, rng: np.random.Generator) -> Arrays:
    """K'/K and growth of perturbations in one critical layer: (2, 3, activations, kernels)."""
    sizes = {"draws": config.map_draws, "width": config.map_width, "depth": 2}
    cases = settings(KERNELS, np.ones(len(KERNELS)))
    found = sampled_layers(rng, *cases, names=ACTIVATION_NAMES, **sizes)
    second = [found.square[:, 1] / KERNELS, found.parallel[:, 1], found.perpendicular[:, 1]]
    growth = np.stack(second, axis=1)
    return {"maps": np.array([growth.mean(axis=0), standard_error(growth)])}


def deep_statistics(config: Any, rng: np.random.Generator) -> Arrays:
    """Deep critical networks of the class K* = 0: (layers, 3, activations), and their powers."""
    C_W, ones = DEEP_WEIGHT_VARIANCE, np.ones(len(DEEP_NAMES))
    sizes = {"draws": config.deep_draws, "width": config.deep_width, "depth": config.deep_depth}
    found = sampled_layers(rng, ones, C_W, 0 * ones, names=DEEP_NAMES, **sizes)
    paths = np.stack(found, axis=2)  # (draws, layers, 3, activations)
    layers = np.arange(1, config.deep_depth + 1)
    late = layers > config.deep_depth // 4

    def powers(mean: np.ndarray) -> np.ndarray:
        curves = mean[late].reshape(late.sum(), -1).T
        slopes = [fitted_exponent(layers[late], curve) for curve in curves]
        return np.reshape(slopes, (3, -1)).T

    return {
        "deep": paths,
        "exponents": np.array([powers(paths.mean(axis=0)), jackknife(powers, paths)]),
        "deep_layers": layers,
    }


def tangent_statistics(config: Any, rng: np.random.Generator) -> Arrays:
    """Mean tangent kernel (2, depths, activations) of networks with weights, n to infinity."""
    by_width = []
    for width in (config.ntk_width, 2 * config.ntk_width):
        networks = (draw_network(rng, width) for _ in range(config.ntk_draws))
        by_width.append(np.array([tangent_kernels(network) for network in networks], float))
    single, double = by_width
    error = np.hypot(standard_error(single), 2 * standard_error(double))
    return {"tangent_kernel": np.array([2 * double.mean(axis=0) - single.mean(axis=0), error])}


def draw_network(rng: np.random.Generator, width: int) -> tuple[Layer, ...]:
    """Weights and biases of the NTK parametrisation, all of them N(0, 1)."""
    sizes = (N_IN, *(width,) * max(TANGENT_DEPTHS))

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    return tuple(Layer(normal(n, n_in), normal(n)) for n_in, n in pairwise(sizes))


@jax.jit
def tangent_kernels(network: tuple[Layer, ...]) -> jax.Array:
    """Tangent kernel at one input, K = 1 in layer 1, of critical networks: (depths, activations).

    A network of depth l is the first l layers of a deep one, with N_IN outputs.
    """

    def of(name: str, C_W: float, C_b: float) -> list[jax.Array]:
        x = np.full((1, N_IN), np.sqrt((1 - C_b) / C_W), np.float32)
        setting = {"weight_variance": C_W, "bias_variance": C_b, "parametrization": "ntk"}
        gram = partial(layerwise_gram, x=x, activation=name, outputs="mean", **setting)
        return [gram((*network[: l - 1], outputs(network[l - 1])))[0, 0] for l in TANGENT_DEPTHS]

    def outputs(layer: Layer) -> Layer:
        return jax.tree.map(lambda values: values[:N_IN], layer)

    cases = list(zip(ACTIVATION_NAMES, WEIGHT_VARIANCE, BIAS_VARIANCE, strict=True))
    return jnp.stack([jnp.stack(of(*case)) for case in cases[NONLINEAR]], axis=1)
