"""Low-rank initial weights learn richly, unless they are aligned with the task.

Liu, Baratin, Cornford, Mihalas, Shea-Brown & Lajoie (2023): of initial weights of one Frobenius
norm, those of low rank change most, measured by how far the tangent kernel, the representation and
the weights are from where they began; low rank that fits the task is the exception. Here in a
two-layer linear network with one output, white inputs, a readout that starts at zero and first
layers of r equal singular values, where all of it has a closed form; gradient flow is integrated
on the network itself. Large initial weights are lazy only if they are aligned.

A vanilla recurrent network that reads digits row by row is shown beside it, without a claim: theory
has no formula for it, and though its kernel's alignment rises with rank on average, single networks
of low rank scatter too widely. That ranks are truncated at fixed Frobenius norm is seen in the
authors' code. All sizes, norms and training times are our own.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import beta

from dynamics import models, regime
from dynamics.flow import gradient_flow
from dynamics.losses import half_squared_error
from dynamics.recurrent import Recurrent, recurrent_network, reduce_rank
from dynamics.tangent_kernel import empirical_ntk
from sims import data, papers
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import generator, seed_keys, training_process
from sims.sweep import sweep
from theory.deep_linear.tangent_kernel import low_rank_laziness

ALIGNMENTS = np.array([0.03, 0.1, 0.3, 0.6, 1.0])  # of the task with the initial weights
ALIGNED = -1
MEASURES = ("kernel_alignment", "representation_alignment", "weight_change", "readout_norm")
ROWS, PIXELS, DIGITS = 8, 8, 10  # of a digit's image; of outputs
QUANTILES = 2000  # of task alignments, to average over
PROBES = 6  # digits on which the kernel of the recurrent network is measured


@dataclass(frozen=True)
class Config:
    """``sq_norm`` is that of W(0) at every rank; ``sq_norms`` are others, at ``low_rank``.

    ``draws`` random teachers, of squared norm ``target_sq_norm``, for each network.
    """

    n_in: int = 10
    n_hidden: int = 10
    ranks: tuple[int, ...] = (1, 2, 3, 5, 7, 10)
    low_rank: int = 2
    sq_norm: float = 6.0
    sq_norms: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0)
    target_sq_norm: float = 1.7
    draws: int = 96
    units: int = 32
    recurrent_ranks: tuple[int, ...] = (1, 3, 10, 32)
    digits: int = 40
    steps: int = 200
    seeds: int = 6

    def __post_init__(self) -> None:
        for name, limit in (
            ("ranks", min(self.n_in, self.n_hidden)),
            ("recurrent_ranks", self.units),
        ):
            values = getattr(self, name)
            if not values or min(values) < 1 or max(values) > limit:
                raise ValueError(f"{name} must be between 1 and {limit}, got {values}")
        if not 1 < self.low_rank < min(self.n_in, self.n_hidden):
            raise ValueError(f"low_rank must be more than 1 and not full, got {self.low_rank}")
        for name in ("sq_norm", "target_sq_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if len(self.sq_norms) < 2 or min(self.sq_norms) <= 0:
            raise ValueError(f"sq_norms must be two or more positive, got {self.sq_norms}")
        for name, least in (("draws", 8), ("digits", PROBES), ("steps", 1), ("seeds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def settings(self) -> np.ndarray:
        """Rank and squared norm of the networks: of every rank, then of every norm."""
        by_rank = [(rank, self.sq_norm) for rank in self.ranks]
        return np.array(by_rank + [(self.low_rank, norm) for norm in self.sq_norms])

    def alignments(self, rank: Any) -> Any:
        """``ALIGNMENTS``, but 1 at full rank: then there is nothing that W(0) does not span."""
        return np.where(np.asarray(rank) == self.n_in, 1.0, ALIGNMENTS)


def laziness(config: Config, rank: Any, sq_norm: Any, alignment: Any = None) -> Arrays:
    """Theory of the network of this size, averaged over tasks unless alignment is given."""
    return low_rank_laziness(rank, config.n_in, sq_norm, config.target_sq_norm, alignment)


def predict(config: Config) -> Arrays:
    """Every measure at every alignment (settings, alignments), task averages, and curves."""
    rank, norm = config.settings().T
    rank = rank.astype(int)
    fixed = laziness(config, rank[:, None], norm[:, None], config.alignments(rank[:, None]))
    norms = np.geomspace(min(config.sq_norms) / 2, 2 * max(config.sq_norms), 61)
    low = np.array([r for r in config.ranks if r < config.n_in])
    rho = np.tile(np.linspace(0.01, 1, 61), (len(low), 1))
    return {
        "ranks": np.array(config.ranks),
        "sq_norms": np.array(config.sq_norms),
        "alignments": config.alignments(rank[:, None]),
        **{name: fixed[name] for name in MEASURES},
        **task_averages(config, rank, norm),
        "curve_norms": norms,
        "curves": np.stack(
            [laziness(config, config.low_rank, norms, a)["kernel_alignment"] for a in (None, 1.0)]
        ),
        "line_ranks": low,
        "line_alignments": rho,
        "lines": laziness(config, low[:, None], config.sq_norm, rho)["kernel_alignment"],
    }


def task_averages(config: Config, rank: np.ndarray, norm: np.ndarray) -> Arrays:
    """Mean and spread of the first three measures over random teachers: (measures, settings).

    The teachers' alignment is distributed as Beta(r/2, (d-r)/2), of which quantiles are taken.
    """
    levels = (np.arange(QUANTILES) + 0.5)[None, :] / QUANTILES
    free = np.maximum(config.n_in - rank, 1e-9)[:, None]  # full rank: all at 1
    rho = np.where(free < 1, 1.0, beta.ppf(levels, rank[:, None] / 2, free / 2))
    found = laziness(config, rank[:, None], norm[:, None], rho)
    values = np.stack([found[name] for name in MEASURES[:3]])
    return {"average": values.mean(axis=2), "spread": values.std(axis=2)}


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Integrate the gradient flow of linear networks; train recurrent ones on digits."""
    draw, model = generator(key), models.deep_linear((config.n_in, config.n_hidden, 1))
    x = np.sqrt(2 * config.n_in) * orthonormal(draw, 2 * config.n_in, config.n_in)
    train = jax.jit(jax.vmap(partial(learn, model), (None, 0, None)))
    found: dict[str, list[Any]] = {}
    for rank, sq_norm in config.settings():
        weights, teachers, rho = networks(config, draw, int(rank), sq_norm)
        targets = np.einsum("ni,di->dn", x, teachers)[..., None]
        # saddles are left, and what W(0) does not span is learned, at a rate of |beta|^2 / sigma^2
        horizon = jnp.asarray(40 * max(1.0, sq_norm / rank / config.target_sq_norm), float)
        seen = train(jnp.asarray(x), (jnp.asarray(weights), jnp.asarray(targets)), horizon)
        for name, values in {**seen, "task_alignment": rho}.items():
            found.setdefault(name, []).append(np.asarray(values))
    stacked = {name: np.stack(values) for name, values in found.items()}
    return {
        "sq_norms": np.array(config.sq_norms),
        **{name: stacked[name][:, : len(ALIGNMENTS)] for name in MEASURES},
        **{f"random_{name}": values[:, len(ALIGNMENTS) :] for name, values in stacked.items()},
        "recurrent_alignment": recurrent_alignment(config, key, sweep),
    }


def orthonormal(draw: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A random matrix with orthonormal columns; the signs of its columns do not matter here."""
    return np.linalg.qr(draw.standard_normal((rows, columns)))[0]


def networks(config: Config, draw: np.random.Generator, rank: int, sq_norm: float) -> Any:
    """First layers, teachers and task alignments: teachers of each of ``ALIGNMENTS``, then random.

    (networks, n_hidden, n_in), (networks, n_in), (networks,); every network has its own bases.
    """
    weights, teachers, found = [], [], []
    for index in range(len(ALIGNMENTS) + config.draws):
        basis = orthonormal(draw, config.n_in, config.n_in)
        inside, outside = np.split(basis, [rank], axis=1)
        teacher = draw.standard_normal(config.n_in)
        if index < len(ALIGNMENTS):
            rho = config.alignments(rank)[index]
            parts = [space @ space.T @ teacher for space in (inside, outside)]
            scales = [np.sqrt(share) for share in (rho, 1 - rho)]
            teacher = sum(
                scale * part / np.linalg.norm(part)
                for scale, part in zip(scales, parts, strict=True)
                if scale > 0
            )
        teacher = teacher * np.sqrt(config.target_sq_norm) / np.linalg.norm(teacher)
        left = orthonormal(draw, config.n_hidden, rank)
        weights.append(np.sqrt(sq_norm / rank) * left @ inside.T)
        teachers.append(teacher)
        found.append(np.sum((inside.T @ teacher) ** 2) / config.target_sq_norm)
    return np.stack(weights), np.stack(teachers), np.array(found)


def learn(model: models.Model, x: jax.Array, task: Any, horizon: jax.Array) -> dict[str, jax.Array]:
    """How far gradient flow on all examples moves a network whose readout starts at zero."""
    first, targets = task
    start = (first, jnp.zeros((1, len(first))))
    loss = half_squared_error(model.apply, examples="mean")
    flow = gradient_flow(start, (x, targets), loss=loss, times=horizon[None], rtol=1e-8)
    end = jax.tree.map(lambda w: w[-1], flow.params)
    kernels = (empirical_ntk(model.apply, params, x) for params in (start, end))
    return {
        "kernel_alignment": regime.kernel_alignment(*kernels),
        "representation_alignment": regime.representation_alignment(x @ first.T, x @ end[0].T),
        "weight_change": regime.weight_change(first, end[0]),
        "readout_norm": jnp.linalg.norm(end[1]),
    }


def reader(config: Config) -> models.Model:
    """A recurrent network that sees the rows of an image, (examples, pixels), one by one."""
    network = recurrent_network(PIXELS, config.units, DIGITS, gain=1.25)

    def apply(params, x):
        return network.apply(params, x.reshape(len(x), ROWS, PIXELS))

    return models.Model(network.init, apply)


def recurrent_alignment(config: Config, key: jax.Array, sweep: Any) -> np.ndarray:
    """Alignment (seeds, ranks) of the recurrent weights' kernel after training on digits."""
    digits, model = data.load("digits", config.digits), reader(config)
    x, y = jnp.asarray(digits.x / digits.x.max()), jnp.asarray(digits.y)

    def init(case, shared):
        params = model.init(case["key"])
        return params._replace(recurrent=reduce_rank(params.recurrent, case["rank"]))

    members = config.seeds * len(config.recurrent_ranks)
    cases = {
        "key": jnp.repeat(seed_keys(key, config.seeds), len(config.recurrent_ranks)),
        "rank": jnp.tile(jnp.array(config.recurrent_ranks), config.seeds),
        "learning_rate": jnp.full(members, 0.05),
    }
    loss = half_squared_error(model.apply, examples="mean")
    network = training_process(init, loss, lambda params, shared: params._asdict())
    run = sweep("recurrent", network, cases, {"data": (x, y)}, record_at=[0, config.steps])
    measure = jax.jit(jax.vmap(partial(alignment_with_start, model, x[:PROBES])))
    return np.asarray(measure(Recurrent(**run.records))).reshape(config.seeds, -1)


def alignment_with_start(model: models.Model, x: jax.Array, params: Recurrent) -> jax.Array:
    """Alignment of the recurrent weights' kernels before and after, which lead in ``params``."""

    def kernel(params):
        def apply(recurrent, x):
            return model.apply(params._replace(recurrent=recurrent), x)

        return empirical_ntk(apply, params.recurrent, x)

    return regime.kernel_alignment(*jax.lax.map(kernel, params))


def random_tasks(m: Arrays) -> np.ndarray:
    """The first three measures with random tasks: (draws, measures, settings)."""
    return np.moveaxis(np.stack([m[f"random_{name}"] for name in MEASURES[:3]]), 2, 0)


def missing(alignment: np.ndarray, norms: int) -> np.ndarray:
    """1 less the kernel alignment of aligned networks in the last ``norms`` settings."""
    return 1 - alignment[-norms:, ALIGNED]


FLOW = "gradient flow, integrated to 1e-8 by step, towards a point where all has been learned"

CLAIMS = (
    *(
        Claim(
            what,
            predicted=lambda p, name=name: p[name],
            measured=lambda m, name=name: m[name],
            tolerance=1e-6,
            because=FLOW,
        )
        for name, what in zip(
            MEASURES,
            (
                "kernel alignment, at every rank, task alignment and norm",
                "representation alignment",
                "change of the first layer's weights",
                "norm of the readout",
            ),
            strict=True,
        )
    ),
    Claim(
        "kernel and representation alignment and change of weights, averaged over random tasks",
        predicted=lambda p: p["average"],
        measured=lambda m: random_tasks(m).mean(axis=0),
        tolerance=lambda p, m: (
            4 * p["spread"] / p["average"] / np.sqrt(len(random_tasks(m))) + 1e-3
        ),
        because="4 standard errors over tasks, their spread as predicted (at full rank there is "
        "none), and 1e-3 for the average over quantiles",
    ),
    Claim(
        "what is missing to laziness, aligned networks of low rank, over norms",
        predicted=lambda p: missing(p["kernel_alignment"], len(p["sq_norms"])),
        measured=lambda m: missing(m["kernel_alignment"], len(m["sq_norms"])),
        tolerance=1e-4,
        because="the same error, relative to what is 100 times less than the alignment",
    ),
)

EXPERIMENT = Experiment(
    name="liu2023_laziness",
    source=papers.liu2023("rank of initial weights against laziness of learning"),
    statement="Initial weights of low rank learn richly, unless they are aligned with the task.",
    equations=(
        r"\sigma^2 = \|W_0\|^2/r, \quad "
        r"T, A = \tfrac12\left(\sqrt{\sigma^4 + 4|\beta|^2} \pm \sigma^2\right), \quad "
        r"\rho = |V^\top \beta|^2 / |\beta|^2",
        r"\mathrm{KA} = \frac{\sigma^2(r-1) + T\rho + Ar}"
        r"{\sqrt{r\,[\sigma^4(r-1) + T^2 + A^2 d + 2A(\sigma^2(r-1) + T)]}}",
        r"\mathrm{RA} = \frac{\sigma^2(r-1) + T\rho}{\sqrt{r\,[\sigma^4(r-1) + T^2]}}, \qquad "
        r"|W_\infty - W_0|^2 = T + \sigma^2 - 2\sigma\sqrt{T\rho}",
    ),
    quick=Config(),
    full=Config(
        n_in=40,
        n_hidden=60,
        ranks=(1, 2, 4, 8, 16, 32, 40),
        low_rank=4,
        sq_norm=12.0,
        sq_norms=(3.0, 6.0, 12.0, 24.0),
        draws=128,
        units=64,
        recurrent_ranks=(1, 4, 16, 64),
        digits=100,
        steps=1000,
        seeds=12,
    ),
    cost=(13, 600),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
