"""Dynamical isometry at the edge of chaos: Jacobians of deep tanh networks at initialisation.

Saxe, McClelland & Ganguli (2014): the input-output Jacobian of a tanh network keeps its singular
values near 1 through many layers if the weights are orthogonal and the gain is at, or slightly
above, the critical one; Gaussian weights scatter them at every gain. 1000 units, 100 layers and
gains from 0.9 to 1.1 are recalled from the paper. All else, the quick preset included, is our own.

``h_l = g W_l x_l``, ``x_{l+1} = tanh(h_l)``, l = 0, ..., L - 1, no biases. Jacobians come from
automatic differentiation, layer by layer; theory knows them at infinite width only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.initialization import gaussian_init, orthogonal_init
from dynamics.models import Initializer
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import over_draws
from sims.rates import DOUBLINGS, mean_and_error, order_and_error, without_step_error
from theory.deep_linear import random_products

ENSEMBLES = {"orthogonal": orthogonal_init, "gaussian": gaussian_init}


@dataclass(frozen=True)
class Config:
    """Jacobians of ``n`` units; signal variance also from ``small_n`` units up, over more draws.

    ``input_variance`` is the mean square of the entries of the input, x_0.
    """

    n: int = 128
    depth: int = 12
    gains: tuple[float, ...] = (0.8, 0.9, 1.0, 1.15, 1.3)
    input_variance: float = 0.25
    draws: int = 40
    small_n: int = 8
    small_depth: int = 10
    small_draws: int = 4000

    def __post_init__(self) -> None:
        for name in ("n", "depth", "draws", "small_n", "small_depth", "small_draws"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if not self.input_variance > 0:
            raise ValueError(f"input_variance must be positive, got {self.input_variance}")
        if not self.gains or min(self.gains) <= 0:
            raise ValueError(f"gains must be positive, got {self.gains}")
        if max(self.gains) <= random_products.CRITICAL_GAIN:
            raise ValueError(f"gains must reach beyond the critical one, got {self.gains}")


def predict(config: Config) -> Arrays:
    """Signal variance, mean and relative variance of squared singular values, layer by layer."""
    gains = np.array(config.gains)
    start = gains**2 * config.input_variance
    q, chi = random_products.tanh_mean_field(gains, start, config.depth)
    variance = random_products.jacobian_variance
    return {
        "gains": gains,
        "signal_variance": q,
        "limit": random_products.tanh_mean_field(gains, start, config.small_depth).q,
        "mean_square": jnp.cumprod(chi, axis=0),
        "relative_variance": jnp.stack(
            [jnp.cumsum(variance(gains[None], 1, ensemble=e, q0=q), axis=0) for e in ENSEMBLES]
        ),
        "settled_growth": jnp.stack([variance(gains.max(), 1, ensemble=e) for e in ENSEMBLES]),
    }


def simulate(config: Config, key: jax.Array) -> Arrays:
    """Jacobians of wide networks of both ensembles, signals through narrow orthogonal ones."""
    wide, narrow = jax.random.split(key)
    jacobians = [
        over_draws(partial(jacobian_path, config, draw), key, config.draws, batch=4)
        for key, draw in zip(jax.random.split(wide), ENSEMBLES.values(), strict=True)
    ]
    found = {name: np.stack([each[name] for each in jacobians]) for name in jacobians[0]}
    half, fastest = config.depth // 2, np.argmax(config.gains)
    relative_variance = found["relative_variance"][..., fastest].T  # (depth, draws, ensembles)
    growth = (relative_variance[-1] - relative_variance[half - 1]) / (config.depth - half)
    return {**found, "settled_growth": mean_and_error(growth), **finite_width(config, narrow)}


def jacobian_path(config: Config, draw: Initializer, key: jax.Array) -> dict[str, jax.Array]:
    """Statistics of h_l (depth, gains) and of dx_{l+1}/dx_0, whose last spectrum is (gains, n)."""
    gains, (inputs, weights) = jnp.array(config.gains), jax.random.split(key)

    def layer(state, index):
        w = draw(jax.random.fold_in(weights, index), (config.n, config.n), float)
        x, jacobian = state
        return jax.vmap(through_layer, (None, 0, 0, 0))(w, gains, x, jacobian)

    x = random_input(inputs, config.n, config.input_variance)
    start = jnp.tile(x, (len(gains), 1)), jnp.tile(jnp.eye(config.n), (len(gains), 1, 1))
    (_, jacobians), statistics = jax.lax.scan(layer, start, jnp.arange(config.depth))
    return statistics | {"singular_values": jnp.linalg.svd(jacobians, compute_uv=False)}


def through_layer(w: jax.Array, gain: jax.Array, x: jax.Array, jacobian: jax.Array) -> Any:
    """Signal and Jacobian behind one more layer, and what is claimed about them."""

    def forward(x):
        h = gain * (w @ x)
        return jnp.tanh(h), jnp.mean(h**2)

    x, push_forward, signal_variance = jax.linearize(forward, x, has_aux=True)
    jacobian = jax.vmap(push_forward, in_axes=1, out_axes=1)(jacobian)
    gram = jacobian.T @ jacobian
    mean_square = jnp.trace(gram) / len(gram)
    return (x, jacobian), {
        "signal_variance": signal_variance,
        "mean_square": mean_square,
        "relative_variance": jnp.mean(jnp.sum(gram**2, axis=1)) / mean_square**2 - 1,
    }


def random_input(key: jax.Array, n: int, variance: float) -> jax.Array:
    """A vector in a random direction; the mean square of its entries is exactly ``variance``."""
    x = jax.random.normal(key, (n,))
    return x * jnp.sqrt(variance / jnp.mean(x**2))


def finite_width(config: Config, key: jax.Array) -> Arrays:
    """Signal variance extrapolated to infinite width, and the order in 1/N of its error."""
    widths = config.small_n * DOUBLINGS
    sampled = np.array([narrow_signals(config, key, n) for n in map(int, widths)])
    critical = np.argmin(np.abs(np.array(config.gains) - random_products.CRITICAL_GAIN))
    return {
        "small_widths": widths,
        "limit": mean_and_error(without_step_error(sampled)),
        "order": order_and_error(sampled[:, :, -1, critical]),
    }


def narrow_signals(config: Config, key: jax.Array, n: int) -> np.ndarray:
    """Mean square of h_l in orthogonal networks of n units: (draws, depth, gains)."""
    gains = jnp.array(config.gains)[:, None]

    def path(key):
        inputs, weights = jax.random.split(key)

        def layer(x, index):
            h = gains * (x @ orthogonal_init(jax.random.fold_in(weights, index), (n, n)).T)
            return jnp.tanh(h), jnp.mean(h**2, axis=1)

        x = random_input(inputs, n, config.input_variance)
        start = jnp.tile(x, (len(gains), 1))
        return jax.lax.scan(layer, start, jnp.arange(config.small_depth))[1]

    return over_draws(path, jax.random.fold_in(key, n), config.small_draws, batch=500)


def tolerance_of(name: str) -> Callable[[Arrays, Arrays], np.ndarray]:
    """Relative error allowed to a mean over draws: 1/N for every layer, and its sampling."""

    def tolerance(predicted: Arrays, measured: Arrays) -> np.ndarray:
        _, errors = mean_and_error(np.moveaxis(measured[name], 1, 0))
        layers = np.arange(1, errors.shape[1] + 1)[None, :, None]
        width = measured["singular_values"].shape[-1]
        return layers / width + 4 * errors / predicted[name]

    return tolerance


IN_EVERY_LAYER = tuple(
    Claim(
        what,
        predicted=lambda p, name=name: p[name],
        measured=lambda m, name=name: m[name].mean(axis=1),
        tolerance=tolerance_of(name),
        because="4 standard errors over draws, and finite width: at most about 1/N from each layer",
    )
    for name, what in {
        "signal_variance": "variance of pre-activations",
        "mean_square": "mean squared singular value of the Jacobian",
        "relative_variance": "relative variance of its squared singular values",
    }.items()
)

CLAIMS = (
    *IN_EVERY_LAYER,
    Claim(
        "growth of the relative variance with every layer at the fixed point",
        predicted=lambda p: p["settled_growth"],
        measured=lambda m: m["settled_growth"][0],
        tolerance=lambda p, m: (
            4 * m["settled_growth"][1] / p["settled_growth"]
            + m["signal_variance"].shape[2] / m["singular_values"].shape[-1]
        ),
        because="4 standard errors over draws, and finite width: about 1/N from each layer",
    ),
    Claim(
        "variance of pre-activations behind the first layer, at infinite width",
        predicted=lambda p: p["limit"][1:],
        measured=lambda m: m["limit"][0, 1:],
        tolerance=lambda p, m: 4 * m["limit"][1, 1:] / p["limit"][1:],
        because="4 standard errors over draws of orthogonal weights, propagated through the "
        "extrapolation from N, 2N, 4N, which leaves O(1/N^3)",
    ),
    Claim(
        "order in 1/N of its error, in the deepest layer at the critical gain",
        predicted=lambda p: 1.0,
        measured=lambda m: m["order"][0],
        tolerance=lambda p, m: 4 * m["order"][1] + 1 / m["small_widths"][0],
        because="4 standard errors over draws, and terms of order N^-2: up to 1/N in the exponent",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="saxe2014_jacobians",
    source=papers.saxe2014("Jacobians of deep tanh networks across gains"),
    statement="Orthogonal weights at the edge of chaos keep a deep tanh network near an isometry.",
    equations=(
        r"q_{l+1} = g^2 \int\! Dz\, \tanh^2(\sqrt{q_l}\, z), \qquad "
        r"\frac1N\, \mathrm{tr}\, J^\top J = \prod_l \chi(q_l), \quad "
        r"\chi(q) = g^2 \int\! Dz\, \mathrm{sech}^4(\sqrt{q}\, z)",
        r"\frac{\mathrm{var}\,\sigma^2}{(\mathrm{mean}\,\sigma^2)^2} = "
        r"\sum_l \left[\frac{\mu_2(q_l)}{\mu_1(q_l)^2} - 1 - s_1\right], \quad "
        r"\mu_k(q) = \int\! Dz\, \mathrm{sech}^{4k}(\sqrt{q}\, z), \quad "
        r"s_1 = 0 \text{ (orthogonal)}, -1 \text{ (Gaussian)}",
    ),
    quick=Config(),
    full=Config(n=1000, depth=100, gains=(0.9, 0.95, 1.0, 1.05, 1.1), draws=16, small_draws=40_000),
    cost=(16, 1500),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
