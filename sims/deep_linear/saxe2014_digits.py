"""The same sigmoids on real data: handwritten digits, whitened and as they are.

A two-layer linear network with small random weights learns to tell ten digits apart (scikit-learn's
8 x 8 images; any ``.npz`` with arrays x and y by ``data=path``). With whitened inputs the theory is
exact in the modes of ``sigma_yx``. With raw inputs it holds where those modes are also eigenvectors
of ``sigma_xx``, which Saxe, McClelland & Ganguli (2014) found approximately true of MNIST: here the
measured ``inconsistency`` says how far it is from true.

The data set, sizes, learning rates and initial weights are ours. Inputs and targets are centred,
correlations are means over examples, time is eta * step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from dynamics.representation import first_crossing, mode_strengths
from sims import data, papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys, training_process
from sims.sweep import Process, sweep
from theory.deep_linear import modes
from theory.deep_linear.small_initialization import (
    effective_initial_strength,
    log_strength_variance,
)

INPUTS = ("whitened", "raw")
RECORDS = 201
HORIZON = 1.5  # end of training over the slowest predicted half-learning time
MANY = 20  # modes at most
FAINT = 1e-2  # modes below this fraction of the first would need 100 times as many steps


@dataclass(frozen=True)
class Config:
    """``relative_step`` is the learning rate times the largest input variance and the largest
    target s / lam: at 1 gradient descent would leave the solution of that mode. ``relative_start``
    is the effective initial strength over the smallest target. ``examples = 0`` takes all."""

    data: str = "digits"
    examples: int = 300
    n_hidden: int = 64
    relative_step: float = 0.05
    relative_start: float = 1e-3
    seeds: int = 4

    def __post_init__(self) -> None:
        for name in ("n_hidden", "relative_step", "relative_start", "seeds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Problem(NamedTuple):
    """Data, modes of sigma_yx (vectors as columns), input variances lam, and how consistent."""

    data: data.Dataset
    left: np.ndarray
    singular_values: np.ndarray
    right: np.ndarray
    lam: np.ndarray
    inconsistency: np.ndarray
    learning_rate: float
    weight_variance: float


def problem(config: Config, inputs: str) -> Problem:
    """The task as the network meets it, whitened or raw.

    The inconsistency of a mode is ``|sigma_xx v - lam v| / lam``: zero if its right singular
    vector v is an eigenvector of the inputs' correlation.
    """
    found = data.center(data.load(config.data, config.examples))
    found = data.whiten(found) if inputs == "whitened" else found
    sigma_xx, sigma_yx = data.correlations(found)
    if not np.any(np.abs(sigma_yx) > 0):
        raise ValueError(f"x and y of data={config.data!r} must be correlated, got sigma_yx = 0")
    left, s, right = np.linalg.svd(sigma_yx, full_matrices=False)
    kept = np.flatnonzero(s > FAINT * s[0])[:MANY]
    left, s, right = left[:, kept], s[kept], right[kept].T
    lam = np.einsum("im,ij,jm->m", right, sigma_xx, right)
    residual = np.linalg.norm(sigma_xx @ right - right * lam, axis=0)
    edge = np.linalg.eigvalsh(sigma_xx)[-1] * np.max(s / lam)
    variance = 2 * config.relative_start * np.min(s / lam) / config.n_hidden
    rate = config.relative_step / edge
    return Problem(found, left, s, right, lam, residual / lam, rate, variance)


def sigmoids(config: Config, task: Problem) -> dict[str, Any]:
    """Predicted strengths (records, modes) and half-learning times, with their spread, in steps."""
    s, lam, ranks = task.singular_values, task.lam, np.arange(len(task.lam))
    variance = task.weight_variance
    start = effective_initial_strength(variance, variance, config.n_hidden, ranks)
    tau = 1 / (task.learning_rate * lam)
    half = modes.half_learning_time(s / lam, start, 2, tau)
    steps = record_schedule(int(HORIZON * half.max()), RECORDS)
    spread = jnp.sqrt(log_strength_variance(config.n_hidden, ranks)) * tau * lam / (2 * s)
    strengths = modes.two_layer_mode_strength(
        steps[:, None], (s / lam)[None], start[None], tau=tau[None]
    )
    return {
        "steps": steps,
        "strengths": strengths,
        "half_steps": half,
        "half_steps_spread": spread,
    }


def predict(config: Config) -> Arrays:
    """Per kind of inputs: sigmoids, half-learning times with their spread, and what bounds them."""
    found = {}
    for inputs in INPUTS:
        task = problem(config, inputs)
        arrays = sigmoids(config, task) | {
            "singular_values": task.singular_values,
            "targets": task.singular_values / task.lam,
            "inconsistency": task.inconsistency,
            "step_size": task.learning_rate * task.singular_values,
        }
        found |= {f"{name}_{inputs}": array for name, array in arrays.items()}
    return found


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train linear networks from random weights on the examples themselves."""
    found = {}
    for inputs in INPUTS:
        task = problem(config, inputs)
        steps = np.asarray(sigmoids(config, task)["steps"])
        shared = {"data": tuple(task.data), "vectors": (task.left, task.right)}
        cases = {
            "key": seed_keys(key, config.seeds),
            "learning_rate": jnp.full(config.seeds, task.learning_rate),
        }
        run = sweep(inputs, network(config, task), cases, shared, record_at=steps)
        strengths, target = run.records["strengths"], task.singular_values / task.lam
        found[f"strengths_{inputs}"] = strengths
        found[f"half_steps_{inputs}"] = first_crossing(steps, strengths, target / 2)
    return found


def network(config: Config, task: Problem) -> Process:
    """A linear network from small Gaussian weights, observed in the modes of the task."""
    widths = (task.data.x.shape[1], config.n_hidden, task.data.y.shape[1])
    model = models.deep_linear(widths)  # N(0, 1/fan-in)
    variance = task.weight_variance

    def init(case, shared):
        return jax.tree.map(lambda w: np.sqrt(variance * w.shape[1]) * w, model.init(case["key"]))

    def observe(params, shared):
        left, right = shared["vectors"]
        return {"strengths": mode_strengths(models.end_to_end(params), left, right)}

    return training_process(init, half_squared_error(model.apply, examples="mean"), observe)


def timing_tolerance(p: Arrays, m: Arrays, inputs: str) -> np.ndarray:
    """Relative error allowed to mean half-learning times."""
    seeds = len(m[f"strengths_{inputs}"])
    sampling = 4 * p[f"half_steps_spread_{inputs}"] / np.sqrt(seeds) / p[f"half_steps_{inputs}"]
    return p[f"step_size_{inputs}"] / 2 + sampling


def inconsistency_delay(p: Arrays) -> np.ndarray:
    """Relative error of half-learning times from modes that are not eigenvectors of the inputs."""
    e_fold = 1 / (2 * p["step_size_raw"])
    return p["inconsistency_raw"] ** 2 * e_fold / p["half_steps_raw"]


CLAIMS = (
    Claim(
        "half-learning times on whitened inputs",
        predicted=lambda p: p["half_steps_whitened"],
        measured=lambda m: m["half_steps_whitened"].mean(axis=0),
        tolerance=lambda p, m: timing_tolerance(p, m, "whitened"),
        because="eta s / 2 for finite steps, and 4 standard errors over seeds",
    ),
    Claim(
        "half-learning times on raw inputs",
        predicted=lambda p: p["half_steps_raw"],
        measured=lambda m: m["half_steps_raw"].mean(axis=0),
        tolerance=lambda p, m: timing_tolerance(p, m, "raw") + inconsistency_delay(p),
        because="as above, and the inconsistency squared, in e-folds of growth: to first order it "
        "moves other elements of U^T W V than the mode strengths",
    ),
)

EXPERIMENT = Experiment(
    name="saxe2014_digits",
    source=papers.saxe2014("mode trajectories, on real data"),
    statement="Digits are learned mode by mode at the predicted times, whitened and raw.",
    equations=(
        r"\Sigma_{yx} = U\,\mathrm{diag}(s)\,V^{\top}",
        r"\lambda = v^{\top}\Sigma_{xx}v",
        r"\tau \dot u = 2u(s-\lambda u)",
        r"t_{1/2} = \frac{\tau}{2s}\ln\frac{s-\lambda u_0}{\lambda u_0}",
    ),
    quick=Config(),
    full=Config(examples=0, seeds=16, relative_step=0.02),
    cost=(7, 300),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
