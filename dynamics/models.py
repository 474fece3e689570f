"""Small networks written by hand: deep linear, multilayer perceptron, two-layer committee.

Each is a ``Model(init, apply)`` of pure functions (``dynamics.adapters`` defines it and lets flax
modules in). Inputs have examples on the leading axes and features on the last. Weights have shape
(n_l, n_{l-1}), ``h_l = W_l h_{l-1}``; the depth L counts weight matrices. Gaussian weights are
exact, not truncated as flax's are, and drawn in ``dtype``; the default ``float`` is JAX's own
(float64 under x64).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from dynamics.adapters import Model, from_linen, from_nnx  # noqa: F401 (one door to all models)
from dynamics.initialization import (  # noqa: F401
    aligned_init,
    gaussian_init,
    holds,
    layer_keys,
    matrix_shapes,
    orthogonal_init,
)

Activation = str | Callable[[Array], Array]
Initializer = Callable[[Key[Array, ""], tuple[int, int], Any], Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda h: h,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "square": jnp.square,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda h: jax.nn.gelu(h, approximate=False),
    "erf": jax.scipy.special.erf,
    "scaled_erf": lambda h: jax.scipy.special.erf(h / math.sqrt(2.0)),  # Saad & Solla's g
}


class Layer(NamedTuple):
    """An affine layer: ``weight`` (n_out, n_in), ``bias`` (n_out,) or None."""

    weight: Array
    bias: Array | None


class Committee(NamedTuple):
    """A committee: ``first`` (n_hidden, n_in), ``second`` (n_hidden,) or None for all ones."""

    first: Array
    second: Array | None


def deep_linear(
    widths: Sequence[int],
    *,
    init: str | Initializer = "gaussian",
    gain: ArrayLike | Sequence[float] = 1.0,
    dtype: Any = float,
) -> Model:
    """A deep linear network ``y = W_L ... W_2 W_1 x``.

    Parameters are the tuple (W_1, ..., W_L); inputs (..., n_0), outputs (..., n_L).

    Args:
        widths: (n_0, ..., n_L), L >= 1.
        init: "gaussian", ``W_l ~ N(0, gain_l^2/n_{l-1})``; "orthogonal", ``gain_l`` times a Haar
            matrix with orthonormal columns or rows; or a function ``(key, shape, dtype) -> W``
            such as those of ``jax.nn.initializers``, times ``gain_l``.
        gain: one number, or one per weight matrix; may be traced.

    Raises:
        ValueError: widths that are not two or more positive integers, an unknown ``init``, a
            wrong number of gains; by ``apply``, inputs whose last axis is not n_0.

    Source: Saxe, McClelland & Ganguli (2014), arXiv 1312.6120.

    >>> model = deep_linear((3, 4, 2), init="orthogonal", gain=0.1)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3))).shape
    (5, 2)
    """
    shapes = matrix_shapes(widths)
    named = {"gaussian": gaussian_init, "orthogonal": orthogonal_init}
    draw = init if callable(init) else _pick("init", init, named)
    gains = jnp.asarray(gain, dtype)
    if gains.shape not in ((), (len(shapes),)) or not holds(gains, np.isfinite):
        raise ValueError(f"gain must be one finite number or {len(shapes)}, got {gain}")
    gains = jnp.broadcast_to(gains, (len(shapes),))

    def init_params(key):
        keys = layer_keys(key, len(shapes))
        return tuple(g * draw(k, s, dtype) for g, k, s in zip(gains, keys, shapes, strict=True))

    def apply(params, x):
        return reduce(lambda h, w: h @ w.T, params, _inputs(x, params[0].shape[1]))

    return Model(init_params, apply)


def end_to_end(params: Sequence[Float[Array, "_ _"]]) -> Float[Array, "n_out n_in"]:
    """The map a deep linear network computes, ``W_L ... W_2 W_1``.

    >>> end_to_end((jnp.full((2, 3), 2.0), jnp.ones((1, 2)))).tolist()
    [[4.0, 4.0, 4.0]]
    """
    return reduce(lambda product, w: w @ product, params)


def mlp(
    widths: Sequence[int],
    *,
    activation: Activation = "tanh",
    parametrization: str = "standard",
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    use_bias: bool = True,
    dtype: Any = float,
) -> Model:
    """A multilayer perceptron in one of three parametrisations.

    With sw^2 = ``weight_variance``, sb^2 = ``bias_variance``, a_0 = x and a_l = phi(h_l):

    * standard: ``h_l = W_l a_{l-1} + b_l``; W_l ~ N(0, sw^2/n_{l-1}), b_l ~ N(0, sb^2); output h_L
    * ntk: ``h_l = sw/sqrt(n_{l-1}) W_l a_{l-1} + sb b_l``; W_l, b_l ~ N(0, 1); output h_L
    * mean_field: as ntk, but the output is ``h_L / sqrt(n_{L-1})``, for two layers without biases
      and sw = 1 the mean ``(1/n) sum_i a_i phi(w_i x / sqrt(n_0))``

    Standard and ntk draw the same function from a key; gradient descent at rate eta in ntk is
    gradient descent at rates ``eta sw^2/n_{l-1}`` (W_l) and ``eta sb^2`` (b_l) in standard. A bias
    with sb = 0 is hence trained in standard and without effect in ntk. In mean_field a rate
    proportional to the last hidden width moves features by amounts that do not vanish with width.

    Parameters are a tuple of ``Layer(weight, bias)``; inputs (..., n_0), outputs (..., n_L).

    Args:
        widths: (n_0, ..., n_L), L >= 1 (mean_field: L >= 2).
        activation: phi, a key of ``ACTIVATIONS`` or an elementwise function.
        weight_variance, bias_variance: non-negative numbers; may be traced.
        use_bias: if not, every bias is None.

    Raises:
        ValueError: bad widths, unknown names, negative or non-finite variances; by ``apply``,
            inputs whose last axis is not n_0.

    Source: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572; Mei, Montanari & Nguyen (2018),
    arXiv 1804.06561.

    >>> model = mlp((3, 16, 2), activation="relu", parametrization="ntk", weight_variance=2.0)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3))).shape
    (5, 2)
    """
    shapes = matrix_shapes(widths)
    phi = activation if callable(activation) else _pick("activation", activation, ACTIVATIONS)
    scaling = {"standard": (True, False), "ntk": (False, False), "mean_field": (False, True)}
    standard, averaged = _pick("parametrization", parametrization, scaling)
    if averaged and len(shapes) < 2:
        raise ValueError(f"widths must have a hidden layer for mean_field, got {tuple(widths)}")
    _check_variance("weight_variance", weight_variance)
    _check_variance("bias_variance", bias_variance)

    def scaled(layer):
        return _scaled(layer, weight_variance / layer.weight.shape[1], bias_variance)

    # one scaling: of the initial weights (standard), or of the weights in every forward pass (ntk)
    def init(key):
        keys = layer_keys(key, len(shapes))
        unit = [_unit_layer(k, s, use_bias, dtype) for k, s in zip(keys, shapes, strict=True)]
        return tuple(scaled(layer) if standard else layer for layer in unit)

    def apply(params, x):
        h = _inputs(x, shapes[0][1])
        for l, layer in enumerate(params):
            weight, bias = layer if standard else scaled(layer)
            h = (phi(h) if l > 0 else h) @ weight.T
            h = h if bias is None else h + jnp.broadcast_to(bias, h.shape)
        return h / math.sqrt(shapes[-1][1]) if averaged else h

    return Model(init, apply)


def committee(
    n_in: int,
    n_hidden: int,
    *,
    activation: Activation = "scaled_erf",
    second_layer: str = "fixed",
    weight_variance: ArrayLike = 1.0,
    readout_variance: ArrayLike = 1.0,
    dtype: Any = float,
) -> Model:
    """A two-layer committee machine, ``y = sum_k v_k g(w_k . x / sqrt(n_in))``, one output.

    The convention of online learning: x ~ N(0, I), so that the pre-activations have covariance
    ``Q_ik = w_i . w_k / n_in``; ``g(u) = erf(u/sqrt(2))``; a plain sum, not a mean, over units.
    "fixed" is the soft committee, v_k = 1; "trained" makes v parameters. At initialisation
    w_ki ~ N(0, ``weight_variance``) and v_k ~ N(0, ``readout_variance``).

    Parameters are ``Committee(first, second)``; inputs (..., n_in), outputs (...): there is no
    output axis.

    Raises:
        ValueError: sizes that are not positive integers, unknown names, negative or non-finite
            variances; by ``apply``, inputs whose last axis is not n_in.

    Source: Saad & Solla (1995), Phys. Rev. E 52, 4225; Goldt et al. (2019), arXiv 1906.08632.

    >>> model = committee(10, 3)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 10))).shape
    (5,)
    """
    shape = matrix_shapes((n_in, n_hidden))[0]
    g = activation if callable(activation) else _pick("activation", activation, ACTIVATIONS)
    trained = _pick("second_layer", second_layer, {"fixed": False, "trained": True})
    _check_variance("weight_variance", weight_variance)
    _check_variance("readout_variance", readout_variance)

    def init(key):
        unit = _unit_layer(key, shape, trained, dtype)
        return Committee(*_scaled(unit, weight_variance, readout_variance))

    def apply(params, x):
        hidden = g(_inputs(x, n_in) @ params.first.T / math.sqrt(n_in))
        return hidden.sum(-1) if params.second is None else hidden @ params.second

    return Model(init, apply)


def _unit_layer(key: Key[Array, ""], shape: tuple[int, int], use_bias: bool, dtype: Any) -> Layer:
    """Weights and biases, all N(0, 1)."""
    w_key, b_key = layer_keys(key, 2)
    bias = jax.random.normal(b_key, shape[:1], dtype) if use_bias else None
    return Layer(jax.random.normal(w_key, shape, dtype), bias)


def _scaled(layer: Layer, weight_variance: Any, bias_variance: Any) -> Layer:
    """The layer times the square roots of the variances, in the layer's own dtype."""
    weight, bias = layer
    weight = jnp.sqrt(jnp.asarray(weight_variance, weight.dtype)) * weight
    if bias is not None:
        bias = jnp.sqrt(jnp.asarray(bias_variance, bias.dtype)) * bias
    return Layer(weight, bias)


def _inputs(x: Any, n_in: int) -> Array:
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != n_in:
        raise ValueError(f"x must have {n_in} features on its last axis, got shape {x.shape}")
    return x


def _pick(name: str, choice: str, table: Mapping[str, Any]) -> Any:
    if choice not in list(table):
        raise ValueError(f"{name} must be one of {', '.join(table)}, got {choice!r}")
    return table[choice]


def _check_variance(name: str, value: Any) -> None:
    if jnp.ndim(value) > 0 or not holds(value, lambda v: np.isfinite(v) & (v >= 0)):
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")
