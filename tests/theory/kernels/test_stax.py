"""neural-tangents on the JAX that runs: a sample of its own behaviours, and ours beside them."""

import contextlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.kernels.stax import neural_tangents

nt = neural_tangents()
stax = nt.stax
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((7, 5)))
IMAGES = jnp.asarray(RNG.standard_normal((4, 6, 6, 2)))


def fully_connected(outputs=3):
    layers = [stax.Dense(16, 1.4, 0.3), stax.Relu(), stax.Dense(16, 1.4, 0.3), stax.Erf()]
    return stax.serial(*layers, stax.Dense(outputs, 1.4, 0.3))


def convolutional():
    layers = [stax.Conv(4, (3, 3), padding="SAME"), stax.Relu()] * 2
    return stax.serial(*layers, stax.GlobalAvgPool(), stax.Dense(3))


def attentive():
    attention = stax.GlobalSelfAttention(
        n_chan_out=8, n_chan_key=8, n_chan_val=8, n_heads=2, linear_scaling=True
    )
    flat = [stax.Flatten(), stax.Dense(2)]
    return stax.serial(stax.Dense(8), stax.Relu(), attention, *flat)


def test_nothing_is_touched_before_the_call():
    code = (
        "import jax.core, theory.kernels.stax, sys;"
        "print(hasattr(jax.core, 'DShapedArray'), 'neural_tangents' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("network", [fully_connected, convolutional])
@pytest.mark.parametrize("trace_axes", [(), (-1,)])
def test_all_empirical_implementations_agree(network, trace_axes):
    init, apply, _ = network()
    x = X if network is fully_connected else IMAGES
    _, params = init(jax.random.key(0), (-1, *x.shape[1:]))

    def kernel(implementation):
        options = {"trace_axes": trace_axes, "vmap_axes": 0, "implementation": implementation}
        with contextlib.redirect_stdout(None):  # the automatic choice prints what it tries
            return jax.jit(nt.empirical_ntk_fn(apply, **options))(x, x[:3], params)

    reference = kernel(1)  # Jacobians, contracted
    assert reference.shape == (len(x), 3) + (() if trace_axes else (3, 3))
    for implementation in (2, 3, 0) if network is fully_connected else (2, 3):
        np.testing.assert_allclose(
            kernel(implementation), reference, atol=1e-12 * float(jnp.abs(reference).max())
        )


def test_the_first_implementation_is_a_product_of_jacobians():
    init, apply, _ = fully_connected()
    _, params = init(jax.random.key(1), (-1, 5))
    jacobian = jax.jacobian(apply)(params, X)
    rows = [leaf.reshape(7, 3, -1) for leaf in jax.tree.leaves(jacobian)]
    dense = sum(jnp.einsum("iap,jbp->ijab", leaf, leaf) for leaf in rows)
    found = nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=1)
    np.testing.assert_allclose(found(X, None, params), dense, rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Linear scaling attention")
@pytest.mark.parametrize("network", [convolutional, attentive])
def test_infinite_kernels_are_kernels(network):
    """Symmetric, positive semidefinite, and the tangent kernel is the larger one."""
    _, _, kernel = network()
    x = IMAGES if network is convolutional else IMAGES.reshape(4, 36, 2)
    found = kernel(x, None, ("nngp", "ntk"))
    for name in ("nngp", "ntk"):
        values = np.asarray(getattr(found, name))
        assert values.shape == (4, 4)
        np.testing.assert_allclose(values, values.T, rtol=1e-12)
        assert np.linalg.eigvalsh(values)[0] > -1e-10 * np.trace(values)
    assert np.linalg.eigvalsh(np.asarray(found.ntk - found.nngp))[0] > -1e-10


def test_predictions_follow_the_flow_of_the_mean_over_all_entries():
    kernel = fully_connected(1)[2](X, None, "ntk")
    y = jnp.asarray(RNG.standard_normal((7, 1)))
    values, vectors = np.linalg.eigh(kernel)
    decay = (vectors * -np.expm1(-2.0 * values / y.size)) @ vectors.T
    found = nt.predict.gradient_descent_mse(kernel, y)(2.0, jnp.zeros((7, 1)))
    np.testing.assert_allclose(found, decay @ y, atol=1e-9)
    scaled = jax.vmap(
        lambda s: nt.predict.gradient_descent_mse(s * kernel, y)(2.0, jnp.zeros((7, 1)))
    )(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(scaled[1], found, atol=1e-9)
    rate = nt.predict.max_learning_rate(kernel, y_train_size=7)
    assert float(rate) == pytest.approx(14 / values[-1], rel=1e-9)


def test_linearization_is_first_order():
    init, apply, _ = fully_connected()
    _, params = init(jax.random.key(0), (-1, 5))
    moved = jax.tree.map(lambda w: w + 1e-3, params)
    change = jax.tree.map(lambda w: 1e-3 * jnp.ones_like(w), params)
    expected = apply(params, X) + jax.jvp(lambda p: apply(p, X), (params,), (change,))[1]
    np.testing.assert_allclose(nt.linearize(apply, params)(moved, X), expected, rtol=1e-12)
