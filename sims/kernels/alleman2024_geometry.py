"""Task geometry and nonlinearity: what a hidden layer of tanh or of ReLU makes of the same inputs.

Alleman, Lindsey & Fusi (2024) find that tanh layers come to look like the targets and ReLU layers
keep more of the inputs. Protocol, on which that depends: only input weights are trained, under a
fixed random readout, logistic loss summed over targets, full batches of fixed noisy copies of eight
conditions of three bits, two of which are the targets; no biases. Output ``(1/n) sum_i r_i h_i``
with r ~ N(0, 1), learning rate times n; weights begin as N(0, gain^2). The input family is the
paper's; sizes, gains, noise, rates and Gaussian weights are ours.

Ours, too, is the prediction: from vanishing weights and without noise, geometry has a limit
(``theory.kernels.task_geometry``), tanh exactly parallel and ReLU not, and with ReLU a jump at
s = 1. The protocol is held against its signs. They are not universal: with the parity of two bits
as the target the order of the target alignments is that of the paper for orthogonal conditions and
the reverse on the clean cube, of which that target is no linear function. Those networks have a
constant input besides: without it tanh networks are odd and cannot learn a parity on the cube.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from sims.kernels.fixed_readouts import (
    BITS,
    LAYERS,
    PROCESSES,
    TARGETS,
    Setting,
    embedded,
    measured_geometry,
    members,
)
from sims.rates import jackknife, mean_and_error, standard_error
from sims.sweep import sweep
from theory.kernels import task_geometry
from theory.kernels.dual_activations import as_dual

HALVINGS = np.array([1.0, 0.5])  # of the small gain, towards the limit of vanishing weights
LIMIT = "limit_1"  # the group nearest to it
PARALLELISM, TARGET, INPUT = range(3)  # of the columns of a geometry
CUBE, ORTHOGONAL = 0, -1  # of the separations
CURVE = np.linspace(0, 1, 41)  # separations of the curves that are drawn


@dataclass(frozen=True)
class Config:
    """Inputs of length 1; noise is the standard deviation of each of their coordinates."""

    separations: tuple[float, ...] = (0.0, 0.5, 1.0)
    hidden: int = 100
    networks: int = 40
    gain: float = 0.5
    small_gain: float = 0.02
    noise: float = 0.2
    copies: int = 2
    learning_rate: float = 1.0
    steps: int = 200

    def __post_init__(self) -> None:
        least = {"hidden": 2, "networks": 4, "copies": 1, "steps": 1}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")
        for name in ("gain", "small_gain", "noise", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        s = np.array(self.separations)
        if len(s) < 3 or s[0] != 0 or s[-1] != 1 or np.any(np.diff(s) <= 0):
            raise ValueError(f"separations must rise from 0 to 1, got {self.separations}")


def groups(config: Config) -> dict[str, list[Setting]]:
    """The limit at each of its gains, the protocol, and the protocol with a parity as target."""
    limits = {
        f"limit_{index}": ("bits", scale * config.small_gain, 0.0)
        for index, scale in enumerate(HALVINGS)
    }
    kinds = limits | {kind: (kind, config.gain, config.noise) for kind in TARGETS}
    return {
        name: [Setting(target, s, gain, noise) for s in config.separations]
        for name, (target, gain, noise) in kinds.items()
    }


def predict(config: Config) -> Arrays:
    """Geometry (parallelism, target and input alignment) of inputs, random and learned layers."""
    s = np.array(config.separations)
    both = layers(config, np.concatenate([CURVE, s]))
    drawn = {f"{name}_curve": values[..., : len(CURVE)] for name, values in both.items()}
    found = {name: values[..., len(CURVE) :] for name, values in both.items()}
    return (drawn | found) | {
        "signs": np.sign(found["rich"][:, 0] - found["rich"][:, 1]),
        "parity_signs": np.array([-1.0, 1.0]),  # on the cube, for orthogonal conditions
        "order": 2.0,
    }


def layers(config: Config, s: np.ndarray) -> Arrays:
    """Inputs (4, s); layers at random and in the limit of vanishing weights, (3, layers, s)."""
    kernels = jnp.stack([task_geometry.input_kernel(each, 3) for each in s])
    variance, y = config.gain**2, TARGETS["bits"]
    random = [as_dual(name)(variance, variance, variance * kernels).kernel for name in LAYERS]
    limit = partial(task_geometry.rich_limit_kernel, y)
    rich = [
        np.where(
            (s == 1)[:, None, None],
            limit(activation=kind, orthogonal=True)[None],
            limit(activation=kind)[None],
        )
        for kind in LAYERS.values()
    ]
    inputs = {
        target: task_geometry.input_target_alignment(s, 3, count, degree=degree)
        for target, count, degree in (("bits", 2, 1), ("label", 1, 1), ("parity", 1, 2))
    }
    return {
        "separations": s,
        "inputs": np.stack([task_geometry.input_parallelism(s, 3), *inputs.values()]),
        "initial": geometry_of(jnp.stack(random), kernels),
        "rich": geometry_of(jnp.array(rich), kernels),
    }


def geometry_of(kernels: Any, inputs: Any) -> np.ndarray:
    """Of kernels (layers, s, P, P) as theory has it: (3, layers, s)."""
    of_targets = jnp.broadcast_to(TARGETS["bits"] @ TARGETS["bits"].T, kernels.shape)
    of_inputs = jnp.broadcast_to(inputs, kernels.shape)
    parallel = task_geometry.kernel_parallelism(kernels, 0)
    aligned = [task_geometry.kernel_cka(kernels, other) for other in (of_targets, of_inputs)]
    return np.stack([np.asarray(parallel), *map(np.asarray, aligned)])


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train networks of every group with both nonlinearities; geometry before and after."""
    named = groups(config)
    settings = [setting for group in named.values() for setting in group]
    cases = members(config, settings, key)
    x = np.stack([embedded(setting)[:, : len(BITS)] for setting in settings])
    y = np.stack([TARGETS[setting.target] for setting in settings])
    of_inputs, of_targets = (a @ a.transpose(0, 2, 1) for a in (x, y))
    found: dict[str, Any] = {}
    for name in LAYERS:
        run = sweep(name, PROCESSES[name], cases, record_at=[0, config.steps])
        kernels = run.records["kernel"].reshape(len(settings), config.networks, 2, 8, 8)
        for group, kernel in zip(named, np.split(kernels, len(named)), strict=True):
            rows = slice(*(list(named).index(group) + np.array([0, 1])) * len(kernel))
            found |= measures(f"{name}_{group}", kernel, of_inputs[rows], of_targets[rows])
        found[f"{name}_loss"] = run.records["loss"].reshape(len(settings), config.networks, 2)
    return stacked(found, list(named)) | {
        "inputs": input_geometry(config),
        "small_gain": config.small_gain,
        "width_and_gain": 1 / config.hidden + HALVINGS[-1] * config.small_gain,
        "second_order": 1 / (config.hidden * config.networks),
    }


def measures(name: str, kernels: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> Arrays:
    """Of networks (s, networks, 2, P, P): geometry of all units together, its error, of each.

    Before and after training, (s, 2, 3), of each with the networks in front.
    """
    by_network = np.moveaxis(kernels, 1, 0)

    def together(mean: np.ndarray) -> np.ndarray:
        return np.asarray(measured_geometry(mean, inputs[:, None], targets[:, None]))

    return {
        f"{name}_pooled": together(by_network.mean(axis=0)),
        f"{name}_error": jackknife(together, by_network),
        f"{name}_each": np.stack([together(each) for each in by_network]),
    }


def stacked(found: Arrays, names: list[str]) -> dict[str, Any]:
    """Arrays of the two nonlinearities on one leading axis, of every group and measure."""
    kinds = [f"{group}_{what}" for group in names for what in ("pooled", "error", "each")]
    return {
        kind: np.stack([found[f"{name}_{kind}"] for name in LAYERS]) for kind in (*kinds, "loss")
    }


def input_geometry(config: Config) -> np.ndarray:
    """Of the inputs: parallelism, alignment with two bits, with one, with a parity; (4, s)."""
    x = np.stack([embedded(Setting("bits", s, 0.0, 0.0)) for s in config.separations])
    kernels = x @ x.transpose(0, 2, 1)
    columns = {"bits": TARGETS["bits"], "label": BITS[:, :1], "parity": TARGETS["parity"]}
    found = [
        np.asarray(measured_geometry(kernels, kernels, np.stack([y @ y.T] * len(x))))
        for y in columns.values()
    ]
    return np.stack([found[0][:, PARALLELISM], *(each[:, TARGET] for each in found)])


def decided(each: np.ndarray) -> np.ndarray:
    """+-1 if tanh less ReLU is more than 4 standard errors from 0 after training, (3, s)."""
    mean, error = mean_and_error((each[0] - each[1])[:, :, 1])
    return np.where(np.abs(mean) > 4 * error, np.sign(mean), 0.0).T


def defect_orders(m: Arrays) -> np.ndarray:
    """Exponent in the gain of what tanh networks lack of parallelism 1, (networks, s)."""
    defects = [1 - m[f"limit_{index}_each"][0, :, :, 1, PARALLELISM] for index in range(2)]
    return np.log2(defects[0] / defects[1])


def limit_tolerance(m: Arrays, layer: int) -> np.ndarray:
    """Absolute error allowed to the limit."""
    return 4 * m[f"{LIMIT}_error"][layer, :, 1].T + m["width_and_gain"]


CLAIMS = (
    Claim(
        "parallelism of the inputs, their alignment with two bits, one, and a parity",
        predicted=lambda p: p["inputs"],
        measured=lambda m: m["inputs"],
        tolerance=1e-12,
        because="both are exact: rounding; in units of the largest value there is",
        error="absolute",
    ),
    Claim(
        "parallelism and alignments of random layers",
        predicted=lambda p: p["initial"],
        measured=lambda m: np.moveaxis(m["bits_pooled"][:, :, 0], -1, 0),
        tolerance=lambda p, m: 4 * np.moveaxis(m["bits_error"][:, :, 0], -1, 0) + m["second_order"],
        because="4 standard errors over networks of a geometry of their mean kernel, which is that "
        "of infinite width; as a nonlinear function of it, off by 1/(all units)",
        error="absolute",
    ),
    Claim(
        "ReLU from small weights: parallelism and alignments",
        predicted=lambda p: p["rich"][:, 1],
        measured=lambda m: m[f"{LIMIT}_pooled"][1, :, 1].T,
        tolerance=lambda p, m: limit_tolerance(m, 1) / p["rich"][:, 1],
        because="4 standard errors over networks of the geometry of their mean kernel; training "
        "couples the units of a network, 1/width; the initial weights remain, as the gain",
    ),
    Claim(
        "tanh from small weights: parallelism and alignments",
        predicted=lambda p: p["rich"][:, 0],
        measured=lambda m: m[f"{LIMIT}_pooled"][0, :, 1].T,
        tolerance=lambda p, m: limit_tolerance(m, 0) / p["rich"][:, 0],
        because="as with ReLU",
    ),
    Claim(
        "order in the gain of what tanh networks lack of parallelism",
        predicted=lambda p: p["order"],
        measured=lambda m: defect_orders(m).mean(axis=0),
        tolerance=lambda p, m: 4 * standard_error(defect_orders(m)) + m["small_gain"],
        because="coding vectors are equal but for the initial weights, and a cosine is of second "
        "order; 4 standard errors over networks, corrections as the gain",
        error="absolute",
    ),
    Claim(
        "signs of tanh less ReLU in the protocol: parallelism, target and input alignment",
        predicted=lambda p: p["signs"],
        measured=lambda m: decided(m["bits_each"]),
        tolerance=1e-12,
        because="a sign is exact; it counts only beyond 4 standard errors over networks",
        error="absolute",
    ),
    Claim(
        "signs of the target alignment, tanh less ReLU, if the target is a parity",
        predicted=lambda p: p["parity_signs"],
        measured=lambda m: decided(m["parity_each"])[TARGET, [CUBE, ORTHOGONAL]],
        tolerance=1e-12,
        because="as above; reversed on the clean cube: the order is not universal",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="alleman2024_geometry",
    source=papers.alleman2024("tanh and ReLU layers trained on the same structured inputs"),
    statement="Trained under a fixed readout, tanh layers turn into their targets, ReLU less so.",
    equations=(
        r"K_\mathrm{in} = (1-s)\,BB^\top/k + s\,I,\qquad"
        r"\mathrm{CKA}(K_\mathrm{in}, YY^\top) = \sqrt{q}\,a\,/\sqrt{k a^2 + (P-1-k)s^2},\quad "
        r"a = (1-s)P/k + s",
        r"K_{\tanh}\to YY^\top,\qquad K_\mathrm{ReLU}\to"
        r"\left\langle[Yr]_+[Yr]_+^\top\right\rangle_r\ (s<1),\quad "
        r"\text{times}\ (11^\top + I)/2\ \text{at}\ s = 1",
    ),
    quick=Config(),
    full=Config(separations=(0.0, 0.25, 0.5, 0.75, 1.0), hidden=400, networks=40, copies=4),
    cost=(10, 120),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
