"""One door for every entry point: make the numerical backend sound, or say that it is not.

jaxlib on CPU can silently miscompile ``jit(vmap(reduce(A @ row)))``: jaxlib 0.10.2 in float64
(batch > 16384, rows of length 3, 5, 6, 7), jaxlib 0.9.2 to 0.10.2 in float32 (batches 32769 and
40000, row length 3). The fault sits in one fusion pass; an empty ``--xla_cpu_experimental_ynn_
fusion_type=`` switches the pass off. The flag is unknown, and fatal, before jaxlib 0.8.2.

``prepare`` must run before the first JAX operation and before NumPy is imported, so this module
imports neither at the top.
"""

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from itertools import product
from typing import Any, NamedTuple

THREADS = 8
YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
ROW_LENGTHS = (3, 5, 6, 7)
BATCHES = (16385, 32769, 40000)
REDUCTIONS = ("sum", "max", "norm")


class UnsoundBackendError(RuntimeError):
    """The compiled program disagrees with NumPy on a probe: no number from it can be trusted."""


class Backend(NamedTuple):
    """What this process computes with, and whether the probe found it sound."""

    sound: bool
    failures: tuple[str, ...]
    versions: dict[str, str]
    platform: str
    devices: tuple[str, ...]
    x64: bool
    flags: str


def prepare() -> None:
    """Set the environment of an entry point: fusion flag, threads, float64.

    Values the user has set stay. One BLAS thread, because XLA's own thread pool and OpenBLAS's
    otherwise compete for the same cores. At least ``THREADS`` threads in XLA's pool: with two, a
    program of two independent batched LAPACK calls can wait for ever, each call holding a thread
    while it waits for another (seen on jaxlib 0.10.1 with two cores, in 5 of 6 runs; with 8 in
    none).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PJRT_NPROC", str(max(THREADS, os.cpu_count() or 1)))
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    flags = os.environ.get("XLA_FLAGS", "").strip()
    in_a_file = flags[:1] not in ("", "-")  # then the variable is the file's name: hands off
    if YNN_FLAG not in flags and not in_a_file and _version("jaxlib") >= (0, 8, 2):
        os.environ["XLA_FLAGS"] = f"{flags} {YNN_FLAG}=".strip()
    if "jax" in sys.modules:  # the variable is read at import; afterwards only the config counts
        import jax

        wanted = os.environ["JAX_ENABLE_X64"].lower() in ("1", "y", "yes", "t", "true", "on")
        jax.config.update("jax_enable_x64", wanted)


def probe() -> Backend:
    """Run the known miscompilations in this process and compare with NumPy (3 s, then cached).

    ``jit(vmap(reduce(A @ row)))`` for float32, and float64 when x64 is on, over ``ROW_LENGTHS``,
    ``BATCHES`` and ``REDUCTIONS``. A row counts as wrong beyond the worst rounding error that any
    order of summation can make.

    >>> probe().platform in ("cpu", "gpu", "tpu")
    True
    """
    import jax

    return _probe(bool(jax.config.jax_enable_x64))  # type: ignore[attr-defined]


def require_sound(allow_unsound: bool = False) -> Backend:
    """The probed backend; ``UnsoundBackendError`` if it is unsound and that is not allowed."""
    backend = probe()
    if backend.sound or allow_unsound:
        return backend
    shown = "\n".join(f"  {failure}" for failure in backend.failures[:6])
    hidden = len(backend.failures) - 6
    raise UnsoundBackendError(
        f"this backend computes wrong numbers: {len(backend.failures)} probes of "
        f"jit(vmap(reduce(A @ row))) disagree with NumPy\n{shown}"
        + (f"\n  and {hidden} more" if hidden > 0 else "")
        + f"\non {backend.platform} with jax {backend.versions['jax']}, jaxlib "
        f"{backend.versions['jaxlib']}, XLA_FLAGS={backend.flags!r}.\n"
        f"Put {YNN_FLAG}= (nothing after the equals sign) into XLA_FLAGS before JAX first "
        "computes; sims.backend.prepare() does so where the flag is not set. If it is there "
        "already, install another jaxlib (0.10.1 is sound with it). "
        "allow_unsound=True computes anyway and records that."
    )


@cache
def _probe(x64: bool) -> Backend:
    import jax

    failures = tuple(_failures(("float32", "float64") if x64 else ("float32",)))
    return Backend(
        sound=not failures,
        failures=failures,
        versions={name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        platform=jax.default_backend(),
        devices=tuple(device.device_kind for device in jax.devices()),
        x64=x64,
        flags=os.environ.get("XLA_FLAGS", ""),
    )


def _failures(dtypes: tuple[str, ...]) -> Iterator[str]:
    import jax
    import numpy as np

    for dtype, length in product(dtypes, ROW_LENGTHS):
        rng = np.random.default_rng(length)
        matrix = rng.normal(size=(length, length)).astype(dtype)
        all_rows = rng.normal(size=(max(BATCHES), length)).astype(dtype)
        for batch, reduction in product(BATCHES, REDUCTIONS):
            rows = all_rows[:batch]
            # Accelerators multiply float32 in fewer bits unless told otherwise: no miscompilation.
            with jax.default_matmul_precision("highest"):
                found = np.asarray(_compiled(reduction)(matrix, rows))
            wrong = _wrong(found, matrix, rows, reduction)
            if wrong > 0:
                share = f"{wrong} of {batch} rows wrong"
                yield f"{dtype}, row length {length}, batch {batch}, {reduction}: {share}"


def _compiled(reduction: str) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    reduce = {"sum": jnp.sum, "max": jnp.max, "norm": jnp.linalg.norm}[reduction]
    return jax.jit(lambda matrix, rows: jax.vmap(lambda row: reduce(matrix @ row))(rows))


def _wrong(found: Any, matrix: Any, rows: Any, reduction: str) -> int:
    import numpy as np

    reduce = {"sum": np.sum, "max": np.max, "norm": np.linalg.norm}[reduction]
    a, x = matrix.astype(np.float64), rows.astype(np.float64)
    expected = reduce(x @ a.T, axis=1)
    # n eps for each product's dot, n + 3 more for the reduction, of the sum of moduli; twice that,
    # because in float64 the reference rounds as well.
    bound = 6 * len(a) * np.finfo(rows.dtype).eps * (np.abs(x) @ np.abs(a).T).sum(axis=1)
    return int(np.sum(~(np.abs(found - expected) <= bound)))


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:3] if part.isdigit())
