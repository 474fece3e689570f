"""Why self-supervised learning without negatives does not collapse, and where it does.

Tian, Chen & Ganguli (2021): linear BYOL on white inputs and isotropic augmentation. Its modes move
in a plane, predictor p against features s; weight decay eta pulls them to the parabola s = p^2,
where those that start above p_- are kept and those below it collapse, and everything collapses
beyond eta = 1 / (4 (1 + s2)), s2 the variance of augmentation. Without a predictor features decay;
DirectPred sets the predictor from the features and can rescue modes from below p_-. The rule that
was released with the paper is another one: it scales the largest eigenvalue of the predictor to
1 + eps, so that the features of this model have no scale to settle at, and decay.

All sizes, settings and starting points are our own. t = learning rate times steps.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.representation import balance_matrices
from dynamics.self_supervised import Siamese
from sims import papers
from sims.deep_linear.byol_predictions import (
    AVERAGED,
    INPUTS,
    LOST,
    MODES,
    NOISES,
    P_RANGE,
    RECORDS,
    ROOT_RANGE,
    ROUNDS,
    STARTS,
    STRONG,
    TARGET_STARTS,
    Config,
    beside_a_strong_one,
    general_network,
    predict,
)
from sims.deep_linear.siamese_networks import (
    FINEST,
    PROCESSES,
    STEP_FACTORS,
    Bases,
    at_equal_times,
    decoupled,
    first_true,
    for_every_step,
    members,
    mode_values,
    paired_views,
    random_bases,
    white_views,
)
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import generator
from sims.rates import without_step_error
from sims.sweep import sweep

EDGE_RANGE, DECAY_RANGE = (1e-3, 0.4), (0.02, 0.5)  # of p on the parabola, and of weight decay


class Lab(NamedTuple):
    """What all simulations share."""

    config: Config
    sweep: Any
    bases: Bases
    view_key: jax.Array

    def settle(
        self,
        name: str,
        p: Any,
        s: Any,
        aug_vars: Any = None,
        *,
        predictor: str = "learned",
        **settings: Any,
    ) -> np.ndarray:
        """p and s (2, networks, modes) after the horizon of networks that start decoupled there."""
        config = self.config
        aug_vars = np.full(len(s), config.aug_var) if aug_vars is None else aug_vars
        settings = {"weight_decay": config.weight_decay} | settings
        views = white_views(self.view_key, INPUTS, aug_vars)
        cases = members(decoupled(self.bases, p, s), views, config.learning_rate, **settings)
        steps = round(config.horizon / config.learning_rate)
        run = self.sweep(name, PROCESSES[predictor], cases, record_at=[steps])
        return mode_values(self.bases, run.records)[:, :, 0]

    def follow(
        self, name: str, start: Siamese, views: Any, *, predictor: str = "learned", **settings: Any
    ) -> Arrays:
        """Weights (step factors, networks, times, ...) on the way."""
        config = self.config
        rate = config.coarsest_step / STEP_FACTORS[0]
        cases = for_every_step(members(start, views, rate, **settings))
        steps = config.steps_per_record * np.arange(FINEST * (RECORDS - 1) + 1)
        run = self.sweep(name, PROCESSES[predictor], cases, record_at=steps)
        return {name: at_equal_times(weights) for name, weights in run.records.items()}


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks along paths, into their equilibria, and on both sides of every edge."""
    basis_key, view_key, network_key = jax.random.split(key, 3)
    lab = Lab(config, sweep, random_bases(basis_key, MODES, INPUTS), view_key)
    search = partial(first_true, rounds=ROUNDS)
    networks, modes, weak = (config.points(n) for n in (1, MODES, MODES - 1))
    return {
        **trajectories(lab, network_key),
        "features": config.features,
        "p_plus": equilibria(lab),
        "p_minus": search(partial(kept_on_parabola, lab), EDGE_RANGE, modes),
        "edge": search(partial(kept_off_parabola, lab), P_RANGE, modes),
        "boundary": search(partial(all_lost, lab), DECAY_RANGE, networks),
        "direct_edge": search(partial(kept_by_direct_pred, lab), ROOT_RANGE, weak),
    }


def equilibria(lab: Lab) -> np.ndarray:
    """Final p (weight decays, starts) of modes that start above every edge."""
    config = lab.config
    p = np.broadcast_to(np.linspace(0.5, 1.0, config.points()[1]), config.points())
    rows, decays = p.reshape(-1, MODES), np.repeat(config.weight_decays, config.networks)
    return lab.settle("equilibria", rows, rows**2, weight_decay=decays)[0].reshape(p.shape)


def kept_on_parabola(lab: Lab, index: int, p: np.ndarray) -> np.ndarray:
    """Whether modes (weight decays, points) survive that start on the parabola."""
    rows, decays = p.reshape(-1, MODES), np.repeat(lab.config.weight_decays, lab.config.networks)
    _, s = lab.settle(f"on_parabola_{index}", rows, rows**2, weight_decay=decays)
    return s.reshape(p.shape) > LOST**2


def kept_off_parabola(lab: Lab, index: int, p: np.ndarray) -> np.ndarray:
    """Whether modes (features, points) survive that start at p and the feature's s."""
    start = np.broadcast_to(lab.config.features[:, None], p.shape)
    rows = (x.reshape(-1, MODES) for x in (p, start))
    return lab.settle(f"off_parabola_{index}", *rows)[1].reshape(p.shape) > LOST**2


def all_lost(lab: Lab, index: int, decays: np.ndarray) -> np.ndarray:
    """Whether all modes of a network (aug_vars, weight decays) that starts strong collapse."""
    p = np.tile(np.linspace(0.7, 1.0, MODES), (decays.size, 1))
    aug_vars = np.repeat(lab.config.aug_vars, lab.config.networks)
    _, s = lab.settle(f"boundary_{index}", p, p**2, aug_vars, weight_decay=decays.ravel())
    return s.max(axis=1).reshape(decays.shape) < LOST**2


def kept_by_direct_pred(lab: Lab, index: int, roots: np.ndarray) -> np.ndarray:
    """Whether DirectPred keeps modes (eps, points) of initial sqrt(s) beside a strong one."""
    rows, eps = beside_a_strong_one(roots), np.repeat(lab.config.eps, lab.config.networks)
    _, s = lab.settle(f"direct_{index}", rows, rows**2, eps=eps, predictor="paper")
    return s[:, 1:].reshape(roots.shape) > LOST**2


def trajectories(lab: Lab, key: jax.Array) -> Arrays:
    """Decoupled networks, a general one, and one without predictor; DirectPred as released.

    ``paths`` (step factors, p or s, networks, times, modes); ``imbalance`` (step factors, times)
    and ``decays`` (step factors, curves, times) are norms relative to the start.
    """
    config, count = lab.config, len(STARTS)
    tau = np.where(AVERAGED[:, None], TARGET_STARTS[None], 1.0)
    draw = generator(key)
    general, W = general_network(draw), general_network(draw).online
    lonely = Siamese(W, np.eye(MODES), W)  # its predictor does not move
    networks = jax.tree.map(
        lambda many, *one: jnp.asarray(np.concatenate([many, np.stack(one)])),
        decoupled(lab.bases, STARTS[..., 0], STARTS[..., 1], tau), general, lonely,
    )  # fmt: skip
    covariance = np.cov(draw.standard_normal((INPUTS, 4 * INPUTS)))
    white = white_views(lab.view_key, INPUTS, np.full(count, config.aug_var))
    coloured = paired_views(lab.view_key, covariance, np.tile(NOISES, (2, 1)))
    found = lab.follow(
        "trajectories",
        networks,
        tuple(np.concatenate(views) for views in zip(white, coloured, strict=True)),
        weight_decay=np.append(np.full(count + 1, config.weight_decay), 0),
        predictor_rate=np.concatenate(
            [np.where(AVERAGED, config.predictor_rate, 1), [config.predictor_rate, 0]]
        ),
        ema=np.concatenate([np.where(AVERAGED, config.ema, np.inf), [config.ema, np.inf]]),
    )
    paths = mode_values(lab.bases, {name: w[:, :count] for name, w in found.items()})
    columns = np.linalg.norm(found["online"][:, -1], axis=-2).swapaxes(1, 2)
    return {
        "paths": np.swapaxes(paths, 0, 1),
        "imbalance": imbalance(config, {name: w[:, count] for name, w in found.items()}),
        "decays": np.concatenate([columns / columns[..., :1], released_rule(lab)], axis=1),
    }


def imbalance(config: Config, weights: Arrays) -> np.ndarray:
    """Norm of ``W W^T - Wp^T Wp / alpha_p``, relative to its start: (step factors, times)."""
    layers = weights["online"], weights["predictor"] / np.sqrt(config.predictor_rate)
    measure = jax.jit(jax.vmap(jax.vmap(lambda *layers: balance_matrices(layers)[0])))
    matrices = measure(*layers)
    norms = np.linalg.norm(matrices, axis=(2, 3))
    return norms / norms[:, :1]


def released_rule(lab: Lab) -> np.ndarray:
    """Norm of the strongest feature, relative to its start, (step factors, eps, times)."""
    s = np.tile(STRONG**2 / 2.0 ** np.arange(MODES), (lab.config.settings, 1))
    views = white_views(lab.view_key, INPUTS, np.full(len(s), lab.config.aug_var))
    found = lab.follow(
        "released",
        decoupled(lab.bases, 0 * s, s),
        views,
        predictor="released",
        weight_decay=lab.config.weight_decay,
        eps=lab.config.eps,
    )
    norms = np.linalg.norm(found["online"], ord=2, axis=(3, 4))
    return norms / norms[..., :1]


def rate(curves: np.ndarray) -> np.ndarray:
    """Of exponential decay over the whole duration, per duration."""
    return -np.log(curves[..., -1])


STEPS = "extrapolated to zero step size, which leaves an error of third order in the largest step"

CLAIMS = (
    Claim(
        "paths of modes, p and s",
        predicted=lambda p: p["paths"],
        measured=lambda m: without_step_error(m["paths"]),
        tolerance=lambda p, m: p["step"] ** 3,
        because=STEPS,
        error="absolute",
    ),
    Claim(
        "decay of the imbalance between predictor and encoder, general data and network",
        predicted=lambda p: rate(p["imbalance"]),
        measured=lambda m: without_step_error(rate(m["imbalance"])),
        tolerance=lambda p, m: p["step"] ** 3,
        because=STEPS,
    ),
    Claim(
        "predictor of the modes that are kept",
        predicted=lambda p: p["p_plus"][:, None],
        measured=lambda m: m["p_plus"],
        tolerance=1e-9,
        because="gradient descent rests where gradient flow does, and is there but for rounding",
    ),
    Claim(
        "least predictor with which a mode is kept",
        predicted=lambda p: p["p_minus"],
        measured=lambda m: m["p_minus"],
        tolerance=2e-4,
        because="searched to 1e-5; modes within 1e-4 of the edge may stay there for the horizon",
    ),
    Claim(
        "weight decay at which everything collapses",
        predicted=lambda p: p["boundary"],
        measured=lambda m: m["boundary"],
        tolerance=lambda p, m: (
            1.1 * (p["boundary_in_time"] / p["boundary"] - 1) + 5e-4 / p["boundary"]
        ),
        because="beyond the threshold by a fraction 16 (1 + s2)^2 (pi/T)^2 or less, collapse takes "
        "longer than the horizon T (10 % for finite steps); searched to 5e-4",
    ),
    Claim(
        "least features with which DirectPred keeps a mode",
        predicted=lambda p: p["direct_edge"],
        measured=lambda m: m["direct_edge"],
        tolerance=1e-3,
        because="searched to 1e-5; finite steps matter only until the strongest mode has settled",
    ),
    Claim(
        "decay without a predictor, and under DirectPred as released",
        predicted=lambda p: rate(p["decays"]),
        measured=lambda m: without_step_error(rate(m["decays"])),
        tolerance=lambda p, m: p["step"] ** 3,
        because=STEPS,
    ),
)

EXPERIMENT = Experiment(
    name="tian2021_byol",
    source=papers.tian2021("modes of linear BYOL, their collapse, DirectPred"),
    statement="A predictor and a little weight decay keep BYOL from collapsing; too much does not.",
    equations=(
        r"\dot p = \alpha_p s\,(\tau - (1+\sigma^2)p) - \eta p, \qquad "
        r"\dot s = 2ps\,(\tau - (1+\sigma^2)p) - 2\eta s, \qquad "
        r"s - p^2/\alpha_p \propto e^{-2\eta t}",
        r"p_\pm = \frac{1 \pm \sqrt{1 - 4\eta(1+\sigma^2)}}{2(1+\sigma^2)}",
        r"\text{all collapse if}\quad \eta > \frac{1}{4(1+\sigma^2)}",
    ),
    quick=Config(),
    full=Config(settings=16, networks=48, learning_rate=0.1, horizon=2000.0, steps_per_record=10),
    cost=(16, 300),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
