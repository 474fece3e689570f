"""The central flow: gradient flow below the edge, complementarity at it, and gradient descent."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory.stability.central_flow import central_flow_step
from theory.stability.sharpness import dense_eigenpairs

# A network of 97 parameters, in which progressive sharpening is fast.
rng = np.random.default_rng(3)
X = jnp.asarray(rng.standard_normal((24, 4)))
Y = jnp.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]
START = {
    "first": jnp.asarray(rng.standard_normal((16, 4)) / 2),
    "shift": jnp.zeros(16),
    "readout": jnp.asarray(rng.standard_normal(16) / 4),
    "offset": jnp.zeros(()),
}
ETA, LENGTH = 0.6, 1200


def network_loss(params):
    hidden = jnp.tanh(X @ params["first"].T + params["shift"][None])
    return jnp.mean((hidden @ params["readout"] + params["offset"] - Y) ** 2) / 2


def steps(stepper, start, count):
    return jax.lax.scan(lambda now, _: stepper(now), start, None, length=count)


@partial(jax.jit, static_argnames="count")
def flow_path(start, count):
    def stepper(w):
        return central_flow_step(network_loss, w, ETA, max_critical=2)

    return steps(stepper, start, count)


@partial(jax.jit, static_argnames="count")
def descent_path(start, count):
    def stepper(w):
        value, slope = jax.value_and_grad(network_loss)(w)
        return jax.tree.map(lambda p, g: p - ETA * g, w, slope), value

    return steps(stepper, start, count)


@pytest.fixture(scope="module")
def path():
    """History of the flow, losses of gradient descent, and when the edge was reached."""
    history = flow_path(START, LENGTH)[1]
    reached = int(np.argmax(np.asarray(history.eigenvalues[:, 0]) > 1.999 / ETA))
    losses = np.asarray(descent_path(START, LENGTH)[1])
    return jax.tree.map(np.asarray, history), losses, reached


def test_sharpness_stays_at_the_edge_and_the_loss_falls(path):
    history, _, reached = path
    sharpness = history.eigenvalues[:, 0] * ETA / 2
    assert 5 < reached < 50
    assert (sharpness[:reached] < 1).all()
    assert not history.sigma[history.eigenvalues[:, 0] < 1.95 / ETA].any()
    # second order in the substep: a few units of the drift of S over one, squared
    np.testing.assert_allclose(sharpness[reached + 5 :], 1, atol=1e-4)
    assert (np.diff(history.loss) < 0).all()
    np.testing.assert_allclose(
        history.predicted_loss,
        history.loss + np.trace(history.sigma, axis1=1, axis2=2) / ETA,
        rtol=1e-12,
    )
    assert history.residual.max() < 1e-10
    assert not history.saturated.any()


def test_sigma_is_positive_and_complementary(path):
    history, _, reached = path
    sigma, gaps = history.sigma[reached + 5 :], 2 / ETA - history.eigenvalues[reached + 5 :]
    assert np.linalg.eigvalsh(sigma).min() > -1e-12
    products = np.einsum("tii,ti->t", sigma, gaps)
    traces = np.trace(sigma, axis1=1, axis2=2)
    assert (traces > 0).all()
    assert (np.abs(products) < 1e-4 * traces * 2 / ETA).all()


def smoothed(values, window=40):
    return np.convolve(values, np.ones(window) / window, "valid")


def test_average_loss_of_gradient_descent_is_predicted(path):
    """In the median over windows to 6 per cent, which is how far GD still wanders; not without."""
    history, losses, reached = path
    averages = (smoothed(x)[reached + 30 :] for x in (losses, history.predicted_loss, history.loss))
    found, predicted, bare = averages
    assert np.median(np.abs(predicted / found - 1)) < 0.07
    assert np.median(np.abs(bare / found - 1)) > 0.7


def test_on_a_circular_edge_it_is_the_constrained_flow():
    """Sharpness ``2 |z|^2/eta``, force g along z_0: ``d phi/dt = -eta g sin phi``."""
    eta, force, angle, duration = 0.1, 2.0, 1.2, 6
    loss = lambda w: jnp.sum(w[1:] ** 2) / eta * w[0] ** 2 - force * w[1]  # noqa: E731
    start = jnp.array([0.0, np.cos(angle), np.sin(angle)])
    expected = 2 * np.arctan(np.tan(angle / 2) * np.exp(-eta * force * duration))
    radius, direction, variance = [], [], []
    for substeps in (4, 8):
        options = {"learning_rate": eta, "num_substeps": substeps, "max_critical": 1}
        stepper = partial(central_flow_step, loss, **options)
        (x, *z), _ = jax.jit(lambda w, f=stepper: steps(f, w, duration))(start)
        info = jax.jit(stepper)(jnp.array([x, *z]))[1]
        assert x == 0
        radius.append(abs(np.hypot(*z) - 1))
        direction.append(abs(np.arctan2(z[1], z[0]) - expected))
        variance.append(abs(info.sigma.item() - eta * force * np.cos(expected) / 2))
    for errors, order in ((radius, 2), (direction, 1), (variance, 1)):
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def quartic(w):
    return jnp.sum(jnp.arange(1.0, 4) * w**2) / 2 + jnp.sum(w) ** 4 / 4


def test_below_the_edge_it_is_gradient_flow():
    start, eta = jnp.array([0.3, -0.2, 0.4]), 0.1  # sharpness below 7 < 2/eta
    slope = jax.jit(jax.grad(quartic))
    flow = solve_ivp(lambda _, w: -eta * np.asarray(slope(w)), (0, 8), start, rtol=1e-10)
    errors = []
    for substeps in (4, 8):
        options = {"learning_rate": eta, "num_substeps": substeps, "max_critical": 1}
        stepper = partial(central_flow_step, quartic, **options)
        end, info = jax.jit(lambda w, f=stepper: steps(f, w, 8))(start)
        assert not np.any(info.sigma)
        errors.append(np.abs(np.asarray(end) - flow.y[:, -1]).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


SHARPENING = st.floats(0.1, 1.0)


@given(SHARPENING, SHARPENING, st.floats(-1, 1), st.floats(0.05, 0.5))
def test_two_critical_directions_have_a_covariance(alpha1, alpha2, correlation, eta):
    """H - 2/eta = [[z_0, z_2], [z_2, z_1]] stays if Sigma = [[2 a_0, a_2], [a_2, 2 a_1]]."""
    alpha3 = 1.9 * correlation * np.sqrt(alpha1 * alpha2)
    w, info = two_directions(jnp.array([alpha1, alpha2, alpha3]), eta)
    np.testing.assert_allclose(w, 0, atol=1e-9)
    sigma = info.directions[:, :2].T @ info.sigma @ info.directions[:, :2]
    np.testing.assert_allclose(
        sigma, [[2 * alpha1, alpha3], [alpha3, 2 * alpha2]], rtol=1e-7, atol=1e-8
    )
    assert info.predicted_loss == pytest.approx(2 * (alpha1 + alpha2) / eta, rel=1e-7)


@jax.jit
def two_directions(alpha, eta):
    def loss(w):
        x, z = w[:2], w[2:]
        hessian = 2 / eta * jnp.eye(2) + jnp.array([[z[0], z[2]], [z[2], z[1]]])
        return x @ hessian @ x / 2 - alpha @ z

    return central_flow_step(loss, jnp.zeros(5), eta, max_critical=2)


def test_another_eigensolver_pytrees_and_saturation():
    asked = []

    def solver(loss, w, k):
        asked.append(k)
        return dense_eigenpairs(loss, w, k)

    def edge(w):  # two directions at 2/eta for eta = 0.1
        return 10 * jnp.sum(w["x"] ** 2) + w["y"]

    start = {"x": jnp.zeros(2), "y": jnp.ones(())}
    for directions, saturated in ((1, True), (2, False)):
        options = {"max_critical": directions, "eigensolver": solver}
        found, info = central_flow_step(edge, start, 0.1, **options)
        assert bool(info.saturated) == saturated
        assert jax.tree.structure(found) == jax.tree.structure(start)
        assert found["y"] == pytest.approx(0.9)
        assert info.directions.shape == (directions, 3)
    assert set(asked) == {2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": 0.1, "num_substeps": 1}, "num_substeps must be an integer >= 2, got 1"),
        ({"learning_rate": 0.1, "max_critical": 0}, "max_critical must be an integer >= 1"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        central_flow_step(quartic, jnp.ones(3), **options)
