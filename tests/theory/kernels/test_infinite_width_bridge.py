"""Infinitely wide networks against neural-tangents, layer by layer to eight layers.

Off the diagonal both have all digits. On it neural-tangents takes the angle of an input with itself
from a difference, unless that happens to cancel exactly: compiled, or with tens of features, its
tangent kernels of kinked activations are off by the root of the rounding, 1e-8. Variances along the
diagonal, integrated by themselves, are the reference there.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, ndtr

from theory.kernels.dual_activations import leaky_relu_dual
from theory.kernels.infinite_width import Rates, mlp_kernels
from theory.kernels.stax import neural_tangents

stax = neural_tangents().stax
DEPTH, ROWS, FEATURES = 8, 6, 40
OFF = ~np.eye(ROWS, dtype=bool)
SLOPE = 0.3
DUALS = {"leaky": leaky_relu_dual(SLOPE)}
PEERS = {
    "relu": stax.Relu(),
    "abs": stax.Abs(),
    "leaky": stax.LeakyRelu(SLOPE),
    "erf": stax.Erf(),
    "gelu": stax.Gelu(),  # exact in infinite width, whatever its argument says of finite width
}
KINKED = {"relu": 0.0, "abs": -1.0, "leaky": SLOPE}  # and their slopes below zero


class Network(NamedTuple):
    """One infinitely wide network and its inputs; the widths matter to its rates alone."""

    seed: int
    rank: int
    sign: int
    act: str
    w: float
    s: float
    hidden: list[int]

    @property
    def x(self) -> np.ndarray:
        """Of unequal norms, within 0.02 of ``rank`` dimensions; two rows parallel or antipodal."""
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((ROWS, self.rank)) @ rng.standard_normal((self.rank, FEATURES))
        x[1] = self.sign * x[0]
        x = x / np.sqrt(self.rank) + 0.02 * rng.standard_normal(x.shape)
        return x * 10 ** rng.uniform(-0.5, 0.5, (ROWS, 1))


NETWORKS = st.builds(
    Network,
    seed=st.integers(0, 2**32 - 1),
    rank=st.sampled_from([1, 2, FEATURES]),
    sign=st.sampled_from([1, -1]),
    act=st.sampled_from(list(PEERS)),
    w=st.floats(0.5, 3.0),
    s=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    hidden=st.lists(st.integers(1, 500), min_size=DEPTH - 1, max_size=DEPTH - 1),
)


class Layers(NamedTuple):
    """Kernels of all layers, (DEPTH, ROWS, ROWS)."""

    nngp: np.ndarray
    ntk: np.ndarray


def peer_kernels(network: Network, parametrization: str) -> Layers:
    """By neural-tangents, one layer after another."""
    found, activation = [], PEERS[network.act][2]
    for width in (*network.hidden, 1):
        options = {"parameterization": parametrization}
        layer = stax.Dense(width, network.w**0.5, network.s**0.5, **options)[2]
        below = (activation(found[-1]),) if found else (jnp.asarray(network.x), None, None)
        found.append(layer(*below))
    nngp, ntk = (np.stack([getattr(k, name) for k in found]) for name in Layers._fields)
    return Layers(nngp, ntk)


def own_kernels(network: Network, parametrization: str | Rates) -> Layers:
    """By a single call."""
    found = mlp_kernels(
        network.x,
        activation=DUALS.get(network.act, network.act),
        depth=DEPTH,
        weight_variance=network.w,
        bias_variance=network.s,
        parametrization=parametrization,
        hidden_widths=network.hidden,
        layers=True,
    )
    return Layers(*map(np.asarray, found))


def assert_same_pairs(found: Layers, expected: Layers) -> None:
    """Off the diagonal: 1e-12, relative; of what vanishes, 1e-14 of the diagonal."""
    for own, other in zip(found, expected, strict=True):
        size = np.sqrt(np.diagonal(own, axis1=1, axis2=2))
        scale = (size[:, :, None] * size[:, None, :])[:, OFF]
        error = np.abs(own[:, OFF] - other[:, OFF])
        assert np.all(error <= 1e-12 * np.abs(other[:, OFF]) + 1e-14 * scale)


@given(network=NETWORKS)
def test_pairs_agree_at_every_depth_and_parametrisation(network):
    """NTK, standard, mean field (over the last width), and rates lambda of one's own."""
    ntk, standard = (peer_kernels(network, name) for name in ("ntk", "standard"))
    assert_same_pairs(own_kernels(network, "ntk"), ntk)
    assert_same_pairs(own_kernels(network, "standard"), standard)
    averaged, last = own_kernels(network, "mean_field"), network.hidden[-1]
    whole = [np.concatenate([kernel[:-1], last * kernel[-1:]]) for kernel in averaged]
    assert_same_pairs(Layers(*whole), ntk)
    weights = jnp.array([FEATURES, *network.hidden], float)
    rates = Rates(weights / 7, jnp.full(DEPTH, 1 / 7))  # lambda_W, lambda_b of a standard network
    assert_same_pairs(own_kernels(network, rates), Layers(standard.nngp, standard.ntk / 7))


def average(f, variance):
    """Of f(u) over Gaussian u, by the trapezoidal rule: for smooth f to rounding."""
    u = np.linspace(-12, 12, 2001)
    weights = np.exp(-(u**2) / 2)
    return f(np.sqrt(variance)[:, None] * u[None]) @ weights / np.sum(weights)


def squares(act, variance):
    """E phi(u)^2 and E phi'(u)^2, for every variance of u."""
    if act in KINKED:
        share = (1 + KINKED[act] ** 2) / 2
        return share * variance, share * np.ones_like(variance)
    density = lambda u: np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
    value, slope = {
        "erf": (erf, lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
        "gelu": (lambda u: u * ndtr(u), lambda u: ndtr(u) + u * density(u)),
    }[act]
    return average(lambda u: value(u) ** 2, variance), average(lambda u: slope(u) ** 2, variance)


@given(network=NETWORKS)
def test_the_diagonal_is_the_recursion_of_variances(network):
    """To rounding, and to the root of it where neural-tangents takes differences."""
    own = own_kernels(network, "ntk")
    k = theta = network.w * np.mean(network.x**2, axis=1) + network.s
    for nngp, ntk in zip(*own, strict=True):
        np.testing.assert_allclose(np.diagonal(nngp), k, rtol=1e-13)
        np.testing.assert_allclose(np.diagonal(ntk), theta, rtol=1e-13)
        square, slope = squares(network.act, k)
        k = network.w * square + network.s
        theta = k + network.w * slope * theta
    for mine, other in zip(own, peer_kernels(network, "ntk"), strict=True):
        np.testing.assert_allclose(mine[:, ~OFF], other[:, ~OFF], rtol=1e-6)


def test_the_diagonal_is_normalised_where_the_other_is_not():
    """ReLU, w = 2, s = 0: K_l(x, x) = 2 |x|^2/n_0 and Theta_l(x, x) = l K_l(x, x)."""
    network = Network(0, FEATURES, 1, "relu", 2.0, 0.0, [1] * (DEPTH - 1))
    layer, norm = np.arange(1, DEPTH + 1)[:, None], 2 * np.mean(network.x**2, axis=1)[None]
    own, other = own_kernels(network, "ntk"), peer_kernels(network, "ntk")
    np.testing.assert_allclose(own.nngp[:, ~OFF], norm + 0 * layer, rtol=1e-14)
    np.testing.assert_allclose(own.ntk[:, ~OFF], norm * layer, rtol=1e-14)
    assert 1e-10 < np.abs(other.ntk[:, ~OFF] / (norm * layer) - 1).max() < 1e-7
