"""Run one experiment: from the store if its numbers are there, otherwise compute, judge and store.

Claims are judged anew from the arrays each time, so a stored result never carries an old verdict.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import numpy as np

from sims import atomic, mesh
from sims.backend import Backend, require_sound
from sims.checkpoint import Checkpointing
from sims.experiment import Experiment, Result, accepts_sweep, judge_all
from sims.provenance import cache_key, environment
from sims.store import Store, plain
from sims.sweep import Progress, SweepResult, sweep


class Stored(NamedTuple):
    """What a store keeps of a run: both dicts of arrays and the provenance."""

    predicted: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    provenance: dict[str, Any]


def run(
    experiment: Experiment,
    config: Any,
    *,
    store: Store,
    seed: int = 0,
    force: bool = False,
    allow_unsound: bool = False,
    progress: Progress | None = None,
    checkpoint_every: float = 60.0,
    chunk: int | None = None,
) -> Result:
    """The result of ``experiment`` at ``config`` and ``seed``, computed once and then remembered.

    ``provenance`` holds versions, seed, wall time of the session that finished the run, and
    ``diverged_at`` per sweep and member. ``simulate`` gets ``jax.random.key(seed)`` and, if it has
    a parameter ``sweep``, a sweep that writes checkpoints (every so many seconds), shows
    ``progress`` and runs ``chunk`` steps at a time; a run that was killed goes on from its last
    checkpoint. ``force`` computes again from the start. In a run of several processes the first
    one reads and writes the store.

    Raises ``UnsoundBackendError`` before computing on a backend that fails its probe, unless
    ``allow_unsound``; such results are marked and served again only under ``allow_unsound``.
    Raises ``StorageError`` if the store cannot be written (before computing, where that is
    knowable) and ``ValueError`` for a config of another experiment, a negative seed or results
    that are not named arrays of numbers.
    """
    if type(config) is not type(experiment.quick):
        kind = type(experiment.quick).__name__
        raise ValueError(f"config of {experiment.name} must be a {kind}, got {config!r}")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    key = cache_key(experiment, config, seed)
    found = None if force else _recall(store, experiment.name, key, allow_unsound)
    cached = found is not None
    if found is None:
        if jax.process_index() == 0:
            store.require_writable(experiment.name)
        backend = require_sound(allow_unsound)
        checkpoint = Checkpointing(store.partial(experiment.name, key), checkpoint_every)
        if force:
            _forget(checkpoint)
        bound = Sweeps(checkpoint=checkpoint, progress=progress, chunk=chunk)
        found = _compute(experiment, config, seed, bound, key=key, backend=backend)
        _keep(store, experiment, config, found)
        _forget(checkpoint)
    verdicts = judge_all(experiment, found.predicted, found.measured)
    provenance = {**found.provenance, "cached": cached}
    return Result(experiment.name, config, found.predicted, found.measured, verdicts, provenance)


class Sweeps:
    """The ``sweep`` that ``simulate`` gets: bound to the run's checkpoints, and keeping a record.

    ``diverged`` maps the name of a sweep to the step at which each of its members diverged, for
    those that did.
    """

    def __init__(self, **bound: Any) -> None:
        self._bound = bound
        self._names: set[str] = set()
        self.diverged: dict[str, dict[str, int]] = {}

    def __call__(self, name: str, *arguments: Any, **options: Any) -> SweepResult:
        if name in self._names:  # the second would find the first one's finished checkpoint
            raise ValueError(f"name must differ between the sweeps of one run, got {name!r} twice")
        self._names.add(name)
        result = sweep(name, *arguments, **{**self._bound, **options})
        steps = {str(i): int(step) for i, step in enumerate(result.diverged_at) if step >= 0}
        if steps:
            self.diverged[name] = steps
        return result


def _compute(
    experiment: Experiment, config: Any, seed: int, sweeps: Sweeps, *, key: str, backend: Backend
) -> Stored:
    began = time.monotonic()
    more = {"sweep": sweeps} if accepts_sweep(experiment.simulate) else {}
    predicted = _arrays(f"predict of {experiment.name}", experiment.predict(config))
    simulated = experiment.simulate(config, jax.random.key(seed), **more)
    measured = _arrays(f"simulate of {experiment.name}", simulated)
    provenance = {
        "key": key,
        "seed": seed,
        "computed": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": time.monotonic() - began,
        "diverged_at": sweeps.diverged,
        "environment": environment(),
        "backend": {"sound": backend.sound, "failures": backend.failures},
        "unsound_allowed": not backend.sound,
    }
    return Stored(predicted, measured, plain(provenance))


def _arrays(what: str, values: Any) -> dict[str, np.ndarray]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{what} must give a dict of named arrays, got {type(values).__name__}")
    arrays = {name: np.asarray(value) for name, value in values.items()}
    wrong = {name: str(x.dtype) for name, x in arrays.items() if x.dtype.kind not in "biufc"}
    if wrong:
        raise ValueError(f"{what} must give arrays of numbers, got {wrong}")
    return arrays


def _recall(store: Store, name: str, key: str, allow_unsound: bool) -> Stored | None:
    """What process 0 finds in its store, on every process."""
    entry = store.load(name, key) if jax.process_index() == 0 else None
    found = None
    if entry is not None:
        found = _split(entry.arrays, entry.record["provenance"])
        if not found.provenance["backend"]["sound"] and not allow_unsound:
            found = None
    if jax.process_count() == 1:
        return found
    data = mesh.share(found and _packed(found))
    return None if data is None else _unpacked(data)


def _keep(store: Store, experiment: Experiment, config: Any, found: Stored) -> None:
    if jax.process_index() != 0:
        return
    try:
        verdicts: Any = judge_all(experiment, found.predicted, found.measured)
    except Exception as error:  # a claim at fault must not cost a finished run; ``run`` judges anew
        verdicts = f"could not be judged: {error}"
    record = {
        "config": dataclasses.asdict(config),
        "source": str(experiment.source),
        "provenance": found.provenance,
        "verdicts": verdicts,
    }
    store.save(experiment.name, found.provenance["key"], _joined(found), record)


def _forget(checkpoint: Checkpointing) -> None:
    """Remove a run's checkpoints; what was set aside as damaged stays until ``ldyn clean``."""
    if jax.process_index() == 0 and checkpoint.directory.is_dir():
        for path in checkpoint.directory.glob("*.checkpoint"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            checkpoint.directory.rmdir()


def _joined(found: Stored) -> dict[str, np.ndarray]:
    halves = {"predicted": found.predicted, "measured": found.measured}
    return {f"{side}/{name}": x for side, half in halves.items() for name, x in half.items()}


def _split(arrays: Mapping[str, np.ndarray], provenance: dict[str, Any]) -> Stored:
    def half(side: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(side): x for name, x in arrays.items() if name.startswith(side)}

    return Stored(half("predicted/"), half("measured/"), provenance)


def _packed(found: Stored) -> bytes:
    return atomic.pack({**_joined(found), "provenance": np.array(json.dumps(found.provenance))})


def _unpacked(data: bytes) -> Stored:
    arrays = atomic.unpack(data)
    return _split(arrays, json.loads(arrays["provenance"].item()))
