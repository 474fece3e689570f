"""A checkpoint is believed if it is whole and of this problem, else set aside in plain sight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.atomic import StorageError
from sims.checkpoint import (
    Checkpoint,
    Checkpointing,
    CheckpointWarning,
    decode,
    encode,
    load,
    save,
)

PROBLEM = {"members": 2, "record_at": [0, 5], "state": {".x": ["float64", [2, 3]]}}
ARRAYS = {".x['a b']": np.array([[1.0, np.nan, -0.0]]), ".n": np.arange(2, dtype=np.uint32)}
CHECKPOINT = Checkpoint(3, PROBLEM, ARRAYS)


def assert_is_the_checkpoint(found):
    assert (found.step, found.problem) == (3, PROBLEM)
    assert {name: x.tobytes() for name, x in found.arrays.items()} == {
        name: x.tobytes() for name, x in ARRAYS.items()
    }


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    assert load(tmp_path / "x.checkpoint", PROBLEM) is None
    save(tmp_path / "x.checkpoint", CHECKPOINT)
    assert_is_the_checkpoint(load(tmp_path / "x.checkpoint", PROBLEM))


@given(st.integers(0, len(encode(CHECKPOINT)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position, change):
    data = bytearray(encode(CHECKPOINT))
    data[position] ^= change
    with pytest.raises(StorageError, match="damaged"):
        decode(bytes(data))


@given(st.integers(0, len(encode(CHECKPOINT)) - 1))
def test_a_truncated_checkpoint_is_noticed(length):
    with pytest.raises(StorageError, match="damaged"):
        decode(encode(CHECKPOINT)[:length])


def test_a_damaged_checkpoint_is_set_aside_and_kept(tmp_path):
    path = tmp_path / "x.checkpoint"
    for number, data in enumerate([b"", b"scrap", encode(CHECKPOINT)[:-1]], start=1):
        path.write_bytes(data)
        with pytest.warns(CheckpointWarning, match=f"damaged.*aside-{number}.*starts over"):
            assert load(path, PROBLEM) is None
        assert not path.exists()
        assert (tmp_path / f"x.checkpoint.aside-{number}").read_bytes() == data


@pytest.mark.parametrize(
    "change",
    [{"members": 3}, {"record_at": [0, 6]}, {"state": {}}, {"inputs": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_problem_is_set_aside(tmp_path, change):
    path = tmp_path / "x.checkpoint"
    save(path, CHECKPOINT)
    with pytest.warns(CheckpointWarning, match=f"of another problem: {next(iter(change))} differ"):
        assert load(path, PROBLEM | change) is None
    assert_is_the_checkpoint(load(tmp_path / "x.checkpoint.aside-1", PROBLEM))


def test_an_archive_that_is_no_checkpoint_is_set_aside(tmp_path, monkeypatch):
    path = tmp_path / "x.checkpoint"
    monkeypatch.setattr("sims.checkpoint.json.dumps", lambda header: "{}")
    save(path, CHECKPOINT)
    monkeypatch.undo()
    with pytest.warns(CheckpointWarning, match="not a checkpoint of this version"):
        assert load(path, PROBLEM) is None


def test_a_checkpoint_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "x.checkpoint").mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*x\.checkpoint"):
        load(tmp_path / "x.checkpoint", PROBLEM)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x\n"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be"):
        Checkpointing(tmp_path).path(name)


@pytest.mark.parametrize("every", [-1.0, float("nan")])
def test_a_negative_interval_is_refused(tmp_path, every):
    with pytest.raises(ValueError, match="every must be >= 0"):
        Checkpointing(tmp_path, every)
