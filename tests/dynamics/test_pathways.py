"""Parallel pathways against their sums and gradients in NumPy, and gates switched inside a scan."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.losses import half_squared_error
from dynamics.models import deep_linear
from dynamics.pathways import (
    GRADIENT_GATE,
    OPEN,
    REMOVED,
    deficit_gates,
    parallel_pathways,
    pathway_maps,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2))
WIDTHS = {1: (3, 2), 2: (3, 4, 2), 3: (3, 4, 3, 2)}
MODELS = {depth: parallel_pathways(widths, 3) for depth, widths in WIDTHS.items()}
GATES = st.lists(st.sampled_from([OPEN, GRADIENT_GATE, REMOVED]), min_size=3, max_size=3)


def loss(depth, gates):
    return half_squared_error(lambda p, x: MODELS[depth].apply(p, x, gates), examples="sum")


APPLY = {depth: jax.jit(model.apply) for depth, model in MODELS.items()}
GRADIENT = {
    depth: jax.jit(lambda p, gates, depth=depth: jax.grad(loss(depth, gates))(p, (X, Y)))
    for depth in WIDTHS
}


def product(matrices, size):
    return reduce(lambda before, w: w @ before, matrices, np.eye(size))


def gradient_by_hand(params, gates):
    """Of the summed loss: ``(W_L ... W_{l+1})^T E X (W_{l-1} ... W_1)^T`` where a gate is open."""
    maps = [product(weights, 3) for weights in params]
    heard = [w for w, gate in zip(maps, gates, strict=True) if gate != REMOVED]
    error = sum(heard, np.zeros((2, 3))) @ X.T - Y.T
    gradients = []
    for weights, gate in zip(params, gates, strict=True):
        layers = []
        for l, w in enumerate(weights):
            after, before = product(weights[l + 1 :], w.shape[0]), product(weights[:l], 3)
            layers.append((gate == OPEN) * (after.T @ error @ X @ before.T))
        gradients.append(tuple(layers))
    return tuple(gradients)


@pytest.mark.parametrize("depth", WIDTHS)
@given(gates=GATES, seed=st.integers(0, 100))
def test_gates_decide_what_is_heard_and_what_learns(depth, gates, seed):
    params = MODELS[depth].init(jax.random.key(seed))
    weights = jax.tree.map(np.asarray, params)
    heard = [product(w, 3) for w, gate in zip(weights, gates, strict=True) if gate != REMOVED]
    outputs = APPLY[depth](params, X, jnp.array(gates))
    np.testing.assert_allclose(outputs, X @ sum(heard, np.zeros((2, 3))).T, atol=1e-12)
    found = GRADIENT[depth](params, jnp.array(gates))
    for a, b in zip(
        jax.tree.leaves(found), jax.tree.leaves(gradient_by_hand(weights, gates)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-11)


@given(seed=st.integers(0, 100))
def test_without_gates_pathways_are_networks_that_add_up(seed):
    params = MODELS[2].init(jax.random.key(seed))
    alone = sum(deep_linear(WIDTHS[2]).apply(weights, X) for weights in params)
    np.testing.assert_allclose(MODELS[2].apply(params, X), alone, atol=1e-12)
    opened = MODELS[2].apply(params, X, jnp.full(3, OPEN))
    np.testing.assert_allclose(opened, alone, atol=1e-12)
    np.testing.assert_allclose(X @ pathway_maps(params).sum(axis=0).T, alone, atol=1e-12)
    distinct = {float(weights[0][0, 0]) for weights in params}
    assert len(distinct) == 3


@given(
    k=st.integers(0, 20),
    onset=st.integers(0, 20),
    duration=st.integers(0, 20),
    deficit=GATES,
)
def test_deficits_begin_at_their_onset_and_end_after_their_duration(k, onset, duration, deficit):
    expected = deficit if k in range(onset, onset + duration) else [OPEN] * 3
    assert deficit_gates(k, onset, duration, jnp.array(deficit)).tolist() == expected


def test_onsets_mapped_over_a_scan_are_separate_runs_with_fixed_gates():
    model, steps, rate = MODELS[2], 6, 0.01
    onsets, durations = np.array([0, 2, 4, 9]), np.array([1, 3, 9, 2])
    deficit, start = np.array([OPEN, GRADIENT_GATE, REMOVED]), model.init(KEY)

    def step(params, gates):
        gradient = GRADIENT[2](params, gates)
        return jax.tree.map(lambda w, g: w - rate * g, params, gradient)

    @jax.jit
    @jax.vmap
    def scanned(onset, duration):
        def body(params, k):
            return step(params, deficit_gates(k, onset, duration, jnp.asarray(deficit))), None

        return pathway_maps(jax.lax.scan(body, start, jnp.arange(steps))[0])

    found = scanned(onsets, durations)
    for index, (onset, duration) in enumerate(zip(onsets, durations, strict=True)):
        params = start
        for k in range(steps):
            params = step(params, deficit if onset <= k < onset + duration else 0 * deficit)
        np.testing.assert_allclose(found[index], pathway_maps(params), rtol=1e-12)


def test_bad_arguments_are_named():
    for pathways in (0, -1):
        with pytest.raises(
            ValueError, match=f"pathways must be a positive integer, got {pathways}"
        ):
            parallel_pathways((3, 2), pathways)
    params = MODELS[1].init(KEY)
    with pytest.raises(ValueError, match=r"gates must have shape \(3,\), got \(2,\)"):
        MODELS[1].apply(params, X, jnp.array([OPEN, OPEN]))
    with pytest.raises(ValueError, match="gates must be OPEN, GRADIENT_GATE or REMOVED"):
        MODELS[1].apply(params, X, jnp.array([OPEN, OPEN, 3]))
