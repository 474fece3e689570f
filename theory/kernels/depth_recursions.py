"""Statistics of a random network's preactivations from layer to layer, at finite width, one input.

For ``z_1 = b + W x``, ``z_{l+1} = b + W phi(z_l)`` with W ~ N(0, C_W/n_l), b ~ N(0, C_b), the units
of layer l + 1 are, given layer l, independent Gaussians of one random variance
``G_{l+1} = C_b + C_W mean_i phi(z_li)^2``. To first order in 1/width

    K' = C_b + C_W <phi^2>                                            kernel, infinite width
    V' = C_W^2 (<phi^4> - <phi^2>^2) + chi_par^2 V n/n_prev           Var G = V/n_prev
    G1' = chi_par G1 n/n_prev + (C_W/2) d^2<phi^2>/dK^2 V n/n_prev    E G = K + G1/n_prev
    H' = lam_b + lam_W <phi^2> + chi_perp H                           tangent kernel, infinite width

where <.> averages over z ~ N(0, K), a prime means the next layer, n_prev and n are the inputs
(fan-in) of this layer and of the next. So E[z_i^2] = K + G1/n_prev, E[z_i^2 z_j^2] - E[z_i^2]
E[z_j^2] = V/n_prev for i != j, and 3V/(n_prev K^2) is the excess kurtosis of one preactivation.

Parametrisation: C_W = ``weight_variance`` (sigma_w^2), C_b = ``bias_variance`` (sigma_b^2). H is
the mean of ``sum_p rate_p (df/dp)^2`` for one output, with rates ``lam_W/n_prev`` for weights and
lam_b for biases in the standard parametrisation; lam_W = C_W, lam_b = C_b is the tangent kernel of
the NTK parametrisation, and the default. Activations are continuous, act elementwise, can be
differentiated by JAX, and are hashed as static arguments: define them once, not in a loop.

Source: Roberts, Yaida & Hanin (2021), arXiv 2106.10165.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative, require_positive

Activation = Callable[[Array], Array]
ORIGIN = (0.0,)  # where activations mostly have their kink

# The normal density beyond 13 is below 1e-37. Nodes crowd at the ends of an interval like 1/n^2, so
# that a split at 0 also resolves tanh(30 z) there.
_REACH = 13.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


class Susceptibilities(NamedTuple):
    """Growth per layer of a difference in length (parallel) and in direction (perpendicular)."""

    parallel: Float[Array, "..."]
    perpendicular: Float[Array, "..."]


class LayerStatistics(NamedTuple):
    """K, V, G1 and H of one layer, or of all layers along the leading axis."""

    kernel: Float[Array, "..."]
    vertex: Float[Array, "..."]
    correction: Float[Array, "..."]
    tangent_kernel: Float[Array, "..."]


def preactivation_average(
    f: Activation, kernel: ArrayLike, *, kinks: tuple[float, ...] = ORIGIN
) -> Float[Array, "..."]:
    """Average of f(z) over z ~ N(0, K), for f smooth between its ``kinks``.

    Gauss-Legendre on each interval between kinks (in units of z, ascending; jumps are kinks too).
    Rounding error for f of polynomial growth whose singularities keep a distance from the real axis
    of 0.05 sqrt(K) or more; those above a kink may be closer. kernel: (...); f acts elementwise.

    Raises ``ValueError`` for a negative kernel or kinks not ascending.

    >>> round(float(preactivation_average(lambda z: jnp.maximum(z, 0.0) ** 2, 3.0)), 5)
    1.5
    """
    require_nonnegative(kernel=kernel)
    if any(np.diff(kinks) <= 0):
        raise ValueError(f"kinks must be ascending, got {kinks}")
    (kernel,) = as_floats(kernel)
    scale = jnp.sqrt(kernel)[..., None]
    wide = jnp.where(scale > 0, scale, 1.0)  # at K = 0 any split does
    ends = [jnp.full_like(wide, -_REACH), jnp.full_like(wide, _REACH)]
    inner = [jnp.clip(kink / wide, -_REACH, _REACH) for kink in kinks]
    edges = jnp.concatenate([ends[0], *inner, ends[1]], axis=-1)
    half, middle = jnp.diff(edges)[..., None] / 2, (edges[..., 1:] + edges[..., :-1])[..., None] / 2
    nodes = jnp.broadcast_to(jnp.asarray(_NODES, kernel.dtype), (*half.shape[:-1], len(_NODES)))
    x = middle + half * nodes
    weights = jnp.broadcast_to(jnp.asarray(_WEIGHTS, kernel.dtype), nodes.shape)
    density = half * weights * jnp.exp(-(x**2) / 2) / jnp.sqrt(2 * jnp.pi)
    return jnp.sum(density * f(scale[..., None] * x), axis=(-2, -1))


def susceptibilities(
    kernel: ArrayLike,
    *,
    activation: Activation,
    weight_variance: ArrayLike = 1.0,
    kinks: tuple[float, ...] = ORIGIN,
) -> Susceptibilities:
    """``chi_par = C_W <z phi phi'>/K = C_W d<phi^2>/dK`` and ``chi_perp = C_W <phi'^2>``.

    kernel K and weight_variance C_W broadcast. Raises ``ValueError`` unless they are positive.

    >>> [float(chi.round(4)) for chi in susceptibilities(3.0, activation=jax.nn.relu)]
    [0.5, 0.5]
    """
    require_positive(kernel=kernel, weight_variance=weight_variance)
    kernel, weight_variance = as_floats(kernel, weight_variance)
    average = partial(preactivation_average, kernel=kernel, kinks=kinks)
    parallel = average(lambda z: z * activation(z) * _slope(activation, z)) / kernel
    perpendicular = average(lambda z: _slope(activation, z) ** 2)
    return Susceptibilities(weight_variance * parallel, weight_variance * perpendicular)


def layer_step(
    state: LayerStatistics,
    width: ArrayLike,
    previous_width: ArrayLike,
    *,
    activation: Activation,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike = 0.0,
    weight_rate: ArrayLike | None = None,
    bias_rate: ArrayLike | None = None,
    kinks: tuple[float, ...] = ORIGIN,
) -> LayerStatistics:
    """The statistics of the next layer: the equations on top of this module.

    ``width`` n is the number of units of this layer, ``previous_width`` n_prev that of the one
    before (any number if this is the first layer, where V = G1 = 0). All arguments broadcast;
    the kernel must be positive. Rates lam default to the variances (NTK parametrisation).

    Raises ``ValueError`` unless widths and weight_variance are positive, the others non-negative.

    >>> first = LayerStatistics(*jnp.array([2.0, 0.0, 0.0, 2.0]))
    >>> second = layer_step(first, 10, 10, activation=jax.nn.relu, weight_variance=2.0)
    >>> [round(float(value), 6) for value in second]  # V = 5 K^2, H = 2 K
    [2.0, 20.0, 0.0, 4.0]
    """
    require_positive(width=width, previous_width=previous_width, weight_variance=weight_variance)
    weight_rate = weight_variance if weight_rate is None else weight_rate
    bias_rate = bias_variance if bias_rate is None else bias_rate
    require_nonnegative(bias_variance=bias_variance, weight_rate=weight_rate, bias_rate=bias_rate)
    K, V, G1, H, n, n_prev, C_W, C_b, lam_W, lam_b = as_floats(
        *state, width, previous_width, weight_variance, bias_variance, weight_rate, bias_rate
    )
    average = partial(preactivation_average, kernel=K, kinks=kinks)
    second, fourth = average(lambda z: activation(z) ** 2), average(lambda z: activation(z) ** 4)
    chi = susceptibilities(K, activation=activation, weight_variance=C_W, kinks=kinks)
    # <phi^2 He_4(z/sqrt K)>/(4 K^2), integrated by parts once: no second derivative at a kink
    third_moment = average(lambda z: z**3 * activation(z) * _slope(activation, z)) / K**3
    bend = C_W * third_moment / 2 - 3 * chi.parallel / (2 * K)
    ratio = n / n_prev
    return LayerStatistics(
        C_b + C_W * second,
        C_W**2 * (fourth - second**2) + chi.parallel**2 * V * ratio,
        (chi.parallel * G1 + bend * V / 2) * ratio,
        lam_b + lam_W * second + chi.perpendicular * H,
    )


def depth_recursion(
    input_square: ArrayLike,
    widths: ArrayLike,
    *,
    activation: Activation,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike = 0.0,
    weight_rate: ArrayLike | None = None,
    bias_rate: ArrayLike | None = None,
    kinks: tuple[float, ...] = ORIGIN,
) -> LayerStatistics:
    """The statistics of layers 1, ..., L of a network with hidden ``widths`` n_1, ..., n_{L-1}.

    Layer 1 is exactly Gaussian: K = C_b + C_W x2, H = lam_b + lam_W x2, V = G1 = 0, with x2 =
    ``input_square`` = |x|^2/n_0. Entry l - 1 of each result (L,) belongs to layer l; its V and G1
    are to be divided by n_{l-1}. Widths enter through their ratios only.

    Raises ``ValueError`` unless input_square is a non-negative number, widths a vector of positive
    numbers, the kernel of layer 1 positive, and as ``layer_step`` does.

    >>> found = depth_recursion(1.0, jnp.full(3, 64), activation=lambda z: z, weight_variance=1.0)
    >>> found.kernel.round(6).tolist(), found.vertex.round(6).tolist()  # V = 2 (l - 1) K^2
    ([1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 4.0, 6.0])
    """
    require_nonnegative(input_square=input_square, bias_variance=bias_variance)
    require_positive(widths=widths, weight_variance=weight_variance)
    weight_rate = weight_variance if weight_rate is None else weight_rate
    bias_rate = bias_variance if bias_rate is None else bias_rate
    require_nonnegative(weight_rate=weight_rate, bias_rate=bias_rate)
    if jnp.ndim(widths) != 1:
        raise ValueError(f"widths must be a vector, got shape {jnp.shape(widths)}")
    numbers = as_floats(input_square, weight_variance, bias_variance, weight_rate, bias_rate)
    if numbers[0].ndim != 0:
        raise ValueError(f"input_square, variances and rates must be numbers, got {numbers[0]}")
    x2, C_W, C_b, _, _ = numbers
    require_positive(**{"bias_variance + weight_variance * input_square": C_b + C_W * x2})
    widths = jnp.asarray(widths, x2.dtype)
    return _recursion(*numbers, widths, activation=activation, kinks=kinks)


def scale_invariant_moment(
    widths: ArrayLike, positive_slope: ArrayLike = 1.0, negative_slope: ArrayLike = 0.0
) -> Float[Array, ""]:
    """``E[G_L^2]/K_L^2`` of phi(z) = a_+ z (z > 0), a_- z (z < 0) without biases, at any width.

        prod_l (1 + nu/n_l),   nu = <phi^4>/<phi^2>^2 - 1 = 6 (a_+^4 + a_-^4)/(a_+^2 + a_-^2)^2 - 1,

    over the hidden widths n_1, ..., n_{L-1}: nu = 5 for ReLU (default), 2 for a linear network. The
    weight variance cancels; a single preactivation has the kurtosis 3 E[G^2]/K^2. Here
    ``V/n_{L-1} = K^2 sum_l nu/n_l`` is the first order of Var G.

    Raises ``ValueError`` unless widths are positive and one slope is nonzero. Derived here.

    >>> round(float(scale_invariant_moment(jnp.array([5, 10]))), 6)
    3.0
    """
    require_positive(widths=widths)
    up, down = as_floats(positive_slope, negative_slope)
    require_positive(**{"positive_slope^2 + negative_slope^2": up**2 + down**2})
    nu = 6 * (up**4 + down**4) / (up**2 + down**2) ** 2 - 1
    return jnp.prod(1 + nu / jnp.asarray(widths, nu.dtype))


def _slope(activation: Activation, z: Array) -> Array:
    return jax.jvp(activation, (z,), (jnp.ones_like(z),))[1]


@partial(jax.jit, static_argnames=("activation", "kinks"))
def _recursion(x2, C_W, C_b, lam_W, lam_b, widths, *, activation, kinks):
    zero = jnp.zeros_like(x2)
    first = LayerStatistics(C_b + C_W * x2, zero, zero, lam_b + lam_W * x2)
    rates = {"weight_rate": lam_W, "bias_rate": lam_b}
    variances = {"weight_variance": C_W, "bias_variance": C_b}

    def step(state, sizes):
        moved = layer_step(state, *sizes, activation=activation, kinks=kinks, **variances, **rates)
        return moved, moved

    previous = jnp.concatenate([jnp.ones_like(widths[:1]), widths[:-1]])
    rest = jax.lax.scan(step, first, (widths, previous))[1]
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)
