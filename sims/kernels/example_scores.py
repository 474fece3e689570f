"""Scores of examples by many networks, what those agree on, and what a left-out example does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.examples import el2n, grand
from dynamics.gram import gradient_gram
from dynamics.losses import log_losses
from dynamics.tangent_kernel import ntk_diagonal
from sims.experiment import Arrays
from sims.kernels.turning_networks import HALVINGS, TwoLayers
from sims.rates import fitted_exponent, standard_error, without_step_error

EL2N, GRAND = 0, 1


def network_scores(network: TwoLayers, drawn: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """EL2N and GraNd of every network, (scores, networks, examples)."""

    def scores(params):
        one = jax.tree.map(lambda leaf: leaf[None], params)
        return jnp.stack([score(network.model.apply, one, x, y).value for score in (el2n, grand)])

    found = jax.jit(lambda drawn: jax.lax.map(scores, drawn))(drawn)
    return np.swapaxes(np.asarray(found), 0, 1)


def quadratic_form(network: TwoLayers, params: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(p - y)^T Theta(x, x) (p - y)`` of one network, (examples,)."""
    error = jax.nn.softmax(network.model.apply(params, x)) - y
    blocks = jax.jit(lambda params: ntk_diagonal(network.model.apply, params, x))(params)
    return np.einsum("ia,iab,ib->i", error, blocks, error)


def leave_out(network: TwoLayers, params: Any, pairs: Any, removed: int, rate: float) -> Arrays:
    """What leaving out one of the first examples of a step does to the losses of all.

    ``change`` over eta (halvings, removed, examples), eta being ``rate`` times ``HALVINGS``, and
    the inner products of gradients, ``gram`` (removed, examples).
    """
    x, y = pairs
    labelled = np.concatenate([x, np.argmax(y, axis=1)[:, None]], axis=1)

    def losses(params, rows):
        logits = network.model.apply(params, rows[:, :-1])
        return log_losses(logits, rows[:, -1].astype(int))

    weights = 1 - np.concatenate([np.zeros((1, len(x))), np.eye(len(x))[:removed]])

    def after(rate, weight):
        gradient = jax.grad(lambda p: jnp.dot(weight, losses(p, labelled)))(params)
        moved = jax.tree.map(lambda leaf, step: leaf - rate * step, params, gradient)
        return losses(moved, labelled)

    @jax.jit
    def every(rates):
        found = jax.lax.map(lambda rate: jax.vmap(after, (None, 0))(rate, weights), rates)
        gram = gradient_gram(losses, params, labelled[:removed], labelled)
        return (found[:, :1] - found[:, 1:]) / rates[:, None, None], gram

    change, gram = every(rate * HALVINGS)
    return {"change": np.asarray(change), "gram": np.asarray(gram)}


def shared_variance(scores: np.ndarray) -> np.ndarray:
    """Covariance over examples of the scores of two networks, the mean over all pairs.

    That of independent scores (..., networks, examples) is the variance of expected scores.
    """
    gram = pair_products(scores)
    count = gram.shape[-1]
    diagonal = np.trace(gram, axis1=-2, axis2=-1)
    return (gram.sum(axis=(-2, -1)) - diagonal) / (count * (count - 1))


def shared_error(scores: np.ndarray) -> np.ndarray:
    """Standard error of ``shared_variance``, by leaving out one network after the other."""
    gram = pair_products(scores)
    count = gram.shape[-1]
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    pairs = (gram.sum(axis=(-2, -1)) - diagonal.sum(axis=-1))[..., None]
    without = (pairs - 2 * (gram.sum(axis=-1) - diagonal)) / ((count - 1) * (count - 2))
    return np.sqrt((count - 1) * without.var(axis=-1))


def pair_products(scores: np.ndarray) -> np.ndarray:
    """Covariances over examples, (..., networks, networks)."""
    centered = scores - scores.mean(axis=-1, keepdims=True)
    return centered @ np.swapaxes(centered, -1, -2) / scores.shape[-1]


def single_variance(scores: np.ndarray) -> np.ndarray:
    """Variance over examples of the scores of one network, the mean over networks."""
    return scores.var(axis=-1).mean(axis=-1)


def deviations(m: Arrays) -> np.ndarray:
    """Mean squares over examples of ln(GraNd/EL2N) less its mean, (widths, networks)."""
    ratio = np.log(m["scores"][:, 1] / m["scores"][:, 0])
    return ((ratio - ratio.mean(axis=1, keepdims=True)) ** 2).mean(axis=-1)


def deviation_exponent(m: Arrays) -> float:
    """Power of the width of the root of ``deviations``."""
    return fitted_exponent(m["widths"], deviations(m).mean(axis=1)) / 2


def deviation_error(m: Arrays) -> float:
    """Standard error of the power."""
    squares, ln = deviations(m), np.log(m["widths"])
    relative = standard_error(squares.T) / squares.mean(axis=1)
    weights = (ln - ln.mean()) / np.sum((ln - ln.mean()) ** 2)
    return np.sqrt(np.sum((weights * relative) ** 2)) / 2


def removal(m: Arrays) -> float:
    """Slope of the change over eta, for eta -> 0, against -g.g_j."""
    return -np.sum(without_step_error(m["change"]) * m["gram"]) / np.sum(m["gram"] ** 2)


def removal_order(m: Arrays) -> float:
    """Power of eta of what is left of the change at finite eta."""
    left = m["change"] + m["gram"]
    sizes = np.sqrt(np.mean(left**2, axis=(1, 2)))
    return 1 + fitted_exponent(HALVINGS, sizes)
