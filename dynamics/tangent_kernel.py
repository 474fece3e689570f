"""The empirical neural tangent kernel of a network: how its outputs move under gradient descent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def empirical_ntk(
    apply: Callable[[PyTree[Any], Array], Array], params: PyTree[Any], x: Float[Array, "P n_in"]
) -> Float[Array, "n n"]:
    """Tangent kernel of ``apply`` at ``params`` on P inputs, by automatic differentiation.

        Theta[(o, i), (p, j)] = sum_theta d f_o(x_i)/d theta  d f_p(x_j)/d theta

    Rows and columns run over outputs and, within each, over examples: n = n_out P. Gradient flow
    on ``sum_i 1/2 |f(x_i) - y_i|^2`` moves the outputs by ``df/dt = Theta (y - f)``. Outputs of
    ``apply`` have shape (P, n_out) or (P,). The whole Jacobian is formed: memory n times the
    number of parameters. Raises ``ValueError`` for outputs of another shape.

    Source: Jacot, Gabriel & Hongler (2018), arXiv 1806.07572.

    >>> empirical_ntk(lambda w, x: x @ w, jnp.ones(2), jnp.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def outputs(params):
        values = apply(params, x)
        if values.ndim not in (1, 2) or len(values) != len(x):
            raise ValueError(
                f"apply must give ({len(x)}, n_out) or ({len(x)},), got {values.shape}"
            )
        return values.T.reshape(-1)

    leaves = jax.tree.leaves(jax.jacrev(outputs)(params))
    jacobian = jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    return jacobian @ jacobian.T
