"""Tree-structured data: the spectrum of a hierarchy, and the order in which its levels are learned.

Items are the leaves of a tree with ``branching`` children per node and ``depth`` levels of
branches: P = branching^depth items. Each +-1 feature starts with a random sign at the root and
diffuses down, flipping with probability ``flip`` on every branch, independently of the other
features. Leaf i descends from node i // branching^(depth-l) of level l; the root is level 0.
Saxe et al. use binary trees of depth 5 (32 items), flip 0.1 and 1000 features.

A network that maps one-hot items to features, with sums over items, has Sigma_xx = I and
Sigma_yx = Y^T, Y the (items, features) data.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from theory.arguments import as_floats, require_positive
from theory.checks import Count, require, require_count
from theory.deep_linear.modes import half_learning_time


class TreeSpectrum(NamedTuple):
    """Singular value of each level 0..depth and how many modes share it (they sum to P)."""

    values: Float[Array, " levels"]
    multiplicity: Int[Array, " levels"]


class ObjectAnalyzers(NamedTuple):
    """Orthonormal mode vectors over items, one per row, by level, and each row's level."""

    vectors: Float[Array, "modes items"]
    level: Int[Array, " modes"]


def tree_singular_values(
    branching: Count, depth: Count, flip: ArrayLike, n_features: ArrayLike
) -> TreeSpectrum:
    """Singular values of Sigma_yx for tree-structured data, one per level of the tree.

    With B = branching, D = depth, rho = (1 - 2 flip)^2, the item covariance has eigenvalues
    L_l = (1 - rho) sum_{j=0}^{D-l} (B rho)^j for l = 1..D, multiplicity (B-1) B^(l-1), and
    L_0 = (1 - rho) sum_{j=0}^{D-1} (B rho)^j + (B rho)^D, multiplicity 1; s_l = sqrt(F L_l) with
    F = n_features. They decrease strictly with the level for 0 < flip < 1/2 and B >= 2: broad
    distinctions are learned first. flip = 0: rank one, s_0 = sqrt(F P); flip = 1/2: all equal.

    Sums over items, inputs X = I. branching and depth are static; returns two (depth + 1,)
    vectors. Exact for the covariance; a sample of F features deviates by O(1/sqrt(F)).

    Raises ``ValueError`` unless branching >= 1 and depth >= 1 are integers, 0 <= flip <= 1/2 and
    n_features > 0.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120; (2019), arXiv:1810.10531.

    >>> values, multiplicity = tree_singular_values(2, 1, 0.0, 8)
    >>> [float(v) for v in values], [int(m) for m in multiplicity]
    ([4.0, 0.0], [1, 1])
    """
    branching, depth = _require_tree(branching, depth, flip)
    require_positive(n_features=n_features)
    return _singular_values(flip, n_features, branching=branching, depth=depth)


@partial(jax.jit, static_argnames=("branching", "depth"))
def _singular_values(flip, n_features, branching, depth):
    flip, n_features = as_floats(flip, n_features)
    # 1 - rho = 4 flip (1 - flip): every term is non-negative, nothing cancels.
    powers = (branching * (1 - 2 * flip) ** 2) ** jnp.arange(depth + 1)
    sums = 4 * flip * (1 - flip) * jnp.cumsum(powers)
    eigenvalues = jnp.concatenate([(sums[-2] + powers[-1])[None], sums[::-1][1:]])
    multiplicity = [1] + [(branching - 1) * branching ** (l - 1) for l in range(1, depth + 1)]
    return TreeSpectrum(jnp.sqrt(n_features * eigenvalues), jnp.asarray(multiplicity))


def tree_covariance(branching: Count, depth: Count, flip: ArrayLike) -> Float[Array, "P P"]:
    """Covariance E[y_i y_j] of two items' features: (1 - 2 flip)^(number of branches between them).

    That is rho^d, rho = (1 - 2 flip)^2, where the lowest common ancestor is d levels above the
    leaves. (P, P), unit diagonal. branching and depth static.

    Raises ``ValueError`` unless branching >= 1 and depth >= 1 are integers and 0 <= flip <= 1/2.
    Source: Saxe, McClelland and Ganguli (2019), arXiv:1810.10531.

    >>> [[float(x) for x in row] for row in tree_covariance(2, 1, 0.25)]
    [[1.0, 0.25], [0.25, 1.0]]
    """
    branching, depth = _require_tree(branching, depth, flip)
    (flip,) = as_floats(flip)
    ancestors = np.arange(branching**depth)[:, None] // branching ** np.arange(depth)[None, :]
    height = np.sum(ancestors[:, None, :] != ancestors[None, :, :], axis=-1)
    return ((1 - 2 * flip) ** 2) ** jnp.asarray(height)


def object_analyzers(branching: Count, depth: Count) -> ObjectAnalyzers:
    """Right singular vectors of Sigma_yx for tree-structured data: what each mode distinguishes.

    Level 0 is the constant vector; a mode of level l >= 1 lives on the descendants of one node of
    level l - 1, is constant on each of its children's descendants and sums to zero. Any flip has
    these eigenvectors; within a level (and a sampled data set) only their span is determined.

    Returns vectors (P, P), orthonormal rows sorted by level, and level (P,).

    Raises ``ValueError`` unless branching >= 1 and depth >= 1 are integers.
    Source: Saxe, McClelland and Ganguli (2019), arXiv:1810.10531.

    >>> vectors, level = object_analyzers(2, 2)
    >>> [int(l) for l in level], [float(x) for x in 2 * vectors[1]]
    ([0, 1, 2, 2], [1.0, 1.0, -1.0, -1.0])
    """
    branching, depth = _require_tree(branching, depth, 0.0)
    contrasts = _contrasts(branching)
    rows = [np.full((1, branching**depth), branching ** (-depth / 2))]
    for level in range(1, depth + 1):
        leaves = branching ** (depth - level)
        within = np.kron(contrasts, np.full((1, leaves), leaves**-0.5))
        rows.append(np.kron(np.eye(branching ** (level - 1)), within))
    levels = np.repeat(np.arange(depth + 1), [len(block) for block in rows])
    return ObjectAnalyzers(jnp.asarray(np.concatenate(rows)), jnp.asarray(levels))


def _contrasts(n):
    """Helmert basis: n - 1 orthonormal rows, orthogonal to the constant vector."""
    rows = np.tril(np.ones((n - 1, n)))
    rows[np.arange(n - 1), np.arange(1, n)] = -np.arange(1, n)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sample_tree_dataset(
    key: PRNGKeyArray,
    branching: Count,
    depth: Count,
    flip: ArrayLike,
    n_features: Count,
) -> Float[Array, "items features"]:
    """Features of every item, sampled by diffusion down the tree: entries +-1, (P, n_features).

    With one-hot inputs X = I the task is Sigma_yx = Y^T, summed over items. branching, depth and
    n_features static.

    Raises ``ValueError`` unless branching, depth and n_features are integers >= 1 and
    0 <= flip <= 1/2.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

    >>> sample_tree_dataset(jax.random.key(0), 2, 5, 0.1, 1000).shape
    (32, 1000)
    """
    branching, depth = _require_tree(branching, depth, flip)
    require_count(n_features=n_features)
    return _sample(key, flip, branching=branching, depth=depth, n_features=int(n_features))


@partial(jax.jit, static_argnames=("branching", "depth", "n_features"))
def _sample(key, flip, branching, depth, n_features):
    (flip,) = as_floats(flip)
    signs = jax.random.rademacher(jax.random.fold_in(key, 0), (1, n_features), flip.dtype)
    for level in range(1, depth + 1):
        signs = jnp.repeat(signs, branching, axis=0)
        flipped = jax.random.bernoulli(jax.random.fold_in(key, level), flip, signs.shape)
        signs = jnp.where(flipped, -signs, signs)
    return signs


def level_learning_times(
    branching: Count,
    depth: Count,
    flip: ArrayLike,
    n_features: ArrayLike,
    u0: ArrayLike,
    *,
    layers: Count = 2,
    tau: ArrayLike = 1.0,
) -> Float[Array, " levels"]:
    """Half-learning time of each level of the tree: progressive differentiation.

    t_l = ``half_learning_time(s_l, u0, layers, tau)`` at the singular values of
    ``tree_singular_values``; two layers: (tau / 2 s_l) log((s_l - u0)/u0). Strictly increasing
    with the level for u0 << s, 0 < flip < 1/2, branching >= 2 and layers >= 2. ``depth`` is that
    of the tree, ``layers`` the number of weight matrices; u0 > 0 the common initial strength of
    the modes. Returns (depth + 1,), in units of tau.

    Raises ``ValueError`` as those two functions do; flip = 0 leaves levels that are never learned.
    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

    >>> bool(jnp.all(jnp.diff(level_learning_times(2, 5, 0.1, 1000, 1e-6)) > 0))
    True
    """
    s = tree_singular_values(branching, depth, flip, n_features).values
    return half_learning_time(s, u0, layers, tau)


def _require_tree(branching, depth, flip):
    require_count(branching=branching, depth=depth)
    require("flip", flip, lambda flip: (flip >= 0) & (flip <= 0.5), "between 0 and 1/2")
    return int(branching), int(depth)
