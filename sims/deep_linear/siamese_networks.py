"""Linear Siamese networks and the views they learn from, trained side by side.

Views ``x1 = c + n1``, ``x2 = c + n2`` of as few examples as allow their correlations to be exact:
of c the chosen X, of n1 and n2 a diagonal X', and none between the three. An encoder ``W x``
(features, inputs) and a predictor ``Wp f`` without biases; networks that start decoupled have
``Wp = R diag(p) R^T``, ``W = R diag(sqrt s) V^T`` and the target ``tau W``, R and V being random.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import sqrtm

from dynamics.initialization import orthogonal_init
from dynamics.self_supervised import (
    DIRECT_RULES,
    Siamese,
    direct_predictor,
    siamese_loss,
    siamese_optimizer,
)
from dynamics.training import TrainState, optimizer_step
from sims.processes import gradient_descent
from sims.sweep import Process

STEP_FACTORS = (2, 1, 0.5)  # of the learning rate, to measure its error
FINEST = 4  # steps of the last for one of the first


class Bases(NamedTuple):
    """Orthonormal columns: of features (features, modes) and of inputs (inputs, modes)."""

    features: jax.Array
    inputs: jax.Array


def random_bases(key: jax.Array, features: int, inputs: int) -> Bases:
    """As many modes as features."""
    left, right = jax.random.split(key)
    return Bases(
        orthogonal_init(left, (features, features)), orthogonal_init(right, (inputs, features))
    )


def paired_views(key: jax.Array, X: Any, aug_vars: Any) -> tuple[jax.Array, jax.Array]:
    """Pairs of views (networks, examples, inputs), X' = diag(aug_vars), (networks, inputs)."""
    inputs = len(X)
    columns = np.asarray(orthogonal_init(key, (3 * inputs, 3 * inputs))) * np.sqrt(3 * inputs)
    common, first, second = np.split(columns, 3, axis=1)
    center = common @ np.real(sqrtm(X))
    noise = np.sqrt(np.asarray(aug_vars, float))[:, None, :]
    return jnp.asarray(center + noise * first), jnp.asarray(center + noise * second)


def white_views(key: jax.Array, inputs: int, aug_vars: Any) -> tuple[jax.Array, jax.Array]:
    """Pairs of views with X = I and X' = aug_var I, one variance per network."""
    return paired_views(key, np.eye(inputs), np.tile(np.asarray(aug_vars)[:, None], inputs))


def decoupled(bases: Bases, p: np.ndarray, s: np.ndarray, tau: Any = 1.0) -> Siamese:
    """Networks whose modes start at p, s and tau (networks, modes)."""
    R, V = map(np.asarray, bases)
    spread = R * np.sqrt(s)[:, None, :]
    target = spread * np.broadcast_to(tau, s.shape)[:, None, :]
    predictor = (R * p[:, None, :]) @ R.T
    return Siamese(*(jnp.asarray(w) for w in (spread @ V.T, predictor, target @ V.T)))


def mode_values(bases: Bases, records: dict[str, Any]) -> np.ndarray:
    """p and s (2, ..., modes) of recorded weights: diagonals of ``R^T Wp R``, ``R^T W W^T R``."""
    R, W = np.asarray(bases.features), np.asarray(records["online"])
    matrices = (np.asarray(records["predictor"]), W @ np.swapaxes(W, -1, -2))
    return np.stack([np.einsum("ij,...ik,kj->...j", R, matrix, R) for matrix in matrices])


def linear(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Encoder or predictor: ``W x`` of examples on the leading axis."""
    return x @ weights.T


def siamese_process(predictor: str) -> Process:
    """Training of one network, ``case["start"]``, on its own pairs of views, ``case["views"]``.

    The predictor is "learned", or set by one of the rules of DirectPred with ``case["eps"]``.
    Observed are the weights of online encoder and predictor.
    """

    def optimizer(case):
        names = ("weight_decay", "predictor_rate", "target_rate")
        return siamese_optimizer(gradient_descent(case), **{name: case[name] for name in names})

    def init(case, shared):
        start = case["start"]
        return TrainState(start, optimizer(case).init(start), jax.random.key(0))  # full batches

    def step(k, state, case, shared):
        direct = predictor in DIRECT_RULES
        head = direct_predictor(case["eps"], rule=predictor) if direct else linear
        update = optimizer_step(siamese_loss(linear, head), optimizer(case))
        return update(k, state, case["views"])

    def observe(state, case, shared):
        return {"online": state.params.online, "predictor": state.params.predictor}

    return Process(init, step, observe)


PROCESSES = {name: siamese_process(name) for name in ("learned", *DIRECT_RULES)}


def members(start: Siamese, views: Any, learning_rate: Any, **settings: Any) -> dict[str, Any]:
    """Members of a sweep. Settings are one number per network, or one for all.

    By default nothing decays, predictor and online encoder are equally fast, and the target is the
    online encoder. ``ema`` is the rate of a moving average, infinity for none.
    """
    numbers = {"weight_decay": 0.0, "predictor_rate": 1.0, "ema": np.inf, "eps": 0.0} | settings
    rate = np.asarray(learning_rate)
    numbers |= {"learning_rate": rate, "target_rate": np.minimum(rate * numbers.pop("ema"), 1.0)}
    count = len(start.online)
    return {"start": start, "views": views} | {
        name: jnp.broadcast_to(jnp.asarray(number, float), count)
        for name, number in numbers.items()
    }


def for_every_step(cases: dict[str, Any]) -> dict[str, Any]:
    """The same members at each of ``STEP_FACTORS``, which lead; moving averages keep their rates.

    ``cases["learning_rate"]`` is that of the middle one.
    """

    def at(factor):
        averaged = cases["target_rate"] < 1
        scaled = {
            "learning_rate": factor * cases["learning_rate"],
            "target_rate": jnp.where(averaged, factor, 1) * cases["target_rate"],
        }
        return cases | scaled

    return jax.tree.map(lambda *x: jnp.concatenate(x), *map(at, STEP_FACTORS))


def at_equal_times(values: np.ndarray) -> np.ndarray:
    """Records (step factors x networks, n, ...) as (step factors, networks, times, ...).

    >>> at_equal_times(np.array([[0, 2, 4, 6, 8], [0, 1, 2, 3, 4], [0.0, 0.5, 1, 1.5, 2]])).tolist()
    [[[0.0, 2.0]], [[0.0, 2.0]], [[0.0, 2.0]]]
    """
    by_factor = values.reshape(len(STEP_FACTORS), -1, *values.shape[1:])
    last = (values.shape[1] - 1) // FINEST
    strides = [round(STEP_FACTORS[0] / factor) for factor in STEP_FACTORS]
    return np.stack(
        [x[:, : stride * last + 1 : stride] for x, stride in zip(by_factor, strides, strict=True)]
    )


def first_true(
    happens: Callable[[int, np.ndarray], Any],
    between: tuple[float, float],
    shape: tuple[int, int],
    *,
    rounds: int,
) -> np.ndarray:
    """Where ``happens`` turns from false to true, by row: middles of brackets, (cases,).

    ``happens(round, values) -> bool``, both of ``shape`` (cases, points), is asked about values
    that increase along a row; each round divides the bracket of the one before. NaN where nothing
    turns.

    >>> first_true(lambda _, x: x > np.pi, (0.0, 8.0), (1, 5), rounds=2).tolist()
    [3.25]
    """
    brackets = np.tile(np.array(between, float), (shape[0], 1))
    row = np.arange(shape[0])
    for index in range(rounds):
        values = np.linspace(brackets[:, 0], brackets[:, 1], shape[1], axis=1)
        found = np.asarray(happens(index, values), bool)
        after = np.argmax(found, axis=1)
        brackets = np.stack([values[row, after - 1], values[row, after]], axis=1)
        brackets[(after == 0) | ~found.any(axis=1)] = np.nan
    return brackets.mean(axis=1)
