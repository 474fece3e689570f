"""Rates from measurements: exponents of power laws, orders of step-size errors, extrapolation."""

from collections.abc import Callable
from typing import Any

import numpy as np

DOUBLINGS = np.array([1, 2, 4])  # widths at which a 1/N error is measured, and cancelled


def fitted_exponent(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of ln|y| against ln x by least squares: the p of ``y ~ x^p``.

    >>> round(fitted_exponent(np.array([1.0, 10.0, 100.0]), np.array([2.0, 0.2, 0.02])), 12)
    -1.0
    """
    return float(np.polynomial.polynomial.polyfit(np.log(x), np.log(np.abs(y)), 1)[1])


def order_of_error(by_step: np.ndarray) -> np.ndarray:
    """Exponent p of an error ~ h^p, from values at steps 2h, h, h/2; the limit need not be known.

    The leading axis holds the three steps.

    >>> float(order_of_error(np.array([5.0 + 4.0, 5.0 + 1.0, 5.0 + 0.25])))
    2.0
    """
    double, single, half = by_step
    return np.log2((double - single) / (single - half))


def without_step_error(by_step: np.ndarray) -> np.ndarray:
    """Values at steps 2h, h, h/2 extrapolated to h -> 0: first and second order removed.

    >>> float(without_step_error(3 + np.array([2.0, 1.0, 0.5]) + np.array([4.0, 1.0, 0.25])))
    3.0
    """
    double, single, half = by_step
    return (double - 6 * single + 8 * half) / 3


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of two sequences without ties.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(1 - 6 * np.sum((ranks[0] - ranks[1]) ** 2) / (len(x) ** 3 - len(x)))


def mean_and_error(samples: np.ndarray) -> np.ndarray:
    """Row 0 the mean over the leading axis, row 1 its standard error."""
    return np.array([samples.mean(axis=0), standard_error(samples)])


def order_and_error(samples: np.ndarray) -> np.ndarray:
    """Order in 1/N of the error of a mean, from draws at N, 2N, 4N, and its standard error."""
    steps = samples[:-1] - samples[1:]
    response = steps / steps.mean(axis=1, keepdims=True) / np.log(2)  # of log2 of their ratio
    error = mean_and_error(response[0] - response[1])[1]
    return np.array([order_of_error(samples.mean(axis=1)), error])


def standard_error(samples: Any) -> np.ndarray:
    """Of the mean over the leading axis."""
    samples = np.asarray(samples)
    return samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def jackknife(statistic: Callable[[np.ndarray], Any], samples: Any) -> np.ndarray:
    """Standard error of ``statistic(mean of samples over the leading axis)``.

    >>> samples = np.array([1.0, 2.0, 6.0])
    >>> bool(np.isclose(jackknife(np.negative, samples), standard_error(samples)))
    True
    """
    samples = np.asarray(samples, float)
    n = len(samples)
    without = np.array([statistic(mean) for mean in (samples.sum(axis=0) - samples) / (n - 1)])
    return np.sqrt((n - 1) * without.var(axis=0))
