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
from dynamics.tangent_kernel import empirical_ntk
from dynamics.turning import chord_distances, descent, turning_rate
from sims.experiment import Arrays
from sims.processes import seed_keys

VARIANCE = {"relu": 2.0, "tanh": 1.0}
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
    kernel = partial(empirical_ntk, apply, x=inputs)

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
