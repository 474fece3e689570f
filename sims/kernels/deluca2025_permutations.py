"""Permuting bits exactly with an ensemble: trained networks against the limit of infinite width.

Back de Luca, Giapitzakis & Fountoulakis (2025) train two-layer ReLU networks on single bits only,
average many, round, and ask how many are needed to permute every binary input. The setting is
recalled from the paper, its widths and numbers of networks are our own.

Networks are trained by gradient descent on the k pairs e_i -> P e_i until they interpolate. For
every network its mirror image is trained, too, whose second layer begins with the opposite sign: it
is drawn as often, and the noise of initial outputs, most of the spread, cancels from the mean of
the two. Results are averaged over the inputs of equal numbers of ones, which symmetry makes equal.

The bias of finite width falls as n^(-1/2), not as 1/n: training inputs are orthogonal, and a unit
that is pushed below its kink on one of them stays there (``theory.kernels.finite_width``). Means
and variances are therefore extrapolated in n^(-1/2), from widths n, 4n and 16n.

The number of networks needed grows as k ln k for one input (k^2 for all), but slowly enters this
law: the noise to signal is proportional to (k + 2 pi - 1)^2/k, so that over any accessible range
of k one fits a smaller power.
"""

from dataclasses import dataclass
from itertools import product

import jax
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.mirrored_pairs import (
    GROUPS,
    by_ones,
    extrapolated,
    ratio,
    success,
    trained_pairs,
)
from sims.processes import generator
from sims.rates import fitted_exponent, jackknife
from theory.kernels.permutations import (
    ensemble_size,
    noise_to_signal,
    permutation_limit,
    success_probability,
)

WIDTH_FACTORS = np.array([1, 4, 16])  # n^(-1/2) is halved twice
CURVE_SIZES = np.unique(np.geomspace(1, 2000, 60).astype(int))
SIZES_OF_K = (5, 10, 20, 40)
RATIOS_OF_K = np.unique(np.geomspace(3, 3000, 40).astype(int))
FAILURE = 0.01
SCOPES = ("one", "all")  # inputs that are to be permuted with the remaining probability


@dataclass(frozen=True)
class Config:
    """``pairs`` of mirrored networks of every width; steps of size ``learning_rate``.

    The tangent kernel of the training inputs has eigenvalues between 0.17 and 0.33 (k = 5), for
    half the squared error summed over examples and outputs.
    """

    bits: int = 5
    width: int = 128
    pairs: int = 400
    learning_rate: float = 2.5
    steps: int = 40

    def __post_init__(self) -> None:
        for name, least in (("width", 2), ("pairs", 2 * GROUPS[-1]), ("steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 3 <= self.bits <= 12:
            raise ValueError(f"bits must be between 3 and 12 (2^bits inputs), got {self.bits}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    @property
    def ones(self) -> np.ndarray:
        """Numbers of ones of inputs that are not trained on."""
        return np.arange(2, self.bits + 1)

    @property
    def widths(self) -> np.ndarray:
        return self.width * WIDTH_FACTORS


def predict(config: Config) -> Arrays:
    """Limits by number of ones, success of ensembles, and how many networks k bits need."""
    k, ones = config.bits, config.ones
    ratios = jax.jit(noise_to_signal)
    limit = jax.jit(permutation_limit)(k, ones)
    sizes = np.concatenate([GROUPS, CURVE_SIZES])
    success = jax.jit(success_probability)(k, ones[:, None], sizes[None])
    needed = [[ensemble_size(n, FAILURE, inputs=which) for n in SIZES_OF_K] for which in SCOPES]
    return {
        "ones": ones,
        "on": limit.on,
        "off": limit.off[:-1],  # an input of k ones has no bit to be left off
        "variance": limit.variance,
        "noise_to_signal": ratios(k, ones[:-1]),
        "success": success[:, : len(GROUPS)],
        "curve_sizes": CURVE_SIZES,
        "curve_success": success[:, len(GROUPS) :],
        "sizes_of_k": np.array(SIZES_OF_K),
        "ensemble_sizes": np.array(needed),
        "ratios_of_k": RATIOS_OF_K,
        "ratios": ratios(RATIOS_OF_K, 2),
        "bias_exponent": -0.5,
    }


def simulate(config: Config, key: jax.Array) -> Arrays:
    """Train mirrored pairs at three widths and average their outputs by numbers of ones."""
    rng, k = generator(key), config.bits
    permutation = rng.permutation(k)
    inputs = np.array(list(product((0, 1), repeat=k)))
    inputs = inputs[inputs.sum(axis=1) > 1]
    targets = np.eye(k)[permutation]
    right, ones = inputs @ targets > 0, inputs.sum(axis=1)
    x = inputs / np.sqrt(ones[:, None])
    outputs, residuals = zip(
        *(trained_pairs(config, rng, int(n), targets, x) for n in config.widths), strict=True
    )
    found = [by_ones(config, values, ones, right) for values in outputs]
    samples = {name: np.array([values[name] for values in found]) for name in found[0]}
    limits = {name: extrapolated(values) for name, values in samples.items()}
    return limits | {
        "two_ones": samples["on"][..., 0],
        "noise_to_signal": ratio(limits["variance"], limits["off"]),
        "success": success(config, outputs[-1], ones, right),
        "largest_residual": np.array(residuals),
        "widths": config.widths,
        "outputs": outputs[-1][0, :, ones == 2].swapaxes(0, 1),
        "right": right[ones == 2],
    }


def bias_exponent(m: Arrays) -> tuple[float, np.ndarray]:
    """Power of the width in what the mean of set bits, of two ones, lacks to its limit; its error.

    The limit is theory's, which other claims confirm: the exponent is what is measured.
    """
    limit = float(permutation_limit(m["right"].shape[1], 2).on)

    def power(means: np.ndarray) -> float:
        return fitted_exponent(m["widths"], means - limit)

    samples = m["two_ones"].T  # (pairs, widths); pairs of different widths are independent
    return power(samples.mean(axis=0)), jackknife(power, samples)


def four_errors(name: str):
    """Tolerance of a claim: 4 standard errors of what was measured, relative to the prediction."""
    return lambda p, m: 4 * m[name][1] / np.abs(p[name])


EXTRAPOLATED = (
    "4 standard errors over pairs of networks, propagated through the extrapolation to infinite "
    "width from n, 4n, 16n, which leaves O(n^(-3/2))"
)


CLAIMS = (
    Claim(
        "mean output of bits to be set",
        predicted=lambda p: p["on"],
        measured=lambda m: m["on"][0],
        tolerance=four_errors("on"),
        because=EXTRAPOLATED,
    ),
    Claim(
        "mean output of bits not to be set",
        predicted=lambda p: p["off"],
        measured=lambda m: m["off"][0],
        tolerance=four_errors("off"),
        because=EXTRAPOLATED,
    ),
    Claim(
        "variance of outputs over networks",
        predicted=lambda p: p["variance"],
        measured=lambda m: m["variance"][0],
        tolerance=four_errors("variance"),
        because=EXTRAPOLATED,
    ),
    Claim(
        "noise to signal of bits not to be set",
        predicted=lambda p: p["noise_to_signal"],
        measured=lambda m: m["noise_to_signal"][0],
        tolerance=four_errors("noise_to_signal"),
        because="4 standard errors, propagated from those of mean and variance",
    ),
    Claim(
        "exponent in the width of the bias of the mean, inputs of two ones",
        predicted=lambda p: p["bias_exponent"],
        measured=lambda m: bias_exponent(m)[0],
        tolerance=lambda p, m: 4 * bias_exponent(m)[1] + 1 / np.sqrt(m["widths"][0]),
        because="4 standard errors over pairs of networks, and corrections of relative order "
        "n^(-1/2) at the narrowest networks; an exponent of -1 is excluded",
        error="absolute",
    ),
    Claim(
        "probability that ensembles of 1, 4 and 16 networks permute an input exactly",
        predicted=lambda p: p["success"],
        measured=lambda m: m["success"][0],
        tolerance=lambda p, m: (
            4 * m["success"][1] / p["success"] + np.sqrt(np.array(GROUPS) / m["widths"][-1])[None]
        ),
        because="4 standard errors over ensembles, and the bias of the mean, of order n^(-1/2), "
        "which counts against the spread of N networks, of order N^(-1/2)",
    ),
)

EXPERIMENT = Experiment(
    name="deluca2025_permutations",
    source=papers.deluca2025("mean and variance of trained outputs, ensemble complexity"),
    statement="Networks that saw single bits permute all inputs, once enough of them are averaged.",
    equations=(
        r"\mu_\mathrm{off} = \frac{g - m e}{g(g+k)},\quad "
        r"\mu_\mathrm{on} = \mu_\mathrm{off} + \frac{e}{g},\quad g = 2\pi - 1,\quad "
        r"e = \frac{2}{\sqrt m}\left(\frac{\pi}{2}+\arcsin\frac{1}{\sqrt m}\right)"
        r" - \frac{1}{m + \sqrt{m(m-1)}}",
        r"P = \Phi\!\left(\sqrt N\,\mu_\mathrm{on}/\sigma\right)^m"
        r"\Phi\!\left(-\sqrt N\,\mu_\mathrm{off}/\sigma\right)^{k-m}",
        r"\max_m \sigma^2/\mu^2 \simeq 2.80363\,(k + 2\pi - 1)^2/k",
    ),
    quick=Config(),
    full=Config(width=256, pairs=2000),
    cost=(7, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
