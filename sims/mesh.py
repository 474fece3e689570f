"""Arrays between the host and a mesh of devices, in one process or in several.

Members lie along the one axis of the mesh. Every process of a run (``jax.distributed``) holds the
same host arrays and calls these functions in the same order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "members"
EACH, ALL = P(AXIS), P()


def over(devices: Sequence[Any] | None) -> Mesh:
    """A line of devices, by default all of them, of all processes."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def mapped(function: Callable, axes: Sequence[int | None], mesh: Mesh) -> Callable:
    """``vmap(function, axes)`` with members shared out over the mesh; axis 0 or None, not jitted.

    Each device runs the same program on its own members: no communication between them.
    """
    specs = tuple(ALL if axis is None else EACH for axis in axes)
    batched = jax.vmap(function, in_axes=tuple(axes))
    # check_vma would ask users' own scans to mark which of their carries vary over the mesh
    return jax.shard_map(batched, mesh=mesh, in_specs=specs, out_specs=EACH, check_vma=False)


def pad(tree: Any, members: int, mesh: Mesh) -> Any:
    """Repeat the last of the members until they divide evenly over the mesh."""
    if members % mesh.size == 0:
        return tree  # an indexing would be compiled for every shape
    chosen = np.minimum(np.arange(-(-members // mesh.size) * mesh.size), members - 1)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], tree)


def spread(tree: Any, mesh: Mesh, spec: P) -> Any:
    """Put host arrays (or keys) on the mesh: ``EACH`` device its members, or ``ALL`` everything."""

    def place(leaf):
        if is_key(leaf):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        array = np.asarray(jnp.asarray(leaf))
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree)


def gather(tree: Any, members: int) -> Any:
    """The members as NumPy arrays on every process, padding cut off, keys as key data."""

    def fetch(leaf):
        leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
        if leaf.is_fully_addressable:
            return np.asarray(leaf)[:members]
        return multihost_utils.process_allgather(leaf, tiled=True)[:members]

    return jax.tree.map(fetch, tree)


def is_key(leaf: Any) -> bool:
    """Whether an array holds typed PRNG keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def agree(value: int) -> int:
    """The first process's value, on every process."""
    return int(np.frombuffer(_broadcast(np.int64(value).tobytes()), np.int64)[0])


def share(data: bytes | None) -> bytes | None:
    """The first process's bytes, or None, on every process."""
    length = agree(-1 if data is None else len(data))
    if length < 0:
        return None
    return _broadcast(bytes(length) if data is None else data)


def _broadcast(data: bytes) -> bytes:
    """As bytes, because a broadcast is a sum, which loses the sign of -0.0, and x64 may be off."""
    return multihost_utils.broadcast_one_to_all(np.frombuffer(data, np.uint8)).tobytes()
