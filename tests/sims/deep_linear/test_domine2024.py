"""What the experiments after Dominé et al. assume, by other routes; configs that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims.deep_linear import domine2024_balanced, domine2024_wide, lambda_balanced, riccati_paths
from theory.deep_linear.riccati import is_lambda_balanced, qqt_limit, split_qqt

LAMBDAS = (-4.0, 0.0, 2.0)


@pytest.fixture(scope="module")
def funnel():
    return lambda_balanced.problem(jax.random.key(0), (4, 2, 2), [2.0, 1.0], LAMBDAS, 0.1)


def test_weights_are_balanced_in_any_hidden_basis(funnel):
    rotated = lambda_balanced.hidden_rotation(jax.random.key(1), funnel.weights)
    for weights in (funnel.weights, rotated):
        for W1, W2, expected in zip(*weights, LAMBDAS, strict=True):
            balanced, imbalance = is_lambda_balanced(W1, W2)
            assert balanced
            np.testing.assert_allclose(imbalance, expected, atol=1e-12)
    before, after = (np.asarray(W2 @ W1) for W1, W2 in (funnel.weights, rotated))
    np.testing.assert_allclose(after, before, atol=1e-12)


def test_final_layers_are_those_of_the_limit(funnel):
    """Gram matrices in the basis of the task, from the limit of the Riccati flow."""
    U, _, Vt = np.linalg.svd(funnel.task, full_matrices=False)
    found = riccati_paths.final_layers(np.array([2.0, 1.0]), np.array(LAMBDAS))
    starts = riccati_paths.stack(funnel.weights)
    for start, F, layers in zip(
        starts, riccati_paths.generators(funnel.task, LAMBDAS), found, strict=True
    ):
        first, _, second = split_qqt(qqt_limit(start, F).qqt, 4)
        np.testing.assert_allclose(np.diag(Vt @ first @ Vt.T), layers[0], atol=1e-10)
        np.testing.assert_allclose(np.diag(U.T @ second @ U), layers[1], atol=1e-10)


def test_drift_is_the_sum_over_small_steps(funnel):
    """Gradient descent by hand, in steps so small that nothing but the sum is left."""
    rate, steps = 1e-3, 4000
    W1, W2 = (np.asarray(layer[2]) for layer in funnel.weights)
    task = np.asarray(funnel.task)
    before = np.trace(W2.T @ W2 - W1 @ W1.T)
    for _ in range(steps):
        error = task - W2 @ W1
        W1, W2 = W1 + rate * W2.T @ error, W2 + rate * error @ W1.T
    drift = (np.trace(W2.T @ W2 - W1 @ W1.T) - before) / 2 / rate
    times = riccati_paths.fine_times(np.full(1, rate * steps))
    start = riccati_paths.stack(tuple(layer[2:] for layer in funnel.weights))
    Q = riccati_paths.path(start, funnel.task, LAMBDAS[2:], times)
    found = riccati_paths.imbalance_drift(Q, funnel.task, times)
    np.testing.assert_allclose(found, [drift], rtol=5 * rate)


def test_inputs_are_white_and_fluctuations_without_bias():
    x = lambda_balanced.white_inputs(jax.random.key(0), 6, 4)
    np.testing.assert_allclose(x.T @ x, 6 * jnp.eye(4), atol=1e-12)
    normal = np.random.default_rng(0).standard_normal((1, 3, 1, 400, 50))
    found = domine2024_wide.fluctuations(normal).mean(axis=1)
    np.testing.assert_allclose(found, 1.0, atol=4 * np.sqrt(2 / (2 * 400 * 50)))


@pytest.mark.parametrize(
    ("module", "changes", "named"),
    [
        (domine2024_balanced, {"n_in": 3}, "n_modes, n_in and examples"),
        (domine2024_balanced, {"start": 2.0}, "start, weakest and strongest"),
        (domine2024_balanced, {"relative_step": 0.5}, "relative_step"),
        (domine2024_balanced, {"records": 5}, "records"),
        (domine2024_balanced, {"imbalances": (-12, -6, 6, 12)}, "imbalances must increase"),
        (domine2024_balanced, {"imbalances": (-12, 0, 6, 12)}, "two of either sign"),
        (domine2024_wide, {"widths": (64, 32, 128)}, "widths must be 3 or more"),
        (domine2024_wide, {"widths": (16, 32, 64)}, "widths must be at least"),
        (domine2024_wide, {"settings": ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0))}, "settings"),
        (domine2024_wide, {"settings": ((1.0, 1.0), (0.5, 1.0), (1.0, 1.0))}, "one sum"),
        (domine2024_wide, {"weakest": 3.0}, "weakest and strongest"),
        (domine2024_wide, {"relative_step": 0.0}, "relative_step"),
        (domine2024_wide, {"seeds": 2}, "seeds"),
    ],
)
def test_configs_that_make_no_sense_are_refused(module, changes, named):
    with pytest.raises(ValueError, match=named):
        module.Config(**changes)
