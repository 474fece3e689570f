"""Online stochastic gradient descent of a linear model on Gaussian inputs: exact second moments.

Each step draws a fresh batch of B examples ``y = w*.x + noise``, x ~ N(0, Sigma), noise of variance
``noise_var``. In the eigenbasis of Sigma, eigenvalues lam, the moments m_i = E (w - w*)_i^2 close:

    m_i <- [(1 - lr lam_i)^2 + lr^2 lam_i^2 / B] m_i + (lr^2 / B) lam_i (lam.m + noise_var)

The map is a diagonal plus a multiple of lam lam^T, so its largest eigenvalue is below 1 if and
only if ``kappa < 1`` and every term of kappa is positive,

    kappa = sum_i lr lam_i / (2B - (B + 1) lr lam_i),

and the excess error ``lam.m`` then settles at ``noise_var kappa / (1 - kappa)``.

Conventions: loss ``1/2 (w.x - y)^2``, averaged over the batch; ``lam.m = E (w.x - w*.x)^2``.
Derived here, from the fourth moments of Gaussian inputs.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.checks import Count, require, require_count

NEWTON_STEPS = 12  # four reach rounding, over twelve decades of eigenvalues too


def sgd_second_moment(
    m: Float[ArrayLike, "..."],
    lam: Float[ArrayLike, "..."],
    lr: ArrayLike,
    noise_var: ArrayLike,
    batch: Count = 1,
) -> Float[Array, "... modes"]:
    """Second moments of the error after one more step, as in the module's head; exact.

    m and lam: (..., modes), broadcasting; lr and noise_var with their leading axes.
    Raises ``ValueError`` for m or lam without an axis or negative, lr not positive, noise_var
    negative, a batch that is not an integer >= 1.

    >>> sgd_second_moment(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.5]), 0.5, 2.0).tolist()
    [1.25, 0.375]
    """
    _require_spectrum(m=m, lam=lam)
    _require_settings(lr, noise_var, batch)
    lr, noise_var = (jnp.asarray(value)[..., None] for value in (lr, noise_var))
    m, lam, lr, noise_var = as_floats(m, lam, lr, noise_var)
    step, risk = lr * lam, jnp.sum(lam * m, axis=-1, keepdims=True)
    return ((1 - step) ** 2 + step**2 / batch) * m + lr * step / batch * (risk + noise_var)


def sgd_second_moment_matrix(
    lam: Float[ArrayLike, "..."], lr: ArrayLike, batch: Count = 1
) -> Float[Array, "modes modes"]:
    """The matrix A of the recursion, ``m <- A m + (lr^2 / B) noise_var lam``.

    ``A = diag((1 - lr lam)^2 + lr^2 lam^2 / B) + (lr^2 / B) lam lam^T``: symmetric and positive
    semi-definite, and its largest eigenvalue is the rate of mean-square convergence. lam: (modes,).
    Raises ``ValueError`` for lam not a vector or negative, lr not positive, a batch that is not an
    integer >= 1.

    >>> sgd_second_moment_matrix(jnp.array([1.0, 0.5]), 0.5).tolist()
    [[0.75, 0.125], [0.125, 0.6875]]
    """
    _require_spectrum(lam=lam)
    require("lam", lam, lambda lam: lam.ndim == 1, "a vector (modes,)")
    _require_settings(lr, 0.0, batch)
    (lam,) = as_floats(lam)
    step = lr * lam
    diagonal = (1 - step) ** 2 + step**2 / batch
    return jnp.diag(diagonal) + step[:, None] * step[None, :] / batch


def sgd_mean_square_edge(lam: Float[ArrayLike, "..."], batch: Count = 1) -> Float[Array, "..."]:
    """Learning rate at which the second moments of online descent stop converging.

    The root below ``2B / ((B+1) max lam)`` of ``sum_i lr lam_i / (2B - (B+1) lr lam_i) = 1``, for
    N equal eigenvalues ``2B / ((N + B + 1) lam)``. Large batches approach the edge of full-batch
    descent, ``2 / max lam``. lam: (..., modes). Differentiable, implicitly.
    Raises ``ValueError`` for lam without an axis, negative, or all zero, a batch that is not an
    integer >= 1.

    >>> round(float(sgd_mean_square_edge(jnp.ones(8))), 4)  # 2 / (8 + 2)
    0.2
    """
    _require_spectrum(lam=lam)
    require("lam", lam, lambda lam: (lam > 0).any(-1, keepdims=True), "positive somewhere")
    require_count(batch=batch)
    return _edge(lam, batch)


def sgd_stationary_excess(
    lam: Float[ArrayLike, "..."], lr: ArrayLike, noise_var: ArrayLike, batch: Count = 1
) -> Float[Array, "..."]:
    """Excess error ``lam.m`` that online descent settles at: ``noise_var kappa / (1 - kappa)``.

    kappa as in the module's head; inf from ``sgd_mean_square_edge`` on, where the moments diverge
    (for noise_var = 0 too). lam: (..., modes); lr and noise_var broadcast with its leading axes.
    Raises ``ValueError`` for lam without an axis or negative, lr not positive, noise_var negative,
    a batch that is not an integer >= 1.

    >>> round(float(sgd_stationary_excess(jnp.ones(8), 0.1, noise_var=1.0)), 4)  # kappa = 4/9
    0.8
    """
    _require_spectrum(lam=lam)
    _require_settings(lr, noise_var, batch)
    lr, noise_var = (jnp.asarray(value)[..., None] for value in (lr, noise_var))
    lam, lr, noise_var = as_floats(lam, lr, noise_var)
    step = lr * lam
    room = 2 * batch - (batch + 1) * step
    inside = jnp.all(room > 0, axis=-1)
    kappa = jnp.sum(step / jnp.where(inside[..., None], room, 1), axis=-1)
    stable = inside & (kappa < 1)
    noise = noise_var[..., 0]
    return jnp.where(stable, noise * kappa / jnp.where(stable, 1 - kappa, 1), jnp.inf)


@jax.jit
def _edge(lam, batch):
    # In units of the largest eigenvalue and with y = 2B / ((B+1) lr): sum_i r_i / (y - r_i) = B+1.
    # The reciprocal of the sum is concave and increasing in z = y - 1: from the left of the root
    # Newton's method climbs to it, never past; the top mode alone puts the root beyond 1/(B+1).
    (lam,) = as_floats(lam)
    top = jnp.max(lam, axis=-1, keepdims=True)
    r = lam / top
    goal = 1 / (jnp.asarray(batch, lam.dtype) + 1)

    def newton(_, z, r):
        terms = 1 / (z + (1 - r))
        total, slope = (jnp.sum(r * terms**n, axis=-1, keepdims=True) for n in (1, 2))
        return z + (goal - 1 / total) * total**2 / slope

    fixed = jax.lax.stop_gradient(r)
    start = jnp.full_like(top, goal)
    z = jax.lax.fori_loop(0, NEWTON_STEPS, lambda i, z: newton(i, z, fixed), start)
    z = newton(0, jax.lax.stop_gradient(z), r)  # whose derivative is that of the root
    return (2 * (1 - goal) / (top * (1 + z)))[..., 0]


def _require_spectrum(**values):
    require_nonnegative(**values)
    for name, value in values.items():
        if jnp.ndim(value) == 0 or jnp.size(value) == 0:
            raise ValueError(f"{name} must be (..., modes), got shape {jnp.shape(value)}")


def _require_settings(lr, noise_var, batch):
    require_positive(lr=lr)
    require_nonnegative(noise_var=noise_var)
    require_count(batch=batch)
