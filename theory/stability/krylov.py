"""Top eigenpair of a symmetric operator, and the root of an increasing function in a bracket."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CYCLE = 16  # Lanczos vectors between restarts


class TopEigenpair(NamedTuple):
    """Largest eigenvalue, its unit eigenvector, and ``|A v - value v|``."""

    value: Float[Array, ""]
    vector: Float[Array, "..."]
    residual: Float[Array, ""]


class Root(NamedTuple):
    """Where a function crosses zero, what it left behind there, and whether it converged."""

    x: Float[Array, ""]
    carry: Any
    converged: Array


def top_eigenpair(
    operator: Callable[[Array], Array],
    start: Float[Array, "..."],
    *,
    tolerance: float = 1e-12,
    restarts: int = 60,
) -> TopEigenpair:
    """Largest eigenvalue of a symmetric positive operator on arrays shaped like ``start``.

    Lanczos with full reorthogonalisation, restarted from the best vector so far until the residual
    is below ``tolerance`` times the value. ``start`` must not be orthogonal to the eigenvector.
    An invariant subspace ends the iteration early and exactly; there is no division by zero.

    >>> round(float(top_eigenpair(lambda v: v * jnp.arange(4.0), jnp.ones(4)).value), 12)
    3.0
    """
    steps = min(CYCLE, start.size)

    def body(state):
        pair, count = state
        return _lanczos(operator, pair.vector, steps, tolerance), count + 1

    def unfinished(state):
        pair, count = state
        return (pair.residual > tolerance * jnp.abs(pair.value)) & (count < restarts)

    first = TopEigenpair(jnp.zeros((), start.dtype), start, jnp.full((), jnp.inf, start.dtype))
    return jax.lax.while_loop(unfinished, body, (first, 0))[0]


def _lanczos(
    operator: Callable[[Array], Array], start: Array, steps: int, tolerance: float
) -> TopEigenpair:
    """Best eigenpair of the Krylov space of ``start``, grown until it is good, or to ``steps``."""
    eps = jnp.finfo(start.dtype).eps

    def grow(state):
        k, basis, small, _ = state
        image = operator(basis[k].reshape(start.shape)).ravel()
        small = small.at[k, k].set(basis[k] @ image)
        for _ in range(2):  # once is not enough in floating point, twice is
            image = image - basis.T @ (basis @ image)
        norm = jnp.linalg.norm(image)
        alive = norm > 10 * eps * jnp.max(jnp.abs(jnp.diagonal(small)))
        following = jnp.where(alive, image / jnp.where(alive, norm, 1.0), 0.0)
        # rows of ``small`` beyond k are empty: eigenvalue 0, below the largest
        values, vectors = jnp.linalg.eigh(small[:steps, :steps])
        residual = jnp.where(alive, norm, 0.0) * jnp.abs(vectors[k, -1])
        best = values[-1], vectors[:, -1], residual
        small = small.at[k, k + 1].set(norm * alive).at[k + 1, k].set(norm * alive)
        return k + 1, basis.at[k + 1].set(following), small, best

    def unfinished(state):
        k, _, _, (value, _, residual) = state
        return (k < steps) & (residual > tolerance * jnp.abs(value))

    basis = jnp.zeros((steps + 1, start.size), start.dtype)
    basis = basis.at[0].set(start.ravel() / jnp.linalg.norm(start))
    small = jnp.zeros((steps + 1, steps + 1), start.dtype)
    nothing = small[0, 0], small[0, :steps], jnp.full((), jnp.inf, start.dtype)
    state = jax.lax.while_loop(unfinished, grow, (0, basis, small, nothing))
    _, basis, _, (value, coefficients, residual) = state
    vector = (coefficients @ basis[:-1]).reshape(start.shape)
    return TopEigenpair(value, vector / jnp.linalg.norm(vector), residual)


def increasing_root(
    f: Callable[[Array, Any], tuple[Array, Any]],
    low: Float[Array, ""],
    high: Float[Array, ""],
    carry: Any,
    *,
    tolerance: float = 1e-13,
    iterations: int = 80,
) -> Root:
    """Root in [low, high] of ``f(x, carry) -> (value, carry)``, f(low) <= 0 <= f(high).

    Regula falsi of the Illinois kind: a few evaluations where f is nearly linear, and it converges
    for any continuous f. The carry of one evaluation starts the next (an eigenvector, say). An
    infinite value counts by its sign alone. Stops when the bracket or the step is below
    ``tolerance`` relative to x.
    """

    def secant(a, fa, b, fb):
        usable = jnp.isfinite(fa) & jnp.isfinite(fb) & (fb > fa)
        x = b - fb * (b - a) / jnp.where(usable, fb - fa, 1.0)
        return jnp.where(usable, jnp.clip(x, a, b), (a + b) / 2)

    def body(state):
        a, fa, b, fb, previous, _, carry, count = state
        x = secant(a, fa, b, fb)
        fx, carry = f(x, carry)
        left = fx <= 0
        # The end that stays twice in a row loses half its weight, or the bracket would not shrink.
        fa_new = jnp.where(left, fx, jnp.where(previous == 1, fa / 2, fa))
        fb_new = jnp.where(left, jnp.where(previous == -1, fb / 2, fb), fx)
        side = jnp.where(left, -1, 1)
        step = jnp.abs(x - jnp.where(left, a, b))
        a, b = jnp.where(left, x, a), jnp.where(left, b, x)
        return a, fa_new, b, fb_new, side, jnp.where(fx == 0, 0.0, step), carry, count + 1

    def unfinished(state):
        a, _, b, _, _, step, _, count = state
        scale = tolerance * jnp.abs(b)
        return (step > scale) & (b - a > scale) & (count < iterations)

    f_low, carry = f(low, carry)
    f_high, carry = f(high, carry)
    start = (low, f_low, high, f_high, jnp.array(0), high - low, carry, 0)
    a, _, b, _, side, _, carry, count = jax.lax.while_loop(unfinished, body, start)
    x = jnp.where(f_low >= 0, low, jnp.where(f_high <= 0, high, jnp.where(side == -1, a, b)))
    return Root(x, carry, (count < iterations) | (f_low >= 0) | (f_high <= 0))
