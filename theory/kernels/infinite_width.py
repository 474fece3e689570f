"""Kernels of infinitely wide fully connected networks: covariance of outputs and tangent kernel.

A network of L weight matrices, ``h_1 = W_1 x + b_1``, ``h_{l+1} = W_{l+1} phi(h_l) + b_{l+1}``,
with independent Gaussian weights of variance w/fan-in and biases of variance s has, as all hidden
widths go to infinity, Gaussian pre-activations, independent from unit to unit, of covariance K_l:

    K_1 = w x.x'/n_0 + s,                       Theta_1 = lw_1 x.x'/n_0 + lb_1
    K_{l+1} = w E[phi(u) phi(v)] + s,
    Theta_{l+1} = lw_{l+1} E[phi(u) phi(v)] + lb_{l+1} + w E[phi'(u) phi'(v)] Theta_l,

(u, v) Gaussian with the variances K_l(x, x), K_l(x', x') and the covariance K_l(x, x'). Theta_L
multiplies the identity of the outputs; with the loss 1/2 sum_i |f_i - y_i|^2 and unit rate,
``df/dt = -Theta_L (f - y)``; with that of a mean over n samples it is slower by n. The rates lw_l,
lb_l of layer l are where parametrisations differ (``layer_rates``). Assumed: phi Lipschitz.

Sources: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572; Lee et al. (2019), arXiv 1902.06720;
rates per layer as in Roberts, Yaida & Hanin (2021), arXiv 2106.10165.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_nonnegative
from theory.checks import Count, require, require_count, require_depth
from theory.kernels.dual_activations import as_dual
from theory.kernels.moments import DualActivation, Moments, affine, input_moments

LIVE = 20  # matrices, as large as the rows at work, that XLA keeps at most at a time (measured: 15)
TABLE = 1500  # numbers that the table of a series takes for every input


class Kernels(NamedTuple):
    """``nngp`` K and ``ntk`` Theta, (n, m); of every layer (L, n, m) if asked for."""

    nngp: Float[Array, "..."]
    ntk: Float[Array, "..."]


class Rates(NamedTuple):
    """Rates of the layers' ``weight`` and ``bias``, relative to a common one: one number or (L,).

    In standard parametrisation: W_l descends at rate eta lw_l/n_{l-1}, b_l at rate eta lb_l.
    """

    weight: ArrayLike
    bias: ArrayLike


def layer_rates(
    parametrization: str,
    *,
    depth: Count,
    fan_in: Sequence[int] | None = None,
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
) -> Rates:
    """The rates (L,) in a standard network that reproduce a parametrisation's training.

    * ntk: lw = w, lb = s
    * mean_field: those of ntk, for the network without its output factor
    * standard: lw_l = n_{l-1}, lb_l = 1: one common rate. Theta grows with the widths n; Theta/n at
      rate n eta has the limit lw_l = n_{l-1}/n, lb_l = 0: finite inputs leave W_1 untrained.

    Args:
        fan_in: (n_0, ..., n_{L-1}), needed for standard.

    Raises ``ValueError`` for an unknown name, fan_in missing or of another length, bad sizes.

    >>> layer_rates("standard", depth=2, fan_in=(3, 100)).weight.tolist()
    [3.0, 100.0]
    """
    require_depth(depth)
    _require_name(parametrization)
    if parametrization != "standard":
        rates = (jnp.asarray(rate, float) for rate in (weight_variance, bias_variance))
        return Rates(*(jnp.broadcast_to(rate, (int(depth),)) for rate in rates))
    if fan_in is None or len(fan_in) != depth:
        raise ValueError(f"fan_in must hold {depth} widths for standard, got {fan_in}")
    require_count(fan_in=fan_in)
    return Rates(jnp.asarray(fan_in, float), jnp.ones(len(fan_in)))


def mlp_kernels(
    x1: Float[ArrayLike, "n n_in"],
    x2: Float[ArrayLike, "m _"] | None = None,
    *,
    activation: str | DualActivation,
    depth: Count,
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    parametrization: str | Rates = "ntk",
    hidden_widths: Sequence[int] | None = None,
    layers: bool = False,
    memory: int | float | None = None,
) -> Kernels:
    """Covariance and tangent kernel of an infinitely wide network, between all rows of x1 and x2.

    What the means of outputs' products and of ``dynamics.layerwise.layerwise_gram`` tend to for
    ``dynamics.models.mlp`` with the same arguments; relative corrections are of order depth/width.
    With x2 = None the angle of an input with itself is exactly 0. Angles of nearly parallel inputs
    are computed from differences: to rounding of the inputs, not its root. Compiled; runs on rows
    x1 that are sharded over devices (without ``memory``).

    Args:
        activation: a name in ``DUALS`` or a dual.
        depth: L, the number of weight matrices.
        weight_variance, bias_variance: w and s.
        parametrization: "ntk"; "standard" (one rate for all parameters) and "mean_field" (output
            divided by sqrt(n_{L-1}): both kernels by n_{L-1}), to leading order at these widths;
            or ``Rates`` of one's own, (lambda_W, lambda_b) in Roberts, Yaida & Hanin.
        hidden_widths: (n_1, ..., n_{L-1}), needed for standard and mean_field, without effect else.
        layers: whether to return those of all layers, as if layer l were the output.
        memory: bytes to stay within, by blocks of rows; None: all rows at once. Blocks of a hundred
            rows, which stay in a CPU's cache, are also faster.

    Raises:
        ValueError: inputs that are not matrices of as many features, a depth < 1, negative
            variances, unknown names, widths missing or of wrong number, memory that is less than
            the result and a block of one row take.

    >>> x = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    >>> kernels = mlp_kernels(x, activation="relu", depth=3, weight_variance=2.0)
    >>> kernels.ntk.diagonal().round(6).tolist()  # L w |x|^2 / n_0
    [6.0, 6.0]
    """
    x1, x2 = _inputs(x1, x2)
    require_depth(depth)
    require_nonnegative(weight_variance=weight_variance, bias_variance=bias_variance)
    variances = jnp.asarray(weight_variance, x1.dtype), jnp.asarray(bias_variance, x1.dtype)
    found, factor = _rates(parametrization, hidden_widths, int(depth), x1.shape[1], variances)
    weight, bias = (jnp.broadcast_to(jnp.asarray(r, x1.dtype), (int(depth),)) for r in found)
    columns = len(x1) if x2 is None else len(x2)
    rows = _rows(len(x1), columns, x1.dtype.itemsize, int(depth) if layers else 1, memory)
    compiled = partial(_kernels, dual=as_dual(activation), layers=bool(layers), rows=rows)
    return compiled(x1, x2, variances, (weight, bias), factor)


@partial(jax.jit, static_argnames=("dual", "layers", "rows"))
def _kernels(
    x1: Array,
    x2: Array | None,
    variances: tuple[Array, Array],
    rates: tuple[Array, Array],
    factor: ArrayLike,
    *,
    dual: DualActivation,
    layers: bool,
    rows: int,
) -> Kernels:
    def block(start):
        part = lax.dynamic_slice_in_dim(x1, start, rows) if rows < len(x1) else x1
        pairs = input_moments(part, x1 if x2 is None else x2, start if x2 is None else None)
        return _recursion(pairs, variances, rates, factor, dual, layers)

    if rows == len(x1):
        return block(0)
    # The last block starts early enough to be full; results are written in place.
    starts = np.minimum(np.arange(0, len(x1), rows), len(x1) - rows)

    def fill(i, results):
        start = jnp.asarray(starts)[i]
        put = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=-2)
        return jax.tree.map(put, results, block(start))

    shapes = jax.eval_shape(block, 0)
    whole = jax.tree.map(
        lambda s: jnp.zeros((*s.shape[:-2], len(x1), s.shape[-1]), s.dtype), shapes
    )
    return lax.fori_loop(0, len(starts), fill, whole)


def _recursion(
    inputs: Moments,
    variances: tuple[Array, Array],
    rates: tuple[Array, Array],
    factor: ArrayLike,
    dual: DualActivation,
    layers: bool,
) -> Kernels:
    """All layers, unrolled: XLA fuses them into one pass over the pairs."""
    w, (weight_rates, bias_rates) = variances[0], rates
    moments = affine(inputs, *variances)
    theta = weight_rates[0] * inputs.mixed + bias_rates[0]
    found = [(moments.mixed, theta)]
    for weight_rate, bias_rate in zip(weight_rates[1:], bias_rates[1:], strict=True):
        below, slopes = dual(*moments)
        theta = weight_rate * below.mixed + bias_rate + w * slopes * theta
        moments = affine(below, *variances)
        found.append((moments.mixed, theta))
    found[-1] = jax.tree.map(lambda kernel: factor * kernel, found[-1])
    if not layers:
        return Kernels(*found[-1])
    return Kernels(*(jnp.stack(each) for each in zip(*found, strict=True)))


def _rates(
    parametrization: str | Rates,
    hidden_widths: Sequence[int] | None,
    depth: int,
    n_in: int,
    variances: tuple[Array, Array],
) -> tuple[Rates, float]:
    """Rates, and the factor of the outputs' kernels."""
    if isinstance(parametrization, Rates):
        for name, rate in parametrization._asdict().items():
            require(name, rate, np.isfinite, "finite")
            if np.shape(rate) not in ((), (depth,)):
                raise ValueError(f"{name} must be one rate or {depth}, got shape {np.shape(rate)}")
        return parametrization, 1.0
    _require_name(parametrization)
    fan_in = None
    if parametrization != "ntk":
        if hidden_widths is None or len(hidden_widths) != depth - 1:
            raise ValueError(
                f"hidden_widths must hold {depth - 1} widths for {parametrization}, "
                f"got {hidden_widths}"
            )
        require_count(hidden_widths=hidden_widths)
        fan_in = (n_in, *hidden_widths)
    averaged = parametrization == "mean_field"
    if averaged and depth < 2:
        raise ValueError(f"depth must be at least 2 for mean_field, got {depth}")
    w, s = variances
    rates = layer_rates(
        parametrization, depth=depth, fan_in=fan_in, weight_variance=w, bias_variance=s
    )
    return rates, 1 / fan_in[-1] if averaged and fan_in else 1.0


def _require_name(parametrization: str) -> None:
    if parametrization not in ("ntk", "standard", "mean_field"):
        raise ValueError(
            f"parametrization must be ntk, standard, mean_field or Rates, got {parametrization!r}"
        )


def _inputs(x1: ArrayLike, x2: ArrayLike | None) -> tuple[Array, Array | None]:
    x1 = jnp.asarray(x1)
    if x1.ndim != 2 or 0 in x1.shape:
        raise ValueError(f"x1 must be (examples, features), got shape {x1.shape}")
    dtype = jnp.result_type(x1, 1.0) if x2 is None else jnp.result_type(x1, x2, 1.0)
    if x2 is not None:
        x2 = jnp.asarray(x2, dtype)
        if x2.ndim != 2 or x2.shape[1] != x1.shape[1] or len(x2) == 0:
            raise ValueError(f"x2 must have {x1.shape[1]} features a row, got shape {x2.shape}")
    return x1.astype(dtype), x2


def _rows(n: int, m: int, itemsize: int, results: int, memory: int | float | None) -> int:
    """Rows at a time."""
    if memory is None:
        return n
    fixed, row = (2 * results * n + TABLE) * m * itemsize, (LIVE + 2 * results) * m * itemsize
    if not memory >= fixed + row:
        raise ValueError(f"memory must be at least {fixed + row} bytes, got {memory}")
    return int(min(n, (memory - fixed) // row))
