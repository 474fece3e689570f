"""Overlaps of the weights of a student and a teacher of erf units, and what follows from them.

    f = sum_k v_k g(l_k),   l_k = w_k . x/sqrt(N);    y = sum_m A_m g(r_m),   r_m = w*_m . x/sqrt(N)

with g(u) = erf(u/sqrt 2), K units in the student, M in the teacher, x ~ N(0, 1_N). All of (l, r) is
Gaussian with the covariance of the overlaps,

    C = [[Q, R], [R^T, T]],   Q = w w^T/N,   R = w w*^T/N,   T = w* w*^T/N,

at every N, and the generalisation error is a function of it and the readouts c = (v, -A),

    error = (1/2) <(f - y)^2> = (1/2) sum_ab c_a c_b i2(a, b),

i2 = <g g> being one of ``theory.mean_field.erf_integrals``. It is a difference of numbers of order
one: below 1e-15 it is rounding, of either sign.

How they move while learning: ``theory.mean_field.online``.

Source: Saad & Solla (1995), Phys. Rev. E 52, 4225; with second layers Goldt, Advani, Saxe, Krzakala
& Zdeborova (2019), arXiv 1906.08632.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_finite
from theory.checks import is_concrete
from theory.mean_field.erf_integrals import i2


class OrderParameters(NamedTuple):
    """What is left of the student: ``Q`` (K, K), ``R`` (K, M) and its ``readout`` v (K,)."""

    Q: Float[Any, "*times K K"]
    R: Float[Any, "*times K M"]
    readout: Float[Any, "*times K"]


class Teacher(NamedTuple):
    """What is left of the teacher: ``T`` (M, M) and its ``readout`` A (M,)."""

    T: Float[Any, "M M"]
    readout: Float[Any, " M"]


def order_parameters(
    weights: ArrayLike,
    readout: ArrayLike,
    teacher_weights: ArrayLike,
    teacher_readout: ArrayLike,
) -> tuple[OrderParameters, Teacher]:
    """Overlaps of weights: ``Q = w w^T/N, R = w w*^T/N, T = w* w*^T/N``, beside the readouts.

    weights (K, N) and readout (K,) of the student, teacher_weights (M, N) and teacher_readout (M,).
    Weights of order one make fields w . x/sqrt(N) of order one. Raises ``ValueError`` for shapes
    that do not fit and numbers that are not finite.

    >>> one = jnp.ones(1)
    >>> student, teacher = order_parameters(jnp.ones((2, 4)), jnp.ones(2), jnp.eye(1, 4), one)
    >>> student.Q.tolist(), student.R.tolist(), teacher.T.tolist()
    ([[1.0, 1.0], [1.0, 1.0]], [[0.25], [0.25]], [[0.25]])
    """
    w, target = jnp.asarray(weights), jnp.asarray(teacher_weights)
    if w.ndim != 2 or target.ndim != 2 or w.shape[1] != target.shape[1] or w.shape[1] == 0:
        raise ValueError(
            "weights and teacher_weights must be (K, N) and (M, N), N > 0, "
            f"got {w.shape} and {target.shape}"
        )
    n_in = w.shape[1]
    student = OrderParameters(w @ w.T / n_in, w @ target.T / n_in, jnp.asarray(readout))
    return checked(student, Teacher(target @ target.T / n_in, jnp.asarray(teacher_readout)))


def joint_covariance(student: OrderParameters, teacher: Teacher) -> Float[Array, "KM KM"]:
    """Covariance ``[[Q, R], [R^T, T]]`` of the fields of all units, the student's first.

    Raises ``ValueError`` for bad overlaps (``checked``).

    >>> student = OrderParameters(jnp.eye(1), jnp.zeros((1, 1)), jnp.ones(1))
    >>> joint_covariance(student, Teacher(2 * jnp.eye(1), jnp.ones(1))).tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    student, teacher = checked(student, teacher)
    return jnp.block([[student.Q, student.R], [student.R.T, teacher.T]])


def generalisation_error(student: OrderParameters, teacher: Teacher) -> Float[Array, ""]:
    """Half the mean squared difference to the teacher without its noise, on a new x.

    Raises ``ValueError`` for bad overlaps (``checked``).

    >>> student = OrderParameters(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones(1))
    >>> round(float(generalisation_error(student, Teacher(jnp.eye(1), jnp.ones(1)))), 6)
    0.166667
    """
    student, teacher = checked(student, teacher)
    c = signed_readouts(student, teacher)
    fields = np.arange(len(c))
    return c @ i2(joint_covariance(student, teacher), *np.ix_(fields, fields)) @ c / 2


def signed_readouts(student: OrderParameters, teacher: Teacher) -> Float[Array, " KM"]:
    """``c = (v, -A)``: how the output of every unit enters the error f - y.

    >>> student = OrderParameters(jnp.eye(1), jnp.zeros((1, 1)), jnp.ones(1))
    >>> signed_readouts(student, Teacher(jnp.eye(1), 2 * jnp.ones(1))).tolist()
    [1.0, -2.0]
    """
    return jnp.concatenate([student.readout, -teacher.readout])


def checked(student: OrderParameters, teacher: Teacher) -> tuple[OrderParameters, Teacher]:
    """Student and teacher as arrays of one floating dtype.

    Raises ``ValueError`` for shapes that do not fit, no units, numbers that are not finite, or if
    [[Q, R], [R^T, T]] is not symmetric and positive semidefinite, up to a relative ``sqrt(eps)``.

    >>> student = OrderParameters(jnp.eye(1), 2 * jnp.ones((1, 1)), jnp.ones(1))
    >>> checked(student, Teacher(jnp.eye(1), jnp.ones(1)))
    Traceback (most recent call last):
        ...
    ValueError: the joint overlaps of Q, R and T must have eigenvalues >= 0, got -1.0
    """
    dtype = jnp.result_type(*student, *teacher, 1.0)
    student = OrderParameters(*(jnp.asarray(value, dtype) for value in student))
    teacher = Teacher(*(jnp.asarray(value, dtype) for value in teacher))
    k, m = student.readout.shape, teacher.readout.shape
    found = tuple(jnp.shape(value) for value in (*student, *teacher))
    if len(k) != 1 or len(m) != 1 or found != (2 * k, k + m, k, 2 * m, m) or 0 in k + m:
        raise ValueError(
            "Q, R, readout, T and the teacher's readout must be "
            f"(K, K), (K, M), (K,), (M, M) and (M,), K, M > 0, got {found}"
        )
    require_finite(Q=student.Q, R=student.R, readout=student.readout)
    require_finite(T=teacher.T, **{"teacher's readout": teacher.readout})
    _require_overlaps(student, teacher)
    return student, teacher


def _require_overlaps(student: OrderParameters, teacher: Teacher) -> None:
    if not is_concrete(*student, *teacher):
        return
    R = np.asarray(student.R)
    overlaps = np.block([[np.asarray(student.Q), R], [R.T, np.asarray(teacher.T)]])
    slack = float(jnp.finfo(overlaps.dtype).eps) ** 0.5 * len(overlaps) * np.abs(overlaps).max()
    for name, matrix in {"Q": student.Q, "T": teacher.T}.items():
        skew = np.abs(np.asarray(matrix) - np.asarray(matrix).T).max()
        if not skew <= slack:
            raise ValueError(f"{name} must be symmetric, got differences of {skew}")
    least = np.linalg.eigvalsh(overlaps)[0]
    if not least >= -slack:
        joint = "the joint overlaps of Q, R and T"
        raise ValueError(f"{joint} must have eigenvalues >= 0, got {least}")
