"""Networks whose last hidden features are parameters themselves, trained by gradient descent.

A two-layer linear network on one-hot inputs, every example its own: the first layer's columns are
then the features H, free of any input. Its loss is half the squared error, mean over examples, sum
over classes, with weight decay, feature decay, and a spring that holds features to where they were:

    L = 1/(2N) sum_i |W h_i + b - y_i|^2 + lw/2 |W|^2 + lh/2 |H|^2 + beta/2 |H - H_0|^2

Features descend at one rate, the classifier at another. Arrays of features are (K, n, p), classes
first.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynamics import models
from dynamics.collapse import class_moments
from dynamics.losses import half_squared_error
from dynamics.models import Layer
from sims.experiment import Arrays
from sims.processes import generator, seed_keys, training_process
from sims.sweep import Process

HALVINGS = np.array([1, 2, 4])  # of the small parameter, as of a step
BIASES = np.array([0.0, 1.0])


def by_layer(case: Any) -> optax.GradientTransformation:
    """Gradient descent at ``case["rates"]``, that of the features and that of the classifier."""

    def descend(gradient: Any, params: Any) -> Any:
        def scaled(rate, layer):
            return jax.tree.map(lambda g: -rate * g, layer)

        return jax.tree.map(scaled, case["rates"], gradient)

    return optax.stateless(descend)


@cache
def free_features(shape: tuple[int, int, int]) -> Process:
    """Training of features of this shape and their classifier, as a member of a sweep."""
    K, n, p = shape
    model, labels = models.mlp((K * n, p, K), activation="linear"), np.repeat(np.arange(K), n)
    data = np.eye(K * n), np.eye(K)[labels]
    misfit = half_squared_error(model.apply, examples="mean")

    def loss(params: Any, case: Any) -> jax.Array:
        first, (W, b) = params
        squares = case["feature_decay"] * jnp.sum(first.weight**2)
        squares += case["weight_decay"] * jnp.sum(W**2)
        squares += case["anchoring"] * jnp.sum((first.weight - case["anchor"]) ** 2)
        return misfit((first, Layer(W, case["bias"] * b)), data) + squares / 2

    def observe(params: Any, case: Any) -> dict[str, jax.Array]:
        moments = class_moments(params[0].weight.T, labels, n_classes=K)
        W, b = params[1]
        return {
            "loss": loss(params, case),
            "within": jnp.trace(moments.within),
            "between": jnp.trace(moments.between),
            "gram": moments.means @ moments.means.T,
            "outputs": moments.means @ W.T + (case["bias"] * b)[None],
        }

    whole = training_process(
        lambda case, _: case["network"],
        lambda params, case: loss(params, case),
        lambda params, case: observe(params, case),
        optimizer=by_layer,
    )
    return Process(
        whole.init,
        lambda k, state, case, _: whole.step(k, state, case, {"data": case}),
        lambda state, case, _: whole.observe(state, case, case),
    )


def members(features: Any, classifiers: Any, **settings: Any) -> dict[str, Any]:
    """Members that start from features (members, K, n, p) and classifiers (members, K, p).

    ``settings``: ``feature_rate`` and ``classifier_rate``; those of the loss, zero by default, and
    whether there is a ``bias``. Features are anchored where they start.
    """
    count, K, p = classifiers.shape
    first = features.reshape(count, -1, p).swapaxes(1, 2)
    numbers = {"weight_decay": 0.0, "feature_decay": 0.0, "anchoring": 0.0, "bias": 0.0} | settings
    each = {name: np.broadcast_to(value, count).astype(float) for name, value in numbers.items()}
    rates = each.pop("feature_rate"), each.pop("classifier_rate")
    biases: Any = np.zeros((count, K))
    network = Layer(first, None), Layer(classifiers, biases)
    return each | {"network": network, "rates": rates, "anchor": first}


def features_of(params: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Features (members, K, n, p) of trained networks."""
    first = np.asarray(params[0].weight)
    return first.swapaxes(1, 2).reshape(len(first), *shape)


def fitted_classifiers(features: np.ndarray, weight_decay: float) -> np.ndarray:
    """Classifiers (members, K, p) of least loss for these features: ridge regression."""
    found = []
    for H in features:
        K, n, p = H.shape
        rows = np.concatenate([H.reshape(-1, p), np.sqrt(K * n * weight_decay) * np.eye(p)])
        targets = np.concatenate([np.repeat(np.eye(K), n, axis=0), np.zeros((p, K))])
        found.append(np.linalg.lstsq(rows, targets, rcond=None)[0].T)
    return np.stack(found)


def cases(*groups: dict[str, Any]) -> dict[str, Any]:
    """Several groups of members as one."""
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *groups)
    keys = seed_keys(jax.random.key(0), len(whole["bias"]))  # full batch: not used
    return whole | {"key": keys}


@cache
def starts(config: Any) -> np.ndarray:
    """Features (starts, K, n, p) of which half the variance is between classes."""
    K, n, p = config.shape
    rng = np.random.default_rng(config.start_seed)
    within = rng.standard_normal((config.path_starts, K, n, p))
    return (within + rng.standard_normal((config.path_starts, K, 1, p))) / np.sqrt(p)


def path_starts(config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features and feature decays of the paths: all starts with every decay."""
    decays = np.repeat(config.feature_decays, config.path_starts) / config.size
    return np.tile(starts(config), (len(config.feature_decays), 1, 1, 1)), decays


def minimised(config: Any, key: jax.Array) -> dict[str, np.ndarray]:
    """Members from random starts: (couplings, balances, biases, minima), flat."""
    K, N, rng = config.n_classes, config.size, generator(key)
    lw, lh = (
        np.broadcast_to(decay[:, :, None, None], (*decay.shape, 2, config.minima)).ravel()
        for decay in config.minimum_decays(config.couplings)
    )
    root = np.sqrt(lw / lh / config.samples)
    bias = np.broadcast_to(BIASES[:, None], (len(lw) // 2 // config.minima, 2, config.minima))
    scale = np.sqrt(root / config.features)
    H = rng.standard_normal((len(lw), *config.shape)) * scale[:, None, None, None]
    W = rng.standard_normal((len(lw), K, config.features)) * (scale / root)[:, None, None]
    return members(
        H,
        W,
        weight_decay=lw,
        feature_decay=lh,
        bias=bias.ravel(),
        feature_rate=N * root / 2,  # half the inverse curvature at the minimum, as
        classifier_rate=np.minimum(K / root / 2, 1.0),  # this; the curvature of a bias is 1
    )


def on_springs(config: Any) -> dict[str, np.ndarray]:
    """Members (halvings, starts), flat, of features anchored where they start."""
    H, N = starts(config), config.size
    springs = np.repeat(config.anchoring * HALVINGS, len(H)) / N
    fitted = fitted_classifiers(H, config.weight_decay)
    return members(
        np.tile(H, (len(HALVINGS), 1, 1, 1)),
        np.tile(fitted, (len(HALVINGS), 1, 1)),
        weight_decay=config.weight_decay,
        anchoring=springs,
        feature_rate=1 / (springs + 4 / N),
        classifier_rate=1.0,
    )


def fast_classifiers(config: Any, sweep: Any) -> Arrays:
    """Scatters (halvings, paths, times) of features that a fast classifier leads."""
    (H, decays), count = path_starts(config), len(HALVINGS)
    fitted = fitted_classifiers(H, config.weight_decay)
    led = members(
        np.tile(H, (count, 1, 1, 1)),
        np.tile(fitted, (count, 1, 1)),
        weight_decay=config.weight_decay,
        feature_decay=np.tile(decays, count),
        feature_rate=np.repeat(config.size / (config.lead * HALVINGS), len(H)),
        classifier_rate=1.0,
    )
    apart = int(config.lead * config.spacing)
    at = apart * np.arange(HALVINGS[-1] * config.path_times + 1)
    found = sweep("path", free_features(config.shape), cases(led), record_at=at).records

    def at_equal_times(values):
        paths = zip(values.reshape(count, len(H), -1), HALVINGS, strict=True)
        return np.stack([v[:, ::every][:, : config.path_times + 1] for v, every in paths])

    return {name: at_equal_times(found[name]) for name in ("within", "between")}


def train(config: Any, key: jax.Array, sweep: Any) -> Arrays:
    """Minima (couplings, balances, biases, minima), paths, and what springs allow.

    Of springs (halvings, starts): their strength beta times N; the displacement of features and
    the change of tr Sigma_W/tr Sigma_B times that.
    """
    groups = minimised(config, key), on_springs(config)
    count, ends = len(groups[0]["bias"]), [0, config.minimum_steps]
    run = sweep("minima", free_features(config.shape), cases(*groups), record_at=ends)
    shape = len(config.couplings), len(config.balances), 2, config.minima
    minima = {name: run.records[name][:count, 1] for name in ("loss", "outputs", "gram")}
    strength = config.size * groups[1]["anchoring"].reshape(len(HALVINGS), -1)
    moved = features_of(run.final.params, config.shape)[count:]
    moved = moved.reshape(*strength.shape, *config.shape) - starts(config)
    ratio = (run.records["within"] / run.records["between"])[count:]
    return {
        **{name: a.reshape(shape + a.shape[1:]) for name, a in minima.items()},
        "spring_strength": strength,
        "spring_velocity": strength[:, :, None, None, None] * moved,
        "spring_fall": strength * np.diff(ratio, axis=1).reshape(strength.shape),
        **fast_classifiers(config, sweep),
    }
