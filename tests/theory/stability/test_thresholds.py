"""Thresholds against the spectral radius of the iteration, and against optax itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.thresholds import (
    OPTIMIZERS,
    adam_preconditioner,
    largest_learning_rate,
    optimizer_threshold,
    trace_threshold,
)

STATELESS = ("gd", "rmsprop")


def iteration(kind, curvature, eta, b, decay):
    """One step on ``curvature x^2 / 2`` as a matrix: state (x, x_previous) or (x, m)."""
    keep = 1 - eta * decay
    if kind in STATELESS:
        return np.array([[keep - eta * curvature]])
    if kind == "heavy_ball" and decay == 0:  # two-step form, without a momentum variable
        return np.array([[1 + b - eta * curvature, -b], [1, 0]])
    if kind == "nesterov" and decay == 0:  # gradient at the point ahead
        ahead = 1 - eta * curvature
        return np.array([[(1 + b) * ahead, -b * ahead], [1, 0]])
    gain = 1 if kind in ("heavy_ball", "nesterov") else 1 - b
    memory = np.array([gain * curvature, b])  # m' as a function of (x, m)
    move = memory if kind not in ("nesterov", "nadam") else b * memory + [gain * curvature, 0]
    return np.array([np.array([keep, 0]) - eta * move, memory])


def radius(*arguments):
    return np.abs(np.linalg.eigvals(iteration(*arguments))).max()


@st.composite
def optimizers(draw):
    """(kind, eta, b, decay, hyper-parameters as the function takes them)."""
    kind = draw(st.sampled_from(sorted(OPTIMIZERS)))
    eta = 10.0 ** draw(st.floats(-4, 1))
    b = 0.0 if kind in STATELESS else draw(st.floats(0, 0.99))
    decay = 0.0 if kind == "adam" else draw(st.sampled_from([0.0, 0.3, 1.2])) / eta
    hyper = {} if OPTIMIZERS[kind].momentum is None else {OPTIMIZERS[kind].momentum: b}
    return kind, eta, b, decay, hyper | ({"weight_decay": decay} if decay else {})


@given(optimizers())
def test_spectral_radius_crosses_one_at_the_threshold(case):
    kind, eta, b, decay, hyper = case
    threshold = float(optimizer_threshold(kind, eta, **hyper))
    # at the threshold the other multiplier is -b, or smaller: a distance 1 - b from the first
    assert radius(kind, threshold, eta, b, decay) == pytest.approx(1, abs=1e-13 / (1 - b))
    assert radius(kind, 1.001 * threshold, eta, b, decay) > 1
    for fraction in (0.999, 0.5, 0.01):
        assert radius(kind, fraction * threshold, eta, b, decay) < 1


@given(optimizers(), st.floats(-2, 2).map(lambda x: 10.0**x))
def test_learning_rate_inverts_the_threshold_and_scales_with_the_loss(case, scale):
    kind, eta, _, decay, hyper = case
    threshold = optimizer_threshold(kind, eta, **hyper)
    assert largest_learning_rate(kind, threshold, **hyper) == pytest.approx(eta, rel=1e-13)
    scaled = hyper | ({"weight_decay": scale * decay} if decay else {})
    rescaled = optimizer_threshold(kind, eta / scale, **scaled)
    assert rescaled == pytest.approx(scale * float(threshold), rel=1e-13)


B, ETA, DECAY = 0.9, 0.05, 4.0
# eps = 1 freezes the preconditioner at 1 while gradients are small
RUNS: dict[str, tuple[Any, dict[str, float]]] = {
    "gd": (optax.sgd(ETA), {}),
    "gd, L2": (optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(ETA)), {}),
    "heavy_ball": (optax.sgd(ETA, momentum=B), {"momentum": B}),
    "nesterov": (optax.sgd(ETA, momentum=B, nesterov=True), {"momentum": B}),
    "ema": (optax.chain(optax.ema(B, debias=False), optax.scale(-ETA)), {"momentum": B}),
    "rmsprop": (optax.rmsprop(ETA, eps=1.0), {}),
    "adam": (optax.adam(ETA, b1=B, eps=1.0), {"b1": B}),
    "adamw": (
        optax.adamw(ETA, b1=B, eps=1.0, weight_decay=DECAY),
        {"b1": B, "weight_decay": DECAY},
    ),
    "nadam": (optax.nadam(ETA, b1=B, eps=1.0), {"b1": B}),
}


@pytest.mark.parametrize("name", RUNS)
def test_optax_diverges_above_and_converges_below(name):
    optimizer, hyper = RUNS[name]
    shift = DECAY if name.endswith("L2") else 0.0  # the penalty belongs to the curvature
    threshold = float(optimizer_threshold(name.split(",")[0], ETA, **hyper)) - shift
    curvature = threshold * jnp.array([0.98, 1.02])
    start = jnp.full(2, 1e-60)  # bias corrections alone make Adam grow by 1e11 at first

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(curvature * x, state, x)
        return (x + updates, state), jnp.abs(x)

    _, sizes = jax.lax.scan(step, (start, optimizer.init(start)), None, length=401)
    # the slowest factor per step is 0.96 below and 1.04 above: over 200 steps 3e-4 and 3e3
    change = jnp.max(sizes[-20:], axis=0) / jnp.max(sizes[-220:-200], axis=0)
    assert change[0] < 1e-3
    assert change[1] > 1e3


def test_preconditioner_is_the_one_of_optax():
    b1, b2, eps = 0.8, 0.95, 1e-3
    optimizer = optax.scale_by_adam(b1, b2, eps)
    state: Any = optimizer.init(jnp.zeros(3))
    rng = np.random.default_rng(0)
    for step in range(1, 8):
        updates, state = optimizer.update(jnp.asarray(rng.standard_normal(3)), state)
        preconditioner = adam_preconditioner(state.nu, step, b1=b1, b2=b2, eps=eps)
        np.testing.assert_allclose(np.asarray(updates), state.mu / preconditioner, rtol=1e-12)


def test_trace_threshold_is_reached_by_identical_and_by_orthogonal_gradients():
    """One step of E|delta|^2 at the threshold: unchanged where the bound is attained."""
    eta, d = 0.3, 4
    trace = float(trace_threshold(eta, 1))
    identical = np.zeros((d, d, d)) + np.diag([trace, 0, 0, 0])
    orthogonal = np.array([np.diag(row) for row in d * np.eye(d) * trace / d])
    for hessians, start in ((identical, np.diag([1.0, 0, 0, 0])), (orthogonal, np.eye(d))):
        assert np.trace(hessians.mean(axis=0)) == pytest.approx(trace)
        after = np.mean(
            [(np.eye(d) - eta * h) @ start @ (np.eye(d) - eta * h) for h in hessians], 0
        )
        np.testing.assert_allclose(after, start, atol=1e-14)
    np.testing.assert_allclose(trace_threshold(eta, 8, 3), 24 * trace)


def test_arguments_broadcast_and_keep_their_dtype():
    eta = jnp.asarray([0.1, 0.2], jnp.float32)
    found = optimizer_threshold("adamw", eta, b1=np.float32(0.5), weight_decay=np.float32(1.0))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 6 * (1 / np.array([0.1, 0.2]) - 0.5), rtol=1e-6)
    assert jax.vmap(lambda e: trace_threshold(e, 2))(eta).shape == (2,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizer_threshold("sgd", 0.1), "kind must be one of gd, heavy_ball.*'sgd'"),
        (lambda: optimizer_threshold("gd", 0.1, momentum=0.9), "'gd' must be weight_decay, got"),
        (lambda: optimizer_threshold("adam", 0.1, b1=0.9, weight_decay=1), "'adam' must be b1,"),
        (lambda: optimizer_threshold("heavy_ball", 0.1), "must be momentum, weight_decay, got"),
        (lambda: optimizer_threshold("gd", 0.0), "learning_rate must be positive"),
        (lambda: optimizer_threshold("nadam", 0.1, b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: optimizer_threshold("gd", 1.0, weight_decay=-1.0), "weight_decay must be non-neg"),
        (lambda: largest_learning_rate("gd", -1.0), "curvature must be positive"),
        (lambda: trace_threshold(0.1, 0), "batch_size must be an integer >= 1"),
        (lambda: trace_threshold(0.1, 1, 0), "n_outputs must be an integer >= 1"),
        (lambda: adam_preconditioner(1.0, 0, b1=0.9, b2=0.9, eps=0.0), "step must be at least 1"),
        (lambda: adam_preconditioner(-1.0, 1, b1=0.9, b2=0.9, eps=0.0), "nu must be non-negative"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
