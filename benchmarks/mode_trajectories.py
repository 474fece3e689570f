"""A million points (mode, time) of two-layer mode strengths: closed form against integration."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Timing, median_seconds
from theory.deep_linear.modes import two_layer_mode_strength

MODES, TIMES = 1000, 1000


def run() -> list[Timing]:
    """Median times; the first entry is ours, the others reach the same accuracy or less."""
    random = np.random.default_rng(0)
    s, u0 = random.uniform(0.5, 2.0, MODES), 10 ** random.uniform(-6, -2, MODES)
    times = np.linspace(0.0, 20.0, TIMES)
    closed = jax.jit(lambda t, s, u0: two_layer_mode_strength(t[:, None], s[None], u0[None]))
    exact = closed(times, s, u0)
    timings = [Timing("closed form", median_seconds(lambda: closed(times, s, u0)))]
    for tolerance in (1e-6, 1e-9):
        integrate = jax.jit(lambda t, s, u0, tol=tolerance: _integrate(t, s, u0, tol))
        error = float(jnp.max(jnp.abs(integrate(times, s, u0) - exact)))
        seconds = median_seconds(lambda f=integrate: f(times, s, u0), repeats=3)
        remark = f"one adaptive solve per mode, vmapped; largest difference {error:.0e}"
        timings.append(Timing(f"diffrax Tsit5, rtol {tolerance:.0e}", seconds, remark))
    return timings


def _integrate(times: jax.Array, s: jax.Array, u0: jax.Array, tolerance: float) -> jax.Array:
    def one(s, u0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, u, args: 2 * u * (s - u)),
            diffrax.Tsit5(),
            t0=0.0,
            t1=times[-1],
            dt0=None,
            y0=u0,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance * 1e-3),
            max_steps=4096,
        )
        return jnp.asarray(solution.ys)

    return jax.vmap(one, out_axes=1)(s, u0)
