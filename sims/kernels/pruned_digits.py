"""Small networks trained on some of the digits, chosen by a score, and tested on others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.losses import cross_entropy
from sims.experiment import Arrays
from sims.kernels.turning_networks import TwoLayers
from sims.processes import generator, seed_keys, training_process
from sims.sweep import Process

POLICIES = ("random", "high EL2N", "low EL2N", "long", "short")  # which are kept


class Split(NamedTuple):
    """Inputs and one-hot labels (examples, ...) to train and to test on."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Schedule(NamedTuple):
    """Networks per point, their width; examples a step; rate; steps until scores, until the end."""

    seeds: int
    width: int
    batch: int
    learning_rate: float
    early: int
    steps: int


def prune(split: Split, schedule: Schedule, kept: np.ndarray, key: jax.Array, sweep: Any) -> Arrays:
    """Accuracy (policies, kept, seeds), with all examples (seeds,), early errors (seeds, examples).

    Scores are means over the networks that see all examples, the same for all seeds; random
    subsets, initial weights and batches (drawn with replacement) are each seed's own.
    """
    count, n_out = split.y.shape
    network = TwoLayers("relu", (split.x.shape[1], schedule.width, n_out))
    process, random = _process(network, split), generator(key)

    def run(name: str, rows: list[np.ndarray]) -> dict[str, np.ndarray]:
        cases = {
            "network": network.draw(random, schedule.seeds),
            "batches": np.stack(
                [random.choice(row, (schedule.steps, schedule.batch)) for row in rows]
            ),
            "learning_rate": np.full(schedule.seeds, schedule.learning_rate),
            "key": seed_keys(jax.random.key(0), schedule.seeds),  # batches are drawn already
        }
        found = sweep(name, process, cases, record_at=[schedule.early, schedule.steps])
        return found.records

    everything = run("all", [np.arange(count)] * schedule.seeds)
    early = everything["el2n"][:, 0]
    ranks = {"EL2N": early.mean(axis=0), "length": np.linalg.norm(split.x, axis=1)}
    accuracy = [
        [
            run(
                f"{policy}_{number}".replace(" ", "_"),
                _chosen(policy, number, ranks, schedule.seeds, random),
            )
            for number in kept
        ]
        for policy in POLICIES
    ]
    return {
        "accuracy": np.array([[each["accuracy"][:, 1] for each in row] for row in accuracy]),
        "full_accuracy": everything["accuracy"][:, 1],
        "early_el2n": early,
    }


def _process(network: TwoLayers, split: Split) -> Process:
    """Stochastic gradients on ``case["batches"]``; EL2N of all examples and accuracy are seen."""
    apply = network.model.apply

    def loss(params, pairs):
        x, y = pairs
        return cross_entropy(apply(params, x), jnp.argmax(y, axis=1))

    def observe(params, _):
        errors = jax.nn.softmax(apply(params, split.x)) - split.y
        right = jnp.argmax(apply(params, split.x_test), axis=1) == np.argmax(split.y_test, axis=1)
        return {"el2n": jnp.linalg.norm(errors, axis=1), "accuracy": jnp.mean(right)}

    trained = training_process(lambda case, _: case["network"], loss, observe)

    def step(k, state, case, _):
        rows = case["batches"][k]
        batch = (jnp.asarray(split.x)[rows], jnp.asarray(split.y)[rows])
        return trained.step(k, state, case, {"data": batch})

    return trained._replace(step=step)


def _chosen(
    policy: str, number: int, ranks: Arrays, seeds: int, random: np.random.Generator
) -> list[np.ndarray]:
    """Which examples every seed keeps."""
    if policy == "random":
        return [random.permutation(len(ranks["length"]))[:number] for _ in range(seeds)]
    score = ranks["EL2N" if "EL2N" in policy else "length"]
    sign = 1 if policy in ("low EL2N", "short") else -1
    return [np.argsort(sign * score)[:number]] * seeds
