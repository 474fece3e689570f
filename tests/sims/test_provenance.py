"""The key changes when, and only when, something that changes numbers does."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims import provenance
from sims.experiment import Claim, Experiment, Source
from sims.provenance import cache_key, environment, file_digest, source_digest


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: int = 8
    gain: float = 1.0
    whiten: bool = False
    data: str | None = None
    gains: tuple[float, ...] = (1.0,)
    inner: Inner = Inner()


def predict(config):
    return {"x": np.ones(1)}


def simulate(config, key):
    return {"x": np.ones(1)}


def simulate_by_sweep(config, key, sweep):
    return {"x": np.ones(1)}


TOY = Experiment(
    name="toy",
    source=Source("Anybody", 2014, "Title", "1312.6120", "Fig. 1"),
    statement="x is x",
    equations=("x = x",),
    quick=Config(),
    full=Config(),
    cost=(1.0, 1.0),
    predict=predict,
    simulate=simulate,
    claims=(Claim("x", lambda p: p["x"], lambda m: m["x"], 0.0, "exact"),),
)

NEXT_TO_ONE = math.nextafter(1.0, 2.0)
numbers = st.floats() | st.sampled_from([0.0, -0.0, 1.0, NEXT_TO_ONE])
configs = st.builds(
    Config,
    seeds=st.integers(0, 3),
    gain=numbers,
    whiten=st.booleans(),
    data=st.sampled_from([None, "digits", "other"]),
    gains=st.lists(numbers, max_size=2).map(tuple),
    inner=st.builds(Inner, st.integers(0, 2)),
)


@given(configs, configs, st.integers(0, 2), st.integers(0, 2))
def test_equal_keys_mean_equal_configs_and_seeds(one, other, seed, other_seed):
    # repr of a float is exact and tells 0.0 from -0.0; NaN differs from itself, but not in print
    same = repr((one, seed)) == repr((other, other_seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "source_digest", lambda *modules: "the same, and slow to find")
        key = cache_key(TOY, one, seed)
        assert (key == cache_key(TOY, other, other_seed)) == same
        assert key == cache_key(TOY, dataclasses.replace(one), seed)


def test_a_number_is_neither_its_neighbour_nor_its_equal_of_another_type():
    gains = (1, 1.0, True, NEXT_TO_ONE, 0.0, -0.0, math.nan, math.inf)
    assert len({cache_key(TOY, Config(gain=gain), 0) for gain in gains}) == len(gains)


def test_a_key_is_a_file_name():
    assert len(bytes.fromhex(cache_key(TOY, Config(), 0))) == 16


def test_what_claims_say_and_who_is_cited_does_not_count():
    key = cache_key(TOY, Config(), 0)
    looser = Claim("x", lambda p: p["x"], lambda m: m["x"], 0.1, "finite width")
    other = dataclasses.replace(TOY, claims=(looser,), statement="y", cost=(2.0, 2.0))
    assert cache_key(other, Config(), 0) == key
    assert cache_key(dataclasses.replace(TOY, name="other"), Config(), 0) != key
    assert cache_key(dataclasses.replace(TOY, simulate=predict), Config(), 0) != key


def test_a_simulation_that_gets_the_sweep_depends_on_its_source(monkeypatch):
    asked = []
    monkeypatch.setattr(provenance, "source_digest", lambda *modules: str(asked.append(modules)))
    cache_key(TOY, Config(), 0)
    cache_key(dataclasses.replace(TOY, simulate=simulate_by_sweep), Config(), 0)
    assert asked == [(__name__,), ("sims.sweep", __name__)]


def test_a_data_file_counts_by_its_content(tmp_path):
    one, copy, other = (tmp_path / name for name in ("one.npz", "copy.npz", "other.npz"))
    one.write_bytes(b"data")
    copy.write_bytes(b"data")
    other.write_bytes(b"Data")
    keys = [cache_key(TOY, Config(data=str(path)), 0) for path in (one, copy, other)]
    assert keys[0] == keys[1] != keys[2]
    one.write_bytes(b"changed")
    assert cache_key(TOY, Config(data=str(one)), 0) not in keys
    assert cache_key(TOY, Config(data=str(tmp_path / "absent.npz")), 0) not in keys
    listed = [cache_key(TOY, Config(), 0, data_files=[path]) for path in (copy, other)]
    assert len({*listed, cache_key(TOY, Config(), 0)}) == 3
    assert file_digest(copy) == file_digest(str(copy)) != file_digest(other)


def test_a_field_that_is_not_plain_data_is_refused():
    with pytest.raises(ValueError, match=r"config field gain must be a number, .* got ndarray"):
        cache_key(TOY, Config(gain=np.ones(2)), 0)  # type: ignore


def changed_environments():
    def version(patch):
        patch.setattr(provenance, "_version", lambda package: "0.0.0")

    def device(patch):
        patch.setattr(jax, "devices", lambda: 2 * [jax.local_devices()[0]])

    yield version
    yield device
    yield lambda patch: patch.setattr(jax, "default_backend", lambda: "gpu")
    yield lambda patch: patch.setattr(jax, "process_count", lambda: 2)
    yield lambda patch: patch.setattr(provenance.platform, "python_version", lambda: "3.99")
    yield lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")


def test_versions_devices_and_flags_count():
    keys = [cache_key(TOY, Config(), 0)]
    for change in changed_environments():
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            keys.append(cache_key(TOY, Config(), 0))
    with jax.enable_x64(False):
        keys.append(cache_key(TOY, Config(), 0))
    with jax.default_matmul_precision("highest"):
        keys.append(cache_key(TOY, Config(), 0))
    assert len(set(keys)) == len(keys)
    assert cache_key(TOY, Config(), 0) == keys[0]


def test_commit_host_and_spaces_between_flags_do_not_count(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_b=2")
    key = cache_key(TOY, Config(), 0)
    monkeypatch.setenv("XLA_FLAGS", "  --xla_a=1   --xla_b=2 ")
    monkeypatch.setattr(provenance, "_git", lambda root: ("0" * 40, True))
    monkeypatch.setattr(provenance, "_cpu", lambda: "another")
    assert environment()["commit"] == "0" * 40
    assert cache_key(TOY, Config(), 0) == key


def test_the_environment_is_plain_data_and_names_what_matters():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["numpy"] == np.__version__
    assert sum(found["devices"].values()) == jax.device_count()
    assert found["x64"] is True
    assert "ynn" in found["XLA_FLAGS"]
    assert found["cpu"]


# Sources of a small project: what each line of the experiment's module imports.
MODULE = "sims.area.paper"
SOURCES = {
    "theory/__init__.py": "",
    "theory/checks.py": "limit = 1",
    "theory/area/__init__.py": "from theory.area import inside",
    "theory/area/inside.py": "inside = 1",
    "theory/area/modes.py": "import theory.checks",
    "theory/area/unused.py": "unused = 1",
    "dynamics/__init__.py": "",
    "dynamics/late.py": "late = 1",
    "figures/__init__.py": "",
    "figures/draw.py": "colour = 1",
    "sims/__init__.py": "",
    "sims/data.py": "data = 1",
    "sims/other.py": "other = 1",
    "sims/area/__init__.py": "",
    "sims/area/sibling.py": "from .. import data",
    "sims/area/paper.py": (
        '"""Doc."""\n'
        "import numpy, figures.draw\n"
        "from theory.area import modes as m, constant\n"
        "from .sibling import thing\n"
        "def simulate():\n"
        "    'Doc.'\n"
        "    from dynamics.late import late\n"
        "    return late  # comment\n"
    ),
}
REACHED = {
    *("theory", "theory.checks", "theory.area", "theory.area.inside", "theory.area.modes"),
    *("dynamics", "dynamics.late", "sims", "sims.data", "sims.area", "sims.area.sibling", MODULE),
}


@pytest.fixture
def project(tmp_path):
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_sources_are_followed_through_every_kind_of_import(project):
    assert set(provenance._reached([MODULE], project, set())) == REACHED


@pytest.mark.parametrize("name", SOURCES)
def test_the_digest_changes_iff_a_reached_source_does(project, name):
    before = source_digest(MODULE, root=project)
    assert source_digest(MODULE, root=project) == before
    with open(project / name, "a") as file:
        file.write("\nadded = 1\n")
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert (source_digest(MODULE, root=project) != before) == (module in REACHED)


def test_comments_docstrings_and_layout_do_not_count(project):
    before = source_digest(MODULE, root=project)
    path = project / "sims/area/paper.py"
    text = SOURCES["sims/area/paper.py"]
    path.write_text(text.replace("Doc.", "Better doc.").replace("# comment", "\n\n    # more"))
    assert source_digest(MODULE, root=project) == before
    path.write_text(text.replace("return late", "return -late"))
    assert source_digest(MODULE, root=project) != before


def test_moving_code_between_modules_counts(project):
    before = source_digest(MODULE, root=project)
    late, data = project / "dynamics/late.py", project / "sims/data.py"
    late.write_text(SOURCES["sims/data.py"])
    data.write_text(SOURCES["dynamics/late.py"])
    assert source_digest(MODULE, root=project) != before


def test_a_users_own_module_counts_with_its_siblings(project, monkeypatch):
    package = project / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("import theory.checks")
    (package / "mine.py").write_text("import mylab.helper")
    importlib.import_module("theory.checks")  # the real one, or the toy would take its place
    monkeypatch.syspath_prepend(str(project))
    importlib.import_module("mylab.mine")
    before = source_digest("mylab.mine", root=project)
    (package / "helper.py").write_text("import theory.checks\nchanged = 1")
    between = source_digest("mylab.mine", root=project)
    (project / "theory/checks.py").write_text("limit = 2")
    assert len({before, between, source_digest("mylab.mine", root=project)}) == 3
    for name in ("mylab", "mylab.helper", "mylab.mine"):
        sys.modules.pop(name, None)


def test_code_without_a_file_is_never_taken_for_known():
    assert source_digest("a_notebook") != source_digest("a_notebook")


def test_a_project_module_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"got 'sims\.nothing'"):
        source_digest("sims.nothing")


def test_the_real_sweep_is_followed_into_dynamics():
    reached = provenance._reached(["sims.sweep"], provenance.ROOT, set())
    assert {"sims.sweep", "sims.checkpoint", "sims.mesh", "dynamics"} <= set(reached)
    assert not any(name.startswith("figures") for name in reached)


def test_commit_and_changes_of_a_checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def state(root):
        return provenance._git.__wrapped__(root)

    assert state(tmp_path) == (None, None)  # not a checkout
    git("init", "-q")
    assert state(tmp_path) == (None, False)  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    assert state(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("2")
    assert state(tmp_path) == (git("rev-parse", "HEAD"), True)
    inside = tmp_path / "site-packages"  # installed inside somebody else's checkout
    inside.mkdir()
    assert state(inside) == (None, None)


def test_a_machine_without_git_or_cpuinfo_still_has_an_environment(monkeypatch):
    def absent(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", absent)
    monkeypatch.setattr(Path, "read_text", absent)
    assert provenance._git.__wrapped__(provenance.ROOT) == (None, None)
    assert provenance._cpu.__wrapped__()


def test_an_absent_package_is_said_to_be_absent():
    assert provenance._version("no-such-package") == "absent"
