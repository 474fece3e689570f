"""Sweeps against closed forms and single runs; cut, killed, sharded and shared between processes.

The subprocess tests run ``children/minibatch_sweep.py`` and compare with the same sweep here.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sims
from sims.checkpoint import Checkpointing, CheckpointWarning, decode
from sims.sweep import Process, _next_size, sweep

ROOT = Path(sims.__file__).parents[1]
CHILD = Path(__file__).parent / "children" / "minibatch_sweep.py"
LIMIT = 120  # seconds a child may take on a busy machine; alone it takes 3 to 8
RECORD_AT = [0, 1, 5, 40]

# Gradient descent on h w^2 / 2 with a little noise that keys must carry along.
NOISY = Process(
    init=lambda case, shared: (shared["initial"], case["key"]),
    step=lambda k, state, case, shared: (
        (1 - case["rate"] * shared["curvature"]) * state[0]
        + case["noise"] * jax.random.normal(jax.random.fold_in(state[1], k), (2,)),
        state[1],
    ),
    observe=lambda state, case, shared: {"w": state[0], "big": jnp.sum(jnp.abs(state[0]) > 1)},
)
SHARED = {"initial": np.array([1.0, -2.0]), "curvature": np.array([1.0, 3.0])}


def cases(rates, noise=0.1):
    keys = jax.random.split(jax.random.key(0), len(rates))
    return {"rate": np.array(rates), "noise": np.full(len(rates), noise), "key": keys}


RATES = [0.1, 0.3, 1e200, 0.5]


def leaves(result):
    found = jax.tree_util.tree_leaves_with_path(result)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def assert_bitwise(left, right):
    left, right = leaves(left), leaves(right)
    assert list(left) == list(right)
    for name, array in left.items():
        assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape), name
        assert array.tobytes() == right[name].tobytes(), name


@pytest.fixture(scope="module")
def undisturbed():
    return sweep("noisy", NOISY, cases(RATES), SHARED, record_at=RECORD_AT, chunk=40)


class CrashAfter:
    """Progress that raises once so many steps are done."""

    def __init__(self, steps):
        self.steps = steps

    def update(self, done, total, diverged):
        if done >= self.steps:
            raise KeyboardInterrupt


class Note:
    def __init__(self):
        self.updates = []

    def update(self, done, total, diverged):
        self.updates.append((done, total, diverged))


def test_members_follow_the_closed_form():
    rates = np.array([0.0, 0.1, 0.3, 0.66])
    result = sweep("quiet", NOISY, cases(rates, noise=0.0), SHARED, record_at=RECORD_AT)
    factor = 1 - rates[:, None, None] * SHARED["curvature"]
    expected = factor ** np.array(RECORD_AT)[:, None] * SHARED["initial"]
    # forty factors below 1, each rounded
    np.testing.assert_allclose(result.records["w"], expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(result.records["big"], (np.abs(expected) > 1).sum(-1))
    np.testing.assert_array_equal(result.final[0], result.records["w"][:, -1])
    assert result.steps.tolist() == RECORD_AT
    assert result.diverged_at.tolist() == [-1] * 4


@pytest.mark.parametrize("chunk", [1, 7, 39, 10**9, None])
def test_where_chunks_end_changes_no_bit(undisturbed, chunk):
    note = Note()
    result = sweep(
        "noisy", NOISY, cases(RATES), SHARED, record_at=RECORD_AT, chunk=chunk, progress=note
    )
    assert_bitwise(result, undisturbed)
    done = [update[0] for update in note.updates]
    assert done == sorted(set(done))
    assert note.updates[-1] == (40, 40, 1)
    if chunk is not None:
        assert len(done) == -(-40 // chunk)


def test_a_diverged_member_is_recorded_and_harms_no_other(undisturbed):
    first = undisturbed.diverged_at[2]
    assert undisturbed.diverged_at.tolist() == [-1, -1, first, -1]
    assert first == 2  # 1e200 squared overflows
    late = np.array(RECORD_AT) >= first
    np.testing.assert_array_equal(np.isnan(undisturbed.records["w"][2]).all(axis=1), late)
    assert not undisturbed.records["big"][2, late].any()
    assert np.isfinite(undisturbed.records["w"][[0, 1, 3]]).all()
    healthy = sweep(
        "noisy", NOISY, cases([0.1, 0.3, 0.2, 0.5]), SHARED, record_at=RECORD_AT, chunk=40
    )
    for row in (0, 1, 3):
        np.testing.assert_array_equal(undisturbed.records["w"][row], healthy.records["w"][row])


def test_a_sweep_ends_when_all_members_have_diverged():
    """Early, and with what going on to the end would have given."""
    note, rates = Note(), [1e200, 1e250, np.nan]
    options = {"record_at": [0, 1, 2, 10_000], "chunk": 5}
    result = sweep("lost", NOISY, cases(rates), SHARED, **options, progress=note)
    assert note.updates == [(10_000, 10_000, 3)]
    assert result.diverged_at.tolist() == [2, 2, 1]
    longer = sweep("lost", NOISY, cases(rates), SHARED, **(options | {"chunk": 500}))
    assert_bitwise(result, longer)


@given(crashes=st.lists(st.integers(1, 39), min_size=1, max_size=2), chunk=st.integers(1, 20))
@settings(max_examples=4)
def test_a_crashed_sweep_goes_on_from_its_checkpoint(undisturbed, tmp_path_factory, crashes, chunk):
    checkpoint = Checkpointing(tmp_path_factory.mktemp("checkpoints"), every=0)
    options = {"record_at": RECORD_AT, "checkpoint": checkpoint}
    for steps in sorted(crashes):
        with pytest.raises(KeyboardInterrupt):
            sweep(
                "noisy",
                NOISY,
                cases(RATES),
                SHARED,
                **options,
                chunk=chunk,
                progress=CrashAfter(steps),
            )
    note = Note()
    result = sweep("noisy", NOISY, cases(RATES), SHARED, **options, chunk=3, progress=note)
    assert_bitwise(result, undisturbed)
    if note.updates:  # none if the crash came after the last chunk
        assert note.updates[0][0] > max(crashes)


def test_a_finished_sweep_is_not_run_again(undisturbed, tmp_path):
    options = {"record_at": RECORD_AT, "checkpoint": Checkpointing(tmp_path, every=1e9)}
    sweep("noisy", NOISY, cases(RATES), SHARED, **options)

    def never(k, state, case, shared):
        raise AssertionError("a step of a finished sweep was taken")

    again = sweep("noisy", NOISY._replace(step=never), cases(RATES), SHARED, **options)
    assert_bitwise(again, undisturbed)


def test_checkpoints_are_written_no_more_often_than_asked(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("sims.sweep.save", lambda path, checkpoint: written.append(checkpoint.step))
    for every, expected in ((0, [10, 20, 30, 40]), (1e9, [40])):
        written.clear()
        checkpoint = Checkpointing(tmp_path, every=every)
        sweep(
            "noisy",
            NOISY,
            cases(RATES),
            SHARED,
            record_at=RECORD_AT,
            chunk=10,
            checkpoint=checkpoint,
        )
        assert written == expected


@pytest.mark.parametrize("harm", ["truncate", "flip", "other rates", "other schedule", "members"])
def test_an_unusable_checkpoint_is_set_aside_and_the_sweep_starts_over(undisturbed, tmp_path, harm):
    options = {"chunk": 20, "checkpoint": Checkpointing(tmp_path, every=0)}
    rates = {"other rates": [0.1, 0.3, 1e200, 0.4], "members": RATES[:3]}.get(harm, RATES)
    schedule = [0, 1, 5, 39] if harm == "other schedule" else RECORD_AT
    sweep("noisy", NOISY, cases(rates), SHARED, record_at=schedule, **options)
    path = tmp_path / "noisy.checkpoint"
    data = bytearray(path.read_bytes())
    if harm == "truncate":
        data = data[: len(data) // 2]
    elif harm == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(CheckpointWarning, match="starts over"):
        result = sweep("noisy", NOISY, cases(RATES), SHARED, record_at=RECORD_AT, **options)
    assert_bitwise(result, undisturbed)
    assert (tmp_path / "noisy.checkpoint.aside-1").read_bytes() == data


def test_any_state_survives_a_checkpoint(tmp_path):
    """Half precisions, which .npz cannot name, signed zeros, booleans and other kinds of keys."""
    process = Process(
        init=lambda case, shared: {"case": case, "twice": (case, case), "on": jnp.bool_(True)},
        step=lambda k, state, case, shared: state | {"case": jax.tree.map(jnp.copy, case)},
        observe=lambda state, case, shared: {"half": state["case"]["half"]},
    )
    members = {
        "half": jnp.array([1.5, -0.0], jnp.bfloat16),
        "key": jax.random.split(jax.random.key(3, impl="rbg"), 2),
        "complex": jnp.array([1j, 2.0]),
    }
    options = {"record_at": [0, 4], "checkpoint": Checkpointing(tmp_path, every=0), "chunk": 2}
    with pytest.raises(KeyboardInterrupt):
        sweep("any", process, members, **options, progress=CrashAfter(2))
    result = sweep("any", process, members, **options)
    assert_bitwise(result, sweep("any", process, members, record_at=[0, 4]))
    assert result.final["case"]["half"].dtype == jnp.bfloat16
    assert result.records["half"].astype(float).tolist() == [[1.5, 1.5], [-0.0, -0.0]]
    np.testing.assert_array_equal(result.final["case"]["key"], jax.random.key_data(members["key"]))


def test_chunks_grow_towards_a_second():
    assert _next_size(1, 2.0) == 1  # the first counts compilation
    assert _next_size(1, 1e-4) == 8
    assert _next_size(8000, 0.5) == 16000
    assert _next_size(8000, 4.0) == 2000
    assert _next_size(5, 0.0) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": {}}, "cases must be arrays with members"),
        ({"cases": {"x": np.ones(0)}}, "cases must be arrays with members"),
        ({"cases": {"x": 1.0}}, "cases must be arrays with members"),
        ({"cases": {"x": np.ones(3), "y": np.ones((2, 3))}}, r"got \[\(3,\), \(2, 3\)\]"),
        ({"record_at": []}, "record_at must"),
        ({"record_at": [0, 2, 2]}, "record_at must increase"),
        ({"chunk": 0}, "chunk must be >= 1"),
        ({"name": "a/b", "checkpoint": Checkpointing(Path("nowhere"))}, "name must be"),
    ],
    ids=str,
)
def test_bad_input_is_refused(change, message):
    arguments = {"name": "x", "cases": cases(RATES), "record_at": RECORD_AT} | change
    with pytest.raises(ValueError, match=message):
        sweep(process=NOISY, shared=SHARED, **arguments)


# ---- subprocesses --------------------------------------------------------------------------------


def start_child(*arguments, devices=1):
    """A child with its own devices, on this machine's CPU."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "no_proxy": "127.0.0.1",  # gRPC would otherwise ask a proxy for the other process
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", CHILD, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*children):
    """Wait for all, end those that hang, and show what they said if one failed."""
    deadline = time.monotonic() + LIMIT
    said = []
    for child in children:
        try:
            said.append(child.communicate(timeout=max(0.1, deadline - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            child.kill()
            said.append(f"TIMED OUT\n{child.communicate()[0]}")
    codes = [child.returncode for child in children]
    assert codes == [0] * len(children), "\n".join(f"exit codes {codes}", *said)
    return said


@pytest.fixture(scope="module")
def reference():
    """The child's sweep, in this process, on one device and in one piece."""
    child = runpy.run_path(str(CHILD))
    result = sweep(
        *child["problem"](), record_at=child["RECORD_AT"], chunk=600, devices=jax.devices()[:1]
    )
    expected = [-1] * child["MEMBERS"]
    expected[child["DIVERGING"]] = result.diverged_at[child["DIVERGING"]]
    assert result.diverged_at.tolist() == expected
    assert expected[child["DIVERGING"]] > 0
    return result


def assert_close(path, reference):
    """Equal to the sweep on one device, up to rounding: another block size, another program."""
    expected = leaves(reference)
    with np.load(path) as found:
        assert set(found.files) == set(expected)
        for name, array in expected.items():
            if array.dtype.kind == "f":
                # 600 steps of a contracting iteration in float64
                np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12)
            else:
                np.testing.assert_array_equal(found[name], array)


def kill_during_the_sweep(child, path, delay):
    """SIGKILL a while after the child has written a checkpoint of its own; return its step."""
    before = path.stat().st_mtime_ns if path.exists() else None
    deadline = time.monotonic() + LIMIT
    while not path.exists() or path.stat().st_mtime_ns == before:
        if child.poll() is not None or time.monotonic() > deadline:
            finish(child)
            pytest.fail("the child ended before it could be killed")
        time.sleep(0.001)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    return decode(path.read_bytes()).step


def test_killed_at_random_moments_and_resumed_bitwise_the_same(tmp_path, reference):
    path, output, chunk = tmp_path / "net.checkpoint", tmp_path / "result.npz", 2
    steps = []
    for delay in np.random.default_rng(0).uniform(0, 0.4, 3):
        steps.append(kill_during_the_sweep(start_child(chunk, tmp_path, output), path, delay))
    assert 0 < steps[0] < steps[1] < steps[2] < 600  # each life went on from the one before
    assert not output.exists()
    finish(start_child(chunk, tmp_path, output))
    expected = leaves(reference)
    with np.load(output) as found:
        assert set(found.files) == set(expected)
        for name, array in expected.items():
            assert found[name].tobytes() == array.tobytes(), name


def test_eight_devices_share_members_that_do_not_divide(tmp_path, reference):
    child = start_child(60, tmp_path, tmp_path / "result.npz", devices=8)
    assert finish(child) == ["interrupted\n1 processes, 8 devices\n"]
    assert_close(tmp_path / "result.npz", reference)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_run_one_sweep(tmp_path, reference):
    port = free_port()
    outputs = [tmp_path / f"result-{rank}.npz" for rank in range(2)]
    children = [
        start_child(60, tmp_path / f"disk-{rank}", outputs[rank], rank, port) for rank in range(2)
    ]
    for said in finish(*children):
        assert said.endswith("interrupted\n2 processes, 2 devices\n")
    for output in outputs:
        assert_close(output, reference)
    # only the first process keeps checkpoints; the other resumed from them all the same
    assert (tmp_path / "disk-0" / "net.checkpoint").exists()
    assert not (tmp_path / "disk-1").exists()
