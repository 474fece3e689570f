"""Criticality: what random networks of finite width keep of an input, layer by layer.

Roberts, Yaida & Hanin (2022), recalled; all settings are our own. Theory gives the mean squared
preactivation K and the susceptibilities chi_par, chi_perp at infinite width, and the variance V/n
of what a single network has in place of K to first order in 1/n. Measured are

* layers sampled exactly (``dynamics.random_layers``) at N, 2N and 4N units, extrapolated to N to
  infinity, at and off criticality;
* single layers, over kernels: the maps K -> K', chi_par, chi_perp, which have no bias at any width;
* the class K* = 0 in networks of a hundred layers, whose three powers of depth are universal;
* the mean tangent kernel of networks with weight matrices;
* the information that one output has of another. Theory's series of it, cut after the third order
  in u = Var(G)/K^2, has a maximum, which defines an optimal ratio of depth to width. It is one of
  the series only: the information of sampled networks goes on growing through it. (In powers of
  depth/width itself the third order also takes the second order of u, which nu depth/width lacks.)

The first-order shift of the mean, G1/n, is not tested here: it is far smaller than its fluctuations
between networks.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.models import ACTIVATIONS
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.layer_statistics import (
    BLOCKS,
    CRITICAL,
    DEEP_NAMES,
    GAINS,
    KERNELS,
    NONLINEAR,
    RELU,
    SMOOTH,
    TANGENT_DEPTHS,
    deep_statistics,
    information,
    layer_statistics,
    map_statistics,
    settings,
    tangent_statistics,
)
from sims.kernels.sampled_layers import ACTIVATION_NAMES, depth_statistics, sampled_layers
from sims.processes import generator
from sims.rates import DOUBLINGS
from theory.kernels.aspect_ratio import information_series, optimal_aspect_ratio
from theory.kernels.criticality import critical_exponents
from theory.kernels.depth_recursions import scale_invariant_moment

SLOPES = np.array([[1.0, 0.0], [1.0, 1.0]])  # of the scale-invariant ones, above and below 0
TESTED = (-1, slice(4))  # the largest width's first layers, where u is small: the series is tested


@dataclass(frozen=True)
class Config:
    """Widths are ``width`` times 1, 2 and 4; the tangent kernel at ``ntk_width`` times 1 and 2."""

    width: int = 64
    depth: int = 8
    draws: int = 3000
    map_width: int = 512
    map_draws: int = 200
    deep_width: int = 1024
    deep_depth: int = 128
    deep_draws: int = 64
    ntk_width: int = 64
    ntk_draws: int = 400

    def __post_init__(self) -> None:
        least = {"depth": 3, "deep_depth": 16, "draws": 2 * BLOCKS}
        for name, value in vars(self).items():
            if value < least.get(name, 2):
                raise ValueError(f"{name} must be at least {least.get(name, 2)}, got {value}")
        if self.draws % BLOCKS:
            raise ValueError(f"draws must be a multiple of {BLOCKS}, got {self.draws}")

    @property
    def widths(self) -> np.ndarray:
        return self.width * DOUBLINGS


def predict(config: Config) -> Arrays:
    """Statistics over depth (layers, activations, gains), maps, powers of depth, information."""
    gains = np.concatenate([GAINS, np.ones(len(KERNELS))])
    starts = np.concatenate([np.ones(len(GAINS)), KERNELS])
    kernel, C_W, C_b = (jnp.asarray(values) for values in settings(starts, gains))
    depth = max(config.depth, *TANGENT_DEPTHS)
    every = depth_statistics(kernel, C_W, C_b, names=ACTIVATION_NAMES, depth=depth)
    layers = jax.tree.map(lambda values: values[:, :, : len(GAINS)], every)
    maps = jax.tree.map(lambda values: values[1, :, len(GAINS) :], every)
    powers = [critical_exponents(ACTIVATIONS[name]) for name in DEEP_NAMES]
    excess = np.stack([second_moments(config, n) for n in config.widths]) - 1
    u = np.linspace(0, 0.7, 141)[1:]
    statistics = layers.statistics
    return {
        "kernel": statistics.kernel[: config.depth],
        "vertex": statistics.vertex[: config.depth],
        "parallel": layers.parallel[: config.depth],
        "perpendicular": layers.perpendicular[: config.depth],
        "tangent_kernel": statistics.tangent_kernel[:, NONLINEAR, CRITICAL],
        "second_moment": 1 + excess,
        "maps": np.stack(
            [maps.statistics.kernel / KERNELS[None], maps.parallel, maps.perpendicular]
        ),
        "exponents": np.stack([[-p.kernel, -p.parallel, -p.perpendicular] for p in powers]),
        "coefficient": np.stack([1 / -p.kernel_coefficient for p in powers]),
        "spread": excess[:, 0],  # u of ReLU, (widths, layers 2, ...)
        "information": information_series(excess[:, 0], 1, 1, vertex_slope=1.0),
        "information_left_out": left_out(excess[:, 0]),
        "curve_spread": u,
        "curve_information": information_series(u, 1, 1, vertex_slope=1.0),
        "optimal_spread": optimal_aspect_ratio(2, vertex_slope=1.0),
    }


def second_moments(config: Config, width: int) -> np.ndarray:
    """E G^2/K^2 of ReLU and linear networks in layers 2, ..., depth."""
    hidden = np.where(np.tri(config.depth - 1), float(width), np.inf)  # an infinite layer: no noise
    over_layers = jax.vmap(scale_invariant_moment, (0, None, None))
    return np.asarray(jax.jit(jax.vmap(over_layers, (None, 0, 0)))(hidden, *SLOPES.T))


def left_out(spread: np.ndarray) -> np.ndarray:
    """The order after the last of the information's series, had it a geometric one's size."""
    whole = np.asarray(information_series(spread, 1, 1, vertex_slope=1.0))
    # third orders of I(u) and I(2u), and second ones, by their powers
    double = np.asarray(information_series(2 * spread, 1, 1, vertex_slope=1.0))
    third = (double - 4 * whole) / 4
    return third**2 / (whole - third)


def simulate(config: Config, key: jax.Array) -> Arrays:
    """Sample layers at three widths, single layers, deep networks; draw networks with weights."""
    rng = generator(key)
    sizes = {"names": ACTIVATION_NAMES, "draws": config.draws, "depth": config.depth}
    cases = settings(np.ones(len(GAINS)), GAINS)
    found = [sampled_layers(rng, *cases, width=int(n), **sizes) for n in config.widths]
    outputs = [samples.square[:, 1:, RELU, CRITICAL] for samples in found]
    return {
        **layer_statistics(config, found),
        **information(config, outputs),
        **map_statistics(config, rng),
        **deep_statistics(config, rng),
        **tangent_statistics(config, rng),
    }


def relative(errors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """4 standard errors, relative to what is predicted."""
    return 4 * errors / np.abs(values)


FLOWS = ("kernel", "parallel", "perpendicular")


CLAIMS = (
    Claim(
        "K and the growth of perturbations along and across the input, over depth",
        predicted=lambda p: np.stack([p[name] for name in FLOWS])[:, 1:],
        measured=lambda m: np.stack([m[name][0] for name in FLOWS])[:, 1:],
        tolerance=lambda p, m: np.stack([relative(m[name][1, 1:], p[name][1:]) for name in FLOWS]),
        because="4 standard errors over networks, propagated through the extrapolation to "
        "infinite width from N, 2N, 4N, which leaves O(1/N^3)",
    ),
    Claim(
        "variance V of tanh and GELU networks over depth",
        predicted=lambda p: p["vertex"][1:, SMOOTH],
        measured=lambda m: m["vertex"][0][1:, SMOOTH],
        tolerance=lambda p, m: relative(m["vertex"][1, 1:, SMOOTH], p["vertex"][1:, SMOOTH]),
        because="4 standard errors over networks, through the same extrapolation",
    ),
    Claim(
        "second moment of ReLU and linear networks over depth, at every width",
        predicted=lambda p: p["second_moment"],
        measured=lambda m: m["second_moment"][0],
        tolerance=lambda p, m: relative(m["second_moment"][1], p["second_moment"]),
        because="4 standard errors over networks; exact at every width",
    ),
    Claim(
        "single critical layers: K'/K, chi_par and chi_perp over K",
        predicted=lambda p: p["maps"],
        measured=lambda m: m["maps"][0],
        tolerance=lambda p, m: relative(m["maps"][1], p["maps"]),
        because="4 standard errors over layers; one layer has no bias at any width",
    ),
    Claim(
        "powers of depth of K, and of perturbations along and across, in the class K* = 0",
        predicted=lambda p: p["exponents"],
        measured=lambda m: m["exponents"][0],
        tolerance=lambda p, m: (
            4 * m["exponents"][1]
            + np.abs(p["exponents"]) * np.log(len(m["deep_layers"])) / (len(m["deep_layers"]) / 2)
        ),
        because="4 standard errors over networks; corrections of relative size log(l)/l, taken in "
        "the middle of the fitted layers",
        error="absolute",
    ),
    Claim(
        "mean tangent kernel of networks with weights",
        predicted=lambda p: p["tangent_kernel"][np.array(TANGENT_DEPTHS) - 1],
        measured=lambda m: m["tangent_kernel"][0],
        tolerance=lambda p, m: relative(
            m["tangent_kernel"][1], p["tangent_kernel"][np.array(TANGENT_DEPTHS) - 1]
        ),
        because="4 standard errors over networks, propagated through the extrapolation to "
        "infinite width from n and 2n, which leaves O(1/n^2)",
    ),
    Claim(
        "information of one output about another, at small Var(G)/K^2",
        predicted=lambda p: p["information"][TESTED],
        measured=lambda m: m["information"][0][TESTED],
        tolerance=lambda p, m: (
            (4 * m["information"][1] + p["information_left_out"]) / np.abs(p["information"])
        )[TESTED],
        because="4 standard errors over networks, and the order left out of the series, were it "
        "geometric",
    ),
)

EXPERIMENT = Experiment(
    name="roberts2022_criticality",
    source=papers.roberts2022("criticality, its universality classes, and fluctuations with depth"),
    statement="At criticality nothing grows or dies exponentially with depth, and depth over width "
    "counts the fluctuations.",
    equations=(
        r"K' = C_b + C_W\langle\phi^2\rangle_K,\quad"
        r"\chi_\parallel = C_W\langle z\phi\phi'\rangle_K/K,\quad"
        r"\chi_\perp = C_W\langle\phi'^2\rangle_K",
        r"V' = C_W^2\left(\langle\phi^4\rangle_K-\langle\phi^2\rangle_K^2\right)"
        r" + \chi_\parallel^2 V,\qquad \mathrm{Var}\,G = V/n",
        r"I = n_1 n_2\left[\frac{u^2}{8} - \frac{20+3(n_1+n_2)}{48}u^3 + \dots\right],"
        r"\qquad u = \mathrm{Var}\,G/K^2",
    ),
    quick=Config(),
    full=Config(
        width=128,
        depth=16,
        draws=8000,
        map_draws=1000,
        deep_width=2048,
        deep_depth=512,
        deep_draws=64,
        ntk_width=128,
        ntk_draws=2000,
    ),
    cost=(9, 100),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
