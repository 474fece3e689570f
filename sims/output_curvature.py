"""What a loss makes of a network's outputs: its normalisation, read off, and kinks, looked for."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.curvature import gauss_newton_vp, hvp
from dynamics.operators import flat_operator, products, random_signs
from sims.user_network import Network

EQUAL = 1e-9  # relative spread up to which curvatures count as equal
MOVE = 1e-7  # relative move of the parameters, across which a kink changes slopes at order one
JUMP = 1e-4  # relative change of an example's slope by which a kink is told from smooth change


def output_weights(network: Network) -> tuple[jax.Array, str]:
    """M_i (n, c, c) with ``M_i^T M_i`` the loss's curvature in the outputs of example i, in words.

    Raises ``ValueError`` where that curvature is not positive semidefinite or zero throughout.
    """
    curvature = jax.jit(partial(output_curvature, network))(network.params)
    values = np.linalg.eigvalsh(curvature)
    largest, smallest = float(values.max()), float(values.min())
    if not largest > 0 or smallest < -1e-9 * largest:
        raise ValueError(
            "loss must be convex and curved in the outputs for thresholds to exist, got curvatures "
            f"from {smallest:.3g} to {largest:.3g}"
        )
    return roots(curvature), _in_words(values, curvature.shape[-1])


def output_curvature(network: Network, params: Any) -> jax.Array:
    """Second derivative of the loss in the outputs of every single example, (n, c, c)."""
    outputs, y = network.columns(params, network.data[0]), network.data[1]

    def single(f, y):
        return network.loss(f.reshape(network.output_shape)[None], y[None])

    return jax.vmap(jax.hessian(single))(outputs, y)


def roots(curvature: jax.Array) -> jax.Array:
    """M_i with ``M_i^T M_i`` the curvature of example i; negative eigenvalues count as zero."""
    values, vectors = jnp.linalg.eigh(curvature)
    return jnp.sqrt(jnp.maximum(values, 0.0))[:, :, None] * jnp.swapaxes(vectors, 1, 2)


def missed_share(network: Network, params: Any, data: Any, keys: jax.Array) -> jax.Array:
    """Relative Frobenius distance of the Hessian from the Gauss-Newton matrix, a probe per key."""
    hessian = flat_operator(partial(hvp, network.batch_loss, params, data), params)
    part = partial(gauss_newton_vp, network.apply, network.loss, params, data)
    probes = jnp.stack([random_signs(key, hessian) for key in keys])
    images = products(flat_operator(part, params), probes)
    return jnp.linalg.norm(products(hessian, probes) - images) / jnp.linalg.norm(images)


def _in_words(values: np.ndarray, outputs: int) -> str:
    """The normalisation of a loss, from its curvatures in the outputs."""
    if np.ptp(values) > EQUAL * values.max():
        return "curvature differs between outputs or examples (as for cross-entropy)"
    scale = float(values.mean())
    if np.isclose(scale, 1):
        return "1/2 squared error, sum over outputs, mean over examples (the reference)"
    if np.isclose(scale, 2):
        return "squared error, sum over outputs, mean over examples: twice the reference"
    if np.isclose(scale, 2 / outputs):
        return (
            f"squared error, mean over {outputs} outputs and examples: 2/{outputs} of the reference"
        )
    return f"squared error, {scale:.6g} times the reference"


def kinked_examples(network: Network) -> int:
    """How many examples' outputs change slope when the parameters move by one part in 10^7.

    Slopes are taken along one random direction, at both ends of a move along another.
    """
    keys = jax.random.split(jax.random.key(0))

    @jax.jit
    def count(params, x):
        along, move = _like(keys[0], params), _like(keys[1], params)

        def slope(sign):
            moved = jax.tree.map(
                lambda w, d: w + sign * MOVE * jnp.maximum(jnp.max(jnp.abs(w)), 1e-30) * d,
                params,
                move,
            )
            return jax.jvp(lambda p: network.columns(p, x), (moved,), (along,))[1]

        before, after = slope(-1.0), slope(1.0)
        size = jnp.max(jnp.abs(before), axis=1)
        jump = jnp.max(jnp.abs(after - before), axis=1)
        return jnp.sum(jump > JUMP * jnp.maximum(size, jnp.median(size)))

    return int(count(network.params, network.data[0]))


def _like(key: jax.Array, params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree,
        [jax.random.normal(k, w.shape, w.dtype) for k, w in zip(keys, leaves, strict=True)],
    )
