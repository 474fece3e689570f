"""Stability along training: the observable against ``diagnose``, the runs against optax."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynamics.training import train
from figures.__main__ import main
from sims.diagnose import diagnose
from sims.diagnosis import Optimizer
from sims.training_diagnosis import optax_optimizer, stability_observer, watch
from sims.user_network import as_network
from theory.stability.thresholds import optimizer_threshold

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 3)), RNG.standard_normal((6, 2))
PARAMS = {"first": RNG.standard_normal((3, 4)), "second": RNG.standard_normal((4, 2))}


def apply(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def loss(outputs, y):
    return 0.5 * jnp.mean(jnp.sum((outputs - y) ** 2, axis=-1))


def network(**optimizer):
    settings = {"learning_rate": 0.05, "batch_size": 2, **optimizer}
    return as_network((apply, PARAMS, (X, Y), loss, settings))


def dense_hessian(params):
    flat, back = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda w: loss(apply(back(w), X), Y))(flat)


def test_the_observable_says_what_the_diagnosis_says():
    here = network()
    look = stability_observer(here, jax.random.key(0))
    seen = jax.jit(lambda params: look(params))(here.params)
    full = diagnose(here, jax.random.key(1), num_matvecs=20)
    exact = {batch.batch_size: batch.exact for batch in full.stability.thresholds}
    assert float(seen["edge"]) == pytest.approx(exact[2], rel=1e-9)
    assert float(seen["growth"]) == pytest.approx(full.stability.growth, rel=1e-9)
    assert float(seen["trace"]) == pytest.approx(full.curvature.gauss_newton_trace, rel=1e-9)
    assert float(seen["loss"]) == pytest.approx(full.point.loss, rel=1e-12)
    assert float(seen["gradient_norm"]) == pytest.approx(full.point.gradient_norm, rel=1e-9)
    largest = np.linalg.eigvalsh(dense_hessian(PARAMS))[-1]
    assert abs(float(seen["sharpness"]) - largest) <= float(seen["residual"]) + 1e-9
    assert float(seen["missed"]) > 0.01  # random weights fit nothing


def test_without_a_gram_a_bound_is_left_that_the_exact_edge_respects():
    exact = stability_observer(network(), jax.random.key(0))(network().params)
    seen = stability_observer(network(), jax.random.key(0), gram_limit=5)(network().params)
    assert np.isnan(seen["edge"])
    assert np.isnan(seen["growth"])
    fitted = network()  # the bound by the sharpness holds for the Gauss-Newton matrix: at a minimum
    minimum = as_network((apply, PARAMS, (X, apply(PARAMS, X)), loss, fitted.optimizer))
    seen = stability_observer(minimum, jax.random.key(0))(minimum.params)
    assert float(seen["edge"]) <= float(seen["bound"]) * (1 + 1e-3)  # the sharpness's residual
    assert float(exact["bound"]) > 0


def test_watching_is_training_with_the_observable():
    here, key = network(), jax.random.key(3)
    seen = watch(here, key, steps=20, records=3)
    batch_key = jax.random.split(key)[1]
    run = train(
        batch_key,
        here.params,
        here.data,
        loss=here.batch_loss,
        optimizer=optax.sgd(0.05),
        steps=20,
        batch_size=2,
        record_at=[0, 10, 20],
    )
    np.testing.assert_array_equal(seen.steps, [0, 10, 20])
    np.testing.assert_allclose(seen.records["loss"], run.records["loss"], rtol=1e-9)
    assert seen.diverged_at == -1
    largest = np.linalg.eigvalsh(dense_hessian(run.params))[-1]
    assert seen.records["sharpness"][-1] == pytest.approx(largest, rel=1e-3)


def test_an_adaptive_optimizer_is_watched_in_its_preconditioned_curvature():
    here = network(kind="adam", b1=0.8, b2=0.99, eps=1e-6, batch_size=6)
    seen = watch(here, jax.random.key(0), steps=5, records=2)
    optimizer, params = optax.adam(0.05, b1=0.8, b2=0.99, eps=1e-6), here.params
    state = optimizer.init(params)
    for _ in range(5):
        gradient = jax.grad(here.batch_loss)(params, here.data)
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
    nu = jax.flatten_util.ravel_pytree(state[0].nu)[0]
    scale = (1 - 0.8**5) * (np.sqrt(nu / (1 - 0.99**5)) + 1e-6)
    expected = np.linalg.eigvals(dense_hessian(params) / scale[:, None]).real.max()
    assert seen.records["preconditioned"][-1] == pytest.approx(expected, rel=1e-3)
    assert np.isnan(seen.records["preconditioned"][0])  # no gradients seen yet
    given = as_network((apply, params, (X, Y), loss, here.optimizer, state))
    full = diagnose(given, jax.random.key(0), num_matvecs=20)
    assert full.curvature.preconditioned.value == pytest.approx(expected, rel=1e-6)
    assert full.optimizer.edge == pytest.approx(2 * 1.8 / (0.2 * 0.05))


@pytest.mark.parametrize(
    ("kind", "hyper"),
    [
        ("gd", {}),
        ("gd", {"weight_decay": 0.5}),
        ("heavy_ball", {"momentum": 0.7}),
        ("nesterov", {"momentum": 0.7}),
        ("ema", {"momentum": 0.7, "weight_decay": 0.5}),
    ],
)
def test_the_optimizer_that_trains_is_the_one_whose_edge_is_given(kind, hyper):
    """On a quadratic just below and just above the edge, 2000 steps decide."""
    edge = float(optimizer_threshold(kind, 0.1, **hyper))
    chain = optax_optimizer(Optimizer(kind, 0.1, 1, hyper, {}, edge))

    def size(curvature):
        def step(carry, _):
            w, state = carry
            update, state = chain.update(curvature * w, state, w)
            return (w + update, state), None

        start = jnp.ones(())
        return jnp.abs(jax.lax.scan(step, (start, chain.init(start)), length=2000)[0][0])

    assert float(size(0.98 * edge)) < 1e-2
    assert float(size(1.02 * edge)) > 1e2


def test_a_run_that_diverges_says_so(tmp_path):
    seen = watch(network(learning_rate=50.0), jax.random.key(0), steps=400, records=5)
    assert 0 < seen.diverged_at <= 400
    assert np.isnan(seen.records["loss"][-1])


FILE = """
import jax.numpy as jnp
import numpy as np

def loss(outputs, y):
    return 0.5 * jnp.mean((outputs - y) ** 2)

def network():
    x = np.diag([1.0, 2.0, 0.5])
    settings = {"learning_rate": 0.1, "batch_size": 1}
    return (lambda params, x: x @ params), jnp.zeros(3), (x, x.sum(axis=1)), loss, settings
"""


def test_the_command_trains_prints_and_draws(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    options = ["--train", "10", "--records", "3", "--out", str(tmp_path / "out")]
    assert main(["diagnose", str(path), *options]) == 0
    assert "20.0%" in capsys.readouterr().out  # orthogonal gradients: eta* = 2 / max |g|^2 = 1/2
    assert (tmp_path / "out" / "training_diagnosis.png").is_file()
    assert main(["diagnose", str(path), *options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["records"]["edge"] == pytest.approx([0.5, 0.5, 0.5])
    assert main(["diagnose", str(path), "--train", "0"]) == 2
    assert "steps" in capsys.readouterr().err
