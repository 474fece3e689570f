"""Deep linear networks of infinite width that learn features: one pass forward in time, any depth.

The setting is that of ``theory.mean_field.problem`` with phi(h) = h. With sources u^l ~ GP(0,
H^{l-1}), r^l ~ GP(0, G^{l+1}), H^0 = Kx, G^{L+1} = 1, k = eta gamma/P and errors Delta = y - f,

    h^l_mu(t) = u^l_mu(t) + sum_{s<t} C^l_mu(t,s) g^l(s),     g^l = z^l (one for all samples)
    g^l(t)    = r^l(t)    + sum_{s<t,nu} D^l_nu(t,s) h^l_nu(s)
    C^l_mu(t,s) = k sum_nu H^{l-1}_{mu nu}(t,s) Delta_nu(s) + A^{l-1}_mu(t,s)
    D^l_nu(t,s) = k G^{l+1}(t,s) Delta_nu(s) + B^l_nu(t,s)
    f_mu(t) = <h^L_mu(t) g^L(t)>/gamma,    H^l = <h^l h^l>,    G^l = <g^l g^l>

Instead of iterating these to a fixed point, every field is kept as a linear map of its two sources,
``h = hu u + hr r`` and ``g = gu u + gr r``. Then the responses are read off,

    A^l = d h^l/d r^l = hr^l,      B^{l-1} = d g^l/d u^l = gu^l,      A^0 = B^L = 0,

and as all sums are causal, step t of all layers, upwards for h and downwards for g, follows from
earlier steps: exact up to rounding, without iteration or sampling. Iterating the equivalent closed
form (I - CD)^-1 (H + C G C^T) (I - CD)^-T from f = 0 overflows on the way.

Source: Bordelon & Pehlevan (2022), arXiv 2205.09653, for the equations, where A and B lack our
factor gamma; discrete time and the forward solution derived here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from theory.checks import Count, require_count
from theory.mean_field.problem import Problem, checked, first_lost, require_memory


class DeepLinearPath(NamedTuple):
    """Outputs (T, P), two-time kernels and responses of L hidden layers, in tuples of L arrays.

    ``features[l-1]``: H^l (T, P, T, P), indices [t, mu, s, nu]; ``gradients[l-1]``: G^l (T, T);
    ``forward_responses[l-1]``: A^l (T, P, T), [t, mu, s]; ``backward_responses[l-1]``: B^{l-1}
    (T, T, P), [t, s, nu]. ``diverged_at``: first step whose outputs are not finite, or -1.
    """

    outputs: Float[Array, "T P"]
    features: tuple[Float[Array, "T P T P"], ...]
    gradients: tuple[Float[Array, "T T"], ...]
    forward_responses: tuple[Float[Array, "T P T"], ...]
    backward_responses: tuple[Float[Array, "T T P"], ...]
    diverged_at: Int[Array, ""]


class _Layer(NamedTuple):
    """Kernels H, G of a layer and its fields as maps of the sources u, r (the module).

    Matrices, with (t, mu) in one axis: the last of four axes would be too short to be fast.
    """

    feature: Array
    gradient: Array
    hu: Array
    hr: Array
    gu: Array
    gr: Array


def solve(
    problem: Problem, *, hidden_layers: Count, steps: Count, memory: int | float | None = None
) -> DeepLinearPath:
    """Outputs, kernels and responses at steps 0, ..., steps - 1 of gradient descent.

    With T = steps, L = hidden_layers: of order L P T (TP)^2 operations; memory, about
    ``(2L + 3)(TP)^2 + 2L TP T + 2L T^2`` numbers. Compiled once for each L, T, P; vectorises over
    problems; differentiable forwards, and backwards at T times the memory.

    Args:
        hidden_layers: L, one less than the number of weight matrices. Static, as is steps.
        memory: bytes that may be used; None: no limit.

    Raises ``ValueError`` for a bad problem (``checked``), hidden_layers or steps < 1, less memory
    than needed (which it names). A run that leaves the finite numbers says at which step.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.1)
    >>> path = solve(problem, hidden_layers=2, steps=60)
    >>> path.outputs[-1].round(3).tolist(), bool(path.features[1][-1, 0, -1, 0] > 1.2)
    ([1.0], True)
    """
    problem = checked(problem)
    require_count(hidden_layers=hidden_layers, steps=steps)
    L, T, P = int(hidden_layers), int(steps), len(problem.targets)
    numbers = (2 * L + 3) * (T * P) ** 2 + 2 * L * T * P * T + 2 * L * T**2
    need = numbers * problem.targets.dtype.itemsize
    require_memory(memory, need, f"L = {L}, T = {T}, P = {P}")
    return _solve(problem, L, T)


def initial_tangent_kernel(problem: Problem, *, hidden_layers: Count) -> Float[Array, "P P"]:
    """Tangent kernel at initialisation, and for good as gamma -> 0: ``(L + 1) Kx``.

    Raises ``ValueError`` for a bad problem or hidden_layers < 1.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.1)
    >>> initial_tangent_kernel(problem, hidden_layers=2).tolist()
    [[3.0]]
    """
    require_count(hidden_layers=hidden_layers)
    return (int(hidden_layers) + 1) * checked(problem).input_kernel


def tangent_kernels(problem: Problem, path: DeepLinearPath) -> Float[Array, "T P P"]:
    """Tangent kernel at every step, ``K(t) = sum_{l=0}^{L} G^{l+1}(t,t) H^l(t,t)``.

    In gradient flow ``df/dtau = K (y - f)/P``; in discrete time up to O(eta) only, which is why the
    solver does not integrate it. Raises ``ValueError`` for a bad problem.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.1)
    >>> tangent_kernels(problem, solve(problem, hidden_layers=2, steps=1)).tolist()
    [[[3.0]]]
    """
    inputs = checked(problem).input_kernel
    features = [jnp.einsum("tmtn->tmn", feature) for feature in path.features]
    gradients = [jnp.diagonal(gradient)[:, None, None] for gradient in path.gradients]
    inner = [g * h for g, h in zip(gradients[1:], features[:-1], strict=True)]
    return sum(inner, gradients[0] * inputs[None] + features[-1])


@partial(jax.jit, static_argnames=("L", "T"))
def _solve(problem: Problem, L: int, T: int) -> DeepLinearPath:
    inputs, targets, gamma, learning_rate = problem
    P, dtype = len(targets), targets.dtype
    gain = learning_rate * gamma / P  # k

    def one(t, state):
        layers, outputs, drive = state
        layers = list(layers)
        for l in range(1, L + 1):
            layers[l] = _upwards(t, layers[l - 1], layers[l], layers[l + 1], drive)
        for l in range(L, 0, -1):
            layers[l] = _downwards(t, layers[l - 1], layers[l], layers[l + 1], drive)
        f = _output(t, P, *layers[-3:]) / gamma
        return tuple(layers), _put(outputs, f, t), _put(drive, gain * (targets[None] - f), t)

    still = jnp.zeros((T, P), dtype)  # drive k Delta(s), 0 for s >= t: so every sum is causal
    layers, outputs, _ = lax.fori_loop(0, T, one, (_start(inputs, L, T), still, still))
    feature, gradient, _, hr, gu, _ = zip(*layers[1:-1], strict=True)
    return DeepLinearPath(
        outputs,
        tuple(kernel.reshape(T, P, T, P) for kernel in feature),
        gradient,
        tuple(response.reshape(T, P, T) for response in hr),
        tuple(response.reshape(T, T, P) for response in gu),
        first_lost(outputs),
    )


def _start(inputs: Array, L: int, T: int) -> tuple[_Layer, ...]:
    """The hidden layers, empty, between inputs (H^0 = Kx, A^0 = 0) and output (G = 1, B = 0)."""
    long, none = T * len(inputs), jnp.zeros((), inputs.dtype)
    shapes = ((long, long), (T, T), (long, long), (long, T), (T, long), (T, T))
    empty = _Layer(*(jnp.zeros(shape, inputs.dtype) for shape in shapes))
    below = _Layer(jnp.tile(inputs, (T, T)), none, none, empty.hr, none, none)
    above = _Layer(none, jnp.ones_like(empty.gradient), none, none, empty.gu, none)
    return (below, *[empty] * L, above)


def _upwards(t: Array, below: _Layer, layer: _Layer, above: _Layer, drive: Array) -> _Layer:
    """Rows t of h = hu u + hr r and of H, where ``hu = 1 + C gu`` and ``hr = C gr``."""
    T, P = drive.shape
    pulls = (_rows(below.feature, t, P) * drive.reshape(1, T * P)).reshape(P, T, P).sum(axis=2)
    C = pulls + _rows(below.hr, t, P)
    row_u, row_r = _unit_rows(t, P, T * P, drive) + C @ layer.gu, C @ layer.gr
    hu, hr = _put(layer.hu, row_u, t), _put(layer.hr, row_r, t)
    rows = row_u @ below.feature @ hu.T + row_r @ above.gradient @ hr.T
    feature = _put(_put(layer.feature, rows, t), rows.T, t, axis=1)
    return layer._replace(feature=feature, hu=hu, hr=hr)


def _downwards(t: Array, below: _Layer, layer: _Layer, above: _Layer, drive: Array) -> _Layer:
    """Row t of g = gu u + gr r and of G, where ``gu = D hu`` and ``gr = 1 + D hr``."""
    T, P = drive.shape
    D = (above.gradient[t][:, None] * drive).reshape(1, T * P) + _rows(above.gu, t, 1)
    row_u, row_r = D @ layer.hu, _unit_rows(t, 1, T, drive) + D @ layer.hr
    gu, gr = _put(layer.gu, row_u, t), _put(layer.gr, row_r, t)
    row = row_u @ below.feature @ gu.T + row_r @ above.gradient @ gr.T
    gradient = _put(_put(layer.gradient, row, t), row.T, t, axis=1)
    return layer._replace(gradient=gradient, gu=gu, gr=gr)


def _output(t: Array, P: int, below: _Layer, last: _Layer, above: _Layer) -> Array:
    """``<h_mu(t) g(t)>`` of the last hidden layer, (1, P): both are maps of the same sources."""
    from_u = _rows(last.gu, t, 1) @ below.feature @ _rows(last.hu, t, P).T
    return from_u + _rows(last.gr, t, 1) @ above.gradient @ _rows(last.hr, t, P).T


def _unit_rows(t: Array, count: int, size: int, like: Array) -> Array:
    """Rows count t, ..., count t + count - 1 of the identity, (count, size)."""
    found = jnp.arange(size)[None, :] == count * t + jnp.arange(count)[:, None]
    return found.astype(like.dtype)


def _rows(matrix: Array, t: Array, count: int) -> Array:
    """Those of step t, ``count`` (P or 1) a step."""
    return lax.dynamic_slice_in_dim(matrix, count * t, count)


def _put(matrix: Array, rows: Array, t: Array, axis: int = 0) -> Array:
    """The matrix with rows, or columns, of step t."""
    return lax.dynamic_update_slice_in_dim(matrix, rows, rows.shape[axis] * t, axis)
