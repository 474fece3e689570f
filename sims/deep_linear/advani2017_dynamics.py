"""Overtraining: generalization and training error over time of a student of few noisy examples.

Advani & Saxe (2017): with as many examples as weights (alpha = 1) noise is fitted without end; with
fewer, weights in the directions that the data lack stay as they began, and small initial weights
generalize better. The three alphas are recalled from the paper. Ours are: the variances of signal,
noise and initial weights, all sizes, and the students who have nothing but noise to learn, in whom
overtraining shows by itself.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sims import papers
from sims.deep_linear.noisy_teachers import (
    Students,
    finite_size_errors,
    sample,
    step_error,
    student,
)
from sims.experiment import Arrays, Claim, Experiment
from sims.rates import fitted_exponent, jackknife, standard_error
from sims.sweep import sweep
from theory.deep_linear import generalization

ALPHAS = np.array([0.5, 1.0, 2.0])  # examples per input
FEWER, EQUAL = 0, 1
FINITE = ALPHAS != 1.0  # where E_g has a limit
SIZES = 2 ** np.arange(3, 6)  # numbers of inputs of smaller data sets, two examples each
DOUBLINGS = 4.0 * 2.0 ** np.arange(5)  # times at which overtraining is measured


@dataclass(frozen=True)
class Config(Students):
    """Time is eta times steps on the loss summed over examples; signal variance 1."""

    noise_var: float = 0.5
    init_vars: tuple[float, ...] = (0.0, 1.0, 4.0)
    horizon: float = 64.0
    small_data_sets: int = 400  # of the largest of SIZES, in a group

    def __post_init__(self) -> None:
        super().__post_init__()
        for alpha in ALPHAS:
            self.examples(alpha)
        if not self.noise_var > 0:
            raise ValueError(f"noise_var must be positive, got {self.noise_var}")
        if not self.init_vars or min(self.init_vars) < 0 or max(self.init_vars) == 0:
            raise ValueError(f"init_vars must be >= 0 and one of them > 0, got {self.init_vars}")
        if self.horizon < DOUBLINGS[-1]:
            raise ValueError(f"horizon must be at least {DOUBLINGS[-1]}, got {self.horizon}")

    @property
    def variances(self) -> np.ndarray:
        """Of signal, initial weights and noise, (settings, 3); the last learn noise alone."""
        settings = [(1.0, init_var, self.noise_var) for init_var in self.init_vars]
        return np.array([*settings, (0.0, 0.0, self.noise_var)])


def predict(config: Config) -> Arrays:
    """Error curves (alphas, times, settings) with what finite steps may do to them, and limits."""
    signal, init, noise = config.variances.T
    curves: dict[str, list[Any]] = {}
    for alpha in ALPHAS:
        t = config.times(alpha, config.horizon)
        found = {"times": t}
        for name in ("generalization", "training"):
            error = getattr(generalization, f"{name}_error")
            found[name] = error(t[:, None], alpha, signal[None], init[None], noise[None])
            found[f"{name}_step"] = step_error(error, config, t, alpha, config.variances)
        for name, values in found.items():
            curves.setdefault(name, []).append(np.asarray(values))
    late = curves["times"][EQUAL][1:]
    final = generalization.final_generalization_error
    return {name: np.stack(values) for name, values in curves.items()} | {
        "inputs": config.inputs,
        "init_vars": np.array(config.init_vars),
        "final": final(ALPHAS[FINITE][:, None], signal[None], init[None], noise[None]),
        "frozen": generalization.frozen_error(ALPHAS[FEWER], signal[:-1], init[:-1]),
        "overtraining": generalization.overtraining_law(late, 0.0, 0.0, config.noise_var),
        "noise_var": config.noise_var,
        "overtraining_exponent": 0.5,
        "size_exponent": -1.0,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train all students on every data set; look where the data of fewer examples do not reach."""
    network, found = student(config, len(config.variances)), []
    for index, alpha in enumerate(ALPHAS):
        cases = sample(jax.random.fold_in(key, index), config, alpha, config.variances)
        steps = config.schedule(alpha, config.horizon)
        run = sweep(f"alpha_{alpha:g}", network, cases, record_at=steps)
        records = {"times": steps * config.learning_rate(alpha)} | run.records
        if index == FEWER:
            records |= unreached(config, cases, run.final.params[0])
        found.append(records)
    size_key = jax.random.fold_in(key, len(ALPHAS))
    curves = ("times", "generalization", "training")
    return (
        {name: np.stack([records[name] for records in found]) for name in curves}
        | {name: found[FEWER][name] for name in ("frozen", "kept")}
        | {"size_errors": finite_size_errors(size_key, SIZES, config.small_data_sets)}
    )


def unreached(config: Config, cases: dict[str, Any], weights: np.ndarray) -> Arrays:
    """In the null space of the data: squared errors, and final over initial size of weights.

    (data sets, settings) each: without the students of noise, and without those who began at zero.
    """
    x = np.asarray(cases["data"][0], float)
    null = np.eye(config.inputs) - np.linalg.pinv(x) @ x  # symmetric projectors

    def power(values):
        inside = ((np.asarray(values, float) @ null) ** 2).mean(axis=-1)
        return inside.reshape(len(x), -1, config.teachers).mean(axis=-1)

    start, moved = power(cases["start"]), power(weights)
    began = np.array(config.init_vars) > 0
    return {
        "frozen": power(weights - cases["teacher"])[:, :-1],
        "kept": (moved[:, :-1] / np.where(start > 0, start, 1)[:, :-1])[:, began],
    }


def overtraining_exponent(times: np.ndarray, error: np.ndarray) -> float:
    """Exponent of what E_g gains from t to 2t, which an additive constant does not change."""
    at = np.interp(np.log(DOUBLINGS), np.log(times[1:]), error[1:])
    return fitted_exponent(DOUBLINGS[:-1], np.diff(at))


def size_exponent(errors: np.ndarray) -> float:
    """Exponent of the finite-size bias, from what doubling the size changes."""
    return fitted_exponent(SIZES[:-1], np.diff(errors))


def curve_tolerance(p: Arrays, m: Arrays, name: str) -> np.ndarray:
    """Absolute error allowed to errors over time: sampled data, finite steps, finite size."""
    sampling = np.stack([standard_error(values) for values in m[name]])
    finite_size = (p[name] if name == "generalization" else p[name][:, :1]) / p["inputs"]
    return 4 * sampling + p[f"{name}_step"] + finite_size


CLAIMS = (
    Claim(
        "generalization error over time",
        predicted=lambda p: p["generalization"],
        measured=lambda m: m["generalization"].mean(axis=1),
        tolerance=lambda p, m: curve_tolerance(p, m, "generalization") / p["generalization"],
        because="4 standard errors over data sets; each mode's time advanced by finite steps; a "
        "relative finite-size bias below 1/N",
    ),
    Claim(
        "training error over time",
        predicted=lambda p: p["training"],
        measured=lambda m: m["training"].mean(axis=1),
        tolerance=lambda p, m: curve_tolerance(p, m, "training"),
        because="as above, but the bias relative to the error at the start, since the error "
        "itself may vanish; in units of the signal's variance",
        error="absolute",
    ),
    Claim(
        "generalization error at the end of training",
        predicted=lambda p: p["final"],
        measured=lambda m: m["generalization"][FINITE, :, -1].mean(axis=1),
        tolerance=lambda p, m: (
            4
            * np.stack([standard_error(e[:, -1]) for e in m["generalization"][FINITE]])
            / p["final"]
            + 1 / p["inputs"]
        ),
        because="4 standard errors over data sets, and a relative finite-size bias below 1/N (the "
        "mean of an inverse Wishart matrix); what is left to learn is less",
    ),
    Claim(
        "exponent of overtraining at alpha = 1",
        predicted=lambda p: p["overtraining_exponent"],
        measured=lambda m: overtraining_exponent(
            m["times"][EQUAL], m["generalization"][EQUAL, ..., -1].mean(axis=0)
        ),
        tolerance=lambda p, m: (
            0.03
            + 4
            * jackknife(
                lambda error: overtraining_exponent(m["times"][EQUAL], error),
                m["generalization"][EQUAL, ..., -1],
            )
        ),
        because="4 standard errors over data sets; corrections of order 1/t to the law",
        error="absolute",
    ),
    Claim(
        "error in the directions without data, alpha = 1/2",
        predicted=lambda p: p["frozen"],
        measured=lambda m: m["frozen"].mean(axis=0),
        tolerance=lambda p, m: 4 * standard_error(m["frozen"]) / p["frozen"],
        because="4 standard errors over data sets; it has no finite-size bias",
    ),
    Claim(
        "initial weights kept in the directions without data",
        predicted=lambda p: 1.0,
        measured=lambda m: m["kept"],
        tolerance=1e-4,
        because="nothing moves them but rounding, in single precision over thousands of steps",
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
    name="advani2017_dynamics",
    source=papers.advani2017("generalization and training error over time"),
    statement="Noise is fitted late, most at as many examples as inputs; what data lack stays.",
    equations=(
        r"E_g(t) = \int\!\rho(\lambda)\left[(\sigma_w^2+\sigma_0^2)e^{-2\lambda t}"
        r" + \sigma_\epsilon^2\,\frac{(1-e^{-\lambda t})^2}{\lambda}\right]d\lambda"
        r" + (1-\alpha)_+(\sigma_w^2+\sigma_0^2) + \sigma_\epsilon^2",
        r"\alpha = 1:\quad E_g(t) \simeq \sigma_\epsilon^2\,"
        r"\frac{2(2-\sqrt2)}{\sqrt\pi}\,\sqrt{t}",
    ),
    quick=Config(),
    full=Config(inputs=128, data_sets=64, teachers=16, relative_step=0.05),
    cost=(13, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
