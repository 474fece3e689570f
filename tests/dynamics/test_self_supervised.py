"""Siamese training against updates written out in NumPy, and against itself where that is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics import models
from dynamics.self_supervised import Siamese, direct_predictor, siamese_loss, siamese_optimizer
from dynamics.training import TrainState, optimizer_step, train

KEY = jax.random.key(0)
EXAMPLES, INPUTS, FEATURES = 9, 4, 3


def linear(weights, x):
    return x @ weights.T


def views(seed=0):
    draw = np.random.default_rng(seed)
    common = draw.normal(size=(EXAMPLES, INPUTS))
    x1, x2 = (common + 0.5 * draw.normal(size=common.shape) for _ in range(2))
    return x1, x2


def weights(seed=1):
    draw = np.random.default_rng(seed)
    shapes = (FEATURES, INPUTS), (FEATURES, FEATURES), (FEATURES, INPUTS)
    return Siamese(*(draw.normal(size=shape) for shape in shapes))


@jax.jit
def one_step(params, data, rate, eta, alpha_p, b):
    optimizer = siamese_optimizer(
        optax.sgd(rate), weight_decay=eta, predictor_rate=alpha_p, target_rate=b
    )
    step = optimizer_step(siamese_loss(linear, linear), optimizer)
    return step(jnp.int32(0), TrainState(params, optimizer.init(params), KEY), data).params


unit = st.floats(0.0, 1.0)


@given(seed=st.integers(0, 99), rate=unit, eta=unit, alpha_p=st.floats(0.0, 5.0), b=unit)
def test_a_step_is_that_of_linear_byol_written_out(seed, rate, eta, alpha_p, b):
    """``G = Wa E[x2 x1^T] - Wp W E[x1 x1^T]``, the residual of linear BYOL on a finite sample."""
    x1, x2 = views(seed)
    W, Wp, Wa = weights(seed)
    G = (Wa @ x2.T @ x1 - Wp @ W @ x1.T @ x1) / EXAMPLES
    online = W + rate * (Wp.T @ G - eta * W)
    predictor = Wp + rate * (alpha_p * G @ W.T - eta * Wp)
    found = one_step(Siamese(W, Wp, Wa), (x1, x2), rate, eta, alpha_p, b)
    wanted = Siamese(online, predictor, Wa + b * (online - Wa))
    for name, array in wanted._asdict().items():  # a few hundred roundings of numbers up to ~100
        np.testing.assert_allclose(getattr(found, name), array, rtol=0, atol=1e-11, err_msg=name)


def gradient(params, *, stop_gradient):
    loss = siamese_loss(linear, stop_gradient=stop_gradient)
    return np.asarray(jax.grad(loss)(params, views()).online)


def test_stop_gradient_and_no_predictor():
    """Without either, the gradient is W times the covariance of x1 - x2: nothing holds W up."""
    (x1, x2), W = views(), weights().online
    stopped = W @ (x1 - x2).T @ x1 / EXAMPLES
    np.testing.assert_allclose(gradient(Siamese(W), stop_gradient=True), stopped, rtol=1e-12)
    free = W @ (x1 - x2).T @ (x1 - x2) / EXAMPLES
    np.testing.assert_allclose(gradient(Siamese(W), stop_gradient=False), free, rtol=1e-12)


def trained(params, encoder, predictor, b, **options):
    return train(
        KEY,
        params,
        views(),
        loss=siamese_loss(encoder, predictor),
        optimizer=siamese_optimizer(optax.adam(0.02), weight_decay=0.1, target_rate=b),
        steps=20,
        **options,
    )


def test_a_target_of_rate_one_is_the_online_encoder_itself():
    """SimSiam in two ways, of networks that are not linear, by an optimiser that is not SGD."""
    encoder = models.mlp((INPUTS, 5, FEATURES))
    head = models.mlp((FEATURES, 4, FEATURES), activation="relu")
    online, predictor = encoder.init(KEY), head.init(jax.random.key(1))
    results = [
        trained(Siamese(online, predictor, target), encoder.apply, head.apply, 1.0, batch_size=3)
        for target in (online, None)
    ]
    for name in ("online", "predictor"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),  # roundings
            *(getattr(result.params, name) for result in results),
        )
    assert results[0].records["loss"][-1] < 0.5 * results[0].records["loss"][0]


def test_a_frozen_target_stays_and_a_moving_one_is_the_average_of_the_past():
    frozen = trained(weights(), linear, linear, 0.0)
    np.testing.assert_array_equal(frozen.params.target, weights().target)
    b, history = 0.3, lambda params: {"online": params.online}
    moving = trained(weights(), linear, linear, b, observe=history, record_at=np.arange(21))
    average = weights().target
    for online in np.asarray(moving.records["online"])[1:]:
        average = (1 - b) * average + b * online
    np.testing.assert_allclose(moving.params.target, average, rtol=1e-12)


def directly_predicted(features, eps, rule):
    s, vectors = np.linalg.eigh(features.T @ features / len(features))
    if rule == "paper":
        p = np.sqrt(s) + eps * s.max()
    else:
        p = np.maximum(np.sqrt(s / s.max()) + eps, 1e-4)
    return features @ vectors @ np.diag(p) @ vectors.T


@pytest.mark.parametrize("rule", ["paper", "released"])
@given(seed=st.integers(0, 99), eps=unit, size=st.floats(1e-3, 1e3))
def test_direct_predictor_sets_the_eigenvalues(rule, seed, eps, size):
    features = size * np.random.default_rng(seed).normal(size=(EXAMPLES, FEATURES))
    found = direct_predictor(eps, rule=rule)(None, features)
    wanted = directly_predicted(features, eps, rule)
    # condition numbers of 9 x 3 Gaussian matrices stay below 1e3
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


def test_direct_predictor_is_a_constant_to_the_gradient():
    (x1, x2), W, eps = views(), weights().online, 0.1
    gradient = jax.grad(siamese_loss(linear, direct_predictor(eps)))(Siamese(W), (x1, x2)).online
    features = x1 @ W.T
    Wp = np.linalg.lstsq(features, directly_predicted(features, eps, "paper"))[0].T
    wanted = -Wp.T @ (W @ x2.T @ x1 - Wp @ W @ x1.T @ x1) / EXAMPLES
    np.testing.assert_allclose(gradient, wanted, rtol=1e-10)


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_features_that_have_collapsed_stay_finite(rule):
    assert not np.any(direct_predictor(0.1, rule=rule)(None, jnp.zeros((EXAMPLES, FEATURES))))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(9, 3\) and \(9, 2\)"):
        siamese_loss(linear)(weights()._replace(target=np.ones((2, INPUTS))), views())
    with pytest.raises(ValueError, match="rule must be one of paper, released, got 'own'"):
        direct_predictor(0.1, rule="own")
    optimizer = siamese_optimizer(optax.sgd(0.1))
    with pytest.raises(ValueError, match="params"):
        optimizer.update(weights(), optimizer.init(weights()))
