"""River valleys: what a large learning rate gains along the river, and loses to noise in the hills.

Wen et al. (2024) explain the warm-up, stable, decay schedule (WSD) by a valley: progress is made
along a river, noise keeps up a loss in the hills in proportion to the learning rate, and decay
removes it. A toy valley in which this is exact, with hills of many curvatures: stable phase, decay,
schedules at equal compute, and a valley that changes along the river. All sizes, rates and
curvatures are ours; time is the sum of the learning rates.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics import training
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys
from sims.rates import fitted_exponent, jackknife, mean_and_error
from sims.stability import noisy_valley
from sims.sweep import sweep
from theory.stability import river_valley, schedules

HILLS = 7
HILL_CURVATURES = np.geomspace(0.5, 8.0, HILLS)
RATES = np.geomspace(0.02, 0.2, 5)
STABLE, BURN = 1500, 500  # steps of the stable phase, and those before it is looked at
CHECKPOINTS, BRANCH = (240, 420, 600), 40  # total compute, and decay before each
CURVATURE, DECAY_RATE, DECAY_NOISE = 3.0, 0.3, 0.5  # of the hill in which decays are compared
DECAY_STEPS, DESCENTS = 12, 150  # and steps by which a schedule is learned
WINDING, SLOPE = 0.25, -0.005  # of the valley whose hills (1, 2, 4) e^(x/4) steepen downstream
WINDING_HILLS = np.array([1.0, 2.0, 4.0])
WINDING_RATES = np.array([0.02, 0.05, 0.1, 0.2])
WINDING_NOISE, WINDING_BURN, WINDING_STEPS = 0.2, 100, 400
SHOWN = np.arange(10, CHECKPOINTS[-1] + 1, 10)  # steps at which the valley is looked at


@dataclass(frozen=True)
class Config:
    """Valley noise and river; numbers of independent runs."""

    noise_variance: float = 0.02
    river_curvature: float = 0.004
    river_start: float = 10.0
    chains: int = 64
    decay_chains: int = 1024
    learners: int = 8  # of schedules, each from ``decay_chains`` runs

    def __post_init__(self) -> None:
        for name in ("noise_variance", "river_curvature", "river_start"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (("chains", 16), ("learners", 4), ("decay_chains", 64)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def compared() -> np.ndarray:
    """WSD-S; WSD with its branches thrown away, and cosine, once per checkpoint; (7, steps).

    Rates after the end of a schedule are zero. WSD pays for its branches: its stable phase is
    shorter by all that were made before.
    """
    peak, end = RATES[-1], CHECKPOINTS[-1]
    rows = [schedules.wsd_s(peak, CHECKPOINTS, BRANCH)]
    for made, total in enumerate(CHECKPOINTS):
        rows.append(schedules.wsd(peak, total - made * BRANCH, BRANCH))
    rows += [schedules.wsd(peak, total, total, decay="cosine") for total in CHECKPOINTS]
    return np.array([np.pad(np.asarray(row), (0, end - len(row))) for row in rows])


def decays() -> dict[str, jax.Array]:
    """Decays from one stationary state."""
    shapes = {"1 - sqrt": "sqrt", "exponential": "exponential", "linear": "linear"}
    found = {
        name: schedules.wsd(DECAY_RATE, DECAY_STEPS, DECAY_STEPS, decay=shape)
        for name, shape in (shapes | {"cosine": "cosine"}).items()
    }
    found["inverse to 1 %"] = schedules.inverse_decay(DECAY_RATE, DECAY_RATE / 100, DECAY_STEPS)
    return {"optimal": best_decay().rates} | found


def stationary_moment() -> jax.Array:
    """Second moment from which decays begin."""
    return 2 * river_valley.stable_gap(DECAY_RATE, CURVATURE, DECAY_NOISE) / CURVATURE


def best_decay() -> river_valley.Decay:
    """The optimal decay from there."""
    return river_valley.optimal_decay(stationary_moment(), CURVATURE, DECAY_NOISE, DECAY_STEPS)


def predict(config: Config) -> Arrays:
    """Stable phase, losses over schedules, decays, the force along a winding river."""
    noise = config.noise_variance
    losses = partial(
        river_valley.valley_losses,
        hills=HILL_CURVATURES,
        noise_variance=noise,
        moments=1.0,
        river_curvature=config.river_curvature,
        river_start=config.river_start,
    )
    over = jax.jit(jax.vmap(losses))(compared())
    end = jax.jit(
        jax.vmap(
            lambda rates: river_valley.valley_losses(
                rates,
                np.array([CURVATURE]),
                noise_variance=DECAY_NOISE,
                moments=stationary_moment(),
            ).hill[-1]
        )
    )(np.array(list(decays().values())))
    best = best_decay()
    return {
        "rates": RATES,
        "hills": HILL_CURVATURES,
        "all_rates": np.geomspace(RATES[0], RATES[-1], 50),
        "gap_curves": river_valley.stable_gap(
            np.geomspace(RATES[0], RATES[-1], 50)[:, None], HILL_CURVATURES[None], noise
        ),
        "gap": river_valley.stable_gap(RATES[:, None], HILL_CURVATURES[None], noise),
        "exponents": np.array([1.0, 0.0]),
        "schedules": compared(),
        "river": over.river[:, SHOWN - 1],
        "hill": over.hill[:, SHOWN - 1],
        "decays": np.array(list(decays().values())),
        "decay_gaps": end,
        "least_gap": CURVATURE * best.moments[-1] / 2,
        "inverse_slope": CURVATURE,
        "fitted_noise": DECAY_STEPS / config.decay_chains,
        "force": forces(),
        "winding_rates": WINDING_RATES,
        "drag": forces() - SLOPE,
    }


def forces() -> np.ndarray:
    """Mean gradient along the winding river at every rate, at the start."""
    h = WINDING_HILLS[None]
    moments = 2 * river_valley.stable_gap(WINDING_RATES[:, None], h, WINDING_NOISE) / h
    each = river_valley.river_force(SLOPE / len(WINDING_HILLS), WINDING * h, moments)
    return np.asarray(each.sum(axis=1))


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Descend the valleys, and learn a schedule."""
    keys = jax.random.split(key, 4)
    return {
        **stable_phase(config, keys[0], sweep),
        **over_schedules(config, keys[1], sweep),
        **over_decays(config, keys[2], sweep),
        **along_winding_river(config, keys[3], sweep),
    }


def valley(config: Config) -> noisy_valley.Valley:
    """The toy: a quadratic river and quadratic hills."""
    return lambda x, y: config.river_curvature / 2 * x**2 + jnp.sum(HILL_CURVATURES * y**2) / 2


def stable_phase(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Loss of every hill at every rate, averaged over late times, (chains, rates, hills)."""
    process = noisy_valley.descent(
        valley(config), lambda x, y: {"loss": HILL_CURVATURES * y**2 / 2}
    )
    rates = np.broadcast_to(RATES[:, None], (len(RATES), STABLE))
    cases = noisy_valley.chains(key, rates, config.chains, 0.0, np.zeros(HILLS))
    shared = {"data": noisy_valley.noise(config.noise_variance, HILLS)}
    steps = np.arange(BURN, STABLE + 1, 10)
    losses = sweep("stable", process, cases, shared, record_at=steps).records["loss"]
    means = noisy_valley.by_schedule(losses.mean(axis=1), config.chains)
    return {"gap": means.swapaxes(0, 1)}


def over_schedules(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Losses along river and in hills over the compared schedules, (schedules, chains, steps)."""
    flat = jnp.zeros(HILLS)

    def observe(x, y):
        river = valley(config)(x, flat)
        return {"river": river, "hill": valley(config)(x, y) - river}

    process = noisy_valley.descent(valley(config), observe)
    start = config.river_start, np.ones(HILLS)
    cases = noisy_valley.chains(key, compared(), config.chains, *start)
    shared = {"data": noisy_valley.noise(config.noise_variance, HILLS)}
    records = sweep("schedules", process, cases, shared, record_at=SHOWN).records
    return {"schedule_steps": SHOWN} | {
        name: noisy_valley.by_schedule(a, config.chains) for name, a in records.items()
    }


def hill(x: jax.Array, y: jax.Array) -> jax.Array:
    """The hill in which decays are compared; there is no river."""
    return CURVATURE * jnp.sum(y**2) / 2


def over_decays(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Final losses of the decays (chains, decays), and schedules learned by descent."""
    cases_key, learn_key = jax.random.split(key)
    start = np.array([np.sqrt(float(stationary_moment()))])
    rates = np.array(list(decays().values()))
    cases = noisy_valley.chains(cases_key, rates, config.decay_chains, 0.0, start)
    shared = {"data": noisy_valley.noise(DECAY_NOISE, 1)}
    process = noisy_valley.descent(hill, lambda x, y: {"loss": hill(x, y)})
    losses = sweep("decays", process, cases, shared, record_at=[DECAY_STEPS]).records["loss"]
    final = noisy_valley.by_schedule(losses[:, 0], config.decay_chains)
    learn = jax.jit(jax.vmap(partial(learned_decay, config, start, shared["data"])))
    learned, reached = learn(seed_keys(learn_key, config.learners))
    return {"decay_losses": final.T, "learned": learned, "learned_gap": reached}


def learned_decay(config: Config, start: Any, xi: jax.Array, key: jax.Array) -> tuple[Any, Any]:
    """A schedule (steps,) found by descent on the mean final loss of many runs, and that loss."""
    cases = noisy_valley.chains(key, np.zeros((1, DECAY_STEPS)), config.decay_chains, 0.0, start)
    batch = cases["start"], jax.random.key_data(cases["key"])

    def run(log_rates, start, key_data):
        rates = jnp.exp(log_rates)
        found = training.train(
            jax.random.wrap_key_data(key_data),
            start,
            xi,
            loss=noisy_valley.noisy_loss(hill),
            optimizer=noisy_valley.scheduled({"rates": rates}),
            steps=DECAY_STEPS,
            batch_size=1,
            record_at=[DECAY_STEPS],
        )
        return hill(*found.params)

    def mean_loss(log_rates, batch):
        return jnp.mean(jax.vmap(run, (None, 0, 0))(log_rates, *batch))

    found = training.train(
        key,
        jnp.full(DECAY_STEPS, np.log(DECAY_RATE)),
        batch,
        loss=mean_loss,
        optimizer=optax.adam(0.1, b2=0.9),
        steps=DESCENTS,
        record_at=[DESCENTS],
    )
    return jnp.exp(found.params), found.records["loss"][0]


def along_winding_river(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Mean gradient along a river whose hills steepen downstream, (chains, rates)."""

    def winding(x, y):
        return SLOPE * x + jnp.exp(WINDING * x) * jnp.sum(WINDING_HILLS * y**2) / 2

    process = noisy_valley.descent(winding, lambda x, y: {"x": x})
    steps = np.array([WINDING_BURN, WINDING_STEPS])
    rates = np.broadcast_to(WINDING_RATES[:, None], (len(WINDING_RATES), WINDING_STEPS))
    cases = noisy_valley.chains(key, rates, 4 * config.chains, 0.0, np.zeros(3))
    shared = {"data": noisy_valley.noise(WINDING_NOISE, 3)}
    x = sweep("winding", process, cases, shared, record_at=steps).records["x"]
    x = noisy_valley.by_schedule(x, 4 * config.chains)
    elapsed = (WINDING_RATES * (WINDING_STEPS - WINDING_BURN))[:, None]
    return {"force": -(np.diff(x, axis=-1)[..., 0] / elapsed).T, "moved": np.abs(x).mean(axis=1)}


def at_checkpoints(curves: np.ndarray) -> np.ndarray:
    """Of curves (schedules, SHOWN)."""
    return curves[:, np.searchsorted(SHOWN, CHECKPOINTS)]


def gap_exponents(gaps: np.ndarray) -> np.ndarray:
    """Of the gap, in the learning rate (flattest hill) and in the curvature (smallest rate)."""
    return np.array([fitted_exponent(RATES, gaps[:, 0]), fitted_exponent(HILL_CURVATURES, gaps[0])])


def inverse_slopes(rates: np.ndarray) -> np.ndarray:
    """Slopes of 1/eta over steps, of schedules (learners, steps)."""
    return np.polynomial.polynomial.polyfit(np.arange(rates.shape[1]), 1 / rates.T, 1)[1]


CLAIMS = (
    Claim(
        "stable phase: loss of every hill at every learning rate",
        predicted=lambda p: p["gap"],
        measured=lambda m: m["gap"].mean(axis=0),
        tolerance=lambda p, m: 4 * mean_and_error(m["gap"])[1] / p["gap"],
        because="4 standard errors over runs; the second moment is exact for any white noise",
    ),
    Claim(
        "stable phase: exponent of the loss in the learning rate, and in the curvature",
        predicted=lambda p: p["exponents"],
        measured=lambda m: gap_exponents(m["gap"].mean(axis=0)),
        tolerance=lambda p, m: 0.1 + 4 * jackknife(gap_exponents, m["gap"]),
        because="4 standard errors over runs; eta h, at most 0.16 there, adds about half of itself",
        error="absolute",
    ),
    Claim(
        "loss at the checkpoints under WSD-S, WSD and cosine schedules",
        predicted=lambda p: at_checkpoints(p["river"] + p["hill"]),
        measured=lambda m: at_checkpoints((m["river"] + m["hill"]).mean(axis=1)),
        tolerance=lambda p, m: at_checkpoints(
            4
            * mean_and_error((m["river"] + m["hill"]).swapaxes(0, 1))[1]
            / (p["river"] + p["hill"])
            + 1e-9
        ),
        because="4 standard errors over runs; the river is without noise, up to rounding",
    ),
    Claim(
        "final loss of six decays from one stationary state",
        predicted=lambda p: p["decay_gaps"],
        measured=lambda m: m["decay_losses"].mean(axis=0),
        tolerance=lambda p, m: 4 * mean_and_error(m["decay_losses"])[1] / p["decay_gaps"],
        because="4 standard errors over runs",
    ),
    Claim(
        "least loss that a schedule learned by descent reaches",
        predicted=lambda p: p["least_gap"],
        measured=lambda m: m["learned_gap"].mean(),
        tolerance=lambda p, m: (
            4 * mean_and_error(m["learned_gap"])[1] / p["least_gap"] + p["fitted_noise"]
        ),
        because="4 standard errors over learners; each fits its runs' noise, with a gain below the "
        "number of steps over that of runs",
    ),
    Claim(
        "slope over steps of 1/eta in the schedule learned",
        predicted=lambda p: p["inverse_slope"],
        measured=lambda m: inverse_slopes(m["learned"]).mean(),
        tolerance=lambda p, m: (
            4 * mean_and_error(inverse_slopes(m["learned"]))[1] / p["inverse_slope"]
            + p["fitted_noise"]
        ),
        because="4 standard errors over learners, and as above",
    ),
    Claim(
        "mean gradient along a river whose hills steepen downstream",
        predicted=lambda p: p["force"],
        measured=lambda m: m["force"].mean(axis=0),
        tolerance=lambda p, m: (
            4 * mean_and_error(m["force"])[1] + WINDING * m["moved"].max(axis=1) * p["drag"]
        ),
        because="4 standard errors over runs; the hills change by the valley's winding times the "
        "way made, and the noise's share of the force by less",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="wen2024_river",
    source=papers.wen2024("river valley: stable phase, decay, schedules"),
    statement="Noise keeps up a loss in the hills in proportion to the learning rate, whatever "
    "their curvature, while the river flows with its sum; decay removes the first at once.",
    equations=(
        r"\tfrac{h}{2}\,\mathrm{E}\,y^2 \to \frac{\eta\sigma^2}{2(2-\eta h)}",
        r"\frac{1}{m_{t+1}} = \frac{1}{m_t} + \frac{h^2}{\sigma^2}, \quad"
        r"\frac{1}{\eta_t} = \frac{1}{\eta_0} + h t \quad\text{(fastest decay)}",
        r"\dot x = -q'(x) - \tfrac12 h'(x)\,\mathrm{E}\,y^2",
    ),
    quick=Config(),
    full=Config(chains=1024, decay_chains=4096, learners=16),
    cost=(12, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
