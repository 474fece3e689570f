"""Pre-activations that sit on the kink of a piecewise-linear activation.

Where a ReLU's input is zero to rounding, the gradient depends on rounding, and products with the
Hessian miss the jump of its slope: they are off by percents at any precision, silently. Training
drives pre-activations there.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, Int

KINKED = ("max", "min", "abs")
LOOPS = ("scan", "while", "cond")
SMOOTH = ("logaddexp",)  # has a maximum inside, and none to be seen from outside: softplus


class Kinks(NamedTuple):
    """How many of how many inputs of kinked functions lie within the tolerance of the kink."""

    on_kink: Int[Array, ""]
    inputs: int


def kinks(function: Callable[..., Any], *args: Any, tolerance: float = 1e-6) -> Kinks:
    """Count the inputs of kinked functions that lie on the kink, as ``function(*args)`` computes.

    Looked at is every elementwise maximum or minimum of an array and a constant, and every absolute
    value: ReLU, ReLU6 (two kinks), hard tanh, clipping; not leaky ReLU, which selects, and nothing
    inside a loop or a branch (scan, while, cond). An input counts if its distance from the kink is
    at most ``tolerance`` times the root mean square of these distances in its array; an array of
    zeros counts throughout.

    >>> found = kinks(lambda x: jax.nn.relu(x), jnp.array([0.0, 1e-9, 1.0, -2.0]))
    >>> int(found.on_kink), found.inputs
    (2, 4)
    """
    traced, distances = jax.make_jaxpr(function)(*args), []
    _evaluate(traced, jax.tree.leaves(args), distances.append)
    near = [jnp.abs(z) <= tolerance * jnp.sqrt(jnp.mean(z**2)) for z in distances]
    return Kinks(
        jnp.asarray(sum(map(jnp.sum, near)), int),
        sum(z.size for z in distances),
    )


def _evaluate(traced: ClosedJaxpr, args: list[Any], see: Callable[[Array], None]) -> list[Any]:
    """What a traced function returns; ``see`` is given all distances from kinks on the way."""
    jaxpr = traced.jaxpr
    values = dict(zip(jaxpr.constvars, traced.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inner = _called(equation)
        if inner is not None:
            smooth = str(inner.jaxpr.debug_info.func_src_info).startswith(SMOOTH)
            outputs = _evaluate(inner, inputs, (lambda distance: None) if smooth else see)
        else:
            for distance in _distances(equation, inputs):
                see(distance)
            outputs = equation.primitive.bind(*inputs, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _called(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The function that an equation calls, if it calls one, and once."""
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if equation.primitive.name in LOOPS:
        return None
    return ClosedJaxpr(inner, ()) if isinstance(inner, Jaxpr) else inner


def _distances(equation: JaxprEqn, inputs: list[Any]) -> Iterator[Array]:
    """From the kink of an equation that has one: a floating-point array's from a constant's."""
    constant = [isinstance(atom, Literal) for atom in equation.invars]
    if equation.primitive.name not in KINKED or constant.count(False) != 1:
        return
    array = jnp.asarray(inputs[constant.index(False)])
    level = inputs[constant.index(True)] if True in constant else 0.0
    if jnp.issubdtype(array.dtype, jnp.floating) and np.isfinite(level):
        yield array - level
