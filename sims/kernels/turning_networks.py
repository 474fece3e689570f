"""Networks whose tangent kernel turns: linear ones in gradient flow, tanh and ReLU ones trained.

All learn ``F = alpha (f - f_0)`` with the loss over alpha^2, which is f itself trained on
``f_0 + y/alpha`` at unit rate: large alpha is lazy, and gamma_0 = 1/(alpha sqrt(width)) richness.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.flow import gradient_flow
from dynamics.layerwise import layerwise_gram
from dynamics.losses import half_squared_error
from dynamics.regime import kernel_distance
from dynamics.turning import chord_distances, descent, turning_rate
from sims.experiment import Arrays
from sims.kernels.turning_predictions import (
    LINEAR_ALPHAS,
    LINEAR_TIMES,
    OUTPUTS,
    PROBES,
    VARIANCE,
    Config,
    digits,
    linear_problem,
)
from sims.processes import generator, seed_keys, training

HALVINGS = np.array([1.0, 0.5, 0.25])
TANH_ALPHAS = 2.0 ** np.arange(-2, 7)
TANH_INPUTS = 8
TANH_RATE = 0.2
TANH_STEPS = np.array([5, 20, 80])  # of training, at which tanh networks are looked at
TANH_STEP = 0.02  # dt of their longest chord
SWITCHING_STEP = 3.2  # dt of the longest chord of ReLU networks
FLOW_ERROR = 1e-10  # relative, of a step of the flow of linear networks


def mirrored(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (..., hidden, inputs) and (..., outputs, hidden) whose halves cancel: f = 0.

    >>> [w.tolist() for w in mirrored(np.array([[2.0], [5.0]]), np.array([[3.0, 7.0]]))]
    [[[2.0], [2.0]], [[3.0, -3.0]]]
    """
    half = first.shape[-2] // 2
    first, second = first[..., :half, :], second[..., :half]
    return np.concatenate([first, first], axis=-2), np.concatenate([second, -second], axis=-1)


def between(kernels: np.ndarray) -> dict[str, np.ndarray]:
    """Distances of kernels (..., times, n, n) from the first, and of each from the one before."""
    first = np.broadcast_to(kernels[..., :1, :, :], kernels[..., 1:, :, :].shape)
    found = _distances(np.stack([first, kernels[..., :-1, :, :]]), kernels[None, ..., 1:, :, :])
    return dict(zip(("distance", "steps"), np.asarray(found), strict=True))


_distances = jax.jit(jnp.vectorize(kernel_distance, signature="(n,n),(n,n)->()"))


@partial(jax.jit, static_argnames="widths")
def linear_flow(
    weights: Any, targets: Any, inputs: Any, times: Any, *, widths: tuple[int, ...]
) -> Arrays:
    """Gradient flow of networks (leading axis) on the rows of an orthogonal matrix of inputs.

    Loss summed over examples. Kernels (networks, times, n, n), and exact angular velocities.
    """
    apply = models.deep_linear(widths).apply
    loss = half_squared_error(apply, examples="sum")
    rows = len(inputs) * widths[-1]

    def kernel(params):
        return layerwise_gram(params, inputs).reshape(rows, rows)

    def network(member):
        start, target = member
        pairs = (inputs, inputs @ target.T)
        flow = gradient_flow(start, pairs, loss=loss, times=times, rtol=FLOW_ERROR)

        def look(params):
            rate = turning_rate(kernel, params, descent(loss, params, pairs))
            return {"kernel": kernel(params), "rate": rate}

        return jax.vmap(look)(flow.params)

    return jax.lax.map(network, (weights, targets))


class TwoLayers:
    """Two layers without biases in NTK parametrisation; half squared error, mean over examples."""

    def __init__(self, activation: str, widths: tuple[int, int, int]) -> None:
        options: dict[str, Any] = {"activation": activation, "parametrization": "ntk"}
        options["weight_variance"] = VARIANCE[activation]
        self.model, self.widths = models.mlp(widths, use_bias=False, **options), widths
        self.loss = half_squared_error(self.model.apply, examples="mean")
        self._gram = partial(layerwise_gram, outputs="mean", **options)

    def draw(self, random: np.random.Generator, count: int) -> tuple[models.Layer, models.Layer]:
        """So many networks (leading axis) of independent standard normal weights."""
        n_in, width, n_out = self.widths
        sizes = ((count, width, n_in), (count, n_out, width))
        first, second = (
            models.Layer(jnp.asarray(random.standard_normal(size)), None) for size in sizes
        )
        return first, second

    def kernel(self, params: Any, probes: Any) -> jax.Array:
        """Tangent kernel between the probes, the mean over outputs."""
        return self._gram(params, probes)

    def look(self, params: Any, pairs: Any, probes: Any, dts: Any) -> dict[str, jax.Array]:
        """Angular velocity by automatic differentiation, and distances S after straight steps."""
        velocity, kernel = descent(self.loss, params, pairs), partial(self.kernel, probes=probes)
        return {
            "rate": turning_rate(kernel, params, velocity),
            "distances": chord_distances(kernel, params, velocity, dts),
        }

    def cases(self, networks: Any, pairs: Any, alphas: Any, learning_rate: float) -> dict[str, Any]:
        """Every network (leading axis) at every alpha, on one leading axis with alphas outside."""
        x, y = pairs
        start = jax.jit(jax.vmap(self.model.apply, (0, None)))(networks, x)
        targets = np.concatenate([start + y[None] / alpha for alpha in alphas])
        count = len(targets)
        return {
            "network": jax.tree.map(lambda leaf: np.concatenate([leaf] * len(alphas)), networks),
            "data": (np.stack([x] * count), targets),
            "learning_rate": np.full(count, learning_rate),
            "key": seed_keys(jax.random.key(0), count),  # full batch: not used
        }


def simulate_linear(config: Config, key: jax.Array) -> Arrays:
    """Angular velocities of linear networks, and distances between their kernels."""
    (W1, W2), change = linear_problem(config)
    inputs = np.linalg.qr(generator(key).standard_normal((config.n_in,) * 2))[0]
    widths = (config.n_in, config.n_out, config.n_out)
    times = np.array((0.0, *LINEAR_TIMES))
    found = linear_flow((W1, W2), W2 @ W1 + change, inputs, times, widths=widths)
    found = {"rate": np.asarray(found["rate"])[:, 1:], **between(np.asarray(found["kernel"]))}
    shape = (config.starts, 2, len(LINEAR_ALPHAS), -1)
    return {name: values.reshape(shape) for name, values in found.items()}


def simulate_tanh(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Angular velocity and chords of tanh networks, (starts, 2, alphas, records, ...)."""
    network, random = TwoLayers("tanh", (TANH_INPUTS, config.tanh_width, 1)), generator(key)
    x = random.standard_normal((PROBES, TANH_INPUTS))
    y = np.sign(random.standard_normal((PROBES, 1)))
    drawn = network.draw(random, config.starts)
    twins = mirrored(*(layer.weight for layer in drawn))
    networks = tuple(
        layer._replace(weight=np.concatenate([layer.weight, twin]))
        for layer, twin in zip(drawn, twins, strict=True)
    )
    cases = network.cases(networks, (x, y), TANH_ALPHAS, TANH_RATE)
    process = training(
        network.loss, lambda p, pairs: network.look(p, pairs, pairs[0], TANH_STEP * HALVINGS)
    )
    run = sweep("tanh", process, cases, record_at=TANH_STEPS)
    shape = (len(TANH_ALPHAS), 2, config.starts)
    return {
        f"tanh_{name}": np.swapaxes(values.reshape(*shape, *values.shape[1:]), 0, 2)
        for name, values in run.records.items()
    }


def simulate_relu(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """At the start S and angular velocities (widths, seeds, ...); trained, (seeds, records)."""
    pairs, random, found = digits(config), generator(key), []
    probes, dts = pairs[0][:PROBES], SWITCHING_STEP * HALVINGS
    for width in config.widths[::-1]:
        network = TwoLayers("relu", (pairs[0].shape[1], width, OUTPUTS))
        networks = network.draw(random, config.seeds)
        cases = network.cases(networks, pairs, [1.0], config.learning_rate)
        found.append(at_start(network, cases, probes, dts))
    cases = network.cases(networks, pairs, [config.rich, config.lazy], config.learning_rate)
    few = config.seeds // 4  # are enough to draw
    kept = np.r_[:few, config.seeds : 2 * config.seeds]
    cases = jax.tree.map(lambda leaf: leaf[kept], cases)
    process = training(network.loss, lambda p, _: {"kernel": network.kernel(p, probes)})
    run = sweep("relu", process, cases, record_at=config.schedule)
    trained = between(run.records["kernel"])
    return {
        **{f"relu_{name}": np.stack([each[name] for each in found[::-1]]) for name in found[0]},
        **{f"rich_{name}": values[:few] for name, values in trained.items()},
        **{f"lazy_{name}": values[few:] for name, values in trained.items()},
    }


def at_start(network: TwoLayers, cases: Any, probes: np.ndarray, dts: np.ndarray) -> Arrays:
    """What ``look`` sees of networks before training."""

    def look(case):
        return network.look(case["network"], case["data"], probes, dts)

    found = jax.jit(partial(jax.lax.map, look))(cases)
    return jax.tree.map(np.asarray, found)
