"""Reverse-mode derivatives with structure, neural-tangents' third implementation, on public JAX.

neural-tangents walks backwards through the linear part of a network, equation by equation, and
takes Jacobians where their structure (a Kronecker factor, a diagonal) makes them small. It got that
linear part from a private function of JAX that is gone; here it is ``jax.linearize``, traced once
more by ``jax.make_jaxpr``, with every equation that does not depend on the tangents evaluated.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal
from jax.interpreters import ad


def outputs_and_pullback(
    backward: Callable[..., Any],
    function: Callable[..., Any],
    mode: Any,
    _j_rules: bool,
    _s_rules: bool,
    _fwd: bool | None,
    *primals: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Outputs of ``function`` at ``primals``, and what ``backward`` makes of its linear part.

    ``backward`` is neural-tangents' own pass; arguments with underscores are handed on to it.
    """
    flat, tree = jax.tree.flatten(primals)
    structures = []

    def flat_function(*leaves: Any) -> Any:
        outputs, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        structures.append(structure)
        return outputs

    with jax.disable_jit():  # so that no equation hides others
        outputs, linear = jax.linearize(flat_function, *flat)
        traced = jax.make_jaxpr(linear)(*flat)
    jaxpr, consts = _linear_part(traced.jaxpr, traced.consts)

    def pullback(*cotangents: Any) -> Any:
        found = backward(
            jaxpr,
            mode=mode,
            consts=consts,
            primals_in=[ad.UndefinedPrimal(v.aval) for v in jaxpr.invars],
            cotangents_in=tuple(jax.tree.leaves(cotangents)),
            _j_rules=_j_rules,
            _s_rules=_s_rules,
            _fwd=_fwd,
        )
        return jax.tree.unflatten(tree, found)

    return jax.tree.unflatten(structures[0], outputs), pullback


def equation_pullback(equation: Any, cotangents: Any, *inputs: Any) -> Any:
    """Transpose of one linear equation; of the identity for None."""
    if equation is None:
        return (cotangents,)
    transpose: Any = ad.primitive_transposes[equation.primitive]
    return transpose(cotangents, *inputs, **equation.params)


def _linear_part(jaxpr: Jaxpr, consts: list[Any]) -> tuple[Jaxpr, list[Any]]:
    """Equations that depend on the inputs, with the results of all others as constants."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    linear, kept = set(jaxpr.invars), []
    for equation in jaxpr.eqns:
        atoms = equation.invars
        if any(not isinstance(atom, Literal) and atom in linear for atom in atoms):
            kept.append(equation)
            linear.update(equation.outvars)
            continue
        inputs = [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]
        outputs = equation.primitive.bind(*inputs, **equation.params)
        outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    if len(kept) == len(jaxpr.eqns):
        return jaxpr, consts
    atoms = [atom for equation in kept for atom in equation.invars]
    used = dict.fromkeys(a for a in atoms if not isinstance(a, Literal) and a not in linear)
    return jaxpr.replace(eqns=kept, constvars=list(used)), [values[v] for v in used]
