"""A student next to a frozen random teacher: gradients of the distillation loss, and its decay.

The loss is the cross-entropy of softened outputs, mean over n examples, up to the entropy of the
teacher the Kullback-Leibler divergence:

    L = (1/n) sum_i KL_i,    KL_i = sum_k p_k ln(p_k / q_k),    p = softmax(z_T), q = softmax(z_S).

To second order in the distance of the logits ``d = z_S - z_T`` it is half the square of M d,

    KL_i = 1/2 |M_i d_i|^2 + O(d^3),    M_i^T M_i = diag(p_i) - p_i p_i^T  (Fisher information),

so that near the teacher gradient flow is that of the half squared error of ``M d`` with targets 0
and the tangent kernel ``M Theta M^T`` of the teacher (``theory.kernels.kernel_modes``). Outputs of
the student return to the teacher's, mode by mode: its weights need not.

Student weights ``((1 - a) theta_T + a theta_R)/sqrt((1 - a)^2 + a^2)``, theta_R another random
network in NTK parametrisation (weights N(0, 1)): they are distributed as the teacher's at every
locality a, and for small a ``M d`` is a Gaussian of covariance ``a^2 M Theta M^T``. Derived here.

Source of the setting: Sarnthein, Bachmann, Anagnostidis & Hofmann (2023), arXiv 2302.12091.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_positive
from theory.checks import require
from theory.kernels.kernel_modes import KernelModes, SpectralFilter


def logit_gradient(
    student: Float[ArrayLike, "*b c"],
    teacher: Float[ArrayLike, "*b c"],
    *,
    student_temperature: ArrayLike = 1.0,
    teacher_temperature: ArrayLike = 1.0,
) -> Float[Array, "*b c"]:
    """Gradient in the student's logits of one example's loss, at temperatures of their own.

        (softmax(z_S/t_S) - softmax(z_T/t_T)) / t_S

    of the cross-entropy ``-sum_k softmax(z_T/t_T)_k ln softmax(z_S/t_S)_k``. It vanishes where both
    distributions agree: a student equal to its teacher is stationary. Raises ``ValueError`` for
    temperatures that are not positive, NaN.

    >>> logit_gradient(jnp.zeros(2), jnp.zeros(2), student_temperature=0.5).tolist()
    [0.0, 0.0]
    """
    require_finite(student=student, teacher=teacher)
    require_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    student, teacher = as_floats(student, teacher)
    of_student = jax.nn.softmax(student / student_temperature, axis=-1)
    of_teacher = jax.nn.softmax(teacher / teacher_temperature, axis=-1)
    return (of_student - of_teacher) / student_temperature


def divergence_decay(
    modes: KernelModes, learning: SpectralFilter, distance: Float[ArrayLike, "n c"]
) -> Float[Array, "..."]:
    """Divergence from the teacher over time, ``(1/2n) sum_j (1 - g_j)^2 (v_j^T e)^2``, ``e = M d``.

    modes: of the teacher's ``M Theta M^T`` (n, c, n, c), loss "mean"; learning: what flow or
    descent has learned of them at times (...). Relative error of the order of the distance. Raises
    ``ValueError`` for a distance that does not fit the kernel, NaN.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(jnp.eye(2).reshape(1, 2, 1, 2), loss="mean")
    >>> learning = flow_filter(modes, jnp.array([0.0, 1e9]))
    >>> divergence_decay(modes, learning, jnp.ones((1, 2))).tolist()
    [1.0, 0.0]
    """
    require_finite(distance=distance)
    flat = jnp.asarray(distance, modes.vectors.dtype).reshape(-1)
    if len(flat) != len(modes.vectors):
        raise ValueError(
            f"distance must fit a kernel of {len(modes.vectors)} rows, got {jnp.shape(distance)}"
        )
    return _divergence(modes, learning, (modes.vectors.T @ flat) ** 2)


def expected_divergence(
    modes: KernelModes, learning: SpectralFilter, locality: ArrayLike
) -> Float[Array, "..."]:
    """``divergence_decay``, mean over random students: ``(a^2/2n) sum_j lambda_j (1 - g_j)^2``.

    For small locality a, in NTK parametrisation. Raises ``ValueError`` for an a not in [0, 1].

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(jnp.eye(2).reshape(1, 2, 1, 2), loss="mean")
    >>> float(expected_divergence(modes, flow_filter(modes, 0.0), 0.5))
    0.25
    """
    require("locality", locality, lambda a: (a >= 0) & (a <= 1), "between 0 and 1")
    a = jnp.asarray(locality, modes.vectors.dtype)
    return _divergence(modes, learning, a**2 * modes.eigenvalues)


def _divergence(modes: KernelModes, learning: SpectralFilter, squares: Array) -> Array:
    return (1 - learning.learned) ** 2 @ squares / (2 * modes.samples)
