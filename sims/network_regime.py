"""Whether a user's own network was trained lazily or richly, from its start to where it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynamics.regime_report import RegimeReport, regime_report
from sims.user_network import Network

EXAMPLES = 256  # of the kernels at most; the price is two Jacobians of each
CHUNK = 32  # examples whose Jacobians are held at a time


class NetworkRegime(NamedTuple):
    """A verdict with its evidence, and on how many of the examples the kernels were taken."""

    report: RegimeReport
    examples: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before trusting the verdict."""
        rescaled = (
            f"The kernel's size changed by a factor of {self.report.measures.kernel_scale:.3g}, "
            "its direction hardly: distances do not see that, and the verdict rests on the others."
        )
        return (rescaled,) if self.report.rescaled else ()


def network_regime(network: Network, start: Any, end: Any) -> NetworkRegime:
    """``dynamics.regime_report`` between two points of training, on examples of ``network.data``.

    On all of them, or on ``EXAMPLES`` that are evenly spaced. The gain in kernel-target alignment
    is left out where targets are not numbers but labels.

    >>> x, y = jnp.eye(3), jnp.ones(3)
    >>> def apply(w, x): return x @ w
    >>> network = Network(apply, jnp.zeros(3), (x, y), lambda f, y: jnp.mean((f - y) ** 2))
    >>> found = network_regime(network, jnp.full(3, 1.0), jnp.full(3, 1.05))
    >>> found.report.regime, found.examples
    ('lazy', 3)
    """
    x, y = network.data
    kept = np.unique(np.linspace(0, len(x) - 1, min(EXAMPLES, len(x))).round().astype(int))
    numbers = jnp.issubdtype(jnp.asarray(y).dtype, jnp.floating)
    targets = jnp.asarray(y)[kept].reshape(len(kept), -1) if numbers else None
    report = regime_report(
        network.columns,
        start,
        end,
        jnp.asarray(x)[kept],
        targets,
        hidden=network.hidden,
        chunk=min(CHUNK, len(kept)),
    )
    measures = jax.tree.map(float, report.measures)
    return NetworkRegime(report._replace(measures=measures), len(kept))
