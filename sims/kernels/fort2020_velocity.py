"""How fast the tangent kernel turns during training: rich and lazy, smooth and ReLU.

Fort et al. (2020) measure the distance S = 1 - cos between tangent kernels at two times and call
S(t, t + dt)/dt the kernel's velocity: high early in training, low later. What can be predicted of
it is predicted here, in four groups of networks, all trained on F = alpha (f - f_0) with squared
loss over alpha^2:

* **two-layer linear** networks on white inputs: the kernel's whole path in closed form, from rich
  to lazy, and with it its angular velocity;
* **smooth** (tanh) networks: S is of second order in dt, so that S/dt is no rate and the angular
  velocity sqrt(2 S)/dt is; on the lazy side it falls as 1/alpha, from mirrored starts as 1/alpha^2;
* **wide ReLU** networks at the start, on digits: S is of *first* order in dt, since units switch,
  and S/dt is a rate, for which there is a formula. The kernel's derivative as automatic
  differentiation has it, for which the slope of a step is zero, misses nearly all of the motion;
* the same ReLU network during **lazy training**: the formula with the residuals of the linearised
  network of infinite width gives S(0, t).

Beside them, without a claim: the ReLU network in rich training. It repeats the paper's picture,
fast early and slow later. All sizes, data and rates are our own; the paper trains deep
convolutional networks with stochastic gradients on images in colour, which we have not done.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.recording import record_schedule
from sims import data, papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.turning_networks import (
    FLOW_ERROR,
    VARIANCE,
    TwoLayers,
    between,
    linear_flow,
    mirrored,
)
from sims.processes import generator, training
from sims.rates import fitted_exponent, jackknife, standard_error, without_step_error
from sims.sweep import sweep
from theory.deep_linear import kernel_turning, riccati, tangent_kernel
from theory.kernels.gate_switching import summed_residuals, switching_distance
from theory.kernels.infinite_width import mlp_kernels
from theory.kernels.kernel_modes import descent_filter, kernel_modes

RANDOM, MIRRORED = 0, 1  # starts
HALVINGS = np.array([1.0, 0.5, 0.25])
LINEAR_TIMES = tuple(np.geomspace(0.02, 4.0, 25))
LINEAR_ALPHAS = 2.0 ** np.arange(-2, 7)
TANH_ALPHAS = 2.0 ** np.arange(-2, 7)
TANH_INPUTS = 8
TANH_RATE = 0.2
TANH_STEPS = np.array([5, 20, 80])  # of training, at which tanh networks are looked at
TANH_STEP = 0.02  # dt of their longest chord
SWITCHING_STEP = 3.2  # dt of the longest chord of ReLU networks
PROBES = 32
FINITE_WIDTH = 30.0  # relative error of S, times the width: the kernel's own fluctuations
THIRD_ORDER = 1e-3
OUTPUTS = 10


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
    seeds: int = 32
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


def predict(config: Config) -> Arrays:
    """Linear networks (starts, 2, alphas, times); ReLU networks at the start and in training."""
    return {
        "times": np.array(LINEAR_TIMES),
        "alphas": LINEAR_ALPHAS,
        **{
            name: values.reshape(config.starts, 2, len(LINEAR_ALPHAS), -1)
            for name, values in linear_paths(config).items()
        },
        "dt_exponents": np.array([2.0] + [1.0] * len(config.widths)),  # smooth; ReLU
        "alpha_exponents": np.array([-1.0, -2.0]),  # of random and of mirrored starts
        "chord_limit": 1.0,
        "flow_error": FLOW_ERROR,
        **relu_predictions(config),
    }


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
    kernel = mlp_kernels(x, activation="relu", depth=2, weight_variance=VARIANCE["relu"]).ntk
    modes = kernel_modes(kernel, loss="mean")
    learning = descent_filter(modes, config.learning_rate, config.schedule[1:])
    summed = summed_residuals(modes, learning, y / config.lazy)
    key = jax.random.key(config.start_seed)
    probes = (x[:PROBES], kernel[:PROBES, :PROBES])
    options: dict[str, Any] = {"weight_variance": VARIANCE["relu"], "samples": config.samples}
    start = jnp.zeros_like(summed[:1])
    steps = jnp.diff(jnp.concatenate([start, summed]), axis=0)
    every = jnp.concatenate([start + y, summed, steps])
    found = switching_distance(key, x, every, *probes, width=1, **options)
    widths, few = np.array(config.widths), len(steps) + 1
    value, error = (np.asarray(part) for part in found)
    return {
        "widths": widths,
        "schedule": config.schedule,
        "relu_times": config.schedule * config.learning_rate,
        "switching": value[0] / widths**1.5,
        "lazy_distance": value[1:few] / widths[0] ** 1.5,
        "lazy_steps": value[few:] / widths[0] ** 1.5,
        "sampling_error": (error / value)[:few],
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Flow of linear networks, training of tanh networks, ReLU networks before and in training."""
    linear, tanh, relu = jax.random.split(key, 3)
    return {
        **simulate_linear(config, linear),
        **simulate_tanh(config, tanh, sweep),
        **simulate_relu(config, relu, sweep),
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


def linear_path(found: Arrays) -> np.ndarray:
    """Angular velocity and distance from the start, (2, starts, 2, alphas, times)."""
    return np.stack([found["rate"], found["distance"]])


def lazy_limit(rate: np.ndarray) -> np.ndarray:
    """``alpha^k rate`` (starts, 2, alphas, times), k = 1 and 2, extrapolated to infinite alpha."""
    scaled = rate * LINEAR_ALPHAS[:, None] ** np.array([1, 2])[:, None, None]
    return without_step_error(np.moveaxis(scaled[:, :, -3:], 2, 0))


def alpha_exponents(rate: np.ndarray) -> np.ndarray:
    """Powers of alpha at the largest three, (starts, 2, records), from (starts, 2, alphas, ...)."""
    last = np.log(rate[:, :, -1] / rate[:, :, -3])
    return last / np.log(TANH_ALPHAS[-1] / TANH_ALPHAS[-3])


def chord_limit(m: Arrays) -> np.ndarray:
    """Limit of ``sqrt(2 S)/dt`` for dt -> 0 over the exact angular velocity, of tanh networks."""
    chords = np.sqrt(2 * m["tanh_distances"]) / (TANH_STEP * HALVINGS)
    return without_step_error(np.moveaxis(chords, -1, 0)) / m["tanh_rate"]


def chord_error(m: Arrays) -> float:
    """Largest relative error of the longest chord as an angular velocity."""
    chord = np.sqrt(2 * m["tanh_distances"][..., 0]) / TANH_STEP
    return np.abs(chord / m["tanh_rate"] - 1).max()


def dt_exponents(m: Arrays) -> np.ndarray:
    """Powers of dt of S: of tanh networks, of ReLU networks of either width."""
    tanh = fitted_exponent(HALVINGS, geometric_mean(m["tanh_distances"].reshape(-1, 3)))
    relu = [fitted_exponent(HALVINGS, found.mean(axis=0)) for found in m["relu_distances"]]
    return np.array([tanh, *relu])


def geometric_mean(values: np.ndarray) -> np.ndarray:
    """Over the leading axis."""
    return np.exp(np.log(values).mean(axis=0))


def dt_errors(p: Arrays, m: Arrays) -> np.ndarray:
    """Allowed to ``dt_exponents``."""

    def exponent(mean):
        return fitted_exponent(HALVINGS, mean)

    relu = np.array([jackknife(exponent, found) for found in m["relu_distances"]])
    return np.array([TANH_STEP, *(4 * relu + smooth_share(p, m))])


def smooth_share(p: Arrays, m: Arrays) -> np.ndarray:
    """Of S after the longest chord, by the motion that automatic differentiation sees (widths,)."""
    smooth = (m["relu_rate"] ** 2).mean(axis=1) * SWITCHING_STEP / 2
    return smooth / p["switching"]


def finite_width(p: Arrays) -> np.ndarray:
    """Relative, of S of ReLU networks."""
    return FINITE_WIDTH / p["widths"]


CLAIMS = (
    Claim(
        "path of linear networks' kernels: angular velocity, distance from the start",
        predicted=linear_path,
        measured=linear_path,
        tolerance=lambda p, m: (
            100 * p["flow_error"] * linear_path(p).max(axis=-1, keepdims=True) / linear_path(p)
        ),
        because="step errors of the flow, of 1e-10 relative to the weights, a hundred or so steps",
    ),
    Claim(
        "lazy limit of linear networks' angular velocity, times alpha; times alpha^2 if f_0 = 0",
        predicted=lambda p: lazy_limit(p["lazy_rate"]),
        measured=lambda m: lazy_limit(m["rate"]),
        tolerance=THIRD_ORDER,
        because="third order of the kernel's relative change, 1/20 and less at the alphas used; "
        "the first two are extrapolated away",
    ),
    Claim(
        "powers of alpha of tanh networks' angular velocity, random and mirrored",
        predicted=lambda p: p["alpha_exponents"][:, None],
        measured=lambda m: alpha_exponents(m["tanh_rate"]).mean(axis=0),
        tolerance=lambda p, m: (
            1 / TANH_ALPHAS[-3] + 4 * standard_error(alpha_exponents(m["tanh_rate"]))
        ),
        because="corrections of relative order 1/alpha; 4 standard errors over networks",
        error="absolute",
    ),
    Claim(
        "limit of tanh networks' chord velocity sqrt(2 S)/dt over the exact derivative's",
        predicted=lambda p: p["chord_limit"],
        measured=chord_limit,
        tolerance=lambda p, m: chord_error(m) ** 2,
        because="the first two orders in dt are extrapolated away; allowed is the square of the "
        "largest relative error of any chord, which is less than 1/10",
    ),
    Claim(
        "powers of dt of the distance S(t, t + dt): tanh, ReLU",
        predicted=lambda p: p["dt_exponents"],
        measured=dt_exponents,
        tolerance=dt_errors,
        because="dt for tanh; for ReLU 4 standard errors over networks and the smooth part's share",
        error="absolute",
    ),
    Claim(
        "S/dt of ReLU networks at the start, by switching units, at every width",
        predicted=lambda p: p["switching"],
        measured=lambda m: m["relu_distances"][..., 0].mean(axis=1) / SWITCHING_STEP,
        tolerance=lambda p, m: (
            4
            * standard_error(np.moveaxis(m["relu_distances"][..., 0], 1, 0))
            / (SWITCHING_STEP * p["switching"])
            + 4 * p["sampling_error"][0]
            + finite_width(p)
            + smooth_share(p, m)
        ),
        because="4 standard errors over networks and over the formula's units; finite width, "
        "30/n; the smooth part of the motion",
    ),
    Claim(
        "S(0, t) of ReLU networks in lazy training",
        predicted=lambda p: p["lazy_distance"],
        measured=lambda m: m["lazy_distance"].mean(axis=0),
        tolerance=lambda p, m: (
            4 * standard_error(m["lazy_distance"]) / p["lazy_distance"]
            + 4 * p["sampling_error"][1:]
            + finite_width(p)[0]
        ),
        because="4 standard errors over networks and over the formula's units; finite width, 30/n",
    ),
)

EXPERIMENT = Experiment(
    name="fort2020_velocity",
    source=papers.fort2020("the velocity of the tangent kernel, S(t, t + dt)/dt"),
    statement="A smooth network's kernel turns at an angular velocity sqrt(2 S)/dt, which has "
    "closed forms and falls as a power of alpha; a wide ReLU network's jumps, and S/dt is a rate.",
    equations=(
        r"S(t,t') = 1 - \frac{\langle K_t, K_{t'}\rangle}{|K_t|\,|K_{t'}|}"
        r" \simeq \tfrac12\,\omega^2\,(t'-t)^2, \qquad"
        r" \omega = \frac{|\dot K - K\langle K,\dot K\rangle/|K|^2|}{|K|}",
        r"\dot K = I\otimes X^\top(M^\top E + E^\top M)X + (EM^\top + ME^\top)\otimes X^\top X"
        r" \quad (M = W_2W_1,\; E = \Sigma_{yx} - M)",
        r"\mathrm{ReLU:}\quad S = \frac{n}{2|\Theta|^2}\sum_i p_i\,\mathbb{E}\left[|\delta h_i|"
        r"\left(|D_i|^2 - \langle\Theta,D_i\rangle^2/|\Theta|^2\right)\right]"
        r" \propto n^{-3/2}\,|\delta t|",
    ),
    quick=Config(),
    full=Config(starts=8, widths=(512, 1024, 2048), examples=256, seeds=48, samples=4000),
    cost=(10, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
