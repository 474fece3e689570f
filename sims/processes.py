"""Training as a sweep's process: the same step for every member, its own key and learning rate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.training import TrainState, optimizer_step
from sims.sweep import Process


def gradient_descent(case: Any) -> optax.GradientTransformation:
    """Plain gradient descent at the member's own ``case["learning_rate"]``."""
    return optax.sgd(case["learning_rate"])


def training_process(
    init: Callable[[Any, Any], Any],
    loss: Callable[[Any, Any], jax.Array],
    observe: Callable[[Any, Any], dict[str, jax.Array]],
    *,
    optimizer: Callable[[Any], optax.GradientTransformation] = gradient_descent,
    batch_size: int | None = None,
    sampling: str = "iid",
) -> Process:
    """A network trained on ``loss(params, shared["data"])``, as one member of a sweep.

    ``init(case, shared) -> params``; ``observe(params, shared) -> dict`` of arrays;
    ``optimizer(case)`` builds the optimiser from the member's own hyper-parameters, which may be
    traced. Minibatches, if any, are drawn from ``case["key"]``.
    """

    def start(case: Any, shared: Any) -> TrainState:
        params = init(case, shared)
        return TrainState(params, optimizer(case).init(params), case["key"])

    def step(k: jax.Array, state: TrainState, case: Any, shared: Any) -> TrainState:
        update = optimizer_step(loss, optimizer(case), batch_size=batch_size, sampling=sampling)
        return update(k, state, shared["data"])

    return Process(start, step, lambda state, case, shared: observe(state.params, shared))


def training(
    loss: Callable[[Any, Any], jax.Array], observe: Callable[[Any, Any], dict[str, jax.Array]]
) -> Process:
    """Training of ``case["network"]`` on ``loss(params, case["data"])``, the data being (x, y).

    ``observe(params, data) -> dict`` of arrays.
    """
    trained = training_process(
        lambda case, _: case["network"], loss, lambda params, case: observe(params, case["data"])
    )
    return Process(
        trained.init,
        lambda k, state, case, _: trained.step(k, state, case, case),
        lambda state, case, _: trained.observe(state, case, case),
    )


def seed_keys(key: jax.Array, seeds: int) -> jax.Array:
    """One key per seed; seed i has the same key however many there are."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(seeds))


def over_draws(path: Callable, key: jax.Array, draws: int, *, batch: int) -> Any:
    """``path`` of one key per draw, draws leading, a batch at a time to bound the memory."""
    keys = seed_keys(key, draws)
    found = jax.jit(lambda keys: jax.lax.map(path, keys, batch_size=batch))(keys)
    return jax.tree.map(np.asarray, found)


def generator(key: jax.Array) -> np.random.Generator:
    """NumPy's random numbers, seeded by a key: data of many shapes without compiling for each."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
