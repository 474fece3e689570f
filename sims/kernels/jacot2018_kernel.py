"""The tangent kernel on the unit circle before and after training, and what training ends in.

Jacot, Gabriel & Hongler (2018): as networks grow wide their tangent kernel becomes deterministic
and stays as it is; the function at convergence is a Gaussian process. Theirs are four weight
matrices, ReLU, beta = 0.1, the target x_1 x_2, x_0 = (1, 0), the time t = 200 and training on four
points of the circle (all recalled). Ours are the points, the widths (far below their 10000), steps
five times as long, and that both pictures are of the same networks; theirs of the kernel learned
from Gaussian inputs. Steps are 0.68 of the inverse top rate: below the edge, 2, by enough for the
rates of narrow networks, which differ by a third.

Three rates of the kernel's movement are told apart:

* n^-1: its mean on learning the target (features grow together); at these widths the exponent
  comes out at -1.15, its next order, a seventh of it or more at 64 units, not yet gone;
* n^-3/4: its root mean square when outputs learn a small part of the target, starting from their
  own. About n^(1/2) units then pass their kink at a given input and change a sum over n units by
  terms of either sign. At larger targets the first term hides this one at all widths here;
* n^-1/2, at the training inputs alone (not claimed): a unit that learns at an input moves it off
  its kink but not back on, so that its kernel there loses. Averages of squares over the circle are
  not changed in order, the neighbourhoods of the data in which this happens shrinking as n^-1/2.

For the same reason networks' mean function comes closer to the kernel's only slowly: at 1024 units
it still is off by 0.01 next to the data, where the kernel's mean has a cusp and the networks' not.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.circle_networks import cases, data, observe, on_circle, summary
from sims.kernels.ensemble_spreads import moments, rms_spread, root_mean_square, spread
from sims.kernels.relu_networks import (
    each,
    exponent_error,
    limit_kernels,
    network,
    squared_error,
    width_error,
    without_width,
)
from sims.processes import generator, training
from sims.rates import fitted_exponent, jackknife, standard_error
from sims.sweep import sweep
from theory.kernels.kernel_modes import descent_filter, kernel_modes
from theory.kernels.linearized_ensembles import Covariances, initialization_ensemble


@dataclass(frozen=True)
class Config:
    """Widths from narrow to wide and so many networks of each; ``small``: part of the target."""

    widths: tuple[int, ...] = (64, 128, 256)
    networks: tuple[int, ...] = (300, 120, 60)
    small: float = 0.1
    learning_rate: float = 5.0
    steps: int = 40
    angles: int = 48

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1 or np.any(np.diff(self.widths) <= 0):
            raise ValueError(f"widths must be two or more and increase, got {self.widths}")
        if len(self.networks) != len(self.widths) or min(self.networks) < 3:
            raise ValueError(f"networks must be >= 3 for each width, got {self.networks}")
        if not 0 < self.small < 1:
            raise ValueError(f"small must be between 0 and 1, got {self.small}")
        if self.steps < 1 or self.angles < 2 or self.angles % 2:
            raise ValueError(
                f"steps must be >= 1, angles even, got steps {self.steps}, angles {self.angles}"
            )
        limit = 2 / float(kernel_modes(limit_kernels(data()[0]).ntk, loss="mean").rates[0])
        if not 0 < self.learning_rate < limit:
            raise ValueError(
                f"learning_rate must be below {limit:.3g}, or wide networks diverge, "
                f"got {self.learning_rate}"
            )

    @property
    def circle(self) -> np.ndarray:
        """Angles from -pi; x_0 = (1, 0) is the one in the middle."""
        return 2 * np.pi * (np.arange(self.angles) / self.angles - 0.5)


def predict(config: Config) -> Arrays:
    """The limit kernel against x_0; mean and variance of outputs after as many steps."""
    x, y = data()
    n = len(x)
    every = limit_kernels(np.concatenate([x, on_circle(config.circle)]))
    theta, nngp = every.ntk, every.nngp
    modes = kernel_modes(theta[:n, :n], loss="mean")
    learning = descent_filter(modes, config.learning_rate, config.steps)
    initial = Covariances(nngp[:n, :n], nngp[n:, :n], nngp[n:, n:])
    ensemble = initialization_ensemble(modes, learning, theta[n:, :n], initial, y)
    return {
        "widths": np.array(config.widths),
        "angles": config.circle,
        "kernel": theta[n + config.angles // 2, n:],
        "size": np.mean(np.square(theta[n:, n:])),
        "mean": ensemble.mean,
        "std": np.sqrt(np.diagonal(ensemble.covariance)),
        "targets": y,
        "small": config.small,
        "spread_exponent": -0.5,
        "growth_exponent": -1.0,
        "shift_exponent": -0.75,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every width on the target, and on a small part of it beyond f_0."""
    found: dict[str, Any] = {"widths": np.array(config.widths)}
    for index, (width, count) in enumerate(zip(config.widths, config.networks, strict=True)):
        model, points = network(2, width), on_circle(config.circle).astype(np.float32)
        members = cases(config, model, generator(jax.random.fold_in(key, index)), count)
        process = training(partial(squared_error, model), partial(observe, model, points))
        run = sweep(f"width_{width}", process, members, record_at=[0, config.steps])
        found |= {f"{name}_{index}": values for name, values in summary(run.records, count).items()}
    return found


def spreads(m: Arrays) -> np.ndarray:
    """Of the kernel before training, at every width; row 1 its standard error."""
    drawn = [moments(kernel[:, 0]) for kernel in each(m, "kernel")]
    return np.array([(spread(s.mean(axis=0)), jackknife(spread, s)) for s in drawn]).T


def growths(m: Arrays) -> np.ndarray:
    """Mean movement of the kernel on learning the target; row 1 its standard error."""
    return np.array([(g.mean(), standard_error(g)) for g in each(m, "growth")]).T


def shifts(m: Arrays) -> np.ndarray:
    """Root mean square movement on learning a small part of it; row 1 its standard error."""
    return np.array([root_mean_square(s) for s in each(m, "shift")]).T


def kernel_error(p: Arrays, m: Arrays) -> np.ndarray:
    """Relative standard error of the kernel extrapolated to infinite width."""
    errors = [standard_error(kernel[:, 0]) for kernel in each(m, "kernel")]
    return width_error(p["widths"], errors[0], errors[-1]) / p["kernel"]


def output_spreads(m: Arrays) -> np.ndarray:
    """Standard deviation of outputs, root mean square over the circle; row 1 its standard error."""
    drawn = [moments(f) for f in each(m, "f")]
    factors = [np.sqrt(len(s) / (len(s) - 1)) for s in drawn]
    found = [(rms_spread(s.mean(axis=0)), jackknife(rms_spread, s)) for s in drawn]
    return (np.array(factors)[:, None] * np.array(found)).T


def exponent_claim(what: str, name: str, values: Any, correction: Any, because: str) -> Claim:
    """That ``values(m)`` of every width, row 1 their errors, fall as the predicted power.

    ``correction(p, m)`` is relative, at the narrowest width, and assumed to be gone at the widest.
    """

    def tolerance(p: Arrays, m: Arrays) -> float:
        found, errors = values(m)
        stretch = np.log(p["widths"][-1] / p["widths"][0])
        return 4 * exponent_error(p["widths"], errors / found) + correction(p, m) / stretch

    return Claim(
        what,
        predicted=lambda p: p[name],
        measured=lambda m: fitted_exponent(m["widths"], values(m)[0]),
        tolerance=tolerance,
        because=f"4 standard errors over networks; {because}",
        error="absolute",
    )


CLAIMS = (
    Claim(
        "kernel against x_0 before training, mean over networks",
        predicted=lambda p: p["kernel"],
        measured=lambda m: without_width(
            m["widths"], *(each(m, "kernel")[at][:, 0].mean(axis=0) for at in (0, -1))
        ),
        tolerance=lambda p, m: 4 * kernel_error(p, m),
        because="4 standard errors over networks; what is of order 1/width is extrapolated away",
    ),
    exponent_claim(
        "exponent in the width of the kernel's spread before training",
        "spread_exponent",
        spreads,
        lambda p, m: (spreads(m)[0, 0] / p["kernel"].mean()) ** 2 / 2,
        "a relative correction of the size of the relative variance at the narrowest width, "
        "halved by the root",
    ),
    exponent_claim(
        "exponent in the width of the kernel's mean growth on learning the target",
        "growth_exponent",
        growths,
        lambda p, m: growths(m)[0, 0] / np.sqrt(p["size"]),
        "a relative correction of the size of the relative growth at the narrowest width",
    ),
    exponent_claim(
        "exponent in the width of the kernel's movement on learning a small part of it",
        "shift_exponent",
        shifts,
        lambda p, m: p["small"],
        "a relative correction of the size of that part, from what is linear in it",
    ),
    Claim(
        "outputs at the end of training, mean over networks",
        predicted=lambda p: p["mean"],
        measured=lambda m: each(m, "f")[-1].mean(axis=0),
        tolerance=lambda p, m: (
            4 * standard_error(each(m, "f")[-1])
            + root_mean_square(each(m, "change")[-1])[0]
            / np.sqrt(p["size"])
            * np.abs(p["targets"]).max()
        ),
        because="4 standard errors over networks, and as large a part of the targets as the "
        "kernel has changed by; at the widest",
        error="absolute",
    ),
    Claim(
        "outputs at the end of training, standard deviation over networks",
        predicted=lambda p: np.sqrt(np.mean(p["std"] ** 2)),
        measured=lambda m: without_width(m["widths"], *output_spreads(m)[0, [0, -1]]),
        tolerance=lambda p, m: (
            4
            * width_error(p["widths"], *output_spreads(m)[1, [0, -1]])
            / np.sqrt(np.mean(p["std"] ** 2))
        ),
        because="4 standard errors over networks of the root mean square over the circle; what "
        "is of order 1/width is extrapolated away",
    ),
)

EXPERIMENT = Experiment(
    name="jacot2018_kernel",
    source=papers.jacot2018("the kernel on the circle and the function at convergence"),
    statement="Wide networks' tangent kernel is deterministic and stays; outputs end up Gaussian.",
    equations=(
        r"\Theta_{l+1} = \mathrm{E}[\phi\phi] + \beta^2 + \mathrm{E}[\phi'\phi']\,\Theta_l",
        r"\mathrm{std}\,\Theta \sim n^{-1/2}, \quad \mathrm{E}\,\Delta\Theta \sim n^{-1}, \quad "
        r"\mathrm{std}\,\Delta\Theta \sim n^{-3/4}",
        r"f_t(x) = f_0(x) + \Theta(x,X)\,\Theta^{-1}\left(1-(1-\eta\Theta/N)^{k}\right)(y-f_0(X))",
    ),
    quick=Config(),
    full=Config(widths=(64, 128, 256, 512, 1024), networks=(800, 400, 200, 100, 50)),
    cost=(12, 400),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
