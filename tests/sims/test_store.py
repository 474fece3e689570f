"""A stored result comes back bit for bit or not at all, and nothing that was stored gets lost."""

import errno
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sims.store import StorageError, Store, StoreWarning, plain

KEY, OTHER = "0123456789abcdef" * 2, "f" * 32
ARRAYS = {"u": np.arange(6.0).reshape(2, 3), "count": np.array(7)}

dtypes = st.sampled_from(
    [np.float64, np.float32, np.float16, ">f8", np.int64, np.int8, np.uint32, bool, complex, "U3"]
)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)))
names = st.text("abcXYZ_/ é.", min_size=1, max_size=6)


def identical(one, other):
    same = (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return same and one.flags.f_contiguous == other.flags.f_contiguous


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def saved(store):
    store.save("demo", KEY, ARRAYS, {"seed": 7})
    return store


@given(st.dictionaries(names, arrays, max_size=3))
def test_any_arrays_come_back_bit_for_bit(contents):
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        said = store.save("demo", KEY, contents, {})
        found = store.load("demo", KEY)
    assert found is not None
    assert found.record == said.record
    assert found.arrays.keys() == said.arrays.keys() == contents.keys()
    assert all(identical(found.arrays[name], array) for name, array in contents.items())


def test_nan_payloads_and_fortran_order_come_back(store):
    bits = np.array([0x7FF8_0000_0000_1234, 0xFFF0_0000_0000_0001, 1 << 63], np.uint64)
    contents = {"nan": bits.view(float), "columns": np.asfortranarray(np.ones((3, 2)))}
    store.save("demo", KEY, contents, {})
    found = store.load("demo", KEY).arrays
    assert all(identical(found[name], array) for name, array in contents.items())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1), json_values, max_size=3))
def test_the_record_comes_back_as_plain_data(record):
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        store.save("demo", KEY, {}, record)
        found = store.load("demo", KEY).record
        strict = json.loads(
            next(Path(root).rglob("*.json")).read_text(), parse_constant=pytest.fail
        )
    assert {name: found[name] for name in record} == plain(record)
    assert (found["name"], found["key"]) == ("demo", KEY)
    assert strict.keys() == {*found, "checksum"}


def test_plain_data():
    class Pair(NamedTuple):
        left: float
        right: tuple

    value = {"pair": Pair(np.float64(1.5), (np.int32(2), np.nan)), 3: Path("a/b"), "inf": -np.inf}
    assert plain(value) == {
        "pair": {"left": 1.5, "right": [2, "nan"]},
        "3": "a/b",
        "inf": "-inf",
    }


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.ones(2, ml_dtypes.bfloat16), np.zeros(2, "f8,i4")]
)
def test_arrays_that_would_come_back_changed_are_refused(store, array):
    with pytest.raises(ValueError, match="array 'x' of demo must hold numbers"):
        store.save("demo", KEY, {"x": array}, {})
    assert not store.root.exists()


@pytest.mark.parametrize("label", ["x.npy", "a\0b", "a\nb"])
def test_names_that_would_come_back_changed_are_refused(store, label):
    with pytest.raises(ValueError, match="names of arrays must be plain"):
        store.save("demo", KEY, {label: np.ones(1)}, {})


def test_what_was_never_stored_is_absent_without_a_word(saved):
    assert saved.load("demo", OTHER) is None
    assert saved.load("other", KEY) is None
    assert saved.latest("other") is None
    assert Store(saved.root / "nowhere").load("demo", KEY) is None


@pytest.mark.parametrize("name", ["", "../demo", "a/b", "quarantine", "all", ".", "Demo", "a.b"])
def test_a_name_that_is_no_folder_of_the_store_is_refused(saved, name):
    actions = (
        lambda: saved.save(name, KEY, {}, {}),
        lambda: saved.load(name, KEY),
        lambda: saved.latest(name),
        lambda: saved.partial(name, KEY),
        lambda: saved.require_writable(name),
        lambda: saved.clean([name]),
    )
    before = files(saved.root)
    for action in actions:
        with pytest.raises(ValueError, match="name must be a folder of the store"):
            action()
    assert files(saved.root) == before


@pytest.mark.parametrize("key", ["", "x" * 32, "../" + KEY, KEY + "/..", KEY.upper()])
def test_a_key_that_is_none_is_refused(saved, key):
    for action in (saved.load, saved.partial, lambda *where: saved.save(*where, {}, {})):
        with pytest.raises(ValueError, match="key must be 32 hexadecimal digits"):
            action("demo", key)


def damaged(store, suffix, damage):
    """Damage one file and load: the entry, the warnings, and whether every byte was kept."""
    path = next(store.root.glob(f"demo/*{suffix}"))
    path.write_bytes(damage(path.read_bytes()))
    before = {p.name: content for p, content in files(store.root).items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entry = store.load("demo", KEY)
    aside = {p.name: content for p, content in files(store.root / "quarantine").items()}
    return entry, [w for w in caught if w.category is StoreWarning], aside == before


@given(st.sampled_from([".npz", ".json"]), st.integers(0), st.integers(1, 255))
def test_any_changed_byte_is_noticed_or_changes_nothing(suffix, where, flip):
    def damage(data):
        at = where % len(data)
        return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]

    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        said = store.save("demo", KEY, ARRAYS, {"seed": 7})
        entry, warned, kept = damaged(store, suffix, damage)
    if entry is None:
        assert len(warned) == 1
        assert kept
    else:  # white space of the sidecar
        assert suffix == ".json"
        assert entry.record == said.record
        assert not warned


@given(st.sampled_from([".npz", ".json"]), st.floats(0, 1, exclude_max=True))
def test_a_truncated_entry_is_set_aside(suffix, part):
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        store.save("demo", KEY, ARRAYS, {})
        entry, warned, kept = damaged(store, suffix, lambda data: data[: int(part * len(data))])
    assert entry is None
    assert len(warned) == 1
    assert kept


def test_an_archive_without_sidecar_is_an_unfinished_write_and_left_alone(saved):
    next(saved.root.glob("demo/*.json")).unlink()
    before = files(saved.root)
    assert saved.load("demo", KEY) is None
    assert files(saved.root) == before


def test_a_sidecar_without_archive_is_set_aside(saved):
    next(saved.root.glob("demo/*.npz")).unlink()
    rest = files(saved.root / "demo")
    with pytest.warns(StoreWarning, match=rf"demo/{KEY} is damaged .* moved to .*quarantine"):
        assert saved.load("demo", KEY) is None
    assert list(files(saved.root / "quarantine").values()) == list(rest.values())
    assert saved.load("demo", KEY) is None  # said once


def test_an_edited_sidecar_is_not_believed(saved):
    path = next(saved.root.glob("demo/*.json"))
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.warns(StoreWarning, match="not the one that was written"):
        assert saved.load("demo", KEY) is None


def test_an_entry_under_a_wrong_name_is_not_believed(saved):
    folder = saved.root / "demo"
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace(KEY, OTHER))
    with pytest.warns(StoreWarning, match="belongs to another run"):
        assert saved.load("demo", OTHER) is None


def test_what_was_set_aside_is_never_overwritten(saved):
    for _ in range(3):
        saved.save("demo", KEY, ARRAYS, {})
        with pytest.warns(StoreWarning):
            assert damaged_load(saved) is None
    assert len(list((saved.root / "quarantine").iterdir())) == 3
    saved.save("demo", KEY, ARRAYS, {"seed": 9})
    assert saved.load("demo", KEY).record["seed"] == 9


def damaged_load(store):
    next(store.root.glob("demo/*.npz")).write_bytes(b"")
    return store.load("demo", KEY)


def test_a_quarantine_that_cannot_be_made_is_an_error_and_loses_nothing(saved):
    (saved.root / "quarantine").write_text("a file in its place")
    next(saved.root.glob("demo/*.npz")).write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot set demo/.* aside"):
        saved.load("demo", KEY)
    assert len(files(saved.root / "demo")) == 2


def test_the_latest_intact_run(saved):
    saved.save("demo", OTHER, {"u": np.ones(1)}, {})
    for age, key in enumerate((OTHER, KEY)):
        os.utime(saved.root / "demo" / f"{key}.json", (1000 - age, 1000 - age))
    assert saved.latest("demo").key == OTHER
    next(saved.root.glob(f"demo/{OTHER}*.npz")).write_bytes(b"")
    with pytest.warns(StoreWarning):
        assert saved.latest("demo").key == KEY


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("working", [0, 1])  # calls that still succeed: archive, then sidecar
def test_a_full_disk_leaves_earlier_results_intact(saved, monkeypatch, call, working):
    real, before, calls = getattr(os, call), saved.load("demo", KEY), []

    def until_full(*arguments):
        calls.append(arguments)
        if len(calls) > working:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    for key in (KEY, OTHER):
        calls.clear()
        monkeypatch.setattr(os, call, until_full)
        with pytest.raises(StorageError) as caught:
            saved.save("demo", key, {"u": np.zeros(3)}, {})
        monkeypatch.setattr(os, call, real)
        message = str(caught.value)
        assert str(saved.root / "demo") in message
        assert "No space left on device" in message
        assert "untouched" in message
    after = saved.load("demo", KEY)
    assert after.record == before.record
    assert all(identical(after.arrays[name], before.arrays[name]) for name in ARRAYS)
    assert not list(saved.root.rglob("*.tmp"))


def test_a_file_in_place_of_a_directory(store):
    store.root.mkdir()
    (store.root / "demo").write_text("precious")
    for action in (
        lambda: store.require_writable("demo"),
        lambda: store.save("demo", KEY, ARRAYS, {}),
        lambda: Store(store.root / "demo").save("demo", KEY, ARRAYS, {}),
    ):
        with pytest.raises(StorageError, match=r"cannot write .*demo"):
            action()
    assert store.load("demo", KEY) is None
    assert store.latest("demo") is None
    assert store.clean().paths == store.clean(["demo"]).paths == ()
    assert (store.root / "demo").read_text() == "precious"


def test_a_writable_store_shows_no_trace_of_the_trial(store):
    store.require_writable("demo")
    assert files(store.root) == {}


@pytest.fixture
def crowded(saved, tmp_path):
    """A store with a run, its checkpoints and rubbish, beside other people's files and links."""
    saved.save("other", KEY, ARRAYS, {})
    folder = saved.root / "demo"
    partial = saved.partial("demo", KEY)
    partial.mkdir()
    (partial / "sweep.checkpoint").write_bytes(b"12345")
    (folder / f".{KEY}.json.123.deadbeef.tmp").write_bytes(b"123")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{KEY}.json").write_text("outside")
    (partial / "link").symlink_to(outside)
    (folder / f"{OTHER}.json").symlink_to(outside / f"{KEY}.json")
    (saved.root / "linked").symlink_to(outside)
    (folder / "notes.txt").write_text("mine")
    (saved.root / "README").write_text("mine")
    return saved


def test_clean_takes_what_the_store_wrote_and_nothing_else(crowded, tmp_path):
    folder = crowded.root / "demo"
    kept = {"notes.txt", f"{OTHER}.json"}
    written = {path.name for path in folder.iterdir()} - kept
    link = os.lstat(crowded.partial("demo", KEY) / "link").st_size
    size = sum(len(content) for path, content in files(folder).items() if path.name not in kept)
    removed = crowded.clean(["demo"])
    assert {path.name for path in removed.paths} == written
    assert removed.bytes == size + link
    assert {path.name for path in folder.iterdir()} == kept
    assert crowded.load("other", KEY) is not None
    assert (tmp_path / "outside" / f"{KEY}.json").read_text() == "outside"


def test_clean_of_everything_spares_links_and_strangers(crowded, tmp_path):
    crowded.clean()
    left = {str(path.relative_to(crowded.root)) for path in crowded.root.rglob("*")}
    assert left == {"README", "linked", "demo", "demo/notes.txt", f"demo/{OTHER}.json"}
    assert (tmp_path / "outside" / f"{KEY}.json").read_text() == "outside"
    with pytest.raises(ValueError, match="name must be a folder of the store"):
        crowded.clean(["linked"])
    assert crowded.clean().paths == ()


def test_clean_keeps_what_was_set_aside_until_told(saved):
    with pytest.warns(StoreWarning):
        damaged_load(saved)
    assert saved.clean().paths == ()
    removed = saved.clean(quarantine=True)
    assert [path.name for path in removed.paths] == [f"demo-{KEY}-0"]
    assert removed.bytes > 0
    assert not (saved.root / "quarantine").exists()


def test_cleaning_a_store_that_is_not_there(store):
    assert store.clean() == store.clean(["demo"], quarantine=True) == ((), 0)
