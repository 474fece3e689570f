"""The energy that features climb while a network groks a group: its maxima are representations.

A hidden unit with weights w = [u; v] on two one-hot group elements and activation x^2 has features
``F_i(w) = (u_a + v_b)^2`` on samples i = (a, b), and labels Y~ are one-hot products minus their
mean over samples. With the readout at its ridge optimum, early gradients are along those of

    E(w) = (1/2) |Y~^T F(w)|^2,   |w| = 1.

On all M^2 samples ``E = 2 |u * v - mean|^2``, the convolution of the group. By Plancherel's theorem
its local maxima put u and v into one irreducible representation of dimension d, at

    E = M/(2 d)  real,    M/(4 d)  complex (with its conjugate) or quaternionic,

for this normalisation of E and w (those of the paper could not be confirmed; values recalled from
there are four times smaller throughout). Derived here: of equal norms |u|^2 = |v|^2 = 1/2, the
transforms of u and v are of rank one where the representation is real; a complex one shares the
norm with its conjugate; a quaternionic one has its singular values in pairs.

Source: Tian (2025), arXiv 2509.21519, for the energy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_positive
from theory.checks import Count, require_count
from theory.grokking.groups import Table, irreps


class Ascent(NamedTuple):
    """Unit vectors (starts, 2M), their energies, and the tangential part of the gradient.

    ``residual`` is relative to the whole gradient: zero at a stationary point on the sphere.
    """

    weights: Float[Array, "starts inputs"]
    energy: Float[Array, " starts"]
    residual: Float[Array, " starts"]


def group_samples(table: Table) -> tuple[Float[Array, "n inputs"], Float[Array, "n M"]]:
    """All pairs one-hot (M^2, 2M), second element fastest, and their products one-hot (M^2, M).

    >>> from theory.grokking.groups import cyclic_table
    >>> x, y = group_samples(cyclic_table(2))
    >>> x.shape, y[3].tolist()
    ((4, 4), [1.0, 0.0])
    """
    order = len(table)
    first, second = np.divmod(np.arange(order**2), order)
    x = np.concatenate([np.eye(order)[first], np.eye(order)[second]], axis=1)
    return jnp.asarray(x), jnp.asarray(np.eye(order)[table.reshape(-1)])


def energy(
    w: Float[ArrayLike, " inputs"], x: Float[ArrayLike, "n inputs"], y: Float[ArrayLike, "n M"]
) -> Float[Array, ""]:
    """``E(w) = |Y~^T (X w)^2|^2 / 2`` on samples x, y; columns of y are centred here.

    >>> from theory.grokking.groups import cyclic_table
    >>> x, y = group_samples(cyclic_table(2))
    >>> float(energy(jnp.array([0.5, -0.5, 0.5, -0.5]), x, y))  # the sign: M/2
    1.0
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    labels = y - jnp.mean(y, axis=0, keepdims=True)
    return jnp.sum((labels.T @ (x @ jnp.asarray(w)) ** 2) ** 2) / 2


def group_energy(w: Float[ArrayLike, " inputs"], table: Table) -> Float[Array, ""]:
    """E on all pairs of a group as a convolution, ``2 |u * v - mean|^2``: M^2 operations.

    >>> from theory.grokking.groups import cyclic_table
    >>> float(group_energy(jnp.array([0.5, -0.5, 0.5, -0.5]), cyclic_table(2)))
    1.0
    """
    w = jnp.asarray(w)
    first, second = jnp.split(w, 2)
    products = jnp.zeros(len(table), w.dtype)
    products = products.at[table].add(first[:, None] * second[None])
    return 2 * jnp.sum((products - jnp.mean(products)) ** 2)


def maximal_energies(table: Table) -> Float[np.ndarray, " irreps"]:
    """Energy of the local maxima of each irreducible representation, in the order of ``irreps``.

    The trivial one has none: nan.

    >>> from theory.grokking.groups import symmetric_table
    >>> maximal_energies(symmetric_table(3)).tolist()  # trivial, sign, two-dimensional
    [nan, 3.0, 1.5]
    """
    found = irreps(table)
    share = np.where(found.indicators == 1, 2, 4)
    trivial = np.isclose(found.characters, 1).all(axis=1)
    return np.where(trivial, np.nan, len(table) / (share * found.dimensions))


def ascend(
    start: Float[ArrayLike, "starts inputs"],
    x: Float[ArrayLike, "n inputs"],
    y: Float[ArrayLike, "n M"],
    *,
    learning_rate: ArrayLike,
    steps: Count,
) -> Ascent:
    """Normalised gradient ascent of E on the unit sphere: ``w <- unit(w + eta unit(grad E))``.

    Steps do not shrink; near a maximum they still converge, as its gradient is radial. ``steps`` is
    static. Raises ``ValueError`` for a learning rate that is not positive.

    >>> from theory.grokking.groups import cyclic_table
    >>> start = jax.random.normal(jax.random.key(0), (4, 6))
    >>> x, y = group_samples(cyclic_table(3))
    >>> found = ascend(start, x, y, learning_rate=0.1, steps=500)
    >>> [round(float(value), 9) for value in found.energy]  # M/4
    [0.75, 0.75, 0.75, 0.75]
    """
    require_positive(learning_rate=learning_rate)
    require_count(steps=steps)
    x, y = jnp.asarray(x), jnp.asarray(y)
    gradient = jax.vmap(jax.grad(energy), (0, None, None))

    def step(w: Array, _: None) -> tuple[Array, None]:
        return _unit(w + learning_rate * _unit(gradient(w, x, y))), None

    w, _ = jax.lax.scan(step, _unit(jnp.asarray(start)), length=int(steps))
    g = gradient(w, x, y)
    tangential = g - jnp.sum(g * w, axis=1, keepdims=True) * w
    residual = jnp.linalg.norm(tangential, axis=1) / jnp.linalg.norm(g, axis=1)
    return Ascent(w, jax.vmap(energy, (0, None, None))(w, x, y), residual)


def ridge_readout(
    features: Float[ArrayLike, "n K"], y: Float[ArrayLike, "n M"], ridge: ArrayLike
) -> Float[Array, "K M"]:
    """``V = (F^T F + ridge)^-1 F^T Y``, the minimum of ``|Y - F V|^2 + ridge |V|^2``.

    >>> round(float(ridge_readout(jnp.array([[1.0]]), jnp.array([[2.0]]), 1.0)[0, 0]), 9)
    1.0
    """
    require_positive(ridge=ridge)
    features, y = jnp.asarray(features), jnp.asarray(y)
    gram = features.T @ features + ridge * jnp.eye(features.shape[1], dtype=features.dtype)
    return jax.scipy.linalg.solve(gram, features.T @ y, assume_a="pos")


def feature_gradient(
    features: Float[ArrayLike, "n K"], y: Float[ArrayLike, "n M"], ridge: ArrayLike
) -> Float[Array, "n K"]:
    """What reaches the features behind a ridge readout, minus the gradient of ``|Y - F V|^2 / 2``.

        G = (Y - F V) V^T = ridge (F F^T + ridge)^-1 Y Y^T F (F^T F + ridge)^-1

    It carries the labels while the residual is nearly zero; where the two inverses are close to
    multiples of the identity (many random features) hidden units are driven along grad E. Features
    and labels are centred by the caller. ``ridge`` > 0.

    >>> round(float(feature_gradient(jnp.array([[1.0]]), jnp.array([[2.0]]), 1.0)[0, 0]), 9)
    1.0
    """
    require_positive(ridge=ridge)
    features, y = jnp.asarray(features), jnp.asarray(y)
    gram = features @ features.T + ridge * jnp.eye(len(features), dtype=features.dtype)
    readout = ridge_readout(features, y, ridge)
    left = jax.scipy.linalg.solve(gram, y, assume_a="pos")
    return jnp.asarray(ridge) * left @ readout.T


def _unit(w: Array) -> Array:
    return w / jnp.linalg.norm(w, axis=-1, keepdims=True)
