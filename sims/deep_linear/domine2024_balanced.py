"""Lazy, rich, and lazy before rich: exact learning curves and tangent kernels at every imbalance.

Dominé et al. (2024): two layers with ``W2^T W2 - W1 W1^T = lambda I`` follow a matrix Riccati
equation, from the balanced (lambda = 0, rich) to the lazy (large |lambda|). Whether large |lambda|
is lazy depends on the shape: if the heavy layer is square it keeps its Gram matrix, up to a
relative change of order ``1/lambda^2``; if it is not, it has to turn towards the task, and does so
late, at times that grow as |lambda| ("delayed rich"). Trained are networks on data of exactly
white inputs, one square and one funnel (more inputs than hidden units and outputs), then the
funnel on a second task; the closed form of the second is that of the first, composed.

All sizes, tasks, imbalances and initial weights are our own choices, and the two powers of lambda
are derived here. The prediction knows the task and the initial weights, but neither the inputs nor
in which basis of the hidden units a network is trained.
"""

from dataclasses import dataclass
from functools import cache

import jax
import numpy as np

from dynamics.recording import record_schedule
from sims import papers
from sims.deep_linear import lambda_balanced as balanced
from sims.deep_linear import riccati_paths
from sims.deep_linear.lambda_balanced import FACTORS, Problem
from sims.experiment import Arrays, Claim, Experiment
from sims.rates import fitted_exponent, order_of_error, without_step_error
from sims.sweep import sweep
from theory.deep_linear import modes

SQUARE, FUNNEL = 0, 1  # of the shapes
STRONG = 4.0  # |lambda| over the largest singular value from which powers of lambda are fitted
CURVE_POINTS = 121
SETTLED = 12.0  # time in units of that in which the slowest part of an error falls by e


@dataclass(frozen=True)
class Config:
    """``relative_step`` is the learning rate times the largest curvature at the minimum."""

    n_modes: int = 3  # hidden units and outputs, and inputs of the square network
    n_in: int = 5  # of the funnel
    examples: int = 12
    strongest: float = 1.5
    weakest: float = 1.0
    imbalances: tuple[float, ...] = (-12, -6, -3, -1.5, -0.75, 0, 0.75, 1.5, 3, 6, 12)
    start: float = 0.1  # size of the initial map
    relative_step: float = 0.05
    records: int = 60
    problem_seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.n_modes < self.n_in <= self.examples:
            raise ValueError(
                "n_modes, n_in and examples must satisfy 2 <= n_modes < n_in <= examples, got "
                f"{self.n_modes}, {self.n_in} and {self.examples}"
            )
        if not 0 < self.start < self.weakest < self.strongest:
            raise ValueError(
                "start, weakest and strongest must satisfy 0 < start < weakest < strongest, got "
                f"{self.start}, {self.weakest} and {self.strongest}"
            )
        if not 0 < self.relative_step <= 0.25:
            raise ValueError(f"relative_step must be in (0, 0.25], got {self.relative_step}")
        if self.records < 20:
            raise ValueError(f"records must be at least 20, got {self.records}")
        if 0 not in self.imbalances or np.any(np.diff(self.imbalances) <= 0):
            raise ValueError(f"imbalances must increase and contain 0, got {self.imbalances}")
        if min(self.strong().sum(), self.strong(-1).sum()) < 2:
            raise ValueError(
                f"imbalances must have two of either sign of size {STRONG} * strongest or more, "
                f"got {self.imbalances}"
            )

    def strong(self, sign: int = 1) -> np.ndarray:
        """Which imbalances are far larger than the task, of the given sign."""
        return sign * np.array(self.imbalances) >= STRONG * self.strongest

    def widths(self, shape: int) -> tuple[int, int, int]:
        """Inputs, hidden units, outputs."""
        return (self.n_in if shape == FUNNEL else self.n_modes, self.n_modes, self.n_modes)

    @property
    def singular_values(self) -> np.ndarray:
        """Of every task."""
        return np.linspace(self.strongest, self.weakest, self.n_modes)

    @property
    def rates(self) -> np.ndarray:
        """Learning rate of every imbalance, on which ``FACTORS`` come."""
        curvature = balanced.largest_curvature(np.array(self.imbalances), self.strongest)
        return self.relative_step / curvature

    @property
    def schedule(self) -> np.ndarray:
        """Recorded steps of the largest of the learning rates, logarithmic."""
        light = modes.two_layer_mode_weights(self.weakest, np.array(self.imbalances))
        # angles of a heavy layer shrink at half the rate at which the weakest mode is learned
        horizon = SETTLED / np.minimum(*light)
        steps = int(np.ceil(np.max(horizon / (FACTORS[0] * self.rates))))
        return record_schedule(steps, self.records, spacing="log")

    @property
    def times(self) -> np.ndarray:
        """Recorded times of every imbalance, (imbalances, records)."""
        return self.schedule[None, :] * FACTORS[0] * self.rates[:, None]


@cache
def problems(config: Config) -> tuple[Problem, Problem, jax.Array]:
    """Tasks and initial weights of both shapes, and the funnel's second task."""
    key, s = jax.random.key(config.problem_seed), config.singular_values
    square, funnel, second = jax.random.split(key, 3)

    def draw(key, shape):
        widths = config.widths(shape)
        return balanced.problem(key, widths, s, config.imbalances, config.start)

    later = balanced.random_task(second, config.n_in, config.n_modes, s)
    return draw(square, SQUARE), draw(funnel, FUNNEL), later


def predict(config: Config) -> Arrays:
    """Closed forms over time (shapes, imbalances, records), in the end, and after the switch."""
    *shapes, later = problems(config)
    lam, times = np.array(config.imbalances), config.times
    fine, records = riccati_paths.fine_times(times[:, -1]), config.records
    both = np.concatenate([times, fine], axis=1)
    found, ends = [], []
    for problem in shapes:
        start = riccati_paths.stack(problem.weights)
        Q = riccati_paths.path(start, problem.task, lam, both)
        drift = riccati_paths.imbalance_drift(Q[:, records:], problem.task, fine)
        found.append(riccati_paths.observe(Q[:, :records], problem.task) | {"drift": drift})
        ends.append(Q[:, records - 1])
    after = riccati_paths.path(ends[FUNNEL], later, lam, both)[:, :records]
    curves = jax.tree.map(lambda *arrays: np.stack(arrays), *found)
    between = np.linspace(lam[0], lam[-1], CURVE_POINTS)
    return curves | {
        "layers": riccati_paths.final_layers(config.singular_values, lam),
        "curve_imbalances": between,
        "curve_layers": riccati_paths.final_layers(config.singular_values, between),
        "switch_loss": riccati_paths.observe(after, later)["loss"],
        "times": times,
        "imbalances": lam,
        "relative_step": config.relative_step,
        "frozen_exponent": np.full(3, -2.0),
        "turning_exponent": 1.0,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train both shapes, and the funnel on a second task from where the first has taken it.

    Records have axes (learning rates, shapes, imbalances, records).
    """
    *shapes, later = problems(config)
    found = []
    for shape, problem in enumerate(shapes):
        data_key, basis_key = jax.random.split(jax.random.fold_in(key, shape))
        starts = [balanced.hidden_rotation(basis_key, problem.weights)] * len(FACTORS)
        x = balanced.white_inputs(data_key, config.examples, problem.task.shape[1])
        records, ends = balanced.train_and_observe(
            f"shape_{shape}", starts, (x, problem.task), config.rates, config.schedule, sweep
        )
        found.append(records)
    after, _ = balanced.train_and_observe(
        "second_task", ends, (x, later), config.rates, config.schedule, sweep
    )
    curves = jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *found)
    return curves | {
        "switch_loss": after["loss"],
        "times": config.times,
        "imbalances": np.array(config.imbalances),
        "positive": config.strong(),
        "negative": config.strong(-1),
    }


def losses(found: Arrays) -> np.ndarray:
    """Over time in both shapes, then on the second task: (..., networks, records)."""
    first, second = found["loss"], found["switch_loss"]
    shape = (*second.shape[:-2], -1, second.shape[-1])
    return np.concatenate([first.reshape(shape), second], axis=-2)


def heavy_change(found: Arrays) -> np.ndarray:
    """Relative change of the heavier layer's Gram matrix, (shapes, imbalances, records)."""
    first, second = (without_step_error(found[f"{layer}_change"]) for layer in ("first", "second"))
    return np.where((found["imbalances"] > 0)[None, :, None], second, first)


def frozen_exponents(found: Arrays) -> np.ndarray:
    """Powers of |lambda| of the heavy layer's change, where it is square."""
    change = heavy_change(found)[..., -1]
    cases = ((SQUARE, "positive"), (SQUARE, "negative"), (FUNNEL, "positive"))
    return np.array(
        [
            fitted_exponent(np.abs(found["imbalances"])[found[sign]], change[shape][found[sign]])
            for shape, sign in cases
        ]
    )


def turning_exponent(found: Arrays) -> float:
    """Power of |lambda| of the time at which a heavy layer that is not square has half turned."""
    change = heavy_change(found)[FUNNEL][found["negative"]]
    times = found["times"][found["negative"]]
    half = [
        np.exp(np.interp(x[-1] / 2, x[1:], np.log(t[1:])))
        for t, x in zip(times, change, strict=True)
    ]
    return fitted_exponent(-found["imbalances"][found["negative"]], np.array(half))


def third_order(predicted: Arrays) -> float:
    """What is left of an error once the first two orders of the learning rate are removed."""
    return float(FACTORS[0] * predicted["relative_step"]) ** 3


CLAIMS = (
    Claim(
        "loss over time, on the first task and on the second",
        predicted=losses,
        measured=lambda m: without_step_error(losses(m)),
        tolerance=lambda p, m: third_order(p) * losses(p).max(),
        because="extrapolated to zero learning rate without its first and second order; relative "
        "to the largest loss",
        error="absolute",
    ),
    Claim(
        "order of the error of finite steps",
        predicted=lambda p: 1.0,
        measured=lambda m: np.median(order_of_error(losses(m).mean(axis=-1))),
        tolerance=lambda p, m: FACTORS[0] * p["relative_step"],
        because="gradient descent errs by O(eta); the next order adds a multiple of eta K, which "
        "is at most what it is at the largest rate",
        error="absolute",
    ),
    Claim(
        "alignment of the tangent kernel with that at the start, over time",
        predicted=lambda p: p["alignment"],
        measured=lambda m: without_step_error(m["alignment"]),
        tolerance=lambda p, m: third_order(p),
        because="extrapolated to zero learning rate without its first and second order; the "
        "inputs are white to rounding",
    ),
    Claim(
        "squared weights of both layers along the modes in the end",
        predicted=lambda p: p["layers"],
        measured=lambda m: without_step_error(m["layers"][..., -1, :, :]),
        tolerance=lambda p, m: third_order(p) + np.exp(-SETTLED),
        because="extrapolated to zero learning rate; what is left to learn is less than e^-12",
    ),
    Claim(
        "drift of the imbalance over the learning rate",
        predicted=lambda p: p["drift"],
        measured=lambda m: without_step_error(m["drift"]),
        tolerance=lambda p, m: third_order(p) * np.abs(p["drift"]).max(),
        because="flow conserves it and descent adds up second orders: their sum over steps is an "
        "integral over the flow's path as the learning rate goes to zero",
        error="absolute",
    ),
    Claim(
        "power of lambda by which a square heavy layer changes less",
        predicted=lambda p: p["frozen_exponent"],
        measured=frozen_exponents,
        tolerance=2 / STRONG**2,
        because="x = (s/lambda)^2 is the first term of (sqrt(1 + 4 x) - 1)/2; the second moves "
        "the power by less than 2 x",
        error="absolute",
    ),
    Claim(
        "power of lambda by which a heavy layer that is not square turns later",
        predicted=lambda p: p["turning_exponent"],
        measured=turning_exponent,
        tolerance=2 / STRONG**2,
        because="its angle to the task shrinks at the rate sqrt(s^2 + (lambda/2)^2) - |lambda|/2, "
        "which is s^2/|lambda| up to a relative x = (s/lambda)^2; that moves the power by 2 x",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="domine2024_balanced",
    source=papers.domine2024("lambda-balanced networks, from rich to lazy"),
    statement="Large imbalance is lazy if the heavy layer is square, else lazy first and rich "
    "later; closed forms of loss and tangent kernel hold for every imbalance, task after task.",
    equations=(
        r"W_2^\top W_2 - W_1 W_1^\top = \lambda I",
        r"\tau \dot P = FP + PF - P^2, \quad P = QQ^\top, \quad Q^\top = [W_1, W_2^\top]",
        r"F = \begin{pmatrix} -\frac\lambda2 I & \Sigma_{yx}^\top \\ \Sigma_{yx} & "
        r"\frac\lambda2 I \end{pmatrix}",
        r"W_2W_2^\top = \frac\lambda2 I + \sqrt{DD^\top + \frac{\lambda^2}{4}I}"
        r" \quad (D = W_2W_1,\; N_h = N_o)",
    ),
    quick=Config(),
    full=Config(
        n_modes=8,
        n_in=16,
        examples=32,
        imbalances=(-24, -12, -6, -3, -1.5, -0.75, 0, 0.75, 1.5, 3, 6, 12, 24),
        relative_step=0.02,
        records=100,
    ),
    cost=(15, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
