"""Gradient flow: the limit of gradient descent for small steps, integrated with error control.

``tau dtheta/dt = -grad L(theta)``. Gradient descent with step size eta is its Euler discretisation
at the times ``t / tau = eta * step`` and deviates from it by O(eta).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree


class FlowResult(NamedTuple):
    """A gradient flow at the requested times.

    ``params`` are the parameters, time on a leading axis, and ``records`` is empty; with
    ``observe`` it is the other way round: ``params`` is None and ``records`` holds what was seen,
    as floating-point numbers. Values are NaN where ``reached`` is False. ``converged``: every time
    was reached with the step errors within tolerance. ``n_steps`` counts the steps tried, rejected
    ones included; ``result`` is diffrax's reason for stopping.
    """

    times: Float[Array, "*batch times"]
    params: PyTree
    records: dict[str, Array]
    reached: Bool[Array, "*batch times"]
    converged: Bool[Array, "*batch"]
    n_steps: Int[Array, "*batch"]
    result: diffrax.RESULTS


def gradient_flow(
    params: PyTree,
    data: PyTree,
    *,
    loss: Callable[[PyTree, PyTree], Array],
    times: Float[ArrayLike, " times"] | Sequence[ArrayLike],
    tau: ArrayLike = 1.0,
    layer_rates: PyTree = 1.0,
    rtol: float | None = None,
    atol: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int = 2**16,
    observe: Callable[[PyTree], dict[str, Array]] | None = None,
) -> FlowResult:
    """Gradient flow on ``loss(params, data)``, started at t = 0.

    ``tau dtheta_l/dt = -rate_l dL/dtheta_l``; the normalisation of the loss is the caller's. Steps
    end exactly on the requested times, because interpolating between steps would be less accurate
    than the steps are. Compiled once per loss, observe, solver and shapes; pass the same function
    objects again to reuse it. Works under jit and vmap, and reverse-mode derivatives with respect
    to params, data, tau and layer_rates go through (forward mode is not available in diffrax's
    default adjoint). All is computed in the common dtype of the parameters.

    Args:
        times: strictly increasing, >= 0, at least one; not necessarily 0 itself.
        layer_rates: relative learning rates, a pytree prefix of ``params``: one number, or for a
            tuple of layers a tuple of numbers.
        rtol, atol: tolerances on the error of one step, by parameter. Default: rtol = 1e-9 (1e-5
            in float32), atol = rtol / 1000. Errors of the solution are of the same order where
            the flow is not expanding.
        solver: Dopri8 by default; ``diffrax.Kvaerno5()`` when curvatures span many orders of
            magnitude and the stable step is far below the resolution wanted.
        max_steps: give up after so many.
        observe: what to record instead of the parameters, a dict of arrays.

    Numerical failure (steps used up; a step size that vanishes because the flow blows up or the
    gradient is NaN) does not raise: ``converged`` is False and ``reached`` says from where on.

    Raises:
        ValueError: times negative or not increasing, NaN or infinity in params or data, tau <= 0,
            tolerances that are not positive or below the resolution of the dtype, max_steps < 1.

    Source: Kidger (2021), arXiv 2202.02435, for diffrax.

    >>> square = lambda w, target: (w - target) ** 2 / 2
    >>> flow = gradient_flow(0.0, 1.0, loss=square, times=[0.0, jnp.log(2.0)], tau=0.5)
    >>> [round(w, 4) for w in flow.params.tolist()], bool(flow.converged)
    ([0.0, 0.75], True)
    """
    dtype = _common_dtype(params)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    times = np.asarray(times, dtype) if _is_known(times) else jnp.asarray(times, dtype)
    rtol, atol = _tolerances(rtol, atol, dtype)
    _check(times, params, data, tau, max_steps)
    return _integrate(
        params,
        (data, layer_rates, tau),
        times,
        rtol,
        atol,
        loss=loss,
        solver=diffrax.Dopri8() if solver is None else solver,
        max_steps=max_steps,
        observe=observe,
    )


@partial(jax.jit, static_argnames=("loss", "solver", "max_steps", "observe"))
def _integrate(params, args, times, rtol, atol, *, loss, solver, max_steps, observe) -> FlowResult:
    def velocity(t, params, args):
        data, layer_rates, tau = args
        gradient = jax.grad(loss)(params, data)

        def scaled(rate, part):
            return jax.tree.map(lambda g: -(rate / tau).astype(g.dtype) * g, part)

        return jax.tree.map(scaled, layer_rates, gradient)

    def save(t, params, args):
        seen = params if observe is None else observe(params)
        return jax.tree.map(lambda value: _floating(jnp.asarray(value), times.dtype), seen)

    # without a smallest step, a few roundings of t, a flow that blows up would try the instant
    # where it does so again and again until its steps are used up
    smallest = 8 * jnp.finfo(times.dtype).eps * times[-1]
    control = diffrax.PIDController(rtol, atol, dtmin=smallest, force_dtmin=False)
    solution: Any = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        solver,
        t0=jnp.zeros((), times.dtype),
        t1=times[-1],
        dt0=None,
        y0=params,
        args=args,
        saveat=diffrax.SaveAt(ts=times, fn=save),
        stepsize_controller=diffrax.ClipStepSizeController(control, step_ts=times),
        max_steps=max_steps,
        throw=False,
    )
    reached = jnp.isfinite(solution.ts)
    seen = jax.tree.map(lambda values: _nan_unless(reached, values), solution.ys)
    return FlowResult(
        times=times,
        params=seen if observe is None else None,
        records={} if observe is None else seen,
        reached=reached,
        converged=diffrax.is_successful(solution.result),
        n_steps=solution.stats["num_steps"],
        result=solution.result,
    )


def _floating(value: Array, dtype: Any) -> Array:
    """Counts and truth values as numbers that can be NaN."""
    return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(dtype)


def _nan_unless(reached: Array, values: Array) -> Array:
    mask = reached.reshape(reached.shape + (1,) * (values.ndim - 1))
    return jnp.where(jnp.broadcast_to(mask, values.shape), values, jnp.nan)


def _common_dtype(params: PyTree) -> Any:
    leaves = jax.tree.leaves(params)
    dtype = jnp.result_type(*leaves) if leaves else None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"params must hold real floating-point arrays, got dtype {dtype}")
    return dtype


def _tolerances(rtol: float | None, atol: float | None, dtype: Any) -> tuple[float, float]:
    finest = float(jnp.finfo(dtype).eps)
    rtol = max(1e-9, 100 * finest) if rtol is None else rtol
    atol = rtol / 1000 if atol is None else atol
    if not 4 * finest <= rtol < 1:
        raise ValueError(f"rtol must be in [{4 * finest:.1e}, 1) for {dtype}, got {rtol}")
    if not 0 < atol < np.inf:
        raise ValueError(f"atol must be positive, got {atol}")
    return rtol, atol


def _is_known(tree: PyTree) -> bool:
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _check(times: Any, params: PyTree, data: PyTree, tau: ArrayLike, max_steps: int) -> None:
    # NumPy throughout: under jit a JAX operation on known values gives an unknown one
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times must be a non-empty vector, got shape {times.shape}")
    if _is_known(times) and not (
        np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all()
    ):
        raise ValueError(f"times must be finite, >= 0 and strictly increasing, got {times}")
    if _is_known(tau) and not 0 < float(np.asarray(tau)) < np.inf:
        raise ValueError(f"tau must be positive and finite, got {tau}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be >= 1, got {max_steps}")
    for name, tree in (("params", params), ("data", data)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not (_is_known(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)):
                continue
            if not np.isfinite(np.asarray(leaf)).all():
                where = name + jax.tree_util.keystr(path)
                raise ValueError(f"{where} must be finite, got NaN or infinity")
