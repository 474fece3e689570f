"""The empirical neural tangent kernel of a network: how its outputs move under gradient descent."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from dynamics.gram import gradient_gram


def empirical_ntk(
    apply: Callable[[PyTree[Any], Array], Array], params: PyTree[Any], x: Float[ArrayLike, "P ..."]
) -> Float[Array, "n n"]:
    """Tangent kernel of ``apply`` at ``params`` on P inputs, by automatic differentiation.

        Theta[(o, i), (p, j)] = sum_theta d f_o(x_i)/d theta  d f_p(x_j)/d theta

    Rows and columns run over outputs and, within each, over examples: n = n_out P. Gradient flow
    on ``sum_i 1/2 |f(x_i) - y_i|^2`` moves the outputs by ``df/dt = Theta (y - f)``. Outputs of
    ``apply`` have shape (P, n_out) or (P,), each row a function of its own example. The whole
    Jacobian is formed: memory n times the number of parameters; ``dynamics.gram.gradient_gram``
    makes do with less. Raises ``ValueError`` for outputs of another shape.

    Source: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572.

    >>> empirical_ntk(lambda w, x: x @ w, jnp.ones(2), jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    x = jnp.asarray(x)
    gram = gradient_gram(apply, params, x, chunk=len(x))
    if gram.ndim == 4:
        gram = gram.transpose(1, 0, 3, 2)
    rows = math.prod(gram.shape[: gram.ndim // 2])
    return gram.reshape(rows, rows)
