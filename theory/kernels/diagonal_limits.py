"""Both ends of the path of diagonal linear networks: the minimum l2 and the minimum l1 norm.

The end beta_inf of gradient flow from weights alpha (``diagonal_linear``) tends to pinv(X) y for
alpha -> infinity, with error alpha^(-2D), and for alpha -> 0 to the least l1 norm, with error

    D = 2:  alpha^(2 (1 - m)),   D >= 3:  alpha^D,

m the largest |x_i . nu| off the support, for the nu with x_i . nu = sign(beta_i) on the support
that makes it least. For a generic y the support has n entries, and nu is the only one.

Source: Woodworth et al. (2020), arXiv 2002.09277, for the limits; the rates are derived here.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.optimize import linprog

from theory.checks import Count
from theory.kernels.diagonal_links import as_depth, as_problem


class PathEnds(NamedTuple):
    """``least_l2`` and ``least_l1`` (d,), and the largest dual value off the support of the latter.

    ``dual_bound`` is m < 1; if it is 1, the solution of least l1 norm is not unique.
    """

    least_l2: Float[np.ndarray, " d"]
    least_l1: Float[np.ndarray, " d"]
    dual_bound: float


def path_ends(X: ArrayLike, y: ArrayLike, *, zero: float = 1e-9) -> PathEnds:
    """The solutions of X beta = y of least l2 and least l1 norm, by two linear programs.

    Coefficients below ``zero`` times the largest count as off the support. X: (n, d), y: (n,), in
    NumPy. Raises ``ValueError`` unless shapes fit, X and y are finite and y can be reached.

    >>> ends = path_ends(np.array([[1.0, 2.0]]), np.array([2.0]))
    >>> ends.least_l2.round(6).tolist(), ends.least_l1.tolist(), ends.dual_bound
    ([0.4, 0.8], [0.0, 1.0], 0.5)
    """
    X, y = (np.asarray(array, float) for array in as_problem(X, y=y))
    n, d = X.shape
    least = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y)
    if not least.success:
        raise ValueError(f"y must be reached by X beta, got {y}: {least.message}")
    beta = least.x[:d] - least.x[d:]
    on = np.abs(beta) > zero * np.abs(beta).max(initial=0)
    off, bound = X[:, ~on].T, -np.ones((np.sum(~on), 1))
    dual = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.block([[off, bound], [-off, bound]]),
        b_ub=np.zeros(2 * len(off)),
        A_eq=np.c_[X[:, on].T, np.zeros(on.sum())],
        b_eq=np.sign(beta[on]),
        bounds=[(None, None)] * n + [(0, None)],
    )
    return PathEnds(np.linalg.pinv(X) @ y, beta, float(dual.fun))


def approach_exponents(
    dual_bound: ArrayLike, *, depth: Count = 2
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Powers of alpha in the distance to the least l1 (alpha -> 0) and l2 (alpha -> inf) norm.

    ``2 (1 - m)`` or D, and ``-2 D``; for m = ``dual_bound`` of any shape. Raises ``ValueError``
    unless D is an integer >= 2.

    >>> [float(power) for power in approach_exponents(0.5)]
    [1.0, -4.0]
    """
    depth, m = as_depth(depth), np.asarray(dual_bound, float)
    rich = np.asarray(2 * (1 - m)) if depth == 2 else np.full(m.shape, float(depth))
    return rich, np.full(m.shape, -2.0 * depth)
