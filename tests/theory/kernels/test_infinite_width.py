"""Infinitely wide networks against sixty digits, laws in depth, and networks of finite width."""

import decimal
import math
from decimal import Decimal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.layerwise import layerwise_gram
from dynamics.models import mlp
from theory.kernels.infinite_width import Rates, layer_rates, mlp_kernels

ACTS = st.sampled_from(["relu", "abs", "erf", "gelu", "linear"])
DEPTHS = st.sampled_from([1, 3])
BIASES = st.sampled_from([0.0, 0.1])
decimal.getcontext().prec = 60


@st.composite
def inputs(draw):
    """(5, 3): generic, with repeated, nearly equal, antipodal or zero rows."""
    x = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal((5, 3))
    kind = draw(st.sampled_from(["generic", "repeated", "near", "antipodal", "zero", "orthogonal"]))
    if kind == "orthogonal":
        x = np.eye(5, 3) - np.eye(5, 3, -3)
    elif kind != "generic":
        x[3] = {"repeated": 1, "near": 1 + 1e-9, "antipodal": -2, "zero": 0}[kind] * x[0]
    return jnp.asarray(x)


def arc_tangent(x):
    """Of a Decimal: halved until the series is short."""
    for _ in range(8):
        x = x / (1 + (1 + x * x).sqrt())
    return 2**8 * sum((-1) ** k * x ** (2 * k + 1) / (2 * k + 1) for k in range(16))


def many_digits(x, y, depth, w, s):
    """The ReLU recursion of variances and covariances with sixty digits, where nothing cancels."""
    x, y = ([Decimal(float(value)) for value in each] for each in (x, y))
    w, s, pi = Decimal(w), Decimal(s), 4 * arc_tangent(Decimal(1))
    dot = [
        sum(p * q for p, q in zip(*pair, strict=True)) / len(x) for pair in ((x, x), (y, y), (x, y))
    ]
    a, b, c = (w * value + s for value in dot)
    theta = c
    for _ in range(depth - 1):
        root = max(a * b - c * c, Decimal(0)).sqrt()
        # atan2(root, c), by halves of the angle
        angle = (
            2 * arc_tangent(root / ((a * b).sqrt() + c)) if root else (pi if c < 0 else Decimal(0))
        )
        a, b = w * a / 2 + s, w * b / 2 + s
        c = w * (root + (pi - angle) * c) / (2 * pi) + s
        theta = c + w * (pi - angle) / (2 * pi) * theta
    return float(c), float(theta)


@pytest.mark.parametrize("bias", [0.0, 0.1])
@pytest.mark.parametrize("depth", [2, 5])
def test_relu_kernels_have_all_digits(bias, depth):
    """Pairs at angles from 1e-8 to pi, of equal and unequal norms; and the same in float32.

    In relative terms: errors of inputs are eps/angle of the angle, and angle of the kernel.
    """
    angle = np.array([0.0, 1e-8, 1e-5, 1e-3, 0.03, 0.3, 1.5, 3.0, math.pi - 1e-6, math.pi])
    y = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    x = np.array([[1.0, 0.0, 0.0], [0.6, 0.0, 0.0]])
    options = {"activation": "relu", "depth": depth, "weight_variance": 2.0, "bias_variance": bias}
    for dtype, tolerance in ((np.float64, 3e-15), (np.float32, 2e-6)):
        x, y = x.astype(dtype), y.astype(dtype)
        exact = np.array([[many_digits(row, other, depth, 2.0, bias) for other in y] for row in x])
        found = mlp_kernels(x, y, **options)
        scale = np.abs(exact).max(axis=(0, 1))
        np.testing.assert_allclose(found.nngp / scale[0], exact[..., 0] / scale[0], atol=tolerance)
        np.testing.assert_allclose(found.ntk / scale[1], exact[..., 1] / scale[1], atol=tolerance)


def test_the_diagonal_is_exact_in_float32():
    """Theta_L(x, x) = L w |x|^2/n_0: rounding, where arccos leaves its root, 4e-4."""
    x = np.random.default_rng(0).standard_normal((40, 100)).astype(np.float32)
    exact = 5 * 2 * (x.astype(float) ** 2).mean(axis=1)
    options = {"activation": "relu", "depth": 5, "weight_variance": 2.0}
    found = mlp_kernels(x, **options).ntk
    np.testing.assert_allclose(found.diagonal(), exact, rtol=1e-6)
    assert found.dtype == jnp.float32
    # Also of two arrays that happen to be equal, by differences instead of by position.
    np.testing.assert_allclose(mlp_kernels(x, x, **options).ntk.diagonal(), exact, rtol=2e-6)


@given(x=inputs(), act=ACTS, depth=DEPTHS, bias=BIASES)
def test_symmetric_and_positive(x, act, depth, bias):
    """K, Theta and Theta - K are positive semidefinite, and symmetric."""
    found = mlp_kernels(x, activation=act, depth=depth, weight_variance=1.7, bias_variance=bias)
    for kernel in (found.nngp, found.ntk, found.ntk - found.nngp):
        size = 1e-13 * float(np.abs(found.ntk).max())
        np.testing.assert_allclose(kernel, kernel.T, atol=size)
        assert np.linalg.eigvalsh(kernel)[0] >= -10 * size
        assert np.all(np.abs(kernel) <= np.sqrt(np.outer(*2 * [kernel.diagonal()])) + 10 * size)


@given(x=inputs(), act=ACTS, bias=BIASES, seed=st.integers(0, 99))
def test_orthogonal_invariance(x, act, bias, seed):
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    found, turned = (
        mlp_kernels(z, activation=act, depth=3, weight_variance=1.7, bias_variance=bias)
        for z in (x, x @ turn)
    )
    np.testing.assert_allclose(turned.nngp, found.nngp, atol=1e-13)
    np.testing.assert_allclose(turned.ntk, found.ntk, atol=1e-13)


@given(x=inputs(), act=st.sampled_from(["relu", "abs", "linear"]), seed=st.integers(0, 99))
def test_homogeneity_without_biases(x, act, seed):
    scales = jnp.asarray(10.0 ** np.random.default_rng(seed).uniform(-2, 2, (5, 1)))
    options = {"activation": act, "depth": 3, "weight_variance": 1.7}
    found, scaled = mlp_kernels(x, **options), mlp_kernels(scales * x, **options)
    outer = scales * scales.T
    for left, right in zip(scaled, found, strict=True):
        np.testing.assert_allclose(left / outer, right, atol=1e-13)


@given(x=inputs())
def test_laws_in_depth(x):
    """ReLU with w = 2: K_l(x, x) = 2 |x|^2/n_0, Theta_l(x, x) l times that. Linear: K w^(l-1)."""
    norm, layer = np.sum(np.asarray(x) ** 2, axis=1) / 3, np.arange(1, 6)[:, None]
    found = mlp_kernels(x, activation="relu", depth=5, weight_variance=2.0, layers=True)
    diagonal = partial(jnp.diagonal, axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal(found.nngp), 2 * norm + 0 * layer, rtol=1e-14)
    np.testing.assert_allclose(diagonal(found.ntk), 2 * norm * layer, rtol=1e-14)
    linear = mlp_kernels(x, activation="linear", depth=5, weight_variance=1.7, layers=True)
    power, overlap = 1.7 ** layer[:, :, None], np.asarray(x @ x.T)[None] / 3
    np.testing.assert_allclose(linear.nngp, power * overlap, atol=1e-12)
    np.testing.assert_allclose(linear.ntk, layer[:, :, None] * power * overlap, atol=1e-12)


def test_fourier_coefficients_on_the_circle():
    """Bias-free ReLU, L = 2: odd harmonics from 3 vanish; a bias or a third layer: all positive."""
    angle = np.linspace(0, 2 * np.pi, 1024, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def coefficients(depth, bias):
        options = {"activation": "relu", "weight_variance": 2.0, "bias_variance": bias}
        row = mlp_kernels(circle[:1], circle, depth=depth, **options).ntk[0]
        found = np.fft.rfft(row).real
        return found[:16] / found[0]

    assert np.abs(coefficients(2, 0.0)[3::2]).max() < 1e-14
    assert coefficients(2, 0.0)[[0, 1, 2, 4, 6]].min() > 1e-4
    assert coefficients(2, 0.1).min() > 1e-6
    assert coefficients(3, 0.0).min() > 1e-6


@given(
    act=st.sampled_from(["relu", "erf", "gelu"]),
    bias=st.floats(0.1, 1.0),
    turns=st.lists(st.floats(0, 2 * math.pi), min_size=4, max_size=4),
)
def test_strictly_positive_on_the_sphere_with_biases(act, bias, turns):
    """Antipodal points among them, which make the bias-free kernel of two layers singular.

    Every point has a height of its own, so that no two are closer than 0.25 and the smallest
    eigenvalue is far above rounding.
    """
    height = np.array([0.15, 0.45, 0.7, 0.95])
    radius = np.sqrt(1 - height**2)
    x = np.stack([radius * np.cos(turns), radius * np.sin(turns), height], axis=1)
    x = np.concatenate([x, -x])
    for kernel in mlp_kernels(x, activation=act, depth=2, bias_variance=bias):
        assert np.linalg.eigvalsh(kernel)[0] > 1e-10 * np.trace(kernel)


@pytest.mark.parametrize(
    ("act", "parametrization", "depth"),
    [
        ("relu", "ntk", 3),
        ("tanh", "standard", 3),
        ("erf", "mean_field", 2),
        ("gelu", "standard", 2),
    ],
)
def test_finite_networks_have_these_means(act, parametrization, depth):
    """Within 4 standard errors over initialisations, plus the bias, of order depth/width."""
    hidden, draws = (192,) * (depth - 1), 48
    options = {"parametrization": parametrization, "weight_variance": 1.6, "bias_variance": 0.2}
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4)))
    model = mlp((4, *hidden, 2), activation=act, **options)

    def measured(key):
        params = model.init(key)
        gram = layerwise_gram(params, x, activation=act, **options)
        f = model.apply(params, x)
        return f @ f.T / 2, jnp.einsum("icjc->ij", gram) / 2, jnp.einsum("ij->ij", gram[:, 0, :, 1])

    found = jax.jit(jax.vmap(measured))(jax.random.split(jax.random.key(0), draws))
    exact = mlp_kernels(x, activation=act, depth=depth, hidden_widths=hidden, **options)
    for values, expected in zip(found, (*exact, 0 * exact.ntk), strict=True):
        values = np.asarray(values)
        allowed = 4 * values.std(axis=0, ddof=1) / math.sqrt(draws)
        allowed = allowed + 2 * depth / 192 * np.abs(exact.ntk).max() * (values is not found[0])
        assert np.all(np.abs(values.mean(axis=0) - expected) <= allowed)


@partial(jax.jit, static_argnames="width")
def drawn_grams(keys, x, variance, *, width):
    """Tangent kernels of networks of three layers, one for every key."""
    options = {"parametrization": "ntk", "weight_variance": variance}

    def gram(key):
        params = mlp((4, width, width, 1), activation="relu", **options).init(key)
        return layerwise_gram(params, x, activation="relu", **options)

    return jax.lax.map(gram, keys)


@settings(max_examples=3)
@given(seed=st.integers(0, 2**31 - 1), variance=st.floats(0.5, 3.0))
def test_spread_over_initialisations_falls_like_one_over_the_root_of_the_width(seed, variance):
    """From 240 networks a width: 3 standard errors of the slope, and corrections of 1/width."""
    x = jnp.asarray(np.random.default_rng(seed).standard_normal((3, 4)))
    keys, widths = jax.random.split(jax.random.key(seed), 240), (24, 72, 216)
    grams = [drawn_grams(keys, x, variance, width=width) for width in widths]
    spread = [np.linalg.norm(np.std(gram, axis=0)) for gram in grams]
    slope = np.polyfit(np.log(widths), np.log(spread), 1)[0]
    assert abs(slope + 0.5) < 0.1


def test_rates_of_layers_measured_on_a_standard_network():
    """sum_l lw_l/n_{l-1} J_W J_W^T + lb_l J_b J_b^T of a standard network, for any rates."""
    rates, hidden, draws = (
        Rates(jnp.array([0.7, 1.9, 0.4]), jnp.array([0.3, 0.0, 1.1])),
        (192, 192),
        48,
    )
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4)))
    model = mlp((4, *hidden, 1), activation="erf", weight_variance=1.6, bias_variance=0.2)

    def measured(key):
        jacobian = jax.jacrev(lambda params: model.apply(params, x)[:, 0])(model.init(key))
        total = 0.0
        for layer, lw, lb in zip(jacobian, rates.weight, rates.bias, strict=True):
            rows = layer.weight.reshape(3, -1)
            total = (
                total + lw / layer.weight.shape[-1] * rows @ rows.T + lb * layer.bias @ layer.bias.T
            )
        return total

    values = np.asarray(
        jax.jit(lambda keys: jax.lax.map(measured, keys))(
            jax.random.split(jax.random.key(0), draws)
        )
    )
    options = {"activation": "erf", "weight_variance": 1.6, "bias_variance": 0.2}
    exact = mlp_kernels(x, depth=3, parametrization=rates, **options).ntk
    allowed = 4 * values.std(axis=0, ddof=1) / math.sqrt(draws) + 6 / 192 * np.abs(exact).max()
    assert np.all(np.abs(values.mean(axis=0) - exact) <= allowed)


@given(x=inputs(), act=ACTS)
def test_parametrisations_convert_into_each_other(x, act):
    """By the layers' rates; mean field is the ntk over the last width; rates enter linearly."""
    options = {"activation": act, "depth": 3, "weight_variance": 1.7, "bias_variance": 0.1}
    convert = {"depth": 3, "weight_variance": 1.7, "bias_variance": 0.1}
    ntk = mlp_kernels(x, **options)
    for name, hidden, factor in (
        ("ntk", None, 1),
        ("mean_field", (7, 20), 20),
        ("standard", (7, 20), 1),
    ):
        direct = mlp_kernels(x, parametrization=name, hidden_widths=hidden, **options)
        rates = layer_rates(name, fan_in=(3, 7, 20), **convert)
        own = mlp_kernels(x, parametrization=rates, **options)
        np.testing.assert_allclose(factor * direct.ntk, own.ntk, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(factor * direct.nngp, ntk.nngp, rtol=1e-13, atol=1e-13)
    parts = [Rates(1.7 * row, 0.1 * row) for row in jnp.eye(3)]
    total = sum(mlp_kernels(x, parametrization=part, **options).ntk for part in parts)
    np.testing.assert_allclose(total, ntk.ntk, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("other", [False, True])
def test_blocks_of_rows_change_nothing_and_fit(other):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((50, 4))), jnp.asarray(rng.standard_normal((64, 4)))
    y = y.at[3].set(x[7])
    options = {"activation": "relu", "depth": 3, "weight_variance": 2.0, "bias_variance": 0.1}
    whole = mlp_kernels(x, y if other else None, **options, layers=True)
    m = 64 if other else 50
    result = 2 * 3 * 50 * m * 8
    for rows in (1, 17):
        budget = result + (1500 + 26 * rows) * m * 8
        run = partial(mlp_kernels, **options, layers=True, memory=budget)
        blocks = run(x, y if other else None)
        for left, right in zip(blocks, whole, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match=f"memory must be at least {result + 1526 * m * 8} bytes"):
        mlp_kernels(x, y if other else None, **options, layers=True, memory=1000)


@pytest.mark.parametrize("act", ["relu", "gelu", "tanh"])
def test_memory_is_within_the_budget(act):
    """As the compiler plans it, without the inputs."""
    x = jax.ShapeDtypeStruct((400, 20), jnp.float32)
    budget = (2 * 400 + 1500 + 22 * 100) * 400 * 4
    run = partial(mlp_kernels, activation=act, depth=3, bias_variance=0.1, memory=budget)
    planned = jax.jit(run).lower(x).compile().memory_analysis()
    inputs = 4 * 400 * 20 * 4
    assert planned.temp_size_in_bytes + planned.output_size_in_bytes <= budget + inputs
    assert planned.temp_size_in_bytes < 400 * 400 * 4 * 10


@pytest.mark.parametrize("act", ["relu", "abs", "tanh"])
def test_gradients_in_the_inputs_are_finite_and_right(act):
    """At coincident, antipodal, orthogonal and zero inputs."""
    x = jnp.array([[0.3, -0.8], [0.3, -0.8], [-0.3, 0.8], [0.0, 0.0], [0.8, 0.3]])
    kernels = partial(mlp_kernels, activation=act, depth=2, weight_variance=1.7)
    for gradient in jax.jacrev(lambda x: tuple(kernels(x)))(x):
        assert jnp.all(jnp.isfinite(gradient))
    at, h = jnp.array([[0.4, -0.9]]), 1e-5

    def nngp(x, y):
        return kernels(x, y).nngp[0, 0]

    for y in (at, jnp.array([[1.0, 0.2]])):
        slope = jax.grad(nngp)(at, y)
        for i in range(2):
            step = h * jnp.eye(2)[i][None]
            difference = (nngp(at + step, y) - nngp(at - step, y)) / (2 * h)
            assert float(difference) == pytest.approx(float(slope[0, i]), abs=1e-8)


def test_second_derivative_at_coincident_inputs():
    """ReLU: w E[1(h > 0) W W^T] = w^2 I/(2 n_0), although the angle has no derivative there."""
    x = jnp.array([[0.3, -0.8, 0.5]])

    def nngp(x, y):
        return mlp_kernels(x, y, activation="relu", depth=2, weight_variance=1.7).nngp[0, 0]

    mixed = jax.jacfwd(jax.grad(nngp), 1)(x, x)[0, :, 0, :]
    np.testing.assert_allclose(mixed, 1.7**2 / 6 * np.eye(3), atol=1e-12)


def test_jit_and_vmap():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 3)))
    run = partial(mlp_kernels, activation="relu", depth=3)
    batch = jax.jit(jax.vmap(run))(x)
    np.testing.assert_allclose(batch.ntk[1], run(x[1]).ntk, rtol=1e-13)
    over = jax.vmap(lambda w: run(x[0], weight_variance=w).ntk)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(over[1], run(x[0], weight_variance=2.0).ntk, rtol=1e-13)


def test_bad_input_is_named():
    x, good = jnp.ones((2, 3)), {"activation": "relu", "depth": 3}
    for bad, message in (
        ({"depth": 0}, "depth must be"),
        ({"weight_variance": -1.0}, "weight_variance must be non-negative"),
        ({"activation": "swish"}, "activation must be a dual"),
        ({"parametrization": "mup"}, "parametrization must be ntk"),
        ({"parametrization": "standard"}, "hidden_widths must hold 2 widths"),
        ({"parametrization": "mean_field", "hidden_widths": (3,)}, "hidden_widths must hold 2"),
        ({"parametrization": "standard", "hidden_widths": (3, 0)}, "hidden_widths must be"),
        ({"parametrization": Rates(jnp.ones(2), 0.0)}, "weight must be one rate or 3"),
        ({"parametrization": "mean_field", "hidden_widths": (), "depth": 1}, "depth must be at"),
    ):
        with pytest.raises(ValueError, match=message):
            mlp_kernels(x, **{**good, **bad})
    with pytest.raises(ValueError, match="x1 must be"):
        mlp_kernels(jnp.ones((0, 3)), **good)
    with pytest.raises(ValueError, match="x2 must have 3 features"):
        mlp_kernels(x, jnp.ones((2, 4)), **good)
    with pytest.raises(ValueError, match="fan_in must hold 2 widths"):
        layer_rates("standard", depth=2)
