"""Students that start near a frozen random teacher and learn its outputs, no label seen.

Weights of a student are ``((1 - a) teacher + a other) / sqrt((1 - a)^2 + a^2)``, with ``other``
drawn like the teacher: at every locality a they are distributed as the teacher's. The loss is the
divergence of the student's softmax from the teacher's, both at temperature 1, mean over examples.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.models import Model, mlp
from dynamics.probing import neighbor_probe, ridge_probe
from dynamics.training import train
from sims import data
from sims.processes import generator, seed_keys

PIXELS = 64  # features of both data sets
LEARNED_FROM = 400  # examples for the students and the probes; as many again to test these
CLASSES, CLUSTERS, SPREAD = 6, 3, 0.8  # of the mixture: standard deviation of a cluster's mean
WIDTHS = (PIXELS, 48, 48, 48, 48, 64)  # encoder of three layers, head of two
ENCODER = 3
BATCH = 64
DATA_SETS = ("mixture", "digits")


def between(teacher: Any, other: Any, locality: Any) -> Any:
    """Weights of the student.

    >>> between(jnp.ones(2), jnp.zeros(2), 0.0).tolist()
    [1.0, 1.0]
    """
    scale = jnp.sqrt((1 - locality) ** 2 + locality**2)
    return jax.tree.map(
        lambda t, r: (((1 - locality) * t + locality * r) / scale).astype(t.dtype), teacher, other
    )


def divergence(model: Model, params: Any, taught: Any) -> jax.Array:
    """Mean divergence from the teacher, whose logits stand beside the inputs in ``taught``.

    >>> float(divergence(Model(None, lambda w, x: w * x), 1.0, (jnp.eye(2), jnp.eye(2))))
    0.0
    """
    x, logits = taught
    of_teacher = jax.nn.log_softmax(logits)
    of_student = jax.nn.log_softmax(model.apply(params, x))
    return jnp.mean(jnp.sum(jnp.exp(of_teacher) * (of_teacher - of_student), axis=-1))


def mixture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes of a few Gaussian clusters each, as inputs and one-hot labels."""
    means = SPREAD * rng.standard_normal((CLASSES, CLUSTERS, PIXELS))
    labels = np.arange(2 * LEARNED_FROM) % CLASSES
    cluster = rng.integers(CLUSTERS, size=len(labels))
    x = means[labels, cluster] + rng.standard_normal((len(labels), PIXELS))
    return x, np.eye(10)[labels]


def digits(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Some of the bundled digits, centred and of unit variance."""
    images = _images()
    chosen = rng.permutation(len(images.x))[: 2 * LEARNED_FROM]
    return images.x[chosen] / images.x.std(), images.y[chosen]


@cache
def _images() -> data.Dataset:
    return data.center(data.load("digits"))


def probe_gains(key: jax.Array, localities: Any, seeds: int, steps: int) -> dict[str, np.ndarray]:
    """Accuracies of probes on encoders: (data sets, localities, seeds, network, probe).

    Networks: the teacher, the student before, and after it has learned the teacher's outputs with
    Adam; probes: ridge regression, nearest neighbours. Single precision. ``divergence`` is that
    before and after, (data sets, localities, seeds, 2).
    """
    rng = generator(key)
    sets = [[draw(rng) for _ in range(seeds)] for draw in (mixture, digits)]
    x, y = (np.array([[pair[i] for pair in row] for row in sets], np.float32) for i in (0, 1))
    keys, count = seed_keys(key, len(sets) * seeds).reshape(len(sets), seeds), len(localities)
    members = (
        jnp.repeat(keys, count, axis=0),
        *(np.repeat(array, count, axis=0) for array in (x, y)),
        np.tile(np.asarray(localities, np.float32)[:, None], (2, seeds)),
    )
    flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), members)
    # one after the other: many small products at once are slower
    found = jax.jit(lambda flat: jax.lax.map(lambda each: _study(*each, steps=steps), flat))(flat)
    shape = (len(sets), count, seeds)
    return jax.tree.map(lambda array: np.asarray(array).reshape(*shape, *array.shape[1:]), found)


MODEL = mlp(WIDTHS, activation="relu", weight_variance=2.0, use_bias=False, dtype=jnp.float32)


def _study(key: jax.Array, x: jax.Array, y: jax.Array, locality: jax.Array, *, steps: int) -> Any:
    """One teacher and one student."""
    keys = jax.random.split(key, 3)
    teacher, other = (MODEL.init(k) for k in keys[:2])
    start = between(teacher, other, locality)
    seen = x[:LEARNED_FROM]
    taught = (seen, MODEL.apply(teacher, seen))
    loss = partial(divergence, MODEL)
    run = train(
        keys[2],
        start,
        taught,
        loss=loss,
        optimizer=optax.adam(1e-3),
        steps=steps,
        batch_size=BATCH,
        record_at=[0, steps],
    )
    found = [_probes(_encode(params, x), y) for params in (teacher, start, run.params)]
    return {"accuracy": jnp.stack(found), "divergence": run.records["loss"]}


def _encode(params: Any, x: jax.Array) -> jax.Array:
    """Activity of the encoder's last layer."""
    encoder = mlp(WIDTHS[: ENCODER + 1], activation="relu", use_bias=False, dtype=jnp.float32)
    return jax.nn.relu(encoder.apply(params[:ENCODER], x))


def _probes(h: jax.Array, y: jax.Array) -> jax.Array:
    parts = h[:LEARNED_FROM], y[:LEARNED_FROM], h[LEARNED_FROM:], y[LEARNED_FROM:]
    return jnp.stack([ridge_probe(*parts), neighbor_probe(*parts)])
