"""A loop over steps, observed at chosen steps, with divergence noticed at the very step.

``advance`` is the one training loop of the project: ``dynamics.training.train`` runs it once,
``sims.sweep`` in chunks. A step is a function ``(k, state) -> state`` of the step index and the
state alone; whatever is random at step k comes from ``fold_in(key, k)``. So a run can be cut,
stored and continued anywhere, and no number depends on where it was cut.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PyTree

State = PyTree[Any]
Step = Callable[[Array, State], State]
Observe = Callable[[State], dict[str, Array]]


class Run(NamedTuple):
    """What the loop carries: state, records so far, and the first step that was not finite.

    ``records`` maps names to arrays (n_records, ...), NaN (0 for integers) where nothing was
    recorded: not reached yet, or diverged. ``diverged_at`` is an int32 scalar, -1 if never.
    """

    state: State
    records: dict[str, Array]
    diverged_at: Int[Array, "..."]


def record_schedule(steps: int, count: int, *, spacing: str = "linear") -> np.ndarray:
    """``count`` step indices from 0 to ``steps`` inclusive, strictly increasing.

    Linear: entry i is ``floor(i * steps / (count - 1))``. Log: 0, 1, then geometric, except where
    rounding would repeat an index; there the next integer stands and the rest is spread anew.
    Where ``count`` exceeds ``steps + 1`` every step is listed once. Raises ``ValueError`` for
    negative ``steps``, for ``count < 2`` and for an unknown spacing.

    >>> record_schedule(10, 3).tolist(), record_schedule(1000, 5, spacing="log").tolist()
    ([0, 5, 10], [0, 1, 10, 100, 1000])
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if count < 2:
        raise ValueError(f"count must be >= 2 (the first and the last step), got {count}")
    if spacing not in ("linear", "log"):
        raise ValueError(f'spacing must be "linear" or "log", got {spacing!r}')
    if count > steps:
        return np.arange(steps + 1)
    if spacing == "linear":
        return np.arange(count) * steps // (count - 1)
    schedule = [0, 1]
    for left in range(count - 2, 0, -1):
        last = schedule[-1]
        schedule.append(max(last + 1, round(last * (steps / last) ** (1 / left))))
    schedule[-1] = steps  # count = 2 is just the two ends
    return np.array(schedule)


def require_schedule(
    record_at: ArrayLike | Sequence[Any], steps: int | None = None
) -> Int[np.ndarray, " records"]:
    """``record_at`` as an array, if it is integers that increase strictly within 0..steps.

    Raises ``ValueError`` otherwise. ``steps=None`` sets no upper bound.

    >>> require_schedule([0, 5, 5], 10)
    Traceback (most recent call last):
        ...
    ValueError: record_at must increase strictly within 0..10, got [0, 5, 5]
    """
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    schedule = np.asarray(record_at)
    if schedule.ndim != 1 or schedule.size == 0 or not np.issubdtype(schedule.dtype, np.integer):
        raise ValueError(f"record_at must be a non-empty list of integers, got {record_at!r}")
    last = np.iinfo(np.int32).max if steps is None else steps
    if (np.diff(schedule) <= 0).any() or schedule[0] < 0 or schedule[-1] > last:
        raise ValueError(f"record_at must increase strictly within 0..{last}, got {record_at}")
    return schedule


def begin(observe: Observe, state: State, record_at: Int[ArrayLike, " records"]) -> Run:
    """A run at step 0: record buffers allocated, step 0 recorded if ``record_at`` lists it.

    >>> run = begin(lambda w: {"square": w**2}, jnp.array(3.0), np.array([0, 10]))
    >>> run.records["square"].tolist(), int(run.diverged_at)
    ([9.0, nan], -1)
    """
    state = jax.tree.map(jnp.asarray, state)
    record_at = jnp.asarray(record_at, jnp.int32)
    records = {
        name: jnp.full(
            record_at.shape + value.shape,
            jnp.nan if jnp.issubdtype(value.dtype, jnp.inexact) else 0,
            value.dtype,
        )
        for name, value in jax.eval_shape(observe, state).items()
    }
    run = Run(state, records, jnp.where(_is_finite(state), jnp.int32(-1), jnp.int32(0)))
    return run._replace(records=_write(observe, run, jnp.int32(0), record_at[0] == 0))


def advance(
    step: Step,
    observe: Observe,
    run: Run,
    record_at: Int[ArrayLike, " records"],
    start: Int[ArrayLike, ""],
    stop: Int[ArrayLike, ""],
) -> Run:
    """Take steps ``start, ..., stop - 1`` of a run that has taken ``start`` steps.

    Step k leads from the state after k steps to the state after k + 1; ``observe`` sees the
    latter if ``record_at`` (strictly increasing) lists k + 1. A run that stops being finite keeps
    its first non-finite state, and records nothing from there on. With Python integers for
    ``start`` and ``stop`` the loop is a scan, differentiable in reverse mode; with traced ones a
    single compilation serves every chunk of a run, and cutting a run changes no bit of it.

    >>> halve = lambda k, w: w / 2
    >>> look, at = lambda w: {"w": w}, np.array([0, 1, 3])
    >>> advance(halve, look, begin(look, 8.0, at), at, 0, 3).records["w"].tolist()
    [8.0, 4.0, 1.0]
    """
    record_at = jnp.asarray(record_at, jnp.int32)

    def body(k, carry):
        run, slot = carry
        k = jnp.asarray(k, jnp.int32)
        alive = run.diverged_at < 0
        state = jax.tree.map(partial(lax.select, alive), step(k, run.state), run.state)
        diverged_at = jnp.where(alive & ~_is_finite(state), k + 1, run.diverged_at)
        run = Run(state, run.records, diverged_at)
        # past the last slot the index is clamped to a step already behind us: never due again
        due = record_at[slot] == k + 1
        # due is one scalar for all members of a vmapped run: the cond stays a cond, and nothing
        # is observed in between
        records = lax.cond(due, lambda: _write(observe, run, slot, True), lambda: run.records)
        return run._replace(records=records), slot + due

    slot = jnp.searchsorted(record_at, jnp.asarray(start, jnp.int32), side="right")
    return lax.fori_loop(start, stop, body, (run, slot.astype(jnp.int32)))[0]


def _write(
    observe: Observe, run: Run, slot: Int[Array, ""], wanted: Bool[ArrayLike, ""]
) -> dict[str, Array]:
    """Records with ``observe(state)`` in a slot, if that is wanted and the state is finite."""
    good = wanted & (run.diverged_at < 0)
    return {
        name: run.records[name].at[slot].set(jnp.where(good, value, run.records[name][slot]))
        for name, value in observe(run.state).items()
    }


def _is_finite(state: State) -> Bool[Array, ""]:
    """Whether every floating-point number in a pytree is finite."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in leaves], bool))
