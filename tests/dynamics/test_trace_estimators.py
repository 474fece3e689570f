"""Trace estimators: moments, exactness, each against the others and against matfree."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matfree import stochtrace

from dynamics.operators import flat_operator, quadratic_forms, random_sphere
from dynamics.trace_estimators import trace

SEEDS = st.integers(0, 2**31 - 1)
SIZE = 24
LIKE = {"matrix": jnp.ones((4, 3)), "vector": jnp.ones(12)}
KEYS = jax.random.split(jax.random.key(1), 2000)
METHODS = ("hutchinson", "hutchpp", "xtrace", "xnystrace")


def matvec(matrix, v):
    image = matrix @ jnp.concatenate([v["matrix"].ravel(), v["vector"]])
    return {"matrix": image[:12].reshape(4, 3), "vector": image[12:]}


@partial(jax.jit, static_argnums=(0, 1, 2))
def estimate(method, num_matvecs, probe_batch, matrix, key):
    return trace(
        partial(matvec, matrix),
        LIKE,
        key,
        num_matvecs=num_matvecs,
        method=method,
        probe_batch=probe_batch,
    )


@partial(jax.jit, static_argnums=(0, 1))
def estimates(method, num_matvecs, matrix, keys):
    return jax.vmap(lambda key: estimate(method, num_matvecs, 1, matrix, key))(keys)


@jax.jit
def forms(matrix, keys):
    operator = flat_operator(lambda v: matrix @ v, jnp.ones(SIZE))
    return quadratic_forms(operator, keys, 1000)


@jax.jit
def peers(matrix, key):
    """Leave-one-out values of matfree for the probes that ``trace`` draws from the key."""
    operator = flat_operator(lambda v: matrix @ v, jnp.ones(SIZE))
    integrands = {
        "xtrace": (stochtrace.leave_one_out_xtrace(), 6),
        "xnystrace": (stochtrace.leave_one_out_xnystrace(), 12),
    }
    with jax.numpy_rank_promotion("allow"):
        return {
            name: integrand(operator.matvec, random_sphere(key, operator, count))
            for name, (integrand, count) in integrands.items()
        }


def symmetric(seed, eigenvalues):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]
    return jnp.asarray((rotation * eigenvalues) @ rotation.T)


@given(seed=SEEDS)
def test_forms_of_random_signs_have_the_mean_and_variance_of_the_formula(seed):
    """Mean tr A, variance 2 (|A|_F^2 - sum_i A_ii^2), within 5 standard errors."""
    a = symmetric(seed, np.random.default_rng(seed).standard_normal(SIZE))
    samples = np.asarray(forms(a, jax.random.split(jax.random.key(seed), 10_000)))
    variance = 2 * float((a**2).sum() - (np.diag(a) ** 2).sum())
    count = len(samples)
    assert abs(samples.mean() - np.trace(a)) <= 5 * np.sqrt(variance / count)
    squares = (samples - np.trace(a)) ** 2
    assert abs(squares.mean() - variance) <= 5 * squares.std() / np.sqrt(count)


@pytest.mark.parametrize("method", METHODS)
def test_estimates_are_unbiased_and_their_standard_errors_are_honest(method):
    a = symmetric(0, 0.7 ** np.arange(SIZE))
    found = estimates(method, 12, a, KEYS)
    errors = np.asarray(found.value) - np.trace(a)
    assert abs(errors.mean()) <= 5 * errors.std() / np.sqrt(len(errors))
    ratio = np.mean(np.asarray(found.standard_error) ** 2) / np.mean(errors**2)
    # Independent probes: unbiased, to 5 standard errors of a heavy-tailed mean square, here 25 %.
    # Leave-one-out values are dependent, and their spread right within a factor of two or so.
    low, high = (0.75, 1.25) if method in ("hutchinson", "hutchpp") else (0.2, 3.0)
    assert low < ratio < high
    assert int(found.num_matvecs[0]) == 12


def test_better_estimators_are_better_on_a_decaying_spectrum():
    a = symmetric(0, 0.5 ** np.arange(SIZE))
    worst, *others = (
        np.std(np.asarray(estimates(method, 12, a, KEYS).value)) for method in METHODS
    )
    assert all(spread < worst / 3 for spread in others)


@given(seed=SEEDS, rank=st.integers(0, 3), power=st.integers(-60, 60))
def test_exact_beyond_the_rank_at_every_scale(seed, rank, power):
    """With 12 products: 4, 6 and 12 probes for a rank of at most 3."""
    eigenvalues = np.zeros(SIZE)
    eigenvalues[:rank] = np.random.default_rng(seed).uniform(0.1, 1.0, rank)
    a = 2.0**power * symmetric(seed, eigenvalues)
    exact = 2.0**power * eigenvalues.sum()
    for method in METHODS[1:]:
        found = estimate(method, 12, 1, a, jax.random.key(seed))
        # rounding, times the condition number of random projections
        tolerance = 1e-9 * 2.0**power
        np.testing.assert_allclose(found.value, exact, rtol=0, atol=tolerance)
        assert found.standard_error <= tolerance


@given(seed=SEEDS, power=st.integers(-60, 60))
def test_estimates_scale_with_the_operator(seed, power):
    a = symmetric(seed, 0.8 ** np.arange(SIZE))
    for method in METHODS:
        one = estimate(method, 12, 1, a, jax.random.key(seed))
        scaled = estimate(method, 12, 1, 2.0**power * a, jax.random.key(seed))
        np.testing.assert_allclose(scaled.value, 2.0**power * one.value, rtol=1e-9)
        np.testing.assert_allclose(
            scaled.standard_error, 2.0**power * one.standard_error, rtol=1e-6
        )


@given(seed=SEEDS)
def test_leave_one_out_estimators_equal_matfree(seed):
    a = symmetric(seed, 0.8 ** np.arange(SIZE))
    for method, samples in peers(a, jax.random.key(seed)).items():
        samples = np.asarray(samples)
        found = estimate(method, 12, 1, a, jax.random.key(seed))
        np.testing.assert_allclose(found.value, samples.mean(), rtol=1e-8)
        error = samples.std(ddof=1) / np.sqrt(len(samples))
        np.testing.assert_allclose(found.standard_error, error, rtol=1e-5)


@pytest.mark.parametrize("method", ["hutchinson", "xtrace"])
def test_batches_of_products_change_nothing(method):
    a, key = symmetric(0, 0.8 ** np.arange(SIZE)), jax.random.key(0)
    one, batched = (estimate(method, 12, batch, a, key) for batch in (1, 4))
    np.testing.assert_allclose(batched.value, one.value, rtol=1e-10)


def test_a_form_takes_the_place_of_products():
    a, like, key = symmetric(0, np.linspace(-1, 2, SIZE)), jnp.ones(SIZE), jax.random.key(0)

    def hutchinson(matvec, **options):
        return trace(matvec, like, key, num_matvecs=12, method="hutchinson", **options)

    found = hutchinson(jnp.zeros_like, form=lambda v: v @ (a @ v))
    for part, expected in zip(found, hutchinson(lambda v: a @ v), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)


def test_many_operators_at_once():
    """Checkpoints, say; matfree's own map over products could not be kept sequential here."""
    a, key = symmetric(0, 0.8 ** np.arange(SIZE)), jax.random.key(0)
    one = estimate("xtrace", 12, 1, a, key)
    many = jax.vmap(lambda a: estimate("xtrace", 12, 1, a, key))(jnp.stack([2 * a, a]))
    np.testing.assert_allclose(many.value, [2 * one.value, one.value], rtol=1e-10)


def test_products_are_counted_and_capped_by_the_dimension():
    a = symmetric(0, np.linspace(-1, 2, SIZE))
    for method, products in {"hutchpp": 2 * SIZE + 33, "xtrace": 2 * SIZE}.items():
        found = estimate(method, 100, 1, a, jax.random.key(0))
        assert found.num_matvecs == products
        np.testing.assert_allclose(found.value, np.trace(a), rtol=1e-10)  # a full basis: exact


def test_nystrom_admits_that_an_operator_is_indefinite():
    a = symmetric(0, np.linspace(-1, 1, SIZE))
    assert estimate("xnystrace", 12, 1, a, jax.random.key(0)).standard_error == np.inf


def test_single_precision_stays_single():
    a = symmetric(0, 0.8 ** np.arange(SIZE)).astype(jnp.float32)
    like, key = jnp.ones(SIZE, jnp.float32), jax.random.key(0)

    def single(method):
        return trace(lambda v: a @ v, like, key, num_matvecs=24, method=method)

    for method in METHODS:
        found = jax.eval_shape(partial(single, method))
        assert found.value.dtype == found.standard_error.dtype == jnp.float32
    found = single("xtrace")
    assert abs(found.value - jnp.trace(a)) <= 5 * found.standard_error + 1e-5


def test_bad_input_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"method must be one of hutchinson, .* got 'exact'"):
        trace(lambda v: v, jnp.ones(3), key, num_matvecs=9, method="exact")
    for method, least in zip(METHODS, (2, 6, 4, 2), strict=True):
        with pytest.raises(ValueError, match=f"num_matvecs must be an integer >= {least}"):
            trace(lambda v: v, jnp.ones(3), key, num_matvecs=least - 1, method=method)
    with pytest.raises(ValueError, match="form must be None unless"):
        trace(lambda v: v, jnp.ones(3), key, num_matvecs=9, form=jnp.sum)
    with pytest.raises(ValueError, match="probe_batch must be an integer >= 1"):
        trace(lambda v: v, jnp.ones(3), key, num_matvecs=9, probe_batch=0)
