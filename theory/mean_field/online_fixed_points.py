"""Where online learning rests: the symmetric plateau, and the floor that label noise leaves.

Setting, time and rates are those of ``theory.mean_field.online``. A committee (v = A = 1, only the
first layer learns) of K = M units with an isotropic teacher, T = 1, soon has student units that are
all alike to the teacher, ``R_in = R``, and waits there until one of them specialises. With
``Q_ii = Q`` and ``Q_ik = C`` this plateau is for eta -> 0

    Q = C = 1/(2K - 1),   R = 1/sqrt(K (2K - 1)),   error = (K/pi) (pi/6 - K asin(1/(2K)))
    escape rate = eta (2/pi) K / [(2K - 1)^(1/2) (2K + 1)^(3/2)],

deviations R_in - R with vanishing sums over i and over n growing exponentially at the escape rate.
At finite eta the noise of the gradients keeps units apart: Q - C = O(eta) > 0. Identical units,
Q = C, are another fixed point, unstable against Q - C.

With label noise sigma the error does not go to zero: near Q = R = T, v = A, noise drives Q by
``eta^2 sigma^2 v_i v_k j2(i, k)``, and descent balances it at a floor of order eta sigma^2.

Source: Saad & Solla (1995), Phys. Rev. E 52, 4225, for the plateau at eta -> 0; Goldt, Advani,
Saxe, Krzakala & Zdeborova (2019), arXiv 1906.08632, for the floor of committees; the rest derived
here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.checks import Count, require, require_count
from theory.mean_field.online import drift
from theory.mean_field.overlaps import OrderParameters, Teacher, checked, generalisation_error

RAMP = 40  # learning rates, or noises, at which a fixed point is followed to the one wanted
NEWTON_STEPS = 10  # there


class Plateau(NamedTuple):
    """The symmetric plateau, its error, and the rate per time at which specialisation grows.

    ``converged``: a fixed point of units that exist was found; otherwise the values mean nothing.
    """

    order_parameters: OrderParameters
    error: Float[Array, ""]
    escape_rate: Float[Array, ""]
    converged: Bool[Array, ""]


class NoiseFloor(NamedTuple):
    """Where a student that knows the teacher is kept by label noise, and its error there.

    ``stable``: this fixed point was found, and attracts; otherwise the values mean nothing.
    """

    order_parameters: OrderParameters
    error: Float[Array, ""]
    stable: Bool[Array, ""]


def slow_plateau(learning_rate: ArrayLike, *, units: Count) -> Plateau:
    """The symmetric plateau to leading order in eta, in closed form (the module).

    ``units`` K = M >= 2, static. Raises ``ValueError`` for fewer, or a learning rate <= 0.

    >>> plateau = slow_plateau(0.01, units=2)
    >>> round(float(plateau.error), 6), round(float(plateau.escape_rate), 6)
    (0.011611, 0.000657)
    """
    require_count(units=units, least=2)
    require_positive(learning_rate=learning_rate)
    (eta,) = as_floats(learning_rate)
    K = int(units)
    q = jnp.full((), 1 / (2 * K - 1), eta.dtype)
    return Plateau(
        _symmetric(jnp.stack([q, q, jnp.sqrt(q / K)]), K),
        jnp.full((), K / np.pi * (np.pi / 6 - K * np.arcsin(1 / (2 * K))), eta.dtype),
        eta * 2 / np.pi * K / ((2 * K - 1) ** 0.5 * (2 * K + 1) ** 1.5),
        jnp.array(True),
    )


def symmetric_plateau(learning_rate: ArrayLike, noise: ArrayLike = 0.0, *, units: Count) -> Plateau:
    """The symmetric plateau at any learning rate eta and label noise sigma (the module).

    Newton's method in Q, C and R, followed from small eta on, on dQ/dt - dC/dt divided by Q - C,
    which excludes identical units. An escape rate below zero: nothing specialises at such eta.
    Large eta have no plateau, or none that is found: see ``converged``. Below eta = 1e-6 rounding
    counts; there, see ``slow_plateau``. ``units`` K = M >= 2, static; vectorises over the others.

    Raises ``ValueError`` for fewer units, a learning rate <= 0 or noise < 0.

    >>> plateau = symmetric_plateau(0.5, units=2)
    >>> round(float(plateau.error), 6), bool(plateau.converged)
    (0.014645, True)
    """
    require_count(units=units, least=2)
    require_positive(learning_rate=learning_rate)
    require_nonnegative(noise=noise)
    return _plateau(*as_floats(learning_rate, noise), units=int(units))


def noise_floor(
    teacher: Teacher,
    *,
    learning_rate: ArrayLike,
    noise: ArrayLike,
    readout_rate: ArrayLike | None = None,
) -> NoiseFloor:
    """Where label noise keeps a student of the teacher's size, K = M, that has specialised.

    The fixed point of the drift that is Q = R = T, v = A for sigma = 0, by Newton's method followed
    from small noise on: exact in eta and sigma. ``readout_rate`` None: v = A is fixed. Otherwise it
    is eta_v > 0, on which only stability depends. Teacher units that are alike or silent leave
    directions without restoring force, in which noise moves the student: not stable.
    Cost (3K^2/2)^3; runs where ``jnp.linalg.eigvals`` does.

    Raises ``ValueError`` for a bad teacher (``checked``), rates <= 0 or noise < 0.

    >>> teacher = Teacher(jnp.eye(2), jnp.ones(2))
    >>> floor = noise_floor(teacher, learning_rate=0.01, noise=0.1)
    >>> round(float(floor.error) / (0.01 * 0.1**2 / (jnp.pi * 3**0.5)), 2), bool(floor.stable)
    (1.0, True)
    """
    require_positive(learning_rate=learning_rate)
    require_nonnegative(noise=noise)
    if readout_rate is not None:
        require_positive(readout_rate=readout_rate)
    student, teacher = checked(OrderParameters(teacher.T, teacher.T, teacher.readout), teacher)
    return _floor(student, teacher, learning_rate, noise, readout_rate)


def committee_noise_floor(
    learning_rate: ArrayLike,
    noise: ArrayLike,
    *,
    student_units: ArrayLike,
    teacher_units: ArrayLike,
) -> Float[Array, "..."]:
    """Error that label noise leaves to a committee of K >= M units, for eta -> 0.

        error = (eta sigma^2/(2 pi)) (K - M + M/sqrt 3)

    First layer only, v = A = 1, T = 1; M units specialise, and the other K - M, near zero, act as
    linear ones. Relative corrections are O(eta). Arguments broadcast. Raises ``ValueError`` for
    a learning rate <= 0, noise < 0, units that are not integers >= 1 or K < M.

    >>> round(float(committee_noise_floor(0.1, 1.0, student_units=3, teacher_units=2)), 6)
    0.034293
    """
    require_positive(learning_rate=learning_rate)
    require_nonnegative(noise=noise)
    require_count(student_units=student_units, teacher_units=teacher_units)
    surplus = np.asarray(student_units) - np.asarray(teacher_units)
    require("student_units - teacher_units", surplus, lambda n: n >= 0, "non-negative")
    eta, sigma, surplus, M = as_floats(learning_rate, noise, surplus, teacher_units)
    return eta * sigma**2 / (2 * jnp.pi) * (surplus + M / jnp.sqrt(3.0).astype(eta.dtype))


def _followed(residual: Callable[[Array, Array], Array], start: Array) -> Array:
    """Root of ``residual(point, share)`` at share 1, by Newton's method from small shares on."""

    def improve(step, point):
        share = jnp.minimum((step + 1) / RAMP, 1).astype(point.dtype)
        slope = jax.jacfwd(residual)(point, share)
        return point - jnp.linalg.solve(slope, residual(point, share))

    return jax.lax.fori_loop(0, RAMP + NEWTON_STEPS, improve, start)


def _symmetric(point: Array, K: int) -> OrderParameters:
    """Order parameters of K units from (Q, C, R)."""
    Q, C, R = point
    same, one = jnp.eye(K, dtype=point.dtype), jnp.ones((K, K), point.dtype)
    return OrderParameters((Q - C) * same + C * one, R * one, one[0])


@partial(jax.jit, static_argnames="units")
def _plateau(eta: Array, noise: Array, *, units: int) -> Plateau:
    K = units
    teacher = Teacher(jnp.eye(K, dtype=eta.dtype), jnp.ones(K, eta.dtype))

    def residual(point, share):
        rates = {"learning_rate": share * eta, "noise": noise}
        change = drift(_symmetric(point, K), teacher, **rates)
        apart = (change.Q[0, 0] - change.Q[0, 1]) / (point[0] - point[1])
        return jnp.stack([apart, change.Q[0, 1], change.R[0, 0]]) / (share * eta)

    # to leading order Q - C is about 0.02 K^2 eta
    q = jnp.full((), 1 / (2 * K - 1), eta.dtype)
    start = jnp.stack([q + 0.02 * K**2 * eta / RAMP, q, jnp.sqrt(q / K)])
    point = _followed(residual, start)
    found = _symmetric(point, K)
    Q, C, R = point
    exists = (Q > C) & (Q + (K - 1) * C >= K * R**2)
    fits = jnp.max(jnp.abs(residual(point, jnp.ones_like(eta)))) <= jnp.finfo(eta.dtype).eps ** 0.5
    growth = _specialisation(found, teacher, eta, noise)
    return Plateau(found, generalisation_error(found, teacher), growth, fits & exists)


def _specialisation(found: OrderParameters, teacher: Teacher, eta: Array, noise: Array) -> Array:
    """Growth rate of R of one student unit and one teacher unit, at the expense of another pair.

    No other order parameter has this symmetry: the linear drift cannot but multiply it.
    """
    opposite = jnp.zeros(len(found.R), eta.dtype).at[0].set(1).at[1].set(-1)
    pair = jnp.outer(opposite, opposite)
    still = OrderParameters(jnp.zeros_like(found.Q), pair, jnp.zeros_like(found.readout))
    move = partial(drift, teacher=teacher, learning_rate=eta, noise=noise)
    return jax.jvp(move, (found,), (still,))[1].R[0, 0]


@jax.jit
def _floor(student, teacher, learning_rate, noise, readout_rate) -> NoiseFloor:
    upper, K = np.triu_indices(len(student.readout)), len(student.readout)
    eta = jnp.asarray(learning_rate, student.Q.dtype)
    rates = {"learning_rate": eta, "readout_rate": 0.0 if readout_rate is None else readout_rate}

    def pack(order):
        parts = [order.Q[upper], order.R.ravel(), order.readout]
        return jnp.concatenate(parts[:2] if readout_rate is None else parts)

    def unpack(vector):
        half, R, v = jnp.split(vector, [len(upper[0]), len(upper[0]) + K * K])
        Q = jnp.zeros((K, K), vector.dtype).at[upper].set(half)
        v = student.readout if readout_rate is None else v
        return OrderParameters(Q + jnp.triu(Q, 1).T, R.reshape(K, K), v)

    def residual(vector, share):
        return pack(drift(unpack(vector), teacher, noise=share * noise, **rates)) / eta

    point = _followed(residual, pack(student))
    one = jnp.ones_like(eta)
    slope = jax.jacfwd(residual)(point, one)
    tiny = jnp.finfo(eta.dtype).eps
    fits = jnp.max(jnp.abs(residual(point, one))) <= tiny**0.75
    slowest = jnp.max(jnp.real(jnp.linalg.eigvals(slope)))
    stable = fits & (slowest < -(tiny**0.5) * jnp.max(jnp.abs(slope)))
    return NoiseFloor(unpack(point), generalisation_error(unpack(point), teacher), stable)
