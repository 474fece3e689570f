"""Importance scores of examples before training: what GraNd and EL2N are of random networks.

For cross-entropy of logits f, p = softmax f(x) and the one-hot label y,

    EL2N(x, y) = E |p - y|,
    GraNd(x, y) = E |grad_theta l| = E sqrt((p - y)^T Theta(x, x) (p - y)),

expectations over initialisations. A fully connected network whose first layer is Gaussian, and
whose outputs are drawn alike, sees of a single input nothing but its length, since rotating x is
rotating the weights. Hence, **at any width, both scores of an untrained network are functions of
|x| alone**: they know neither the label nor what else x looks like, and on a sphere all examples
have the same. Whatever ranking an ensemble has there is its own noise.

At infinite width f ~ N(0, K(x, x) I) and Theta(x, x) = theta(x) I, both functions of |x|, so that

    EL2N = E_z |softmax(sqrt(K(x, x)) z) - e_1|,    GraNd = sqrt(theta(x)) EL2N,

z ~ N(0, I_c); of one network GraNd is sqrt(theta) EL2N up to O(1/sqrt(n)). For ReLU without biases
theta is proportional to |x|^2.

Derived here, of the scores of Paul, Ganguli & Dziugaite (2021), arXiv 2107.07075.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from theory.arguments import as_floats, require_nonnegative
from theory.checks import Count, require_count


class InitialScores(NamedTuple):
    """``el2n`` and ``grand`` (...); ``relative_error``, of both, of the Monte-Carlo average."""

    el2n: Float[Array, "..."]
    grand: Float[Array, "..."]
    relative_error: Float[Array, "..."]


def initial_scores(
    key: Key[Array, ""],
    nngp: Float[ArrayLike, "..."],
    ntk: Float[ArrayLike, "..."],
    *,
    classes: Count,
    samples: Count = 10_000,
) -> InitialScores:
    """EL2N and GraNd of an untrained network of infinite width, from K(x, x) and theta(x).

    Both are averages over the same ``samples`` Gaussian vectors of ``classes`` logits for all
    inputs, so that differences between inputs are far more accurate than ``relative_error`` says.

    Args:
        nngp, ntk: K(x, x) and theta(x), the diagonals of ``infinite_width.mlp_kernels``; broadcast.

    Raises ``ValueError`` for negative kernels, classes < 2, samples < 2.

    >>> found = initial_scores(jax.random.key(0), 0.0, 9.0, classes=2)
    >>> [round(float(score) ** 2, 9) for score in (found.el2n, found.grand)]
    [0.5, 4.5]
    """
    require_nonnegative(nngp=nngp, ntk=ntk)
    require_count(least=2, classes=classes, samples=samples)
    nngp, ntk = as_floats(nngp, ntk)
    scale = jnp.sqrt(nngp).reshape(-1)
    mean, error = _el2n(key, scale, classes=int(classes), samples=int(samples))
    mean, error = (part.reshape(nngp.shape) for part in (mean, error))
    return InitialScores(mean, jnp.sqrt(ntk) * mean, error / mean)


def _el2n(key, scale, *, classes, samples):
    """Mean of ``|softmax(scale z) - e_1|`` and its standard error, for every scale."""
    logits = jax.random.normal(key, (samples, classes), scale.dtype)
    label = jnp.eye(1, classes, dtype=scale.dtype)

    def score(scale):
        norms = jnp.linalg.norm(jax.nn.softmax(scale * logits) - label, axis=1)
        return jnp.mean(norms), jnp.std(norms, ddof=1) / jnp.sqrt(samples)

    return jax.lax.map(score, scale)


_el2n = jax.jit(_el2n, static_argnames=("classes", "samples"))
