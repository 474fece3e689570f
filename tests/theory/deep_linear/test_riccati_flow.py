"""Precision and derivatives of the Riccati flow, against the same flow in thousands of digits.

The oracle is the smooth Hamiltonian form: ``P = Y X^{-1}``, ``[X; Y] = exp(t [[-F, I], [0, F]])
[I; P(0)]``, which knows nothing of eigenvectors or projectors and needs 2 f t / ln 10 digits.
"""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.deep_linear.riccati import (
    balanced_init,
    determinant_obstruction,
    factor_qqt,
    fukumizu_matrix,
    qqt,
    qqt_factor,
    qqt_limit,
    split_qqt,
    stack_weights,
)


def exact(array):
    return np.vectorize(lambda x: Decimal(float(x)), otypes=[object])(np.asarray(array, float))


def solve(matrix, right):
    """Gauss-Jordan elimination with pivoting, in whatever numbers the arrays hold."""
    matrix, right = matrix.copy(), right.copy()
    for i in range(len(matrix)):
        pivot = i + int(np.argmax(np.abs(matrix[i:, i])))
        matrix[[i, pivot]], right[[i, pivot]] = matrix[[pivot, i]], right[[pivot, i]]
        right[i], matrix[i] = right[i] / matrix[i, i], matrix[i] / matrix[i, i]
        for k in set(range(len(matrix))) - {i}:
            right[k] = right[k] - matrix[k, i] * right[i]
            matrix[k] = matrix[k] - matrix[k, i] * matrix[i]
    return right


def exponential(matrix, digits):
    """Taylor series of a fraction of the matrix, squared until whole."""
    norm = float(np.abs(matrix).sum(axis=1).max()) + 1e-300
    halvings = max(0, int(np.log2(norm))) + int(np.sqrt(digits) / 1.5) + 1
    matrix = matrix / Decimal(2) ** halvings
    total = term = exact(np.eye(len(matrix)))
    k, smallest = 1, Decimal(10) ** -digits
    while np.abs(term).max() > smallest:
        term, k = term.dot(matrix) / k, k + 1
        total = total + term
    for _ in range(halvings):
        total = total.dot(total)
    return total


def hamiltonian_flow(t, Q0, F, digits):
    n = len(F)
    one, zero = exact(np.eye(n)), exact(np.zeros((n, n)))
    propagator = exponential(t * np.block([[-F, one], [zero, F]]), digits)
    XY = propagator.dot(np.concatenate([one, Q0.dot(Q0.T)]))
    return solve(XY[:n].T, XY[n:].T).T


def oracle(t, Q0, F, d_Q0, d_F):
    """P(t) and its derivative along (d_Q0, d_F), a difference quotient with 30 digits to spare."""
    growth = float(np.abs(np.linalg.eigvalsh(F)).max()) * t
    digits = 120 + int(2.2 * growth / np.log(10))
    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = digits, decimal.MAX_EMAX, decimal.MIN_EMIN
        t, step = Decimal(float(t)), Decimal(10) ** -30
        Q0, F, d_Q0, d_F = (exact(x) for x in (Q0, F, d_Q0, d_F))
        P = hamiltonian_flow(t, Q0, F, digits)
        moved = hamiltonian_flow(t, Q0 + step * d_Q0, F + step * d_F, digits)
        return P.astype(float), ((moved - P) / step).astype(float)


def assert_close(found, expected, tolerance):
    scale = max(np.abs(np.asarray(expected)).max(), 1e-300)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def rotated(rng, singular_values, n_out, n_in):
    modes = len(singular_values)
    left = np.linalg.qr(rng.standard_normal((n_out, modes)))[0]
    right = np.linalg.qr(rng.standard_normal((n_in, modes)))[0]
    return left @ np.diag(singular_values) @ right.T


# shape, singular values, imbalance, decay, scale of the start: equal ones and zeros, a bottleneck
# that must choose, stiff spectra, a start far below the task, collapse
PROBLEMS = {
    "generic": ((2, 2, 2), [2.0, 1.3], 0.0, 0.0, 0.3),
    "equal modes": ((2, 2, 2), [2.0, 2.0], 0.0, 0.0, 0.3),
    "zero eigenvalues": ((3, 2, 1), [1.5], 0.0, 0.0, 0.3),
    "bottleneck": ((2, 1, 2), [2.0, 1.9], 0.0, 0.0, 1e-2),
    "equal modes, one hidden unit": ((2, 1, 2), [2.0, 2.0], 0.0, 0.0, 1e-2),
    "stiff, small start": ((2, 2, 2), [6.0, 0.4], 0.0, 0.0, 1e-4),
    "overcomplete": ((2, 5, 2), [2.0, 0.1], 0.0, 0.0, 1e-3),
    "imbalanced": ((2, 2, 2), [1.0, 0.7], 1.5, 0.0, 0.3),
    "decaying": ((2, 2, 2), [1.0, 0.5], 0.0, 0.7, 0.3),
    "collapsing": ((2, 2, 2), [1.0, 0.5], 0.0, 1.4, 0.3),
    "no task": ((2, 2, 2), [0.0, 0.0], 0.0, 0.0, 1.0),
}


def problem(name):
    (n_in, hidden, n_out), spectrum, imbalance, decay, scale = PROBLEMS[name]
    rng = np.random.default_rng(len(name))
    F = fukumizu_matrix(rotated(rng, spectrum, n_out, n_in), imbalance, decay)
    Q0, d_Q0 = rng.standard_normal((2, n_in + n_out, hidden))
    d_F = rng.standard_normal(F.shape)
    return scale * Q0, np.asarray(F), d_Q0, (d_F + d_F.T) / 2


@jax.jit
def derivative(t, Q0, F, d_Q0, d_F):
    return jax.jvp(lambda Q, F: qqt(t, Q, F), (Q0, F), (d_Q0, d_F))


@pytest.mark.parametrize("name", PROBLEMS)
def test_value_and_derivative_to_all_digits(name):
    """Measured: 1e-14 and 2e-13. The derivative may be large (a choice between equals is one)."""
    Q0, F, d_Q0, d_F = problem(name)
    for t in [0.0, 1e-8, 0.4, 3.0, 25.0]:
        P, change = oracle(t, Q0, F, d_Q0, d_F)
        found, found_change = derivative(t, Q0, F, d_Q0, d_F)
        assert_close(found, P, 1e-13)
        assert_close(found_change, change, 2e-12)


@pytest.mark.parametrize("name", ["equal modes", "bottleneck", "decaying"])
def test_beyond_the_floating_point_range(name):
    """f t = 720, where e^{f t} is infinite."""
    Q0, F, d_Q0, d_F = problem(name)
    t = 720.0 / np.abs(np.linalg.eigvalsh(F)).max()
    P, change = oracle(t, Q0, F, d_Q0, d_F)
    found, found_change = derivative(t, Q0, F, d_Q0, d_F)
    assert_close(found, P, 1e-12)
    assert_close(found_change, change, 1e-11)


@pytest.mark.slow
@settings(max_examples=500)
@given(
    seed=st.integers(0, 2**32 - 1),
    hidden=st.sampled_from([1, 2, 3, 5]),
    spectrum=st.lists(
        st.one_of(st.sampled_from([2.0, 1.0, 0.0, -1.0]), st.floats(-2, 2)), min_size=4, max_size=4
    ),
    log_time=st.floats(-3, 1.5),
    spread=st.floats(0, 4),
)
def test_any_symmetric_generator_and_any_start(seed, hidden, spectrum, log_time, spread):
    """Starts whose rows differ by four orders of magnitude lose as many digits, at the worst."""
    rng = np.random.default_rng(seed)
    G = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    F = (G * np.array(spectrum)) @ G.T
    F = (F + F.T) / 2
    Q0 = rng.standard_normal((4, hidden)) * 10.0 ** rng.uniform(-spread, 0, (4, 1))
    d_Q0, d_F = rng.standard_normal((4, hidden)), rng.standard_normal((4, 4))
    d_F = (d_F + d_F.T) / 2
    P, change = oracle(10.0**log_time, Q0, F, d_Q0, d_F)
    found, found_change = derivative(10.0**log_time, Q0, F, d_Q0, d_F)
    assert_close(found, P, 1e-10)
    assert_close(found_change, change, 1e-9)


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-9, 1e-7, 1e-6, 1e-5, 1e-3])
def test_derivative_between_close_eigenvalues(gap):
    """Across the switch between the two ways of writing it, at gap t = 6e-6; errors eps^(2/3)."""
    rng = np.random.default_rng(1)
    F, Q0 = np.diag([1.0, 1.0 - gap, 0.3, -1.0]), 0.3 * rng.standard_normal((4, 2))
    d_F, d_Q0 = rng.standard_normal((4, 4)), np.zeros((4, 2))
    _, change = oracle(2.0, Q0, F, d_Q0, (d_F + d_F.T) / 2)
    _, found = derivative(2.0, Q0, F, d_Q0, d_F)
    assert_close(found, change, 1e-10)


def test_competition_of_long_duration():
    """At f t = 1e4 two modes that differ by 1e-4 still compete for one hidden unit."""
    f, t, q = np.array([1.0, 1.0 - 1e-4, 0.0, -1.0]), 1e4, np.array([1e-3, 2e-3, 1e-3, 3e-3])
    with decimal.localcontext() as context:
        context.prec, context.Emax = 60, decimal.MAX_EMAX
        rates, start, time = exact(f), exact(q), Decimal(t)
        x = np.array([(time * rate).exp() for rate in rates]) * start
        phi = [((2 * time * rate).exp() - 1) / (2 * rate) if rate else time for rate in rates]
        P = (np.outer(x, x) / (1 + np.sum(np.array(phi) * start**2))).astype(float)
    assert 0.1 < P[0, 0] / P[1, 1] < 10
    # f t = 1e4 carries the rounding 1e-12 of its own
    assert_close(qqt(t, q[:, None], np.diag(f)), P, 1e-11)


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(list(PROBLEMS)),
    t=st.one_of(st.just(0.0), st.floats(-300, 300).map(lambda x: 10.0**x)),
)
def test_finite_at_every_time(seed, name, t):
    _, F, d_Q0, d_F = problem(name)
    Q0 = 10.0 ** np.random.default_rng(seed).uniform(-8, 3) * d_Q0
    P, change = derivative(t, Q0, F, d_Q0, d_F)
    assert np.all(np.isfinite(P))
    assert np.all(np.isfinite(change))
    if t >= 1e9:
        assert np.abs(P).max() <= 2 * np.abs(np.linalg.eigvalsh(F)).max() * (1 + 1e-8) + 1 / t


@jax.jit
def gradients(weight, t, Q0, F):
    return jax.grad(lambda t, Q0, F: jnp.sum(weight * qqt(t, Q0, F)), (0, 1, 2))(t, Q0, F)


@pytest.mark.parametrize("name", ["equal modes", "zero eigenvalues"])
def test_reverse_mode_is_forward_mode_transposed(name):
    Q0, F, d_Q0, d_F = problem(name)
    weight = np.random.default_rng(2).standard_normal(F.shape)
    for t in [0.0, 1.0, 40.0]:
        by_time, by_start, by_generator = gradients(weight, t, Q0, F)
        P, change = derivative(t, Q0, F, d_Q0, d_F)
        along = np.sum(by_start * d_Q0) + np.sum(by_generator * d_F)
        np.testing.assert_allclose(along, np.sum(weight * change), rtol=1e-9, atol=1e-9)
        velocity = F @ P + P @ F - P @ P
        np.testing.assert_allclose(by_time, np.sum(weight * velocity), rtol=1e-11, atol=1e-11)


def test_derivatives_in_time_of_any_order():
    Q0, F, _, _ = problem("zero eigenvalues")
    acceleration = jax.jit(jax.jacfwd(jax.jacfwd(lambda t: qqt(t, Q0, F))))
    by_tau = jax.jit(jax.jacfwd(lambda tau, t: qqt(t, Q0, F, tau=tau)))
    for t in [0.0, 1.0, 300.0]:
        P = qqt(t, Q0, F)
        velocity = F @ P + P @ F - P @ P
        expected = F @ velocity + velocity @ F - velocity @ P - P @ velocity
        np.testing.assert_allclose(acceleration(t), expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(by_tau(1.0, t), -t * velocity, rtol=1e-9, atol=1e-11)


def test_derivative_of_the_limit():
    """Where the flow has ended, its derivative in F is that of the equilibrium."""
    for name in ["generic", "equal modes", "bottleneck", "imbalanced", "collapsing"]:
        Q0, F, _, d_F = problem(name)
        found = jax.jvp(lambda F, Q0=Q0: qqt_limit(Q0, F).qqt, (F,), (d_F,))[1]
        t = 300.0 if name != "bottleneck" else 3000.0
        np.testing.assert_allclose(
            found, derivative(t, Q0, F, np.zeros_like(Q0), d_F)[1], rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("hand_over", ["factor of the flow", "factor of P"])
def test_derivative_through_a_task_switch(hand_over):
    """The best time to switch tasks can be found by gradient descent; repeated eigenvalues too."""
    Q0, F, _, _ = problem("equal modes")
    second = np.asarray(fukumizu_matrix(np.diag([0.5, 1.0])))

    def after(t, F):
        from_P = hand_over == "factor of P"
        Q = factor_qqt(qqt(t, Q0, F), 2) if from_P else qqt_factor(t, Q0, F)
        return split_qqt(qqt(1.5, Q, second), 2)[1][0, 1]

    by_time, by_task = jax.jit(jax.grad(after, (0, 1)))(0.8, F)
    step = 1e-5
    difference = (after(0.8 + step, F) - after(0.8 - step, F)) / (2 * step)
    np.testing.assert_allclose(by_time, difference, rtol=1e-8)
    d_F = np.random.default_rng(3).standard_normal(F.shape)
    d_F = (d_F + d_F.T) / 2
    difference = (after(0.8, F + step * d_F) - after(0.8, F - step * d_F)) / (2 * step)
    np.testing.assert_allclose(np.sum(by_task * d_F), difference, rtol=1e-8)


def test_single_precision():
    """1e-4 relative, start and task in float32, as long as float32 can tell the modes apart."""
    for name in ["generic", "equal modes", "imbalanced", "zero eigenvalues"]:
        Q0, F, d_Q0, d_F = (np.asarray(x, np.float32) for x in problem(name))
        for t in [0.0, 1.0, 30.0, 400.0]:
            narrow = derivative(np.float32(t), Q0, F, d_Q0, d_F)
            wide = derivative(t, *(np.asarray(x, float) for x in (Q0, F, d_Q0, d_F)))
            assert narrow[0].dtype == np.float32
            assert_close(narrow[0], wide[0], 1e-4)
            assert_close(narrow[1], wide[1], 1e-4)


# --- the saddle that balance can lock a square network into ---------------------------------------


def test_half_of_all_balanced_starts_are_obstructed():
    """And exactly those lack the weakest mode in the end, the saddle the flow stays in."""
    rng, n, draws = np.random.default_rng(4), 3, 200
    tasks = np.array([rotated(rng, [2.0, 1.1, 0.4], n, n) for _ in range(draws)])
    keys = jax.random.split(jax.random.key(4), draws)
    W1, W2 = jax.vmap(lambda key: balanced_init(key, n, n, n, 0.5))(keys)
    obstructed = np.asarray(jax.vmap(determinant_obstruction)(W1, W2, tasks))
    assert abs(obstructed.mean() - 0.5) < 4 * 0.5 / np.sqrt(draws)

    Q0, F = jax.vmap(stack_weights)(W1, W2), jax.vmap(fukumizu_matrix)(tasks)
    end = jax.vmap(qqt_limit)(Q0, F)
    np.testing.assert_array_equal(end.missed, obstructed)
    errors = tasks - split_qqt(end.qqt, n)[1]
    excess = 0.5 * np.sum(np.square(errors), axis=(1, 2))
    np.testing.assert_allclose(excess, np.where(obstructed, 0.4**2 / 2, 0), rtol=0, atol=1e-12)
    late = jax.vmap(lambda Q0, F: qqt(1e3, Q0, F))(Q0, F)
    np.testing.assert_allclose(late, end.qqt, rtol=0, atol=1e-11)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), sign=st.sampled_from([1, -1]))
def test_sign_of_the_determinant_can_be_chosen_and_never_changes(seed, sign):
    task = np.random.default_rng(seed).standard_normal((3, 3))
    W1, W2 = balanced_init(jax.random.key(seed), 3, 3, 3, 0.5, det_sign=sign)
    assert np.sign(np.linalg.det(W2 @ W1)) == sign
    assert bool(determinant_obstruction(W1, W2, task)) == (sign != np.sign(np.linalg.det(task)))
    times = np.array([0.3, 1.0, 3.0])
    maps = split_qqt(qqt(times, stack_weights(W1, W2), fukumizu_matrix(task)), 3)[1]
    np.testing.assert_array_equal(np.sign(np.linalg.det(maps)), sign)


@pytest.mark.parametrize(("widths", "imbalance"), [((3, 3, 3), 0.4), ((3, 5, 4), 0.0)])
def test_no_obstruction_elsewhere(widths, imbalance):
    n_in, _, n_out = widths
    tasks = np.random.default_rng(5).standard_normal((50, n_out, n_in))
    keys = jax.random.split(jax.random.key(5), 50)
    W1, W2 = jax.vmap(lambda key: balanced_init(key, *widths, 0.5, imbalance))(keys)
    assert not np.any(jax.vmap(determinant_obstruction)(W1, W2, tasks))
    ends = jax.vmap(lambda a, b, s: qqt_limit(stack_weights(a, b), fukumizu_matrix(s, imbalance)))
    assert not np.any(ends(W1, W2, tasks).missed)


def test_rows_that_depend_on_each_other():
    """Modes that share a hidden unit leave a saddle for the weaker one, whatever the rotation."""
    start = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]])
    turn = np.linalg.qr(np.random.default_rng(6).standard_normal((3, 3)))[0]
    F = np.diag([2.0, 1.0, 0.5, 0.25])
    end = qqt_limit(start @ turn, F)
    np.testing.assert_allclose(end.qqt, np.diag([4.0, 0.0, 1.0, 0.5]), atol=1e-14)
    assert (int(end.learned), int(end.missed)) == (3, 0)
    np.testing.assert_allclose(qqt(1e3, start @ turn, F), end.qqt, atol=1e-13)
