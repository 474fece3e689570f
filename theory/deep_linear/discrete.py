"""Gradient descent with a finite learning rate: what it does that gradient flow does not.

Full batch: the balance of layers, which flow conserves, drifts by an exact second-order term; a
step of Euler's method follows a modified flow to second order; and the first-order error of any
one-dimensional descent has a closed form. Online (stochastic) gradient descent of a linear model:
``sgd_moments``, re-exported here.

Conventions: loss 1/2 squared error; one update is ``W <- W - lr dLoss/dW`` and lasts ``t = lr``
(tau = 1). E (outputs, inputs) is the residual correlation ``-dLoss/d(W2 W1)``, that is,
``Sigma_yx - W2 W1 Sigma_xx`` for the squared error.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_positive
from theory.checks import is_concrete, require
from theory.deep_linear.matrices import as_layers, as_matrices, require_shape
from theory.deep_linear.sgd_moments import (
    sgd_mean_square_edge,
    sgd_second_moment,
    sgd_second_moment_matrix,
    sgd_stationary_excess,
)

__all__ = [
    "balance_drift",
    "gd_error_leading",
    "mode_imbalance_path",
    "modified_flow",
    "sgd_mean_square_edge",
    "sgd_second_moment",
    "sgd_second_moment_matrix",
    "sgd_stationary_excess",
]


def balance_drift(
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    E: Float[ArrayLike, "..."],
    lr: ArrayLike,
) -> Float[Array, "hidden hidden"]:
    """Exact change of the imbalance ``W2^T W2 - W1 W1^T`` in one step of gradient descent.

    ``lr^2 (W1 E^T E W1^T - W2^T E E^T W2)``, for any loss of the product W2 W1 and any data; the
    terms of first order, all there is under gradient flow, cancel. W1: (hidden, inputs); W2:
    (outputs, hidden); E: (outputs, inputs), see the module's head. With minibatches E is the
    minibatch's. Raises ``ValueError`` for shapes that do not match, lr not positive, NaN.
    Source: derived here; under flow: Arora, Cohen & Hazan 2018, arXiv:1802.06509.

    >>> W1, W2, E = jnp.array([[2.0]]), jnp.array([[1.0]]), jnp.array([[0.5]])
    >>> balance_drift(W1, W2, E, lr=0.5).tolist()
    [[0.1875]]
    """
    W1, W2, E = as_matrices(W1=W1, W2=W2, E=E)
    as_layers(W1, W2)
    require_shape((W2.shape[0], W1.shape[1]), E=E)
    require_positive(lr=lr)
    forward, backward = E @ W1.T, E.T @ W2
    return jnp.asarray(lr, E.dtype) ** 2 * (forward.T @ forward - backward.T @ backward)


def mode_imbalance_path(
    imbalance: ArrayLike, residuals: Float[ArrayLike, "..."], lr: ArrayLike
) -> Float[Array, "... steps"]:
    """Imbalance ``c = a^2 - b^2`` of a two-layer mode after each of the steps of gradient descent.

    ``c_k = c_0 prod_{j<k} (1 - lr^2 e_j^2)``, exactly, where step j is ``a += lr b e_j, b += lr a
    e_j``: e_j = s - a b for the full batch; with any noise added to it this still holds, which is
    how label noise balances layers. residuals: (..., steps), e_0 first; imbalance and lr broadcast
    with its leading axes. Raises ``ValueError`` for residuals without an axis, lr not positive,
    NaN. Source: derived here.

    >>> mode_imbalance_path(3.0, jnp.array([1.0, 2.0]), lr=0.5).tolist()
    [2.25, 0.0]
    """
    require("residuals", residuals, lambda e: e.ndim > 0, "an array (..., steps)")
    require_finite(imbalance=imbalance, residuals=residuals)
    require_positive(lr=lr)
    c, lr = (jnp.asarray(value)[..., None] for value in (imbalance, lr))
    c, residuals, lr = as_floats(c, residuals, lr)
    step = lr * residuals
    return c * jnp.cumprod((1 - step) * (1 + step), axis=-1)


def modified_flow(f: Callable[[Any], Any], lr: ArrayLike) -> Callable[[Any], Any]:
    """The flow that gradient descent follows one order better than ``dx/dt = f(x)``.

    Returns ``x -> f(x) - (lr/2) f'(x) f(x)``, whose solution at ``t = k lr`` is within O(lr^2) of
    step k of ``x <- x + lr f(x)``; that of f itself is within O(lr). For a gradient ``f = -dL/dx``
    it is the flow on ``L + (lr/4) |dL/dx|^2``. x is any pytree of arrays, f maps it to one alike.
    Raises ``ValueError`` unless lr is positive.
    Source: backward error analysis; Barrett & Dherin 2021, arXiv:2009.11162.

    >>> float(modified_flow(lambda x: -2.0 * x, lr=0.5)(3.0))
    -9.0
    """
    require_positive(lr=lr)

    def flow(x):
        x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, 1.0)), x)
        velocity = f(x)
        _, acceleration = jax.jvp(f, (x,), (velocity,))
        return jax.tree.map(lambda v, a: v - lr / 2 * a, velocity, acceleration)

    return flow


def gd_error_leading(
    f: Callable[[Array], Array], a: ArrayLike, a0: ArrayLike, lr: ArrayLike
) -> Array:
    """Leading error of gradient descent on one variable: step k minus the flow at ``t = k lr``.

    ``-(lr/2) f(a) ln(f(a) / f(a0))`` up to O(lr^2), where ``da/dt = f(a)`` goes from a0 to a in the
    time t. No other property of f enters. f acts elementwise; a, a0 and lr broadcast. 0 where a is
    an equilibrium. Raises ``ValueError`` if f changes sign between a0 and a (no flow passes), lr is
    not positive, NaN. Source: derived here.

    >>> round(float(gd_error_leading(lambda a: 1.0 - a, 0.5, 0.0, lr=0.1)), 5)  # (lr/4) ln 2
    0.01733
    """
    require_finite(a=a, a0=a0)
    require_positive(lr=lr)
    a, a0, lr = as_floats(a, a0, lr)
    end, start = jnp.broadcast_arrays(jnp.asarray(f(a), a.dtype), jnp.asarray(f(a0), a.dtype))
    if is_concrete(end, start):
        passed = np.asarray((end == 0) | (end * start > 0))
        require("a", a, lambda _: passed, "where the flow from a0 leads: f must keep its sign")
    moving = (end != 0) & (start != 0)
    log_ratio = jnp.log(jnp.abs(jnp.where(moving, end, 1) / jnp.where(moving, start, 1)))
    return -lr / 2 * end * log_ratio
