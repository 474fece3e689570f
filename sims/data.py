"""Data sets the experiments learn from: bundled real data, a user's own file, and their whitening.

Inputs ``x`` have shape (examples, n_in), targets ``y`` (examples, n_out); correlations are means
over the examples, ``sigma_xx = x^T x / P`` and ``sigma_yx = y^T x / P``.
"""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Inputs (examples, n_in) and targets (examples, n_out), both float64 and finite."""

    x: np.ndarray
    y: np.ndarray


class Correlations(NamedTuple):
    """All that a linear network sees of a data set: ``sigma_xx`` and ``sigma_yx`` (means)."""

    sigma_xx: np.ndarray
    sigma_yx: np.ndarray


def load(name: str, examples: int = 0) -> Dataset:
    """The data set called ``name``: ``"digits"``, or the path of an ``.npz`` with arrays x and y.

    ``examples > 0`` keeps a random subset of that size (the same one every time); 0 keeps all.
    Labels (one-dimensional integer y) become one-hot vectors. Raises ``ValueError`` for a name
    that is neither, missing arrays, shapes that do not fit, or values that are not finite.

    >>> load("digits").x.shape, load("digits", 100).y.shape
    ((1797, 64), (100, 10))
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
    else:
        x, y = _read(name)
    data = _checked(name, x, y)
    if examples < 0 or examples > len(data.x):
        raise ValueError(f"examples must be between 0 (all) and {len(data.x)}, got {examples}")
    if not examples:
        return data
    kept = np.random.default_rng(0).permutation(len(data.x))[:examples]
    return Dataset(data.x[kept], data.y[kept])


def _read(path: str) -> tuple[np.ndarray, np.ndarray]:
    if Path(path).suffix != ".npz":
        raise ValueError(f'data must be "digits" or the path of an .npz file, got {path!r}')
    if not zipfile.is_zipfile(path):
        raise ValueError(f"data must be an existing and whole .npz file, got {path!r}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["x"], arrays["y"]
    except KeyError as missing:
        raise ValueError(f"data must hold arrays named x and y, {path!r}: {missing}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
        raise ValueError(f"data must hold undamaged arrays of numbers, {path!r}: {fault}") from None


def _checked(name: str, x: np.ndarray, y: np.ndarray) -> Dataset:
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        y = (y[:, None] == np.unique(y)[None, :]).astype(float)
    for label, array in (("x", x), ("y", y)):
        if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.number):
            raise ValueError(
                f"{label} of {name!r} must be a non-empty array of numbers (examples, features), "
                f"got shape {array.shape}, dtype {array.dtype}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{label} of {name!r} must be finite, got NaN or infinity")
    if len(x) != len(y):
        raise ValueError(f"x and y of {name!r} must have equal length, got {len(x)} and {len(y)}")
    return Dataset(x.astype(float), y.astype(float))


def center(data: Dataset) -> Dataset:
    """Subtract the mean of every feature and of every target."""
    return Dataset(data.x - data.x.mean(axis=0), data.y - data.y.mean(axis=0))


def whiten(data: Dataset, *, rank_tolerance: float = 1e-8) -> Dataset:
    """Inputs in principal coordinates of unit variance, so that ``sigma_xx`` is the identity.

    Directions whose variance is below ``rank_tolerance`` times the largest are left out (constant
    pixels have none), so n_in may shrink. Center first if the mean should not count as variance.
    """
    _, singular_values, directions = np.linalg.svd(data.x, full_matrices=False)
    if not singular_values[0] > 0:
        raise ValueError("x must vary between examples to be whitened, got all zeros")
    kept = singular_values**2 > rank_tolerance * singular_values[0] ** 2
    scale = np.sqrt(len(data.x)) / singular_values[kept]
    return Dataset(data.x @ directions[kept].T * scale, data.y)


def correlations(data: Dataset) -> Correlations:
    """Mean input and input-output correlations of a data set."""
    return Correlations(data.x.T @ data.x / len(data.x), data.y.T @ data.x / len(data.x))
