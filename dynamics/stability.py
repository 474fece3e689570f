"""How close a network in training is to the edge of stability of its optimiser.

Each number is measured at one point of parameter space; what it should be compared with (2/eta,
2B/eta, 38/eta ...) is a prediction and stands in ``theory.stability``. Simulated stability, that is
SGD on the linearised network, is in ``dynamics.linearized_sgd``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from dynamics.curvature import hvp, inner
from dynamics.eigenpairs import Eigenpairs, top_eigenpairs
from dynamics.operators import require_at_least

Loss = Callable[[PyTree[Any], PyTree[Any]], Array]


class BatchSharpness(NamedTuple):
    """An average over minibatches, its standard error, and the number of products spent."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    num_matvecs: ArrayLike


def alignment_factor(
    gram: Float[ArrayLike, "..."], residuals: Float[ArrayLike, "..."]
) -> Float[Array, ""]:
    """Loss-scaled alignment ``mu = tr(H Cov) / (2 L |H|_F^2)`` of gradient noise with curvature.

    H the Gauss-Newton matrix, ``L = (1/2n) sum_i |e_i|^2``, ``e_i = f(x_i) - y_i``, and Cov the
    centred covariance ``(1/n) sum_i g_i g_i^T - grad L grad L^T`` of ``g_i = J_i^T e_i``; all from
    K_ij = J_i J_j^T. Under SGD on the linearised network ``E L_{t+1} >= (eta^2/B) mu |H|_F^2 L_t``
    (batches with replacement), so that loss stability needs ``|H|_F <= sqrt(B/mu)/eta``. A pure
    number, not bounded from below in general.

    gram (n, n) with residuals (n,), or (n, c, n, c) with (n, c). nan at zero loss. Raises
    ``ValueError`` for shapes that do not fit.

    Source: Wu, Wang & Su (2022), arXiv 2207.02628.

    >>> round(float(alignment_factor(jnp.eye(2), jnp.array([1.0, -1.0]))), 12)
    0.5
    """
    gram, residuals = jnp.asarray(gram), jnp.asarray(residuals)
    if residuals.ndim not in (1, 2) or gram.shape != residuals.shape * 2:
        raise ValueError(f"gram must be {residuals.shape * 2} as residuals, got {gram.shape}")
    n = len(residuals)
    square = gram.reshape(residuals.size, residuals.size)
    per_example = jnp.einsum(
        "pib,ib->pi", square.reshape(residuals.size, n, -1), residuals.reshape(n, -1)
    )
    noise = jnp.sum(per_example**2) / n**2 - jnp.sum(jnp.sum(per_example, axis=1) ** 2) / n**3
    loss = jnp.sum(residuals**2) / (2 * n)
    return noise / (2 * loss * jnp.sum(square**2) / n**2)


def batch_sharpness(
    loss: Loss,
    params: PyTree[Any],
    data: PyTree[Any],
    key: Key[Array, ""],
    *,
    batch_size: int,
    num_batches: int,
    form: str = "mean_of_ratios",
) -> BatchSharpness:
    """Curvature of the minibatch loss along its own gradient, on average over minibatches.

        mean_of_ratios  E_B[ g^T H g / |g|^2 ]        ratio_of_means  E_B[g^T H g] / E_B[|g|^2]

    g and H gradient and Hessian of ``loss(params, batch)``. The two are different numbers. Batches
    of different examples are drawn from the leading axis of ``data`` independently of each other,
    and treated one by one; the standard error is that of their spread (of the linearised ratio),
    nan for a single one. For one example a batch, one output and half the squared error the
    Gauss-Newton part is the trace of the full Gauss-Newton matrix, whatever the residuals; for full
    batches it is ``curvature_along`` the gradient. nan where the gradient of a batch vanishes.

    Raises ``ValueError`` for a batch size outside 1..n, ``num_batches`` < 1, an unknown form, and
    data of unequal lengths.

    Source: Andreyev & Beneventano (2024), arXiv 2412.20553.

    >>> found = batch_sharpness(lambda w, x: jnp.mean((w @ x.T) ** 2) / 2, jnp.ones(2),
    ...                         jnp.array([[1.0, 0.0], [0.0, 2.0]]), jax.random.key(0),
    ...                         batch_size=2, num_batches=3)
    >>> round(float(found.value), 9)
    1.911764706
    """
    n = _require_batches(data, batch_size, num_batches, form)

    def one(key: Array) -> tuple[Array, Array]:
        chosen = jax.random.permutation(key, n)[:batch_size]
        batch = jax.tree.map(lambda leaf: jnp.take(jnp.asarray(leaf), chosen, axis=0), data)
        gradient = jax.grad(loss)(params, batch)
        image = hvp(loss, params, batch, gradient)
        return inner(gradient, image), inner(gradient, gradient)

    forms, norms = lax.map(one, jax.random.split(key, num_batches))
    if form == "mean_of_ratios":
        value, deviations = jnp.mean(forms / norms), forms / norms
    else:
        value = jnp.mean(forms) / jnp.mean(norms)
        deviations = (forms - value * norms) / jnp.mean(norms)
    spread = jnp.sum((deviations - jnp.mean(deviations)) ** 2)
    error = jnp.sqrt(spread / num_batches / (num_batches - 1 if num_batches > 1 else jnp.nan))
    return BatchSharpness(value, error, num_batches)


def _require_batches(data: PyTree[Any], batch_size: int, num_batches: int, form: str) -> int:
    """The number of examples, if batches can be drawn from them."""
    require_at_least(1, batch_size=batch_size, num_batches=num_batches)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(f"data must agree on a leading axis of examples, got {sorted(lengths)}")
    n = lengths.pop()[0]
    if batch_size > n:
        raise ValueError(
            f"batch_size must be at most the number of examples, {n}, got {batch_size}"
        )
    if form not in ("mean_of_ratios", "ratio_of_means"):
        raise ValueError(f'form must be "mean_of_ratios" or "ratio_of_means", got {form!r}')
    return n


def preconditioner(
    opt_state: PyTree[Any],
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike | None = None,
    eps_root: ArrayLike | None = None,
) -> PyTree[Any]:
    """Diagonal P by which a live optax Adam or RMSProp divides, ``step = -eta momentum / P``.

        Adam (AdamW, NAdam)  P = (1 - b1^t) [sqrt(nu / (1 - b2^t) + eps_root) + eps]
        RMSProp              P = sqrt(nu + eps_root) + eps

    ``momentum`` is the state's ``mu`` (Adam) or the gradient (RMSProp), t the number of updates
    made, >= 1. States do not hold the constants: give those of the optimiser. The defaults are
    optax's, eps = 1e-8 and eps_root = 0 for Adam, the reverse for RMSProp, which has its eps within
    the root. Raises ``ValueError`` unless ``opt_state`` has one state of that kind, and at t = 0.

    >>> state = optax.adam(0.1).update(jnp.array([3.0]), optax.adam(0.1).init(jnp.ones(1)))[1]
    >>> preconditioner(state).round(6).tolist()
    [0.3]
    """
    kinds = (optax.ScaleByAdamState, optax.ScaleByRmsState)
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda state: isinstance(state, kinds))
    found = [state for state in leaves if isinstance(state, kinds)]
    if len(found) != 1:
        raise ValueError(f"opt_state must hold one Adam or RMSProp state, got {len(found)}")
    state = found[0]
    adam = isinstance(state, optax.ScaleByAdamState)
    eps = (1e-8 if adam else 0.0) if eps is None else eps
    eps_root = (0.0 if adam else 1e-8) if eps_root is None else eps_root
    early = late = 1.0
    if isinstance(state, optax.ScaleByAdamState):
        if not isinstance(state.count, Tracer) and int(np.asarray(state.count)) < 1:
            raise ValueError("opt_state must have seen at least one update, got count 0")
        early, late = 1 - b1**state.count, 1 - b2**state.count

    def diagonal(nu: Array) -> Array:
        return jnp.asarray(early * (jnp.sqrt(nu / late + eps_root) + eps), nu.dtype)

    return jax.tree.map(diagonal, state.nu)


def preconditioned_sharpness(
    loss: Loss,
    params: PyTree[Any],
    batch: PyTree[Any],
    opt_state: PyTree[Any],
    key: Key[Array, ""],
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike | None = None,
    eps_root: ArrayLike | None = None,
    num_matvecs: int = 20,
    tolerance: float = 1e-3,
) -> Eigenpairs:
    """Largest eigenvalue of ``P^{-1} H`` for the ``preconditioner`` of a live optimiser.

    That of the symmetric ``P^{-1/2} H P^{-1/2}``, whose eigenvectors are the ones returned (those
    of ``P^{-1} H`` are ``P^{-1/2}`` times them). Hyperparameters of the optimiser as in
    ``preconditioner``, of the eigensolver as in ``top_eigenpairs``. Raises ``ValueError`` as both,
    and if the state does not fit ``params``.

    Source: Cohen et al. (2022), arXiv 2207.14484.

    >>> loss = lambda w, h: jnp.sum(h * w**2) / 2
    >>> params, h = jnp.array([1.0, 1.0]), jnp.array([1.0, 4.0])
    >>> optimizer = optax.adam(0.1)
    >>> state = optimizer.update(jax.grad(loss)(params, h), optimizer.init(params))[1]
    >>> found = preconditioned_sharpness(loss, params, h, state, jax.random.key(0))
    >>> round(float(found.values[0]), 5)
    10.0
    """
    diagonal = preconditioner(opt_state, b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    if jax.tree.map(jnp.shape, diagonal) != jax.tree.map(jnp.shape, params):
        raise ValueError("opt_state must belong to params, got other shapes")
    hessian = partial(hvp, loss, params, batch)

    def scaled(v: PyTree[Any]) -> PyTree[Any]:
        return jax.tree.map(lambda x, p: x / jnp.sqrt(p).astype(x.dtype), v, diagonal)

    return top_eigenpairs(
        lambda v: scaled(hessian(scaled(v))),
        params,
        key,
        num_matvecs=num_matvecs,
        tolerance=tolerance,
    )
