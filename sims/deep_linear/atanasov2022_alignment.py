"""Silent alignment: the tangent kernel finds its direction before the loss has moved.

Atanasov, Bordelon & Pehlevan (2022): while a two-layer linear network of one output is still on its
first plateau, its tangent kernel turns towards the task; afterwards only its scale changes. All
sizes, scales and rates are our own. Alignment is the cosine between the kernel during training and
the network's own kernel at the end; time is the learning rate times steps of gradient descent on
the loss summed over orthonormal inputs. With two outputs the kernel aligns in as many stages as
there are modes, and only the first of them is silent. The final kernel is that of the rich limit,
at any depth, up to the square of the scale of the initial weights.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics import models
from dynamics.losses import half_squared_error
from dynamics.recording import record_schedule
from dynamics.regime import kernel_alignment
from dynamics.representation import first_crossing
from dynamics.tangent_kernel import empirical_ntk
from sims import papers
from sims.deep_linear.small_starts import (
    Starts,
    at_scales,
    flattest,
    gaussian_networks,
    members,
    standard_starts,
    turned,
)
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import training
from sims.sweep import sweep
from theory.deep_linear import modes, saddles, tangent_kernel

HALVINGS = np.array([1.0, 0.5, 0.25])  # of the largest scale, to measure errors in it
LEVELS = np.array([0.95, 0.99])  # of alignment, at which the loss is looked at
LEARNED = 0.02  # of the task, at most, on what counts as the plateau
EARLY = 1.0  # time, over 1/b, until which the error of the plateau's closed form is measured
TAIL = 8.0  # time for the end of learning, over 1/b
DEEP = {3: (0.1, 150.0), 4: (0.25, 600.0)}  # largest scale and horizon of deeper networks
DEEP_RATE = 0.05
VALUES = (2.0, 1.0)  # singular values, over b, of the task of two outputs


@dataclass(frozen=True)
class Config:
    """Initial weights N(0, scale^2), of deeper networks N(0, scale^2/fan-in)."""

    n_in: int = 8
    n_hidden: int = 10
    teacher_norm: float = 1.5
    largest_scale: float = 0.04
    decades: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    learning_rate: float = 0.004
    starts: int = 4
    records: int = 600
    start_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_in", 2), ("n_hidden", 2), ("starts", 2), ("records", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("teacher_norm", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.largest_scale <= 0.05:
            raise ValueError(f"largest_scale must be in (0, 0.05], got {self.largest_scale}")
        smallest = HALVINGS[-1] * self.largest_scale
        if len(self.decades) < 2 or not 0 < min(self.decades) <= max(self.decades) < smallest:
            raise ValueError(f"decades must be 2 or more below {smallest}, got {self.decades}")

    @property
    def scales(self) -> np.ndarray:
        """The largest and its halves first."""
        return np.array([*self.largest_scale * HALVINGS, *self.decades])

    @property
    def steps(self) -> np.ndarray:
        """At which networks of two layers are looked at: until the slowest has learned."""
        horizon = (TAIL - np.log(min(self.decades))) / self.teacher_norm
        return record_schedule(int(horizon / self.learning_rate), self.records)

    @property
    def times(self) -> np.ndarray:
        """Of the records."""
        return self.steps * self.learning_rate


def task(config: Config, values: Any = (1.0,)) -> np.ndarray:
    """Sigma_yx (out, inputs) with these singular values, over the teacher's norm."""
    return config.teacher_norm * np.eye(len(values), config.n_in) * np.array(values)[:, None]


def over_starts(config: Config, function: Any, n_out: int = 1) -> np.ndarray:
    """``function(W1, W2)`` of every random start of scale 1."""
    return np.asarray(jax.jit(jax.vmap(function))(*starts(config, n_out)))


def starts(config: Config, n_out: int) -> Starts:
    """Random weights of scale 1."""
    sizes = (config.n_in, config.n_hidden, n_out)
    return standard_starts(config.start_seed, config.starts, *sizes)


@cache
def first_strengths(config: Config, values: tuple[float, ...]) -> np.ndarray:
    """Strengths from which the first mode effectively grows, (starts,), from weights of scale 1."""
    grow, sigma = saddles.growing_strengths, task(config, values)
    return over_starts(config, lambda W1, W2: grow(W1, W2, sigma)[0], len(values))


def learned(config: Config, values: tuple[float, ...], scales: Any) -> np.ndarray:
    """Fraction of the first mode learned were the plateau endless, (scales, starts, records)."""
    s = config.teacher_norm * values[0]
    start = np.asarray(scales)[:, None] ** 2 * first_strengths(config, values) / s
    return start[..., None] * np.exp(2 * s * config.times)


def on_plateau(config: Config, values: tuple[float, ...], scales: Any) -> np.ndarray:
    """Where the closed form is meant for."""
    return learned(config, values, scales) < LEARNED


def predict(config: Config) -> Arrays:
    """Alignment over the plateau, loss when it is reached, times, final kernels, two outputs."""
    b, t = config.teacher_norm, config.times
    u0 = b * learned(config, (1.0,), config.scales)[..., 0]
    return {
        "times": t,
        "scales": config.scales,
        "teacher_norm": b,
        "alignment": alignment(config),
        "loss": (1 - modes.two_layer_mode_strength(t, b, u0[..., None]) / b) ** 2,
        "loss_change": loss_change(config),
        "alignment_times": alignment_times(config, alignment(config)[None]),
        "escape_times": saddles.escape_time_small_init(b, u0, 2),
        "escape_slope": 1 / b,
        "step_size": config.learning_rate * b,
        "order": 2.0,
        "start_norms": start_norms(config),
        "layer_pairs": np.array([depth * (depth - 1) / 2 for depth in (2, *DEEP)]),
        "final": np.array([final_eigenvalues(config, depth) for depth in (2, *DEEP)]),
        **plateau(config),
        **two_outputs(config),
    }


@cache
def alignment(config: Config) -> np.ndarray:
    """Of the kernel with its rich limit, (starts, records), were the plateau endless."""
    path, sigma = saddles.plateau_kernel_alignment, task(config)
    return over_starts(config, lambda W1, W2: path(config.times, W1, W2, sigma))


def plateau(config: Config) -> Arrays:
    """Misalignment on the plateau, its times over 1/b, the fraction of the task learned by then."""
    keep = on_plateau(config, (1.0,), config.decades)
    found = {
        "misalignment": 1 - alignment(config),
        "phase": config.teacher_norm * config.times,
        "learned": learned(config, (1.0,), config.decades),
    }
    return {name: np.broadcast_to(values, keep.shape)[keep] for name, values in found.items()}


def loss_change(config: Config) -> np.ndarray:
    """Relative change of the loss when LEVELS are reached, (levels, scales, starts)."""

    def strength(W1, W2):
        W1, W2 = saddles.plateau_weights(config.times, W1, W2, task(config))
        return (W2 @ W1)[:, 0, 0] / config.teacher_norm

    left = 1 - config.scales[:, None, None] ** 2 * over_starts(config, strength)
    aligned = np.broadcast_to(alignment(config), left.shape)
    return change_at(config.times, left**2 / left[..., :1] ** 2, alignment_times(config, aligned))


def alignment_times(config: Config, aligned: np.ndarray) -> np.ndarray:
    """When ``aligned`` (scales, starts, records) reaches LEVELS, (levels, scales, starts)."""
    curves = np.stack([aligned] * len(LEVELS), axis=-1)
    return np.moveaxis(crossings(config.times, curves, LEVELS), -1, 0)


def crossings(times: Any, curves: Any, levels: Any) -> np.ndarray:
    """``first_crossing``, compiled."""
    return np.asarray(jax.jit(first_crossing)(times, curves, levels))


def final_eigenvalues(config: Config, depth: int) -> np.ndarray:
    """Of the final kernel from vanishing weights."""
    return np.linalg.eigvalsh(tangent_kernel.rich_limit_ntk(task(config)[0], depth))


def start_norms(config: Config) -> np.ndarray:
    """Norms of wide random matrices like the initial weights, at the smallest of the halves."""
    two_layers = config.largest_scale * (np.sqrt(config.n_in) + np.sqrt(config.n_hidden))
    return HALVINGS[-1] * np.array([two_layers, *(2 * scale for scale, _ in DEEP.values())])


def two_outputs(config: Config) -> Arrays:
    """Alignment with the final kernel: (starts, records) on the first plateau, on the second."""
    sigma = task(config, VALUES)
    final, first = (tangent_kernel.ntk_balanced(s, 2) for s in (sigma, sigma * [[1.0], [0.0]]))

    def aligned(W1, W2):
        kernel = tangent_kernel.ntk_two_layer(W1.T @ W1, W2 @ W2.T, jnp.eye(config.n_in))
        return tangent_kernel.kernel_alignment(kernel, final)

    def path(W1, W2):
        return jax.vmap(aligned)(*saddles.plateau_weights(config.times, W1, W2, sigma))

    return {
        "two_alignment": over_starts(config, path, len(VALUES)),
        "two_on_plateau": on_plateau(config, VALUES, config.decades[:1])[0],
        "two_level": tangent_kernel.kernel_alignment(first, final),
        "two_values": np.array(sigma.diagonal()),
    }


align = jnp.vectorize(kernel_alignment, signature="(n,n),(n,n)->()")


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of one output at every scale, deeper ones, and networks of two outputs."""
    t, halves = config.times, len(HALVINGS)
    one = train("one_output", config, key, (1.0,), config.scales, sweep)
    aligned, fraction = one["alignment"], 1 - np.sqrt(one["loss"])
    reached = alignment_times(config, aligned)
    early = np.searchsorted(t, EARLY / config.teacher_norm)
    deep = [deep_kernels(config, jax.random.fold_in(key, depth), depth, sweep) for depth in DEEP]
    return {
        "scales": config.scales,
        "alignment": aligned,
        "loss": one["loss"],
        "misalignment": 1 - aligned[halves:][on_plateau(config, (1.0,), config.decades)],
        "early": aligned[:halves, :, 1:early],
        "alignment_times": reached,
        "loss_change": change_at(t, one["loss"], reached),
        "drop_times": crossings(t, fraction[..., None], 0.5)[..., 0],
        "final": np.stack([one["final"][:halves], *deep]),
        **two_stages(config, key, sweep),
    }


def train(
    name: str, config: Config, key: jax.Array, values: Any, scales: Any, sweep: Any
) -> Arrays:
    """Alignment with the final kernel and loss over its start, (scales, starts, records)."""
    networks, sigma = turned(key, starts(config, len(values)), task(config, values))
    model = models.deep_linear((config.n_in, config.n_hidden, len(values)))
    loss = half_squared_error(model.apply, examples="sum")

    def observe(params, data):
        kernel = empirical_ntk(model.apply, params, data[0])
        return {"loss": loss(params, data), "kernel": kernel}

    sigma = np.concatenate([sigma] * len(scales))
    cases = members(tuple(at_scales(networks, scales)), sigma, config.learning_rate)
    run = sweep(name, training(loss, observe), cases, record_at=config.steps)
    shape = (len(scales), config.starts)
    kernels, losses = (
        run.records[which].reshape(*shape, *run.records[which].shape[1:])
        for which in ("kernel", "loss")
    )
    return {
        "alignment": np.asarray(align(kernels, kernels[:, :, -1:])),
        "final": kernels[:, :, -1],
        "loss": losses / losses[..., :1],
        "loss_value": losses,
    }


def change_at(t: np.ndarray, loss: np.ndarray, when: np.ndarray) -> np.ndarray:
    """``1 - loss`` (scales, starts, records) at times (..., scales, starts), log-linearly."""
    log_change = np.log(np.maximum(1 - loss, np.finfo(float).tiny))
    found = [
        [
            [np.interp(w, t, change) for w, change in zip(*pair, strict=True)]
            for pair in zip(at, log_change, strict=True)
        ]
        for at in when
    ]
    return np.exp(found)


def deep_kernels(config: Config, key: jax.Array, depth: int, sweep: Any) -> np.ndarray:
    """Final kernels (HALVINGS, starts, n, n) of networks from random weights of their own."""
    scale, horizon = DEEP[depth]
    widths = (config.n_in, *(config.n_hidden,) * (depth - 1), 1)
    model = models.deep_linear(widths)
    networks = at_scales(gaussian_networks(key, widths, config.starts), scale * HALVINGS)
    loss = half_squared_error(model.apply, examples="sum")
    process = training(loss, lambda p, data: {"kernel": empirical_ntk(model.apply, p, data[0])})
    cases = members(networks, task(config), DEEP_RATE)
    run = sweep(f"depth_{depth}", process, cases, record_at=[int(horizon / DEEP_RATE)])
    kernels = run.records["kernel"][:, 0]
    return kernels.reshape(len(HALVINGS), config.starts, *kernels.shape[1:])


def two_stages(config: Config, key: jax.Array, sweep: Any) -> Arrays:
    """Networks of two outputs: alignment, and what it is where the loss falls slowest and last."""
    key = jax.random.fold_in(key, len(VALUES))
    found = jax.tree.map(
        lambda a: a[0], train("two_outputs", config, key, VALUES, config.decades[:1], sweep)
    )
    t, loss, aligned = config.times, found["loss_value"], found["alignment"]
    costs = (config.teacher_norm * np.array(VALUES)) ** 2 / 2
    halfway = np.cumsum(costs[::-1])[::-1] - 0.75 * costs
    first, second = crossings(t, -np.stack([loss] * 2, axis=-1), -halfway).T
    flat = flattest(t, loss, first, second)[:, None]
    return {
        "two_alignment": aligned,
        "two_on_plateau": on_plateau(config, VALUES, config.decades[:1])[0],
        "two_level": np.take_along_axis(aligned, flat, axis=1)[:, 0],
        "two_loss": loss,
        "two_flat_loss": np.take_along_axis(loss, flat, axis=1)[:, 0],
    }


def order_in_scale(values: np.ndarray) -> float:
    """Exponent of the error in the scale of the weights, from values at HALVINGS (leading)."""
    first, second = np.diff(values, axis=0)
    return float(np.log2(np.linalg.norm(first) / np.linalg.norm(second)))


def limit_eigenvalues(kernels: np.ndarray) -> np.ndarray:
    """Of kernels (..., HALVINGS, starts, n, n), from weights that vanish: (..., starts, n)."""
    return np.linalg.eigvalsh((4 * kernels[..., 2, :, :, :] - kernels[..., 1, :, :, :]) / 3)


def escape_slopes(m: Arrays) -> np.ndarray:
    """Of the time of the drop against ln(1/scale), for every start."""
    halves = len(HALVINGS)
    return np.polyfit(-np.log(m["scales"][halves:]), m["drop_times"][halves:], 1)[0]


CLAIMS = (
    Claim(
        "misalignment of the kernel over the plateau",
        predicted=lambda p: p["misalignment"],
        measured=lambda m: m["misalignment"],
        tolerance=lambda p, m: 2 * p["step_size"] * (1 + p["phase"]) + 2 * p["learned"],
        because="steps of size eta slow growth by eta b/2, which misalignment feels squared: twice "
        "that, over time; and twice the fraction of the task already learned",
    ),
    Claim(
        "order in the scale of the weights of what the plateau's closed form leaves out",
        predicted=lambda p: p["order"],
        measured=lambda m: order_in_scale(m["early"]),
        tolerance=0.1,
        because="the next order is that of the task learned, some percent of it by then",
        error="absolute",
    ),
    Claim(
        "change of the loss when the alignment reaches 0.95 and 0.99, small scales",
        predicted=lambda p: p["loss_change"][:, len(HALVINGS) :],
        measured=lambda m: m["loss_change"][:, len(HALVINGS) :],
        tolerance=lambda p, m: p["step_size"] + 4 * p["loss_change"][:, len(HALVINGS) :],
        because="steps act on alignment and loss alike and leave less than eta b; the next order "
        "is the change itself",
    ),
    Claim(
        "time at which half of the task is learned",
        predicted=lambda p: p["escape_times"],
        measured=lambda m: m["drop_times"],
        tolerance=lambda p, m: p["step_size"] + 4 * p["scales"][:, None] ** 2,
        because="finite steps delay it by a fraction eta b/2; twice that, and the square of scale",
    ),
    Claim(
        "slope of that time against ln(1/scale)",
        predicted=lambda p: p["escape_slope"],
        measured=escape_slopes,
        tolerance=lambda p, m: p["step_size"],
        because="finite steps delay growth by a fraction eta b/2; twice that",
    ),
    Claim(
        "order in the scale of the weights of the final kernel's distance from the rich limit",
        predicted=lambda p: p["order"],
        measured=lambda m: np.array([order_in_scale(kernels) for kernels in m["final"]]),
        tolerance=0.25,
        because="the next order is that of squares of initial singular values, at most 1/4",
        error="absolute",
    ),
    Claim(
        "eigenvalues of the final kernel at depth 2, 3 and 4, from vanishing weights",
        predicted=lambda p: p["final"][:, None],
        measured=lambda m: limit_eigenvalues(m["final"]),
        tolerance=lambda p, m: (4 * p["layer_pairs"] * p["start_norms"] ** 4)[:, None, None],
        because="extrapolated without its second order in the weights, which leaves four times the "
        "fourth: at most the squared norms of each pair of layers",
    ),
    Claim(
        "two outputs: alignment with the final kernel over the first plateau",
        predicted=lambda p: p["two_alignment"][p["two_on_plateau"]],
        measured=lambda m: m["two_alignment"][m["two_on_plateau"]],
        tolerance=lambda p, m: 2 * p["step_size"] * VALUES[0] + 2 * LEARNED,
        because="as for one output: finite steps, and what has been learned of the first mode",
    ),
    Claim(
        "two outputs: alignment on the second plateau, where the loss falls slowest",
        predicted=lambda p: p["two_level"],
        measured=lambda m: m["two_level"],
        tolerance=lambda p, m: (
            (p["two_values"][1] / 2 - m["two_flat_loss"] / p["two_values"][1])
            / p["two_values"][0]
            * 2
        ),
        because="twice what is learned of the second mode there, seen in the loss, over the first",
    ),
)

EXPERIMENT = Experiment(
    name="atanasov2022_alignment",
    source=papers.atanasov2022("silent alignment of the tangent kernel"),
    statement="The tangent kernel aligns with the task while the loss still stands on its first "
    "plateau; afterwards only its scale grows.",
    equations=(
        r"a = a_0\cosh\frac{bt}{\tau} + W_0\hat\beta\,\sinh\frac{bt}{\tau}, \quad "
        r"W\hat\beta = W_0\hat\beta\,\cosh\frac{bt}{\tau} + a_0\sinh\frac{bt}{\tau}",
        r"1 - \cos\angle(\Theta,\ I+\hat\beta\hat\beta^T) \sim e^{-2bt/\tau}, \quad "
        r"t_{\mathrm{drop}} \simeq \frac{\tau}{b}\ln\frac{1}{\epsilon}",
        r"\Theta(\infty) = b^{2-2/L}\left[I + (L-1)\hat\beta\hat\beta^T\right] + O(\epsilon^2)",
    ),
    quick=Config(),
    full=Config(
        n_in=12,
        n_hidden=16,
        largest_scale=0.03,
        decades=(1e-3, 1e-4, 1e-5, 1e-6),
        learning_rate=0.002,
        starts=16,
    ),
    cost=(10, 60),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
