"""Every claim of every experiment holds on its quick preset, and fails when theory is corrupted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from figures.catalogue import DRAW
from sims.catalogue import EXPERIMENTS
from sims.experiment import corruptions, judge
from sims.store import Store

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("children") / "experiments.py"


@pytest.fixture(scope="session")
def run():
    """``run(name) -> key`` in the store, from a process with the compiler as users have it.

    Where ``ldyn`` keeps its results, so that what is there already, and still the same, is not
    computed again, neither here nor by ``make figures`` afterwards.
    """
    surroundings = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    surroundings |= {"JAX_NUMPY_RANK_PROMOTION": "raise", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(CHILD), str(ROOT / "out" / "store")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, env=surroundings, **pipes) as child:

        def ask(name: str) -> str:
            print(name, file=child.stdin)
            key = child.stdout.readline().strip()
            assert key, f"{name} failed: its traceback is on stderr"
            return key

        yield ask
        child.stdin.close()


@pytest.fixture(scope="module", params=EXPERIMENTS, ids=lambda experiment: experiment.name)
def outcome(request, run):
    """One experiment with its prediction and its measurement, as NumPy arrays."""
    name = request.param.name
    entry = Store(ROOT / "out" / "store").load(name, run(name))
    assert entry is not None
    halves = {"predicted": {}, "measured": {}}
    for path, array in entry.arrays.items():
        side, _, array_name = path.partition("/")
        halves[side][array_name] = array
    return request.param, *halves.values()


def test_claims_hold_and_their_corruptions_fail(outcome):
    experiment, predicted, measured = outcome
    assert experiment.claims
    for claim in experiment.claims:
        verdict = judge(claim, predicted, measured)
        assert verdict.holds, verdict
        for corrupted in corruptions(claim, predicted):
            assert not judge(corrupted, predicted, measured).holds, corrupted.name


def test_every_experiment_has_a_figure_and_no_figure_is_orphaned():
    assert list(DRAW) == [experiment.name for experiment in EXPERIMENTS]
