"""Learning-rate schedules as arrays: warm-up, stable phase and decay, once or again and again.

Entry t is the rate of step t. A decay over D steps goes through ``u = 1/(D+1), ..., D/(D+1)`` of
its shape, so that no step is lost on a rate of zero.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_positive
from theory.checks import Count, require_count

DECAYS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda u: 1 - u,
    "sqrt": lambda u: 1 - jnp.sqrt(u),
    "cosine": lambda u: (1 + jnp.cos(jnp.pi * u)) / 2,
    "exponential": lambda u: 0.01**u,
}


def wsd(
    peak: ArrayLike,
    steps: Count,
    decay_steps: Count,
    *,
    warmup_steps: Count = 0,
    decay: str = "linear",
) -> Float[Array, " steps"]:
    """Warm-up, stable, decay: linear to ``peak``, constant, then down over the last decay_steps.

    ``decay``: "linear" (1 - u), "sqrt" (1 - sqrt u), "cosine", "exponential" (to one per cent), for
    u from 0 to 1. Raises ``ValueError`` for an unknown shape, a peak not positive, phases that are
    not integers >= 0 or do not fit into ``steps``.
    Source: Wen et al. 2024, arXiv:2410.05192 (schedules compared there).

    >>> wsd(4.0, 6, 3, warmup_steps=2).tolist()
    [2.0, 4.0, 4.0, 3.0, 2.0, 1.0]
    """
    require_count(steps=steps)
    require_count(least=0, decay_steps=decay_steps, warmup_steps=warmup_steps)
    if decay_steps + warmup_steps > steps:
        raise ValueError(
            f"warmup_steps + decay_steps must be at most steps = {steps}, "
            f"got {warmup_steps} + {decay_steps}"
        )
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {', '.join(DECAYS)}, got {decay!r}")
    require_positive(peak=peak)
    (peak,) = as_floats(peak)
    rise = jnp.arange(1, warmup_steps + 1, dtype=peak.dtype) / max(int(warmup_steps), 1)
    fall = jnp.arange(1, decay_steps + 1, dtype=peak.dtype) / (int(decay_steps) + 1)
    stable = jnp.ones(int(steps - decay_steps - warmup_steps), peak.dtype)
    return peak * jnp.concatenate([rise, stable, DECAYS[decay](fall)])


def wsd_s(
    peak: ArrayLike, checkpoints: Sequence[Count], decay_steps: Count, *, decay: str = "linear"
) -> Float[Array, " steps"]:
    """Simplified WSD: decay before every checkpoint, then go on from the decayed point at ``peak``.

    ``checkpoints``: increasing numbers of steps; the last is the length. Against WSD no decayed
    branch is thrown away. Raises ``ValueError`` unless they increase by at least ``decay_steps``,
    and as ``wsd`` does. Source: Wen et al. 2024, arXiv:2410.05192.

    >>> wsd_s(2.0, (2, 5), 1).tolist()
    [2.0, 1.0, 2.0, 2.0, 1.0]
    """
    if len(checkpoints) == 0:
        raise ValueError("checkpoints must be one or more numbers of steps, got none")
    require_count(checkpoints=np.asarray(checkpoints))
    starts = (0, *checkpoints[:-1])
    lengths = [end - start for start, end in zip(starts, checkpoints, strict=True)]
    if min(lengths) < max(decay_steps, 1):
        raise ValueError(
            f"checkpoints must be at least decay_steps = {decay_steps} apart, got {checkpoints}"
        )
    return jnp.concatenate([wsd(peak, length, decay_steps, decay=decay) for length in lengths])


def inverse_decay(start: ArrayLike, final: ArrayLike, steps: Count) -> Float[Array, " steps"]:
    """Decay with ``1/eta`` linear, from ``start`` (not included) to ``final`` at the last step.

    The shape of the fastest decay in one hill direction (``river_valley.optimal_decay``). Raises
    ``ValueError`` unless both rates are positive and steps an integer >= 1.
    Source: Wen et al. 2024, arXiv:2410.05192.

    >>> inverse_decay(1.0, 0.25, 3).tolist()
    [0.5, 0.3333333333333333, 0.25]
    """
    require_positive(start=start, final=final)
    require_count(steps=steps)
    start, final = as_floats(start, final)
    u = jnp.arange(1, int(steps) + 1, dtype=start.dtype) / int(steps)
    return 1 / (u / final + (1 - u) / start)
