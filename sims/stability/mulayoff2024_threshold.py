"""The exact mean-square threshold of SGD, against batch size, bounds, and what SGD really does.

Mulayoff & Michaeli (2024): linearised SGD at an interpolating minimum keeps its second moment
bounded up to ``eta*(B)``, computed here from the n x n Gram. Tested are the growth of the second
moment at two minima, of a random problem of rank-one curvatures and of a tanh network that learned
the parity of n digits: linearised (resampled chains), and the network itself, its weights kicked
by 1e-6 (few steps: the mean square of many is carried by kicks too rare to be drawn).

And where does training end? The paper's protocol: large initial weights, a slow warm-up, small
batches, here with tiny kicks (``sims.stability.kicked_training``). Gradient descent ends at 2/lmax.
What SGD obeys is the single path, not its mean square: end points have negative Lyapunov exponents
and ``Tr H <= 2B/eta``, but may lie some percent beyond ``eta*``, which is hence not claimed.

The paper's network is a ReLU network on a subset of MNIST. Ours are the digits (8 x 8 pixels,
averaged over squares of four, all images of one length), the tanh and all sizes and rates.
Loss ``(1/2n) sum_i (f(x_i) - y_i)^2``, batches without replacement, independent from step to step.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics import models
from dynamics.curvature import layerwise_gram
from dynamics.linearized_sgd import lyapunov_exponent, mean_square_growth
from dynamics.losses import half_squared_error
from dynamics.training import train
from sims import data, papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys, training_process
from sims.rates import mean_and_error
from sims.stability.kicked_training import displaced, kicked_cases, kicked_process, slack
from sims.sweep import sweep
from theory.stability import bounds, mean_square
from theory.stability.gram import mixing_weight
from theory.stability.thresholds import optimizer_threshold, trace_threshold

FACTORS = np.array([0.8, 0.95, 1.05, 1.15])  # of eta*, at which second moments are followed
NEAR = slice(1, 3)  # of these, between which the simulated growth crosses 1
OUTER = [0, 3]  # of these, at which the network is kicked
KICK = 1e-6
LAZY = 0  # of the rates: too small to make the start unstable, hence not claimed
RECORDS = 41
LYAPUNOV = 10  # steps for a Lyapunov exponent, over those for a growth rate
MINIMUM_STEPS = 2000  # of gradient descent to the minimum that is kicked
MINIMUM_RATE = 0.5  # of that, over the start's threshold


@dataclass(frozen=True)
class Config:
    """Batch sizes of SGD; a row of rates for each and a last one for gradient descent."""

    examples: int = 16
    hidden: int = 20
    weight_variance: float = 16.0
    batch_sizes: tuple[int, ...] = (1, 4)
    rates: tuple[tuple[float, ...], ...] = (
        (0.005, 0.03, 0.045, 0.06),
        (0.02, 0.08, 0.12, 0.16),
        (0.04, 0.18, 0.24, 0.3),
    )
    rank: int = 6
    starts: int = 2
    steps: int = 16_000
    chains: int = 64
    growth_steps: int = 120
    kicked: int = 12_000
    kicked_steps: int = 3
    data_seed: int = 0

    def __post_init__(self) -> None:
        least = {"examples": 4, "hidden": 1, "rank": 1, "starts": 2, "steps": 1000, "chains": 16}
        for name, limit in (least | {"growth_steps": 20, "kicked": 100, "kicked_steps": 2}).items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")
        if not self.weight_variance > 0:
            raise ValueError(f"weight_variance must be positive, got {self.weight_variance}")
        sizes = np.array(self.batch_sizes)
        if (
            not len(sizes)
            or sizes[0] < 1
            or np.any(np.diff(sizes) < 1)
            or sizes[-1] >= self.examples
        ):
            raise ValueError(
                f"batch_sizes must rise from 1 or more to below {self.examples}, got {tuple(sizes)}"
            )
        rows = self.rates
        fit = len(rows) == len(sizes) + 1 and len({len(row) for row in rows}) == 1
        if not fit or np.any(np.diff(rows) <= 0) or np.min(rows) <= 0 or len(rows[0]) < 2:
            raise ValueError(
                f"rates must be {len(sizes) + 1} rows of 2 or more rising rates > 0, got {rows}"
            )

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Batch sizes, the full batch last."""
        return (*self.batch_sizes, self.examples)


class Task(NamedTuple):
    """A network, the digits it learns, and its initial weights, starts on the leading axis."""

    model: models.Model
    data: data.Dataset
    starts: Any


@cache
def task(config: Config) -> Task:
    """Part of the question, not of the answer."""
    digits = data.load("digits", config.examples)
    x = digits.x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    x = x - x.mean(axis=0)
    x *= 4 / np.linalg.norm(x, axis=1, keepdims=True)
    parity = 1.0 - 2 * (digits.y.argmax(axis=1) % 2)
    model = models.mlp((16, config.hidden, 1), weight_variance=config.weight_variance)
    starts = jax.jit(jax.vmap(model.init))(
        seed_keys(jax.random.key(config.data_seed), config.starts)
    )
    return Task(model, data.Dataset(x, parity[:, None]), starts)


def gram_of(config: Config, params: Any) -> jax.Array:
    """Gram (n, n) of the network on its digits."""
    return layerwise_gram(params, task(config).data.x, activation="tanh")[:, 0, :, 0]


class Minimum(NamedTuple):
    """An interpolating minimum: its Gram (n, n), and weights and data of the network, if any."""

    gram: np.ndarray
    params: Any
    data: Any


@cache
def minimum(config: Config) -> Minimum:
    """A trained network. What training lacks of the labels is taken from them: they are fitted."""
    model, (x, y), starts = task(config)
    start = jax.tree.map(lambda w: w[0], starts)
    gram = jax.jit(partial(gram_of, config))
    optimizer = optax.sgd(MINIMUM_RATE * mean_square.mean_threshold(gram(start)))
    loss = half_squared_error(model.apply, examples="mean")

    @jax.jit
    def descend(start, pair):
        key = jax.random.key(0)
        return train(key, start, pair, loss=loss, optimizer=optimizer, steps=MINIMUM_STEPS).params

    params = descend(start, (x, y))
    return Minimum(np.asarray(gram(params)), params, (x, model.apply(params, x)))


@cache
def random_gram(config: Config) -> np.ndarray:
    """Of ``examples`` Gaussian gradients, hence of unequal length, with ``rank`` parameters."""
    rng = np.random.default_rng(config.data_seed)
    features = rng.standard_normal((config.examples, config.rank))
    return features @ features.T


@cache
def thresholds(config: Config) -> np.ndarray:
    """eta* of the random problem and of the network's minimum, (2, sizes of SGD)."""
    grams, edge = (random_gram(config), minimum(config).gram), mean_square.mean_square_threshold
    edges = [[edge(gram, size).learning_rate for size in config.batch_sizes] for gram in grams]
    return np.array(edges, float)


def predict(config: Config) -> Arrays:
    """Thresholds, growth rates and second moments at the two minima; edges of every rate."""
    sizes = np.arange(1, config.examples + 1)
    gram, rates = random_gram(config), np.array(config.rates)
    found = [mean_square.mean_square_threshold(gram, int(size)) for size in sizes]
    bound = [bounds.stability_bounds(gram, int(size)) for size in sizes]
    scale = np.array(config.batch_sizes)[:, None]
    return {
        "thresholds": thresholds(config)[0],
        "network_thresholds": thresholds(config)[1],
        "growth": growth(config),
        "kicked": kicked_moments(config),
        "sizes": sizes,
        "curve": np.array([float(each.learning_rate) for each in found]),
        **{name: np.array([getattr(b, name) for b in bound]) for name in bound[0]._fields},
        "trace_bound": trace_threshold(rates[:-1], 1) * scale,
        "sharpness_bound": optimizer_threshold("gd", rates[-1]),
        "gd_slack": np.array(slack(config.steps, 1)),
        "sgd_slack": np.array(slack(config.steps, config.examples)),
        "typical": -1.0,
    }


def growth(config: Config) -> np.ndarray:
    """Of the random problem's second moment per step, at FACTORS of eta*, (sizes, factors)."""
    gram, rates = random_gram(config), near_rates(config)
    return np.array(
        [
            [float(mean_square.growth_rate(gram, rate, size).rate) for rate in row]
            for size, row in zip(config.batch_sizes, rates, strict=True)
        ]
    )


def near_rates(config: Config) -> np.ndarray:
    """FACTORS of eta* of the random problem, (sizes, factors)."""
    return thresholds(config)[0][:, None] * FACTORS


def kicked_moments(config: Config) -> np.ndarray:
    """Mean squared output error over that of the kick, (sizes, factors, steps)."""
    gram, edges = jnp.asarray(minimum(config).gram), thresholds(config)[1]
    mixing = np.array([mixing_weight(config.examples, size) for size in config.batch_sizes])

    @jax.jit
    @partial(jnp.vectorize, signature="(),()->(k)")
    def path(rate, p):
        def step(moment, _):
            moment = mean_square.second_moment_step(moment, gram, rate, p)
            return moment, jnp.trace(moment)

        return jax.lax.scan(step, gram, length=config.kicked_steps)[1] / jnp.trace(gram)

    return np.asarray(path(edges[:, None] * FACTORS[OUTER], mixing[:, None]))


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Second moments at the two minima, and training from large weights at every rate."""
    return {
        **linearised_growth(config, jax.random.fold_in(key, 0)),
        "kicked": kicked_network(config, jax.random.fold_in(key, 1), sweep),
        **end_points(config, jax.random.fold_in(key, 2), sweep),
        "chains": config.chains,
        "sizes": np.array(config.batch_sizes),
    }


def linearised_growth(config: Config, key: jax.Array) -> dict[str, np.ndarray]:
    """Growth of the random problem's second moment, and its error, (sizes, factors)."""
    gram, found = random_gram(config), []
    for size, rates in zip(config.batch_sizes, near_rates(config), strict=True):
        options = {"steps": config.growth_steps, "chains": config.chains, "batch_size": size}
        grams = np.broadcast_to(gram, (len(rates), *gram.shape))
        at = jax.random.fold_in(key, size)
        found.append(one_by_one(mean_square_growth, at, grams, rates, options))
    value, error = np.stack(found, axis=1)
    rates = near_rates(config)
    near = {"near_rates": rates, "crossing": crossing(rates, value)}
    return {"growth": value, "growth_error": error, **near}


def kicked_network(config: Config, key: jax.Array, sweep: Any) -> np.ndarray:
    """Squared output errors over those of the kick: mean, error; (2, sizes, factors, steps)."""
    model, (gram, params, pair) = task(config).model, minimum(config)
    loss = half_squared_error(model.apply, examples="mean")

    def observe(params, shared):
        return {"square": 2 * len(gram) * loss(params, shared["data"])}

    shared, found = {"data": pair}, []
    process = partial(training_process, lambda case, shared: case["start"], loss, observe)
    for index, size in enumerate(config.batch_sizes):
        rates = np.repeat(thresholds(config)[1][index] * FACTORS[OUTER], config.kicked)
        at = jax.random.fold_in(key, size)
        cases = {"key": seed_keys(at, len(rates)), "learning_rate": rates}
        cases["start"] = displaced(at, params, len(rates), KICK)
        steps = np.arange(1, config.kicked_steps + 1)
        run = sweep(f"kicked_{size}", process(batch_size=size), cases, shared, record_at=steps)
        squares = run.records["square"].reshape(len(OUTER), config.kicked, -1)
        found.append(mean_and_error(np.moveaxis(squares, 1, 0)) / (KICK**2 * np.trace(gram)))
    return np.stack(found, axis=1)


def end_points(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Curvature of trained networks, (sizes, rates, starts), and their Lyapunov exponents."""
    model, pair, starts = task(config)
    loss = half_squared_error(model.apply, examples="mean")
    steps = np.arange(RECORDS) * config.steps // (RECORDS - 1)

    def observe(params, shared):
        return {"gram": gram_of(config, params), "loss": loss(params, shared["data"])}

    found, exponents = [], []
    for size, rates in zip(config.all_sizes, np.array(config.rates), strict=True):
        at = jax.random.fold_in(key, size)
        batch_size = None if size == config.examples else size
        process = kicked_process(loss, observe, steps=config.steps, batch_size=batch_size)
        cases = kicked_cases(at, starts, rates)
        run = sweep(f"batch_{size}", process, cases, {"data": tuple(pair)}, record_at=steps)
        shape = (len(rates), config.starts)
        found.append({n: x.reshape(*shape, *x.shape[1:]) for n, x in run.records.items()})
        if batch_size is not None:
            last = run.records["gram"][:, -1]
            exponents.append(typical_growth(config, at, last, cases["learning_rate"], size))
    measured = {name: np.stack([f[name] for f in found]) for name in found[0]}
    lyapunov = np.stack(exponents, axis=1).reshape(2, len(config.batch_sizes), *shape)
    return {
        "loss": measured["loss"],
        **curvatures(config, measured["gram"]),
        "lyapunov": lyapunov,
        "rates": np.array(config.rates),
        "steps": steps,
    }


def typical_growth(config: Config, key: jax.Array, last: Any, rates: Any, size: int) -> np.ndarray:
    """Lyapunov exponents of linearised SGD at end points, and their errors: (2, members)."""
    options = {"steps": LYAPUNOV * config.growth_steps, "chains": 16, "batch_size": size}
    return one_by_one(lyapunov_exponent, key, last, rates, options)


def one_by_one(rate_of: Any, key: jax.Array, grams: Any, rates: Any, options: Any) -> np.ndarray:
    """Estimates and errors, (2, members); a loop compiles in half the time that vmap takes."""

    @jax.jit
    def members(keys, grams, rates):
        def member(case):
            key, gram, rate = case
            return rate_of(key, gram, learning_rate=rate, **options)

        return jax.lax.map(member, (keys, grams, rates))

    return np.array(members(seed_keys(key, len(rates)), grams, rates))


def curvatures(config: Config, gram: np.ndarray) -> dict[str, np.ndarray]:
    """Over training, (sizes, rates, starts, records); of end points also eta*, for the figure."""
    n, squares = gram.shape[-1], np.diagonal(gram, axis1=-2, axis2=-1)
    alive = np.asarray(np.isfinite(gram).all(axis=(-2, -1)))
    filled = np.where(alive[..., None, None], gram, np.eye(n))
    sharpness = np.where(alive, np.linalg.eigvalsh(filled)[..., -1] / n, np.nan)
    found = {"trace": squares.mean(axis=-1), "sharpness": sharpness}
    exact = np.full(gram.shape[:3], np.nan)
    for at in np.ndindex(gram.shape[:3]):
        size, last = config.all_sizes[at[0]], filled[at][-1]
        exact[at] = mean_square.mean_square_threshold(last, size).learning_rate
    largest = squares.max(axis=-1)
    return found | {"largest_gradient": largest, "end_threshold": exact}


def crossing(rates: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """Rate at which the simulated growth is 1, log-linear between the nearest rates, (sizes,)."""
    x, y = np.log(rates[:, NEAR]), np.log(growth[:, NEAR])
    return np.exp(x[:, 0] - y[:, 0] * np.diff(x)[:, 0] / np.diff(y)[:, 0])


def crossing_tolerance(m: Arrays) -> np.ndarray:
    """Relative error of ``crossing``: standard errors over the slope, and interpolation."""
    x, y = np.log(m["near_rates"][:, NEAR]), np.log(m["growth"][:, NEAR])
    slope = np.diff(y)[:, 0] / np.diff(x)[:, 0]
    return (4 * m["growth_error"][:, NEAR].max(axis=1) + bias(m)) / slope + np.diff(x)[:, 0] ** 2


def bias(m: Arrays) -> float:
    """Of growth measured in a population of finite size."""
    return 2 / float(m["chains"])


def ends(found: np.ndarray) -> np.ndarray:
    """End points of SGD at the claimed rates, (sizes, rates, starts)."""
    return found[:-1, LAZY + 1 :, :, -1]


def largest_gradients(m: Arrays) -> np.ndarray:
    """B max |g_i|^2 of the same."""
    return np.asarray(m["sizes"])[:, None, None] * ends(m["largest_gradient"])


def bracket(p: Arrays, m: Arrays) -> np.ndarray:
    """How far, relatively, 2B/eta may be from the middle of Tr H and B max |g_i|^2."""
    mean, largest = ends(m["trace"]), largest_gradients(m)
    bound, middle = trace_bound(p), (mean + largest) / 2
    below, above = p["sgd_slack"]
    slacks = np.where(middle > bound, above, below)
    return (largest - mean) / 2 / bound + slacks


def trace_bound(p: Arrays) -> np.ndarray:
    """2B/eta of the claimed rates, (sizes, rates, 1)."""
    return p["trace_bound"][:, LAZY + 1 :, None]


CLAIMS = (
    Claim(
        "random problem: growth of the second moment per step around eta*",
        predicted=lambda p: p["growth"],
        measured=lambda m: m["growth"],
        tolerance=lambda p, m: (4 * m["growth_error"] + bias(m)) / p["growth"],
        because="4 standard errors over populations, and their bias, O(1/chains)",
    ),
    Claim(
        "random problem: the rate at which the simulated second moment stops to shrink is eta*",
        predicted=lambda p: p["thresholds"],
        measured=lambda m: m["crossing"],
        tolerance=lambda p, m: crossing_tolerance(m),
        because="4 standard errors of growth over its slope; interpolation over 10 %, squared",
    ),
    Claim(
        "tanh network kicked from its minimum: mean squared error of the outputs, step by step",
        predicted=lambda p: p["kicked"],
        measured=lambda m: m["kicked"][0],
        tolerance=lambda p, m: 4 * m["kicked"][1] / p["kicked"],
        because="4 standard errors over kicks; kicks of 1e-6 make the network linear to 1e-5",
    ),
    Claim(
        "gradient descent from large weights: lmax ends at 2/eta",
        predicted=lambda p: p["sharpness_bound"][LAZY + 1 :, None],
        measured=lambda m: m["sharpness"][-1, LAZY + 1 :, :, -1],
        tolerance=lambda p, m: np.where(
            m["sharpness"][-1, LAZY + 1 :, :, -1] > p["sharpness_bound"][LAZY + 1 :, None],
            *p["gd_slack"][::-1],
        ),
        because="above: an excess of ln(1/kick)/2 steps of the plateau would have grown; below: "
        "twice the overshoot of the warm-up, sqrt(ln(1/kick)/steps)",
    ),
    Claim(
        "SGD from large weights: 2B/eta lies between Tr H and B max |g_i|^2",
        predicted=trace_bound,
        measured=lambda m: (ends(m["trace"]) + largest_gradients(m)) / 2,
        tolerance=lambda p, m: bracket(p, m),
        because="half their distance from the middle; slack of warm-up and plateau, n times slower "
        "than gradient descent's",
    ),
    Claim(
        "SGD from large weights: sign of the largest Lyapunov exponent of the end points",
        predicted=lambda p: p["typical"],
        measured=lambda m: np.sign(np.max(m["lyapunov"][0] - 4 * m["lyapunov"][1])),
        tolerance=1e-12,
        because="a path that ends there must shrink; 4 standard errors of the exponent",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="mulayoff2024_threshold",
    source=papers.mulayoff2024("sharpness against step and batch size, threshold and bounds"),
    statement="The second moment of SGD at a minimum grows beyond an exact rate eta*(B), below "
    "gradient descent's 2/lmax; trained networks end near it, and where single paths shrink.",
    equations=(
        r"T_{ij} = \frac{\eta p}{n}\sum_{ab}\frac{g_{ia}g_{ib}g_{ja}g_{jb}}"
        r"{\lambda_a+\lambda_b-\eta(1-p)\lambda_a\lambda_b},\qquad "
        r"\lambda_{\max}(T(\eta^*)) = 1",
        r"p = \frac{n-B}{B(n-1)},\qquad \eta^* \leq \frac{2\lambda_{\max}}{\lambda_{\max}^2 + "
        r"\frac{p}{n}\sum_i\left((v\cdot g_i)^2-\lambda_{\max}\right)^2},\qquad "
        r"\eta^* \leq \frac{2B}{\mathrm{Tr}\,H}",
    ),
    quick=Config(),
    full=Config(
        examples=32,
        hidden=40,
        batch_sizes=(1, 2, 4, 8),
        rates=(
            (0.005, 0.02, 0.03, 0.04, 0.06),
            (0.01, 0.04, 0.06, 0.08, 0.12),
            (0.02, 0.08, 0.12, 0.16, 0.2),
            (0.03, 0.12, 0.16, 0.2, 0.25),
            (0.04, 0.18, 0.22, 0.26, 0.3),
        ),
        starts=4,
        steps=120_000,
        chains=512,
        growth_steps=400,
        kicked=16_000,
    ),
    cost=(22, 900),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
