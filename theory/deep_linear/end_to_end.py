"""Deep linear networks seen end to end: how the product W = W_L ... W_1 moves under any loss.

If the layers are balanced at the start, ``W_{l+1}^T W_{l+1} = W_l W_l^T``, they stay so under
gradient flow and the velocity of W depends on W and the gradient G = dLoss/dW only,

    tau dW/dt = - sum_{j=1..L} (W W^T)^{(j-1)/L} G (W^T W)^{(L-j)/L} - gamma L W,

with weight decay gamma on every layer. Two layers started from isometries onto orthogonal hidden
subspaces close in W as well. Nothing is assumed of loss or data. Velocities are per unit of
``t/tau``; L counts weight matrices.

Sources: Arora, Cohen & Hazan 2018, arXiv:1802.06509; Arora, Cohen, Hu & Luo 2019, arXiv:1905.13655.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_nonnegative
from theory.checks import Count, require_depth
from theory.deep_linear.matrices import as_matrices, gram_roots, require_shape


def end_to_end_velocity(
    W: Float[ArrayLike, "..."],
    grad: Float[ArrayLike, "..."],
    depth: Count,
    weight_decay: ArrayLike = 0.0,
) -> Float[Array, "outputs inputs"]:
    """Velocity of the map W of a balanced network of depth L, for the gradient of any loss.

    With grad = dLoss/dW, both (outputs, inputs),
    ``- sum_{j=1..L} (W W^T)^{(j-1)/L} grad (W^T W)^{(L-j)/L} - weight_decay L W``. Exact for any
    rank and repeated singular values; singular values of W below rounding count as zero, hidden
    layers are at least as wide as the rank. Once differentiable in W (at two singular values zero
    it has a cusp for L > 1, whose derivative is taken as 0).
    Raises ``ValueError`` for shapes that differ, NaN, a bad depth or negative weight decay.
    Source: Arora, Cohen & Hazan 2018, arXiv:1802.06509.

    >>> end_to_end_velocity(jnp.array([[0.25]]), jnp.array([[-0.75]]), depth=4).tolist()
    [[0.375]]
    """
    W, grad = _map_and_gradient(W, grad)
    require_depth(depth)
    require_nonnegative(weight_decay=weight_decay)
    return _velocity(W, grad, jnp.asarray(weight_decay, W.dtype), depth=int(depth))


def singular_value_velocity(
    W: Float[ArrayLike, "..."],
    grad: Float[ArrayLike, "..."],
    depth: Count,
    weight_decay: ArrayLike = 0.0,
) -> Float[Array, " modes"]:
    """Velocity of the singular values of the map of a balanced network, largest value first.

    ``d sigma_r/dt = - L sigma_r^{2-2/L} u_r^T grad v_r - weight_decay L sigma_r``, (modes,) with
    modes = min(outputs, inputs). A zero singular value stays zero for L > 1; for L = 1 sigma_r
    counts as signed. Repeated singular values: the velocities belong to the vectors of
    ``jnp.linalg.svd``. Raises as ``end_to_end_velocity``.
    Source: Arora, Cohen, Hu & Luo 2019, arXiv:1905.13655.

    >>> W, grad = jnp.diag(jnp.array([4.0, 1.0])), jnp.eye(2)
    >>> singular_value_velocity(W, grad, depth=2).round(4).tolist()
    [-8.0, -2.0]
    """
    W, grad = _map_and_gradient(W, grad)
    require_depth(depth)
    require_nonnegative(weight_decay=weight_decay)
    U, s, Vt = jnp.linalg.svd(W, full_matrices=False)
    along = jnp.sum(U * (grad @ Vt.T), axis=0)
    return -depth * (s ** (2 - 2 / depth) * along + jnp.asarray(weight_decay, W.dtype) * s)


def singular_vector_velocity(
    W: Float[ArrayLike, "..."], grad: Float[ArrayLike, "..."], depth: Count
) -> tuple[Float[Array, "outputs modes"], Float[Array, "inputs modes"]]:
    """Velocity (dU/dt, dV/dt) of the singular vectors of the map W = U S V^T of a balanced network.

    With ``K_rq = 1/(sigma_q^{2/L} - sigma_r^{2/L})``, zero on the diagonal, and G = grad,

        dU/dt = -U (K o [U^T G V S + S V^T G^T U]) - (1 - U U^T) G V S^{1-2/L},
        dV/dt = -V (K o [S U^T G V + V^T G^T U S]) - (1 - V V^T) G^T U S^{1-2/L},

    columns as in ``jnp.linalg.svd(W, full_matrices=False)``; weight decay does not turn them.
    Between singular values that are equal within rounding the vectors are not determined: their
    turning within the tie is left out. Needs sigma > 0 for L = 1.
    Raises ``ValueError`` for shapes that differ, NaN or a bad depth.
    Source: Arora, Cohen, Hu & Luo 2019, arXiv:1905.13655 (square full rank; the last terms are
    derived here).

    >>> W, grad = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[0.0, 3.0], [0.0, 0.0]])
    >>> dU, dV = singular_vector_velocity(W, grad, depth=2)
    >>> dU.round(4).tolist(), dV.round(4).tolist()
    ([[0.0, 1.0], [-1.0, 0.0]], [[0.0, 4.0], [-4.0, 0.0]])
    """
    W, grad = _map_and_gradient(W, grad)
    require_depth(depth)
    U, s, Vt = jnp.linalg.svd(W, full_matrices=False)
    V = Vt.T
    turn_U, turn_V = _turns(U.T @ grad @ V, s, depth)
    out, back = grad @ V, grad.T @ U
    strength = s ** (1 - 2 / depth)
    dU = -U @ turn_U - (out - U @ (U.T @ out)) * strength[None, :]
    dV = -V @ turn_V - (back - V @ (V.T @ back)) * strength[None, :]
    return dU, dV


def orthogonal_init_velocity(
    D: Float[ArrayLike, "..."], grad: Float[ArrayLike, "..."], c1: ArrayLike, c2: ArrayLike
) -> Float[Array, "outputs inputs"]:
    """Velocity of the map D = W2 W1 of two layers started from ``hidden_orthogonal_init``.

    ``dD/dt = - W2 W2^T grad - grad W1^T W1``, the layers as in ``orthogonal_init_grams``. Starts
    from D = 0; c1 = c2 = 0 is the balanced flow of depth 2. Once differentiable in D, c1, c2.
    Raises ``ValueError`` for shapes that differ, NaN, negative c1 or c2.
    Source: derived here; Tu, Aranguri & Jacot 2024, arXiv:2405.17580 (wide limit).

    >>> orthogonal_init_velocity(jnp.zeros((1, 1)), jnp.array([[-2.0]]), c1=0.5, c2=1.0).tolist()
    [[3.0]]
    """
    D, grad = _map_and_gradient(D, grad)
    first, second = orthogonal_init_grams(D, c1, c2)
    return -second @ grad - grad @ first


def orthogonal_init_grams(
    D: Float[ArrayLike, "..."], c1: ArrayLike, c2: ArrayLike
) -> tuple[Float[Array, "inputs inputs"], Float[Array, "outputs outputs"]]:
    """``(W1^T W1, W2 W2^T)`` of two layers started from ``hidden_orthogonal_init``, map D = W2 W1.

    With h = (c1 + c2)/2, at all times and for every loss,
    ``W1^T W1 = (c1 - c2)/2 I + sqrt(D^T D + h^2 I)``,
    ``W2 W2^T = (c2 - c1)/2 I + sqrt(D D^T + h^2 I)``; D is (outputs, inputs).
    Raises ``ValueError`` for a D that is not a matrix, NaN, negative c1 or c2. Derived here.

    >>> [gram.tolist() for gram in orthogonal_init_grams(jnp.array([[2.0]]), c1=3.0, c2=0.0)]
    [[[4.0]], [[1.0]]]
    """
    (D,) = as_matrices(D=D)
    require_nonnegative(c1=c1, c2=c2)
    c1, c2 = jnp.asarray(c1, D.dtype), jnp.asarray(c2, D.dtype)
    left, right = gram_roots(D, 0.5 * (c1 + c2), 2)
    shift = 0.5 * (c1 - c2)
    eye_in, eye_out = (jnp.eye(n, dtype=D.dtype) for n in D.shape[::-1])
    return shift * eye_in + right, left - shift * eye_out


@partial(jax.jit, static_argnames="depth")
def _velocity(W, grad, weight_decay, *, depth):
    left, right = gram_roots(W, jnp.zeros((), W.dtype), depth)

    def add_layer(_, carry):
        term, total = carry
        term = left @ term
        return term, total @ right + term

    _, total = jax.lax.fori_loop(0, depth - 1, add_layer, (grad, grad))
    return -total - weight_decay * depth * W


def _turns(gradient: Array, s: Array, depth: Count) -> tuple[Array, Array]:
    """``K o [G S + S G^T]`` and ``K o [S G + G^T S]`` for G in the singular basis."""
    roots = s ** (2 / depth)
    gap = roots[None, :] - roots[:, None]
    tied = jnp.abs(gap) <= 100 * jnp.finfo(s.dtype).eps * roots[0]
    K = jnp.where(tied, 0, 1 / jnp.where(tied, 1, gap))
    GS, SG = gradient * s[None, :], s[:, None] * gradient
    return K * (GS + GS.T), K * (SG + SG.T)


def _map_and_gradient(W: ArrayLike, grad: ArrayLike) -> list[Array]:
    W, grad = as_matrices(W=W, grad=grad)
    require_shape(W.shape, grad=grad)
    return [W, grad]
