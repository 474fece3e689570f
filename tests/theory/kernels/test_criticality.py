"""Critical initialisations against known constants, deep recursions and exact rational series."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels.aspect_ratio import information_series, optimal_aspect_ratio
from theory.kernels.criticality import critical_exponents, critical_initialization
from theory.kernels.depth_recursions import (
    depth_recursion,
    preactivation_average,
    susceptibilities,
)

DEPTH = 2000
SLACK = np.log(DEPTH) / DEPTH  # relative size of the corrections to the powers of depth


def gelu(z):
    return jax.nn.gelu(z, approximate=False)


def skewed(z):
    return jnp.tanh(z) + 0.3 * jnp.tanh(z) ** 2


def leaky(z):
    return jnp.where(z > 0, z, 0.3 * z)


def bent_relu(z):
    return jnp.tanh(jax.nn.relu(z))


erf = jax.scipy.special.erf
hard_tanh = partial(jnp.clip, min=-1.0, max=1.0)


@pytest.mark.parametrize(
    ("phi", "bias_variance", "weight_variance", "kernel"),
    [
        (gelu, 0.17292239, 1.98305826, 3.561553),
        (jax.nn.silu, 0.55514317, 1.98800468, 14.320174),
    ],
)
def test_half_stable_constants(phi, bias_variance, weight_variance, kernel):
    """C_b and C_W as published (Roberts, Yaida & Hanin), to their last digit."""
    point = critical_initialization(phi)
    assert point.universality == "half-stable"
    assert point.converged
    assert float(point.residual) < 1e-13
    assert float(point.bias_variance) == pytest.approx(bias_variance, abs=0.5e-8)
    assert float(point.weight_variance) == pytest.approx(weight_variance, abs=0.5e-8)
    assert float(point.kernel) == pytest.approx(kernel, abs=0.5e-6)


@pytest.mark.parametrize(("phi", "companion"), [(gelu, 0.8522), (jax.nn.silu, 1.0191)])
def test_half_stable_networks_hardly_move(phi, companion):
    """The map touches the diagonal at K*, crosses it at a companion, and stays close to it."""
    point = critical_initialization(phi)
    kernel = float(point.kernel)

    def drift(ratio):
        second = preactivation_average(lambda z: phi(z) ** 2, ratio * kernel)
        return point.bias_variance / kernel + point.weight_variance * second / kernel - ratio

    grid = jnp.linspace(0.5, 2.0, 301)
    moved = drift(grid)
    assert float(jnp.max(jnp.abs(moved))) < 2e-3
    crossings = np.flatnonzero(np.diff(np.sign(np.where(abs(moved) < 1e-9, 0, moved))) != 0)
    assert np.any(abs(grid[crossings] - companion) < 0.0051)
    assert abs(float(jax.grad(drift)(1.0))) < 1e-12  # chi_par - 1
    bend = float(jax.grad(jax.grad(drift))(1.0))
    assert abs(bend) > 1e-5  # far above rounding: tangent, not inflected, hence half-stable
    deep = depth_recursion(
        (kernel - point.bias_variance) / point.weight_variance, np.ones(200), activation=phi,
        weight_variance=point.weight_variance, bias_variance=point.bias_variance,
    )  # fmt: skip
    np.testing.assert_allclose(deep.kernel, kernel, rtol=1e-11)
    slope = np.diff(np.asarray(deep.vertex)) / kernel**2
    np.testing.assert_allclose(slope, point.vertex_slope, rtol=1e-9)


@pytest.mark.parametrize(
    ("phi", "kinks", "name", "weight_variance", "vertex_slope"),
    [
        (lambda z: z, (), "scale-invariant", 1.0, 2.0),
        (jax.nn.relu, (0.0,), "scale-invariant", 2.0, 5.0),
        (leaky, (0.0,), "scale-invariant", 2 / 1.09, 6 * 1.0081 / 1.09**2 - 1),
        (jnp.tanh, (0.0,), "K*=0", 1.0, 2 / 3),
        (jnp.sin, (), "K*=0", 1.0, 2 / 3),
        (erf, (0.0,), "K*=0", np.pi / 4, 2 / 3),
        (lambda z: jnp.tanh(100 * z), (0.0,), "K*=0", 1e-4, 2 / 3),
        (hard_tanh, (-1.0, 0.0, 1.0), "K*=0", 1.0, 2 / 3),
        (jax.nn.elu, (0.0,), "K*=0", 1.0, 2 / 3),
        (bent_relu, (0.0,), "K*=0", 2.0, 5 / 3),
    ],
)
def test_classes_in_closed_form(phi, kinks, name, weight_variance, vertex_slope):
    point = critical_initialization(phi, kinks=kinks)
    assert point.universality == name
    assert point.converged
    assert float(point.bias_variance) == 0
    assert float(point.kernel) == (name == "scale-invariant")
    assert float(point.weight_variance) == pytest.approx(weight_variance, rel=1e-12)
    assert float(point.vertex_slope) == pytest.approx(vertex_slope, rel=1e-12)


@pytest.mark.parametrize("phi", [jax.nn.softplus, jax.nn.sigmoid, jnp.square, jnp.cos])
def test_activations_without_criticality(phi):
    point = critical_initialization(phi)
    assert point.universality == "none"
    assert not point.converged


def test_growth_beyond_the_quadrature_is_noticed():
    """Averages of exp lie beyond every node: the two formulas for chi_par disagree."""
    assert not critical_initialization(jnp.exp).converged


@given(beta=st.sampled_from([0.3, 0.7, 2.0, 5.0]))
def test_swish_scaling(beta):
    """z sigmoid(beta z) = s(beta z)/beta: kernels are divided by beta^2."""
    one = critical_initialization(jax.nn.silu)
    found = critical_initialization(lambda z: z * jax.nn.sigmoid(beta * z))
    assert float(found.weight_variance) == pytest.approx(float(one.weight_variance), rel=1e-12)
    for ours, theirs in ((found.kernel, one.kernel), (found.bias_variance, one.bias_variance)):
        assert float(ours) == pytest.approx(float(theirs) / beta**2, rel=1e-9)


def deep(phi, C_W, lam_b=0.0):
    return depth_recursion(
        1.0, np.ones(DEPTH - 1), activation=phi, weight_variance=C_W, weight_rate=1.0,
        bias_rate=lam_b,
    )  # fmt: skip


@pytest.mark.parametrize("phi", [jnp.tanh, jnp.sin, erf, skewed])
def test_exponents_are_those_of_deep_networks(phi):
    point, power = critical_initialization(phi), critical_exponents(phi)
    C_W = point.weight_variance
    layers = deep(phi, C_W)
    kernel, vertex, tangent = layers.kernel[-1], layers.vertex[-1], layers.tangent_kernel[-1]
    chi = susceptibilities(kernel, activation=phi, weight_variance=C_W)
    a1, p_perp = power.kernel_coefficient, power.perpendicular
    for found, expected in (
        (kernel * DEPTH, -1 / a1),
        ((1 - chi.parallel) * DEPTH, power.parallel),
        ((1 - chi.perpendicular) * DEPTH, p_perp),
        (vertex / kernel**2 / DEPTH, point.vertex_slope),
        (tangent, 1 / (-a1 * p_perp * C_W)),
        (deep(phi, C_W, 1.0).tangent_kernel[-1] / DEPTH, 1 / (1 + p_perp)),
    ):
        assert float(found) == pytest.approx(float(expected), rel=2 * SLACK)


@pytest.mark.parametrize(("phi", "c"), [(jax.nn.elu, np.sqrt(2 / np.pi)), (bent_relu, None)])
def test_vertex_slope_does_not_depend_on_how_fast_the_kernel_decays(phi, c):
    """ELU: K' = K - c K^(3/2), so K -> 4/(c l)^2. One-sided tanh: as tanh, with ReLU's kurtosis."""
    point = critical_initialization(phi)
    layers = deep(phi, point.weight_variance)
    slope = layers.vertex[-1] / layers.kernel[-1] ** 2 / DEPTH
    assert float(slope) == pytest.approx(float(point.vertex_slope), rel=4 * SLACK)
    if c is not None:
        assert float(layers.kernel[-1]) * (c * DEPTH) ** 2 == pytest.approx(4, rel=4 * SLACK)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (jax.nn.relu, "differentiable"),
        (jax.nn.elu, "differentiable"),
        (jax.nn.sigmoid, "phi"),
        (gelu, "a_1"),
        (lambda z: z, "a_1"),
    ],
)
def test_exponents_refuse_other_classes(phi, message):
    with pytest.raises(ValueError, match=message):
        critical_exponents(phi)


def gaussian_moment_ratio(m, power):
    """E P^power over m unit Gaussians, u P the change of their density with the variance of G.

    Averaged over G of mean 1 and variance u, N(0, G) is N(0, 1) times 1 + u P + ..., where
    P = (1/2) d^2/dG^2 [G^(-m/2) e^(-S/G)] e^S at G = 1 and S = |z|^2/2 ~ Gamma(m/2).
    """
    half = Fraction(m, 2)
    once = [half * (half + 1) / 2, -(half + 1), Fraction(1, 2)]
    polynomial = [Fraction(1)]
    for _ in range(power):
        polynomial = [
            sum(polynomial[i] * once[k - i] for i in range(len(polynomial)) if 0 <= k - i < 3)
            for k in range(len(polynomial) + 2)
        ]
    moment, total = Fraction(1), Fraction(0)
    for k, coefficient in enumerate(polynomial):
        total += coefficient * moment
        moment *= half + k
    return total


@given(n_1=st.integers(1, 6), n_2=st.integers(1, 6))
def test_information_series_in_rational_arithmetic(n_1, n_2):
    """KL of a mixture is u^2 E P^2/2 - u^3 E P^3/6; the information is KL(12) - KL(1) - KL(2)."""

    def excess(power):
        whole, one, two = (gaussian_moment_ratio(m, power) for m in (n_1 + n_2, n_1, n_2))
        return whole - one - two

    second, third = excess(2) / 2, -excess(3) / 6
    for u in (0.01, 0.3):
        found = information_series(u / 5, n_1, n_2, vertex_slope=5.0)
        assert float(found) == pytest.approx(float(second) * u**2 + float(third) * u**3, rel=1e-12)
    best = optimal_aspect_ratio(n_1 + n_2, 5.0)
    assert float(best) == pytest.approx(float(-2 * second / (3 * third)) / 5, rel=1e-12)
    slope = jax.grad(lambda r: information_series(r, n_1, n_2, vertex_slope=5.0))(best)
    assert abs(float(slope)) < 1e-12


def lognormal_information(u):
    """Mutual information of two outputs sharing a lognormal G of relative variance u."""
    log_variance = np.log1p(u)
    q, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    G = np.exp(np.sqrt(log_variance) * q - log_variance / 2)
    nodes, step = np.polynomial.legendre.leggauss(300)
    x, step = 25 * (nodes + 1), 25 * step
    radial = np.exp(-(x[:, None] ** 2) / (2 * G))
    one = radial @ (weight / np.sqrt(2 * np.pi * G))
    two = radial @ (weight / (2 * np.pi * G))

    def entropy(density, measure):
        return -np.sum(step * measure * density * np.log(np.maximum(density, 1e-300)))

    return 2 * entropy(one, 2.0) - entropy(two, 2 * np.pi * x)


def test_the_optimum_belongs_to_the_series_and_not_to_the_information():
    small = 0.01
    series = float(information_series(small, 1, 1, vertex_slope=1.0))
    assert lognormal_information(small) == pytest.approx(series, abs=10 * small**4)
    u = float(optimal_aspect_ratio(2, 1.0)) * np.array([0.5, 1.0, 2.0, 6.0, 13.0])
    assert np.all(np.diff([lognormal_information(each) for each in u]) > 0)
    assert float(information_series(u[3], 1, 1, vertex_slope=1.0)) < 0


def test_bad_input_is_named():
    for ratio, first, second, slope, message in (
        (0.0, 1, 1, 1.0, "aspect_ratio"),
        (0.1, 0, 1, 1.0, "n_first"),
        (0.1, 1, -1, 1.0, "n_second"),
        (0.1, 1, 1, 0.0, "vertex_slope"),
    ):
        with pytest.raises(ValueError, match=message):
            information_series(ratio, first, second, vertex_slope=slope)
    with pytest.raises(ValueError, match="n_outputs"):
        optimal_aspect_ratio(0, 1.0)
    with pytest.raises(ValueError, match="vertex_slope"):
        optimal_aspect_ratio(3, -1.0)
    with pytest.raises(ValueError, match="ascending"):
        critical_initialization(jnp.tanh, kinks=(1.0, 1.0))
