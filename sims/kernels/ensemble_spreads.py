"""Standard deviations over networks, averaged over inputs, in a form that can be jackknifed."""

import numpy as np

from sims.rates import standard_error


def moments(samples: np.ndarray) -> np.ndarray:
    """Samples and their squares, (networks, 2, angles), whose means determine the variance."""
    return np.stack([samples, samples**2], axis=1)


def variance(mean: np.ndarray) -> np.ndarray:
    """From the means of ``moments``."""
    return mean[1] - mean[0] ** 2


def spread(mean: np.ndarray) -> float:
    """Standard deviation, averaged over the circle."""
    return float(np.sqrt(variance(mean)).mean())


def rms_spread(mean: np.ndarray) -> float:
    """Standard deviation, root mean square over the circle."""
    return float(np.sqrt(variance(mean).mean()))


def root_mean_square(squares: np.ndarray) -> tuple[float, float]:
    """And its standard error."""
    root = np.sqrt(squares.mean())
    return root, standard_error(squares) / (2 * root)
