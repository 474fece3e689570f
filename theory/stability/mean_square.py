"""Exact mean-square linear stability of SGD, from the n x n tangent Gram of the data.

Gradient descent on an interpolating minimum is linearly stable while ``eta <= 2/lmax(H)``. The
second moment of minibatch SGD already grows beyond an ``eta*`` that depends on the batch size and
on every sample: the spectral radius of a d^2 x d^2 operator, here through the operator T on n
blocks (``theory.stability.transfer``), with one eigenvalue problem per evaluation. Full batches
without replacement have no noise, and GD's threshold.

Conventions (``theory.stability.gram``): loss (1/n) sum_i 1/2 |f_i - y_i|^2, eta multiplies its
gradient averaged over a batch; batches are independent from step to step, drawn with or without
replacement *within* a batch. Visiting every sample once an epoch (reshuffling) is another process,
and more stable: see ``theory.stability.pathwise``.

Gram: (n, n), or (n, c, n, c) for c outputs; float64; H's nonzero eigenvalues are those of K/n.
Derived here; the operator and its threshold in d^2 dimensions are those of Mulayoff & Michaeli
(2024), "Exact Mean Square Linear Stability Analysis for SGD", arXiv 2306.07850, Theorem 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.checks import Count, require
from theory.stability.gram import GramModes, as_gram, gram_modes, mixing_weight
from theory.stability.krylov import TopEigenpair, increasing_root
from theory.stability.transfer import (
    between_modes,
    growth_delta,
    has_rank,
    identity_blocks,
    inverted,
    pairs,
    threshold_delta,
    top_transfer,
)

NEWTON_STEPS = 30  # more than quadratic convergence can need
SCAN = 24  # learning rates at which a heavy ball's stability is looked at before the root is found


class Threshold(NamedTuple):
    """A learning rate at the edge of stability, and whether the solver converged to it."""

    learning_rate: Float[Array, ""]
    converged: Bool[Array, ""]


class Growth(NamedTuple):
    """Growth of the second moment per step on the range of H, and what grows.

    ``share`` (n,) sums to 1: every sample's part in the mean squared output error of the leading
    second-moment mode, that is, which samples carry the instability.
    """

    rate: Float[Array, ""]
    share: Float[Array, " n"]
    converged: Bool[Array, ""]


def mean_threshold(gram: ArrayLike, momentum: float = 0.0) -> Float[Array, ""]:
    """Learning rate at which the mean of SGD, and gradient descent, become unstable.

        eta = (2 + 2 beta) / lmax(H)

    Raises ``ValueError`` for a bad Gram or a momentum outside [0, 1).

    >>> float(mean_threshold(np.diag([2.0, 8.0])))
    0.5
    """
    _require_momentum(momentum)
    return (2 + 2 * momentum) / _modes(as_gram(gram)).eigenvalues[-1]


def mean_square_threshold(
    gram: ArrayLike, batch_size: Count, momentum: float = 0.0, replacement: bool = False
) -> Threshold:
    """Learning rate eta* up to which the second moment of linearised SGD stays bounded.

    ``E |delta_t|^2`` is bounded iff ``eta <= eta*``; below, it decays on the range of H. With
    momentum (heavy ball) this is the smallest root of ``lmax(T(eta)) = 1``; that there is only one
    is observed, not proven. Exact to 1e-11 relative.

    Raises ``ValueError`` for a bad Gram (``as_gram``), batch size (``mixing_weight``), or momentum
    outside [0, 1).

    >>> found = mean_square_threshold(2 * np.eye(6), batch_size=3)  # orthogonal: 2 B / |g|^2
    >>> round(float(found.learning_rate), 12)
    3.0
    """
    gram = as_gram(gram)
    _require_momentum(momentum)
    p = mixing_weight(gram.shape[0], batch_size, replacement)
    if p == 0:
        return Threshold((2 + 2 * momentum) / _modes(gram).eigenvalues[-1], jnp.array(True))
    if momentum == 0:
        return _threshold(gram, p)
    return _heavy_ball_threshold(gram, p, momentum)


def growth_rate(
    gram: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: Count,
    momentum: float = 0.0,
    replacement: bool = False,
) -> Growth:
    """Factor by which the second moment of linearised SGD grows per step, and its leading mode.

    The spectral radius, on the range of H, of the second-moment operator: 1 at
    ``mean_square_threshold``; ``E |delta_t|^2 ~ rate^t``. Its logarithm over 2 is an upper bound of
    the Lyapunov exponent of the iterates themselves.

    Raises ``ValueError`` for a bad Gram, batch size or momentum, or a learning rate <= 0.

    >>> found = growth_rate(np.diag([1.0, 4.0]), learning_rate=0.25, batch_size=1)
    >>> round(float(found.rate), 12), int(found.share.argmax())  # (1 + (1 - 1/4)^2) / 2
    (0.78125, 0)
    """
    gram = as_gram(gram)
    require("learning_rate", learning_rate, lambda x: (x > 0) & np.isfinite(x), "positive")
    _require_momentum(momentum)
    p = mixing_weight(gram.shape[0], batch_size, replacement)
    return _growth(gram, jnp.asarray(learning_rate, gram.dtype), p, momentum)


def second_moment_step(
    moment: ArrayLike, gram: ArrayLike, learning_rate: ArrayLike, mixing: ArrayLike
) -> Float[Array, "..."]:
    """One step of ``M = E[e e^T]``, the second moment of the output errors e_i = J_i delta.

        M' = M - (eta/n)(K M + M K) + eta^2 [(1-p)/n^2 K M K + (p/n) K diag(M) K]

    diag(M) keeps the blocks of single samples. moment and gram share the shape (n, n) or
    (n, c, n, c); mixing is the p of ``mixing_weight``.

    Raises ``ValueError`` for a bad Gram or a moment of another shape.

    >>> second_moment_step(np.eye(2), 2 * np.eye(2), 1.0, mixing=1.0).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    moment, shape = jnp.asarray(moment), np.shape(gram)
    if moment.shape != shape:
        raise ValueError(f"moment must have the gram's shape {shape}, got {moment.shape}")
    gram = as_gram(gram)
    n, c = gram.shape[:2]
    k, m = gram.reshape(n * c, n * c), moment.reshape(n * c, n * c)
    same_sample = jnp.kron(jnp.eye(n), jnp.ones((c, c)))
    mean, p = k @ m / n, mixing
    noise = (1 - p) / n**2 * m + p / n * m * same_sample
    stepped = m - learning_rate * (mean + mean.T) + learning_rate**2 * k @ noise @ k
    return stepped.reshape(shape)


def _require_momentum(momentum: float) -> None:
    require("momentum", momentum, lambda b: (b >= 0) & (b < 1), "at least 0 and below 1")


_modes = jax.jit(gram_modes)


def _largest_sample(modes: GramModes) -> Array:
    """An upper bound of every sample's curvature: max_i |J_i|_F^2."""
    return jnp.max(jnp.sum(modes.features**2, axis=(1, 2)))


@jax.jit
def _threshold(gram: Array, p: Array) -> Threshold:
    """Newton's method in x = 1/eta, upwards from GD's threshold.

    ``n/(p lmax(T))`` is concave in x, so no step goes too far, and one that goes back is rounding;
    it is linear for one-sample batches. The slope is ``<V, T' V>`` at the unit eigenvector V.
    """
    modes = gram_modes(gram)
    low = modes.eigenvalues[-1] / 2

    def improve(state):
        x, _, top, count = state
        delta = threshold_delta(x, modes.eigenvalues, p)
        top = top_transfer(modes, delta, top.vector)
        spread = between_modes(top.vector, modes.features) * inverted(modes, delta)
        fall = jnp.sum(spread**2 * sum(pairs(modes.eigenvalues)))
        closer = jnp.maximum(x + (p * top.value / len(modes.features) - 1) * top.value / fall, low)
        return closer, (closer - x) / closer, top, count + 1

    def unfinished(state):
        return (state[1] > 1e-13) & (state[3] < NEWTON_STEPS)

    far = jnp.full((), jnp.inf, gram.dtype)
    start = (low, far, TopEigenpair(far, identity_blocks(modes), far), jnp.array(0))
    x, _, top, count = jax.lax.while_loop(unfinished, improve, start)
    return Threshold(1 / x, (count < NEWTON_STEPS) & (top.residual <= 1e-11 * top.value))


@jax.jit
def _heavy_ball_threshold(gram: Array, p: Array, momentum: Array) -> Threshold:
    """As ``_threshold``, but scanned for the largest root in 1/eta before it is refined."""
    modes = gram_modes(gram)

    def excess(x, blocks, tolerance=1e-12):
        delta = growth_delta(jnp.ones(()), modes.eigenvalues, 1 / x, p, momentum)
        top = top_transfer(modes, delta, blocks, tolerance)
        return modes.features.shape[0] * x**2 / (p * top.value) - 1, top.vector

    low = modes.eigenvalues[-1] / (2 + 2 * momentum)
    high = jnp.maximum(2 * low, 2 * p * _largest_sample(modes) / (1 - momentum))
    grid = low * (high / low) ** jnp.linspace(0, 1, SCAN)
    start = identity_blocks(modes)
    signs = jax.lax.map(lambda x: excess(x, start, 1e-2)[0], grid)
    last = jnp.max(jnp.where(signs <= 0, jnp.arange(SCAN), 0))  # unstable, all beyond it stable
    above = grid[jnp.minimum(last + 1, SCAN - 1)]
    root = increasing_root(excess, grid[last], above, start)
    return Threshold(1 / root.x, root.converged & (signs[-1] > 0))


@jax.jit
def _growth(gram: Array, eta: Array, p: Array, momentum: Array) -> Growth:
    """Largest root in rho, between the growth of the mean and that of the most curved sample."""
    modes = gram_modes(gram)
    n, free = modes.features.shape[0], _free_growth(modes, eta, momentum)

    def excess(rho, blocks):
        delta = growth_delta(rho, modes.eigenvalues, eta, p, momentum)
        positive = jnp.all((delta > 0) | ~has_rank(modes))
        top = top_transfer(modes, jnp.where(positive, delta, 1.0), blocks)
        value = jnp.where(positive, n / (eta**2 * p * top.value) - 1, -jnp.inf)
        return value, jnp.where(positive, top.vector, blocks)

    extreme = jnp.abs(1 + momentum - eta * _largest_sample(modes))
    high = jnp.where(
        momentum == 0,
        jnp.maximum(1, extreme**2),
        (jnp.maximum(1 + momentum, extreme) + momentum + 1) ** 2,
    )
    low = jnp.maximum(free, 1e-30)
    root = increasing_root(excess, low, jnp.maximum(low, high), identity_blocks(modes))
    share = jnp.trace(root.carry, axis1=1, axis2=2)
    return Growth(root.x, share / jnp.sum(share), root.converged)


def _free_growth(modes: GramModes, eta: Array, momentum: Array) -> Array:
    """Squared spectral radius of the mean's motion, heavy ball included, over modes with rank."""
    alpha = 1 + momentum - eta * modes.eigenvalues
    discriminant = alpha**2 - 4 * momentum
    real = (jnp.abs(alpha) + jnp.sqrt(jnp.maximum(discriminant, 0.0))) / 2
    radius = jnp.where(discriminant >= 0, real, jnp.sqrt(momentum))
    return jnp.max(jnp.where(modes.eigenvalues > 0, radius, 0.0)) ** 2
