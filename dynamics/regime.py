"""Lazy or rich: how far training has moved a network's weights, features and tangent kernel.

    weight_change              |theta_1 - theta_0|, relative |theta_1 - theta_0| / |theta_0|
    kernel_change              |K1 - K0| / |K0|                  sees scale and direction
    kernel_alignment           <K0, K1> / (|K0| |K1|)            blind to scale, 1: nothing turned
    kernel_distance            1 - kernel_alignment
    angular_velocity           sqrt(2 kernel_distance) / dt
    representation_alignment   kernel_alignment of H H^T, hidden activity H
    cka                        the same, centred
    kernel_target_alignment    kernel_alignment with y y^T, centred
    linearization_error        network against its linearisation with the same training outputs

All norms are Frobenius. ``centered`` means C K C with C = I - 11^T/n. Where F = alpha (f - f_0) is
trained on fixed targets, on the lazy side

    weight change             1/alpha
    kernel change             1/alpha      if f_0 = 0 comes of two mirrored halves 1/alpha^2
    distances, 1 - cka        1/alpha^2                                            1/alpha^4
    linearisation error of F  1/alpha                                              1/alpha^2

``dynamics.regime_report`` puts the robust ones together.

Distances grow with the square of time, so distance / dt is not a rate; the angular velocity is.

Sources: Chizat, Oyallon & Bach (2019), arXiv 1812.07956; Geiger et al. (2020), arXiv 1906.08034;
Fort et al. (2020), arXiv 2010.15110; Liu et al. (2023), arXiv 2310.08513; Kornblith et al. (2019),
arXiv 1905.00414.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.gram import Apply
from dynamics.tangent_kernel import empirical_ntk


def kernel_alignment(
    first: Float[ArrayLike, "n n"], second: Float[ArrayLike, "n n"], *, centered: bool = False
) -> Float[Array, ""]:
    """Cosine of the angle between two kernels, ``tr(K0^T K1) / (|K0| |K1|)`` (Frobenius).

    Between 0 and 1 for positive semidefinite kernels; nan if either is zero.

    >>> round(float(kernel_alignment(jnp.eye(4), jnp.diag(jnp.array([1.0, 0.0, 0.0, 0.0])))), 12)
    0.5
    """
    return jnp.sum(_direction(first, centered) * _direction(second, centered))


def kernel_distance(
    first: Float[ArrayLike, "n n"], second: Float[ArrayLike, "n n"], *, centered: bool = False
) -> Float[Array, ""]:
    """``1 - kernel_alignment``, to full relative accuracy also where the kernels hardly differ.

    Computed as ``|K0/|K0| - K1/|K1||^2 / 2``. Zero for kernels that differ by a factor: report
    ``kernel_change`` beside it.

    >>> float(kernel_distance(jnp.eye(2), 21 * jnp.eye(2))) < 1e-30
    True
    """
    return jnp.sum((_direction(first, centered) - _direction(second, centered)) ** 2) / 2


def kernel_change(
    first: Float[ArrayLike, "n n"], second: Float[ArrayLike, "n n"]
) -> Float[Array, ""]:
    """Relative change of a kernel, ``|K1 - K0| / |K0|`` (Frobenius), scale included.

    >>> float(kernel_change(jnp.eye(2), 3 * jnp.eye(2)))
    2.0
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    return jnp.linalg.norm(second - first) / jnp.linalg.norm(first)


def angular_velocity(
    first: Float[ArrayLike, "n n"],
    second: Float[ArrayLike, "n n"],
    dt: ArrayLike,
    *,
    centered: bool = False,
) -> Float[Array, ""]:
    """How fast a kernel turns, ``sqrt(2 S)/dt`` with S the ``kernel_distance`` after time ``dt``.

    The chord over time; the angle's rate of change as dt -> 0, in radians. S itself is of second
    order in dt, so S/dt depends on the dt chosen.

    >>> def kernel(angle): return jnp.diag(jnp.array([jnp.cos(angle), jnp.sin(angle)]))
    >>> round(float(angular_velocity(kernel(0.3), kernel(0.301), 0.001)), 6)
    1.0
    """
    return jnp.sqrt(2 * kernel_distance(first, second, centered=centered)) / dt


def representation_alignment(
    first: Float[ArrayLike, "P features"], second: Float[ArrayLike, "P features2"]
) -> Float[Array, ""]:
    """``kernel_alignment`` of the Gram matrices of two hidden representations of P examples.

    Rotations of the hidden space do not count as change.

    >>> h = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> round(float(representation_alignment(h, h[:, ::-1])), 12)
    1.0
    """
    return kernel_alignment(_gram(first), _gram(second))


def cka(
    first: Float[ArrayLike, "P features"], second: Float[ArrayLike, "P features2"]
) -> Float[Array, ""]:
    """Linear centred kernel alignment of two representations of P examples, between 0 and 1.

    ``kernel_alignment`` of H H^T with the means over examples taken out, so that rotations, factors
    and shifts of a representation do not count. nan if one is the same for all examples.

    >>> h = jnp.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    >>> round(float(cka(h, 3 * h + 5.0)), 12)
    1.0
    """
    return kernel_alignment(_gram(first), _gram(second), centered=True)


def kernel_target_alignment(
    kernel: Float[ArrayLike, "n n"],
    y: Float[ArrayLike, " n"] | Float[ArrayLike, "n c"],
    *,
    centered: bool = True,
) -> Float[Array, ""]:
    """``kernel_alignment`` of a kernel with that of the targets, y y^T.

    Between 0 and 1. It tells what the kernel is aligned with, not how rich training was: the gain
    during training is not monotone in the scale of the output.

    >>> y = jnp.array([1.0, -1.0])
    >>> round(float(kernel_target_alignment(y[:, None] * y[None, :], y)), 12)
    1.0
    """
    y = jnp.asarray(y)
    return kernel_alignment(kernel, _gram(y.reshape(len(y), -1)), centered=centered)


def weight_change(
    first: PyTree[Any], second: PyTree[Any], *, relative: bool = False
) -> Float[Array, ""]:
    """Distance ``|theta_1 - theta_0|`` (Euclidean) between two pytrees of parameters.

    ``relative`` divides it by ``|theta_0|``.

    >>> float(weight_change((jnp.zeros(1), jnp.zeros(1)), (jnp.full(1, 3.0), jnp.full(1, 4.0))))
    5.0
    """
    moved = _norm(jax.tree.map(lambda a, b: b - a, first, second))
    return moved / _norm(first) if relative else moved


def linearization_error(
    apply: Apply,
    params0: PyTree[Any],
    params1: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    x_test: Float[ArrayLike, "n_test ..."],
    *,
    relative: bool = False,
    cutoff: float | None = None,
) -> Float[Array, ""]:
    """Difference on test inputs between a trained network and its linearisation trained alike.

        f_lin(z) = f_0(z) + Theta_0(z, x) Theta_0(x, x)^+ (f_1(x) - f_0(x))

    is the least movement of the linearised network that takes the training outputs where training
    took them; both are compared at equal training outputs, so that modes that have not converged
    are not counted as nonlinearity. Root mean square over test points and outputs of f_1 - f_lin,
    divided by that of f_1 - f_0 if ``relative``. O(1/alpha) on the lazy side.

    Eigenvalues of Theta_0 below ``cutoff`` times the largest count as zero, by default the number
    of its rows times rounding. Price: two kernels of all outputs and an eigendecomposition.

    Source: Lee et al. (2019), arXiv 1902.06720, for the comparison.

    >>> def linear(w, x): return x @ w
    >>> x = jnp.array([[1.0, 0.0]])
    >>> float(linearization_error(linear, jnp.zeros(2), jnp.array([2.0, 0.0]), x, 3 * x))
    0.0
    """
    x, x_test = jnp.asarray(x), jnp.asarray(x_test)
    start, test_start = (_stacked(apply(params0, points)) for points in (x, x_test))
    end, test_end = (_stacked(apply(params1, points)) for points in (x, x_test))
    values, vectors = jnp.linalg.eigh(empirical_ntk(apply, params0, x))
    cutoff = len(values) * float(jnp.finfo(values.dtype).eps) if cutoff is None else cutoff
    kept = values > cutoff * values[-1]
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)
    coefficients = vectors @ (inverse * (vectors.T @ (end - start)))
    linear = test_start + empirical_ntk(apply, params0, x_test, x) @ coefficients
    error = jnp.sqrt(jnp.mean((test_end - linear) ** 2))
    return error / jnp.sqrt(jnp.mean((test_end - test_start) ** 2)) if relative else error


def _direction(kernel: ArrayLike, centered: bool) -> Array:
    """The kernel, centred if asked, of unit norm."""
    kernel = jnp.asarray(kernel)
    if centered:
        kernel = kernel - jnp.mean(kernel, axis=0, keepdims=True)
        kernel = kernel - jnp.mean(kernel, axis=1, keepdims=True)
    return kernel / jnp.linalg.norm(kernel)


def _gram(features: ArrayLike) -> Array:
    features = jnp.asarray(features)
    return features @ features.T


def _norm(tree: PyTree[Any]) -> Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _stacked(outputs: Array) -> Array:
    """Outputs (P, c) or (P,) as one vector in the order of ``empirical_ntk``."""
    return outputs.T.reshape(-1)
