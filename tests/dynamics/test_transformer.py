"""The transformer against a loop in NumPy and flax's attention; causality, bounds, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.losses import cross_entropy, log_losses, next_token_loss
from dynamics.transformer import EPSILON, largest_attention_logit, normalize, transformer
from theory.stability.sensitivity import attention_logit_bound, z_loss

KEY = jax.random.key(0)
SIZES = {"vocabulary": 7, "context": 6, "depth": 2, "width": 8, "heads": 2, "mlp_ratio": 2}
TOKENS = np.random.default_rng(0).integers(0, 7, size=(3, 5))
DESIGNS = (
    {},
    {"qk_norm": True, "normalization": "rms", "activation": "relu"},
    {"normalization": "none", "causal": False, "tied": True},
    {"qk_norm": True, "use_bias": True, "tied": True, "activation": "tanh"},
)


def drawn(model, seed=0, scale=1.0):
    """Parameters of which none is at its special initial value (gains of 1, biases of 0)."""
    params = model.init(KEY)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: w + scale * rng.normal(size=w.shape), params)


# An independent forward pass -------------------------------------------------------------------


def numpy_norm(x, gain, how):
    if gain is None:
        return x
    x = x - x.mean() if how == "layer" else x
    return np.asarray(gain) * x / np.sqrt((x**2).mean() + EPSILON)


def numpy_head(maps, head, n, causal):
    """What one head adds at every position: a loop over pairs of positions."""
    q, k, v = (np.asarray(m[head]) for m in (maps.query, maps.key, maps.value))
    added = np.zeros_like(n)
    for t in range(len(n)):
        past = range(t + 1) if causal else range(len(n))
        query = numpy_norm(q @ n[t], maps.query_gain, "layer")
        keys = [numpy_norm(k @ n[s], maps.key_gain, "layer") for s in past]
        weights = np.exp([query @ key / np.sqrt(len(query)) for key in keys])
        mixed = sum(w * (v @ n[s]) for w, s in zip(weights, past, strict=True)) / weights.sum()
        added[t] = np.asarray(maps.output[head]) @ mixed
    return added


def numpy_logits(params, tokens, design):
    phi = {
        "relu": lambda h: np.maximum(h, 0),
        "tanh": np.tanh,
        "gelu": lambda h: np.asarray(jax.nn.gelu(h, approximate=False)),
    }[design.get("activation", "gelu")]
    how = design.get("normalization", "layer")
    h = np.stack([params.embedding[token] + params.positions[t] for t, token in enumerate(tokens)])
    for block in params.blocks:
        n = np.stack([numpy_norm(row, block.attention_gain, how) for row in h])
        for head in range(len(block.attention.query)):
            h = h + numpy_head(block.attention, head, n, design.get("causal", True))
        for row in h:
            n = numpy_norm(row, block.mlp_gain, how)
            biases = [
                0 if layer.bias is None else layer.bias for layer in (block.first, block.second)
            ]
            row += block.second.weight @ phi(block.first.weight @ n + biases[0]) + biases[1]
    out = params.embedding if params.unembedding is None else params.unembedding
    return np.stack([out @ numpy_norm(row, params.final_gain, how) for row in h])


@pytest.mark.parametrize("design", DESIGNS)
def test_it_is_the_loop_over_positions_and_heads(design):
    model = transformer(**SIZES, **design)
    params = drawn(model, scale=0.5)
    apply = jax.jit(model.apply)
    found = apply(params, TOKENS)
    for tokens, logits in zip(TOKENS, found, strict=True):
        expected = numpy_logits(jax.tree.map(np.asarray, params), tokens, design)
        np.testing.assert_allclose(logits, expected, rtol=1e-8, atol=1e-10)


def test_one_sequence_may_come_without_a_leading_axis():
    params = drawn(CAUSAL)
    one = CAUSAL.observe(params, TOKENS[0])
    np.testing.assert_allclose(one.logits, APPLY(params, TOKENS)[0], rtol=1e-10)
    assert one.attention_logits.shape == (2, 2, 5, 5)


def test_attention_is_that_of_flax():
    """One block without norm and with a silent perceptron adds what flax's module adds."""
    model = transformer(**{**SIZES, "depth": 1}, normalization="none", qk_norm=True)
    params = drawn(model)
    block = params.blocks[0]
    silent = block.second._replace(weight=jnp.zeros_like(block.second.weight))
    params = params._replace(blocks=(block._replace(second=silent),), unembedding=jnp.eye(8))
    maps, n = block.attention, params.embedding[TOKENS] + params.positions[None, :5]
    module = linen.MultiHeadDotProductAttention(
        num_heads=2, use_bias=False, normalize_qk=True, param_dtype=float, deterministic=True
    )
    theirs = {
        "query": {"kernel": jnp.moveaxis(maps.query, 2, 0)},
        "key": {"kernel": jnp.moveaxis(maps.key, 2, 0)},
        "value": {"kernel": jnp.moveaxis(maps.value, 2, 0)},
        "query_ln": {"scale": maps.query_gain},
        "key_ln": {"scale": maps.key_gain},
        "out": {"kernel": jnp.moveaxis(maps.output, 1, 2)},
    }
    expected = module.apply({"params": theirs}, n, mask=linen.make_causal_mask(TOKENS))
    # flax's norm adds 1e-6 to the variance, as ours does, but computes it as a difference
    np.testing.assert_allclose(model.apply(params, TOKENS) - n, expected, rtol=1e-8, atol=1e-10)


# Properties ------------------------------------------------------------------------------------

CAUSAL = transformer(**SIZES, qk_norm=True)
BOTH_WAYS = transformer(**SIZES, causal=False)
APPLY = jax.jit(CAUSAL.apply)
OBSERVE = jax.jit(CAUSAL.observe)


@given(st.integers(1, 4), st.integers(0, 2**16))
@settings(max_examples=15)
def test_the_future_changes_no_logit(position, seed):
    rng = np.random.default_rng(seed)
    params, later = drawn(CAUSAL, 1), TOKENS.copy()
    later[:, position:] = rng.integers(0, 7, size=later[:, position:].shape)
    before, after = APPLY(params, TOKENS), APPLY(params, later)
    np.testing.assert_array_equal(before[:, :position], after[:, :position])


def test_without_the_mask_it_does_and_the_last_position_sees_all_either_way():
    params = drawn(BOTH_WAYS, 1)
    later = TOKENS.copy()
    later[:, -1] = (later[:, -1] + 1) % 7
    change = BOTH_WAYS.apply(params, TOKENS) - BOTH_WAYS.apply(params, later)
    assert np.abs(change[:, 0]).min() > 0
    shallow = [transformer(**{**SIZES, "depth": 1}, causal=causal) for causal in (True, False)]
    params = drawn(shallow[0], 2)
    last = [model.apply(params, TOKENS)[:, -1] for model in shallow]
    np.testing.assert_allclose(*last, rtol=1e-12)


@given(st.permutations(range(3)))
@settings(max_examples=6)
def test_examples_are_treated_alike(order):
    order, params = np.array(order), drawn(CAUSAL, 3)
    found = APPLY(params, TOKENS)
    np.testing.assert_allclose(APPLY(params, TOKENS[order]), found[order], rtol=1e-12)


@given(st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 1e3]))
@settings(max_examples=15)
def test_normalized_attention_logits_stay_below_the_bound(seed, scale):
    params = drawn(CAUSAL, seed, scale)
    seen = np.abs(OBSERVE(params, TOKENS).attention_logits).max(axis=(1, 2, 3, 4))
    for block, largest in zip(params.blocks, seen, strict=True):
        maps = block.attention
        bound = attention_logit_bound(maps.query_gain, maps.key_gain)
        assert largest <= bound * (1 + 1e-12)


def test_attention_logits_are_what_the_weights_say():
    """Raising one head's keys by a factor raises its logits by it; the other head's stay."""
    model = transformer(**{**SIZES, "depth": 1})
    params = drawn(model)
    block = params.blocks[0]
    raised = block.attention._replace(key=block.attention.key.at[1].multiply(3.0))
    other = params._replace(blocks=(block._replace(attention=raised),))
    before, after = (model.observe(p, TOKENS).attention_logits for p in (params, other))
    assert before.shape == (1, 3, 2, 5, 5)
    np.testing.assert_allclose(after[:, :, 1], 3 * before[:, :, 1], rtol=1e-12)
    np.testing.assert_array_equal(after[:, :, 0], before[:, :, 0])
    masked = np.abs(np.tril(before)).max(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(largest_attention_logit(before, causal=True), masked)
    everywhere = np.abs(before).max(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(largest_attention_logit(before, causal=False), everywhere)


@pytest.mark.parametrize("how", ["layer", "rms"])
def test_normalized_vectors_have_the_length_of_ones(how):
    x = jnp.asarray(1e3 * np.random.default_rng(0).normal(size=(4, 9)))
    found = normalize(x, jnp.ones(9), how=how)
    np.testing.assert_allclose((found**2).sum(-1), 9, rtol=1e-9)
    if how == "layer":
        np.testing.assert_allclose(found.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(normalize(x, jnp.arange(9.0), how=how), found * np.arange(9.0)[None])


def test_initial_weights():
    model = transformer(
        vocabulary=300, context=200, depth=1, width=64, heads=4, mlp_ratio=3, dtype=jnp.float32
    )
    params = model.init(KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    block = params.blocks[0]
    assert block.attention.query.shape == (4, 16, 64)
    assert block.attention.output.shape == (4, 64, 16)
    matrices = {
        **params._asdict(),
        **block.attention._asdict(),
        "first": block.first.weight,
        "second": block.second.weight,
    }
    for name, fan_in in {
        "embedding": 64,
        "positions": 64,
        "unembedding": 64,
        "query": 64,
        "key": 64,
        "value": 64,
        "output": 64,
        "first": 64,
        "second": 192,
    }.items():
        w = np.asarray(matrices[name], float)
        # four standard errors of the variance of w.size normal numbers
        assert abs(fan_in * (w**2).mean() - 1) < 4 * np.sqrt(2 / w.size), name
    for gain in (block.attention_gain, block.mlp_gain, params.final_gain):
        np.testing.assert_array_equal(gain, 1)
    assert transformer(**SIZES, normalization="none", tied=True).init(KEY).unembedding is None


def test_qk_norm_changes_no_initial_weight():
    plain, normalized = (transformer(**SIZES, qk_norm=q).init(KEY) for q in (False, True))
    np.testing.assert_array_equal(
        plain.blocks[1].attention.query, normalized.blocks[1].attention.query
    )
    assert plain.blocks[0].attention.query_gain is None


# Losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [DESIGNS[0], DESIGNS[3]])
def test_gradients_are_those_of_finite_differences(design):
    model = transformer(**{**SIZES, "depth": 1}, **design)
    params, loss = drawn(model, 5), jax.jit(next_token_loss(model.apply, z_weight=0.1))
    gradient = jax.grad(loss)(params, TOKENS)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda w: rng.normal(size=w.shape), params)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    slope = sum(np.vdot(g, d) for g, d in pairs)

    def along(step):
        return float(loss(jax.tree.map(lambda w, d: w + step * d, params, direction), TOKENS))

    differences = [(along(h) - along(-h)) / (2 * h) for h in (2e-4, 1e-4)]
    found = (4 * differences[1] - differences[0]) / 3  # without the error in h^2
    np.testing.assert_allclose(slope, found, rtol=1e-6, atol=1e-8)


@given(st.integers(0, 2**16), st.floats(0, 1))
def test_losses_are_those_of_probabilities(seed, weight):
    rng = np.random.default_rng(seed)
    logits, targets = 3 * rng.normal(size=(4, 2, 5)), rng.integers(0, 5, size=(4, 2))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = np.array([[-np.log(p[i, j, targets[i, j]]) for j in range(2)] for i in range(4)])
    np.testing.assert_allclose(log_losses(logits, targets), each, rtol=1e-10, atol=1e-12)
    expected = each.mean() + np.mean(z_loss(logits, weight))
    np.testing.assert_allclose(
        cross_entropy(logits, targets, z_weight=weight), expected, rtol=1e-10
    )


def test_next_token_loss_asks_for_every_token_but_the_first():
    table = np.random.default_rng(0).normal(size=(7, 7))
    loss = next_token_loss(lambda params, tokens: params[tokens], z_weight=0.3)
    pairs = [(row[t], row[t + 1]) for row in TOKENS for t in range(4)]
    log_z = np.log(np.exp(table).sum(-1))
    each = [log_z[a] - table[a, b] + 0.3 * log_z[a] ** 2 for a, b in pairs]
    np.testing.assert_allclose(loss(jnp.asarray(table), TOKENS), np.mean(each), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be a positive integer, got 0"),
        ({"mlp_ratio": -1}, "mlp_ratio must be a positive integer, got -1"),
        ({"heads": 3}, "heads must divide the width 8, got 3"),
        ({"heads": 8, "qk_norm": True}, "heads must be wider than 1 for qk_norm"),
        ({"normalization": "batch"}, "normalization must be one of layer, rms, none, got 'batch'"),
        ({"activation": "sine"}, "activation must be one of linear"),
    ],
)
def test_bad_designs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        transformer(**{**SIZES, **change})


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS / 2, "tokens must be integers, got float64"),
        (np.full((2, 3), 7), "tokens must be between 0 and 6"),
        (np.zeros((2, 7), int), r"1 to 6 positions on the last axis, got shape \(2, 7\)"),
    ],
)
def test_bad_tokens_are_named(tokens, message):
    model = transformer(**SIZES)
    with pytest.raises(ValueError, match=message):
        model.apply(model.init(KEY), tokens)


def test_bad_targets_are_named():
    with pytest.raises(ValueError, match=r"targets must be integers of shape \(2,\), got"):
        log_losses(np.zeros((2, 3)), np.zeros((2, 1), int))
    with pytest.raises(ValueError, match="targets must be integers"):
        cross_entropy(np.zeros((2, 3)), np.zeros(2))
