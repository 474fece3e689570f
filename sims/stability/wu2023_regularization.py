"""Stability as regularisation: the trace of the Hessian at the minima that one-sample SGD keeps.

Wu & Su (2023): SGD with batches of one keeps a minimum only if ``Tr H <= 2/eta``, gradient descent
only if ``lmax <= 2/eta``; in diagonal linear and two-layer ReLU networks the trace is a norm of the
function (l1, path norm) up to a constant, so that larger rates find simpler functions. Networks
start large; the rate warms up slowly (``sims.stability.kicked_training``). All sizes, rates and
data are our own; the paper's theorems on generalisation are not tested.

Inputs of the diagonal network are +-1, so that all examples have gradients of one length, |g_i|^2 =
Tr H. There the condition is sharp, for the mean square and for every single path: at eta Tr H = 2 a
step reflects the displacement at a hyperplane, beyond it every step expands. And one step changes
all imbalances ``a_j^2 - b_j^2`` by the same factor ``1 - (eta r)^2``. Inputs of the ReLU network
have length sqrt(d); its gradients differ in length, and an end point obeys
``Tr H = mean |g_i|^2 <= 2/eta <= max |g_i|^2``: while no sample is unstable nothing is left.

Loss ``(1/2n) sum_i (f(x_i) - y_i)^2``, one output, teachers without noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics import models
from dynamics.curvature import dense_matrix, gauss_newton_trace, gradient_gram, hvp
from dynamics.losses import half_squared_error
from dynamics.training import train
from sims import papers
from sims.data import Dataset
from sims.experiment import Arrays, Claim, Experiment
from sims.processes import seed_keys
from sims.rates import rank_correlation
from sims.stability.kicked_training import KICK, KICKS, kicked_cases, kicked_process, slack
from sims.sweep import sweep
from theory.stability import minima, relu_minima
from theory.stability.thresholds import optimizer_threshold, trace_threshold

LAZY = 0  # of the rates: too small to make the start unstable, hence not claimed
RECORDS = 81
TEST = 2000  # inputs on which a ReLU network is tested
DESCENT = 1000  # steps of Adam over rescalings
NETWORKS = ("diagonal", "relu")
Rates = tuple[float, ...]


@dataclass(frozen=True)
class Config:
    """Rates of SGD (batches of one) and GD; the first of each leaves the start as it is."""

    diagonal_inputs: int = 40
    diagonal_examples: int = 20
    relu_inputs: int = 6
    relu_hidden: int = 30
    relu_examples: int = 16
    relu_variance: float = 9.0
    starts: int = 2
    steps: int = 24_000
    diagonal_sgd: Rates = (0.01, 0.05, 0.065, 0.08)
    diagonal_gd: Rates = (0.1, 0.45, 0.6, 0.8)
    relu_sgd: Rates = (0.003, 0.01, 0.02, 0.04)
    relu_gd: Rates = (0.01, 0.1, 0.2, 0.3)
    data_seed: int = 0

    def __post_init__(self) -> None:
        least = {"diagonal_inputs": 8, "diagonal_examples": 2, "relu_inputs": 2, "relu_hidden": 2}
        for name, limit in (least | {"relu_examples": 2, "starts": 2, "steps": 1000}).items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}")
        if not self.relu_variance > 0:
            raise ValueError(f"relu_variance must be positive, got {self.relu_variance}")
        for name in ("diagonal_sgd", "diagonal_gd", "relu_sgd", "relu_gd"):
            rates = np.array(getattr(self, name))
            if len(rates) < 3 or rates[0] <= 0 or np.any(np.diff(rates) <= 0):
                raise ValueError(f"{name} must be 3 or more rising rates > 0, got {tuple(rates)}")

    def rates(self, network: str, method: str) -> np.ndarray:
        """Learning rates of "diagonal" or "relu", trained by "sgd" or "gd"."""
        return np.array(getattr(self, f"{network}_{method}"))


class Task(NamedTuple):
    """A network (one output, (n,)), its initial weights, and what it learns and is tested on."""

    apply: Callable[[Any, Any], jax.Array]
    starts: Any  # weights, starts on the leading axis
    data: Dataset
    test: Dataset
    rescaled: Callable[[Any, jax.Array], Any]  # the same function, neuron j scaled by exp(t_j)


@cache
def task(config: Config, network: str) -> Task:
    """Data, teacher and initial weights: part of the question, not of the answer."""
    return diagonal_task(config) if network == "diagonal" else relu_task(config)


def diagonal_task(config: Config) -> Task:
    """``f = sum_j a_j b_j x_j``, x_j = +-1; a sparse teacher. Tested on inputs sqrt(d) e_j."""
    rng, d = np.random.default_rng(config.data_seed), config.diagonal_inputs
    x = rng.choice([-1.0, 1.0], (config.diagonal_examples, d))
    teacher = np.zeros(d)
    teacher[:4] = 1.0, -1.0, 1.0, 0.5
    test = np.sqrt(d) * np.eye(d)  # of identity second moment: the error is |beta - beta*|^2 / 2
    signs = rng.choice([-1.0, 1.0], (config.starts, d))
    a = signs * rng.uniform(0.6, 1.4, (config.starts, d))
    b = rng.uniform(-1, 1, (config.starts, d))

    def apply(params, x):
        return x @ (params[0] * params[1])

    def rescaled(params, t):
        return params[0] * jnp.exp(t), params[1] * jnp.exp(-t)

    return Task(apply, (a, b), Dataset(x, x @ teacher), Dataset(test, test @ teacher), rescaled)


def relu_task(config: Config) -> Task:
    """``f = sum_j a_j relu(w_j . x)``, |x|^2 = d; the teacher ``relu(x_1) - relu(x_2)``."""
    rng, d = np.random.default_rng(config.data_seed), config.relu_inputs
    model = models.mlp(
        (d, config.relu_hidden, 1),
        activation="relu",
        use_bias=False,
        weight_variance=config.relu_variance,
    )

    def sample(count):
        x = rng.standard_normal((count, d))
        x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
        return Dataset(x, np.maximum(x[:, 0], 0) - np.maximum(x[:, 1], 0))

    def rescaled(params, t):
        first, second = params
        first = first._replace(weight=first.weight * jnp.exp(-t)[:, None])
        return first, second._replace(weight=second.weight * jnp.exp(t)[None])

    starts = jax.jit(jax.vmap(model.init))(
        seed_keys(jax.random.key(config.data_seed), config.starts)
    )
    data, test = sample(config.relu_examples), sample(TEST)
    return Task(lambda params, x: model.apply(params, x)[..., 0], starts, data, test, rescaled)


def predict(config: Config) -> Arrays:
    """Edges of every rate, how far from them training may end; traces and imbalances of starts."""
    found: dict[str, Any] = {"rank_correlation": -1.0}
    for network in NETWORKS:
        sgd, gd = (config.rates(network, method) for method in ("sgd", "gd"))
        found[f"{network}_trace"] = trace_threshold(sgd, batch_size=1)
        found[f"{network}_sharpness"] = optimizer_threshold("gd", gd)
        found[f"{network}_slack"] = np.array(slack(config.steps, len(task(config, network).data.x)))
    found["diagonal_norm"] = found["diagonal_trace"] / 2  # since Tr H >= 2 |beta|_1
    found["relu_norm"] = found["relu_trace"] / np.sqrt(config.relu_inputs)  # isotropic inputs
    a, b = task(config, "diagonal").starts
    imbalance = a**2 - b**2
    return found | {
        "gd_slack": np.array(slack(config.steps, 1)),
        "start_traces": np.stack([diagonal_traces(config), relu_traces(config)]),
        "imbalance": imbalance / np.linalg.norm(imbalance, axis=1, keepdims=True),
        "kicks": KICK * np.sqrt(KICKS),
    }


def diagonal_traces(config: Config) -> np.ndarray:
    """Of the starts, and least for the same function: (2, starts)."""
    a, b = task(config, "diagonal").starts
    moments = np.mean(task(config, "diagonal").data.x ** 2, axis=0)
    spectrum = jax.jit(jax.vmap(minima.diagonal_spectrum))(np.stack([a, b], axis=1))
    return np.stack([spectrum @ moments, minima.flattest_spectrum(a * b) @ moments])


def relu_traces(config: Config) -> np.ndarray:
    """Of the starts, and least for the same function: (2, starts)."""
    problem = task(config, "relu")
    first, readout = (layer.weight for layer in problem.starts)
    arguments = readout[:, 0], first, problem.data.x

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def traces(*network):
        least = relu_minima.flattest_rescaling(*network)[1]
        return jnp.stack([relu_minima.relu_trace(*network), least])

    return np.asarray(traces(*arguments)).T


def simulate(config: Config, key: jax.Array, sweep=sweep) -> Arrays:
    """Train both networks by both methods at every rate; look at the starts."""
    found: dict[str, Any] = {
        "start_traces": np.stack([start_traces(config, network) for network in NETWORKS])
    }
    for index, network in enumerate(NETWORKS):
        for method in ("sgd", "gd"):
            at = jax.random.fold_in(key, index)
            end = end_points(config, at, network, method, sweep)
            found |= {f"{network}_{method}_{name}": values for name, values in end.items()}
    return found | imbalances(found)


def end_points(config: Config, key: jax.Array, network: str, method: str, sweep: Any) -> Arrays:
    """Curvatures over training, and what the end points are, (rates, starts, ...)."""
    problem, rates = task(config, network), config.rates(network, method)
    loss = half_squared_error(problem.apply, examples="mean")
    shape = (len(rates), config.starts)

    def observe(params, shared):
        return {
            "gram": gradient_gram(problem.apply, params, shared["data"][0]),
            "loss": loss(params, shared["data"]),
            "test": loss(params, shared["test"]),
        }

    batch_size = 1 if method == "sgd" else None
    process = kicked_process(loss, observe, steps=config.steps, batch_size=batch_size)
    cases = kicked_cases(key, problem.starts, rates)
    shared = {"data": tuple(problem.data), "test": tuple(problem.test)}
    steps = np.arange(RECORDS) * config.steps // (RECORDS - 1)
    run = sweep(f"{network}_{method}", process, cases, shared, record_at=steps)
    found = {name: x.reshape(*shape, *x.shape[1:]) for name, x in run.records.items()}
    found |= curvatures(found.pop("gram"))
    norm = norms(network, run.final.params).reshape(shape)
    weights = {"a": 0, "b": 1} if network == "diagonal" else {}
    kept = {name: run.final.params[at].reshape(*shape, -1) for name, at in weights.items()}
    return found | kept | {"rates": rates, "norm": norm, "steps": steps}


def curvatures(gram: np.ndarray) -> dict[str, np.ndarray]:
    """Tr H, lmax(H) and max |g_i|^2 (...) at minima with these Grams (..., n, n)."""
    n, squares = gram.shape[-1], np.diagonal(gram, axis1=-2, axis2=-1)
    alive = np.asarray(np.isfinite(gram).all(axis=(-2, -1), keepdims=True))
    top = np.linalg.eigvalsh(np.where(alive, gram, 0.0))[..., -1:]
    return {
        "trace": squares.mean(axis=-1),
        "sharpness": np.where(alive[..., 0], top, np.nan)[..., 0] / n,
        "largest_gradient": squares.max(axis=-1),
    }


def norms(network: str, params: Any) -> np.ndarray:
    """|beta|_1 or path norm, of networks on the leading axis."""
    if network == "diagonal":
        return np.abs(params[0] * params[1]).sum(axis=1)
    path_norms = jax.jit(jax.vmap(relu_minima.path_norm))
    return np.asarray(path_norms(params[1].weight[:, 0], params[0].weight))


def start_traces(config: Config, network: str) -> np.ndarray:
    """Of the Hessian by autodiff, and least by descent over rescalings: (2, starts)."""
    problem = task(config, network)
    loss = half_squared_error(problem.apply, examples="mean")

    def hessian_trace(params, data):
        return jnp.trace(dense_matrix(partial(hvp, loss, params, data), params))

    def least_trace(params, x):
        def trace(t, x):
            return gauss_newton_trace(problem.apply, problem.rescaled(params, t), x)

        t = jnp.zeros(jax.tree.leaves(params)[0].shape[0])
        adam = optax.adam(optax.cosine_decay_schedule(0.1, DESCENT))
        descent = {"loss": trace, "optimizer": adam, "steps": DESCENT, "record_at": [DESCENT]}
        return train(jax.random.key(0), t, x, **descent).records["loss"][-1]

    data = tuple(map(jnp.asarray, problem.data))
    traces = jax.jit(jax.vmap(hessian_trace, (0, None)))(problem.starts, data)
    least = jax.jit(jax.vmap(least_trace, (0, None)))(problem.starts, data[0])
    return np.stack([traces, least])


def imbalances(found: Arrays) -> dict[str, np.ndarray]:
    """``a^2 - b^2`` of diagonal networks after SGD, to unit length (rates, starts, inputs)."""
    imbalance = found["diagonal_sgd_a"] ** 2 - found["diagonal_sgd_b"] ** 2
    norm = np.linalg.norm(imbalance, axis=-1)
    return {"imbalance": imbalance / norm[..., None], "imbalance_norm": norm}


def claimed(found: Arrays, name: str, method: str = "sgd", networks: Any = NETWORKS) -> np.ndarray:
    """A property of the end points of the claimed rates, (networks, rates, starts)."""
    last = [found[f"{network}_{method}_{name}"][LAZY + 1 :, :, -1] for network in networks]
    return np.concatenate(last)


def at_edge(predicted: np.ndarray, measured: np.ndarray, slacks: np.ndarray) -> np.ndarray:
    """Relative tolerance of curvature below and above its edge."""
    below, above = slacks
    return np.where(measured > predicted, above, below)


def bracket(p: Arrays, m: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Middle of mean and largest |g_i|^2, and how far from it, relatively, 2/eta may be."""
    mean, largest = (claimed(m, name, "sgd", ("relu",)) for name in ("trace", "largest_gradient"))
    middle, bound = (mean + largest) / 2, relu_bound(p)
    return middle, (largest - mean) / 2 / bound + at_edge(bound, middle, p["relu_slack"])


def relu_bound(p: Arrays) -> np.ndarray:
    """2/eta of the claimed rates, (rates, 1)."""
    return p["relu_trace"][LAZY + 1 :, None]


def sharpness_bound(p: Arrays) -> np.ndarray:
    """2/eta of the claimed rates of gradient descent in both networks, (rates, 1)."""
    bounds = [p[f"{network}_sharpness"][LAZY + 1 :] for network in NETWORKS]
    return np.concatenate(bounds)[:, None]


def order_of_test_errors(m: Arrays) -> np.ndarray:
    """Rank correlation of rate and test error, mean over starts, of networks trained by SGD."""
    errors = [m[f"{network}_sgd_test"][..., -1].mean(axis=1) for network in NETWORKS]
    rates = [m[f"{network}_sgd_rates"] for network in NETWORKS]
    return np.array([rank_correlation(*pair) for pair in zip(rates, errors, strict=True)])


CLAIMS = (
    Claim(
        "diagonal network, SGD with batches of one: Tr H ends at 2/eta",
        predicted=lambda p: p["diagonal_trace"][LAZY + 1 :, None],
        measured=lambda m: claimed(m, "trace", "sgd", ("diagonal",)),
        tolerance=lambda p, m: at_edge(
            p["diagonal_trace"][LAZY + 1 :, None],
            claimed(m, "trace", "sgd", ("diagonal",)),
            p["diagonal_slack"],
        ),
        because="above: an excess of n ln(1/kick)/2 steps of the plateau would have grown; below: "
        "twice the overshoot of the warm-up, sqrt(n ln(1/kick)/steps), to which the trace falls",
    ),
    Claim(
        "ReLU network, SGD with batches of one: 2/eta is between mean (Tr H) and max of |g_i|^2",
        predicted=relu_bound,
        measured=lambda m: (
            (
                claimed(m, "trace", "sgd", ("relu",))
                + claimed(m, "largest_gradient", "sgd", ("relu",))
            )
            / 2
        ),
        tolerance=lambda p, m: bracket(p, m)[1],
        because="half the distance of mean and maximum from their middle; slack as above",
    ),
    Claim(
        "gradient descent, both networks: lmax ends at 2/eta",
        predicted=sharpness_bound,
        measured=lambda m: claimed(m, "sharpness", "gd"),
        tolerance=lambda p, m: at_edge(
            sharpness_bound(p), claimed(m, "sharpness", "gd"), p["gd_slack"]
        ),
        because="above: an excess of ln(1/kick)/2 steps of the plateau would have grown; below: "
        "twice the overshoot of the warm-up, sqrt(ln(1/kick)/steps)",
    ),
    Claim(
        "trace of the Hessian far from any minimum, by autodiff, both networks",
        predicted=lambda p: p["start_traces"][:, 0],
        measured=lambda m: m["start_traces"][:, 0],
        tolerance=1e-10,
        because="rounding; outputs are linear in each weight, so that residuals drop out",
    ),
    Claim(
        "least trace with which a function can be computed, by descent over rescalings",
        predicted=lambda p: p["start_traces"][:, 1],
        measured=lambda m: m["start_traces"][:, 1],
        tolerance=1e-6,
        because="what the descent leaves, to second order in its distance from the minimum",
    ),
    Claim(
        "SGD in the diagonal network shrinks all imbalances a_j^2 - b_j^2 alike",
        predicted=lambda p: p["imbalance"],
        measured=lambda m: m["imbalance"],
        tolerance=lambda p, m: 20 * p["kicks"] / m["imbalance_norm"][..., None],
        because="5 standard deviations of what kicks add, at most 4 kicks for weights (a, b) of "
        "length 2",
        error="absolute",
    ),
    Claim(
        "test error falls with the rate of SGD, both networks",
        predicted=lambda p: p["rank_correlation"],
        measured=order_of_test_errors,
        tolerance=1e-12,
        because="rank correlation of rate and test error; order has no error bar",
        error="absolute",
    ),
)

EXPERIMENT = Experiment(
    name="wu2023_regularization",
    source=papers.wu2023("stability as regularisation, diagonal linear and two-layer ReLU nets"),
    statement="One-sample SGD keeps minima with Tr H <= 2/eta, gradient descent with lmax <= "
    "2/eta; the trace is a norm of the function, so that larger rates generalise better.",
    equations=(
        r"\mathrm{SGD}\ (B=1):\ \mathrm{Tr}\,H \leq \frac{2}{\eta},\qquad "
        r"\mathrm{GD}:\ \lambda_{\max}(H) \leq \frac{2}{\eta}",
        r"f = \sum_j a_j b_j x_j:\quad \mathrm{Tr}\,H = \sum_j (a_j^2+b_j^2)\,"
        r"\overline{x_j^2} \geq 2\sum_j|\beta_j|\,\overline{x_j^2}",
        r"f = \sum_j a_j\,\mathrm{relu}(w_j\cdot x):\quad \min_s \mathrm{Tr}\,H = 2\sum_j "
        r"\sqrt{\overline{\mathrm{relu}(w_j\cdot x)^2}\ a_j^2\,\overline{|x|^2 1}}",
    ),
    quick=Config(),
    full=Config(
        diagonal_inputs=60,
        diagonal_examples=30,
        relu_inputs=8,
        relu_hidden=40,
        relu_examples=24,
        starts=8,
        steps=200_000,
        diagonal_sgd=(0.01, 0.035, 0.045, 0.06, 0.08, 0.1),
        diagonal_gd=(0.1, 0.4, 0.5, 0.6, 0.7, 0.8),
        relu_sgd=(0.003, 0.01, 0.015, 0.02, 0.03, 0.04),
        relu_gd=(0.01, 0.05, 0.1, 0.15, 0.2, 0.3),
    ),
    cost=(15, 400),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
