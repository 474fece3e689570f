"""What closed forms share: common dtype and shape, range checks of arguments and results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from theory.checks import is_concrete, require


def as_floats(*values: ArrayLike) -> list[Array]:
    """The values broadcast against each other, in their common floating dtype.

    >>> [value.shape for value in as_floats(1, jnp.ones(3))]
    [(3,), (3,)]
    """
    dtype = jnp.result_type(*values, 1.0)
    return jnp.broadcast_arrays(*(jnp.asarray(value, dtype) for value in values))


def keep_between(u0: Array, s: Array, u: Array) -> Array:
    """``u`` moved into the interval from ``u0`` to ``s``, should a rounding have left it.

    The derivative is that of ``u``, not of the interval.

    >>> float(keep_between(jnp.array(0.0), jnp.array(1.0), jnp.array(1.0000001)))
    1.0
    """
    inside = jnp.clip(u, jnp.minimum(u0, s), jnp.maximum(u0, s))
    return u + jax.lax.stop_gradient(inside - u)


def require_positive(**values: ArrayLike) -> None:
    """Raise ``ValueError`` unless every named value is positive and finite.

    >>> require_positive(s=1.0, tau=0.0)
    Traceback (most recent call last):
        ...
    ValueError: tau must be positive and finite, got 0.0
    """
    for name, value in values.items():
        require(name, value, lambda x: (x > 0) & (x < np.inf), "positive and finite")


def require_nonnegative(**values: ArrayLike) -> None:
    """Raise ``ValueError`` unless every named value is non-negative and finite.

    >>> require_nonnegative(t=-1.0)
    Traceback (most recent call last):
        ...
    ValueError: t must be non-negative and finite, got -1.0
    """
    for name, value in values.items():
        require(name, value, lambda x: (x >= 0) & (x < np.inf), "non-negative and finite")


def require_finite(**values: ArrayLike) -> None:
    """Raise ``ValueError`` unless every named value is finite.

    >>> require_finite(u0=float("nan"))
    Traceback (most recent call last):
        ...
    ValueError: u0 must be finite, got nan
    """
    for name, value in values.items():
        require(name, value, np.isfinite, "finite")


def require_reached(u: ArrayLike, s: ArrayLike, u0: ArrayLike, saddle: Any) -> None:
    """Raise ``ValueError`` unless a mode on its way from ``u0`` to ``s`` passes ``u``.

    Where ``saddle`` (balanced layers), zero is an equilibrium: nothing on its other side is passed.
    A few roundings beyond ``u0`` or ``s`` are forgiven.

    >>> require_reached(u=2.0, s=1.0, u0=0.1, saddle=True)
    Traceback (most recent call last):
        ...
    ValueError: u must be between u0 and s, where the mode passes, got 2.0
    """
    if not is_concrete(u, s, u0, saddle):
        return
    slack = 16 * float(jnp.finfo(jnp.result_type(u, s, u0, 1.0)).eps)
    u, s, u0, saddle = np.broadcast_arrays(u, s, u0, saddle)
    slack = slack * np.maximum(np.abs(u0), np.abs(s))
    between = (u >= np.minimum(u0, s) - slack) & (u <= np.maximum(u0, s) + slack)
    require("u", u, lambda _: between, "between u0 and s, where the mode passes")
    same_side = ~saddle | (np.sign(u) == np.sign(u0)) | ((u == 0) & (u0 < 0))
    require("u", u, lambda _: same_side, "on u0's side of the saddle at 0, which is never passed")
