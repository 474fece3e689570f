"""Networks against their equations in NumPy, initial weights against their distributions.

Statistical tests draw with fixed keys and allow four standard errors, computed from the sample
size in place; everything else is exact to rounding in float64.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.models import (
    ACTIVATIONS,
    Committee,
    Layer,
    aligned_init,
    committee,
    deep_linear,
    end_to_end,
    from_linen,
    from_nnx,
    gaussian_init,
    mlp,
    orthogonal_init,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4))
PARAMETRIZATIONS = ("standard", "ntk", "mean_field")


def orthonormal(n, modes, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, modes)))[0]


# deep linear ------------------------------------------------------------------------------------


def test_deep_linear_network_is_the_product_of_its_weights():
    model = deep_linear((4, 5, 5, 2), gain=1.3)
    params = model.init(KEY)
    assert [w.shape for w in params] == [(5, 4), (5, 5), (2, 5)]
    w1, w2, w3 = (np.asarray(w) for w in params)
    np.testing.assert_allclose(end_to_end(params), w3 @ w2 @ w1, rtol=1e-13)
    np.testing.assert_allclose(model.apply(params, X), X @ (w3 @ w2 @ w1).T, rtol=1e-12)
    np.testing.assert_allclose(model.apply(params, X[0]), model.apply(params, X)[0], rtol=1e-12)
    stacked = model.apply(params, X.reshape(2, 3, 4))
    np.testing.assert_allclose(stacked.reshape(6, 2), model.apply(params, X), rtol=1e-12)


def test_gains_scale_layers_and_may_be_traced():
    unit = deep_linear((4, 5, 2)).init(KEY)
    scaled = deep_linear((4, 5, 2), gain=(2.0, 0.5)).init(KEY)
    np.testing.assert_allclose(scaled[0], 2.0 * unit[0], rtol=1e-14)
    np.testing.assert_allclose(scaled[1], 0.5 * unit[1], rtol=1e-14)
    sweep = jax.vmap(lambda gain: deep_linear((4, 5, 2), gain=gain).init(KEY)[0])
    np.testing.assert_allclose(sweep(jnp.array([1.0, 3.0]))[1], 3.0 * unit[0], rtol=1e-14)


def test_product_of_orthogonal_layers_has_all_singular_values_equal():
    params = deep_linear((6,) * 9, init="orthogonal", gain=0.9).init(KEY)
    values = np.linalg.svd(end_to_end(params), compute_uv=False)
    np.testing.assert_allclose(values, 0.9**8, rtol=1e-13)


def test_any_initializer_can_be_given():
    params = deep_linear((4, 5, 2), init=jax.nn.initializers.ones, gain=2.0).init(KEY)
    np.testing.assert_array_equal(params[1], np.full((2, 5), 2.0))


# initial weights --------------------------------------------------------------------------------


def unit_samples(source):
    """About 1e5 numbers that must be standard normal, drawn through the named door."""
    key, shape = jax.random.key(7), (300, 400)
    if source == "gaussian_init":
        z = gaussian_init(key, shape) * np.sqrt(400)
    elif source == "standard":
        widths = (400, 300)
        z = mlp(widths, weight_variance=4.0).init(key)[0].weight * np.sqrt(400) / 2.0
    elif source == "ntk":
        z = mlp((400, 300), parametrization="ntk", weight_variance=4.0).init(key)[0].weight
    elif source == "bias":
        z = mlp((1, 100_000), bias_variance=0.25).init(key)[0].bias / 0.5
    else:
        z = committee(400, 300, weight_variance=0.01).init(key).first / 0.1
    return np.asarray(z).ravel()


@pytest.mark.parametrize("source", ["gaussian_init", "standard", "ntk", "bias", "committee"])
def test_weights_are_gaussian_and_not_truncated(source):
    z = unit_samples(source)
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)  # var(z^4) = 105 - 9
    # the tail goes on: cut at two standard deviations, as flax does, it would end at 2.3
    assert np.abs(z).max() > 4.0
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-4


def test_largest_weight_grows_with_the_number_drawn():
    largest = [np.abs(gaussian_init(KEY, (n, 1))).max() for n in (100, 10_000, 1_000_000)]
    # median of the largest |z| of n is the quantile 2^(-1/n); its spread is below 0.6
    expected = scipy.stats.norm.ppf((1 + 0.5 ** (1 / np.array([1e2, 1e4, 1e6]))) / 2)
    np.testing.assert_allclose(largest, expected, atol=1.2)
    assert largest[0] < largest[1] < largest[2]


def test_keys_decide_everything_and_layers_are_independent():
    model = mlp((60, 60, 60), bias_variance=1.0)
    first, again, other = (model.init(k) for k in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first[0].weight, again[0].weight)
    flat = [w.ravel() for w in (first[0].weight, first[1].weight, other[0].weight)]
    correlations = np.corrcoef(np.stack(flat))[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / 60  # standard error 1/sqrt(3600)
    assert not np.isclose(first[0].bias, first[0].weight[:, 0] * np.sqrt(60)).any()


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 4), (1, 1)])
def test_orthogonal_matrices_are_isometries(shape):
    w = np.asarray(orthogonal_init(KEY, shape))
    assert w.shape == shape
    gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_matrices_are_haar_distributed():
    count = 4000
    keys = jax.random.split(KEY, count)
    q = np.asarray(jax.jit(jax.vmap(lambda k: orthogonal_init(k, (3, 3))))(keys))
    trace = np.trace(q, axis1=1, axis2=2)
    # Haar on O(3): E tr = 0, E tr^2 = 1, E det = 0; without the sign correction E tr is near -1
    for sample, mean in ((trace, 0), (trace**2, 1), (np.linalg.det(q), 0)):
        assert abs(sample.mean() - mean) < 4 * sample.std() / np.sqrt(count)
    raw = np.trace(np.linalg.qr(np.random.default_rng(0).normal(size=(count, 3, 3)))[0], 0, 1, 2)
    assert abs(raw.mean()) > 10 * raw.std() / np.sqrt(count)


strengths = st.lists(
    st.one_of(st.floats(-3.0, 3.0), st.sampled_from([0.0, 1.0, -1.0, 1e-6])), min_size=2, max_size=2
)


@settings(max_examples=20)
@given(strengths, st.integers(0, 5))
def test_balanced_aligned_weights(u0, seed):
    u, v = orthonormal(4, 2, seed), orthonormal(3, 2, seed + 1)
    params = [
        np.asarray(w) for w in aligned_init(jax.random.key(seed), (3, 5, 5, 4), u, v, np.array(u0))
    ]
    np.testing.assert_allclose(params[2] @ params[1] @ params[0], u @ np.diag(u0) @ v.T, atol=1e-13)
    for before, after in pairwise(params):
        np.testing.assert_allclose(after.T @ after, before @ before.T, atol=1e-13)


@settings(max_examples=20)
@given(strengths, strengths, st.integers(0, 5))
def test_unbalanced_aligned_weights_of_two_layers(a, b, seed):
    u, v = orthonormal(4, 2, seed), orthonormal(3, 2, seed + 1)
    a, b = np.array(a), np.array(b)
    w1, w2 = (np.asarray(w) for w in aligned_init(KEY, (3, 5, 4), u, v, np.stack([a, b])))
    np.testing.assert_allclose(w2 @ w1, u @ np.diag(a * b) @ v.T, atol=1e-13)
    np.testing.assert_allclose(v.T @ w1.T @ w1 @ v, np.diag(a**2), atol=1e-13)
    np.testing.assert_allclose(u.T @ w2 @ w2.T @ u, np.diag(b**2), atol=1e-13)
    # the conserved matrix is the imbalance b^2 - a^2 on the modes, nothing elsewhere
    imbalance = np.linalg.eigvalsh(w2.T @ w2 - w1 @ w1.T)
    expected = np.sort(np.concatenate([b**2 - a**2, np.zeros(3)]))
    np.testing.assert_allclose(imbalance, expected, atol=1e-12)


def test_a_gradient_step_leaves_aligned_weights_aligned():
    u, v, s = orthonormal(4, 2, 0), orthonormal(3, 2, 1), np.array([2.0, 1.0])
    target = u @ np.diag(s) @ v.T
    params = aligned_init(KEY, (3, 5, 4), u, v, np.array([[0.3, 0.2], [0.1, -0.5]]))
    gradient = jax.grad(lambda p: 0.5 * jnp.sum((target - end_to_end(p)) ** 2))(params)
    stepped = end_to_end([w - 0.1 * g for w, g in zip(params, gradient, strict=True)])
    modes = u.T @ np.asarray(stepped) @ v
    np.testing.assert_allclose(u @ np.diag(np.diag(modes)) @ v.T, stepped, atol=1e-14)
    a, b, e = np.array([0.3, 0.2]), np.array([0.1, -0.5]), s - np.array([0.03, -0.1])
    np.testing.assert_allclose(np.diag(modes), (a + 0.1 * b * e) * (b + 0.1 * a * e), rtol=1e-13)


# multilayer perceptron --------------------------------------------------------------------------


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_mlp_computes_its_equations(parametrization):
    options = {"weight_variance": 1.7, "bias_variance": 0.3, "parametrization": parametrization}
    model = mlp((4, 5, 5, 2), activation="tanh", **options)
    params = model.init(KEY)
    h = X
    for l, (w, b) in enumerate((np.asarray(w), np.asarray(b)) for w, b in params):
        a = h if l == 0 else np.tanh(h)
        if parametrization == "standard":
            h = a @ w.T + b
        else:
            h = np.sqrt(1.7 / w.shape[1]) * a @ w.T + np.sqrt(0.3) * b
    expected = h / np.sqrt(5) if parametrization == "mean_field" else h
    np.testing.assert_allclose(model.apply(params, X), expected, rtol=1e-12)
    np.testing.assert_allclose(model.apply(params, X[0]), expected[0], rtol=1e-12)


def test_parametrisations_draw_the_same_function():
    options = {"weight_variance": 1.7, "bias_variance": 0.3}
    outputs = {}
    for kind in PARAMETRIZATIONS:
        model = mlp((4, 5, 5, 2), parametrization=kind, **options)
        outputs[kind] = model.apply(model.init(KEY), X)
    np.testing.assert_allclose(outputs["ntk"], outputs["standard"], rtol=1e-12)
    np.testing.assert_allclose(outputs["mean_field"], outputs["ntk"] / np.sqrt(5), rtol=1e-12)


@pytest.mark.parametrize("parametrization", ["ntk", "mean_field"])
def test_learning_rates_translate_between_parametrisations(parametrization):
    """One step of gradient descent gives the same function, with standard's rates per layer."""
    widths, options = (4, 5, 5, 2), {"weight_variance": 1.7, "bias_variance": 0.3}
    y, eta = RNG.normal(size=(6, 2)), 0.2
    scale = 1.0 if parametrization == "ntk" else 1 / np.sqrt(5)
    standard, other = (
        mlp(widths, **options),
        mlp(widths, parametrization=parametrization, **options),
    )

    def step(apply, params, rates):
        gradient = jax.grad(lambda p: 0.5 * jnp.sum((apply(p, X) - y) ** 2))(params)
        return apply(jax.tree.map(lambda p, r, g: p - r * g, params, rates, gradient), X)

    rates = tuple(Layer(eta * 1.7 / n, eta * 0.3) for n in widths[:-1])
    by_standard = step(lambda p, x: scale * standard.apply(p, x), standard.init(KEY), rates)
    params = other.init(KEY)
    by_other = step(other.apply, params, jax.tree.map(lambda _: eta, params))
    np.testing.assert_allclose(by_other, by_standard, rtol=1e-12)
    assert np.abs(by_other - other.apply(params, X)).max() > 1e-3


def test_variance_of_a_deep_linear_mlp_at_initialisation():
    # q_l = sw^2 q_{l-1} + sb^2 holds at every width without a nonlinearity, q_0 = |x|^2 / n_0
    x, seeds = X[0], 4000
    model = mlp((4, 5, 5, 2), activation="linear", weight_variance=1.5, bias_variance=0.4)
    keys = jax.random.split(KEY, seeds)
    outputs = np.asarray(jax.jit(jax.vmap(lambda k: model.apply(model.init(k), x)))(keys))
    np.testing.assert_allclose(outputs[7], model.apply(model.init(keys[7]), x), rtol=1e-12)
    q = np.mean(x**2)
    for _ in range(3):
        q = 1.5 * q + 0.4
    f = outputs[:, 0]
    assert abs(f.mean()) < 4 * f.std() / np.sqrt(seeds)
    assert abs((f**2).mean() - q) < 4 * (f**2).std() / np.sqrt(seeds)


def test_mlp_without_bias_has_no_bias_parameters():
    model = mlp((4, 5, 2), use_bias=False, activation="relu")
    params = model.init(KEY)
    assert len(jax.tree.leaves(params)) == 2
    with_bias = mlp((4, 5, 2), activation="relu").init(KEY)
    np.testing.assert_array_equal(params[1].weight, with_bias[1].weight)
    w1, w2 = (np.asarray(layer.weight) for layer in params)
    np.testing.assert_allclose(model.apply(params, X), np.maximum(X @ w1.T, 0) @ w2.T, rtol=1e-12)


def test_activations_by_name_and_by_function():
    h = np.linspace(-3, 3, 13)
    expected = {
        "linear": h,
        "relu": np.maximum(h, 0),
        "tanh": np.tanh(h),
        "square": h**2,
        "sigmoid": scipy.special.expit(h),
        "gelu": h * scipy.stats.norm.cdf(h),
        "erf": scipy.special.erf(h),
        "scaled_erf": scipy.special.erf(h / np.sqrt(2)),
    }
    assert set(expected) == set(ACTIVATIONS)
    for name, values in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](h), values, rtol=1e-12, atol=1e-15)
    cubic, named = mlp((4, 5, 2), activation=lambda h: h**3), mlp((4, 5, 2))
    w1, w2 = (np.asarray(layer.weight) for layer in cubic.init(KEY))
    np.testing.assert_allclose(cubic.apply(cubic.init(KEY), X), (X @ w1.T) ** 3 @ w2.T, rtol=1e-12)
    np.testing.assert_array_equal(named.init(KEY)[0].weight, w1)


# committee --------------------------------------------------------------------------------------


def test_committee_computes_its_equation():
    fixed, trained = committee(4, 5), committee(4, 5, second_layer="trained")
    params = fixed.init(KEY)
    assert params.second is None
    hidden = scipy.special.erf(X @ np.asarray(params.first).T / np.sqrt(4) / np.sqrt(2))
    np.testing.assert_allclose(fixed.apply(params, X), hidden.sum(1), rtol=1e-12)
    np.testing.assert_allclose(fixed.apply(params, X[0]), hidden.sum(1)[0], rtol=1e-12)
    v = jnp.array([0.5, -1.0, 2.0, 0.0, 3.0])
    outputs = trained.apply(Committee(params.first, v), X)
    np.testing.assert_allclose(outputs, hidden @ np.asarray(v), rtol=1e-12)
    first, second = trained.init(KEY)
    assert (first.shape, second.shape) == ((5, 4), (5,))
    wide = committee(1, 100_000, second_layer="trained", readout_variance=0.09).init(KEY).second
    assert abs(wide.var() - 0.09) < 4 * 0.09 * np.sqrt(2 / 1e5)


# all hand-written models ------------------------------------------------------------------------

MODELS = {
    "deep_linear": lambda dtype: deep_linear((4, 5, 2), dtype=dtype),
    "orthogonal": lambda dtype: deep_linear((4, 5, 2), init="orthogonal", gain=0.5, dtype=dtype),
    "standard": lambda dtype: mlp((4, 5, 2), bias_variance=0.1, activation="relu", dtype=dtype),
    "ntk": lambda dtype: mlp((4, 5, 2), parametrization="ntk", dtype=dtype),
    "mean_field": lambda dtype: mlp((4, 5, 2), parametrization="mean_field", dtype=dtype),
    "committee": lambda dtype: committee(4, 5, second_layer="trained", dtype=dtype),
}


@pytest.mark.parametrize("name", MODELS)
def test_dtype_follows(name):
    for dtype, x in ((float, X), (jnp.float32, X.astype(np.float32))):
        model = MODELS[name](dtype)
        params = jax.eval_shape(model.init, KEY)
        outputs = jax.eval_shape(model.apply, params, x)
        gradient = jax.eval_shape(jax.grad(lambda p, m=model, x=x: m.apply(p, x).sum()), params)
        wanted = jnp.dtype(jnp.float64 if dtype is float else dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, outputs, gradient))} == {wanted}


def test_default_dtype_without_x64_is_float32():
    with jax.enable_x64(False):
        assert jax.eval_shape(mlp((4, 2)).init, KEY)[0].weight.dtype == jnp.float32


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: deep_linear((3,)), "widths"),
        (lambda: deep_linear((3, 0, 2)), "widths"),
        (lambda: deep_linear((3, 2), init="xavier"), "init.*gaussian, orthogonal.*xavier"),
        (lambda: deep_linear((3, 2), gain=(1.0, 2.0)), "gain"),
        (lambda: deep_linear((3, 2), gain=np.nan), "gain"),
        (lambda: mlp((3, 4, 2), activation="swish"), "activation.*tanh.*swish"),
        (lambda: mlp((3, 4, 2), parametrization="mup"), "parametrization.*mean_field.*mup"),
        (lambda: mlp((3, 2), parametrization="mean_field"), "widths.*hidden"),
        (lambda: mlp((3, 2), weight_variance=-1.0), "weight_variance.*-1"),
        (lambda: mlp((3, 2), bias_variance=np.nan), "bias_variance.*nan"),
        (lambda: committee(0, 2), "widths"),
        (lambda: committee(3, 2, second_layer="frozen"), "second_layer.*frozen"),
        (lambda: mlp((3, 2)).apply(mlp((3, 2)).init(KEY), X), "x must have 3 features"),
        (lambda: deep_linear((3, 2)).apply((jnp.ones((2, 3)),), X), "x must have 3 features"),
        (lambda: committee(3, 2).apply(Committee(jnp.ones((2, 3)), None), X), "x must have 3"),
    ],
)
def test_bad_models_are_named(build, match):
    with pytest.raises(ValueError, match=match):
        build()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"widths": (3, 1, 4)}, "widths.*2 modes"),
        ({"widths": (3, 5, 5)}, "left_vectors.*shape"),
        ({"widths": (4, 5, 4)}, "right_vectors.*shape"),
        ({"left_vectors": 2 * orthonormal(4, 2, 0)}, "left_vectors.*orthonormal"),
        ({"right_vectors": np.ones((3, 2))}, "right_vectors.*orthonormal"),
        ({"strengths": np.array([1.0, np.nan])}, "strengths.*finite"),
        ({"strengths": np.ones((3, 2))}, "strengths.*shape"),
    ],
)
def test_bad_alignment_is_named(change, match):
    good = {
        "widths": (3, 5, 4),
        "left_vectors": orthonormal(4, 2, 0),
        "right_vectors": orthonormal(3, 2, 1),
        "strengths": np.array([0.1, 0.2]),
    }
    aligned_init(KEY, **good)
    with pytest.raises(ValueError, match=match):
        aligned_init(KEY, **{**good, **change})


def test_alignment_can_be_vmapped_over_strengths_and_keys():
    u, v = orthonormal(4, 2, 0), orthonormal(3, 2, 1)
    u0 = jnp.array([[0.1, 0.2], [0.3, -0.4]])
    keys = jax.random.split(KEY, 2)
    products = jax.vmap(lambda k, s: end_to_end(aligned_init(k, (3, 5, 4), u, v, s)))(keys, u0)
    np.testing.assert_allclose(products[1], u @ np.diag([0.3, -0.4]) @ v.T, atol=1e-14)


# flax -------------------------------------------------------------------------------------------


class LinenNet(linen.Module):
    normalised: bool = False
    training: bool = False
    dropout: bool = False

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(5, param_dtype=jnp.float64)(x)
        if self.normalised:
            x = linen.BatchNorm(use_running_average=not self.training, param_dtype=jnp.float64)(x)
        if self.dropout:
            x = linen.Dropout(0.5, deterministic=False)(x)
        return linen.Dense(2, param_dtype=jnp.float64)(jnp.tanh(x))


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs, param_dtype=jnp.float64)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.norm(self.first(x)))
        self.sow(nnx.Intermediate, "hidden", x)
        return self.second(self.drop(x))


def assert_is_pure_network(apply, params, reference):
    """Values, gradients, jit and vmap of ``apply`` against a reference function of params, x."""
    outputs = apply(params, X)
    assert outputs.dtype == jnp.float64
    np.testing.assert_array_equal(outputs, reference(params, X))
    np.testing.assert_allclose(jax.jit(apply)(params, X), outputs, rtol=1e-12)
    members = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    both = jax.vmap(apply, in_axes=(0, None))(members, X)
    np.testing.assert_allclose(both[0], outputs, rtol=1e-12)
    assert np.abs(both[1] - outputs).max() > 0.1
    gradients = [jax.grad(lambda p, f=f: jnp.sum(f(p, X) ** 2))(params) for f in (apply, reference)]
    for mine, theirs in zip(*(jax.tree.leaves(g) for g in gradients), strict=True):
        assert mine.dtype == jnp.float64
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_linen_module_becomes_a_model():
    module = LinenNet()
    model = from_linen(module, X)
    params = model.init(KEY)
    for mine, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(module.init(KEY, X)["params"]), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert_is_pure_network(model.apply, params, lambda p, x: module.apply({"params": p}, x))
    seeds = jax.vmap(lambda k: model.apply(model.init(k), X))(jax.random.split(KEY, 2))
    assert np.abs(seeds[0] - seeds[1]).max() > 0.1


def test_linen_collections_are_constants_given_by_the_caller():
    module = LinenNet(normalised=True)
    with pytest.raises(ValueError, match=r"collections.*batch_stats"):
        from_linen(module, X)
    statistics = {"BatchNorm_0": {"mean": jnp.full(5, 0.3), "var": jnp.full(5, 2.0)}}
    model = from_linen(module, X, collections={"batch_stats": statistics})
    params = model.init(KEY)
    expected = module.apply({"params": params, "batch_stats": statistics}, X)
    np.testing.assert_array_equal(model.apply(params, X), expected)
    training = LinenNet(normalised=True, training=True)
    with pytest.raises(ValueError, match=r"module.*batch_stats"):
        from_linen(training, X, collections={"batch_stats": statistics})
    with pytest.raises(ValueError, match=r"module.*dropout"):
        from_linen(LinenNet(dropout=True), X)


def test_flax_parameters_can_be_cast():
    # flax makes float32 parameters even under x64
    model = from_linen(linen.Dense(2), X)
    assert model.init(KEY)["kernel"].dtype == jnp.float32
    double = from_linen(linen.Dense(2), X, dtype=jnp.float64)
    assert double.init(KEY)["kernel"].dtype == jnp.float64
    assert double.apply(double.init(KEY), X).dtype == jnp.float64
    np.testing.assert_array_equal(double.init(KEY)["kernel"], model.init(KEY)["kernel"])


def test_nnx_module_becomes_a_function_and_is_left_alone():
    module = NnxNet()
    module.eval()
    apply, params = from_nnx(module, dtype=jnp.float64)
    graph, _, rest = nnx.split(nnx.clone(module), nnx.Param, ...)

    def reference(params, x):
        return nnx.merge(graph, params, rest, copy=True)(x)

    assert_is_pure_network(apply, params, reference)
    # params go back into the module, and the function does not depend on it any longer
    before = apply(params, X)
    doubled = jax.tree.map(lambda p: 2 * p, params)
    nnx.update(module, doubled)
    np.testing.assert_allclose(module(X), apply(doubled, X), rtol=1e-12)
    module.norm.mean[...] = jnp.ones(5, jnp.float32)
    np.testing.assert_array_equal(apply(params, X), before)


def test_nnx_modules_that_change_while_they_run_are_refused():
    module = NnxNet()  # born in training mode: batch statistics and dropout both active
    module.drop.deterministic = True
    apply, params = from_nnx(module, dtype=jnp.float64)
    for call in (apply, jax.jit(apply)):
        with pytest.raises(ValueError, match=r"module.*norm.*mean"):
            call(params, X)
    module = NnxNet()
    module.norm.use_running_average = True
    apply, params = from_nnx(module, dtype=jnp.float64)
    with pytest.raises(ValueError, match=r"module.*drop.*count"):
        apply(params, X)
    with pytest.raises(ValueError, match=r"nnx\.Param"):
        from_nnx(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
