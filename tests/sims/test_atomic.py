"""Files are whole or absent, whatever happens while they are written."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sims
from sims.atomic import StorageError, load_arrays, pack, save_arrays, unpack, write_bytes

ROOT = Path(sims.__file__).parents[1]
ARRAYS = {"file": np.arange(3), "a/b": np.eye(2), "text": np.array("µ"), "empty": np.zeros((0, 2))}


def assert_equal(left, right):
    assert list(left) == list(right)
    for name, array in left.items():
        assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape)
        np.testing.assert_array_equal(array, right[name])


def test_arrays_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "folder" / "arrays.npz"
    checksum = save_arrays(path, ARRAYS)
    assert_equal(load_arrays(path, checksum), ARRAYS)
    assert save_arrays(path, ARRAYS) == checksum  # equal arrays, equal bytes
    assert [entry.name for entry in path.parent.iterdir()] == ["arrays.npz"]


def test_numpy_reads_the_files(tmp_path):
    save_arrays(tmp_path / "arrays.npz", ARRAYS)
    with np.load(tmp_path / "arrays.npz") as archive:
        assert_equal(dict(archive), ARRAYS)


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        save_arrays(tmp_path / "objects.npz", {"x": np.array([{}])})
    assert not list(tmp_path.iterdir())


@given(st.integers(0, len(pack(ARRAYS)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(tmp_path_factory, position, change):
    path = tmp_path_factory.mktemp("arrays") / "arrays.npz"
    checksum = save_arrays(path, ARRAYS)
    data = bytearray(path.read_bytes())
    data[position] ^= change
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        load_arrays(path, checksum)


@given(st.integers(0, len(pack(ARRAYS)) - 1))
def test_part_of_an_archive_is_no_archive(length):
    with pytest.raises(StorageError, match="not an archive"):
        unpack(pack(ARRAYS)[:length])


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*missing\.npz: No such file"):
        load_arrays(tmp_path / "missing.npz", "")


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"here first")
    with pytest.raises(StorageError, match=r"cannot write .*x\.bin: "):
        write_bytes(tmp_path / "file" / "x.bin", b"data")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="not a regular file"):
        write_bytes(tmp_path / "folder", b"data")
    assert (tmp_path / "file").read_bytes() == b"here first"


def test_a_full_disk_leaves_the_previous_file(tmp_path):
    """The limit on file sizes makes a real write fail half-way, as a full disk does."""
    path = tmp_path / "file"
    write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="what was there is untouched"):
            write_bytes(path, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


WRITER = """
import sys
from sims.atomic import write_bytes
while True:
    for letter in b"ab":
        write_bytes(sys.argv[1], bytes([letter]) * 5_000_000)
"""


def test_killed_while_writing(tmp_path):
    """Whenever the writer dies there is one whole file, and at most one scrap per death."""
    path = tmp_path / "file"
    whole = {bytes([letter]) * 5_000_000 for letter in b"ab"}
    delays = np.random.default_rng(0).uniform(0, 0.05, 5)
    for delay in delays:
        path.unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT)
        try:
            deadline = time.monotonic() + 60
            while not path.exists():
                assert time.monotonic() < deadline, "the writer wrote nothing"
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert path.read_bytes() in whole
    scraps = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(scraps) <= len(delays)
    assert all(scrap.name.endswith(".tmp") for scrap in scraps)
