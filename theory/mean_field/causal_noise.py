"""Gaussian sources of a process whose covariance becomes known only as time passes.

A mean-field equation asks for u ~ GP(0, K) where row t of K is an average over what u did before t.
Hence the Cholesky factor ``K = F F^T``: being lower triangular, ``u(t) = F(t,.) e`` of white noise
e needs rows up to t alone, and it grows row by row. A symmetric square root would change the past
at every step. Kernels of learning are nearly static, if not exactly (inputs, readout), and so
singular: a row that is, up to rounding, a combination of earlier ones gets a zero pivot and no
noise of its own, rather than a multiple of the identity being added to K.

White noise is matched: its sample covariance is the identity, so that averages over samples of
anything linear in the sources are exact. Derived here.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from theory.checks import Count, require_count


def matched_noise(
    key: Key[Array, ""], *, steps: Count, sites: Count, samples: Count, dtype: Any = float
) -> tuple[Float[Array, "T P S"], Float[Array, "T P S"]]:
    """Two white noises e, e' of exact sample moments, in pairs (e, e') and (e, -e').

        <e> = <e'> = 0,      <e e^T> = <e' e'^T> = 1,      <e e'^T> = 0

    over the S samples, in which e' is odd and everything even in it has no odd average. Each time
    is drawn from its own key and whitened against earlier ones only: fewer steps are the beginning
    of more. An identity covariance needs ``S/2 > TP``; twice that is asked for, as higher moments
    are far from Gaussian before. With T = steps, P = sites, S = samples.

    Raises ``ValueError`` for steps or sites < 1, samples not even or not above ``4 TP``.

    >>> e, odd = matched_noise(jax.random.key(0), steps=3, sites=1, samples=14)
    >>> bool(jnp.allclose(e[:, 0] @ e[:, 0].T / 14, jnp.eye(3), atol=1e-5))
    True
    """
    require_noise(steps=steps, sites=sites, samples=samples)
    T, P, half = int(steps), int(sites), int(samples) // 2

    def draw(source, t):
        now = jax.random.fold_in(jax.random.fold_in(key, source), t)
        return jax.random.normal(now, (P, half), dtype)

    def whiten(noise):
        noise = noise.reshape(T * P, half)
        noise = noise - jnp.mean(noise, axis=1, keepdims=True)
        factor = jnp.linalg.cholesky(noise @ noise.T / half)
        return jax.scipy.linalg.solve_triangular(factor, noise, lower=True).reshape(T, P, half)

    times = jnp.arange(T)
    even, odd = (whiten(jax.vmap(draw, (None, 0))(source, times)) for source in (0, 1))
    return jnp.concatenate([even, even], 2), jnp.concatenate([odd, -odd], 2)


def require_noise(*, steps: Count, sites: Count, samples: Count) -> None:
    """Raise ``ValueError`` unless samples are even and enough for ``matched_noise``.

    >>> require_noise(steps=10, sites=2, samples=80)
    Traceback (most recent call last):
        ...
    ValueError: samples must be even and at least 82 (above 4 T P) for T = 10, P = 2, got 80
    """
    require_count(steps=steps, sites=sites, samples=samples)
    least = 4 * int(steps) * int(sites) + 2
    if samples % 2 or samples < least:
        sizes = f"for T = {steps}, P = {sites}"
        raise ValueError(
            f"samples must be even and at least {least} (above 4 T P) {sizes}, got {samples}"
        )


def extend_factor(
    factor: Float[Array, "n n"], rows: Float[Array, "m n"], start: ArrayLike
) -> Float[Array, "n n"]:
    """The lower triangular factor F with rows ``start, ..., start + m - 1`` of ``K = F F^T`` added.

    factor: rows from ``start`` on zero; rows: those of K, of which columns up to the diagonal are
    read. A pivot below ``64 n eps`` of its diagonal element is zero, and so is its column, to which
    later rows do not refer: ``|F F^T - K|`` stays below that. n^2 operations per row.

    >>> ones = jnp.ones((2, 2))
    >>> extend_factor(jnp.zeros((2, 2)), ones, 0).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    size = len(factor)
    slack = 64 * size * jnp.finfo(factor.dtype).eps

    def add(i, factor):
        row, at = rows[i], start + i
        before = jnp.arange(size) < at
        pivots = jnp.diagonal(factor)
        # Ones in place of zero pivots make the system regular; their unknowns are then dropped.
        regular = factor + jnp.diag((pivots == 0).astype(factor.dtype))
        known = jnp.where(before, row, 0.0)
        known = jax.scipy.linalg.solve_triangular(regular, known, lower=True)
        known = jnp.where(before & (pivots != 0), known, 0.0)
        left = row[at] - known @ known
        keep = left > slack * row[at]
        pivot = jnp.where(keep, jnp.sqrt(jnp.where(keep, left, 1.0)), 0.0)
        return lax.dynamic_update_index_in_dim(factor, known.at[at].set(pivot), at, 0)

    return lax.fori_loop(0, len(rows), add, factor)
