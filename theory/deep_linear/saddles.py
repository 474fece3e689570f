"""From saddle to saddle: the plateaus of small initialisation, their timing, silent alignment.

From small weights a linear network learns one mode after the other. Between two such events the
loss stands still near a saddle; in the first plateau, near zero weights, the residual is still
Sigma_yx, and the flow of two layers is linear (Atanasov, Bordelon & Pehlevan 2022,
arXiv:2111.00034):

    tau dW1/dt = W2^T Sigma_yx,    tau dW2/dt = Sigma_yx W1^T.

With hidden vectors a = W1 v and b = W2^T u of each mode, ``a +- b`` grow and decay as e^(+-st/tau),
while everything orthogonal to the task stays. The tangent kernel so turns towards the task, and
reaches its final shape, before the loss has moved: silently.

Conventions: white inputs, loss 1/2 |Sigma_yx - W2 W1|^2, W1 (hidden, inputs), W2 (outputs, hidden).
``deep_modes.escape_time_small_init`` has the times of one mode, ``effective_initial_strength`` the
Gaussian average of what ``growing_strengths`` gives for given weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_nonnegative, require_positive
from theory.checks import require
from theory.deep_linear.deep_modes import escape_time_small_init
from theory.deep_linear.depth_integral import Depth
from theory.deep_linear.matrices import as_layers, as_matrices, require_shape
from theory.deep_linear.task_modes import decompose_task


class SaddleSchedule(NamedTuple):
    """Times of escape, ascending, and losses of the plateaus: before each time, and at the end."""

    times: Float[Array, " modes"]
    losses: Float[Array, " plateaus"]


def saddle_schedule(
    s: Float[ArrayLike, "..."], u0: ArrayLike, depth: Depth, tau: ArrayLike = 1.0
) -> SaddleSchedule:
    """When a balanced network from small weights leaves each saddle, and the loss it has there.

    Mode i is learned at its ``escape_time_small_init``; until then it costs ``s_i^2 / 2``. The
    plateau k = 0, 1, ... has k modes learned and the loss ``1/2 sum s_i^2`` over the others. Its
    length diverges as u0 -> 0, between equal s excepted, that of the steps does not. s: (modes,);
    u0 and tau: scalars or (modes,). Returns (modes,) times and (modes + 1,) losses.
    Raises ``ValueError`` for s not a vector, and as ``escape_time_small_init`` does.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120, for the times of modes.

    >>> schedule = saddle_schedule(jnp.array([1.0, 2.0]), 1e-6, depth=2)
    >>> [round(float(t), 2) for t in schedule.times], schedule.losses.tolist()
    ([3.63, 6.91], [2.5, 0.5, 0.0])
    """
    require("s", s, lambda s: s.ndim == 1, "a vector (modes,)")
    times = escape_time_small_init(s, u0, depth, tau)
    order = jnp.argsort(times)
    cost = 0.5 * jnp.asarray(s, times.dtype)[order] ** 2
    left = jnp.cumsum(cost[::-1])[::-1]
    return SaddleSchedule(times[order], jnp.concatenate([left, jnp.zeros(1, left.dtype)]))


def growing_strengths(
    W1: Float[ArrayLike, "..."], W2: Float[ArrayLike, "..."], sigma_yx: Float[ArrayLike, "..."]
) -> Float[Array, " modes"]:
    """Strength ``|W1 v + W2^T u|^2 / 4`` from which each mode effectively starts to grow.

    In the plateau ``u_i(t) -> growing_strength e^(2 s_i t/tau)``, so that the first mode leaves it,
    from whatever small weights, as a balanced one that starts there: use it as ``u0``. Modes in
    order of descending s. Raises ``ValueError`` for shapes that do not match, NaN.
    Source: derived here, on the plateau of Atanasov, Bordelon & Pehlevan 2022, arXiv:2111.00034.

    >>> growing_strengths(jnp.array([[0.25]]), jnp.array([[0.75]]), jnp.array([[2.0]])).tolist()
    [0.25]
    """
    W1, W2, sigma_yx = _network(W1, W2, sigma_yx)
    U, _, V, _ = decompose_task(sigma_yx)
    return jnp.sum((W1 @ V + W2.T @ U) ** 2, axis=0) / 4


def plateau_weights(
    t: ArrayLike,
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    sigma_yx: Float[ArrayLike, "..."],
    tau: ArrayLike = 1.0,
) -> tuple[Float[Array, "... hidden inputs"], Float[Array, "... outputs hidden"]]:
    """Weights W1(t), W2(t) on the first plateau: the exact solution of the linearised flow.

    With ``Sigma_yx = U diag(s) V^T``, a = W1 V, b = W2^T U, and ch, sh = cosh, sinh(s t/tau):

        W1(t) = W1 + (a (ch - 1) + b sh) V^T,    W2(t)^T = W2^T + (b (ch - 1) + a sh) U^T

    Valid while ``W2 W1`` is small against Sigma_yx: relative errors are of the order of their
    ratio. t: any shape, leading in both results; tau: a scalar; ``s t/tau`` below 700, 80 in
    float32 (half of that if squared). Differentiable in sigma_yx where singular values are distinct
    and non-zero.
    Raises ``ValueError`` for shapes that do not match, t negative, tau not positive, NaN.
    Source: Atanasov, Bordelon & Pehlevan 2022, arXiv:2111.00034 (one output); any number here.

    >>> W1, W2 = jnp.array([[1e-3, 2e-3]]), jnp.array([[0.0]])
    >>> W1_t, W2_t = plateau_weights(jnp.log(2.0), W1, W2, jnp.array([[1.0, 0.0]]))
    >>> (1e5 * W1_t).round(2).tolist(), (1e5 * W2_t).round(2).tolist()
    ([[125.0, 200.0]], [[75.0]])
    """
    W1, W2, sigma_yx = _network(W1, W2, sigma_yx)
    _require_times(t, tau)
    return _plateau(t, W1, W2, sigma_yx, tau)


def plateau_kernel_alignment(
    t: ArrayLike,
    W1: Float[ArrayLike, "..."],
    W2: Float[ArrayLike, "..."],
    sigma_yx: Float[ArrayLike, "..."],
    tau: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """Cosine between the tangent kernel on the plateau and the one that learning ends with.

    One output, beta = Sigma_yx^T, v = beta/|beta|: the kernel in input space is
    ``M = W1^T W1 + |W2|^2 I``, its rich limit is proportional to ``I + v v^T``, and the cosine is
    that of the Frobenius inner product. The misalignment decays as ``e^(-2 |beta| t/tau)`` while
    the loss has not moved. Finite at any t: past the plateau it is the limit of the linearised
    flow. t: any shape, also that of the result; tau: a scalar. Weights must not be zero.
    Raises ``ValueError`` for more than one output, a zero task, weights all zero, and as
    ``plateau_weights`` does.
    Source: Atanasov, Bordelon & Pehlevan 2022, arXiv:2111.00034.

    >>> W1, W2 = jnp.array([[1e-3, 2e-3]]), jnp.array([[1e-3]])
    >>> alignment = plateau_kernel_alignment(jnp.array([0.0, 9.0]), W1, W2, jnp.array([[1.0, 0.0]]))
    >>> [round(float(x), 4) for x in alignment]
    [0.6617, 1.0]
    """
    W1, W2, sigma_yx = _network(W1, W2, sigma_yx)
    _require_times(t, tau)
    if W2.shape[0] != 1:
        raise ValueError(f"W2 must have shape (1, hidden): one output, got {W2.shape}")
    require("sigma_yx", jnp.max(jnp.abs(sigma_yx)), lambda x: x > 0, "non-zero")
    size = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(W1)), jnp.max(jnp.abs(W2))))
    require("the largest weight", size, lambda x: x > 0, "non-zero")
    return _alignment(t, W1 / size, W2 / size, sigma_yx, tau)


@jax.jit
def _plateau(t, W1, W2, sigma_yx, tau):
    U, s, V, _ = decompose_task(sigma_yx)
    a, b = W1 @ V, W2.T @ U

    def weights(t):
        phase = (s * t / tau)[None, :]
        grow = jnp.exp(phase) / 2
        sinh, cosh_less_1 = -grow * jnp.expm1(-2 * phase), grow * jnp.expm1(-phase) ** 2
        W1_t = W1 + (cosh_less_1 * a + sinh * b) @ V.T
        return W1_t, W2 + U @ (cosh_less_1 * b + sinh * a).T

    return _over_times(weights, t, s.dtype)


@jax.jit
def _alignment(t, W1, W2, sigma_yx, tau):
    size = jnp.linalg.norm(sigma_yx)
    v, out = sigma_yx[0] / size, W2[0]
    along = W1 @ v
    grow, fade, still = (along + out) / 2, (along - out) / 2, W1 - along[:, None] * v[None, :]

    def alignment(t):
        # W1 = grow v^T e^x + still + fade v^T e^-x; the largest of the three is scaled to 1
        x = size * t / tau
        exponents = jnp.stack([x, jnp.zeros_like(x), -x])
        shift = jnp.max(exponents + jnp.stack([_log_norm(part) for part in (grow, still, fade)]))
        limit = 0.45 * jnp.log(jnp.finfo(x.dtype).max)  # where a part is zero
        scale = jnp.exp(jnp.minimum(exponents - jax.lax.stop_gradient(shift), limit))
        growing, fading = scale[0] * grow, scale[2] * fade
        W = scale[1] * still + (growing + fading)[:, None] * v[None, :]
        kernel = W.T @ W + jnp.sum((growing - fading) ** 2) * jnp.eye(v.size, dtype=v.dtype)
        in_common = jnp.trace(kernel) + v @ kernel @ v
        return in_common / (jnp.linalg.norm(kernel) * jnp.sqrt(v.size + 3.0))

    return _over_times(alignment, t, v.dtype)


def _over_times(function, t, dtype):
    """``function`` at every time of t, whose axes lead in the results."""
    t = jnp.asarray(t, jnp.result_type(t, dtype))
    results = jax.vmap(function)(t.reshape(-1))
    return jax.tree.map(lambda result: result.reshape(*t.shape, *result.shape[1:]), results)


def _log_norm(x):
    square = jax.lax.stop_gradient(jnp.sum(x**2))
    return jnp.where(square > 0, jnp.log(jnp.where(square > 0, square, 1)) / 2, -jnp.inf)


def _network(W1, W2, sigma_yx):
    W1, W2, sigma_yx = as_matrices(W1=W1, W2=W2, sigma_yx=sigma_yx)
    as_layers(W1, W2)
    require_shape((W2.shape[0], W1.shape[1]), sigma_yx=sigma_yx)
    return W1, W2, sigma_yx


def _require_times(t, tau):
    require_nonnegative(t=t)
    require_positive(tau=tau)
    if jnp.ndim(tau) != 0:
        raise ValueError(f"tau must be a scalar, got shape {jnp.shape(tau)}")
