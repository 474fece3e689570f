"""Kernel, vertex and tangent kernel over depth against integrals, autodiff and sampled networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from dynamics.models import mlp
from theory.kernels.depth_recursions import (
    LayerStatistics,
    depth_recursion,
    layer_step,
    preactivation_average,
    scale_invariant_moment,
    susceptibilities,
)
from theory.numerics import gaussian_average


def gelu(z):
    return jax.nn.gelu(z, approximate=False)


def leaky(z):
    return jnp.where(z > 0, z, -0.5 * z)


def identity(z):
    return z


POWERS = [lambda z, k=k: z ** (2 * k) for k in range(7)]

# name: (in JAX, in NumPy, its derivative in NumPy)
ACTIVATIONS = {
    "tanh": (jnp.tanh, np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (jax.nn.relu, lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "leaky": (leaky, lambda z: np.where(z > 0, z, -0.5 * z), lambda z: np.where(z > 0, 1, -0.5)),
    "gelu": (
        gelu,
        lambda z: z * special.ndtr(z),
        lambda z: special.ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
    ),
    "linear": (identity, lambda z: z, lambda z: 1.0),
}
names = st.sampled_from(sorted(ACTIVATIONS))
kernels = st.floats(-3, 2).map(lambda e: 10.0**e)


def average(f, kernel):
    """<f>_K by the trapezoidal rule in log |z|, on both sides of 0."""
    t = np.linspace(-40, np.log(13), 1500)
    x = np.exp(t)
    density = x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (t[1] - t[0])
    return np.sum(density * (f(np.sqrt(kernel) * x) + f(-np.sqrt(kernel) * x)))


# compiled once an activation: eager, every call dispatches some fifty operations
compiled_step = jax.jit(layer_step, static_argnames=("activation", "kinks"))
compiled_average = jax.jit(preactivation_average, static_argnames=("f", "kinks"))


@partial(jax.jit, static_argnames="phi")
def kernel_derivatives(kernel, *, phi):
    def next_kernel(K):
        return 1.7 * preactivation_average(lambda z: phi(z) ** 2, K)

    return jax.grad(next_kernel)(kernel), jax.grad(jax.grad(next_kernel))(kernel)


@given(kernel=kernels, kink=st.floats(-3, 3), power=st.integers(1, 6))
def test_averages_of_powers_and_of_a_shifted_kink(kernel, kink, power):
    found = compiled_average(POWERS[power], kernel)
    exact = kernel**power * special.factorial2(2 * power - 1)
    assert float(found) == pytest.approx(exact, rel=1e-11)
    scale = np.sqrt(kernel)
    ramp = preactivation_average(lambda z: jnp.maximum(z - kink, 0.0), kernel, kinks=(kink,))
    exact = scale * stats.norm.pdf(kink / scale) - kink * special.ndtr(-kink / scale)
    assert float(ramp) == pytest.approx(exact, abs=1e-13 * (scale + abs(kink)))


def test_averages_broadcast_and_resolve_a_step_thirty_times_narrower_than_the_density():
    kernel = jnp.array([[0.0, 1.0, 900.0]])
    found = preactivation_average(lambda z: jnp.tanh(z) ** 2, kernel)
    scale = jnp.sqrt(kernel)
    other = gaussian_average(
        lambda z: jnp.tanh(scale[..., None] * z) ** 2, 1 / jnp.maximum(scale, 1.0)
    )
    np.testing.assert_allclose(found, other, rtol=1e-11)


@given(
    name=names,
    kernel=kernels,
    C_W=st.floats(0.2, 3),
    C_b=st.sampled_from([0.0, 0.3]),
    sizes=st.tuples(st.integers(1, 99), st.integers(1, 99)),
)
def test_step_against_adaptive_integration(name, kernel, C_W, C_b, sizes):
    """In forms without derivatives where the module integrates by parts, and conversely."""
    jax_phi, phi, slope = ACTIVATIONS[name]
    V, G1, H, lam_W, lam_b, (n, n_prev) = 0.7, -0.4, 1.3, 0.8, 0.5, sizes
    state = LayerStatistics(*map(jnp.asarray, (kernel, V, G1, H)))
    found = compiled_step(
        state, n, n_prev, activation=jax_phi, weight_variance=C_W, bias_variance=C_b,
        weight_rate=lam_W, bias_rate=lam_b,
    )  # fmt: skip
    second, fourth = average(lambda z: phi(z) ** 2, kernel), average(lambda z: phi(z) ** 4, kernel)
    mixed = average(lambda z: phi(z) ** 2 * (z * z / kernel - 1), kernel) / (2 * kernel)
    he4 = np.polynomial.hermite_e.HermiteE([0, 0, 0, 0, 1])
    bend = average(lambda z: phi(z) ** 2 * he4(z / np.sqrt(kernel)), kernel) / kernel**2
    chi, perpendicular = C_W * mixed, C_W * average(lambda z: slope(z) ** 2, kernel)
    expected = (
        C_b + C_W * second,
        C_W**2 * (fourth - second**2) + chi**2 * V * n / n_prev,
        (chi * G1 + C_W / 8 * bend * V) * n / n_prev,
        lam_b + lam_W * second + perpendicular * H,
    )
    # The fourth Hermite moment cancels to eps/K.
    slack = 1e-11 * n / n_prev * (1 + 1 / kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=slack)


@given(name=names, kernel=kernels)
def test_susceptibility_and_bend_are_derivatives_of_the_kernel_map(name, kernel):
    phi = ACTIVATIONS[name][0]
    slope, curvature = kernel_derivatives(kernel, phi=phi)
    chi = susceptibilities(kernel, activation=phi, weight_variance=1.7)
    assert float(chi.parallel) == pytest.approx(float(slope), rel=1e-10)
    state = LayerStatistics(*map(jnp.asarray, (kernel, 1.0, 0.0, 0.0)))
    bend = 2 * compiled_step(state, 5, 5, activation=phi, weight_variance=1.7).correction
    assert float(bend) == pytest.approx(float(curvature), rel=1e-9, abs=1e-12 / kernel)


def sampled_variances(phi, x2, widths, C_W, C_b, samples, rng):
    """G of the last layer: the units of a layer are iid N(0, G) given the layer before."""
    G = np.full(samples, C_b + C_W * x2)
    for n in widths:
        G = C_b + C_W * (phi(np.sqrt(G)[:, None] * rng.standard_normal((samples, n))) ** 2).mean(1)
    return G


def moments_with_errors(G):
    """Mean and variance, with standard errors."""
    centred = G - G.mean()
    error = np.sqrt(((centred**2).var()) / len(G))
    return np.array([G.mean(), G.var()]), np.array([G.std() / np.sqrt(len(G)), error])


@pytest.mark.parametrize(("name", "C_W", "C_b"), [("tanh", 1.5, 0.1), ("gelu", 1.98, 0.17)])
def test_vertex_and_correction_are_the_first_order_of_sampled_layers(name, C_W, C_b):
    """At widths n and 2n, extrapolated: what remains is O(1/n^2) of the first-order term."""
    jax_phi, phi, _ = ACTIVATIONS[name]
    widths, samples, rng = np.array([30, 50, 20]), 60_000, np.random.default_rng(1)
    theory = depth_recursion(
        1.0, widths, activation=jax_phi, weight_variance=C_W, bias_variance=C_b
    )
    K, V, G1 = (float(x[-1]) for x in theory[:3])
    found, error = zip(
        *(
            moments_with_errors(sampled_variances(phi, 1.0, c * widths, C_W, C_b, samples, rng))
            for c in (1, 2)
        ),
        strict=True,
    )
    n = widths[-1]
    scaled = [c * n * (value - np.array([K, 0])) for c, value in zip((1, 2), found, strict=True)]
    extrapolated = 2 * scaled[1] - scaled[0]
    spread = np.hypot(4 * n * error[1], n * error[0])
    second_order = np.sum((1 / widths) ** 2) * len(widths) * np.array([V / K, V])
    assert np.all(abs(extrapolated - [G1, V]) <= 4 * spread + second_order)
    assert spread[1] < 0.03 * V


@pytest.mark.parametrize(("up", "down"), [(1.0, 1.0), (1.0, 0.0), (1.0, -0.5)])
def test_second_moment_of_scale_invariant_networks_at_small_width(up, down):
    """Exact at any width: sampled, and of first order what the vertex says."""
    widths, rng = np.array([9, 5, 12]), np.random.default_rng(0)
    phi = lambda z: np.where(z > 0, up, down) * z  # noqa: E731
    exact = float(scale_invariant_moment(widths, up, down))
    C_W = 2 / (up**2 + down**2)
    G = sampled_variances(phi, 1.0, widths, C_W, 0.0, 200_000, rng) / C_W
    value, error = (G**2).mean(), (G**2).std() / np.sqrt(len(G))
    assert abs(value - exact) <= 4 * error
    assert error < 0.03 * exact
    theory = depth_recursion(
        1.0, widths, activation=lambda z: jnp.where(z > 0, up, down) * z, weight_variance=C_W
    )
    relative = theory.vertex[-1] / (widths[-1] * theory.kernel[-1] ** 2)
    small = 1e-6
    first_order = (float(scale_invariant_moment(widths / small, up, down)) - 1) / small
    assert float(relative) == pytest.approx(first_order, rel=1e-4)  # O(small), and rounding/small


def test_scale_invariant_laws():
    relu = depth_recursion(1.0, np.full(40, 7), activation=jax.nn.relu, weight_variance=2.0)
    layer = np.arange(41)
    np.testing.assert_allclose(relu.kernel, 2.0, rtol=1e-12)
    np.testing.assert_allclose(relu.vertex, 5 * layer * 4, rtol=1e-11)
    np.testing.assert_allclose(relu.tangent_kernel, 2.0 * (layer + 1), rtol=1e-11)
    np.testing.assert_allclose(relu.correction, 0.0, atol=1e-10)  # the map is linear in K
    linear = depth_recursion(1.0, np.full(40, 7), activation=identity, weight_variance=1.0)
    np.testing.assert_allclose(linear.vertex, 2 * layer, rtol=1e-11)


@given(
    name=st.sampled_from(["relu", "leaky", "linear"]),
    kernel=st.floats(0.01, 100.0),
    C_W=st.floats(0.3, 3.0),
    width=st.integers(1, 1000),
)
def test_scale_invariant_networks_have_one_susceptibility(name, kernel, C_W, width):
    """chi_par = chi_perp at every kernel, and V/K^2 grows by as much with every layer."""
    phi = ACTIVATIONS[name][0]
    chi = susceptibilities(kernel, activation=phi, weight_variance=C_W)
    assert float(chi.parallel) == pytest.approx(float(chi.perpendicular), rel=1e-12)
    options = {"activation": phi, "weight_variance": C_W}
    found = depth_recursion(kernel, np.full(5, width), **options)
    share = np.asarray(found.vertex / found.kernel**2)
    assert np.all(share >= 0)
    np.testing.assert_allclose(share, share[1] * np.arange(6), rtol=1e-10)
    np.testing.assert_allclose(found.kernel[1:] / found.kernel[:-1], chi.parallel, rtol=1e-12)


def weighted_tangent_kernel(key, x, *, model, lam_W, lam_b):
    params = model.init(key)
    gradients = jax.grad(lambda p: model.apply(p, x[None])[0, 0])(params)
    return sum(
        lam_W / layer.weight.shape[1] * jnp.sum(layer.weight**2) + lam_b * jnp.sum(layer.bias**2)
        for layer in gradients
    )


@pytest.mark.parametrize(
    ("activation", "C_W", "width", "first_order"),
    [("relu", 2.0, 12, 0.0), ("linear", 1.0, 12, 0.0), ("tanh", 1.3, 40, 1.0)],
)
def test_tangent_kernel_of_real_networks(activation, C_W, width, first_order):
    """Without biases (C_b = 0) the mean is exact at any width for ReLU and linear; else O(1/n)."""
    lam_W, lam_b, draws = 0.8, 0.5, 2000
    model = mlp((4, width, width, 1), activation=activation, weight_variance=C_W)
    x = jnp.array([1.0, -0.5, 2.0, 0.3])
    one = partial(weighted_tangent_kernel, model=model, lam_W=lam_W, lam_b=lam_b)
    found = np.asarray(
        jax.jit(jax.vmap(one, (0, None)))(jax.random.split(jax.random.key(3), draws), x)
    )
    theory = depth_recursion(
        jnp.mean(x**2), np.full(2, width), activation=ACTIVATIONS[activation][0],
        weight_variance=C_W, weight_rate=lam_W, bias_rate=lam_b,
    )  # fmt: skip
    exact, error = float(theory.tangent_kernel[-1]), found.std() / np.sqrt(draws)
    assert abs(found.mean() - exact) <= 4 * error + first_order / width * exact
    assert error < 0.03 * exact


def test_default_rates_are_the_tangent_kernel_of_the_ntk_parametrization():
    C_W, C_b, width, draws = 1.5, 0.4, 20, 2000
    model = mlp(
        (3, width, 1), activation="relu", parametrization="ntk",
        weight_variance=C_W, bias_variance=C_b,
    )  # fmt: skip
    x = jnp.array([1.0, -0.5, 2.0])

    def tangent_kernel(key):
        gradients = jax.grad(lambda p: model.apply(p, x[None])[0, 0])(model.init(key))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    found = np.asarray(
        jax.jit(jax.vmap(tangent_kernel))(jax.random.split(jax.random.key(0), draws))
    )
    theory = depth_recursion(
        jnp.mean(x**2), np.array([width]), activation=jax.nn.relu,
        weight_variance=C_W, bias_variance=C_b,
    )  # fmt: skip
    error = found.std() / np.sqrt(draws)  # one hidden layer: a mean over independent units, exact
    assert abs(found.mean() - float(theory.tangent_kernel[-1])) <= 4 * error


@given(name=names, widths=st.lists(st.integers(1, 500), min_size=3, max_size=3), c=st.floats(1, 9))
def test_only_ratios_of_widths_matter_and_the_kernel_knows_none(name, widths, c):
    recursion = partial(
        depth_recursion, 0.7, activation=ACTIVATIONS[name][0],
        weight_variance=1.2, bias_variance=0.2,
    )  # fmt: skip
    one, other = recursion(widths=np.array(widths)), recursion(widths=c * np.array(widths))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    equal = recursion(widths=np.ones(3))
    np.testing.assert_allclose(one.kernel, equal.kernel, rtol=1e-13)
    np.testing.assert_allclose(one.tangent_kernel, equal.tangent_kernel, rtol=1e-13)
    assert np.all(np.asarray(one.vertex) >= 0)


def test_transformations_and_dtypes():
    def last(C_W, x2):
        found = depth_recursion(x2, jnp.full(3, 8.0), activation=jnp.tanh, weight_variance=C_W)
        return found.vertex[-1]

    grid = jnp.array([0.8, 1.2])
    mapped = jax.jit(jax.vmap(last, (0, None)))(grid, 1.0)
    slope = jax.grad(last)(1.2, 1.0)
    step = (last(1.2 + 1e-5, 1.0) - last(1.2 - 1e-5, 1.0)) / 2e-5
    assert float(slope) == pytest.approx(float(step), rel=1e-7)
    single = last(jnp.float32(1.2), jnp.float32(1.0))
    assert single.dtype == jnp.float32
    assert float(single) == pytest.approx(float(mapped[1]), rel=1e-4)
    one_layer = depth_recursion(1.0, jnp.zeros(0), activation=jnp.tanh, weight_variance=2.0)
    assert [x.tolist() for x in one_layer] == [[2.0], [0.0], [0.0], [2.0]]


def test_bad_input_is_named():
    recursion = partial(depth_recursion, activation=jnp.tanh)
    for arguments, message in (
        ({"input_square": -1.0, "widths": np.ones(2), "weight_variance": 1.0}, "input_square"),
        ({"input_square": np.ones(2), "widths": np.ones(2), "weight_variance": 1.0}, "numbers"),
        ({"input_square": 1.0, "widths": np.zeros(2), "weight_variance": 1.0}, "widths"),
        ({"input_square": 1.0, "widths": 3, "weight_variance": 1.0}, "vector"),
        ({"input_square": 1.0, "widths": np.ones(2), "weight_variance": 0.0}, "weight_variance"),
        ({"input_square": 0.0, "widths": np.ones(2), "weight_variance": 1.0}, "bias_variance +"),
    ):
        with pytest.raises(ValueError, match=message):
            recursion(**arguments)
    for option in ("bias_variance", "weight_rate", "bias_rate"):
        with pytest.raises(ValueError, match=option):
            recursion(1.0, np.ones(2), weight_variance=1.0, **{option: -1.0})
    with pytest.raises(ValueError, match="kernel"):
        susceptibilities(0.0, activation=jnp.tanh)
    with pytest.raises(ValueError, match="kernel"):
        preactivation_average(jnp.tanh, -1.0)
    with pytest.raises(ValueError, match="ascending"):
        preactivation_average(jnp.tanh, 1.0, kinks=(1.0, 0.0))
    with pytest.raises(ValueError, match="slope"):
        scale_invariant_moment(np.ones(2), 0.0, 0.0)
    with pytest.raises(ValueError, match="widths"):
        scale_invariant_moment(np.array([1, 0]))
