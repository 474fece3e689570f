"""Do the neurons of a network on a cyclic group use single frequencies? Participation and pruning.

A network on pairs (n1, n2) mod p, one-hot and concatenated, has for each hidden neuron three
vectors over the group: its weights from n1, from n2, and to the classes. A vector with amplitudes
|v_k| at the frequencies k = 0 ... (p-1)/2 has the inverse participation ratio

    IPR_r = sum_k (|v_k|/|v|)^(2r)    1: one frequency;  2/(p+1) (r = 2): all equal

Neurons that generalise have IPR near one, those that memorise have a low one: pruning the latter
takes the memory, the former the rule.

Sources: Gromov (2023), arXiv 2301.02679; Doshi, Das, He & Gromov (2023), arXiv 2310.13061.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dynamics.models import Layer

Params = tuple[Layer, ...]  # two of them


def inverse_participation_ratio(
    v: Float[ArrayLike, "... p"], *, order: float | int = 2
) -> Float[Array, "..."]:
    """``sum_k (|v_k|/|v|)^(2 order)`` over the half-spectrum of the last axis.

    In ``[m^(1 - order), 1]`` for m = p // 2 + 1 frequencies; the mean (k = 0) is one of them.
    Invariant under scaling and cyclic shifts. nan for a vector of zeros. Raises ``ValueError`` for
    order <= 1.

    >>> wave = jnp.cos(2 * jnp.pi * 3 * jnp.arange(11) / 11)
    >>> round(float(inverse_participation_ratio(wave)), 9)
    1.0
    """
    if not order > 1:
        raise ValueError(f"order must be above 1, got {order}")
    power = jnp.abs(jnp.fft.rfft(jnp.asarray(v), axis=-1)) ** 2
    return jnp.sum((power / jnp.sum(power, axis=-1, keepdims=True)) ** order, axis=-1)


def neuron_ipr(params: Params, *, order: float | int = 2) -> Float[Array, " n_hidden"]:
    """Mean of the participation ratios of a neuron's three weight vectors.

    For ``mlp((2 p, n_hidden, p), ...)``: from n1 and n2, and to the classes. Raises ``ValueError``
    for other shapes.

    >>> from dynamics.models import mlp
    >>> import jax
    >>> model = mlp((10, 4, 5), activation="square", use_bias=False)
    >>> neuron_ipr(model.init(jax.random.key(0))).shape
    (4,)
    """
    first, second = _weights(params)
    p = len(second)
    vectors = jnp.stack([first[:, :p], first[:, p:], second.T])
    return jnp.mean(inverse_participation_ratio(vectors, order=order), axis=0)


def prune(
    params: Params, scores: Float[ArrayLike, " n_hidden"], share: ArrayLike, *, lowest: bool = True
) -> Params:
    """The network without the ``share`` of its neurons with the lowest (or highest) scores.

    Shapes stay: what is pruned has zero outgoing weights. ``share`` may be traced; the number of
    neurons is rounded to the nearest. Ties in order of the neurons.

    >>> import jax
    >>> layers = Layer(jnp.ones((2, 6)), None), Layer(jnp.ones((3, 2)), None)
    >>> prune(layers, jnp.array([0.1, 0.9]), 0.5)[1].weight.tolist()
    [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    _, second = _weights(params)
    scores = jnp.asarray(scores)
    if scores.shape != second.shape[1:]:
        raise ValueError(f"scores must be {second.shape[1:]}, got {scores.shape}")
    ranks = jnp.argsort(jnp.argsort(scores if lowest else -scores))
    kept = ranks >= jnp.round(jnp.asarray(share) * len(scores))
    return params[0], Layer(jnp.where(kept[None], second, 0.0), params[1].bias)


def _weights(params: Params) -> tuple[Array, Array]:
    first, second = (layer.weight for layer in params)
    if first.shape != (second.shape[1], 2 * len(second)):
        raise ValueError(
            "params must be of a network 2p - n_hidden - p, got weights "
            f"{first.shape}, {second.shape}"
        )
    return first, second
