"""Errors of kernels. NumPy only: this runs in every environment."""

import numpy as np


def errors(problem, kernel):
    """Largest errors off the diagonal, of the largest value, and on it, relative to itself."""
    if "reference" not in problem:
        return [np.nan, np.nan]
    found, exact = np.asarray(kernel, np.float64), problem["reference"]
    if exact.ndim == 4:
        found, exact = (a.reshape(len(a) * a.shape[1], -1) for a in (found, exact))
    difference, scale = np.abs(found - exact), np.abs(exact).max()
    diagonal = np.max(np.diagonal(difference) / np.diagonal(exact))
    np.fill_diagonal(difference, 0)
    return [float(difference.max() / scale), float(diagonal)]


def errors_by_pairs(problem, kernel):
    """Of kernels with both examples first, (n, m, c, d)."""
    kernel = np.asarray(kernel)
    return errors(problem, kernel.transpose(0, 2, 1, 3) if kernel.ndim == 4 else kernel)
