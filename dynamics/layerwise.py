"""Exact Gram and Gauss-Newton trace of fully connected networks, layer by layer.

Pre-activations ``h_l = s_l W_l a_{l-1} + t_l b_l`` make every output gradient an outer product:

    d f_a(x_i)/d W_l = s_l D_l[i, a] a_{l-1}[i]^T,     d f_a(x_i)/d b_l = t_l D_l[i, a],
    D_l = d f/d h_l   (examples, outputs, n_l), back-propagated,

    K_(ia)(jb) = sum_l (s_l^2 a_{l-1}[i] . a_{l-1}[j] + t_l^2) (D_l[i, a] . D_l[j, b]),
    tr G = (1/n) sum_l sum_i (s_l^2 |a_{l-1}[i]|^2 + t_l^2) |D_l[i]|_F^2.

No per-example gradient is ever formed: memory and time per example are those of activations, not of
parameters. Scales are those of ``dynamics.models.mlp``. Derived here; the identity for one layer is
in Goodfellow (2015), arXiv 1510.01799.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dynamics.models import ACTIVATIONS, Activation, Layer
from dynamics.operators import require_at_least
from dynamics.pairwise import pair_outputs, pairwise, require_outputs


class _Affine(NamedTuple):
    """A layer ``h = weight a + bias`` with the scales in it, and their squares s^2 and t^2."""

    weight: Float[Array, "fan_out fan_in"]
    bias: Float[Array, " fan_out"] | None
    weight_scale: Float[Array, ""]
    bias_scale: Float[Array, ""]


class _Factors(NamedTuple):
    """Of a layer: a_{l-1} (n, fan_in), D_l (n, c, fan_out) and phi' in it (n, fan_out)."""

    layer: _Affine
    below: Array
    above: Array
    slope: Array


class _Network(NamedTuple):
    """All layers, the activation between them, and the factor of the output."""

    layers: list[_Affine]
    phi: Callable[[Array], Array]
    output_scale: float


def layerwise_gram(
    params: Sequence[Any],
    x: Float[ArrayLike, "n n_in"],
    x2: Float[ArrayLike, "n2 n_in"] | None = None,
    *,
    activation: Activation | None = None,
    parametrization: str = "standard",
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    outputs: str = "full",
    chunk: int | None = None,
) -> Float[Array, "n c n2 c"] | Float[Array, "n n2 c"] | Float[Array, "n n2"]:
    """``gradient_gram`` of ``dynamics.models.mlp`` or ``deep_linear``, without any gradient.

    Memory: activations and c times as many derivatives of all examples, or of two chunks of them,
    besides K itself.

    Args:
        params: a tuple of ``Layer`` (of an ``mlp``) or of matrices (of a ``deep_linear`` network).
        x2: the examples of the columns, by default x.
        activation: that of the ``mlp``; None for matrices, which have none.
        parametrization, weight_variance, bias_variance: those the ``mlp`` was made with.
        outputs: "full", "each", "sum" or "mean", as in ``gradient_gram``.
        chunk: so many examples at a time, by default all.

    Raises:
        ValueError: no layers, an activation that is missing or out of place, unknown names, inputs
            with another number of features, chunk < 1.

    >>> layerwise_gram((jnp.ones((1, 2)),), jnp.array([[1.0, 2.0]])).tolist()
    [[[[5.0]]]]
    """
    require_outputs(outputs)
    network = _network(params, activation, parametrization, weight_variance, bias_variance)
    x = _features("x", network, x)
    x2 = None if x2 is None else _features("x2", network, x2)
    layers, tops = network.layers[::-1], _tops(network, outputs)

    def features(part: Array) -> list[tuple[Array, Array]]:
        factors = zip(_factors(network, part), tops, strict=True)
        return [(f.below, f.above if top is None else f.slope) for f, top in factors]

    def pair(first: list[tuple[Array, Array]], second: list[tuple[Array, Array]]) -> Array:
        gram = jnp.zeros((), x.dtype)
        for layer, top, (a1, d1), (a2, d2) in zip(layers, tops, first, second, strict=True):
            overlap = layer.weight_scale * (a1 @ a2.T) + layer.bias_scale
            products = pair_outputs(d1, d2, outputs) if top is None else d1 * top[None] @ d2.T
            shape = (len(a1), 1, len(a2), 1) if outputs == "full" else (len(a1), len(a2), 1)
            gram = gram + overlap.reshape(shape[: products.ndim]) * products
        return gram

    chunk = max(len(x), 0 if x2 is None else len(x2)) if chunk is None else chunk
    return pairwise(features, pair, x, x2, chunk=chunk, axis=2 if outputs == "full" else 1)


def layerwise_trace(
    params: Sequence[Any],
    x: Float[ArrayLike, "n n_in"],
    *,
    activation: Activation | None = None,
    parametrization: str = "standard",
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    chunk: int = 256,
) -> Float[Array, ""]:
    """``gauss_newton_trace`` of such a network, exact, ``chunk`` examples at a time.

    Arguments and errors as ``layerwise_gram``, and ``ValueError`` for chunk < 1.

    >>> float(layerwise_trace((jnp.ones((1, 2)),), jnp.array([[1.0, 2.0], [0.0, 1.0]])))
    3.0
    """
    network = _network(params, activation, parametrization, weight_variance, bias_variance)
    x = _features("x", network, x)
    require_at_least(1, chunk=chunk)

    def example(row: Array) -> Array:
        total = jnp.zeros((), x.dtype)
        for layer, below, above, _ in _factors(network, row[None]):
            size = layer.weight_scale * jnp.sum(below**2) + layer.bias_scale
            total = total + size * jnp.sum(above**2)
        return total

    return jnp.mean(lax.map(example, x, batch_size=min(chunk, len(x))))


def _tops(network: _Network, outputs: str) -> list[Array | None]:
    """For every layer, last first: sum_a M_a^2 (fan_out,) of the two whose D is M times slopes.

    Only where outputs are summed, for c times fewer products.
    """
    tops: list[Array | None] = [None] * len(network.layers)
    if outputs in ("sum", "mean"):
        weight, scale = network.layers[-1].weight, network.output_scale**2
        scale = scale / len(weight) if outputs == "mean" else scale
        squares = [jnp.ones_like(weight[:, 0]), jnp.sum(weight**2, axis=0)]
        tops[:2] = [scale * square for square in squares[: len(tops)]]
    return tops


def _factors(network: _Network, x: Float[Array, "n n_in"]) -> Iterator[_Factors]:
    """Every layer, last first."""
    below, slopes, h = [], [], x
    for l, layer in enumerate(network.layers):
        a, slope = jax.jvp(network.phi, (h,), (jnp.ones_like(h),)) if l > 0 else (h, h)
        below.append(a)
        slopes.append(slope)
        h = a @ layer.weight.T
        h = h if layer.bias is None else h + layer.bias[None, :]
    above = network.output_scale * jnp.eye(h.shape[1], dtype=h.dtype)
    above, own = jnp.broadcast_to(above, (len(x), *above.shape)), jnp.ones_like(h)
    for layer, a, slope in list(zip(network.layers, below, slopes, strict=True))[::-1]:
        yield _Factors(layer, a, above, own)
        above, own = (above @ layer.weight) * slope[:, None, :], slope


def _network(
    params: Sequence[Any],
    activation: Activation | None,
    parametrization: str,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
) -> _Network:
    phi = _activation(params, activation)
    if parametrization not in ("standard", "ntk", "mean_field"):
        raise ValueError(
            f"parametrization must be standard, ntk or mean_field, got {parametrization!r}"
        )
    standard = parametrization == "standard"

    def affine(layer: Any) -> _Affine:
        weight, bias = layer if isinstance(layer, Layer) else (layer, None)
        s2 = jnp.asarray(1.0 if standard else weight_variance / weight.shape[1], weight.dtype)
        t2 = jnp.asarray(1.0 if standard else bias_variance, weight.dtype)
        if bias is None:
            return _Affine(jnp.sqrt(s2) * weight, None, s2, jnp.zeros_like(t2))
        return _Affine(jnp.sqrt(s2) * weight, jnp.sqrt(t2) * bias, s2, t2)

    layers = [affine(layer) for layer in params]
    fan_in = layers[-1].weight.shape[1]
    return _Network(layers, phi, fan_in**-0.5 if parametrization == "mean_field" else 1.0)


def _activation(params: Sequence[Any], activation: Activation | None) -> Callable[[Array], Array]:
    if not params:
        raise ValueError("params must hold at least one layer, got none")
    if not isinstance(params[0], Layer):
        if activation not in (None, "linear"):
            raise ValueError(f"activation must be None for bare matrices, got {activation!r}")
        return ACTIVATIONS["linear"]
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation must be a function or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    return ACTIVATIONS[activation]


def _features(name: str, network: _Network, x: ArrayLike) -> Array:
    x, n_in = jnp.asarray(x), network.layers[0].weight.shape[1]
    if x.ndim != 2 or len(x) == 0 or x.shape[1] != n_in:
        raise ValueError(f"{name} must be (n, {n_in}) with n >= 1, got {x.shape}")
    return x
