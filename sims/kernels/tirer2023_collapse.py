"""Neural collapse: where the last layer's features are free, on the way there, and in a network.

Tirer, Huang & Niles-Weed (2023) ask how collapse sets in where features are not quite free. Known
in closed form (theory.kernels.neural_collapse, derived there): the minima of free features; the
central path, on which the classifier is always at its best, as one that learns fast is, up to the
ratio of rates; features on a spring, which take a first step along that path. Gradient descent on
features and classifier, which knows none of this, is held against all three.

Beside it, as measurement, networks that learn digits. What holds: with weight decay the scatter
within classes falls over training, by two to three orders of magnitude, and from each hidden layer
to the next; without, it stalls once the labels are fitted. What does not: the ratio of scatters
first rises, by up to a factor of two, for these features are not free and the classifier is not at
its best; it ends on a floor, the higher the stronger the decay (decays from 0.003 to 0.03 were
tried: NC1 from 0.0002 to 0.003); and the distances from an orthogonal frame (NC2) and from
self-duality (NC3) come down slowly, to 0.15, and to 0.07 with four times the steps.

All settings are ours: four classes, six samples each, seven features; digits 0 to 3.
"""

from dataclasses import dataclass

import jax
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels import collapsing_digits, free_features
from sims.kernels.collapse_predictions import central_path, minima, path_rates
from sims.kernels.free_features import path_starts
from sims.rates import without_step_error
from sims.sweep import sweep

CURVE = np.linspace(0.02, 1.5, 149)  # couplings to draw theory at


@dataclass(frozen=True)
class Config:
    """``couplings`` c and ``balances`` lw/(n lh) of free features. On the path lw is
    ``weight_decay`` and lh one of ``feature_decays``/N; times are in units of N. ``lead``: rate of
    the classifier over that of features, slowest of three, over N; ``anchoring``: loosest spring
    of three, times N. Below: networks on digits."""

    n_classes: int = 4
    samples: int = 6
    features: int = 7
    couplings: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.2)
    balances: tuple[float, ...] = (0.25, 4.0)
    minima: int = 2
    minimum_steps: int = 2000
    weight_decay: float = 0.1
    feature_decays: tuple[float, ...] = (0.0, 0.2)
    lead: int = 256
    path_starts: int = 4
    path_times: int = 12
    spacing: float = 0.5
    anchoring: float = 8.0
    start_seed: int = 0
    classes: int = 4
    examples: int = 12
    width: int = 32
    depth: int = 4
    decays: tuple[float, ...] = (0.0, 0.01)
    seeds: int = 3
    learning_rate: float = 0.03
    steps: int = 1500

    def __post_init__(self) -> None:
        least = {"n_classes": 2, "samples": 2, "minima": 1, "minimum_steps": 500, "lead": 2}
        least |= {"path_starts": 2, "path_times": 2, "classes": 2, "examples": 2, "depth": 2}
        for name, limit in (least | {"width": 1, "seeds": 1, "steps": 1}).items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")
        if self.features < self.n_classes:
            raise ValueError(f"features must be at least n_classes, got {self.features}")
        for name in ("weight_decay", "spacing", "anchoring", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("couplings", "balances"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be positive numbers, got {getattr(self, name)}")
        if not min(np.abs(np.array(self.couplings) - 1)) > 0.05:
            raise ValueError(f"couplings must not be near 1, got {self.couplings}")
        for name in ("feature_decays", "decays"):
            if not getattr(self, name) or min(getattr(self, name)) < 0:
                raise ValueError(f"{name} must be numbers >= 0, got {getattr(self, name)}")
        if self.decays[0] != 0 or min(self.decays[1:], default=0) <= 0:
            raise ValueError(f"decays must be 0 and one or more positive, got {self.decays}")
        if not (self.lead * self.spacing).is_integer():
            raise ValueError(f"spacing must make lead * spacing an integer, got {self.spacing}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of features."""
        return self.n_classes, self.samples, self.features

    @property
    def size(self) -> int:
        """Number N of samples of free features."""
        return self.n_classes * self.samples

    def minimum_decays(self, couplings) -> tuple[np.ndarray, np.ndarray]:
        """Weight and feature decays (couplings, balances)."""
        c, root = np.asarray(couplings)[:, None], np.sqrt(self.balances)[None, :]
        return c * root / self.n_classes, c / (self.size * root)


def predict(config: Config) -> Arrays:
    """Minima, scatters on the central path, and the first step along it of features on springs."""
    count = len(config.couplings)
    all_minima = minima(config, np.concatenate([config.couplings, CURVE]))
    H, decays = path_starts(config)
    moved, rates = path_rates(H, np.zeros_like(decays), weight_decay=config.weight_decay)
    return {
        **{name: values[:count] for name, values in all_minima.items()},
        **{f"curve_{name}": values[count:] for name, values in all_minima.items()},
        "couplings": np.array(config.couplings),
        "balances": np.array(config.balances),
        "curve": CURVE,
        **central_path(config),
        "spring_velocity": config.size * moved[: config.path_starts],
        "spring_fall": config.size * rates.ratio_rate[: config.path_starts],
        "orders": np.ones(2),
        "share": 1.0,
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train free features and their classifiers, and networks on digits."""
    free, networks = jax.random.split(key)
    digits = collapsing_digits.train(config, networks, sweep)
    found = free_features.train(config, free, sweep)
    return {**found, **{f"digits_{name}": values for name, values in digits.items()}}


def outputs_and_gram(found: Arrays) -> np.ndarray:
    """At the minima, stacked (2, ..., K, K)."""
    return np.stack([found["outputs"], found["gram"]])


def scatters(found: Arrays) -> np.ndarray:
    """Within and between classes, (..., paths, times, 2)."""
    return np.stack([found["within"], found["between"]], axis=-1)


def ratio(m: Arrays) -> np.ndarray:
    """Of scatters within and between classes (halvings, paths, times)."""
    return m["within"] / m["between"]


def second_order(by_step: np.ndarray) -> np.ndarray:
    """What ``without_step_error`` takes off as second order, at the element where it is most."""
    double, single, half = by_step
    return np.max(np.abs(double - 3 * single + 2 * half)) / 3


def order(by_step: np.ndarray) -> float:
    """Order in the small parameter of what changes at all elements together."""
    first, second = np.linalg.norm(np.diff(by_step, axis=0).reshape(2, -1), axis=1)
    return float(np.log2(first / second))


def shares(m: Arrays) -> np.ndarray:
    """Of trained networks with decay, in which the ratio of scatters fell, and does with depth."""
    ratios = m["digits_ratios"][1:]
    fell = ratios[:, :, -1, -1] < ratios[:, :, 0, -1]
    falls = ratios[:, :, -1, -1] < ratios[:, :, -1, 0]
    return np.array([fell.mean(), falls.mean()])


LIMIT = "extrapolated to a limit without first and second order, of which the second is more than "

CLAIMS = (
    Claim(
        "minimum of free features: loss, with and without bias",
        predicted=lambda p: p["value"][..., None],
        measured=lambda m: m["loss"],
        tolerance=1e-12,
        because="rounding: descent contracts by c or |1 - c| over a few steps, for thousands",
    ),
    Claim(
        "minimum of free features: outputs of class means, and their Gram",
        predicted=lambda p: outputs_and_gram(p)[..., None, :, :],
        measured=outputs_and_gram,
        tolerance=1e-9,
        because="as of the loss, to first order in what is left; labels are 0 and 1, and the Gram "
        "is in units of sqrt(lw/(n lh)), a half or two",
        error="absolute",
    ),
    Claim(
        "central path: scatters within and between classes from their integrated rates",
        predicted=scatters,
        measured=lambda m: without_step_error(scatters(m)),
        tolerance=lambda p, m: second_order(scatters(m)) / scatters(p),
        because=LIMIT + "what is left; features ever slower than the classifier",
    ),
    Claim(
        "share of intervals in which the ratio of scatters falls",
        predicted=lambda p: p["share"],
        measured=lambda m: np.mean(np.diff(ratio(m), axis=-1) < 0),
        tolerance=0.0,
        because="on the central path it falls at every time, from whatever features; the paths "
        "that are trained are within a percent of it",
    ),
    Claim(
        "features on strong springs: displacement times strength",
        predicted=lambda p: p["spring_velocity"],
        measured=lambda m: without_step_error(m["spring_velocity"]),
        tolerance=lambda p, m: second_order(m["spring_velocity"]),
        because=LIMIT + "what is left; features are of size 1",
        error="absolute",
    ),
    Claim(
        "features on strong springs: fall of the ratio of scatters times strength",
        predicted=lambda p: p["spring_fall"],
        measured=lambda m: without_step_error(m["spring_fall"]),
        tolerance=lambda p, m: second_order(m["spring_fall"]) / np.abs(p["spring_fall"]),
        because=LIMIT + "what is left",
    ),
    Claim(
        "orders of the distances from the central path and from its first step",
        predicted=lambda p: p["orders"],
        measured=lambda m: np.array(
            [order(np.log(ratio(m)[..., 1:])), order(m["spring_velocity"])]
        ),
        tolerance=0.1,
        because="in the ratio of rates, and in one over the spring's strength, of displacement "
        "times strength; the next order",
        error="absolute",
    ),
    Claim(
        "networks with weight decay: share in which scatter falls over training, and with depth",
        predicted=lambda p: p["share"] * np.ones(2),
        measured=shares,
        tolerance=0.0,
        because="a sign, in every network: last hidden layer from start to end, and first hidden "
        "layer to last at the end",
    ),
)

EXPERIMENT = Experiment(
    name="tirer2023_collapse",
    source=papers.tirer2023("neural collapse beyond free features"),
    statement="Features that follow a classifier at its best collapse onto their class means.",
    equations=(
        r"c = K\sqrt{n\lambda_W\lambda_H} < 1:\quad W\bar H^T = (1-c)\,I, \quad "
        r"\bar H\bar H^T = (1-c)\sqrt{\frac{\lambda_W}{n\lambda_H}}\,I, \quad "
        r"L = c - \frac{c^2}{2}",
        r"\frac{d}{dt}\operatorname{tr}\Sigma_W = -\frac{2}{(Kn)^2}\left|W^*H_w^T\right|^2"
        r" - 2\lambda_H\operatorname{tr}\Sigma_W, \quad "
        r"\frac{d}{dt}\frac{\operatorname{tr}\Sigma_W}{\operatorname{tr}\Sigma_B} \le 0",
        r"\min_H L(W^*(H),H) + \frac{\beta}{2}|H-H_0|^2:\quad "
        r"H = H_0 - \frac{1}{\beta}\nabla L + O(\beta^{-2})",
    ),
    quick=Config(),
    full=Config(
        n_classes=10,
        samples=10,
        features=16,
        minima=4,
        minimum_steps=6000,
        path_starts=16,
        classes=10,
        examples=20,
        width=64,
        seeds=5,
        decays=(0.0, 0.003, 0.01),
        steps=6000,
    ),
    cost=(13, 150),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
