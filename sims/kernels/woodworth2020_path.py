"""From kernel to rich: the path of diagonal linear networks from least l2 to least l1 norm.

Woodworth et al. (2020): networks ``f(x) = (w_+^D - w_-^D) . x``, D powers elementwise, that start
at w_+ = w_- = alpha, end where the potential Q_alpha is least among all beta with X beta = y. Here
gradient flow on the sum of half squared errors is integrated on the weights themselves, of several
random problems with more features than examples, to where nothing is left to learn. The labels are
random, not those of a sparse teacher: the solution of least l1 norm has as many nonzeros as there
are examples, so that no direction of the data is learned at a rate that vanishes with alpha. Rates,
kernels and the start from unequal weights are derived here; sizes are our own.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.flow import gradient_flow
from dynamics.gram import Apply
from dynamics.losses import half_squared_error
from dynamics.tangent_kernel import empirical_ntk
from sims import papers
from sims.experiment import Arrays, Claim, Experiment
from theory.kernels.diagonal_limits import PathEnds, approach_exponents, path_ends
from theory.kernels.diagonal_linear import implicit_bias, implicit_bias_unequal
from theory.kernels.diagonal_links import flow_tangent_kernel

DEPTHS = (2, 3)
FRACTIONS = np.array([0.01, 0.03, 0.1, 1.0])  # of the time that a flow lasts, at which one looks
SCALE, SCALED = 4.0, 5  # of labels, and which alpha, for the scale law
RTOL = 1e-12
CURVE_POINTS = 61  # to draw theory
UNEQUAL = 0.5  # weights are 1 + a number of this size


@dataclass(frozen=True)
class Config:
    """``alphas_2`` and ``alphas_3`` of either depth; rates are taken from the two at either end."""

    examples: int = 3
    features: int = 8
    problems: int = 3
    alphas_2: tuple[float, ...] = (1e-6, 1e-5, 1e-3, 0.05, 0.2, 0.6, 1.0, 2.0, 4.0, 8.0)
    alphas_3: tuple[float, ...] = (2.5e-3, 5e-3, 0.02, 0.1, 0.25, 0.6, 1.0, 2.0, 4.0, 8.0)
    duration: float = 60.0
    data_seed: int = 52

    def __post_init__(self) -> None:
        if not 1 <= self.examples < self.features:
            raise ValueError(f"examples must be 1 to features - 1, got {self.examples}")
        if self.problems < 1:
            raise ValueError(f"problems must be at least 1, got {self.problems}")
        for name in ("alphas_2", "alphas_3"):
            alphas = getattr(self, name)
            if len(alphas) <= SCALED or min(alphas) <= 0 or np.any(np.diff(alphas) <= 0):
                least = SCALED + 1
                raise ValueError(f"{name} must be {least} or more, > 0, increasing, got {alphas}")
            if not np.allclose(np.diff(np.log2(alphas[-3:])), 1):
                raise ValueError(f"{name} must end with two doublings, got {alphas}")
        if len(self.alphas_2) != len(self.alphas_3):
            raise ValueError(f"alphas_3 must be as many as alphas_2, got {self.alphas_3}")
        if not self.duration > 0:
            raise ValueError(f"duration must be positive, got {self.duration}")

    @property
    def alphas(self) -> np.ndarray:
        """(depths, alphas)."""
        return np.array([self.alphas_2, self.alphas_3])

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (problems, examples, features) and labels (problems, examples)."""
        draw = np.random.default_rng(self.data_seed)
        shape = (self.problems, self.examples, self.features)
        return draw.standard_normal(shape), draw.standard_normal(shape[:2])

    def unequal(self) -> np.ndarray:
        """Weights (plus and minus, problems, features) from which one more flow starts."""
        draw = np.random.default_rng(self.data_seed + 1)
        return 1 + UNEQUAL * draw.uniform(-1, 1, (2, self.problems, self.features))


def predict(config: Config) -> Arrays:
    """End points, kernels there, ends of the path, and the exponents with which they are neared.

    (depths, problems, alphas, features) and eigenvalues of kernels (..., examples).
    """
    x, y = config.data()
    curves = np.geomspace(config.alphas[:, 0], config.alphas[:, -1], CURVE_POINTS, axis=1)
    beta, curve = (
        np.stack([end_points(x, y, *case) for case in zip(grids, DEPTHS, strict=True)])
        for grids in (config.alphas, curves)
    )
    cases = zip(beta[:, :, :, None], config.alphas, DEPTHS, strict=True)
    kernels = np.stack([kernels_at(x, *case) for case in cases])[..., 0, :, :]
    ends = [path_ends(*problem) for problem in zip(x, y, strict=True)]
    bounds = np.array([end.dual_bound for end in ends])
    rates = [approach_exponents(bounds, depth=depth) for depth in DEPTHS]
    unequal = zip(x, y, *config.unequal(), strict=True)
    return {
        "alphas": config.alphas,
        "beta": beta,
        "kernel_eigenvalues": np.linalg.eigvalsh(kernels),
        "curve_alphas": curves,
        "curve_beta": curve,
        "unequal": np.array([implicit_bias_unequal(*case).beta for case in unequal]),
        "least_l2": np.array([end.least_l2 for end in ends]),
        "least_l1": np.array([end.least_l1 for end in ends]),
        "dual_bounds": bounds,
        "dual_reach": np.array([dual_reach(*case) for case in zip(x, ends, strict=True)]),
        "rich_exponents": np.array([rich for rich, _ in rates]),
        "lazy_exponents": np.array([lazy for _, lazy in rates]),
        "along_flow": 1.0,
    }


def dual_reach(x: Any, ends: PathEnds) -> float:
    """By how much duals off the support may move if those on it, as many as examples, move by 1."""
    on = ends.least_l1 != 0
    return np.abs(np.linalg.solve(x[:, on], x[:, ~on])).sum(axis=0).max()


def end_points(x: Any, y: Any, alphas: np.ndarray, depth: int) -> np.ndarray:
    """Where the flows of one depth end, (problems, alphas, features)."""
    return np.array(
        [
            [implicit_bias(*problem, alpha, depth=depth).beta for alpha in alphas]
            for problem in zip(x, y, strict=True)
        ]
    )


def kernels_at(x: Any, beta: Any, alphas: Any, depth: int) -> np.ndarray:
    """Tangent kernels of flows at beta (problems, alphas, times, features)."""
    kernel = jnp.vectorize(
        partial(flow_tangent_kernel, depth=depth), signature="(n,d),(d),()->(n,n)"
    )
    x, beta, alphas = (jnp.asarray(array) for array in (x, beta, alphas))
    return np.asarray(jax.jit(kernel)(x[:, None, None], beta, alphas[None, :, None]))


def apply_of_depth(depth: Any) -> Apply:
    """``apply(params, x)`` of a network of any depth, which may be traced.

    params are w_+ and w_-, (features,) each and positive; x (examples, features).
    """
    return lambda params, x: x @ (params[0] ** depth - params[1] ** depth)


def simulate(config: Config, key: jax.Array) -> Arrays:
    """Gradient flow of all networks. There is nothing random in it: the key is not used.

    From equal weights (depths, problems, alphas, ...), then from unequal weights (problems, ...)
    and with smaller labels (depths, problems, ...), times the factor by which they are smaller.
    """
    x, y = config.data()
    shape = (len(DEPTHS), config.problems, len(config.alphas_2))
    row, problem, column = (grid.ravel() for grid in np.indices(shape))
    alphas, depths = config.alphas[row, column], np.array(DEPTHS)[row]
    equal = flows(config, x[problem], y[problem], depths, alphas)
    row, problem = (grid.ravel() for grid in np.indices(shape[:2]))
    depths = np.array(DEPTHS)[row]
    alphas = config.alphas[row, SCALED] / SCALE ** (1 / depths)
    scaled = flows(config, x[problem], y[problem] / SCALE, depths, alphas)
    unequal = flows(config, x, y, np.full(config.problems, 2), np.ones(config.problems))
    unequal["start"] = np.moveaxis(config.unequal(), 0, 1)
    cases = jax.tree.map(lambda *parts: np.concatenate(parts), equal, scaled, unequal)
    found = jax.jit(jax.vmap(learn))(cases)
    sizes = np.cumsum([len(flow["depth"]) for flow in (equal, scaled)])
    ended = np.split(np.asarray(found["beta"])[:, -1], sizes)
    kernels = np.asarray(found["kernel"])[: sizes[0]]
    path = np.asarray(found["beta"])[: sizes[0]]
    return {
        "alphas": config.alphas,
        "x": x,
        "examples": config.examples,
        "beta": ended[0].reshape(*shape, -1),
        "kernel": kernels.reshape(*shape, *kernels.shape[1:]),
        "path": path.reshape(*shape, *path.shape[1:]),
        "scaled": SCALE * ended[1].reshape(*shape[:2], -1),
        "unequal": ended[2],
        "residual": np.abs(found["residual"][: sizes[0]]).max(axis=1).reshape(shape),
        "converged": np.asarray(found["converged"]),
    }


def flows(config: Config, x: Any, y: Any, depth: np.ndarray, alpha: np.ndarray) -> dict[str, Any]:
    """Problems, depths, starting weights, and how long it takes until nothing is left to learn.

    Large weights learn at a rate of alpha^(2 D - 2); small ones leave the saddle at zero in a time
    of log(1/alpha) or, if deeper, alpha^(2 - D).
    """
    start = np.tile(alpha[:, None, None], (1, 2, config.features))
    horizon = (config.duration * (depth - 1) + alpha ** (2.0 - depth)) / (
        1 + 8 * alpha ** (2.0 * depth - 2)
    )
    return {"x": x, "y": y, "depth": depth, "start": start, "horizon": horizon}


def learn(case: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """One flow: beta and tangent kernel at ``FRACTIONS`` of its time, the residual at its end."""
    x, y, depth, start = (case[name] for name in ("x", "y", "depth", "start"))
    apply = apply_of_depth(depth)
    loss = half_squared_error(apply, examples="sum")
    times = case["horizon"] * jnp.asarray(FRACTIONS)
    flow = gradient_flow((start[0], start[1]), (x, y), loss=loss, times=times, rtol=RTOL)
    plus, minus = flow.params
    return {
        "beta": plus**depth - minus**depth,
        "kernel": jax.vmap(lambda params: empirical_ntk(apply, params, x))(flow.params),
        "residual": x @ (plus[-1] ** depth - minus[-1] ** depth) - y,
        "converged": flow.converged,
    }


def kernel_ratios(m: Arrays) -> np.ndarray:
    """Eigenvalues of all kernels along the flow, over theory's for the same beta."""
    cases = zip(m["path"], m["alphas"], DEPTHS, strict=True)
    expected = np.stack([kernels_at(m["x"], *case) for case in cases])
    return np.linalg.eigvalsh(m["kernel"]) / np.linalg.eigvalsh(expected)


def rich_exponents(m: Arrays) -> np.ndarray:
    """Power of alpha in the largest coefficient off the support, at the two smallest alphas.

    The support are the ``examples`` largest coefficients. (depths, problems).
    """
    sizes = np.abs(m["beta"][:, :, :2])
    off = np.argsort(sizes[:, :, 0], axis=-1)[..., -1 - m["examples"]]
    largest = np.take_along_axis(sizes, off[..., None, None], axis=-1)[..., 0]
    step = np.log(m["alphas"][:, 1] / m["alphas"][:, 0])
    return np.log(largest[..., 1] / largest[..., 0]) / step[:, None]


def lazy_exponents(m: Arrays) -> np.ndarray:
    """Power of alpha in the error at large alpha, whose limit is not used: from three doublings."""
    steps = np.linalg.norm(np.diff(m["beta"][:, :, -3:], axis=2), axis=-1)
    return np.log2(steps[..., 1] / steps[..., 0])


def rich_tolerance(p: Arrays) -> np.ndarray:
    """What the next order in alpha adds to an exponent.

    With it the duals z on the support move, by the relative change of beta (D = 2) or by
    alpha/beta^(1/3) (D = 3), and those off it by no more than ``dual_reach`` times as much; there
    beta goes as e^z, or as (1 - z)^(-3) with z <= m.
    """
    reach, m, alphas = p["dual_reach"], p["dual_bounds"], p["alphas"][:, 1]
    on = np.abs(p["least_l1"]) > 1e-9
    limit = np.where(on, p["least_l1"], 1.0)
    change = np.abs(np.where(on, p["beta"][0, :, 1] / limit - 1, 0)).max(axis=1)
    smallest = np.where(on, np.abs(limit), np.inf).min(axis=1)
    return np.stack(
        [
            reach * change / np.log(alphas[0] / p["alphas"][0, 0]),
            3 * reach / (1 - m) * alphas[1] / smallest ** (1 / 3),
        ]
    )


INTEGRATED = "gradient flow, integrated to 1e-12 by step, until nothing is left to learn"

CLAIMS = (
    *(
        Claim(
            f"where gradient flow ends, from every alpha, D = {depth}",
            predicted=lambda p, row=row: p["beta"][row],
            measured=lambda m, row=row: m["beta"][row],
            tolerance=1e-7,
            because=INTEGRATED + "; labels are of order one",
            error="absolute",
        )
        for row, depth in enumerate(DEPTHS)
    ),
    Claim(
        "where it ends from unequal weights, D = 2",
        predicted=lambda p: p["unequal"],
        measured=lambda m: m["unequal"],
        tolerance=1e-7,
        because=INTEGRATED,
        error="absolute",
    ),
    Claim(
        "scale law: from alpha/s^(1/D) on labels y/s, times s, both depths",
        predicted=lambda p: p["beta"][:, :, SCALED],
        measured=lambda m: m["scaled"],
        tolerance=1e-7,
        because=INTEGRATED,
        error="absolute",
    ),
    Claim(
        "power of alpha towards the least l1 norm, every problem and depth",
        predicted=lambda p: p["rich_exponents"],
        measured=rich_exponents,
        tolerance=lambda p, m: rich_tolerance(p),
        because="the next order in alpha, of duals that are not yet those of the limit",
        error="absolute",
    ),
    Claim(
        "power of alpha towards the least l2 norm",
        predicted=lambda p: p["lazy_exponents"],
        measured=lazy_exponents,
        tolerance=lambda p, m: (
            (np.abs(p["least_l2"]).max() / p["alphas"][:, -3] ** np.array(DEPTHS)) ** 2
        )[:, None],
        because="the next order, relative to the error the square of beta/alpha^D",
        error="absolute",
    ),
    Claim(
        "eigenvalues of the tangent kernel at the end",
        predicted=lambda p: p["kernel_eigenvalues"],
        measured=lambda m: np.linalg.eigvalsh(m["kernel"][:, :, :, -1]),
        tolerance=1e-6,
        because=INTEGRATED,
    ),
    Claim(
        "eigenvalues of the tangent kernel along the flow, over those at this beta",
        predicted=lambda p: p["along_flow"],
        measured=kernel_ratios,
        tolerance=1e-6,
        because=INTEGRATED,
    ),
)

EXPERIMENT = Experiment(
    name="woodworth2020_path",
    source=papers.woodworth2020("the path from least l2 to least l1 norm, of depth 2 and 3"),
    statement="The scale of initial weights moves the end of training from the least l2 to the "
    "least l1 norm.",
    equations=(
        r"\beta_\infty = \mathrm{argmin}_{X\beta=y} \sum_i \alpha^D q_D(\beta_i/\alpha^D), \quad "
        r"q_2' = \mathrm{arcsinh}(b/2), \quad q_D' = h_D^{-1}, \quad "
        r"h_D(z) = (1-z)^{-\frac{D}{D-2}} - (1+z)^{-\frac{D}{D-2}}",
        r"|\beta_\infty - \beta_{\ell_2}| \sim \alpha^{-2D}, \quad "
        r"|\beta_\infty - \beta_{\ell_1}| \sim \alpha^{2(1-m)}\ (D=2),\ \alpha^D\ (D\geq3), "
        r"\quad K = 4X\,\mathrm{diag}\sqrt{\beta^2+4\alpha^4}\,X^\top\ (D=2)",
    ),
    quick=Config(),
    full=Config(examples=5, features=16, duration=200.0, data_seed=82),
    cost=(9, 60),
    predict=predict,
    simulate=simulate,
    claims=CLAIMS,
)
