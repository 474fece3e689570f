"""Online learning of two layers of erf units: the closed equations of Saad & Solla, and of Goldt.

A student of K units learns from a teacher of M, seeing each x ~ N(0, 1_N) once. In the notation of
``theory.mean_field.overlaps``, with label noise sigma zeta, zeta ~ N(0, 1),

    e = f - y - sigma zeta
    w_k <- w_k - (eta/sqrt N) v_k g'(l_k) e x,        v_k <- v_k - (eta_v/N) g(l_k) e,

SGD on e^2/2 at rates eta for the first layer and eta_v/N for the second of ``dynamics.models``'
committee. Time is ``t = steps/N``. For N -> infinity the overlaps move without fluctuations: with
c = (v, -A) over all fields and the averages of ``theory.mean_field.erf_integrals``,

    dR_in/dt = -eta v_i sum_a c_a i3(i, n, a),            dv_i/dt = -eta_v sum_a c_a i2(i, a)
    dQ_ik/dt = -eta v_i sum_a c_a i3(i, k, a) - eta v_k sum_a c_a i3(k, i, a)
               + eta^2 v_i v_k [ sum_ab c_a c_b i4(i, k, a, b) + sigma^2 j2(i, k) ].

At finite N the means of dR and dv are exact, that of dQ is off by O(1/N), and overlaps fluctuate by
O(1/sqrt N). v moves so slowly that its noise does not matter. The soft committee machine is v = A =
1, eta_v = 0. Where runs rest: ``theory.mean_field.online_fixed_points``.

Source: Saad & Solla (1995), Phys. Rev. E 52, 4225; label noise and both layers: Goldt, Advani,
Saxe, Krzakala & Zdeborova (2019), arXiv 1906.08632.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from theory.arguments import require_nonnegative
from theory.checks import Count, is_concrete, require, require_count
from theory.mean_field.erf_integrals import i2, i3, i4, j2
from theory.mean_field.overlaps import (
    OrderParameters,
    Teacher,
    checked,
    generalisation_error,
    joint_covariance,
    signed_readouts,
)


class Trajectory(NamedTuple):
    """Order parameters and generalisation error at the requested times, time on a leading axis.

    Values are NaN where ``reached`` is False. ``converged``: every time was reached with the step
    errors within tolerance. ``n_steps`` counts the steps tried, rejected ones included.
    """

    times: Float[Array, " times"]
    order_parameters: OrderParameters
    error: Float[Array, " times"]
    reached: Bool[Array, " times"]
    converged: Bool[Array, ""]
    n_steps: Int[Array, ""]


class _Rates(NamedTuple):
    learning_rate: Any
    readout_rate: Any
    noise: Any


def drift(
    student: OrderParameters,
    teacher: Teacher,
    *,
    learning_rate: ArrayLike,
    readout_rate: ArrayLike = 0.0,
    noise: ArrayLike = 0.0,
) -> OrderParameters:
    """Time derivatives of the order parameters (the module).

    ``learning_rate`` eta, ``readout_rate`` eta_v, ``noise`` sigma, the standard deviation of the
    labels. Memory: K^2 (K + M)^2 numbers. Differentiable.

    Raises ``ValueError`` for bad overlaps (``checked``), rates or noise negative or not finite.

    >>> teacher = Teacher(jnp.eye(2), jnp.ones(2))
    >>> perfect = OrderParameters(jnp.eye(2), jnp.eye(2), jnp.ones(2))
    >>> change = drift(perfect, teacher, learning_rate=1.0, noise=0.1)  # nothing but noise moves it
    >>> change.Q.round(6).tolist(), bool((abs(change.R) < 1e-6).all())
    ([[0.003676, 0.003183], [0.003183, 0.003676]], True)
    """
    student, teacher = checked(student, teacher)
    return _drift(student, teacher, _checked_rates(student, learning_rate, readout_rate, noise))


def integrate(
    student: OrderParameters,
    teacher: Teacher,
    *,
    learning_rate: ArrayLike,
    times: ArrayLike | Sequence[float],
    readout_rate: ArrayLike = 0.0,
    noise: ArrayLike = 0.0,
    rtol: float | None = None,
    max_steps: Count = 2**16,
) -> Trajectory:
    """Order parameters along a run that starts at t = 0, at the given times t = steps/N.

    Dormand & Prince's method of order 8 with error control; steps end on the requested times.
    Compiled once per K, M and number of times; vectorises over starts, teachers and rates;
    reverse-mode differentiable in all of them. Symmetries of the start, such as identical units,
    are kept, and only broken by rounding where they are unstable.

    Args:
        times: strictly increasing, >= 0, at least one; not necessarily 0 itself.
        rtol: tolerance on the error of one step; absolute below overlaps of 1e-3. Default: 1e-9,
            1e-5 in float32.
        max_steps: give up after so many; ``converged`` is False then. Static.

    Raises ``ValueError`` for bad overlaps (``checked``), rates or noise negative or not finite, bad
    times, rtol outside [4 eps, 1) or max_steps < 1.

    >>> teacher = Teacher(jnp.eye(1), jnp.ones(1))
    >>> start = OrderParameters(0.1 * jnp.eye(1), jnp.zeros((1, 1)), jnp.ones(1))
    >>> run = integrate(start, teacher, learning_rate=1.0, times=[0.0, 10.0, 40.0])
    >>> bool(run.converged), bool(run.error[1] < 0.02), bool(run.error[2] < 1e-6)
    (True, True, True)
    """
    student, teacher = checked(student, teacher)
    rates = _checked_rates(student, learning_rate, readout_rate, noise)
    require_count(max_steps=max_steps)
    dtype = jnp.result_type(*student)
    finest = float(jnp.finfo(dtype).eps)
    rtol = max(1e-9, 100 * finest) if rtol is None else rtol
    require("rtol", rtol, lambda r: (r >= 4 * finest) & (r < 1), f"in [{4 * finest:.1e}, 1)")
    times = np.asarray(times, dtype) if is_concrete(times) else jnp.asarray(times, dtype)
    _require_times(times)
    return _integrate(student, teacher, rates, times, rtol, max_steps=int(max_steps))


def _checked_rates(student: OrderParameters, learning_rate, readout_rate, noise) -> _Rates:
    rates = _Rates(learning_rate, readout_rate, noise)
    for name, value in rates._asdict().items():
        if np.ndim(value):
            raise ValueError(f"{name} must be a number, got shape {np.shape(value)}")
    require_nonnegative(**rates._asdict())
    return _Rates(*(jnp.asarray(value, jnp.result_type(student.Q)) for value in rates))


def _require_times(times: Any) -> None:
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times must be a non-empty vector, got shape {times.shape}")
    require_nonnegative(times=times)
    if is_concrete(times) and not (np.diff(times) > 0).all():
        raise ValueError(f"times must be strictly increasing, got {times}")


@jax.jit
def _drift(student: OrderParameters, teacher: Teacher, rates: _Rates) -> OrderParameters:
    eta, eta_v, noise = rates
    v, c = student.readout, signed_readouts(student, teacher)
    covariance = joint_covariance(student, teacher)
    own, fields = np.arange(len(v)), np.arange(len(c))

    descent = -eta * v[:, None] * (i3(covariance, *np.ix_(own, fields, fields)) @ c)
    descent_q, descent_r = descent[:, : len(v)], descent[:, len(v) :]
    spread = i4(covariance, *np.ix_(own, own, fields, fields)) @ c @ c
    spread += noise**2 * j2(covariance, *np.ix_(own, own))
    return OrderParameters(
        Q=descent_q + descent_q.T + eta**2 * jnp.outer(v, v) * spread,
        R=descent_r,
        readout=-eta_v * i2(covariance, *np.ix_(own, fields)) @ c,
    )


@partial(jax.jit, static_argnames="max_steps")
def _integrate(student, teacher, rates, times, rtol, *, max_steps: int) -> Trajectory:
    # without a smallest step, a few roundings of t, a lost run would try the same instant forever
    smallest = 8 * jnp.finfo(times.dtype).eps * times[-1]
    control = diffrax.PIDController(rtol, rtol / 1000, dtmin=smallest, force_dtmin=False)
    solution: Any = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, now, rates: _drift(now, teacher, rates)),
        diffrax.Dopri8(),
        t0=jnp.zeros((), times.dtype),
        t1=times[-1],
        dt0=None,
        y0=student,
        args=rates,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.ClipStepSizeController(control, step_ts=times),
        max_steps=max_steps,
        throw=False,
    )
    reached = jnp.isfinite(solution.ts)
    seen = jax.tree.map(
        lambda x: jnp.where(reached.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan), solution.ys
    )
    return Trajectory(
        times=jnp.asarray(times),
        order_parameters=seen,
        error=jax.vmap(generalisation_error, (0, None))(seen, teacher),
        reached=reached,
        converged=diffrax.is_successful(solution.result),
        n_steps=solution.stats["num_steps"],
    )
