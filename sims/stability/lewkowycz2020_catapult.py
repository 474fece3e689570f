"""The catapult: what a learning rate above 2/lambda_0 does to a wide network, and does not.

Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari (2020): a two-layer linear network on one example
has three phases. For ``eta lambda_0 < 2`` its tangent kernel lambda stays; between 2 and 4 the loss
first grows to the order of the width n, until lambda has come down below 2/eta, where training
converges; above 4 it diverges. Output f and lambda obey a closed map (for several examples, too;
derived here) against which networks are held, trained by automatic differentiation. All sizes,
rates and starts are our own, as is what is exact at any width: lambda falls in every step while it
is below 4/eta, so that there training cannot diverge.

Initial f, lambda and ``|u|^2 - |v|^2`` are prescribed: the theory depends on nothing else of the
weights. Starts differ in f by fractions of its growth in one step, ``|1 - eta lambda_0|``: averages
over them have no steps of one step's length, and rates over the width become exact.

What happens at the top is chaotic. Trajectories are compared as far as rounding, amplified by the
map's own Jacobian, stays small. A ReLU network on digits is shown beside it, without a claim.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.rates import fitted_exponent
from sims.stability.catapult_networks import Task, train_linear, train_relu
from sims.sweep import sweep
from theory.stability.catapult import (
    Catapult,
    DataCatapult,
    catapult_phase,
    catapult_step,
    catapult_step_data,
    data_kernel,
    imbalance_factor,
    peak_time,
)

ROUNDING = 4 * np.finfo(float).eps  # of f / sqrt(n) and lambda in a step, over sqrt(n): of sums
TRUSTED = 1e-6  # largest error from rounding at which a trajectory is compared


@dataclass(frozen=True)
class Config:
    """``stiffness`` lists eta lambda_0, ``kernel`` is lambda_0, ``imbalance`` (|u|^2 - |v|^2)/n."""

    widths: tuple[int, ...] = (128, 1024, 8192)
    stiffness: tuple[float, ...] = (0.5, 1.0, 1.5, 2.5, 3.0, 3.5, 4.5)
    starts: int = 8
    kernel: float = 2.0
    imbalance: float = 0.5
    steps: int = 120
    data_width: int = 512
    data_examples: int = 6
    data_inputs: int = 3
    data_stiffness: tuple[float, ...] = (1.0, 3.0)
    data_steps: int = 40
    data_seed: int = 0
    relu_stiffness: tuple[float, ...] = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 14, 16)
    relu_width: int = 64
    relu_examples: int = 64
    relu_steps: int = 200

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or self.widths[0] < 8 or min(np.diff(self.widths)) <= 0:
            raise ValueError(f"widths must be two or more, rising from >= 8, got {self.widths}")
        for name in ("stiffness", "data_stiffness", "relu_stiffness"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise ValueError(f"{name} must be positive numbers, got {values}")
        if not {0, 1, 2} <= set(self.phases.tolist()):
            raise ValueError(
                f"stiffness must have values below 2, in 2..4, above 4: {self.stiffness}"
            )
        if not 0 < abs(self.imbalance) < self.kernel:
            raise ValueError(f"imbalance must be within +-kernel and not 0, got {self.imbalance}")
        least = {"starts": 2, "steps": 1, "data_examples": 1, "data_inputs": 1, "data_steps": 1}
        for name, at_least in least.items():
            if getattr(self, name) < at_least:
                raise ValueError(f"{name} must be at least {at_least}, got {getattr(self, name)}")

    @property
    def rates(self) -> np.ndarray:
        """Learning rates."""
        return np.array(self.stiffness) / self.kernel

    @property
    def phases(self) -> np.ndarray:
        """Index of the phase of every rate."""
        return np.asarray(catapult_phase(self.rates, self.kernel))

    @property
    def outputs(self) -> np.ndarray:
        """Initial outputs, (rates, starts): one step's growth (twofold outside the catapult)."""
        growth = np.where(self.phases == 1, np.array(self.stiffness) - 1, 2.0)
        return growth[:, None] ** (np.arange(self.starts) / self.starts)


def predict(config: Config) -> Arrays:
    """Maps iterated, phases, exponents, peak times; how rounding grows along the maps."""
    turning = config.phases == 1
    widths, rates = np.array(config.widths), config.rates[turning]
    times = peak_time(rates[:, None], config.kernel, widths[None])
    paths, data = single_paths(config), data_paths(config)
    return (
        {f"single_{name}": value for name, value in paths.items()}
        | {f"data_{name}": value for name, value in data.items()}
        | {
            "widths": widths,
            "stiffness": np.array(config.stiffness),
            "turning": turning,
            "starts": config.starts,
            "outputs": config.outputs,
            "rates": config.rates,
            "lazy": config.phases == 0,
            "phases": config.phases + 1.0,
            "peak_slope": np.asarray(times[:, 1] - times[:, 0]) / np.log(widths[1] / widths[0]),
            "peak_exponent": 1.0,
            "lazy_exponent": -1.0,
        }
    )


@cache
def single_paths(config: Config) -> dict[str, np.ndarray]:
    """f/sqrt(n), lambda and imbalance over it, (widths, rates, starts, steps + 1), with errors.

    In these units the map does not know the width: its Jacobian is that of width 1.
    """
    shape = len(config.widths), len(config.rates), config.starts
    width = np.broadcast_to(np.array(config.widths, float)[:, None, None], shape)
    rate = np.broadcast_to(config.rates[:, None], shape)
    f = np.broadcast_to(config.outputs, shape)
    start = Catapult(jnp.asarray(f), jnp.full(shape, config.kernel))
    states = iterate(lambda s: catapult_step(s, rate, width), start, config.steps)
    g, kernel = (np.moveaxis(a, 0, -1) for a in states)
    g = g / np.sqrt(width)[..., None]

    def scaled(state: jax.Array, rate: jax.Array) -> jax.Array:
        return jnp.stack(catapult_step(Catapult(state[0], state[1]), rate, 1.0))

    state = np.stack([g, kernel], axis=-1)
    error = amplified(scaled, state, rate) * np.sqrt(width)[..., None]
    left = np.asarray(jax.jit(imbalance_factor)(g[..., :-1], rate[..., None], 1.0))
    with np.errstate(all="ignore"):  # of networks that diverge
        imbalance = config.imbalance * np.cumprod(np.insert(left, 0, 1.0, axis=-1), axis=-1)
        of_left = 2 * rate[..., None] ** 2 * np.abs(g) * error
        own = config.kernel * ROUNDING * np.sqrt(width)[..., None] * np.arange(1, config.steps + 2)
        imbalance_error = own + config.imbalance * np.cumsum(of_left, axis=-1)
    return {
        "state": state,
        "imbalance": imbalance,
        "error": error,
        "imbalance_error": imbalance_error,
        "trusted": error < TRUSTED,
    }


@cache
def data_paths(config: Config) -> dict[str, np.ndarray]:
    """The same with several examples, (rates, steps + 1): f/sqrt(n), then Theta, flat."""
    task, width, rates = data_task(config), config.data_width, data_rates(config)
    gram_x, m = task.x @ task.x.T, len(task.y)
    hidden, overlap, q = data_start(task, width)
    start = np.concatenate([overlap, hidden.ravel(), q[None]])

    def unpack(vector: jax.Array) -> DataCatapult:
        rest = vector[m:-1].reshape(m, m)
        return DataCatapult(np.sqrt(width) * vector[:m], rest, vector[-1])

    def step(vector: jax.Array, rate: jax.Array) -> jax.Array:
        f, hidden, q = catapult_step_data(unpack(vector), gram_x, task.y, rate, width)
        return jnp.concatenate([f / np.sqrt(width), hidden.ravel(), q[None]])

    starts = jnp.tile(start[None], (len(rates), 1))
    each: Any = jax.vmap(step)
    path = np.moveaxis(iterate(lambda v: each(v, rates), starts, config.data_steps), 0, 1)
    error = amplified(step, path, rates) * np.sqrt(width)
    kernel = jax.vmap(jax.vmap(lambda v: data_kernel(unpack(v), gram_x).ravel()))(path)
    state = np.concatenate([path[..., :m], kernel], axis=-1)
    return {"state": state, "error": error, "trusted": error < TRUSTED}


def iterate(step: Any, start: Any, steps: int) -> Any:
    """The states from the start to the one after so many steps, on a new leading axis."""

    @jax.jit
    def run(start: Any) -> Any:
        return jax.lax.scan(lambda state, _: (step(state), state), start, length=steps + 1)[1]

    return jax.tree.map(np.asarray, run(start))


def amplified(step: Any, states: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Errors (..., steps + 1) that independent errors of size ROUNDING in every step grow to.

    Their covariance C passes through the map's Jacobian, ``C' = J C J^T + ROUNDING^2``.
    """
    flat = states.reshape(-1, *states.shape[-2:])
    fresh = ROUNDING**2 * jnp.eye(states.shape[-1])

    @jax.jit
    @jax.vmap
    def path(states: jax.Array, rate: jax.Array) -> jax.Array:
        def grow(covariance: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
            jacobian = jax.jacfwd(step)(state, rate)
            return jacobian @ covariance @ jacobian.T + fresh, jnp.trace(covariance)

        return jnp.sqrt(jax.lax.scan(grow, fresh, states)[1])

    return np.asarray(path(flat, rates.reshape(-1))).reshape(states.shape[:-1])


def data_task(config: Config) -> Task:
    """Gaussian inputs of unit length on average and targets; weights as if drawn from N(0, 1)."""
    normal = np.random.default_rng(config.data_seed).standard_normal
    m, d, n = config.data_examples, config.data_inputs, config.data_width
    x, y, columns = normal((m, d)) / np.sqrt(d), normal(m), normal((n, d + 1))
    gram = np.tile(columns.T @ columns, (len(config.data_stiffness), 1, 1))
    return Task(x, y, gram)


def data_start(task: Task, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden Gram A, outputs over sqrt(n), and q = |v|^2/n at the start."""
    inner = task.gram[0] / width
    return task.x @ inner[:-1, :-1] @ task.x.T, task.x @ inner[:-1, -1], inner[-1, -1]


def data_rates(config: Config) -> np.ndarray:
    """Learning rates at which eta lmax(Theta_0)/m is ``data_stiffness``."""
    task = data_task(config)
    hidden, overlap, q = data_start(task, config.data_width)
    start = DataCatapult(*map(jnp.asarray, (overlap, hidden, q)))
    kernel = data_kernel(start, task.x @ task.x.T)
    return np.array(config.data_stiffness) * len(task.y) / np.linalg.eigvalsh(kernel)[-1]


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every width, one on several examples, and ReLU networks."""
    keys = jax.random.split(key, len(config.widths) + 2)
    found = [train_single(config, k, n, sweep) for k, n in zip(keys, config.widths, strict=False)]
    task, n = data_task(config), config.data_width
    data = train_linear("data", keys[-2], task, data_rates(config), n, config.data_steps, sweep)
    kernel = data["kernel"].reshape(*data["outputs"].shape[:2], -1)
    return {
        **{name: np.stack([of_width[name] for of_width in found]) for name in found[0]},
        "single_trusted": single_paths(config)["trusted"],
        "data_state": np.concatenate([data["outputs"] / np.sqrt(n), kernel], axis=-1),
        "data_trusted": data_paths(config)["trusted"],
        "widths": np.array(config.widths),
        "rates": config.rates,
        "turning": config.phases == 1,
        "lazy": config.phases == 0,
        "relu_scale": np.array(config.relu_stiffness),
        **train_relu(
            keys[-1],
            np.array(config.relu_stiffness),
            config.relu_width,
            config.relu_examples,
            config.relu_steps,
            sweep,
        ),
    }


def train_single(config: Config, key: jax.Array, width: int, sweep: Any) -> dict[str, np.ndarray]:
    """One example x = 1, y = 0, every rate and start: arrays (rates, starts, steps + 1)."""
    shape = len(config.rates), config.starts
    total = width * config.kernel * np.ones(shape)
    difference, product = width * config.imbalance, np.sqrt(width) * config.outputs
    gram = np.array([[total + difference, 2 * product], [2 * product, total - difference]]) / 2
    task = Task(np.ones((1, 1)), np.zeros(1), np.moveaxis(gram, (0, 1), (2, 3)).reshape(-1, 2, 2))
    rates = np.repeat(config.rates, config.starts)
    run = train_linear(f"width_{width}", key, task, rates, width, config.steps, sweep)
    found = {name: values.reshape(*shape, -1) for name, values in run.items()}
    scaled = found["outputs"] / np.sqrt(width)
    return {
        "single_state": np.stack([scaled, found["kernel"]], axis=-1),
        "single_imbalance": found["imbalance"] / width,
    }


def phases(m: Arrays) -> np.ndarray:
    """1 where |f| never exceeds its initial value, 3 where it diverges, 2 else."""
    size = np.abs(m["single_state"][..., 0])
    diverged = np.isnan(size).any(axis=-1)
    with np.errstate(invalid="ignore"):
        grew = (size > size[..., :1]).any(axis=-1)
    return 1.0 + np.where(diverged, 2, grew)


def peaks(m: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Step and size of the largest loss of catapults, (widths, rates, starts) each."""
    sizes = np.abs(m["single_state"][..., 0][:, m["turning"]])
    loss = m["widths"][:, None, None] * sizes.max(axis=-1) ** 2 / 2
    return sizes.argmax(axis=-1), loss


def slopes_over_width(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Slope of values (widths, rates) against the logarithm of the width, (rates,)."""
    return np.polynomial.polynomial.polyfit(np.log(widths), values, 1)[1]


def slope_error(widths: np.ndarray) -> float:
    """Largest error of such a slope, over the largest error of the values."""
    offsets = np.log(widths) - np.log(widths).mean()
    return np.abs(offsets).sum() / (offsets**2).sum()


def lazy_exponents(m: Arrays) -> np.ndarray:
    """Of the change of the kernel as a power of the width, (rates, starts)."""
    kernel = m["single_state"][..., 1][:, m["lazy"]]
    change = kernel[..., -1] - kernel[..., 0]
    by_member = change.reshape(len(change), -1).T
    return np.array([fitted_exponent(m["widths"], values) for values in by_member])


def closer_to_the_edge(p: Arrays) -> np.ndarray:
    """Relative change of 2 - eta lambda of the smallest lazy networks, (rates * starts,)."""
    kernel = p["single_state"][0, ..., 1][p["lazy"]]
    scaled = kernel * p["rates"][p["lazy"], None, None]
    return np.abs(1 - (2 - scaled[..., -1]) / (2 - scaled[..., 0])).ravel()


def wobble(p: Arrays) -> np.ndarray:
    """By how much the logarithm of the largest loss differs between starts, (rates,)."""
    loss = np.log(np.abs(p["single_state"][-1, p["turning"], ..., 0]).max(axis=-1) ** 2)
    return np.ptp(loss, axis=-1)


CLAIMS = (
    Claim(
        "one example: f and lambda of networks, every width, rate, start and step",
        predicted=lambda p: p["single_state"][p["single_trusted"]],
        measured=lambda m: m["single_state"][m["single_trusted"]],
        tolerance=lambda p, m: p["single_error"][p["single_trusted"]][:, None],
        because="exact at any width; rounding of sums over n units, amplified by the Jacobian of "
        "the map, where that is below 1e-6; f in units of sqrt(n)",
        error="absolute",
    ),
    Claim(
        "several examples: outputs and tangent kernel, lazy and catapult, every step",
        predicted=lambda p: p["data_state"][p["data_trusted"]],
        measured=lambda m: m["data_state"][m["data_trusted"]],
        tolerance=lambda p, m: p["data_error"][p["data_trusted"]][:, None],
        because="exact at any width; amplified rounding, as above",
        error="absolute",
    ),
    Claim(
        "difference of the squared norms of the layers",
        predicted=lambda p: p["single_imbalance"][p["single_trusted"]],
        measured=lambda m: m["single_imbalance"][m["single_trusted"]],
        tolerance=lambda p, m: p["single_imbalance_error"][p["single_trusted"]],
        because="exact at any width; rounding of f as above passes into its factors",
        error="absolute",
    ),
    Claim(
        "phase by eta lambda_0 (1 lazy, 2 catapult, 3 divergent), every width and start",
        predicted=lambda p: p["phases"][:, None],
        measured=phases,
        tolerance=1e-12,
        because="counts: |f| grows in the first step beyond eta lambda_0 = 2 + eta^2 f^2/n, which "
        "is less than 2.5 here, and without end beyond 4",
        error="absolute",
    ),
    Claim(
        "catapults end at 0 < eta lambda < 2, every width, rate and start",
        predicted=lambda p: 1.0,
        measured=lambda m: (m["single_state"][..., -1, 1] * m["rates"][:, None])[:, m["turning"]],
        tolerance=1.0,
        because="the middle of an interval and half its length: where in it is chaotic",
        error="absolute",
    ),
    Claim(
        "steps to the largest loss: slope over ln n, mean over starts, every catapult rate",
        predicted=lambda p: p["peak_slope"],
        measured=lambda m: slopes_over_width(peaks(m)[0].mean(axis=-1), m["widths"]),
        tolerance=lambda p, m: slope_error(p["widths"]) / p["starts"],
        because="the mean of whole steps over starts within one of them errs by 1/starts; what a "
        "fit makes of that",
        error="absolute",
    ),
    Claim(
        "exponent of the largest loss over the width, mean over starts, every catapult rate",
        predicted=lambda p: p["peak_exponent"],
        measured=lambda m: slopes_over_width(np.log(peaks(m)[1]).mean(axis=-1), m["widths"]),
        tolerance=lambda p, m: (
            slope_error(p["widths"])
            * (wobble(p) / p["starts"] + p["outputs"].max() / np.sqrt(p["widths"][0]))
        ),
        because="the loss is periodic in ln f_0, of which starts sample one period; corrections of "
        "relative order f_0/sqrt(n) at the smallest width; what a fit makes of both",
        error="absolute",
    ),
    Claim(
        "exponent of the kernel's change over the width, every lazy rate and start",
        predicted=lambda p: p["lazy_exponent"],
        measured=lazy_exponents,
        tolerance=lambda p, m: slope_error(p["widths"]) * closer_to_the_edge(p),
        because="the next order is the relative change of 2 - eta lambda, the distance to the "
        "edge, largest at the smallest width; what a fit makes of it",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="lewkowycz2020_catapult",
    source=papers.lewkowycz2020("three phases of a two-layer linear network"),
    statement="Above 2/lambda_0 a wide network's loss grows to the order of n, which flattens it.",
    equations=(
        r"f' = f\left(1-\eta\lambda+\frac{\eta^2f^2}{n}\right), \quad"
        r" \lambda' = \lambda + \frac{\eta f^2}{n}(\eta\lambda-4)",
        r"k_{\mathrm{peak}} \simeq \frac{\ln n}{2\ln|1-\eta\lambda_0|} + O(1)",
    ),
    quick=Config(),
    full=Config(
        widths=(128, 512, 2048, 8192, 32768),
        stiffness=(0.5, 1.0, 1.5, 1.8, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.25, 4.5, 5.0),
        starts=16,
        relu_width=512,
        relu_examples=256,
        relu_steps=1000,
    ),
    cost=(15, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
