"""Where real optax optimisers become unstable on quadratics, their preconditioners held fixed.

One coordinate per curvature, ``loss = (1/2) sum_i h_i theta_i^2``, so that one run of an optimiser,
which treats every coordinate alike, probes a grid of curvatures. Adaptive methods are frozen by a
long past: an average of squared gradients that forgets nothing, and a count of steps at which no
bias correction changes. Their curvatures are eigenvalues of P^-1 H, with P read from the state.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.stability import preconditioner
from dynamics.training import train

RATE, MOMENTUM, DECAY = 0.05, 0.9, 0.3
KEPT = 1 - 1e-12  # of the average of squared gradients, in every step
AGE = np.iinfo(np.int32).max  # where optax's counts stop
START = 1e-9  # size of theta: its gradients do not reach the average of squares
LOWEST, HIGHEST = 0.01, 50.0  # curvatures, times RATE; iterates at the highest do not overflow
GRID, ROUNDS = 64, 4
STEPS, WINDOW = 120, 20


def optimizers() -> dict[str, optax.GradientTransformation]:
    """All at learning rate RATE, momentum (b1) MOMENTUM and, if any, decoupled decay DECAY.

    >>> len(optimizers())
    9
    """
    b = MOMENTUM
    return {
        "GD": optax.sgd(RATE),
        "GD, decay": optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE)),
        "heavy ball": optax.sgd(RATE, momentum=b),
        "Nesterov": optax.sgd(RATE, momentum=b, nesterov=True),
        "EMA": optax.chain(optax.ema(b, debias=False), optax.scale(-RATE)),
        "RMSProp": optax.rmsprop(RATE, decay=KEPT, initial_scale=1.0),
        "Adam": _aged(optax.adam(RATE, b1=b, b2=KEPT)),
        "AdamW": _aged(optax.adamw(RATE, b1=b, b2=KEPT, weight_decay=DECAY)),
        "NAdam": _aged(optax.nadam(RATE, b1=b, b2=KEPT)),
    }


ADAPTIVE = ("RMSProp", "Adam", "AdamW", "NAdam")


def measured_edges() -> np.ndarray:
    """Curvature times RATE from which iterates grow, in the order of ``optimizers``, by bisection.

    Each round looks at GRID curvatures between the last that fell and the first that grew.
    """
    probes = [growth(optimizer, name in ADAPTIVE) for name, optimizer in optimizers().items()]
    grow = jax.jit(lambda grid: jnp.stack([p(g) for p, g in zip(probes, grid, strict=True)]))
    rows = np.arange(len(probes))
    low, high = np.full(len(rows), LOWEST / RATE), np.full(len(rows), HIGHEST / RATE)
    for _ in range(ROUNDS):
        grid = np.geomspace(low, high, GRID, axis=-1)
        first = np.argmax(np.asarray(grow(grid)) > 1, axis=-1)
        low, high = grid[rows, first - 1], grid[rows, first]
    return RATE * np.sqrt(low * high)


def growth(
    optimizer: optax.GradientTransformation, adaptive: bool
) -> Callable[[jax.Array], jax.Array]:
    """Function of curvatures (GRID,): largest |theta| of the last steps over that before them."""
    start = jnp.full(GRID, START)

    def probe(curvatures: jax.Array) -> jax.Array:
        scale = preconditioner(optimizer.init(start), b1=MOMENTUM, b2=KEPT) if adaptive else 1.0
        run = train(
            jax.random.key(0),
            start,
            curvatures * scale,
            loss=lambda theta, h: jnp.sum(h * theta**2) / 2,
            optimizer=optimizer,
            steps=STEPS,
            observe=lambda theta: {"size": jnp.abs(theta)},
            record_at=np.arange(STEPS - 2 * WINDOW + 1, STEPS + 1),
        )
        early, late = run.records["size"].reshape(2, WINDOW, GRID).max(axis=1)
        return late / early

    return probe


def _aged(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same Adam, after AGE steps of unit gradients that had no other effect."""

    def init(params: optax.Params) -> optax.OptState:
        state = optimizer.init(params)
        return optax.tree_utils.tree_set(state, nu=jnp.ones(GRID), count=jnp.int32(AGE))

    return optimizer._replace(init=init)
