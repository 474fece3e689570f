"""Handwritten digits of which a few share a planted bright patch and disagree about its label.

The patch is to these images what a blue sky is to photographs of planes and of ships: a strong
feature that pulls two classes apart which share it. A network is trained on them by full-batch
gradient descent, at a rate that takes it to the edge of stability.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import hypergeom

from dynamics import models
from dynamics.curvature import hvp, top_eigenpairs
from dynamics.losses import half_squared_error
from dynamics.opposing import (
    example_losses,
    gradient_cosine,
    group_correlation,
    opposing_groups,
)
from dynamics.recording import record_schedule
from sims import data
from sims.experiment import Arrays
from sims.processes import seed_keys, training

SIDE = 8  # pixels
ROWS = 2  # of the patch, at the top: the sky
SNAPSHOTS = 41
MATVECS = 16  # for the largest eigenvalue


class Planted(NamedTuple):
    """Images without their mean (n, pixels), labels (n, classes), the patch, its two groups."""

    x: np.ndarray
    y: np.ndarray
    patch: np.ndarray
    groups: np.ndarray  # (2, size) indices


@cache
def planted(examples: int, classes: tuple[int, ...], size: int) -> Planted:
    """The data, and at random in each of two classes the ``size`` images that get the patch."""
    images = data.load("digits", examples)
    x, patch = images.x / 16, np.zeros((SIDE, SIDE))
    patch[:ROWS] = 1
    labels, random = images.y.argmax(axis=1), np.random.default_rng(0)
    groups = [random.permutation(np.flatnonzero(labels == label))[:size] for label in classes]
    return Planted(
        x - x.mean(axis=0), images.y, patch.ravel() / np.linalg.norm(patch), np.array(groups)
    )


def chance(examples: int, size: int) -> np.ndarray:
    """Share of planted examples among as many drawn at random, and its standard deviation."""
    count = hypergeom(examples, 2 * size, 2 * size)
    return np.array([count.mean(), count.std()]) / (2 * size)


def train(config: Any, key: jax.Array, sweep: Any) -> Arrays:
    """Networks (patch sizes, seeds) on the planted digits: losses, cosines, sharpness.

    ``example_losses`` (..., steps + 1, n); at ``snapshots``, some of the steps, the ``cosine`` of
    the groups' gradients and the ``digit_sharpness``.
    """
    task = planted(config.examples, config.classes, config.planted)
    model = models.mlp((SIDE**2, config.n_hidden, task.y.shape[1]), dtype=jnp.float32)
    loss = half_squared_error(model.apply, examples="mean")
    cases = members(config, key, task, model)

    def losses(params, batch):
        return {"example_losses": example_losses(loss, params, batch)}

    def weights(params, batch):
        return {f"{index}": leaf for index, leaf in enumerate(jax.tree.leaves(params))}

    every, few = np.arange(config.digit_steps + 1), record_schedule(config.digit_steps, SNAPSHOTS)
    found = sweep("digits", training(loss, losses), cases, record_at=every).records
    kept = sweep("digits_weights", training(loss, weights), cases, record_at=few).records
    networks = jax.tree.unflatten(jax.tree.structure(cases["network"]), list(kept.values()))
    found |= snapshots(loss, task.groups, networks, cases["data"])
    shape = (len(config.patches), config.seeds)
    records = {name: np.reshape(a, shape + a.shape[1:]) for name, a in found.items()}
    return records | {"snapshots": few}


@partial(jax.jit, static_argnums=0)
def snapshots(loss: Any, groups: Any, networks: Any, batches: Any) -> dict[str, jax.Array]:
    """Curvature and gradients of networks (members, snapshots, ...), one after another."""

    def snapshot(params, batch):
        hessian, start = partial(hvp, loss, params, batch), jax.random.key(0)
        found = top_eigenpairs(hessian, params, start, num_matvecs=MATVECS, tolerance=1e-2)
        cosine = gradient_cosine(loss, params, batch, *groups)
        return {"digit_sharpness": found.values[0], "cosine": cosine}

    def member(case):
        return jax.lax.map(lambda params: snapshot(params, case[1]), case[0])

    return jax.lax.map(member, (networks, batches))


def members(config: Any, key: jax.Array, task: Planted, model: models.Model) -> dict[str, Any]:
    """A network for every seed, the same at every size of the patch."""
    weights = jax.jit(jax.vmap(model.init))(seed_keys(key, config.seeds))
    weights = jax.tree.map(lambda w: config.weight_scale * w, weights)
    sizes = np.repeat(config.patches, config.seeds)
    x = np.repeat(task.x[None], len(sizes), axis=0)
    x[:, task.groups.ravel()] += sizes[:, None, None] * task.patch
    repeats = len(config.patches)
    return {
        "network": jax.tree.map(lambda w: jnp.concatenate([w] * repeats), weights),
        "data": (
            jnp.float32(x),
            jnp.broadcast_to(jnp.float32(task.y), (len(sizes), *task.y.shape)),
        ),
        "learning_rate": jnp.full(len(sizes), config.digit_rate, jnp.float32),
        "key": seed_keys(jax.random.key(0), len(sizes)),  # full batch: not used
    }


def at_the_edge(config: Any, records: Arrays) -> Arrays:
    """What the losses say once training has settled at the edge, (patch sizes, seeds).

    Spikes are the tenth of those steps in which the losses of all examples change most.
    ``precision``: the share of planted examples among those that rise or fall most, averaged over
    spikes; ``correlation``: between the loss changes of the planted groups, over all those steps.
    """
    groups = planted(config.examples, config.classes, config.planted).groups
    losses = np.asarray(records["example_losses"])[:, :, config.settled :]
    changes = np.diff(losses, axis=2)
    moved = np.abs(changes).mean(axis=-1)
    count = moved.shape[-1] // 10
    spikes = np.argsort(-moved, axis=-1)[..., :count, None]
    found = np.concatenate(
        opposing_groups(np.take_along_axis(changes, spikes, axis=2), config.planted), axis=-1
    )
    correlate = jnp.vectorize(
        lambda steps: group_correlation(steps, *groups), signature="(t,n)->()"
    )
    return {
        "spikes": config.settled + 1 + np.sort(spikes[..., 0], axis=-1),
        "precision": np.isin(found, groups).mean(axis=(-2, -1)),
        "correlation": np.asarray(jax.jit(correlate)(changes)),
    }
