"""Checkpoints of a sweep: one file per sweep, whole or absent, verified before it is believed.

A checkpoint is a SHA-256 digest followed by an ``.npz`` archive: the step reached, a description
of the problem, and the state under the paths of its leaves. Digest and data share one file, so
that a process killed at any moment leaves a complete pair behind.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sims.atomic import StorageError, pack, unpack, write_bytes

DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Checkpointing:
    """Where a sweep keeps its checkpoint, and after how many seconds a chunk writes it anew.

    ``every=0`` writes after each chunk. The directory belongs to one experiment at one
    configuration and one version of the code: a checkpoint knows the arrays that went into a
    sweep, not the functions. The end of a sweep is always written, so that an experiment of
    several sweeps, started again, does not repeat those it has finished.
    """

    directory: Path
    every: float = 60.0

    def __post_init__(self):
        if not self.every >= 0:
            raise ValueError(f"every must be >= 0 seconds, got {self.every}")

    def path(self, name: str) -> Path:
        """The checkpoint file of the sweep called ``name``."""
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"name must be letters, digits and any of _ . -, got {name!r}")
        return Path(self.directory) / f"{name}.checkpoint"


class CheckpointWarning(UserWarning):
    """A checkpoint could not be used; it was set aside and the sweep starts over."""


class Checkpoint(NamedTuple):
    """Steps taken, what problem they belong to (anything JSON can hold), and the state."""

    step: int
    problem: dict[str, Any]
    arrays: dict[str, np.ndarray]


def encode(checkpoint: Checkpoint) -> bytes:
    """Digest and archive as bytes; ``decode`` is the inverse."""
    header = json.dumps({"step": checkpoint.step, "problem": checkpoint.problem})
    data = pack({"header": np.array(header), **checkpoint.arrays})
    return hashlib.sha256(data).digest() + data


def decode(data: bytes) -> Checkpoint:
    """The checkpoint in the bytes that ``encode`` made. Raises ``StorageError`` if damaged."""
    digest, archive = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(archive).digest() != digest:
        raise StorageError("damaged: its checksum is wrong")
    arrays = unpack(archive)
    try:
        header = json.loads(arrays.pop("header").item())
        return Checkpoint(header["step"], header["problem"], arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"not a checkpoint of this version: {error!r}") from error


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. Raises ``StorageError`` with the previous one intact."""
    write_bytes(path, encode(checkpoint))


def load(path: Path, problem: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint at ``path`` if there is one, it is sound and it belongs to ``problem``.

    One that is damaged or belongs to another problem is renamed, never deleted, and a warning
    says so. Raises ``StorageError`` if the file cannot be read or renamed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(error.errno, f"cannot read {path}: {error.strerror}") from error
    try:
        checkpoint = decode(data)
    except StorageError as error:
        return _set_aside(path, str(error))
    wrong = [key for key in problem if checkpoint.problem.get(key) != problem[key]]
    if wrong:
        return _set_aside(path, f"of another problem: {', '.join(wrong)} differ")
    return checkpoint


def _set_aside(path: Path, reason: str) -> None:
    """Rename a checkpoint that must not be used, under the first free number."""
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    try:
        os.rename(path, aside)
    except OSError as error:
        raise StorageError(error.errno, f"cannot rename {path}: {error.strerror}") from error
    warnings.warn(
        f"checkpoint {path} is {reason}; kept as {aside.name}, the sweep starts over",
        CheckpointWarning,
        stacklevel=2,
    )
