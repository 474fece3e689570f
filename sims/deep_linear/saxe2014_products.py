"""Singular values of products of random matrices: Gaussian factors scatter them, orthogonal do not.

Saxe, McClelland & Ganguli (2014) compare the two as initial conditions of deep linear networks;
histograms of singular values at several depths are recalled from the paper. All sizes are our own.
Gaussian entries have variance 1/N, orthogonal factors a gain.

Gaussian products have two limits. At fixed depth L and N -> infinity: the fraction of singular
values below a threshold (at large N) and the moments of their squares (at small N, extrapolated).
At fixed N and L -> infinity: growth rates. There the product as a matrix is useless, since float64
holds no singular value more than 16 decades below the largest; it is kept factored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.initialization import gaussian_init, orthogonal_init
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import over_draws
from sims.rates import (
    DOUBLINGS,
    fitted_exponent,
    mean_and_error,
    order_and_error,
    without_step_error,
)
from theory.deep_linear import product_spectrum, random_products

THRESHOLDS = np.array([0.01, 0.1, 0.5])  # of singular values: directions that are all but lost
POWERS = np.array([1, 2, 3])
SWEEPS = 40  # of QR; each contracts neighbours by the ratio of their singular values
EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Config:
    """Spectra at width ``n``, moments at ``moment_n`` and up, growth rates at ``growth_n``."""

    n: int = 200
    depth: int = 8
    draws: int = 32
    orthogonal_depth: int = 64
    orthogonal_draws: int = 4
    gain: float = 1.1
    moment_n: int = 16
    moment_depth: int = 3
    moment_draws: int = 5000
    growth_n: int = 16
    growth_depths: tuple[int, ...] = (4, 16, 128, 512)
    growth_draws: int = 150

    def __post_init__(self) -> None:
        for name in ("n", "draws", "orthogonal_draws", "moment_draws", "growth_n", "growth_draws"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if len(self.growth_depths) < 2 or min(np.diff((0, *self.growth_depths))) < 1:
            raise ValueError(
                f"growth_depths must be two or more, increasing, got {self.growth_depths}"
            )
        # Every factor has norm 2, so rounding adds 2^L eps; the smallest value is ~ N^(-(L+1)/2).
        if 2.0**self.depth * EPS > float(self.n) ** (-(self.depth + 1) / 2):
            raise ValueError(
                f"depth must keep the smallest of {self.n} singular values above float64 "
                f"rounding, got {self.depth}"
            )


def predict(config: Config) -> Arrays:
    """Moments, density per unit of the logarithm, fractions, g^L and Lyapunov exponents."""
    depths, powers = np.arange(1, config.depth + 1), POWERS[None]
    edge = product_spectrum.gaussian_product_edge(config.depth)
    grid = np.geomspace(1e-3, np.sqrt(float(edge)), 400)
    density = product_spectrum.gaussian_product_density(grid[None] ** 2, depths[:, None])
    return {
        "moments": random_products.fuss_catalan(depths[: config.moment_depth, None], powers),
        "depths": depths,
        "singular_value": grid,
        "log_density": 2 * grid[None] ** 2 * density,
        "thresholds": THRESHOLDS,
        "below": product_spectrum.gaussian_product_cdf(THRESHOLDS[None] ** 2, depths[:, None]),
        "orthogonal": random_products.orthogonal_product_singular_value(
            config.gain, np.arange(1, config.orthogonal_depth + 1)
        ),
        "exponents": random_products.lyapunov_exponents(config.growth_n),
        "orthogonal_exponent": np.log(config.gain),
    }


def simulate(config: Config, key: jax.Array) -> Arrays:
    """Sample Gaussian products large, small and long, and orthogonal ones."""
    large, small, long, isometric = jax.random.split(key, 4)
    shape = (config.n, config.n)

    def orthogonal(key):
        return config.gain * orthogonal_init(key, shape)

    gaussian = partial(gaussian_init, shape=shape)
    spectra = along_product(gaussian, singular_values, config.depth)
    isometries = along_product(orthogonal, singular_values, config.orthogonal_depth)
    spectrum = over_draws(spectra, large, config.draws, batch=4)
    return {
        "singular_values": spectrum,
        "below": mean_and_error((spectrum[..., None] < THRESHOLDS).mean(axis=2)),
        "orthogonal": over_draws(isometries, isometric, config.orthogonal_draws, batch=2),
        **moment_statistics(config, small),
        **growth_statistics(config, long),
    }


def along_product(
    factor: Callable[[jax.Array], jax.Array], observe: Callable[[jax.Array], Any], depth: int
) -> Callable[[jax.Array], Any]:
    """key -> what ``observe`` sees of the products of the first 1, 2, ..., depth factors."""

    def path(key):
        def multiply(product, layer):
            product = factor(jax.random.fold_in(key, layer)) @ product
            return product, observe(product)

        start = jnp.eye(len(jax.eval_shape(factor, key)))
        return jax.lax.scan(multiply, start, jnp.arange(depth))[1]

    return path


def singular_values(product: jax.Array) -> jax.Array:
    """All of them, descending."""
    return jnp.linalg.svd(product, compute_uv=False)


def moment_statistics(config: Config, key: jax.Array) -> Arrays:
    """Mean at every width; higher moments as N -> infinity; the order in 1/N of their error."""
    widths = config.moment_n * DOUBLINGS
    sampled = np.array([sampled_moments(config, key, n) for n in map(int, widths)])
    higher = without_mean_fluctuations(sampled)
    second = higher[..., 0].sum(axis=2)  # over depths, for one number: (widths, draws)
    return {
        "moment_widths": widths,
        "mean_square": mean_and_error(np.moveaxis(sampled[..., 0], 1, 0)),
        "moments": mean_and_error(without_step_error(higher)),
        "order": order_and_error(second),
    }


def sampled_moments(config: Config, key: jax.Array, n: int) -> np.ndarray:
    """(1/N) tr (P^T P)^k of products of N x N matrices: (draws, depths, powers)."""

    def moments(product):
        gram = product.T @ product
        square = gram @ gram
        return jnp.stack([jnp.trace(gram), jnp.trace(square), jnp.sum(gram * square)]) / n

    path = along_product(partial(gaussian_init, shape=(n, n)), moments, config.moment_depth)
    return over_draws(path, jax.random.fold_in(key, n), config.moment_draws, batch=250)


def without_mean_fluctuations(moments: np.ndarray) -> np.ndarray:
    """Second and third moments less the noise they share with the first: (..., draws, depths, 2).

    The first has mean 1 exactly, at every N, so theirs do not change (a control variate).
    """
    first, higher = moments[..., :1] - 1, moments[..., 1:]
    centred = higher - higher.mean(axis=-3, keepdims=True)
    slope = (first * centred).sum(axis=-3, keepdims=True) / (first**2).sum(-3, keepdims=True)
    return higher - slope * first


def growth_statistics(config: Config, key: jax.Array) -> Arrays:
    """Growth rates of singular values, and what keeps their logs from being L times the rates."""
    depths = np.array(config.growth_depths)
    path = partial(log_singular_values, n=config.growth_n, depths=config.growth_depths)
    found = over_draws(path, key, config.growth_draws, batch=50)
    logs, diagonal = found[:, :, 0], found[:, :, 1]
    offset = np.abs((logs - diagonal).mean(axis=0)).sum(axis=1)
    return {
        "growth_depths": depths,
        "log_singular_values": logs,
        "exponents": mean_and_error((logs[:, -1] - logs[:, -2]) / (depths[-1] - depths[-2])),
        "exponents_qr": mean_and_error(diagonal[:, 0] / depths[0]),
        "bias_exponent": fitted_exponent(depths[-2:], (offset / depths)[-2:]),
    }


def log_singular_values(key: jax.Array, *, n: int, depths: tuple[int, ...]) -> jax.Array:
    """log singular values of long Gaussian products, and the log |diag R| of their QR.

    The product is Q D T with D diagonal, kept as its logarithm, and T triangular with a unit
    diagonal: nothing over- or underflows however long it is. Shape (depths, 2, n).
    """

    def multiply(layer, state):
        q, log_d, t = state
        q, r = jnp.linalg.qr(gaussian_init(jax.random.fold_in(key, layer), (n, n)) @ q)
        log_d, factor = absorb(r, log_d)
        return q, log_d, factor @ t

    def transpose(_, state):  # (D T)^T = Q (D' T'): iterated, T tends to the identity
        log_d, t = state
        return absorb(jnp.linalg.qr(t.T, mode="r"), log_d)

    def segment(state, bounds):
        start, stop = bounds
        state = jax.lax.fori_loop(start, stop, multiply, state)
        log_d, _ = jax.lax.fori_loop(0, SWEEPS, transpose, state[1:])
        return state, jnp.stack([-jnp.sort(-log_d), state[1]])

    bounds = jnp.array([0, *depths[:-1]]), jnp.array(depths)
    return jax.lax.scan(segment, (jnp.eye(n), jnp.zeros(n), jnp.eye(n)), bounds)[1]


def absorb(r: jax.Array, log_d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R D = D' T with D' = |diag R| D: log D', and T, whose diagonal is +-1."""
    grown = log_d + jnp.log(jnp.abs(jnp.diagonal(r)))
    upper = jnp.triu(jnp.ones(r.shape, bool))
    return grown, r * jnp.exp(jnp.where(upper, log_d[None, :] - grown[:, None], -jnp.inf))


CLAIMS = (
    Claim(
        "mean squared singular value of Gaussian products",
        predicted=lambda p: p["moments"][:, 0],
        measured=lambda m: m["mean_square"][0],
        tolerance=lambda p, m: 4 * m["mean_square"][1],
        because="4 standard errors over draws; exact at every width",
    ),
    Claim(
        "second and third moment of squared singular values",
        predicted=lambda p: p["moments"][:, 1:],
        measured=lambda m: m["moments"][0],
        tolerance=lambda p, m: 4 * m["moments"][1] / p["moments"][:, 1:],
        because="4 standard errors over draws, propagated through the extrapolation to infinite "
        "width from N, 2N, 4N, which leaves O(1/N^3)",
    ),
    Claim(
        "order in 1/N of the error of the second moment",
        predicted=lambda p: 1.0,
        measured=lambda m: m["order"][0],
        tolerance=lambda p, m: 4 * m["order"][1] + 2 / m["moment_widths"][0],
        because="4 standard errors, and terms of order N^-2, which add up to 2/N to the exponent",
        error="absolute",
    ),
    Claim(
        "fraction of singular values below 0.01, 0.1 and 0.5",
        predicted=lambda p: p["below"],
        measured=lambda m: m["below"][0],
        tolerance=lambda p, m: 4 * m["below"][1] + 0.5 / m["singular_values"].shape[-1],
        because="4 standard errors over draws, and finite width, which moves less than half a "
        "singular value across a threshold",
        error="absolute",
    ),
    Claim(
        "every singular value of an orthogonal product is g^L",
        predicted=lambda p: p["orthogonal"][None, :, None],
        measured=lambda m: m["orthogonal"],
        tolerance=lambda p, m: 10 * EPS * np.arange(1, len(p["orthogonal"]) + 1)[None, :, None],
        because="rounding: a few float64 epsilons from every factor",
    ),
    Claim(
        "growth rates of singular values are the Lyapunov exponents",
        predicted=lambda p: p["exponents"],
        measured=lambda m: m["exponents"][0],
        tolerance=lambda p, m: 4 * m["exponents"][1],
        because="4 standard errors over draws; between two large depths the O(1/L) bias cancels",
        error="absolute",
    ),
    Claim(
        "log diag R of a product's QR grows at these rates from the start",
        predicted=lambda p: p["exponents"],
        measured=lambda m: m["exponents_qr"][0],
        tolerance=lambda p, m: 4 * m["exponents_qr"][1],
        because="4 standard errors over draws; no bias, Gaussian factors prefer no frame",
        error="absolute",
    ),
    Claim(
        "log singular values over L approach them as 1/L",
        predicted=lambda p: -1.0,
        measured=lambda m: m["bias_exponent"],
        tolerance=0.05,
        because="their distance from log diag R saturates, exponentially once L exceeds a few N; "
        "both come from the same draws",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="saxe2014_products",
    source=papers.saxe2014("singular values of products of random matrices"),
    statement="Deep Gaussian products lose almost all directions; orthogonal ones keep every one.",
    equations=(
        r"\frac1N\,\mathrm{E}\,\mathrm{tr}\,(P^\top P)^k \to \frac{1}{Lk+1}\binom{(L+1)k}{k}, "
        r"\qquad P = W_L \cdots W_1",
        r"\frac1L \ln\sigma_i \to "
        r"\frac12\left[\ln\frac2N + \psi\left(\frac{N-i+1}{2}\right)\right] \quad (L \to \infty)",
    ),
    quick=Config(),
    full=Config(
        n=1000,
        depth=6,
        draws=16,
        orthogonal_depth=100,
        moment_n=24,
        moment_draws=40_000,
        growth_n=50,
        growth_depths=(10, 50, 400, 1600),
    ),
    cost=(15, 200),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
