"""Second moments of a pair of random numbers, carried through a network without cancellation.

The angle between two inputs, ``cos(angle) = c/sqrt(ab)`` with a = E u^2, b = E v^2, c = E uv, is
what the kernels of kinked activations depend on, and near 0 and pi half of its digits are lost if
only (a, b, c) are kept. The fourth number kept here is the determinant

    q = ab - c^2 = ab sin^2(angle),        angle = atan2(sqrt(q), c).

Weights of variance w and biases of variance s add to it positive terms only,

    a -> w a + s,  b -> w b + s,  c -> w c + s,  q -> w^2 q + w s E(u - v)^2,
    E(u - v)^2 = (sqrt a - sqrt b)^2 + 2 (sqrt(ab) - c),      sqrt(ab) - c = q / (sqrt(ab) + c),

so that q is exact to rounding, and 0 where u and v are multiples of each other. Derived here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_nonnegative
from theory.checks import is_concrete, require

CLOSE = 1e-2  # sin^2 of angles between inputs that are computed from differences


class Moments(NamedTuple):
    """E u^2 (``first``), E v^2 (``second``), E uv (``mixed``) and their ``determinant`` q.

    The shapes broadcast against each other: for all pairs of n and m inputs (n, 1), (1, m), (n, m).
    """

    first: Float[Array, "..."]
    second: Float[Array, "..."]
    mixed: Float[Array, "..."]
    determinant: Float[Array, "..."]


class Dual(NamedTuple):
    """Of Gaussian (u, v): ``moments`` of (phi(u), phi(v)), and ``derivative`` E phi'(u) phi'(v)."""

    moments: Moments
    derivative: Float[Array, "..."]

    @property
    def kernel(self) -> Float[Array, "..."]:
        """E phi(u) phi(v)."""
        return self.moments.mixed


DualActivation = Callable[..., Dual]  # (a, b, c, determinant=None) -> Dual


def second_moments(
    a: ArrayLike, b: ArrayLike, c: ArrayLike, determinant: ArrayLike | None = None
) -> Moments:
    """The moments in their common floating dtype; without a determinant, ``ab - c^2``.

    Raises ``ValueError`` for negative a or b, or ``c^2 > ab`` by more than rounding.

    >>> float(second_moments(2.0, 1.0, 1.0).determinant)
    1.0
    """
    require_nonnegative(a=a, b=b)
    dtype = jnp.result_type(a, b, c, 1.0)
    if is_concrete(a, b, c):
        slack = 1 + 64 * float(jnp.finfo(dtype).eps)
        bound = slack * np.sqrt(np.asarray(a)) * np.sqrt(np.asarray(b))
        require("c", c, lambda value: np.all(np.abs(value) <= bound), "at most sqrt(a b) in size")
    a, b, c = (jnp.asarray(value, dtype) for value in (a, b, c))
    q = _difference(a, b, c) if determinant is None else jnp.asarray(determinant, dtype)
    return Moments(a, b, c, q)


def affine(moments: Moments, weight_variance: ArrayLike, bias_variance: ArrayLike) -> Moments:
    """Moments after random weights of variance w (over the fan-in) and a shared random bias, s.

    >>> [float(value) for value in affine(second_moments(1.0, 1.0, -1.0), 2.0, 1.0)]
    [3.0, 3.0, -1.0, 8.0]
    """
    a, b, c, q = moments
    w, s = (jnp.asarray(value, c.dtype) for value in (weight_variance, bias_variance))
    return Moments(w * a + s, w * b + s, w * c + s, w * (w * q + s * squared_distance(moments)))


def squared_distance(moments: Moments) -> Float[Array, "..."]:
    """E (u - v)^2, without cancellation where u is close to v.

    >>> float(squared_distance(second_moments(1.0, 4.0, 2.0)))
    1.0
    """
    a, b, c, q = moments
    root_a, root_b = safe_sqrt(a), safe_sqrt(b)
    product, close = root_a * root_b, c > 0
    shortfall = jnp.where(close, q / jnp.where(close, product + c, 1), product - c)
    return (root_a - root_b) ** 2 + 2 * shortfall


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The root, and 0 with derivative 0 where x <= 0.

    >>> safe_sqrt(jnp.array([4.0, 0.0, -1e-17])).tolist()
    [2.0, 0.0, 0.0]
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def input_moments(
    x1: Float[Array, "n n_in"], x2: Float[Array, "m n_in"], start: ArrayLike | None = None
) -> Moments:
    """Moments (n, 1), (1, m), (n, m) over the features: x.x'/n_in and |x|^2/n_in.

    With a ``start``, row i of x1 is row start + i of x2, and the determinant of the two exactly 0.
    Where ``ab - c^2`` has no digits left it is computed from differences of the inputs, row by row.

    >>> x = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    >>> input_moments(x, x).determinant.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    n_in = x1.shape[1]
    a, b = (jnp.sum(x * x, axis=1) / n_in for x in (x1, x2))
    a, b, c = a[:, None], b[None, :], x1 @ x2.T / n_in
    same = jnp.zeros((1, 1), bool)
    if start is not None:
        same = start + jnp.arange(len(x1))[:, None] == jnp.arange(len(x2))[None, :]
        c = jnp.where(same, a, c)
    q = a * b - c * c
    stopped = (lax.stop_gradient(value) for value in (x1, x2, a, b, c, q, same))
    exact = jnp.where(same, 0, _refined_determinant(*stopped))
    return Moments(a, b, c, q + exact - lax.stop_gradient(q))


def _difference(a: Array, b: Array, c: Array) -> Array:
    """``ab - c^2``, 0 for a = b = |c| however it is compiled: fused, a a - a a is not."""
    size = jnp.where(c < 0, -c, c)
    over, under = a - size, b - size
    similar = (a < 2 * b) & (b < 2 * a)
    return jnp.where(similar, over * under + size * (over + under), a * b - c * c)


def _refined_determinant(
    x1: Array, x2: Array, a: Array, b: Array, c: Array, q: Array, same: Array
) -> Array:
    """``a |x' - (c/a) x|^2 / n_in`` where sin^2 is below ``CLOSE``, in rows with such pairs."""
    close = (q < CLOSE * a * b) & ~same

    def row(each):
        x, a, c, q, close = each

        def residual():
            difference = x2.T - (c / jnp.where(a > 0, a, 1))[None, :] * x[:, None]
            return jnp.where(close, a * jnp.mean(difference**2, axis=0), q)

        return lax.cond(jnp.any(close), residual, lambda: q)

    rows = (x1, a[:, 0], c, q, close)
    return lax.cond(jnp.any(close), lambda: lax.map(row, rows), lambda: q)
