"""Networks that learn handwritten digits until their last features collapse, or do not.

Rectified linear units without biases, full-batch gradient descent with momentum on half the squared
error (mean over examples, sum over classes) with weight decay on all weights. As many images of
every class, less their mean, all of one length.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics import models
from dynamics.collapse import neural_collapse
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from sims import data
from sims.experiment import Arrays
from sims.processes import seed_keys, training_process
from sims.sweep import Process

MOMENTUM = 0.9
RECORDS = 33


@cache
def balanced_digits(classes: int, examples: int) -> data.Dataset:
    """The first ``examples`` images of each of the first classes."""
    found = data.load("digits")
    labels = found.y.argmax(axis=1)
    kept = np.concatenate([np.flatnonzero(labels == k)[:examples] for k in range(classes)])
    x = found.x[kept] - found.x[kept].mean(axis=0)
    x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    return data.Dataset(x, found.y[kept, :classes])


def train(config: Any, key: jax.Array, sweep: Any) -> Arrays:
    """Records (decays, seeds, records): misfit, and how far collapse has gone.

    ``ratios`` of scatters within and between classes (..., hidden layers); of the last hidden
    layer NC1, NC2 and NC3, held against an orthogonal frame as there is no bias.
    """
    images = jax.tree.map(np.float32, balanced_digits(config.classes, config.examples))
    widths = (images.x.shape[1], *[config.width] * (config.depth - 1), config.classes)
    model = models.mlp(
        widths, activation="relu", weight_variance=2.0, use_bias=False, dtype=jnp.float32
    )
    seeds, decays = config.seeds, np.array(config.decays, np.float32)
    weights = jax.jit(jax.vmap(model.init))(seed_keys(key, seeds))
    cases = {
        "network": jax.tree.map(lambda w: np.concatenate([w] * len(decays)), weights),
        "weight_decay": np.repeat(decays, seeds),
        "learning_rate": np.full(seeds * len(decays), config.learning_rate, np.float32),
        "key": seed_keys(jax.random.key(0), seeds * len(decays)),  # full batch: not used
    }
    at = record_schedule(config.steps, RECORDS, spacing="log")
    kept = sweep("digits", decaying(model), cases, images, record_at=at).records
    networks = jax.tree.unflatten(jax.tree.structure(weights), list(kept.values()))
    found = measured(networks, images, model=model)
    shape = len(decays), seeds
    return {name: np.reshape(a, shape + a.shape[1:]) for name, a in found.items()} | {"steps": at}


def decaying(model: models.Model) -> Process:
    """Training of one network on the shared images; its weights are recorded."""
    misfit = half_squared_error(model.apply, examples="mean")

    def loss(params: Any, batch: Any) -> jax.Array:
        squares = jnp.stack([jnp.sum(w**2) for w in jax.tree.leaves(params)])
        return misfit(params, batch[0]) + batch[1] / 2 * jnp.sum(squares)

    def observe(params: Any, _: Any) -> dict[str, jax.Array]:
        return {f"{index}": leaf for index, leaf in enumerate(jax.tree.leaves(params))}

    whole = training_process(
        lambda case, _: case["network"],
        loss,
        observe,
        optimizer=lambda case: optax.sgd(case["learning_rate"], momentum=MOMENTUM),
    )

    def step(k, state, case, images):
        return whole.step(k, state, case, {"data": (images, case["weight_decay"])})

    return whole._replace(step=step)


@partial(jax.jit, static_argnames="model")
def measured(networks: Any, images: data.Dataset, *, model: models.Model) -> dict[str, jax.Array]:
    """What is measured of networks (members, records, ...)."""
    labels, classes = jnp.argmax(images.y, axis=1), images.y.shape[1]
    misfit = half_squared_error(model.apply, examples="mean")
    relu = models.ACTIVATIONS["relu"]

    def one(params):
        hidden = [relu(model.apply(params[:l], images.x)) for l in range(1, len(params))]
        found: Any = jax.vmap(
            lambda h: neural_collapse(
                h, labels, params[-1].weight, n_classes=classes, frame="orthogonal"
            )
        )(jnp.stack(hidden))
        return {
            "misfit": misfit(params, images),
            "ratios": found.scatter_ratio,
            "nc1": found.variability[-1],
            "nc2": found.frame_distance[-1],
            "nc3": found.self_duality[-1],
        }

    return jax.vmap(jax.vmap(one))(networks)
