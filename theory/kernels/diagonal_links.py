"""How gradient flow moves a diagonal linear network: weights, potential and tangent kernel.

Model ``f(x) = beta . x``, ``beta = w_+^D - w_-^D`` elementwise, both w at alpha > 0 initially. On
any differentiable loss of the outputs X beta gradient flow moves the weights by

    D = 2:   w_pm = alpha e^(pm z/2),                 beta = 2 alpha^2 sinh(z)
    D >= 3:  w_pm = alpha (1 -+ z)^(-1/(D-2)),        beta = alpha^D h_D(z),
             h_D(z) = (1 - z)^(-D/(D-2)) - (1 + z)^(-D/(D-2)),  |z| < 1

where z = X^T nu is in the row space of X, nu minus the accumulated gradients of the loss in the
outputs, times 4 (D = 2) or D (D - 2) alpha^(D-2). So z is the gradient of a potential Q(beta), and
beta tells all there is to know at any time. Loss normalisation and time unit enter nu only.

X: (n, d), beta: (d,). Source: Woodworth et al. (2020), arXiv 2002.09277, for D = 2 and the link at
D >= 3; weights and kernels at D >= 3 derived here.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_positive
from theory.checks import Count, require_count

ROOT_STEPS = 12  # Newton's method for h_D^{-1}, from above on a convex function


def link(z: ArrayLike, *, depth: Count = 2) -> Float[Array, "..."]:
    """beta/alpha^D for a dual coordinate z: ``2 sinh(z)`` for D = 2, ``h_D(z)`` for D >= 3.

    Domain |z| < 1 for D >= 3 (outside: NaN). Raises ``ValueError`` unless D is an integer >= 2.

    >>> round(float(link(0.5, depth=4)), 6)  # 1/(1/2)^2 - 1/(3/2)^2
    3.555556
    """
    depth = as_depth(depth)
    (z,) = as_floats(z)
    if depth == 2:
        return 2 * jnp.sinh(z)
    # (1 - z)^-p - (1 + z)^-p without cancellation at small z
    p = depth / (depth - 2)
    return 2 * jnp.exp(-p / 2 * jnp.log1p(-z * z)) * jnp.sinh(p * jnp.arctanh(z))


def link_slope(z: ArrayLike, *, depth: Count = 2) -> Float[Array, "..."]:
    """Derivative of ``link``: ``2 cosh(z)``, or p [(1 - z)^(-p-1) + (1 + z)^(-p-1)], p = D/(D - 2).

    Domain and errors as for ``link``.

    >>> float(link_slope(0.0, depth=4))
    4.0
    """
    depth = as_depth(depth)
    (z,) = as_floats(z)
    if depth == 2:
        return 2 * jnp.cosh(z)
    p = depth / (depth - 2)
    return p * ((1 - z) ** (-p - 1) + (1 + z) ** (-p - 1))


def inverse_link(b: ArrayLike, *, depth: Count = 2) -> Float[Array, "..."]:
    """The dual coordinate z of ``b = beta/alpha^D``: ``arcsinh(b/2)``, or ``h_D^{-1}(b)``.

    Raises ``ValueError`` unless D is an integer >= 2 and b finite.

    >>> round(float(inverse_link(32 / 9, depth=4)), 12)
    0.5
    """
    depth = as_depth(depth)
    require_finite(b=b)
    (b,) = as_floats(b)
    if depth == 2:
        return jnp.arcsinh(b / 2)
    p, size = depth / (depth - 2), jax.lax.stop_gradient(jnp.abs(b))

    # h is convex on [0, 1) and (1 - z)^-p <= b + 1 at the root: Newton's steps only go down.
    def improve(_, z):
        return jnp.maximum(z - (link(z, depth=depth) - size) / link_slope(z, depth=depth), 0.0)

    z = jax.lax.fori_loop(0, ROOT_STEPS, improve, -jnp.expm1(-jnp.log1p(size) / p))
    z = jnp.sign(b) * z
    # one step more, differentiable in b
    return z + (b - jax.lax.stop_gradient(b)) / link_slope(z, depth=depth)


def potential(beta: ArrayLike, alpha: ArrayLike, *, depth: Count = 2) -> Float[Array, ""]:
    """``Q(beta) = alpha^D sum_i q_D(beta_i/alpha^D)``, least at the end of gradient flow.

    For alpha -> infinity |beta|^2/(4 alpha^2) (D = 2); for alpha -> 0 ``log(1/alpha^2) |beta|_1``
    to leading order (D = 2), |beta|_1 (D >= 3). beta: (d,). Raises ``ValueError`` unless beta is
    finite, alpha positive and D an integer >= 2.

    >>> round(float(potential(jnp.array([0.2, 0.0]), alpha=10.0)), 9)  # 0.04/400
    0.0001
    """
    depth = as_depth(depth)
    require_finite(beta=beta)
    require_positive(alpha=alpha)
    beta, alpha = as_floats(beta, alpha)
    b = beta / alpha**depth
    z = inverse_link(b, depth=depth)
    if depth == 2:
        conjugate = 4 * jnp.sinh(z / 2) ** 2  # 2 cosh z - 2
    else:
        # [(1 - z)^(1-p) + (1 + z)^(1-p) - 2]/(p - 1), p - 1 = 2/(D - 2), as a sum of positive terms
        power = 2 / (depth - 2)
        even = jnp.expm1(-power / 2 * jnp.log1p(-z * z))
        odd = power * jnp.arctanh(z)
        conjugate = 2 / power * (even * jnp.cosh(odd) + 2 * jnp.sinh(odd / 2) ** 2)
    return jnp.sum(alpha**depth * (b * z - conjugate))


def flow_weights(
    beta: ArrayLike, alpha: ArrayLike, *, depth: Count = 2
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The weights (w_+, w_-) at which gradient flow from alpha computes beta, at any time.

    Raises ``ValueError`` unless beta is finite, alpha positive and D an integer >= 2.

    >>> plus, minus = flow_weights(jnp.array([0.0, 1.5]), alpha=1.0)
    >>> [round(float(w), 4) for w in plus], (plus * minus).round(12).tolist()
    ([1.0, 1.4142], [1.0, 1.0])
    """
    depth = as_depth(depth)
    require_finite(beta=beta)
    require_positive(alpha=alpha)
    beta, alpha = as_floats(beta, alpha)
    z = inverse_link(beta / alpha**depth, depth=depth)
    if depth == 2:
        return alpha * jnp.exp(z / 2), alpha * jnp.exp(-z / 2)
    power = -1 / (depth - 2)
    return alpha * (1 - z) ** power, alpha * (1 + z) ** power


def flow_tangent_kernel(
    X: ArrayLike, beta: ArrayLike, alpha: ArrayLike, *, depth: Count = 2
) -> Float[Array, "n n"]:
    """Tangent kernel along the flow, a function of beta alone.

        K = D^2 X diag(w_+^(2D-2) + w_-^(2D-2)) X^T
          = 4 X diag(sqrt(beta^2 + 4 alpha^4)) X^T     for D = 2.

    The kernel of f itself: outputs under the loss c |X beta - y|^2 move at the rate 2 c K. Raises
    ``ValueError`` unless shapes fit, X and beta are finite, alpha positive, D an integer >= 2.

    >>> flow_tangent_kernel(jnp.eye(2), jnp.array([0.0, 1.5]), alpha=1.0).round(6).tolist()
    [[8.0, 0.0], [0.0, 10.0]]
    """
    X, beta = as_problem(X, beta=beta)
    plus, minus = flow_weights(beta, alpha, depth=depth)
    power = 2 * as_depth(depth) - 2
    return depth**2 * (X * (plus**power + minus**power)[None, :]) @ X.T


def as_problem(X: ArrayLike, **vector: ArrayLike) -> list[Array]:
    """X (n, d) and the one named vector, y (n,) or beta (d,), in their common floating dtype.

    Raises ``ValueError`` for other shapes, NaN or infinity.

    >>> as_problem(jnp.ones((2, 3)), y=jnp.ones(3))
    Traceback (most recent call last):
        ...
    ValueError: y must have shape (2,), got (3,)
    """
    ((name, value),) = vector.items()
    if jnp.ndim(X) != 2 or jnp.size(X) == 0:
        raise ValueError(f"X must be a matrix (examples, features), got shape {jnp.shape(X)}")
    length = jnp.shape(X)[1 if name == "beta" else 0]
    if jnp.shape(value) != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {jnp.shape(value)}")
    require_finite(X=X, **vector)
    dtype = jnp.result_type(X, value, 1.0)
    return [jnp.asarray(X, dtype), jnp.asarray(value, dtype)]


def as_depth(depth: Count) -> int:
    """The depth D as an int; ``ValueError`` unless it is an integer >= 2.

    >>> as_depth(3)
    3
    """
    require_count(depth=depth, least=2)
    return int(depth)
