"""Deep nonlinear networks of infinite width that learn features: one causal sweep.

The setting is that of ``theory.mean_field.problem``: L hidden layers, activation phi, errors
Delta = y - f, k = eta gamma/P. A neuron of layer l is one sample of the process

    h_mu(t) = u_mu(t) + sum_{s<t,nu} C_{mu nu}(t,s) g_nu(s),       u^l ~ GP(0, Phi^{l-1})
    z_mu(t) = r_mu(t) + sum_{s<=t,nu} D_{mu nu}(t,s) phi(h_nu(s)),   r^l ~ GP(0, G^{l+1})
    C^l = k Phi^{l-1}(t,s) Delta(s) + A^{l-1}(t,s),      g = phi'(h) z,      Phi^0 = Kx, G^{L+1} = 1
    D^l = k G^{l+1}(t,s) Delta(s) [s<t] + B^l(t,s),      f = <z^L phi(h^L)>/gamma

with kernels and responses that are averages over neurons of the same process,

    Phi^l = <phi(h(t)) phi(h(s))>,                         G^l = <g(t) g(s)>,
    A^l = <d phi(h^l(t)) / d r^l(s)>  (s < t),   B^{l-1} = <d g^l(t) / d u^l(s)>  (s <= t).

A^0 = B^L = 0. The equal-time part of B, which is <phi''(h) z> in the last layer, is of order one:
in continuous time a delta function. Everything is causal. So instead of guessing kernels and
iterating, step t draws the sources of that time alone (``causal_noise``), moves all neurons of all
layers, upwards for h and downwards for z, and averages row t of every kernel and of every response
(``responses``, exact as differentiation is). What is left is the sampling error, of order
1/sqrt(samples).

Source: Bordelon & Pehlevan (2022), arXiv 2205.09653, for the equations, where A and B lack our
factor gamma; discrete time and causal solution derived here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from theory.checks import Count, require_count
from theory.mean_field.causal_noise import extend_factor, matched_noise, require_noise
from theory.mean_field.problem import Problem, checked, first_lost, require_memory
from theory.mean_field.responses import require_smooth, response_row

Activation = Callable[[Array], Array]


class DeepPath(NamedTuple):
    """Outputs (T, P), two-time kernels and responses of L hidden layers; indices [t, mu, s, nu].

    ``features[l-1]``: Phi^l, ``gradients[l-1]``: G^l, L arrays (T, P, T, P) each;
    ``forward_responses[l-1]``: A^l, ``backward_responses[l-1]``: B^l, L - 1 arrays each, between
    the hidden layers. ``diverged_at``: first step whose outputs are not finite, or -1.
    """

    outputs: Float[Array, "T P"]
    features: tuple[Float[Array, "T P T P"], ...]
    gradients: tuple[Float[Array, "T P T P"], ...]
    forward_responses: tuple[Float[Array, "T P T P"], ...]
    backward_responses: tuple[Float[Array, "T P T P"], ...]
    diverged_at: Int[Array, ""]


class _Layer(NamedTuple):
    """Rows up to now: kernels Phi, G, responses d phi/dr, d g/du, couplings C, D, all [t, mu, s,
    nu]; factors of the covariances of u and r; white noises; phi, g, phi', phi'' z (T, P, S)."""

    feature: Array
    gradient: Array
    forward: Array
    backward: Array
    C: Array
    D: Array
    factor_u: Array
    factor_r: Array
    white_u: Array
    white_r: Array
    p: Array
    g: Array
    slope: Array
    bend: Array


def solve(
    key: Key[Array, ""],
    problem: Problem,
    *,
    activation: Activation,
    hidden_layers: Count,
    steps: Count,
    samples: Count,
    memory: int | float | None = None,
) -> DeepPath:
    """Outputs, kernels and responses at steps 0, ..., steps - 1 of gradient descent.

    With T = steps, L = hidden_layers, S = samples neurons per layer: ``4 (L - 1) S (TP)^3``
    operations, memory ``(6L + 8(L - 1)P + 2) S TP + 8 (L + 1)(TP)^2`` numbers. Compiled once for
    each L, T, P, S and activation: pass a function of a module, as a fresh lambda per call compiles
    each time. Vectorises over problems and keys (the spread over keys is the sampling error);
    differentiable forwards. The same key is the same noise: outputs are smooth in the problem,
    y -> -y flips them, fewer steps are the beginning of more. For linear activations the sampling
    error is zero (but then ``deep_linear`` is cheaper); for L = 1 there are no responses
    (``two_layer`` is cheaper).

    Args:
        activation: phi, elementwise. For L > 1 responses need phi'': a kink as that of ReLU is
            refused, whose contribution <phi''(h) z> autodiff leaves out. Static, as are counts.
        samples: even, above ``4 TP``; half of them are the other half with z -> -z, so that f(0)
            and everything odd in z vanishes. Of a deviation from the lazy limit, which is of order
            gamma^2, a part of order gamma/sqrt(samples) is sampling error.
        memory: bytes that may be used; None: no limit.

    Raises ``ValueError`` for a bad problem (``checked``), hidden_layers or steps < 1, too few
    samples, less memory than needed (both say how much), an activation that jumps or, for L > 1,
    whose slope jumps. A run that leaves the finite numbers says at which step.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.3)
    >>> sizes = dict(hidden_layers=2, steps=20, samples=100)
    >>> path = solve(jax.random.key(0), problem, activation=jnp.tanh, **sizes)
    >>> bool(abs(path.outputs[-1, 0] - 1) < 0.1), bool(abs(path.outputs[0, 0]) < 1e-5)
    (True, True)
    """
    problem = checked(problem)
    require_count(hidden_layers=hidden_layers)
    L, T, P, S = int(hidden_layers), steps, len(problem.targets), samples
    require_noise(steps=T, sites=P, samples=S)
    numbers = (6 * L + 8 * (L - 1) * P + 2) * S * T * P + 8 * (L + 1) * (T * P) ** 2
    need = int(numbers) * problem.targets.dtype.itemsize
    require_memory(memory, need, f"L = {L}, T = {T}, P = {P}, S = {S}")
    require_smooth(activation, derivatives=min(L, 2))
    return _solve(key, problem, activation, L, int(T), int(S))


def tangent_kernels(problem: Problem, path: DeepPath) -> Float[Array, "T P P"]:
    """Tangent kernel at every step, ``K(t) = sum_{l=0}^{L} G^{l+1}(t,t) Phi^l(t,t)``.

    In gradient flow ``df/dtau = K (y - f)/P``; in discrete time up to O(eta) only, which is why the
    solver does not integrate it. Raises ``ValueError`` for a bad problem.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.1)
    >>> sizes = dict(hidden_layers=1, steps=1, samples=50)
    >>> path = solve(jax.random.key(0), problem, activation=jnp.sin, **sizes)
    >>> bool(abs(tangent_kernels(problem, path)[0, 0, 0] - 1) < 0.1)  # <cos^2> + <sin^2> = 1
    True
    """
    inputs = checked(problem).input_kernel
    features = [jnp.einsum("tmtn->tmn", kernel) for kernel in path.features]
    gradients = [jnp.einsum("tmtn->tmn", kernel) for kernel in path.gradients]
    inner = [g * phi for g, phi in zip(gradients[1:], features[:-1], strict=True)]
    return sum(inner, gradients[0] * inputs[None] + features[-1])


@partial(jax.jit, static_argnames=("activation", "L", "T", "S"))
def _solve(
    key: Array, problem: Problem, activation: Activation, L: int, T: int, S: int
) -> DeepPath:
    inputs, targets, gamma, learning_rate = map(jnp.asarray, problem)
    P, dtype = len(targets), targets.dtype
    slope = jax.grad(activation)
    phi = tuple(jnp.vectorize(fn) for fn in (activation, slope, jax.grad(slope)))

    def one(t, state):
        layers, outputs, drive = state
        layers = list(layers)
        for l in range(1, L + 1):
            layers[l] = _upwards(t, layers[l - 1], layers[l], drive, phi, respond=l < L)
        for l in range(L, 0, -1):
            layers[l], z = _downwards(t, layers[l], layers[l + 1], drive, respond=l > 1)
            if l == L:
                f = jnp.mean(z * layers[L].p[t], axis=1) / gamma
        error = learning_rate * gamma / P * (targets - f)
        return tuple(layers), _put(outputs, f, t), _put(drive, error, t)

    still = jnp.zeros((T, P), dtype)  # drive k Delta(s), 0 for s >= t: so every sum is causal
    layers, outputs, _ = lax.fori_loop(0, T, one, (_start(key, inputs, L, T, S), still, still))
    features = tuple(_symmetric(layer.feature) for layer in layers[1:-1])
    gradients = tuple(_symmetric(layer.gradient) for layer in layers[1:-1])
    forward = tuple(layer.forward for layer in layers[1:-2])
    backward = tuple(layer.backward for layer in layers[2:-1])
    return DeepPath(outputs, features, gradients, forward, backward, first_lost(outputs))


def _start(key: Array, inputs: Array, L: int, T: int, S: int) -> tuple[_Layer, ...]:
    """The hidden layers, empty, between inputs (Phi^0 = Kx, A^0 = 0) and output (G = 1, B = 0)."""
    P, dtype = len(inputs), inputs.dtype
    none, kernel = jnp.zeros((), dtype), jnp.zeros((T, P, T, P), dtype)
    factor, fields = jnp.zeros((T * P, T * P), dtype), jnp.zeros((T, P, S), dtype)
    nothing = _Layer(*[none] * len(_Layer._fields))
    empty = _Layer(*([kernel] * 6 + [factor] * 2 + [fields] * 6))
    draw = partial(matched_noise, steps=T, sites=P, samples=S, dtype=dtype)
    even, odd = jax.vmap(lambda l: draw(jax.random.fold_in(key, l)))(jnp.arange(L))
    hidden = [empty._replace(white_u=even[l], white_r=odd[l]) for l in range(L)]
    still = jnp.broadcast_to(inputs[None, :, None, :], kernel.shape)
    below = nothing._replace(feature=still, forward=kernel)
    above = nothing._replace(gradient=jnp.ones_like(kernel), backward=kernel)
    return (below, *hidden, above)


def _upwards(
    t: Array, below: _Layer, layer: _Layer, drive: Array, phi: tuple[Activation, ...], respond: bool
) -> _Layer:
    """Fields h, phi(h), phi'(h), phi''(h) of time t, row t of C, Phi and A."""
    u, factor = _source(t, below.feature[t], layer.factor_u, layer.white_u)
    C = below.feature[t] * drive[None] + below.forward[t]
    h = u + jnp.tensordot(C, layer.g, 2)
    p, slope, bend = (fn(h) for fn in phi)
    layer = layer._replace(factor_u=factor, C=_put(layer.C, C, t), p=_put(layer.p, p, t))
    layer = layer._replace(slope=_put(layer.slope, slope, t), bend=_put(layer.bend, bend, t))
    layer = layer._replace(feature=_put(layer.feature, _average(p, layer.p), t))
    if not respond:
        return layer
    row = response_row(t, layer.C, layer.D, layer.slope, layer.bend, of="p")
    return layer._replace(forward=_put(layer.forward, row, t))


def _downwards(
    t: Array, layer: _Layer, above: _Layer, drive: Array, respond: bool
) -> tuple[_Layer, Array]:
    """Fields g, phi''(h) z of time t, row t of D, G and B; and z (P, S)."""
    r, factor = _source(t, above.gradient[t], layer.factor_r, layer.white_r)
    D = above.gradient[t] * drive[None] + above.backward[t]
    z = r + jnp.tensordot(D, layer.p, 2)
    g = layer.slope[t] * z
    layer = layer._replace(factor_r=factor, D=_put(layer.D, D, t), g=_put(layer.g, g, t))
    layer = layer._replace(bend=_put(layer.bend, layer.bend[t] * z, t))
    layer = layer._replace(gradient=_put(layer.gradient, _average(g, layer.g), t))
    if not respond:
        return layer, z
    row = response_row(t, layer.C, layer.D, layer.slope, layer.bend, of="g")
    return layer._replace(backward=_put(layer.backward, row, t)), z


def _source(t: Array, covariance: Array, factor: Array, white: Array) -> tuple[Array, Array]:
    """Gaussian source (P, S) of time t and the factor grown by rows t of its covariance."""
    T, P, _ = white.shape
    factor = extend_factor(factor, covariance.reshape(P, T * P), t * P)
    rows = lax.dynamic_slice_in_dim(factor, t * P, P)
    return rows @ white.reshape(T * P, -1), factor


def _average(row: Array, fields: Array) -> Array:
    """<row fields>, (P, T, P), of fields up to now and zeros."""
    return jnp.tensordot(row, fields, ((1,), (2,))) / row.shape[1]


def _symmetric(kernel: Array) -> Array:
    """The kernel of which rows up to the equal-time block are given."""
    T, P = kernel.shape[:2]
    lower = jnp.tril(kernel.reshape(T * P, T * P))
    return (lower + jnp.tril(lower, -1).T).reshape(kernel.shape)


def _put(array: Array, row: Array, t: Array) -> Array:
    return lax.dynamic_update_index_in_dim(array, row, t, 0)
