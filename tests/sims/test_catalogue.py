"""Names lead to experiments, or to the nearest name."""

import dataclasses

import numpy as np
import pytest

from sims import catalogue
from sims.experiment import Claim, Experiment, Source


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 1


def toy(name):
    return Experiment(
        name=name,
        source=Source("Anybody", 2014, "Title", "1312.6120", "Fig. 1"),
        statement="x is x",
        equations=("x = x",),
        quick=Config(),
        full=Config(),
        cost=(1.0, 1.0),
        predict=lambda config: {"x": np.ones(1)},
        simulate=lambda config, key: {"x": np.ones(1)},
        claims=(Claim("x", lambda p: p["x"], lambda m: m["x"], 0.0, "exact"),),
    )


@pytest.fixture
def experiments(monkeypatch):
    both = (toy("saxe2014_modes"), toy("saxe2014_depth"))
    monkeypatch.setattr(catalogue, "EXPERIMENTS", both)
    return both


@pytest.mark.parametrize("experiment", catalogue.EXPERIMENTS, ids=lambda e: e.name)
def test_texts_are_printable(experiment):
    r"""A "\to" or "\frac" that lost its backslash is a tab or a form feed: seen by nobody."""
    claims = [text for claim in experiment.claims for text in (claim.name, claim.because)]
    for text in (experiment.statement, *experiment.equations, *claims):
        assert text.isprintable(), repr(text)


def test_find_and_select(experiments):
    assert catalogue.find("saxe2014_depth") is experiments[1]
    assert catalogue.select("saxe2014_modes") == (experiments[0],)
    assert catalogue.select("all") == experiments


def test_an_unknown_name_suggests_the_nearest_and_lists_all(experiments):
    with pytest.raises(catalogue.UnknownExperiment) as caught:
        catalogue.select("saxe2014_mode")
    assert str(caught.value) == (
        "there is no experiment 'saxe2014_mode'; did you mean 'saxe2014_modes'? "
        "Known: saxe2014_modes, saxe2014_depth"
    )
    with pytest.raises(LookupError, match=r"no experiment 'zzz'\. Known"):
        catalogue.find("zzz")


def test_an_empty_catalogue_still_answers(monkeypatch):
    monkeypatch.setattr(catalogue, "EXPERIMENTS", ())
    assert catalogue.select("all") == ()
    with pytest.raises(catalogue.UnknownExperiment, match="Known: none"):
        catalogue.find("saxe2014_modes")


def test_names_in_the_catalogue_are_distinct():
    names = [experiment.name for experiment in catalogue.EXPERIMENTS]
    assert len(set(names)) == len(names)
