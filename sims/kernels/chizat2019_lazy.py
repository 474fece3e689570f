"""Lazy training: how fast its traces vanish as the scale alpha of the output grows.

Chizat, Oyallon & Bach (2019): any differentiable model whose output is scaled up, F = alpha h with
h(theta_0) = 0, is trained in its linear regime: the weights move by 1/alpha. There are two ways to
have h(theta_0) = 0, and they differ in all that is of second order: subtracting the initial outputs
from a network of random weights, or mirroring half of its units with the opposite readout. In the
latter the kernel's change is even in 1/alpha, because the sign of alpha is that of the readout, and
so is the difference between the network and its linearisation. That is derived here, as are the
exponents; all sizes, data and scales are our own.

Exponents are fitted from ``fitted_from`` on; below, the laws of lazy training end.
Not shown: the paper's bound with the relative scale kappa, which F = alpha h changes as 1/alpha.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.losses import half_squared_error
from dynamics.regime import weight_change
from dynamics.regime_report import regime_measures
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.scaled_networks import (
    hidden_activity,
    mirrored,
    on_sphere,
    tangent_kernel,
    two_layer,
)
from sims.processes import seed_keys, training
from sims.rates import fitted_exponent, standard_error
from sims.sweep import sweep
from theory.kernels.infinite_width import mlp_kernels
from theory.kernels.kernel_modes import flow_filter, kernel_modes
from theory.kernels.linearized import heldout_outputs, weight_distance

ACTIVATION = "tanh"
STARTS = ("random", "mirrored")
LAWS = {  # powers of alpha, from random and from mirrored weights
    "weight_distance": (-1.0, -1.0),
    "linearization_error": (-1.0, -2.0),
    "kernel_change": (-1.0, -2.0),
    "kernel_distance": (-2.0, -4.0),
    "representation_distance": (-2.0, -4.0),
}


@dataclass(frozen=True)
class Config:
    """``relative_rate``: learning rate of gradient descent times the initial kernel's largest
    eigenvalue, over the number of examples.
    """

    inputs: int = 8
    units: int = 256
    examples: int = 8
    test_examples: int = 16
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    fitted_from: float = 8.0
    relative_rate: float = 0.6
    steps: int = 700
    seeds: int = 8
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("inputs", "examples", "test_examples", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.units < 2 or self.units % 2:
            raise ValueError(f"units must be even and positive, got {self.units}")
        if self.seeds < 3:
            raise ValueError(f"seeds must be at least 3, got {self.seeds}")
        if min(self.alphas) <= 0 or np.any(np.diff(self.alphas) <= 0):
            raise ValueError(f"alphas must be positive and increase, got {self.alphas}")
        if np.sum(self.lazy) < 3:
            raise ValueError(f"fitted_from must leave 3 alphas, got {self.fitted_from}")
        if not 0 < self.relative_rate < 1:
            raise ValueError(f"relative_rate must be between 0 and 1, got {self.relative_rate}")

    @property
    def lazy(self) -> np.ndarray:
        """Which alphas the exponents are fitted on."""
        return np.array(self.alphas) >= self.fitted_from

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs (examples, inputs), targets (examples, 1) and test inputs."""
        draw = np.random.default_rng(self.data_seed)
        x = on_sphere(draw, self.examples, self.inputs)
        y = draw.standard_normal((self.examples, 1))
        return x, y, on_sphere(draw, self.test_examples, self.inputs)


def predict(config: Config) -> Arrays:
    """Exponents; alpha times the distance of the weights, and F, if lazy and infinitely wide."""
    x, y, x_test = config.data()
    options: dict[str, Any] = {"activation": ACTIVATION, "depth": 2}
    kernel = mlp_kernels(np.concatenate([x, x_test]), **options).ntk
    modes = kernel_modes(kernel[: len(x), : len(x)], loss="mean")
    learned, cross = flow_filter(modes, jnp.inf), kernel[len(x) :, : len(x)]
    return {
        "alphas": np.array(config.alphas),
        "weight_distance": weight_distance(modes, learned, 0.0, y),
        "heldout": heldout_outputs(modes, learned, cross, 0.0, 0.0, y)[:, 0],
        "exponents": np.array(list(LAWS.values())),
        "finite_width": config.examples * np.array([1, 2]) / config.units,
        "first_order": 1 / config.fitted_from,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Gradient descent at every alpha from both starts; (starts, seeds, alphas, ...)."""
    x, y, x_test = (jnp.asarray(array) for array in config.data())
    model = two_layer(config.inputs, config.units, ACTIVATION)
    alphas = jnp.array(config.alphas)

    def member(key, alpha, mirror):
        start = model.init(key)
        start = jax.tree.map(partial(jnp.where, mirror), mirrored(start), start)
        largest = jnp.linalg.eigvalsh(tangent_kernel(start, x, ACTIVATION))[-1]
        data = {"x": x, "y": model.apply(start, x) + y / alpha, "x_test": x_test, "alpha": alpha}
        rate = config.relative_rate * len(x) / largest
        return {"network": start, "data": data | {"start": start}, "learning_rate": rate}

    shape = (len(STARTS), config.seeds, len(alphas))
    mirror, seed, scale = (grid.ravel() for grid in np.indices(shape))
    keys = seed_keys(key, config.seeds)[seed]
    cases = jax.jit(jax.vmap(member))(keys, alphas[scale], mirror == STARTS.index("mirrored"))
    observe = partial(traces, model)
    process = training(partial(scaled_loss, model), observe)
    run = sweep("alpha", process, cases | {"key": keys}, record_at=[config.steps])
    return {
        name: values[:, 0].reshape(*shape, *values.shape[2:])
        for name, values in run.records.items()
    } | {"lazy": config.lazy, "alphas": np.array(config.alphas)}


def scaled_loss(model: Any, params: Any, data: Any) -> jax.Array:
    """Half the mean squared error of F, over alpha^2."""
    return half_squared_error(model.apply, examples="mean")(params, (data["x"], data["y"]))


def traces(model: Any, params: Any, data: Any) -> dict[str, Any]:
    """What training left behind, and F on test inputs; ``residual`` is the largest error of F."""
    start, x, x_test = data["start"], data["x"], data["x_test"]
    hidden = partial(hidden_activity, activation=ACTIVATION)
    found = regime_measures(model.apply, start, params, x, None, x_test, hidden=hidden)
    moved = model.apply(params, x_test) - model.apply(start, x_test)
    error = model.apply(params, x) - data["y"]
    return {
        "weight_distance": weight_change(start, params),
        "linearization_error": found.linearization_error,
        "kernel_change": found.kernel_change,
        "kernel_distance": found.kernel_distance,
        "representation_distance": found.representation_distance,
        "heldout": data["alpha"] * moved[:, 0],
        "residual": data["alpha"] * jnp.max(jnp.abs(error)),
    }


def exponents(m: Arrays, name: str) -> np.ndarray:
    """Power of alpha by network, (starts, seeds)."""
    lazy, values = m["alphas"][m["lazy"]], m[name][..., m["lazy"]]
    slopes = [fitted_exponent(lazy, network) for network in values.reshape(-1, len(lazy))]
    return np.reshape(slopes, values.shape[:2])


FINITE_WIDTH = (
    "4 standard errors over networks; relative corrections of order examples over independent "
    "units, of which mirrored networks have half as many"
)


def exponent_claim(what: str, *names: str) -> Claim:
    """The exponents of these measures from both starts, (measures, starts)."""
    rows = [list(LAWS).index(name) for name in names]

    def error(m: Arrays) -> np.ndarray:
        return np.stack([standard_error(exponents(m, name).T) for name in names])

    return Claim(
        f"powers of alpha, random and mirrored: {what}",
        predicted=lambda p: p["exponents"][rows],
        measured=lambda m: np.stack([exponents(m, name).mean(axis=1) for name in names]),
        tolerance=lambda p, m: 4 * error(m) + p["first_order"] ** np.array([1, 2])[None],
        because="4 standard errors over networks, and corrections of relative order 1/alpha, if "
        "mirrored 1/alpha^2, at the smallest alpha that is fitted",
        error="absolute",
    )


def widest_error(p: Arrays, m: Arrays, values: np.ndarray, scale: Any) -> np.ndarray:
    """Tolerance of averages (starts, ...) of networks at the largest alpha."""
    wide = p["finite_width"].reshape(-1, *np.ones(values.ndim - 2, int))
    return 4 * standard_error(np.moveaxis(values, 1, 0)) + wide * scale


CLAIMS = (
    exponent_claim("distance of the weights", "weight_distance"),
    exponent_claim("network against its linearisation", "linearization_error"),
    exponent_claim("change of the tangent kernel", "kernel_change"),
    exponent_claim(
        "kernel and representation distance", "kernel_distance", "representation_distance"
    ),
    Claim(
        "alpha times the distance of the weights, at the largest alpha",
        predicted=lambda p: p["weight_distance"],
        measured=lambda m: m["alphas"][-1] * m["weight_distance"][..., -1].mean(axis=1),
        tolerance=lambda p, m: (
            widest_error(p, m, m["alphas"][-1] * m["weight_distance"][..., -1], 0.0)
            / p["weight_distance"]
            + p["finite_width"]
        ),
        because=FINITE_WIDTH,
    ),
    Claim(
        "output F on test inputs, at the largest alpha",
        predicted=lambda p: p["heldout"],
        measured=lambda m: m["heldout"][..., -1, :].mean(axis=1),
        tolerance=lambda p, m: widest_error(
            p, m, m["heldout"][..., -1, :], np.sqrt(np.mean(p["heldout"] ** 2))
        ),
        because=FINITE_WIDTH,
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="chizat2019_lazy",
    source=papers.chizat2019("lazy training by scaling the output"),
    statement="Scaled outputs make training lazy; mirrored starts, twice as fast in all that is of "
    "second order.",
    equations=(
        r"F = \alpha\,(f_\theta - f_{\theta_0}), \quad "
        r"L = \frac{1}{\alpha^2}\,\frac1N\sum_i\tfrac12 (F(x_i)-y_i)^2, \quad "
        r"\alpha\,|\theta_\infty-\theta_0| \to \sqrt{y^\top\Theta^{-1}y}",
        r"|F - F_{\rm lin}|,\ \frac{|\Delta\Theta|}{|\Theta|} \sim \alpha^{-1}, \quad "
        r"1-\cos(\Theta_0,\Theta_\infty) \sim \alpha^{-2}; \qquad "
        r"\text{mirrored: } \alpha^{-2},\ \alpha^{-4}",
    ),
    quick=Config(),
    full=Config(
        inputs=16,
        units=512,
        examples=16,
        test_examples=32,
        alphas=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
        fitted_from=16.0,
        steps=2000,
        seeds=12,
    ),
    cost=(8, 200),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
