"""Linear students of noisy teachers: random data sets, and gradient descent on each of them.

A teacher ``y = wbar . x + eps`` labels P = alpha N examples with N inputs,

    x_i ~ N(0, 1/N), wbar_i ~ N(0, signal_var), eps ~ N(0, noise_var), w_i(0) ~ N(0, init_var),

and a student descends the gradient of 1/2 |y - X w|^2, summed over examples: t = eta * steps. The
outputs of a linear network learn independently of one another, so that one network of many outputs
is many students on the same inputs: here ``teachers`` of every setting, a setting being one triple
(signal_var, init_var, noise_var). Errors are mean squared errors, without the loss's factor 1/2;
E_g, over fresh noisy examples, is evaluated exactly from the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from sims.processes import generator, training_process
from sims.sweep import Process
from theory.deep_linear.marchenko_pastur import marchenko_pastur_edges

RECORDS = 81


@dataclass(frozen=True)
class Students:
    """Sizes of a simulation; ``relative_step`` is eta times the largest eigenvalue of X^T X."""

    inputs: int = 48
    data_sets: int = 32
    teachers: int = 8
    relative_step: float = 0.1

    def __post_init__(self) -> None:
        if self.data_sets < 2:
            raise ValueError(f"data_sets must be at least 2, got {self.data_sets}")
        if self.teachers < 1:
            raise ValueError(f"teachers must be at least 1, got {self.teachers}")
        if not 0 < self.relative_step < 1:
            raise ValueError(f"relative_step must be between 0 and 1, got {self.relative_step}")

    def examples(self, alpha: float) -> int:
        """P = alpha N. Raises ``ValueError`` where that is not a whole number."""
        count = Fraction(alpha) * self.inputs
        if count < 1 or count.denominator != 1:
            raise ValueError(
                f"alpha * inputs must be a whole number of examples, got {alpha} * {self.inputs}"
            )
        return int(count)

    def learning_rate(self, alpha: float) -> float:
        """The eta at which the fastest mode's error shrinks by ``relative_step`` a step."""
        return self.relative_step / float(marchenko_pastur_edges(alpha)[1])

    def schedule(self, alpha: float, horizon: float) -> np.ndarray:
        """Steps at which errors are recorded, up to the time ``horizon``."""
        steps = int(np.ceil(horizon / self.learning_rate(alpha)))
        return record_schedule(max(steps, RECORDS), RECORDS, spacing="log")

    def times(self, alpha: float, horizon: float) -> np.ndarray:
        """The times of ``schedule``."""
        return self.schedule(alpha, horizon) * self.learning_rate(alpha)

    def speed_up(self, t: Any) -> Any:
        """By when gradient flow has moved any mode at least as far as gradient descent at t.

        A step of size eta shrinks the error of a mode by 1 - x, x = eta lam <= relative_step,
        where flow takes the time -ln(1 - x) / lam.
        """
        return -np.log1p(-self.relative_step) / self.relative_step * t


def sample(key: jax.Array, config: Students, alpha: float, variances: np.ndarray) -> dict[str, Any]:
    """Members of a sweep: one data set each, with all its teachers and students.

    variances: (settings, 3), columns signal_var, init_var, noise_var. Returns data (x, y) of
    shapes (data sets, examples, inputs) and (data sets, examples, outputs), teachers and initial
    weights of shape (data sets, outputs, inputs), the outputs being settings x teachers.
    """
    sets, examples, inputs = config.data_sets, config.examples(alpha), config.inputs
    signal, init, noise = np.repeat(np.sqrt(variances), config.teachers, axis=0).T[:, None, :]
    outputs, normal = signal.size, generator(key).standard_normal
    x = normal((sets, examples, inputs)) / np.sqrt(inputs)
    teacher = signal * normal((sets, inputs, outputs))
    y = x @ teacher + noise * normal((sets, examples, outputs))
    start = init * normal((sets, inputs, outputs))
    cases = {"data": (x, y), "teacher": teacher.swapaxes(1, 2), "start": start.swapaxes(1, 2)}
    return jax.tree.map(lambda array: jnp.asarray(array, float), cases) | {
        "key": jnp.broadcast_to(key, sets),
        "learning_rate": jnp.full(sets, config.learning_rate(alpha)),
        "noise_var": jnp.tile(jnp.asarray(variances[:, 2], float), (sets, 1)),
    }


def generalization(weights: Any, case: dict[str, Any]) -> Any:
    """E_g of every setting, (..., settings), of weights (..., outputs, inputs); over teachers."""
    excess = ((weights - case["teacher"]) ** 2).mean(axis=-1)
    settings = case["noise_var"].shape
    return excess.reshape(*settings, -1).mean(axis=-1) + case["noise_var"]


def student(config: Students, settings: int) -> Process:
    """A network trained on a data set of its own, ``generalization`` and ``training`` observed."""
    model = models.deep_linear((config.inputs, settings * config.teachers))

    def observe(params, case):
        x, y = case["data"]
        residual = ((y - model.apply(params, x)) ** 2).mean(axis=0)
        return {
            "generalization": generalization(params[0], case),
            "training": residual.reshape(settings, -1).mean(axis=1),
        }

    def init(case, _):
        return (case["start"],)

    trained = training_process(init, half_squared_error(model.apply, examples="sum"), observe)
    return Process(
        trained.init,
        lambda k, state, case, _: trained.step(k, state, case, case),
        lambda state, case, _: trained.observe(state, case, case),
    )


def solve_ridge(case: dict[str, Any], penalties: Any) -> jax.Array:
    """E_g (data sets, settings) of the least 1/2 |y - X w|^2 + gamma/2 |w|^2, gamma by setting.

    Where gamma = 0 the solution of least norm, at which training from zero ends.
    """
    x, y = case["data"]
    transposed = x.swapaxes(1, 2)
    eigenvalues, modes = jnp.linalg.eigh(transposed @ x)
    overlap = modes.swapaxes(1, 2) @ (transposed @ y)
    gamma = jnp.repeat(jnp.asarray(penalties, x.dtype), y.shape[2] // len(penalties))
    rounding = x.shape[2] * jnp.finfo(x.dtype).eps * eigenvalues[:, -1:, None]
    spectrum = eigenvalues[:, :, None] + gamma[None, None, :]
    learned = jnp.where(spectrum > rounding, overlap / jnp.maximum(spectrum, rounding), 0)
    return generalization((modes @ learned).swapaxes(1, 2), case)


def step_error(
    error: Callable[..., Any], config: Students, t: Any, alpha: float, variances: np.ndarray
) -> np.ndarray:
    """Bound on how far finite steps move ``error(t, alpha, signal_var, init_var, noise_var)``.

    Unlearned signal only falls and fitted noise only rises (or falls) with time, in every mode,
    and each mode is ahead of gradient flow by at most ``speed_up``. Shape (times, settings).
    """
    early, late = t[:, None], config.speed_up(t)[:, None]
    total = np.zeros((len(t), len(variances)))
    for part in ([1, 1, 0], [0, 0, 1]):
        signal, init, noise = (variances * part).T[:, None, :]
        moved = error(late, alpha, signal, init, noise) - error(early, alpha, signal, init, noise)
        total += np.abs(np.asarray(moved))
    return total


def finite_size_errors(key: jax.Array, sizes: Any, count: int, groups: int = 20) -> np.ndarray:
    """Final E_g over noise_var with ``sizes`` inputs and twice the examples, (groups, sizes).

    The average over noise is exact, 1 + tr (X^T X)^{-1} / N. A mean in the last column is over
    ``count`` data sets, and in the others over such that all columns take as many numbers.
    """
    found, normal = [], generator(key).standard_normal
    for size in sizes:
        x = normal((groups * count * (sizes[-1] // size) ** 2, 2 * size, size))
        inverse = np.linalg.inv(x.transpose(0, 2, 1) @ x)  # of N X^T X
        errors = 1 + np.trace(inverse, axis1=1, axis2=2)
        found.append(errors.reshape(groups, -1).mean(axis=1))
    return np.stack(found, axis=1)


def lowest(x: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Where the curves (x, ...) are lowest, and how low: parabolas in ln x through three points."""
    best = np.clip(curves.argmin(axis=0), 1, len(x) - 2)
    at = best + np.arange(-1, 2).reshape(-1, *[1] * best.ndim)
    (u0, u1, u2), (y0, y1, y2) = np.log(x)[at], np.take_along_axis(curves, at, axis=0)
    left, right = (y1 - y0) / (u1 - u0), (y2 - y1) / (u2 - u1)
    bend = (right - left) / (u2 - u0)
    where = (u0 + u1) / 2 - left / (2 * bend)
    return np.stack([np.exp(where), y0 + (where - u0) * (left + bend * (where - u1))])
