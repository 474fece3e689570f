"""Thresholds and growth of SGD's second moment against all batches enumerated, weight by weight."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.linearized_sgd import mean_square_growth
from theory.stability.bounds import (
    gaussian_population_threshold,
    nonuniformity,
    stability_bounds,
)
from theory.stability.gram import mixing_weight
from theory.stability.mean_square import (
    growth_rate,
    mean_square_threshold,
    mean_threshold,
    second_moment_step,
)

SHAPES = ((4, 1, 3), (3, 1, 6), (6, 1, 2), (3, 2, 4))  # samples, outputs, parameters
RTOL = 1e-9


@st.composite
def jacobians(draw, shapes=SHAPES):
    """J (n, c, d): generic, with samples of very unequal norms, equal, orthogonal or repeated."""
    n, c, d = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["generic", "unequal", "equal", "orthogonal", "repeated"]))
    found = rng.standard_normal((n, c, d))
    if kind == "unequal":
        found *= 10.0 ** rng.uniform(-2, 1, (n, 1, 1))
    elif kind == "equal":
        found[:] = found[:1]
    elif kind == "orthogonal":
        found = np.eye(max(n * c, d))[: n * c, :].reshape(n, c, -1) * rng.uniform(0.5, 2, (n, 1, 1))
    elif kind == "repeated":
        found[n // 2 :] = found[: n - n // 2]
    return found


def gram_of(jacobian):
    gram = np.einsum("ica,jda->icjd", jacobian, jacobian)
    return gram[:, 0, :, 0] if jacobian.shape[1] == 1 else gram


def curvatures(jacobian):
    """H_i on the range of H, where everything happens."""
    each = np.einsum("ica,icb->iab", jacobian, jacobian)
    values, vectors = np.linalg.eigh(each.mean(axis=0))
    kept = vectors[:, values > 1e-10 * values[-1]]
    return np.einsum("ar,iab,bs->irs", kept, each, kept)


def batches(n, size, replacement):
    every = itertools.product if replacement else itertools.combinations
    chosen = every(range(n), repeat=size) if replacement else every(range(n), size)
    return np.array(list(chosen))


def enumerated_growth(each, eta, size, replacement, momentum=0.0):
    """Spectral radius of E[A (x) A], the step (delta, delta_prev) -> A (delta, delta_prev)."""
    eye = np.eye(each.shape[-1])
    steps = (1 + momentum) * eye - eta * each[batches(len(each), size, replacement)].mean(axis=1)
    if momentum:
        past = np.broadcast_to(-momentum * eye, steps.shape)
        now = np.broadcast_to(eye, steps.shape)
        steps = np.block([[steps, past], [now, 0 * now]])
    return np.abs(np.linalg.eigvals(mean_square(steps))).max()


def mean_square(steps):
    """Average of A (x) A."""
    size = steps.shape[-1] ** 2
    return np.einsum("bij,bkl->ikjl", steps, steps, optimize=True).reshape(size, size) / len(steps)


def require_exact_threshold(jacobian, size, replacement, momentum):
    """The enumerated operator reaches radius one within 1e-9 of the learning rate found.

    Where two eigenvalues nearly meet, as they may with momentum, an eigenvalue keeps half of the
    digits but is that much steeper in the learning rate: hence the slope.
    """
    found = mean_square_threshold(gram_of(jacobian), size, momentum, replacement)
    assert found.converged
    each, eta = curvatures(jacobian), float(found.learning_rate)

    def radius(factor):
        return enumerated_growth(each, factor * eta, size, replacement, momentum)

    slope = (radius(1 + 1e-4) - radius(1 - 1e-4)) / 2e-4
    assert abs(radius(1) - 1) <= RTOL * max(1, slope)
    assert all(radius(factor) < 1 for factor in (0.3, 0.99))
    assert radius(1.01) > 1


@given(jacobian=jacobians(), data=st.data())
def test_threshold_is_where_the_enumerated_operator_has_radius_one(jacobian, data):
    n, replacement = len(jacobian), data.draw(st.booleans())
    size = data.draw(st.integers(1, 3 if replacement else n))
    momentum = data.draw(st.sampled_from([0.0, 0.0, 0.5, 0.9]))
    require_exact_threshold(jacobian, size, replacement, momentum)


@pytest.mark.slow
@pytest.mark.parametrize("n", range(2, 7))
@pytest.mark.parametrize("outputs", [1, 2])
def test_every_small_problem(n, outputs):
    """All d <= 6, all batch sizes, both samplings, with and without momentum."""
    for d in range(1, 7):
        jacobian = np.random.default_rng(100 * n + d).standard_normal((n, outputs, d))
        for size, momentum in itertools.product(range(1, n + 1), (0.0, 0.3, 0.9)):
            require_exact_threshold(jacobian, size, False, momentum)
            if n**size <= 300:
                require_exact_threshold(jacobian, size, True, momentum)


@pytest.mark.parametrize(("size", "momentum"), [(1, 0.0), (2, 0.5)])
def test_simulated_second_moments_grow_at_this_rate(size, momentum):
    """Chains of linearised SGD, which know no moments; resampling leaves a bias of O(1/chains)."""
    jacobian = np.random.default_rng(5).standard_normal((6, 1, 4))
    gram, chains = gram_of(jacobian), 1000
    edge = float(mean_square_threshold(gram, size, momentum).learning_rate)
    etas = edge * np.array([0.6, 1.0, 1.4])
    options = {"batch_size": size, "steps": 160, "chains": chains, "momentum": momentum}
    simulate = jax.jit(jax.vmap(partial(mean_square_growth, **options), (None, None)))
    found = simulate(jax.random.key(0), jnp.asarray(gram), learning_rate=jnp.asarray(etas))
    rates = np.array([growth_rate(gram, eta, size, momentum).rate for eta in etas])
    error = np.asarray(found.standard_error)
    assert np.all(np.abs(found.value - rates) <= 4 * error + 2 / chains)
    assert error.max() < 0.01


@given(jacobian=jacobians(), data=st.data(), factor=st.sampled_from([0.1, 0.7, 1.0, 1.3, 4.0]))
def test_growth_rate_is_the_enumerated_spectral_radius(jacobian, data, factor):
    n, gram, replacement = len(jacobian), gram_of(jacobian), data.draw(st.booleans())
    size = data.draw(st.integers(1, 3 if replacement else n))
    momentum = data.draw(st.sampled_from([0.0, 0.0, 0.5, 0.9]))
    eta = factor * float(mean_square_threshold(gram, size, momentum, replacement).learning_rate)
    found = growth_rate(gram, eta, size, momentum, replacement)
    radius = enumerated_growth(curvatures(jacobian), eta, size, replacement, momentum)
    assert found.converged
    # With momentum eigenvalues may meet, where eigvals itself keeps half of the digits only.
    assert float(found.rate) == pytest.approx(radius, rel=1e-7 if momentum else RTOL, abs=1e-12)
    share = np.asarray(found.share)
    assert share.min() > -1e-9
    assert share.sum() == pytest.approx(1)


@given(jacobian=jacobians(((4, 1, 3),)), size=st.integers(1, 4))
def test_share_is_that_of_the_leading_eigenmatrix(jacobian, size):
    """Where the leading mode is unique, as in generic problems, by enumeration."""
    each, gram = curvatures(jacobian), gram_of(jacobian)
    eta = 1.2 * float(mean_square_threshold(gram, size).learning_rate)
    steps = np.eye(each.shape[-1]) - eta * each[batches(4, size, False)].mean(axis=1)
    values, vectors = np.linalg.eigh(mean_square(steps))
    if len(values) > 1 and np.sum(values > values[-1] * (1 - 1e-3)) > 1:
        return
    sigma = vectors[:, -1].reshape(each.shape[1:])
    power = np.abs(np.einsum("iab,ab->i", each, sigma))
    found = growth_rate(gram, eta, size).share
    np.testing.assert_allclose(found, power / power.sum(), atol=1e-6)


@given(jacobian=jacobians(), data=st.data())
def test_second_moment_step_is_the_average_over_batches(jacobian, data):
    n, c, d = jacobian.shape
    replacement = data.draw(st.booleans())
    size = data.draw(st.integers(1, 3 if replacement else n))
    root = np.random.default_rng(0).standard_normal((d, d))
    each = np.einsum("ica,icb->iab", jacobian, jacobian)
    eta = 0.7 / np.trace(each.mean(axis=0))
    steps = (np.eye(d) - eta * each[batches(n, size, replacement)].mean(axis=1)) @ root
    moved = np.einsum("bij,bkj->ik", steps, steps) / len(steps)

    def seen(sigma):
        whole = np.einsum("ica,ab,jdb->icjd", jacobian, sigma, jacobian)
        return whole[:, 0, :, 0] if c == 1 else whole

    p = mixing_weight(n, size, replacement)
    found = second_moment_step(seen(root @ root.T), gram_of(jacobian), eta, p)
    scale = np.abs(seen(root @ root.T)).max()
    np.testing.assert_allclose(found, seen(moved), atol=1e-11 * scale)
    flat = np.asarray(found).reshape(n * c, n * c)
    assert np.linalg.eigvalsh((flat + flat.T) / 2)[0] > -1e-10 * scale


@given(jacobian=jacobians(), replacement=st.booleans())
def test_thresholds_rise_with_the_batch_and_stay_below_every_bound(jacobian, replacement):
    n, gram = len(jacobian), gram_of(jacobian)
    rates = []
    for size in range(1, n + 1):
        rate = float(mean_square_threshold(gram, size, replacement=replacement).learning_rate)
        bounds = stability_bounds(gram, size, replacement)
        assert all(rate <= float(bound) * (1 + RTOL) for bound in bounds), bounds
        without = float(mean_square_threshold(gram, size).learning_rate)
        assert rate <= without * (1 + RTOL)
        rates.append(rate)
    assert np.all(np.diff(rates) >= -RTOL * rates[0])
    if not replacement:
        assert rates[-1] == pytest.approx(float(mean_threshold(gram)), rel=RTOL)
    heavy = mean_square_threshold(gram, n, 0.9).learning_rate
    assert float(heavy) == pytest.approx(1.9 * float(mean_threshold(gram)), rel=RTOL)


@given(jacobian=jacobians(), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_scaling_permutation_rotation_and_repetition(jacobian, scale, seed):
    rng, (n, _, d) = np.random.default_rng(seed), jacobian.shape
    reference = float(mean_square_threshold(gram_of(jacobian), 1).learning_rate)

    def rate(jacobian, size=1, replacement=False):
        found = mean_square_threshold(gram_of(jacobian), size, replacement=replacement)
        return pytest.approx(float(found.learning_rate), rel=RTOL)

    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    assert reference == rate(jacobian[rng.permutation(n)] @ turn)
    assert reference / scale == rate(np.sqrt(scale) * jacobian)
    twice = np.concatenate([jacobian, jacobian])
    assert reference == rate(twice)
    assert rate(twice, 2, True) == float(
        mean_square_threshold(gram_of(jacobian), 2, replacement=True).learning_rate
    )


@pytest.mark.parametrize("momentum", [1e-3, 1e-6])
def test_momentum_is_continuous_at_zero(momentum):
    gram = gram_of(np.random.default_rng(1).standard_normal((4, 1, 3)))
    plain = float(mean_square_threshold(gram, 2).learning_rate)
    heavy = float(mean_square_threshold(gram, 2, momentum).learning_rate)
    assert abs(heavy / plain - 1) < 10 * momentum


def test_cases_known_in_closed_form():
    norms = np.array([1.0, 2.0, 0.5])
    for size in (1, 2):  # orthogonal: 2 B / max |g|^2
        rate = mean_square_threshold(np.diag(norms**2), size).learning_rate
        assert float(rate) == pytest.approx(2 * size / 4, rel=RTOL)
    assert float(mean_square_threshold(np.full((5, 5), 3.0), 2).learning_rate) == pytest.approx(
        2 / 3
    )
    h = np.array([1.0, 3.0, 0.5])  # one weight: 2 mean(h) / mean(h^2)
    rate = mean_square_threshold(np.sqrt(np.outer(h, h)), 1).learning_rate
    assert float(rate) == pytest.approx(2 * h.mean() / (h**2).mean(), rel=RTOL)
    eye = np.einsum("ij,cd->icjd", np.ones((3, 3)), np.eye(4))  # H_i = I: the trace needs its c
    assert float(mean_square_threshold(eye, 1).learning_rate) == pytest.approx(2, rel=RTOL)
    assert float(stability_bounds(eye, 1).trace) == pytest.approx(2)


@given(jacobian=jacobians(), size=st.integers(1, 2), factor=st.floats(0.05, 1.5))
def test_one_step_growth_is_bounded_by_nonuniformity(jacobian, size, factor):
    """lmax of (1 - eta H)^2 + p eta^2 S bounds it; that of S is ``nonuniformity`` squared."""
    each, gram = curvatures(jacobian), gram_of(jacobian)
    mean = each.mean(axis=0)
    spread = (each @ each).mean(axis=0) - mean @ mean
    direct = np.sqrt(max(np.linalg.eigvalsh(spread)[-1], 0))
    scale = np.linalg.eigvalsh((each @ each).mean(axis=0))[-1]
    # A difference of squares: rounding of the squares, and its root.
    assert float(nonuniformity(gram)) == pytest.approx(direct, rel=1e-6, abs=1e-7 * np.sqrt(scale))
    eta = factor * float(mean_square_threshold(gram, size).learning_rate)
    p, eye = mixing_weight(len(each), size), np.eye(len(mean))
    step = (eye - eta * mean) @ (eye - eta * mean) + p * eta**2 * spread
    largest = np.linalg.eigvalsh(step)[-1]
    assert float(growth_rate(gram, eta, size).rate) <= largest * (1 + 1e-9) + 1e-12


@given(d=st.sampled_from([1, 6]), size=st.integers(1, 5), scale=st.floats(1e-3, 1e3))
def test_population_threshold_of_isotropic_inputs(d, size, scale):
    found = gaussian_population_threshold(scale * np.ones(d), size)
    assert float(found) == pytest.approx(2 * size / (d + size + 1) / scale, rel=1e-12)


def test_population_threshold_is_the_limit_of_many_samples():
    """The Gram's threshold at n samples differs by O(1/sqrt n): fluctuations of fourth moments."""
    s = np.array([1.0, 0.5, 0.25])
    x = np.random.default_rng(0).standard_normal((400, 3)) * np.sqrt(s)
    exact = float(gaussian_population_threshold(s, 2))
    found = float(mean_square_threshold(x @ x.T, 2, replacement=True).learning_rate)
    assert found == pytest.approx(exact, rel=4 / np.sqrt(400))


def test_thresholds_map_over_checkpoints_and_compile():
    grams = jnp.stack([jnp.diag(jnp.array([1.0, 2.0, k])) for k in (3.0, 4.0)])
    rates = jax.jit(jax.vmap(lambda gram: mean_square_threshold(gram, 1).learning_rate))(grams)
    np.testing.assert_allclose(rates, [2 / 3, 1 / 2], rtol=RTOL)


def test_bad_input_is_named():
    good = np.eye(3)
    for gram, message in (
        (np.eye(3, dtype=np.float32), "float64"),
        (np.ones((2, 3)), "n >= 2"),
        (np.ones((1, 1)), "n >= 2"),
        (np.full((2, 2), np.nan), "finite"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (np.zeros((2, 2)), "nonzero"),
        (np.diag([1.0, -1.0]), "semidefinite"),
    ):
        with pytest.raises(ValueError, match=message):
            mean_square_threshold(gram, 1)
    for size in (0, 4, 1.5):
        with pytest.raises(ValueError, match="batch_size"):
            mean_square_threshold(good, size)
    with pytest.raises(ValueError, match="momentum"):
        mean_square_threshold(good, 1, 1.0)
    for eta in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="learning_rate"):
            growth_rate(good, eta, 1)
    with pytest.raises(ValueError, match="moment"):
        second_moment_step(np.eye(2), good, 0.1, 1.0)
    with pytest.raises(ValueError, match="covariance_eigenvalues"):
        gaussian_population_threshold(np.array([1.0, -1.0]), 1)
