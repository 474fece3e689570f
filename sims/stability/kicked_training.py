"""Training that ends where the algorithm is stable: rates rise slowly, weights are kicked.

From large weights, hence sharp minima, the rate rises in proportion to the step for the first 40 %
of all steps and stays. A minimum that has become unstable is then left, unless float64 has frozen:
residuals that are exactly zero stay zero at any rate. So weights receive ``KICKS`` tiny Gaussian
kicks in the first 80 % of all steps; what is left serves to converge.

How exactly is the edge met? With ``eps = eta/eta_edge - 1`` a displacement grows as
``exp(2 eps k)`` in gradient descent (the factor of its leading mode is -(1 + 2 eps)), and as
``exp(2 eps k / n)`` in SGD with batches of one among n examples whose gradients are equally long,
since a step acts on the share 1/n of its square that the example sees. It must gain 1/KICK:

    during the warm-up (d eps = dk/k)    the edge is overshot by eps = sqrt(m ln(1/KICK) / k),
    on the plateau                       eps > m ln(1/KICK) / (2 steps) cannot last,

m = 1 or n. Left to itself the curvature then falls about as far below the edge as it was above.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sims.processes import generator, seed_keys, training_process
from sims.sweep import Process

WARM_UP = 0.4  # of all steps
KICKED = 0.8  # of all steps
KICKS = 200
KICK = 1e-7  # standard deviation, of weights of order one


class Slack(NamedTuple):
    """How far, relatively, curvature may end below and above the edge."""

    below: float
    above: float


def slack(steps: int, memory: int) -> Slack:
    """Of training that takes ``memory`` steps (1, or n) to multiply a displacement by exp(2 eps).

    Below: twice the overshoot at the end of the warm-up. Above: what the plateau would not bear.

    >>> [round(x, 3) for x in slack(40_000, memory=1)]
    [0.063, 0.001]
    """
    needed = memory * np.log(1 / KICK)
    plateau = (KICKED - WARM_UP) * steps
    return Slack(2 * float(np.sqrt(needed / (WARM_UP * steps))), float(needed / (2 * plateau)))


def kicked_cases(key: jax.Array, starts: Any, rates: np.ndarray) -> dict[str, Any]:
    """Members of a sweep: every rate from every start (leading axis of its leaves), rates first.

    Kicks are drawn before training: random numbers in its loop cost more than the training.
    """
    count = len(jax.tree.leaves(starts)[0])
    rng = generator(key)
    start = jax.tree.map(lambda w: np.concatenate([w] * len(rates)), starts)

    def kicks(w: np.ndarray) -> np.ndarray:
        return KICK * rng.standard_normal((len(w), KICKS, *w.shape[1:]))

    return {
        "key": seed_keys(key, len(rates) * count),
        "learning_rate": np.repeat(rates, count),
        "start": start,
        "kicks": jax.tree.map(kicks, start),
    }


def kicked_process(
    loss: Callable[[Any, Any], jax.Array],
    observe: Callable[[Any, Any], dict[str, jax.Array]],
    *,
    steps: int,
    batch_size: int | None,
) -> Process:
    """``training_process`` of ``steps`` steps with warm-up and kicks, from ``kicked_cases``."""
    process = training_process(
        lambda case, shared: case["start"],
        loss,
        observe,
        optimizer=warmed_up(steps),
        batch_size=batch_size,
    )
    every = max(1, int(KICKED * steps / KICKS))

    def step(k: jax.Array, state: Any, case: Any, shared: Any) -> Any:
        state = process.step(k, state, case, shared)
        due = (k % every == 0) & (k < KICKS * every)

        def kicked(params: Any) -> Any:
            return jax.tree.map(lambda w, kicks: w + kicks[k // every], params, case["kicks"])

        return state._replace(params=jax.lax.cond(due, kicked, lambda p: p, state.params))

    return process._replace(step=step)


def displaced(key: jax.Array, params: Any, copies: int, size: float) -> Any:
    """Copies of weights, on the leading axis, every number moved by its own N(0, size^2)."""
    rng = generator(key)

    def moved(w: Any) -> np.ndarray:
        return np.asarray(w)[None] + size * rng.standard_normal((copies, *np.shape(w)))

    return jax.tree.map(moved, params)


def warmed_up(steps: int) -> Callable[[Any], optax.GradientTransformation]:
    """Gradient descent at ``case["learning_rate"]``, reached linearly after ``WARM_UP``."""

    def optimizer(case: Any) -> optax.GradientTransformation:
        ramp = WARM_UP * steps
        return optax.sgd(lambda k: case["learning_rate"] * jnp.minimum(1.0, (k + 1) / ramp))

    return optimizer
