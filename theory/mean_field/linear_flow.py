"""Feature learning in closed form: two linear layers of infinite width, one sample, gradient flow.

The setting is that of ``theory.mean_field.problem`` with one hidden layer, phi(h) = h, P = 1 and
eta -> 0. h and z mix by a hyperbolic rotation of angle s,

    f = (sqrt(q)/gamma) sinh 2s,    H = <h h> = q cosh 2s,    G = <z z> = cosh 2s,    q = |x|^2/D
    ds/dtau = a - q sinh 2s,        a = gamma sqrt(q) y

and tanh s obeys a Riccati equation, hence a formula.

Source: Bordelon & Pehlevan (2022), arXiv 2205.09653, for the equations; solution derived here.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_nonnegative, require_positive
from theory.checks import require


class LinearFlow(NamedTuple):
    """Output f and kernels H = <h h>, G = <z z> at the times asked for."""

    output: Float[Array, "..."]
    feature: Float[Array, "..."]
    gradient: Float[Array, "..."]


def linear_flow(
    times: ArrayLike, target: ArrayLike, *, gamma: ArrayLike, input_kernel: ArrayLike = 1.0
) -> LinearFlow:
    """Output and kernels at times tau = eta t, infinity included.

        tanh s = a tanh(R tau) / (R + q tanh(R tau)),      R = sqrt(q^2 + a^2)

    At the end f = y and ``H = q sqrt(1 + gamma^2 y^2/q)``, for q = 1 ``sqrt(1 + gamma^2 y^2)``.
    Arguments broadcast, input_kernel is q; gamma = 0 is the lazy limit. White inputs of several
    samples are this (``problem.whitened_reduction``). ``two_layer.solve`` and
    ``deep_linear.solve`` tend to it with an error of O(eta).

    Raises ``ValueError`` for a negative time or gamma, a target not finite, a kernel <= 0.

    >>> end = linear_flow(jnp.inf, 2.0, gamma=1.0)
    >>> round(float(end.output), 12), round(float(end.feature**2), 12)
    (2.0, 5.0)
    """
    require("times", times, lambda t: t >= 0, "non-negative")
    require_nonnegative(gamma=gamma)
    require_finite(target=target)
    require_positive(input_kernel=input_kernel)
    times, y, gamma, q = as_floats(times, target, gamma, input_kernel)
    pull = jnp.sqrt(q) * y  # a/gamma, finite where gamma = 0
    a = gamma * pull
    rate = jnp.hypot(q, a)
    decayed = jnp.exp(-2 * rate * times)
    more, less = 1 + decayed, -jnp.expm1(-2 * rate * times)  # tanh(R tau) = less/more
    along = rate * more + q * less
    # (1 - tanh^2 s) along^2, as a sum of positive terms
    rest = q**2 * (more**2 + less**2) + 4 * a**2 * decayed + 2 * rate * q * more * less
    cosh = (along**2 + (a * less) ** 2) / rest
    return LinearFlow(2 * jnp.sqrt(q) * pull * less * along / rest, q * cosh, cosh)
