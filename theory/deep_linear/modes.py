"""Modes of deep linear networks: two layers of any balance here; task and depth re-exported.

Layers aligned with the task learn each singular mode by itself (Saxe, McClelland & Ganguli 2014,
arXiv:1312.6120). In two layers with hidden vectors a (input) and b (output), ``u = a.b`` and

    tau du/dt = sqrt(c^2 + 4 u^2) (s - u),    c the conserved imbalance.

Conventions: loss ``1/2 (s - u)^2`` per mode; ``s`` is the singular value of the input-output
correlation of whitened inputs (otherwise ``s/lam`` is the target, see ``decompose_task``). Whether
correlations are sums or means over examples is the caller's choice and sets the unit of ``tau``.
Gradient descent with learning rate ``eta`` has ``tau = 1`` and ``t = eta * step``. ``c`` is
``a^2 - b^2`` for scalars, of either sign, or ``mode_imbalance(a, b) >= 0`` for vectors; the
strength depends on its size only. All arguments broadcast.

``1/(s - u)`` obeys a linear equation, ``y'' = K^2 y - 4 s`` with ``K^2 = c^2 + 4 s^2``, hence

    u = (u0 + s B) / (1 + B),    B = rho sinh(K t/tau) + q (cosh(K t/tau) - 1),
    rho = sqrt(c^2 + 4 u0^2) / K,    q = (c^2 + 4 s u0) / K^2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from theory.arguments import (
    as_floats,
    keep_between,
    require_finite,
    require_nonnegative,
    require_positive,
    require_reached,
)
from theory.checks import is_concrete
from theory.deep_linear.deep_modes import (
    critical_learning_rate,
    deep_mode_strength,
    deep_mode_time,
    deep_mode_velocity,
    escape_time_small_init,
    half_learning_time,
    steps_to_learn,
    unlearning_mode_strength,
)
from theory.deep_linear.task_modes import decompose_task, loss_from_modes

__all__ = [
    "critical_learning_rate",
    "decompose_task",
    "deep_mode_strength",
    "deep_mode_time",
    "deep_mode_velocity",
    "escape_time_small_init",
    "half_learning_time",
    "loss_from_modes",
    "mode_imbalance",
    "steps_to_learn",
    "two_layer_mode_strength",
    "two_layer_mode_time",
    "two_layer_mode_weights",
    "unlearning_mode_strength",
]


def two_layer_mode_strength(
    t: ArrayLike, s: ArrayLike, u0: ArrayLike, imbalance: ArrayLike = 0.0, tau: ArrayLike = 1.0
) -> Array:
    """Strength ``u(t)`` of a two-layer mode, whatever its imbalance and the sign of its start.

    ``u = (u0 + s B) / (1 + B)`` as in the module's head; balanced and ``u0 > 0`` it is the logistic
    ``s u0 / (u0 + (s - u0) e^(-2 s t/tau))``. A balanced mode with ``u0 < 0`` sits on the stable
    manifold of the saddle: ``u -> 0``, not ``s``. Accurate to a few roundings (and that of ``K t``)
    of u; if ``u0 < 0``, where u may cross zero, of ``max(|u|, min(s, |u0|, |c|))``.
    Raises ``ValueError`` for negative ``t``, ``s`` or ``tau`` not positive, NaN.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> round(float(two_layer_mode_strength(2.2976, s=1.0, u0=0.01)), 4)
    0.5
    >>> round(float(two_layer_mode_strength(1.0, s=1.0, u0=-0.5, imbalance=2.0)), 4)
    0.8427
    """
    require_nonnegative(t=t)
    require_positive(s=s, tau=tau)
    require_finite(u0=u0, imbalance=imbalance)
    return _strength(*as_floats(t, s, u0, imbalance, tau))


def two_layer_mode_weights(u: ArrayLike, imbalance: ArrayLike) -> tuple[Array, Array]:
    """Squared norms of the two layers of a mode of strength ``u`` and imbalance ``c = a^2 - b^2``.

    ``a^2 = (r + c)/2``, ``b^2 = (r - c)/2``, ``r = sqrt(c^2 + 4 u^2)``: first layer, then second.
    Real for any ``u`` and ``c``. Raises ``ValueError`` unless both are finite.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> [float(x) for x in two_layer_mode_weights(2.0, 3.0)]
    [4.0, 1.0]
    """
    require_finite(u=u, imbalance=imbalance)
    u, c = as_floats(u, imbalance)
    larger = 0.5 * (_hypot(c, 2 * u) + jnp.abs(c))
    at_rest = larger == 0
    smaller = jnp.where(at_rest, 0, u * (u / jnp.where(at_rest, 1, larger)))
    return jnp.where(c >= 0, larger, smaller), jnp.where(c >= 0, smaller, larger)


def two_layer_mode_time(
    u: ArrayLike, s: ArrayLike, u0: ArrayLike, imbalance: ArrayLike = 0.0, tau: ArrayLike = 1.0
) -> Array:
    """Time at which a two-layer mode that starts at ``u0`` reaches ``u``.

    ``t = (tau/K) ln(1 + z)`` with ``(rho + q) z^2 / 2 + (rho - B) z = B``, ``B = (u-u0)/(s-u)``;
    balanced: ``(tau/2s) ln(u (s - u0) / (u0 (s - u)))``. ``u`` lies between ``u0`` and ``s``;
    ``u = s`` takes for ever and gives ``inf``; a balanced mode does not pass zero.
    Raises ``ValueError`` for ``s`` or ``tau`` not positive, ``u`` out of reach, NaN.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120.

    >>> round(float(two_layer_mode_time(0.5, s=1.0, u0=0.01)), 4)  # ln(99) / 2
    2.2976
    """
    require_positive(s=s, tau=tau)
    require_finite(u0=u0, imbalance=imbalance)
    saddle = np.asarray(imbalance) == 0 if is_concrete(imbalance) else imbalance
    require_reached(u, s, u0, saddle)
    return _time(*as_floats(u, s, u0, imbalance, tau))


def mode_imbalance(a: Float[ArrayLike, "..."], b: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Conserved imbalance of a mode with hidden vectors ``a`` (first layer) and ``b`` (second).

    ``kappa = sqrt((|a|^2 + |b|^2)^2 - 4 (a.b)^2) = |a - b| |a + b|``, which is ``|a^2 - b^2|`` for
    scalars. Shapes ``(..., hidden)`` in, ``(...)`` out. Raises ``ValueError`` unless a and b are
    finite and of one shape. Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120 (scalars).

    >>> float(mode_imbalance(jnp.array([2.0, 0.0]), jnp.array([1.0, 0.0])))
    3.0
    """
    require_finite(a=a, b=b)
    if jnp.ndim(a) == 0 or jnp.shape(a) != jnp.shape(b):
        shapes = f"{jnp.shape(a)} and {jnp.shape(b)}"
        raise ValueError(f"a and b must have one shape (..., hidden), got {shapes}")
    a, b = as_floats(a, b)
    return _sqrt(jnp.sum((a - b) ** 2, axis=-1)) * _sqrt(jnp.sum((a + b) ** 2, axis=-1))


@jax.custom_jvp
@jax.jit
def _strength(t: Array, s: Array, u0: Array, c: Array, tau: Array) -> Array:
    return _path(t / tau, s, u0, c)[0]


@_strength.defjvp
def _strength_jvp(primals, tangents):
    # In t and u0 from the equation itself, without cancellation: u' = v(u), du/du0 = v(u)/v(u0).
    # At the saddle (u0 = c = 0), where the two sides have e^(+-K t/tau), du/du0 is given as 1.
    (t, s, u0, c, tau), (d_t, d_s, d_u0, d_c, d_tau) = primals, tangents
    path = functools.partial(_path, t / tau)
    (u, left), (by_task, _) = jax.jvp(path, (s, u0, c), (d_s, jnp.zeros_like(d_u0), d_c))
    rate, rate0 = _hypot(c, 2 * u), _hypot(c, 2 * u0)
    at_saddle = rate0 == 0
    by_start = jnp.where(at_saddle, 1, rate) / jnp.where(at_saddle, 1, rate0) * left
    velocity = rate * (s - u0) * left / tau
    return u, velocity * (d_t - t / tau * d_tau) + by_start * d_u0 + by_task


@jax.jit
def _path(t: Array, s: Array, u0: Array, c: Array) -> tuple[Array, Array]:
    """``u`` and ``(s - u)/(s - u0)`` after the time ``t`` in units of tau."""
    rate, rho, growth, pivot = _coefficients(s, u0, c)
    left, gone = jnp.exp(-rate * t), -jnp.expm1(-rate * t)
    # first the approach: halfway to s at best, to the saddle at zero if u0 < 0
    near = jnp.where(u0 < -jnp.abs(c), pivot - s * rho * left, u0 + s * rho * gone)
    approach = near / (1 + rho * gone)
    # then the escape from it: 1 + B = (stay + escape) / e^-Kt, and growth = 0 never escapes
    stay = jnp.where(growth == 0, 1, left) * (1 + rho * gone)
    escape = 0.5 * growth * gone**2
    remaining = _fraction(stay, escape)
    u = approach * remaining + s * _fraction(escape, stay)
    return keep_between(u0, s, u), remaining / (1 + rho * gone)


@jax.custom_jvp
@jax.jit
def _time(u: Array, s: Array, u0: Array, c: Array, tau: Array) -> Array:
    u = keep_between(u0, s, u)
    endless = _velocity(u, s, c, tau) == 0  # it takes for ever, unless the mode is there already
    start, end = jnp.where(endless, s / 2, u0), jnp.where(endless, s / 2, u)
    rate, rho, growth, pivot = _coefficients(s, start, c)
    moved, gap = jnp.abs(end - start), jnp.abs(s - end)
    # growth/2 z^2 + (rho - B) z = B for z = e^(K t/tau) - 1, multiplied by the gap
    linear = jnp.where(start < -jnp.abs(c), pivot - end * (1 + rho), rho * gap - moved)
    root = _hypot(linear, jnp.sqrt(2 * growth * moved * gap))
    z = jnp.where(linear > 0, 2 * moved / (linear + root), (root - linear) / (growth * gap))
    return jnp.where(endless & (u != u0), jnp.inf, tau / rate * jnp.log1p(z))


@_time.defjvp
def _time_jvp(primals, tangents):
    # u(t(u, ...), ...) = u; a time that is 0 or infinite at an equilibrium is given no derivative
    (u, s, u0, c, tau), (d_u, *d_start, d_tau) = primals, tangents
    t, velocity = _time(u, s, u0, c, tau), _velocity(u, s, c, tau)
    endless = velocity == 0
    finite = jnp.where(endless, 0, t)
    _, drift = jax.jvp(lambda *start: _strength(finite, *start, tau), (s, u0, c), tuple(d_start))
    change = (d_u - drift) / jnp.where(endless, 1, velocity) + finite / tau * d_tau
    return t, jnp.where(endless, 0, change)


def _velocity(u: Array, s: Array, c: Array, tau: Array) -> Array:
    return _hypot(c, 2 * u) * (s - u) / tau


def _coefficients(s: Array, u0: Array, c: Array) -> tuple[Array, Array, Array, Array]:
    """``K``, ``rho``, ``growth = rho + q`` and ``pivot = u0 + s rho``, free of cancellation."""
    rate = _hypot(c, 2 * s)
    rho, c2 = _hypot(c, 2 * u0) / rate, (c / rate) ** 2
    q = c2 + 4 * (s / rate) * (u0 / rate)
    # rho^2 - q^2 = 4 c^2 (s - u0)^2 / K^4 and (s rho)^2 - u0^2 = c^2 (s^2 - u0^2) / K^2. Choose by
    # the arguments: compilers recompute q with other roundings and then drop a gradient at q = 0.
    negative = u0 < -jnp.abs(c)
    growth = 4 * c2 * ((s - u0) / rate) ** 2 / jnp.where(negative, rho - q, 1)
    pivot = c2 * (s - u0) * (s + u0) / jnp.where(negative, s * rho - u0, 1)
    return rate, rho, jnp.where(negative, growth, rho + q), jnp.where(negative, pivot, u0 + s * rho)


@jax.custom_jvp
def _fraction(part: Array, rest: Array) -> Array:
    """``part / (part + rest)``, with a derivative that neither cancels nor overflows."""
    return part / (part + rest)


_fraction.defjvps(
    lambda d_part, out, part, rest: rest / (part + rest) * d_part / (part + rest),
    lambda d_rest, out, part, rest: -out * d_rest / (part + rest),
)


def _hypot(x: Array, y: Array) -> Array:
    """``sqrt(x^2 + y^2)`` without under- or overflow; its gradient at the origin is taken as 0."""
    size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(x), jnp.abs(y)))
    scale = jnp.where(size == 0, 1, size)
    return scale * _sqrt((x / scale) ** 2 + (y / scale) ** 2)


def _sqrt(x: Array) -> Array:
    """Square root of ``x >= 0`` whose gradient at 0 is taken as 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))
