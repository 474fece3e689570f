"""The two-moment recursion against networks of any width, quadrature, autodiff and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.grokking import polynomial_kernel as kernel
from theory.grokking import polynomial_regression as regression
from theory.grokking.polynomial_regression import Statistics

seeds = st.integers(0, 2**32 - 1)
alphas = st.floats(0.25, 8.0)
epsilons = st.floats(0.05, 1.5)
D, P, N = 4, 7, 6


def drawn(seed, width=N):
    rng = np.random.default_rng(seed)
    x, beta = rng.standard_normal((P, D)) / D**0.5, rng.standard_normal(D)
    return jnp.asarray(x), jnp.asarray(beta), jnp.asarray(rng.standard_normal((width, D)))


def network(weights, x, alpha, epsilon):
    h = x @ weights.T
    return alpha * jnp.mean(h + epsilon / 2 * h**2, axis=1)


@jax.jit
def descend(weights, x, beta, alpha, epsilon, learning_rate, centered):
    """50 steps of gradient descent on all weights."""
    y = (x @ beta) ** 2 / 2
    reference = centered * network(weights, x, alpha, epsilon)

    def loss(w):
        return jnp.mean((y - network(w, x, alpha, epsilon) + reference) ** 2)

    def one(w, _):
        gradient = jax.grad(loss)(w)
        return w - learning_rate * len(w) / alpha**2 * gradient, loss(w)

    return jax.lax.scan(one, weights, length=50)


@jax.jit
def recursion(start, x, beta, alpha, epsilon, learning_rate):
    return regression.train(
        start, x, beta, alpha=alpha, epsilon=epsilon, learning_rate=learning_rate, records=50
    )


@jax.jit
def centered_recursion(start, x, beta, alpha, epsilon, learning_rate):
    scales = {"alpha": alpha, "epsilon": epsilon, "learning_rate": learning_rate}
    return regression.train(start, x, beta, **scales, records=50, centered=True)


@given(seeds, alphas, epsilons, st.sampled_from([1, 6]), st.booleans())
def test_the_recursion_is_gradient_descent_of_a_network_of_any_width(
    seed, alpha, epsilon, width, centered
):
    x, beta, weights = drawn(seed, width)
    rate = 0.1 * min(1.0, alpha)
    scales = (alpha, epsilon, rate)
    run = (centered_recursion if centered else recursion)(
        regression.weight_statistics(weights), x, beta, *scales
    )
    end, losses = descend(weights, x, beta, *scales, float(centered))
    assert int(run.diverged_at) == -1
    np.testing.assert_allclose(run.train_loss, losses, rtol=1e-9, atol=1e-11 * float(losses[0]))
    expected = regression.weight_statistics(end)
    for ours, theirs in zip(run.statistics, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-11 * float(jnp.abs(theirs).max()))
    mean, second_moment = run.statistics
    values = np.linalg.eigvalsh(second_moment - jnp.outer(mean, mean))
    assert values[0] >= -1e-12 * float(jnp.trace(second_moment))


@given(seeds, alphas, epsilons)
def test_the_loss_decomposes_and_its_terms_add_up_to_a_quadrature(seed, alpha, epsilon):
    """Gauss-Hermite with 5 nodes is exact for the fourth powers that occur."""
    _, beta, weights = drawn(seed)
    beta, weights = beta[:3], weights[:, :3]
    nodes, mass = np.polynomial.hermite_e.hermegauss(5)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3) / 3**0.5
    masses = np.prod(np.stack(np.meshgrid(mass, mass, mass, indexing="ij"), -1).reshape(-1, 3), 1)
    errors = (grid @ beta) ** 2 / 2 - network(weights, grid, alpha, epsilon)
    exact = masses / masses.sum() @ errors**2
    statistics = regression.weight_statistics(weights)
    terms = regression.population_loss(statistics, beta, alpha=alpha, epsilon=epsilon)
    assert min(float(term) for term in terms) >= 0
    assert float(terms.total) == pytest.approx(float(exact), rel=1e-12)


@given(seeds, alphas, epsilons)
def test_rotating_inputs_and_teacher_rotates_the_statistics(seed, alpha, epsilon):
    x, beta, weights = drawn(seed)
    q = jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (D, D)))[0]
    first = recursion(regression.weight_statistics(weights), x, beta, alpha, epsilon, 0.05)
    turned = regression.weight_statistics(weights @ q.T)
    second = recursion(turned, x @ q.T, q @ beta, alpha, epsilon, 0.05)
    np.testing.assert_allclose(second.test_loss.total, first.test_loss.total, rtol=1e-9)
    expected = q @ first.statistics.second_moment @ q.T
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(second.statistics.second_moment, expected, atol=1e-10 * scale)


@given(seeds, alphas, epsilons)
def test_the_kernel_is_that_of_autodiff_and_positive(seed, alpha, epsilon):
    x, _, weights = drawn(seed)
    jacobian = jax.jacobian(network)(weights, x, alpha, epsilon).reshape(P, -1)
    expected = N / alpha**2 * jacobian @ jacobian.T
    found = kernel.tangent_kernel(regression.weight_statistics(weights), x, epsilon=epsilon)
    np.testing.assert_allclose(found, expected, atol=1e-12 * float(jnp.abs(expected).max()))
    assert np.linalg.eigvalsh(found)[0] >= -1e-12 * float(jnp.trace(found))


@given(epsilons)
def test_eigenvalues_of_the_initial_kernel_by_quadrature(epsilon):
    nodes, mass = np.polynomial.hermite_e.hermegauss(6)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2) / 2**0.5
    masses = np.outer(mass, mass).ravel() / mass.sum() ** 2
    matrix = kernel.tangent_kernel(regression.infinite_width(2), grid, epsilon=epsilon)
    found = kernel.initial_eigenvalues(2, epsilon)
    functions = (grid[:, 0], grid[:, 0] * grid[:, 1], (grid**2).sum(axis=1))
    for value, function in zip(found, functions, strict=True):
        np.testing.assert_allclose(
            np.asarray(matrix) @ (masses * function), float(value) * function, atol=1e-12
        )


def test_lazy_training_ends_at_the_kernel_interpolant_with_an_error_of_order_one_over_alpha():
    rng = np.random.default_rng(0)
    x, beta = rng.standard_normal((5, 3)) / 3**0.5, rng.standard_normal(3)
    limit = float(kernel.lazy_limit(x, beta, epsilon=0.8).total)

    def gap(alpha):
        run = regression.train(
            regression.infinite_width(3),
            x,
            beta,
            alpha=alpha,
            epsilon=0.8,
            learning_rate=0.5,
            records=2,
            record_every=20_000,
            centered=True,
        )
        assert float(run.train_loss[-1]) < 1e-12, run.train_loss
        return float(run.test_loss.total[-1]) / limit - 1

    gaps = np.array([gap(alpha) for alpha in (30.0, 300.0, 3000.0)])
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 10, rtol=0.2)


@given(seeds, alphas, epsilons)
def test_the_population_flow_is_minus_the_gradient_of_the_test_loss(seed, alpha, epsilon):
    """Of weights with mean zero and M = a, b along and across the teacher, by autodiff."""
    rng = np.random.default_rng(seed)
    beta = jnp.asarray(rng.standard_normal(D))
    square = float(beta @ beta)
    along = np.outer(beta, beta) / square
    a, b = rng.uniform(0.1, 2, 2)
    second_moment = a * along + b * (np.eye(D) - along)
    root = np.linalg.cholesky(second_moment) * D**0.5
    weights = jnp.asarray(np.concatenate([root.T, -root.T]))  # mean zero, M as wanted
    statistics = regression.weight_statistics(weights)
    np.testing.assert_allclose(statistics.second_moment, second_moment, atol=1e-12)

    def loss(w):
        scales = {"alpha": alpha, "epsilon": epsilon}
        return regression.population_loss(regression.weight_statistics(w), beta, **scales).total

    velocity = -len(weights) / alpha**2 * jax.grad(loss)(weights)
    change = (velocity.T @ weights + weights.T @ velocity) / len(weights)
    found = kernel.population_velocity(
        kernel.Overlaps(jnp.asarray(a), jnp.asarray(b)),
        n_in=D,
        alpha=alpha,
        epsilon=epsilon,
        beta_square=square,
    )
    expected = found.parallel * along + found.perpendicular * (np.eye(D) - along)
    np.testing.assert_allclose(change, expected, atol=1e-12 * float(jnp.abs(expected).max()))


def test_many_examples_follow_the_population_flow():
    """Deviation 1/sqrt(P) from sampling, halved by four times the examples."""
    rng = np.random.default_rng(0)
    beta, start = rng.standard_normal(D), regression.infinite_width(D)
    gaps = []
    for examples in (2_000, 32_000):
        x = rng.standard_normal((examples, D)) / D**0.5
        one = regression.train(
            start, x, beta, alpha=1.0, epsilon=0.5, learning_rate=0.01, records=1
        ).statistics
        velocity = kernel.population_velocity(
            kernel.Overlaps(1.0, 1.0),
            n_in=D,
            alpha=1.0,
            epsilon=0.5,
            beta_square=float(beta @ beta),
        )
        along = np.outer(beta, beta) / (beta @ beta)
        flow = velocity.parallel * along + velocity.perpendicular * (np.eye(D) - along)
        gaps.append(float(jnp.abs((one.second_moment - jnp.eye(D)) / 0.01 - flow).max()))
        assert gaps[-1] < 30 / examples**0.5
    assert gaps[1] < 0.6 * gaps[0]


def test_a_run_that_diverges_says_at_which_step():
    x, beta, weights = drawn(0)
    run = regression.train(
        regression.weight_statistics(weights),
        x,
        beta,
        alpha=1.0,
        epsilon=1.0,
        learning_rate=1e4,
        records=4,
        record_every=10,
    )
    assert 0 < int(run.diverged_at) <= 10
    assert not np.isfinite(run.train_loss[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"records": 0}, "records"),
        ({"x": np.zeros((0, D))}, "P > 0"),
        ({"beta": np.ones(D + 1)}, "P > 0"),
        ({"start": Statistics(jnp.zeros(2), jnp.eye(2))}, "P > 0"),
    ],
)
def test_bad_input_is_refused(changes, message):
    given = {"start": regression.infinite_width(D), "x": np.ones((3, D)), "beta": np.ones(D)}
    given |= {"alpha": 1.0, "epsilon": 0.5, "records": 1} | changes
    with pytest.raises(ValueError, match=message):
        regression.train(**given)
