"""One sweep against the matrix equations, Marchenko-Pastur, population and direct descent."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.deep_linear.marchenko_pastur import bulk_mass, marchenko_pastur_nodes
from theory.mean_field.random_features import random_feature_dynamics

T = 10
seeds = st.integers(0, 2**32 - 1)
ratios = st.sampled_from([0.2, 0.5, 1.0, 1.7, 6.0, np.inf])
noises = st.sampled_from([0.0, 0.3, 2.0])


@jax.jit
def solve(lam, square, mass, alpha, nu, rate, noise):
    return random_feature_dynamics(
        lam,
        square,
        mass,
        sample_ratio=alpha,
        feature_ratio=nu,
        learning_rate=rate,
        noise_var=noise,
        steps=T,
    )


def drawn(seed):
    """Three modes over two decades, one of them perhaps absent, and their masses."""
    rng = np.random.default_rng(seed)
    lam = 10.0 ** rng.uniform(-2, 0, 3) * (rng.uniform(size=3) < 0.9)
    return lam, rng.exponential(size=3), rng.dirichlet(np.ones(3))


@jax.jit
def matrix_equations(lam, square, mass, alpha, nu, rate, noise):
    """The mean-field equations in T x T matrices, iterated: causal, so 2 T sweeps are exact."""
    eye, past, ones = jnp.eye(T), jnp.tril(jnp.ones((T, T)), -1), jnp.ones((T, T))

    def sweep(_, state):
        error, feature_error, c0, c2 = state[:4]
        r1 = jnp.linalg.inv(eye - error / alpha)
        r3 = jnp.linalg.inv(eye - feature_error / nu)
        c1, c3 = r1 @ (c0 + noise * ones) @ r1.T, r3 @ c2 @ r3.T

        def mode(l, w2):
            h = jnp.linalg.inv(eye + rate * l * past @ r3 @ r1)
            x, m, force = rate * l * r1 @ h @ past, l * r1 @ h, l * c1 / alpha
            y, kick = eye - x @ r3, rate * h @ past
            own = w2 * h @ ones @ h.T + kick @ (c3 / nu + r3 @ force @ r3.T) @ kick.T
            seen = y @ force @ y.T + w2 * m @ ones @ m.T + x @ c3 @ x.T / nu
            return -l * kick @ r3, -x, l * own, seen

        new = [jnp.tensordot(mass, each, 1) for each in jax.vmap(mode)(lam, square)]
        return *new, c1, r1, r3

    zero = jnp.zeros((T, T))
    return jax.lax.fori_loop(0, 2 * T + 1, sweep, (zero,) * 4 + (zero, eye, eye))


@given(seeds, ratios, ratios, noises, st.floats(0.05, 0.5))
def test_the_sweep_solves_the_matrix_equations_of_two_times(seed, alpha, nu, noise, rate):
    lam, square, mass = drawn(seed)
    run = solve(lam, square, mass, alpha, nu, rate, noise)
    error, feature_error, c0, _, c1, r1, r3 = matrix_equations(
        lam, square, mass, alpha, nu, rate, noise
    )
    scale = 1 + float(jnp.abs(c1).max())
    np.testing.assert_allclose(run.test_correlation, c0, atol=1e-12 * scale)
    np.testing.assert_allclose(run.train_correlation, c1, atol=1e-12 * scale)
    for ours, theirs in zip(run.responses, (r1, r3, error, feature_error), strict=True):
        np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-12)
        for lag in range(T):  # the matrix is Toeplitz, which the sweep takes for granted
            np.testing.assert_allclose(jnp.diagonal(theirs, -lag), ours[lag], atol=1e-12)


@given(seeds, ratios, ratios, noises, st.floats(0.05, 0.5))
def test_correlations_are_symmetric_positive_and_linked_by_the_responses(
    seed, alpha, nu, noise, rate
):
    run = solve(*drawn(seed), alpha, nu, rate, noise)
    assert int(run.diverged_at) == -1
    assert float(run.residual) < 1e-12
    for matrix in (np.asarray(run.test_correlation), np.asarray(run.train_correlation)):
        scale = 1e-12 * (1 + np.abs(matrix).max())
        np.testing.assert_allclose(matrix, matrix.T, atol=scale)
        assert np.linalg.eigvalsh((matrix + matrix.T) / 2)[0] > -scale
    # the identity of train and test loss, with the matrix of the memory of the samples
    lag = np.arange(T)[:, None] - np.arange(T)[None]
    response = np.where(lag >= 0, np.asarray(run.responses.error)[np.maximum(lag, 0)], 0)
    undo = np.eye(T) - response / alpha
    np.testing.assert_allclose(
        run.test_correlation + noise,
        undo @ np.asarray(run.train_correlation) @ undo.T,
        atol=1e-12 * (1 + float(run.train_loss.max())),
    )


def spectral_average(ratio, f):
    """Of f over the spectrum of X^T X / rows, X with ``ratio`` rows per column, zeros included."""
    lam, weight = marchenko_pastur_nodes(ratio)
    at_zero = (1 - bulk_mass(ratio)) * f(jnp.zeros(1))[0]
    return float(jnp.sum(weight * f(lam / ratio)) + at_zero)


@given(
    st.sampled_from([0.3, 0.5, 1.0, 2.0, 8.0]), noises, st.floats(0.05, 0.5), st.floats(0.5, 3.0)
)
def test_isotropic_regression_is_an_average_over_the_marchenko_pastur_law(
    alpha, noise, rate, square
):
    """Eigenvalues x of Psi^T Psi/P; the quadrature is good to 1e-12."""
    one = np.ones(1)
    run = solve(one, square * one, one, alpha, np.inf, rate, noise)
    for t in range(T):

        def power(x, t=t):
            return (1 - rate * x) ** t

        def learnt(x, t=t):  # (1 - (1 - rate x)^t)/x without the division
            return rate * sum((power(x, s) for s in range(t)), jnp.zeros_like(x))

        signal = spectral_average(alpha, lambda x: power(x) ** 2)
        memorised = spectral_average(alpha, lambda x: x * learnt(x) ** 2)
        assert run.test_loss[t] == pytest.approx(
            square * signal + noise / alpha * memorised, rel=1e-10
        )
        signal = spectral_average(alpha, lambda x: x * power(x) ** 2)
        left = 1 - 1 / alpha + spectral_average(alpha, lambda x: power(x) ** 2) / alpha
        assert run.train_loss[t] == pytest.approx(square * signal + noise * left, rel=1e-10)


@given(st.sampled_from([0.3, 1.0, 4.0]), noises, st.floats(0.05, 0.5))
def test_isotropic_features_with_all_data_are_an_average_over_the_same_law(nu, noise, rate):
    """v(t) = (1 - eta A^T A/N)^t w*: the law of the features' Gram matrix."""
    one = np.ones(1)
    run = solve(one, one, one, np.inf, nu, rate, noise)
    exact = [spectral_average(nu, lambda x, t=t: (1 - rate * x) ** (2 * t)) for t in range(T)]
    np.testing.assert_allclose(run.test_loss, exact, rtol=1e-10)
    np.testing.assert_allclose(run.train_loss, run.test_loss + noise, rtol=1e-12)


@given(seeds, noises, st.floats(0.05, 1.5))
def test_infinite_data_and_features_are_population_descent(seed, noise, rate):
    lam, square, mass = drawn(seed)
    run = solve(lam, square, mass, np.inf, np.inf, rate, noise)
    powers = (1 - rate * lam[None]) ** np.arange(T)[:, None]
    exact = powers * (mass * lam * square)[None] @ powers.T
    np.testing.assert_allclose(run.test_correlation, exact, atol=1e-13 * (1 + exact[0, 0]))
    near = solve(lam, square, mass, 1e9, 1e9, rate, noise)  # the limit is reached as 1/ratio
    np.testing.assert_allclose(near.test_correlation, exact, atol=1e-6 * (1 + exact.max()))


@given(seeds, ratios, ratios, noises)
def test_splitting_a_mode_and_truncating_time_change_nothing(seed, alpha, nu, noise):
    lam, square, mass = drawn(seed)
    whole = solve(lam, square, mass, alpha, nu, 0.3, noise)
    parts = np.array([0, 1, 2, 2])
    share = np.array([1, 1, 0.3, 0.7])
    split = solve(lam[parts], square[parts], share * mass[parts], alpha, nu, 0.3, noise)
    scale = 1e-13 * (1 + float(whole.train_loss.max()))
    np.testing.assert_allclose(split.test_correlation, whole.test_correlation, atol=scale)
    options = {"sample_ratio": alpha, "feature_ratio": nu, "learning_rate": 0.3}
    short = random_feature_dynamics(lam, square, mass, **options, noise_var=noise, steps=4)
    np.testing.assert_allclose(short.train_loss, whole.train_loss[:4], atol=scale)
    np.testing.assert_allclose(short.test_loss, whole.test_loss[:4], atol=scale)


@partial(jax.jit, static_argnames=("copies", "samples", "features", "draws"))
def descend(key, lam, square, rate, noise, *, copies, samples, features, draws):
    """Test and train losses (draws, 2, T) of networks that descend in w, three modes repeated."""
    lam, w_star = jnp.repeat(lam, copies), jnp.repeat(jnp.sqrt(square), copies)
    size = len(lam)

    def one(key):
        keys = jax.random.split(key, 3)
        psi = jax.random.normal(keys[0], (samples, size)) * jnp.sqrt(lam)[None]
        labels = psi @ w_star / size**0.5 + noise**0.5 * jax.random.normal(keys[1], (samples,))
        a = jax.random.normal(keys[2], (features, size))
        inputs = psi @ a.T / (features * size) ** 0.5

        def loss(w):
            return jnp.mean((labels - inputs @ w) ** 2)

        def step(w, _):
            error = w_star - a.T @ w / features**0.5
            # size: the rate is that of v, whose features carry 1/sqrt(M)
            moved = w - rate * size * jax.grad(loss)(w) / 2
            return moved, jnp.stack([jnp.mean(lam * error**2), loss(w)])

        return jax.lax.scan(step, jnp.zeros(features), length=T)[1].T

    return jax.lax.map(one, jax.random.split(key, draws))


def test_networks_approach_the_limit_at_the_predicted_rate():
    """At M = 12 and 48 losses fluctuate by 1/sqrt(M) a draw, and their mean is off by O(1/M)."""
    lam, square = jnp.array([1.0, 0.6, 0.2]), jnp.array([0.5, 1.0, 2.0])
    limit = solve(lam, square, jnp.full(3, 1 / 3), 1.0, 2.0, 0.1, 0.25)
    exact, draws = np.stack([limit.test_loss, limit.train_loss]), 400
    spreads, gaps, errors = [], [], []
    for copies in (4, 16):
        sizes = {"samples": 3 * copies, "features": 6 * copies}
        runs = np.asarray(
            descend(
                jax.random.key(copies), lam, square, 0.1, 0.25, copies=copies, draws=draws, **sizes
            )
        )
        spreads.append(runs.std(axis=0)[:, 1:])
        gaps.append(np.abs(runs.mean(axis=0) - exact)[:, 1:])
        errors.append(runs.std(axis=0)[:, 1:] / draws**0.5)
    # relative error of a ratio of two spreads: 1/sqrt(draws)
    np.testing.assert_allclose(spreads[0] / spreads[1], 2, rtol=4 / draws**0.5)
    assert np.all(gaps[1] <= gaps[0] / 4 + 4 * np.hypot(errors[0] / 4, errors[1]))
    assert np.all(gaps[1] <= exact[:, 1:] / 48 + 4 * errors[1])


def test_losses_map_over_ratios_and_differentiate():
    lam, square, mass = drawn(1)

    def last(alpha):
        return solve(lam, square, mass, alpha, 2.0, 0.3, 0.1).test_loss[-1]

    alphas = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(jax.vmap(last)(alphas), [last(0.5), last(2.0)], rtol=1e-12)
    slope = (last(2.0 + 1e-5) - last(2.0 - 1e-5)) / 2e-5
    assert float(jax.grad(last)(2.0)) == pytest.approx(float(slope), rel=1e-6)


def test_divergence_is_exponential_first_and_said_where_it_overflows():
    lam, square, mass = drawn(1)
    first = solve(lam, square, mass, 0.5, 0.5, 1e3, 0.1)
    much = solve(lam, square, mass, 0.5, 0.5, 1e12, 0.1)
    assert int(first.diverged_at) == -1
    assert first.test_loss[-1] > 1e20
    at = int(much.diverged_at)
    assert 0 < at < T
    assert np.all(np.isfinite(much.train_loss[:at]))
    assert not np.any(np.isfinite(much.train_loss[at:]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_ratio": 0.0}, "sample_ratio"),
        ({"feature_ratio": np.nan}, "feature_ratio"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"noise_var": -1.0}, "noise_var"),
        ({"eigenvalues": np.array([1.0, -1.0])}, "eigenvalues"),
        ({"target_square": np.ones(3)}, "K > 0"),
        ({"masses": np.ones(3)}, "K > 0"),
        ({"eigenvalues": np.ones(0), "target_square": np.ones(0)}, "K > 0"),
        ({"masses": np.array([1.0, np.inf])}, "masses"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_input_is_refused(changes, message):
    given = {"eigenvalues": np.ones(2), "target_square": np.ones(2), "sample_ratio": 1.0}
    given |= {"learning_rate": 0.1, "steps": 2} | changes
    with pytest.raises(ValueError, match=message):
        random_feature_dynamics(**given)
