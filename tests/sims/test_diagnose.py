"""A user's own network: loaded, checked, and measured against enumeration and dense matrices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from dynamics.adapters import from_linen, from_nnx
from figures.__main__ import main
from sims.diagnose import diagnose
from sims.user_network import Network, as_network, load

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 3)), RNG.standard_normal((6, 2))
SETTINGS = {"learning_rate": 0.1, "batch_size": 2}


def loss(outputs, y):
    return 0.5 * jnp.mean(jnp.sum((outputs - y) ** 2, axis=-1))


def apply(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def interpolating(**changes):
    """A tanh network whose labels are its own outputs: an exact minimum."""
    rng = np.random.default_rng(1)
    params = {"first": rng.standard_normal((3, 4)), "second": rng.standard_normal((4, 2))}
    given = {
        "apply": apply,
        "params": params,
        "data": (X, apply(params, X)),
        "loss": loss,
        "optimizer": SETTINGS,
    }
    return as_network(given | changes)


@pytest.fixture(scope="module")
def found():
    return diagnose(interpolating(), jax.random.key(0), num_matvecs=20)


def dense_hessian(network):
    flat, back = jax.flatten_util.ravel_pytree(network.params)
    return jax.hessian(lambda w: network.batch_loss(back(w), network.data))(flat)


def test_curvature_is_that_of_the_dense_hessian(found):
    values = np.linalg.eigvalsh(dense_hessian(interpolating()))
    curvature = found.curvature
    assert curvature.sharpness.value == pytest.approx(values[-1], rel=1e-6)
    assert curvature.gauss_newton_trace == pytest.approx(values.sum(), rel=1e-9)  # at a minimum
    error = curvature.trace.error + 1e-9 * values.sum()
    assert abs(curvature.trace.value - values.sum()) < 4 * error
    assert found.stability.frobenius_norm == pytest.approx(np.linalg.norm(values), rel=1e-9)
    assert found.optimizer.edge == pytest.approx(20)


def test_thresholds_are_those_of_all_batches_in_parameter_space(found):
    """Vector outputs: spectral radius of the mean of (1 - eta H_B) (x) (1 - eta H_B), B = 2."""
    network = interpolating()
    flat, back = jax.flatten_util.ravel_pytree(network.params)
    jacobian = np.asarray(jax.jacobian(lambda w: apply(back(w), X))(flat))
    each = np.einsum("ica,icb->iab", jacobian, jacobian)
    values, vectors = np.linalg.eigh(each.mean(axis=0))
    kept = vectors[:, values > 1e-10 * values[-1]]
    each = np.einsum("ar,iab,bs->irs", kept, each, kept)
    exact = {batch.batch_size: batch.exact for batch in found.stability.thresholds}
    steps = [
        np.eye(kept.shape[1]) - exact[2] * (each[i] + each[j]) / 2
        for i in range(6)
        for j in range(i)
    ]
    moments = sum(np.kron(step, step) for step in steps) / len(steps)
    assert np.linalg.eigvalsh(moments)[-1] == pytest.approx(1, rel=1e-8)
    assert exact[6] == pytest.approx(2 / found.curvature.sharpness.value, rel=1e-6)
    assert all(b.exact <= b.bound * (1 + 1e-9) for b in found.stability.thresholds)
    assert sum(found.stability.leading_shares) == pytest.approx(1)


def test_no_notes_at_a_smooth_minimum_and_notes_where_they_are_due(found):
    assert found.notes == ()
    assert found.point.kinked_examples == 0
    away = diagnose(interpolating(data=(X, 10 * Y)), jax.random.key(0), num_matvecs=20)
    assert any("interpolating" in note for note in away.notes)
    bounded = diagnose(interpolating(), jax.random.key(0), num_matvecs=20, gram_limit=5)
    assert any("Gram" in note for note in bounded.notes)
    assert np.isnan(bounded.stability.thresholds[0].exact)
    for ours, exact in zip(bounded.stability.thresholds, found.stability.thresholds, strict=True):
        assert ours.bound >= exact.exact * (1 - 1e-9)


def test_bounds_with_momentum_are_those_of_the_mean():
    heavy = SETTINGS | {"kind": "heavy_ball", "momentum": 0.9}
    network = interpolating(optimizer=heavy)
    exact = diagnose(network, jax.random.key(0), num_matvecs=20)
    bounded = diagnose(network, jax.random.key(0), num_matvecs=20, gram_limit=5)
    edge = 3.8 / np.linalg.eigvalsh(dense_hessian(network))[-1]
    for batch in (*exact.stability.thresholds, *bounded.stability.thresholds):
        assert batch.bound == pytest.approx(edge, rel=1e-6)
    assert all(b.exact <= b.bound * (1 + 1e-9) for b in exact.stability.thresholds)
    assert exact.stability.thresholds[-1].exact == pytest.approx(edge, rel=1e-6)  # no noise left


@pytest.mark.parametrize(
    ("scaled", "words", "factor"),
    [
        (loss, "the reference", 1.0),
        (lambda f, y: jnp.mean((f - y) ** 2), "the reference", 1.0),  # 2/c, with two outputs
        (lambda f, y: 3 * jnp.mean((f - y) ** 2), "3 times the reference", 3.0),
        (lambda f, y: jnp.mean(jnp.sum((f - y) ** 2, axis=-1)), "twice the reference", 2.0),
    ],
)
def test_normalization_is_read_off_and_decides_every_constant(found, scaled, words, factor):
    other = diagnose(interpolating(loss=scaled), jax.random.key(0), num_matvecs=20)
    assert words in other.point.normalization
    ours, reference = (d.stability.thresholds[0].exact for d in (other, found))
    assert ours == pytest.approx(reference / factor, rel=1e-9)


def test_cross_entropy_has_gauss_newton_weights():
    labels = np.eye(2)[RNG.integers(0, 2, 6)]

    def cross_entropy(f, y):
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f), axis=-1))

    network = interpolating(loss=cross_entropy, data=(X, labels))
    found = diagnose(network, jax.random.key(0), num_matvecs=20)
    assert "cross-entropy" in found.point.normalization
    flat, back = jax.flatten_util.ravel_pytree(network.params)
    jacobian = np.asarray(jax.jacobian(lambda w: apply(back(w), X))(flat))
    p = np.asarray(jax.nn.softmax(apply(network.params, X)))
    weights = np.einsum("ia,ab->iab", p, np.eye(2)) - np.einsum("ia,ib->iab", p, p)
    trace = np.einsum("icp,icd,idp->", jacobian, weights, jacobian) / 6
    assert found.curvature.gauss_newton_trace == pytest.approx(trace, rel=1e-9)


def test_a_kink_is_counted():
    params = {"w": jnp.array([[1.0, -1.0, 0.0]])}
    x = np.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])

    def relu(params, x):
        return jax.nn.relu(x @ params["w"].T)

    network = interpolating(apply=relu, params=params, data=(x, np.zeros((3, 1))))
    assert diagnose(network, jax.random.key(0), num_matvecs=4).point.kinked_examples == 1


def test_flax_modules_enter_through_their_adapters():
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(x)

    model = from_linen(Linen(), X[:1])
    nnx_apply, nnx_params = from_nnx(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
    for kind in ((model.apply, model.init(jax.random.key(0))), (nnx_apply, nnx_params)):
        network = as_network((*kind, (X, Y[:, :1]), loss, SETTINGS))
        found = diagnose(network, jax.random.key(0), num_matvecs=4)
        augmented = np.concatenate([X, np.ones((6, 1))], axis=1)  # weights and bias
        expected = np.linalg.eigvalsh(augmented.T @ augmented / 6)[-1]
        assert found.curvature.sharpness.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda f, y: jnp.sum((f - y) ** 2)}, "mean over examples"),
        ({"data": (X, np.full((6, 2), np.nan))}, "finite"),
        ({"data": (X[:5], Y)}, "as many examples"),
        ({"apply": lambda params, x: x[:2]}, "apply must give"),
        ({"surprise": 1}, "apply, params, data, loss and optimizer"),
    ],
)
def test_a_network_that_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        interpolating(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.1}, "batch_size"),
        ({"learning_rate": 0.1, "batch_size": 7}, "batch_size"),
        ({"learning_rate": -0.1, "batch_size": 2}, "learning_rate"),
        ({"learning_rate": 0.1, "batch_size": 2, "kind": "lion"}, "lion"),
    ],
)
def test_settings_of_the_optimizer_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        diagnose(interpolating(optimizer=settings), jax.random.key(0), num_matvecs=4)


FILE = """
import jax.numpy as jnp
import numpy as np

def apply(params, x):
    return x @ params

def loss(outputs, y):
    return 0.5 * jnp.mean((outputs - y) ** 2)

def network():
    x = np.diag([1.0, 2.0, 0.5])
    return apply, jnp.ones(3), (x, x.sum(axis=1)), loss, {"learning_rate": 0.1, "batch_size": 1}
"""


def test_the_command_prints_a_report_and_draws(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    assert isinstance(load(str(path)), Network)
    out = tmp_path / "out"
    assert main(["diagnose", str(path), "--products", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "growth of the mean square" in printed
    assert "20.0%" in printed  # orthogonal gradients: eta* = 2 / max |g|^2 = 1/2
    assert (out / "diagnosis.png").is_file()
    assert main(["diagnose", str(path), "--products", "4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["stability"]["thresholds"][0]["exact"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nowhere.py", "no file"), ("no.such.module:f", "no module"), ("json:nothing", "'nothing'")],
)
def test_the_command_says_what_is_missing(spec, message, capsys):
    assert main(["diagnose", spec]) == 2
    assert message in capsys.readouterr().err
