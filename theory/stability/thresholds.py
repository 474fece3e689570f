"""Curvature at which an optimizer becomes unstable on a quadratic, and back to the learning rate.

An optimizer with a linear filter between gradient and update is unstable first in the mode that
flips its sign at every step. If its answer to a gradient ``g (-1)^t`` is an update ``g F (-1)^t``,

    theta' = (1 - eta w) theta - eta F H theta = -theta   at   lambda = (2/F) (1/eta - w/2),

with learning rate eta and decoupled weight decay w (decay ``theta (1 - eta w)``, as in AdamW):

    gd, rmsprop             F = 1                      lambda = 2/eta
    heavy_ball              F = 1/(1+b)                (2+2b)/eta
    nesterov                F = (1+2b)/(1+b)           (2+2b)/((1+2b) eta)
    ema, adam, adamw        F = (1-b)/(1+b)            (2+2b)/((1-b) eta): 38/eta at b = 0.9
    nadam                   F = (1-b)(1+2b)/(1+b)      (2+2b)/((1-b)(1+2b) eta)

lambda is an eigenvalue of the Hessian H **of the loss that is descended**, for adaptive methods of
P^-1 H with the preconditioner P held fixed (``adam_preconditioner``, which contains the bias
corrections). An L2 penalty ``w |theta|^2/2`` is part of that loss: without other decay its
thresholds are those of H + w. Negative eigenvalues are unstable everywhere, without decay.

Sources: Cohen et al. 2021, arXiv:2103.00065 (heavy ball, Nesterov); Cohen et al. 2022,
arXiv:2207.14484 (Adam); nadam and weight decay derived here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory.arguments import as_floats, require_nonnegative, require_positive
from theory.checks import Count, require, require_count


class Optimizer(NamedTuple):
    """Answer F of an optimizer to an alternating gradient, and what its hyper-parameters are."""

    response: Callable[[Array], Array]
    momentum: str | None  # the name under which it takes b
    decays: bool = True


def _heavy_ball(b: Array) -> Array:
    return 1 / (1 + b)


def _nesterov(b: Array) -> Array:
    return (1 + 2 * b) / (1 + b)


def _average(b: Array) -> Array:
    return (1 - b) / (1 + b)


def _nesterov_average(b: Array) -> Array:
    return (1 - b) * _nesterov(b)


OPTIMIZERS: dict[str, Optimizer] = {
    "gd": Optimizer(jnp.ones_like, None),
    "heavy_ball": Optimizer(_heavy_ball, "momentum"),
    "nesterov": Optimizer(_nesterov, "momentum"),
    "ema": Optimizer(_average, "momentum"),
    "rmsprop": Optimizer(jnp.ones_like, None),
    "adam": Optimizer(_average, "b1", decays=False),
    "adamw": Optimizer(_average, "b1"),
    "nadam": Optimizer(_nesterov_average, "b1"),
}


def optimizer_threshold(kind: str, learning_rate: ArrayLike, **hyper: ArrayLike) -> Array:
    """Curvature ``(2/F)(1/eta - w/2)`` above which an optimizer is unstable on a quadratic.

    ``kind`` and its hyper-parameters: gd, rmsprop; heavy_ball, nesterov, ema (``momentum``); adam,
    adamw, nadam (``b1``); all but adam take ``weight_decay``, decoupled, 0 if not given. "ema"
    averages gradients, ``m' = b m + (1-b) g``; "heavy_ball" adds them up, ``m' = b m + g``, as
    ``optax.sgd(momentum=b)``. Arguments broadcast; with ``eta w > 2`` the decay alone is unstable
    and the threshold negative. Conventions and sources: head of the module.

    Raises ``ValueError`` for an unknown kind or hyper-parameter, a missing one, a learning rate
    not positive, momentum outside [0, 1), negative decay.

    >>> round(float(optimizer_threshold("adam", 1.0, b1=0.9)), 6)
    38.0
    >>> float(optimizer_threshold("gd", 0.5, weight_decay=1.0))
    3.0
    """
    require_positive(learning_rate=learning_rate)
    response, decay = _response(kind, hyper)
    eta, response, decay = as_floats(learning_rate, response, decay)
    return 2 / response * (1 / eta - decay / 2)


def largest_learning_rate(kind: str, curvature: ArrayLike, **hyper: ArrayLike) -> Array:
    """Learning rate ``1/(F lambda/2 + w/2)`` above which an optimizer is unstable; the inverse.

    ``curvature`` is the largest eigenvalue of H (of P^-1 H for adaptive methods), positive.
    Arguments and errors as in ``optimizer_threshold``.

    >>> [float(largest_learning_rate(kind, 4.0)) for kind in ("gd", "rmsprop")]
    [0.5, 0.5]
    """
    require_positive(curvature=curvature)
    response, decay = _response(kind, hyper)
    curvature, response, decay = as_floats(curvature, response, decay)
    return 2 / (response * curvature + decay)


def trace_threshold(
    learning_rate: ArrayLike, batch_size: Count, n_outputs: Count = 1
) -> Float[Array, "..."]:
    """Largest Hessian trace at an interpolating minimum that SGD can keep: ``2 c B / eta``.

    Necessary for bounded second moments of the linearised dynamics, batches of B drawn
    independently, with or without replacement. Loss ``(1/n) sum_i 1/2 |f_i - y_i|^2`` (half, mean
    over samples, sum over the c outputs). Without the factor c it fails: per-sample Hessians I_c
    have trace c and are stable up to eta = 2.

    Raises ``ValueError`` for a learning rate not positive, B or c not an integer >= 1.
    Source: Wu & Su 2023, arXiv:2305.17490 (B = c = 1); general B and c derived here.

    >>> float(trace_threshold(0.5, batch_size=2))
    8.0
    """
    require_positive(learning_rate=learning_rate)
    require_count(batch_size=batch_size, n_outputs=n_outputs)
    (eta,) = as_floats(learning_rate)
    return 2 * jnp.asarray(n_outputs) * jnp.asarray(batch_size) / eta


def adam_preconditioner(
    nu: ArrayLike, step: ArrayLike, *, b1: ArrayLike, b2: ArrayLike, eps: ArrayLike
) -> Array:
    """Diagonal P for which Adam's update number ``step`` is ``-eta m / P``, m the raw average.

        P = (1 - b1^t) (sqrt(nu / (1 - b2^t)) + eps)

    ``nu`` is the raw average of squared gradients after t = ``step`` updates, as optax keeps it.
    Adam hovers below lmax(P^-1 H) = (2+2b1)/((1-b1) eta). Arguments broadcast.

    Raises ``ValueError`` for nu or eps negative, step below 1, b1 or b2 outside [0, 1).
    Source: Cohen et al. 2022, arXiv:2207.14484.

    >>> round(float(adam_preconditioner(0.01 * 4.0, 1, b1=0.9, b2=0.99, eps=0.0)), 6)
    0.2
    """
    require_nonnegative(nu=nu, eps=eps)
    require("step", step, lambda t: t >= 1, "at least 1")
    _require_fraction(b1=b1, b2=b2)
    nu, step, b1, b2, eps = as_floats(nu, step, b1, b2, eps)
    return (1 - b1**step) * (jnp.sqrt(nu / (1 - b2**step)) + eps)


def _response(kind: str, hyper: dict[str, ArrayLike]) -> tuple[Array, ArrayLike]:
    """F and the decay w of an optimizer, its hyper-parameters checked."""
    if kind not in OPTIMIZERS:
        raise ValueError(f"kind must be one of {', '.join(OPTIMIZERS)}, got {kind!r}")
    optimizer = OPTIMIZERS[kind]
    needed = {optimizer.momentum} - {None}
    allowed = needed | ({"weight_decay"} if optimizer.decays else set())
    if not needed <= set(hyper) <= allowed:
        listed = ", ".join(sorted(map(str, allowed))) or "none"
        raise ValueError(f"hyper-parameters of {kind!r} must be {listed}, got {sorted(hyper)}")
    decay = hyper.get("weight_decay", 0.0)
    require_nonnegative(weight_decay=decay)
    b = hyper[optimizer.momentum] if optimizer.momentum else 0.0
    _require_fraction(**{optimizer.momentum or "momentum": b})
    return optimizer.response(*as_floats(b)), decay


def _require_fraction(**values: ArrayLike) -> None:
    for name, value in values.items():
        require(name, value, lambda b: (b >= 0) & (b < 1), "in [0, 1)")
