"""Deep linear networks of equal layers: three ways to start them, and training them together.

The task is the least that theory asks for, white inputs (``x = I``, one input per example) and
equally strong modes: ``Sigma_yx = s [I 0]``, which stands for any ``s U V^T`` because all that is
random here is invariant under rotations. All networks start from one gain,
``E |W_L ... W_1|_F^2 = n_out (w0 s)^2``. Loss: half the squared error, summed. Errors are over s.
"""

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.linalg import block_diag

from dynamics.initialization import aligned_init, gaussian_init, orthogonal_init
from dynamics.losses import half_squared_error
from sims.processes import seed_keys, training_process

Params = tuple[Any, Any]  # equal layers (L-1, n_in, n_in), the last one (n_out, n_in)


class Task(NamedTuple):
    """Numbers of inputs and of modes, and the strength s of each mode."""

    n_in: int
    n_out: int
    singular_value: float


class Group(NamedTuple):
    """Networks, stacked (k, ...), and the learning rates (r,) at which each of them is trained."""

    networks: Params
    rates: np.ndarray


def end_to_end(params: Params) -> jax.Array:
    """``W_L ... W_1``, multiplied from the outputs down because they are fewer than the inputs.

    The scan keeps compilation as short for 100 layers as for 2.

    >>> end_to_end((jnp.full((3, 2, 2), 2.0), jnp.ones((1, 2)))).tolist()
    [[64.0, 64.0]]
    """
    hidden, last = params
    return lax.scan(lambda product, w: (product @ w, None), last, hidden, reverse=True)[0]


def apply(params: Params, x: jax.Array) -> jax.Array:
    """The network: inputs (..., n_in), outputs (..., n_out)."""
    return x @ end_to_end(params).T


def pair_errors(params: Params, shared: Any) -> dict[str, jax.Array]:
    """Error of each pair of outputs: root of the squares summed over inputs, mean over the two."""
    x, y = shared["data"]
    error = (apply(params, x) - y).reshape(len(x), -1, 2)
    return {"errors": jnp.sqrt(jnp.sum(error**2, axis=(0, 2)) / 2)}


TRAINING = training_process(
    lambda case, shared: case["network"], half_squared_error(apply, examples="sum"), pair_errors
)


def random_networks(
    task: Task, key: jax.Array, start: float, depth: int, *, seeds: int, deepest: int
) -> tuple[Params, Params]:
    """A Gaussian network per seed, and the orthogonal one that QR makes of the same numbers.

    Drawn ``deepest`` layers deep whatever the depth, to compile once.
    """
    keys = jax.vmap(seed_keys, (0, None))(seed_keys(key, seeds), deepest)
    gain = (start * task.singular_value) ** (1 / depth)

    def network(layers):
        layers = gain * np.asarray(layers)[:, :depth]
        return layers[:, :-1], layers[:, -1, : task.n_out]

    gaussian, orthogonal = _square_layers(keys, task.n_in)
    return network(gaussian), network(orthogonal)


@partial(jax.jit, static_argnums=1)
def _square_layers(keys: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """A Gaussian and an orthogonal (n, n) matrix for each of the keys (seeds, layers)."""

    def draw(key):
        return gaussian_init(key, (n, n)), orthogonal_init(key, (n, n))

    return jax.vmap(jax.vmap(draw))(keys)


def decoupled_network(
    task: Task, key: jax.Array, start: float, depth: int, angles: Any = None
) -> Params:
    """A balanced network (k = 1) whose map is ``start`` times the task's.

    With ``angles`` (n_out / 2,) its pairs of outputs are rotated. In the subspace of the modes
    its layers are then random orthogonal ones, given that their product is that rotation.
    """
    angles = np.zeros(task.n_out // 2) if angles is None else angles
    rotations = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles]
    left, right = jnp.asarray(block_diag(*rotations)), jnp.eye(task.n_in, task.n_out)
    strengths = jnp.full(task.n_out, start * task.singular_value)
    widths = (task.n_in,) * depth + (task.n_out,)
    *hidden, last = aligned_init(key, widths, left, right, strengths)
    return np.stack(hidden)[None], np.asarray(last)[None]


def log_gain(task: Task, networks: Params) -> np.ndarray:
    """Mean log singular value of each network's map, over s."""
    hidden, last = networks
    maps = reduce(np.matmul, np.moveaxis(hidden, 1, 0)[::-1], last)
    return np.log(np.linalg.svd(maps, compute_uv=False) / task.singular_value).mean(axis=1)


def train(
    name: str, task: Task, groups: Mapping[str, Group], steps: int, sweep: Any
) -> dict[str, np.ndarray]:
    """Errors of all groups at every step, (k, r, steps + 1, pairs); one sweep, compiled once."""
    cases = [_members(group) for group in groups.values()]
    together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *cases)
    keys = seed_keys(jax.random.key(0), len(together["learning_rate"]))  # full batch: not used
    x = np.eye(task.n_in)
    shared = {"data": (x, task.singular_value * x[:, : task.n_out])}
    at = np.arange(steps + 1)
    run = sweep(name, TRAINING, together | {"key": keys}, shared, record_at=at)
    ends = np.cumsum([len(case["learning_rate"]) for case in cases])
    errors = np.split(run.records["errors"] / task.singular_value, ends[:-1])
    return {
        kind: error.reshape(-1, len(group.rates), *error.shape[1:])
        for (kind, group), error in zip(groups.items(), errors, strict=True)
    }


def _members(group: Group) -> dict[str, Any]:
    """Every network of a group at each of its rates, as cases of a sweep."""
    networks, rates = group
    return {
        "network": jax.tree.map(lambda w: np.repeat(w, len(rates), axis=0), networks),
        "learning_rate": np.tile(rates, len(networks[0])),
    }


def lasting_steps(errors: np.ndarray, tolerance: float) -> np.ndarray:
    """Steps after which errors (..., steps + 1) stay within tolerance; inf where they do not.

    >>> lasting_steps(np.array([[3.0, 0.5, 2.0, 0.5, 0.1], [3.0, 2.0, 1.5, 9.0, np.nan]]), 1.0)
    array([ 3., inf])
    """
    within = errors <= tolerance
    since = errors.shape[-1] - np.argmin(within[..., ::-1], axis=-1)
    since = np.where(within.all(axis=-1), 0, since)
    return np.where(within[..., -1], since, np.inf)
