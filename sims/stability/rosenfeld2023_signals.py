"""Opposing signals: a feature that two groups pull apart sharpens the loss until it oscillates.

Rosenfeld & Risteski (2023). A two-layer linear network learns a bulk while an outlier feature,
large, rare and of either sign, cancels in the gradient of everything but its own weight. The model
is reconstructed, as ``theory.stability.opposing_signals`` says, and all its constants are ours.
The examples are finite in number, and exact in their moments: each group has its bulk inputs in
pairs +-x, with second moments I. The loss is half the squared error, a mean over examples; time is
the learning rate times steps. Then real images, trained at the edge of stability: a planted patch
shared by two classes takes the outlier's place, and its groups are looked for in the losses.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.curvature import dense_matrix, hvp
from dynamics.flow import gradient_flow
from dynamics.losses import half_squared_error
from dynamics.opposing import example_losses
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import generator, seed_keys, training
from sims.stability import planted_digits
from sims.sweep import sweep
from theory.stability import opposing_minima, opposing_signals
from theory.stability.opposing_signals import OpposingState

BULK, OUTLIER = 3, 2  # input features
EXCESS = np.array([0.04, 0.02, 0.01])  # of learning rates over the threshold
JUMP = 1.5  # rate over threshold of the run that is drawn
FIRST = 200  # steps over which every step is compared
HEADS = np.geomspace(0.25, 2.0, 29)  # squared, over |beta|, of the minima looked at
STAYS = 1e-3  # relative change of the sharpness by which a run has left the balanced minimum
SMALLEST = 1e-12  # of the outlier's weight, from which it grows when it is unstable
CONVERGED = 1e-20  # loss of the plain examples; runs that wander come close to zero, too


@dataclass(frozen=True)
class Config:
    """The linear model, then the digits (from ``examples`` on)."""

    plain: int = 24  # examples without outlier
    group: int = 12  # examples with one, of either sign
    strengths: tuple[float, ...] = (1.0, 4.0, 16.0)  # kappa
    target_norm: float = 1.0
    gain: float = 0.5
    head: float = 0.5
    outlier: float = 1e-5
    rates: int = 64
    steps: int = 2000
    start_seed: int = 0
    examples: int = 240
    classes: tuple[int, ...] = (3, 8)
    planted: int = 12  # of either class
    patches: tuple[float, ...] = (0.0, 4.0, 8.0)
    n_hidden: int = 32
    weight_scale: float = 0.5  # of initial weights, times 1/sqrt(fan-in)
    digit_rate: float = 0.4
    digit_steps: int = 300
    settled: int = 100  # step from which the edge is looked at
    seeds: int = 2

    def __post_init__(self) -> None:
        for name in ("plain", "group"):
            if getattr(self, name) < 2 * BULK or getattr(self, name) % 2:
                got = getattr(self, name)
                raise ValueError(f"{name} must be even and at least {2 * BULK}, got {got}")
        for name in ("target_norm", "head", "outlier", "weight_scale", "digit_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (("rates", 16), ("steps", 2 * FIRST), ("planted", 2), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if len(self.strengths) < 2 or min(self.strengths) <= 0 or max(self.strengths) <= 2:
            raise ValueError(f"strengths must be > 0 and one of them > 2, got {self.strengths}")
        if len(set(self.classes)) != 2 or not set(self.classes) <= set(range(10)):
            raise ValueError(f"classes must be two different digits, got {self.classes}")
        if self.examples < 20 * self.planted:  # a class has about a tenth of them
            raise ValueError(
                f"examples must be at least 20 * planted = {20 * self.planted}, got {self.examples}"
            )
        if not 0 < self.settled <= self.digit_steps - 20:
            raise ValueError(
                f"settled must be in 1..{self.digit_steps - 20} (digit_steps - 20), "
                f"got {self.settled}"
            )

    @property
    def probability(self) -> float:
        """Of an outlier, of either sign."""
        return 2 * self.group / (self.plain + 2 * self.group)

    @property
    def learning_rates(self) -> np.ndarray:
        """Among which the threshold is looked for, from well below to far above all of them."""
        largest = opposing_signals.opposing_learning_rate(self.target_norm, min(self.strengths))
        least = opposing_signals.opposing_learning_rate(self.target_norm, max(self.strengths))
        return np.geomspace(float(least) / 1.5, 1.5 * float(largest), self.rates)

    @property
    def spacing(self) -> float:
        """Of the logarithms of the learning rates."""
        return float(np.diff(np.log(self.learning_rates))[0])

    @property
    def slowest(self) -> float:
        """Excess over the threshold at which the outlier would grow up within the run."""
        return np.log(1 / SMALLEST) / (2 * self.steps)

    @property
    def times(self) -> np.ndarray:
        """Of the flow: over which the bulk is learned."""
        return np.linspace(0, 4, 33) / self.target_norm


class Problem(NamedTuple):
    """Target beta, the outlier's direction u, a balanced and a generic start."""

    target: np.ndarray
    direction: np.ndarray
    balanced: OpposingState
    generic: OpposingState


@cache
def problem(config: Config) -> Problem:
    """Part of the question, not of the answer."""
    normal = np.random.default_rng(config.start_seed).standard_normal
    target, direction = (v / np.linalg.norm(v) for v in (normal(BULK), normal(OUTLIER)))
    balanced = OpposingState(
        jnp.asarray(config.head), jnp.asarray(config.head * target), jnp.asarray(config.outlier)
    )
    generic = OpposingState(
        jnp.asarray(config.head), jnp.asarray(normal(BULK) / 4), jnp.asarray(config.head / 2)
    )
    return Problem(config.target_norm * target, direction, balanced, generic)


def unstable_outlier(config: Config) -> float:
    """The strength at which descent just above its threshold is looked at: the least above 2."""
    return min(strength for strength in config.strengths if strength > 2)


def special_rates(config: Config) -> np.ndarray:
    """Half the threshold, a little above it, and well above it."""
    factors = np.array([0.5, *(1 + EXCESS), JUMP])
    threshold = opposing_signals.opposing_learning_rate(
        config.target_norm, unstable_outlier(config)
    )
    return factors * float(threshold)


def predict(config: Config) -> Arrays:
    """Flow from the balanced start, descent from a generic one, thresholds and minima."""
    s, t, kappa = config.target_norm, config.times, np.array(config.strengths)[:, None]
    head, decay = opposing_signals.balanced_path(t[None], config.head, s, kappa)
    sharp, rates = unstable_outlier(config), special_rates(config)
    return {
        "times": t,
        "strengths": kappa[:, 0],
        "head_squared": head,
        "outlier": config.outlier * decay,
        "sharpness": opposing_signals.opposing_sharpness(head, s, kappa),
        "invariant": opposing_signals.opposing_invariant(problem(config).generic),
        "group_losses": group_losses(config, problem(config).generic, sharp, rates[0]),
        "jump_losses": group_losses(config, problem(config).balanced, sharp, rates[-1]),
        "threshold": opposing_signals.opposing_learning_rate(s, kappa[:, 0]),
        "rate_spacing": config.spacing,
        "slowest": config.slowest,
        "special_rates": rates,
        "excess": EXCESS,
        "unstable_outlier": sharp,
        "settled": opposing_minima.settled_sharpness(s, sharp, rates[1:4]),
        "balanced_sharpness": opposing_signals.opposing_sharpness(s, s, kappa[:, 0]),
        "heads": HEADS * s,
        "minima": opposing_minima.minimum_sharpness(HEADS[None] * s, s, kappa),
        "flattest": opposing_minima.flattest_sharpness(s, kappa[:, 0]),
        "chance": planted_digits.chance(config.examples, config.planted),
        "edge_steps": config.digit_steps - config.settled,
        "digit_edge": 2 / config.digit_rate,
        "patches": np.array(config.patches),
    }


def group_losses(
    config: Config, start: OpposingState, strength: float, learning_rate: float
) -> np.ndarray:
    """Of gradient descent, step by step, (steps, groups)."""
    task, size = problem(config), strength / config.probability

    def step(state, _):
        losses = opposing_signals.group_losses(state, task.target, size, config.gain)
        state = opposing_signals.opposing_step(state, task.target, strength, learning_rate)
        return state, jnp.stack(losses)

    run = partial(jax.lax.scan, step, length=FIRST + 1)
    return np.asarray(jax.jit(run)(start)[1])


def sample(key: jax.Array, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Examples (strengths, n, features), (strengths, n, 1): plain ones, then + and - outliers."""
    task, normal = problem(config), generator(key).standard_normal
    counts = np.array([config.plain, config.group, config.group])
    halves = [np.linalg.qr(normal((n // 2, BULK)))[0] * np.sqrt(n / 2) for n in counts]
    bulk = np.concatenate([np.concatenate([half, -half]) for half in halves])
    outlier = np.repeat([0.0, 1.0, -1.0], counts)
    size = np.sqrt(np.array(config.strengths) / config.probability)[:, None]
    along = (size * outlier)[..., None] * task.direction
    x = np.concatenate([np.broadcast_to(bulk, (*along.shape[:2], BULK)), along], axis=-1)
    y = bulk @ task.target + config.gain * size * np.abs(outlier)
    return x, y[..., None]


def weights(config: Config, state: OpposingState) -> tuple[jax.Array, jax.Array]:
    """The network in a state: W1 (1, features), W2 (1, 1)."""
    first = np.concatenate([state.bulk, state.outlier * problem(config).direction])
    return jnp.asarray(first[None]), jnp.asarray(state.head).reshape(1, 1)


NETWORK = models.deep_linear((BULK + OUTLIER, 1, 1))
LOSS = half_squared_error(NETWORK.apply, examples="mean")


def sharpness(params: Any, batch: Any) -> jax.Array:
    """Largest eigenvalue of the Hessian of the loss."""
    return jnp.linalg.eigvalsh(dense_matrix(partial(hvp, LOSS, params, batch), params))[-1]


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """The linear network: flow, descent at many rates, its minima. Then the digits."""
    data_key, digits_key = jax.random.split(key)
    data = jax.tree.map(jnp.asarray, sample(data_key, config))
    digits = planted_digits.train(config, digits_key, sweep)
    task = planted_digits.planted(config.examples, config.classes, config.planted)
    return {
        **flows(config, data),
        **descents(config, data, sweep),
        "minima": minima(config, data),
        **digits,
        **planted_digits.at_the_edge(config, digits),
        "groups": task.groups,
        "images": task.x[task.groups[:, 0]],
        "patch": task.patch,
    }


def flows(config: Config, data: Any) -> Arrays:
    """Gradient flow of the network from the two starts, at every strength."""
    task = problem(config)

    def observe(params):
        first, second = params
        outlier = first[0, BULK:] @ task.direction
        norms = second[0, 0] ** 2, jnp.sum(first**2)
        return {"head_squared": norms[0], "outlier": outlier, "invariant": norms[0] - norms[1]}

    def flow(start, batch):
        options = {"loss": LOSS, "times": config.times, "atol": 1e-15}
        found = gradient_flow(start, batch, **options).params
        return jax.vmap(observe)(found) | {
            "sharpness": jax.vmap(sharpness, (0, None))(found, batch)
        }

    over_data = jax.jit(jax.vmap(flow, (None, 0)))
    found = over_data(weights(config, task.balanced), data)
    other = over_data(weights(config, task.generic), data)
    return found | {"invariant": other["invariant"]}


def descents(config: Config, data: Any, sweep: Any) -> Arrays:
    """Gradient descent: balanced starts at all rates and strengths, and at the special rates."""
    task, count = problem(config), len(config.strengths)
    special = special_rates(config)
    which = config.strengths.index(unstable_outlier(config))
    strengths = np.r_[np.repeat(np.arange(count), config.rates), [which] * len(special)]
    balanced, generic = (weights(config, state) for state in (task.balanced, task.generic))
    first = len(strengths) - len(special)  # at half the threshold: the generic start
    cases = {
        "network": jax.tree.map(
            lambda b, g: jnp.stack([b] * len(strengths)).at[first].set(g), balanced, generic
        ),
        "data": jax.tree.map(lambda a: a[strengths], data),
        "learning_rate": jnp.asarray(np.r_[np.tile(config.learning_rates, count), special]),
        "key": seed_keys(jax.random.key(0), len(strengths)),  # full batch: not used
    }

    def weights_of(params, _):
        return {"first": params[0], "second": params[1]}

    def look(params, batch):
        losses = example_losses(LOSS, params, batch)
        groups = jnp.split(losses, [config.plain, config.plain + config.group])
        return jnp.stack([jnp.mean(group) for group in groups]), sharpness(params, batch)

    steps = np.unique(np.r_[: FIRST + 1, np.linspace(FIRST, config.steps, 200).astype(int)])
    run = sweep("rates", training(LOSS, weights_of), cases, record_at=steps)
    networks = run.records["first"], run.records["second"]
    over_records = jax.vmap(jax.vmap(look, (0, None)))
    group, curve = map(np.asarray, jax.jit(over_records)(networks, cases["data"]))
    return {
        "descent_steps": steps,
        "learning_rates": config.learning_rates,
        "slowest": config.slowest,
        "final_sharpness": curve[:first, -1].reshape(count, -1),
        "final_bulk": group[:first, -1, 0].reshape(count, -1),
        "descent_losses": group[first:],
        "descent_sharpness": curve[first:],
    }


def minima(config: Config, data: Any) -> jax.Array:
    """Sharpness of the network at minima with the given heads, (strengths, heads)."""
    task, heads = problem(config), np.sqrt(HEADS * config.target_norm)
    states = [OpposingState(c, task.target / c, jnp.zeros(())) for c in heads]
    networks = jax.tree.map(lambda *w: jnp.stack(w), *(weights(config, s) for s in states))
    over_heads = jax.vmap(sharpness, (0, None))
    return jax.jit(jax.vmap(over_heads, (None, 0)))(networks, data)


def found_thresholds(m: Arrays) -> np.ndarray:
    """Learning rates between the last that stays at the balanced minimum and the next."""
    change = m["final_sharpness"] / m["final_sharpness"][:, :1] - 1
    left = np.argmax(~(np.abs(change) < STAYS), axis=1)  # NaN, if diverged, has left
    return np.sqrt(m["learning_rates"][left] * m["learning_rates"][left - 1])


def share_below_edge(m: Arrays) -> float:
    """Share of the runs that converged whose final sharpness is at most 2/eta."""
    converged = m["final_bulk"] < CONVERGED
    below = m["final_sharpness"] * m["learning_rates"] <= 2 * (1 + m["slowest"])
    return float(np.mean(below[converged]))


CLAIMS = (
    Claim(
        "flow: squared head over time",
        predicted=lambda p: p["head_squared"],
        measured=lambda m: m["head_squared"],
        tolerance=1e-7,
        because="the closed form neglects kappa times the outlier's squared weight, 1e-9; "
        "integration has relative errors of 1e-9 a step",
    ),
    Claim(
        "flow: sharpness over time",
        predicted=lambda p: p["sharpness"],
        measured=lambda m: m["sharpness"],
        tolerance=lambda p, m: 4 * p["strengths"][:, None] * p["outlier"][:, :1],
        because="the outlier's weight o mixes eigenvectors by 2 kappa c o, which is felt to first "
        "order where eigenvalues cross; relative to a sharpness of at least s/2",
    ),
    Claim(
        "flow: what is left of the outlier's weight",
        predicted=lambda p: p["outlier"] / p["outlier"][:, :1],
        measured=lambda m: m["outlier"] / m["outlier"][:, :1],
        tolerance=1e-7,
        because="as for the head; in units of the weight at the start",
        error="absolute",
    ),
    Claim(
        "flow: c^2 - |b|^2 - o^2 from a generic start",
        predicted=lambda p: p["invariant"],
        measured=lambda m: m["invariant"],
        tolerance=1e-6,
        because="conserved; the integration has relative errors of 1e-9 a step",
    ),
    Claim(
        "descent: losses of the three groups, step by step, at half the threshold",
        predicted=lambda p: p["group_losses"],
        measured=lambda m: m["descent_losses"][0, : FIRST + 1],
        tolerance=1e-10,
        because="the recursion is exact for examples with exact moments; rounding over the steps",
        error="absolute",
    ),
    Claim(
        "largest learning rate that stays at the balanced minimum",
        predicted=lambda p: p["threshold"],
        measured=found_thresholds,
        tolerance=lambda p, m: p["rate_spacing"] / 2 + p["slowest"],
        because="half the spacing of the rates tried, and the excess at which an outlier of weight "
        "1e-12 takes longer than the run to grow to 1",
    ),
    Claim(
        "sharpness of minima with any head",
        predicted=lambda p: p["minima"],
        measured=lambda m: m["minima"],
        tolerance=1e-9,
        because="rounding: automatic differentiation on examples with exact moments",
    ),
    Claim(
        "final sharpness just above the threshold: as far below 2/eta as it was above",
        predicted=lambda p: p["settled"],
        measured=lambda m: m["descent_sharpness"][1:4, -1],
        tolerance=lambda p, m: p["unstable_outlier"] * p["excess"] ** 2,
        because="kappa times the squared excess, the next order",
    ),
    Claim(
        "share of converged runs that end with a sharpness of at most 2/eta",
        predicted=lambda p: 1.0,
        measured=share_below_edge,
        tolerance=1e-12,
        because="descent stays at no minimum that is unstable; 2/eta within the excess at which a "
        "run is too short to leave",
    ),
    Claim(
        "digits: planted examples among those whose losses change most in spikes",
        predicted=lambda p: 1.0,
        measured=lambda m: m["precision"][-1],
        tolerance=lambda p, m: 1 - p["chance"][0] - 5 * p["chance"][1],
        because="all of them in the limit of a strong patch; at random their share is that of a "
        "hypergeometric law, and what lies within 5 standard deviations of it fails",
        error="absolute",
    ),
    Claim(
        "digits: correlation of the two groups' loss changes at the edge",
        predicted=lambda p: -1.0,
        measured=lambda m: m["correlation"][-1],
        tolerance=lambda p, m: 1 - 5 / np.sqrt(p["edge_steps"]),
        because="opposite signals, in the limit of a strong patch; unrelated ones have none, with "
        "a standard deviation 1/sqrt(steps), and what lies within 5 of zero fails",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="rosenfeld2023_signals",
    source=papers.rosenfeld2023("opposing signals in a two-layer linear network and in images"),
    statement="A feature that two groups pull apart sharpens the loss as the rest is learned, "
    "until it oscillates; the groups' losses then rise and fall in turn.",
    equations=(
        r"L = \tfrac12|cb-\beta|^2 + \tfrac12\kappa c^2o^2, \quad"
        r"\lambda_{\max}(t) = \max(\kappa z,\ 3z-s,\ s-z), \quad z = c^2 = "
        r"\frac{s}{1+(s/c_0^2-1)e^{-2st}}",
        r"\eta_* = \frac{2}{\max(\kappa,2)\,|\beta|}, \quad"
        r"\lambda_{\mathrm{end}} \simeq \frac{4}{\eta} - \kappa|\beta|",
    ),
    quick=Config(),
    full=Config(
        rates=256, steps=6000, examples=1000, planted=40, n_hidden=64, digit_steps=1000, seeds=4
    ),
    cost=(15, 300),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
