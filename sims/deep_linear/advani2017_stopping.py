"""Early stopping against ridge regression and training to the end, for students of noisy teachers.

Advani & Saxe (2017): stopped at the best time, gradient descent generalizes nearly as well as the
best ridge regression, and has no peak where there are as many examples as inputs; the best time
grows with the logarithm of the signal-to-noise ratio, but linearly at alpha = 1. All parameters are
ours. Ridge regression and the end of training (the least-squares solution of least norm) are solved
directly, on the very data sets that students are trained on.
"""

from dataclasses import dataclass

import jax
import numpy as np

from sims import papers
from sims.deep_linear.noisy_teachers import (
    Students,
    lowest,
    sample,
    solve_ridge,
    step_error,
    student,
)
from sims.experiment import Arrays, Claim, Experiment
from sims.rates import jackknife, standard_error
from sims.sweep import sweep
from theory.deep_linear import generalization as theory

PENALTIES = 2.0 ** np.linspace(-2, 2, 9)  # over the best one, noise_var / signal_var
HORIZON = 2.0  # end of training over the latest predicted stopping time


@dataclass(frozen=True)
class Config(Students):
    """Signal variance 1, noise variance 1/snr, zero initial weights; the figure shows one snr."""

    alphas: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    snrs: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for alpha in self.alphas:
            self.examples(alpha)
        if not self.snrs or min(self.snrs) <= 0:
            raise ValueError(f"snrs must be positive, got {self.snrs}")

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
        **lines(config),
    }


def lines(config: Config) -> Arrays:
    """The predictions in between: errors over alpha (alphas, settings), times over snr."""
    snrs = np.geomspace(min(config.snrs), max(config.snrs), 41)
    alphas = np.geomspace(0.9 * min(config.alphas), 1.1 * max(config.alphas), 120)
    signal, init, noise = config.variances.T[:, None, :]
    return {
        "line_snrs": snrs,
        "line_times": theory.optimal_stopping_time(
            np.array(config.alphas)[:, None], 1.0, 0.0, 1 / snrs[None]
        ),
        "line_alphas": alphas,
        "line_final": theory.final_generalization_error(alphas[:, None], signal, init, noise),
        "line_stopped": theory.optimal_stopping_error(alphas[:, None], signal, init, noise),
        "line_ridge": theory.optimal_ridge_error(alphas[:, None], signal, noise),
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train students at every alpha, and solve what they would learn otherwise."""
    network, found = student(config, len(config.snrs)), []
    for index, alpha in enumerate(config.alphas):
        cases = sample(jax.random.fold_in(key, index), config, alpha, config.variances)
        steps = config.schedule(alpha, config.horizon(alpha))
        run = sweep(f"alpha_{alpha:g}", network, cases, record_at=steps)
        noise_vars = config.variances[:, 2]
        ridge = [solve_ridge(cases, factor * noise_vars) for factor in PENALTIES]
        found.append(
            {
                "times": steps * config.learning_rate(alpha),
                "stopped": run.records["generalization"],
                "ridge": np.stack(ridge, axis=1),
                "final": solve_ridge(cases, 0 * noise_vars),
            }
        )
    stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    return stacked | {"alphas": np.array(config.alphas)}


def stopped(m: Arrays, which: int) -> np.ndarray:
    """Best times (0) or least errors (1) of the mean over data sets, (alphas, settings)."""
    curves = zip(m["times"], m["stopped"].mean(axis=1), strict=True)
    return np.stack([lowest(t[1:], curve[1:])[which] for t, curve in curves])


def stopped_error(m: Arrays, which: int) -> np.ndarray:
    """Their standard errors."""
    return np.stack(
        [
            jackknife(lambda curve, t=t: lowest(t[1:], curve[1:])[which], curves)
            for t, curves in zip(m["times"], m["stopped"], strict=True)
        ]
    )


def best_penalty(ridge: np.ndarray) -> np.ndarray:
    """Ridge penalties of least error, over the one predicted, from errors (penalties, settings)."""
    return lowest(PENALTIES, ridge)[0]


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
        tolerance=lambda p, m: (
            (4 * stopped_error(m, 1) + p["stopped_step"]) / p["stopped"] + 1 / p["inputs"]
        ),
        because="4 standard errors over data sets; each mode's time advanced by finite steps; a "
        "relative finite-size bias below 1/N",
    ),
    Claim(
        "time of the least generalization error",
        predicted=lambda p: p["stopping_time"],
        measured=lambda m: stopped(m, 0),
        tolerance=lambda p, m: (
            4 * stopped_error(m, 0) / p["stopping_time"] + p["stopping_time_step"] + 1 / p["inputs"]
        ),
        because="as above",
    ),
    Claim(
        "generalization error of ridge regression",
        predicted=lambda p: p["ridge"].swapaxes(0, 1),
        measured=lambda m: m["ridge"].mean(axis=1),
        tolerance=lambda p, m: (
            4
            * np.stack([standard_error(errors) for errors in m["ridge"]])
            / p["ridge"].swapaxes(0, 1)
            + 1 / p["inputs"]
        ),
        because="4 standard errors over data sets, and a relative finite-size bias below 1/N",
    ),
    Claim(
        "best ridge penalty over noise_var / signal_var",
        predicted=lambda p: 1.0,
        measured=lambda m: np.stack([best_penalty(errors.mean(axis=0)) for errors in m["ridge"]]),
        tolerance=lambda p, m: (
            0.05 + 4 * np.stack([jackknife(best_penalty, errors) for errors in m["ridge"]])
        ),
        because="4 standard errors over data sets; a parabola through factors of the root of two",
    ),
    Claim(
        "generalization error at the end of training",
        predicted=lambda p: p["final"][p["alphas"] != 1],
        measured=lambda m: m["final"][m["alphas"] != 1].mean(axis=1),
        tolerance=lambda p, m: final_tolerance(p, m),
        because="4 standard errors over data sets, and a relative finite-size bias below "
        "1/(N |alpha - 1|), the mean of an inverse Wishart matrix; alpha = 1 has no mean",
    ),
)

EXPERIMENT = Experiment(
    name="advani2017_stopping",
    source=papers.advani2017(
        "early stopping against ridge regression; stopping time against signal-to-noise ratio"
    ),
    statement="Stopped in time, gradient descent does as well as ridge regression and has no peak.",
    equations=(
        r"t^*_\lambda = \frac{1}{\lambda}\ln\left(1+\lambda\,\mathrm{SNR}\right), \qquad "
        r"E_{\mathrm{ridge}} = \sigma_\epsilon^2\left[1 + m(-1/\mathrm{SNR})\right]",
        r"E_g(\infty) = \sigma_\epsilon^2\frac{\alpha}{\alpha-1}\ (\alpha>1), \qquad "
        r"(1-\alpha)\sigma_w^2 + \frac{\sigma_\epsilon^2}{1-\alpha}\ (\alpha<1)",
    ),
    quick=Config(),
    full=Config(inputs=128, data_sets=64, teachers=16, relative_step=0.05),
    cost=(15, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
