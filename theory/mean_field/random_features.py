"""Gradient descent on linear and random-feature models in the proportional limit, in one sweep.

    target   y = w*.psi / sqrt(M) + sigma n,        psi ~ N(0, diag(lam)) in R^M, n ~ N(0, 1)
    student  f = w.A psi / sqrt(N M), w(0) = 0,     A (N, M) of independent N(0, 1), not trained
    v        = w* - A^T w / sqrt(N): the error of the weights; v(0) = w*
    v(t + 1) = v(t) - eta (A^T A / N) (1/P) Psi^T (Psi v(t) + sigma sqrt(M) n)

M, P, N -> infinity at fixed P/M = alpha, N/M = nu; N = infinity is linear regression on psi. The
limit is exact at every t < T (T fixed). All responses are causal and depend on t - s only: each is
a truncated power series in the delay z, and operator products are products of series. With
theta = z + z^2 + ... (the sum over the past) and <.> the sum over modes, sum_k mass_k (.)_k,

    h_k = 1/(1 + lam_k g)                             response of mode k's error to a kick
    F   = <lam g h>,  R1 = 1 - F/alpha,  R3 = 1 - F/nu,  g = eta theta R1 R3.

theta begins with z: one sweep solves this. It is the self-consistent equation of ridge regression
on random features with ridge (1 - z)/(eta z): gradient descent's z-transform is a resolvent.
Functions of two times, as series in z and w, obey linear equations; C1 = sum C1(t, s) z^t w^s is

    eta C1 (w - z) = (<lam w*^2 h h'> + sigma^2) (k' - k) + <w*^2 x x'> (r' - r),
        k = eta theta R1,   r = 1/R3,   x = 1 - h,   primed: at w instead of z,

and C0 + sigma^2/((1 - z)(1 - w)) = C1/(R1 R1'). Dividing by w - z is a sum along antidiagonals: of
T x 2T numbers, from series of length 2T. K modes cost O(K T^2) time and O(K T + T^2) memory (the
check ``residual`` T^3, in matrix products); reverse-mode derivatives keep O(K T^2) numbers. Errors
are a few roundings of the largest loss: a loss far below 1e-15 of it has no correct digits.

Conventions: w descends 1/(2P) sum (y - f)^2 at rate eta M, which undoes the 1/sqrt(M) of y and f;
the losses returned have no 1/2. Flow time is eta t. With ``masses`` of one, and P and N in place of
P/M and N/M, all is without M: y = w*.psi, f = w.A psi/sqrt(N), rate eta, loss sum_k lam_k w*_k^2.

Source: Bordelon, Atanasov & Pehlevan (2024), arXiv 2402.01092, for the model and its dynamical
mean-field theory; discrete time, the series form and the closed form of C1 derived here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.arguments import require_nonnegative, require_positive
from theory.checks import Count, require, require_count


class Responses(NamedTuple):
    """First columns (T,) of the lower triangular Toeplitz matrices R(t, s) = R(t - s).

    ``samples`` is R1, ``features`` R3, both with R(0) = 1; ``error`` is R02 = alpha (1 - 1/R1) and
    ``feature_error`` R24 = nu (1 - 1/R3), whose R(0) = 0. With infinite ratios R1 = R3 = 1 and
    R02, R24 stay finite.
    """

    samples: Float[Array, " T"]
    features: Float[Array, " T"]
    error: Float[Array, " T"]
    feature_error: Float[Array, " T"]


class RandomFeatureDynamics(NamedTuple):
    """Losses (T,), correlations of errors (T, T), responses, and what to trust.

    ``test_loss`` is the diagonal of C0, on fresh inputs without label noise (add sigma^2 for noisy
    labels); ``train_loss`` that of C1, on the P noisy examples. ``residual`` is the largest
    violation of C0 + sigma^2 = (1 - R02/alpha) C1 (1 - R02/alpha)^T, relative to the initial train
    loss: the two sides are summed separately, so it shows rounding (not a number after divergence).
    The limit exists at every learning rate and T, but grows exponentially beyond about 2 over the
    largest eigenvalue of the data: ``diverged_at`` is the first step, or -1, that needs numbers
    beyond the fourth root of the largest of its dtype (1e77); it and later ones are not a number.
    """

    test_loss: Float[Array, " T"]
    train_loss: Float[Array, " T"]
    test_correlation: Float[Array, "T T"]
    train_correlation: Float[Array, "T T"]
    responses: Responses
    residual: Float[Array, ""]
    diverged_at: Int[Array, ""]


def random_feature_dynamics(
    eigenvalues: Float[ArrayLike, " K"],
    target_square: Float[ArrayLike, " _"],
    masses: Float[ArrayLike, " _"] | None = None,
    *,
    sample_ratio: ArrayLike,
    feature_ratio: ArrayLike = jnp.inf,
    learning_rate: ArrayLike,
    noise_var: ArrayLike = 0.0,
    steps: Count,
) -> RandomFeatureDynamics:
    """Losses, correlations and responses at the steps 0 ... T - 1 of gradient descent.

    Args:
        eigenvalues, target_square: lam_k and w*_k^2 of each mode, non-negative.
        masses: the fraction of the M modes that mode k stands for; equal ones by default.
        sample_ratio, feature_ratio: P/M and N/M, positive; infinity is allowed.
        noise_var: sigma^2, variance of the label noise.
        steps: T, static. Everything else may be traced, mapped and differentiated.

    Raises ``ValueError`` for shapes that differ, no modes, T < 1, ratios or a learning rate not
    positive, and for negative or non-finite eigenvalues, targets, masses or noise.

    >>> ratios = {"sample_ratio": 2.0, "feature_ratio": 4.0}
    >>> one = jnp.ones(1)
    >>> run = random_feature_dynamics(one, one, **ratios, learning_rate=0.5, steps=2)
    >>> [round(float(loss), 12) for loss in run.test_loss]  # 1 - 2 eta + eta^2 (1 + M/P)(1 + M/N)
    [1.0, 0.46875]
    """
    require_count(steps=steps)
    require_nonnegative(eigenvalues=eigenvalues, target_square=target_square, noise_var=noise_var)
    require_positive(learning_rate=learning_rate)
    for name, ratio in (("sample_ratio", sample_ratio), ("feature_ratio", feature_ratio)):
        require(name, ratio, lambda x: x > 0, "positive")
    count = np.shape(eigenvalues)
    shapes = count, np.shape(target_square), count if masses is None else np.shape(masses)
    if len(set(shapes)) > 1 or len(count) != 1 or 0 in count:
        raise ValueError(f"eigenvalues, target_square, masses must be (K,), K > 0, got {shapes}")
    if masses is None:
        masses = jnp.full(count, 1 / count[0], jnp.result_type(eigenvalues, 1.0))
    require_nonnegative(masses=masses)
    given = (eigenvalues, target_square, masses)
    given += (sample_ratio, feature_ratio, learning_rate, noise_var)
    dtype = jnp.result_type(*given, 1.0)
    return _dynamics(*(jnp.asarray(value, dtype) for value in given), steps=int(steps))


@partial(jax.jit, static_argnames="steps")
def _dynamics(lam, square, mass, alpha, nu, eta, noise, *, steps):
    kernel, mode, response, known = _series(lam, mass, alpha, nu, eta, length=2 * steps)
    samples, features = ((-response / ratio).at[0].add(1) for ratio in (alpha, nu))
    undo_samples = _cut(_reciprocal(samples), known)
    undo_features = _cut(_reciprocal(features), known)
    train, test = _correlations(
        lam, square, mass, eta, noise, kernel, mode, undo_samples, undo_features
    )
    # an entry at the times t, s is made of the coefficients up to t + s + 1
    order = jnp.arange(steps)[:, None] + jnp.arange(steps)[None] + 1
    train, test = (jnp.where(order < known, matrix, jnp.nan) for matrix in (train, test))
    responses = Responses(
        samples, features, -_product(undo_samples, response), -_product(undo_features, response)
    )
    losses = jnp.diagonal(test), jnp.diagonal(train)
    lost = ~(jnp.isfinite(losses[0]) & jnp.isfinite(losses[1]))
    undo = _toeplitz(undo_samples[:steps])
    gap = jnp.max(jnp.abs(test + noise - undo @ train @ undo.T))
    return RandomFeatureDynamics(
        *losses,
        test,
        train,
        jax.tree.map(lambda one: one[:steps], responses),
        gap / jnp.where(train[0, 0] > 0, train[0, 0], 1),
        jnp.where(jnp.any(lost), jnp.argmax(lost), -1).astype(jnp.int32),
    )


def _series(lam, mass, alpha, nu, eta, *, length):
    """g (L,), h (L, K) and F (L,) in one sweep, and how many coefficients to trust.

    Those after the first beyond the fourth root of the largest number are set to zero, lest they
    overflow in products and spoil, as zero times infinity, what comes before.
    """
    zeros, first = jnp.zeros(length, lam.dtype), jnp.arange(length) == 0

    def one(carry, start):
        """With past[j] = g_(t-j), ``before`` the coefficient of R1 R3 one step earlier."""
        past, newest, before, mode, samples, recent, t = carry
        newest = newest + eta * before
        past = jnp.concatenate([newest[None], past[:-1]])
        kicked = mode @ past
        here = start - lam * kicked
        response = jnp.sum(mass * lam * kicked)
        samples = samples.at[t].set(start - response / alpha)
        recent = jnp.concatenate([(start - response / nu)[None], recent[:-1]])
        carry = (past, newest, samples @ recent, mode.at[:, t].set(here), samples, recent, t + 1)
        return carry, (newest, here, response)

    nothing = jnp.zeros((), lam.dtype)
    blank = jnp.zeros((len(lam), length), lam.dtype)
    begin = (zeros, nothing, nothing, blank, zeros, zeros, 0)
    found = jax.lax.scan(one, begin, first.astype(lam.dtype))[1]
    largest = jnp.finfo(lam.dtype).max ** 0.25
    small = [jnp.abs(series.reshape(length, -1)) < largest for series in found]
    known = jnp.sum(jnp.cumprod(jnp.all(jnp.concatenate(small, axis=1), axis=1)))
    return *(_cut(series, known) for series in found), known


def _cut(series, known):
    """The series (L,) or (L, K) with zeros from coefficient ``known`` on."""
    kept = (jnp.arange(len(series)) < known).reshape(-1, *[1] * (series.ndim - 1))
    return jnp.where(kept, series, 0)


def _correlations(lam, square, mass, eta, noise, kernel, mode, undo_samples, undo_features):
    """C1 and C0: each the sum over three pairs of series of (a b' - b a')/(w - z).

    C0 is not taken from C1, so that label noise does not cancel in it.
    """
    steps, kicked = len(kernel) // 2, -mode.at[0].add(-1)
    theta = jnp.ones_like(kernel).at[0].set(0)
    one = jnp.zeros_like(kernel).at[0].set(1)
    memory = _product(undo_features, kernel) / eta  # theta R1
    seen, hidden = mass * lam * square, mass * square / eta
    rest = undo_features.at[0].add(-1)  # the constant in r drops out of r' - r
    train = (
        (mode, _product(memory, mode), seen),
        (one[:, None], memory[:, None], noise[None]),
        (kicked, _product(rest, kicked), hidden),
    )
    moved, drawn = _product(undo_samples, mode), _product(undo_samples, kicked)
    test = (
        (moved, _product(theta, mode), seen),
        ((undo_samples - one)[:, None], theta[:, None], noise[None]),
        (drawn, _product(rest, drawn), hidden),
    )
    return _divided(train, steps), _divided(test, steps)


def _divided(pairs, steps):
    """Coefficients (T, T) of ``sum weight (a b' - b a')/(w - z)``; a, b (2T, K)."""
    a, b = (jnp.concatenate([pair[side] for pair in pairs], axis=1) for side in (0, 1))
    weight = jnp.concatenate([pair[2] for pair in pairs])
    numerator = (a[:steps] * weight[None]) @ b.T - (b[:steps] * weight[None]) @ a.T
    # c(t, s) = c(t - 1, s + 1) + numerator(t, s + 1)
    ahead = jnp.pad(numerator[:, 1:], ((0, 0), (0, 1)))

    def one(row, new):
        row = jnp.concatenate([row[1:], jnp.zeros_like(row[:1])]) + new
        return row, row[:steps]

    return jax.lax.scan(one, jnp.zeros_like(ahead[0]), ahead)[1]


def _toeplitz(series):
    """The lower triangular matrix with this first column: multiplication by the series."""
    lag = jnp.arange(len(series))[:, None] - jnp.arange(len(series))[None]
    return jnp.where(lag >= 0, series[jnp.maximum(lag, 0)], 0)


def _product(series, others):
    """Of the truncated series (L,) with one or several, (L,) or (L, K)."""
    return _toeplitz(series) @ others


def _reciprocal(series):
    """Of a truncated series that begins with 1."""
    one = jnp.zeros_like(series).at[0].set(1)
    return jax.scipy.linalg.solve_triangular(_toeplitz(series), one, lower=True, unit_diagonal=True)
