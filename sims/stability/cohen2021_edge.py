"""The edge of stability: training sharpens the loss until its optimiser is barely stable.

Cohen, Kaur, Li, Kolter & Talwalkar (2021) for gradient descent with and without momentum; Cohen et
al. (2022, arXiv:2207.14484) for Adam, whose sharpness is that of P^-1 H with its preconditioner P.
Sharpness is the largest (not the largest in magnitude) eigenvalue of the Hessian of the full-batch
loss that is descended, ``(1/2n) sum_i (f_i - y_i)^2``. The task is our own, small enough for a CPU:
a two-layer tanh network fits a smooth function of Gaussian inputs; so are all rates and sizes. At a
momentum of 0.9 heavy ball and Nesterov fit this task before they are back at the edge that they
have jumped from: hence 0.5. The time spent there is a matter of the task, which has to sharpen on.

Frozen optimisers are held against the thresholds beside it: real optax runs on quadratics of many
curvatures, adaptive ones with an average of squared gradients that is too old to change.

What a trajectory at the edge does step by step is chaotic: only its statistics are claimed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dynamics import models
from dynamics.curvature import hvp
from dynamics.eigenpairs import top_eigenpairs
from dynamics.flow import gradient_flow
from dynamics.losses import half_squared_error
from dynamics.stability import preconditioned_sharpness
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys, training_process
from sims.rates import fitted_exponent
from sims.stability import frozen_optimizers as frozen
from sims.sweep import Process, sweep
from theory.stability.thresholds import optimizer_threshold

INPUTS = 4
EIGENSOLVER = {"num_matvecs": 16, "tolerance": 1e-3}  # relative errors of order 1e-6
FLOW_RTOL = 1e-5  # of a step
B2 = 0.999  # Adam's
BANDS = {"gd": 0.03, "momentum": 0.05, "adam": 0.1}  # relative, allowed to medians
ASYMMETRY = (
    "above the threshold swings grow (1+b)/(1-b) times as fast as in gradient descent, below it "
    "they decay at most by sqrt(b) a step: overshoots are short and what follows is long, so that "
    "the sharpness spends more of its time below; the sizes, 5 % at b = 0.5 and 10 % at 0.9, are "
    "set by what was seen, not derived"
)


@dataclass(frozen=True)
class Config:
    """Rates of gradient descent, heavy ball and Nesterov (at ``momentum``) and Adam (at ``b1``).

    Medians are over the records from step ``settled`` on, by when the edge has been reached.
    """

    examples: int = 64
    hidden: int = 16
    target_scale: float = 2.0
    rates: tuple[float, ...] = (0.17, 0.22, 0.3)
    momentum: float = 0.5
    heavy_ball_rate: float = 0.4
    nesterov_rate: float = 0.2
    b1: float = 0.9
    adam_rate: float = 0.05
    starts: int = 3
    steps: int = 1500
    every: int = 15
    settled: int = 600
    data_seed: int = 3

    def __post_init__(self) -> None:
        sizes = {"examples": 2, "hidden": 1, "starts": 1, "settled": 0}
        for name, least in sizes.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if len(self.rates) < 2 or min(np.diff(self.rates)) <= 0:
            raise ValueError(f"rates must be two or more, rising, got {self.rates}")
        others = (self.heavy_ball_rate, self.nesterov_rate, self.adam_rate, self.target_scale)
        if min(*self.rates, *others) <= 0:
            raise ValueError(f"rates and target_scale must be positive, got {self.rates, *others}")
        for name in ("momentum", "b1"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 1 <= self.every <= self.steps or self.every % 2 == 0:
            raise ValueError(f"every must be odd and at most steps, got {self.every}")
        if self.settled > self.times[-1]:
            raise ValueError(f"settled must be before steps, {self.steps}, got {self.settled}")

    @property
    def times(self) -> np.ndarray:
        """Steps at which networks are looked at, an odd number apart: both sides of a swing."""
        return np.arange(self.every, self.steps + 1, self.every)

    @property
    def flow_times(self) -> np.ndarray:
        """Those of gradient descent at the largest rate, in flow time."""
        return self.times * self.rates[-1]


def predict(config: Config) -> Arrays:
    """Thresholds of the networks' optimisers and of those on quadratics."""
    b = config.momentum
    momenta = ("heavy_ball", config.heavy_ball_rate), ("nesterov", config.nesterov_rate)
    return {
        "gd": optimizer_threshold("gd", np.array(config.rates)),
        "momentum": np.array([optimizer_threshold(k, rate, momentum=b) for k, rate in momenta]),
        "adam": optimizer_threshold("adam", config.adam_rate, b1=config.b1),
        "rates": np.array(config.rates),
        "exponent": -1.0,
        "quadratic": quadratic_thresholds(),
    }


def quadratic_thresholds() -> np.ndarray:
    """Of ``frozen_optimizers.optimizers``, times their learning rate."""
    b, decay = {"momentum": frozen.MOMENTUM}, {"weight_decay": frozen.DECAY}
    b1 = {"b1": frozen.MOMENTUM}
    settings = {
        "GD": ("gd", {}),
        "GD, decay": ("gd", decay),
        "heavy ball": ("heavy_ball", b),
        "Nesterov": ("nesterov", b),
        "EMA": ("ema", b),
        "RMSProp": ("rmsprop", {}),
        "Adam": ("adam", b1),
        "AdamW": ("adamw", b1 | decay),
        "NAdam": ("nadam", b1),
    }
    found = [settings[name] for name in frozen.optimizers()]
    return frozen.RATE * np.array(
        [optimizer_threshold(kind, frozen.RATE, **hyper) for kind, hyper in found]
    )


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks from the same weights by every optimiser and by gradient flow."""
    momentum, rates = config.momentum, config.rates

    def train(name: str, settings: Any, optimizer: Callable[[Any], Any]) -> Arrays:
        process, members = network(config, optimizer), cases(config, key, settings)
        return sweep(name, process, members, task(config), record_at=config.times).records

    descent = train(
        "descent",
        [*((rate, 0.0) for rate in rates), (config.heavy_ball_rate, momentum)],
        lambda case: optax.sgd(case["learning_rate"], momentum=case["momentum"]),
    )
    nesterov = train(
        "nesterov",
        [(config.nesterov_rate, momentum)],
        lambda case: optax.sgd(case["learning_rate"], momentum=case["momentum"], nesterov=True),
    )
    adam = train("adam", [(config.adam_rate, config.b1)], partial(adam_optimizer, config))
    everyone = np.concatenate([descent["params"], nesterov["params"], flow(config, key)])
    loss, sharpness = look(config, everyone)
    optimizers = slice(len(rates)), slice(len(rates), -1)
    return {
        "steps": config.times,
        "settled": config.settled,
        "rates": np.array(rates),
        "flow_times": config.flow_times,
        "loss": loss[optimizers[0]],
        "sharpness": sharpness[optimizers[0]],
        "momentum": sharpness[optimizers[1]],
        "flow_loss": loss[-1],
        "flow_sharpness": sharpness[-1],
        "adam": adam_sharpness(config, adam),
        "quadratic": frozen.measured_edges(),
    }


def adam_optimizer(config: Config, case: Any = None) -> optax.GradientTransformation:
    """Adam of the config."""
    return optax.adam(config.adam_rate, b1=config.b1, b2=B2)


def task(config: Config) -> dict[str, Any]:
    """Inputs (examples, 4) and targets ``scale (sin 2 x_1 + x_2 x_3)``, the same for every key."""
    x = np.random.default_rng(config.data_seed).standard_normal((config.examples, INPUTS))
    y = config.target_scale * (np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2])
    return {"data": (jnp.asarray(x), jnp.asarray(y[:, None]))}


def cases(config: Config, key: jax.Array, settings: list[tuple[float, float]]) -> dict[str, Any]:
    """Every setting (rate, momentum) from every start: members (settings * starts, ...)."""
    rate, momentum = np.repeat(np.array(settings), config.starts, axis=0).T
    keys = seed_keys(key, config.starts)
    members = jnp.tile(jnp.arange(config.starts), len(settings))
    return {"key": keys[members], "learning_rate": rate, "momentum": momentum}


def tanh_network(config: Config) -> tuple[models.Model, Callable[[Any, Any], jax.Array]]:
    """The network, and half its mean squared error."""
    model = models.mlp((INPUTS, config.hidden, 1), activation="tanh")
    return model, half_squared_error(model.apply, examples="mean")


def network(config: Config, optimizer: Callable[[Any], Any]) -> Process:
    """Full-batch training; parameters, flat, and what Adam remembers are recorded."""
    model, loss = tanh_network(config)

    def observe(state: Any, case: Any, shared: Any) -> dict[str, jax.Array]:
        seen = {"params": ravel_pytree(state.params)[0]}
        for name in ("nu", "count"):
            kept = optax.tree_utils.tree_get(state.opt_state, name)
            seen |= {} if kept is None else {name: ravel_pytree(kept)[0]}
        return seen

    trained = training_process(
        lambda case, _: model.init(case["key"]), loss, lambda *_: {}, optimizer=optimizer
    )
    return trained._replace(observe=observe)


def flow(config: Config, key: jax.Array) -> np.ndarray:
    """Parameters along gradient flow from every start, (starts, times, parameters)."""
    model, loss = tanh_network(config)
    data, times = task(config)["data"], config.flow_times

    @jax.jit
    def path(key: jax.Array) -> jax.Array:
        found = gradient_flow(model.init(key), data, loss=loss, times=times, rtol=FLOW_RTOL)
        return jax.vmap(lambda params: ravel_pytree(params)[0])(found.params)

    return np.stack([path(start) for start in seed_keys(key, config.starts)])


def look(config: Config, params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and sharpness of networks (settings * starts, times, parameters): (settings, ...)."""
    _, loss = tanh_network(config)
    data, unravel = task(config)["data"], flat(config)

    def one(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = unravel(vector)
        top = top_eigenpairs(
            partial(hvp, loss, params, data), params, jax.random.key(0), **EIGENSOLVER
        )
        return loss(params, data), top.values[0]

    found = jax.jit(partial(jax.lax.map, one))(params.reshape(-1, params.shape[-1]))
    shape = -1, config.starts, params.shape[1]
    return np.reshape(found[0], shape), np.reshape(found[1], shape)


def adam_sharpness(config: Config, records: Arrays) -> np.ndarray:
    """Largest eigenvalue of P^-1 H at every record, (starts, times)."""
    _, loss = tanh_network(config)
    data, unravel = task(config)["data"], flat(config)

    def one(seen: dict[str, jax.Array]) -> jax.Array:
        params = unravel(seen["params"])
        fresh = adam_optimizer(config).init(params)
        state = optax.tree_utils.tree_set(fresh, nu=unravel(seen["nu"]), count=seen["count"][0])
        top = preconditioned_sharpness(
            loss, params, data, state, jax.random.key(0), b1=config.b1, b2=B2, **EIGENSOLVER
        )
        return top.values[0]

    rows = {name: a.reshape(-1, a.shape[-1]) for name, a in records.items()}
    return np.reshape(jax.jit(partial(jax.lax.map, one))(rows), (config.starts, -1))


def flat(config: Config) -> Callable[[jax.Array], Any]:
    """Function from flat to structured parameters."""
    return ravel_pytree(tanh_network(config)[0].init(jax.random.key(0)))[1]


def at_edge(sharpness: np.ndarray, m: Arrays) -> np.ndarray:
    """Median over the records since ``settled``, when all are taken to be at the edge."""
    return np.median(sharpness[..., m["steps"] >= m["settled"]], axis=-1)


def end_exponents(m: Arrays) -> np.ndarray:
    """Of the sharpness at the edge as a power of the learning rate, from each start."""
    medians = at_edge(m["sharpness"], m)
    return np.array([fitted_exponent(m["rates"], of_start) for of_start in medians.T])


def exponent_error(rates: np.ndarray) -> float:
    """Largest error of a fitted exponent, over the largest relative error of the values."""
    offsets = np.log(rates) - np.log(rates).mean()
    return np.abs(offsets).sum() / (offsets**2).sum()


def shares(m: Arrays) -> np.ndarray:
    """Of networks whose loss rises; falls from then on all the same; that stay flatter than flow.

    It falls if its mean over the second half of the records from the first rise on is lower than
    that over the first half.
    """
    rises = np.diff(m["loss"], axis=-1) > 0
    since = np.argmax(rises, axis=-1)
    falls = [falls_on_average(m["loss"][at][k:]) for at, k in np.ndenumerate(since)]
    flatter = at_edge(m["sharpness"], m) < m["flow_sharpness"][:, -1][None, :]
    return np.array([rises.any(axis=-1).mean(), np.mean(falls), flatter.mean()])


def falls_on_average(loss: np.ndarray) -> bool:
    """Whether the second half of a sequence has the lower mean.

    >>> falls_on_average(np.array([1.0, 9.0, 2.0, 3.0]))
    True
    """
    half = len(loss) // 2
    return bool(loss[half:].mean() < loss[:half].mean())


CLAIMS = (
    Claim(
        "curvature at which frozen optimisers become unstable on quadratics",
        predicted=lambda p: p["quadratic"],
        measured=lambda m: m["quadratic"],
        tolerance=1e-6,
        because="half a cell of the finest grid, 3e-7; what is left of transients, b^80 = 2e-4 "
        "over 20 steps, moves edges by 3e-7, since growth rates change by 38 per relative change "
        "of curvature",
    ),
    Claim(
        "gradient descent: median sharpness at the edge, every rate and start",
        predicted=lambda p: p["gd"][:, None],
        measured=lambda m: at_edge(m["sharpness"], m),
        tolerance=BANDS["gd"],
        because="the mean of ln|1 - eta S| over T steps is ln|x_T/x_0|/T, below 1 % for swings x "
        "between 1e-8 and 1; it is the curvature averaged along a swing that obeys this, and the "
        "sharpness at its ends differs by the second order of its width: 2 %, a size that was seen "
        "and not derived",
    ),
    Claim(
        "exponent of the sharpness at the edge, over the learning rate, every start",
        predicted=lambda p: p["exponent"],
        measured=end_exponents,
        tolerance=lambda p, m: BANDS["gd"] * exponent_error(p["rates"]),
        because="what a fit makes of the errors allowed to medians",
        error="absolute",
    ),
    Claim(
        "heavy ball and Nesterov: median sharpness at the edge, every start",
        predicted=lambda p: p["momentum"][:, None],
        measured=lambda m: at_edge(m["momentum"], m),
        tolerance=BANDS["momentum"],
        because=ASYMMETRY,
    ),
    Claim(
        "Adam: median sharpness of P^-1 H at the edge, every start",
        predicted=lambda p: p["adam"],
        measured=lambda m: at_edge(m["adam"], m),
        tolerance=BANDS["adam"],
        because=ASYMMETRY,
    ),
    Claim(
        "share of networks whose loss rises at times; falls in the long run; that stay flatter "
        "than gradient flow gets",
        predicted=lambda p: np.ones(3),
        measured=shares,
        tolerance=1e-12,
        because="counts; loss is compared between records 15 steps apart in the quick preset",
    ),
)

EXPERIMENT = Experiment(
    name="cohen2021_edge",
    source=papers.cohen2021("sharpness and loss during training; Adam: arXiv:2207.14484"),
    statement="Training sharpens the loss up to the threshold of its optimiser and hovers there.",
    equations=(
        r"\lambda_{\max}(H) \to \frac{2}{\eta}\;\text{(gradient descent)}, \quad"
        r" \frac{2+2\beta}{\eta}\;\text{(heavy ball)}, \quad"
        r" \frac{2+2\beta}{(1+2\beta)\eta}\;\text{(Nesterov)}",
        r"\lambda_{\max}(P^{-1}H) \lesssim \frac{2+2\beta_1}{(1-\beta_1)\eta}\;\text{(Adam)}",
    ),
    quick=Config(),
    full=Config(hidden=32, examples=128, starts=8, steps=6000),
    cost=(18, 240),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
