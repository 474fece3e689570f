"""Representational geometry of a task on k bits: of its inputs, and of a layer that has learned it.

P = 2^k conditions, the corners ``B`` (P, k) of a cube, with an input kernel that leads from the
cube (s = 0) to orthogonal conditions (s = 1),

    K_in(s) = (1 - s) B B^T / k + s I.

Products of bits are its eigenvectors: of one bit with the eigenvalue a = (1 - s) P/k + s, of more,
and of none, with s. Geometry is a function of a kernel ``K = H H^T`` over conditions alone.

A layer phi(W x) under a fixed random readout, trained from vanishing weights by gradient flow on
any loss of ``y_j f_j`` summed over outputs, with its width going to infinity, has a limit in
which each target keeps one and the same residual ``y_j g(t)`` for all conditions. A unit with
readout r moves by ``du/dt = K_in [phi'(u) (Y r)] g``; the inputs of the layer become its targets,
and its random weights the readouts (``rich_limit_kernel``). Derived here.

Source of the setting: Alleman, Lindsey & Fusi (2024), arXiv 2401.13558.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_finite
from theory.checks import Count, require
from theory.kernels.dual_activations import relu_dual


def cube(n_bits: Count) -> Float[np.ndarray, "P k"]:
    """Corners of the cube as rows of +-1, in lexicographic order, (2^k, k).

    Raises ``ValueError`` unless n_bits is a whole number >= 2.

    >>> cube(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    require("n_bits", n_bits, lambda k: (k >= 2) & (k == np.floor(k)), "a whole number >= 2")
    return np.array(list(itertools.product((-1.0, 1.0), repeat=int(n_bits))))


def input_kernel(separation: ArrayLike, n_bits: Count) -> Float[Array, "P P"]:
    """``(1 - s) B B^T / k + s I`` with ones on its diagonal; s = ``separation`` in [0, 1].

    Raises ``ValueError`` for another s, or n_bits that is not a whole number >= 2.

    >>> input_kernel(0.5, 2)[0].tolist()
    [1.0, 0.0, 0.0, -0.5]
    """
    _require_separation(separation)
    bits = jnp.asarray(cube(n_bits))
    s = jnp.asarray(separation, bits.dtype)
    return (1 - s) * (bits @ bits.T) / int(n_bits) + s * jnp.eye(len(bits))


def input_target_alignment(
    separation: ArrayLike, n_bits: Count, n_targets: Count, *, degree: Count = 1
) -> Float[Array, "..."]:
    """CKA of the inputs with q targets, each another product of ``degree`` of the k bits.

        CKA = sqrt(q) v / sqrt(k a^2 + (P - 1 - k) s^2),     v = a for degree 1, s for more

    sqrt(q/k) on the cube, where targets of higher degree have 0; sqrt(q/(P - 1)) for orthogonal
    conditions. Raises ``ValueError`` as ``input_kernel``, and for targets that are not 1 or more of
    the C(k, degree) there are.

    >>> round(float(input_target_alignment(0.0, 2, 1)), 6)
    0.707107
    >>> round(float(input_target_alignment(1.0, 4, 1, degree=2)) * math.sqrt(15), 6)
    1.0
    """
    _require_separation(separation)
    k, conditions = int(n_bits), len(cube(n_bits))
    require("degree", degree, lambda d: (d >= 1) & (d <= k) & (d == np.floor(d)), f"1 to {k}")
    most = math.comb(k, int(degree))
    require("n_targets", n_targets, lambda q: (q >= 1) & (q <= most), f"1 to {most}")
    s = jnp.asarray(separation, float)
    single = (1 - s) * conditions / k + s
    norm = jnp.sqrt(k * single**2 + (conditions - 1 - k) * s**2)
    return jnp.sqrt(int(n_targets)) * (single if degree == 1 else s) / norm


def input_parallelism(separation: ArrayLike, n_bits: Count) -> Float[Array, "..."]:
    """Parallelism score of every bit in the inputs, ``2 (1 - s) / (2 (1 - s) + k s)``.

    Raises ``ValueError`` as ``input_kernel``.

    >>> input_parallelism(jnp.array([0.0, 0.5, 1.0]), 2).tolist()
    [1.0, 0.5, 0.0]
    """
    _require_separation(separation)
    k = cube(n_bits).shape[1]
    s = jnp.asarray(separation, float)
    return 2 * (1 - s) / (2 * (1 - s) + k * s)


def kernel_cka(
    first: Float[ArrayLike, "*b P P"], second: Float[ArrayLike, "*b P P"]
) -> Float[Array, "*b"]:
    """Cosine (Frobenius) of two kernels over conditions, centred: the CKA of representations.

    Raises ``ValueError`` for NaN or infinity; nan where a centred kernel vanishes.

    >>> bits = cube(2)
    >>> round(float(kernel_cka(bits @ bits.T, bits[:, :1] @ bits[:, :1].T)), 6)
    0.707107
    """
    require_finite(first=first, second=second)
    first, second = (_centered(jnp.asarray(kernel)) for kernel in (first, second))
    norm = jnp.sqrt(jnp.sum(first**2, axis=(-2, -1)) * jnp.sum(second**2, axis=(-2, -1)))
    return jnp.sum(first * second, axis=(-2, -1)) / norm


def kernel_parallelism(kernel: Float[ArrayLike, "*b P P"], bit: Count) -> Float[Array, "*b"]:
    """Parallelism score of one bit from the kernel over the corners of ``cube(k)``, P = 2^k.

    Mean cosine over pairs of the 2^(k-1) coding vectors, each the difference between two conditions
    that differ in that bit only. Raises ``ValueError`` for a kernel of another size, a bit that is
    not one of 0..k-1, NaN.

    >>> kernels = jnp.stack([jnp.eye(4), cube(2) @ cube(2).T])
    >>> abs(kernel_parallelism(kernels, 0)).round(12).tolist()
    [0.0, 1.0]
    """
    require_finite(kernel=kernel)
    kernel = jnp.asarray(kernel)
    bits = cube(max(2, kernel.shape[-1].bit_length() - 1))
    if kernel.shape[-2:] != (len(bits), len(bits)):
        raise ValueError(f"kernel must be (..., 2^k, 2^k), k >= 2, got shape {kernel.shape}")
    k = bits.shape[1]
    require("bit", bit, lambda b: (b >= 0) & (b < k), f"one of 0..{k - 1}")
    sides = bits[:, int(bit)]
    high, low = np.nonzero(sides > 0)[0], np.nonzero(sides < 0)[0]
    coding = np.eye(len(bits))[high] - np.eye(len(bits))[low]  # rows match by the other bits
    products = coding @ kernel @ coding.T
    norms = jnp.sqrt(jnp.diagonal(products, axis1=-2, axis2=-1))
    cosines = products / (norms[..., :, None] * norms[..., None, :])
    count = len(high)
    return (jnp.sum(cosines, axis=(-2, -1)) - count) / (count * (count - 1))


def rich_limit_kernel(
    y: Float[ArrayLike, "P q"], *, activation: str, orthogonal: bool = False
) -> Float[Array, "P P"]:
    """Hidden kernel, up to a factor, of one or two targets learned from vanishing weights.

    * "odd": units are odd functions of ``y.r``, and those of two signs are linear: ``Y Y^T``, for
      all s, at every time, whatever the slope. (At finite width ``Y M Y^T`` with M = 1 + O(n^-1/2):
      every coding vector of a target is still the same.)
    * "relu": ``[y.r]_+``, r standard normal, hence the ReLU dual of ``Y Y^T``. For s < 1 a unit
      ``u = (a y.r + s |y.r|)/2`` solves its equation but for the scale; the weights of a random
      start decide the signs only at first (s = 0: from any start).
    * "relu" with ``orthogonal`` conditions (s = 1): each is learned, or not, by itself: where u
      begins below zero it stays, and half of the units, chosen anew for every condition, are
      silent. The kernel is as above, times (1 + I)/2.

    Targets (P, 1) or (P, 2) are +-1, balanced, products of bits of degree 1; of any degree for
    s = 1. Raises ``ValueError`` for other targets or another activation.

    >>> y = cube(2)
    >>> rich_limit_kernel(y, activation="odd")[0].tolist()
    [2.0, 0.0, 0.0, -2.0]
    >>> kernel = rich_limit_kernel(y, activation="relu")
    >>> round(float(kernel_parallelism(kernel, 0) * (math.pi - 1)), 9)
    1.0
    """
    require("y", y, lambda v: np.abs(v) == 1, "+1 or -1")
    y = jnp.asarray(y, float)
    if y.ndim != 2 or y.shape[1] not in (1, 2):
        raise ValueError(f"y must hold one or two targets, (P, 1) or (P, 2), got shape {y.shape}")
    if activation not in ("odd", "relu"):
        raise ValueError(f'activation must be "odd" or "relu", got {activation!r}')
    overlaps = y @ y.T
    if activation == "odd":
        return overlaps
    variance = jnp.asarray(float(y.shape[1]), overlaps.dtype)
    kernel = relu_dual(variance, variance, overlaps).kernel
    return kernel * (1 + jnp.eye(len(y))) / 2 if orthogonal else kernel


def _centered(kernel: Array) -> Array:
    kernel = kernel - jnp.mean(kernel, axis=-1, keepdims=True)
    return kernel - jnp.mean(kernel, axis=-2, keepdims=True)


def _require_separation(separation: ArrayLike) -> None:
    require("separation", separation, lambda s: (s >= 0) & (s <= 1), "between 0 and 1")
