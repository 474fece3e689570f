"""The setting of the mean-field solvers: data, richness and learning rate; laziness; white inputs.

    h^1 = W^0 x/sqrt(D),   h^{l+1} = W^l phi(h^l)/sqrt(N),   f = w^L . phi(h^L)/(gamma N)

with L hidden layers of width N -> infinity, every entry N(0, 1), one output, no biases, trained on
all P samples at once,

    loss = (1/2P) sum (y - f)^2,      theta <- theta - (eta gamma^2 N) d loss/d theta.

Data enter through ``Kx = x . x'/D`` and y. Time is ``tau = eta t`` after t steps. Solvers are exact
for every eta; gradient flow is the limit eta -> 0. Small gamma is lazy: the tangent kernel

    K = sum_{l=0}^{L} G^{l+1} Phi^l,      df/dtau = (1/P) K (y - f),

of gamma = 0 stays as it is, up to O(gamma^2). Only (gamma y, gamma f) matters: (y, gamma) and
(c y, gamma/c) have the same kernels. With ``dynamics.models.mlp`` in parametrisation "mean_field",
divide its output by gamma. A network whose output is ``alpha f`` has alpha = 1/gamma.

Source: Bordelon & Pehlevan (2022), arXiv 2205.09653, whose loss is the sum over samples, so that
their time is tau/P; discrete time derived here.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.arguments import require_finite, require_positive
from theory.checks import Count, is_concrete, require_count
from theory.kernels.kernel_modes import descent_filter, kernel_modes
from theory.kernels.linearized import train_outputs


class Problem(NamedTuple):
    """What a network of infinite width is trained on, and how: the module.

    ``input_kernel`` Kx (P, P) and ``targets`` y (P,) are arrays, ``gamma`` and ``learning_rate``
    (eta) numbers. Plain data: every solver checks it, and computes in its dtype (``checked``).
    """

    input_kernel: Any
    targets: Any
    gamma: Any
    learning_rate: Any


class WhiteProblem(NamedTuple):
    """A problem of one sample, and the direction (P,) of the outputs in the original one."""

    problem: Problem
    direction: Float[Array, " P"]


def checked(problem: Problem) -> Problem:
    """The problem as arrays of one floating dtype.

    Raises ``ValueError`` for no samples, shapes that do not fit, numbers that are not finite, gamma
    or learning rate <= 0, a kernel that is not symmetric or has an eigenvalue below
    ``-sqrt(eps)`` times the largest.

    >>> checked(Problem(jnp.eye(2), jnp.ones(2), gamma=0.0, learning_rate=0.1))
    Traceback (most recent call last):
        ...
    ValueError: gamma must be positive and finite, got 0.0
    """
    dtype = jnp.result_type(*problem, 1.0)
    problem = Problem(*(jnp.asarray(value, dtype) for value in problem))
    kernel, targets, gamma, learning_rate = problem
    if targets.ndim != 1 or targets.size == 0 or kernel.shape != 2 * targets.shape:
        raise ValueError(
            "input_kernel and targets must be (P, P) and (P,), P > 0, "
            f"got {kernel.shape} and {targets.shape}"
        )
    for name, value in {"gamma": gamma, "learning_rate": learning_rate}.items():
        if value.ndim:
            raise ValueError(f"{name} must be a number, got shape {value.shape}")
    require_finite(input_kernel=kernel, targets=targets)
    require_positive(gamma=gamma, learning_rate=learning_rate)
    _require_semidefinite(kernel)
    return problem


def lazy_outputs(
    problem: Problem,
    tangent_kernel: Float[ArrayLike, "P P"],
    *,
    steps: Count,
    initial: ArrayLike = 0.0,
) -> Float[Array, "steps P"]:
    """Outputs at steps 0, ..., steps - 1 of the lazy limit gamma -> 0, in discrete time.

        f(t) = y - (1 - eta K/P)^t (y - f(0)),     K of gamma = 0 and of any depth:

    ``deep_linear.initial_tangent_kernel`` for linear activations, ``two_layer.tangent_kernel`` for
    two layers, ``theory.kernels.infinite_width.mlp_kernels(x, depth=L + 1).ntk`` in general. The
    problem's gamma has no effect; ``initial`` is f(0), a number or (P,).

    Raises ``ValueError`` for a bad problem or steps < 1, a kernel of another shape.

    >>> problem = Problem(jnp.eye(1), jnp.ones(1), gamma=1.0, learning_rate=0.25)
    >>> lazy_outputs(problem, 2 * jnp.eye(1), steps=3)[:, 0].tolist()
    [0.0, 0.5, 0.75]
    """
    _, targets, _, learning_rate = checked(problem)
    require_count(steps=steps)
    if jnp.shape(tangent_kernel) != 2 * targets.shape:
        shape = 2 * targets.shape
        raise ValueError(f"tangent_kernel must be {shape}, got {jnp.shape(tangent_kernel)}")
    modes = kernel_modes(jnp.asarray(tangent_kernel, targets.dtype), loss="mean")
    learning = descent_filter(modes, learning_rate, jnp.arange(int(steps)))
    return train_outputs(modes, learning, initial, targets)


def whitened_reduction(problem: Problem) -> WhiteProblem:
    """The problem of one sample that white inputs are, for linear activations at any depth.

    If Kx = c 1, all that is learned lies along y, as with one sample of kernel c, target |y| and
    learning rate eta/P: ``f(t) = f_1(t) n``, n = y/|y|, ``H^l = c (1 - nn^T) + H^l_1 nn^T`` and
    G^l = G^l_1. Time tau is divided by P.

    Raises ``ValueError`` for a bad problem or a kernel that is not a multiple of the identity.

    >>> problem = Problem(jnp.eye(2), jnp.array([0.0, 2.0]), gamma=1.0, learning_rate=0.5)
    >>> white = whitened_reduction(problem)
    >>> white.problem.targets.tolist(), white.direction.tolist()
    ([2.0], [0.0, 1.0])
    """
    kernel, targets, gamma, learning_rate = checked(problem)
    scale, samples = jnp.mean(jnp.diagonal(kernel)), len(targets)
    difference = kernel - scale * jnp.eye(samples, dtype=kernel.dtype)
    slack = float(jnp.finfo(kernel.dtype).eps) ** 0.5
    if is_concrete(kernel):
        worst = float(jnp.max(jnp.abs(difference)))
        if not worst <= slack * float(scale):
            expected = "a multiple of the identity (white inputs)"
            raise ValueError(f"input_kernel must be {expected}, got a difference of {worst:.3g}")
    length = jnp.linalg.norm(targets)
    direction = jnp.where(length > 0, targets / jnp.where(length > 0, length, 1.0), 0.0)
    single = Problem(scale[None, None], length[None], gamma, learning_rate / samples)
    return WhiteProblem(single, direction)


def require_memory(memory: int | float | None, need: int, purpose: str) -> None:
    """Raise ``ValueError`` if a budget of ``memory`` bytes is given and is less than ``need``.

    >>> require_memory(100, 800, "10 particles")
    Traceback (most recent call last):
        ...
    ValueError: memory must be at least 800 bytes for 10 particles, got 100
    """
    if memory is not None and not memory >= need:
        raise ValueError(f"memory must be at least {need} bytes for {purpose}, got {memory}")


def first_lost(outputs: Float[Array, "T P"], *ends: Array) -> Int[Array, ""]:
    """First step whose outputs are not finite, T if only the ends are not, -1 if all are.

    >>> int(first_lost(jnp.array([[0.0], [jnp.inf], [1.0]])))
    1
    """
    lost = ~jnp.all(jnp.isfinite(outputs), axis=1)
    after: Any = False
    for end in ends:
        after = after | ~jnp.all(jnp.isfinite(end))
    at_all = jnp.append(lost, after)
    return jnp.where(jnp.any(at_all), jnp.argmax(at_all), -1)


def _require_semidefinite(kernel: Array) -> None:
    if not is_concrete(kernel):
        return
    values = np.asarray(kernel)
    slack = float(jnp.finfo(kernel.dtype).eps) ** 0.5 * np.abs(values).max()
    asymmetry = np.abs(values - values.T).max()
    if not asymmetry <= slack:
        raise ValueError(f"input_kernel must be symmetric, got differences of {asymmetry}")
    smallest = np.linalg.eigvalsh(values)[0]
    if smallest < -slack * len(values):
        raise ValueError(f"input_kernel must be positive semidefinite, got eigenvalue {smallest}")
