"""Two-layer linear networks solved as whole matrices: the Riccati equation of Fukumizu.

Stack the weights, ``Q = [W1^T; W2]`` (inputs + outputs = N, hidden). On whitened inputs, and if
``W2^T W2 - W1 W1^T = lambda I`` at the start (a single hidden unit always is), gradient flow obeys

    tau dP/dt = F P + P F - P^2,    P = Q Q^T = [[W1^T W1, (W2 W1)^T], [W2 W1, W2 W2^T]],
    F = [[-lambda/2 I, Sigma_yx^T], [Sigma_yx, lambda/2 I]],

with ``- gamma I`` added to F for weight decay gamma on each layer (lambda = 0). The blocks of P
are the map, and the kernels of the two layers; the weights follow up to a rotation of the hidden
units. No assumption on ranks, dimensions or invertibility.

Conventions: loss ``1/2 tr (Sigma - W2 W1)(Sigma - W2 W1)^T``; whether correlations are sums or
means over examples is the caller's choice and sets the unit of ``tau``. Gradient descent with
learning rate eta has ``tau = 1`` and ``t = eta * step``. A new task is a new F: feed a factor of P
at the switch. A rate per layer: ``rescale_layer_rates``.

Sources: Fukumizu 1998; Braun, Domine, Fitzgerald & Saxe 2022; Domine et al. 2024, arXiv:2409.14623.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.checks import Count, is_concrete, require, require_count
from theory.deep_linear.balanced_initialization import (
    balanced_init,
    hidden_orthogonal_init,
    wide_mode_imbalance,
)
from theory.deep_linear.imbalance import (
    RescaledProblem,
    determinant_obstruction,
    imbalance_matrix,
    is_feasible_imbalance,
    is_lambda_balanced,
    rescale_layer_rates,
)
from theory.deep_linear.matrices import (
    as_layers,
    as_matrices,
    factor_qqt,
    require_shape,
    require_symmetric,
    require_white,
)
from theory.deep_linear.riccati_flow import riccati_factor, riccati_limit

__all__ = [
    "RescaledProblem",
    "RiccatiLimit",
    "balanced_init",
    "determinant_obstruction",
    "factor_qqt",
    "fukumizu_matrix",
    "hidden_orthogonal_init",
    "imbalance_matrix",
    "is_feasible_imbalance",
    "is_lambda_balanced",
    "qqt",
    "qqt_factor",
    "qqt_limit",
    "rescale_layer_rates",
    "split_qqt",
    "stack_weights",
    "wide_mode_imbalance",
]


class RiccatiLimit(NamedTuple):
    """What a balanced network ends with: P(inf) and its rank, the number of modes ``learned``.

    learned = 0 is a network that has collapsed. ``missed`` counts the modes that there are hidden
    units for but that the start has no overlap with: above 0, the end is a saddle.
    """

    qqt: Float[Array, "N N"]
    learned: Int[Array, ""]
    missed: Int[Array, ""]


def stack_weights(
    W1: Float[ArrayLike, "..."], W2: Float[ArrayLike, "..."]
) -> Float[Array, "N hidden"]:
    """``Q = [W1^T; W2]`` of W1 (hidden, inputs), W2 (outputs, hidden); N = inputs + outputs.

    Raises ``ValueError`` for layers that do not fit together, NaN or infinity.

    >>> stack_weights(jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])).tolist()
    [[1.0], [2.0], [3.0]]
    """
    W1, W2 = as_layers(W1, W2)
    return jnp.concatenate([W1.T, W2])


def fukumizu_matrix(
    sigma_yx: Float[ArrayLike, "..."],
    imbalance: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    sigma_xx: Float[ArrayLike, "..."] | None = None,
) -> Float[Array, "N N"]:
    """``F = [[-(lambda/2 + gamma) I, Sigma_yx^T], [Sigma_yx, (lambda/2 - gamma) I]]``.

    sigma_yx: (outputs, inputs) of whitened inputs, N = inputs + outputs; imbalance lambda (a
    number) of ``W2^T W2 - W1 W1^T``; weight_decay gamma adds ``gamma/2 (|W1|^2 + |W2|^2)`` to the
    loss. Eigenvalues: ``+-sqrt(s_i^2 + lambda^2/4) - gamma``, and ``+-lambda/2 - gamma`` (sign of
    outputs - inputs) |outputs - inputs| times. gamma >= s_1 collapses the network to zero.

    ``sigma_xx`` (inputs, inputs), if given, is only checked: that the inputs are white.
    Raises ``ValueError`` if they are not, for a shape that is not a matrix, NaN, a negative weight
    decay, and imbalance with weight decay (lambda then decays, which no known closed form covers).
    Source: Fukumizu 1998; Domine et al. 2024, arXiv:2409.14623.

    >>> fukumizu_matrix(jnp.array([[3.0]]), imbalance=2.0).tolist()
    [[-1.0, 3.0], [3.0, 1.0]]
    """
    (task,) = as_matrices(sigma_yx=sigma_yx)
    require_finite(imbalance=imbalance)
    require_nonnegative(weight_decay=weight_decay)
    if is_concrete(weight_decay) and np.any(np.asarray(weight_decay) != 0):
        require("imbalance", imbalance, lambda x: x == 0, "0 with weight decay")
    n_out, n_in = task.shape
    if sigma_xx is not None:
        require_white(sigma_xx, n_in)
    half, decay = 0.5 * jnp.asarray(imbalance, task.dtype), jnp.asarray(weight_decay, task.dtype)
    upper = jnp.concatenate([-(half + decay) * jnp.eye(n_in, dtype=task.dtype), task.T], axis=1)
    lower = jnp.concatenate([task, (half - decay) * jnp.eye(n_out, dtype=task.dtype)], axis=1)
    return jnp.concatenate([upper, lower])


def qqt(
    t: ArrayLike, Q0: Float[ArrayLike, "..."], F: Float[ArrayLike, "..."], tau: ArrayLike = 1.0
) -> Float[Array, "*times N N"]:
    """``P(t) = Q Q^T``, the exact solution of ``tau dP/dt = F P + P F - P^2`` from ``Q0 Q0^T``.

        P = e^{Ft} Q0 [I + Q0^T Phi Q0]^{-1} Q0^T e^{Ft},   Phi = int_0^t e^{2Fs} ds   (tau = 1)

    evaluated without overflow at any finite t >= 0. t: any shape; Q0: (N, hidden), F: (N, N)
    symmetric, of any rank. Error: a few roundings of |P|, times f t while modes grow. What Q0 holds
    of a growing eigenvector within rounding (8 N eps |Q0|) counts as nothing: a start in a saddle
    stays there. Differentiable to any order in t, by the equation itself, and once in Q0 and F,
    also where eigenvalues repeat, as 0 does for inputs != outputs.

    Raises ``ValueError`` for t < 0, tau <= 0, shapes that do not fit, an asymmetric F, NaN.
    Source: Fukumizu 1998; Braun et al. 2022; the overflow-free form is derived here.

    >>> F = fukumizu_matrix(jnp.array([[1.0]]))  # one mode from u0 = 0.01: the logistic function
    >>> P = qqt(jnp.array([2.2976, 1e4]), jnp.full((2, 1), 0.1), F)
    >>> [round(float(u), 4) for u in P[:, 1, 0]]
    [0.5, 1.0]
    """
    return _square(qqt_factor(t, Q0, F, tau))


def qqt_factor(
    t: ArrayLike, Q0: Float[ArrayLike, "..."], F: Float[ArrayLike, "..."], tau: ArrayLike = 1.0
) -> Float[Array, "*times N rank"]:
    """A factor Q(t) of ``qqt(t, Q0, F, tau) = Q Q^T``, with min(N, hidden) columns.

    The weights up to a rotation of the hidden units: what to continue from on another task, with
    twice the digits for small weights that a factor of P would have. Arguments, derivatives (of
    whatever does not depend on the rotation) and errors are those of ``qqt``.

    >>> F = fukumizu_matrix(jnp.array([[1.0]]))
    >>> Q1 = qqt_factor(1.0, jnp.full((2, 1), 0.1), F)
    >>> round(float(qqt(1.2976, Q1, F)[1, 0]), 4)
    0.5
    """
    require_nonnegative(t=t)
    require_positive(tau=tau)
    Q0, F = _start_and_generator(Q0, F)
    t, tau = as_floats(t, tau)
    return _factor((t / tau).astype(Q0.dtype), Q0, F)


def qqt_limit(Q0: Float[ArrayLike, "..."], F: Float[ArrayLike, "..."]) -> RiccatiLimit:
    """Where ``qqt`` ends: ``P(inf)``, with the number of modes learned and missed.

    From a generic start ``P = 2 F`` restricted to its largest eigenvalues, as many as are positive
    and as there are hidden units. Then ``W2 W1`` is the best rank-``hidden`` approximation of
    Sigma_yx, with weight decay its singular values less gamma where positive; and
    ``W1^T W1 = V (sqrt(S^2 + lambda^2/4) - lambda/2) V^T``,
    ``W2 W2^T = U (sqrt(S^2 + lambda^2/4) + lambda/2) U^T``. A start with no overlap (within
    rounding) with an eigenvector ends in a saddle instead, and ``missed`` says so: see
    ``determinant_obstruction``. Eigenvalues within 8 N eps of each other count as equal; if only
    part of them fits into the hidden units, the start decides which.

    The derivative with respect to F is that of the equilibrium (an eigenvalue repeated across the
    cut has none), with respect to Q0 it is 0. Raises ``ValueError`` for shapes that do not
    fit, an asymmetric F, NaN. Source: Braun et al. 2022; Domine et al. 2024, arXiv:2409.14623.

    >>> F = fukumizu_matrix(jnp.diag(jnp.array([2.0, 1.0])))
    >>> end = qqt_limit(jnp.array([[0.1], [0.2], [0.1], [0.2]]), F)  # one hidden unit
    >>> (split_qqt(end.qqt, 2)[1].round(3) + 0.0).tolist(), int(end.learned), int(end.missed)
    ([[2.0, 0.0], [0.0, 0.0]], 1, 0)
    """
    Q0, F = _start_and_generator(Q0, F)
    P, learned, growing = _limit(Q0, F)
    missed = jnp.minimum(growing, Q0.shape[1]) - learned
    return RiccatiLimit(P, learned.astype(int), missed.astype(int))


def split_qqt(
    P: Float[ArrayLike, "..."], n_in: Count
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """The blocks ``(W1^T W1, W2 W1, W2 W2^T)`` of P (..., N, N), inputs = n_in first.

    Raises ``ValueError`` unless P is square (in its last two axes) and 1 <= n_in < N.

    >>> [float(block[0, 0]) for block in split_qqt(jnp.array([[1.0, 2.0], [2.0, 4.0]]), 1)]
    [1.0, 2.0, 4.0]
    """
    (P,) = as_floats(P)
    require_count(n_in=n_in)
    if P.ndim < 2 or P.shape[-1] != P.shape[-2] or n_in >= P.shape[-1]:
        raise ValueError(f"P must be square and larger than n_in = {n_in}, got shape {P.shape}")
    return P[..., :n_in, :n_in], P[..., n_in:, :n_in], P[..., n_in:, n_in:]


_limit = jax.jit(riccati_limit)


@jax.jit
def _factor(t: Array, Q0: Array, F: Array) -> Array:
    factors = jax.vmap(riccati_factor, (0, None, None))(t.ravel(), Q0, F)
    return factors.reshape(*t.shape, *factors.shape[1:])


@jax.jit
def _square(Q: Array) -> Array:
    return Q @ jnp.swapaxes(Q, -1, -2)


def _start_and_generator(Q0: ArrayLike, F: ArrayLike) -> list[Array]:
    Q0, F = as_matrices(Q0=Q0, F=F)
    require_shape((F.shape[0], F.shape[0]), F=F)
    require_shape((F.shape[0], Q0.shape[1]), Q0=Q0)
    require_symmetric("F", F)
    return [Q0, F]
