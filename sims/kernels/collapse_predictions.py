"""What theory says of free features: their minima, and scatters along the central path."""

from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.integrate import solve_ivp

from sims.experiment import Arrays
from sims.kernels.free_features import BIASES, path_starts
from theory.kernels import neural_collapse


def minima(config: Any, couplings: Any) -> Arrays:
    """Loss, outputs and Gram of class means at the minima (couplings, balances, biases, ...)."""
    lw, lh = config.minimum_decays(couplings)

    def found(bias):
        def minimum(lw, lh):
            return neural_collapse.collapsed_minimum(
                config.n_classes, config.samples, weight_decay=lw, feature_decay=lh, bias=bias
            )

        return jax.jit(jax.vmap(jax.vmap(minimum)))(lw, lh)

    free, biased = (found(bool(bias)) for bias in BIASES)
    both = jax.tree.map(lambda *a: np.stack(a, axis=2), free, biased)
    means = both.class_means
    return {"value": both.value, "outputs": both.outputs, "gram": means @ means.swapaxes(-1, -2)}


@partial(jax.jit, static_argnames="weight_decay")
def path_rates(H, feature_decays, *, weight_decay):
    """Velocity of features (paths, K, n, p) on the central path, and ``CollapseRates``."""

    def one(H, lh):
        decays = {"weight_decay": weight_decay, "feature_decay": lh}
        moved = neural_collapse.central_path_velocity(H, **decays).features
        return moved, neural_collapse.collapse_rates(H, **decays)

    return jax.vmap(one)(H, feature_decays)


def central_path(config: Any) -> Arrays:
    """Scatters (paths, times) by integration of their rates along the integrated features."""
    H, decays = path_starts(config)
    rates = partial(path_rates, weight_decay=config.weight_decay)

    def flow(_, state):
        moved, now = rates(state[: H.size].reshape(H.shape), decays)
        return np.concatenate([np.ravel(moved), now.within_rate, now.between_rate])

    now = rates(H, decays)[1]
    times = config.size * config.spacing * np.arange(config.path_times + 1)
    found = solve_ivp(
        flow,
        (0, times[-1]),
        np.concatenate([H.ravel(), now.within, now.between]),
        method="DOP853",
        t_eval=times,
        rtol=1e-10,
        atol=1e-13,
    )
    within, between = found.y[H.size :].reshape(2, len(H), -1)
    return {"times": times / config.size, "within": within, "between": between}
