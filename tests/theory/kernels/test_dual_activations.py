"""Dual activations against integrals over sectors of the plane, and Price's identity."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.models import ACTIVATIONS
from theory.kernels.dual_activations import (
    DUALS,
    abs_dual,
    as_dual,
    erf_dual,
    gelu_dual,
    leaky_relu_dual,
    linear_dual,
    relu_dual,
)
from theory.kernels.dual_quadrature import quadrature_dual
from theory.kernels.moments import affine, second_moments, squared_distance

FUNCTIONS = {**ACTIVATIONS, "abs": jnp.abs}
CLOSED = ("linear", "square", "relu", "abs", "erf", "scaled_erf", "gelu")
KINKED = {"relu": 0.0, "abs": -1.0, "leaky": 0.3, "folding": -0.4}
LEAKY = {name: jax.jit(leaky_relu_dual(slope)) for name, slope in KINKED.items()}
COMPILED = {name: jax.jit(dual) for name, dual in DUALS.items()}
SLOPES = {
    name: jax.jit(jax.grad(lambda a, b, c, dual=dual: dual(a, b, c).kernel, 2))
    for name, dual in DUALS.items()
}
# Quadrature to 1e-12 and rounding; tanh and sigmoid by series, exp(-2 d sqrt(terms/a)) at a = 2.
PRECISION = {"tanh": 1e-11, "sigmoid": 1e-11}
SIZES = st.floats(-3, 3).map(lambda x: 10.0**x)
MODERATE = st.floats(0.01, 2.0)
COSINES = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 1.0]))
SMALL = st.floats(-7, math.log10(math.pi / 2)).map(lambda x: 10.0**x)


def sectors(angle, rest, slope):
    """(weight, phi(u), phi(v)) on unit circle, for cos, cos' of both, one and no positive sign.

    ``rest`` = pi - angle. On the sectors u and v are sines of distances from their ends.
    """
    x, w = np.polynomial.legendre.leggauss(48)
    t, w = (x + 1) / 2, w / 2
    same, other = (rest * w, np.sin(rest * t), np.sin(rest * (1 - t))), angle * w
    one, two = np.sin(angle * t), np.sin(angle * (1 - t))
    return {
        "++": same,
        "--": (same[0], -slope * same[1], -slope * same[2]),
        "+-": (other, one, -slope * two),
        "-+": (other, -slope * one, two),
    }


def reference(a, b, angle, rest, slope):
    """Kernel, derivative kernel and determinant of the moments, by positive sums of integrals.

    The determinant is 1/2 E [phi(u) phi(v') - phi(u') phi(v)]^2 over two independent pairs.
    """
    parts = sectors(angle, rest, slope)
    kernel = sum(np.sum(w * u * v) for w, u, v in parts.values()) / math.pi
    derivative = ((1 + slope**2) * rest + 2 * slope * angle) / (2 * math.pi)
    x, _ = np.polynomial.legendre.leggauss(48)
    turn = np.subtract.outer(x, x) / 2
    total = 0.0
    for name, (w, u, v) in parts.items():
        for other, (w2, u2, v2) in parts.items():
            cross = np.outer(u, v2) - np.outer(v, u2)
            if name == other or {name, other} == {"++", "--"}:  # sum rule of sines, no cancellation
                width = angle if name[0] != name[1] else rest
                factor = {"++": 1, "--": slope**2}.get(name, -slope)
                factor = factor if name == other else -slope
                cross = factor * math.sin(min(angle, rest)) * np.sin(width * turn)
            total += w @ cross**2 @ w2
    return math.sqrt(a * b) * kernel, derivative, a * b * total / (2 * math.pi**2)


@given(a=SIZES, b=SIZES, small=SMALL, obtuse=st.booleans(), name=st.sampled_from(list(KINKED)))
def test_kinked_duals_are_exact_at_every_angle(a, b, small, obtuse, name):
    """Relative 1e-12, from angles of 1e-7 to pi - 1e-7: nothing is lost to cancellation."""
    sign = -1 if obtuse else 1
    c, q = sign * math.sqrt(a * b) * math.cos(small), a * b * math.sin(small) ** 2
    angles = (math.pi - small, small) if obtuse else (small, math.pi - small)
    found = LEAKY[name](a, b, c, q)
    kernel, derivative, determinant = reference(a, b, *angles, KINKED[name])
    norm = (1 + KINKED[name] ** 2) / 2
    np.testing.assert_allclose(found.moments.first, norm * a, rtol=1e-14)
    np.testing.assert_allclose(found.moments.second, norm * b, rtol=1e-14)
    np.testing.assert_allclose(found.moments.determinant, determinant, rtol=1e-12)
    # Positive and negative sectors cancel in kernels that change sign; ReLU and abs have none.
    absolute = 0 if name in ("relu", "abs") else 1e-14
    np.testing.assert_allclose(found.kernel, kernel, rtol=1e-12, atol=absolute * math.sqrt(a * b))
    flat = 1e-15 if name != "relu" else 0
    np.testing.assert_allclose(found.derivative, derivative, rtol=1e-12, atol=flat)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_duals_are_the_gaussian_averages(name):
    """By quadrature in polar coordinates, which knows nothing of the closed form or the series."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.01, 2, (2, 12))
    rho = np.concatenate([rng.uniform(-1, 1, 9), [0.0, 1.0, -1.0]])
    c = rho * np.sqrt(a * b)
    exact = quadrature_dual(FUNCTIONS[name], kinks=(0.0,))(a, b, c)
    found = DUALS[name](a, b, c)
    tolerance = PRECISION.get(name, 1e-12)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(left, right, atol=tolerance)


@pytest.mark.parametrize("name", sorted(DUALS))
@given(a=MODERATE, b=MODERATE, rho=COSINES)
def test_price_identity(name, a, b, rho):
    """The kernel's derivative by c, by autodiff, is the derivative kernel: also at rho = +-1."""
    c = rho * math.sqrt(a * b)
    expected = float(COMPILED[name](a, b, c).derivative)
    assert float(SLOPES[name](a, b, c)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", sorted(DUALS))
def test_gradients_are_finite_on_the_edges(name):
    """Where rho = +-1, c = 0, or a variance is 0; values, and the derivative kernel's gradients."""
    a = jnp.array([1.0, 1.0, 1.0, 2.0, 0.0, 0.0])
    b = jnp.array([1.0, 1.0, 4.0, 0.5, 1.0, 0.0])
    c = jnp.array([1.0, -1.0, 2.0, 0.0, 0.0, 0.0])

    def total(a, b, c):
        found = DUALS[name](a, b, c)
        return sum(
            jnp.sum(leaf) for leaf in jax.tree.leaves((found, affine(found.moments, 2.0, 0.1)))
        )

    for gradient in jax.grad(total, (0, 1, 2))(a, b, c):
        assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize("name", CLOSED)
@given(a=SIZES, b=SIZES, rho=COSINES)
def test_symmetry_and_cauchy_schwarz(name, a, b, rho):
    c = rho * math.sqrt(a * b)
    found, swapped = COMPILED[name](a, b, c), COMPILED[name](b, a, c)
    scale = math.sqrt(found.moments.first * found.moments.second)
    assert abs(float(found.kernel)) <= scale * (1 + 1e-14)
    assert float(found.kernel) == pytest.approx(float(swapped.kernel), abs=1e-13 * scale)
    assert float(found.moments.determinant) >= -1e-13 * scale**2
    assert float(found.derivative) == pytest.approx(float(swapped.derivative), abs=1e-13)
    one = COMPILED[name](a, a, a, 0.0)
    assert float(one.kernel) == pytest.approx(float(one.moments.first), rel=1e-15)


@pytest.mark.parametrize("name", list(KINKED))
@given(a=MODERATE, b=MODERATE, rho=COSINES, scales=st.tuples(SIZES, SIZES))
def test_homogeneity(name, a, b, rho, scales):
    """phi(t u) = t phi(u) for t > 0."""
    dual, c = LEAKY[name], rho * math.sqrt(a * b)
    q = a * b * (1 - rho) * (1 + rho)
    s, t = scales
    plain, scaled = dual(a, b, c, q), dual(s * s * a, t * t * b, s * t * c, (s * t) ** 2 * q)
    np.testing.assert_allclose(scaled.kernel, s * t * plain.kernel, rtol=1e-12, atol=1e-13 * s * t)
    np.testing.assert_allclose(scaled.derivative, plain.derivative, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        scaled.moments.determinant, (s * t) ** 2 * plain.moments.determinant, rtol=1e-11, atol=0
    )


@given(a=SIZES, obtuse=st.booleans())
def test_equal_inputs_have_angle_zero_without_a_determinant(a, obtuse):
    """Also compiled, where the difference of two products may be fused and is not 0."""
    c = -a if obtuse else a
    assert float(COMPILED["relu"](a, a, c).derivative) == (0.0 if obtuse else 0.5)
    assert float(COMPILED["abs"](a, a, c).moments.determinant) == 0.0


def test_limits():
    """rho = 0: (E phi)^2; rho = +-1: E phi(u) phi(+-u); no variance: phi(0)^2 and phi'(0)^2."""
    mean = 1 / math.sqrt(2 * math.pi)
    assert float(relu_dual(1.0, 4.0, 0.0).kernel) == pytest.approx(2 * mean**2)
    assert [float(relu_dual(1.0, 1.0, c).kernel) for c in (1.0, -1.0)] == [0.5, 0.0]
    assert [float(relu_dual(1.0, 1.0, c).derivative) for c in (1.0, -1.0)] == [0.5, 0.0]
    assert [float(abs_dual(1.0, 4.0, c).kernel) for c in (2.0, -2.0)] == [2.0, 2.0]
    assert float(linear_dual(1.0, 4.0, -2.0).kernel) == -2.0
    for c in (0.7, -0.7):  # odd: the kernel is
        assert float(erf_dual()(0.8, 0.9, c).kernel) == pytest.approx(
            math.copysign(float(erf_dual()(0.8, 0.9, 0.7).kernel), c)
        )
    for name, function in FUNCTIONS.items():
        if name in ("relu", "abs"):
            continue
        found = DUALS[name](1e-30, 1e-30, 1e-30)
        assert float(found.kernel) == pytest.approx(float(function(0.0)) ** 2, abs=1e-15)
        assert float(found.derivative) == pytest.approx(float(jax.grad(function)(0.0)) ** 2)
    far = gelu_dual(1e8, 1e8, 3e7)  # a saturated GELU is a ReLU
    assert float(far.kernel) == pytest.approx(float(relu_dual(1e8, 1e8, 3e7).kernel), rel=1e-7)


@given(a=SIZES, b=SIZES, rho=COSINES, w=MODERATE, s=st.sampled_from([0.0, 0.1, 1.0]))
def test_affine_keeps_the_determinant(a, b, rho, w, s):
    moments = (a, b, rho * math.sqrt(a * b), a * b * (1 - rho) * (1 + rho))
    (a, b, c, q), before, after = affine_and_distances(moments, w, s)
    assert float(q) == pytest.approx(float(a * b - c * c), abs=1e-13 * float(a * b))
    assert float(after) == pytest.approx(w * float(before), abs=1e-13 * float(a + b))


@jax.jit
def affine_and_distances(moments, w, s):
    found = affine(second_moments(*moments), w, s)
    return found, squared_distance(second_moments(*moments)), squared_distance(found)


@pytest.mark.parametrize("name", ["relu", "erf"])
def test_shapes_dtype_and_transformations(name):
    a, b = jnp.array([[1.0], [2.0], [0.5]]), jnp.array([[1.0, 0.3]])
    c = 0.4 * jnp.sqrt(a) * jnp.sqrt(b)
    found = DUALS[name](a, b, c)
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [
        (3, 1),
        (1, 2),
        (3, 2),
        (3, 2),
        (3, 2),
    ]
    again = jax.jit(jax.vmap(DUALS[name], (0, None, 0)))(a, b[0], c)
    np.testing.assert_allclose(again.kernel, found.kernel, rtol=1e-14)
    single = DUALS[name](*(x.astype(jnp.float32) for x in (a, b, c)))
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(single.kernel, found.kernel, rtol=1e-5)


def test_bad_input_is_named():
    for arguments, name in (((-1.0, 1.0, 0.0), "a"), ((1.0, jnp.nan, 0.0), "b")):
        with pytest.raises(ValueError, match=f"^{name} must be non-negative"):
            relu_dual(*arguments)
    with pytest.raises(ValueError, match="c must be at most"):
        relu_dual(1.0, 1.0, 1.1)
    with pytest.raises(ValueError, match="slope must be finite"):
        leaky_relu_dual(math.inf)
    with pytest.raises(ValueError, match="scale must be finite"):
        erf_dual(math.nan)
    with pytest.raises(ValueError, match="activation must be a dual or one of linear, relu"):
        as_dual("swish")
