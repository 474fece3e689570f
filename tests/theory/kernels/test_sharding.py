"""Kernels of rows that are sharded over devices: the same numbers, and rows stay where they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEVICES = 4
CHILD = """
from sims import backend
backend.prepare()
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from dynamics.layerwise import layerwise_gram
from dynamics.models import mlp
from dynamics.tangent_kernel import empirical_ntk
from theory.kernels.infinite_width import mlp_kernels

x = np.random.default_rng(0).standard_normal((8, 3))
rows = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), PartitionSpec("rows"))
sharded = jax.device_put(jnp.asarray(x), rows)
model = mlp((3, 5, 2), parametrization="ntk")
params = model.init(jax.random.key(0))
found = {}
routes = {
    "infinite_width": lambda x1: mlp_kernels(x1, jnp.asarray(x), activation="relu", depth=3).ntk,
    "empirical_ntk": jax.jit(lambda x1: empirical_ntk(model.apply, params, x1, x, outputs="full")),
    "layerwise": jax.jit(lambda x1: layerwise_gram(params, x1, x, activation="tanh",
                                                   parametrization="ntk", outputs="full")),
}
for name, route in routes.items():
    apart, whole = route(sharded), route(jnp.asarray(x))
    held = sorted({shard.data.shape[0] for shard in apart.addressable_shards})
    found[name] = [held, len(apart.addressable_shards), float(jnp.abs(apart - whole).max())]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    surroundings = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    surroundings["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("route", ["infinite_width", "empirical_ntk", "layerwise"])
def test_each_device_holds_its_rows_and_numbers_are_those_of_one(found, route):
    held, devices, difference = found[route]
    assert devices == DEVICES
    assert held == [8 // DEVICES]
    assert difference < 1e-14 * 100  # kernels are of order ten; sums may be ordered otherwise
