"""The probe finds a real miscompilation, passes a sound backend, and nothing runs unnoticed."""

import json
import os
import subprocess
import sys
from importlib import metadata

import jax
import numpy as np
import pytest

from sims import backend

CHILD = """
import json, sys
from sims import backend
if "prepare" in sys.argv:
    backend.prepare()
else:
    import os
    os.environ["JAX_ENABLE_X64"] = "1"
backend.ROW_LENGTHS, backend.BATCHES = (3,), (16385, 40000)  # enough to tell, and sooner
found = backend.probe()
assert backend.probe() is found
try:
    backend.require_sound()
    message = ""
except backend.UnsoundBackendError as error:
    message = str(error)
allowed = backend.require_sound(allow_unsound=True)
print(json.dumps([found._asdict(), message, allowed.sound]))
"""


def in_a_child(flags, *arguments):
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", CHILD, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_this_process_is_sound():
    found = backend.require_sound()
    assert found.sound
    assert found.failures == ()
    assert found.x64
    assert backend.YNN_FLAG in found.flags
    assert found.versions["jaxlib"] == metadata.version("jaxlib")
    assert len(found.devices) == jax.device_count()


def test_an_entry_point_is_sound_and_keeps_the_users_other_flags():
    found, message, _ = in_a_child("--xla_force_host_platform_device_count=2", "prepare")
    assert found["sound"], found["failures"]
    assert message == ""
    assert len(found["devices"]) == 2
    assert found["flags"] == f"--xla_force_host_platform_device_count=2 {backend.YNN_FLAG}="


@pytest.mark.skipif(
    metadata.version("jaxlib") not in ("0.9.2", "0.10.0", "0.10.1", "0.10.2"),
    reason="only these versions of jaxlib are known to miscompile",
)
def test_a_flag_that_keeps_the_fault_is_left_alone_and_found_unsound():
    flag = f"{backend.YNN_FLAG}=dot"
    found, message, allowed_is_sound = in_a_child(flag, "prepare")
    assert not found["sound"]
    assert not allowed_is_sound
    assert found["flags"] == flag
    assert any("float32, row length 3, batch 40000, sum" in each for each in found["failures"])
    for part in (metadata.version("jaxlib"), flag, f"{backend.YNN_FLAG}=", "allow_unsound"):
        assert part in message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fault", [1e-4, np.nan, np.inf])
def test_one_wrong_row_of_any_reduction_is_found(monkeypatch, dtype, fault):
    sound = backend._compiled

    def faulty(reduction):
        def compute(matrix, rows):
            right = np.array(sound(reduction)(matrix, rows))
            right[7] += fault
            return right

        return compute

    monkeypatch.setattr(backend, "ROW_LENGTHS", (3,))
    monkeypatch.setattr(backend, "BATCHES", (20,))
    assert list(backend._failures((dtype,))) == []
    monkeypatch.setattr(backend, "_compiled", faulty)
    assert list(backend._failures((dtype,))) == [
        f"{dtype}, row length 3, batch 20, {reduction}: 1 of 20 rows wrong"
        for reduction in ("sum", "max", "norm")
    ]


@pytest.fixture
def environment(monkeypatch):
    """Variables as a fresh shell has them; what ``prepare`` sets is undone, float64 included."""
    for name in ("XLA_FLAGS", "OPENBLAS_NUM_THREADS", "JAX_ENABLE_X64"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield monkeypatch
    jax.config.update("jax_enable_x64", True)


def test_prepare_sets_what_is_missing(environment):
    backend.prepare()
    assert os.environ["XLA_FLAGS"] == f"{backend.YNN_FLAG}="
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert os.environ["JAX_ENABLE_X64"] == "1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("--xla_a=1 --xla_b=2", f"--xla_a=1 --xla_b=2 {backend.YNN_FLAG}="),
        (f"{backend.YNN_FLAG}=dot --xla_a=1", f"{backend.YNN_FLAG}=dot --xla_a=1"),
        (f"{backend.YNN_FLAG}=", f"{backend.YNN_FLAG}="),
        ("/a/file/of/flags", "/a/file/of/flags"),
    ],
)
def test_prepare_keeps_what_the_user_set(environment, before, after):
    environment.setenv("XLA_FLAGS", before)
    environment.setenv("OPENBLAS_NUM_THREADS", "4")
    environment.setenv("JAX_ENABLE_X64", "False")
    backend.prepare()
    assert os.environ["XLA_FLAGS"] == after
    assert os.environ["OPENBLAS_NUM_THREADS"] == "4"
    assert not jax.config.jax_enable_x64
    backend.prepare()
    assert os.environ["XLA_FLAGS"] == after


def test_prepare_spares_a_jaxlib_that_does_not_know_the_flag(environment):
    environment.setattr(backend, "_version", lambda package: (0, 8, 1))
    backend.prepare()
    assert "XLA_FLAGS" not in os.environ
