"""Lazy and feature training: the scale alpha of the output against the width n.

Geiger, Spigler, Jacot & Wyart (2020): networks F = alpha (f - f_0) in the NTK parametrisation train
lazily or learn features according to alpha n^(1/2). In mean-field terms the richness is gamma =
1/(alpha n^(1/2)), and at fixed gamma nothing depends on n if it is large; at fixed alpha all
networks become lazy with n. Two-layer networks, linear and tanh; the linear one of infinite width
is solved exactly, which is derived here, as are all exponents. Sizes, data, scales are our own:
orthogonal inputs, for which kernels begin near a multiple of the identity and training is short.

Two limits of the picture are claimed as well. The collapse on alpha n^(1/2) holds down to gamma =
0 only from mirrored weights (f_0 = 0 by construction). Where f_0 is subtracted the kernel also
changes by a term of random sign, gamma n^(-1/2), which wins for gamma < n^(-1/2) and does not
collapse. And measures that compare directions are blind to growth: the kernel of a scalar linear
network, f = a w x, grows by a factor 1 + 1/alpha at a kernel distance of zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.losses import half_squared_error
from dynamics.models import Model, deep_linear
from dynamics.regime import kernel_alignment, kernel_change, kernel_distance, weight_change
from dynamics.tangent_kernel import empirical_ntk
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.scaled_networks import mirrored, tangent_kernel, two_layer
from sims.processes import seed_keys, training
from sims.rates import fitted_exponent, jackknife, standard_error
from sims.sweep import sweep
from theory.deep_linear.tangent_kernel import ntk_balanced
from theory.kernels.output_scale import scaled_linear_network

LINEAR, TANH, RANDOM = range(3)  # linear and tanh from mirrored weights, tanh with f_0 subtracted
KINDS = ((0.0, True), (1.0, True), (1.0, False))  # how nonlinear, whether mirrored
SCALAR_ALPHAS = np.array([4.0, 1.0, 0.25, 0.05])
SCALAR_STEPS = 400
TANH_RATE = 0.3  # learning rate of tanh networks, as ``linear_rate``
SCALAR_INPUTS = np.linspace(-1, 1, 9)[:, None]


@dataclass(frozen=True)
class Config:
    """``fixed_alpha`` is trained at every width besides ``gammas``, smallest first.

    ``linear_rate``: learning rate of linear networks times the largest eigenvalue of the final
    kernel, over the number of examples.
    """

    inputs: int = 2
    widths: tuple[int, ...] = (64, 256, 1024)
    gammas: tuple[float, ...] = (1 / 512, 1 / 16, 1 / 4, 1.0, 4.0)
    fixed_alpha: float = 2.0
    linear_rate: float = 0.1
    steps: int = 250
    seeds: int = 10
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.inputs < 2:
            raise ValueError(f"inputs must be at least 2, got {self.inputs}")
        if len(self.widths) < 2 or min(self.widths) < 2 or any(n % 2 for n in self.widths):
            raise ValueError(f"widths must be two or more even numbers, got {self.widths}")
        if np.any(np.diff(self.widths) <= 0):
            raise ValueError(f"widths must increase, got {self.widths}")
        if min(self.gammas) <= 0 or np.any(np.diff(self.gammas) <= 0):
            raise ValueError(f"gammas must be positive and increase, got {self.gammas}")
        if not self.fixed_alpha > 0:
            raise ValueError(f"fixed_alpha must be positive, got {self.fixed_alpha}")
        if not 0 < self.linear_rate < 0.4:
            raise ValueError(f"linear_rate must be between 0 and 0.4, got {self.linear_rate}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.seeds < 3:
            raise ValueError(f"seeds must be at least 3, got {self.seeds}")

    @property
    def target_norm(self) -> float:
        """|b| of the target b . x d^(-1/2), so that targets are of order one."""
        return float(np.sqrt(self.inputs))

    def richness(self) -> np.ndarray:
        """``gammas``, and last that of ``fixed_alpha``, (gammas + 1, widths)."""
        fixed = np.tile(np.array(self.gammas)[:, None], len(self.widths))
        return np.vstack([fixed, 1 / (self.fixed_alpha * np.sqrt(self.widths))])

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Orthogonal inputs of length d^(1/2), (d, d), and targets of a random linear teacher."""
        draw = np.random.default_rng(self.data_seed)
        basis = np.linalg.qr(draw.standard_normal((self.inputs, self.inputs)))[0]
        teacher = draw.standard_normal((self.inputs, 1))
        return (
            np.sqrt(self.inputs) * basis,
            self.target_norm * basis @ teacher / np.linalg.norm(teacher),
        )


def predict(config: Config) -> Arrays:
    """Linear networks at every richness, a curve to draw, scalar networks, and exponents."""
    richness = config.richness()
    curve = np.geomspace(richness.min() / 2, 2 * richness.max(), 81)
    task = config.target_norm, config.inputs
    curves = scaled_linear_network(curve, *task)._asdict()
    ends = [ntk_balanced(np.array([[1 + 1 / alpha]]), depth=2) for alpha in SCALAR_ALPHAS]
    first = ntk_balanced(np.array([[1.0]]), depth=2)
    widths = np.array(config.widths)
    return {
        "widths": widths,
        "inputs": config.inputs,
        "pairs": widths / 2,
        "linear_rate": config.linear_rate,
        "richness": richness,
        **scaled_linear_network(richness, *task)._asdict(),
        "curve_richness": curve,
        **{f"curve_{name}": values for name, values in curves.items()},
        "scalar_change": np.array([float(np.sum(end / first - 1)) for end in ends]),
        "scalar_alignment": 1.0,
        "width_ratio": 1.0,
        "fixed_alpha_exponents": np.array([-1.0, -1.0]),
        "fixed_gamma_exponents": np.array([0.0, -0.5]),
    }


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Gradient descent of all networks, (gammas + 1, kinds, widths, seeds), and scalar networks."""
    x, y = (jnp.asarray(array) for array in config.data())
    keys, found = seed_keys(key, config.seeds), []
    for width, gammas in zip(config.widths, config.richness().T, strict=True):
        shape = (len(gammas), len(KINDS), config.seeds)
        gamma, kind, seed = (grid.ravel() for grid in np.indices(shape))
        draw = jax.jit(jax.vmap(partial(member, config, width, x, y)))
        cases = draw(keys[seed], jnp.asarray(gammas)[gamma], jnp.array(KINDS)[kind])
        process = training(partial(scaled_loss, width), partial(movement, width))
        run = sweep(f"width_{width}", process, cases, record_at=[config.steps])
        found.append({name: values.reshape(shape) for name, values in run.records.items()})
    networks = {name: np.stack([seen[name] for seen in found], axis=2) for name in found[0]}
    return networks | scalar_networks(sweep) | {"widths": np.array(config.widths)}


def network(width: int, data: Any) -> Model:
    """A network whose activation is h for ``nonlinear`` = 0 and tanh(h) for 1."""
    return two_layer(data["x"].shape[1], width, activation(data))


def activation(data: Any) -> Callable[[jax.Array], jax.Array]:
    """See ``network``."""
    return lambda h: h + data["nonlinear"] * (jnp.tanh(h) - h)


def member(config: Config, width: int, x: Any, y: Any, key: Any, gamma: Any, kind: Any) -> Any:
    """One network at its start, its data, and a learning rate that suits its final kernel."""
    nonlinear, mirror = kind
    data = {"x": x, "nonlinear": nonlinear, "scale": gamma * np.sqrt(width)}  # 1/alpha
    model = network(width, data)
    start = model.init(key)
    start = jax.tree.map(partial(jnp.where, mirror > 0), mirrored(start), start)
    data |= {"y": model.apply(start, x) + data["scale"] * y, "start": start}
    largest = jnp.linalg.eigvalsh(tangent_kernel(start, x, activation(data)))[-1]
    grown = jnp.sqrt(1 + gamma**2 * jnp.sum(y**2))  # exact for linear networks, an estimate else
    relative = jnp.where(nonlinear > 0, TANH_RATE, config.linear_rate)
    rate = relative * len(x) / (largest * grown)
    return {"network": start, "data": data, "learning_rate": rate, "key": key}


def scaled_loss(width: int, params: Any, data: Any) -> jax.Array:
    """Half the mean squared error of F, over alpha^2."""
    model = network(width, data)
    return half_squared_error(model.apply, examples="mean")(params, (data["x"], data["y"]))


def movement(width: int, params: Any, data: Any) -> dict[str, jax.Array]:
    """How far training has moved the network; ``residual`` is the largest error of F left."""
    kernels = [tangent_kernel(w, data["x"], activation(data)) for w in (data["start"], params)]
    error = network(width, data).apply(params, data["x"]) - data["y"]
    return {
        "kernel_change": kernel_change(*kernels),
        "kernel_distance": kernel_distance(*kernels),
        "weight_change": weight_change(data["start"], params, relative=True),
        "residual": jnp.max(jnp.abs(error)) / data["scale"],
    }


def scalar_networks(sweep: Any) -> dict[str, np.ndarray]:
    """Kernels of f = a w x, from a = w = 1 to alpha (f - f_0) = x, at every ``SCALAR_ALPHAS``."""
    model = deep_linear((1, 1, 1))
    x = jnp.asarray(SCALAR_INPUTS)
    start = (jnp.ones((1, 1)), jnp.ones((1, 1)))
    loss = half_squared_error(model.apply, examples="mean")
    process = training(loss, lambda params, _: {"kernel": empirical_ntk(model.apply, params, x)})
    outputs = 1 + 1 / SCALAR_ALPHAS[:, None, None]
    members = len(SCALAR_ALPHAS)
    cases = {
        "network": jax.tree.map(lambda w: jnp.tile(w[None], (members, 1, 1)), start),
        "data": (jnp.tile(x[None], (members, 1, 1)), outputs * x[None]),
        "learning_rate": 0.25 / outputs[:, 0, 0] / float(jnp.mean(x**2)),
        "key": seed_keys(jax.random.key(0), members),  # full batch: not used
    }
    kernels = sweep("scalar", process, cases, record_at=[0, SCALAR_STEPS]).records["kernel"]
    pairs = [(kernel_change(*pair), kernel_alignment(*pair)) for pair in kernels]
    change, alignment = np.asarray(pairs, float).T
    return {"scalar_change": change, "scalar_alignment": alignment}


def mean_movement(m: Arrays, name: str, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over networks and its standard error, (gammas + 1, widths)."""
    values = np.moveaxis(m[name][:, kind], -1, 0)
    return values.mean(axis=0), standard_error(values)


def linear_claim(what: str, name: str, because: str, power: int) -> Claim:
    """A measure of linear networks at every richness and width, against the infinite one."""
    return Claim(
        f"linear networks: {what}",
        predicted=lambda p: p[name],
        measured=lambda m: mean_movement(m, name, LINEAR)[0],
        tolerance=lambda p, m: (
            4 * mean_movement(m, name, LINEAR)[1] / p[name]
            + p["inputs"] ** power / p["pairs"][None]
            + p["linear_rate"]
        ),
        because=f"4 standard errors over networks; corrections of order {because}; what steps of "
        "finite size change, relative to the flow, of the order of the learning rate",
    )


def logarithms(m: Arrays, kind: int) -> np.ndarray:
    """Logarithm of the kernel change of every network, (seeds, gammas + 1, widths)."""
    return np.moveaxis(np.log(m["kernel_change"][:, kind]), -1, 0)


def to_widest(m: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Kernel change of mirrored tanh networks over that of the widest, and its relative error.

    Geometric means over networks, at every gamma and for all widths but the widest.
    """
    values = logarithms(m, TANH)[:, :-1]
    mean, error = values.mean(axis=0), standard_error(values)
    ratio = np.exp(mean[:, :-1] - mean[:, -1:])
    return ratio, np.hypot(error[:, :-1], error[:, -1:])


def width_exponents(m: Arrays, index: int) -> np.ndarray:
    """Power of the width in the kernel change of tanh networks at one richness, and its error.

    Of geometric means; from mirrored weights and where f_0 is subtracted: (2, kinds).
    """

    def fit(mean):
        return fitted_exponent(m["widths"], np.exp(mean))

    values = [logarithms(m, kind)[:, index] for kind in (TANH, RANDOM)]
    return np.array([[fit(v.mean(axis=0)) for v in values], [jackknife(fit, v) for v in values]])


WIDTH_FIT = (
    "4 standard errors over networks, and finite-width corrections, of order inputs^2 over "
    "mirrored pairs of units at the smallest width, over the logarithmic range of widths"
)


def exponent_claim(what: str, name: str, index: int) -> Claim:
    """The powers of the width at one richness, from both starts."""

    def tolerance(p: Arrays, m: Arrays) -> np.ndarray:
        span = np.log(p["widths"][-1] / p["widths"][0])
        return 4 * width_exponents(m, index)[1] + p["inputs"] ** 2 / p["pairs"][0] / span

    return Claim(
        f"tanh: power of the width in the kernel change {what}, both starts",
        predicted=lambda p: p[name],
        measured=lambda m: width_exponents(m, index)[0],
        tolerance=tolerance,
        because=WIDTH_FIT,
        error="absolute",
    )


CLAIMS = (
    linear_claim("change of the kernel", "kernel_change", "inputs over mirrored pairs", 1),
    linear_claim("distance of the kernel", "kernel_distance", "inputs^2 over mirrored pairs", 2),
    linear_claim("change of the weights", "weight_change", "inputs over mirrored pairs", 1),
    Claim(
        "tanh, mirrored: kernel change at fixed gamma over that of the widest network",
        predicted=lambda p: p["width_ratio"],
        measured=lambda m: to_widest(m)[0],
        tolerance=lambda p, m: 4 * to_widest(m)[1] + p["inputs"] ** 2 / p["pairs"][None, :-1],
        because="4 standard errors over networks; finite-width corrections of order inputs^2 (the "
        "entries of a kernel, which fluctuate) over mirrored pairs of units",
    ),
    exponent_claim("at fixed alpha", "fixed_alpha_exponents", -1),
    exponent_claim("at the smallest gamma", "fixed_gamma_exponents", 0),
    Claim(
        "scalar networks: change of the kernel, which only grows",
        predicted=lambda p: p["scalar_change"],
        measured=lambda m: m["scalar_change"],
        tolerance=1e-9,
        because="gradient descent until nothing is left to learn; rounding",
    ),
    Claim(
        "scalar networks: alignment of the kernel with its start",
        predicted=lambda p: p["scalar_alignment"],
        measured=lambda m: m["scalar_alignment"],
        tolerance=1e-12,
        because="rounding",
    ),
)

EXPERIMENT = Experiment(
    name="geiger2020_phase",
    source=papers.geiger2020("lazy and feature training in the plane of width and output scale"),
    statement="What training does to the kernel depends on alpha and width as alpha n^(1/2); at "
    "fixed alpha wide networks are lazy.",
    equations=(
        r"F = \alpha\,(f_\theta - f_{\theta_0}), \quad \gamma = \frac{1}{\alpha\sqrt n}, \qquad "
        r"\text{linear: } C = \sqrt{1+\gamma^2|b|^2}, \quad "
        r"\frac{|\Delta\Theta|}{|\Theta|} = \frac{C-1}{2}\sqrt{\frac{d+3}{d}}",
        r"\gamma\to0:\quad \frac{|\Delta\Theta|}{|\Theta|} \sim \gamma^2 "
        r"\text{ (mirrored)}, \quad \gamma\,n^{-1/2} \text{ (initial output subtracted)}",
    ),
    quick=Config(),
    full=Config(
        inputs=3,
        widths=(64, 256, 1024, 4096),
        gammas=(1 / 512, 1 / 128, 1 / 32, 1 / 8, 1 / 2, 2.0, 4.0),
        steps=400,
        seeds=16,
    ),
    cost=(9, 200),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
