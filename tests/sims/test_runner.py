"""Numbers are computed once, served bit for bit, judged anew, and never from an unsound backend."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims import backend, runner
from sims.experiment import Claim, Experiment, Source
from sims.store import StorageError, Store, StoreWarning
from sims.sweep import Process

CHILD = Path(__file__).parent / "children" / "cached_run.py"


@dataclasses.dataclass(frozen=True)
class Config:
    members: int = 3
    rate: float = 0.5
    data: str | None = None


CALLS = []  # every simulation notes its config here: a stored result makes no note

DECAY = Process(
    init=lambda case, shared: case,
    step=lambda k, state, case, shared: state * shared,
    observe=lambda state, case, shared: {"x": state},
)


def predict(config):
    return {"ratio": jnp.array(config.rate**4)}


def simulate(config, key):
    CALLS.append(config)
    start = jax.random.uniform(key, (config.members,))
    return {"start": start, "end": start * config.rate**4}


def simulate_by_sweep(config, key, sweep):
    CALLS.append(config)
    cases = jax.random.uniform(key, (config.members,))
    first = sweep("first", DECAY, cases, config.rate, record_at=[0, 4]).records["x"]
    again = sweep("again", DECAY, cases, config.rate, record_at=np.arange(5)).records["x"]
    return {"start": first[:, 0], "end": again[:, -1]}


def ratio(measured):
    return measured["end"] / measured["start"]


TOY = Experiment(
    name="toy",
    source=Source("Anybody", 2014, "Title", "1312.6120", "Fig. 1"),
    statement="four steps of decay",
    equations=("x_4 = r^4 x_0",),
    quick=Config(),
    full=Config(members=5),
    cost=(1.0, 1.0),
    predict=predict,
    simulate=simulate,
    claims=(Claim("ratio", lambda p: p["ratio"], ratio, 1e-12, "float64 rounding"),),
)
SWEPT = dataclasses.replace(TOY, simulate=simulate_by_sweep)
SOUND = backend.Backend(
    sound=True,
    failures=(),
    versions={"jax": "1", "jaxlib": "2"},
    platform="cpu",
    devices=("cpu",),
    x64=True,
    flags="",
)
UNSOUND = SOUND._replace(sound=False, failures=("float32, row length 3: 7 rows wrong",))


@pytest.fixture(autouse=True)
def probed(monkeypatch):
    """The backend's probe has its own tests; here it says what each test needs it to say."""
    CALLS.clear()
    monkeypatch.setattr(backend, "_probe", lambda x64: SOUND)
    return lambda found: monkeypatch.setattr(backend, "_probe", lambda x64: found)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def run(experiment=TOY, config=None, **options):
    return runner.run(experiment, config or experiment.quick, **options)


def assert_identical(one, other):
    for left, right in [(one.predicted, other.predicted), (one.measured, other.measured)]:
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert isinstance(array, np.ndarray)
            assert (array.dtype, array.shape) == (right[name].dtype, right[name].shape)
            assert array.tobytes() == right[name].tobytes()


@pytest.mark.parametrize("experiment", [TOY, SWEPT])
def test_a_second_run_is_served_from_the_store(store, experiment):
    fresh, cached = run(experiment, store=store), run(experiment, store=store)
    assert len(CALLS) == 1
    assert_identical(fresh, cached)
    assert (fresh.name, fresh.config, fresh.verdicts) == (*cached[:2], cached.verdicts)
    assert fresh.verdicts[0].holds
    assert cached.provenance == {**fresh.provenance, "cached": True}
    assert fresh.provenance["cached"] is False


def test_the_provenance_says_where_the_numbers_come_from(store):
    found = run(store=store, seed=3).provenance
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["seed"] == 3
    assert found["wall_seconds"] > 0
    assert found["backend"] == {"sound": True, "failures": []}
    assert found["unsound_allowed"] is False
    assert found["environment"]["packages"]["jax"] == jax.__version__
    record = store.load("toy", found["key"]).record
    assert record["provenance"] == {key: found[key] for key in found if key != "cached"}
    assert record["config"] == dataclasses.asdict(TOY.quick)
    assert [verdict["holds"] for verdict in record["verdicts"]] == [True]
    assert "1312.6120" in record["source"]


def test_seed_and_config_make_another_run(store, tmp_path):
    data = tmp_path / "data.npz"
    data.write_bytes(b"1")
    base = {"store": store}
    runs = [run(**base), run(**base, seed=1), run(config=Config(rate=0.25), **base)]
    runs.append(run(config=Config(data=str(data)), **base))
    data.write_bytes(b"2")
    runs.append(run(config=Config(data=str(data)), **base))
    assert len(CALLS) == len({each.provenance["key"] for each in runs}) == 5
    assert not np.array_equal(runs[0].measured["start"], runs[1].measured["start"])
    again = run(**base)
    assert_identical(again, runs[0])
    assert len(CALLS) == 5


def test_the_key_of_the_simulation_is_the_seed(store):
    expected = jax.random.uniform(jax.random.key(5), (3,))
    np.testing.assert_array_equal(run(store=store, seed=5).measured["start"], expected)


def test_force_computes_again_from_the_start(store):
    first, second = run(SWEPT, store=store), run(SWEPT, store=store, force=True)
    assert len(CALLS) == 2
    assert second.provenance["cached"] is False
    assert_identical(first, second)


def test_a_stored_result_is_judged_by_todays_claims(store):
    assert run(store=store).verdicts[0].holds
    spoilt = Claim("ratio", lambda p: 2 * p["ratio"], ratio, 1e-12, "corrupted on purpose")
    verdicts = run(dataclasses.replace(TOY, claims=(spoilt,)), store=store).verdicts
    assert len(CALLS) == 1
    assert not verdicts[0].holds
    assert verdicts[0].error == pytest.approx(0.5)


def test_a_damaged_result_is_computed_again(store):
    fresh = run(store=store)
    next(store.root.glob("toy/*.npz")).write_bytes(b"rubbish")
    with pytest.warns(StoreWarning, match="damaged"):
        again = run(store=store)
    assert len(CALLS) == 2
    assert_identical(fresh, again)
    assert run(store=store).provenance["cached"]


def test_nothing_is_computed_on_an_unsound_backend(store, probed):
    probed(UNSOUND)
    with pytest.raises(backend.UnsoundBackendError, match="7 rows wrong"):
        run(store=store)
    assert not CALLS
    assert store.latest("toy") is None


def test_what_was_computed_soundly_is_served_without_a_probe(store, probed):
    fresh = run(store=store)
    probed(UNSOUND)
    assert_identical(run(store=store), fresh)


def test_an_unsound_result_is_marked_and_served_only_on_request(store, probed):
    probed(UNSOUND)
    allowed = run(store=store, allow_unsound=True)
    assert allowed.provenance["unsound_allowed"] is True
    assert allowed.provenance["backend"] == {"sound": False, "failures": list(UNSOUND.failures)}
    assert run(store=store, allow_unsound=True).provenance["cached"]
    with pytest.raises(backend.UnsoundBackendError):
        run(store=store)
    probed(SOUND)
    assert run(store=store).provenance["backend"]["sound"]
    assert len(CALLS) == 2
    assert run(store=store, allow_unsound=True).provenance["backend"]["sound"]


class Progress:
    """Notes the steps done; gives up, as a crash would, after so many looks."""

    def __init__(self, looks=99):
        self.looks, self.seen = looks, []

    def update(self, done, total, diverged):
        self.seen.append(done)
        if len(self.seen) == self.looks:
            raise InterruptedError


def test_an_interrupted_run_goes_on_and_leaves_no_checkpoints(store, tmp_path):
    undisturbed = run(SWEPT, store=Store(tmp_path / "undisturbed"))
    options = {"store": store, "checkpoint_every": 0.0, "chunk": 1}
    crash, rest, forced = Progress(looks=6), Progress(), Progress()
    with pytest.raises(InterruptedError):
        run(SWEPT, **options, progress=crash)
    assert crash.seen == [1, 2, 3, 4, 1, 2]
    assert len(list(store.root.glob("toy/*.partial/*"))) == 2
    assert store.latest("toy") is None
    resumed = run(SWEPT, **options, progress=rest)
    assert rest.seen == [3, 4]
    assert_identical(resumed, undisturbed)
    assert not list(store.root.glob("toy/*.partial"))
    run(SWEPT, **options, progress=forced, force=True)
    assert forced.seen == [1, 2, 3, 4, 1, 2, 3, 4]


def test_force_does_not_go_on_from_an_interrupted_run(store):
    options = {"store": store, "checkpoint_every": 0.0, "chunk": 1}
    with pytest.raises(InterruptedError):
        run(SWEPT, **options, progress=Progress(looks=6))
    forced = Progress()
    run(SWEPT, **options, progress=forced, force=True)
    assert forced.seen == [1, 2, 3, 4, 1, 2, 3, 4]


def test_an_unwritable_store_is_noticed_before_computing(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StorageError, match="cannot write"):
        run(store=Store(tmp_path / "file"))
    assert not CALLS
    assert (tmp_path / "file").read_text() == "precious"


def test_a_disk_that_fills_up_leaves_earlier_results_and_checkpoints(store, monkeypatch):
    earlier = run(SWEPT, store=store)

    def full(*arguments):
        raise StorageError(28, "cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", full)
        with pytest.raises(StorageError, match="No space left"):
            run(SWEPT, store=store, seed=1)
    assert_identical(run(SWEPT, store=store), earlier)
    assert len(list(store.root.glob("toy/*.partial/*"))) == 2
    progress = Progress()
    run(SWEPT, store=store, seed=1, progress=progress)
    assert progress.seen == []  # both sweeps had finished


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "simulate of toy must give a dict of named arrays, got list"),
        ({1: np.ones(1)}, "simulate of toy must give a dict"),
        ({"x": "text"}, r"simulate of toy must give arrays of numbers, got .*'x': '<U4'"),
        ({"x": np.array([None])}, r"arrays of numbers, got .*object"),
        ({"x": jnp.ones(1, jnp.bfloat16)}, r"arrays of numbers, got .*bfloat16"),
    ],
)
def test_results_that_are_not_named_arrays_are_refused(store, result, message):
    broken = dataclasses.replace(TOY, simulate=lambda config, key: result)
    with pytest.raises(ValueError, match=message):
        run(broken, store=store)
    assert store.latest("toy") is None


def test_bad_arguments_are_refused(store):
    with pytest.raises(ValueError, match=r"config of toy must be a Config, got \('rate', 1\)"):
        run(config=("rate", 1), store=store)
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        run(store=store, seed=-1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_of_two_processes_one_writes_and_both_get_the_stored_result(tmp_path):
    port, command = free_port(), [sys.executable, str(CHILD)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    stores = [tmp_path / "first", tmp_path / "second"]
    children = [
        subprocess.Popen(
            [*command, str(store), str(process), str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, store in enumerate(stores)
    ]
    said = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    runs = [json.loads(out.splitlines()[-1]) for out, _ in said]
    assert runs[0] == runs[1]
    assert [cached for cached, _, _ in runs[0]] == [False, True]
    assert all(holds for _, _, holds in runs[0])
    assert runs[0][0][1] == runs[0][1][1]
    assert len(list(stores[0].glob("halving/*.json"))) == 1
    assert not stores[1].exists()
