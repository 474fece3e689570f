"""Simulated linear stability against averages over every batch there is."""

from functools import partial
from itertools import combinations, permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.linearized_sgd import lyapunov_exponent, mean_square_growth, mean_squares

N = 4
BATCHES = {
    "iid": list(combinations(range(N), 2)),
    "replacement": list(product(range(N), repeat=2)),
}


def problem(seed, outputs=1):
    """Features of d = 3 parameters, and the Gram, with top curvature 1."""
    rng = np.random.default_rng(seed)
    jacobian = rng.standard_normal((N, outputs, 3))
    jacobian /= np.linalg.norm(jacobian.reshape(N * outputs, 3), 2) / np.sqrt(N)
    gram = np.einsum("iak,jbk->iajb", jacobian, jacobian)
    return jacobian, gram, np.einsum("iak,k->ia", jacobian, rng.standard_normal(3))


def step_matrix(gram, rate, batch):
    """e -> (1 - eta/B sum over the batch) e on flat residuals."""
    n, c = gram.shape[:2]
    counts = np.repeat(np.bincount(batch, minlength=n), c)
    return np.eye(n * c) - rate / len(batch) * gram.reshape(n * c, n * c) * counts[None, :]


def with_velocity(step, momentum):
    """The map of (e, u) where u' = momentum u + (1 - step) e and e' = e - u'."""
    eye = np.eye(len(step))
    return np.block([[step, -momentum * eye], [eye - step, momentum * eye]])


def cycles(gram, rate, sampling, momentum=None):
    """All maps of one renewal with equal probabilities: a step, or an epoch of two batches."""

    def step(batch):
        matrix = step_matrix(gram, rate, batch)
        return matrix if momentum is None else with_velocity(matrix, momentum)

    if sampling == "reshuffle":
        return [step(order[2:]) @ step(order[:2]) for order in permutations(range(N))]
    return [step(batch) for batch in BATCHES[sampling]]


@partial(jax.jit, static_argnames=("sampling", "steps", "chains"))
def simulated(key, gram, residuals, rate, *, sampling, steps=4, chains=4000, momentum=0.0):
    return mean_squares(
        key,
        gram,
        residuals,
        learning_rate=rate,
        batch_size=2,
        steps=steps,
        chains=chains,
        sampling=sampling,
        momentum=momentum,
    )


@given(
    seed=st.integers(0, 2**31 - 1),
    rate=st.floats(0.05, 1.5),
    sampling=st.sampled_from(["iid", "replacement", "reshuffle"]),
)
def test_mean_squares_are_averages_over_all_batches(seed, rate, sampling):
    _, gram, residuals = problem(seed, outputs=2)
    found = simulated(
        jax.random.key(seed), jnp.asarray(gram), jnp.asarray(residuals), rate, sampling=sampling
    )
    maps = cycles(gram, rate, sampling)
    second = np.outer(residuals.ravel(), residuals.ravel())
    np.testing.assert_allclose(found.value[0], np.trace(second), rtol=1e-12)
    stride = 2 if sampling == "reshuffle" else 1
    for k in range(stride, 5, stride):
        second = np.mean([m @ second @ m.T for m in maps], axis=0)
        gap = abs(float(found.value[k]) - np.trace(second))
        assert gap <= 5 * float(found.standard_error[k]) + 1e-12 * np.trace(second)


@partial(jax.jit, static_argnames=("measure", "sampling", "batch_size"))
def rate_of(measure, key, gram, rate, *, sampling="iid", momentum=0.0, batch_size=2):
    return measure(
        key,
        gram,
        learning_rate=rate,
        batch_size=batch_size,
        steps=120,
        chains=500,
        sampling=sampling,
        momentum=momentum,
    )


@pytest.mark.parametrize(
    ("sampling", "momentum"),
    [("iid", 0.0), ("iid", 0.8), ("replacement", 0.0), ("reshuffle", 0.8)],
)
def test_growth_is_the_spectral_radius_of_the_second_moments(sampling, momentum):
    """Below and above threshold; chains biased by O(1/chains), here allowed 2/chains a step."""
    jacobian, gram, _ = problem(1)
    range_of_gram = np.linalg.qr(jacobian[:, 0])[0]  # which residuals never leave
    basis = np.kron(np.eye(2), range_of_gram)
    for rate in (0.3, 1.6):
        maps = cycles(gram, rate, sampling, momentum)
        maps = [basis.T @ m @ basis for m in maps]
        second = np.mean([np.kron(m, m) for m in maps], axis=0)
        radius = np.abs(np.linalg.eigvals(second)).max()
        radius = radius ** (0.5 if sampling == "reshuffle" else 1)
        found = rate_of(
            mean_square_growth,
            jax.random.key(0),
            jnp.asarray(gram),
            rate,
            sampling=sampling,
            momentum=momentum,
        )
        assert abs(float(found.value) - radius) <= 4 * float(found.standard_error) + 2 / 500
        assert found.standard_error < 0.02 * radius


def test_typical_chains_shrink_where_the_mean_square_grows():
    """One parameter, curvatures 1 and 10: ln |1 - eta h| on average, and the mean square."""
    features = np.sqrt([1.0, 10.0])
    gram = jnp.asarray(np.outer(features, features))
    rate = 0.39
    factors = np.abs(1 - rate * np.array([1.0, 10.0]))
    typical = rate_of(lyapunov_exponent, jax.random.key(0), gram, rate, batch_size=1)
    exact = np.mean(np.log(factors))
    assert abs(float(typical.value) - exact) <= 4 * float(typical.standard_error)
    growth = rate_of(mean_square_growth, jax.random.key(0), gram, rate, batch_size=1)
    square = np.mean(factors**2)
    # copies of one number: the population's mean is a plain average of 500 factors a step
    assert abs(float(growth.value) - square) <= 4 * float(growth.standard_error) + 2 / 500 * square
    assert square > 1


def test_momentum_with_full_batches_is_the_companion_matrix():
    jacobian, gram, _ = problem(2)
    rate, momentum = 0.7, 0.8
    curvatures = np.linalg.eigvalsh(jacobian[:, 0].T @ jacobian[:, 0] / N)
    radii = [
        np.abs(np.linalg.eigvals([[1 + momentum - rate * h, -momentum], [1, 0]])).max()
        for h in curvatures
    ]
    found = rate_of(
        lyapunov_exponent,
        jax.random.key(0),
        jnp.asarray(gram),
        rate,
        momentum=momentum,
        batch_size=N,
    )
    # complex pairs turn: the norm oscillates by O(1) over the 60 steps that are averaged
    assert abs(float(found.value) - np.log(max(radii))) <= 4 / 60


def test_momentum_in_chains_is_that_of_optax():
    import optax

    jacobian, gram, residuals = problem(3, outputs=2)
    optimizer = optax.sgd(0.5, momentum=0.7)
    rows = jnp.asarray(jacobian.reshape(2 * N, 3))
    delta = jnp.linalg.lstsq(rows, jnp.asarray(residuals.ravel()))[0]
    state, expected = optimizer.init(delta), []
    for _ in range(5):
        expected.append(float(jnp.sum((rows @ delta) ** 2)))
        update, state = optimizer.update(rows.T @ (rows @ delta) / N, state)
        delta = optax.apply_updates(delta, update)
    found = mean_squares(
        jax.random.key(0),
        gram,
        residuals,
        learning_rate=0.5,
        batch_size=N,
        steps=4,
        chains=2,
        momentum=0.7,
    )
    np.testing.assert_allclose(found.value, expected, rtol=1e-11)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-12)


def test_bad_input_is_refused():
    key, gram = jax.random.key(0), jnp.eye(4)
    cases = [
        ({"gram": jnp.ones((4, 3))}, "gram must be"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"batch_size": 5}, "batch_size must be at most n = 4"),
        ({"batch_size": 3, "sampling": "reshuffle"}, "batch_size must divide n = 4"),
        ({"sampling": "shuffle"}, "sampling must be"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"steps": 1}, "steps must be an integer >= 2"),
        ({"chains": 1}, "chains must be an integer >= 2"),
        ({"steps": 3, "sampling": "reshuffle"}, "steps must be an integer >= 4"),
        ({"groups": 1}, "groups must be an integer >= 2"),
    ]
    for change, message in cases:
        options = {"gram": gram, "learning_rate": 0.1, "batch_size": 2, "steps": 8, "chains": 2}
        options |= change
        with pytest.raises(ValueError, match=message):
            mean_square_growth(key, options.pop("gram"), **options)
    with pytest.raises(ValueError, match="residuals must fit gram"):
        mean_squares(key, gram, jnp.ones(3), learning_rate=0.1, batch_size=2, steps=1, chains=2)
