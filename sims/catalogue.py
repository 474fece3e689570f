"""Every experiment there is, listed by hand in the order in which the papers appeared."""

import difflib

from sims.deep_linear import (
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
from sims.experiment import Experiment
from sims.kernels import (
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
from sims.stability import (
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

EXPERIMENTS: tuple[Experiment, ...] = (
    saxe2014_modes.EXPERIMENT,
    saxe2014_digits.EXPERIMENT,
    saxe2014_depth.EXPERIMENT,
    saxe2014_products.EXPERIMENT,
    saxe2014_jacobians.EXPERIMENT,
    advani2017_dynamics.EXPERIMENT,
    advani2017_stopping.EXPERIMENT,
    jacot2018_kernel.EXPERIMENT,
    jacot2018_digits.EXPERIMENT,
    chizat2019_lazy.EXPERIMENT,
    lee2019_linearized.EXPERIMENT,
    lee2019_ensemble.EXPERIMENT,
    lewkowycz2020_catapult.EXPERIMENT,
    geiger2020_phase.EXPERIMENT,
    woodworth2020_path.EXPERIMENT,
    tian2021_byol.EXPERIMENT,
    fort2020_velocity.EXPERIMENT,
    cohen2021_edge.EXPERIMENT,
    jacot2021_saddles.EXPERIMENT,
    paul2021_diet.EXPERIMENT,
    atanasov2022_alignment.EXPERIMENT,
    damian2022_self_stabilization.EXPERIMENT,
    roberts2022_criticality.EXPERIMENT,
    wu2023_regularization.EXPERIMENT,
    mulayoff2024_threshold.EXPERIMENT,
    kleinman2023_pathways.EXPERIMENT,
    kleinman2023_transfer.EXPERIMENT,
    wortsman2023_proxies.EXPERIMENT,
    liu2023_laziness.EXPERIMENT,
    rosenfeld2023_signals.EXPERIMENT,
    tirer2023_collapse.EXPERIMENT,
    sarnthein2023_teachers.EXPERIMENT,
    domine2024_balanced.EXPERIMENT,
    domine2024_wide.EXPERIMENT,
    wen2024_river.EXPERIMENT,
    wen2024_bigram.EXPERIMENT,
    cohen2024_central_flow.EXPERIMENT,
    alleman2024_geometry.EXPERIMENT,
    deluca2025_permutations.EXPERIMENT,
)


class UnknownExperiment(LookupError):
    """No experiment of that name; the message suggests the nearest one and lists all."""


def find(name: str) -> Experiment:
    """The experiment called ``name``; raises ``UnknownExperiment``."""
    by_name = {experiment.name: experiment for experiment in EXPERIMENTS}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        known = ", ".join(by_name) or "none"
        raise UnknownExperiment(f"there is no experiment {name!r}{hint} Known: {known}")
    return by_name[name]


def select(name: str) -> tuple[Experiment, ...]:
    """All experiments for ``"all"``, otherwise the one of that name.

    >>> select("all") == EXPERIMENTS
    True
    """
    return EXPERIMENTS if name == "all" else (find(name),)
