"""Progressive differentiation: the modes of tree-structured data are learned one after another.

Saxe, McClelland & Ganguli (2014): 32 items with 1000 features that diffuse down a binary tree of
five levels (flip probability 0.1), learned by a two-layer network with 32 hidden units and
learning rate 0.5e-3; mode strengths of linear and tanh networks against the logistic curve from
u0 = 1e-6. These numbers are recalled from the paper. Ours are: the quick preset's 200 features
(its learning rate keeps eta * s_1), the number of seeds, and the variance of the initial weights,
chosen such that N_h sigma^2 / 2 = u0.

Networks that start from random weights are predicted without a free parameter: the effective
initial strength knows that every learned mode takes one hidden direction from those that follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import initialization, models
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from dynamics.representation import first_crossing, mode_strengths
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys, training_process
from sims.rates import order_of_error, rank_correlation, without_step_error
from sims.sweep import Process, sweep
from theory.deep_linear import modes, semantic
from theory.deep_linear.small_initialization import (
    effective_initial_strength,
    log_strength_variance,
)

BRANCHING = 2
STEP_FACTORS = np.array([2.0, 1.0, 0.5])  # of the learning rate, to measure its error
RECORDS = 201
LAST = -1  # a mode that finds one free hidden direction does not wait for the one before it
HORIZON = 1.6  # last step over the slowest predicted half-learning time


@dataclass(frozen=True)
class Config:
    """Time is in steps of gradient descent on the summed loss; inputs are one-hot."""

    tree_depth: int = 5
    flip: float = 0.1
    features: int = 200
    n_hidden: int = 32
    learning_rate: float = 1.1e-3
    initial_strength: float = 1e-6
    seeds: int = 12
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("features", "learning_rate", "initial_strength"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.seeds < 8:  # fewer cannot tell a variance from its double
            raise ValueError(f"seeds must be at least 8, got {self.seeds}")
        items = BRANCHING**self.tree_depth
        if self.n_hidden < items:
            raise ValueError(f"n_hidden must be at least {items} (items), got {self.n_hidden}")

    @property
    def weight_variance(self) -> float:
        """Of every initial weight: modes then start, in the mean, from ``initial_strength``."""
        return 2 * self.initial_strength / self.n_hidden


class Problem(NamedTuple):
    """Items (items, features), and the modes of the task: vectors as columns, values, ranks."""

    items: np.ndarray
    left: np.ndarray
    singular_values: np.ndarray
    right: np.ndarray
    ranks: np.ndarray


@cache
def problem(config: Config) -> Problem:
    """The data and its modes: part of the question, not of the answer."""
    key = jax.random.key(config.data_seed)
    items = semantic.sample_tree_dataset(
        key, BRANCHING, config.tree_depth, config.flip, config.features
    )
    left, s, right, _ = map(np.asarray, modes.decompose_task(items.T))
    return Problem(np.asarray(items), left, s, right, np.arange(len(s)))


def effective_start(config: Config) -> jax.Array:
    """Effective initial strength of every mode; the mode of rank r is learned after r others."""
    variance, ranks = config.weight_variance, problem(config).ranks
    return effective_initial_strength(variance, variance, config.n_hidden, ranks)


def schedule(config: Config) -> np.ndarray:
    """Steps at which mode strengths are recorded."""
    half = modes.half_learning_time(
        problem(config).singular_values, effective_start(config), 2, 1 / config.learning_rate
    )
    return record_schedule(int(HORIZON * float(half.max())), RECORDS)


def roomy(config: Config) -> np.ndarray:
    """Modes that still find a quarter of the hidden directions free when they are learned."""
    return problem(config).ranks < 0.75 * config.n_hidden


def predict(config: Config) -> Arrays:
    """Logistic curves, half-learning times in steps and their spread, spectrum of the tree."""
    task, tau = problem(config), 1 / config.learning_rate
    s, start, steps = task.singular_values, effective_start(config), schedule(config)
    tree = semantic.tree_singular_values(BRANCHING, config.tree_depth, config.flip, config.features)
    variance = log_strength_variance(config.n_hidden, task.ranks)
    return {
        "singular_values": s,
        "steps": steps,
        "strengths": modes.two_layer_mode_strength(steps[:, None], s[None], start[None], tau=tau),
        "half_steps": modes.half_learning_time(s, start, 2, tau),
        "half_steps_spread": jnp.sqrt(variance) * tau / (2 * s),
        "log_start_variance": variance,
        "roomy": roomy(config),
        "half_steps_aligned": modes.half_learning_time(s, config.initial_strength, 2, tau),
        "step_size": config.learning_rate * s,
        "level_eigenvalues": tree.values**2 / config.features,
    }


def process(model: models.Model, init: Callable[[Any, Any], Any]) -> Process:
    """A network trained on the summed loss and observed in the modes of the task."""

    def observe(params, shared):
        x, _ = shared["data"]
        return {"strengths": mode_strengths(model.apply(params, x).T @ x, *shared["vectors"])}

    return training_process(init, half_squared_error(model.apply, examples="sum"), observe)


def from_random_weights(activation: str, widths: tuple[int, ...], variance: float) -> Process:
    """A network whose every initial weight is N(0, variance)."""
    model = models.mlp(widths, activation=activation, use_bias=False)  # N(0, 1/fan-in)

    def init(case, shared):
        return jax.tree.map(lambda w: np.sqrt(variance * w.shape[1]) * w, model.init(case["key"]))

    return process(model, init)


def decoupled(widths: tuple[int, ...], strengths: jax.Array) -> Process:
    """A linear network that starts aligned with the task, its modes at the given strengths."""

    def init(case, shared):
        left, right = shared["vectors"]
        return initialization.aligned_init(case["key"], widths, left, right, strengths)

    return process(models.deep_linear(widths), init)


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train linear and tanh networks from random weights, and a decoupled one at three rates."""
    task, steps, rate = problem(config), schedule(config), config.learning_rate
    shared = {"data": (jnp.eye(len(task.items)), task.items), "vectors": (task.left, task.right)}
    widths = (len(task.items), config.n_hidden, config.features)
    keys, half = seed_keys(key, config.seeds), task.singular_values / 2
    seeds = {"key": keys, "learning_rate": jnp.full(config.seeds, rate)}
    found = {}
    for name in ("linear", "tanh"):
        network = from_random_weights(name, widths, config.weight_variance)
        found[name] = sweep(name, network, seeds, shared, record_at=steps).records["strengths"]
        found[f"half_steps_{name}"] = np.asarray(first_crossing(steps, found[name], half))
    log_start = -2 * task.singular_values * rate * found["half_steps_linear"]  # up to a constant
    return found | {
        "half_steps_aligned": decoupled_half_steps(config, keys[0], shared, sweep),
        "log_start_variance": log_start.var(axis=0, ddof=1),
        "roomy": roomy(config),
        "level_eigenvalues": level_eigenvalues(config),
        "levels": levels(config),
    }


def decoupled_half_steps(config: Config, key: jax.Array, shared: Any, sweep: Any) -> jax.Array:
    """Half-learning times at each of ``STEP_FACTORS``, in steps of the config's learning rate."""
    strengths = jnp.full(len(problem(config).ranks), config.initial_strength)
    network = decoupled((shared["data"][0].shape[1], config.n_hidden, config.features), strengths)
    rates = config.learning_rate * STEP_FACTORS
    cases = {"key": jnp.broadcast_to(key, rates.shape), "learning_rate": rates}
    steps = record_schedule(int(schedule(config)[-1] / STEP_FACTORS[-1]), 2 * RECORDS)
    run = sweep("decoupled", network, cases, shared, record_at=steps)
    elapsed = steps[None, :] * STEP_FACTORS[:, None]
    half = problem(config).singular_values / 2
    return jax.vmap(first_crossing, (0, 0, None))(elapsed, run.records["strengths"], half)


def level_eigenvalues(config: Config) -> np.ndarray:
    """Variance of the data along the modes of each level: row 0 the mean, row 1 its s.e."""
    vectors, level = (
        np.asarray(a) for a in semantic.object_analyzers(BRANCHING, config.tree_depth)
    )
    power = (vectors @ np.asarray(problem(config).items)) ** 2  # (modes, features)
    by_level = np.array([power[level == l].mean(axis=0) for l in range(config.tree_depth + 1)])
    return np.array([by_level.mean(axis=1), by_level.std(axis=1) / np.sqrt(config.features)])


def levels(config: Config) -> np.ndarray:
    """Level of the tree that each mode of the sampled data mostly lives on."""
    vectors, level = map(np.asarray, semantic.object_analyzers(BRANCHING, config.tree_depth))
    weight = (vectors @ problem(config).right) ** 2
    return np.argmax([weight[level == l].sum(axis=0) for l in np.unique(level)], axis=0)


def level_order(half_steps: np.ndarray, level: np.ndarray) -> float:
    """Rank correlation of the tree's levels with the median half-learning times of their modes."""
    found = np.unique(level)
    medians = np.array([np.median(half_steps[:, level == l]) for l in found])
    return rank_correlation(found, medians)


def timing_tolerance(predicted: Arrays, seeds: int) -> np.ndarray:
    """Relative error allowed to mean half-learning times: finite steps and sampled weights."""
    sampling = 4 * predicted["half_steps_spread"] / np.sqrt(seeds) / predicted["half_steps"]
    return (predicted["step_size"] / 2 + sampling)[:LAST]


CLAIMS = (
    Claim(
        "flow: half-learning times of a decoupled network",
        predicted=lambda p: p["half_steps_aligned"],
        measured=lambda m: without_step_error(m["half_steps_aligned"]),
        tolerance=lambda p, m: (2 * p["step_size"]) ** 2,
        because="extrapolated to zero step size; the largest eta s, squared, bounds what is left, "
        "interpolation between records included",
    ),
    Claim(
        "order of the error of finite steps",
        predicted=lambda p: 1.0,
        measured=lambda m: np.median(order_of_error(m["half_steps_aligned"])),
        tolerance=0.1,
        because="Euler steps err by O(eta); eta s <= 0.08 adds a few percent to the exponent",
        error="absolute",
    ),
    Claim(
        "half-learning times from random weights, all modes but the last",
        predicted=lambda p: p["half_steps"][:LAST],
        measured=lambda m: m["half_steps_linear"].mean(axis=0)[:LAST],
        tolerance=lambda p, m: timing_tolerance(p, len(m["linear"])),
        because="eta s / 2 for finite steps, and 4 standard errors over seeds; without the last "
        "mode, which meets the last but one in the only direction left and is 8 % early",
    ),
    Claim(
        "variance over initial weights of the log strength modes start from (first three quarters)",
        predicted=lambda p: np.mean(p["log_start_variance"][p["roomy"]]),
        measured=lambda m: np.mean(m["log_start_variance"][m["roomy"]]),
        tolerance=lambda p, m: 4 * np.sqrt(2.5 / (p["roomy"].sum() * (len(m["linear"]) - 1))),
        because="4 standard errors of a variance over seeds and modes; ln chi-square has an "
        "excess kurtosis below 1/2 there",
    ),
    Claim(
        "variance of the data along the levels of the tree",
        predicted=lambda p: p["level_eigenvalues"],
        measured=lambda m: m["level_eigenvalues"][0],
        tolerance=lambda p, m: 4 * m["level_eigenvalues"][1] / p["level_eigenvalues"],
        because="4 standard errors over the sampled features",
    ),
    Claim(
        "a tanh network learns the levels in the same order",
        predicted=lambda p: 1.0,
        measured=lambda m: level_order(m["half_steps_tanh"], m["levels"]),
        tolerance=1e-12,
        because="rank correlation of tree level and median learning time; order has no error bar",
    ),
)

EXPERIMENT = Experiment(
    name="saxe2014_modes",
    source=papers.saxe2014("mode trajectories on tree-structured data"),
    statement="Modes of hierarchical data are learned one after another, at times ln(s/u0)/2s.",
    equations=(
        r"\tau \dot u = 2u(s-u)",
        r"u(t) = \frac{s\,u_0}{u_0 + (s-u_0)e^{-2st/\tau}}",
        r"t_{1/2} = \frac{\tau}{2s}\ln\frac{s-u_0}{u_0}",
        r"\mathrm{E}\ln u_{\mathrm{eff}} = \ln\sigma^2 + \psi\left(\frac{N_h-k+1}{2}\right)",
    ),
    quick=Config(),
    full=Config(features=1000, learning_rate=0.5e-3, seeds=32),
    cost=(16, 300),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
