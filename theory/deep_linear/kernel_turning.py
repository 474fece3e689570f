"""How fast the tangent kernel of a two-layer linear network turns, exactly and on the lazy side.

Along the gradient flow ``dW1/dt = W2^T E``, ``dW2/dt = E W1^T`` (tau = 1) with
``E = Sigma_yx - W2 W1 Sigma_xx`` the Gram matrices of both layers, and hence the kernel, move by
the map ``M = W2 W1`` and E alone:

    d(W1^T W1)/dt = M^T E + E^T M,    d(W2 W2^T)/dt = E M^T + M E^T.

The kernel's direction K/|K| turns at the rate ``omega = |dK/dt - K <K, dK/dt>/|K|^2| / |K|`` in
radians per unit time, and ``S = 1 - cos`` grows as ``omega^2 dt^2 / 2``: S/dt is no rate.

Let ``F = alpha (M - M(0))`` be trained on D with the loss over alpha^2: the map M learns
``M(0) + D/alpha`` at unit rate. On white inputs, as alpha grows, E is ``e^(-K(0) t) D/alpha`` and
omega falls as 1/alpha; if M(0) = 0, as of two mirrored halves, M is of order 1/alpha as well and
omega falls as 1/alpha^2.

Derived here; the measure is that of Fort et al. (2020), arXiv 2010.15110.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative
from theory.checks import require
from theory.deep_linear.matrices import as_layers, as_matrices, require_shape
from theory.deep_linear.tangent_kernel import ntk_two_layer


def ntk_velocity(
    linear_map: Float[ArrayLike, "..."], error: Float[ArrayLike, "..."], X: Float[ArrayLike, "..."]
) -> Float[Array, "n n"]:
    """``dK/dt`` of ``ntk_two_layer`` along gradient flow, from the map M and the error E.

    ``I (x) X^T (M^T E + E^T M) X + (E M^T + M E^T) (x) X^T X``; M and E (outputs, inputs), X
    (inputs, P examples as columns), n = outputs P. Whatever the weights that make M.
    Raises ``ValueError`` for shapes that do not fit together, NaN.

    >>> ntk_velocity(jnp.array([[2.0]]), jnp.array([[3.0]]), jnp.array([[1.0]])).tolist()
    [[24.0]]
    """
    M, E = as_matrices(linear_map=linear_map, error=error)
    require_shape(M.shape, error=E)
    return ntk_two_layer(M.T @ E + E.T @ M, E @ M.T + M @ E.T, X)


def turning_rate(
    kernel: Float[ArrayLike, "..."], velocity: Float[ArrayLike, "..."]
) -> Float[Array, ""]:
    """Angular velocity ``omega`` of a kernel K with the velocity dK/dt, in radians per unit time.

    Growth without change of direction does not count. Raises ``ValueError`` for shapes that
    differ, NaN or a kernel that is zero.

    >>> float(turning_rate(jnp.diag(jnp.array([2.0, 0.0])), jnp.diag(jnp.array([5.0, 1.0]))))
    0.5
    """
    K, dK = as_matrices(kernel=kernel, velocity=velocity)
    require_shape(K.shape, velocity=dK)
    norm = jnp.linalg.norm(K)
    require("|kernel|", norm, lambda size: size > 0, "positive")
    direction = K / norm
    return jnp.linalg.norm(dK - direction * jnp.sum(direction * dK)) / norm


def kernel_distance(
    first: Float[ArrayLike, "..."], second: Float[ArrayLike, "..."]
) -> Float[Array, ""]:
    """``S = 1 - cos``, the angle between two kernels, to full relative accuracy if it is small.

    ``|K0/|K0| - K1/|K1||^2 / 2``. Raises ``ValueError`` for shapes that differ, NaN or zero.
    Source: Fort et al. (2020), arXiv 2010.15110.

    >>> float(kernel_distance(jnp.diag(jnp.array([2.0, 0.0])), jnp.diag(jnp.array([0.0, 3.0]))))
    1.0
    """
    first, second = as_matrices(first=first, second=second)
    require_shape(first.shape, second=second)
    norms = jnp.stack([jnp.linalg.norm(first), jnp.linalg.norm(second)])
    require("|kernel|", norms, lambda size: size > 0, "positive")
    return 0.5 * jnp.sum((first / norms[0] - second / norms[1]) ** 2)


def lazy_turning_rate(
    t: ArrayLike,
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    change: Float[ArrayLike, "..."],
) -> Float[Array, "*times"]:
    """``omega(t)`` where the kernel hardly moves: the linearised network's M and E, K frozen.

    ``change`` is D/alpha, what is added to the map: the target is ``W2 W1 + change``. White inputs,
    unit rate. W1 (hidden, inputs), W2 (outputs, hidden), change (outputs, inputs), t of any shape.

        E = e^(-K(0) t) change,   M = W2 W1 + change - E.

    Relative error of the order of the kernel's relative change: 1/alpha, and 1/alpha^2 if
    W2 W1 = 0. Raises ``ValueError`` for t < 0, shapes that do not fit together, NaN.

    >>> w = jnp.array([[1.0]])
    >>> lazy_turning_rate(jnp.zeros(2), w, w, 0.01 * w).tolist()  # one kernel entry: nothing turns
    [0.0, 0.0]
    """
    require_nonnegative(t=t)
    W1, W2 = as_layers(W1, W2)
    (change,) = as_matrices(change=change)
    require_shape((W2.shape[0], W1.shape[1]), change=change)
    (t,) = as_floats(t)
    inputs = jnp.eye(W1.shape[1], dtype=W1.dtype)
    kernel, start = ntk_two_layer(W1.T @ W1, W2 @ W2.T, inputs), W2 @ W1
    values, vectors = jnp.linalg.eigh(kernel)
    modes = vectors.T @ change.reshape(-1)

    def rate(t: Array) -> Array:
        error = (vectors @ (jnp.exp(-values * t) * modes)).reshape(change.shape)
        learned = (vectors @ (-jnp.expm1(-values * t) * modes)).reshape(change.shape)
        return turning_rate(kernel, ntk_velocity(start + learned, error, inputs))

    return jax.vmap(rate)(t.reshape(-1)).reshape(t.shape)
