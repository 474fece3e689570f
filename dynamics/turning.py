"""How fast a kernel turns as weights move: exact angular velocity, and chords of finite steps.

    omega = |dK - K <K, dK>/|K|^2| / |K|,    dK the derivative of K along the weights' velocity,
    S(dt) = 1 - cos(K(theta), K(theta + dt velocity)) = omega^2 dt^2 / 2 + O(dt^3)

in radians per unit of that velocity's time. S/dt, the kernel velocity of Fort et al., is
proportional to the dt chosen; sqrt(2 S)/dt tends to omega (``dynamics.regime.angular_velocity``).

**ReLU networks do not turn smoothly.** Their tangent kernel jumps where a unit switches for an
example, and automatic differentiation, for which the slope of a step is zero, does not see that:
omega is then the part of the motion between switches, and S is proportional to dt where single
switches, independent of each other, make most of it.

Source: Fort et al. (2020), arXiv 2010.15110, for the distance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.regime import kernel_distance

Kernel = Callable[[PyTree[Any]], Float[Array, "n n"]]


def descent(
    loss: Callable[[PyTree[Any], Any], Array], params: PyTree[Any], data: PyTree[Any]
) -> PyTree[Any]:
    """Velocity of the weights in gradient flow at unit rate, ``-grad loss(params, data)``.

    >>> float(descent(lambda w, target: (w - target) ** 2, jnp.array(3.0), 1.0))
    -4.0
    """
    return jax.tree.map(jnp.negative, jax.grad(loss)(params, data))


def turning_rate(kernel: Kernel, params: PyTree[Any], velocity: PyTree[Any]) -> Float[Array, ""]:
    """Exact angular velocity omega of ``kernel(params)`` while the weights move at ``velocity``.

    One Jacobian-vector product of the kernel. nan for a kernel that is zero; see above for ReLU.

    >>> def kernel(angle): return jnp.diag(jnp.array([jnp.cos(angle), jnp.sin(angle)]))
    >>> round(float(turning_rate(kernel, jnp.array(0.3), jnp.array(2.0))), 12)
    2.0
    """
    value, change = jax.jvp(kernel, (params,), (velocity,))
    norm = jnp.linalg.norm(value)
    direction = value / norm
    return jnp.linalg.norm(change - direction * jnp.sum(direction * change)) / norm


def chord_distances(
    kernel: Kernel,
    params: PyTree[Any],
    velocity: PyTree[Any],
    dts: Float[ArrayLike, " steps"],
) -> Float[Array, " steps"]:
    """``kernel_distance`` S between ``kernel(params)`` and that after a straight step, of every dt.

    A step along a straight line is one of gradient descent; it differs from the flow's by O(dt^2),
    which changes S by a relative O(dt).

    >>> def kernel(angle): return jnp.diag(jnp.array([jnp.cos(angle), jnp.sin(angle)]))
    >>> found = chord_distances(kernel, jnp.array(0.3), jnp.array(1.0), jnp.array([0.0, 0.01]))
    >>> found.round(8).tolist()
    [0.0, 5e-05]
    """
    value = kernel(params)

    def distance(dt: Array) -> Array:
        moved = jax.tree.map(lambda leaf, step: leaf + dt * step, params, velocity)
        return kernel_distance(value, kernel(moved))

    return jax.lax.map(distance, jnp.asarray(dts, value.dtype))
