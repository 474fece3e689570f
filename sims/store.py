"""Results on disk: an archive of arrays and a JSON sidecar per run, believed only if intact.

``ROOT/NAME/KEY.DIGEST.npz`` holds the arrays, ``ROOT/NAME/KEY.json`` everything else. The sidecar
names its archive by checksum and is written last: a run is stored at the instant its sidecar
appears, and replacing it never touches the archive of the run before. What does not check out is
moved to ``ROOT/quarantine/``, said aloud, and treated as absent.
"""

import hashlib
import itertools
import json
import math
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sims import atomic
from sims.atomic import StorageError
from sims.experiment import is_name

FORMAT = 1
KEY = r"[0-9a-f]{32}"
TRIAL = ".writable"
OURS = re.compile(
    rf"{KEY}(\.json|\.[0-9a-f]{{12}}\.npz|\.partial)"
    rf"|\..+\.\d+\.[0-9a-f]{{8}}\.tmp|{re.escape(TRIAL)}"
)
KINDS = "biufcSUmM"  # what an .npz keeps as it is; bfloat16 (kind V) would come back as raw bytes


class StoreWarning(UserWarning):
    """A stored result is damaged; it was set aside and counts as absent."""


class Entry(NamedTuple):
    """One stored run: its arrays, and the record that came with them (plain JSON data)."""

    name: str
    key: str
    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


class Removed(NamedTuple):
    """What ``clean`` took away, and the bytes that freed."""

    paths: tuple[Path, ...]
    bytes: int


class Store:
    """Runs under one directory, filed by experiment name and key. Nothing is created before a save.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> _ = store.save("demo", "0" * 32, {"u": np.arange(3.0)}, {"seed": 7})
    >>> entry = store.load("demo", "0" * 32)
    >>> entry.arrays["u"], entry.record["seed"]
    (array([0., 1., 2.]), 7)
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()

    def save(
        self, name: str, key: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
    ) -> Entry:
        """Store a run and return it as ``load`` will.

        Raises ``StorageError`` (disk full, directory not writable; earlier results are intact)
        and ``ValueError`` for arrays that an ``.npz`` cannot keep.
        """
        arrays = {label: np.asarray(array) for label, array in arrays.items()}
        for label, array in arrays.items():
            if array.dtype.kind not in KINDS:
                raise ValueError(f"array {label!r} of {name} must hold numbers, got {array.dtype}")
            if not label.isprintable() or label.endswith(".npy"):  # an .npz would garble it
                raise ValueError(f"names of arrays must be plain, {name} has one called {label!r}")
        data = atomic.pack(arrays)
        digest = hashlib.sha256(data).hexdigest()
        head = {"format": FORMAT, "name": name, "key": key, "npz_sha256": digest}
        body = plain({**record, **head, "stored": datetime.now(UTC).isoformat(timespec="seconds")})
        sealed = json.dumps({**body, "checksum": _checksum(body)}, indent=1, allow_nan=False)
        atomic.write_bytes(self._archive(name, key, digest), data)
        atomic.write_bytes(self._sidecar(name, key), sealed.encode())
        return Entry(name, key, arrays, body)

    def load(self, name: str, key: str) -> Entry | None:
        """The stored run, or None. A damaged one is set aside with a ``StoreWarning``."""
        sidecar = self._sidecar(name, key)
        try:
            body = _opened(sidecar.read_bytes(), name, key)
            digest = body["npz_sha256"]
            arrays = atomic.load_arrays(self._archive(name, key, digest), digest)
            return Entry(name, key, arrays, body)
        except (FileNotFoundError, NotADirectoryError):
            if sidecar.exists():
                self._set_aside(name, key, "its archive is missing")
            # an archive alone is a write that has not finished, perhaps of another process
        except (OSError, ValueError) as error:
            self._set_aside(name, key, str(error))
        return None

    def latest(self, name: str) -> Entry | None:
        """The run of this experiment stored last that is intact, or None."""
        sidecars = [path for path in self._folder(name).glob("*.json") if OURS.fullmatch(path.name)]
        newest_first = sorted(sidecars, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        entries = (self.load(name, path.stem) for path in newest_first)
        return next((entry for entry in entries if entry is not None), None)

    def partial(self, name: str, key: str) -> Path:
        """Where an unfinished run keeps its checkpoints; not created here."""
        return self._folder(name) / f"{_checked_key(key)}.partial"

    def require_writable(self, name: str) -> None:
        """Raise ``StorageError`` now rather than after hours of computing."""
        trial = self._folder(name) / TRIAL
        atomic.write_bytes(trial, b"")
        trial.unlink(missing_ok=True)

    def clean(self, names: Iterable[str] | None = None, *, quarantine: bool = False) -> Removed:
        """Remove the runs, checkpoints and stray temporary files of these experiments, or of all.

        Only files that this store names are removed, links are left alone, and what was set aside
        of these experiments stays unless ``quarantine``. Raises ``ValueError`` for a name that is
        not a folder of the store and ``StorageError`` if something cannot be removed.
        """
        names = None if names is None else list(names)
        paths = list(self._removable(names))
        if quarantine and self._quarantine.is_dir() and not self._quarantine.is_symlink():
            chosen = None if names is None else tuple(f"{name}-" for name in names)
            aside = sorted(self._quarantine.iterdir())
            paths += [path for path in aside if chosen is None or path.name.startswith(chosen)]
        size = sum(map(_size, paths))
        for path in paths:
            _remove(path)
        for folder in {path.parent for path in paths}:
            if not any(folder.iterdir()):
                folder.rmdir()
        return Removed(tuple(paths), size)

    @property
    def _quarantine(self) -> Path:
        return self.root / "quarantine"

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        if not is_name(name) or folder.is_symlink():
            raise ValueError(f"name must be a folder of the store {self.root}, got {name!r}")
        return folder

    def _sidecar(self, name: str, key: str) -> Path:
        return self._folder(name) / f"{_checked_key(key)}.json"

    def _archive(self, name: str, key: str, digest: str) -> Path:
        return self._folder(name) / f"{_checked_key(key)}.{digest[:12]}.npz"

    def _files(self, name: str, key: str) -> list[Path]:
        folder = self._folder(name)
        return sorted([*folder.glob(f"{key}.json"), *folder.glob(f"{key}.*.npz")])

    def _removable(self, names: Iterable[str] | None) -> Iterator[Path]:
        if names is None:
            inside = sorted(self.root.iterdir()) if self.root.is_dir() else []
            folders = [path for path in inside if path.is_dir() and not path.is_symlink()]
            names = [path.name for path in folders if is_name(path.name)]
        for folder in map(self._folder, names):
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                if OURS.fullmatch(path.name) and not path.is_symlink():
                    yield path

    def _set_aside(self, name: str, key: str, why: str) -> None:
        try:
            destination = self._new_quarantine(f"{name}-{key}")
            for path in self._files(name, key):
                path.rename(destination / path.name)
        except FileNotFoundError:
            return  # another process is setting the same entry aside, and will say so
        except OSError as error:
            raise StorageError(error.errno, f"cannot set {name}/{key} aside: {error}") from error
        warnings.warn(
            f"stored result {name}/{key} is damaged and will not be used: {why}; "
            f"moved to {destination}",
            StoreWarning,
            stacklevel=3,
        )

    def _new_quarantine(self, stem: str) -> Path:
        for number in itertools.count():
            try:
                (destination := self._quarantine / f"{stem}-{number}").mkdir(parents=True)
                return destination
            except FileExistsError:
                if not destination.is_dir():  # a file in place of the quarantine, say
                    raise
        raise AssertionError("unreachable")


def plain(value: Any) -> Any:
    """The same data as strict JSON can hold it; infinity and NaN become their names."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    elif hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _opened(text: bytes, name: str, key: str) -> dict[str, Any]:
    body = json.loads(text)
    if not isinstance(body, dict) or body.pop("checksum", None) != _checksum(body):
        raise ValueError("its sidecar is not the one that was written")
    if (body.get("format"), body.get("name"), body.get("key")) != (FORMAT, name, key):
        raise ValueError("its sidecar belongs to another run or another format")
    return body


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _checked_key(key: str) -> str:
    if not re.fullmatch(KEY, key):
        raise ValueError(f"key must be 32 hexadecimal digits, got {key!r}")
    return key


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(item.lstat().st_size for item in inside if item.is_symlink() or item.is_file())


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # unlinks links, never follows them
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(error.errno, f"cannot remove {path}: {error.strerror}") from error
