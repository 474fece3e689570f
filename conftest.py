"""Test set-up: sound backend, float64, no silent rank promotion, shapes checked at run time."""

import importlib.metadata
import os

from sims import backend

backend.prepare()
# Tests compile much and compute little. Without XLA's new emitters and its optimiser they take half
# the time; ``make figures`` runs every experiment with both. An unknown flag is fatal: hence the
# version, of which the flags are known.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

import jax  # noqa: E402
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
