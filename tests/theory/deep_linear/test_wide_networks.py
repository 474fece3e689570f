"""Fluctuations of modes in wide networks, against sampled hidden vectors and their exact modes."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.deep_linear.modes import mode_imbalance, two_layer_mode_strength
from theory.deep_linear.wide_networks import wide_mode_variance

SIZES = st.floats(0.05, 5.0)
TIMES = np.array([0.0, 0.1, 0.5, 1.0, 3.0])
DRAWS, WIDTH = 1000, 2000


@pytest.mark.parametrize(("c1", "c2"), [(1.0, 1.0), (2.0, 0.1), (0.1, 0.1)])
def test_variance_of_sampled_modes(c1, c2):
    """Each mode of sampled vectors a, b is exact; 4 standard errors of a variance."""
    random, s = np.random.default_rng(0), 1.3
    a, b = (np.sqrt(c / WIDTH) * random.standard_normal((DRAWS, WIDTH)) for c in (c1, c2))
    start, kappa = jnp.sum(a * b, axis=1), mode_imbalance(a, b)
    u = two_layer_mode_strength(TIMES[:, None], s, start[None], kappa[None])
    expected = wide_mode_variance(TIMES, s, c1, c2, WIDTH)
    np.testing.assert_allclose(np.var(u, axis=1), expected, rtol=4 * np.sqrt(2 / DRAWS))


@given(s=SIZES, c1=SIZES, c2=SIZES, tau=SIZES, scale=SIZES)
def test_units_and_ends(s, c1, c2, tau, scale):
    """Time in units of tau; strengths, c1 and c2 in units of s; known at the start, 0 in the end"""
    found = wide_mode_variance(TIMES, s, c1, c2, 100.0)
    np.testing.assert_allclose(
        wide_mode_variance(tau * TIMES, s, c1, c2, 100.0, tau), found, rtol=1e-9
    )
    scaled = wide_mode_variance(TIMES / scale, scale * s, scale * c1, scale * c2, 100.0)
    np.testing.assert_allclose(scaled, scale**2 * found, rtol=1e-9)
    np.testing.assert_allclose(found[0], c1 * c2 / 100, rtol=1e-9)
    assert wide_mode_variance(1e3 / s, s, c1, c2, 100.0) < 1e-12
    np.testing.assert_allclose(wide_mode_variance(TIMES, s, c2, c1, 50.0), 2 * found, rtol=1e-9)


@pytest.mark.parametrize("name", ["s", "c1", "c2", "n_hidden", "tau"])
def test_arguments_must_be_positive(name):
    arguments = {"t": 1.0, "s": 1.0, "c1": 1.0, "c2": 1.0, "n_hidden": 10.0, "tau": 1.0}
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        wide_mode_variance(**arguments | {name: 0.0})
    with pytest.raises(ValueError, match="t must be non-negative"):
        wide_mode_variance(**arguments | {"t": -1.0})
