"""Curvature of a loss as products with vectors, and the one door to what is measured with them.

    hvp              Hessian times vector                     any loss(params, batch)
    hessian_form     vector times Hessian times vector        the same, for two thirds of the price
    gauss_newton_vp  J^T (d2 loss/d outputs2) J times vector   output_loss(apply(params, x), y)

These are plain functions of params and batch. An operator for the estimators is a partial
application inside the function that is compiled,

    jax.jit(lambda params, batch, key: trace(partial(hvp, loss, params, batch), params, key, ...))

so that params and batch stay arguments: what a compiled function closes over becomes a constant,
and XLA spends seconds folding it. Curvature is that of the loss given, its normalisation included
(CONVENTIONS.md). Numbers are computed in the dtype of the parameters.

ReLU networks have no second derivative at a kink, and training drives pre-activations onto it:
there products depend on rounding, and differ from finite differences by per cents.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from dynamics.eigenpairs import Eigenpairs, top_eigenpairs  # noqa: F401 (one door)
from dynamics.gram import (  # noqa: F401
    gauss_newton_trace,
    gradient_gram,
    softmax_weights,
)
from dynamics.layerwise import layerwise_gram, layerwise_trace  # noqa: F401
from dynamics.operators import dense_matrix  # noqa: F401
from dynamics.spectral_density import (  # noqa: F401
    Quadrature,
    density,
    spectral_density,
    trace_of_function,
)
from dynamics.trace_estimators import TraceEstimate, trace  # noqa: F401

Loss = Callable[[PyTree[Any], PyTree[Any]], Array]


def hvp(loss: Loss, params: PyTree[Any], batch: PyTree[Any], v: PyTree[Any]) -> PyTree[Any]:
    """Hessian of ``loss(., batch)`` at ``params`` times ``v``, a pytree like ``params``.

    Forward over reverse: the derivative of the gradient along v, at the cost of about two gradients
    and the memory of one. Raises ``ValueError`` if ``v`` has other shapes than ``params``.

    Source: Pearlmutter (1994), Neural Computation 6, 147.

    >>> quartic = lambda w, scale: scale * jnp.sum(w**4)
    >>> hvp(quartic, jnp.array([1.0, 2.0]), 0.5, jnp.array([1.0, 1.0])).tolist()
    [6.0, 24.0]
    """
    _require_like(params, v)
    return jax.jvp(lambda p: jax.grad(loss)(p, batch), (params,), (v,))[1]


def hessian_form(
    loss: Loss, params: PyTree[Any], batch: PyTree[Any], v: PyTree[Any]
) -> Float[Array, ""]:
    """``v^T H v``, the second derivative of ``t -> loss(params + t v, batch)`` at zero.

    Forward over forward: no backward pass, so no activations are kept, and a third to a half less
    work than in a product. The loss must have forward derivatives (``jax.custom_vjp`` has none:
    ``inner(v, hvp(...))`` then). Raises ``ValueError`` if ``v`` has other shapes than ``params``.

    >>> quartic = lambda w, scale: scale * jnp.sum(w**4)
    >>> float(hessian_form(quartic, jnp.array([1.0, 2.0]), 0.5, jnp.array([1.0, 1.0])))
    30.0
    """
    _require_like(params, v)

    def slope(p: PyTree[Any]) -> Array:
        return jax.jvp(lambda q: loss(q, batch), (p,), (v,))[1]

    return jax.jvp(slope, (params,), (v,))[1]


def gauss_newton_vp(
    apply: Callable[[PyTree[Any], Any], Array],
    output_loss: Callable[[Array, Any], Array],
    params: PyTree[Any],
    batch: tuple[Any, Any],
    v: PyTree[Any],
) -> PyTree[Any]:
    """Gauss-Newton matrix of ``output_loss(apply(params, x), y)``, batch (x, y), times ``v``.

        G = J^T Q J,   J = d outputs / d params,   Q = d2 output_loss / d outputs2

    The Hessian less the network's own curvature, ``sum_k d output_loss/d f_k  Hessian(f_k)``.
    Positive semidefinite if ``output_loss`` is convex; equal to the Hessian where the network is
    linear in its parameters and where every example's loss is at its minimum. For fully connected
    linear and ReLU networks both have the same trace, at any parameters and labels.

    Raises ``ValueError`` if ``v`` has other shapes than ``params``.
    Source: Schraudolph (2002), Neural Computation 14, 1723.

    >>> half_square = lambda f, y: 0.5 * jnp.sum((f - y) ** 2)
    >>> gauss_newton_vp(lambda w, x: w * x, half_square, 1.0, (jnp.array([1.0, 2.0]), 0.0), 3.0)
    Array(15., dtype=float64, weak_type=True)
    """
    _require_like(params, v)
    x, y = batch

    def network(p: PyTree[Any]) -> Array:
        return apply(p, x)

    outputs, pull = jax.vjp(network, params)
    moved = jax.jvp(network, (params,), (v,))[1]
    return pull(jax.jvp(lambda f: jax.grad(output_loss)(f, y), (outputs,), (moved,))[1])[0]


def require_deterministic(loss: Loss, params: PyTree[Any], batch: PyTree[Any]) -> None:
    """Raise ``ValueError`` unless two evaluations of the loss agree.

    Curvature of a loss that draws at random (dropout, augmentation, a hidden NumPy generator) is
    that of another function at every product, and no estimate of it converges. Values may differ by
    100 roundings, as parallel sums do on some accelerators. Call it outside of jit, which would
    evaluate the loss once only.

    >>> require_deterministic(lambda w, x: jnp.sum(w * x), jnp.ones(2), jnp.ones(2))
    >>> require_deterministic(lambda w, x: w * np.random.default_rng().normal(), 1.0, None)
    Traceback (most recent call last):
        ...
    ValueError: loss must be deterministic, got two values that differ by ...
    """
    first, second = (np.asarray(loss(params, batch)) for _ in range(2))
    rounding = 100 * float(jnp.finfo(first.dtype).eps)
    if not np.all(np.isclose(first, second, rtol=rounding, atol=0, equal_nan=True)):
        raise ValueError(
            f"loss must be deterministic, got two values that differ by {np.max(first - second)}"
        )


def curvature_along(
    loss: Loss, params: PyTree[Any], batch: PyTree[Any], v: PyTree[Any]
) -> Float[Array, ""]:
    """Rayleigh quotient ``v^T H v / |v|^2``: the loss's second derivative along v, of unit length.

    Raises ``ValueError`` if ``v`` has other shapes than ``params``; nan for v = 0.

    >>> float(curvature_along(lambda w, _: w[0] ** 2, jnp.ones(2), None, jnp.ones(2)))
    1.0
    """
    image = hvp(loss, params, batch, v)
    return inner(v, image) / inner(v, v)


def inner(u: PyTree[Any], v: PyTree[Any]) -> Float[Array, ""]:
    """Euclidean inner product of two pytrees.

    >>> float(inner((1.0, jnp.ones(2)), (2.0, jnp.ones(2))))
    4.0
    """
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, u, v)))  # pyright: ignore[reportReturnType]


def _require_like(params: PyTree[Any], v: PyTree[Any]) -> None:
    def shapes(tree: PyTree[Any]) -> PyTree[Any]:
        return jax.tree.map(jnp.shape, tree)

    if jax.tree.structure(params) != jax.tree.structure(v) or shapes(params) != shapes(v):
        raise ValueError(f"v must have the shapes of params {shapes(params)}, got {shapes(v)}")
