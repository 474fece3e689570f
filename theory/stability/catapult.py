"""The catapult: gradient descent of two-layer linear networks in closed form, step by step.

Network ``f = v . u / sqrt(n)`` with one input x = 1, label 0 and loss ``f^2/2``: f and the tangent
kernel ``lambda = (|u|^2 + |v|^2)/n`` (also the sharpness at f = 0) close on themselves,

    f'      = f (1 - eta lambda + eta^2 f^2/n)
    lambda' = lambda + (eta f^2/n)(eta lambda - 4).

As width n grows: lambda stays frozen for ``eta lambda_0 < 2`` (lazy); for ``2 < eta lambda_0 < 4``
the loss grows to order n, lambda falls and training ends at ``eta lambda < 2`` (catapult); above 4
it diverges. lambda falls in a step if and only if ``eta lambda < 4``.

With data, ``f = X W^T v / sqrt(n)`` on inputs X (m, d), W (n, d), and loss ``(1/2m) sum_i
(f_i - y_i)^2`` (half, mean over samples), the readout's size ``q = |v|^2/n``, the hidden Gram
``A = X W^T W X^T / n`` and f close on themselves, whatever n and d: ``DataCatapult``.

Source: Lewkowycz et al. 2020, arXiv:2003.02218 (one input); closure for data derived here.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from theory.arguments import (
    as_floats,
    require_finite,
    require_nonnegative,
    require_positive,
)
from theory.checks import require

PHASES = ("lazy", "catapult", "divergent")


class Catapult(NamedTuple):
    """Output f and tangent kernel lambda of the network with one input."""

    output: Array
    kernel: Array


class DataCatapult(NamedTuple):
    """Outputs f (m,), hidden Gram A = X W^T W X^T / n (m, m) and readout size q = |v|^2/n."""

    outputs: Array
    hidden: Array
    readout: Array


def catapult_step(state: Catapult, learning_rate: ArrayLike, width: ArrayLike) -> Catapult:
    """One step of gradient descent on ``f^2/2``, ``f = u . v / sqrt(n)``; equations in the head.

    Exact at every width n; width ``inf`` is the frozen kernel. Final values of a catapult are not
    smooth in eta or n: the steps at the top are chaotic. Arguments broadcast. Raises ``ValueError``
    for a learning rate or width not positive, a negative kernel, f not finite.
    Source: Lewkowycz et al. 2020, arXiv:2003.02218.

    >>> [float(x) for x in catapult_step(Catapult(1.0, 1.0), learning_rate=1.0, width=4)]
    [0.25, 0.25]
    """
    require_positive(learning_rate=learning_rate)
    require("width", width, lambda n: n > 0, "positive")
    require_finite(output=state.output)
    require_nonnegative(kernel=state.kernel)
    f, kernel, eta, width = as_floats(*state, learning_rate, width)
    move = eta * f**2 / width
    return Catapult(f * (1 - eta * kernel + eta * move), kernel + move * (eta * kernel - 4))


def imbalance_factor(output: ArrayLike, learning_rate: ArrayLike, width: ArrayLike) -> Array:
    """Factor ``1 - eta^2 f^2/n`` by which a step multiplies ``|u|^2 - |v|^2``.

    Gradient flow would conserve it. Arguments broadcast. Raises ``ValueError`` for a learning rate
    or width not positive, f not finite. Source: derived here.

    >>> float(imbalance_factor(2.0, learning_rate=0.5, width=4))
    0.75
    """
    require_positive(learning_rate=learning_rate)
    require("width", width, lambda n: n > 0, "positive")
    require_finite(output=output)
    f, eta, width = as_floats(output, learning_rate, width)
    return 1 - eta**2 * f**2 / width


def catapult_phase(learning_rate: ArrayLike, kernel: ArrayLike) -> Int[Array, "..."]:
    """Phase of wide networks by ``eta lambda_0``: index into ``PHASES``, borders at 2 and 4.

    For infinite width; a border itself counts as the phase above. Arguments broadcast. Raises
    ``ValueError`` for a learning rate not positive, a negative kernel.
    Source: Lewkowycz et al. 2020, arXiv:2003.02218.

    >>> [PHASES[index] for index in catapult_phase(jnp.array([1.0, 3.0, 5.0]), 1.0)]
    ['lazy', 'catapult', 'divergent']
    """
    require_positive(learning_rate=learning_rate)
    require_nonnegative(kernel=kernel)
    eta, kernel = as_floats(learning_rate, kernel)
    return (eta * kernel >= 2).astype(int) + (eta * kernel >= 4).astype(int)


def peak_time(learning_rate: ArrayLike, kernel: ArrayLike, width: ArrayLike) -> Array:
    """Steps until the loss of a catapult peaks: ``ln(n)/2 / ln|1 - eta lambda_0|``, plus O(1).

    f grows by ``1 - eta lambda_0`` a step until f^2 is of order n; the offset does not depend on n,
    so that only differences between widths are predicted. Arguments broadcast. Raises
    ``ValueError`` unless ``2 < eta lambda_0 < 4`` and n >= 1.
    Source: Lewkowycz et al. 2020, arXiv:2003.02218 (order of the time).

    >>> round(float(peak_time(1.0, 3.0, 1e6) - peak_time(1.0, 3.0, 1e4)), 3)
    3.322
    """
    require_positive(learning_rate=learning_rate, kernel=kernel)
    require("width", width, lambda n: (n >= 1) & (n < np.inf), "at least 1 and finite")
    eta, kernel, width = as_floats(learning_rate, kernel, width)
    require("learning_rate * kernel", eta * kernel, lambda x: (x > 2) & (x < 4), "in (2, 4)")
    return 0.5 * jnp.log(width) / jnp.log(eta * kernel - 1)


def catapult_step_data(
    state: DataCatapult,
    input_gram: ArrayLike,
    targets: ArrayLike,
    learning_rate: ArrayLike,
    width: ArrayLike,
) -> DataCatapult:
    """One step of gradient descent on ``(1/2m) |f - y|^2``, ``f = X W^T v / sqrt(n)``.

    With residuals r = f - y, input Gram ``G = X X^T``, kernel ``Theta = q G + A`` and ``z = G r``,

        f' = f - (eta/m) Theta r + (eta^2/(m^2 n)) (r . f) z
        A' = A - (eta/(m n)) (f z^T + z f^T) + (eta^2/(m^2 n)) q z z^T
        q' = q - (2 eta/(m n)) r . f + (eta^2/(m^2 n)) r^T A r.

    ``input_gram``: (m, m); ``targets``: (m,). Exact at every width n. Raises ``ValueError`` unless
    the shapes fit, entries are finite, learning rate and width positive.
    Source: derived here for the model of Lewkowycz et al. 2020, arXiv:2003.02218.

    >>> one = jnp.ones(1)  # one input: the step of ``catapult_step`` with f = 1, lambda = 1
    >>> start = DataCatapult(one, 0.5 * one[None], 0.5)
    >>> end = catapult_step_data(start, one[None], 0 * one, learning_rate=1.0, width=4)
    >>> float(end.outputs[0]), float(data_kernel(end, one[None])[0, 0])
    (0.25, 0.25)
    """
    require_positive(learning_rate=learning_rate)
    require("width", width, lambda n: n > 0, "positive")
    f, hidden, q, gram, y, eta, width = _data_arrays(
        state, input_gram, targets, learning_rate=learning_rate, width=width
    )
    rate, r = eta / f.shape[0], f - y
    z, overlap = gram @ r, jnp.dot(r, f)
    cross = jnp.outer(f, z)
    outputs = f - rate * (q * z + hidden @ r) + rate**2 / width * overlap * z
    hidden_change = rate**2 * q * jnp.outer(z, z) - rate * (cross + cross.T)
    readout_change = rate**2 * jnp.dot(r, hidden @ r) - 2 * rate * overlap
    return DataCatapult(outputs, hidden + hidden_change / width, q + readout_change / width)


def data_kernel(state: DataCatapult, input_gram: ArrayLike) -> Float[Array, "m m"]:
    """Tangent kernel ``Theta = q X X^T + A`` of the network with data.

    The sharpness where all residuals vanish is lmax(Theta)/m. Arguments and errors as in
    ``catapult_step_data``.

    >>> data_kernel(DataCatapult(jnp.ones(1), jnp.eye(1), 2.0), 3 * jnp.eye(1)).tolist()
    [[7.0]]
    """
    _, hidden, q, gram, _ = _data_arrays(state, input_gram, state.outputs)
    return q * gram + hidden


def _data_arrays(state: DataCatapult, input_gram: ArrayLike, targets: ArrayLike, **numbers):
    """State, input Gram, targets and numbers in one dtype, their shapes checked."""
    m = jnp.size(state.outputs)
    arrays = {**state._asdict(), "input_gram": input_gram, "targets": targets}
    shapes = {"outputs": (m,), "hidden": (m, m), "readout": (), "input_gram": (m, m)}
    for name, value in arrays.items():
        expected = shapes.get(name, (m,))
        if jnp.shape(value) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {jnp.shape(value)}")
        require_finite(**{name: value})
    values = [*arrays.values(), *numbers.values()]
    return [jnp.asarray(value, jnp.result_type(*values, 1.0)) for value in values]
