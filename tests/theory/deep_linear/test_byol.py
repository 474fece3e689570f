"""Linear BYOL: matrices against autodiff and integration, modes, basins, DirectPred."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad, solve_ivp

from theory.deep_linear.byol import (
    augmentation_variance,
    byol_alignment_operator,
    byol_basin_time,
    byol_collapse_threshold,
    byol_fixed_points,
    byol_imbalance,
    byol_isotropic_velocity,
    byol_mode_imbalance,
    byol_mode_velocity,
    byol_velocity,
    direct_pred,
)

N, F = 5, 3  # inputs, features
SEEDS = st.integers(0, 2**32 - 1)
RATE = st.just(0.0) | st.floats(-3, 1).map(lambda x: 10.0**x)
ALPHA = st.just(1.0) | st.floats(-2, 2).map(lambda x: 10.0**x)
AUG = st.just(0.0) | st.floats(-3, 1).map(lambda x: 10.0**x)
TAU = st.just(1.0) | st.floats(-1, 0.5).map(lambda x: 10.0**x)


def covariance(rng, n):
    half = rng.standard_normal((n, n + 1))
    return half @ half.T / n


def networks(seed):
    """Wp, W, Wa, X, Xp with nothing special about them."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape) for shape in ((F, F), (F, N), (F, N))]
    return [*weights, covariance(rng, N), 0.5 * covariance(rng, N)]


def symmetric_pair(seed):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((F, F))
    return half + half.T, covariance(rng, F)


def integrate(velocity, start, times, rtol=1e-12):
    """States at the times of ``d state/dt = velocity(*state)``, a tuple of arrays."""
    flat, unravel = ravel_pytree(tuple(start))
    compiled = jax.jit(lambda y: ravel_pytree(tuple(velocity(*unravel(y))))[0])
    flow = solve_ivp(
        lambda _, y: np.asarray(compiled(y)),
        (0.0, times[-1]),
        flat,
        t_eval=times,
        method="DOP853",
        rtol=rtol,
        atol=1e-14,
    )
    return [[np.asarray(x) for x in unravel(state)] for state in flow.y.T]


# --- matrices -----------------------------------------------------------------------------------


@jax.jit
def descent(Wp, W, Wa, X, Xp):
    """-dJ/dWp, -dJ/dW of J = 1/2 E |Wp W x1 - Wa x2|^2 with the target held, by autodiff."""

    def loss(Wp, W):
        out = Wp @ W
        views = out @ (X + Xp) @ out.T - 2 * out @ X @ Wa.T + Wa @ (X + Xp) @ Wa.T
        return jnp.trace(views) / 2

    return tuple(-g for g in jax.grad(loss, (0, 1))(Wp, W))


@given(SEEDS, ALPHA, RATE, RATE)
def test_velocity_is_gradient_flow_with_stopped_gradient(seed, alpha_p, eta, ema):
    Wp, W, Wa, X, Xp = networks(seed)
    found = byol_velocity(Wp, W, Wa, X, Xp, alpha_p, eta, ema)
    by_Wp, by_W = descent(Wp, W, Wa, X, Xp)
    scale = 1e-12 * (1 + alpha_p + eta) * np.abs(by_Wp).max()
    np.testing.assert_allclose(found.Wp, alpha_p * by_Wp - eta * Wp, atol=scale)
    np.testing.assert_allclose(found.W, by_W - eta * W, rtol=1e-10, atol=1e-12 * (1 + eta))
    np.testing.assert_allclose(found.Wa, ema * (W - Wa), rtol=1e-13)


def test_moments_of_the_loss_are_those_of_augmented_views():
    """Sampled views give the velocity within 4 standard errors."""
    rng, draws = np.random.default_rng(0), 40000
    Wp, W, Wa, X, Xp = networks(1)
    mean = np.linalg.cholesky(X) @ rng.standard_normal((N, draws))
    x1, x2 = (mean + np.linalg.cholesky(Xp) @ rng.standard_normal((N, draws)) for _ in range(2))
    error = Wa @ x2 - Wp @ W @ x1
    samples = np.einsum("fs,ns->sfn", Wp.T @ error, x1)
    found = byol_velocity(Wp, W, Wa, X, Xp, 1.0, 0.0, 0.0).W
    z = (samples.mean(0) - found) / (samples.std(0) / np.sqrt(draws))
    assert np.abs(z).max() < 4


@given(SEEDS, ALPHA, RATE, RATE)
def test_imbalance_decays_with_weight_decay_alone(seed, alpha_p, eta, ema):
    """d/dt (W W^T - Wp^T Wp / alpha_p) = -2 eta (same), for any data and any target."""
    Wp, W, Wa, X, Xp = networks(seed)
    velocity = byol_velocity(Wp, W, Wa, X, Xp, alpha_p, eta, ema)
    value, slope = imbalance_slope(Wp, W, alpha_p, velocity.Wp, velocity.W)
    parts = np.abs(W @ np.asarray(velocity.W).T) + np.abs(Wp.T @ np.asarray(velocity.Wp)) / alpha_p
    np.testing.assert_allclose(slope, -2 * eta * value, atol=1e-12 * parts.max())


@jax.jit
def imbalance_slope(Wp, W, alpha_p, d_Wp, d_W):
    return jax.jvp(lambda Wp, W: byol_imbalance(Wp, W, alpha_p), (Wp, W), (d_Wp, d_W))


def test_imbalance_along_an_integrated_path():
    Wp, W, Wa, X, Xp = networks(2)
    alpha_p, eta, ema = 1.7, 0.12, 0.6
    times = np.array([0.0, 0.5, 2.0, 6.0])
    path = integrate(
        lambda *weights: byol_velocity(*weights, X, Xp, alpha_p, eta, ema),
        (0.4 * Wp, 0.4 * W, 0.2 * Wa),
        times,
    )
    found = np.array([byol_imbalance(Wp, W, alpha_p) for Wp, W, _ in path])
    decay = np.exp(-2 * eta * times)[:, None, None]
    np.testing.assert_allclose(found, decay * found[0][None], atol=1e-10)


@given(SEEDS, RATE)
def test_without_predictor_the_features_collapse(seed, eta):
    _, W, _, X, Xp = networks(seed)
    velocity = byol_velocity(np.eye(F), W, W, X, Xp, 1.0, eta, 0.3)
    scale = 1e-12 * (1 + eta) * np.abs(W).max() * np.abs(X).max()
    np.testing.assert_allclose(velocity.W, -W @ Xp - eta * W, atol=N * scale)


# --- isotropic data -----------------------------------------------------------------------------


@given(SEEDS, TAU, ALPHA, RATE, AUG)
def test_isotropic_velocity_is_the_symmetric_part(seed, tau, alpha_p, eta, aug_var):
    rng = np.random.default_rng(seed)
    Wp, _ = symmetric_pair(seed)
    W = rng.standard_normal((F, N))
    full = byol_velocity(Wp, W, tau * W, np.eye(N), aug_var * np.eye(N), alpha_p, eta, 0.0)
    found = byol_isotropic_velocity(Wp, W @ W.T, tau, alpha_p, eta, aug_var)
    moved = np.asarray(full.W) @ W.T
    scale = 1e-11 * (1 + alpha_p) * (1 + aug_var + tau + eta) * (1 + np.abs(W).max()) ** 2
    scale *= (1 + np.abs(Wp).max()) ** 2
    np.testing.assert_allclose(found.F, moved + moved.T, atol=scale)
    np.testing.assert_allclose(found.Wp, (full.Wp + full.Wp.T) / 2, atol=scale)


@given(SEEDS, TAU, ALPHA, RATE, AUG)
def test_commutator_decays_through_the_alignment_operator(seed, tau, alpha_p, eta, aug_var):
    Wp, corr = symmetric_pair(seed)
    settings = (tau, alpha_p, eta, aug_var)
    d_Wp, d_F = (np.asarray(v) for v in byol_isotropic_velocity(Wp, corr, *settings))
    K = np.asarray(byol_alignment_operator(Wp, corr, *settings))

    def commutator(A, B):
        return A @ B - B @ A

    found = commutator(d_F, Wp) + commutator(corr, d_Wp)
    gap = commutator(corr, Wp)
    scale = np.abs(d_F).max() * np.abs(Wp).max() + np.abs(corr).max() * np.abs(d_Wp).max()
    np.testing.assert_allclose(found, -(K @ gap + gap @ K), atol=1e-12 * scale)
    if eta > tau**2 / (6 * (1 + aug_var)):
        assert np.linalg.eigvalsh(K)[0] > 0


def test_aligned_networks_are_their_modes():
    """Full matrices, EMA target included, against the modes: integrated independently."""
    rng = np.random.default_rng(3)
    p, s = np.array([0.5, 0.25, 0.9]), np.array([0.3, 0.1, 0.05])
    tau = np.array([0.2, 0.8, 1.0])
    alpha_p, eta, aug_var, ema = 1.3, 0.05, 0.4, 0.4
    R, V = (
        np.linalg.qr(rng.standard_normal((F, F)))[0],
        np.linalg.qr(rng.standard_normal((N, F)))[0],
    )
    start = [R * x @ frame for x, frame in ((p, R.T), (np.sqrt(s), V.T), (tau * np.sqrt(s), V.T))]
    times = np.linspace(0, 12, 5)
    X, Xp = np.eye(N), aug_var * np.eye(N)
    path = integrate(lambda *w: byol_velocity(*w, X, Xp, alpha_p, eta, ema), start, times)
    modes = integrate(
        lambda p, s, tau: byol_mode_velocity(p, s, tau, alpha_p, eta, aug_var, ema),
        (p, s, tau),
        times,
    )
    for (Wp, W, Wa), (p_t, s_t, tau_t) in zip(path, modes, strict=True):
        np.testing.assert_allclose(R.T @ Wp @ R, np.diag(p_t), atol=1e-9)
        np.testing.assert_allclose(R.T @ W @ W.T @ R, np.diag(s_t), atol=1e-9)
        np.testing.assert_allclose(R.T @ Wa @ W.T @ R, np.diag(tau_t * s_t), atol=1e-9)
    c = np.array([byol_mode_imbalance(p_t, s_t, alpha_p) for p_t, s_t, _ in modes])
    np.testing.assert_allclose(c, np.exp(-2 * eta * times)[:, None] * c[:1], atol=1e-10)


def test_augmentation_variance_is_measured():
    rng = np.random.default_rng(4)
    O = np.linalg.qr(rng.standard_normal((N, N)))[0]
    np.testing.assert_allclose(augmentation_variance(O @ O.T, 0.3 * O @ O.T), 0.3, rtol=1e-12)
    assert float(augmentation_variance(np.eye(N), np.zeros((N, N)))) == 0
    with pytest.raises(ValueError, match=r"eigenvalues of X must be all 1 .*, got 1\.(5|49999)"):
        augmentation_variance(O * [1, 1, 1, 1, 1.5] @ O.T, np.eye(N))
    with pytest.raises(ValueError, match=r"eigenvalues of Xp must be all 0\.4 .*, got 0\.2"):
        augmentation_variance(np.eye(2), np.diag([0.2, 0.6]))


# --- modes --------------------------------------------------------------------------------------


@given(
    p=st.floats(-3, 3),
    s=st.just(0.0) | st.floats(0, 3),
    tau=st.floats(0, 2),
    alpha_p=ALPHA,
    eta=RATE,
    aug_var=AUG,
    ema=RATE,
)
def test_mode_velocity(p, s, tau, alpha_p, eta, aug_var, ema):
    """The published form, the decaying imbalance and the parabola that it leaves invariant."""
    v = byol_mode_velocity(p, s, tau, alpha_p, eta, aug_var, ema)
    k = 1 + aug_var
    scale = 1e-12 * (1 + alpha_p) * k * (10 + eta) * (1 + ema)
    assert abs(float(s * v.tau) - (ema * (1 - tau) * s - tau / 2 * float(v.s))) < 10 * scale
    slope = float(v.s) - 2 * p * float(v.p) / alpha_p
    np.testing.assert_allclose(
        slope, -2 * eta * float(byol_mode_imbalance(p, s, alpha_p)), atol=100 * scale / alpha_p
    )
    on_parabola = byol_mode_velocity(p, p**2 / alpha_p, tau, alpha_p, eta, aug_var, ema)
    np.testing.assert_allclose(on_parabola.p, p**2 * (tau - k * p) - eta * p, atol=100 * scale)
    assert all(np.isfinite(v))


def parabola(p, eta, aug_var, tau):
    return p**2 * (tau - (1 + aug_var) * p) - eta * p


@given(
    fraction=st.floats(1e-12, 3) | st.sampled_from([0.0, 1e-9, 1.0, 1 - 1e-9, 1 + 1e-9]),
    aug_var=AUG,
    tau=TAU,
)
def test_fixed_points(fraction, aug_var, tau):
    threshold = float(byol_collapse_threshold(aug_var, tau))
    np.testing.assert_allclose(threshold, tau**2 / (4 * (1 + aug_var)), rtol=1e-14)
    eta = fraction * threshold
    fixed = byol_fixed_points(eta, aug_var, tau)
    assert bool(fixed.exists) == (fraction <= 1 + 1e-15)
    speed = jax.grad(parabola)
    if not fixed.exists:  # every start loses
        assert (float(fixed.p_minus), float(fixed.p_plus)) == (np.inf, 0.0)
        p = tau * np.logspace(-6, 3, 200)
        assert (parabola(p, eta, aug_var, tau) < 0).all()
        return
    low, high = float(fixed.p_minus), float(fixed.p_plus)
    assert 0 <= low <= high
    for p in (low, high):  # who starts there stays
        assert abs(parabola(p, eta, aug_var, tau)) <= 1e-14 * tau * high**2
        on_parabola = byol_mode_velocity(p, p**2 / 2, tau, 2.0, eta, aug_var, 0.0)
        assert abs(float(on_parabola.p)) <= 1e-14 * tau * high**2
    slack = 1e-7 * tau**2  # the square root of rounding, where they merge
    assert speed(low, eta, aug_var, tau) >= -slack
    assert speed(high, eta, aug_var, tau) <= slack
    assert float(speed(0.0, eta, aug_var, tau)) == -eta


def test_fixed_points_broadcast_and_have_derivatives():
    eta = np.array([0.0, 0.05, 0.1875, 0.25, 0.4])
    fixed = byol_fixed_points(eta[:, None], np.array([0.0, 0.3]))
    assert fixed.p_plus.shape == fixed.exists.shape == (5, 2)
    np.testing.assert_array_equal(fixed.exists[:, 0], [True, True, True, True, False])
    slopes = jax.vmap(jax.grad(lambda eta: byol_fixed_points(eta, 0.0).p_plus))(eta)
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[2], -2.0, rtol=1e-12)  # -1 / sqrt(1 - 4 eta)
    single = byol_fixed_points(np.float32(0.1), np.float32(0.3))
    assert single.p_plus.dtype == np.float32
    np.testing.assert_allclose(single.p_plus, byol_fixed_points(0.1, 0.3).p_plus, rtol=1e-6)


@st.composite
def journeys(draw):
    """(p, p0, eta, aug_var, tau): any decay, any basin, from near one equilibrium to the next."""
    aug_var, tau = draw(AUG), draw(TAU)
    k = 1 + aug_var
    share = draw(
        st.sampled_from([0.0, 0.0, 0.5, 2.0])
        | st.floats(1e-9, 0.999)
        | st.floats(-9, -1).map(lambda x: 10.0**x)
        | st.floats(1.001, 30)
    )
    eta = share * tau**2 / (4 * k)
    root = np.sqrt(max(1 - share, 0))
    high = tau * (1 + root) / (2 * k) if share <= 1 else 0.0
    low = 2 * eta / (tau * (1 + root)) if share <= 1 else np.inf
    nearness = draw(st.floats(-3, -0.01).map(lambda x: 10.0**x))
    basin = draw(st.sampled_from(["above", "middle", "below", "negative"]))
    if basin == "above":
        p0, end = (high or tau / k) * (1 + nearness * 100), high
    elif basin == "middle" and low < high:
        p0, end = low + (high - low) * nearness, high
    elif basin == "below" and low > 0:
        p0, end = min(low, tau / k) * (1 - nearness), 0.0
    else:
        p0, end = -tau / k * nearness, 0.0
    done = draw(st.floats(0.01, 0.999))
    return p0 + (end - p0) * done, p0, eta, aug_var, tau


@given(journeys())
@example((0.3, 0.9, 0.25, 0.0, 1.0))  # beyond the point where the equilibria have merged
@example((0.50001, 0.9, 0.25, 0.0, 1.0))  # towards it from above
@example((0.1, 0.49999, 0.25, 0.0, 1.0))  # away from it, below
@example((0.01, 5.0, 0.2501, 0.0, 1.0))  # past the ghost of the two
def test_basin_time_is_the_integral(journey):
    p, p0, eta, aug_var, tau = journey
    if (eta, aug_var, tau) == (0.25, 0.0, 1.0) and p < 0.5 < p0:
        with pytest.raises(ValueError, match="p must be between p0 and the equilibrium"):
            byol_basin_time(*journey)
        return
    k, sign = 1 + aug_var, np.sign(p0)
    middle, room = tau / 2 / k, tau**2 / 4 / k - eta

    def integrand(w):  # in ln |p|; about the middle, where it may nearly vanish, by squares
        x = sign * np.exp(w)
        if abs(x - middle) < middle / 2:
            return 1 / (room - k * (x - middle) ** 2)
        return 1 / (x * (tau - k * x) - eta)

    ends = np.log(abs(p0)), np.log(abs(p))
    slow = [np.log(middle)] if min(ends) < np.log(middle) < max(ends) else None
    expected, error, *_ = quad(
        integrand, *ends, epsabs=0, epsrel=1e-12, limit=1000, points=slow, full_output=1
    )
    assert error < 1e-9 * expected
    found = float(byol_basin_time(*journey))
    assert found >= 0
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@given(journeys())
def test_basin_time_derivatives_and_additivity(journey):
    p, p0, eta, aug_var, tau = journey
    slopes = [float(x) for x in time_slopes(*journey)]
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[0], 1 / parabola(p, eta, aug_var, tau), rtol=1e-6)
    np.testing.assert_allclose(slopes[1], -1 / parabola(p0, eta, aug_var, tau), rtol=1e-6)
    half = (p + p0) / 2
    parts = byol_basin_time(half, p0, *journey[2:]) + byol_basin_time(p, half, *journey[2:])
    np.testing.assert_allclose(parts, byol_basin_time(*journey), rtol=1e-8)


time_slopes = jax.jit(jax.grad(byol_basin_time, argnums=(0, 1, 2, 3, 4)))


@pytest.mark.parametrize("eta", [0.0, 0.01, 0.0893, 0.15, 0.1786, 0.2])
def test_time_slope_in_the_weight_decay(eta):
    """Across both switches of formula, against finite differences."""
    p, p0 = 0.3, 0.25
    if byol_fixed_points(eta, 0.4).p_minus > p0:
        p, p0 = 0.05, 0.1
    slope = float(time_slopes(p, p0, eta, 0.4, 1.0)[2])
    step = 1e-6
    ends = [float(byol_basin_time(p, p0, abs(eta + d), 0.4)) for d in (-step, step)]
    if eta == 0:
        ends[0] = 2 * float(byol_basin_time(p, p0, 0.0, 0.4)) - ends[1]
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-4)
        return
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-6)


@settings(max_examples=20)
@given(fraction=st.just(0.0) | st.floats(1e-12, 2), aug_var=AUG, tau=TAU)
def test_equilibria_take_for_ever(fraction, aug_var, tau):
    eta = fraction * float(byol_collapse_threshold(aug_var, tau))
    low, high, exists = byol_fixed_points(eta, aug_var, tau)
    start = 2 * tau / (1 + aug_var)
    assert float(byol_basin_time(high, start, eta, aug_var, tau)) == np.inf
    assert float(byol_basin_time(start, start, eta, aug_var, tau)) == 0
    assert float(byol_basin_time(0.0, -start, eta, aug_var, tau)) == np.inf
    if exists and low < high:
        assert float(byol_basin_time(low, low, eta, aug_var, tau)) == 0
        with pytest.raises(ValueError, match="p must be between p0"):  # the wrong basin
            byol_basin_time(low / 2 - 1e-3, start, eta, aug_var, tau)
        traced = jax.jit(byol_basin_time)(-1.0, start, eta, aug_var, tau)
        assert float(traced) == np.inf
    with pytest.raises(ValueError, match="p must be between p0"):  # the past
        byol_basin_time(2 * start, start, eta, aug_var, tau)


@pytest.mark.parametrize(("p0", "ends_at"), [(0.09, 0.0), (0.1, 0.6), (3.0, 0.6)])
def test_basins_of_the_full_network(p0, ends_at):
    """A network on the parabola is at p at the predicted time, and ends where the basin says."""
    eta, aug_var, alpha_p = 0.08, 0.4, 1.7
    fixed = byol_fixed_points(eta, aug_var)
    end = float(fixed.p_plus) if ends_at else 0.0
    assert (p0 > fixed.p_minus) == bool(ends_at)
    np.testing.assert_allclose(end, ends_at, atol=0.05)
    p = p0 + 0.97 * (end - p0)
    time = float(byol_basin_time(p, p0, eta, aug_var))
    rng = np.random.default_rng(5)
    v = np.linalg.qr(rng.standard_normal((N, 1)))[0].T
    start = (np.array([[p0]]), p0 / np.sqrt(alpha_p) * v)
    X, Xp = np.eye(N), aug_var * np.eye(N)

    def velocity(Wp, W):  # the target copies the online network
        return byol_velocity(Wp, W, W, X, Xp, alpha_p, eta, 0.0)[:2]

    path = integrate(velocity, start, np.array([0.0, time, 600.0]))
    np.testing.assert_allclose(path[1][0], p, rtol=1e-8)
    np.testing.assert_allclose(path[2][0], end, atol=1e-10)


def test_basin_time_in_single_precision():
    arguments = ([0.3, 0.05, 0.8, 0.01], [0.2, 0.08, 0.9, 0.5], [0.05, 0.1, 0.05, 0.3], 0.2, 1.0)
    double = byol_basin_time(*(jnp.asarray(x) for x in arguments))
    single = byol_basin_time(*(jnp.asarray(x, jnp.float32) for x in arguments))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=1e-4)


# --- DirectPred ---------------------------------------------------------------------------------


def correlations(seed, spectrum):
    O = np.linalg.qr(np.random.default_rng(seed).standard_normal((F, F)))[0]
    return O * np.asarray(spectrum) @ O.T


SPECTRA = st.one_of(
    st.lists(st.floats(1e-3, 1e3), min_size=F, max_size=F),
    st.sampled_from([[2.0, 2.0, 2.0], [3.0, 1.0, 1.0], [4.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
)


@given(SEEDS, SPECTRA, st.just(0.0) | st.floats(0, 1))
def test_direct_pred_by_eigenvalues(seed, spectrum, eps):
    corr, s = correlations(seed, spectrum), np.sort(spectrum)
    p = {
        "paper": np.sqrt(s) + eps * s[-1],
        "released": np.maximum(np.sqrt(s / (s[-1] or 1)) + eps, 1e-4),
    }
    for variant, expected in p.items():
        found = np.asarray(direct_pred(corr, eps, variant))
        np.testing.assert_allclose(found, found.T, atol=1e-12 * expected[-1])
        # a zero eigenvalue is only known to rounding, and its root to the root of that
        slack = 1e-12 if s[0] > 0 else 1e-7
        np.testing.assert_allclose(
            np.linalg.eigvalsh(found), expected, atol=slack * (1 + expected[-1]), rtol=1e-10
        )
        gap = found @ corr - corr @ found
        np.testing.assert_allclose(gap, 0, atol=1e-11 * (1 + expected[-1]) * (1 + s[-1]))


@given(SEEDS, SPECTRA)
def test_direct_pred_without_eps_is_the_parabola(seed, spectrum):
    """Wp^2 = F, that is s = p^2 / alpha_p at alpha_p = 1; and the variants differ by a scale."""
    corr, largest = correlations(seed, spectrum), max(spectrum)
    Wp = np.asarray(direct_pred(corr, 0.0))
    np.testing.assert_allclose(Wp @ Wp, corr, atol=1e-12 * largest)
    if min(spectrum) > 1e-6 * largest > 0:  # above the released floor
        released = np.asarray(direct_pred(corr, 0.0, "released"))
        np.testing.assert_allclose(released * np.sqrt(largest), Wp, atol=1e-11 * np.sqrt(largest))


@given(SEEDS, st.sampled_from([[2.0, 2.0, 2.0], [3.0, 1.0, 1.0], [5.0, 2.0, 0.3]]))
def test_direct_pred_derivative_solves_sylvester(seed, spectrum):
    """R dR + dR R = dF for the root R, also where eigenvalues coincide."""
    corr = correlations(seed, spectrum)
    direction, _ = symmetric_pair(seed)
    root, change = root_jvp(corr, direction)
    np.testing.assert_allclose(root @ change + change @ root, direction, atol=1e-10)


@jax.jit
def root_jvp(corr, direction):
    return jax.jvp(lambda corr: direct_pred(corr, 0.0), (corr,), (direction,))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_direct_pred_gradient(variant):
    corr, direction = correlations(6, [2.0, 0.7, 1e-9]), symmetric_pair(6)[0]
    weights = np.random.default_rng(7).standard_normal((F, F))

    def reading(corr, eps):
        return jnp.sum(weights * direct_pred(corr, eps, variant))

    by_corr, by_eps = jax.grad(reading, (0, 1))(corr, 0.0)
    step = 1e-12  # below the smallest eigenvalue, which the released floor holds
    ends = [float(reading(corr + d * direction, 0.0)) for d in (-step, step)]
    assert np.isfinite(by_corr).all()
    tolerance = 0.02 * np.abs(by_corr).max()
    assert abs(np.sum(by_corr * direction) - np.diff(ends)[0] / (2 * step)) < tolerance
    ends = [float(reading(corr, eps)) for eps in (0.0, 1e-6)]
    np.testing.assert_allclose(by_eps, np.diff(ends)[0] / 1e-6, rtol=1e-3)
    assert np.isfinite(jax.grad(reading)(jnp.zeros((F, F)), 0.1)).all()
    assert np.isfinite(jax.grad(reading)(jnp.eye(F), 0.1)).all()


def test_direct_pred_rescues_small_modes():
    """eps > 0 lifts modes over the edge of the basin; eps = 0 leaves them to collapse."""
    eta, aug_var = 0.08, 0.4
    low, high, _ = (float(x) for x in byol_fixed_points(eta, aug_var))
    s = np.array([1e-4, 5e-3, 0.04])

    def velocity(eps):
        def move(s):
            p = jnp.diagonal(direct_pred(jnp.diag(s), eps))
            return [byol_mode_velocity(p, s, 1.0, 1.0, eta, aug_var, 0.0).s]

        return move

    assert (np.sqrt(s) > low).tolist() == [False, False, True]
    (lost,) = integrate(velocity(0.0), (s,), np.array([0.0, 300.0]), rtol=1e-9)[-1]
    np.testing.assert_allclose(lost, [0, 0, high**2], atol=1e-6)
    (kept,) = integrate(velocity(0.1), (s,), np.array([0.0, 300.0]), rtol=1e-9)[-1]
    assert (kept > 0.2).tolist() == [False, True, True]


# --- bad input ----------------------------------------------------------------------------------

EYE, SKEW = np.eye(2), np.array([[1.0, 0.5], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: byol_velocity(np.eye(3), EYE, EYE, EYE, EYE, 1, 0, 0),
            r"Wp must have shape \(2, 2\)",
        ),
        (lambda: byol_velocity(EYE, EYE, np.ones((2, 3)), EYE, EYE, 1, 0, 0), "Wa must have shape"),
        (lambda: byol_velocity(EYE, EYE, EYE, SKEW, EYE, 1, 0, 0), "X must be symmetric"),
        (lambda: byol_velocity(EYE, EYE, EYE, EYE, EYE, 0, 0, 0), "alpha_p must be positive"),
        (lambda: byol_velocity(EYE, EYE, EYE, EYE, EYE, 1, -1, 0), "weight_decay must be non-neg"),
        (lambda: byol_velocity(EYE, EYE, EYE, EYE, EYE, 1, 0, -1), "ema must be non-negative"),
        (lambda: byol_velocity(EYE, np.nan * EYE, EYE, EYE, EYE, 1, 0, 0), "W must be finite"),
        (lambda: byol_imbalance(np.eye(3), EYE), "Wp must have shape"),
        (
            lambda: byol_isotropic_velocity(SKEW, EYE, 1, 1, 0, 0),
            "Wp must be symmetric, got a skew",
        ),
        (
            lambda: byol_alignment_operator(SKEW, EYE, 1, 1, 0, 0),
            "Wp must be symmetric, got a skew",
        ),
        (lambda: byol_isotropic_velocity(EYE, SKEW, 1, 1, 0, 0), "F must be symmetric"),
        (lambda: byol_isotropic_velocity(EYE, EYE, 1, 1, 0, -1), "aug_var must be non-negative"),
        (lambda: augmentation_variance(EYE, SKEW), "Xp must be symmetric"),
        (lambda: byol_mode_velocity(1, -1, 1, 1, 0, 0, 0), "s must be non-negative"),
        (lambda: byol_mode_velocity(np.nan, 1, 1, 1, 0, 0, 0), "p must be finite"),
        (lambda: byol_mode_imbalance(1, 1, -1), "alpha_p must be positive"),
        (lambda: byol_collapse_threshold(-0.1), "aug_var must be non-negative"),
        (lambda: byol_fixed_points(0.1, 0.0, tau=0.0), "tau must be positive"),
        (lambda: byol_fixed_points(-0.1, 0.0), "weight_decay must be non-negative"),
        (lambda: byol_basin_time(np.nan, 1.0, 0.1, 0.0), "p must be finite"),
        (lambda: direct_pred(EYE, 0.1, "papper"), "variant must be one of"),
        (lambda: direct_pred(EYE, -0.1), "eps must be non-negative"),
        (lambda: direct_pred(EYE, np.ones(2)), "eps must be a scalar"),
        (lambda: direct_pred(SKEW, 0.1), "F must be symmetric"),
        (lambda: direct_pred(np.ones((2, 3)), 0.1), "F must be symmetric, got shape"),
        (
            lambda: direct_pred(np.diag([1.0, -0.3]), 0.1),
            "eigenvalues of F must be non-.*, got -0.3",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
