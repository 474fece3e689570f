"""How much each example matters early in training: GraNd and EL2N, averaged over networks.

For cross-entropy l of logits f, p = softmax f(x) and y the target distribution,

    GraNd(x, y) = E |grad_theta l(f(x), y)|,    EL2N(x, y) = E |p - y|,

expectations over initialisations (and what training there was). For one network

    |grad_theta l|^2 = (p - y)^T Theta(x, x) (p - y)

with the (c, c) block of the tangent kernel, ``dynamics.tangent_kernel.ntk_diagonal``: where that is
theta(x) times the identity, as at large width, GraNd is sqrt(theta(x)) EL2N, and at initialisation
ranks examples by the size of their inputs as much as by their difficulty. Leaving an example out
changes what a gradient step does to the loss of any other by at most the rate times both gradient
norms.

Source: Paul, Ganguli & Dziugaite (2021), arXiv 2107.07075.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.gram import Apply
from dynamics.operators import require_at_least


class Score(NamedTuple):
    """``value`` (n,): mean over networks; ``standard_error`` (n,), nan for a single network."""

    value: Float[Array, " n"]
    standard_error: Float[Array, " n"]


def grand(
    apply: Apply,
    params: PyTree[Any],
    x: Float[ArrayLike, "n ..."],
    y: Float[ArrayLike, "n c"],
    *,
    chunk: int = 32,
) -> Score:
    """GraNd: norm of the cross-entropy gradient of every example, mean over networks.

    Args:
        params: of several networks, on the leading axis of every leaf (``jax.vmap(model.init)``).
        y: target distributions, one-hot labels for instance.
        chunk: gradients held at a time; networks come one after the other.

    Raises:
        ValueError: logits that are not (n, c), parameters without a common leading axis, chunk < 1.

    >>> found = grand(lambda w, x: x * w[None, :], jnp.zeros((3, 2)), jnp.ones((1, 1)),
    ...               jnp.array([[1.0, 0.0]]))
    >>> round(float(found.value[0]) ** 2, 12), float(found.standard_error[0])
    (0.5, 0.0)
    """
    require_at_least(1, chunk=chunk)
    x, y = _require_examples(apply, params, x, y)

    def norms(network: PyTree[Any]) -> Array:
        def norm(example: tuple[Array, Array]) -> Array:
            row, target = example

            def loss(p: PyTree[Any]) -> Array:
                return -jnp.sum(target * jax.nn.log_softmax(apply(p, row[None])[0]))

            leaves = jax.tree.leaves(jax.grad(loss)(network))
            return jnp.sqrt(sum((jnp.sum(leaf**2) for leaf in leaves), jnp.zeros((), y.dtype)))

        return lax.map(norm, (x, y), batch_size=min(chunk, len(x)))

    return _over_networks(norms, params)


def el2n(
    apply: Apply, params: PyTree[Any], x: Float[ArrayLike, "n ..."], y: Float[ArrayLike, "n c"]
) -> Score:
    """EL2N: norm of the error ``softmax f(x) - y`` of every example, mean over networks.

    Arguments and errors as ``grand``.

    >>> found = el2n(lambda w, x: x * w[None, :], jnp.zeros((3, 2)), jnp.ones((1, 1)),
    ...              jnp.array([[1.0, 0.0]]))
    >>> round(float(found.value[0]) ** 2, 12), float(found.standard_error[0])
    (0.5, 0.0)
    """
    x, y = _require_examples(apply, params, x, y)

    def norms(network: PyTree[Any]) -> Array:
        return jnp.linalg.norm(jax.nn.softmax(apply(network, x)) - y, axis=1)

    return _over_networks(norms, params)


def _over_networks(norms: Callable[[PyTree[Any]], Array], params: PyTree[Any]) -> Score:
    samples = lax.map(norms, params)
    count = jnp.asarray(len(samples), samples.dtype)
    mean = jnp.mean(samples, axis=0)
    squares = jnp.sum((samples - mean[None, :]) ** 2, axis=0)
    variance = squares / jnp.where(count > 1, count - 1, jnp.nan)
    return Score(mean, jnp.sqrt(variance / count))


def _require_examples(
    apply: Apply, params: PyTree[Any], x: ArrayLike, y: ArrayLike
) -> tuple[Array, Array]:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(f"params must have networks on one leading axis, got {sorted(sizes)}")
    x, y = jnp.asarray(x), jnp.asarray(y)
    one = jax.eval_shape(lambda p: jax.tree.map(lambda leaf: leaf[0], p), params)
    logits = jax.eval_shape(apply, one, x)
    if len(logits.shape) != 2 or logits.shape != y.shape:
        raise ValueError(f"apply must give logits like y, {y.shape}, got {logits.shape}")
    return x, y.astype(logits.dtype)
