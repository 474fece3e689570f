"""Transfer: a little training on another task helps to learn a task, much of it hurts.

Kleinman, Achille & Soatto (2023): deep linear networks are trained on a matrix of higher rank for
a while, and then on one of lower rank, seen whole or through some of its entries. Two layers that
see all of a task follow a matrix Riccati equation, and a switch of tasks composes two of them.
Matrix completion has no closed form; there the flow of the end-to-end map is integrated.

Seen in the public code of the paper: matrix completion at depths 1, 2, 3 from small weights, and a
switch between ranks. Ours are: sizes, ranks, strengths, times, the share of entries seen (the loss
is summed over them, not averaged), and handwritten digits (any ``.npz`` with arrays x and y by
``data=path``), whitened, whose labels are at first those of the next class. All networks start
balanced and small, with random hidden bases; time is eta * step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.initialization import aligned_init
from dynamics.losses import half_squared_error
from dynamics.models import deep_linear, end_to_end
from sims import data, papers
from sims.deep_linear.switched_training import switched_process, train_at_three_steps
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys
from sims.rates import without_step_error
from sims.sweep import Process, sweep
from theory.deep_linear import riccati
from theory.deep_linear.end_to_end import end_to_end_velocity
from theory.deep_linear.modes import critical_learning_rate

SOURCE_STRENGTHS = (2.0, 1.0)  # largest and smallest singular value
TARGET_STRENGTHS = (2.0, 1.2)
EXACT = ("full", "digits")  # settings with a closed form
EXACT_POINTS, INTEGRATED_POINTS = 8, 2  # of drawn curves, per spacing of pre-training times


@dataclass(frozen=True)
class Config:
    """Square tasks of ``size``, of which completion sees the fraction ``seen``; pre-training times
    are multiples of ``spacing``. ``relative_step`` is eta over half the critical learning rate,
    coarsest step of three; ``start`` the strength of all modes of the initial map. Times of digits
    are in units of 1/s, their largest singular value."""

    depths: tuple[int, ...] = (1, 2, 3)
    size: int = 10
    source_rank: int = 5
    target_rank: int = 2
    seen: float = 0.6
    start: float = 0.01
    spacing: float = 0.5
    pretraining: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 12, 16)
    fine_tuning: int = 7
    relative_step: float = 0.2
    integration_steps: int = 150
    task_seed: int = 0
    data: str = "digits"
    examples: int = 300
    faintest: float = 0.02
    digit_spacing: float = 0.5
    digit_pretraining: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 12, 16)
    digit_fine_tuning: int = 10

    def __post_init__(self) -> None:
        for name in ("start", "spacing", "fine_tuning", "relative_step", "integration_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if 2 not in self.depths or min(self.depths) < 1:
            raise ValueError(f"depths must be integers >= 1 and include 2, got {self.depths}")
        if not 1 <= self.target_rank <= self.source_rank <= self.size:
            ranks = self.target_rank, self.source_rank
            raise ValueError(f"1 <= target_rank <= source_rank <= {self.size}, got {ranks}")
        if not 0 < self.seen < 1:
            raise ValueError(f"seen must be between 0 and 1, got {self.seen}")
        for name in ("pretraining", "digit_pretraining"):
            times = getattr(self, name)
            if len(times) < 2 or times[0] != 0 or np.any(np.diff(times) <= 0):
                raise ValueError(f"{name} must be integers that increase from 0, got {times}")


class Problem(NamedTuple):
    """Two tasks (2, n_out, n_in), what is seen of them, the start's vectors, and times."""

    tasks: np.ndarray
    mask: np.ndarray
    left: np.ndarray
    right: np.ndarray
    start: float
    spacing: float
    pretraining: np.ndarray  # in units of spacing, like
    fine_tuning: int


@cache
def matrices(config: Config) -> Problem:
    """Random tasks of two ranks: part of the question, not of the answer."""
    draws, n = np.random.default_rng(config.task_seed), config.size

    def basis():
        return np.linalg.qr(draws.standard_normal((n, n)))[0]

    def task(rank, strengths):
        first, last = strengths
        return (basis()[:, :rank] * np.linspace(first, last, rank)) @ basis()[:, :rank].T

    source = task(config.source_rank, SOURCE_STRENGTHS)
    target = task(config.target_rank, TARGET_STRENGTHS)
    mask = np.zeros(n * n)
    mask[draws.permutation(n * n)[: round(config.seen * n * n)]] = 1
    return Problem(
        np.stack([source, target]),
        mask.reshape(n, n),
        basis(),
        basis(),
        config.start,
        config.spacing,
        np.array(config.pretraining),
        config.fine_tuning,
    )


@cache
def digits(config: Config) -> Problem:
    """Whitened digits, with the labels of the next class at first, and then with their own."""
    found = data.center(data.load(config.data, config.examples))
    task = data.correlations(data.whiten(found, rank_tolerance=config.faintest)).sigma_yx
    draws, (n_out, n_in) = np.random.default_rng(config.task_seed), task.shape
    strongest = float(np.linalg.norm(task, 2))
    modes = min(n_out, n_in)
    left, right = (np.linalg.qr(draws.standard_normal((n, modes)))[0] for n in (n_out, n_in))
    return Problem(
        np.stack([np.roll(task, 1, axis=0), task]),
        np.ones(task.shape),
        left,
        right,
        config.start * strongest / TARGET_STRENGTHS[0],
        config.digit_spacing / strongest,
        np.array(config.digit_pretraining),
        config.digit_fine_tuning,
    )


# prediction --------------------------------------------------------------------------------------


def composed_riccati(problem: Problem, pretraining: np.ndarray) -> jax.Array:
    """Maps after fine-tuning (times, n_out, n_in), two layers that see all of both tasks."""
    start = np.sqrt(problem.start) * np.concatenate([problem.right, problem.left])
    source, target = map(riccati.fukumizu_matrix, problem.tasks)
    switched = riccati.qqt_factor(pretraining * problem.spacing, start, source)
    time = problem.fine_tuning * problem.spacing
    tuned = jax.vmap(lambda Q: riccati.qqt(time, Q, target))(switched)
    return riccati.split_qqt(tuned, len(problem.right))[1]


@partial(jax.jit, static_argnames=("depth", "steps"))
def integrated_maps(times, tasks, mask, start, fine_tuning, *, depth, steps):
    """Maps after fine-tuning (times, n, n) by the end-to-end flow on the entries seen."""

    def flow(W, task, time):
        def velocity(W):
            return end_to_end_velocity(W, mask * (W - task), depth)

        return runge_kutta(velocity, W, time, steps)

    def transfer(time):
        return flow(flow(start, tasks[0], time), tasks[1], fine_tuning)

    return jax.vmap(transfer)(times)


def runge_kutta(velocity: Callable[[jax.Array], jax.Array], y: Any, time: Any, steps: int) -> Any:
    """The classical method of fourth order, ``steps`` equal steps."""
    h = time / steps

    def step(_, y):
        k1 = velocity(y)
        k2 = velocity(y + h / 2 * k1)
        k3 = velocity(y + h / 2 * k2)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(y + h * k3))

    return jax.lax.fori_loop(0, steps, step, y)


def completed(config: Config, depth: int, pretraining: np.ndarray) -> jax.Array:
    """Maps of matrix completion, one per pre-training time."""
    problem = matrices(config)
    return integrated_maps(
        pretraining * problem.spacing,
        problem.tasks,
        problem.mask,
        problem.start * problem.left @ problem.right.T,
        problem.fine_tuning * problem.spacing,
        depth=depth,
        steps=config.integration_steps,
    )


def predict(config: Config) -> Arrays:
    """Maps, and losses on the target, after pre-training for each of several times."""
    found = {}
    for name, problem in (("full", matrices(config)), ("digits", digits(config))):
        fine = finer(problem, EXACT_POINTS)
        loss = relative_loss(np.asarray(composed_riccati(problem, fine)), problem)
        found |= {
            f"{name}_loss": loss[EXACT_POINTS * problem.pretraining],
            f"{name}_fine_loss": loss,
            f"{name}_fine_times": fine * problem.spacing,
            f"{name}_times": problem.pretraining * problem.spacing,
        }
    problem = matrices(config)
    fine, measured = finer(problem, INTEGRATED_POINTS), INTEGRATED_POINTS * problem.pretraining
    maps = np.stack([completed(config, depth, fine) for depth in config.depths])
    loss = relative_loss(maps, problem, unseen=True)
    return found | {
        "depths": np.array(config.depths),
        "completed": maps[:, measured],
        "unseen_loss": loss[:, measured],
        "unseen_fine_loss": loss,
        "unseen_fine_times": fine * problem.spacing,
        "relative_step": config.relative_step,
        "order": np.ones(len(config.depths)),
    }


def finer(problem: Problem, points: int) -> np.ndarray:
    """Pre-training times to draw a curve through, in units of spacing."""
    last = problem.pretraining[-1]
    return np.linspace(0, last, points * last + 1)


def relative_loss(maps: np.ndarray, problem: Problem, *, unseen: bool = False) -> np.ndarray:
    """Squared error on the target over that of no map at all; of the entries unseen, if wanted."""
    counted, target = (1 - problem.mask if unseen else 1.0), problem.tasks[1]
    error = np.sum(counted * (maps - target) ** 2, axis=(-2, -1))
    return error / np.sum(counted * target**2)


# measurement -------------------------------------------------------------------------------------


def switching_network(widths: tuple[int, ...]) -> Process:
    """A deep linear network that learns one task, then another, from the entries it sees."""
    model = deep_linear(widths)

    def loss(params, batch):
        x, y, mask = batch
        seen = half_squared_error(lambda p, x: mask * model.apply(p, x), examples="sum")
        return seen(params, (x, mask * y))

    def data_at(k, case, shared):
        target = jnp.where(k < case["steps"]["switch"], *shared["tasks"])
        return shared["x"], target.T, case["mask"].T

    return switched_process(
        lambda case, shared: case["weights"],
        loss,
        data_at,
        lambda params, shared: {"map": end_to_end(params)},
    )


def train(
    name: str, problem: Problem, config: Config, depth: int, masks: Any, key: jax.Array, sweep: Any
) -> np.ndarray:
    """Maps after fine-tuning at three step sizes: (3, masks, times, n_out, n_in).

    Inputs are one-hot. Of white inputs a linear network's gradient sees sigma_yx alone: its
    columns, one example per input direction, stand for all digits.
    """
    (n_out, modes), n_in = problem.left.shape, len(problem.right)
    widths = (n_in, *[modes] * (depth - 1), n_out)
    critical = float(critical_learning_rate(np.linalg.norm(problem.tasks, 2, (1, 2)).max(), depth))
    parts = int(np.ceil(2 * problem.spacing / (config.relative_step * critical)))
    switch = parts * problem.pretraining
    strengths = np.full(modes, problem.start)
    weights = aligned_init(key, widths, problem.left, problem.right, strengths)
    count = len(masks) * len(switch)
    cases = {
        "key": seed_keys(key, count),
        "weights": jax.tree.map(lambda w: jnp.repeat(w[None], count, 0), weights),
        "mask": np.repeat(masks, len(switch), axis=0),
        "learning_rate": np.full(count, problem.spacing / parts),
        "steps": {"switch": np.tile(switch, len(masks))},
    }
    shared = {"x": np.eye(n_in), "tasks": tuple(problem.tasks)}
    ends = switch + parts * problem.fine_tuning
    network = switching_network(widths)
    maps = train_at_three_steps(name, network, cases, shared, ends, sweep)["map"]
    maps = maps.reshape(3, len(masks), len(ends), *maps.shape[2:])
    return np.stack([maps[:, :, i, i] for i in range(len(ends))], axis=2)


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every depth on matrices, and two layers on digits."""
    problem, found = matrices(config), {}
    completed = []
    for depth in config.depths:
        masks = [problem.mask] + [np.ones_like(problem.mask)] * (depth == 2)
        k = jax.random.fold_in(key, depth)
        maps = train(f"depth_{depth}", problem, config, depth, np.stack(masks), k, sweep)
        completed.append(maps[:, 0])
        if depth == 2:
            found["full_loss"] = relative_loss(maps[:, 1], problem)
    task = digits(config)
    k = jax.random.fold_in(key, 0)
    maps = train("digits", task, config, 2, task.mask[None], k, sweep)[:, 0]
    return found | {
        "completed": np.stack(completed, axis=1),
        "unseen_loss": relative_loss(np.stack(completed, axis=1), problem, unseen=True),
        "digits_loss": relative_loss(maps, task),
    }


def help_and_harm(loss: np.ndarray) -> np.ndarray:
    """Logarithms of the least loss, and of that after the longest pre-training, over none's."""
    return np.log(np.array([loss.min(), loss[-1]]) / loss[0])


def order_of_maps(maps: np.ndarray) -> np.ndarray:
    """Order in the step of the error of maps as a whole, by depth."""
    changes = np.linalg.norm(np.diff(maps, axis=0).reshape(2, maps.shape[1], -1), axis=-1)
    return np.log2(changes[0] / changes[1])


def step_error(p: Arrays, m: Arrays) -> Any:
    """What is left of the error of finite steps without first and second order."""
    return p["relative_step"] ** 3 / 8


LEFT = "extrapolated to step zero without first and second order, an eighth of its cube is left"

CLAIMS = (
    Claim(
        "two layers, all entries: loss after fine-tuning against pre-training time",
        predicted=lambda p: p["full_loss"],
        measured=lambda m: without_step_error(m["full_loss"]),
        tolerance=step_error,
        because=LEFT,
    ),
    Claim(
        "digits: loss after fine-tuning against pre-training time",
        predicted=lambda p: p["digits_loss"],
        measured=lambda m: without_step_error(m["digits_loss"]),
        tolerance=step_error,
        because=LEFT,
    ),
    Claim(
        "short pre-training helps and long hurts: log ratios of losses, matrices and digits",
        predicted=lambda p: np.stack([help_and_harm(p[f"{name}_loss"]) for name in EXACT]),
        measured=lambda m: np.stack(
            [help_and_harm(without_step_error(m[f"{name}_loss"])) for name in EXACT]
        ),
        tolerance=lambda p, m: 2 * step_error(p, m),
        because="of two losses each, " + LEFT,
        error="absolute",
    ),
    Claim(
        "matrix completion: maps after fine-tuning, by depth and pre-training time",
        predicted=lambda p: p["completed"],
        measured=lambda m: without_step_error(m["completed"]),
        tolerance=step_error,
        because=LEFT + ", in units of entries of order one",
        error="absolute",
    ),
    Claim(
        "matrix completion: error of entries not seen, by depth and pre-training time",
        predicted=lambda p: p["unseen_loss"],
        measured=lambda m: without_step_error(m["unseen_loss"]),
        tolerance=step_error,
        because=LEFT,
    ),
    Claim(
        "matrix completion: order of the error of finite steps, by depth",
        predicted=lambda p: p["order"],
        measured=lambda m: order_of_maps(m["completed"]),
        tolerance=lambda p, m: p["relative_step"] / 2,
        because="gradient descent errs by O(eta); the next order adds a fraction of the step",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="kleinman2023_transfer",
    source=papers.kleinman2023("pre-training and transfer, matrix completion"),
    statement="Pre-training on another task helps if it is short and hurts if it is long.",
    equations=(
        r"P(t_1+t_2) = \mathcal{R}_{F_2}^{t_2}\left[\mathcal{R}_{F_1}^{t_1}[P(0)]\right],\quad"
        r" \dot P = FP + PF - P^2",
        r"\dot W = -\sum_{j=1}^{L}(WW^{\top})^{\frac{j-1}{L}}\,[M\circ(W-\Sigma)]\,"
        r"(W^{\top}W)^{\frac{L-j}{L}}",
    ),
    quick=Config(),
    full=Config(
        size=40,
        source_rank=10,
        target_rank=5,
        seen=0.4,
        relative_step=0.1,
        integration_steps=300,
        examples=0,
    ),
    cost=(13, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
