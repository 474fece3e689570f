"""Initial weights of two-layer linear networks from which learning has a closed form.

Balanced weights (``W2^T W2 - W1 W1^T = lambda I``) follow the matrix Riccati equation. Weights
whose layers are isometries onto orthogonal hidden subspaces decouple into all modes of any task,
and wide Gaussian weights approach them as 1/sqrt(width).
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from theory.arguments import as_floats, require_nonnegative
from theory.checks import Count, require_count
from theory.deep_linear.imbalance import is_feasible_imbalance


def balanced_init(
    key: Key[Array, ""],
    n_in: Count,
    n_hidden: Count,
    n_out: Count,
    scale: ArrayLike,
    imbalance: float = 0.0,
    det_sign: int | None = None,
) -> tuple[Float[Array, "hidden inputs"], Float[Array, "outputs hidden"]]:
    """Random weights (W1, W2) with ``W2^T W2 - W1 W1^T = imbalance I``.

    The lighter layer (the first, for imbalance >= 0) is Gaussian with entry variance
    scale^2/fan-in, cut to the rank the other can carry. The heavier one has the singular values
    ``sqrt(a^2 + |imbalance|)`` on the same hidden vectors, and Haar-random vectors on its far
    side. The law is invariant under rotations of inputs, hidden units and outputs; it is a choice
    of this library. ``det_sign`` = +-1 asks for that sign of ``det(W2 W1)`` (n_in = n_out <=
    n_hidden), which for imbalance 0 decides what can be learned, see ``determinant_obstruction``.
    The dtype is that of ``scale``.

    Raises ``ValueError`` if no weights have that imbalance (see ``is_feasible_imbalance``), for
    scale < 0, and for a det_sign that is not +-1 or has no determinant to be the sign of.

    >>> W1, W2 = balanced_init(jax.random.key(0), 3, 2, 4, scale=0.5, imbalance=1.5)
    >>> bool(jnp.allclose(W2.T @ W2 - W1 @ W1.T, 1.5 * jnp.eye(2), atol=1e-5))
    True
    """
    require_nonnegative(scale=scale)
    _require_feasible(n_in, n_hidden, n_out, imbalance)
    _require_sign(det_sign, n_in, n_hidden, n_out)
    n_in, n_hidden, n_out = int(n_in), int(n_hidden), int(n_out)
    (scale,) = as_floats(scale)
    light, heavy = (jax.random.fold_in(key, layer) for layer in range(2))
    # built from the lighter layer on: if that is the second, for the transposed network
    first, last = (n_in, n_out) if imbalance >= 0 else (n_out, n_in)
    fan_in = n_in if imbalance >= 0 else n_hidden
    carried = min(n_hidden, last) if imbalance else min(n_hidden, first, last)
    gaussian = jax.random.normal(light, (n_hidden, first), scale.dtype) / fan_in**0.5
    R, a, At = jnp.linalg.svd(gaussian, full_matrices=True)
    rank = min(carried, first)
    a = scale * jnp.zeros(n_hidden, a.dtype).at[: a.size].set(a)[:carried]
    b = jnp.sqrt(a**2 + abs(imbalance)) if imbalance else a
    W1 = (R[:, :rank] * a[None, :rank]) @ At[:rank]
    # In the basis of the hidden vectors a Gaussian matrix is Gaussian as well. Taking it there also
    # makes qr wait for svd: batched LAPACK calls at one time can block jaxlib's threads for good.
    far = _haar(jax.random.normal(heavy, (last, n_hidden), scale.dtype) @ R[:, :carried])
    W2 = (far * b[None, :]) @ R[:, :carried].T
    if imbalance < 0:
        W1, W2 = W2.T, W1.T
    if det_sign is None:
        return W1, W2
    wrong = jnp.linalg.slogdet(W2 @ W1)[0] * det_sign < 0
    return W1, W2.at[0].multiply(jnp.where(wrong, -1, 1).astype(W2.dtype))


def hidden_orthogonal_init(
    key: Key[Array, ""], n_in: Count, n_hidden: Count, n_out: Count, c1: ArrayLike, c2: ArrayLike
) -> tuple[Float[Array, "hidden inputs"], Float[Array, "outputs hidden"]]:
    """Weights with ``W1^T W1 = c1 I``, ``W2 W2^T = c2 I`` and ``W2 W1 = 0``, else random.

    ``W1 = sqrt(c1) O_1``, ``W2 = sqrt(c2) O_2^T`` with (O_1, O_2) Haar-random orthonormal columns.
    Whatever the task, on whitened inputs every mode learns on its own: strength
    ``two_layer_mode_strength(t, s, 0, imbalance=c1 + c2)``; for other data and losses see
    ``orthogonal_init_velocity``. Large c1 + c2 is lazy, small is rich. The dtype is that of c1, c2.
    Raises ``ValueError`` for negative c1 or c2 and for n_hidden < n_in + n_out.

    >>> W1, W2 = hidden_orthogonal_init(jax.random.key(0), 2, 5, 3, 0.5, 0.2)
    >>> O = jnp.concatenate([W1, W2.T], axis=1)
    >>> bool(jnp.allclose(O.T @ O, jnp.diag(jnp.array([0.5, 0.5, 0.2, 0.2, 0.2])), atol=1e-6))
    True
    """
    require_nonnegative(c1=c1, c2=c2)
    require_count(n_in=n_in, n_out=n_out, n_hidden=n_hidden)
    n_in, n_hidden, columns = int(n_in), int(n_hidden), int(n_in + n_out)
    if n_hidden < columns:
        raise ValueError(f"n_hidden must be at least n_in + n_out = {columns}, got {n_hidden}")
    c1, c2 = as_floats(c1, c2)
    O = _haar(jax.random.normal(key, (n_hidden, columns), c1.dtype))
    return jnp.sqrt(c1) * O[:, :n_in], jnp.sqrt(c2) * O[:, n_in:].T


def wide_mode_imbalance(
    sigma1: ArrayLike, sigma2: ArrayLike, n_hidden: ArrayLike
) -> Float[Array, "..."]:
    """Effective imbalance of every mode of a wide network with independent Gaussian weights.

    ``kappa = (sigma1^2 + sigma2^2) n_hidden`` for entries of standard deviation sigma1 (first
    layer) and sigma2 (second): all modes follow ``two_layer_mode_strength(t, s, 0, kappa)`` with an
    error of order 1/sqrt(n_hidden), n_hidden >> inputs + outputs, on whitened inputs. kappa >> s
    is lazy, kappa << s rich. Arguments broadcast. Raises ``ValueError`` for negative sigma1, sigma2
    or n_hidden. Source: Tu, Aranguri & Jacot 2024, arXiv:2405.17580 (the mixed regime).

    >>> round(float(wide_mode_imbalance(0.1, 0.2, 100)), 6)
    5.0
    """
    require_nonnegative(sigma1=sigma1, sigma2=sigma2, n_hidden=n_hidden)
    sigma1, sigma2, n_hidden = as_floats(sigma1, sigma2, n_hidden)
    return (sigma1**2 + sigma2**2) * n_hidden


def _haar(gaussian: Array) -> Array:
    """Haar-random orthonormal columns; without the signs of R they would follow LAPACK's rule."""
    q, r = jnp.linalg.qr(gaussian)
    return jnp.where(jnp.diagonal(r)[None, :] < 0, -q, q)


def _require_feasible(n_in, n_hidden, n_out, imbalance):
    if not is_feasible_imbalance(n_in, n_hidden, n_out, imbalance):
        name, width = ("n_out", n_out) if imbalance > 0 else ("n_in", n_in)
        raise ValueError(
            f"n_hidden must be at most {name} = {width} for imbalance {imbalance}, got {n_hidden}"
        )


def _require_sign(det_sign, n_in, n_hidden, n_out):
    if det_sign not in (None, 1, -1):
        raise ValueError(f"det_sign must be 1, -1 or None, got {det_sign}")
    if det_sign is not None and not n_in == n_out <= n_hidden:
        widths = (n_in, n_hidden, n_out)
        raise ValueError(f"det_sign needs n_in = n_out <= n_hidden, got widths {widths}")
