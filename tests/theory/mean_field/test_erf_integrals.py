"""Gaussian averages of erf units against quadrature, Price's theorem and their symmetries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf

from theory.mean_field.erf_integrals import i2, i3, i4, j2

# Trapezoidal rule in each of the rank's directions: for fields of variance q it converges like
# exp(-2 pi^2/(h^2 (1 + q))), so that in few dimensions fields may be large.
REACH, STEPS, SIZES = 7.6, {1: 0.02, 2: 0.1, 3: 0.35, 4: 0.65}, {1: 3.0, 2: 1.5, 3: 0.5, 4: 0.15}
# Fields of the averages that are compared, some of them coinciding.
PAIRS, TRIPLES = ((0, 1), (2, 2)), ((0, 1, 2), (0, 0, 2), (0, 1, 0), (3, 3, 3))
QUADRUPLES = ((0, 1, 2, 3), (0, 0, 1, 2), (1, 2, 3, 3), (2, 2, 2, 2))


def g(u):
    return erf(u / np.sqrt(2))


def slope(u):
    return np.sqrt(2 / np.pi) * np.exp(-(u**2) / 2)


@st.composite
def factors(draw):
    """B (4, rank), C = B B^T: generic, fields that coincide, are opposite, zero or independent."""
    rank = draw(st.sampled_from([1, 2, 3, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = rng.standard_normal((4, rank)) * SIZES[rank]
    kind = draw(st.sampled_from(["generic", "equal", "opposite", "zero", "split"]))
    if kind == "equal":
        found[1] = found[0]
    elif kind == "opposite":
        found[3] = -found[0]
    elif kind == "zero":
        found[draw(st.integers(0, 3))] = 0
    elif kind == "split":
        found[:2, rank // 2 :] = 0
        found[2:, : rank // 2] = 0
    return found


def quadrature(factor):
    """The averages of ``integrals``, in the same order."""
    step = STEPS[factor.shape[1]]
    line = np.arange(-REACH, REACH + step / 2, step)
    nodes = np.stack(np.meshgrid(*[line] * factor.shape[1], indexing="ij"), -1)
    nodes = nodes.reshape(-1, factor.shape[1])
    weights = np.exp(-(nodes**2).sum(1) / 2)
    fields = factor @ nodes.T
    outputs, slopes = g(fields), slope(fields)
    weights = weights / weights.sum()
    return np.array(
        [(outputs[u] * outputs[v]) @ weights for u, v in PAIRS]
        + [(slopes[u] * slopes[v]) @ weights for u, v in PAIRS]
        + [(slopes[u] * fields[v] * outputs[w]) @ weights for u, v, w in TRIPLES]
        + [(slopes[u] * slopes[v] * outputs[w] * outputs[z]) @ weights for u, v, w, z in QUADRUPLES]
    )


@jax.jit
def integrals(c):
    return jnp.stack(
        [i2(c, *pair) for pair in PAIRS]
        + [j2(c, *pair) for pair in PAIRS]
        + [i3(c, *triple) for triple in TRIPLES]
        + [i4(c, *quadruple) for quadruple in QUADRUPLES]
    )


@given(factor=factors())
def test_every_integral_is_its_quadrature(factor):
    """1e-12: rounding, and what lies beyond 7.6 sigma."""
    found = integrals(factor @ factor.T)
    np.testing.assert_allclose(found, quadrature(factor), rtol=1e-12, atol=1e-12)


@jax.jit
def price(c):
    """Pairs (derivative of an average in an entry of C, the average that Price says it is)."""

    def derivative(u, v, average):  # C_uv and C_vu are one variable
        change = jnp.zeros((4, 4)).at[u, v].set(1.0).at[v, u].set(1.0)
        return jax.jvp(average, (c,), (change,))[1]

    density = 4 / jnp.pi**2 / jnp.sqrt(jnp.linalg.det(jnp.eye(4) + c))  # <g' g' g' g'>
    # <g'(u) v g(w)> = C_uv <g''(u) g(w)> + C_vw <g'(u) g'(w)>: Gaussian integration by parts
    curved = 2 * derivative(0, 0, lambda c: i2(c, 0, 2))
    return jnp.array(
        [
            (derivative(0, 1, lambda c: i2(c, 0, 1)), j2(c, 0, 1)),
            (derivative(2, 3, lambda c: i4(c, 0, 1, 2, 3)), density),
            (c[0, 1] * curved + c[1, 2] * j2(c, 0, 2), i3(c, 0, 1, 2)),
        ]
    )


@given(factor=factors())
def test_prices_theorem(factor):
    """d<F>/dC_uv = <d^2 F/du dv>, half of it on the diagonal; cancellation loses some digits."""
    found, expected = np.asarray(price(factor @ factor.T)).T
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


ORDERS = ((0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2))


@jax.jit
def quadruples(c):
    return jnp.stack([i4(c, *order) for order in ORDERS])


@jax.jit
def with_third(c):
    """What vanishes if field 2 is independent of all others."""
    return jnp.stack([i2(c, 0, 2), i3(c, 0, 1, 2), i4(c, 0, 1, 2, 3)])


@jax.jit
def thirds(c):
    return jnp.stack([i3(c, 0, v, 2) for v in (1, 3, 4)])


@given(factor=factors())
def test_symmetries_bounds_and_independence(factor):
    c = factor @ factor.T
    close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-14)
    found = quadruples(c)
    close(found, np.full(4, found[0]))
    assert np.all(integrals(c)[2:4] > 0)
    assert np.all(np.abs(integrals(c)[:2]) <= 1)

    alone = c.copy()
    alone[2, [0, 1, 3]] = alone[[0, 1, 3], 2] = 0
    assert not np.any(with_third(alone))
    sign = np.outer([1, 1, -1, 1], [1, 1, -1, 1])
    close(with_third(c * sign), -with_third(c))

    # linear in what v covaries with
    a, b = 0.7, -1.3
    mixed = np.concatenate([factor, a * factor[1:2] + b * factor[3:]])
    first, second, sum_of_both = thirds(mixed @ mixed.T)
    close(sum_of_both, a * first + b * second)


def test_meshes_and_leading_axes():
    factor = np.random.default_rng(0).standard_normal((2, 4, 5))
    c = jnp.asarray(factor @ factor.swapaxes(1, 2))
    fields, few = np.arange(4), np.arange(2)
    whole = jax.jit(lambda c: i4(c, *np.ix_(few, few, fields, fields)))(c)
    assert whole.shape == (2, 2, 2, 4, 4)
    for p in range(2):
        singles = np.stack([whole[p][order] for order in ORDERS])
        np.testing.assert_allclose(singles, quadruples(c[p]), rtol=1e-12)
    pairs = i2(c, 1, fields)  # one index against many, on every problem
    assert pairs.shape == (2, 4)
    np.testing.assert_allclose(pairs[1], i2(c[1], 1, fields), rtol=1e-12)
    assert j2(jnp.eye(2, dtype=jnp.float32), 0, 1).dtype == jnp.float32


def test_bad_input_is_named():
    for shape in ((2, 3), (4,)):
        with pytest.raises(ValueError, match="square"):
            i2(np.ones(shape), 0, 1)
    for integral, indices, name in (
        (i2, (0, 2), "v"),
        (j2, (-1, 0), "u"),
        (i3, (0, 1, 5), "w"),
        (i4, (0, 1, 1, np.array([0, 2])), "z"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be one of the 2 fields"):
            integral(np.eye(2), *indices)
