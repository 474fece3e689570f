"""Claims must be able to fail: NaN, nothing measured, a factor of two, one bad element."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sims.experiment import (
    Claim,
    Experiment,
    Source,
    accepts_sweep,
    corruptions,
    is_name,
    judge,
    judge_all,
)


def claim(tolerance=0.1, error="relative", name="x"):
    return Claim(name, lambda p: p["x"], lambda m: m["x"], tolerance, "because", error)


def verdict(predicted, measured, tolerance=0.1, error="relative"):
    return judge(claim(tolerance, error), {"x": predicted}, {"x": measured})


sizes = st.floats(1e-6, 1e6).flatmap(lambda x: st.sampled_from([x, -x]))
arrays = hnp.arrays(float, st.integers(1, 6), elements=sizes)


@given(arrays, st.floats(0, 0.49))
def test_a_prediction_that_is_met_holds(predicted, tolerance):
    assert verdict(predicted, predicted, tolerance).holds


@given(arrays, st.floats(0, 0.49), st.sampled_from([2.0, 0.5, -1.0, 0.0]))
def test_a_factor_of_two_a_sign_and_zero_fail_every_relative_claim(predicted, tolerance, factor):
    assert not verdict(predicted, factor * predicted, tolerance).holds


@given(arrays, st.data())
def test_the_worst_element_is_reported(predicted, data):
    bad = data.draw(st.integers(0, len(predicted) - 1))
    measured = predicted * 1.01
    measured[bad] = predicted[bad] * 1.3
    found = verdict(predicted, measured, 0.1)
    assert not found.holds
    assert (found.predicted, found.measured) == (predicted[bad], measured[bad])
    assert found.error == pytest.approx(0.3)
    assert found.tolerance == 0.1


def test_the_worst_element_is_worst_in_units_of_its_own_tolerance():
    tolerance = lambda p, m: np.array([0.4, 0.1, 0.05, 0.0])  # noqa: E731
    found = verdict(np.ones(4), np.array([1.3, 1.15, 1.1, 1.0]), tolerance)
    assert not found.holds
    assert (found.measured, found.tolerance) == (1.1, 0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("error", ["relative", "absolute"])
def test_nan_and_infinity_fail_wherever_they_stand(bad, error):
    good, spoilt = np.ones(3), np.array([1.0, bad, 1.0])
    for predicted, measured in [(spoilt, good), (good, spoilt), (spoilt, spoilt)]:
        found = verdict(predicted, measured, 0.1, error)
        assert not found.holds
        worst = {str(found.predicted), str(found.measured)}
        assert str(float(bad)) in worst
    tolerance = lambda p, m: np.array([0.1, bad, 0.1])  # noqa: E731
    assert not verdict(good, good, tolerance, error).holds


def test_an_unbounded_tolerance_is_reported_as_the_failing_element():
    found = verdict(np.ones(2), np.array([1.05, 1.0]), lambda p, m: np.array([0.1, np.inf]))
    assert not found.holds
    assert found.tolerance == np.inf


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_measured_fails(shape):
    assert not verdict(np.ones(shape), np.ones(shape)).holds
    assert not verdict(1.0, np.ones(shape)).holds


def test_a_relative_error_of_a_predicted_zero_fails_even_if_met():
    assert not verdict(0.0, 0.0).holds
    assert verdict(0.0, 0.0, 0.0, "absolute").holds


def test_an_exact_claim_holds_only_exactly():
    assert verdict(np.arange(1.0, 4.0), np.arange(1.0, 4.0), 0.0).holds
    assert not verdict(1.0, np.nextafter(1.0, 2.0), 0.0).holds


def test_absolute_errors_are_not_scaled():
    assert verdict(-2.0, -2.09, 0.1, "absolute").holds
    assert not verdict(-2.0, -2.11, 0.1, "absolute").holds
    assert not verdict(1000.0, 1000.2, 0.1, "absolute").holds


def test_a_tolerance_may_follow_from_both_dicts():
    four_errors = claim(lambda p, m: 4 * m["error"] / p["x"])
    measured = {"x": np.array([1.0, 2.3]), "error": np.array([0.1, 0.1])}
    assert judge(four_errors, {"x": np.array([1.0, 2.0])}, measured).holds
    measured["error"] = np.array([0.1, 0.05])
    found = judge(four_errors, {"x": np.array([1.0, 2.0])}, measured)
    assert not found.holds
    assert found.tolerance == pytest.approx(0.1)


def test_one_prediction_may_stand_for_many_measurements():
    assert verdict(1.0, np.array([[0.95, 1.05]])).holds
    assert verdict(np.array([1, 2]), np.array([[1, 2], [1, 3]])).measured == 3


@pytest.mark.parametrize("measured", [np.ones(3), np.ones((2, 2, 2)) * 1j])
def test_values_that_cannot_be_compared_name_the_claim(measured):
    with pytest.raises(ValueError, match=r"claim 'x' .*\(2,\)"):
        verdict(np.ones(2), measured)


@pytest.mark.parametrize("tolerance", [0.5, 2.0, -0.1, np.nan, np.inf])
def test_a_tolerance_under_which_nothing_can_fail_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance of claim 'x' must be at least 0"):
        claim(tolerance)


@given(arrays, st.floats(0, 0.3))
def test_every_corruption_of_a_sharp_relative_claim_fails(predicted, tolerance):
    run = {"x": predicted}
    spoilt = list(corruptions(claim(tolerance), run))
    assert len(spoilt) == 2 + (np.ptp(np.log(np.abs(predicted))) >= np.log(4))
    assert judge(claim(tolerance), run, run).holds
    assert not any(judge(each, run, run).holds for each in spoilt)


@given(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 1.0]))
def test_every_corruption_of_a_sharp_exponent_fails(exponent):
    run = {"x": np.array(exponent)}
    spoilt = list(corruptions(claim(0.2, "absolute"), run))
    assert len(spoilt) == (3 if exponent else 1)
    assert not any(judge(each, run, run).holds for each in spoilt)


def test_corruptions_expose_a_claim_that_is_too_loose():
    run = {"x": np.array([1.0, 16.0])}
    loose = claim(lambda p, m: 5.0)
    assert all(judge(each, run, run).holds for each in corruptions(loose, run))


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 1


@dataclasses.dataclass
class Thawed:
    steps: int = 1


def experiment(**changes):
    settings = {
        "name": "toy",
        "source": Source("Anybody", 2014, "Title", "1312.6120", "Fig. 1"),
        "statement": "x is x",
        "equations": ("x = x",),
        "quick": Config(1),
        "full": Config(2),
        "cost": (1.0, 2.0),
        "predict": lambda config: {"x": np.ones(2)},
        "simulate": lambda config, key: {"x": np.ones(2)},
        "claims": (claim(name="first"), claim(name="second")),
    }
    return Experiment(**{**settings, **changes})


def test_all_claims_are_judged_in_order():
    toy = experiment()
    verdicts = judge_all(toy, {"x": np.ones(2)}, {"x": np.ones(2)})
    assert [each.claim for each in verdicts] == ["first", "second"]
    assert all(each.holds for each in verdicts)
    assert str(toy.source) == "Anybody (2014), arXiv:1312.6120, Fig. 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../elsewhere"}, "plain word"),
        ({"name": "all"}, "plain word"),
        ({"name": "quarantine"}, "plain word"),
        ({"full": Thawed()}, "one frozen dataclass"),
        ({"quick": Thawed(), "full": Thawed()}, "one frozen dataclass"),
        ({"claims": ()}, "must be present"),
        ({"claims": (claim(), claim())}, "distinct names"),
    ],
)
def test_an_experiment_that_cannot_be_filed_or_judged_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment(**changes)


def test_names_and_signatures():
    assert is_name("saxe2014_modes")
    assert not is_name("")
    assert not is_name("Modes/")
    assert accepts_sweep(lambda config, key, sweep=None: {})
    assert not accepts_sweep(lambda config, key: {})
