"""A table of bigram logits: certain tokens are the river, uncertain ones the hills.

Cross-entropy of ``softmax(w_i)`` with the token that follows context i, a mean over examples; f_i
is the frequency of context i, p_i the law of what follows. Contexts do not interact.

* Certain: from equal logits, under gradient flow (t = eta * step) the lead D of the right logit
  over each of the V - 1 others obeys ``dD/dt = f V/(V-1) (1 - p)``, so that

      D + (e^D - 1)/(V - 1) = f V t/(V - 1),    loss = ln(1 + (V - 1) e^-D) -> 1/(f V t/(V - 1)):

  no end, no curvature, and nothing but the time counts, the sum of the learning rates.
* Uncertain: at the minimum the gradient noise of a minibatch is c times the Hessian,
  ``H_i = f_i (diag p_i - p_i p_i^T)``, c = 1/B (``gram.mixing_weight`` without replacement). In the
  direction of an eigenvalue h it is c h, and the stationary loss ``eta c h/(2(2 - eta h))``: in all
  about ``eta c tr H_i/4``, more where the next token is less certain.

Source: Wen et al. 2024, arXiv:2410.05192, for the model; what is above derived here.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.checks import Count, require, require_count
from theory.stability.river_valley import bigram_hessian, stable_gap

NEWTON_STEPS = 30  # from above on a convex function: monotone, quadratic in the end


def certain_loss(t: ArrayLike, frequency: ArrayLike, tokens: Count) -> Float[Array, "..."]:
    """Cross-entropy ``ln(1 + (V - 1) e^-D)`` of a context always followed by one token, at time t.

    From equal logits; not weighted with the frequency. ``tokens`` is V, an integer. t and frequency
    broadcast. Raises ``ValueError`` for t or frequency negative, V not an integer >= 2.
    Source: derived here.

    >>> round(float(certain_loss(0.0, 0.5, tokens=4)), 6)  # ln 4
    1.386294
    """
    require_nonnegative(t=t, frequency=frequency)
    require_count(least=2, tokens=tokens)
    t, frequency = as_floats(t, frequency)
    others = float(tokens) - 1
    elapsed = frequency * t * float(tokens) / others

    def newton(_, lead):
        excess = lead + jnp.expm1(lead) / others - elapsed
        return lead - excess / (1 + jnp.exp(lead) / others)

    start = jnp.minimum(elapsed, jnp.log1p(others * elapsed))  # both are bounds from above
    lead = jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)
    return jnp.log1p(others * jnp.exp(-lead))


def uncertain_gap(
    learning_rate: ArrayLike,
    frequency: ArrayLike,
    probabilities: Float[ArrayLike, "... v"],
    noise: ArrayLike,
) -> Float[Array, "..."]:
    """Stationary excess of a context's share of the loss, ``sum_h eta c h / (2 (2 - eta h))``.

    h the eigenvalues of ``bigram_hessian``; ``noise`` is c. In units of the loss, that is, weighted
    with the frequency. Quadratic about the minimum: the next order is about eta c relative to it.
    learning_rate, frequency and noise (...), probabilities (..., v) with all entries positive.
    Raises ``ValueError`` as ``bigram_hessian`` and ``stable_gap`` do, and for certain tokens, which
    have no minimum.

    >>> round(float(uncertain_gap(1.0, 1.0, jnp.array([0.5, 0.5]), noise=0.12)), 9)  # one h = 1/2
    0.02
    """
    require_positive(frequency=frequency)
    require("probabilities", probabilities, lambda p: p > 0, "positive")
    hessian = bigram_hessian(frequency, probabilities)
    curvature = jnp.linalg.eigvalsh(hessian)[..., 1:]  # without the shift of all logits
    eta, c, h = as_floats(
        jnp.asarray(learning_rate)[..., None], jnp.asarray(noise)[..., None], curvature
    )
    return jnp.sum(stable_gap(eta, h, c * h), axis=-1)
