"""Critical periods: two pathways race, and an early deficit of one decides the race for good.

Kleinman, Achille & Soatto (2023): parallel deep linear pathways with a shared target, one of them
gated for a while. Seen in their public code: the task (8 one-hot items, the 15 nodes of a binary
tree as features), the gate that leaves the output and stops the gradient, depths 2 to 4. Ours are:
the quick preset's smaller tree (4 items, 7 nodes), the removal of a pathway as a second deficit,
initial strengths, times, learning rates and widths, races from random strengths, and handwritten
digits (any ``.npz`` with arrays x and y by ``data=path``), whitened, learned by two layers from
small random weights.

Networks on the tree start balanced and aligned, with random hidden bases, and learn the summed
loss; digits are learned on the mean loss. Time is eta * step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.initialization import aligned_init, layer_keys
from dynamics.losses import half_squared_error
from dynamics.pathways import (
    GRADIENT_GATE,
    OPEN,
    REMOVED,
    PathwayModel,
    deficit_gates,
    parallel_pathways,
    pathway_maps,
)
from dynamics.recording import record_schedule
from dynamics.representation import first_crossing, mode_strengths
from sims import data, papers
from sims.deep_linear.switched_training import switched_process, train_at_three_steps
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys
from sims.rates import fitted_exponent, mean_and_error, order_of_error, without_step_error
from sims.sweep import Process, sweep
from theory.deep_linear import modes, pathways
from theory.deep_linear.depth_integral import power
from theory.deep_linear.small_initialization import effective_initial_strength

DEFICITS = {"gradient_gate": GRADIENT_GATE, "removed": REMOVED}  # of pathway b
LEADER = 0.4  # initial strength of the pathway that wins
TASKS = np.array([1.0, 10.0, 100.0, 1000.0])  # singular values of the races that are lost
LEAD = 1e-3  # small, relative to the start
UNLEARNED = 1e-5  # fraction of a mode that is left at the end
FAINT = 1e-2  # modes of digits below this fraction of the first are left out
RECORDS = 61
FINER = 10  # points of drawn curves between two measured ones


@dataclass(frozen=True)
class Config:
    """``relative_step`` is eta over half the critical learning rate, coarsest step of three, and
    ``start`` the initial strength; onsets are ``spacing`` apart, and the deficit lasts for
    ``duration`` of these. Input directions of digits with less than the fraction ``faintest`` of
    the largest variance are left out; ``digit_step`` is eta times their largest singular value,
    ``digit_start`` the initial strength of a mode of a pathway over the smallest."""

    depths: tuple[int, ...] = (1, 2, 3, 4)
    levels: int = 2  # of the tree below its root
    relative_step: float = 0.2
    start: float = 0.02
    spacing: float = 0.5
    onsets: int = 9
    duration: int = 2
    deficits: tuple[Literal["gradient_gate", "removed"], ...] = ("gradient_gate",)
    races: int = 6
    race_seed: int = 0
    data: str = "digits"
    examples: int = 300
    faintest: float = 0.02
    n_hidden: int = 48
    digit_step: float = 0.05
    digit_start: float = 1e-3
    digit_onsets: int = 6
    seeds: int = 4

    def __post_init__(self) -> None:
        positive = ("levels", "relative_step", "spacing", "onsets", "duration", "races")
        for name in (*positive, "n_hidden", "digit_step", "digit_start"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths must be one or more integers >= 1, got {self.depths}")
        if not 0 < self.start <= 0.5:  # half the smallest singular value of the tree
            raise ValueError(f"start must be above 0 and at most 0.5, got {self.start}")
        for name in ("digit_onsets", "seeds"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if not self.deficits or not set(self.deficits) <= set(DEFICITS):
            raise ValueError(f"deficits must be among {list(DEFICITS)}, got {self.deficits}")

    @property
    def onset_times(self) -> np.ndarray:
        return self.spacing * np.arange(self.onsets)

    @property
    def items(self) -> int:
        return 2**self.levels

    @property
    def race_starts(self) -> np.ndarray:
        """Random strengths (races, 2, items) about a target of 1."""
        draws = np.random.default_rng(self.race_seed)
        return draws.uniform(0.1, 0.9, (self.races, 2, self.items)) ** 2

    @property
    def lead_starts(self) -> np.ndarray:
        """Strengths that two pathways with a small lead start from, in the mean: (items,)."""
        return np.geomspace(1e-3, 0.1, self.items)

    @property
    def loser_starts(self) -> np.ndarray:
        return np.linspace(0.1, 0.3, self.items)


# the tree ----------------------------------------------------------------------------------------


class Tree(NamedTuple):
    """A node (feature) per row, 1 for the items below it, and its modes, vectors as columns."""

    nodes: np.ndarray
    left: np.ndarray
    singular_values: np.ndarray
    right: np.ndarray


@cache
def tree(levels: int) -> Tree:
    """The binary tree with 2^levels items for leaves."""
    rows = [np.kron(np.eye(2**l), np.ones((1, 2 ** (levels - l)))) for l in range(levels + 1)]
    nodes = np.concatenate(rows)
    left, s, right = np.linalg.svd(nodes, full_matrices=False)
    return Tree(nodes, left, s, right.T)


def groups(config: Config, depth: int) -> dict[str, dict[str, Any]]:
    """All networks of one depth by group: strengths (networks, 2, items), tasks, rates, gates."""
    s, ones = tree(config.levels).singular_values, np.ones(config.items)
    count, kinds = len(config.deficits) * config.onsets, [DEFICITS[d] for d in config.deficits]
    lead = config.lead_starts * (1 + LEAD / 2 * np.array([[1], [-1]]))
    lost = np.stack([LEADER * ones, config.loser_starts])
    found = {
        "deficits": networks(np.full((count, 2, config.items), config.start), s[None]),
        "races": networks(config.race_starts, ones[None]),
        "leads": networks(lead[None], ones[None]),
        "losers": networks(np.tile(lost, (len(TASKS), 1, 1)), TASKS[:, None] * ones[None]),
    }
    for group in found.values():
        critical = np.asarray(modes.critical_learning_rate(group["s"].max(axis=1), depth))
        group["learning_rate"] = config.relative_step * critical / 2
    parts = int(np.ceil(config.spacing / found["deficits"]["learning_rate"][0]))
    found["deficits"] |= {
        "learning_rate": np.full(count, config.spacing / parts),
        "deficit": np.outer(np.repeat(kinds, config.onsets), [0, 1]),
        "steps": {
            "onset": np.tile(parts * np.arange(config.onsets), len(kinds)),
            "duration": np.full(count, parts * config.duration),
        },
    }
    return found


def networks(start: np.ndarray, s: np.ndarray) -> dict[str, Any]:
    """Networks without a deficit."""
    none = np.zeros(len(start), int)
    return {
        "start": start,
        "s": np.broadcast_to(s, start[:, 0].shape),
        "deficit": np.full((len(start), 2), OPEN),
        "steps": {"onset": none, "duration": none},
    }


def horizon(cases: dict[str, Any], depth: int) -> int:
    """Coarsest steps until all is learned, even by two pathways that share every mode.

    Escape from the start and exponential approach, each at most as long as if it came alone.
    """
    s, start = cases["s"], np.minimum(2 * cases["start"].min(axis=1), cases["s"] / 2)
    time = np.log(1 / UNLEARNED) * np.asarray(modes.critical_learning_rate(s, depth)) / 2
    if depth > 1:
        time = time + np.asarray(modes.escape_time_small_init(s, start, depth))
    alone = time.max(axis=1) / cases["learning_rate"]
    shared = 2.0 ** (power(depth) - 1)  # the sum of two equal pathways is one, so much slower
    return int(np.max(cases["steps"]["onset"] + cases["steps"]["duration"] + shared * alone))


def two_pathways(model: PathwayModel, targets: Callable[[Any, Any], Any]) -> Process:
    """Two pathways with a deficit, observed in the modes of the task."""

    def loss(params, gated):
        batch, gates = gated
        heard = half_squared_error(lambda p, x: model.apply(p, x, gates), examples="sum")
        return heard(params, batch)

    def data_at(k, case, shared):
        steps = case["steps"]
        gates = deficit_gates(k, steps["onset"], steps["duration"], case["deficit"])
        return (shared["x"], targets(case, shared)), gates

    def observe(params, shared):
        strengths = jax.vmap(mode_strengths, (0, None, None))
        return {"K": strengths(pathway_maps(params), *shared["vectors"])}

    return switched_process(lambda case, shared: case["weights"], loss, data_at, observe)


def train_on_tree(config: Config, depth: int, key: jax.Array, sweep: Any) -> dict[str, np.ndarray]:
    """Strengths over time at three step sizes, by group: (3, networks, records, 2, items)."""
    task, found = tree(config.levels), groups(config, depth)
    widths = (config.items, *[config.items] * (depth - 1), len(task.nodes))
    cases = jax.tree.map(lambda *arrays: np.concatenate(arrays), *found.values())
    count = len(cases["s"])

    def start(pathway):  # of all networks, on one random hidden basis
        draw = partial(aligned_init, layer_keys(key, 2)[pathway], widths, task.left, task.right)
        return jax.vmap(draw)(cases["start"][:, pathway])

    def targets(case, shared):
        left, right = shared["vectors"]
        return (right * case["s"][None]) @ left.T

    cases |= {"weights": (start(0), start(1)), "key": seed_keys(key, count)}
    shared = {"x": np.eye(config.items), "vectors": (task.left, task.right)}
    network = two_pathways(parallel_pathways(widths), targets)
    at = record_schedule(horizon(cases, depth), RECORDS, spacing="log")
    K = train_at_three_steps(f"depth_{depth}", network, cases, shared, at, sweep)["K"]
    cuts = np.cumsum([len(group["s"]) for group in found.values()])[:-1]
    return dict(zip(found, np.split(K, cuts, axis=1), strict=True))


# digits ------------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Modes of whitened digits, and how they are learned; gates last for 1/s_1."""

    left: np.ndarray
    singular_values: np.ndarray
    right: np.ndarray
    learning_rate: float
    weight_variance: float
    onsets: np.ndarray  # in steps
    duration: int
    steps: int


@cache
def digits(config: Config) -> Digits:
    """The task: part of the question, not of the answer."""
    found = data.whiten(
        data.center(data.load(config.data, config.examples)), rank_tolerance=config.faintest
    )
    left, s, right = np.linalg.svd(data.correlations(found).sigma_yx, full_matrices=False)
    kept = s > FAINT * s[0]
    left, s, right = left[:, kept], s[kept], right[kept].T
    rate, variance = config.digit_step / s[0], 2 * config.digit_start * s[-1] / config.n_hidden
    learned = float(modes.half_learning_time(s[-1], config.digit_start * s[-1], 2)) / rate
    onsets = np.arange(config.digit_onsets) * int(1.5 * learned / (config.digit_onsets - 1))
    duration = int(1 / config.digit_step)
    return Digits(left, s, right, rate, variance, onsets, duration, int(3.5 * learned))


def train_on_digits(config: Config, key: jax.Array, sweep: Any) -> np.ndarray:
    """Final share of the pathway without deficit, mean over modes, (seeds, onsets).

    Every seed is trained twice, with its pathways exchanged, so that chance favours neither.

    White inputs enter a linear network's gradient through sigma_yx alone: one example per input
    direction, with the columns of sigma_yx for targets, stands for them all.
    """
    task = digits(config)
    widths = (len(task.right), config.n_hidden, len(task.left))
    model, onsets = parallel_pathways(widths), len(task.onsets)

    def start(key):  # model.init draws N(0, 1/fan-in)
        std = np.sqrt(task.weight_variance)
        return jax.tree.map(lambda w: std * np.sqrt(w.shape[1]) * w, model.init(key))

    keys = seed_keys(key, config.seeds)
    a, b = jax.vmap(start)(keys)
    both_ways = jax.tree.map(lambda *w: jnp.repeat(jnp.concatenate(w), onsets, 0), (a, b), (b, a))
    count = 2 * config.seeds * onsets
    cases = {
        "key": jnp.repeat(jnp.concatenate([keys, keys]), onsets),
        "weights": both_ways,
        "learning_rate": np.full(count, task.learning_rate),
        "deficit": np.tile([OPEN, GRADIENT_GATE], (count, 1)),
        "steps": {
            "onset": np.tile(task.onsets, 2 * config.seeds),
            "duration": np.full(count, task.duration),
        },
    }
    shared = {
        "x": np.eye(widths[0]),
        "y": (task.right * task.singular_values) @ task.left.T,
        "vectors": (task.left, task.right),
    }
    network = two_pathways(model, lambda case, shared: shared["y"])
    K = sweep("digits", network, cases, shared, record_at=[task.steps]).records["K"][:, 0]
    share = (K[:, 0] / K.sum(axis=1)).mean(axis=-1)
    return share.reshape(2, config.seeds, onsets).mean(axis=0)


# prediction and measurement ----------------------------------------------------------------------


def predict(config: Config) -> Arrays:
    """By depth (leading axis): critical-period curves, and the races' invariants and ends."""
    found = [by_depth(config, depth) for depth in config.depths]
    task = digits(config)
    start = effective_initial_strength(
        task.weight_variance, task.weight_variance, config.n_hidden, np.arange(len(task.left[0]))
    )
    rate = task.learning_rate
    curve = pathways.critical_period_curve(
        finer(task.onsets * rate)[:, None],
        task.duration * rate,
        task.singular_values[None],
        start[None],
        2,
    )
    curve = np.asarray(curve).mean(axis=1)
    return jax.tree.map(lambda *arrays: np.stack(arrays), *found) | {
        "depths": np.array(config.depths),
        "singular_values": tree(config.levels).singular_values,
        "relative_step": config.relative_step,
        "onset_times": config.onset_times,
        "fine_onset_times": finer(config.onset_times),
        "fine_tasks": finer(TASKS, np.geomspace),
        "lead_starts": config.lead_starts,
        "digit_onsets": task.onsets * rate,
        "digit_curve": curve[::FINER],
        "fine_digit_onsets": finer(task.onsets * rate),
        "fine_digit_curve": curve,
        "digit_step": config.digit_step,
        "crowding": (len(start) - 1) / (8 * config.n_hidden),
    }


def by_depth(config: Config, depth: int) -> dict[str, Any]:
    """Theory of one depth; step sizes are eta over half the critical rate of each task."""
    s, group = tree(config.levels).singular_values, groups(config, depth)
    step = group["deficits"]["learning_rate"][0] * 2 / modes.critical_learning_rate(s, depth)
    a, b = np.moveaxis(config.race_starts, 1, 0)
    totals = np.linspace(a + b, 1.0, RECORDS)
    lead_a, lead_b = group["leads"]["start"][0]
    rows = np.concatenate([[1.0], finer(TASKS, np.geomspace)])[:, None]
    row_a = np.where(np.arange(len(rows))[:, None] == 0, lead_a, LEADER)
    row_b = np.where(np.arange(len(rows))[:, None] == 0, lead_b, config.loser_starts)
    ends = pathways.final_split(row_a, row_b, rows, depth)
    bound = np.full(config.items, np.inf)
    if depth > 2:
        bound = pathways.loser_bound(LEADER, config.loser_starts, depth)
    curves = [
        pathways.critical_period_curve(
            finer(config.onset_times)[:, None],
            config.duration * config.spacing,
            s[None],
            config.start,
            depth,
            deficit,
        )
        for deficit in config.deficits
    ]
    return {
        "curves": np.stack(curves)[:, ::FINER],
        "fine_curves": np.stack(curves),
        "step": step,
        "invariants": pathways.race_invariant(a, b, depth),
        "paths": np.stack(pathways.final_split(a[None], b[None], totals, depth)),
        "lead_exponent": power(depth) - 1,
        "leads": np.log(ends[0][0] / ends[1][0]) / np.log(lead_a / lead_b),
        "losers": ends[1][1::FINER],
        "fine_losers": ends[1][1:],
        "bound": bound,
    }


def finer(points: np.ndarray, space: Callable[..., np.ndarray] = np.linspace) -> np.ndarray:
    """Evenly spaced points with others in between."""
    return space(points[0], points[-1], FINER * (len(points) - 1) + 1)


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train two pathways of every depth on the tree at three step sizes, and two on digits."""
    found = []
    for depth in config.depths:
        K = train_on_tree(config, depth, jax.random.fold_in(key, depth), sweep)
        end = {name: np.moveaxis(values[:, :, -1], 2, 0) for name, values in K.items()}
        shares = end["deficits"][0] / tree(config.levels).singular_values
        started = groups(config, depth)["leads"]["start"][0]
        leads = np.log(end["leads"][0] / end["leads"][1])[:, 0] / np.log(started[0] / started[1])
        found.append(
            {
                "curves": shares.reshape(3, len(config.deficits), config.onsets, config.items),
                "invariants": pathways.race_invariant(end["races"][0], end["races"][1], depth),
                "paths": np.moveaxis(K["races"][-1], (2, 1), (0, 1)),
                "leads": leads,
                "losers": end["losers"][1],
            }
        )
    return jax.tree.map(lambda *arrays: np.stack(arrays), *found) | {
        "depths": np.array(config.depths),
        "onset_times": config.onset_times,
        "lead_starts": config.lead_starts,
        "digit_curves": train_on_digits(config, jax.random.fold_in(key, 0), sweep),
    }


def flow(m: Arrays, name: str) -> np.ndarray:
    """What was measured at three step sizes, by depth, extrapolated to step zero."""
    return without_step_error(np.moveaxis(m[name], 1, 0))


def closing_ages(found: Arrays, gated: np.ndarray) -> np.ndarray:
    """Onset at which a gate has half the effect of one from the start: (depths, items)."""
    first = gated[:, :1]
    return np.asarray(first_crossing(found["onset_times"], (first - gated) / (first - 0.5), 0.5))


def deep(found: Arrays) -> np.ndarray:
    """Depths at which a race is not exactly the same in finite steps."""
    return found["depths"] > 2


CLAIMS = (
    Claim(
        "final share of a pathway against onset of the other's deficit, by depth",
        predicted=lambda p: p["curves"],
        measured=lambda m: flow(m, "curves"),
        tolerance=lambda p, m: 2 * UNLEARNED + p["step"][:, None, None] ** 3 / 8,
        because="extrapolated to step zero without first and second order, an eighth of the cube "
        "of each mode's step is left; and 1e-5 of each mode is not learned",
    ),
    Claim(
        "age at which the critical period closes, by depth",
        predicted=lambda p: closing_ages(p, p["curves"][:, 0]),
        measured=lambda m: closing_ages(m, flow(m, "curves")[:, 0]),
        tolerance=lambda p, m: 4 * (2 * UNLEARNED + p["step"] ** 3 / 8),
        because="as above, times four: by then the share has fallen by a quarter; both curves are "
        "interpolated between onsets in the same way",
    ),
    Claim(
        "what a race conserves",
        predicted=lambda p: p["invariants"],
        measured=lambda m: np.where(
            deep(m)[:, None, None], flow(m, "invariants"), m["invariants"][:, 0]
        ),
        tolerance=lambda p, m: np.where(deep(p), p["relative_step"] ** 3 / 8, 1e-9)[:, None, None],
        because="rounding at depths 1 and 2, where even the coarsest steps keep it exactly; "
        "beyond, an eighth of the cube of the step, extrapolated without lower orders",
    ),
    Claim(
        "order in the step of the drift of what a race conserves, depth above 2",
        predicted=lambda p: 1.0,
        measured=lambda m: np.median(order_of_error(np.moveaxis(m["invariants"][deep(m)], 1, 0))),
        tolerance=lambda p, m: p["relative_step"] / 2,
        because="gradient descent errs by O(eta); the next order adds about a third of the step",
        error="absolute",
    ),
    Claim(
        "exponent with which a small lead grows as strengths do, by depth",
        predicted=lambda p: p["lead_exponent"],
        measured=lambda m: np.array(
            [fitted_exponent(1 / m["lead_starts"], leads) for leads in flow(m, "leads")]
        ),
        tolerance=1e-3,
        because="squares of leads, which end below 3 %; steps are extrapolated to zero",
        error="absolute",
    ),
    Claim(
        "final strength of losers, in tasks up to a thousand times as strong",
        predicted=lambda p: p["losers"],
        measured=lambda m: flow(m, "losers"),
        tolerance=lambda p, m: p["relative_step"] ** 3 / 8,
        because="an eighth of the cube of the step, extrapolated without lower orders",
    ),
    Claim(
        "digits: final share of a pathway, mean over modes, against onset",
        predicted=lambda p: p["digit_curve"],
        measured=lambda m: m["digit_curves"].mean(axis=0),
        tolerance=lambda p, m: (
            4 * mean_and_error(m["digit_curves"])[1] + p["digit_step"] / 4 + p["crowding"]
        ),
        because="4 standard errors over seeds; finite steps grow by eta s less in the gate, and "
        "each mode learned closes one of N_h hidden directions to the next, mostly in the leading "
        "pathway: both change the ratio of strengths, and a share by at most a quarter of that",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="kleinman2023_pathways",
    source=papers.kleinman2023("critical learning periods of two pathways"),
    statement="An early deficit decides the race of two pathways; the window lengthens with depth.",
    equations=(
        r"\dot K_x = D\, K_x^{2-2/D}\,(S - K_a - K_b)",
        r"\int_{K_b}^{K_a} \frac{dK}{K^{2-2/D}} = \mathrm{const}",
        r"\frac{d}{dt}\ln\frac{K_a}{K_b} = D\,(S-K_a-K_b)\left(K_a^{1-2/D}-K_b^{1-2/D}\right)",
        r"K_b(\infty) < \left(K_b^{-g}-K_a^{-g}\right)^{-1/g},\quad g = 1-\frac2D",
    ),
    quick=Config(),
    full=Config(
        levels=3,
        relative_step=0.1,
        start=0.02,
        spacing=0.25,
        onsets=33,
        duration=4,
        deficits=("gradient_gate", "removed"),
        examples=0,
        n_hidden=64,
        digit_onsets=15,
        digit_step=0.02,
        seeds=32,
    ),
    cost=(16, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
