"""Argument checks shared by the theory modules: name the argument, the value and what was expected.

Checks look at concrete values only. Inside ``jit``, ``vmap`` or ``grad`` an argument is a tracer
whose value is unknown; there the checks stay silent and the documented domain is the caller's duty.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.core import Tracer

# An integer argument. Floats pass the type only to be refused by name, in ``require_count``.
Count = int | np.integer | float


def is_concrete(*values: Any) -> bool:
    """Whether every value is known now, that is, none is a JAX tracer."""
    return not any(isinstance(value, Tracer) for value in values)


def require(name: str, value: Any, ok: Callable[[np.ndarray], Any], expected: str) -> None:
    """Raise ``ValueError`` unless ``ok(value)`` holds for every element of a concrete ``value``.

    ``ok`` gets the value as a NumPy array and returns booleans that broadcast with it. NaN never
    passes a comparison, so ``lambda x: x > 0`` also rejects NaN.

    >>> require("tau", 2.0, lambda x: x > 0, "positive")
    >>> require("tau", -2.0, lambda x: x > 0, "positive")
    Traceback (most recent call last):
        ...
    ValueError: tau must be positive, got -2.0
    """
    if not is_concrete(value):
        return
    array = np.asarray(value)
    passed = np.broadcast_to(np.asarray(ok(array)), array.shape)
    if not passed.all():
        offending = array if array.ndim == 0 else array[~passed][0]
        raise ValueError(f"{name} must be {expected}, got {offending}")


def require_depth(depth: Any, *, infinite: bool = False) -> None:
    """Raise unless ``depth`` is an integer >= 1 (weight matrices), or infinity if allowed."""
    if infinite and depth == float("inf"):
        return
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 1:
        allowed = "an integer >= 1 or infinity" if infinite else "an integer >= 1"
        raise ValueError(f"depth must be {allowed} (number of weight matrices), got {depth!r}")


def require_count(*, least: int = 1, **values: Any) -> None:
    """Raise ``ValueError`` unless every named value consists of integers >= ``least``.

    >>> require_count(depth=2.0)
    Traceback (most recent call last):
        ...
    ValueError: depth must be an integer >= 1, got 2.0
    """
    for name, value in values.items():
        require(
            name,
            value,
            lambda n: np.issubdtype(n.dtype, np.integer) & (n >= least),
            f"an integer >= {least}",
        )
