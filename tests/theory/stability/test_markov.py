"""Entropies of a source against powers of its transition matrix, sampling, and special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.stability.markov import (
    after_one,
    conditional_entropies,
    lag_mixture,
    least_loss,
    stationary_pairs,
)

SEEDS = st.integers(0, 2**16)
V = 4


def stochastic(rng, *shape):
    return rng.dirichlet(np.full(shape[-1], 0.7), size=shape[:-1])


def matrix_of_pairs(P):
    """Transition matrix between pairs, (a, b) to (b, c)."""
    v = len(P)
    big = np.zeros((v, v, v, v))
    for b in range(v):
        big[:, b, b, :] = P[:, b]
    return big.reshape(v * v, v * v)


@given(SEEDS)
def test_pairs_are_the_eigenvector_of_their_transition_matrix(seed):
    P = stochastic(np.random.default_rng(seed), V, V, V)
    pairs = np.asarray(stationary_pairs(P))
    values, vectors = np.linalg.eig(matrix_of_pairs(P).T)
    leading = np.real(vectors[:, np.argmax(np.real(values))])
    np.testing.assert_allclose(pairs.ravel(), leading / leading.sum(), atol=1e-10)
    np.testing.assert_allclose(pairs.sum(0), pairs.sum(1), atol=1e-12)  # stationary


@given(SEEDS)
def test_entropies_are_differences_of_entropies_of_words(seed):
    """H(X_n | before) = H(words of n) - H(words of n - 1), from the words' own probabilities."""
    P = stochastic(np.random.default_rng(seed), V, V, V)
    pairs = np.asarray(stationary_pairs(P))
    words = [pairs.sum(0), pairs, pairs[..., None] * P]
    entropy = [-np.sum(w[w > 0] * np.log(w[w > 0])) for w in words]
    found = np.asarray(conditional_entropies(P))
    np.testing.assert_allclose(found, np.diff([0.0, *entropy]), atol=1e-10)
    assert (np.diff(found) <= 1e-12).all()
    assert found[0] <= np.log(V) + 1e-12


@given(SEEDS)
def test_a_source_that_forgets_the_last_but_one_is_a_chain(seed):
    rng = np.random.default_rng(seed)
    recent, distant = stochastic(rng, V, V), stochastic(rng, V, V)
    P = lag_mixture(recent, distant, 1.0)
    np.testing.assert_allclose(after_one(P), recent, rtol=1e-9)
    _, given_one, rate = conditional_entropies(P)
    assert float(given_one) == pytest.approx(float(rate), abs=1e-12)
    mixed = np.asarray(lag_mixture(recent, distant, 0.3))
    np.testing.assert_allclose(mixed[2, 1], 0.3 * recent[1] + 0.7 * distant[2], rtol=1e-12)
    np.testing.assert_allclose(mixed.sum(-1), 1, rtol=1e-12)


def test_long_samples_have_these_entropies():
    rng, steps = np.random.default_rng(0), 20_000
    P = np.asarray(lag_mixture(stochastic(rng, V, V), stochastic(rng, V, V), 0.4))
    below, levels, tokens = P.cumsum(-1), rng.random(steps), [0, 1]
    for level in levels:
        tokens.append(min(int(np.searchsorted(below[tokens[-2], tokens[-1]], level)), V - 1))
    t = np.array(tokens[100:])
    single = np.asarray(stationary_pairs(P)).sum(0)
    losses = [
        -np.log(single[t[2:]]),
        -np.log(np.asarray(after_one(P))[t[1:-1], t[2:]]),
        -np.log(P[t[:-2], t[1:-1], t[2:]]),
    ]
    for values, entropy in zip(losses, conditional_entropies(P), strict=True):
        blocks = values[: len(values) // 100 * 100].reshape(-1, 100).mean(1)  # nearly independent
        error = blocks.std(ddof=1) / np.sqrt(len(blocks))
        assert abs(blocks.mean() - float(entropy)) < 4 * error


def test_least_loss_counts_positions():
    entropies = jnp.array([3.0, 2.0, 1.0])
    assert float(least_loss(entropies, 1)) == 2.0
    assert float(least_loss(entropies, 10)) == pytest.approx(1.1)


def test_single_precision_stays_and_tracing_passes():
    P = stochastic(np.random.default_rng(0), V, V, V)
    found = jax.jit(conditional_entropies)(P.astype("f4"))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, conditional_entropies(P), atol=1e-5)


def test_a_source_that_never_forgets_gives_nan():
    """2 leads to 0, after which 0 and 1 alternate for ever: two of three start in step."""
    alternating = np.eye(3)[[1, 0, 0]]
    endless = lag_mixture(alternating, alternating, 1.0)
    assert np.isnan(stationary_pairs(endless)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lag_mixture(np.eye(2), np.eye(3), 0.5), "recent and distant must have one shape"),
        (lambda: lag_mixture(np.eye(2), np.eye(2), 1.5), "weight must be between 0 and 1, got 1.5"),
        (lambda: lag_mixture(np.ones((2, 2)), np.eye(2), 0.5), "sums of rows of recent must be 1"),
        (lambda: stationary_pairs(np.eye(2)), r"transition must have shape \(v, v, v\)"),
        (lambda: stationary_pairs(np.full((2, 2, 2), [-0.5, 1.5])), "must be non-negative, got"),
        (lambda: least_loss(np.ones(2), 3), r"entropies must have shape \(3,\), got \(2,\)"),
        (lambda: least_loss(np.ones(3), 0), "context must be an integer >= 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
