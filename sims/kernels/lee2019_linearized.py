"""How fast networks become linear in their parameters as they widen: smooth units against ReLU.

Lee et al. (2019): relative to their size, weights move by n^-1/2, and tangent kernel and outputs
leave the linearised network by at most O(n^-1/2), which is what they prove. With one hidden layer
of smooth units (erf) both are of order 1/n. ReLU's move as fast as the bound: units that go silent
on an example never come back, so that the kernel's diagonal falls by a multiple of n^-1/2, in
closed form where inputs are orthogonal (``theory.kernels.finite_width``). Fluctuations about that
are of order n^-3/4, and larger than it up to hundreds of units: between 100 and 2000 units ReLU's
drift as a whole falls like n^-0.65, no longer n^-3/4 and not yet n^-1/2, and its linearisation
error like n^-0.7; hence nothing is claimed of these two. On random inputs, with biases, apparent
exponents of the drift were found to rise likewise, from -0.85 at 100 units to -0.66 at 4000.

Corrections to exponents are taken into the fits: relative O(1/n) for erf, O(n^-1/2) for ReLU. The
linearised network is compared at equal training outputs (``dynamics.regime``). All settings are
ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.silenced_networks import Networks, train
from sims.kernels.width_fits import Fit, Limit, exponent, limit, ratio, root_mean_square
from sims.sweep import sweep
from theory.kernels.finite_width import Impulse, impulse_moments, relu_kernel_drift, weight_movement
from theory.kernels.infinite_width import mlp_kernels
from theory.kernels.kernel_modes import descent_filter, kernel_modes

ACTIVATIONS = ("erf", "relu")
ERF, RELU = 0, 1


@dataclass(frozen=True)
class Config(Networks):
    """As many orthogonal inputs as dimensions; widths far above that number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.widths[0] < 8 * self.inputs:
            raise ValueError(f"widths must be at least 8 inputs, got {self.widths}")


def predict(config: Config) -> Arrays:
    """Movement of weights at every width; the kernel's change per impulse; exponents."""
    x, y, _ = config.data
    w = config.weight_variance
    limits = [wide_limit(x, y[:, 0], activation, config) for activation in ACTIVATIONS]
    moved = np.array([limit.movement for limit in limits])
    widths, relu = np.array(config.widths), limits[RELU]
    unit = relu_kernel_drift(1.0, widths, weight_variance=w, preactivation_variance=w)
    drift = unit.mean**2 * relu.impulse.square.sum() + unit.variance * relu.impulse.size.sum()
    return {
        "widths": widths,
        "inputs": config.inputs,
        "movement": np.sqrt(moved[:, None] / (widths * (config.inputs + 1))),
        "relu_drift": np.sqrt(drift) / relu.kernel_norm,
        "fall": unit.mean[0] * np.sqrt(widths[0]),
        "fluctuation": unit.variance[0] * widths[0] ** 1.5,
        "movement_exponent": np.array([-0.5, -0.5]),
        "drift_exponent": -1.0,
        "linearization_exponent": -1.0,
        "fall_exponent": -0.5,
        "fluctuation_exponent": -0.75,
        "difference": -0.5,
    }


class WideLimit(NamedTuple):
    """Of infinite width: squared movement of the weights, impulses, and the kernel's norm."""

    movement: jax.Array
    impulse: Impulse
    kernel_norm: jax.Array


@partial(jax.jit, static_argnames=("activation", "config"))
def wide_limit(x: jax.Array, y: jax.Array, activation: str, config: Config) -> WideLimit:
    """Averages over initialisations at the end of training."""
    w = config.weight_variance
    kernels = mlp_kernels(x, activation=activation, depth=2, weight_variance=w)
    modes = kernel_modes(kernels.ntk, loss="sum")
    problem = modes, descent_filter(modes, config.learning_rate, config.steps), kernels.nngp, y
    return WideLimit(
        weight_movement(*problem), impulse_moments(*problem), jnp.linalg.norm(kernels.ntk)
    )


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of all widths; arrays (activations, widths, networks, ...)."""
    found = {}
    for index, activation in enumerate(ACTIVATIONS):
        own = jax.random.fold_in(key, index)
        runs = [train(config, own, activation, width, sweep) for width in config.widths]
        found[activation] = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    arrays = {name: np.stack([found[a][name] for a in ACTIVATIONS]) for name in found["relu"]}
    return arrays | {"widths": np.array(config.widths)}


def fall(m: Arrays) -> Fit:
    """Mean change of the diagonal of ReLU's kernel, over the mean impulse, at every width."""
    return ratio(m["diagonal"][RELU].sum(axis=-1), m["reach"][RELU].sum(axis=-1))


def fluctuation(m: Arrays) -> Fit:
    """Mean square change of that diagonal about its mean, over the mean impulse."""
    expected = fall(m).value[:, None, None] * m["reach"][RELU]
    squares = (m["diagonal"][RELU] - expected) ** 2
    return ratio(squares.sum(axis=-1), m["reach"][RELU].sum(axis=-1))


def movement_exponents(m: Arrays) -> Fit:
    """Of the weights' relative movement, (activations,)."""
    fits = [exponent(m["widths"], root_mean_square(moved), 1.0) for moved in m["movement"]]
    return Fit(*np.array(fits).T)


def drift_exponent(m: Arrays) -> Fit:
    """Of the relative drift of erf's kernel."""
    return exponent(m["widths"], root_mean_square(m["drift"][ERF]), 1.0)


def linearization_exponent(m: Arrays) -> Fit:
    """Of erf's linearisation error."""
    return exponent(m["widths"], root_mean_square(m["linearization"][ERF]), 1.0)


def fall_exponent(m: Arrays) -> Fit:
    """Of the mean change of the diagonal of ReLU's kernel."""
    return exponent(m["widths"], fall(m), 0.5)


def fluctuation_exponent(m: Arrays) -> Fit:
    """Of the standard deviation of that change."""
    value, error = exponent(m["widths"], fluctuation(m), 0.5)
    return Fit(value / 2, error / 2)


def wide_fall(m: Arrays) -> Limit:
    """``fall`` times n^1/2 as n goes to infinity."""
    return limit(m["widths"], fall(m), -0.5, 0.5)


def wide_fluctuation(m: Arrays) -> Limit:
    """``fluctuation`` times n^3/2 as n goes to infinity."""
    return limit(m["widths"], fluctuation(m), -1.5, 0.5)


def difference(m: Arrays) -> Fit:
    """Of the exponents of erf's drift and of ReLU's fall."""
    smooth, kinked = drift_exponent(m), fall_exponent(m)
    return Fit(smooth.value - kinked.value, np.hypot(smooth.error, kinked.error))


def exponent_claim(name: str, which: str, fitted: Callable[[Arrays], Fit], because: str) -> Claim:
    """A fitted exponent within 4 standard errors."""
    return Claim(
        name,
        predicted=lambda p: p[which],
        measured=lambda m: fitted(m).value,
        tolerance=lambda p, m: 4 * fitted(m).error,
        because=f"4 standard errors over networks; {because}",
        error="absolute",
    )


def limit_claim(name: str, which: str, fitted: Callable[[Arrays], Limit]) -> Claim:
    """A prefactor, per impulse, that is left as the width goes to infinity."""

    def tolerance(p: Arrays, m: Arrays) -> np.ndarray:
        found = fitted(m)
        return (4 * found.error + found.neglected) / np.abs(p[which])

    return Claim(
        name,
        predicted=lambda p: p[which],
        measured=lambda m: fitted(m).value,
        tolerance=tolerance,
        because="4 standard errors over networks; what is of the order after the fitted one, "
        "n^-1/2, at the smallest width: as large as the square of that",
    )


SMOOTH = "the next order, relatively 1/n, is fitted"
KINKED = "the next order, relatively n^-1/2, is fitted"

CLAIMS = (
    Claim(
        "relative movement of the weights, both activations, all widths",
        predicted=lambda p: p["movement"],
        measured=lambda m: np.array([root_mean_square(moved).value for moved in m["movement"]]),
        tolerance=lambda p, m: (
            4 * np.array([root_mean_square(moved).error for moved in m["movement"]]) / p["movement"]
            + p["inputs"] / p["widths"]
        ),
        because="4 standard errors over networks; relative bias of the mean inverse of a kernel "
        "estimated with n units, up to examples/n",
    ),
    exponent_claim(
        "exponents of the weights' movement", "movement_exponent", movement_exponents, SMOOTH
    ),
    exponent_claim("exponent of the kernel's drift, erf", "drift_exponent", drift_exponent, SMOOTH),
    exponent_claim(
        "exponent of the linearisation error, erf",
        "linearization_exponent",
        linearization_exponent,
        SMOOTH,
    ),
    exponent_claim(
        "exponent of the kernel's diagonal's fall, ReLU", "fall_exponent", fall_exponent, KINKED
    ),
    exponent_claim(
        "exponent of its fluctuations", "fluctuation_exponent", fluctuation_exponent, KINKED
    ),
    exponent_claim(
        "exponent of the kernel's drift, erf, less that of its fall, ReLU",
        "difference",
        difference,
        "zero, no difference, is farther away than that",
    ),
    limit_claim("mean fall of the kernel's diagonal, ReLU, n to infinity", "fall", wide_fall),
    limit_claim("variance of that, ReLU, n to infinity", "fluctuation", wide_fluctuation),
)

EXPERIMENT = Experiment(
    name="lee2019_linearized",
    source=papers.lee2019("how weights, tangent kernel and outputs move at finite width"),
    statement="Wide networks are linear in their weights: to 1/n if smooth, to n^-1/2 with ReLU.",
    equations=(
        r"\frac{|\theta_T - \theta_0|}{|\theta_0|} \simeq \left[\frac{1}{n(n_0+1)}"
        r"\sum_j \frac{g_j^2}{\lambda_j}\left((v_j\cdot y)^2 + v_j^\top K v_j\right)\right]^{1/2}",
        r"\frac{|\Theta_T - \Theta_0|}{|\Theta_0|} \sim n^{-1}\ \mathrm{(erf)}, \quad "
        r"\langle\Delta\Theta_{ii}\rangle = -\frac{(\sigma_w^2 q)^{3/2}}{\pi\sqrt{n}}\,R_i, \quad "
        r"\mathrm{Var}\,\Delta\Theta_{ii} = \frac{4(\sigma_w^2 q)^{5/2}}{\pi\,n^{3/2}}\,R_i"
        r"\ \mathrm{(ReLU)}",
    ),
    quick=Config(),
    full=Config(widths=tuple(2**k for k in range(7, 14)), networks=1024),
    cost=(14, 240),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
