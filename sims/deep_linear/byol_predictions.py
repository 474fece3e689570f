"""Linear BYOL as theory has it: paths of its modes, edges of their basins, and what decays.

Theory's velocities are integrated numerically where it has no closed form. Everywhere the target
is the online network itself (tau = 1), unless a moving average is named, and DirectPred takes the
correlation of the features that the predictor is given, ``(1 + aug_var) W W^T``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from dynamics.self_supervised import Siamese
from sims.deep_linear.siamese_networks import first_true
from sims.experiment import Arrays
from theory.deep_linear import byol

MODES = 4  # and features, of every network
INPUTS = 6
RECORDS = 121
ROUNDS = 3  # of a search for an edge
LOST = 0.1  # a mode whose sqrt(s) is below this after a search's horizon has collapsed
STRONG = 0.5  # sqrt(s) at the start of the mode that helps others under DirectPred
NOISES = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])  # X' of the data that are not isotropic
P_RANGE, ROOT_RANGE = (-1.2, 0.6), (1e-3, 0.4)  # of p and sqrt(s), where edges are searched
EDGE_FEATURES = np.linspace(0.05, 0.9, 25) ** 2  # initial s, where the edge is drawn

# p and s of the modes of four networks; the last has a moving average as its target
STARTS = np.array(
    [
        [(0.05, 0.6), (-0.45, 0.15), (1.1, 0.3), (0.9, 0.75)],
        [(0.03, 0.01), (-0.7, 0.4), (0.55, 0.05), (0.25, 0.05)],
        [(-0.1, 0.08), (-0.25, 0.35), (0.8, 0.02), (1.1, 0.7)],
        [(0.2, 0.4), (0.5, 0.15), (0.3, 0.3), (0.9, 0.6)],
    ]
)
TARGET_STARTS = np.array([0.3, 0.6, 0.9, 1.2])  # tau of the last network's modes
AVERAGED = np.array([False, False, False, True])


@dataclass(frozen=True)
class Config:
    """A search for an edge takes ``networks`` networks for each of ``settings`` settings.

    ``learning_rate`` and ``horizon`` (a time) are those of searches. Trajectories last for
    ``duration``; the coarsest of them take ``steps_per_record`` steps between records.
    """

    aug_var: float = 0.25
    weight_decay: float = 0.1
    ema: float = 0.3
    predictor_rate: float = 2.0
    settings: int = 6
    networks: int = 12
    learning_rate: float = 0.2
    horizon: float = 200.0
    duration: float = 30.0
    steps_per_record: int = 3

    def __post_init__(self) -> None:
        for name in ("aug_var", "ema", "predictor_rate", "learning_rate", "duration"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.02 <= self.weight_decay < self.threshold:
            raise ValueError(
                f"weight_decay must be at least 0.02 and less than what makes everything "
                f"collapse, {self.threshold:.3g}, got {self.weight_decay}"
            )
        for name, least in (("settings", 2), ("networks", 3), ("steps_per_record", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.horizon < 100:
            raise ValueError(f"horizon must be at least 100, got {self.horizon}")

    @property
    def threshold(self) -> float:
        """Weight decay at which everything collapses."""
        return float(byol.byol_collapse_threshold(self.aug_var))

    @property
    def weight_decays(self) -> np.ndarray:
        """At which equilibria, and the edges between their basins, are measured."""
        return np.linspace(0.3, 0.85, self.settings) * self.threshold

    @property
    def aug_vars(self) -> np.ndarray:
        """At which the weight decay of collapse is measured."""
        return np.linspace(0.0, 1.0, self.settings)

    @property
    def features(self) -> np.ndarray:
        """Initial s at which the edge off the parabola is measured."""
        return np.linspace(0.02, 0.5, self.settings)

    @property
    def eps(self) -> np.ndarray:
        """Of DirectPred."""
        return np.linspace(0.0, 0.2, self.settings)

    @property
    def coarsest_step(self) -> float:
        """The largest learning rate of trajectories."""
        return self.duration / (RECORDS - 1) / self.steps_per_record

    @property
    def times(self) -> np.ndarray:
        """At which trajectories are recorded."""
        return np.linspace(0, self.duration, RECORDS)

    def points(self, modes: int = MODES) -> tuple[int, int]:
        """Settings, and starting points of a search that has ``modes`` of them in a network."""
        return self.settings, self.networks * modes


def predict(config: Config) -> Arrays:
    """Field and paths of the modes, equilibria, edges of basins, and what decays."""
    here = byol.byol_fixed_points(config.weight_decay, config.aug_var)
    fixed = byol.byol_fixed_points(config.weight_decays, config.aug_var)
    off, direct = partial(kept_off_parabola, config), partial(kept_by_direct_pred, config)
    return {
        **plane(config),
        "times": config.times,
        "paths": mode_paths(config),
        "equilibria": np.array([here.p_minus, here.p_plus]),
        "weight_decays": config.weight_decays,
        "p_minus": fixed.p_minus,
        "p_plus": fixed.p_plus,
        "edge": first_true(off, P_RANGE, (len(EDGE_FEATURES), 49), rounds=2),
        "aug_vars": config.aug_vars,
        "boundary": byol.byol_collapse_threshold(config.aug_vars),
        "boundary_in_time": boundary_in_time(config),
        "eps": config.eps,
        "direct_edge": first_true(direct, ROOT_RANGE, config.points(MODES - 1), rounds=ROUNDS),
        "imbalance": imbalance(config),
        "decays": np.concatenate([without_predictor(config), released_rule(config)]),
        "step": config.coarsest_step,
    }


def integrate(velocity: Callable[[Any], Any], start: Any, times: Any) -> Any:
    """The solution of ``dy/dt = velocity(y)`` at the given times, which lead, and 0 at first."""
    flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, start))
    rate = jax.jit(lambda y: ravel_pytree(velocity(restore(y)))[0])
    solution = solve_ivp(
        lambda t, y: np.asarray(rate(y)),
        (times[0], times[-1]),
        np.asarray(flat),
        method="DOP853",
        t_eval=times,
        rtol=1e-10,
        atol=1e-13,
    )
    return jax.tree.map(np.asarray, jax.vmap(restore)(solution.y.T))


def mode_velocity(config: Config, state: Any) -> byol.ByolModeVelocity:
    """Of (p, s), target and online network being one, and the predictor no faster than they."""
    p, s = state
    return byol.byol_mode_velocity(p, s, 1.0, 1.0, config.weight_decay, config.aug_var, ema=0.0)


def mode_paths(config: Config) -> np.ndarray:
    """p and s, (2, networks, times, modes), of the networks in ``STARTS``."""
    averaged = AVERAGED[:, None]
    alpha_p = np.where(averaged, config.predictor_rate, 1.0)
    decay, aug_var = config.weight_decay, config.aug_var

    def velocity(state):
        p, s, tau = state
        v = byol.byol_mode_velocity(p, s, tau, alpha_p, decay, aug_var, ema=config.ema)
        return jnp.stack([v.p, v.s, jnp.where(averaged, v.tau, 0)])

    tau = np.where(averaged, TARGET_STARTS[None], 1.0)
    paths = integrate(velocity, np.stack([*np.moveaxis(STARTS, -1, 0), tau]), config.times)
    return paths[:, :2].transpose(1, 2, 0, 3)


def plane(config: Config) -> Arrays:
    """Velocities (2, s, p) of modes; p_plus (weight decay, aug_var), 0 beyond collapse."""
    p, s = np.linspace(-0.8, 1.2, 41), np.linspace(0, 0.8, 33)
    aug_vars, decays = np.linspace(0, 1, 201), np.linspace(0, 0.3, 301)
    branches = byol.byol_fixed_points(decays, config.aug_var)
    return {
        "field_p": p,
        "field_s": s,
        "field": np.stack(mode_velocity(config, (p[None, :], s[:, None]))[:2]),
        "parabola": -byol.byol_mode_imbalance(p, 0.0),
        "edge_features": EDGE_FEATURES,
        "plane_aug_vars": aug_vars,
        "plane_decays": decays,
        "plane": byol.byol_fixed_points(decays[:, None], aug_vars[None, :]).p_plus,
        "plane_boundary": byol.byol_collapse_threshold(aug_vars),
        "branches": np.stack(branches[:2]),
    }


def kept_off_parabola(config: Config, _: int, p: np.ndarray) -> np.ndarray:
    """Whether modes (EDGE_FEATURES, points) that start at p are kept until after the horizon."""
    start = np.stack(np.broadcast_arrays(p, EDGE_FEATURES[:, None]))
    final = integrate(
        lambda state: jnp.stack(mode_velocity(config, state)[:2]), start, [0, config.horizon]
    )
    return final[-1, 1] > LOST**2


def direct_velocity(config: Config, eps: Any, variant: str) -> Callable[[Any], Any]:
    """ds/dt of networks (networks, modes) whose predictor is set from their features."""
    rule = jax.vmap(partial(byol.direct_pred, variant=variant))

    def velocity(s):
        correlations = jax.vmap(jnp.diag)((1 + config.aug_var) * s)
        p = jax.vmap(jnp.diag)(rule(correlations, jnp.asarray(eps)))
        return mode_velocity(config, (p, s)).s

    return velocity


def kept_by_direct_pred(config: Config, _: int, roots: np.ndarray) -> np.ndarray:
    """Whether DirectPred keeps modes (eps, points) of initial sqrt(s) beside a strong one."""
    velocity = direct_velocity(config, np.repeat(config.eps, config.networks), "paper")
    s = integrate(velocity, beside_a_strong_one(roots) ** 2, [0, config.horizon])[-1]
    return s[:, 1:].reshape(roots.shape) > LOST**2


def beside_a_strong_one(roots: np.ndarray) -> np.ndarray:
    """The same modes in networks of ``MODES``, of which the first is strong."""
    weak = roots.reshape(-1, MODES - 1)
    return np.concatenate([np.full((len(weak), 1), STRONG), weak], axis=1)


def boundary_in_time(config: Config) -> np.ndarray:
    """Weight decay at which collapse from p = 1 takes just the horizon, for every aug_var."""

    def excess(decay, aug_var):
        return float(byol.byol_basin_time(LOST, 1.0, decay, aug_var)) - config.horizon

    edges = np.asarray(byol.byol_collapse_threshold(config.aug_vars))
    found = [
        brentq(excess, edge * (1 + 1e-6), 2 * edge, args=(aug_var,))
        for edge, aug_var in zip(edges, config.aug_vars, strict=True)
    ]
    return np.array(found)


def general_network(draw: np.random.Generator) -> Siamese:
    """Weights without any structure."""
    shapes = ((MODES, INPUTS), (MODES, MODES), (MODES, INPUTS))
    return Siamese(*(0.4 * draw.standard_normal(shape) for shape in shapes))


def imbalance(config: Config) -> np.ndarray:
    """Norm over time of ``W W^T - Wp^T Wp / alpha_p``, relative; any network and any data do."""
    start = general_network(np.random.default_rng(0))
    X, Xp = np.eye(INPUTS), np.diag(NOISES)

    def velocity(state):
        alpha_p, decay, ema = config.predictor_rate, config.weight_decay, config.ema
        Wp, W, Wa = state
        return tuple(byol.byol_velocity(Wp, W, Wa, X, Xp, alpha_p, decay, ema))

    Wp, W, _ = integrate(velocity, (start.predictor, start.online, start.target), config.times)
    measure = jax.jit(jax.vmap(partial(byol.byol_imbalance, alpha_p=config.predictor_rate)))
    norms = np.linalg.norm(measure(Wp, W), axis=(1, 2))
    return norms / norms[0]


def without_predictor(config: Config) -> np.ndarray:
    """What is left of each input's weights over time, (inputs, times), if Wp stays the identity."""
    eye, Xp = np.eye(INPUTS), np.diag(NOISES)

    def velocity(W):
        return byol.byol_velocity(eye, W, W, eye, Xp, 1.0, 0.0, ema=0.0).W

    return np.diagonal(integrate(velocity, eye, config.times), axis1=1, axis2=2).T


def released_rule(config: Config) -> np.ndarray:
    """Norm of the features over time (eps, times), relative, under the rule as released."""
    start = np.full((config.settings, 1), STRONG**2)
    s = integrate(direct_velocity(config, config.eps, "released"), start, config.times)[..., 0]
    return np.sqrt(s / s[0]).T
