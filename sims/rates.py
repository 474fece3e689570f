"""Rates from measurements: exponents of power laws, orders of step-size errors, extrapolation."""

import numpy as np


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
