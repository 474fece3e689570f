"""Powers of the width fitted to averages over networks, with the next order of their expansion.

    value(n) = A n^p (1 + b n^-order + ...)

Values and their standard errors have shape (widths,), samples (widths, networks). Errors of fits
follow from those of the values, which are of different networks.
"""

from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """Fitted number and its standard error; or numbers (widths,) and theirs."""

    value: np.ndarray
    error: np.ndarray


class Limit(NamedTuple):
    """Fitted number A, its standard error, ``slope`` A b, ``neglected`` A (b n^-order)^2.

    The last, of the smallest width, is about what the fit neglects there.
    """

    value: np.ndarray
    error: np.ndarray
    slope: np.ndarray
    neglected: np.ndarray


def ratio(top: np.ndarray, bottom: np.ndarray) -> Fit:
    """Ratio of the means over networks, at every width.

    >>> found = ratio(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    >>> found.value.tolist(), found.error.tolist()
    ([2.0], [1.0])
    """
    value = top.mean(axis=1) / bottom.mean(axis=1)
    influence = (top - value[:, None] * bottom) / bottom.mean(axis=1, keepdims=True)
    return Fit(value, influence.std(axis=1, ddof=1) / np.sqrt(top.shape[1]))


def mean(samples: np.ndarray) -> Fit:
    """Mean over networks, at every width.

    >>> mean(np.array([[1.0, 3.0]])).value.tolist()
    [2.0]
    """
    return ratio(samples, np.ones_like(samples))


def root_mean_square(samples: np.ndarray) -> Fit:
    """Root of the mean square over networks, at every width.

    >>> root_mean_square(np.array([[1.0, 7.0]])).value.tolist()
    [5.0]
    """
    value, error = mean(samples**2)
    return Fit(np.sqrt(value), error / (2 * np.sqrt(value)))


def exponent(widths: np.ndarray, values: Fit, order: float) -> Fit:
    """The p of the expansion, from ``ln |value| = ln A + p ln n + b n^-order``.

    >>> n = np.array([100.0, 200.0, 400.0, 800.0])
    >>> round(float(exponent(n, Fit(np.exp(3 / n) / n, 0.1 / n), 1.0).value), 12)
    -1.0
    """
    columns = np.log(widths), np.ones(len(widths)), widths ** -float(order)
    value = np.abs(values.value)
    return _first(columns, Fit(np.log(value), values.error / value))


def limit(widths: np.ndarray, values: Fit, power: float, order: float) -> Limit:
    """The A of the expansion, p = ``power`` being known, from ``value/n^p = A + A b n^-order``.

    >>> n = np.array([100.0, 200.0, 400.0, 800.0])
    >>> found = limit(n, Fit(2 / n + 30 / n**2, 0.1 / n), -1.0, 1.0)
    >>> round(float(found.value), 12), round(float(found.neglected), 12)
    (2.0, 0.045)
    """
    scale = widths ** -float(power)
    values = Fit(scale * values.value, scale * values.error)
    columns = np.ones(len(widths)), widths ** -float(order)
    value, error = _first(columns, values)
    slope = _first(columns[::-1], values).value
    return Limit(value, error, slope, (slope * columns[1][0]) ** 2 / np.abs(value))


def _first(columns: tuple[np.ndarray, ...], values: Fit) -> Fit:
    """Coefficient of the first column of a linear fit by weighted least squares."""
    design = np.stack(columns, axis=1) / values.error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    found = covariance @ design.T @ (values.value / values.error)
    return Fit(found[0], np.sqrt(covariance[0, 0]))
