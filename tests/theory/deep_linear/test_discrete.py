"""Finite learning rates: exact drifts, orders of accuracy, moments of stochastic descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from theory.deep_linear.discrete import (
    balance_drift,
    gd_error_leading,
    mode_imbalance_path,
    modified_flow,
    sgd_mean_square_edge,
    sgd_second_moment,
    sgd_second_moment_matrix,
    sgd_stationary_excess,
)

SEEDS = st.integers(0, 2**32 - 1)


def imbalance(W1, W2):
    return W2.T @ W2 - W1 @ W1.T


# --- balance ------------------------------------------------------------------------------------


def small_integers(*shape):
    return arrays(float, shape, elements=st.integers(-4, 4).map(float))


@given(
    W1=small_integers(3, 4),
    W2=small_integers(2, 3),
    sigma_yx=small_integers(2, 4),
    half=small_integers(4, 4),
    lr=st.sampled_from([0.5, 2.0**-7, 2.0**-12]),
)
def test_balance_drifts_exactly(W1, W2, sigma_yx, half, lr):
    """In numbers that float64 represents exactly the two sides are equal, not just close."""
    E = sigma_yx - W2 @ W1 @ (half @ half.T)
    stepped = imbalance(W1 + lr * W2.T @ E, W2 + lr * E @ W1.T)
    np.testing.assert_array_equal(balance_drift(W1, W2, E, lr), stepped - imbalance(W1, W2))
    quarter = balance_drift(W1, W2, E, lr / 2)  # nothing of first order: flow conserves balance
    np.testing.assert_array_equal(4 * quarter, balance_drift(W1, W2, E, lr))


@given(SEEDS, st.floats(1e-3, 0.3))
def test_balance_drift_for_any_loss(seed, lr):
    """Softmax cross-entropy on arbitrary inputs: E is minus the gradient in the product."""
    rng = np.random.default_rng(seed)
    W1, W2, x = (rng.standard_normal(shape) for shape in ((3, 4), (2, 3), (4, 6)))
    by_W1, by_W2, E = cross_entropy_descent(W1, W2, x)
    stepped = imbalance(W1 + lr * by_W1, W2 + lr * by_W2)
    found = np.asarray(balance_drift(W1, W2, E, lr))
    np.testing.assert_allclose(found, stepped - imbalance(W1, W2), atol=1e-13 * 6 * 4)
    assert np.abs(found).max() > 0


@jax.jit
def cross_entropy_descent(W1, W2, x):
    def loss(product):
        return -jnp.sum(jax.nn.log_softmax(product @ x, axis=0)[0])

    by_W1, by_W2 = jax.grad(lambda W1, W2: loss(W2 @ W1), (0, 1))(W1, W2)
    return -by_W1, -by_W2, -jax.grad(loss)(W2 @ W1)


@given(SEEDS, st.floats(0.01, 0.1), st.floats(0, 1))
def test_mode_imbalance_along_noisy_descent(seed, lr, noise):
    rng = np.random.default_rng(seed)
    (a, b), s = rng.uniform(0.3, 1.2, 2), 1.7
    start, residuals, found = a**2 - b**2, [], []
    for kick in noise * rng.standard_normal(40):
        e = s - a * b + kick
        a, b = a + lr * b * e, b + lr * a * e
        residuals.append(e)
        found.append(a**2 - b**2)
    predicted = np.asarray(mode_imbalance_path(start, np.array(residuals), lr))
    np.testing.assert_allclose(predicted, found, rtol=1e-8, atol=1e-13)
    assert (np.diff(np.abs([start, *predicted])) <= 0).all()  # |lr e| < 1: it only ever shrinks


@given(a=st.floats(-2, 2), b=st.floats(-2, 2), e=st.floats(-3, 3), lr=st.floats(1e-3, 1))
def test_mode_imbalance_is_the_matrix_drift(a, b, e, lr):
    """One unit each: W2^T W2 - W1 W1^T = -(a^2 - b^2)."""
    c = a**2 - b**2
    drift = balance_drift(*(np.array([[x]]) for x in (a, b, e)), lr)
    step = mode_imbalance_path(c, np.array([e]), lr)[0] - c
    np.testing.assert_allclose(float(step), -float(drift[0, 0]), rtol=1e-9, atol=1e-13)


def test_mode_imbalance_broadcasts():
    residuals = np.random.default_rng(0).standard_normal((3, 5))
    path = mode_imbalance_path(np.array([1.0, 2.0, -1.0]), residuals, 0.1)
    assert path.shape == (3, 5)
    single = mode_imbalance_path(2.0, residuals[1], 0.1)
    np.testing.assert_allclose(path[1], single, rtol=1e-14)


# --- orders of accuracy -------------------------------------------------------------------------


def euler(f, x, lr, steps):
    return jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, x: x + lr * f(x), x))(x)


def flow(f, x, time):
    compiled = jax.jit(f)
    path = solve_ivp(
        lambda _, x: np.asarray(compiled(x)), (0, time), x, method="DOP853", rtol=1e-13, atol=1e-15
    )
    return path.y[:, -1]


def order(rates, errors):
    """The exponent of the power law through the errors."""
    return np.polyfit(np.log(rates), np.log(errors), 1)[0]


def two_layer_network():
    """Velocity of a whole two-layer network on non-white data, as one flat vector; a start."""
    rng = np.random.default_rng(1)
    sigma_yx, half = rng.standard_normal((2, 3)), rng.standard_normal((3, 3))
    sigma_xx = np.eye(3) + half @ half.T / 3
    weights = {"W1": 0.4 * rng.standard_normal((4, 3)), "W2": 0.4 * rng.standard_normal((2, 4))}
    start, unravel = ravel_pytree(weights)

    def velocity(flat):
        W1, W2 = unravel(flat)["W1"], unravel(flat)["W2"]
        E = sigma_yx - W2 @ W1 @ sigma_xx
        return ravel_pytree({"W1": W2.T @ E, "W2": E @ W1.T})[0]

    return velocity, np.asarray(start), 1.5


def one_mode():
    return lambda a: a * (1.7 - a * a), np.array([0.3]), 2.0


@pytest.mark.parametrize("system", [one_mode, two_layer_network])
def test_descent_is_first_order_from_flow_and_second_from_the_modified_one(system):
    f, start, time = system()
    steps = np.array([100, 200, 400, 800])
    rates = time / steps
    exact = flow(f, start, time)
    errors = []
    for lr, n in zip(rates, steps, strict=True):
        end = np.asarray(euler(f, start, lr, n))
        better = flow(modified_flow(f, lr), start, time)
        errors.append([np.linalg.norm(end - exact), np.linalg.norm(end - better)])
    plain, modified = np.transpose(errors)
    assert abs(order(rates, plain) - 1) < 0.03
    assert abs(order(rates, modified) - 2) < 0.06


LAWS = {
    "learning": (lambda a: a * (1.7 - a * a), 0.3, 2.0),
    "decay": (lambda a: -(a**2), 1.5, 2.0),
    "downhill": (lambda a: 1.0 - jnp.exp(a), 0.8, 1.0),
}


@pytest.mark.parametrize("law", LAWS)
def test_leading_error_leaves_one_of_second_order(law):
    f, a0, time = LAWS[law]
    (exact,) = flow(f, np.array([a0]), time)
    steps = np.array([200, 400, 800])
    rates = time / steps
    left, whole = [], []
    for lr, n in zip(rates, steps, strict=True):
        error = float(euler(f, a0, lr, n)) - exact
        whole.append(error)
        left.append(abs(error - float(gd_error_leading(f, exact, a0, lr))))
    assert abs(order(rates, left) - 2) < 0.05
    assert max(left) < 0.05 * np.abs(whole).min()


@given(x=arrays(float, 3, elements=st.floats(-2, 2)), lr=st.floats(1e-3, 1))
def test_modified_flow_of_a_gradient_descends_a_modified_loss(x, lr):
    """L + (lr/4) |dL/dx|^2, by autodiff."""
    found, expected = modified_descent(x, lr)
    np.testing.assert_allclose(found, expected, atol=1e-12 * 100)


@jax.jit
def modified_descent(x, lr):
    def loss(x):
        return jnp.sum(x**4) / 4 + jnp.prod(jnp.sin(x)) + x[0] * x[1] ** 2

    def modified_loss(x):
        return loss(x) + lr / 4 * jnp.sum(jax.grad(loss)(x) ** 2)

    descent = modified_flow(lambda x: -jax.grad(loss)(x), lr)
    return descent(x), -jax.grad(modified_loss)(x)


def test_modified_flow_of_a_tree():
    flow = modified_flow(lambda x: {"a": x["b"], "b": -x["a"]}, 0.5)
    found = flow({"a": 1.0, "b": jnp.array([2.0])[0]})
    assert {name: float(x) for name, x in found.items()} == {"a": 2.25, "b": -0.5}


def test_leading_error_at_equilibria():
    def f(a):
        return a * (1 - a)

    error = gd_error_leading(f, jnp.array([1.0, 0.5, 0.5]), jnp.array([0.5, 0.5, 0.2]), 0.1)
    assert error[:2].tolist() == [0.0, 0.0]
    assert error[2] < 0  # descent lags behind an accelerating flow
    slopes = jax.grad(lambda a: gd_error_leading(f, a, 0.5, 0.1))(1.0)
    assert np.isfinite(slopes)
    assert gd_error_leading(f, jnp.float32(0.5), jnp.float32(0.2), 0.1).dtype == jnp.float32


# --- moments of stochastic descent --------------------------------------------------------------

SPECTRA = st.one_of(
    arrays(float, 4, elements=st.floats(-4, 2).map(lambda x: 10.0**x)),
    st.sampled_from([[1.0] * 4, [2.0, 2.0, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0]]).map(np.array),
)
BATCHES = st.sampled_from([1, 2, 7, 100])


@settings(max_examples=30)
@given(
    d=arrays(float, 2, elements=st.floats(-2, 2)),
    lam=st.tuples(st.floats(0, 3), st.floats(0, 3)).map(np.array),
    lr=st.floats(0.01, 1),
    noise_var=st.floats(0, 2),
    batch=st.sampled_from([1, 2]),
)
def test_one_step_by_exact_quadrature(d, lam, lr, noise_var, batch):
    """The average over x and noise of a polynomial: 3 Gauss-Hermite nodes per variable do it."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    per_example = 3  # two inputs and the noise
    grid = np.stack(np.meshgrid(*[nodes] * (per_example * batch), indexing="ij"), -1)
    mass = np.stack(np.meshgrid(*[weights] * (per_example * batch), indexing="ij"), -1).prod(-1)
    z = grid.reshape(-1, batch, per_example)
    x, noise = z[..., :2] * np.sqrt(lam), z[..., 2] * np.sqrt(noise_var)
    gradient = np.mean((x @ d - noise)[..., None] * x, axis=1)
    stepped = (d - lr * gradient) ** 2
    expected = mass.ravel() @ stepped / mass.sum()
    found = sgd_second_moment(d**2, lam, lr, noise_var, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("batch", "runs"), [(1, 40000), (4, 10000)])
def test_second_moments_against_sampled_runs(batch, runs):
    """Ten steps, every mode within 4 standard errors."""
    rng = np.random.default_rng(batch)
    lam, noise_var, lr = np.array([2.0, 1.2, 0.7, 0.2]), 0.3, 0.12
    start = rng.standard_normal(4)
    moments, d = start**2, np.tile(start, (runs, 1))
    for _ in range(10):
        moments = sgd_second_moment(moments, lam, lr, noise_var, batch)
        x = rng.standard_normal((runs, batch, 4)) * np.sqrt(lam)
        noise = np.sqrt(noise_var) * rng.standard_normal((runs, batch))
        error = np.einsum("rbi,ri->rb", x, d) - noise
        d = d - lr * np.einsum("rb,rbi->ri", error, x) / batch
    z = (np.mean(d**2, 0) - moments) / (np.std(d**2, 0) / np.sqrt(runs))
    assert np.abs(z).max() < 4


@given(SPECTRA, st.floats(0.001, 3), st.just(0.0) | st.floats(1e-9, 2), BATCHES)
def test_matrix_is_the_recursion(lam, lr, noise_var, batch):
    m = np.arange(4.0)
    A = np.asarray(sgd_second_moment_matrix(lam, lr, batch))
    found = sgd_second_moment(m, lam, lr, noise_var, batch)
    np.testing.assert_allclose(found, A @ m + lr**2 / batch * noise_var * lam, rtol=1e-11)


@given(SPECTRA, BATCHES)
@example(np.array([1.0, 1e-8, 1e-8, 1e-8]), 1)
@example(np.array([1.0, 1 - 1e-12, 1 - 1e-9, 0.5]), 100)
def test_edge_is_where_the_spectral_radius_is_one(lam, batch):
    edge = float(sgd_mean_square_edge(lam, batch))

    def radius(lr):
        return np.abs(np.linalg.eigvals(sgd_second_moment_matrix(lam, lr, batch))).max()

    np.testing.assert_allclose(radius(edge), 1, rtol=1e-10)
    assert radius(1.01 * edge) > 1
    assert radius(0.99 * edge) < 1 or (lam == 0).any()  # a mode without input never moves
    assert 2 / (lam.sum() / lam.max() + 2) / lam.max() <= edge * (1 + 1e-12) <= 2 / lam.max()
    if batch == 1:
        np.testing.assert_allclose(np.sum(edge * lam / (2 * (1 - edge * lam))), 1, rtol=1e-9)


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("modes", [1, 8, 1000])
def test_edge_of_equal_modes(modes, batch):
    found = sgd_mean_square_edge(np.full(modes, 0.7), batch)
    np.testing.assert_allclose(found, 2 * batch / ((modes + batch + 1) * 0.7), rtol=1e-12)


def test_edge_of_extreme_spectra():
    """One strong mode among a million weak ones, and thousands of scales."""
    for lam in (np.r_[1.0, np.full(10**6, 1e-5)], np.logspace(-12, 0, 5000)):
        edge = float(sgd_mean_square_edge(lam, 2))
        kappa = np.sum(edge * lam / (4 - 3 * edge * lam))
        np.testing.assert_allclose(kappa, 1, rtol=1e-9)


@given(SPECTRA, BATCHES)
def test_edge_has_the_derivative_of_its_scaling(lam, batch):
    """The edge of c lam is 1/c that of lam, so lam . d edge / d lam = -edge."""
    edge, slope = edge_and_slope(lam, batch)
    np.testing.assert_allclose(lam @ slope, -edge, rtol=1e-9)
    np.testing.assert_allclose(sgd_mean_square_edge(3 * lam, batch), edge / 3, rtol=1e-12)


edge_and_slope = jax.jit(jax.value_and_grad(sgd_mean_square_edge), static_argnums=1)


@given(SPECTRA, st.floats(0.01, 0.99), st.floats(0.01, 3), BATCHES)
def test_stationary_excess_is_the_fixed_point(lam, share, noise_var, batch):
    lr = share * float(sgd_mean_square_edge(lam, batch))
    found = float(sgd_stationary_excess(lam, lr, noise_var, batch))
    active = lam[lam > 0]
    A = np.asarray(sgd_second_moment_matrix(active, lr, batch))
    source = lr**2 / batch * noise_var * active
    settled = np.linalg.solve(np.eye(active.size) - A, source)
    np.testing.assert_allclose(found, active @ settled, rtol=1e-7)
    kept = sgd_second_moment(settled, active, lr, noise_var, batch)
    np.testing.assert_allclose(kept, settled, rtol=1e-9)


def test_stationary_excess_diverges_at_the_edge():
    lam = np.array([1.0, 0.5, 0.1])
    edge = sgd_mean_square_edge(lam)
    rates = np.array([0.5, 0.999, 1.001, 5.0]) * np.asarray(edge)
    found = np.asarray(sgd_stationary_excess(lam, rates, 1.0))
    assert np.isfinite(found).tolist() == [True, True, False, False]
    assert found[1] > 100 * found[0]
    slopes = jax.vmap(jax.grad(lambda lr: sgd_stationary_excess(lam, lr, 1.0)))(rates)
    assert np.isfinite(slopes).all()


# --- bad input ----------------------------------------------------------------------------------

EYE, ONE = np.eye(2), np.ones(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balance_drift(EYE, np.eye(3), EYE, 0.1), "W2 must have shape"),
        (lambda: balance_drift(EYE, EYE, np.ones((2, 3)), 0.1), r"E must have shape \(2, 2\)"),
        (lambda: balance_drift(EYE, EYE, EYE, 0.0), "lr must be positive"),
        (lambda: balance_drift(EYE, EYE, np.nan * EYE, 0.1), "E must be finite"),
        (lambda: mode_imbalance_path(1.0, np.array(1.0), 0.1), "residuals must be an array"),
        (lambda: mode_imbalance_path(np.inf, ONE, 0.1), "imbalance must be finite"),
        (lambda: modified_flow(lambda x: x, -0.1), "lr must be positive"),
        (lambda: gd_error_leading(lambda a: a, 1.0, -1.0, 0.1), "a must be where the flow"),
        (lambda: gd_error_leading(lambda a: a, 1.0, 2.0, 0.0), "lr must be positive"),
        (lambda: sgd_second_moment(-ONE, ONE, 0.1, 0.0), "m must be non-negative"),
        (lambda: sgd_second_moment(ONE, np.array(1.0), 0.1, 0.0), r"lam must be \(..., modes\)"),
        (lambda: sgd_second_moment(ONE, ONE, 0.1, -1.0), "noise_var must be non-negative"),
        (lambda: sgd_second_moment(ONE, ONE, 0.1, 0.0, 0), "batch must be an integer >= 1"),
        (lambda: sgd_second_moment(ONE, ONE, 0.1, 0.0, 1.5), "batch must be an integer >= 1"),
        (lambda: sgd_second_moment_matrix(EYE, 0.1), "lam must be a vector"),
        (lambda: sgd_mean_square_edge(0 * ONE), "lam must be positive somewhere"),
        (lambda: sgd_mean_square_edge(ONE, 0), "batch must be an integer >= 1"),
        (lambda: sgd_stationary_excess(ONE, 0.0, 1.0), "lr must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
