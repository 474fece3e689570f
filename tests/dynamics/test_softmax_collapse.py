"""StableMax, perpGrad and collapse: definitions in NumPy, Euler's theorem, edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynamics.softmax_collapse import (
    collapsed_fraction,
    log_stablemax,
    perpendicular,
    scaling_cosine,
)

logits = arrays(float, (3, 4), elements=st.floats(-1e6, 1e6))
vectors = arrays(float, (5,), elements=st.floats(-10, 10))


@given(logits)
def test_stablemax_is_its_definition_and_a_distribution(z):
    s = np.where(z >= 0, z + 1, 1 / (1 - np.minimum(z, 0)))
    shares = np.exp(log_stablemax(z))
    np.testing.assert_allclose(shares, s / s.sum(axis=-1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-9)
    assert (shares > 0).all()
    order = np.argsort(z, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(shares, order, -1)) >= -1e-15).all()
    assert np.isfinite(jax.grad(lambda z: log_stablemax(z)[0, 0])(z)).all()


def test_stablemax_has_one_derivative_at_zero_and_keeps_a_gradient_at_large_gaps():
    slope = jax.grad(lambda z: log_stablemax(jnp.stack([z, 1.0]))[0])
    assert float(slope(1e-9)) == pytest.approx(float(slope(-1e-9)), abs=1e-8)
    gap = jnp.array([1e3, 0.0], jnp.float32)
    assert float(-log_stablemax(gap)[0]) == pytest.approx(1 / 1001, rel=1e-3)
    assert float(jnp.linalg.norm(jax.grad(lambda z: log_stablemax(z)[0])(gap))) > 0


@pytest.mark.parametrize(("dtype", "digits"), [(jnp.float32, 24), (jnp.float64, 53)])
def test_samples_collapse_beyond_the_digits(dtype, digits):
    """1 + e^-gap rounds to 1 below half a unit in the last place."""
    edge = digits * np.log(2)
    for gap, share in ((edge - 0.7, 0.0), (edge + 0.7, 1.0)):
        z = jnp.array([[gap, 0.0]], dtype)
        assert float(collapsed_fraction(z, jnp.array([0]))) == share


@given(vectors, vectors)
def test_perpendicular_gradients(w, g):
    state = optax.EmptyState()
    tree, gradient = (
        {"a": jnp.asarray(w[:2]), "b": jnp.asarray(w[2:])},
        {
            "a": jnp.asarray(g[:2]),
            "b": jnp.asarray(g[2:]),
        },
    )
    whole = perpendicular("all").update(gradient, state, tree)[0]
    assert abs(float(optax.tree.vdot(whole, tree))) <= 1e-12 * (
        1 + np.abs(w).max() * np.abs(g).max()
    )
    by_tensor = perpendicular("tensor").update(gradient, state, tree)[0]
    for name, part in by_tensor.items():
        size = float(jnp.linalg.norm(gradient[name]))
        assert abs(float(part @ tree[name])) <= 1e-6 * (
            1 + size * float(jnp.linalg.norm(tree[name]))
        )
        kept = float(jnp.linalg.norm(part))
        assert kept == pytest.approx(size, rel=1e-9) or kept == 0


def test_a_gradient_along_its_weights_leaves_nothing():
    w = jax.random.normal(jax.random.key(0), (50,))
    for scope in ("tensor", "all"):
        update = perpendicular(scope)
        left = update.update(-3.7 * w, update.init(w), w)[0]
        assert float(jnp.linalg.norm(left)) < 1e-13 * float(jnp.linalg.norm(w))


def test_along_the_flow_the_norm_stays_with_all_and_descent_is_unharmed():
    """d|w|^2/dt = 2 w . dw/dt = 0: a step of size eta changes |w|^2 by eta^2 |g|^2 only."""
    update = optax.chain(perpendicular("all"), optax.sgd(1e-3))
    w, loss = jnp.array([1.0, 2.0, 2.0]), lambda w: jnp.sum((w - jnp.array([3.0, 0.0, 0.0])) ** 2)
    state, start = update.init(w), float(loss(w))
    for _ in range(1000):
        step, state = update.update(jax.grad(loss)(w), state, w)
        w = optax.apply_updates(w, step)
    assert float(jnp.linalg.norm(w)) == pytest.approx(3.0, abs=2e-2)
    assert float(loss(w)) < 0.2 * start


@given(st.integers(0, 2**32 - 1))
def test_homogeneous_networks_lower_their_loss_by_scaling_once_all_is_right(seed):
    """Euler: theta . grad loss = d <z, dloss/dz>, d = 3 weight matrices of a ReLU network."""
    rng = np.random.default_rng(seed)
    shapes = ((4, 6), (6, 6), (6, 3))
    params = [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]
    x = rng.standard_normal((5, 4))

    def apply(params):
        return jax.nn.relu(jax.nn.relu(x @ params[0]) @ params[1]) @ params[2]

    z = apply(params)
    labels = jnp.argmax(z, axis=1)  # all right

    def loss(z):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=1))

    gradient = jax.grad(lambda p: loss(apply(p)))(params)
    radial = float(optax.tree.vdot(params, gradient))
    assert radial == pytest.approx(3 * float(jnp.sum(z * jax.grad(loss)(z))), rel=1e-9, abs=1e-12)
    assert radial <= 0
    assert 0 <= float(scaling_cosine(gradient, params)) <= 1 + 1e-12


def test_unknown_scopes_and_missing_weights_are_refused():
    with pytest.raises(ValueError, match="scope"):
        perpendicular("layer")
    with pytest.raises(ValueError, match="params"):
        perpendicular().update(jnp.ones(2), optax.EmptyState())
