"""How stable a network is along its training: what ``diagnose`` measures, cheap enough to repeat.

``stability_observer(network)`` is an observable for any training loop, ``watch`` trains a user's
network by its own optimiser and looks every few steps. Curvature is that of the loss on all
examples at the moment, far from a minimum, too: there the exact edge is that of the linearised
outputs, and ``missed`` says how much of the curvature they miss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics.curvature import hvp
from dynamics.eigenpairs import top_eigenpairs
from dynamics.gram import gauss_newton_trace, gradient_gram
from dynamics.recording import advance, begin, record_schedule
from dynamics.stability import preconditioned_sharpness
from dynamics.training import TrainState, optimizer_step
from sims.diagnosis import ADAPTIVE, Optimizer, edge_bound, read_optimizer
from sims.network_regime import NetworkRegime, network_regime
from sims.output_curvature import missed_share, output_curvature, roots
from sims.user_network import Network
from theory.stability.mean_square import growth_rate, mean_square_threshold

GRAM_LIMIT = 512  # rows of the largest Gram that is decomposed at every record
TOLERANCE = 1e-4  # relative residual; at 1e-3 one start in 200 stops at the second eigenvalue


class Watched(NamedTuple):
    """Records (records,) at ``steps``; the first step that was not finite, or -1; the regime.

    The latter from ``network.initial``, or the run's own start, to the run's end.
    """

    optimizer: Optimizer
    steps: np.ndarray
    records: dict[str, np.ndarray]
    diverged_at: int
    regime: NetworkRegime


def stability_observer(
    network: Network,
    key: jax.Array,
    *,
    num_matvecs: int = 20,
    gram_limit: int = GRAM_LIMIT,
) -> Callable[..., dict[str, jax.Array]]:
    """``observe(params, opt_state=None) -> dict`` of scalars on all examples of ``network.data``.

    ``loss``, ``gradient_norm``; ``sharpness`` (largest eigenvalue of the Hessian) and its
    ``residual``; ``trace`` of the Gauss-Newton matrix, exact; ``missed``, the relative distance of
    the Hessian from that matrix along one random direction; ``bound``, a learning rate that the
    edge of mean-square stability at the optimiser's batch size does not exceed (sharpness and
    trace; with momentum the sharpness alone); ``edge``, that learning rate exactly, and ``growth``,
    the factor of the mean square per step, for at most ``gram_limit`` rows, nan beyond.
    ``preconditioned`` for an adaptive optimiser whose state is given, nan at its first step. Costs
    at most ``num_matvecs`` + 2 products, one pass of Jacobians, one eigendecomposition of the Gram
    and two of its matrix functions. Pure; key and number of products are the same at every record.

    Raises ``ValueError`` for settings of the optimiser as ``read_optimizer``.
    """
    optimizer = read_optimizer(network)
    constants: dict[str, Any] = dict(optimizer.constants)
    x, data, size = network.data[0], network.data, optimizer.batch_size
    keys = jax.random.split(key)

    def observe(params: Any, opt_state: Any = None) -> dict[str, jax.Array]:
        value, gradient = jax.value_and_grad(network.batch_loss)(params, data)
        hessian = partial(hvp, network.batch_loss, params, data)
        top = top_eigenpairs(hessian, params, keys[0], num_matvecs=num_matvecs, tolerance=TOLERANCE)
        weights = roots(output_curvature(network, params))
        trace = gauss_newton_trace(network.columns, params, x, output_weights=weights)
        found = {
            "loss": value,
            "gradient_norm": optax.tree.norm(gradient),
            "sharpness": top.values[0],
            "residual": top.residual_norms[0],
            "trace": trace,
            "missed": missed_share(network, params, data, keys[1:]),
            "bound": edge_bound(top.values[0], trace, weights.shape[1], size, optimizer.momentum),
        }
        if optimizer.kind in ADAPTIVE and opt_state is not None:
            found["preconditioned"] = preconditioned_sharpness(
                network.batch_loss,
                params,
                data,
                opt_state,
                keys[0],
                tolerance=TOLERANCE,
                **constants,
            ).values[0]
        if weights.shape[0] * weights.shape[1] > gram_limit:
            return found | {"edge": jnp.array(jnp.nan), "growth": jnp.array(jnp.nan)}
        gram = gradient_gram(network.columns, params, x, output_weights=weights)
        return found | _exact(optimizer, gram)

    return observe


def _exact(optimizer: Optimizer, gram: jax.Array) -> dict[str, jax.Array]:
    size, momentum = optimizer.batch_size, optimizer.momentum
    threshold = mean_square_threshold(gram, size, momentum)
    growth = growth_rate(gram, optimizer.learning_rate, size, momentum)
    return {
        "edge": jnp.where(threshold.converged, threshold.learning_rate, jnp.nan),
        "growth": jnp.where(growth.converged, growth.rate, jnp.nan),
    }


def optax_optimizer(optimizer: Optimizer) -> optax.GradientTransformation:
    """The optax transformation that a user's settings describe, decay decoupled.

    >>> settings = Optimizer("heavy_ball", 0.1, 1, {"momentum": 0.9}, {}, 38.0)
    >>> update, state = optax_optimizer(settings), jnp.ones(())
    >>> float(update.update(state, update.init(state), state)[0])
    -0.1
    """
    hyper, constants = dict(optimizer.hyper), dict(optimizer.constants)
    decay, momentum = hyper.pop("weight_decay", 0.0), hyper.pop("momentum", 0.0)
    adam = {**constants, **hyper}
    directions = {
        "gd": optax.identity,
        "heavy_ball": partial(optax.trace, momentum),
        "nesterov": partial(optax.trace, momentum, nesterov=True),
        "ema": partial(optax.ema, momentum, debias=False),
        "rmsprop": partial(optax.scale_by_rms, **constants),
        "adam": partial(optax.scale_by_adam, **adam),
        "adamw": partial(optax.scale_by_adam, **adam),
        "nadam": partial(optax.scale_by_adam, nesterov=True, **adam),
    }
    return optax.chain(
        directions[optimizer.kind](),
        optax.add_decayed_weights(decay) if decay else optax.identity(),
        optax.scale(-optimizer.learning_rate),
    )


def watch(
    network: Network,
    key: jax.Array,
    *,
    steps: int,
    records: int = 41,
    num_matvecs: int = 20,
    gram_limit: int = GRAM_LIMIT,
) -> Watched:
    """Train ``network`` from its parameters by its own optimiser, and record its stability.

    Batches are drawn independently at every step. Raises ``ValueError`` for ``steps`` < 1, fewer
    than two records and bad settings of the optimiser.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    optimizer, schedule = read_optimizer(network), record_schedule(steps, records)
    chain = optax_optimizer(optimizer)
    size = None if optimizer.batch_size == len(network.data[0]) else optimizer.batch_size
    update = optimizer_step(network.batch_loss, chain, batch_size=size)
    look_key, batch_key = jax.random.split(key)
    look = stability_observer(network, look_key, num_matvecs=num_matvecs, gram_limit=gram_limit)

    @jax.jit
    def run(params, data, key):
        def observe(state: TrainState) -> dict[str, jax.Array]:
            return look(state.params, state.opt_state)

        state = TrainState(params, chain.init(params), key)
        return advance(
            lambda k, state: update(k, state, data),
            observe,
            begin(observe, state, schedule),
            schedule,
            jnp.int32(0),
            jnp.int32(steps),
        )

    done = run(network.params, network.data, batch_key)
    found = {name: np.asarray(values) for name, values in done.records.items()}
    start = network.params if network.initial is None else network.initial
    regime = network_regime(network, start, done.state.params)
    return Watched(optimizer, schedule, found, int(done.diverged_at), regime)
