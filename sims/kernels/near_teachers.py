"""Tanh students next to their random teachers, or equal to them, and what the task makes of it.

Networks in NTK parametrisation without biases. Teachers and their inputs are drawn from a seed in
the config, for a prediction has to know them; what the key of a run draws is where students start.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.gram import softmax_weights
from dynamics.layerwise import layerwise_gram
from dynamics.models import mlp
from dynamics.training import train
from sims.kernels.random_teachers import between, divergence
from sims.processes import seed_keys

INPUTS, EXAMPLES, OUTPUTS = 8, 16, 4
RELATIVE_RATE = 0.5  # learning rate times the fastest mode's rate
HALVINGS = np.array([1.0, 0.5, 0.25])  # of the locality
LEADING = 4  # modes whose decay is followed
SCHEDULE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
ADAM_RATE = 1e-3
TINY = 1e-16  # Adam's epsilon where its first step is measured: below any rounding that counts


@dataclass(frozen=True)
class Teachers:
    """Students start at ``small_locality`` and its halves, in several directions each."""

    hidden: int = 32
    teachers: int = 4
    directions: int = 12
    small_locality: float = 0.02
    still_steps: int = 200
    teacher_seed: int = 0

    def __post_init__(self) -> None:
        least = {"hidden": 4, "teachers": 2, "directions": 4, "still_steps": 10}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")
        if not 0 < self.small_locality <= 0.1:
            raise ValueError(f"small_locality must be in (0, 0.1], got {self.small_locality}")


class Task(NamedTuple):
    """Teachers, their inputs and logits, and their Fisher kernels; teachers on the leading axis."""

    teachers: Any
    x: jax.Array
    logits: jax.Array
    roots: jax.Array
    kernels: jax.Array


def model(config: Teachers, dtype: Any = float) -> Any:
    """The network whose teachers and students are compared exactly."""
    widths = (INPUTS, config.hidden, config.hidden, OUTPUTS)
    return mlp(
        widths,
        activation="tanh",
        parametrization="ntk",
        weight_variance=2.0,
        use_bias=False,
        dtype=dtype,
    )


@cache
def task(config: Teachers) -> Task:
    """Part of the question, not of the answer."""
    x = np.random.default_rng(config.teacher_seed).standard_normal(
        (config.teachers, EXAMPLES, INPUTS)
    )

    def draw(key: jax.Array, x: jax.Array) -> Task:
        teacher = model(config).init(key)
        logits = model(config).apply(teacher, x)
        root = softmax_weights(logits)
        gram = layerwise_gram(
            teacher, x, activation="tanh", parametrization="ntk", weight_variance=2.0
        )
        kernel = jnp.einsum("iab,ibjd,jed->iaje", root, gram, root)
        return Task(teacher, x, logits, root, kernel)

    keys = seed_keys(jax.random.key(config.teacher_seed), config.teachers)
    return jax.jit(jax.vmap(draw))(keys, x)


@cache
def rates(config: Teachers) -> np.ndarray:
    """Learning rates (teachers,), from the largest eigenvalue of the kernel of the mean loss."""
    flat = np.asarray(task(config).kernels).reshape(config.teachers, *2 * (EXAMPLES * OUTPUTS,))
    return RELATIVE_RATE * EXAMPLES / np.linalg.eigvalsh(flat)[:, -1]


def nearby(config: Teachers, key: jax.Array) -> dict[str, Any]:
    """Divergence over a^2 and modes' amplitudes over a, of students in random directions.

    (HALVINGS, teachers, directions, records[, modes]).
    """
    net, given = model(config), task(config)
    flat = np.asarray(given.kernels).reshape(config.teachers, *2 * (EXAMPLES * OUTPUTS,))
    leading = np.linalg.eigh(flat)[1][:, :, ::-1][:, :, :LEADING]

    def student(given: Task, modes: jax.Array, rate: Any, key: jax.Array, a: jax.Array) -> Any:
        taught = (given.x, given.logits)

        def observe(params: Any) -> dict[str, jax.Array]:
            distance = net.apply(params, given.x) - given.logits
            amplitude = jnp.einsum("iab,ib->ia", given.roots, distance).reshape(-1) @ modes
            return {
                "divergence": divergence(net, params, taught) / a**2,
                "amplitude": amplitude / a,
            }

        start = between(given.teachers, net.init(key), a)
        return train(
            key,
            start,
            taught,
            loss=partial(divergence, net),
            optimizer=optax.sgd(rate),
            steps=int(SCHEDULE[-1]),
            observe=observe,
            record_at=SCHEDULE,
        ).records

    run = jax.vmap(student, (None, None, None, 0, None))  # directions
    run = jax.vmap(run, (0, 0, 0, 0, None))  # teachers
    run = jax.jit(jax.vmap(run, (None, None, None, None, 0)))  # localities
    keys = seed_keys(key, config.teachers * config.directions).reshape(config.teachers, -1)
    found = run(given, leading, rates(config), keys, config.small_locality * HALVINGS)
    return jax.tree.map(np.asarray, found)


def still(config: Teachers) -> dict[str, Any]:
    """Students that begin as their teachers, in single precision: what becomes of the divergence.

    ``still_sgd`` and ``still_adam`` (teachers, records), evaluated in double precision;
    ``first_step``: the longest step of a weight, over Adam's learning rate, (teachers,).
    """
    net, given = model(config, jnp.float32), task(config)
    steps = np.arange(0, config.still_steps + 1, max(1, config.still_steps // 20))
    single = jax.tree.map(lambda w: w.astype(jnp.float32), (given.teachers, given.x))

    def run(teacher: Any, x: jax.Array, rate: jax.Array) -> dict[str, jax.Array]:
        def double(params: Any) -> tuple[Any, jax.Array]:
            wide = jax.tree.map(lambda w: w.astype(float), (params, x))
            return wide[0], wide[1]

        logits = net.apply(teacher, x)
        reference, wide_x = double(teacher)
        exact = (wide_x, model(config).apply(reference, wide_x))
        distil = partial(
            train,
            jax.random.key(0),
            teacher,
            (x, logits),
            loss=partial(divergence, net),
            observe=lambda params: {
                "divergence": divergence(model(config), double(params)[0], exact)
            },
        )
        sgd = distil(optimizer=optax.sgd(rate), steps=config.still_steps, record_at=steps)
        adam = optax.adam(ADAM_RATE)
        adam = distil(optimizer=adam, steps=config.still_steps, record_at=steps)
        once = distil(optimizer=optax.adam(ADAM_RATE, eps=TINY), steps=1, record_at=[1])
        moved = jax.tree.map(lambda w, v: jnp.max(jnp.abs(w - v)), once.params, teacher)
        return {
            "still_sgd": sgd.records["divergence"],
            "still_adam": adam.records["divergence"],
            "first_step": jnp.max(jnp.stack(jax.tree.leaves(moved))) / ADAM_RATE,
        }

    found = jax.jit(jax.vmap(run))(*single, jnp.asarray(rates(config), jnp.float32))
    return {"still_steps": steps} | jax.tree.map(np.asarray, found)
