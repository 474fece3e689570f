"""Ensembles of networks on a circle, of which all layers or the last one alone are trained.

One hidden layer of erf in the NTK parametrisation, with biases; four training points; gradient
descent on half the squared error summed over them.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.losses import half_squared_error
from dynamics.models import Model, mlp
from sims.processes import training
from sims.sweep import Process
from theory.kernels.infinite_width import mlp_kernels
from theory.kernels.kernel_modes import KernelModes, kernel_modes, max_learning_rate

ANGLES = np.array([-2.4, -1.2, -0.2, 0.9])  # of training inputs
TARGETS = np.array([2.0, -1.0, -2.0, 1.0])
HELD_OUT = (ANGLES + np.append(ANGLES[1:], ANGLES[0] + 2 * np.pi)) / 2  # where claims are tested
GRID = np.linspace(-np.pi, np.pi, 73)  # to be drawn
LAYERS = ("all", "last")  # what is trained
RELATIVE_STEP = 0.4  # learning rate over the largest that converges
DTYPE = jnp.float32


@dataclass(frozen=True)
class Ensembles:
    """Networks of one width, and steps (from 0) after which they are looked at."""

    width: int = 512
    networks: int = 1024
    steps: tuple[int, ...] = (0, *(2**k for k in range(8)))
    weight_variance: float = 4.0
    bias_variance: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 8 * len(ANGLES):
            raise ValueError(f"width must be at least {8 * len(ANGLES)}, got {self.width}")
        if self.networks < 100:
            raise ValueError(f"networks must be at least 100, got {self.networks}")
        if len(self.steps) < 3 or self.steps[0] or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps must be 0 and 2 or more later ones, got {self.steps}")
        for name in ("weight_variance", "bias_variance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def model(self) -> Model:
        return mlp(
            (2, self.width, 1),
            activation="erf",
            parametrization="ntk",
            weight_variance=self.weight_variance,
            bias_variance=self.bias_variance,
            dtype=DTYPE,
        )


def circle(angles: np.ndarray) -> np.ndarray:
    """Inputs of length sqrt(n_in), (angles, 2)."""
    return np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Limit(NamedTuple):
    """Infinite width: kernels on training, held-out inputs and the grid, in this order; modes.

    ``kernels`` and ``modes`` of the training inputs are those of all layers' training (tangent
    kernel), then of the last layer's (NNGP kernel).
    """

    kernels: tuple[jax.Array, jax.Array]
    modes: tuple[KernelModes, KernelModes]


@partial(jax.jit, static_argnames="config")
def infinite_width(config: Ensembles) -> Limit:
    """The limit of the config's networks."""
    nngp, ntk = mlp_kernels(
        circle(np.concatenate([ANGLES, HELD_OUT, GRID])),
        activation="erf",
        depth=2,
        weight_variance=config.weight_variance,
        bias_variance=config.bias_variance,
    )
    n = len(ANGLES)
    both = kernel_modes(ntk[:n, :n], loss="sum"), kernel_modes(nngp[:n, :n], loss="sum")
    return Limit((ntk, nngp), both)


def rate(modes: KernelModes) -> jax.Array:
    """Learning rate of gradient descent."""
    return RELATIVE_STEP * max_learning_rate(modes)


@cache  # one process, one program
def learning(config: Ensembles) -> Process:
    """Training of the last layers, on top of frozen first ones; data begin with the frozen."""

    def apply(params, data, x):
        return config.model.apply((*data[0], *params), x)

    def loss(params, data):
        _, x, y, _ = data
        squared = half_squared_error(lambda p, x: apply(p, data, x), examples="sum")
        return squared(params, (x, y))

    return training(loss, lambda params, data: {"outputs": apply(params, data, data[3])[:, 0]})
