"""Networks whose data or gates change while they train, by gradient descent at three step sizes.

A case says at which steps something changes. Halving the step doubles those numbers, so that all
happens at the same times ``t = eta * step``, and the error of finite steps can be extrapolated.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sims.processes import training_process
from sims.sweep import Process

SUBDIVISIONS = (1, 2, 4)  # of the coarsest step


def switched_process(
    init: Callable[[Any, Any], Any],
    loss: Callable[[Any, Any], jax.Array],
    data_at: Callable[[Any, Any, Any], Any],
    observe: Callable[[Any, Any], dict[str, jax.Array]],
) -> Process:
    """As ``training_process``, on ``data_at(k, case, shared)`` at step k."""
    process = training_process(init, loss, observe)

    def step(k, state, case, shared):
        return process.step(k, state, case, {"data": data_at(k, case, shared)})

    return process._replace(step=step)


def refined(cases: dict[str, Any], parts: int) -> dict[str, Any]:
    """The same cases with every step cut into ``parts``.

    >>> refined({"learning_rate": 0.5, "steps": {"onset": 3}}, 2)
    {'learning_rate': 0.25, 'steps': {'onset': 6}}
    """
    steps = {name: parts * steps for name, steps in cases["steps"].items()}
    return cases | {"learning_rate": cases["learning_rate"] / parts, "steps": steps}


def train_at_three_steps(
    name: str, process: Process, cases: dict[str, Any], shared: Any, record_at: Any, sweep: Any
) -> dict[str, np.ndarray]:
    """Records at the steps h, h/2, h/4 (leading axis), taken at the same times.

    ``cases`` holds ``learning_rate`` and ``steps``, a dict of step numbers, at the coarsest step;
    ``record_at`` counts those, too.
    """
    runs = [
        sweep(
            f"{name}_in_{parts}",
            process,
            refined(cases, parts),
            shared,
            record_at=parts * np.asarray(record_at),
        ).records
        for parts in SUBDIVISIONS
    ]
    return jax.tree.map(lambda *records: np.stack(records), *runs)
