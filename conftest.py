"""Test set-up: sound backend, float64, no silent rank promotion, shapes checked at run time."""

import gc
import importlib.metadata
import os
from pathlib import Path

from sims import backend

backend.prepare()
# Tests compile much and compute little. Without XLA's new emitters and its optimiser they take half
# the time; ``make figures`` runs every experiment with both. An unknown flag is fatal: hence the
# version, of which the flags are known.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook(["theory", "dynamics"], "beartype.beartype")

# Derandomised: a property either holds in CI or it does not; "explore" searches further by hand.
common = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("ci", max_examples=30, derandomize=True, **common)
settings.register_profile("explore", max_examples=1000, **common)
settings.load_profile("ci")


def pytest_collection_modifyitems(items):
    """With two processes, the tests of a file stay in one of them: they share what is compiled.

    Experiments, the parameters of the test of claims, go where there is room.
    """
    for item in items:
        call = getattr(item, "callspec", None)
        own = call.id if call and "outcome" in item.fixturenames else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.nodeid.partition('::')[0]} {own}"))


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs before they are too many.

    Each takes several maps of memory, of which Linux allows a process 65530: the compiler crashes
    where it gets no more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()
