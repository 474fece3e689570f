"""Two-layer networks of infinite width that learn features: neurons as particles.

The setting is that of ``theory.mean_field.problem`` with one hidden layer and any activation phi.
A neuron, its pre-activations h (P,) and its readout z, feels the others through the output only,

    f_mu = <z phi(h_mu)>/gamma,     Delta = y - f,     k = eta gamma/P
    h_mu <- h_mu + k z sum_nu Kx_{mu nu} Delta_nu phi'(h_nu)
    z    <- z + k sum_nu Delta_nu phi(h_nu)

from h ~ N(0, Kx), z ~ N(0, 1): no response functions. The average runs over ``Particles``: drawn,
on the nodes of a quadrature, or the neurons of a real network, whose gradient descent this then
is, exactly, at any width. S particles drawn without pairs are a network of width S in law: errors
fall as S^-1/2 either way.

Particles are on the leading axis: shard that, and a step costs one sum of P numbers between
devices. ``activation`` acts elementwise and is static: a fresh lambda per call compiles per call.

Source: Bordelon & Pehlevan (2022), arXiv 2205.09653; discrete time derived here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.checks import Count, require, require_count
from theory.mean_field.particles import Particles
from theory.mean_field.problem import Problem, checked, first_lost, require_memory

Activation = Callable[[Array], Array]


class TwoLayerPath(NamedTuple):
    """Outputs at steps 0, ..., T - 1, (T, P), and the particles after T steps.

    ``diverged_at``: the first step whose outputs are not finite, T if only the particles at the end
    are not, -1 if all is finite.
    """

    outputs: Float[Array, "T P"]
    particles: Particles
    diverged_at: Int[Array, ""]


class TwoTimeKernels(NamedTuple):
    """``Phi = <phi(h) phi(h)>`` and ``G = <g g>``, g = phi'(h) z, between the recorded ``steps``.

    Both (R, P, R, P), indices [t, mu, s, nu].
    """

    steps: Int[Array, " R"]
    feature: Float[Array, "R P R P"]
    gradient: Float[Array, "R P R P"]


def solve(
    problem: Problem,
    particles: Particles,
    *,
    activation: Activation,
    steps: Count,
    memory: int | float | None = None,
) -> TwoLayerPath:
    """Outputs at steps 0, ..., steps - 1 of gradient descent, and the particles at its end.

    Time S P^2 steps, memory (6P + 5) S + steps P numbers. Vectorises and differentiates in
    everything; backwards at ``steps`` times the memory.

    Args:
        particles: ``sampled_particles``, ``quadrature_particles`` or ``network_particles`` of
            ``theory.mean_field.particles``, or weighted ones of one's own.
        activation: phi (the module). Static, as is steps.
        memory: bytes that may be used; None: no limit.

    Raises ``ValueError`` for a bad problem (``checked``), particles that do not fit it or whose
    weights do not add up to 1, an activation that changes shapes, steps < 1, less memory than
    needed (which it names). A run that leaves the finite numbers says at which step.

    >>> from theory.mean_field.particles import quadrature_particles
    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.2)
    >>> start = quadrature_particles(problem, nodes=60)
    >>> path = solve(problem, start, activation=jnp.tanh, steps=100)
    >>> path.outputs[-1].round(3).tolist(), int(path.diverged_at)
    ([1.0], -1)
    """
    problem, particles = _fitting(problem, particles, activation)
    require_count(steps=steps)
    (S, P), T = particles.preactivations.shape, int(steps)
    need = ((6 * P + 5) * S + T * P) * particles.readouts.dtype.itemsize
    require_memory(memory, need, f"S = {S}, T = {T}, P = {P}")
    return _solve(problem, particles, activation, T)


def two_time_kernels(
    problem: Problem,
    particles: Particles,
    outputs: Float[ArrayLike, "T P"],
    *,
    activation: Activation,
    every: Count = 1,
    memory: int | float | None = None,
) -> TwoTimeKernels:
    """Kernels between steps 0, every, 2 every, ... < T of a run that had these outputs.

    With the outputs known, particles are independent of each other, and go through the run again, a
    block at a time: time S (P^2 T + (RP)^2); memory, 4 (RP)^2 numbers and (5R + 8) P for each
    particle in a block.

    Args:
        particles: those at the start, from which ``solve`` made ``outputs``.
        activation, every: static.
        memory: bytes to stay within, by blocks of particles; None: all particles at once, which
            sharded ones need.

    Raises ``ValueError`` as ``solve``, for outputs of another shape, every < 1, and for less memory
    than the kernels and one particle take.

    >>> from theory.mean_field.particles import quadrature_particles
    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.2)
    >>> start = quadrature_particles(problem, nodes=20)
    >>> path = solve(problem, start, activation=jnp.tanh, steps=50)
    >>> kernels = two_time_kernels(problem, start, path.outputs, activation=jnp.tanh, every=20)
    >>> kernels.steps.tolist(), kernels.feature.shape
    ([0, 20, 40], (3, 1, 3, 1))
    """
    problem, particles = _fitting(problem, particles, activation)
    require_count(every=every)
    (S, P), outputs = particles.preactivations.shape, jnp.asarray(outputs, particles.readouts.dtype)
    if outputs.ndim != 2 or outputs.shape[1] != P or len(outputs) == 0:
        raise ValueError(f"outputs must be (T, {P}), got {outputs.shape}")
    R = -(-len(outputs) // int(every))
    fixed, row = 4 * (R * P) ** 2 + outputs.size, (5 * R + 8) * P
    size = outputs.dtype.itemsize
    require_memory(memory, (fixed + row) * size, f"R = {R}, P = {P} and one particle")
    chunk = S if memory is None else int(min(S, (memory / size - fixed) // row))
    return _two_time_kernels(problem, particles, outputs, activation, int(every), chunk)


def tangent_kernel(
    problem: Problem, particles: Particles, *, activation: Activation
) -> Float[Array, "P P"]:
    """Tangent kernel of the particles as they are, ``K = <phi phi> + Kx <g g>``, g = phi'(h) z.

    Of those at the start: the kernel of the lazy limit, for ``problem.lazy_outputs``. Raises
    ``ValueError`` as ``solve``.

    >>> from theory.mean_field.particles import quadrature_particles
    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.2)
    >>> start = quadrature_particles(problem, nodes=60)
    >>> tangent_kernel(problem, start, activation=lambda h: h).round(12).tolist()
    [[2.0]]
    """
    problem, particles = _fitting(problem, particles, activation)
    phi, slope = _with_slope(activation, particles.preactivations)
    gradient = slope * particles.readouts[:, None]
    weights = particles.weights[:, None]
    return phi.T @ (weights * phi) + problem.input_kernel * (gradient.T @ (weights * gradient))


@partial(jax.jit, static_argnames=("activation", "T"))
def _solve(problem: Problem, particles: Particles, activation: Activation, T: int) -> TwoLayerPath:
    def one(state, _):
        weighted = state.readouts * state.weights
        f = weighted @ activation(state.preactivations) / problem.gamma
        return _moved(problem, state, f, activation), f

    end, outputs = jax.lax.scan(one, particles, length=T)
    return TwoLayerPath(outputs, end, first_lost(outputs, end.preactivations, end.readouts))


@partial(jax.jit, static_argnames=("activation", "every", "chunk"))
def _two_time_kernels(
    problem: Problem,
    particles: Particles,
    outputs: Array,
    activation: Activation,
    every: int,
    chunk: int,
) -> TwoTimeKernels:
    P, R = len(problem.targets), -(-len(outputs) // every)
    # past the end errors are 0 and nothing moves; particles of weight 0 fill the last block
    rest = jnp.broadcast_to(problem.targets[None], (R * every - len(outputs), P))
    blocks = jnp.concatenate([outputs, rest]).reshape(R, every, P)

    def follow(state, f):
        return _moved(problem, state, f, activation), None

    def record(state, block):
        phi, slope = _with_slope(activation, state.preactivations)
        fields = phi, slope * state.readouts[:, None]
        return jax.lax.scan(follow, state, block)[0], fields

    def add(total, some):
        fields = jax.lax.scan(record, some, blocks)[1]
        flat = [jnp.moveaxis(field, 1, 0).reshape(chunk, R * P) for field in fields]
        kernels = [field.T @ (some.weights[:, None] * field) for field in flat]
        return [a + b for a, b in zip(total, kernels, strict=True)], None

    zero = jnp.zeros((R * P, R * P), outputs.dtype)
    total = jax.lax.scan(add, [zero, zero], _in_blocks(particles, chunk))[0]
    feature, gradient = (kernel.reshape(R, P, R, P) for kernel in total)
    return TwoTimeKernels(every * jnp.arange(R), feature, gradient)


def _moved(problem: Problem, state: Particles, f: Array, activation: Activation) -> Particles:
    """The particles one step later, given the outputs."""
    h, z, weights = state
    phi, slope = _with_slope(activation, h)
    drive = problem.learning_rate * problem.gamma / len(f) * (problem.targets - f)
    force = (slope * drive[None]) @ problem.input_kernel
    return Particles(h + z[:, None] * force, z + phi @ drive, weights)


def _with_slope(activation: Activation, h: Array) -> tuple[Array, Array]:
    """phi(h) and phi'(h)."""
    return jax.jvp(activation, (h,), (jnp.ones_like(h),))


def _in_blocks(particles: Particles, chunk: int) -> Particles:
    """Particles in blocks, (blocks, chunk, ...), filled up with particles of weight 0."""
    missing = -len(particles.readouts) % chunk

    def split(array):
        filled = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return filled.reshape(-1, chunk, *array.shape[1:])

    return jax.tree.map(split, particles)


def _fitting(
    problem: Problem, particles: Particles, activation: Activation
) -> tuple[Problem, Particles]:
    """Problem and particles in one dtype, checked; values of h and z stay on their devices."""
    problem = checked(problem)
    dtype = jnp.result_type(*problem, *particles)
    problem = Problem(*(jnp.asarray(value, dtype) for value in problem))
    h, z, weights = (jnp.asarray(value, dtype) for value in particles)
    P = len(problem.targets)
    if z.ndim != 1 or z.size == 0 or weights.shape != z.shape or h.shape != (len(z), P):
        shapes = f"{h.shape}, {z.shape}, {weights.shape}"
        raise ValueError(f"particles must be (S, {P}), (S,) and (S,), S > 0, got {shapes}")
    slack = float(jnp.finfo(dtype).eps) ** 0.5
    require("sum of weights", jnp.sum(weights), lambda w: abs(w - 1) <= slack, "1")
    found = jax.eval_shape(activation, h)
    if found.shape != h.shape:
        raise ValueError(f"activation must act elementwise, got {found.shape} from {h.shape}")
    return problem, Particles(h, z, weights)
