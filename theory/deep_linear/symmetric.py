"""Checks of matrices that a formula takes for symmetric, or for covariances."""

import jax.numpy as jnp
from jax import Array

from theory.checks import is_concrete, require


def require_symmetric(**matrices: Array) -> None:
    """Raise ``ValueError`` for a matrix with a skew part beyond ``measured_rounding``.

    >>> require_symmetric(Wp=jnp.array([[1.0, 0.5], [0.0, 1.0]]))
    Traceback (most recent call last):
        ...
    ValueError: Wp must be symmetric, got a skew part of 0.5
    """
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"{name} must be symmetric, got shape {matrix.shape}")
        if is_concrete(matrix):
            skew = float(jnp.max(jnp.abs(matrix - matrix.T)))
            if not skew <= measured_rounding(matrix):
                raise ValueError(f"{name} must be symmetric, got a skew part of {skew:.3g}")


def require_semidefinite(**matrices: Array) -> None:
    """Raise ``ValueError`` for an asymmetric matrix or one with a negative eigenvalue.

    Eigenvalues down to ``-measured_rounding`` pass.

    >>> require_semidefinite(F=jnp.diag(jnp.array([1.0, -1.0])))
    Traceback (most recent call last):
        ...
    ValueError: eigenvalues of F must be non-negative, got -1.0
    """
    require_symmetric(**matrices)
    for name, matrix in matrices.items():
        if is_concrete(matrix):
            least = jnp.linalg.eigvalsh(matrix)[0]
            passed = bool(least >= -measured_rounding(matrix))
            require(f"eigenvalues of {name}", least, lambda _, ok=passed: ok, "non-negative")


def measured_rounding(matrix: Array) -> float:
    """What passes for rounding in a measured matrix: ``100 sqrt(epsilon)`` of its largest entry.

    >>> measured_rounding(jnp.array([[-2.0]], jnp.float16))
    6.25
    """
    return 100 * float(jnp.finfo(matrix.dtype).eps) ** 0.5 * float(jnp.max(jnp.abs(matrix)))
