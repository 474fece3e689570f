"""Response functions of a neuron of a deep network, by the adjoint of its process.

A neuron with sources u, r and couplings C (strictly causal), D (causal) moves as

    h_mu(t) = u_mu(t) + sum_{s<t,nu} C_{mu nu}(t,s) g_nu(s),               g = phi'(h) z
    z_mu(t) = r_mu(t) + sum_{s<=t,nu} D_{mu nu}(t,s) p_nu(s),              p = phi(h).

Derivatives of p(t) or g(t) by all sources are one pass back in time, bars denoting derivatives by
a field as if nothing else were given,

    gbar(s) = sum_{s'>s} hbar(s') C(s',s),       zbar(s) = phi'(h) gbar(s)                 = d/dr(s)
    pbar(s) = sum_{s'>=s} zbar(s') D(s',s),      hbar(s) = phi'(h) pbar(s) + phi''(h) z gbar(s)
                                                                                           = d/du(s)

from pbar(t) = 1 or gbar(t) = 1. Couplings are those of all neurons, so that a row of every neuron's
Jacobian is a few products of matrices and no Jacobian is ever stored. Derived here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


def response_row(
    t: Int[ArrayLike, ""],
    C: Float[Array, "T P T P"],
    D: Float[Array, "T P T P"],
    slope: Float[Array, "T P S"],
    bend: Float[Array, "T P S"],
    *,
    of: str,
) -> Float[Array, "P T P"]:
    """Row t, [mu, s, nu], of ``<d p_mu(t)/d r_nu(s)>`` (of="p") or ``<d g_mu(t)/d u_nu(s)>`` ("g").

    C, D: rows up to t, of later ones zeros; slope = phi'(h), bend = phi''(h) z: those of S neurons,
    over which the average < > runs, up to t (of="p": bend before t). Time 4 t T P^3 S, memory
    2 T P^2 S.

    >>> C = jnp.zeros((2, 1, 2, 1)).at[1, 0, 0, 0].set(0.5)
    >>> slope, bend = 3 * jnp.ones((2, 1, 1)), jnp.zeros((2, 1, 1))
    >>> response_row(1, C, 0 * C, slope, bend, of="p").tolist()  # phi' C phi'
    [[[4.5], [0.0]]]
    """
    T, P, S = slope.shape
    seed = jnp.eye(P, dtype=slope.dtype)[:, :, None]  # bars: [nu of time s, mu of time t, neuron]

    def back(i, bars):
        s = t - i
        hbar, zbar = bars
        now = jnp.where(i == 0, seed, 0.0)
        here = slope[s][:, None]
        gbar = jnp.tensordot(C[:, :, s], hbar, ((0, 1), (0, 1))) + now * (of == "g")
        zbar = lax.dynamic_update_index_in_dim(zbar, here * gbar, s, 0)
        pbar = jnp.tensordot(D[:, :, s], zbar, ((0, 1), (0, 1))) + now * (of == "p")
        change = here * pbar + bend[s][:, None] * gbar
        return lax.dynamic_update_index_in_dim(hbar, change, s, 0), zbar

    nothing = jnp.zeros((T, P, P, S), slope.dtype)
    hbar, zbar = lax.fori_loop(0, t + 1, back, (nothing, nothing))
    return jnp.mean(zbar if of == "p" else hbar, axis=3).transpose(2, 0, 1)


def require_smooth(activation: Callable[[Array], Array], *, derivatives: int) -> None:
    """Raise ``ValueError`` unless autodiff's derivatives integrate to what they are derivatives of.

    Fields need one derivative of the activation, responses a second. Compared by trapezoids on a
    fine grid, where a jump is much larger than their error.

    >>> require_smooth(jax.nn.relu, derivatives=1)
    >>> require_smooth(jax.nn.relu, derivatives=2)
    Traceback (most recent call last):
        ...
    ValueError: activation must have a phi'', got relu: autodiff's phi'' misses a jump of 1 at 0
    """
    name = getattr(activation, "__name__", repr(activation))
    grid = np.linspace(-8.0, 8.0, 4001)
    fn = activation
    for derivative in ("phi'", "phi''")[:derivatives]:
        before, fn = fn, jax.grad(fn)
        with jax.ensure_compile_time_eval():
            values, rates = (np.asarray(jax.vmap(g)(jnp.asarray(grid))) for g in (before, fn))
        jumps = np.diff(values) - np.diff(grid) * (rates[1:] + rates[:-1]) / 2
        worst = np.argmax(np.abs(jumps))
        if not np.abs(jumps[worst]) <= 0.01 * np.abs(values).max():
            raise ValueError(
                f"activation must have a {derivative}, got {name}: autodiff's {derivative} "
                f"misses a jump of {jumps[worst]:.3g} at {grid[worst] + 0.0:.3g}"
            )
