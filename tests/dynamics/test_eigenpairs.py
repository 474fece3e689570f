"""Leading eigenpairs against dense eigensolvers, on easy spectra and nasty ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.curvature import dense_matrix, hvp
from dynamics.eigenpairs import top_eigenpairs
from dynamics.losses import half_squared_error
from dynamics.models import deep_linear, mlp

SEEDS = st.integers(0, 2**31 - 1)
SIZE = 12
LIKE = {"matrix": jnp.ones((2, 3)), "vector": jnp.ones(6)}


def matvec(matrix, v):
    image = matrix @ jnp.concatenate([v["matrix"].ravel(), v["vector"]])
    return {"matrix": image[:6].reshape(2, 3), "vector": image[6:]}


@partial(jax.jit, static_argnums=2, static_argnames=("k", "num_matvecs", "tolerance", "block_size"))
def top(matrix, key, which="LA", **options):
    return top_eigenpairs(partial(matvec, matrix), LIKE, key, which=which, **options)


def symmetric(seed, eigenvalues):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]
    return (rotation * eigenvalues) @ rotation.T


def flat(vectors):
    return np.concatenate([vectors["matrix"].reshape(-1, 6), vectors["vector"]], axis=1)


@given(seed=SEEDS, which=st.sampled_from(["LA", "SA"]), power=st.integers(-60, 60))
def test_pairs_equal_dense_ones_and_residuals_are_true(seed, which, power):
    """Both ends of an indefinite spectrum, at every scale, on a pytree."""
    scale = 2.0**power
    a = scale * symmetric(seed, np.random.default_rng(seed).standard_normal(SIZE))
    found = top(jnp.asarray(a), jax.random.key(seed), which, k=2, num_matvecs=SIZE)
    exact = np.linalg.eigvalsh(a)
    exact = exact[::-1][:2] if which == "LA" else exact[:2]
    vectors = flat(found.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
    residuals = np.linalg.norm(vectors @ a - np.asarray(found.values)[:, None] * vectors, axis=1)
    np.testing.assert_allclose(found.residual_norms, residuals, atol=1e-12 * scale)
    assert found.converged
    assert found.num_matvecs <= SIZE
    assert np.all(residuals <= np.maximum(1e-3 * np.abs(found.values), 1e-12 * scale))
    assert np.all(np.abs(found.values - exact) <= residuals + 1e-12 * scale)


@given(seed=SEEDS)
def test_the_largest_value_grows_with_products_within_its_bound(seed):
    """Never above lmax, and an eigenvalue within the residual norm of every value."""
    eigenvalues = np.random.default_rng(seed).standard_normal(SIZE)
    a, key = jnp.asarray(symmetric(seed, eigenvalues)), jax.random.key(seed)
    last = -np.inf
    for products in (2, 5):
        found = top(a, key, num_matvecs=products, tolerance=0.0)
        value, residual = float(found.values[0]), float(found.residual_norms[0])
        assert last - 1e-12 <= value <= eigenvalues.max() + 1e-12
        assert np.min(np.abs(eigenvalues - value)) <= residual + 1e-12
        assert found.num_matvecs == products
        assert not found.converged
        last = value


@given(seed=SEEDS, copies=st.integers(1, 3))
def test_multiple_eigenvalues_are_counted(seed, copies):
    eigenvalues = np.r_[np.full(copies, 2.0), np.linspace(-4, 1, SIZE - copies)]
    found = top(
        jnp.asarray(symmetric(seed, eigenvalues)),
        jax.random.key(seed),
        k=3,
        num_matvecs=SIZE,
        tolerance=1e-9,
    )
    np.testing.assert_allclose(found.values, np.sort(eigenvalues)[::-1][:3], rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_multiples_of_the_identity_need_one_product(value):
    found = top(value * jnp.eye(SIZE), jax.random.key(0))
    assert found.values.tolist() == [pytest.approx(value, abs=1e-15)]
    assert found.num_matvecs == 1
    assert found.converged
    assert found.residual_norms[0] <= 1e-14


def test_largest_means_algebraic():
    """Where the largest magnitude is that of a negative outlier, and where all are negative."""
    eigenvalues = np.r_[-100.0, np.linspace(-1, 2, SIZE - 1)]
    found = top(jnp.asarray(symmetric(0, eigenvalues)), jax.random.key(0))
    assert found.converged
    np.testing.assert_allclose(found.values, [2.0], rtol=1e-6)
    eigenvalues = np.linspace(-9, -1, SIZE)
    found = top(jnp.asarray(symmetric(0, eigenvalues)), jax.random.key(0))
    np.testing.assert_allclose(found.values, [-1.0], rtol=1e-6)


def test_sharpness_of_a_network_with_symmetric_outputs():
    """A linear layer: every eigenvalue of the inputs' correlation comes once per output."""
    model = deep_linear((4, 3))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 4)))
    loss = half_squared_error(model.apply, examples="mean")
    params = model.init(jax.random.key(0))
    hessian = partial(hvp, loss, params, (x, jnp.zeros((9, 3))))
    found = top_eigenpairs(hessian, params, jax.random.key(1), k=6, num_matvecs=12, tolerance=1e-9)
    exact = np.repeat(np.linalg.eigvalsh(x.T @ x / 9)[::-1][:2], 3)
    np.testing.assert_allclose(found.values, exact, rtol=1e-9)


def test_many_networks_at_once_and_early_stops():
    model = mlp((4, 16, 2))
    data = np.random.default_rng(0).standard_normal((2, 20, 4))
    batch = jnp.asarray(data[0]), jnp.asarray(data[1][:, :2])
    loss = half_squared_error(model.apply, examples="mean")

    @jax.jit
    @jax.vmap
    def sharpness(key):
        params = model.init(key)
        hessian = partial(hvp, loss, params, batch)
        return top_eigenpairs(hessian, params, key), dense_matrix(hessian, params)

    found, hessians = sharpness(jax.random.split(jax.random.key(0), 3))
    exact = np.linalg.eigvalsh(np.asarray(hessians))[:, -1]
    assert found.converged.all()
    assert (found.num_matvecs < 20).all()
    np.testing.assert_allclose(found.values[:, 0], exact, rtol=1e-4)


def test_bad_input_is_refused():
    cases = [
        ({"k": 0}, "k must be an integer >= 1"),
        ({"k": 4}, "k must be at most the number of parameters, 3"),
        ({"k": 3, "num_matvecs": 2}, "k must be at most .* and of products, 2"),
        ({"num_matvecs": 0}, "num_matvecs must be an integer >= 1"),
        ({"tolerance": -1.0}, "tolerance must be >= 0"),
        ({"which": "LM"}, 'which must be "LA" or "SA", got \'LM\''),
        ({"block_size": 4}, "block_size must be at most 3"),
        ({"block_size": 0}, "block_size must be an integer >= 1"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            top_eigenpairs(lambda v: v, jnp.ones(3), jax.random.key(0), **options)
