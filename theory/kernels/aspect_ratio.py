"""How deep for its width: mutual information of the outputs of a random network, as a series.

Given the last hidden layer the outputs of a random network are independent Gaussians of one random
variance G (``theory.kernels.depth_recursions``). Its relative variance ``u = V/(n K^2) = nu r``,
r = depth/width, makes outputs statistically dependent: depth stores correlations. The series is
one in u; u itself is nu r to first order only (of ReLU networks u = e^(5 r) - 1), so that as a
series in r its third coefficient would be another.

Source: Roberts, Yaida & Hanin (2021), arXiv 2106.10165; the coefficients are rederived here.
"""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_positive
from theory.checks import Count, require_count


def information_series(
    aspect_ratio: ArrayLike, n_first: ArrayLike, n_second: ArrayLike, *, vertex_slope: ArrayLike
) -> Float[Array, "..."]:
    """Mutual information (nats) of n_1 and n_2 outputs at aspect ratio r = depth/width, truncated.

        I = n_1 n_2 [u^2/8 - (20 + 3 (n_1 + n_2)) u^3/48 + O(u^4)],    u = nu r = Var(G)/K^2

    where outputs are Gaussians sharing the random variance G. A series: at order u^2 depth makes
    outputs dependent; the sign of the next term is what makes a maximum. The untruncated
    information of a lognormal G rises monotonically well beyond it. Arguments broadcast.

    Raises ``ValueError`` for an aspect ratio, a number of outputs or a slope that is not positive.
    Source: Roberts, Yaida & Hanin (2021), arXiv 2106.10165; the coefficients rederived here.

    >>> round(float(information_series(0.1, 1, 1, vertex_slope=1.0)), 6)
    0.000708
    """
    require_positive(aspect_ratio=aspect_ratio, n_first=n_first, n_second=n_second)
    require_positive(vertex_slope=vertex_slope)
    r, n_1, n_2, nu = as_floats(aspect_ratio, n_first, n_second, vertex_slope)
    u = nu * r
    return n_1 * n_2 * (u**2 / 8 - (20 + 3 * (n_1 + n_2)) * u**3 / 48)


def optimal_aspect_ratio(n_outputs: Count, vertex_slope: ArrayLike) -> Float[Array, "..."]:
    """Depth over width at which the *truncated* mutual information of the outputs is largest.

        r* = 4/((20 + 3 n_L) nu)

    with n_L = ``n_outputs`` split into two groups of any sizes, nu = lim V/(l K^2) (2/3 for K* = 0,
    5 for ReLU, 2 for a linear network). The maximum belongs to ``information_series``, cut after
    the third order, and not to the information itself, which need not have one: a scale for the
    aspect ratio where the expansion in depth/width stops being small, rather than an optimum.

    Raises ``ValueError`` unless n_outputs is an integer >= 1 and the slope positive.
    Source: Roberts, Yaida & Hanin (2021), arXiv 2106.10165.

    >>> round(float(optimal_aspect_ratio(10, vertex_slope=2 / 3)), 6)
    0.12
    """
    require_count(n_outputs=n_outputs)
    require_positive(vertex_slope=vertex_slope)
    (nu,) = as_floats(vertex_slope)
    return 4 / ((20 + 3 * n_outputs) * nu)
