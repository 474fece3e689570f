"""Online learning against one step and many steps of real networks, and its invariants."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.models import Committee, committee
from theory.mean_field.online import drift, integrate
from theory.mean_field.overlaps import (
    OrderParameters,
    Teacher,
    generalisation_error,
    joint_covariance,
    order_parameters,
)

K, M = 3, 2  # of every property below: everything is compiled once
RATES = {"learning_rate": 0.6, "readout_rate": 0.3, "noise": 0.2}
TEACHER = Teacher(np.array([[1.0, 0.2], [0.2, 0.8]]), np.array([1.0, -0.6]))


@st.composite
def problems(draw):
    """Student and teacher: generic, of alike, opposite or silent units, or with none in common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w, target = rng.standard_normal((K, 7)), rng.standard_normal((M, 7))
    kind = draw(st.sampled_from(["generic", "alike", "opposite", "silent", "apart", "large"]))
    if kind == "alike":
        w[1] = w[0]
    elif kind == "opposite":
        target[1] = -target[0]
    elif kind == "silent":
        w[0] = 0
    elif kind == "apart":
        w[:, :4], target[:, 4:] = 0, 0
    elif kind == "large":
        w, target = 5 * w, 5 * target
    return order_parameters(w, rng.standard_normal(K), target, rng.standard_normal(M))


def weights_with(student, teacher, n_in):
    """Weights (K, N), (M, N) of exactly these overlaps; inputs being isotropic, any will do."""
    values, vectors = np.linalg.eigh(joint_covariance(student, teacher))
    root = vectors * np.sqrt(np.maximum(values, 0))
    padding = np.zeros((len(root), n_in - len(root)))
    return np.split(np.sqrt(n_in) * np.concatenate([root, padding], axis=1), [len(student.Q)])


def sgd_step(params, key, target, model, learning_rate, readout_rate, noise):
    """One step on a new example, by automatic differentiation of the committee's own output."""
    n_in = params.first.shape[1]
    input_key, label_key = jax.random.split(key)
    x = jax.random.normal(input_key, (n_in,))
    label = model.apply(target, x) + noise * jax.random.normal(label_key)
    gradient = jax.grad(lambda p: (model.apply(p, x) - label) ** 2 / 2)(params)
    return Committee(
        params.first - learning_rate * gradient.first,
        params.second - readout_rate / n_in * gradient.second,
    )


def networks(student, teacher, n_in):
    w, target = map(jnp.asarray, weights_with(student, teacher, n_in))
    readouts = jnp.asarray(student.readout), jnp.asarray(teacher.readout)
    return Committee(w, readouts[0]), Committee(target, readouts[1])


def measured(params, target):
    n_in = target.first.shape[1]
    w, v = params
    return OrderParameters(w @ w.T / n_in, w @ target.first.T / n_in, v)


START = OrderParameters(
    np.array([[0.5, 0.1, 0.0], [0.1, 0.4, 0.05], [0.0, 0.05, 0.3]]),
    np.array([[0.2, 0.0], [0.0, 0.1], [0.05, -0.15]]),
    np.array([0.9, -0.4, 0.2]),
)


def finite_size_drift(student, teacher, n_in, **rates):
    """Exact mean of N times one step's change of Q.

    Only the part in eta^2 knows of N: it is <F(fields) |x|^2/N>, which by scaling x is
    ``(1 + (2/N) d/ds) <F>`` at fields of covariance s C, s = 1.
    """
    eta = rates.pop("learning_rate")

    def spread(s):
        scaled = (
            student._replace(Q=s * student.Q, R=s * student.R),
            teacher._replace(T=s * teacher.T),
        )
        once, twice = (drift(*scaled, learning_rate=f * eta, **rates).Q for f in (1.0, 2.0))
        return twice / 2 - once

    change = drift(student, teacher, learning_rate=eta, **rates)
    correction = jax.jvp(spread, (jnp.ones(()),), (jnp.ones(()),))[1]
    return change._replace(Q=change.Q + 2 / n_in * correction)


def flat(order):
    return jnp.concatenate([jnp.ravel(part) for part in order])


@pytest.mark.parametrize(("n_in", "rates"), [(6, RATES), (20, RATES | {"noise": 0.0})])
def test_drift_is_the_mean_step_of_a_network_of_any_size(n_in, rates):
    """4 standard errors of 150 000 steps from the same weights."""
    model = committee(n_in, K, second_layer="trained")
    student, target = networks(START, TEACHER, n_in)
    before = flat(measured(student, target))
    np.testing.assert_allclose(before, flat(START), atol=1e-13)

    @jax.jit
    def moments(key):
        stepped = jax.vmap(lambda k: sgd_step(student, k, target, model, **rates))
        found = stepped(jax.random.split(key, 10_000))
        change = n_in * (jax.vmap(lambda w: flat(measured(w, target)))(found) - before[None])
        return change.mean(0), (change**2).mean(0)

    moments_of = [moments(key) for key in jax.random.split(jax.random.key(1), 15)]
    mean, square = (np.mean(part, axis=0) for part in zip(*moments_of, strict=True))
    error = np.sqrt((square - mean**2) / 150_000)
    exact = flat(finite_size_drift(START, TEACHER, n_in, **rates))
    assert np.all(np.abs(mean - exact) <= 4 * error)
    if n_in == 6:  # the same criterion refuses the limit: six is not infinity
        limit = flat(drift(START, TEACHER, **rates))
        assert np.any(np.abs(mean - limit) > 4 * error)


def simulated(n_in, runs, time):
    """Order parameters of networks that all start at START, after ``time`` N steps; (runs, ...)."""
    model = committee(n_in, K, second_layer="trained")
    student, target = networks(START, TEACHER, n_in)

    def run(key):
        keys = jax.random.split(key, round(time * n_in))
        step = partial(sgd_step, target=target, model=model, **RATES)
        end, _ = jax.lax.scan(lambda w, k: (step(w, k), None), student, keys)
        return flat(measured(end, target))

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), runs))


def test_runs_deviate_by_one_over_root_n():
    """Their mean, to 4 standard errors and a bias of O(1/N), does not.

    The ratio of deviations, 2, is known to 1/sqrt(runs) = 18% if all overlaps fluctuate together.
    """
    runs, time = 32, 1.0
    end = integrate(START, TEACHER, times=[time], **RATES).order_parameters
    spreads = []
    for n_in in (125, 500):
        found = simulated(n_in, runs, time)
        assert np.abs(flat(end) - flat(START)).max() > 0.1  # something was learnt
        deviation = found - flat(end)[None]
        error = deviation.std(0) / np.sqrt(runs)
        assert np.all(np.abs(deviation.mean(0)) <= 4 * error + 1 / n_in)
        spreads.append(float(np.sqrt((deviation**2).mean())))
    assert 2 / 1.4 < spreads[0] / spreads[1] < 2 * 1.4


@jax.jit
def seen(student, teacher):
    """Drift, error, and the rate at which gradient flow (no terms in eta^2) changes the error."""
    change = drift(student, teacher, **RATES)
    rates = {"readout_rate": 0.3, "noise": 0.0}
    once, twice = (drift(student, teacher, learning_rate=eta, **rates) for eta in (0.6, 1.2))
    flow = twice._replace(Q=2 * once.Q - twice.Q / 2, R=once.R, readout=once.readout)
    error, fall = jax.jvp(lambda s: generalisation_error(s, teacher), (student,), (flow,))
    return change, error, fall


def permuted(student, teacher, units, fields):
    """Units and teacher's units in another order."""
    Q, R, v = student
    student = OrderParameters(Q[units][:, units], R[units][:, fields], v[units])
    return student, Teacher(teacher.T[fields][:, fields], teacher.readout[fields])


def assert_same(found, expected, **close):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **close)


@given(problem=problems(), units=st.permutations(range(K)), fields=st.permutations(range(M)))
def test_units_have_no_order_and_no_sign(problem, units, fields):
    units, fields, (student, teacher) = np.array(units), np.array(fields), problem
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
    change, error, _ = seen(*problem)
    other, other_error, _ = seen(*permuted(student, teacher, units, fields))
    close(flat(other), flat(permuted(change, teacher, units, fields)[0]))
    close(other_error, error)

    s, t = np.array([-1.0, 1.0, 1.0]), np.array([1.0, -1.0])
    T, A = teacher

    def flipped(Q, R, v):
        return OrderParameters(Q * np.outer(s, s), R * np.outer(s, t), v * s)

    mirror = Teacher(T * np.outer(t, t), A * t)
    other, other_error, _ = seen(flipped(*student), mirror)
    close(flat(other), flat(flipped(*change)))
    close(other_error, error)


@given(problem=problems())
def test_without_fluctuations_the_error_never_grows(problem):
    """Gradient flow, noise or not; and the error is a mean square."""
    _, error, fall = seen(*problem)
    scale = 1 + float(np.sum(np.square(problem[0].readout)))
    assert float(error) >= -1e-14 * scale
    assert float(fall) <= 1e-12 * scale**2


@given(problem=problems())
def test_the_error_is_that_of_a_network(problem):
    """A network of these overlaps on Gaussian inputs: 4 standard errors of 40 000."""
    student, target = networks(*problem, n_in=8)
    losses = network_losses(student, target)
    spread = 4 * losses.std() / np.sqrt(len(losses))
    assert abs(float(seen(*problem)[1]) - losses.mean()) <= spread + 1e-12


@jax.jit
def network_losses(student, target):
    x = jax.random.normal(jax.random.key(0), (40_000, 8))
    model = committee(8, K, second_layer="trained")
    return (model.apply(student, x) - model.apply(target, x)) ** 2 / 2


def test_overlaps_survive_the_trip_through_weights():
    w, target = weights_with(START, TEACHER, 9)
    student, teacher = order_parameters(w, START.readout, target, TEACHER.readout)
    assert_same((*student, *teacher), (*START, *TEACHER), rtol=1e-12, atol=1e-13)


def test_perfect_students_stay():
    """In any order and with any signs; a wrong readout is enough to move them."""
    T, A = TEACHER
    sign, order = np.array([1.0, -1.0]), np.array([1, 0])
    perfect = OrderParameters(T * np.outer(sign, sign), sign[:, None] * T, sign * A)
    perfect, _ = permuted(perfect, TEACHER, order, np.arange(M))
    rates = {"learning_rate": 0.7, "readout_rate": 0.4}
    assert np.abs(flat(drift(perfect, TEACHER, **rates))).max() < 1e-15
    assert abs(float(generalisation_error(perfect, TEACHER))) < 1e-15
    wrong = perfect._replace(readout=2 * perfect.readout)
    assert np.abs(flat(drift(wrong, TEACHER, **rates))).max() > 1e-2


def runge_kutta(student, teacher, time, steps):
    """The classical method at fixed steps: nothing in common with the solver but the drift."""

    def step(now, _):
        def at(change, h):
            return jax.tree.map(lambda x, dx: x + h * dx, now, change)

        move, h = (lambda s: drift(s, teacher, **RATES)), time / steps
        k1 = move(now)
        k2 = move(at(k1, h / 2))
        k3 = move(at(k2, h / 2))
        k4 = move(at(k3, h))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        return at(mean, h), None

    return jax.jit(lambda s: jax.lax.scan(step, s, None, length=steps)[0])(student)


def test_trajectories_of_another_integrator_stay_possible_and_can_be_cut():
    times = np.array([0.0, 0.5, 3.0, 20.0, 150.0])
    start = jax.tree.map(jnp.asarray, START)
    run = integrate(start, TEACHER, times=times, **RATES)
    assert run.converged
    assert run.reached.all()
    path = run.order_parameters
    assert_same([part[0] for part in path], START, atol=0)
    other = runge_kutta(start, TEACHER, 20.0, 4000)  # error h^4 ~ 1e-9
    assert_same([part[3] for part in path], other, rtol=1e-7, atol=1e-8)
    each = [OrderParameters(*(part[k] for part in path)) for k in range(len(times))]
    for k, now in enumerate(each):
        joint = joint_covariance(now, TEACHER)  # refuses what is not a covariance
        assert np.linalg.eigvalsh(joint)[0] >= -1e-9
        error = float(generalisation_error(now, TEACHER))
        assert float(run.error[k]) == pytest.approx(error, rel=1e-10)
    rest = integrate(each[2], TEACHER, times=times[3:4] - times[2], **RATES)
    assert_same([part[0] for part in rest.order_parameters], each[3], rtol=1e-7, atol=1e-8)


def test_small_rates_give_gradient_flow_with_falling_error():
    """Without label noise; a fluctuation grows with eta times the error, far less than it falls."""
    times = 1e4 * np.arange(5)
    run = integrate(START, TEACHER, learning_rate=1e-3, readout_rate=1e-3, times=times)
    assert run.converged
    assert np.all(np.diff(run.error) < 0)


def test_runs_map_over_rates():
    """As one by one, up to the tolerance: steps are chosen for each."""
    run = partial(integrate, START, TEACHER, times=[4.0])
    runs = jax.jit(jax.vmap(lambda rate: run(learning_rate=rate)))(jnp.array([0.2, 0.6]))
    assert runs.converged.all()
    alone = run(learning_rate=0.6)
    assert float(runs.error[1, 0]) == pytest.approx(float(alone.error[0]), rel=1e-7)
    assert float(runs.error[0, 0]) > float(runs.error[1, 0])


@pytest.mark.slow
def test_runs_differentiate():
    """Reverse mode through the solver against central differences, whose error is h^2."""
    teacher = Teacher(np.eye(1), np.ones(1))
    start = OrderParameters(0.2 * np.eye(1), np.zeros((1, 1)), np.ones(1))

    @jax.jit
    def end(rate):
        return integrate(start, teacher, learning_rate=rate, times=[2.0], max_steps=64).error[-1]

    h = 1e-3
    slope = float(end(0.5 + h) - end(0.5 - h)) / (2 * h)
    assert float(jax.grad(end)(0.5)) == pytest.approx(slope, rel=1e-5)


def test_failure_is_reported():
    lost = integrate(START, TEACHER, times=[0.0, 5.0, 500.0], max_steps=8, **RATES)
    assert not lost.converged
    assert lost.reached.tolist() == [True, True, False] or lost.reached.tolist() == [
        True,
        False,
        False,
    ]
    assert np.isnan(lost.error[~lost.reached]).all()
    assert np.isfinite(lost.error[lost.reached]).all()


def test_bad_input_is_named():
    Q, R, v = START
    for student, message in (
        (START._replace(Q=Q[:2]), r"\(K, K\)"),
        (START._replace(R=R.T), r"\(K, K\)"),
        (START._replace(readout=v[:2]), r"\(K, K\)"),
        (START._replace(readout=v[None]), r"\(K, K\)"),
        (START._replace(Q=Q * np.nan), "Q must be finite"),
        (START._replace(Q=Q + np.triu(np.ones((3, 3)), 1)), "Q must be symmetric"),
        (START._replace(R=10 * R), "joint overlaps"),
        (START._replace(Q=-Q), "joint overlaps"),
    ):
        with pytest.raises(ValueError, match=message):
            drift(student, TEACHER, learning_rate=0.1)
        with pytest.raises(ValueError, match=message):
            generalisation_error(student, TEACHER)
    for name in ("learning_rate", "readout_rate", "noise"):
        for value in (-0.1, np.nan, np.inf, np.ones(2)):
            with pytest.raises(ValueError, match=name):
                drift(START, TEACHER, **(RATES | {name: value}))
    for times in ([], [[1.0]], [-1.0, 1.0], [1.0, 1.0], [0.0, np.inf]):
        with pytest.raises(ValueError, match="times"):
            integrate(START, TEACHER, times=np.array(times), learning_rate=0.1)
    for name, value in (("rtol", 0.0), ("rtol", 2.0), ("max_steps", 0)):
        with pytest.raises(ValueError, match=name):
            integrate(START, TEACHER, times=[1.0], learning_rate=0.1, **{name: value})
    for w, target in ((np.ones((3, 4)), np.ones((2, 5))), (np.ones(4), np.ones((2, 4)))):
        with pytest.raises(ValueError, match="weights"):
            order_parameters(w, v, target, TEACHER.readout)
    with pytest.raises(ValueError, match="readout"):
        order_parameters(np.ones((3, 4)), np.ones(2), np.ones((2, 4)), TEACHER.readout)
