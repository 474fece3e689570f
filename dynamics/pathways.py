"""Parallel deep linear pathways that share input and target, and gates that close some of them.

``y = sum_p W^p_L ... W^p_1 x``. A gate per pathway says whether its output counts and whether it
learns. Gates are arrays of codes, so that they may be traced: switched at a step of a scan, with
onset and duration of the deficit mapped over.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from dynamics.initialization import holds, layer_keys
from dynamics.models import Initializer, deep_linear, end_to_end

OPEN = 0
GRADIENT_GATE = 1  # the output counts, but no gradient reaches the pathway
REMOVED = 2  # neither output nor gradient

Pathways = tuple[tuple[Any, ...], ...]  # of weights W_1, ..., W_L each


class PathwayModel(NamedTuple):
    """Two pure functions: ``init(key) -> params``, ``apply(params, x, gates=None) -> outputs``."""

    init: Callable[[Key[Array, ""]], Pathways]
    apply: Callable[..., Array]


def parallel_pathways(
    widths: Sequence[int],
    pathways: int = 2,
    *,
    init: str | Initializer = "gaussian",
    gain: ArrayLike | Sequence[float] = 1.0,
    dtype: Any = float,
) -> PathwayModel:
    """Equally shaped deep linear pathways whose outputs add up.

    Parameters are a tuple of pathways, each a tuple (W_1, ..., W_L) with its own key; inputs
    (..., n_0), outputs (..., n_L). ``gates`` (pathways,) holds OPEN, GRADIENT_GATE or REMOVED for
    each pathway, and None opens all. The remaining arguments are those of ``deep_linear``.

    Raises:
        ValueError: pathways that are not a positive integer, bad widths, init or gain; by
            ``apply``, gates of another shape or (where known) that are no such codes.

    Source: Kleinman, Achille & Soatto (2023), arXiv 2308.12221; Shi, Shea-Brown & Buice (2022).

    >>> model = parallel_pathways((3, 4, 2), pathways=2, init="orthogonal")
    >>> params, x = model.init(jax.random.key(0)), jnp.ones((5, 3))
    >>> alone = deep_linear((3, 4, 2)).apply(params[0], x)
    >>> bool(jnp.allclose(model.apply(params, x, jnp.array([OPEN, REMOVED])), alone))
    True
    """
    if not isinstance(pathways, (int, np.integer)) or pathways < 1:
        raise ValueError(f"pathways must be a positive integer, got {pathways!r}")
    network = deep_linear(widths, init=init, gain=gain, dtype=dtype)

    def init_params(key):
        return tuple(network.init(k) for k in layer_keys(key, int(pathways)))

    def apply(params, x, gates=None):
        outputs = jnp.stack([network.apply(weights, x) for weights in params])
        return outputs.sum(axis=0) if gates is None else _gated(outputs, gates).sum(axis=0)

    return PathwayModel(init_params, apply)


def pathway_maps(params: Pathways) -> Float[Array, "pathways n_out n_in"]:
    """The linear map of every pathway, gates open.

    >>> pathway_maps(((jnp.eye(2), 2 * jnp.eye(2)), (jnp.eye(2), jnp.eye(2))))[:, 0, 0].tolist()
    [2.0, 1.0]
    """
    return jnp.stack([end_to_end(weights) for weights in params])


def deficit_gates(
    k: Int[ArrayLike, ""],
    onset: Int[ArrayLike, ""],
    duration: Int[ArrayLike, ""],
    deficit: Int[ArrayLike, " pathways"],
) -> Int[Array, " pathways"]:
    """Gates at step k: ``deficit`` for onset <= k < onset + duration, OPEN before and after.

    >>> [deficit_gates(k, 1, 2, jnp.array([OPEN, REMOVED])).tolist() for k in range(4)]
    [[0, 0], [0, 2], [0, 2], [0, 0]]
    """
    during = (jnp.asarray(k) >= onset) & (jnp.asarray(k) < jnp.asarray(onset) + duration)
    return jnp.where(during, jnp.asarray(deficit), OPEN)


def _gated(outputs: Array, gates: ArrayLike) -> Array:
    """Outputs (pathways, ...) as they are heard, and as gradients see them."""
    if np.shape(gates) != outputs.shape[:1]:
        raise ValueError(f"gates must have shape {outputs.shape[:1]}, got {np.shape(gates)}")
    if not holds(gates, lambda g: np.isin(g, (OPEN, GRADIENT_GATE, REMOVED))):
        raise ValueError(f"gates must be OPEN, GRADIENT_GATE or REMOVED (0, 1, 2), got {gates}")
    codes = jnp.expand_dims(jnp.asarray(gates), tuple(range(1, outputs.ndim)))
    open_, removed = (jnp.broadcast_to(codes == code, outputs.shape) for code in (OPEN, REMOVED))
    heard = jnp.where(open_, outputs, jax.lax.stop_gradient(outputs))
    return jnp.where(removed, 0, heard)
