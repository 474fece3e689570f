"""``python -m benchmarks.accuracy``: every exact solution against integration of the whole network.

Each row compares one public function with a fine numerical integration (DOP853, relative tolerance
1e-13) of weights, matrices or data that know nothing of it, or with automatic differentiation,
over random problems, and prints the largest error relative to the largest value. The table is
the README's.
"""

from sims import backend

backend.prepare()

from collections.abc import Callable, Iterator  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks import integrations as by  # noqa: E402

SEEDS = 3


class Solution(NamedTuple):
    """A row of the table; ``error`` measures on random problems."""

    system: str
    assumptions: str
    function: str
    paper: str
    error: Callable[[np.random.Generator], float]


SAXE, DOMINE = "Saxe et al. 2014", "Braun et al. 2022, Dominé et al. 2024"
KLEINMAN, ADVANI = "Kleinman et al. 2023", "Advani & Saxe 2017"

SOLUTIONS = (
    Solution(
        "one mode, two layers",
        "white inputs; any imbalance and sign",
        "modes.two_layer_mode_strength",
        SAXE,
        by.unbalanced_modes,
    ),
    Solution(
        "one mode, depth L",
        "white inputs, balanced layers",
        "deep_modes.deep_mode_strength",
        SAXE,
        by.mode_at_depth,
    ),
    Solution(
        "two layers, all weights up to rotation",
        "white inputs, equal layers (λ = 0); 4-3-5",
        "riccati.qqt",
        DOMINE,
        by.riccati_error(4, 3, 5, 0.0),
    ),
    Solution("the same", "λ = 0.5; 3-3-5", "riccati.qqt", DOMINE, by.riccati_error(3, 3, 5, 0.5)),
    Solution(
        "the same with weight decay",
        "λ = 0; 4-6-4",
        "riccati.qqt",
        "derived here",
        by.riccati_error(4, 6, 4, 0.0, 0.2),
    ),
    Solution(
        "all modes at once",
        "white inputs, orthogonal hidden vectors (wide Gaussian weights, to 1/√width)",
        "balanced_initialization.wide_mode_imbalance",
        "derived here",
        by.hidden_orthogonal,
    ),
    Solution(
        "the map of L layers, any loss and data",
        "balanced layers",
        "end_to_end.end_to_end_velocity",
        "Arora et al. 2018",
        by.end_to_end_map,
    ),
    Solution(
        "tangent kernel along training",
        "two layers",
        "tangent_kernel.ntk_two_layer",
        DOMINE,
        by.kernel,
    ),
    Solution(
        "kernel and feature movement by rank",
        "one output, equal singular values",
        "tangent_kernel.low_rank_laziness",
        "Liu et al. 2023",
        by.laziness,
    ),
    Solution(
        "full Hessian spectrum on the way",
        "two layers, aligned",
        "hessian.two_layer_hessian_spectrum",
        "derived here",
        by.hessian_spectrum,
    ),
    Solution(
        "weights on the first plateau",
        "two layers, small random weights",
        "saddles.plateau_weights",
        "Atanasov et al. 2022",
        by.plateau,
    ),
    Solution(
        "linear regression on given data",
        "none",
        "finite_sample.finite_sample_path",
        ADVANI,
        by.finite_data,
    ),
    Solution(
        "its test error over time, averaged",
        "many random inputs and examples",
        "generalization.generalization_error",
        ADVANI,
        by.average_error,
    ),
    Solution(
        "critical period of two pathways",
        "aligned, balanced, depth 2 to 4",
        "pathways.critical_period_curve",
        KLEINMAN,
        by.critical_period,
    ),
    Solution(
        "growth or collapse of a BYOL mode",
        "linear, isotropic, on the parabola",
        "byol_modes.byol_basin_time",
        "Tian et al. 2021",
        by.self_supervised,
    ),
    Solution(
        "balance under gradient descent",
        "two layers, one step",
        "discrete.balance_drift",
        "derived here",
        by.balance_of_descent,
    ),
    Solution(
        "mean-square edge of online SGD",
        "linear, Gaussian inputs",
        "sgd_moments.sgd_mean_square_edge",
        "derived here",
        by.online_descent,
    ),
    Solution(
        "modes of hierarchical data",
        "balanced tree, binary features",
        "semantic.tree_singular_values",
        SAXE,
        by.tree,
    ),
)


def table() -> Iterator[str]:
    """Lines of the Markdown table."""
    yield "| system | assumptions | function in `theory.deep_linear` | paper | measured error |"
    yield "|---|---|---|---|---|"
    for row in SOLUTIONS:
        error = max(row.error(np.random.default_rng(seed)) for seed in range(SEEDS))
        yield (
            f"| {row.system} | {row.assumptions} | `{row.function}` | {row.paper} | {error:.0e} |"
        )


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
