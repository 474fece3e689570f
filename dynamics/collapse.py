"""Neural collapse: how far activity has contracted onto class means that form a simplex.

Activity h (examples, p), labels 0 ... K-1, class means mu_k, their mean mu (every class counts the
same, however many examples it has), M the matrix (K, p) of mu_k - mu:

    Sigma_W = (1/K) sum_k (1/n_k) sum_{i in k} (h_i - mu_k)(h_i - mu_k)^T
    Sigma_B = (1/K) sum_k (mu_k - mu)(mu_k - mu)^T

    NC1  within-class scatter in units of that between classes, tr(Sigma_W Sigma_B^+)/K
    NC2  |G/|G| - T/|T||, G = M M^T against T = I - 11^T/K of a simplex equiangular tight frame
    NC3  |W/|W| - M/|M||, classifier W (K, p): self-duality

All are zero at collapse. Networks without a bias collapse to an orthogonal frame instead: T = I,
and M keeps its mean.

Sources: Papyan, Han & Donoho (2020), arXiv 2008.08186; Tirer, Huang & Niles-Weed (2022), arXiv
2210.16658.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from dynamics.operators import require_at_least


class NeuralCollapse(NamedTuple):
    """NC1 to NC3, zero at collapse. ``scatter_ratio`` is ``tr Sigma_W / tr Sigma_B``.

    ``self_duality`` (NC3) is None without a classifier.
    """

    variability: Float[Array, ""]
    scatter_ratio: Float[Array, ""]
    frame_distance: Float[Array, ""]
    self_duality: Float[Array, ""] | None


class ClassMoments(NamedTuple):
    """Class means (K, p), and covariances within and between classes (p, p)."""

    means: Float[Array, "K p"]
    within: Float[Array, "p p"]
    between: Float[Array, "p p"]


def class_moments(
    h: Float[ArrayLike, "n p"], labels: Int[ArrayLike, " n"], *, n_classes: int
) -> ClassMoments:
    """Means, Sigma_W and Sigma_B of activity by class, every class with the same weight.

    With classes of one size Sigma_W + Sigma_B is the covariance of all examples. nan for a class
    without examples inside ``jit``; outside ``ValueError``, as for labels out of range and for
    fewer than two classes.

    >>> moments = class_moments(jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1]), n_classes=2)
    >>> [moment.round(12).tolist() for moment in moments]
    [[[1.0], [5.0]], [[0.5]], [[4.0]]]
    """
    require_at_least(2, n_classes=n_classes)
    h, labels = jnp.asarray(h), jnp.asarray(labels)
    if not isinstance(labels, Tracer):
        found = np.unique(labels).tolist()
        if found != list(range(n_classes)):
            raise ValueError(f"labels must be all of 0 to {n_classes - 1}, got {found}")
    member = jax.nn.one_hot(labels, n_classes, dtype=h.dtype)
    share = member / jnp.sum(member, axis=0, keepdims=True)
    means = share.T @ h
    weights = jnp.sum(member * share, axis=1)  # one over the size of the example's class
    inside = (h - means[labels]) * jnp.sqrt(weights / n_classes)[:, None]
    outside = (means - jnp.mean(means, axis=0, keepdims=True)) / n_classes**0.5
    return ClassMoments(means, inside.T @ inside, outside.T @ outside)


def neural_collapse(
    h: Float[ArrayLike, "n p"],
    labels: Int[ArrayLike, " n"],
    classifier: Float[ArrayLike, "K p"] | None = None,
    *,
    n_classes: int,
    frame: str = "simplex",
) -> NeuralCollapse:
    """NC1 to NC3 of the activity ``h`` below a linear classifier, as defined above.

    Args:
        classifier: its weights, (K, p), taken as they are; without them there is no NC3.
        frame: "simplex", class means centred and held against a simplex equiangular tight frame;
            "orthogonal", not centred and held against an orthogonal frame.

    Raises:
        ValueError: as ``class_moments``, an unknown frame, a classifier of another shape.

    >>> corners = jnp.eye(3)
    >>> found = neural_collapse(corners, jnp.arange(3), 3 * corners - 1, n_classes=3)
    >>> [round(float(value), 6) for value in found]
    [0.0, 0.0, 0.0, 0.0]
    """
    if frame not in ("simplex", "orthogonal"):
        raise ValueError(f"frame must be simplex or orthogonal, got {frame!r}")
    means, within, between = class_moments(h, labels, n_classes=n_classes)
    target = jnp.eye(n_classes, dtype=means.dtype)
    if frame == "simplex":
        means = means - jnp.mean(means, axis=0, keepdims=True)
        target = target - 1 / n_classes
    duality = None
    if classifier is not None:
        classifier = jnp.asarray(classifier)
        if classifier.shape != means.shape:
            raise ValueError(f"classifier must be {means.shape}, got {classifier.shape}")
        duality = _distance(classifier, means)
    return NeuralCollapse(
        variability=jnp.trace(within @ jnp.linalg.pinv(between, hermitian=True)) / n_classes,
        scatter_ratio=jnp.trace(within) / jnp.trace(between),
        frame_distance=_distance(means @ means.T, target),
        self_duality=duality,
    )


def _distance(first: Array, second: Array) -> Array:
    """Between matrices of unit Frobenius norm."""
    return jnp.linalg.norm(first / jnp.linalg.norm(first) - second / jnp.linalg.norm(second))
