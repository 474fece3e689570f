"""Training against closed forms, hand-written loops, and the statistics of its minibatches."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.training import TrainState, optimizer_step, train

KEY = jax.random.key(0)
STEPS = 40
EXAMPLES = 12


def regression(params, data):
    inputs, targets = data
    return jnp.mean((inputs @ params["weights"] + params["bias"] - targets) ** 2) / 2


def regression_data():
    draw = np.random.default_rng(0)
    return draw.normal(size=(EXAMPLES, 3)), draw.normal(size=EXAMPLES)


def start():
    return {"weights": jnp.array([1.0, -1.0, 0.5]), "bias": jnp.array(0.2)}


def gradient(params, data):
    """Of ``regression``, by hand and in NumPy."""
    inputs, targets = data
    residual = inputs @ params["weights"] + params["bias"] - targets
    return {"weights": inputs.T @ residual / len(targets), "bias": residual.mean()}


@jax.jit
def descend(curvatures, rate, initial):
    """Gradient descent on sum_i h_i w_i^2 / 2; data is the curvatures, n = modes."""
    return train(
        KEY,
        initial,
        curvatures,
        loss=lambda w, h: jnp.sum(h * w**2) / 2,
        optimizer=optax.sgd(rate),
        steps=STEPS,
        observe=lambda w: {"w": w},
        record_at=[0, 1, 7, STEPS],
    )


positive = st.floats(1e-3, 10.0)


@given(
    curvatures=st.one_of(
        st.lists(positive, min_size=3, max_size=3),
        positive.map(lambda h: [h, h, 0.0]),  # degenerate and flat directions
    ),
    stability=st.floats(0.01, 1.99),
)
def test_gradient_descent_on_a_quadratic_is_the_closed_form(curvatures, stability):
    """w_k = (1 - eta h)^k w_0, for eta h_max up to the edge of stability, 2."""
    h = np.array(curvatures)
    rate = stability / h.max()
    initial = np.array([1.0, -2.0, 3.0])
    result = descend(h, rate, initial)
    for row, k in enumerate([0, 1, 7, STEPS]):
        # each of k factors |1 - eta h| <= 1 is rounded: error at most ~ 2 k ulp of |w_0|
        np.testing.assert_allclose(
            result.records["w"][row], (1 - rate * h) ** k * initial, rtol=0, atol=1e-13
        )
    np.testing.assert_array_equal(result.params, result.records["w"][-1])


def heavy_ball(rate, momentum):
    def update(k, params, slope, memory):
        memory = {name: slope[name] + momentum * memory.get(name, 0) for name in slope}
        return {name: params[name] - rate * memory[name] for name in params}, memory

    return update


def adam(rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    def update(k, params, slope, memory):
        new, kept = {}, {}
        for name, g in slope.items():
            m, v = memory.get(name, (0, 0))
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            kept[name] = m, v
            m, v = m / (1 - beta1 ** (k + 1)), v / (1 - beta2 ** (k + 1))
            new[name] = params[name] - rate * m / (np.sqrt(v) + epsilon)
        return new, kept

    return update


def realisable_data():
    """Targets that a network fits: Polyak's rule is unstable where the loss cannot reach 0."""
    inputs, _ = regression_data()
    return inputs, inputs @ np.array([1.0, 2.0, -1.0]) + 0.5


def polyak(k, params, slope, memory):
    """Step size loss / |gradient|^2: needs the value of the loss."""
    value = float(regression(params, realisable_data()))
    rate = value / sum((g**2).sum() for g in slope.values())
    return {name: params[name] - rate * slope[name] for name in params}, memory


@pytest.mark.parametrize(
    ("optimizer", "update"),
    [
        (optax.sgd(0.1, momentum=0.9), heavy_ball(0.1, 0.9)),
        (optax.adam(0.05), adam(0.05)),
        (optax.polyak_sgd(max_learning_rate=np.inf), polyak),
    ],
    ids=["momentum", "adam", "polyak"],
)
def test_optimisers_equal_hand_written_loops(optimizer, update):
    data, record_at = realisable_data(), np.array([0, 3, STEPS])
    result = train(
        KEY,
        start(),
        data,
        loss=regression,
        optimizer=optimizer,
        steps=STEPS,
        observe=lambda params: params | {"norm": jnp.sum(params["weights"] ** 2)},
        record_at=record_at,
    )
    params, memory = {name: np.asarray(value) for name, value in start().items()}, {}
    seen = [params]
    for k in range(STEPS):
        params, memory = update(k, params, gradient(params, data), memory)
        seen.append(params)
    assert result.steps.tolist() == record_at.tolist()
    for row, k in enumerate(record_at):
        # two orders of summation of the same float64 arithmetic, in contracting iterations
        for name in params:
            np.testing.assert_allclose(
                result.records[name][row], seen[k][name], rtol=1e-9, atol=1e-10
            )
        norm = (seen[k]["weights"] ** 2).sum()
        np.testing.assert_allclose(result.records["norm"][row], norm, rtol=1e-9)


def test_by_default_the_loss_is_recorded_at_up_to_101_steps():
    data = regression_data()
    result = train(KEY, start(), data, loss=regression, optimizer=optax.sgd(0.1), steps=5)
    assert result.steps.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(result.records["loss"][-1], regression(result.params, data))


# Training that counts: with loss -sum(one_hot rows @ w) and rate 1, w_i is how often example i
# has been in a batch, so differences of the records are the batches themselves.
@partial(jax.jit, static_argnums=(1, 2, 3))
def visits(key, steps, batch_size, sampling):
    result = train(
        key,
        jnp.zeros(EXAMPLES),
        np.eye(EXAMPLES),
        loss=lambda w, rows: -jnp.sum(rows @ w),
        optimizer=optax.sgd(1.0),
        steps=steps,
        batch_size=batch_size,
        sampling=sampling,
        observe=lambda w: {"visits": w},
        record_at=np.arange(steps + 1),
    )
    return result.records["visits"]


def batches(*arguments):
    return np.diff(np.asarray(visits(*arguments)), axis=0)


def test_reshuffling_visits_each_example_once_an_epoch():
    epochs = batches(KEY, 60, 4, "reshuffle").reshape(20, 3, EXAMPLES)
    np.testing.assert_array_equal(epochs.sum(axis=1), np.ones((20, EXAMPLES)))
    np.testing.assert_array_equal(epochs.sum(axis=2), np.full((20, 3), 4))
    # a new order every epoch: two of 20 epochs share their first batch with probability 1/495
    firsts = {tuple(epoch[0]) for epoch in epochs}
    assert len(firsts) >= 18


def test_iid_batches_are_uniform_and_independent():
    steps, size = 3000, 4
    drawn = batches(KEY, steps, size, "iid")
    assert set(np.unique(drawn)) == {0.0, 1.0}  # without replacement within a batch
    np.testing.assert_array_equal(drawn.sum(axis=1), np.full(steps, size))
    p = size / EXAMPLES
    # 4.5 standard errors over 12 + 66 + 1 comparisons: false alarm below 1e-3, and the key is fixed
    error = 4.5 * np.sqrt(p * (1 - p) / steps)
    np.testing.assert_allclose(drawn.mean(axis=0), p, rtol=0, atol=error)
    pair = p * (size - 1) / (EXAMPLES - 1)
    for i, j in combinations(range(EXAMPLES), 2):
        both = (drawn[:, i] * drawn[:, j]).mean()
        assert abs(both - pair) <= 4.5 * np.sqrt(pair * (1 - pair) / steps)
    # successive batches overlap as independent ones do: hypergeometric mean and variance.
    # Reshuffled ones, which never overlap within an epoch, would be 60 standard errors away.
    overlap = (drawn[1:] * drawn[:-1]).sum(axis=1)
    variance = size * p * (1 - p) * (EXAMPLES - size) / (EXAMPLES - 1)
    assert abs(overlap.mean() - size * p) <= 4.5 * np.sqrt(variance / steps)


@pytest.mark.parametrize("sampling", ["iid", "reshuffle"])
def test_batches_follow_from_the_key(sampling):
    def drawn(seed):
        return batches(jax.random.key(seed), 60, 4, sampling)

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()


def test_a_whole_batch_is_full_batch_descent():
    options = {"loss": regression, "optimizer": optax.sgd(0.1), "steps": 9}
    full = train(KEY, start(), regression_data(), **options)
    for sampling in ("iid", "reshuffle"):
        batch = {"batch_size": EXAMPLES, "sampling": sampling}
        result = train(KEY, start(), regression_data(), **options, **batch)
        # sums in another order
        np.testing.assert_allclose(result.records["loss"], full.records["loss"], rtol=1e-13)


def stochastic(key, rate):
    return train(
        key,
        start(),
        regression_data(),
        loss=regression,
        optimizer=optax.sgd(rate, momentum=0.5),
        steps=STEPS,
        batch_size=3,
        record_at=[0, 10, STEPS],
    )


def test_mapping_over_keys_and_learning_rates_equals_separate_runs():
    keys, rates = jax.random.split(KEY, 3), jnp.array([0.01, 0.1, 1e200])
    together = jax.jit(jax.vmap(stochastic))(keys, rates)
    one = jax.jit(stochastic)
    for i in range(3):
        alone = one(keys[i], rates[i])
        assert together.diverged_at[i] == alone.diverged_at
        # batched and single products may sum in another order
        for name in ("weights", "bias"):
            np.testing.assert_allclose(
                together.params[name][i], alone.params[name], rtol=1e-12, atol=1e-14
            )
        np.testing.assert_allclose(together.records["loss"][i], alone.records["loss"], rtol=1e-12)
    assert together.diverged_at.tolist()[:2] == [-1, -1]
    assert together.diverged_at[2] > 0
    assert np.isnan(together.records["loss"][2, 1:]).all()


def test_divergence_is_reported_at_the_step_of_a_plain_loop():
    data, params = regression_data(), {name: np.asarray(w) for name, w in start().items()}
    first = 0
    with np.errstate(over="ignore", invalid="ignore"):
        while all(np.isfinite(w).all() for w in params.values()):
            slope = gradient(params, data)
            params = {name: params[name] - 1e6 * slope[name] for name in params}
            first += 1
    result = train(
        KEY, start(), data, loss=regression, optimizer=optax.sgd(1e6), steps=2 * first + 5
    )
    assert result.diverged_at == first


def test_reverse_mode_gradient_through_training():
    """Against d/d eta of (1 - eta h)^k w_0, and finite differences of minibatch training."""
    h, initial = np.array([0.5, 1.0, 1.5]), np.array([1.0, -2.0, 3.0])
    slope = jax.jit(jax.jacrev(lambda rate: descend(h, rate, initial).params))(0.3)
    exact = -STEPS * h * (1 - 0.3 * h) ** (STEPS - 1) * initial
    np.testing.assert_allclose(slope, exact, rtol=1e-11)  # rounding of 40 steps

    def final_loss(rate):
        return stochastic(KEY, rate).records["loss"][-1]

    value = jax.jit(final_loss)
    width = 1e-5  # central differences: truncation ~ width^2, rounding ~ 1e-16 / width
    difference = (value(0.1 + width) - value(0.1 - width)) / (2 * width)
    np.testing.assert_allclose(jax.jit(jax.grad(final_loss))(0.1), difference, rtol=1e-6)


def test_the_precision_of_the_arrays_is_kept():
    data = tuple(np.float32(x) for x in regression_data())
    params = {name: jnp.float32(w) for name, w in start().items()}
    result = train(KEY, params, data, loss=regression, optimizer=optax.adam(0.1), steps=2)
    leaves = jax.tree.leaves((result.params, result.records))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


def test_a_full_batch_step_takes_any_data():
    """Such as correlation matrices, whose leading axes are not examples."""
    step = optimizer_step(lambda w, s: jnp.sum((s[0] @ w - s[1]) ** 2) / 2, optax.sgd(1.0))
    state = TrainState(jnp.zeros(2), optax.sgd(1.0).init(jnp.zeros(2)), KEY)
    statistics = jnp.array([[1.0, 0.0]]), jnp.array(3.0)
    assert step(0, state, statistics).params.tolist() == [3.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"batch_size": 13}, "batch_size must be at most the number of examples, 12, got 13"),
        ({"batch_size": 5, "sampling": "reshuffle"}, "batch_size must divide .* 12, got 5"),
        ({"batch_size": 5, "sampling": "random"}, 'sampling must be "iid" or "reshuffle"'),
        ({"data": ()}, "data must hold arrays of at least one example"),
        ({"data": (np.ones((0, 3)), np.ones(0))}, "at least one example"),
        ({"data": (np.ones((12, 3)), 1.0)}, "at least one example"),
        ({"data": (np.ones((12, 3)), np.ones(11))}, "data must agree on its leading axis"),
        ({"data": (np.ones((12, 3)), np.full(12, np.nan))}, "must be finite, got 12 entries"),
        ({"record_at": [0, 3, 3]}, "record_at must increase strictly within 0..9"),
        ({"record_at": [0, 10]}, "record_at must increase strictly within 0..9"),
    ],
    ids=str,
)
def test_bad_input_is_refused(change, message):
    arguments = {"data": regression_data(), "optimizer": optax.sgd(0.1), "steps": 9} | change
    with pytest.raises(ValueError, match=message):
        train(KEY, start(), arguments.pop("data"), loss=regression, **arguments)
