"""Seeds times hyper-parameters, trained side by side: chunks, checkpoints, devices, processes.

Members of a sweep are mapped with vmap and shared out over devices; no member ever sees another.
The steps of ``dynamics.recording`` run in compiled chunks driven from the host, and between chunks
divergence is counted, progress shown and the state stored. Where the chunks end changes no bit of
the result, so their length may follow the clock, and a run that was killed may go on from
wherever its checkpoint stands.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.recording import Run, advance, begin, require_schedule
from sims import mesh as meshes
from sims.checkpoint import Checkpoint, Checkpointing, decode, encode, load, save

CHUNK_SECONDS = 1.0
GROWTH = 8  # of the chunk, at most, from one to the next


class Process(NamedTuple):
    """One member of a sweep. Pure functions of unbatched arrays.

    ``init(case, shared) -> state``; ``step(k, state, case, shared) -> state`` leads from the
    state after k steps to the one after k + 1; ``observe(state, case, shared) -> dict`` of arrays.
    """

    init: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any, Any], Any]
    observe: Callable[[Any, Any, Any], dict[str, Any]]


class SweepResult(NamedTuple):
    """What a sweep gives, as NumPy arrays with members on the leading axis.

    ``steps`` (records,); ``records`` (members, records, ...), NaN (0 for integers) from where a
    member diverged; ``diverged_at`` (members,), first step with a non-finite state or -1;
    ``final`` states (members, ...), the first non-finite one if diverged, keys as key data.
    """

    steps: np.ndarray
    records: dict[str, np.ndarray]
    diverged_at: np.ndarray
    final: Any


class Progress(Protocol):
    """Who wants to know how far a sweep is: steps done, of how many, members diverged."""

    def update(self, done: int, total: int, diverged: int) -> None: ...


def sweep(
    name: str,
    process: Process,
    cases: Any,
    shared: Any = None,
    *,
    record_at: Any,
    chunk: int | None = None,
    devices: Sequence[Any] | None = None,
    checkpoint: Checkpointing | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Run ``process`` for every member of ``cases`` up to step ``record_at[-1]``.

    ``cases`` is a pytree of arrays with members on the leading axis (typed keys allowed);
    ``shared`` goes to every member. ``chunk`` steps run between two looks from the host; by
    default as many as take about a second. ``devices`` defaults to all; where members do not
    divide evenly the last one is repeated and the copies are dropped. The sweep ends early when
    every member has diverged.

    With ``checkpoint`` a sweep that was killed and is called again goes on, and ends bitwise as
    if undisturbed: on equally many devices (otherwise up to rounding), and where compiling twice
    gives one program (CPUs; GPUs may tune themselves differently). In a run of several processes
    (``jax.distributed``) each calls this function with the same arguments and gets the whole
    result; the first process alone reads and writes checkpoints.

    Raises ``ValueError`` for cases that are empty or disagree on their leading axis, a record
    schedule that does not increase strictly from 0 or more, a chunk < 1 and a name unfit for a
    file, and ``StorageError`` if a checkpoint cannot be written.

    >>> halve = Process(
    ...     init=lambda case, shared: case,
    ...     step=lambda k, state, case, shared: state / 2,
    ...     observe=lambda state, case, shared: {"x": state},
    ... )
    >>> sweep("halve", halve, np.array([1.0, 8.0]), record_at=[0, 3]).records["x"].tolist()
    [[1.0, 0.125], [8.0, 1.0]]
    """
    members = _count_members(cases)
    schedule = require_schedule(record_at)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be >= 1 step or None, got {chunk}")
    mesh = meshes.over(devices)
    start, forward = _compiled(process, mesh)
    on_mesh = (
        meshes.spread(meshes.pad(cases, members, mesh), mesh, meshes.EACH),
        meshes.spread(shared, mesh, meshes.ALL),
        np.int32(schedule),
    )
    run, done, store = start(*on_mesh), 0, None
    if checkpoint is not None:
        problem = {"members": members, "record_at": schedule.tolist()}
        store = _Store(checkpoint, name, problem | {"inputs": _digest((cases, shared))})
        run, done = store.resume(run, members, mesh)

    def take(run: Run, k: int, stop: int) -> Run:
        return forward(run, *on_mesh, np.int32(k), np.int32(stop))

    run = _drive(take, run, done, int(schedule[-1]), members, chunk, store, progress)
    found = meshes.gather(run, members)
    return SweepResult(schedule, found.records, found.diverged_at, found.state)


def _drive(
    take: Callable[[Run, int, int], Run],
    run: Run,
    done: int,
    total: int,
    members: int,
    chunk: int | None,
    store: "_Store | None",
    progress: Progress | None,
) -> Run:
    """Take the steps that are left, in chunks, with a look from the host after each."""
    size = chunk or 1
    while done < total:
        began, stop = time.monotonic(), min(done + size, total)
        run = take(run, done, stop)
        diverged = np.count_nonzero(meshes.gather(run.diverged_at, members) >= 0)  # waits
        if chunk is None:
            size = meshes.agree(_next_size(size, time.monotonic() - began))
        done = total if diverged == members else stop  # nothing changes once all have diverged
        if store is not None:
            store.keep(run, done, members, finished=done == total)
        if progress is not None:
            progress.update(done, total, int(diverged))
    return run


def _count_members(cases: Any) -> int:
    """Length of the leading axis that all arrays in ``cases`` share."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(cases)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(f"cases must be arrays with members on one leading axis, got {shapes}")
    return shapes[0][0]


@functools.lru_cache(maxsize=16)
def _compiled(process: Process, mesh: meshes.Mesh) -> tuple[Callable, Callable]:
    """``start(case, shared, record_at)`` and ``forward(run, case, shared, record_at, k, stop)``.

    Remembered, so that sweeps of one process compile once per shape.
    """

    def start(case, shared, record_at):
        state = process.init(case, shared)
        return begin(lambda state: process.observe(state, case, shared), state, record_at)

    def forward(run, case, shared, record_at, k, stop):
        def step(k, state):
            return process.step(k, state, case, shared)

        def observe(state):
            return process.observe(state, case, shared)

        return advance(step, observe, run, record_at, k, stop)

    return (
        jax.jit(meshes.mapped(start, (0, None, None), mesh)),
        jax.jit(meshes.mapped(forward, (0, 0, None, None, None, None), mesh), donate_argnums=0),
    )


def _next_size(size: int, seconds: float) -> int:
    """How many steps would have taken ``CHUNK_SECONDS``; the first chunk counts compilation."""
    return max(1, int(min(GROWTH * size, size * CHUNK_SECONDS / max(seconds, 1e-9))))


class _Store:
    """The checkpoint file of one sweep, read and written by the first process alone."""

    def __init__(self, checkpoint: Checkpointing, name: str, problem: dict[str, Any]):
        self.path, self.every = checkpoint.path(name), checkpoint.every
        self.problem, self.saved = problem, time.monotonic()

    def resume(self, run: Run, members: int, mesh: meshes.Mesh) -> tuple[Run, int]:
        """The run as stored and the steps it had taken, or ``run``, which has taken none."""
        fresh = _named(meshes.gather(run, members))
        layout = {name: [x.dtype.name, list(x.shape)] for name, x in fresh.items()}
        self.problem = self.problem | {"state": layout}
        found = load(self.path, self.problem) if jax.process_index() == 0 else None
        data = meshes.share(found and encode(found))
        if data is None:
            return run, 0
        found = decode(data)
        leaves, tree = jax.tree.flatten(run)
        arrays = map(_like, leaves, (found.arrays[name] for name in fresh))
        whole = meshes.pad(jax.tree.unflatten(tree, arrays), members, mesh)
        return meshes.spread(whole, mesh, meshes.EACH), found.step

    def keep(self, run: Run, done: int, members: int, *, finished: bool) -> None:
        """Write the run if it has finished or if it is time to."""
        if not meshes.agree(finished or time.monotonic() - self.saved >= self.every):
            return
        arrays = _named(meshes.gather(run, members))
        if jax.process_index() == 0:
            save(self.path, Checkpoint(done, self.problem, arrays))
        self.saved = time.monotonic()


def _named(tree: Any) -> dict[str, np.ndarray]:
    """Leaves under their paths."""
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _like(leaf: jax.Array, array: np.ndarray) -> jax.Array:
    """A stored array with the type of ``leaf``: keys wrapped, bfloat16 (void in .npz) named."""
    if meshes.is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jnp.asarray(array.view(leaf.dtype))


def _digest(tree: Any) -> str:
    """SHA-256 of the names, types and values of all leaves."""
    digest = hashlib.sha256()
    for name, leaf in _named(tree).items():
        array = np.asarray(jax.random.key_data(leaf) if meshes.is_key(leaf) else leaf)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
