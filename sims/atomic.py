"""Files that are either the old ones or the new ones, never half of each.

A file is written beside its destination, flushed to the disk and renamed over it. Whoever is
killed in between leaves the previous file intact and at most one hidden ``.NAME.*.tmp`` behind.
"""

import errno
import hashlib
import io
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


class StorageError(OSError):
    """A file could not be written (the previous one is intact) or is not what was written."""


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``, atomically; parent directories are created.

    Raises ``StorageError`` (disk full, directory not writable); then what was there is still there.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # renaming over a device would destroy the device
        raise StorageError(errno.EINVAL, f"cannot write {path}: not a regular file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_directory(path.parent)
    except OSError as error:
        raise StorageError(
            error.errno, f"cannot write {path}: {error.strerror}; what was there is untouched"
        ) from error


def save_arrays(path: Path | str, arrays: Mapping[str, np.ndarray]) -> str:
    """Write named arrays as ``.npz`` (no pickle), atomically; return the SHA-256 of the file.

    Equal arrays give equal bytes. Raises ``StorageError`` as ``write_bytes`` does and
    ``ValueError`` for arrays of Python objects.
    """
    data = pack(arrays)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_arrays(path: Path | str, sha256: str) -> dict[str, np.ndarray]:
    """Read what ``save_arrays`` wrote; ``sha256`` is what it returned.

    Raises ``StorageError`` if the file cannot be read or is not the one that was written.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(error.errno, f"cannot read {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StorageError(f"{path} is damaged: its checksum is not the one recorded")
    return unpack(data)


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an ``.npz`` file. Unlike ``np.savez``, any name is allowed and none pickled."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """The named arrays in the bytes of an ``.npz`` file; ``StorageError`` if it is not one."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise StorageError(f"not an archive of arrays: {error}") from error


def _flush_directory(directory: Path) -> None:
    """Make the renaming itself survive a power cut, where directories can be flushed."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
