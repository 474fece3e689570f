"""Diagonal linear networks: where gradient flow ends, between the kernel and the rich regime.

Model ``f(x) = beta . x``, ``beta = w_+^D - w_-^D`` elementwise, both w at alpha > 0 initially, so
f = 0. Gradient flow on **any** loss of the outputs X beta keeps the dual coordinates z of beta in
the row space of X (``diagonal_links``). If the loss reaches X beta = y, it hence ends at

    beta_inf = argmin {Q(beta): X beta = y},   Q = alpha^D sum_i q_D(beta_i/alpha^D),  dQ/dbeta = z,

    q_2(b) = int_0^b arcsinh(t/2) dt = 2 - sqrt(4 + b^2) + b arcsinh(b/2),   q_D' = h_D^{-1}.

The loss enters through y only: neither its normalisation (1/2 or not, sum or mean), nor time units,
nor weights of the samples change the end. Scale law: beta(alpha; y) = s beta(alpha/s^(1/D); y/s).

alpha -> infinity: the minimum l2 norm, pinv(X) y, with error alpha^(-2D). alpha -> 0: the minimum
l1 norm (where unique), with error alpha^D for D >= 3, but alpha^(2 (1 - m)) for D = 2. There m < 1
is the largest |x_i . nu| off the support, x_i the columns of X, for the nu with x_i . nu =
sign(beta_i) on the support that makes it least. (With fewer nonzeros than samples there are many
such nu, and a solver of linear programs returns one of them: in general not this one.)

X: (n, d), y: (n,), beta: (d,). Source: Woodworth et al. (2020), arXiv 2002.09277; rates and the
solver derived here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from theory.arguments import as_floats, require_positive
from theory.checks import Count
from theory.kernels.diagonal_links import as_depth, as_problem, link, link_slope

NEWTON_STEPS = 100  # it takes 2 to 15


class ImplicitBias(NamedTuple):
    """The end of gradient flow, ``beta`` (d,), and whether the solver found it.

    ``residual``: largest error of the constraints, in orthonormal coordinates of the row space and
    relative to the norm of pinv(X) y. ``converged``: it is below sqrt(eps). ``steps`` taken.
    """

    beta: Float[Array, " d"]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


def implicit_bias(
    X: ArrayLike, y: ArrayLike, alpha: ArrayLike, *, depth: Count = 2
) -> ImplicitBias:
    """Where gradient flow from ``w_+ = w_- = alpha`` ends: the solution of least potential.

    The convex dual ``min_nu alpha^D sum_i psi(z_i) - y . nu``, z = X^T nu, psi' the link, in
    orthonormal coordinates of the row space, by Newton's method with a step for which descent is
    certain: only the singular values that count (above max(n, d) eps times the largest) matter, not
    their spread. If y cannot be reached, X beta is its projection (where the flow of the squared
    loss ends). Differentiable once, where y is reached and X keeps its rank. For D = 2 exact to
    rounding at any alpha; for D >= 3 z runs out of digits: converges while alpha^(D-2), relative to
    |beta|^(1-2/D), is above 1e-6 in float64 (residual 1e-10 there).

    X: (n, d), y: (n,), alpha: number. Raises ``ValueError`` unless shapes fit, X and y are finite,
    alpha positive and D an integer >= 2.

    >>> found = implicit_bias(jnp.array([[1.0, 2.0]]), jnp.array([2.0]), alpha=1e-3)
    >>> found.beta.round(2).tolist(), bool(found.converged)  # l1: the feature that does more
    ([0.0, 1.0], True)
    """
    depth = as_depth(depth)
    require_positive(alpha=alpha)
    if jnp.ndim(alpha) != 0:
        raise ValueError(f"alpha must be a number, got shape {jnp.shape(alpha)}")
    X, y = as_problem(X, y=y)
    scale = jnp.broadcast_to(jnp.asarray(alpha, X.dtype), X.shape[1:]) ** depth
    return _solve(X, y, scale, jnp.zeros_like(scale), depth)


def implicit_bias_unequal(
    X: ArrayLike, y: ArrayLike, w_plus: ArrayLike, w_minus: ArrayLike
) -> ImplicitBias:
    """Where gradient flow ends from any positive weights, D = 2: a Bregman projection of beta(0).

    With a = w_+ w_- (conserved) and beta_0 = w_+^2 - w_-^2 the end is the solution nearest to
    beta_0 in the divergence of ``sum_i a_i q_2(beta_i/a_i)``,

        arcsinh(beta/(2a)) - arcsinh(beta_0/(2a)) = X^T nu,   arcsinh(beta_0/(2a)) = log(w_+/w_-).

    Solver, assumptions and precision as in ``implicit_bias``. w_plus, w_minus: (d,), or numbers.
    Raises ``ValueError`` unless shapes fit, X and y are finite and the weights positive.
    Source: derived here; the balanced case is that of Woodworth et al. (2020).

    >>> found = implicit_bias_unequal(jnp.eye(2)[:1], jnp.array([1.0]), w_plus=1.0, w_minus=2.0)
    >>> found.beta.round(6).tolist()  # what no sample sees stays at 1 - 4
    [1.0, -3.0]
    """
    require_positive(w_plus=w_plus, w_minus=w_minus)
    X, y = as_problem(X, y=y)
    for name, value in {"w_plus": w_plus, "w_minus": w_minus}.items():
        if jnp.shape(value) not in ((), (X.shape[1],)):
            raise ValueError(f"{name} must have shape ({X.shape[1]},), got {jnp.shape(value)}")
    plus, minus, _ = as_floats(w_plus, w_minus, X[0])
    return _solve(X, y, plus * minus, jnp.log(plus) - jnp.log(minus), 2)


class _Dual(NamedTuple):
    """beta = scale link(start + A^T mu) with A beta = c; rows of A orthonormal, or ``unused``."""

    A: Array
    c: Array
    scale: Array
    start: Array
    unused: Array


@partial(jax.jit, static_argnames="depth")
def _solve(X: Array, y: Array, scale: Array, start: Array, depth: int) -> ImplicitBias:
    """X beta = y in an orthonormal basis of the row space; only the last step has derivatives."""
    fixed = jax.lax.stop_gradient
    U, s, Vt = jnp.linalg.svd(fixed(X), full_matrices=False)
    kept = s > max(X.shape) * jnp.finfo(X.dtype).eps * s[0]
    change = U.T * jnp.where(kept, 1 / jnp.where(kept, s, 1.0), 0.0)[:, None]
    A = jnp.where(kept[:, None], Vt, 0.0) + change @ (X - fixed(X))
    dual = _Dual(A, change @ y, scale, start, ~kept)
    origin = dual.A @ (scale * link(start, depth=depth))
    size = fixed(jnp.linalg.norm(dual.c) + jnp.linalg.norm(origin))
    mu, steps = _minimise(fixed(dual), size, depth)
    last = _direction(mu, fixed(dual), _error(mu, dual, depth), depth)
    length, _ = _safe_step(start + mu @ A, last @ A, depth)
    mu = mu + jnp.where(length < 0.5, last, 0.0)  # longer only where the solver has failed
    residual = jnp.max(jnp.abs(_error(mu, dual, depth))) / jnp.where(size > 0, size, 1.0)
    return ImplicitBias(_beta(mu, dual, depth), residual, residual < _tolerance(X), steps)


def _safe_step(z: Array, direction: Array, depth: int) -> tuple[Array, Array]:
    """Relative length of Newton's step, and the fraction of it that is sure to descend.

    Along the step the dual's curvature grows at most like e^(t length) for D = 2, and like
    (1 - t length)^(-p - 1) for D >= 3; the fraction minimises this bound, and stays in |z| < 1.
    """
    if depth == 2:
        length = jnp.max(jnp.abs(direction))
        reach = jnp.log1p(length)
    else:
        p = depth / (depth - 2)
        length = jnp.max(jnp.abs(direction) / (1 - jnp.abs(z)))
        reach = -jnp.expm1(-jnp.log1p(p * length) / p)
    return length, reach / jnp.where(length > 0, length, 1.0)


def _minimise(dual: _Dual, size: Array, depth: int) -> tuple[Array, Array]:
    """Newton's method from mu = 0, until steps end in rounding, and the number of steps."""
    eps = jnp.finfo(size.dtype).eps

    def improve(state):
        mu, _, size_of_error, count = state
        direction = _direction(mu, dual, _error(mu, dual, depth), depth)
        z = dual.start + mu @ dual.A
        length, fraction = _safe_step(z, direction @ dual.A, depth)
        trial = mu + fraction * direction
        found = jnp.max(jnp.abs(_error(trial, dual, depth)))
        sound = jnp.isfinite(found)  # else z has run out of digits: stay, and stop
        mu, size_of_error = jnp.where(sound, trial, mu), jnp.where(sound, found, size_of_error)
        return mu, jnp.where(sound, length, 0.0), size_of_error, count + 1

    def unfinished(state):
        _, length, size_of_error, count = state
        return (length > eps**0.6) & (size_of_error > 8 * eps * size) & (count < NEWTON_STEPS)

    infinite = jnp.full_like(size, jnp.inf)
    start = (jnp.zeros_like(dual.c), infinite, infinite, jnp.zeros((), int))
    mu, _, _, count = jax.lax.while_loop(unfinished, improve, start)
    return mu, count


def _beta(mu: Array, dual: _Dual, depth: int) -> Array:
    return dual.scale * link(dual.start + mu @ dual.A, depth=depth)


def _error(mu: Array, dual: _Dual, depth: int) -> Array:
    return dual.c - dual.A @ _beta(mu, dual, depth)


def _direction(mu: Array, dual: _Dual, error: Array, depth: int) -> Array:
    weight = dual.scale * link_slope(dual.start + mu @ dual.A, depth=depth)
    curvature = (dual.A * weight[None, :]) @ dual.A.T + jnp.diag(dual.unused.astype(error.dtype))
    return jnp.linalg.solve(curvature, error)


def _tolerance(X: Array) -> float:
    return float(jnp.finfo(X.dtype).eps) ** 0.5
