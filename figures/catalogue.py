"""Which function draws which experiment; listed by hand, like the experiments themselves."""

from collections.abc import Callable

from matplotlib.figure import Figure

from figures import style
from figures.deep_linear import (
    advani2017_dynamics,
    advani2017_stopping,
    atanasov2022_alignment,
    domine2024_balanced,
    domine2024_wide,
    jacot2021_saddles,
    kleinman2023_pathways,
    kleinman2023_transfer,
    liu2023_laziness,
    saxe2014_depth,
    saxe2014_digits,
    saxe2014_jacobians,
    saxe2014_modes,
    saxe2014_products,
    tian2021_byol,
)
from figures.kernels import (
    alleman2024_geometry,
    chizat2019_lazy,
    deluca2025_permutations,
    fort2020_velocity,
    geiger2020_phase,
    jacot2018_digits,
    jacot2018_kernel,
    lee2019_ensemble,
    lee2019_linearized,
    paul2021_diet,
    roberts2022_criticality,
    sarnthein2023_teachers,
    tirer2023_collapse,
    woodworth2020_path,
)
from figures.stability import (
    cohen2021_edge,
    cohen2024_central_flow,
    damian2022_self_stabilization,
    lewkowycz2020_catapult,
    mulayoff2024_threshold,
    rosenfeld2023_signals,
    wen2024_bigram,
    wen2024_river,
    wortsman2023_proxies,
    wu2023_regularization,
)
from sims.experiment import Result

DRAW: dict[str, Callable[[Result], Figure]] = {
    "saxe2014_modes": saxe2014_modes.draw,
    "saxe2014_digits": saxe2014_digits.draw,
    "saxe2014_depth": saxe2014_depth.draw,
    "saxe2014_products": saxe2014_products.draw,
    "saxe2014_jacobians": saxe2014_jacobians.draw,
    "advani2017_dynamics": advani2017_dynamics.draw,
    "advani2017_stopping": advani2017_stopping.draw,
    "jacot2018_kernel": jacot2018_kernel.draw,
    "jacot2018_digits": jacot2018_digits.draw,
    "chizat2019_lazy": chizat2019_lazy.draw,
    "lee2019_linearized": lee2019_linearized.draw,
    "lee2019_ensemble": lee2019_ensemble.draw,
    "lewkowycz2020_catapult": lewkowycz2020_catapult.draw,
    "geiger2020_phase": geiger2020_phase.draw,
    "woodworth2020_path": woodworth2020_path.draw,
    "tian2021_byol": tian2021_byol.draw,
    "fort2020_velocity": fort2020_velocity.draw,
    "cohen2021_edge": cohen2021_edge.draw,
    "jacot2021_saddles": jacot2021_saddles.draw,
    "paul2021_diet": paul2021_diet.draw,
    "atanasov2022_alignment": atanasov2022_alignment.draw,
    "damian2022_self_stabilization": damian2022_self_stabilization.draw,
    "roberts2022_criticality": roberts2022_criticality.draw,
    "wu2023_regularization": wu2023_regularization.draw,
    "mulayoff2024_threshold": mulayoff2024_threshold.draw,
    "kleinman2023_pathways": kleinman2023_pathways.draw,
    "kleinman2023_transfer": kleinman2023_transfer.draw,
    "wortsman2023_proxies": wortsman2023_proxies.draw,
    "liu2023_laziness": liu2023_laziness.draw,
    "rosenfeld2023_signals": rosenfeld2023_signals.draw,
    "tirer2023_collapse": tirer2023_collapse.draw,
    "sarnthein2023_teachers": sarnthein2023_teachers.draw,
    "domine2024_balanced": domine2024_balanced.draw,
    "domine2024_wide": domine2024_wide.draw,
    "wen2024_river": wen2024_river.draw,
    "wen2024_bigram": wen2024_bigram.draw,
    "cohen2024_central_flow": cohen2024_central_flow.draw,
    "alleman2024_geometry": alleman2024_geometry.draw,
    "deluca2025_permutations": deluca2025_permutations.draw,
}


def draw(result: Result) -> Figure:
    """Draw a result in the paper style.

    Raises KeyError if no function is listed in ``DRAW`` for the experiment.
    """
    if result.name not in DRAW:
        raise KeyError(
            f"no figure is listed for experiment {result.name!r} in figures/catalogue.py"
        )
    with style.paper():
        return DRAW[result.name](result)
