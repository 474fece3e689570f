"""Gaussian averages of erf units and their derivatives, in closed form.

    g(u) = erf(u/sqrt 2),   g'(u) = sqrt(2/pi) exp(-u^2/2),   (u_0, ..., u_{n-1}) ~ N(0, C):

    i2 = <g(u) g(v)>,   j2 = <g'(u) g'(v)>,   i3 = <g'(u) v g(w)>,   i4 = <g'(u) g'(v) g(w) g(z)>

are what online learning of two layers of such units consists of (``theory.mean_field.online``). A
derivative g' only tilts the Gaussian: under <g'(u) .>/<g'(u)> the fields are Gaussian with
covariance ``C_wz - C_wu C_uz/(1 + C_uu)``, and so on for the second one, which turns every average
into i2. Price's theorem relates them: d i2(u, v)/d C_uv = j2(u, v) for u != v.

Arguments: the covariance C (..., n, n) of all fields, leading axes being separate problems, and for
each field of the average its index: an integer, or integer arrays that broadcast. Results have the
shape of the leading axes, then of the indices; indices may coincide. Sums over all pairs or
quadruples are one call with open meshes (``numpy.ix_``), and no larger intermediate than the
result. C must be symmetric and positive semidefinite, degenerate or not, which is the caller's
duty: then every denominator is at least 1.

Every function raises ``ValueError`` unless C ends in a square, and for an index beyond it.

Source: Saad & Solla (1995), Phys. Rev. E 52, 4225, for i2, i3, i4; j2 belongs to label noise.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.checks import require

# Of one of the fields, or of as many as averages are wanted. Known when compiling.
Index = int | np.integer | Int[np.ndarray, "..."]


def i2(covariance: ArrayLike, u: Index, v: Index) -> Float[Array, "..."]:
    """Overlap of two outputs, ``<g(u) g(v)> = (2/pi) asin( C_uv/sqrt((1 + C_uu)(1 + C_vv)) )``.

    Shapes and errors as in the module.

    >>> round(float(i2(jnp.ones((2, 2)), 0, 1)), 6)  # <g(u)^2>, u ~ N(0, 1)
    0.333333
    """
    c, (u, v) = _aligned(covariance, u, v)
    scale = jnp.sqrt((1 + c[..., u, u]) * (1 + c[..., v, v]))
    return 2 / jnp.pi * jnp.arcsin(c[..., u, v] / scale)


def j2(covariance: ArrayLike, u: Index, v: Index) -> Float[Array, "..."]:
    """Overlap of two slopes, ``<g'(u) g'(v)> = (2/pi)/sqrt((1 + C_uu)(1 + C_vv) - C_uv^2)``.

    Shapes and errors as in the module.

    >>> round(float(j2(jnp.zeros((2, 2)), 0, 1)), 6)  # g'(0)^2 = 2/pi
    0.63662
    """
    return 2 / jnp.pi / jnp.sqrt(_volume(*_aligned(covariance, u, v)))


def i3(covariance: ArrayLike, u: Index, v: Index, w: Index) -> Float[Array, "..."]:
    """What moves a weight, ``<g'(u) v g(w)>``; linear in the covariances of v.

        i3 = (2/pi) [C_vw (1 + C_uu) - C_uv C_uw] / [(1 + C_uu) sqrt((1 + C_uu)(1 + C_ww) - C_uw^2)]

    Shapes and errors as in the module.

    >>> round(float(i3(jnp.eye(2), 0, 1, 1)), 6)  # <g'(u)> <v g(v)> = 1/pi
    0.31831
    """
    c, (u, v, w) = _aligned(covariance, u, v, w)
    own = 1 + c[..., u, u]
    tilted = c[..., v, w] * own - c[..., u, v] * c[..., u, w]
    return 2 / jnp.pi * tilted / (own * jnp.sqrt(_volume(c, (u, w))))


def i4(covariance: ArrayLike, u: Index, v: Index, w: Index, z: Index) -> Float[Array, "..."]:
    """What makes gradients fluctuate, ``<g'(u) g'(v) g(w) g(z)>``.

        i4 = (4/pi^2) asin( L_wz/sqrt((V + L_ww)(V + L_zz)) ) / sqrt(V)
        V = (1 + C_uu)(1 + C_vv) - C_uv^2
        L_wz = V C_wz - (1 + C_uu) C_vw C_vz - (1 + C_vv) C_uw C_uz + C_uv (C_uw C_vz + C_uz C_vw)

    Shapes and errors as in the module.

    >>> round(float(i4(jnp.diag(jnp.array([0.0, 1.0])), 0, 0, 1, 1)), 6)  # g'(0)^2 <g(w)^2>
    0.212207
    """
    c, (u, v, w, z) = _aligned(covariance, u, v, w, z)
    volume = _volume(c, (u, v))

    def tilted(w, z):
        own = volume * c[..., w, z]
        own -= (1 + c[..., u, u]) * c[..., v, w] * c[..., v, z]
        own -= (1 + c[..., v, v]) * c[..., u, w] * c[..., u, z]
        crossed = c[..., u, w] * c[..., v, z] + c[..., u, z] * c[..., v, w]
        return own + c[..., u, v] * crossed

    scale = jnp.sqrt((volume + tilted(w, w)) * (volume + tilted(z, z)))
    return 4 / jnp.pi**2 * jnp.arcsin(tilted(w, z) / scale) / jnp.sqrt(volume)


def _volume(c: Array, pair: Sequence[np.ndarray]) -> Array:
    """Determinant of 1 + C on two fields, at least 1; for u = v that of one field twice."""
    u, v = pair
    return (1 + c[..., u, u]) * (1 + c[..., v, v]) - c[..., u, v] ** 2


def _aligned(covariance: ArrayLike, *indices: Index) -> tuple[Array, list[np.ndarray]]:
    """C as an array of numbers, and the indices with equally many axes: axes never shift."""
    c = jnp.asarray(covariance, jnp.result_type(covariance, 1.0))
    if c.ndim < 2 or c.shape[-1] != c.shape[-2]:
        raise ValueError(f"covariance must end in a square, (..., n, n), got shape {c.shape}")
    fields, axes = c.shape[-1], max(np.ndim(index) for index in indices)
    for name, index in zip("uvwz", indices, strict=False):
        require(name, index, lambda i: (i >= 0) & (i < fields), f"one of the {fields} fields")
    shapes = [(1,) * (axes - np.ndim(index)) + np.shape(index) for index in indices]
    return c, [np.reshape(i, shape) for i, shape in zip(indices, shapes, strict=True)]
