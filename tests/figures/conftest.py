"""Two small experiments in place of the catalogue: sums of squares (holds) and of cubes (fails)."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from figures import catalogue as drawings
from figures import style
from sims import catalogue
from sims.experiment import Claim, Experiment, Source

SIMULATED = Counter()  # how often each experiment was really computed


@dataclass(frozen=True)
class SquaresConfig:
    seeds: int = 3
    upto: int = 8
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.upto < 1:
            raise ValueError(f"upto must be >= 1, got {self.upto}")


@dataclass(frozen=True)
class CubesConfig:
    upto: int = 8


def predict_squares(config):
    n = np.arange(1, config.upto + 1)
    return {"n": n, "sum": config.scale * n * (n + 1) * (2 * n + 1) / 6}


def simulate_squares(config, key):
    SIMULATED["squares"] += 1
    noise = np.linspace(-1e-4, 1e-4, config.seeds)[:, None]
    return {"sum": config.scale * np.cumsum(np.arange(1, config.upto + 1) ** 2) * (1 + noise)}


def predict_cubes(config):
    n = np.arange(1, config.upto + 1)
    return {"n": n, "sum": n**2 * (n + 1) ** 2 / 4 + 1}  # wrong on purpose, by one


def simulate_cubes(config, key):
    SIMULATED["cubes"] += 1
    return {"sum": np.cumsum(np.arange(1.0, config.upto + 1) ** 3)[None]}


SQUARES = Experiment(
    name="squares",
    source=Source("Archimedes", -225, "On Spirals <of course>", "0000.00225", "Prop. 10"),
    statement="The sum of the first n squares is a cubic & grows as n³/3.",
    equations=(r"\sum_{k=1}^{n} k^2 = \frac{n (n+1) (2n+1)}{6}", r"\unknowncommand{n}"),
    quick=SquaresConfig(),
    full=SquaresConfig(seeds=32, upto=100),
    cost=(0.25, 7300.0),
    predict=predict_squares,
    simulate=simulate_squares,
    claims=(
        Claim("sum", lambda p: p["sum"], lambda m: m["sum"], 2e-4, "noise of one part in 10⁴"),
        Claim("degree", lambda p: 3.0, lambda m: 3.01, 0.1, "few points", error="absolute"),
    ),
)
CUBES = Experiment(
    name="cubes",
    source=Source("Nicomachus", 100, "Arithmetic", "0000.00100", "Book II"),
    statement="The sum of the first n cubes is a square.",
    equations=(r"\sum_{k=1}^{n} k^3 = \left( \frac{n (n+1)}{2} \right)^2",),
    quick=CubesConfig(),
    full=CubesConfig(upto=100),
    cost=(0.1, 75.0),
    predict=predict_cubes,
    simulate=simulate_cubes,
    claims=(Claim("sum", lambda p: p["sum"], lambda m: m["sum"], 1e-9, "exact arithmetic"),),
)


def draw(result):
    figure, axes = style.panels(span=1)
    style.theory_line(axes[0, 0], result.predicted["n"], result.predicted["sum"])
    style.simulation_points(axes[0, 0], result.predicted["n"], result.measured["sum"])
    style.legend(axes[0, 0])
    return figure


@pytest.fixture
def experiments(monkeypatch, tmp_path):
    """The two experiments as the whole catalogue, in an empty working directory."""
    monkeypatch.setattr(catalogue, "EXPERIMENTS", (SQUARES, CUBES))
    monkeypatch.setattr(drawings, "DRAW", {"squares": draw, "cubes": draw})
    monkeypatch.chdir(tmp_path)
    SIMULATED.clear()
    return SQUARES, CUBES


@pytest.fixture
def simulated():
    return SIMULATED
