"""The trace of an operator known by its products, with an error bar, by four estimators.

With m products (N parameters, A symmetric, P_i the projection on the images of all probes but w_i):

    hutchinson  mean of w^T A w over m probes of random signs; variance 2 (|A|_F^2 - sum_i A_ii^2)/m
    hutchpp     tr(Q^T A Q) + Hutchinson on the rest, Q an orthonormal basis of m/3 images A w_i
    xtrace      mean_i [tr(P_i A) + w_i^T (1 - P_i) A (1 - P_i) w_i], m/2 probes, each serving twice
    xnystrace   the same with the Nystrom approximation of all m images in place of P_i A P_i;
                positive semidefinite A only

On a spectrum that decays, as those of trained networks do, the last three need a tenth of the
products and are exact as soon as their probes outnumber the rank; on a flat spectrum Hutchinson is
best. The last three hold about 2 m vectors in memory, Hutchinson one. Where n c (examples times
outputs) is moderate, ``dynamics.gram`` has the trace of the Gauss-Newton matrix exactly, for less.

Written here rather than called from matfree, against which it is tested: one product at a time,
also under vmap, and rank decided relative to the size of the operator.

Sources: Hutchinson (1990); Meyer, Musco, Musco & Woodruff (2021), arXiv 2010.09649; Epperly, Tropp
& Webber (2024), arXiv 2301.07825.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from dynamics.operators import (
    FlatOperator,
    MatVec,
    flat_operator,
    products,
    quadratic_forms,
    random_signs,
    random_sphere,
    require_at_least,
)


class TraceEstimate(NamedTuple):
    """An estimate, its standard error, and the number of products spent."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    num_matvecs: ArrayLike


def trace(
    matvec: MatVec,
    like: PyTree[Any],
    key: Key[Array, ""],
    *,
    num_matvecs: int,
    method: str = "xtrace",
    probe_batch: int = 1,
    form: Callable[[PyTree[Any]], Array] | None = None,
) -> TraceEstimate:
    """Trace of a symmetric operator on pytrees like ``like``, from ``num_matvecs`` products.

    Standard errors are those of a mean of independent probes ("hutchinson", "hutchpp"), or of the
    leave-one-out values as if they were independent ("xtrace", "xnystrace"): an indication, up to
    twice too small. They vanish where the estimate is exact. Products that do not fill a probe are
    not spent, nor more than a full basis needs.

    Args:
        num_matvecs: at least 2 ("hutchinson", "xnystrace"), 4 ("xtrace") or 6 ("hutchpp").
        method: see the module. "xnystrace" on an operator that turns out indefinite has an
            infinite standard error.
        probe_batch: products computed at once; more than 1 costs memory, and time on CPUs.
        form: ``v -> v^T A v``, all that "hutchinson" needs of an operator, where it is cheaper
            than a product: ``dynamics.curvature.hessian_form`` for a Hessian.

    Raises:
        ValueError: an unknown method, too few products, a form for another method than
            "hutchinson", ``like`` or ``matvec`` as ``flat_operator``.

    >>> slopes = jnp.array([1.0, 2.0, 3.0, 0.0])
    >>> estimate = trace(lambda v: slopes * v, jnp.ones(4), jax.random.key(0), num_matvecs=8)
    >>> round(float(estimate.value), 9), estimate.num_matvecs
    (6.0, 8)
    """
    methods = {
        "hutchinson": (_hutchinson, 2),
        "hutchpp": (_hutchpp, 6),
        "xtrace": (_xtrace, 4),
        "xnystrace": (_xnystrace, 2),
    }
    if method not in methods:
        raise ValueError(f"method must be one of {', '.join(methods)}, got {method!r}")
    if form is not None and method != "hutchinson":
        raise ValueError(f'form must be None unless method is "hutchinson", got {method!r}')
    estimate, least = methods[method]
    require_at_least(least, num_matvecs=num_matvecs)
    return estimate(flat_operator(matvec, like, form), key, num_matvecs, probe_batch)


def _hutchinson(operator: FlatOperator, key: Array, budget: int, batch: int) -> TraceEstimate:
    return _mean(quadratic_forms(operator, jax.random.split(key, budget), batch), budget)


def _hutchpp(operator: FlatOperator, key: Array, budget: int, batch: int) -> TraceEstimate:
    count = min(budget // 3, operator.dimension)
    keys = jax.random.split(key, (2, budget // 3))
    first, second = (jax.vmap(lambda k: random_signs(k, operator))(row) for row in keys)
    q = jnp.linalg.qr(products(operator, first[:count], batch).T)[0]
    captured = jnp.sum(q.T * products(operator, q.T, batch))
    rest = second - (second @ q) @ q.T
    forms = jnp.sum(rest * products(operator, rest, batch), axis=1)
    return _mean(captured + forms, 2 * count + budget // 3)


def _xtrace(operator: FlatOperator, key: Array, budget: int, batch: int) -> TraceEstimate:
    count = min(budget // 2, operator.dimension)
    probes = random_sphere(key, operator, count)
    images = products(operator, probes, batch)
    q, r = jnp.linalg.qr(images.T)
    q_images = products(operator, q.T, batch)
    small = q.T @ q_images.T
    # Columns s_i: P_i = Q (1 - s_i s_i^T) Q^T. Beyond the rank R is singular, and any s_i among the
    # directions that A does not reach is right.
    s = jnp.linalg.inv(_invertible(r)).T
    s = s / jnp.linalg.norm(s, axis=0, keepdims=True)
    w = q.T @ probes.T
    x = w - s * jnp.sum(s * w, axis=0)[None, :]  # P_i w_i in coordinates of Q
    captured = jnp.trace(small) - jnp.sum(s * (small @ s), axis=0)
    rest = (
        jnp.sum(probes * images, axis=1)
        - 2 * jnp.sum((q_images @ probes.T) * x, axis=0)
        + jnp.sum(x * (small @ x), axis=0)
    )
    left = operator.dimension - jnp.sum(x**2, axis=0)
    return _mean(captured + _resphered(operator, count, rest, left), 2 * count)


def _xnystrace(operator: FlatOperator, key: Array, budget: int, batch: int) -> TraceEstimate:
    count = min(budget, operator.dimension)
    eps = float(jnp.finfo(operator.dtype).eps)
    probes = random_sphere(key, operator, count)
    images = products(operator, probes, batch)
    core = probes @ images.T
    values, vectors = jnp.linalg.eigh((core + core.T) / 2)
    largest = jnp.max(jnp.abs(values))
    kept = values > eps * operator.dimension * largest
    roots = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)
    factor = (images.T @ vectors) * roots[None, :]  # approximation: factor factor^T
    inverse_root = vectors * roots[None, :]
    norms = jnp.linalg.norm(inverse_root, axis=1)
    # A probe that the others make superfluous (rank below count) takes nothing away with it.
    needed = jnp.sum(jnp.where(kept[None, :], vectors**2, 0.0), axis=1) > 1 - eps**0.5
    norms = jnp.where(norms > 0, norms, 1.0)
    away = jnp.where(needed[None, :], (factor @ inverse_root.T) / norms[None, :], 0.0)
    captured = jnp.sum(factor**2) - jnp.sum(away**2, axis=0)
    rest = jnp.sum(probes.T * away, axis=0) ** 2
    left = 1 / jnp.diagonal(jnp.linalg.inv(probes @ probes.T))
    estimate = _mean(captured + _resphered(operator, count, rest, left), count)
    indefinite = values[0] < -(eps**0.5) * largest
    return estimate._replace(standard_error=jnp.where(indefinite, jnp.inf, estimate.standard_error))


def _resphered(operator: FlatOperator, count: int, rest: Array, left: Array) -> Array:
    """Forms of what is ``left`` of each probe, as if drawn on the sphere of what it can reach."""
    return rest * (operator.dimension - count + 1) / jnp.where(left > 0, left, 1.0)


def _invertible(r: Array) -> Array:
    """A triangular matrix whose vanishing diagonal entries are replaced by rounding errors."""
    diagonal = jnp.abs(jnp.diagonal(r))
    largest = jnp.max(diagonal)
    floor = jnp.finfo(r.dtype).eps * jnp.where(largest > 0, largest, 1.0)
    return r + jnp.diag(jnp.where(diagonal < floor, floor, 0.0))


def _mean(samples: Array, num_matvecs: int) -> TraceEstimate:
    error = jnp.std(samples, ddof=1) / jnp.sqrt(jnp.asarray(len(samples), samples.dtype))
    return TraceEstimate(jnp.mean(samples), error, num_matvecs)
