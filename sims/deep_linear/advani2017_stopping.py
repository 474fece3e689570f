"""Early stopping against ridge regression and training to the end, for students of noisy teachers.

Advani & Saxe (2017): stopped at the best time, gradient descent generalizes nearly as well as the
best ridge regression, and has no peak where there are as many examples as inputs; the best time
grows with the logarithm of the signal-to-noise ratio, but linearly at alpha = 1. All parameters are
ours. Ridge regression and the end of training (the least-squares solution of least norm) are solved
directly, on the very data sets that students are trained on.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sims.deep_linear.noisy_teachers import (
    Students,
    generalization,
    generator,
    jackknife,
    sample,
    standard_error,
    step_error,
    student,
)
from sims.experiment import Arrays, Claim, Experiment, Source
from sims.rates import fitted_exponent
from sims.sweep import sweep
from theory.deep_linear import generalization as theory

PENALTIES = 2.0 ** np.linspace(-2, 2, 9)  # over the best one, noise_var / signal_var
HORIZON = 2.0  # end of training over the latest predicted stopping time
SIZES = 2 ** np.arange(3, 6)  # numbers of inputs of the smaller data sets, two examples each
GROUPS = 20  # of smaller data sets, for standard errors


@dataclass(frozen=True)
class Config(Students):
    """Signal variance 1, noise variance 1/snr, zero initial weights; the figure shows one snr."""

    alphas: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    snrs: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    small_data_sets: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        for alpha in self.alphas:
            self.examples(alpha)
        if not self.snrs or min(self.snrs) <= 0:
            raise ValueError(f"snrs must be positive, got {self.snrs}")
        if self.small_data_sets % GROUPS or self.small_data_sets < 1:
            raise ValueError(
                f"small_data_sets must be a multiple of {GROUPS}, got {self.small_data_sets}"
            )

    @property
    def variances(self) -> np.ndarray:
        """Of signal, initial weights and noise, (settings, 3)."""
        return np.array([(1.0, 0.0, 1 / snr) for snr in self.snrs])

    def horizon(self, alpha: float) -> float:
        """When training ends."""
        return HORIZON * float(theory.optimal_stopping_time(alpha, 1, 0, 1 / max(self.snrs)))


def predict(config: Config) -> Arrays:
    """Least, ridge and final errors and best times, (alphas, settings), and what bounds them."""
    alphas = np.array(config.alphas)[:, None]
    signal, init, noise = config.variances.T[:, None, :]
    stopping_time = np.asarray(theory.optimal_stopping_time(alphas, signal, init, noise))
    step = [
        np.diagonal(step_error(theory.generalization_error, config, t, alpha, config.variances))
        for t, alpha in zip(stopping_time, config.alphas, strict=True)
    ]
    penalty = PENALTIES[:, None, None] * (noise / signal)[None]
    return {
        "alphas": alphas[:, 0],
        "snrs": np.array(config.snrs),
        "inputs": config.inputs,
        "stopping_time": stopping_time,
        "stopping_time_step": config.speed_up(1.0) - 1,
        "stopped": theory.optimal_stopping_error(alphas, signal, init, noise),
        "stopped_step": np.stack(step),
        "penalty": noise / signal,
        "ridge": theory.ridge_error(penalty, alphas[None], signal[None], noise[None]),
        "final": theory.final_generalization_error(alphas, signal, init, noise),
        "size_exponent": -1.0,
        "sizes": SIZES,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train students at every alpha, solve what they would learn otherwise, vary their number."""
    network, found = student(config, len(config.snrs)), []
    for index, alpha in enumerate(config.alphas):
        cases = sample(jax.random.fold_in(key, index), config, alpha, config.variances)
        steps = config.schedule(alpha, config.horizon(alpha))
        run = sweep(f"alpha_{alpha:g}", network, cases, record_at=steps)
        times = steps * config.learning_rate(alpha)
        found.append({"times": times, "stopped": run.records["generalization"]} | solve(config, cases))
    sizes = finite_size_errors(jax.random.fold_in(key, len(config.alphas)), config)
    found = {name: np.stack([one[name] for one in found]) for name in found[0]}
    return found | {"alphas": np.array(config.alphas), "size_errors": sizes}


def solve(config: Config, cases: dict[str, Any]) -> dict[str, jax.Array]:
    """Errors of ridge regression (data sets, penalties, settings) and of the end of training."""
    x, y = cases["data"]
    transposed = x.swapaxes(1, 2)
    eigenvalues, modes = jnp.linalg.eigh(transposed @ x)
    overlap = modes.swapaxes(1, 2) @ (transposed @ y)
    eigenvalues = eigenvalues[:, :, None]

    def error(inverse):
        return generalization((modes @ (inverse * overlap)).swapaxes(1, 2), cases)

    noise = np.repeat(1 / np.array(config.snrs), config.teachers)[None, None, :]
    ridge = [error(1 / (eigenvalues + factor * noise)) for factor in PENALTIES]
    empty = eigenvalues < config.inputs * jnp.finfo(x.dtype).eps * eigenvalues[:, -1:]
    final = error(jnp.where(empty, 0, 1 / jnp.where(empty, 1, eigenvalues)))
    return {"ridge": jnp.stack(ridge, axis=1), "final": final}


def finite_size_errors(key: jax.Array, config: Config) -> np.ndarray:
    """Final E_g over noise_var in small data sets of two examples per input, (groups, sizes).

    The average over noise is exact, 1 + tr (X^T X)^{-1} / N; all sizes take as many numbers.
    """
    found, normal = [], generator(key).standard_normal
    for size in SIZES:
        count = config.small_data_sets * (SIZES[-1] // size) ** 2
        x = normal((count, 2 * size, size))
        inverse = np.linalg.inv(x.transpose(0, 2, 1) @ x)  # of N X^T X
        errors = 1 + np.trace(inverse, axis1=1, axis2=2)
        found.append(errors.reshape(GROUPS, -1).mean(axis=1))
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


def stopped(m: Arrays, which: int) -> np.ndarray:
    """Best stopping times (0) or least errors (1) of the mean over data sets, (alphas, settings)."""
    curves = zip(m["times"], m["stopped"].mean(axis=1), strict=True)
    return np.stack([lowest(t[1:], curve[1:])[which] for t, curve in curves])


def stopped_error(m: Arrays, which: int) -> np.ndarray:
    """Their standard errors."""
    return np.stack([
        jackknife(lambda curve, t=t: lowest(t[1:], curve[1:])[which], curves)
        for t, curves in zip(m["times"], m["stopped"], strict=True)
    ])


def best_penalty(ridge: np.ndarray) -> np.ndarray:
    """Ridge penalties of least error, over the one predicted, from errors (penalties, settings)."""
    return lowest(PENALTIES, ridge)[0]


def size_exponent(errors: np.ndarray) -> float:
    """Exponent of the finite-size bias, from what doubling the size changes."""
    return fitted_exponent(SIZES[:-1], np.diff(errors))


def final_tolerance(p: Arrays, m: Arrays) -> np.ndarray:
    """Relative error allowed to the error at the end of training, where alpha is not 1."""
    kept = p["alphas"] != 1
    sampling = np.stack([standard_error(errors) for errors in m["final"][kept]])
    bias = 1 / (p["inputs"] * np.abs(p["alphas"][kept] - 1))
    return 4 * sampling / p["final"][kept] + bias[:, None]


CLAIMS = (
    Claim(
        "least generalization error of a student",
        predicted=lambda p: p["stopped"],
        measured=lambda m: stopped(m, 1),
        tolerance=lambda p, m: (4 * stopped_error(m, 1) + p["stopped_step"]) / p["stopped"]
        + 1 / p["inputs"],
        because="4 standard errors over data sets; each mode's time advanced by finite steps; a "
        "relative finite-size bias below 1/N",
    ),
    Claim(
        "time of the least generalization error",
        predicted=lambda p: p["stopping_time"],
        measured=lambda m: stopped(m, 0),
        tolerance=lambda p, m: 4 * stopped_error(m, 0) / p["stopping_time"]
        + p["stopping_time_step"]
        + 1 / p["inputs"],
        because="as above",
    ),
    Claim(
        "generalization error of ridge regression",
        predicted=lambda p: p["ridge"].swapaxes(0, 1),
        measured=lambda m: m["ridge"].mean(axis=1),
        tolerance=lambda p, m: 4
        * np.stack([standard_error(errors) for errors in m["ridge"]])
        / p["ridge"].swapaxes(0, 1)
        + 1 / p["inputs"],
        because="4 standard errors over data sets, and a relative finite-size bias below 1/N",
    ),
    Claim(
        "best ridge penalty over noise_var / signal_var",
        predicted=lambda p: 1.0,
        measured=lambda m: np.stack([best_penalty(errors.mean(axis=0)) for errors in m["ridge"]]),
        tolerance=lambda p, m: 0.05
        + 4 * np.stack([jackknife(best_penalty, errors) for errors in m["ridge"]]),
        because="4 standard errors over data sets, and a parabola through factors of the root of two",
    ),
    Claim(
        "generalization error at the end of training",
        predicted=lambda p: p["final"][p["alphas"] != 1],
        measured=lambda m: m["final"][m["alphas"] != 1].mean(axis=1),
        tolerance=lambda p, m: final_tolerance(p, m),
        because="4 standard errors over data sets, and a relative finite-size bias below "
        "1/(N |alpha - 1|), the mean of an inverse Wishart matrix; alpha = 1 has no mean",
    ),
    Claim(
        "exponent of the finite-size bias at the end of training, alpha = 2",
        predicted=lambda p: p["size_exponent"],
        measured=lambda m: size_exponent(m["size_errors"].mean(axis=0)),
        tolerance=lambda p, m: 1.5 / SIZES[0] + 4 * jackknife(size_exponent, m["size_errors"]),
        because="4 standard errors over data sets; the next order, 1/N^2, adds about 1.2/N to it",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="advani2017_stopping",
    source=Source(
        "Advani & Saxe",
        2017,
        "High-dimensional dynamics of generalization error in neural networks",
        "1710.03667",
        "early stopping against ridge regression; stopping time against signal-to-noise ratio",
    ),
    statement="Stopped in time, gradient descent does as well as ridge regression and has no peak.",
    equations=(
        r"t^*_\lambda = \frac{1}{\lambda}\ln\left(1+\lambda\,\mathrm{SNR}\right), \qquad "
        r"E_{\mathrm{ridge}} = \sigma_\epsilon^2\left[1 + m(-1/\mathrm{SNR})\right]",
        r"E_g(\infty) = \sigma_\epsilon^2\frac{\alpha}{\alpha-1}\ (\alpha>1), \qquad "
        r"(1-\alpha)\sigma_w^2 + \frac{\sigma_\epsilon^2}{1-\alpha}\ (\alpha<1)",
    ),
    quick=Config(),
    full=Config(inputs=256, data_sets=64, teachers=16, relative_step=0.05, small_data_sets=10000),
    cost=(15, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
