"""Series and quadrature for any activation against known averages and each other."""

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from theory.kernels.dual_activations import DUALS
from theory.kernels.dual_quadrature import hermite_dual, hermite_remainder, quadrature_dual

VARIANCES = st.floats(0.05, 3.0)
COSINES = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 1.0]))
HARD_TANH = jax.jit(quadrature_dual(lambda u: jnp.clip(u, -1, 1), kinks=(-1.0, 1.0)))
SHIFTED = jax.jit(quadrature_dual(lambda u: jax.nn.relu(u - 0.5), kinks=(0.5,)))
SINE = jax.jit(hermite_dual(jnp.sin, terms=60))
HARD_TANH_SLOPE = jax.jit(jax.grad(lambda a, b, c: HARD_TANH(a, b, c).kernel, 2))
GELU = {n: jax.jit(hermite_dual(jax.nn.gelu, terms=n)) for n in (8, 20, 40, 200)}
GELU_LEFT = {n: jax.jit(partial(hermite_remainder, jax.nn.gelu, terms=n)) for n in (8, 20, 40)}


@given(a=VARIANCES, b=VARIANCES, rho=COSINES)
def test_series_of_entire_functions(a, b, rho):
    """E sin u sin v = exp(-(a + b)/2) sinh c, E cos u cos v = exp(-(a + b)/2) cosh c."""
    c = rho * math.sqrt(a * b)
    found, decay = SINE(a, b, c), math.exp(-(a + b) / 2)
    assert float(found.kernel) == pytest.approx(decay * math.sinh(c), abs=1e-13)
    assert float(found.derivative) == pytest.approx(decay * math.cosh(c), abs=1e-13)


@pytest.mark.parametrize("terms", [8, 20, 40])
@given(a=VARIANCES, b=VARIANCES, rho=COSINES)
def test_truncation_error_is_at_most_the_remainder(terms, a, b, rho):
    c = rho * math.sqrt(a * b)
    error = abs(float(GELU[terms](a, b, c).kernel - GELU[200](a, b, c).kernel))
    left = [float(GELU_LEFT[terms](x)) for x in (a, b)]
    assert min(left) > -1e-14
    rounding = 1e-14  # of the remainders, and of the kernels: the bound is reached at rho = 1
    bound = math.sqrt((abs(left[0]) + rounding) * (abs(left[1]) + rounding))
    assert error <= bound + rounding


def test_remainder_of_tanh_falls_as_said():
    """exp(-2 d sqrt(terms/a)), d = pi/2, up to a factor of 10."""
    for a, terms in ((1.0, 36), (1.0, 64), (4.0, 64), (4.0, 160)):
        left = float(hermite_remainder(jnp.tanh, a, terms=terms))
        assert 0.1 < left / math.exp(-math.pi * math.sqrt(terms / a)) < 10


def test_odd_functions_need_half_of_the_terms():
    for phi in (jnp.tanh, jax.nn.sigmoid):
        plain, odd = (hermite_dual(phi, terms=40, odd=o)(1.0, 0.5, 0.3) for o in (False, True))
        for left, right in zip(jax.tree.leaves(plain), jax.tree.leaves(odd), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-15)


def conditional(phi, kinks):
    """E phi(u) phi(v) by nested adaptive integration, v given u."""

    def inner(u, a, b, c):
        mean, scale = c / a * u, math.sqrt(b - c * c / a)
        ends = sorted({-9.0, 9.0, *(x for k in kinks if abs(x := (k - mean) / scale) < 9)})
        rule = np.polynomial.legendre.leggauss(40)
        total = 0.0
        for low, high in pairwise(ends):
            z = low + (high - low) * (rule[0] + 1) / 2
            total += (high - low) / 2 * rule[1] @ (phi(mean + scale * z) * norm.pdf(z))
        return total

    def outer(a, b, c):
        points = [k / math.sqrt(a) for k in kinks]
        value = quad(
            lambda z: phi(z * math.sqrt(a)) * norm.pdf(z) * inner(z * math.sqrt(a), a, b, c),
            -9, 9, points=points, limit=200, epsabs=1e-11, epsrel=1e-11,
        )  # fmt: skip
        return value[0]

    return outer


@pytest.mark.parametrize("case", [(1.0, 1.0, 0.5), (2.0, 0.3, -0.6), (0.2, 1.5, 0.0)])
def test_kinked_functions_against_nested_integration(case):
    clipped = conditional(lambda u: np.clip(u, -1, 1), (-1.0, 1.0))(*case)
    assert float(HARD_TANH(*case).kernel) == pytest.approx(clipped, abs=1e-9)
    shifted = conditional(lambda u: np.maximum(u - 0.5, 0), (0.5,))(*case)
    assert float(SHIFTED(*case).kernel) == pytest.approx(shifted, abs=1e-9)


@given(a=VARIANCES, rho=COSINES)
def test_derivative_kernels_of_kinked_functions(a, rho):
    """Hard tanh: P(|u| < 1, |v| < 1), elementary for equal and for independent inputs."""
    inside = 1 - 2 * norm.sf(1 / math.sqrt(a))
    found = HARD_TANH(a, a, rho * a)
    assert inside**2 - 1e-10 <= float(found.derivative) <= inside + 1e-10
    if abs(rho) == 1:
        assert float(found.derivative) == pytest.approx(inside, abs=1e-10)
    if rho == 0:
        assert float(found.derivative) == pytest.approx(inside**2, abs=1e-10)
    price = HARD_TANH_SLOPE(a, a, rho * a)
    assert float(price) == pytest.approx(float(found.derivative), abs=1e-14)


def test_price_by_differences_and_the_gradient_in_the_variances():
    """The kernel alone must obey it too; and E phi(u)^2 = a -> dE/da of the identity is 1."""
    h, (a, b, c) = 1e-4, (1.1, 0.6, 0.3)
    for dual in (HARD_TANH, SHIFTED):
        difference = (dual(a, b, c + h).kernel - dual(a, b, c - h).kernel) / (2 * h)
        assert float(difference) == pytest.approx(float(dual(a, b, c).derivative), abs=1e-7)
        slope = jax.grad(lambda a, dual=dual: dual(a, b, c).kernel)(a)
        difference = (dual(a + h, b, c).kernel - dual(a - h, b, c).kernel) / (2 * h)
        assert float(difference) == pytest.approx(float(slope), abs=1e-7)


def test_small_angles_keep_their_digits():
    """Between equal variances the determinant after a kinked dual is that of the closed form."""
    angle = np.array([1e-6, 1e-4, 1e-2])
    found = quadrature_dual(jax.nn.relu, kinks=(0.0,))(1.0, 1.0, np.cos(angle), np.sin(angle) ** 2)
    exact = DUALS["relu"](1.0, 1.0, np.cos(angle), np.sin(angle) ** 2)
    np.testing.assert_allclose(found.derivative, exact.derivative, rtol=1e-13)
    np.testing.assert_allclose(found.kernel, exact.kernel, rtol=1e-12)


def test_bad_input_is_named():
    for terms in (0, 1.5, 201):
        with pytest.raises(ValueError, match="terms must be"):
            hermite_dual(jnp.tanh, terms=terms)
    with pytest.raises(ValueError, match="nodes must be an integer >= 1"):
        quadrature_dual(jnp.tanh, nodes=0)
    with pytest.raises(ValueError, match="kinks must be finite"):
        quadrature_dual(jnp.tanh, kinks=(math.nan,))
    with pytest.raises(ValueError, match="a must be non-negative"):
        hermite_remainder(jnp.tanh, -1.0)
