"""Means and covariances of an ensemble's outputs, and what they may deviate by from a Gaussian's.

Outputs (networks, times, inputs), means (times, inputs), covariances (times, inputs, inputs).
Deviations are 4 standard errors over the networks, that of a mean std/sqrt(M) and that of a
covariance its fourth moments', and a ``bias`` relative to standard deviations.
"""

import numpy as np

ERRORS = 4


def sample_covariance(outputs: np.ndarray) -> np.ndarray:
    """Covariance over networks, at every time.

    >>> sample_covariance(np.array([[[1.0]], [[3.0]]])).tolist()
    [[[2.0]]]
    """
    off = outputs - outputs.mean(axis=0)
    return np.einsum("mti,mtj->tij", off, off) / (len(off) - 1)


def variances(covariance: np.ndarray) -> np.ndarray:
    """Diagonals (times, inputs).

    >>> variances(np.ones((1, 2, 2))).tolist()
    [[1.0, 1.0]]
    """
    return np.diagonal(covariance, axis1=1, axis2=2)


def mean_deviation(covariance: np.ndarray, networks: int, bias: float) -> np.ndarray:
    """Of the mean of so many networks.

    >>> mean_deviation(np.ones((1, 1, 1)), 100, 0.1).tolist()
    [[0.5]]
    """
    return np.sqrt(variances(covariance)) * (ERRORS / np.sqrt(networks) + bias)


def covariance_deviation(covariance: np.ndarray, networks: int, bias: float) -> np.ndarray:
    """Of their covariance: ``4 sqrt((S_ii S_jj + S_ij^2)/M) + bias sqrt(S_ii S_jj)``.

    >>> covariance_deviation(np.ones((1, 1, 1)), 200, 0.1).tolist()
    [[[0.5]]]
    """
    variance = variances(covariance)
    size = variance[:, :, None] * variance[:, None, :]
    return ERRORS * np.sqrt((size + covariance**2) / networks) + bias * np.sqrt(size)
