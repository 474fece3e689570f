"""The tangent kernel against dense Jacobians, by every route that forms it or does without."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from dynamics.adapters import from_linen, from_nnx
from dynamics.curvature import gauss_newton_trace, gauss_newton_vp
from dynamics.eigenpairs import top_eigenpairs
from dynamics.gram import gradient_gram
from dynamics.layerwise import layerwise_gram
from dynamics.models import committee, mlp
from dynamics.operators import dense_matrix
from dynamics.pairwise import pairwise, within_memory
from dynamics.spectral_density import spectral_density, trace_of_function
from dynamics.tangent_kernel import empirical_ntk, ntk_diagonal, ntk_operator, ntk_vp
from dynamics.trace_estimators import trace

SEEDS = st.integers(0, 2**31 - 1)
N1, N2, C = 5, 7, 2
MODEL = mlp((3, 4, C), activation="gelu", bias_variance=0.3)
PAIRINGS = ("stacked", "full", "each", "sum", "mean")


def problem(seed):
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(rng.standard_normal((N1 + N2, 3)))
    return MODEL.init(jax.random.key(seed)), inputs[:N1], inputs[N1:]


def dense_jacobian(apply, params, x):
    """(n, c, d), forward mode: no code shared with the kernels, which use reverse mode."""
    flat, unravel = ravel_pytree(params)
    found = jax.jacfwd(lambda w: apply(unravel(w), x))(flat)
    return found.reshape(len(x), -1, flat.size)


def oracle(first, second):
    full = np.einsum("iap,jbp->iajb", first, second)
    n1, c, n2, _ = full.shape
    each = np.einsum("iaja->ija", full)
    return {
        "stacked": full.transpose(1, 0, 3, 2).reshape(c * n1, c * n2),
        "full": full,
        "each": each,
        "sum": each.sum(2),
        "mean": each.mean(2),
    }


def close(found, exact, factor=1e-13):
    """Sums in another order: rounding relative to the largest entry."""
    np.testing.assert_allclose(found, exact, rtol=0, atol=factor * np.abs(exact).max())


CROSS = {"stacked": (3,), "full": (1, 3, None), "each": (3,), "sum": (6,), "mean": (3,)}


@jax.jit
def measured(params, x1, x2):
    ntk, diagonal = (partial(route, MODEL.apply, params) for route in (empirical_ntk, ntk_diagonal))
    return {
        "jacobians": [dense_jacobian(MODEL.apply, params, x) for x in (x1, x2)],
        "cross": {
            name: [ntk(x1, x2, outputs=name, chunk=chunk) for chunk in chunks]
            for name, chunks in CROSS.items()
        },
        "self": {
            name: [ntk(x1, outputs=name, chunk=c) for c in (2, 5)] for name in ("full", "sum")
        },
        "diagonal": {name: diagonal(x1, outputs=name, chunk=2) for name in PAIRINGS[1:]},
        "trace": gauss_newton_trace(MODEL.apply, params, x1),
    }


@given(seed=SEEDS)
def test_every_form_and_every_chunk_is_that_of_the_dense_jacobian(seed):
    found = measured(*problem(seed))
    first, second = (np.asarray(j) for j in found["jacobians"])
    cross, own = oracle(first, second), oracle(first, first)
    for name in PAIRINGS:
        for kernel in found["cross"][name]:
            close(kernel, cross[name])
    for name in ("full", "sum"):
        for kernel in found["self"][name]:
            close(kernel, own[name])
    index = np.arange(N1)
    close(found["diagonal"]["full"], own["full"][index, :, index, :])
    for name in ("each", "sum", "mean"):
        close(found["diagonal"][name], own[name][index, index])
    np.testing.assert_allclose(found["diagonal"]["sum"].mean(), found["trace"], rtol=1e-13)


@jax.jit
def products(params, x1, x2, v):
    vp = partial(ntk_vp, MODEL.apply, params)
    operators = {
        name: dense_matrix(*ntk_operator(MODEL.apply, params, x1, outputs=name, chunk=2))
        for name in ("full", "sum", "mean")
    }
    return [vp(x1, v, x2, chunk=chunk) for chunk in (None, 1, 3, 99)], operators


@given(seed=SEEDS)
def test_products_are_those_with_the_matrix(seed):
    params, x1, x2 = problem(seed)
    v = jnp.asarray(np.random.default_rng(seed).standard_normal((N2, C)))
    vectors, operators = products(params, x1, x2, v)
    found = measured(params, x1, x2)
    for product in vectors:
        close(product, np.einsum("iajb,jb->ia", found["cross"]["full"][0], v))
    close(operators["full"], np.reshape(found["self"]["full"][0], (N1 * C, N1 * C)))
    close(operators["sum"], found["self"]["sum"][0])
    close(operators["mean"], found["self"]["sum"][0] / C)


@jax.jit
def spectra(params, x, key):
    operator = ntk_operator(MODEL.apply, params, x)
    mean = 0.5 / len(x)

    def loss(outputs, y):
        return mean * jnp.sum((outputs - y) ** 2)

    batch = x, jnp.zeros((len(x), C))
    quadrature = spectral_density(*operator, key, num_probes=3, num_steps=len(x) * C)
    return {
        "kernel": empirical_ntk(MODEL.apply, params, x),
        "top": top_eigenpairs(*operator, key, k=2, num_matvecs=len(x) * C, tolerance=1e-10),
        "trace of squares": trace_of_function(jnp.square, quadrature),
        "trace": trace(*operator, key, num_matvecs=2 * len(x) * C),
        "gauss newton": dense_matrix(
            partial(gauss_newton_vp, MODEL.apply, loss, params, batch), params
        ),
    }


@given(seed=SEEDS)
def test_estimators_see_the_spectrum_without_the_matrix(seed):
    """Lanczos with as many steps as dimensions is exact for each probe's own quadratic form."""
    params, x, _ = problem(seed)
    found = spectra(params, x, jax.random.key(seed))
    exact = np.linalg.eigvalsh(found["kernel"])[::-1]
    assert bool(found["top"].converged)
    np.testing.assert_allclose(found["top"].values, exact[:2], rtol=1e-9)
    # XTrace with more probes than dimensions is exact
    np.testing.assert_allclose(found["trace"].value, exact.sum(), rtol=1e-9)
    squares = found["trace of squares"]
    assert (
        abs(squares.value - (exact**2).sum()) < 10 * squares.standard_error + 1e-9 * exact[0] ** 2
    )
    # df/dt = -Theta/n (f - y) of the mean: its rates are the Gauss-Newton eigenvalues
    curvature = np.linalg.eigvalsh(found["gauss newton"])[::-1]
    rank = min(len(exact), len(curvature))
    np.testing.assert_allclose(exact[:rank] / N1, curvature[:rank], rtol=0, atol=1e-12 * exact[0])


@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ((3, 6, 4, 2), {"activation": "tanh", "bias_variance": 0.5}),
        ((3, 8, 1), {"activation": "gelu", "parametrization": "mean_field", "bias_variance": 0.1}),
    ],
)
def test_layerwise_route_has_all_forms_too(widths, options):
    model = mlp(widths, **options)
    _, x1, x2 = problem(3)
    params = model.init(jax.random.key(3))
    exact = oracle(*(np.asarray(dense_jacobian(model.apply, params, x)) for x in (x1, x2)))
    layerwise = partial(layerwise_gram, params, x1, x2, **options)
    found = jax.jit(lambda: [layerwise(outputs=name) for name in PAIRINGS[1:]])()
    for name, kernel in zip(PAIRINGS[1:], found, strict=True):
        close(kernel, exact[name])
    close(jax.jit(partial(layerwise, chunk=3))(), exact["full"])


def test_flax_modules_come_in_through_their_adapters():
    class Convolutional(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.tanh(linen.Conv(2, (3, 3))(x))
            return linen.Dense(C)(x.mean((1, 2)))

    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5, 5, 1)))
    model = from_linen(Convolutional(), x, dtype=float)
    apply, params = from_nnx(nnx.Linear(3, C, rngs=nnx.Rngs(0)), dtype=float)
    cases = [(model.apply, model.init(jax.random.key(0)), x), (apply, params, problem(0)[1])]
    for apply, params, x in cases:

        @jax.jit
        def routes(params, apply=apply, x=x):
            ones = jnp.ones((len(x), C))
            kernel = empirical_ntk(apply, params, x, outputs="full", chunk=3)
            return dense_jacobian(apply, params, x), kernel, ntk_vp(apply, params, x, ones)

        jacobian, kernel, product = routes(params)
        exact = oracle(np.asarray(jacobian), np.asarray(jacobian))["full"]
        close(kernel, exact)
        close(product, np.einsum("iajb->ia", exact))


def test_networks_without_an_output_axis():
    model = committee(3, 4, second_layer="trained")
    _, x1, x2 = problem(0)
    params = model.init(jax.random.key(0))
    first, second = (np.asarray(dense_jacobian(model.apply, params, x)) for x in (x1, x2))
    exact = oracle(first, second)["sum"]
    for name in ("stacked", "full", "each", "mean"):
        close(empirical_ntk(model.apply, params, x1, x2, outputs=name), exact)
    for name in ("full", "mean"):
        found = ntk_diagonal(model.apply, params, x1, outputs=name)
        close(found, np.sum(first**2, axis=(1, 2)))
    for name in ("full", "mean"):
        product, like = ntk_operator(model.apply, params, x1, outputs=name)
        close(product(like + 1.0), oracle(first, first)["sum"].sum(1))


def counted(kernel, *args):
    used = jax.jit(kernel).lower(*args).compile().memory_analysis()
    return used.output_size_in_bytes + used.temp_size_in_bytes


def test_a_budget_of_memory_is_kept_and_a_hopeless_one_says_what_is_needed():
    model = mlp((6, 30, 3), activation="tanh")
    params = model.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((24, 6)))
    gram, taken = partial(gradient_gram, model.apply, outputs="each"), []
    ntk = partial(empirical_ntk, model.apply, outputs="each")
    exact, needs = gram(params, x), [counted(partial(gram, chunk=c), params, x) for c in (1, 24)]
    assert needs[0] < needs[1] / 2

    def spy(chunk, params, x):
        taken.append(chunk)
        return gram(params, x, chunk=chunk)

    budgets = needs[0], sum(needs) // 3, needs[1]
    for memory in budgets:
        close(within_memory(spy, (params, x), most=24, memory=memory), exact)
        assert counted(partial(gram, chunk=taken[-1]), params, x) <= memory
    assert taken[-1] == 24
    with pytest.raises(ValueError, match=rf"memory must be at least {needs[0]} bytes"):
        ntk(params, x, memory=needs[0] - 1)
    # inside jit the budget is read from shapes alone
    close(jax.jit(partial(ntk, memory=budgets[1]))(params, x), exact)


def test_pairs_of_pieces_are_pairs_of_the_whole():
    a, b = np.random.default_rng(0).standard_normal((2, 7, 3))
    for chunk in (1, 2, 5, 7, 30):
        found = pairwise(
            lambda x: x, lambda p, q: p @ q.T, jnp.asarray(a), jnp.asarray(b[:4]), chunk=chunk
        )
        close(found, a @ b[:4].T)


def test_bad_input_is_refused():
    params, x1, x2 = problem(0)
    ntk = partial(empirical_ntk, MODEL.apply, params, x1)
    weights = jnp.ones((N1, C, C))
    cases = [
        (lambda: ntk(outputs="trace"), "outputs must be one of full, each, sum, mean, got 'trace'"),
        (lambda: ntk(chunk=0), "chunk must be an integer >= 1"),
        (lambda: ntk(chunk=2, memory=10**6), "chunk must be None if memory is given"),
        (lambda: ntk(memory=0), "memory must be an integer >= 1"),
        (lambda: ntk(x2[:0]), "x must hold examples"),
        (lambda: ntk_diagonal(MODEL.apply, params, x1, outputs="stacked"), "outputs must be one"),
        (lambda: ntk_diagonal(MODEL.apply, params, x1, chunk=0), "chunk must be an integer >= 1"),
        (lambda: ntk_diagonal(lambda p, x: x[:, :, None], params, x1), "apply must give"),
        (lambda: ntk_vp(MODEL.apply, params, x1, jnp.ones(N1)), "v must have the shape of the out"),
        (lambda: ntk_vp(MODEL.apply, params, x1, weights[:, 0], chunk=0), "chunk must be an integ"),
        (lambda: ntk_operator(MODEL.apply, params, x1, outputs="each"), "outputs must be one of"),
        (
            lambda: gradient_gram(MODEL.apply, params, x1, x2, output_weights=weights),
            "output_weights must be None unless",
        ),
        (lambda: layerwise_gram(params, x1, activation="gelu", outputs="all"), "outputs must be"),
        (lambda: layerwise_gram(params, x1, x2[:0], activation="gelu"), r"x2 must be \(n, 3\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
