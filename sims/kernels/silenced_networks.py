"""Networks of many widths as one program: the units beyond a network's width are silent.

A network with one hidden layer in the NTK parametrisation, without biases, of width n is one of
the largest width N whose last N - n units have weights 0, never seen by any gradient as activations
are 0 at 0, and whose other activations are multiplied by sqrt(N/n).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.layerwise import layerwise_gram
from dynamics.losses import half_squared_error
from dynamics.models import ACTIVATIONS, Layer, Model, mlp
from dynamics.regime import kernel_change, linearization_error, weight_change
from sims.processes import seed_keys, training
from sims.sweep import Process

DTYPE = jnp.float32  # rounding is far below what finite widths change


@dataclass(frozen=True)
class Networks:
    """Networks of several widths that learn signs of orthogonal inputs, as many as dimensions.

    The loss is half the squared error, summed over examples.
    """

    widths: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    networks: int = 192  # of every width and activation
    inputs: int = 4
    test_inputs: int = 4
    weight_variance: float = 2.0
    learning_rate: float = 0.08
    steps: int = 32
    data_seed: int = 0

    def __post_init__(self) -> None:
        if len(self.widths) < 4 or list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"widths must be 4 or more in increasing order, got {self.widths}")
        for name, least in (("networks", 8), ("inputs", 1), ("test_inputs", 1), ("steps", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("weight_variance", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training inputs, targets (examples, 1) of both signs, test inputs; |x|^2 = inputs."""
        draw = np.random.default_rng(self.data_seed)
        x = np.linalg.qr(draw.standard_normal((self.inputs, self.inputs)))[0]
        test = draw.standard_normal((self.test_inputs, self.inputs))
        test /= np.linalg.norm(test, axis=1, keepdims=True)
        y = np.resize([1.0, -1.0], self.inputs)[:, None]
        return np.sqrt(self.inputs) * x, y, np.sqrt(self.inputs) * test


def train(
    config: Networks, key: jax.Array, activation: str, width: int, sweep: Any
) -> dict[str, np.ndarray]:
    """Train the networks of one width: ``changes``, and ``reach``, (networks, ...)."""
    keys = seed_keys(jax.random.fold_in(key, width), config.networks)
    units = alive(width, config.widths[-1])
    x, y, x_test = (array.astype(DTYPE) for array in config.data)
    start = draw(keys, units, n_in=config.inputs)
    cases = {
        "network": start,
        "data": tuple(np.stack([array] * config.networks) for array in (units, x, y)),
        "learning_rate": np.full(config.networks, config.learning_rate, DTYPE),
        "key": keys,
    }
    process = learning(activation, config.weight_variance)
    run = sweep(f"{activation}_{width}", process, cases, record_at=np.arange(config.steps + 1))
    options = {"activation": activation, "weight_variance": config.weight_variance}
    found = changes(start, run.final.params, units, x, x_test, **options)
    arrays = {name: np.asarray(value, float) for name, value in found.items()}
    return arrays | {"reach": reach(config, y, run.records["outputs"])}


def reach(config: Networks, y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Range, 0 included, of every training input's impulse, the sum of residuals times the rate.

    (networks, examples), from outputs (networks, steps + 1, examples).
    """
    residuals = y[:, 0] - outputs[:, :-1].astype(float)
    impulse = config.learning_rate * np.cumsum(residuals, axis=1)
    return np.maximum(impulse.max(axis=1), 0) - np.minimum(impulse.min(axis=1), 0)


def alive(width: int, largest: int) -> np.ndarray:
    """1 for the units of the network, 0 for silent ones, (largest,)."""
    return (np.arange(largest) < width).astype(DTYPE)


def silenced(activation: str, units: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The activation of every unit, (..., largest)."""
    factor = jnp.sqrt(len(units) / jnp.sum(units)) * units
    return lambda h: factor[None] * ACTIVATIONS[activation](h)


def network(activation: str, units: jax.Array, n_in: int, weight_variance: float) -> Model:
    """The network; inputs (examples, n_in), outputs (examples, 1)."""
    return mlp(
        (n_in, len(units), 1),
        activation=silenced(activation, units),
        parametrization="ntk",
        weight_variance=weight_variance,
        use_bias=False,
        dtype=DTYPE,
    )


@partial(jax.jit, static_argnames="n_in")
def draw(keys: jax.Array, units: jax.Array, *, n_in: int) -> Any:
    """Initial weights, all N(0, 1) but those of silent units, members leading."""

    def member(key):
        first, last = network("linear", units, n_in, 1.0).init(key)
        return Layer(units[:, None] * first.weight, None), Layer(units[None] * last.weight, None)

    return jax.vmap(member)(keys)


@cache  # one process, one program
def learning(activation: str, weight_variance: float) -> Process:
    """Training on the half squared error summed over examples; training outputs are recorded.

    A member's data are its units, inputs and targets.
    """

    def apply(params, data):
        units, x, _ = data
        return network(activation, units, x.shape[1], weight_variance).apply(params, x)

    def loss(params, data):
        return half_squared_error(lambda p, _: apply(p, data), examples="sum")(params, data[1:])

    return training(loss, lambda params, data: {"outputs": apply(params, data)[:, 0]})


@partial(jax.jit, static_argnames=("activation", "weight_variance"))
def changes(
    start: Any,
    end: Any,
    units: jax.Array,
    x: jax.Array,
    x_test: jax.Array,
    *,
    activation: str,
    weight_variance: float,
) -> dict[str, jax.Array]:
    """What training changed in every network, members leading.

    Relative ``drift`` of the tangent kernel on x and relative ``movement`` of the weights,
    ``linearization`` error on x_test (outputs' units), change ``diagonal`` (members, examples) of
    the kernel's diagonal.
    """
    model = network(activation, units, x.shape[1], weight_variance)

    def kernel(params):
        return layerwise_gram(
            params,
            x,
            activation=silenced(activation, units),
            parametrization="ntk",
            weight_variance=weight_variance,
            outputs="sum",
        )

    def member(pair):
        first, last = pair
        before, after = kernel(first), kernel(last)
        return {
            "drift": kernel_change(before, after),
            "movement": weight_change(first, last, relative=True),
            "linearization": linearization_error(model.apply, first, last, x, x_test),
            "diagonal": jnp.diagonal(after - before),
        }

    return jax.lax.map(member, (start, end), batch_size=16)
