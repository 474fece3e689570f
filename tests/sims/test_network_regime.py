"""Lazy or rich, for a user's own network, in both forms of ``diagnose``."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from figures.__main__ import main
from sims.diagnose import diagnose
from sims.network_regime import EXAMPLES, network_regime
from sims.training_diagnosis import watch
from sims.user_network import as_network

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 3))
START = {"first": RNG.standard_normal((3, 64)), "second": RNG.standard_normal((64, 2))}
SETTINGS = {"learning_rate": 0.05, "batch_size": 6}


def loss(outputs, y):
    return 0.5 * jnp.mean(jnp.sum((outputs - y) ** 2, axis=-1))


def scaled(alpha):
    """Outputs alpha (f - f_0), trained on fixed targets: lazy for large alpha."""

    def outputs(params, x):
        hidden = jnp.tanh(x @ params["first"] / 3**0.5)
        return hidden @ params["second"] / 8

    def apply(params, x):
        return alpha * (outputs(params, x) - outputs(START, x))

    rate = {**SETTINGS, "learning_rate": 0.1 / max(alpha, alpha**2)}  # time in units of its own
    return as_network((apply, START, (X, np.tanh(X[:, :2])), loss, rate))


def test_alpha_decides():
    verdicts = {}
    for alpha in (32.0, 1 / 8):
        seen = watch(scaled(alpha), jax.random.key(0), steps=2000, records=2)
        verdicts[alpha] = seen.regime.report.regime
    assert verdicts == {32.0: "lazy", 1 / 8: "rich"}


def test_a_diagnosis_with_a_start_has_a_regime_and_one_without_has_none():
    end = jax.tree.map(lambda w: 1.01 * w, START)
    given = {**vars(scaled(1.0)), "params": end}
    assert diagnose(as_network(given), jax.random.key(0), num_matvecs=4).regime is None
    network = as_network(
        {**given, "initial": START, "hidden": lambda w, x: jnp.tanh(x @ w["first"])}
    )
    found = diagnose(network, jax.random.key(0), num_matvecs=4).regime
    assert found.report.measures.weight_change == pytest.approx(0.01)
    assert "representation_distance" in {piece.measure for piece in found.report.evidence}
    assert found.report.measures == network_regime(network, START, end).report.measures


def test_many_examples_are_thinned_and_labels_are_no_targets():
    x, labels = RNG.standard_normal((EXAMPLES + 40, 3)), RNG.integers(0, 2, EXAMPLES + 40)

    def cross_entropy(f, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(f), y[:, None], axis=1))

    network = as_network((scaled(1.0).apply, START, (x, labels), cross_entropy, SETTINGS))
    found = network_regime(network, START, START)
    assert found.examples == EXAMPLES
    assert found.report.measures.target_alignment_gain is None
    assert found.report.measures.weight_change == 0


def test_a_kernel_that_only_grows_is_pointed_out():
    network = as_network(
        (lambda w, x: w[0] * w[1] * x[:, 0], jnp.ones(2), (X, X[:, 0]), loss_of_one, SETTINGS)
    )
    found = network_regime(network, network.params, 21**0.5 * network.params)
    assert found.report.rescaled
    assert "factor of 21" in found.notes[0]


def loss_of_one(outputs, y):
    return jnp.mean((outputs - y) ** 2)


def test_a_start_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match="initial must have the shapes of params"):
        as_network({**vars(scaled(1.0)), "initial": {"first": np.ones(3), "second": np.ones(2)}})


FILE = """
import jax.numpy as jnp
import numpy as np

def apply(params, x):
    return x @ params

def loss(outputs, y):
    return 0.5 * jnp.mean((outputs - y) ** 2)

def network():
    x = np.diag([1.0, 2.0, 0.5])
    settings = {"learning_rate": 0.1, "batch_size": 1}
    return dict(
        apply=apply, params=1.01 * jnp.ones(3), initial=jnp.ones(3), data=(x, x.sum(axis=1)),
        loss=loss, optimizer=settings,
    )
"""


def test_the_command_prints_the_verdict_on_the_same_page(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    options = ["diagnose", str(path), "--products", "4", "--out", str(tmp_path / "out")]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "exact edge" in printed
    assert "regime of training: lazy (on 3 examples)" in printed
    assert main([*options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["regime"]["report"]
    assert record["regime"] == "lazy"
    assert record["measures"]["weight_change"] == pytest.approx(0.01)
