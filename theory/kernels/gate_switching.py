"""How far the tangent kernel of a wide ReLU network turns: by its units' switching.

Two layers without biases in the NTK parametrisation, ``h_k(x) = sqrt(w/d) v_k.x``,
``f = sqrt(w/n) sum_k a_k relu(h_k)``, trained on ``(1/N) sum_l 1/2 |f(x_l) - y_l|^2`` at unit rate.
Its tangent kernel, the mean over the c outputs,

    Theta_ij = (w/n) sum_k [relu(h_ki) relu(h_kj) + (w/d) z_i.z_j (|a_k|^2/c) g_ki g_kj],

g = 1 where h > 0, jumps whenever a unit switches for a probe z_i, by

    D_ij = D_ji = +-(w^2/(n d)) (|a|^2/c) z_i.z_j g_j   (j != i),   D_ii the same with g_i = 1.

While residuals y - f add up to ``R_l = int (y_l - f(x_l)) dt``, pre-activations move by

    dh_i = w^(3/2)/(d sqrt(n)) a.u_i,   u_i = (1/N) sum_l R_l g_l x_l.z_i,

and p_i |dh_i| of the units switch for z_i, ``p_i = 1/sqrt(2 pi w |z_i|^2/d)``: independently, so
that squares of jumps add up and the distance ``S = 1 - cos`` between the kernels is

    S = n/(2 |Theta|^2) sum_i p_i E[|dh_i| (|D|^2 - <Theta, D>^2/|Theta|^2)],

E over a ~ N(0, I) and v ~ N(0, I) given v.z_i = 0. **S is proportional to the time**, so that S/dt
is a rate, and to n^(-3/2); of a smooth activation it is of order dt^2 and n^(-2). The smooth part
of a ReLU network's motion comes second until switches of one sign have added up. Corrections are of
the order of the share of units that switch. Left out are switches of one sign (a unit that learns
to be silent at an example stays so, see ``finite_width``), which add a part of order dt^2/n to S
and win at late times. Holds while units are distributed as at the start and residuals do not depend
on single units: from the start, and along lazy training.

Derived here; the measure is that of Fort et al. (2020), arXiv 2010.15110.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from theory.arguments import require_positive
from theory.checks import Count, require_count
from theory.kernels.kernel_modes import KernelModes, SpectralFilter


class SwitchingDistance(NamedTuple):
    """``value`` S, and the ``standard_error`` of its Monte-Carlo average over units, (...)."""

    value: Float[Array, "..."]
    standard_error: Float[Array, "..."]


def switching_distance(
    key: Key[Array, ""],
    x: Float[ArrayLike, "..."],
    summed: Float[ArrayLike, "..."],
    probes: Float[ArrayLike, "..."],
    kernel: Float[ArrayLike, "..."],
    *,
    width: Count,
    weight_variance: ArrayLike = 2.0,
    samples: Count = 1000,
) -> SwitchingDistance:
    """Distance S by which switching units turn the kernel of a two-layer ReLU network, width n.

    Args:
        key: of the sample of units v.
        x: (N, d), the training inputs.
        summed: (..., N, c), R, the integral of ``y - f`` over time; of a straight step dt the
            residual times dt.
        probes: (p, d), inputs between which the kernel is looked at; training inputs, if you like.
        kernel: (p, p), Theta on the probes, of one output (``theory.kernels.infinite_width``).
        samples: units in the Monte-Carlo average, the same for all R.

    The average over a is done in closed form: ``E[|a.u| |a|^4] = sqrt(2/pi) (c+1)(c+3) |u|``.

    Raises ``ValueError`` for shapes that do not fit together, width < 1, samples < 2, a variance
    that is not positive.

    >>> x = jnp.eye(2)
    >>> found = switching_distance(jax.random.key(0), x, jnp.ones((2, 1)), x, jnp.eye(2), width=100)
    >>> found.value.shape
    ()
    """
    require_count(width=width)
    require_count(samples=samples, least=2)
    require_positive(weight_variance=weight_variance)
    dtype = jnp.result_type(x, summed, probes, kernel, 1.0)
    x, summed, probes, kernel, w = (
        jnp.asarray(value, dtype) for value in (x, summed, probes, kernel, weight_variance)
    )
    fits = x.ndim == probes.ndim == 2 and x.shape[1] == probes.shape[1]
    if not fits or summed.ndim < 2 or summed.shape[-2] != len(x):
        raise ValueError(
            "x, summed and probes must have shapes (N, d), (..., N, c) and (p, d), got "
            f"{x.shape}, {summed.shape} and {probes.shape}"
        )
    if kernel.shape != (len(probes), len(probes)):
        raise ValueError(f"kernel must be {(len(probes),) * 2}, got shape {kernel.shape}")
    leading, flat = summed.shape[:-2], summed.reshape(-1, *summed.shape[-2:])
    found = _switching_distance(key, x, flat, probes, kernel, w, samples=int(samples))
    return SwitchingDistance(*(part.reshape(leading) / float(width) ** 1.5 for part in found))


def summed_residuals(
    modes: KernelModes, learning: SpectralFilter, residuals: Float[ArrayLike, "..."]
) -> Float[Array, "*times N c"]:
    """``R = int_0^t (y - f) dt`` of a linearised network, from the residuals ``y - f`` at t = 0.

    ``sum_j (g_j/r_j) v_j v_j^T (y - f_0)``, r_j the rates of ``theory.kernels.kernel_modes``; after
    steps of descent the sum of residuals times the rate. What zero modes hold, which is never
    learned and adds up for ever, is left out. The filter's axes lead.

    Raises ``ValueError`` unless residuals are (N, c) like the modes of an (N, N) kernel.

    >>> from theory.kernels.kernel_modes import flow_filter, kernel_modes
    >>> modes = kernel_modes(2 * jnp.eye(1), loss="sum")
    >>> summed_residuals(modes, flow_filter(modes, jnp.inf), jnp.ones((1, 1))).tolist()
    [[0.5]]
    """
    residuals = jnp.asarray(residuals, modes.vectors.dtype)
    if residuals.ndim != 2 or len(residuals) != len(modes.vectors):
        raise ValueError(f"residuals must be ({len(modes.vectors)}, c), got {residuals.shape}")
    weights = modes.samples * learning.gain
    coefficients = modes.vectors.T @ residuals
    return jnp.einsum("im,...m,mc->...ic", modes.vectors, weights, coefficients)


def _switching_distance(key, x, summed, probes, kernel, w, *, samples):
    """At width 1: mean over the units and its standard error, (rows of summed,)."""
    size, c = x.shape[1], summed.shape[-1]
    units = jax.random.normal(key, (samples, size), x.dtype)
    norm = jnp.linalg.norm(kernel)

    def probe(i):
        z = probes[i]
        across = units - (units @ z)[:, None] * (z / (z @ z))[None, :]  # v given v.z = 0
        jump = _jump(across, probes, i) * w**2 / size
        inside = 2 * (jump @ kernel[i]) - jump[:, i] * kernel[i, i]
        square = 2 * jnp.sum(jump**2, axis=1) - jump[:, i] ** 2 - (inside / norm) ** 2
        gates = jnp.heaviside(across @ x.T, 0.5) * (x @ z)[None, :] / len(x)
        gates = jnp.where(jnp.all(x == z[None, :], axis=1)[None, :], (z @ z) / (2 * len(x)), gates)
        moved = jnp.linalg.norm(jnp.einsum("sl,rlc->rsc", gates, summed), axis=-1)
        density = 1 / jnp.sqrt(2 * jnp.pi * w * (z @ z) / size)
        return density * w**1.5 / size * moved * square[None, :]

    outputs = jnp.sqrt(2 / jnp.pi) * (1 + 1 / c) * (1 + 3 / c)  # E[|a.u| |a|^4] / (c^2 |u|)
    terms = jax.lax.map(probe, jnp.arange(len(probes)))
    each = outputs * jnp.sum(terms, axis=0) / (2 * norm**2)
    return jnp.mean(each, axis=1), jnp.std(each, axis=1, ddof=1) / jnp.sqrt(samples)


def _jump(units, probes, i):
    """``z_i.z_j g_j``, with g_i = 1, (samples, p)."""
    gates = jnp.heaviside(units @ probes.T, 0.0).at[:, i].set(1.0)
    return gates * (probes @ probes[i])[None, :]


_switching_distance = jax.jit(_switching_distance, static_argnames="samples")
