"""Wall time of a function with its arrays ready: compiled first, then a median."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Timing(NamedTuple):
    """What was timed, its median wall time in seconds, and a remark on how."""

    name: str
    seconds: float
    remark: str = ""


def median_seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall time of ``call()`` over ``repeats`` runs, after one that compiles."""
    jax.block_until_ready(call())
    return float(np.median([_seconds(call) for _ in range(repeats)]))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
