"""Plateau and noise floor against the full equations: at rest, perturbed, and run for long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.mean_field.online import drift, integrate
from theory.mean_field.online_fixed_points import (
    committee_noise_floor,
    noise_floor,
    slow_plateau,
    symmetric_plateau,
)
from theory.mean_field.overlaps import OrderParameters, Teacher, generalisation_error


def committee(units):
    return Teacher(np.eye(units), np.ones(units))


def largest(change):
    return max(float(np.abs(part).max()) for part in change)


def jacobian(student, teacher, **rates):
    """Of the drift in Q (its upper triangle moved with the lower) and R, flattened."""
    k, m = student.R.shape
    upper, plain = np.triu_indices(k), np.indices((k, m)).reshape(2, -1)
    count = len(upper[0]) + k * m
    Q, R = np.zeros((count, k, k)), np.zeros((count, k, m))
    Q[(np.arange(len(upper[0])), *upper)] = Q[(np.arange(len(upper[0])), *upper[::-1])] = 1
    R[(np.arange(len(upper[0]), count), *plain)] = 1
    directions = OrderParameters(jnp.asarray(Q), jnp.asarray(R), jnp.zeros((count, k)))

    @jax.jit
    def columns(student):
        def column(direction):
            change = jax.jvp(lambda s: drift(s, teacher, **rates), (student,), (direction,))[1]
            return jnp.concatenate([change.Q[upper], change.R.ravel()])

        return jax.vmap(column)(directions)

    return np.asarray(columns(student)).T


@pytest.mark.parametrize("units", [4])
def test_slow_plateau_rests_in_gradient_flow(units):
    """Without the terms in eta^2: drift = -eta a + eta^2 b at two eta gives a. Rounding only."""
    plateau, teacher = slow_plateau(1e-3, units=units), committee(units)
    student = plateau.order_parameters
    once, twice = (drift(student, teacher, learning_rate=eta) for eta in (1.0, 2.0))
    flow = jax.tree.map(lambda a, b: 2 * a - b / 2, once, twice)
    assert largest(flow) < 1e-14
    assert float(plateau.error) == pytest.approx(
        float(generalisation_error(student, teacher)), rel=1e-12
    )
    # and there is no slope upwards but that of specialisation
    slope = 2 * jacobian(student, teacher, learning_rate=1.0)
    slope -= jacobian(student, teacher, learning_rate=2.0) / 2
    top = np.linalg.eigvals(slope).real.max()
    assert float(plateau.escape_rate) / 1e-3 == pytest.approx(top, rel=1e-9)


@pytest.mark.parametrize("units", [2])
def test_plateau_approaches_that_of_small_rates(units):
    """Linearly in eta: halving eta halves what is missing, up to relative eta K^2."""
    missing = []
    for eta in (2e-4, 1e-4):
        found, slow = symmetric_plateau(eta, units=units), slow_plateau(eta, units=units)
        assert found.converged
        both = zip(found.order_parameters, slow.order_parameters, strict=True)
        Q, R, _ = (float(jnp.abs(a - b).max()) for a, b in both)
        slower = 1 - float(found.escape_rate / slow.escape_rate)
        missing.append([Q, R, float(found.error - slow.error), slower])
    ratio = np.array(missing[0]) / np.array(missing[1])
    np.testing.assert_allclose(ratio, 2, rtol=1e-2)


@given(
    units=st.sampled_from([2, 4]),
    eta=st.floats(0.01, 1.2),
    noise=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_plateau_is_a_fixed_point_of_the_full_equations(units, eta, noise):
    plateau, teacher = symmetric_plateau(eta, noise, units=units), committee(units)
    student = plateau.order_parameters
    if not plateau.converged:  # noise adds to what large rates do
        assert eta * (1 + noise) > 0.5
        return
    change = drift(student, teacher, learning_rate=eta, noise=noise)
    assert largest(change) < 1e-12
    assert float(plateau.error) >= float(slow_plateau(eta, units=units).error)
    assert float(student.Q[0, 0]) > float(student.Q[0, 1])


@pytest.mark.parametrize(("units", "eta", "noise"), [(3, 0.8, 0.1)])
def test_specialisation_is_the_only_way_out(units, eta, noise):
    """Whatever else is perturbed comes back, unlike identical units at finite eta."""
    plateau, teacher = symmetric_plateau(eta, noise, units=units), committee(units)
    rates = {"learning_rate": eta, "noise": noise}
    slope = jacobian(plateau.order_parameters, teacher, **rates)
    found = np.sort(np.linalg.eigvals(slope).real)[::-1]
    ways = (units - 1) ** 2  # deviations whose sums over students and over teachers vanish
    rate = float(plateau.escape_rate)
    assert rate > 0
    np.testing.assert_allclose(found[:ways], rate, rtol=1e-6)
    assert np.all(found[ways:] < 0)


def test_a_run_waits_on_the_plateau():
    """From small weights of unequal length: it comes within 1e-5 of the error, then leaves."""
    plateau = symmetric_plateau(0.5, units=2)
    start = OrderParameters(np.diag([0.2, 0.3]), 1e-9 * np.eye(2), np.ones(2))
    run = integrate(start, committee(2), learning_rate=0.5, times=np.arange(0.0, 900.0, 3.0))
    assert run.converged
    assert np.abs(run.error - plateau.error).min() < 1e-5
    assert float(run.error[-1]) < 1e-6


def test_a_run_leaves_the_plateau_at_its_rate():
    """While deviations are below 1e-4, and the next order with them."""
    plateau = symmetric_plateau(0.5, units=2)
    pair = np.array([[1.0, -1.0], [-1.0, 1.0]])
    Q, R, v = plateau.order_parameters
    start, times = OrderParameters(Q, R + 1e-7 * pair, v), np.arange(0.0, 180.0, 0.6)
    run = integrate(start, committee(2), learning_rate=0.5, times=times)
    grown = np.sum(pair * np.asarray(run.order_parameters.R), axis=(1, 2)) / 4e-7
    assert grown[-1] < 1e3
    np.testing.assert_allclose(np.log(grown), times * float(plateau.escape_rate), atol=1e-4)


TEACHER = Teacher(np.array([[1.0, 0.3], [0.3, 0.7]]), np.array([1.0, -0.8]))


@pytest.mark.parametrize(
    ("teacher", "eta", "readout_rate"), [(committee(2), 0.3, None), (TEACHER, 0.8, 0.4)]
)
def test_floor_is_where_long_runs_end(teacher, eta, readout_rate):
    """To the solver's tolerance, 1e-12 of overlaps, and 1e-7 of the error of 1e-4."""
    noise = 0.1
    floor = noise_floor(teacher, learning_rate=eta, noise=noise, readout_rate=readout_rate)
    assert floor.stable
    perfect = OrderParameters(teacher.T, teacher.T, teacher.readout)
    rates = {"learning_rate": eta, "readout_rate": readout_rate or 0.0, "noise": noise}
    run = integrate(perfect, teacher, times=[0.0, 1e4], **rates)
    assert run.converged
    assert float(run.error[1]) == pytest.approx(float(floor.error), rel=1e-6)
    for end, found in zip(run.order_parameters, floor.order_parameters, strict=True):
        np.testing.assert_allclose(end[1], found, rtol=1e-7, atol=1e-8)


def test_floor_is_linear_response_to_weak_noise_and_blind_to_the_readout_rate():
    """Quadratic in sigma, with relative corrections of sigma^2: a ratio of 4 within 1e-3."""
    floors = [
        float(noise_floor(TEACHER, learning_rate=0.3, noise=noise, readout_rate=rate).error)
        for noise, rate in ((0.002, 0.3), (0.001, 0.3), (0.001, 2.0))
    ]
    assert floors[0] / floors[1] == pytest.approx(4, rel=1e-3)
    assert floors[1] == pytest.approx(floors[2], rel=1e-6)
    fixed = float(noise_floor(TEACHER, learning_rate=0.3, noise=0.001).error)
    assert fixed > 0


@pytest.mark.parametrize("units", [2])
def test_floor_of_committees_at_small_rates(units):
    """The closed form is the limit eta -> 0, approached linearly: what is missing halves."""
    missing = []
    for eta in (2e-3, 1e-3):
        floor = noise_floor(committee(units), learning_rate=eta, noise=0.01)
        closed = committee_noise_floor(eta, 0.01, student_units=units, teacher_units=units)
        missing.append(float(floor.error / closed) - 1)
    assert missing[0] / missing[1] == pytest.approx(2, rel=1e-2)
    assert 0 < missing[1] < 1e-3 * units


@pytest.mark.parametrize(("student_units", "teacher_units"), [(4, 2)])
def test_floor_of_larger_committees(student_units, teacher_units):
    """Extrapolated linearly to eta -> 0; what remains is eta^2 K^2 and sigma^2, below 1e-3.

    Differences between units near zero decay slower than exponentially: they start small.
    """
    noise, spare = 0.05, student_units - teacher_units
    Q = np.diag([1.0] * teacher_units + [1e-5] * spare)
    R = np.eye(student_units, teacher_units)
    start = OrderParameters(Q, R, np.ones(student_units))
    found = []
    for eta in (0.04, 0.02):
        rates = {"learning_rate": eta, "noise": noise}
        run = integrate(start, committee(teacher_units), times=[150 / eta], **rates)
        assert run.converged
        units = {"student_units": student_units, "teacher_units": teacher_units}
        found.append(float(run.error[0] / committee_noise_floor(eta, noise, **units)))
    assert 2 * found[1] - found[0] == pytest.approx(1, abs=1e-3)


def test_floors_that_do_not_exist_are_reported():
    assert not noise_floor(committee(2), learning_rate=8.0, noise=0.1).stable
    twins = Teacher(np.ones((2, 2)), np.ones(2))
    assert not noise_floor(twins, learning_rate=0.1, noise=0.1).stable
    silent = Teacher(np.eye(2), np.array([1.0, 0.0]))
    assert not noise_floor(silent, learning_rate=0.1, noise=0.1).stable
    assert not symmetric_plateau(50.0, units=3).converged


def test_bad_input_is_named():
    for plateau in (slow_plateau, symmetric_plateau):
        for eta in (0.0, -1.0, np.nan):
            with pytest.raises(ValueError, match="learning_rate"):
                plateau(eta, units=2)
        for units in (1, 2.5):
            with pytest.raises(ValueError, match="units"):
                plateau(0.1, units=units)
    with pytest.raises(ValueError, match="noise"):
        symmetric_plateau(0.1, -0.1, units=2)
    for name in ("learning_rate", "noise", "readout_rate"):
        rates = {"learning_rate": 0.1, "noise": 0.1, "readout_rate": 0.1}
        with pytest.raises(ValueError, match=name):
            noise_floor(TEACHER, **(rates | {name: -0.1}))
    with pytest.raises(ValueError, match="joint overlaps"):
        noise_floor(Teacher(-np.eye(2), np.ones(2)), learning_rate=0.1, noise=0.1)
    with pytest.raises(ValueError, match="student_units - teacher_units"):
        committee_noise_floor(0.1, 0.1, student_units=1, teacher_units=2)
