"""What a network is here, and the two doors through which flax modules become one.

A network is a pure function ``apply(params, x) -> outputs`` of a parameter pytree, with examples
on the leading axis of ``x``; ``init(key) -> params`` draws the parameters. Whatever else a flax
module carries (batch statistics, random streams) is held constant: gradients, Hessians, tangent
kernels and flows are those of a function of the parameters alone, so a module that must change
its own state while it runs has no place here and is refused by name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors, linen, nnx
from jaxtyping import Array, Key, PyTree


class Model(NamedTuple):
    """A network as two pure functions: ``init(key) -> params``, ``apply(params, x) -> outputs``.

    >>> model = Model(init=lambda key: jax.random.normal(key), apply=lambda w, x: w * x)
    >>> params = model.init(jax.random.key(0))
    >>> bool(model.apply(params, 2.0) == 2.0 * params)
    True
    """

    init: Callable[[Key[Array, ""]], PyTree]
    apply: Callable[[PyTree, Any], PyTree]


def from_linen(
    module: linen.Module,
    example_input: Any,
    *,
    collections: Mapping[str, PyTree] | None = None,
    dtype: Any = None,
) -> Model:
    """A ``flax.linen`` module as a pure network.

    ``apply(params, x) = module.apply({"params": params, **collections}, x)``, where ``params`` is
    the module's "params" collection.

    Args:
        module: the module, configured for evaluation (no dropout, stored batch statistics).
        example_input: an input of the right shape and dtype, examples first.
        collections: values of every other collection the module uses, for instance
            ``{"batch_stats": ...}``; they stay constant.
        dtype: cast floating-point parameters and collections to this. By default they keep the
            module's ``param_dtype``, which flax sets to float32 even under x64.

    The initialisation is the module's own; note that flax truncates its normal distributions at
    two standard deviations and rescales them. For exact Gaussian weights see
    ``dynamics.models.mlp``.

    Raises:
        ValueError: a collection the module uses is not given (named), or a forward pass would
            change one or needs a random stream.

    >>> model = from_linen(linen.Dense(2), jnp.ones((4, 3)))
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((5, 3))).shape
    (5, 2)
    """
    constants = _cast(dict(collections or {}), dtype)

    def init(key):
        return _cast(module.init(key, example_input)["params"], dtype)

    def apply(params, x):
        return module.apply({"params": params, **constants}, x)

    drawn = jax.eval_shape(lambda: module.init(jax.random.key(0), example_input))
    missing = sorted(set(drawn) - {"params"} - set(constants))
    if missing:
        raise ValueError(
            f"collections must give a constant value for every collection besides 'params' that "
            f"{type(module).__name__} uses; missing {missing}"
        )
    try:
        jax.eval_shape(apply, jax.eval_shape(init, jax.random.key(0)), example_input)
    except (errors.ModifyScopeVariableError, errors.InvalidRngError) as error:
        raise ValueError(
            f"module must be a pure function of its parameters and input (evaluation mode), but a "
            f"forward pass of {type(module).__name__} is not: {error}"
        ) from error
    return Model(init, apply)


def from_nnx(
    module: nnx.Module, *, dtype: Any = None
) -> tuple[Callable[[PyTree, Any], PyTree], PyTree]:
    """A ``flax.nnx`` module as ``(apply, params)``; the module itself is left untouched.

    ``params`` is the ``nnx.State`` of all ``nnx.Param`` variables, so trained values return to
    the module by ``nnx.update(module, params)``. Every other variable (batch statistics, random
    streams) keeps the value it has now. An nnx module is born initialised, hence no ``init``.

    Args:
        module: the module, configured for evaluation (``module.eval()``).
        dtype: cast floating-point variables to this; by default they keep their own dtype, which
            flax sets to float32 even under x64.

    Raises:
        ValueError: the module has no ``nnx.Param``; and, by ``apply``, when a forward pass changes
            a variable (batch statistics in training mode, active dropout), which is named.

    >>> apply, params = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> apply(params, jnp.ones((5, 3))).shape
    (5, 2)
    """
    graph, params, constants = nnx.split(module, nnx.Param, ...)
    if not jax.tree.leaves(params):
        raise ValueError(f"module must have nnx.Param variables, {type(module).__name__} has none")
    # casting also copies the tree, so a later change of the module cannot reach the constants
    params, constants = _cast(params, dtype), _cast(constants, dtype)

    def apply(params, x):
        live = nnx.merge(graph, params, constants, copy=True)
        outputs = live(x)
        _refuse_changes(constants, nnx.state(live, nnx.Not(nnx.Param)))
        return outputs

    return apply, params


def _refuse_changes(before: PyTree, after: PyTree) -> None:
    """Raise if a variable was written to: then its array is a different object.

    Variables that a forward pass creates (intermediates it sows) harm nobody.
    """
    old = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(before)}
    new = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(after)}
    changed = sorted(name for name in old if new.get(name) is not old[name])
    if changed:
        raise ValueError(
            f"module must be a pure function of its parameters and input (call module.eval()), "
            f"but a forward pass changes {changed}"
        )


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with floating-point leaves in ``dtype``; unchanged values where dtype is None."""

    def cast(leaf):
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return leaf.astype(dtype) if dtype is not None and floating else leaf

    return jax.tree.map(cast, tree)
