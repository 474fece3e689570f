"""How fast the tangent kernel turns during training: rich and lazy, smooth and ReLU.

Fort et al. (2020) measure the distance S = 1 - cos between tangent kernels at two times and call
S(t, t + dt)/dt the kernel's velocity: high early in training, low later. What can be predicted of
it is predicted here, in four groups of networks, all trained on F = alpha (f - f_0) with squared
loss over alpha^2:

* **two-layer linear** networks on white inputs: the kernel's whole path in closed form, from rich
  to lazy, and with it its angular velocity;
* **smooth** (tanh) networks: S is of second order in dt, so that S/dt is no rate and the angular
  velocity sqrt(2 S)/dt is; on the lazy side it falls as 1/alpha, from mirrored starts as 1/alpha^2;
* **wide ReLU** networks at the start, on digits: S is of *first* order in dt, since units switch,
  and S/dt is a rate, for which there is a formula. The kernel's derivative as automatic
  differentiation has it, for which the slope of a step is zero, misses nearly all of the motion;
* the same ReLU network during **lazy training**: the formula with the residuals of the linearised
  network of infinite width gives S(0, t).

Beside them, without a claim: the ReLU network in rich training. It repeats the paper's picture,
fast early and slow later. All sizes, data and rates are our own; the paper trains deep
convolutional networks with stochastic gradients on images in colour, which we have not done.
"""

import jax
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.turning_networks import (
    FLOW_ERROR,
    HALVINGS,
    SWITCHING_STEP,
    TANH_ALPHAS,
    TANH_STEP,
    simulate_linear,
    simulate_relu,
    simulate_tanh,
)
from sims.kernels.turning_predictions import (
    LINEAR_ALPHAS,
    LINEAR_TIMES,
    Config,
    linear_paths,
    relu_predictions,
)
from sims.rates import fitted_exponent, jackknife, standard_error, without_step_error
from sims.sweep import sweep

FINITE_WIDTH = 30.0  # relative error of S, times the width: the kernel's own fluctuations
THIRD_ORDER = 1e-3


def predict(config: Config) -> Arrays:
    """Linear networks (starts, 2, alphas, times); ReLU networks at the start and in training."""
    return {
        "times": np.array(LINEAR_TIMES),
        "alphas": LINEAR_ALPHAS,
        **{
            name: values.reshape(config.starts, 2, len(LINEAR_ALPHAS), -1)
            for name, values in linear_paths(config).items()
        },
        "dt_exponents": np.array([2.0] + [1.0] * len(config.widths)),  # smooth; ReLU
        "alpha_exponents": np.array([-1.0, -2.0]),  # of random and of mirrored starts
        "chord_limit": 1.0,
        "flow_error": FLOW_ERROR,
        **relu_predictions(config),
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Flow of linear networks, training of tanh networks, ReLU networks before and in training."""
    linear, tanh, relu = jax.random.split(key, 3)
    return {
        **simulate_linear(config, linear),
        **simulate_tanh(config, tanh, sweep),
        **simulate_relu(config, relu, sweep),
    }


def linear_path(found: Arrays) -> np.ndarray:
    """Angular velocity and distance from the start, (2, starts, 2, alphas, times)."""
    return np.stack([found["rate"], found["distance"]])


def lazy_limit(rate: np.ndarray) -> np.ndarray:
    """``alpha^k rate`` (starts, 2, alphas, times), k = 1 and 2, extrapolated to infinite alpha."""
    scaled = rate * LINEAR_ALPHAS[:, None] ** np.array([1, 2])[:, None, None]
    return without_step_error(np.moveaxis(scaled[:, :, -3:], 2, 0))


def alpha_exponents(rate: np.ndarray) -> np.ndarray:
    """Powers of alpha at the largest three, (starts, 2, records), from (starts, 2, alphas, ...)."""
    last = np.log(rate[:, :, -1] / rate[:, :, -3])
    return last / np.log(TANH_ALPHAS[-1] / TANH_ALPHAS[-3])


def chord_limit(m: Arrays) -> np.ndarray:
    """Limit of ``sqrt(2 S)/dt`` for dt -> 0 over the exact angular velocity, of tanh networks."""
    chords = np.sqrt(2 * m["tanh_distances"]) / (TANH_STEP * HALVINGS)
    return without_step_error(np.moveaxis(chords, -1, 0)) / m["tanh_rate"]


def chord_error(m: Arrays) -> float:
    """Largest relative error of the longest chord as an angular velocity."""
    chord = np.sqrt(2 * m["tanh_distances"][..., 0]) / TANH_STEP
    return np.abs(chord / m["tanh_rate"] - 1).max()


def dt_exponents(m: Arrays) -> np.ndarray:
    """Powers of dt of S: of tanh networks, of ReLU networks of either width."""
    tanh = fitted_exponent(HALVINGS, geometric_mean(m["tanh_distances"].reshape(-1, 3)))
    relu = [fitted_exponent(HALVINGS, found.mean(axis=0)) for found in m["relu_distances"]]
    return np.array([tanh, *relu])


def geometric_mean(values: np.ndarray) -> np.ndarray:
    """Over the leading axis."""
    return np.exp(np.log(values).mean(axis=0))


def dt_errors(p: Arrays, m: Arrays) -> np.ndarray:
    """Allowed to ``dt_exponents``."""

    def exponent(mean):
        return fitted_exponent(HALVINGS, mean)

    relu = np.array([jackknife(exponent, found) for found in m["relu_distances"]])
    return np.array([TANH_STEP, *(4 * relu + smooth_share(p, m))])


def smooth_share(p: Arrays, m: Arrays) -> np.ndarray:
    """Of S after the longest chord, by the motion that automatic differentiation sees (widths,)."""
    smooth = (m["relu_rate"] ** 2).mean(axis=1) * SWITCHING_STEP / 2
    return smooth / p["switching"]


def finite_width(p: Arrays) -> np.ndarray:
    """Relative, of S of ReLU networks."""
    return FINITE_WIDTH / p["widths"]


CLAIMS = (
    Claim(
        "path of linear networks' kernels: angular velocity, distance from the start",
        predicted=linear_path,
        measured=linear_path,
        tolerance=lambda p, m: (
            100 * p["flow_error"] * linear_path(p).max(axis=-1, keepdims=True) / linear_path(p)
        ),
        because="step errors of the flow, of 1e-10 relative to the weights, a hundred or so steps",
    ),
    Claim(
        "lazy limit of linear networks' angular velocity, times alpha; times alpha^2 if f_0 = 0",
        predicted=lambda p: lazy_limit(p["lazy_rate"]),
        measured=lambda m: lazy_limit(m["rate"]),
        tolerance=THIRD_ORDER,
        because="third order of the kernel's relative change, 1/20 and less at the alphas used; "
        "the first two are extrapolated away",
    ),
    Claim(
        "powers of alpha of tanh networks' angular velocity, random and mirrored",
        predicted=lambda p: p["alpha_exponents"][:, None],
        measured=lambda m: alpha_exponents(m["tanh_rate"]).mean(axis=0),
        tolerance=lambda p, m: (
            1 / TANH_ALPHAS[-3] + 4 * standard_error(alpha_exponents(m["tanh_rate"]))
        ),
        because="corrections of relative order 1/alpha; 4 standard errors over networks",
        error="absolute",
    ),
    Claim(
        "limit of tanh networks' chord velocity sqrt(2 S)/dt over the exact derivative's",
        predicted=lambda p: p["chord_limit"],
        measured=chord_limit,
        tolerance=lambda p, m: chord_error(m) ** 2,
        because="the first two orders in dt are extrapolated away; allowed is the square of the "
        "largest relative error of any chord, which is less than 1/10",
    ),
    Claim(
        "powers of dt of the distance S(t, t + dt): tanh, ReLU",
        predicted=lambda p: p["dt_exponents"],
        measured=dt_exponents,
        tolerance=dt_errors,
        because="dt for tanh; for ReLU 4 standard errors over networks and the smooth part's share",
        error="absolute",
    ),
    Claim(
        "S/dt of ReLU networks at the start, by switching units, at every width",
        predicted=lambda p: p["switching"],
        measured=lambda m: m["relu_distances"][..., 0].mean(axis=1) / SWITCHING_STEP,
        tolerance=lambda p, m: (
            4
            * standard_error(np.moveaxis(m["relu_distances"][..., 0], 1, 0))
            / (SWITCHING_STEP * p["switching"])
            + 4 * p["sampling_error"][0]
            + finite_width(p)
            + smooth_share(p, m)
        ),
        because="4 standard errors over networks and over the formula's units; finite width, "
        "30/n; the smooth part of the motion",
    ),
    Claim(
        "S(0, t) of ReLU networks in lazy training",
        predicted=lambda p: p["lazy_distance"],
        measured=lambda m: m["lazy_distance"].mean(axis=0),
        tolerance=lambda p, m: (
            4 * standard_error(m["lazy_distance"]) / p["lazy_distance"]
            + 4 * p["sampling_error"][1:]
            + finite_width(p)[0]
        ),
        because="4 standard errors over networks and over the formula's units; finite width, 30/n",
    ),
)

EXPERIMENT = Experiment(
    name="fort2020_velocity",
    source=papers.fort2020("the velocity of the tangent kernel, S(t, t + dt)/dt"),
    statement="A smooth network's kernel turns at an angular velocity sqrt(2 S)/dt, which has "
    "closed forms and falls as a power of alpha; a wide ReLU network's jumps, and S/dt is a rate.",
    equations=(
        r"S(t,t') = 1 - \frac{\langle K_t, K_{t'}\rangle}{|K_t|\,|K_{t'}|}"
        r" \simeq \tfrac12\,\omega^2\,(t'-t)^2, \qquad"
        r" \omega = \frac{|\dot K - K\langle K,\dot K\rangle/|K|^2|}{|K|}",
        r"\dot K = I\otimes X^\top(M^\top E + E^\top M)X + (EM^\top + ME^\top)\otimes X^\top X"
        r" \quad (M = W_2W_1,\; E = \Sigma_{yx} - M)",
        r"\mathrm{ReLU:}\quad S = \frac{n}{2|\Theta|^2}\sum_i p_i\,\mathbb{E}\left[|\delta h_i|"
        r"\left(|D_i|^2 - \langle\Theta,D_i\rangle^2/|\Theta|^2\right)\right]"
        r" \propto n^{-3/2}\,|\delta t|",
    ),
    quick=Config(),
    full=Config(starts=8, widths=(512, 1024, 2048), examples=256, seeds=48, samples=4000),
    cost=(14, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
