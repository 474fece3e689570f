"""Every claim of every experiment holds on its quick preset, and fails when theory is corrupted."""

import jax
import numpy as np
import pytest

from figures.catalogue import DRAW
from sims.catalogue import EXPERIMENTS
from sims.experiment import corruptions, judge


@pytest.fixture(scope="module", params=EXPERIMENTS, ids=lambda experiment: experiment.name)
def outcome(request):
    """One experiment with its prediction and its measurement, as NumPy arrays."""
    experiment = request.param
    config = experiment.quick
    predicted = jax.tree.map(np.asarray, dict(experiment.predict(config)))
    measured = jax.tree.map(np.asarray, dict(experiment.simulate(config, jax.random.key(0))))
    return experiment, predicted, measured


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
