"""Neural collapse where the last layer's features are free: minima, and the way there.

Unconstrained features H (K classes, n samples of each, p features), classifier W (K, p), one-hot
targets Y, N = K n samples:

    L = 1/(2N) sum_i |W h_i + b - y_i|^2 + (lw/2) |W|^2 + (lh/2) |H|^2

with lw = ``weight_decay``, lh = ``feature_decay``: half squared error, mean over samples, sum over
classes. Sigma_W and Sigma_B are the covariances of features within classes and of class means
around their mean, as averages over samples.

On the central path W is at its minimum for the features at hand (no bias), and features descend:

    W*(H) = Y^T H (H^T H + N lw)^{-1},    dH/dt = (Y - H W*^T) W*/N - lh H

(rows of H and Y are samples). With H_w the features less their class means and C = I - 11^T/K,

    d tr Sigma_W/dt = -(2/N^2) |H_w W*^T|^2                          - 2 lh tr Sigma_W
    d tr Sigma_B/dt = (2/N^2) [|H_w (C W*)^T|^2 + N lw |C W*|^2]     - 2 lh tr Sigma_B

exactly: with equal classes ``tr Sigma_W/tr Sigma_B`` never increases, whatever lh is.

Sources: the setting is that of arXiv 2210.16658 and its predecessors; equations derived here.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_finite, require_nonnegative, require_positive
from theory.checks import Count, require, require_count


class CollapsedMinimum(NamedTuple):
    """The global minima of the unconstrained features: one of them, up to rotation all.

    ``value`` of the loss; ``coupling`` c, collapse to zero from 1 on; ``class_means`` and
    ``weights`` (K, K), in p features ``class_means @ Q`` and ``weights @ Q`` with any Q (K, p),
    Q Q^T = I, every sample at its class mean; ``bias`` (K,), 0 without; ``outputs`` (K, K), those
    of each class in a row.
    """

    value: Float[Array, ""]
    coupling: Float[Array, ""]
    class_means: Float[Array, "K K"]
    weights: Float[Array, "K K"]
    bias: Float[Array, " K"]
    outputs: Float[Array, "K K"]


class Velocity(NamedTuple):
    """Direction of descent of the features (K, n, p), and the classifier W* (K, p) there."""

    features: Float[Array, "K n p"]
    weights: Float[Array, "K p"]


class CollapseRates(NamedTuple):
    """tr Sigma_W, tr Sigma_B, their ratio, and the time derivatives of all three."""

    within: Float[Array, ""]
    between: Float[Array, ""]
    ratio: Float[Array, ""]
    within_rate: Float[Array, ""]
    between_rate: Float[Array, ""]
    ratio_rate: Float[Array, ""]


def collapsed_minimum(
    n_classes: Count,
    samples_per_class: Count,
    *,
    weight_decay: ArrayLike,
    feature_decay: ArrayLike,
    bias: bool = False,
) -> CollapsedMinimum:
    """Global minimum of the unconstrained-features loss with K equal classes.

        c = K sqrt(n lw lh) < 1:   value c - c^2/2,   W M^T = (1 - c) I,
        M M^T = (1 - c) sqrt(lw/(n lh)) I,   W = sqrt(n lh/lw) M

    with M the class means in rows: an orthogonal frame. For c >= 1 all is zero, value 1/2. With a
    bias that is not decayed, b = 1/K, I becomes ``C = I - 11^T/K`` (a simplex equiangular tight
    frame) and the value is (K - 1)/K times that. There must be K features, K - 1 with a bias.

    Raises ``ValueError`` unless the counts are integers >= 2 classes, >= 1 sample, and the decays
    positive.

    >>> found = collapsed_minimum(2, 1, weight_decay=0.25, feature_decay=0.25)
    >>> float(found.coupling), float(found.value), found.outputs.tolist()
    (0.5, 0.375, [[0.5, 0.0], [0.0, 0.5]])
    """
    require_count(least=2, n_classes=n_classes)
    require_count(samples_per_class=samples_per_class)
    require_positive(weight_decay=weight_decay, feature_decay=feature_decay)
    K, n = int(n_classes), int(samples_per_class)
    lw, lh = as_floats(weight_decay, feature_decay)
    c = K * jnp.sqrt(n * lw * lh)
    kept = jnp.minimum(c, 1.0)
    frame = jnp.eye(K, dtype=c.dtype) - (1 / K if bias else 0.0)
    share = (K - 1) / K if bias else 1.0
    root = (lw / (n * lh)) ** 0.25
    scale = jnp.sqrt(jnp.where(c < 1, 1 - kept, 1.0)) * (c < 1)
    shift = jnp.full((K,), 1 / K if bias else 0.0, c.dtype)
    return CollapsedMinimum(
        value=share * (kept - kept**2 / 2),
        coupling=c,
        class_means=scale * root * frame,
        weights=scale / root * frame,
        bias=shift,
        outputs=(1 - kept) * frame + shift[None],
    )


def central_path_velocity(
    features: Float[ArrayLike, "K n p"], *, weight_decay: ArrayLike, feature_decay: ArrayLike = 0.0
) -> Velocity:
    """Descent of the loss in the features (K, n, p), the classifier being optimal at every time.

    ``-grad L(W*(H), H)``: the derivative through W* vanishes. Raises ``ValueError`` for another
    number of axes, fewer than 2 classes, NaN, a weight decay not positive, a negative feature
    decay.

    >>> found = central_path_velocity(jnp.eye(2)[:, None], weight_decay=0.5)
    >>> found.weights.tolist(), found.features[0].tolist()
    ([[0.5, 0.0], [0.0, 0.5]], [[0.125, 0.0]])
    """
    H, lw, lh = _checked(features, weight_decay, feature_decay)
    K, n, p = H.shape
    flat, targets = H.reshape(K * n, p), jnp.repeat(jnp.eye(K, dtype=H.dtype), n, axis=0)
    W = jnp.linalg.solve(flat.T @ flat + K * n * lw * jnp.eye(p, dtype=H.dtype), flat.T @ targets).T
    moved = (targets - flat @ W.T) @ W / (K * n) - lh * flat
    return Velocity(moved.reshape(K, n, p), W)


def collapse_rates(
    features: Float[ArrayLike, "K n p"], *, weight_decay: ArrayLike, feature_decay: ArrayLike = 0.0
) -> CollapseRates:
    """Scatter within and between classes on the central path, and how fast they change.

    The equations on top of the module. The ratio's rate, the sum of three negative terms, does not
    depend on feature_decay. Raises ``ValueError`` as ``central_path_velocity``, and where all class
    means are equal.

    >>> found = collapse_rates(jnp.array([[[1.0], [2.0]], [[-1.0], [-2.0]]]), weight_decay=0.1)
    >>> round(float(found.ratio), 6), float(found.ratio_rate) < 0
    (0.111111, True)
    """
    H, lw, lh = _checked(features, weight_decay, feature_decay)
    W, N = central_path_velocity(H, weight_decay=lw).weights, H.shape[0] * H.shape[1]
    means = jnp.mean(H, axis=1)
    spread = (H - means[:, None]).reshape(N, -1)
    within, between = jnp.sum(spread**2) / N, _scatter(means) / len(means)
    require("scatter of the class means", between, lambda b: b > 0, "positive")
    centred = W - jnp.mean(W, axis=0)[None]
    falling = 2 / N**2 * jnp.sum((spread @ W.T) ** 2)
    rising = 2 / N**2 * (jnp.sum((spread @ centred.T) ** 2) + N * lw * jnp.sum(centred**2))
    return CollapseRates(
        within=within,
        between=between,
        ratio=within / between,
        within_rate=-falling - 2 * lh * within,
        between_rate=rising - 2 * lh * between,
        ratio_rate=-(falling + within / between * rising) / between,
    )


def anchored_features(
    features: Float[ArrayLike, "K n p"],
    anchoring: ArrayLike,
    *,
    weight_decay: ArrayLike,
    feature_decay: ArrayLike = 0.0,
) -> Float[Array, "K n p"]:
    """Features that minimise ``L(W*(H), H) + (anchoring/2) |H - H_0|^2``, to first order.

    ``H_0 + velocity(H_0)/anchoring``, up to O(1/anchoring^2): strongly anchored features take a
    step along the central path, by which the ratio of scatters falls. features H_0 (K, n, p).
    Raises ``ValueError`` unless anchoring is positive, and as ``central_path_velocity``.

    >>> anchored_features(jnp.eye(2)[:, None], 0.5, weight_decay=0.5)[0].tolist()
    [[1.25, 0.0]]
    """
    require_positive(anchoring=anchoring)
    decays = {"weight_decay": weight_decay, "feature_decay": feature_decay}
    moved = central_path_velocity(features, **decays).features
    return jnp.asarray(features, moved.dtype) + moved / jnp.asarray(anchoring, moved.dtype)


def _scatter(rows: Array) -> Array:
    return jnp.sum((rows - jnp.mean(rows, axis=0)[None]) ** 2)


def _checked(features: ArrayLike, weight_decay: ArrayLike, feature_decay: ArrayLike):
    shape = np.shape(features)
    if len(shape) != 3 or shape[0] < 2 or 0 in shape:
        raise ValueError(f"features must be (classes >= 2, samples, features), got shape {shape}")
    require_finite(features=features)
    require_positive(weight_decay=weight_decay)
    require_nonnegative(feature_decay=feature_decay)
    dtype = jnp.result_type(features, 1.0)
    return tuple(jnp.asarray(value, dtype) for value in (features, weight_decay, feature_decay))
