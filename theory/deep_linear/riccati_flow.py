"""The flow of the matrix Riccati equation in closed form, overflow-free and differentiable.

    dP/dt = F P + P F - P^2,    P(0) = Q0 Q0^T,    F symmetric = G diag(f) G^T,    R = G^T Q0.

The solution

    P(t) = e^{Ft} Q0 [I + Q0^T Phi Q0]^{-1} Q0^T e^{Ft},    Phi = int_0^t e^{2Fs} ds,

needs no inverse of F, but overflows, and in rounding the fastest mode drowns all others. Both are
avoided by a projector. With R turned into echelon form L by a rotation of the hidden space, rows
in descending order of f, and with

    phi = (e^{2ft} - 1) / (2f),    c^2 = e^{2ft} / phi = 2f / (1 - e^{-2ft}),

    P = G diag(c) V1 V1^T diag(c) G^T,    [V2; V1] = orthonormal columns of [I; diag(sqrt phi) L],

where columns may be scaled, in logarithms, before they are made orthonormal.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


class _Frame(NamedTuple):
    """Eigenvalues ``f`` (N,), descending; eigenvectors ``G`` (N, N); ``G^T Q0 = L H^T``."""

    f: Array
    G: Array
    L: Array
    H: Array


class _Projection(NamedTuple):
    """QR of the scaled ``[I; diag(sqrt phi) L] e^{-m}``: the lower part V1 of Q, and R."""

    m: Array
    V1: Array
    R: Array


@jax.custom_jvp
def riccati_factor(t: Array, Q0: Array, F: Array) -> Array:
    """A factor U (N, r) of ``P(t) = U U^T``; t >= 0 a scalar, Q0 (N, hidden), F (N, N) symmetric.

    r = min(N, hidden). U is known up to a rotation from the right: differentiate only what does
    not depend on it. All derivatives with respect to t, first ones with respect to Q0 and F.
    """
    frame = _eigenframe(Q0, F)
    log_growth, c = _growth(frame.f, _positive(t))
    return frame.G @ (c[:, None] * _project(log_growth, frame.L).V1)


def _riccati_factor_jvp(primals, tangents):
    t, Q0, F = primals
    if all(isinstance(tangent, SymbolicZero) for tangent in tangents[1:]):
        U = riccati_factor(t, Q0, F)  # nothing is needed beyond the equation itself
        return U, _velocity(U, F) * tangents[0]
    d_t, d_Q0, d_F = (
        jnp.zeros_like(primal) if isinstance(tangent, SymbolicZero) else tangent
        for primal, tangent in zip(primals, tangents, strict=True)
    )
    frame = _eigenframe(Q0, F)
    d_F = frame.G.T @ (0.5 * (d_F + d_F.T)) @ frame.G
    U, d_U = _response(_positive(t), frame, frame.G.T @ d_Q0 @ frame.H, d_F)
    U = frame.G @ U
    return U, frame.G @ d_U + _velocity(U, F) * d_t


riccati_factor.defjvp(_riccati_factor_jvp, symbolic_zeros=True)


@jax.custom_jvp
def riccati_limit(Q0: Array, F: Array) -> tuple[Array, Array, Array]:
    """``P(inf)`` from this very start; numbers (as floats) of modes learned, and able to grow."""
    f, G, L, _ = _eigenframe(Q0, F)
    return _limit(f, G, L)


@riccati_limit.defjvp
def _riccati_limit_jvp(primals, tangents):
    # the equilibrium moves with F as long as it keeps its rank, and its share of the eigenvalues
    (Q0, F), (_, d_F) = primals, tangents
    f, G, L, _ = _eigenframe(Q0, F)
    P, learned, growing = _limit(f, G, L)
    p = jnp.diagonal(G.T @ P @ G)
    gap, total = f[:, None] - f[None, :], f[:, None] + f[None, :]
    close = jnp.abs(gap) <= jnp.cbrt(jnp.finfo(f.dtype).eps) * jnp.max(jnp.abs(f))
    within = (p[:, None] + p[None, :]) / jnp.where(total == 0, 1, total)
    across = (p[:, None] - p[None, :]) / jnp.where(close, 1, gap)
    d_F = G.T @ (0.5 * (d_F + d_F.T)) @ G
    d_P = G @ (jnp.where(close, within, across) * d_F) @ G.T
    return (P, learned, growing), (d_P, jnp.zeros_like(learned), jnp.zeros_like(growing))


def _limit(f: Array, G: Array, L: Array) -> tuple[Array, Array, Array]:
    rounding = f.size * jnp.finfo(f.dtype).eps * jnp.max(jnp.abs(f))
    growing = f > rounding
    # in the end every group of equal eigenvalues has outgrown the next one by any factor
    group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), f[:-1] - f[1:] > 8 * rounding]))
    log_growth = jnp.where(growing, 1e3 * (f.size - group), -jnp.inf)
    U = G @ (jnp.sqrt(jnp.where(growing, 2 * f, 0))[:, None] * _project(log_growth, L).V1)
    pivot = jnp.argmax(L != 0, axis=0)
    learned = growing[pivot] & (jnp.diagonal(L[pivot]) != 0)
    return U @ U.T, jnp.sum(learned, dtype=f.dtype), jnp.sum(growing, dtype=f.dtype)


def _velocity(U: Array, F: Array) -> Array:
    """dU/dt of a factor of P, as ``dP/dt = F P + P F - P^2``."""
    return F @ U - 0.5 * U @ (U.T @ U)


def _eigenframe(Q0: Array, F: Array) -> _Frame:
    """Eigenbasis of F with the start in echelon form, all in descending order of f."""
    f, G = jnp.linalg.eigh(F)
    f, G = f[::-1], G[:, ::-1]
    L, H = _echelon(G.T @ Q0)
    return _Frame(f, G, L, H)


def _project(log_growth: Array, L: Array) -> _Projection:
    """Projector onto the columns of ``[I; e^{log_growth} L]``, whatever the size of the entries."""
    sizes = log_growth[:, None] + jnp.log(jnp.abs(L))
    m = jnp.maximum(jnp.max(sizes, axis=0), 0)
    stacked = jnp.concatenate([jnp.diag(jnp.exp(-m)), _scaled(log_growth, m, L)])
    V, R = jnp.linalg.qr(stacked)
    return _Projection(m, V[L.shape[1] :], R)


def _response(t: Array, frame: _Frame, d_L: Array, d_F: Array) -> tuple[Array, Array]:
    """A factor of P in the eigenbasis, and its change with the start and with F.

    Where eigenvalues f_i, f_j are apart, d_F_ij turns the eigenvectors by d_F_ij / (f_j - f_i):
    the start turns backwards, and P with the frame. Where they are closer than the cube root of
    eps (in units of 1/t), the two turns nearly cancel; there the integral over time is expanded
    around the midpoint, to second order. Both errors are below eps^(2/3).
    """
    f, _, L, _ = frame
    log_growth, c = _growth(f, t)
    m, V1, R = _project(log_growth, L)
    gap = (f[:, None] - f[None, :]) * t
    close = jnp.abs(gap) <= jnp.cbrt(jnp.finfo(f.dtype).eps)
    turn = jnp.where(close, 0, -d_F * t / jnp.where(close, 1, gap))
    d_start = _start_response(log_growth, L, d_L - turn @ L, m, V1, R)
    langevin = _langevin(0.5 * (f[:, None] + f[None, :]) * t)
    d_close = jnp.where(close, t * d_F, 0)
    across = (d_close * jnp.exp(0.5 * jnp.where(close, gap, 0) * langevin)) @ V1
    inside = V1.T @ (d_close * (1 - langevin)) @ V1
    half = d_start + across - V1 @ (V1.T @ across) + 0.5 * V1 @ inside
    U = c[:, None] * V1
    return U, c[:, None] * half + turn @ U


def _start_response(log_growth, L, d_L, m, V1, R) -> Array:
    """``X`` such that a change of L changes ``V1 V1^T`` by ``X V1^T + V1 X^T``.

    ``X = (1 - V1 V1^T) sqrt(phi) d_L V2``, where ``(1 - V1 V1^T) sqrt(phi) L = V1 V2^T``. Adding a
    multiple of L to d_L therefore has a known effect; the multiple is chosen to clear the rows
    that have grown large, in which the projection would have to cancel everything.
    """
    pivot = jnp.argmax(L != 0, axis=0)
    pivots = L[pivot]
    grown = log_growth[pivot] + jnp.log(jnp.abs(jnp.diagonal(pivots))) > 0
    both = grown[:, None] & grown[None, :]
    triangle = jnp.where(both, pivots, jnp.diag(jnp.where(grown, 0.0, 1.0).astype(L.dtype)))
    multiple = _substitute(triangle, jnp.where(grown[:, None], d_L[pivot], 0))
    cleared = jnp.zeros(L.shape[0], bool).at[pivot].max(grown)
    rest = jnp.where(cleared[:, None], 0, _scaled(log_growth, m, d_L - L @ multiple))
    known = jnp.exp(-m[:, None]) * multiple * jnp.exp(-m[None, :])
    X = rest - V1 @ (V1.T @ rest) + V1 @ _substitute(R.T, known)
    return _substitute(R.T, X.T).T


def _echelon(R: Array) -> tuple[Array, Array]:
    """``R = L H^T``, H (hidden, r) with orthonormal columns, r = min(R.shape), L in echelon form.

    Gram-Schmidt on the rows of R from the top. A row counts as dependent on those above it if
    what is left of it may be rounding, whose growth as e^{ft} would otherwise be taken for
    learning: 8 N eps |R|, times how much the rows above it are stretched to make it up.
    """
    n, hidden = R.shape
    r = min(n, hidden)
    sizes = jnp.sqrt(jnp.sum(R * R, axis=1))
    rounding = 8 * n * jnp.finfo(R.dtype).eps * jnp.max(sizes)

    def add(carry, line):
        (H, rank, least), (row, size) = carry, line
        along = H.T @ row
        rest = row - H @ along
        again = H.T @ rest
        rest, along = rest - H @ again, along + again
        left = jnp.sqrt(jnp.sum(rest * rest))
        new = (left > rounding * jnp.maximum(1, size / least)) & (rank < r)
        H = H.at[:, rank].add(jnp.where(new, rest / jnp.where(new, left, 1), 0))
        along = along.at[rank].add(jnp.where(new, left, 0))
        return (H, rank + new, jnp.where(new, jnp.minimum(least, left), least)), along

    start = jnp.zeros((hidden, r), R.dtype), jnp.array(0), jnp.array(jnp.inf, R.dtype)
    (H, _, _), L = jax.lax.scan(add, start, (R, sizes))
    return L, H


def _substitute(lower: Array, right: Array) -> Array:
    """``lower^{-1} right`` by forward substitution.

    Batched LAPACK calls that do not wait for each other can block jaxlib's thread pool for good
    on machines with few cores. There is one at a time here: eigh, then qr.
    """

    def solve_row(solved, line):
        row, i, value = line
        return solved.at[i].set((value - row @ solved) / row[i]), None

    lines = (lower, jnp.arange(lower.shape[0]), right)
    return jax.lax.scan(solve_row, jnp.zeros_like(right), lines)[0]


def _growth(f: Array, t: Array) -> tuple[Array, Array]:
    """``log sqrt(phi)`` and c."""
    z = f * t
    size = jnp.abs(z)
    moving = size > 0
    safe = jnp.where(moving, size, 1)
    c2 = jnp.where(moving, 2 * safe / -jnp.expm1(-2 * safe), 1) / t  # of |f|
    return 0.5 * (z + size - jnp.log(c2)), jnp.exp(0.5 * (z - size)) * jnp.sqrt(c2)


def _scaled(log_growth: Array, m: Array, L: Array) -> Array:
    """``e^{log_growth} L e^{-m}``; growth beyond the floating-point range is cut where L = 0."""
    largest = jnp.log(jnp.finfo(L.dtype).max) - 1
    return L * jnp.exp(jnp.minimum(log_growth[:, None] - m[None, :], largest))


def _langevin(z: Array) -> Array:
    """``coth z - 1/z``: below 1 the continued fraction z/(3 + z^2/(5 + z^2/(7 + ...)))."""
    small = jnp.abs(z) < 1
    near, far = jnp.where(small, z, 0), jnp.where(small, 1, z)
    tail = functools.reduce(lambda y, n: near * near / (n + y), range(19, 3, -2), 0.0)
    return jnp.where(small, near / (3 + tail), 1 / jnp.tanh(far) - 1 / far)


def _positive(t: Array) -> Array:
    """t, or a time so short that nothing has happened yet."""
    return jnp.maximum(t, jnp.sqrt(jnp.finfo(t.dtype).tiny))
