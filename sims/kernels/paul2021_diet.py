"""Which examples matter: GraNd and EL2N before training know an example's length, and no more.

Paul, Ganguli & Dziugaite (2021) score examples by the norm of their gradient (GraNd) or of their
error (EL2N), averaged over networks at the start or early in training, and train on those that
score highest. What can be predicted of it:

* ``|grad l|^2 = (p - y)^T Theta(x, x) (p - y)``, exactly; at width n ``GraNd = sqrt(theta) EL2N``
  up to n^(-1/2), and both scores at the start follow from the length of x;
* hence independent ensembles of untrained networks agree on examples only as far as lengths differ,
  and **on a sphere not at all, at any width**: their expected scores are the same for all examples;
* leaving out example j changes the loss of another after one step by -eta g.g_j, up to eta^2
  (in tanh networks: a ReLU unit that switches within the step would spoil the power).

Pruning is a measurement, without a claim: accuracy on held-out digits against the number of
examples kept of 1024, in equally many steps. What reproduces at this size: keeping the half with
the highest EL2N, taken early in training, is at least as good as keeping all and better than a
random half; keeping the half with the lowest is worse. What does not: of a quarter and less a
random one is better than that with the highest EL2N; and of 512 examples, scored at 60 steps and
trained for 300, so is a random half. GraNd at the start is pruning by length (done here by the
length itself, which is what infinitely many networks would rank by): no better than random. All
sizes, data and rates are ours.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

from sims import data, papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.example_scores import (
    GRAND,
    deviation_error,
    deviation_exponent,
    leave_out,
    network_scores,
    quadratic_form,
    removal,
    removal_order,
    shared_error,
    shared_variance,
    single_variance,
)
from sims.kernels.pruned_digits import Schedule, Split, prune
from sims.kernels.turning_networks import TwoLayers
from sims.kernels.turning_predictions import VARIANCE
from sims.processes import generator
from sims.rates import standard_error
from sims.sweep import sweep
from theory.kernels.data_diet import initial_scores
from theory.kernels.infinite_width import mlp_kernels

OUTPUTS = 10
BINS = 4  # of examples by length
FINITE_WIDTH = 5.0  # relative error of scores, times the width: the variance of an output's own


@dataclass(frozen=True)
class Config:
    """``networks`` of every one of ``widths`` for scores; ``seeds`` for every point of pruning.

    ``early`` and ``steps`` count steps of stochastic gradients: until scores are taken, until
    accuracy is. The last of ``halvings`` of the ``train`` examples are the fewest kept.
    """

    widths: tuple[int, ...] = (32, 128, 512)
    networks: int = 128
    examples: int = 48
    removed: int = 6
    removal_rate: float = 1e-4
    samples: int = 10_000
    train: int = 1024
    pruned_width: int = 64
    seeds: int = 6
    halvings: int = 3
    batch: int = 32
    learning_rate: float = 1.0
    early: int = 100
    steps: int = 400
    theory_seed: int = 0

    def __post_init__(self) -> None:
        least = {"networks": 8, "examples": 4 * BINS, "removed": 1, "samples": 100, "train": 64}
        least |= {"pruned_width": 8, "seeds": 4, "halvings": 1, "batch": 1, "early": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if len(self.widths) < 3 or min(self.widths) < 16 or np.any(np.diff(self.widths) <= 0):
            raise ValueError(f"widths must be 3 or more, increasing from 16, got {self.widths}")
        if self.removed > self.examples:
            raise ValueError(f"removed must be at most {self.examples}, got {self.removed}")
        if self.train % 2**self.halvings or self.train > 1024:
            raise ValueError(
                f"train must be a multiple of {2**self.halvings} up to 1024, got {self.train}"
            )
        if self.batch > self.train or self.seeds % 2:
            raise ValueError(
                f"batch must be at most train and seeds even, got {self.batch} and {self.seeds}"
            )
        if not self.early < self.steps:
            raise ValueError(f"steps must be more than early = {self.early}, got {self.steps}")
        for name in ("removal_rate", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def kept(self) -> np.ndarray:
        """Numbers of examples kept, down from a half."""
        return self.train // 2 ** np.arange(1, self.halvings + 1)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """All inputs, of mean square length sqrt(n_in), and one-hot labels, in a random order."""
    x, y = data.load("digits", 1797)
    return x * np.sqrt(x.shape[1] / np.mean(np.sum(x**2, axis=1))), y


@cache
def scored(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Inputs to score, first as they are, then on the sphere, and the labels of both."""
    x, y = (values[: config.examples] for values in digits())
    on_sphere = x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    return np.concatenate([x, on_sphere]), np.concatenate([y, y])


def predict(config: Config) -> Arrays:
    """Scores at infinite width (scores, examples), first of raw inputs, and what follows."""
    x, _ = scored(config)
    kernels = mlp_kernels(x, activation="relu", depth=2, weight_variance=VARIANCE["relu"])
    nngp, ntk = (np.diagonal(kernel) for kernel in kernels)
    key = jax.random.key(config.theory_seed)
    found = initial_scores(key, nngp, ntk, classes=OUTPUTS, samples=config.samples)
    scores = np.stack([found.el2n, found.grand])
    raw = scores[:, : config.examples]
    return {
        "lengths": np.linalg.norm(x, axis=1),
        "widths": np.array(config.widths),
        "scores": scores,
        "sampling_error": np.max(found.relative_error),
        "by_length": by_length(raw, x),
        "shared_variance": raw.var(axis=1),
        "shared_on_sphere": np.zeros((2, len(config.widths))),
        "identity": 1.0,
        "deviation_exponent": -0.5,
        "removal": 1.0,
        "removal_order": 2.0,
        "removal_rate": config.removal_rate,
        "kept": config.kept,
    }


def by_length(scores: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Means over ``BINS`` of raw inputs of increasing length, (..., examples) to (..., bins)."""
    count = scores.shape[-1]
    order = np.argsort(np.linalg.norm(x[:count], axis=1))
    return np.stack([scores[..., rows].mean(axis=-1) for rows in np.array_split(order, BINS)], -1)


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Scores of untrained networks, what a left-out example does, and pruning."""
    score_key, prune_key = jax.random.split(key)
    random, (x, y) = generator(score_key), scored(config)
    found = []
    for width in config.widths[::-1]:
        network = TwoLayers("relu", (x.shape[1], width, OUTPUTS))
        drawn = network.draw(random, config.networks)
        found.append(network_scores(network, drawn, x, y))
    params = first_of(drawn)
    exact = {"quadratic_form": quadratic_form(network, params, x, y)}
    smooth = TwoLayers("tanh", (x.shape[1], config.widths[0], OUTPUTS))
    raw = (x[: config.examples], y[: config.examples])
    tanh = first_of(smooth.draw(random, 1))
    exact |= leave_out(smooth, tanh, raw, config.removed, config.removal_rate)
    scores, count = np.stack(found[::-1]), config.examples  # (widths, scores, networks, examples)
    schedule = Schedule(
        config.seeds,
        config.pruned_width,
        config.batch,
        config.learning_rate,
        config.early,
        config.steps,
    )
    return {
        "widths": np.array(config.widths),
        "scores": scores,
        "raw_scores": scores[..., :count],
        "sphere_scores": np.swapaxes(scores[..., count:], 0, 1),
        "by_length": by_length(scores[-1, ..., :count], x),
        **exact,
        **prune(split(config), schedule, config.kept, prune_key, sweep),
    }


def first_of(networks: Any) -> Any:
    """The first network of a leading axis."""
    return jax.tree.map(lambda leaf: leaf[0], networks)


def split(config: Config) -> Split:
    """Digits to train on, and all others to test."""
    x, y = digits()
    return Split(x[: config.train], y[: config.train], x[config.train :], y[config.train :])


CLAIMS = (
    Claim(
        "squared gradient norm over (p - y)^T Theta(x, x) (p - y), one network",
        predicted=lambda p: p["identity"],
        measured=lambda m: m["scores"][0, 1, 0] ** 2 / m["quadratic_form"],
        tolerance=1e-10,
        because="rounding in double precision",
    ),
    Claim(
        "EL2N and GraNd of untrained networks, by length, at the largest width",
        predicted=lambda p: p["by_length"],
        measured=lambda m: m["by_length"].mean(axis=1),
        tolerance=lambda p, m: (
            4 * standard_error(np.swapaxes(m["by_length"], 0, 1)) / p["by_length"]
            + 4 * p["sampling_error"]
            + FINITE_WIDTH / p["widths"][-1]
        ),
        because="4 standard errors over networks and over the sample of logits; finite width, 5/n",
    ),
    Claim(
        "power of the width of one network's GraNd/EL2N about its mean",
        predicted=lambda p: p["deviation_exponent"],
        measured=deviation_exponent,
        tolerance=lambda p, m: 4 * deviation_error(m) + 1 / p["widths"][0],
        because="4 standard errors over networks; relative corrections of order 1/n",
        error="absolute",
    ),
    Claim(
        "variance over raw examples that two untrained networks' GraNd shares",
        predicted=lambda p: p["shared_variance"][GRAND],
        measured=lambda m: shared_variance(m["raw_scores"][-1, GRAND]),
        tolerance=lambda p, m: (
            4 * shared_error(m["raw_scores"][-1, GRAND]) / p["shared_variance"][GRAND]
            + 2 * FINITE_WIDTH / p["widths"][-1]
        ),
        because="4 standard errors over networks; finite width, 10/n. (EL2N's is too small to be "
        "seen among the noise of so few networks.)",
    ),
    Claim(
        "share of the scores' variance that untrained networks agree on, on the sphere",
        predicted=lambda p: p["shared_on_sphere"],
        measured=lambda m: (
            shared_variance(m["sphere_scores"]) / single_variance(m["sphere_scores"])
        ),
        tolerance=lambda p, m: (
            4 * shared_error(m["sphere_scores"]) / single_variance(m["sphere_scores"])
        ),
        because="4 standard errors over networks, at every width; it is exactly zero at all",
        error="absolute",
    ),
    Claim(
        "change of losses by a left-out example, for eta -> 0, against -eta g.g_j: slope",
        predicted=lambda p: p["removal"],
        measured=removal,
        tolerance=1e-5,
        because="third order in eta times curvature, of which the first two are extrapolated away",
    ),
    Claim(
        "power of eta of what that leaves",
        predicted=lambda p: p["removal_order"],
        measured=removal_order,
        tolerance=0.1,
        because="the next order in eta times curvature, which is below 1/10",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="paul2021_diet",
    source=papers.paul2021("GraNd and EL2N scores, and pruning by them"),
    statement="Scores of untrained networks are functions of an example's length alone; on a "
    "sphere their ranking is noise.",
    equations=(
        r"|\nabla_\theta\ell(x,y)|^2 = (p-y)^\top\,\Theta(x,x)\,(p-y), \qquad"
        r" \mathrm{GraNd} \simeq \sqrt{\theta(x)}\;\mathrm{EL2N}",
        r"\mathrm{EL2N}(x) = \mathbb{E}_z\left|\mathrm{softmax}(\sqrt{K(x,x)}\,z) - e_1\right|"
        r" \quad\text{before training}",
        r"\ell(x,y)\big|_{\mathrm{with}\;j} - \ell(x,y)\big|_{\mathrm{without}\;j}"
        r" = -\eta\,g\cdot g_j + O(\eta^2)",
    ),
    quick=Config(),
    full=Config(
        widths=(32, 128, 512, 2048),
        networks=256,
        examples=200,
        samples=100_000,
        pruned_width=256,
        seeds=24,
        halvings=5,
        steps=1000,
    ),
    cost=(10, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
