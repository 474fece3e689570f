"""Initialisations that neither blow up nor die out with depth, and what depth does there.

A network is critical when, at a fixed point K* of ``K' = C_b + C_W <phi^2>``, both susceptibilities
(``theory.kernels.depth_recursions``) are one: nothing grows or decays exponentially with depth.
There are three ways to get there, the universality classes

    scale-invariant   phi = a_+ z (z > 0), a_- z (z < 0), as ReLU: C_b = 0, C_W = 2/(a_+^2 + a_-^2),
                      every K is a fixed point
    K*=0              phi(0) = 0, as tanh, sin, erf: the same variances with the slopes at 0; K
                      decays to 0 as a power of depth
    half-stable       K* > 0 and C_b > 0, as GELU, SiLU: K is attracted by K* from one side and
                      leaves it on the other

and activations for which there is none with C_b >= 0 (softplus, sigmoid). Near a half-stable point
``K' - K = (d chi_par/dK / 2) (K - K*)^2``, small enough for GELU and SiLU that K hardly moves over
hundreds of layers on either side.

Conventions: C_W = ``weight_variance``, C_b = ``bias_variance``, as in ``depth_recursions``; single
input. Source: Roberts, Yaida & Hanin (2021), arXiv 2106.10165; classes are found numerically here.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from theory.kernels.depth_recursions import (
    ORIGIN,
    Activation,
    preactivation_average,
    susceptibilities,
)

GRID_DECADES = (-8.0, 4.0)  # kernels looked at, to tell the classes apart
HALF_STABLE_DECADES = (-4.0, 4.0)  # kernels among which a half-stable fixed point is sought
GRID = 241
BISECTIONS = 60
NEARLY_ZERO = 1e-8  # kernel at which the residual of K* = 0 is taken


class CriticalPoint(NamedTuple):
    """A critical initialisation.

    ``kernel`` K* (1 where every kernel is a fixed point); ``vertex_slope`` nu = lim V/(l K^2);
    ``residual`` the largest of |chi_par - 1|, |chi_perp - 1| and |K'/K - 1| at K* (at K = 1e-8 for
    K* = 0, hence not zero), chi_par by both its formulas; ``converged`` whether it is small. In the
    class "none" nothing was found and the numbers are NaN.
    """

    kernel: Float[Array, ""]
    weight_variance: Float[Array, ""]
    bias_variance: Float[Array, ""]
    vertex_slope: Float[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    universality: Literal["scale-invariant", "K*=0", "half-stable", "none"]


class Exponents(NamedTuple):
    """Powers of the depth l: ``K ~ 1/(-a_1 l)^p_0``, ``1 - chi ~ p/l``, with K' = K + a_1 K^2."""

    kernel: Float[Array, ""]
    perpendicular: Float[Array, ""]
    parallel: Float[Array, ""]
    kernel_coefficient: Float[Array, ""]


def critical_initialization(
    activation: Activation, *, kinks: tuple[float, ...] = ORIGIN
) -> CriticalPoint:
    """The critical variances of an activation and their universality class, found numerically.

    Order: scale invariance; then a stable K* = 0 (phi(0) = 0 and K decreases from small values);
    then the smallest K* in [1e-4, 1e4] with chi_par = chi_perp, C_W = 1/<phi'^2> and
    C_b = K* - C_W <phi^2> >= 0. GELU and SiLU have phi(0) = 0 but an unstable K* = 0. The vertex
    slope nu is ``C_W^2 (<phi^4> - <phi^2>^2)/K^2``; for K* = 0 a third of that at K -> 0, however
    fast K decays.

    activation: continuous, elementwise, of polynomial growth, its ``kinks`` listed. Results are in
    JAX's default dtype. Runs eagerly, as it takes no arrays. Raises ``ValueError`` for kinks not
    ascending.

    >>> point = critical_initialization(jax.nn.silu)
    >>> point.universality, round(float(point.bias_variance), 6)
    ('half-stable', 0.555143)
    """
    curve = _curve(jnp.logspace(*GRID_DECADES, GRID), activation=activation, kinks=kinks)
    C_W, nu, zero = curve.weight_variance, curve.spread, jnp.zeros_like(curve.spread)
    # The first kernel at which K' differs from K by more than rounding tells where K* = 0 leads.
    moved = jnp.abs(curve.growth) > 1e3 * jnp.finfo(curve.growth.dtype).eps
    at_origin = float(activation(jnp.zeros(()))) == 0 and float(C_W) > 0
    if at_origin and not bool(jnp.any(moved)):
        residual = _residual(zero + 1, C_W, zero, activation, kinks)
        return CriticalPoint(zero + 1, C_W, zero, nu, residual, residual < 1e-3, "scale-invariant")
    if at_origin and float(curve.growth[jnp.argmax(moved)]) < 0:
        residual = _residual(zero + NEARLY_ZERO, C_W, zero, activation, kinks)
        return CriticalPoint(zero, C_W, zero, nu / 3, residual, residual < 1e-2, "K*=0")
    return _half_stable(activation, kinks)


def critical_exponents(activation: Activation) -> Exponents:
    """Powers of depth in the class K* = 0, from the Taylor coefficients of phi at 0.

    With phi = s_1 z + s_2 z^2/2 + s_3 z^3/6, C_W = 1/s_1^2 and C_b = 0,

        K' = K + a_1 K^2,  chi_perp = 1 + b_1 K,  a_1 = (3 s_2^2/4 + s_1 s_3)/s_1^2,
        b_1 = (s_2^2 + s_1 s_3)/s_1^2,  p_0 = 1,  p_perp = b_1/a_1,  p_par = 2

    so that K -> 1/(-a_1 l), 1 - chi_perp -> p_perp/l, 1 - chi_par -> 2/l, V/K^2 -> 2l/3. For
    p_perp > 0 the tangent kernel tends to lam_W/(-a_1 p_perp C_W) if lam_b = 0, and otherwise grows
    as lam_b l/(1 + p_perp). Corrections are of relative size log(l)/l. Odd phi: p_perp = 1.

    Raises ``ValueError`` unless phi(0) = 0, phi'(0) != 0, a_1 < 0 and phi is smooth at 0 (its first
    three derivatives agree on both sides; ELU, for one, has K ~ 1/l^2).
    Source: Roberts, Yaida & Hanin (2021), arXiv 2106.10165; H for lam_b != 0 derived here.

    >>> [round(float(value), 6) for value in critical_exponents(jnp.tanh)]
    [1.0, 1.0, 2.0, -2.0]
    """
    below, above = (jnp.stack(_derivatives(activation, side)) for side in (-1.0, 1.0))
    if not bool(jnp.all(jnp.abs(above - below) <= 1e-3 * jnp.max(jnp.abs(above)))):
        raise ValueError("activation must be three times differentiable at 0, and is not")
    s0, s1, s2, s3 = above
    if float(s0) != 0 or float(s1) == 0:
        raise ValueError(f"activation must have phi(0) = 0 and phi'(0) != 0, got {s0} and {s1}")
    a1, b1 = (3 * s2**2 / 4 + s1 * s3) / s1**2, (s2**2 + s1 * s3) / s1**2
    if not float(a1) < 0:
        raise ValueError(f"activation must have a stable K* = 0, that is a_1 < 0, got {a1}")
    return Exponents(jnp.ones_like(a1), b1 / a1, jnp.full_like(a1, 2.0), a1)


class _Curve(NamedTuple):
    """C_W = 2/(a_+^2 + a_-^2) and <phi^4>/<phi^2>^2 - 1 from the slopes at the origin (C_W = 0 if
    both are 0), and K'/K - 1 along kernels."""

    weight_variance: Array
    spread: Array
    growth: Array


@partial(jax.jit, static_argnames=("activation", "kinks"))
def _curve(kernels, *, activation, kinks) -> _Curve:
    slopes = jnp.stack([_derivatives(activation, side, kernels.dtype)[1] for side in (-1.0, 1.0)])
    square, fourth = jnp.mean(slopes**2), jnp.mean(slopes**4)
    inverse = jnp.where(square > 0, 1 / jnp.where(square > 0, square, 1.0), 0.0)
    second = preactivation_average(lambda z: activation(z) ** 2, kernels, kinks=kinks)
    return _Curve(inverse, 3 * fourth * inverse**2 - 1, inverse * second / kernels - 1)


def _derivatives(activation: Activation, side: float, dtype: Any = float) -> list[Array]:
    """phi and its first three derivatives on one side of the origin."""
    chain: list[Any] = [activation]
    for _ in range(3):
        chain.append(jax.grad(chain[-1]))
    at = jnp.asarray(side * float(jnp.finfo(dtype).tiny) ** 0.5, dtype)
    return [activation(jnp.zeros_like(at)), *(derivative(at) for derivative in chain[1:])]


@partial(jax.jit, static_argnames=("activation", "kinks"))
def _mismatch(kernel, *, activation, kinks):
    """chi_par/chi_perp - 1, and the C_b for which K is a fixed point at chi_perp = 1."""
    chi = susceptibilities(kernel, activation=activation, kinks=kinks)
    second = preactivation_average(lambda z: activation(z) ** 2, kernel, kinks=kinks)
    return chi.parallel / chi.perpendicular - 1, kernel - second / chi.perpendicular


def _half_stable(activation: Activation, kinks: tuple[float, ...]) -> CriticalPoint:
    mismatch = partial(_mismatch, activation=activation, kinks=kinks)
    kernels = jnp.logspace(*HALF_STABLE_DECADES, GRID)
    gap, bias_variance = mismatch(kernels)
    crossing = (gap[1:] * gap[:-1] < 0) & (bias_variance[1:] >= 0)
    if not bool(jnp.any(crossing)):
        no = jnp.full((), jnp.nan)
        return CriticalPoint(no, no, no, no, no, jnp.array(False), "none")
    first = int(jnp.argmax(crossing))
    low, high, below = kernels[first], kernels[first + 1], gap[first]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        same = bool(mismatch(middle)[0] * below > 0)
        low, high = (middle, high) if same else (low, middle)
    kernel = (low + high) / 2
    average = partial(preactivation_average, kernel=kernel, kinks=kinks)
    C_W = 1 / susceptibilities(kernel, activation=activation, kinks=kinks).perpendicular
    second, fourth = average(lambda z: activation(z) ** 2), average(lambda z: activation(z) ** 4)
    C_b, nu = kernel - C_W * second, C_W**2 * (fourth - second**2) / kernel**2
    residual = _residual(kernel, C_W, C_b, activation, kinks)
    converged = residual < 1e4 * jnp.finfo(residual.dtype).eps
    return CriticalPoint(kernel, C_W, C_b, nu, residual, converged, "half-stable")


@partial(jax.jit, static_argnames=("activation", "kinks"))
def _residual(kernel, C_W, C_b, activation, kinks):
    """Largest distance from criticality. The second formula for chi_par has no derivative in it:
    it disagrees where the quadrature fails, or meets a kink not listed."""
    average = partial(preactivation_average, kernel=kernel, kinks=kinks)
    second = average(lambda z: activation(z) ** 2)
    chi = susceptibilities(kernel, activation=activation, weight_variance=C_W, kinks=kinks)
    bulk = average(lambda z: (z * activation(z)) ** 2)
    parallel = C_W * (bulk / kernel - second) / (2 * kernel)
    ones = [chi.parallel, parallel, chi.perpendicular, (C_b + C_W * second) / kernel]
    return jnp.max(jnp.abs(jnp.stack(ones) - 1))
