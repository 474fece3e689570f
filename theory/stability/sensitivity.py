"""Small-scale proxies of training instabilities: learning-rate sensitivity and its remedies.

What can be checked in closed form of Wortsman et al. 2023, arXiv:2309.14322: the metric by which
runs are judged, the z-loss, the bound that normalised queries and keys put on attention logits, and
where epsilon and weight decay of AdamW take over.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.checks import is_concrete, require

MEASURES = {"log": jnp.log, "linear": lambda rates: rates}


def lr_sensitivity(
    learning_rates: ArrayLike, losses: ArrayLike, init_loss: ArrayLike, *, measure: str = "log"
) -> Float[Array, "..."]:
    """Average excess loss over a range of learning rates.

        mean over eta of  min(loss(eta), init_loss) - min_eta min(loss, init_loss)

    by the trapezoidal rule in ln eta (``measure="log"``) or in eta ("linear"). The paper does not
    say which in what could be read; "log" is right for a log grid. Runs that diverged (NaN or
    infinite loss) count as ``init_loss``. 0 for a flat curve; adding a constant to all losses and
    to init_loss changes nothing. learning_rates: (n,), increasing, n >= 2; losses: (..., n);
    init_loss: (...).

    Raises ``ValueError`` for rates not positive and increasing, another shape, an unknown measure,
    init_loss not finite. Source: Wortsman et al. 2023, arXiv:2309.14322.

    >>> rates = jnp.array([0.01, 0.1, 1.0])
    >>> round(float(lr_sensitivity(rates, jnp.array([2.0, 1.0, jnp.nan]), init_loss=5.0)), 6)
    1.25
    """
    require_finite(init_loss=init_loss)
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    _require_grid(learning_rates, losses)
    losses, init = as_floats(losses, jnp.asarray(init_loss)[..., None])
    losses = jnp.where(jnp.isfinite(losses), jnp.minimum(losses, init), init)
    (rates,) = as_floats(learning_rates)
    grid = MEASURES[measure](rates)
    excess = losses - jnp.min(losses, axis=-1, keepdims=True)
    means = (excess[..., 1:] + excess[..., :-1]) / 2
    return means @ jnp.diff(grid) / (grid[-1] - grid[0])


def z_loss(logits: ArrayLike, weight: ArrayLike = 1e-4) -> Float[Array, "..."]:
    """Penalty ``w (ln Z)^2``, ``Z = sum exp(logits)``; pins ln Z to 0, moves no probability.

    Its gradient is ``2 w ln Z softmax(logits)``, its curvature in the direction that shifts all
    logits, where cross-entropy is flat, ``2 w / v`` at ln Z = 0 for v logits. logits: (..., v).
    Raises ``ValueError`` for a negative weight. Source: Wortsman et al. 2023, arXiv:2309.14322.

    >>> round(float(z_loss(jnp.zeros(2), weight=1.0)), 6)  # (ln 2)^2
    0.480453
    """
    require_nonnegative(weight=weight)
    return jnp.multiply(weight, jax.nn.logsumexp(jnp.asarray(logits), axis=-1) ** 2)


def z_loss_gradient(logits: ArrayLike, weight: ArrayLike = 1e-4) -> Float[Array, "... v"]:
    """Gradient ``2 w ln Z softmax(logits)`` of ``z_loss``, with its arguments and errors.

    >>> [round(float(x), 4) for x in z_loss_gradient(jnp.zeros(2), weight=1.0)]
    [0.6931, 0.6931]
    """
    require_nonnegative(weight=weight)
    logits = jnp.asarray(logits)
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.multiply(2 * weight, log_z * jax.nn.softmax(logits, axis=-1))


def z_loss_decay_rate(weight: ArrayLike, vocabulary: ArrayLike) -> Array:
    """Rate ``2 w / v`` at which the z-loss takes ln Z to zero, once probabilities are learned.

    Of one softmax of v logits on gradient flow of cross-entropy + z-loss. The sum of all logits
    moves by the z-loss alone, ``d/dt sum z = -2 w ln Z``; where cross-entropy, much stiffer, keeps
    the probabilities, all logits move together and ``d/dt ln Z = -(2 w / v) ln Z``. The next order
    is ``2 w [mean(1/p)/v - 1]`` relative to it, p the probabilities. Arguments broadcast. Raises
    ``ValueError`` for a negative weight, v not positive. Source: derived here.

    >>> float(z_loss_decay_rate(0.01, 10))
    0.002
    """
    require_nonnegative(weight=weight)
    require_positive(vocabulary=vocabulary)
    weight, vocabulary = as_floats(weight, vocabulary)
    return 2 * weight / vocabulary


def attention_logit_degree(*, qk_norm: bool, input_gain: bool = True) -> int:
    """Power with which attention logits grow in the scale of all weights that make them.

    ``q . k = (Q g n) . (K g n)`` with n normalised and g the gain of its norm: 4, or 2 without
    that gain. With normalised queries and keys only the product of their own two gains is left: 2.
    Optimisers that move every weight by about the learning rate in a step (Adam, sign descent)
    hence take logits up as this power of a large rate. Source: derived here.

    >>> attention_logit_degree(qk_norm=False), attention_logit_degree(qk_norm=True)
    (4, 2)
    """
    return 4 if input_gain and not qk_norm else 2


def attention_logit_bound(query_gain: ArrayLike, key_gain: ArrayLike) -> Float[Array, "..."]:
    """Largest attention logit ``sqrt(d) max_j |g_j k_j|`` with layer-normalised queries and keys.

    For logits ``q . k / sqrt(d)`` with ``q = g * norm(..)``, ``k = k_gain * norm(..)`` without
    biases, d the head size: normalised vectors have length sqrt(d). Attained for equal gains.
    Without normalisation logits grow as the square of the weights. Gains: (..., d). Raises
    ``ValueError`` unless finite and of one shape. Source: derived here.

    >>> float(attention_logit_bound(jnp.ones(16), jnp.full(16, -2.0)))
    8.0
    """
    require_finite(query_gain=query_gain, key_gain=key_gain)
    if jnp.ndim(query_gain) == 0 or jnp.shape(query_gain) != jnp.shape(key_gain):
        shapes = f"{jnp.shape(query_gain)} and {jnp.shape(key_gain)}"
        raise ValueError(f"query_gain and key_gain must have one shape (..., d), got {shapes}")
    query_gain, key_gain = as_floats(query_gain, key_gain)
    return query_gain.shape[-1] ** 0.5 * jnp.max(jnp.abs(query_gain * key_gain), axis=-1)


def adam_update_size(gradient: ArrayLike, eps: ArrayLike = 1e-8) -> Array:
    """Size ``|g| / (|g| + eps)`` of Adam's update, in learning rates, for a constant gradient.

    Half at |g| = eps: below, epsilon stops learning. Arguments broadcast. Raises ``ValueError`` for
    a gradient not finite, eps not positive. Source: Wortsman et al. 2023, arXiv:2309.14322.

    >>> float(adam_update_size(1e-8))
    0.5
    """
    require_finite(gradient=gradient)
    require_positive(eps=eps)
    gradient, eps = as_floats(gradient, eps)
    return jnp.abs(gradient) / (jnp.abs(gradient) + eps)


def independent_decay_rms(
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    steps: ArrayLike = np.inf,
    *,
    momentum: ArrayLike = 0.0,
) -> Array:
    """Root mean square weight after random +-1 updates with independent decay, from zero.

        theta' = (1 - w) theta - eta m,  m the average of updates u with momentum b,
        rms^2 = eta^2 (1 - a^(2 t)) / (1 - a^2)  (1 - b) (1 + a b) / ((1 + b) (1 - a b)),

    a = 1 - w, and ``eta / sqrt(2 w - w^2)`` in equilibrium (steps = inf) without momentum:
    proportional to eta, as decay does not scale with it. For decay ``eta w``, as in optax, put
    ``eta w`` for w. Adam on gradients of constant modulus makes such updates, b its first moment's.
    Exact without momentum, and in equilibrium. Arguments broadcast. Raises ``ValueError`` unless
    eta > 0, 0 < w < 2, steps >= 0 and 0 <= b < 1. Source: derived here.

    >>> float(independent_decay_rms(3.0, 1.0))
    3.0
    """
    require_positive(learning_rate=learning_rate)
    require("weight_decay", weight_decay, lambda w: (w > 0) & (w < 2), "in (0, 2)")
    require("steps", steps, lambda t: t >= 0, "non-negative")
    require("momentum", momentum, lambda b: (b >= 0) & (b < 1), "in [0, 1)")
    eta, decay, steps, b = as_floats(learning_rate, weight_decay, steps, momentum)
    a = 1 - decay
    averaging = (1 - b) * (1 + a * b) / ((1 + b) * (1 - a * b))
    return eta * jnp.sqrt(averaging * (1 - jnp.abs(a) ** (2 * steps)) / (decay * (2 - decay)))


def _require_grid(rates: ArrayLike, losses: ArrayLike) -> None:
    if jnp.ndim(rates) != 1 or jnp.size(rates) < 2 or jnp.shape(losses)[-1:] != jnp.shape(rates):
        shapes = f"{jnp.shape(rates)} and {jnp.shape(losses)}"
        raise ValueError(
            f"learning_rates and losses must be (n,) and (..., n), n >= 2, got {shapes}"
        )
    require_positive(learning_rates=rates)
    if is_concrete(rates):
        require("steps of learning_rates", np.diff(np.asarray(rates)), lambda x: x > 0, "positive")
