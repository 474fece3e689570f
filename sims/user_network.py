"""A user's own network, from a Python file or module, checked before anything is measured.

A *provider* is a function without arguments that returns a ``Network``, a mapping or a tuple with
its fields. ``load("my_file.py")`` calls ``network()`` in that file; ``load("my_file.py:build")``
and ``load("package.module:build")`` call a function by name.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.curvature import require_deterministic

FUNCTION = "network"  # called where no name is given
SPARE = 1e-6  # relative difference allowed between a loss and the mean over its examples


@dataclass(frozen=True)
class Network:
    """What is needed to tell how stable a network is.

    ``apply(params, x) -> outputs`` (n, c) or (n,), one example independent of the others;
    ``data = (x, y)`` with examples on the leading axes; ``loss(outputs, y) -> scalar``, a mean over
    the examples given; ``optimizer`` holds ``kind`` (a key of ``theory.stability.thresholds``),
    ``learning_rate``, ``batch_size``, and the hyper-parameters of that kind. ``opt_state`` is its
    live optax state, from which the preconditioner of an adaptive method is read, with the
    constants ``b1``, ``b2``, ``eps`` and ``eps_root`` in ``optimizer`` (optax's own if left out).
    ``initial`` are the parameters from which training started; with them, whether it was lazy or
    rich can be told, on the activity ``hidden(params, x)`` (n, features), too, if that is given.
    """

    apply: Callable[[Any, Any], Any]
    params: Any
    data: tuple[Any, Any]
    loss: Callable[[Any, Any], Any]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    opt_state: Any = None
    initial: Any = None
    hidden: Callable[[Any, Any], Any] | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one example: (c,) or ()."""
        return jax.eval_shape(self.apply, self.params, self.data[0]).shape[1:]

    def columns(self, params: Any, x: Any) -> jax.Array:
        """Outputs as (n, c), for networks that give (n,), too."""
        outputs = self.apply(params, x)
        return outputs.reshape(len(outputs), -1)

    def batch_loss(self, params: Any, batch: tuple[Any, Any]) -> jax.Array:
        """Loss on some of the examples, as the optimiser sees it."""
        x, y = batch
        return self.loss(self.apply(params, x), y)


def load(spec: str) -> Network:
    """The network that ``spec`` describes. Raises ``ValueError`` with what is missing."""
    place, _, name = spec.partition(":")
    module = _file(place) if place.endswith(".py") else _module(place)
    provider = getattr(module, name or FUNCTION, None)
    if not callable(provider):
        raise ValueError(f"{place} must define a function {name or FUNCTION!r} without arguments")
    return as_network(provider())


def as_network(given: Any) -> Network:
    """A ``Network`` from itself, a mapping or a tuple of its fields, in float64, checked."""
    try:
        if isinstance(given, Mapping):
            given = Network(**given)
        elif isinstance(given, tuple):
            given = Network(*given)
    except TypeError as error:
        raise ValueError(
            f"a network needs apply, params, data, loss and optimizer: {error}"
        ) from None
    if not isinstance(given, Network):
        raise ValueError(
            "the provider must return (apply, params, data, loss, optimizer), a mapping of these "
            f"or a sims.user_network.Network, got {type(given).__name__}"
        )
    return _checked(given)


def _checked(network: Network) -> Network:
    """In float64, with finite data and outputs and a loss that is a deterministic mean."""
    params, data = jax.tree.map(_double, (network.params, tuple(network.data)))
    if len(data) != 2 or len({len(jnp.atleast_1d(leaf)) for leaf in data}) != 1:
        raise ValueError("data must be (x, y) with as many examples in x as in y")
    network = replace(network, params=params, data=data, optimizer=dict(network.optimizer))
    if network.initial is not None:
        network = replace(network, initial=_like_params(network.initial, params))
    x, y = data
    outputs = network.apply(params, x)
    if outputs.ndim not in (1, 2) or len(outputs) != len(x):
        raise ValueError(f"apply must give ({len(x)}, c) or ({len(x)},), got {outputs.shape}")
    for name, values in (("x", x), ("y", y), ("the outputs", outputs)):
        if not np.isfinite(np.asarray(values, float)).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    require_deterministic(network.batch_loss, params, data)
    _require_mean(network, outputs)
    return network


def _require_mean(network: Network, outputs: jax.Array) -> None:
    """Raise unless the loss of all examples is the mean of the losses of single ones.

    Away from the outputs themselves, where a loss may be zero however it is normalised.
    """
    y = network.data[1]
    outputs = outputs + jax.random.normal(jax.random.key(0), outputs.shape)
    whole = float(network.loss(outputs, y))
    single = jax.vmap(lambda f, y: network.loss(f[None], y[None]))(outputs, y)
    mean = float(jnp.mean(single))
    if abs(whole - mean) > SPARE * max(abs(whole), abs(mean), 1e-12):
        raise ValueError(
            "loss must be a mean over examples, whose learning rate does not depend on how many "
            f"there are; on all of them it is {whole:.6g}, on average over single ones {mean:.6g}"
        )


def _like_params(initial: Any, params: Any) -> Any:
    """``initial`` in float64; ValueError unless it could be the start of ``params``."""
    initial = jax.tree.map(_double, initial)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, initial)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"initial must have the shapes of params, {shapes[0]}, got {shapes[1]}")
    return initial


def _double(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _file(place: str) -> Any:
    path = Path(place)
    if not path.is_file():
        raise ValueError(f"there is no file {place}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # its neighbours may be imported, as in a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _module(place: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {place}: {error}") from None
    finally:
        sys.path.pop(0)
