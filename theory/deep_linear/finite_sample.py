"""Gradient flow of a linear network on one given data set, in closed form.

``tau dw/dt = X^T (y - X w)``: loss ``1/2 |y - X w|^2``, summed over examples (for the mean over P
examples give ``P tau``). With the singular value decomposition ``X = L diag(sigma) R^T``,

    w(t) = w0 + R diag( (1 - e^(-sigma^2 t/tau)) / sigma ) L^T (y - X w0).

Weights orthogonal to all examples never move. The average of the errors of w(t) over random data
is in ``generalization``.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import require_finite, require_nonnegative, require_positive


def finite_sample_path(
    t: ArrayLike,
    X: Float[ArrayLike, "..."],
    y: Float[ArrayLike, "..."],
    w0: Float[ArrayLike, "..."],
    tau: ArrayLike = 1.0,
) -> Float[Array, "... inputs"]:
    """Weights at times t of gradient flow on the examples (X, y) from w0, as in the module's head.

    t: any shape; X: (examples, inputs), y: (examples,), w0: (inputs,), tau: a scalar. Returns
    t.shape + (inputs,). Exact for any X, whatever its rank; singular values below
    ``eps max(X.shape)`` times the largest count as zero. Differentiable in t, y, w0 and tau, and in
    X where its singular values are distinct and non-zero.

    Raises ``ValueError`` for shapes that do not match, a negative t, tau not positive, NaN.
    Source: Advani & Saxe 2017, arXiv:1710.03667.

    >>> X, y = jnp.array([[1.0, 0.0]]), jnp.array([1.0])
    >>> finite_sample_path(jnp.log(2.0), X, y, w0=jnp.array([0.0, 3.0])).round(4).tolist()
    [0.5, 3.0]
    """
    _require_data(X, y, w0, tau)
    require_nonnegative(t=t)
    require_positive(tau=tau)
    require_finite(X=X, y=y, w0=w0)
    return _path(t, X, y, w0, tau)


@jax.jit
def _path(t, X, y, w0, tau):
    dtype = jnp.result_type(t, X, y, w0, tau, 1.0)
    t, X, y, w0, tau = (jnp.asarray(value, dtype) for value in (t, X, y, w0, tau))
    left, sigma, right = jnp.linalg.svd(X, full_matrices=False)
    residual = left.T @ (y - X @ w0)
    silent = sigma <= jnp.finfo(dtype).eps * max(X.shape) * sigma[0]
    safe = jnp.where(silent, 1, sigma)
    times = (t / tau).reshape(-1, 1)
    growth = -jnp.expm1(-(safe**2)[None, :] * times)
    learned = growth * (jnp.where(silent, 0, residual) / safe)[None, :]
    return (w0[None, :] + learned @ right).reshape(*t.shape, -1)


def _require_data(X, y, w0, tau):
    shapes = [jnp.shape(value) for value in (X, y, w0)]
    if len(shapes[0]) != 2 or 0 in shapes[0] or shapes[1:] != [shapes[0][:1], shapes[0][1:]]:
        raise ValueError(
            "X, y, w0 must have shapes (examples, inputs), (examples,), (inputs,), "
            f"got {', '.join(map(str, shapes))}"
        )
    if jnp.shape(tau) != ():
        raise ValueError(f"tau must be a scalar, got shape {jnp.shape(tau)}")
