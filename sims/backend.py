"""One door for every entry point: make the numerical backend sound, or say that it is not.

jaxlib on CPU can silently miscompile ``jit(vmap(reduce(A @ row)))``: jaxlib 0.10.2 in float64
(batch > 16384, rows of length 3, 5, 6, 7), jaxlib 0.9.2 to 0.10.1 in float32 (batches 32769 and
40000, row length 3). The fault sits in one fusion pass; an empty ``--xla_cpu_experimental_ynn_
fusion_type=`` switches the pass off. The flag is unknown, and fatal, before jaxlib 0.8.2.

``prepare`` must run before the first JAX operation and before NumPy is imported, so this module
imports neither at the top.
"""

import os
import sys
from importlib import metadata
from typing import NamedTuple

YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
ROW_LENGTHS = (3, 5, 6, 7)
BATCHES = (16385, 32769, 40000)


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
    """Set the environment of an entry point: fusion flag, one BLAS thread, float64.

    Values the user has set stay. One BLAS thread, because XLA's own thread pool and OpenBLAS's
    otherwise compete for the same cores.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    flags = os.environ.get("XLA_FLAGS", "")
    if YNN_FLAG not in flags and _version("jaxlib") >= (0, 8, 2):
        os.environ["XLA_FLAGS"] = f"{flags} {YNN_FLAG}=".strip()
    if "jax" in sys.modules:  # the variable is read at import; afterwards only the config counts
        import jax

        jax.config.update("jax_enable_x64", os.environ["JAX_ENABLE_X64"] not in ("0", "false", ""))


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:3] if part.isdigit())
