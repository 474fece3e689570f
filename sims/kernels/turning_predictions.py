"""Linear, tanh and ReLU networks whose kernels turn: their sizes, and what theory says of them."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.recording import record_schedule
from sims import data
from sims.experiment import Arrays
from theory.deep_linear import kernel_turning, riccati, tangent_kernel
from theory.kernels.gate_switching import summed_residuals, switching_distance
from theory.kernels.infinite_width import mlp_kernels
from theory.kernels.kernel_modes import descent_filter, kernel_modes

RANDOM, MIRRORED = 0, 1  # starts
LINEAR_TIMES = tuple(np.geomspace(0.02, 4.0, 25))
LINEAR_ALPHAS = 2.0 ** np.arange(-2, 7)
PROBES = 32
OUTPUTS = 10
VARIANCE = {"relu": 2.0, "tanh": 1.0}


@dataclass(frozen=True)
class Config:
    """Sizes of linear networks, widths of tanh and of ReLU networks; the least of those is trained.

    ``rich`` and ``lazy`` are the alphas of ReLU networks in training.
    """

    n_in: int = 4
    n_out: int = 2
    imbalance: float = 1.0
    starts: int = 4
    tanh_width: int = 64
    widths: tuple[int, ...] = (512, 1024)
    examples: int = 48
    seeds: int = 24
    rich: float = 1 / 16
    lazy: float = 4.0
    learning_rate: float = 0.2
    steps: int = 40
    records: int = 11
    samples: int = 1000
    start_seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_in": 2, "n_out": 2, "starts": 2, "tanh_width": 8, "seeds": 4}
        least |= {"examples": PROBES, "steps": 40, "records": 8, "samples": 100}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.n_in < self.n_out:
            raise ValueError(f"n_in must be at least n_out = {self.n_out}, got {self.n_in}")
        if not self.imbalance > 0:
            raise ValueError(f"imbalance must be positive, got {self.imbalance}")
        if self.tanh_width % 2:
            raise ValueError(f"tanh_width must be even, got {self.tanh_width}")
        if len(self.widths) < 2 or min(self.widths) < 128 or np.any(np.diff(self.widths) <= 0):
            raise ValueError(f"widths must be 2 or more, increasing from 128, got {self.widths}")
        if not 0 < self.rich < self.lazy:
            raise ValueError(f"rich must be between 0 and lazy, got {self.rich} and {self.lazy}")
        if not 0 < self.learning_rate <= 0.5:
            raise ValueError(f"learning_rate must be in (0, 0.5], got {self.learning_rate}")

    @property
    def schedule(self) -> np.ndarray:
        """Steps of ReLU training at which the kernel is kept."""
        return record_schedule(self.steps, self.records)


@cache
def linear_problem(config: Config) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Weights and changes D/alpha of the map of every linear network: starts x 2 x alphas.

    As many hidden units as outputs, ``W2^T W2 - W1 W1^T = imbalance I``; W1 = 0 in the second kind
    of start, which thus is one of f_0 = 0.
    """
    random, n = np.random.default_rng(config.start_seed), config.n_out
    first = random.standard_normal((config.starts, 1, n, config.n_in)) / np.sqrt(config.n_in)
    first = np.concatenate([first, 0 * first], axis=1)
    turn = np.linalg.qr(random.standard_normal((config.starts, 1, n, n)))[0]
    gram = config.imbalance * np.eye(n) + first @ np.swapaxes(first, -1, -2)
    second = turn @ np.swapaxes(np.linalg.cholesky(gram), -1, -2)
    shape = (config.starts, 2, len(LINEAR_ALPHAS))
    task = np.eye(n, config.n_in) / LINEAR_ALPHAS[:, None, None]
    W1, W2, change = (
        np.broadcast_to(leaf, (*shape, *leaf.shape[-2:])).reshape(-1, *leaf.shape[-2:])
        for leaf in (first[:, :, None], second[:, :, None], task)
    )
    return (W1, W2), change


@cache
def digits(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Inputs on the sphere of squared radius n_in, and labels less their mean, 1/10."""
    x, y = data.load("digits", config.examples)
    x = x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, y - 1 / OUTPUTS


def linear_paths(config: Config) -> Arrays:
    """Angular velocity, distances from the start and from record to record, the lazy formula."""
    weights, changes = linear_problem(config)
    inputs = jnp.eye(config.n_in)

    def path(W1, W2, change):
        target = W2 @ W1 + change
        generator = riccati.fukumizu_matrix(target, config.imbalance)
        times = jnp.array((0.0, *LINEAR_TIMES))
        gram = riccati.qqt(times, riccati.stack_weights(W1, W2), generator)
        first, maps, second = riccati.split_qqt(gram, config.n_in)
        ntk = jax.vmap(tangent_kernel.ntk_two_layer, (0, 0, None))
        kernels = ntk(first, second, inputs)
        moving = jax.vmap(kernel_turning.ntk_velocity, (0, 0, None))
        velocities = moving(maps, target[None] - maps, inputs)
        distance = kernel_turning.kernel_distance
        return {
            "rate": jax.vmap(kernel_turning.turning_rate)(kernels, velocities)[1:],
            "distance": jax.vmap(distance, (None, 0))(kernels[0], kernels[1:]),
            "steps": jax.vmap(distance)(kernels[:-1], kernels[1:]),
            "lazy_rate": kernel_turning.lazy_turning_rate(times[1:], W1, W2, change),
        }

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(path))(*weights, changes))


def relu_predictions(config: Config) -> Arrays:
    """S/dt at the start of every width; S of lazy training, from the start and between records."""
    x, y = digits(config)
    distance, error = map(np.asarray, switching(config, x, y))
    widths, few = np.array(config.widths), config.records
    return {
        "widths": widths,
        "schedule": config.schedule,
        "relu_times": config.schedule * config.learning_rate,
        "switching": distance[0] / widths**1.5,
        "lazy_distance": distance[1:few] / widths[0] ** 1.5,
        "lazy_steps": distance[few:] / widths[0] ** 1.5,
        "sampling_error": (error / distance)[:few],
    }


@partial(jax.jit, static_argnames="config")
def switching(config: Config, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """S at width 1 and its sampling error: S/dt at the start, lazy S(0, t), lazy steps of S."""
    w = VARIANCE["relu"]
    kernel = mlp_kernels(x, activation="relu", depth=2, weight_variance=w).ntk
    modes = kernel_modes(kernel, loss="mean")
    learning = descent_filter(modes, config.learning_rate, config.schedule)
    summed = summed_residuals(modes, learning, y / config.lazy)
    every = jnp.concatenate([y[None], summed[1:], jnp.diff(summed, axis=0)])
    key, probes = jax.random.key(config.start_seed), (x[:PROBES], kernel[:PROBES, :PROBES])
    samples = {"samples": config.samples, "weight_variance": w}
    return switching_distance(key, x, every, *probes, width=1, **samples)
