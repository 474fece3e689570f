"""A thousand times of a two-layer network's matrix flow: closed form, direct form, integration."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Timing, median_seconds
from theory.deep_linear.riccati import balanced_init, fukumizu_matrix, qqt, stack_weights

SIZES = (16, 64, 256)  # inputs + outputs, N; N/2 of each and N/4 hidden units
TIMES = 1000
LAST = 6.0  # modes of strength 0.5 to 1: beyond about 15 the direct form has no digits left
REPEATS = {16: 5, 64: 3, 256: 1}
TOLERANCE = 1e-10


def run() -> list[Timing]:
    """Median times; remarks hold the time over that of qqt at this N, and the disagreement."""
    return [timing for n in SIZES for timing in _compare(n)]


def _compare(n: int) -> list[Timing]:
    W1, W2, task = _problem(n)
    Q0, F, times = stack_weights(W1, W2), fukumizu_matrix(task), np.linspace(0.0, LAST, TIMES)
    direct, integrate = jax.jit(_direct), jax.jit(_integrate)
    calls = {
        "qqt": lambda: qqt(times, Q0, F),
        "direct form": lambda: direct(times, Q0, F),
        f"diffrax Dopri8, rtol {TOLERANCE:.0e}": lambda: integrate(times, (W1, W2), task),
    }
    seconds = {name: median_seconds(call, REPEATS[n]) for name, call in calls.items()}
    exact = calls["qqt"]()
    timings = []
    for name, call in calls.items():
        error = float(jnp.max(jnp.abs(call() - exact)) / jnp.max(jnp.abs(exact)))
        remark = f"{seconds[name] / seconds['qqt']:.2g} of qqt; largest difference {error:.0e}"
        timings.append(Timing(f"{name}, N = {n}", seconds[name], "" if name == "qqt" else remark))
    return timings


def _problem(n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Balanced weights, and a task with singular values from 1/2 to 1."""
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.standard_normal((n // 2, n // 2)))[0] for _ in range(2))
    task = jnp.asarray((left * np.linspace(0.5, 1.0, n // 2)[None]) @ right)
    return *balanced_init(jax.random.key(0), n // 2, n // 4, n // 2, scale=0.1), task


def _direct(times: Any, Q0: jax.Array, F: jax.Array) -> jax.Array:
    """``P = e^{Ft} Q0 [I + Q0^T Phi Q0]^{-1} Q0^T e^{Ft}`` as it stands; F without zeros."""
    f, G = jnp.linalg.eigh(F)
    start, hidden = G.T @ Q0, jnp.eye(Q0.shape[1])

    def at(t):
        phi = jnp.expm1(2 * f * t) / (2 * f)
        grown = jnp.exp(f * t)[:, None] * start
        inner = hidden + start.T @ (phi[:, None] * start)
        return G @ (grown @ jnp.linalg.solve(inner, grown.T)) @ G.T

    return jax.lax.map(at, jnp.asarray(times))


def _integrate(times: Any, weights: tuple[jax.Array, jax.Array], task: jax.Array) -> jax.Array:
    """The flow of the weights themselves, interpolated to the times between its own steps."""

    def velocity(t, weights, args):
        W1, W2 = weights
        error = task - W2 @ W1
        return W2.T @ error, error @ W1.T

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=weights,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE * 1e-3),
    )
    W1, W2 = solution.ys  # type: ignore[misc]
    Q = jnp.concatenate([jnp.swapaxes(W1, 1, 2), W2], axis=1)
    return Q @ jnp.swapaxes(Q, 1, 2)
