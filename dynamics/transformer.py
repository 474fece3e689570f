"""A small decoder-only transformer, written by hand, whose attention logits can be looked at.

A token at position t starts as ``h = E[token] + P[t]``. Every block adds

    h <- h + sum_heads O softmax(q . k / sqrt(d)) v,   q, k, v = Q n, K n, V n,  n = norm(h),
    h <- h + W_2 phi(W_1 n + b_1) + b_2,               n = norm(h) anew,

d the width of a head, and the logits are ``U norm(h)``. Weights are N(0, 1/fan-in), as are the
entries of E, P and U (fan-in: the width); gains start at 1, biases at 0. Norms have no bias.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from dynamics.initialization import gaussian_init, holds, layer_keys
from dynamics.models import ACTIVATIONS, Activation, Layer

NORMALIZATIONS = ("layer", "rms", "none")
EPSILON = 1e-6  # added to variances: normalised vectors are then no longer than sqrt(n)


class Attention(NamedTuple):
    """Maps of every head; gains of normalised queries and keys, shared by the heads, or None."""

    query: Float[Array, "heads d width"]
    key: Float[Array, "heads d width"]
    value: Float[Array, "heads d width"]
    output: Float[Array, "heads width d"]
    query_gain: Float[Array, " d"] | None
    key_gain: Float[Array, " d"] | None


class Block(NamedTuple):
    """Attention and two-layer perceptron, each with the gain (width,) of the norm before it."""

    attention_gain: Float[Array, " width"] | None
    attention: Attention
    mlp_gain: Float[Array, " width"] | None
    first: Layer
    second: Layer


class TransformerParams(NamedTuple):
    """All weights; ``unembedding`` is None where the embedding serves for both."""

    embedding: Float[Array, "vocabulary width"]
    positions: Float[Array, "context width"]
    blocks: tuple[Block, ...]
    final_gain: Float[Array, " width"] | None
    unembedding: Float[Array, "vocabulary width"] | None


class Activity(NamedTuple):
    """Logits (..., t, vocabulary); ``q . k / sqrt(d)`` (depth, ..., heads, t, t) without mask.

    The last axes of ``attention_logits`` are the position that looks and the one looked at.
    """

    logits: Array
    attention_logits: Array


class Transformer(NamedTuple):
    """``init(key)``, ``apply(params, tokens) -> logits``, ``observe(params, tokens)``, statics.

    ``observe`` gives an ``Activity``; ``apply`` is its logits, the one forward pass there is.
    """

    init: Callable[[Key[Array, ""]], TransformerParams]
    apply: Callable[[TransformerParams, Any], Array]
    observe: Callable[[TransformerParams, Any], Activity]


class _Statics(NamedTuple):
    """The arguments of ``transformer``, checked."""

    vocabulary: int
    context: int
    depth: int
    width: int
    heads: int
    mlp_ratio: int
    activation: Callable[[Array], Array]
    normalization: str
    qk_norm: bool
    causal: bool
    tied: bool
    use_bias: bool
    dtype: Any


def transformer(
    *,
    vocabulary: int,
    context: int,
    depth: int,
    width: int,
    heads: int,
    mlp_ratio: int = 4,
    activation: Activation = "gelu",
    normalization: str = "layer",
    qk_norm: bool = False,
    causal: bool = True,
    tied: bool = False,
    use_bias: bool = False,
    dtype: Any = float,
) -> Transformer:
    """A transformer with learned positions, for sequences of at most ``context`` tokens.

    Tokens are integers (..., t) below ``vocabulary``, logits have shape (..., t, vocabulary).

    Args:
        depth: number of blocks, each of attention and a perceptron of ``mlp_ratio * width`` units.
        normalization: before attention, perceptron and unembedding: "layer", (x - mean) / sd;
            "rms", x / root mean square; "none".
        qk_norm: layer norm of the queries and keys of every head, with learned gains g and k.
            Attention logits then cannot exceed ``sqrt(d) max_j |g_j k_j|``.
        causal: whether a position sees itself and what came before only.
        tied: whether the embedding is the unembedding, too.
        use_bias: whether the perceptron has biases; nothing else has.

    Raises:
        ValueError: sizes that are not positive integers, heads that do not divide the width,
            unknown names, normalised heads of width 1 (they would be 0); by ``apply`` and
            ``observe``, tokens that are not integers, out of range or too many.

    Source: Vaswani et al. (2017), arXiv 1706.03762; qk_norm: Dehghani et al. (2023), arXiv
    2302.05442, and Wortsman et al. (2023), arXiv 2309.14322.

    >>> model = transformer(vocabulary=7, context=5, depth=1, width=8, heads=2, qk_norm=True)
    >>> params = model.init(jax.random.key(0))
    >>> activity = model.observe(params, jnp.array([[3, 1, 4], [1, 5, 2]]))
    >>> activity.logits.shape, activity.attention_logits.shape
    ((2, 3, 7), (1, 2, 2, 3, 3))
    """
    sizes = {"vocabulary": vocabulary, "context": context, "depth": depth, "width": width}
    for name, size in (sizes | {"heads": heads, "mlp_ratio": mlp_ratio}).items():
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")
    if width % heads:
        raise ValueError(f"heads must divide the width {width}, got {heads}")
    if qk_norm and width == heads:
        raise ValueError(f"heads must be wider than 1 for qk_norm, got {heads} of width {width}")
    if normalization not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise ValueError(f"normalization must be one of {known}, got {normalization!r}")
    if not callable(activation) and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    phi = activation if callable(activation) else ACTIVATIONS[activation]
    statics = _Statics(
        **sizes,
        heads=heads,
        mlp_ratio=mlp_ratio,
        activation=phi,
        normalization=normalization,
        qk_norm=qk_norm,
        causal=causal,
        tied=tied,
        use_bias=use_bias,
        dtype=dtype,
    )
    return Transformer(
        init=lambda key: _init(key, statics),
        apply=lambda params, tokens: _forward(params, tokens, statics).logits,
        observe=lambda params, tokens: _forward(params, tokens, statics),
    )


def normalize(x: Float[Array, "... n"], gain: Float[Array, " n"] | None, *, how: str) -> Array:
    """``gain (x - mean) / sd`` ("layer"), ``gain x / root mean square`` ("rms"), or x ("none").

    Over the last axis, sd the root of the mean square; ``EPSILON`` is added under the root.

    >>> normalize(jnp.array([1.0, 3.0]), jnp.full(2, 2.0), how="layer").round(4).tolist()
    [-2.0, 2.0]
    """
    if how == "none" or gain is None:
        return x
    if how == "layer":
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)
    return x * scale * jnp.broadcast_to(gain, x.shape)


def largest_attention_logit(
    attention_logits: Float[Array, "depth *examples heads t t"], *, causal: bool
) -> Float[Array, " depth"]:
    """Largest modulus of an attention logit in every block, of pairs that may see each other.

    >>> largest_attention_logit(jnp.array([[[[1.0, 9.0], [-2.0, 1.0]]]]), causal=True).tolist()
    [2.0]
    """
    allowed = _visible(attention_logits.shape[-1], causal)
    sizes = jnp.where(jnp.broadcast_to(allowed, attention_logits.shape), attention_logits, 0)
    return jnp.max(jnp.abs(sizes), axis=tuple(range(1, sizes.ndim)))


def _init(key: Key[Array, ""], statics: _Statics) -> TransformerParams:
    keys = layer_keys(key, 3 + statics.depth)
    rows = (statics.vocabulary, statics.context, statics.vocabulary)
    embedding, positions, unembedding = (
        gaussian_init(k, (n, statics.width), statics.dtype)
        for k, n in zip(keys[:3], rows, strict=True)
    )
    blocks = tuple(_init_block(k, statics) for k in keys[3:])
    return TransformerParams(
        embedding, positions, blocks, _gain(statics), None if statics.tied else unembedding
    )


def _init_block(key: Key[Array, ""], statics: _Statics) -> Block:
    n, d, hidden = statics.width, statics.width // statics.heads, statics.mlp_ratio * statics.width
    *looks, out, first, second = layer_keys(key, 6)
    # one matrix for all heads, then cut: fan-in is the width, of queries as of the outputs' sum
    query, key_map, value = (
        gaussian_init(k, (n, n), statics.dtype).reshape(statics.heads, d, n) for k in looks
    )
    output = gaussian_init(out, (n, n), statics.dtype).reshape(n, statics.heads, d)
    gains = (jnp.ones(d, statics.dtype) if statics.qk_norm else None,) * 2
    attention = Attention(query, key_map, value, jnp.moveaxis(output, 1, 0), *gains)
    rise, fall = _init_layer(first, (hidden, n), statics), _init_layer(second, (n, hidden), statics)
    return Block(_gain(statics), attention, _gain(statics), rise, fall)


def _init_layer(key: Key[Array, ""], shape: tuple[int, int], statics: _Statics) -> Layer:
    bias = jnp.zeros(shape[0], statics.dtype) if statics.use_bias else None
    return Layer(gaussian_init(key, shape, statics.dtype), bias)


def _gain(statics: _Statics) -> Array | None:
    return None if statics.normalization == "none" else jnp.ones(statics.width, statics.dtype)


def _forward(params: TransformerParams, tokens: Any, statics: _Statics) -> Activity:
    tokens = _tokens(tokens, statics)
    how, h = statics.normalization, params.embedding[tokens]
    h = h + jnp.broadcast_to(params.positions[: tokens.shape[-1]], h.shape)
    seen = []
    for block in params.blocks:
        n = normalize(h, block.attention_gain, how=how)
        attended, attention_logits = _attend(block.attention, n, statics.causal)
        h = h + attended
        n = normalize(h, block.mlp_gain, how=how)
        h = h + _affine(block.second, statics.activation(_affine(block.first, n)))
        seen.append(attention_logits)
    unembedding = params.embedding if params.unembedding is None else params.unembedding
    logits = normalize(h, params.final_gain, how=how) @ unembedding.T
    return Activity(logits, jnp.stack(seen))


def _attend(
    maps: Attention, n: Float[Array, "*examples t width"], causal: bool
) -> tuple[Array, Array]:
    """What the heads together add at every position, and their logits before the mask."""
    query, key, value = (
        jnp.einsum("hdw,...tw->...htd", m, n) for m in (maps.query, maps.key, maps.value)
    )
    query = normalize(query, maps.query_gain, how="layer")  # without a gain: as it is
    key = normalize(key, maps.key_gain, how="layer")
    logits = jnp.einsum("...htd,...hsd->...hts", query, key) / math.sqrt(query.shape[-1])
    allowed = jnp.broadcast_to(_visible(logits.shape[-1], causal), logits.shape)
    weights = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), axis=-1)
    mixed = jnp.einsum("...hts,...hsd->...htd", weights, value)
    return jnp.einsum("hwd,...htd->...tw", maps.output, mixed), logits


def _visible(length: int, causal: bool) -> Bool[Array, "t t"]:
    everything = jnp.ones((length, length), bool)
    return jnp.tril(everything) if causal else everything


def _affine(layer: Layer, x: Float[Array, "*examples n_in"]) -> Array:
    h = x @ layer.weight.T
    return h if layer.bias is None else h + jnp.broadcast_to(layer.bias, h.shape)


def _tokens(tokens: ArrayLike, statics: _Statics) -> Int[Array, "*examples t"]:
    found = jnp.asarray(tokens)
    if not jnp.issubdtype(found.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers, got {found.dtype}")
    if found.ndim == 0 or not 1 <= found.shape[-1] <= statics.context:
        wanted = f"1 to {statics.context} positions on the last axis"
        raise ValueError(f"tokens must have {wanted}, got shape {found.shape}")
    if not holds(found, lambda t: (t >= 0) & (t < statics.vocabulary)):
        raise ValueError(f"tokens must be between 0 and {statics.vocabulary - 1}, got {tokens}")
    return found
