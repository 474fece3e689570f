"""The transfer operator T, whose largest eigenvalue is 1 where SGD's second moments stand still.

The second moment Sigma = E[delta delta^T] of the distance from an interpolating minimum obeys

    Sigma' = Sigma - eta (H Sigma + Sigma H) + eta^2 [(1-p) H Sigma H + (p/n) sum_i H_i Sigma H_i],

p = ``mixing_weight``. Noise enters through the n blocks ``V_i = J_i Sigma J_i^T`` (c, c) alone.
Look for growth by rho a step, solve for Sigma in the eigenbasis of H, where all but the last term
is diagonal, and eliminate it: with features g_ia (J_i in that basis) and eigenvalues l_a,

    (T V)_i = (eta^2 p / n) sum_ab g_ia [sum_j g_ja^T V_j g_jb] g_ib^T / Delta_ab,
    Delta_ab = rho - (1 - eta l_a)(1 - eta l_b) + p eta^2 l_a l_b,        T V = V.

T is symmetric, maps positive blocks to positive blocks and falls with rho: rho, as the largest
root of ``lmax(T) = 1``, is the spectral radius on the range of H. With rho = 1, x = 1/eta and
``Delta/eta^2 = x (l_a + l_b) - (1-p) l_a l_b`` it gives the threshold. ``1/lmax(T)`` is a minimum
over V of harmonic sums of functions linear in x (or rho), so concave, increasing, and close to
linear: the root takes a few evaluations.

Heavy ball, ``delta' = delta - eta H_B delta + beta (delta - delta_prev)``: the products of two
solutions of ``h_{k+1} = alpha h_k - beta h_{k-1}``, alpha_a = 1 + beta - eta l_a, have the
generating function with which (z = 1/rho)

    Delta_ab = rho [1 - alpha_a alpha_b z + beta (alpha_a^2 + alpha_b^2 - 2 beta) z^2
                    - alpha_a alpha_b beta^2 z^3 + beta^4 z^4] / (1 - beta^2 z^2) + p eta^2 l_a l_b.

Derived here. The operator in d^2 dimensions: Mulayoff & Michaeli (2024), arXiv 2306.07850.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.stability.gram import GramModes
from theory.stability.krylov import TopEigenpair, top_eigenpair


def transfer(
    blocks: Float[Array, "n c c"],
    features: Float[Array, "n c modes"],
    inverse_delta: Float[Array, "modes modes"],
) -> Float[Array, "n c c"]:
    """``T V`` without its factor: O(n c modes^2) operations, never the matrix."""
    rows = features.reshape(-1, features.shape[-1])
    spread = rows @ (between_modes(blocks, features) * inverse_delta)
    return jnp.einsum("ica,ida->icd", spread.reshape(features.shape), features)


def between_modes(
    blocks: Float[Array, "n c c"], features: Float[Array, "n c modes"]
) -> Float[Array, "modes modes"]:
    """What noise with the blocks V puts between modes: ``sum_j g_ja^T V_j g_jb``."""
    rows = features.reshape(-1, features.shape[-1])
    return rows.T @ jnp.einsum("icd,ida->ica", blocks, features).reshape(rows.shape)


def inverted(modes: GramModes, delta: Float[Array, "modes modes"]) -> Float[Array, "modes modes"]:
    """``1/Delta`` between modes that have rank, zero elsewhere."""
    kept = has_rank(modes)
    return jnp.where(kept, 1 / jnp.where(kept, delta, 1.0), 0.0)


def top_transfer(
    modes: GramModes,
    delta: Float[Array, "modes modes"],
    start: Float[Array, "n c c"],
    tolerance: float = 1e-12,
) -> TopEigenpair:
    """Largest eigenvalue of T for the denominators ``delta`` (its factor set to 1).

    ``start`` may be the leading vector for other denominators. Where samples decouple, that one can
    be orthogonal to this one; the identity, mixed in, never is, for the leading V is positive.
    """
    start = start / jnp.linalg.norm(start) + 1e-4 * identity_blocks(modes)
    inverse = inverted(modes, delta)
    return top_eigenpair(
        lambda blocks: transfer(blocks, modes.features, inverse), start, tolerance=tolerance
    )


def has_rank(modes: GramModes) -> Array:
    """Pairs of modes (modes, modes) of which neither is null."""
    kept = modes.eigenvalues > 0
    return kept[:, None] & kept[None, :]


def identity_blocks(modes: GramModes) -> Float[Array, "n c c"]:
    """A positive V to start from: never orthogonal to the leading one, which is positive."""
    n, c, _ = modes.features.shape
    return jnp.broadcast_to(jnp.eye(c, dtype=modes.features.dtype), (n, c, c))


def pairs(eigenvalues: Float[Array, " modes"]) -> tuple[Array, Array]:
    """Eigenvalues as a column and as a row."""
    return eigenvalues[:, None], eigenvalues[None, :]


def threshold_delta(
    inverse_rate: Array, eigenvalues: Float[Array, " modes"], p: Array
) -> Float[Array, "modes modes"]:
    """``Delta/eta^2`` at rho = 1, without momentum, as a function of 1/eta."""
    a, b = pairs(eigenvalues)
    return inverse_rate * (a + b) - (1 - p) * a * b


def growth_delta(
    rho: Array, eigenvalues: Float[Array, " modes"], eta: Array, p: Array, momentum: Array
) -> Float[Array, "modes modes"]:
    """``Delta`` at growth rho; with momentum, infinite poles of the free motion lie below rho."""
    a, b = pairs(eigenvalues)
    alpha_a, alpha_b = 1 + momentum - eta * a, 1 + momentum - eta * b
    z, product = 1 / rho, alpha_a * alpha_b
    # As (1 - beta^2 z^2)^2 + z [beta z (alpha_a - alpha_b)^2 - product (1 - beta z)^2]: no loss of
    # digits where product is close to (1 + beta z)^2 rho.
    free = (1 - momentum**2 * z**2) ** 2 + z * (
        momentum * z * (alpha_a - alpha_b) ** 2 - product * (1 - momentum * z) ** 2
    )
    return rho * free / (1 - momentum**2 * z**2) + p * eta**2 * a * b
