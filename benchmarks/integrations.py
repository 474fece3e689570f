"""Exact solutions of deep linear networks, each with the error of one random problem.

The other route never uses the formula: DOP853 at a relative tolerance of 1e-13 on weights, adaptive
quadrature, automatic differentiation, or enumeration.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad, solve_ivp

from theory.deep_linear import (
    balanced_initialization,
    byol_modes,
    deep_modes,
    discrete,
    end_to_end,
    finite_sample,
    generalization,
    hessian,
    modes,
    pathways,
    riccati,
    saddles,
    semantic,
    sgd_moments,
    tangent_kernel,
)

Matrices = tuple[np.ndarray, ...]


def integrate(
    velocity: Callable[..., Matrices], start: Matrices, times: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Paths of several arrays at ``times`` (times, ...), from dense steps of order 8."""
    shapes = [np.shape(x) for x in start]
    splits = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def arrays(flat):
        return [x.reshape(shape) for x, shape in zip(np.split(flat, splits), shapes, strict=True)]

    def flat_velocity(t, flat):
        return np.concatenate([np.ravel(v) for v in velocity(*arrays(flat))])

    flat = np.concatenate([np.ravel(x) for x in start])
    found = solve_ivp(
        flat_velocity, (0, times[-1]), flat, "DOP853", times, rtol=1e-13, atol=1e-16
    ).y.T
    parts = np.split(found, splits, axis=1)
    return tuple(x.reshape(len(times), *s) for x, s in zip(parts, shapes, strict=True))


def distance(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def two_layers(sigma: np.ndarray, decay: float = 0.0) -> Callable[..., Matrices]:
    """Flow of (W1, W2) on white inputs."""

    def velocity(w1, w2):
        error = sigma - w2 @ w1
        return w2.T @ error - decay * w1, error @ w1.T - decay * w2

    return velocity


def unbalanced_modes(rng: np.random.Generator) -> float:
    """Scalars a, b of one mode, over random imbalances and signs."""
    times, worst = np.linspace(0, 4, 41), 0.0
    for _ in range(8):
        a, b = rng.uniform(-1, 1, 2)
        s = rng.uniform(0.5, 2)
        path = integrate(lambda a, b, s=s: (b * (s - a * b), a * (s - a * b)), (a, b), times)
        u = modes.two_layer_mode_strength(times, s, a * b, a**2 - b**2)
        worst = max(worst, distance(u, path[0] * path[1]))
    return worst


def mode_at_depth(rng: np.random.Generator) -> float:
    """Depths 3 and 5: L balanced scalar layers."""
    worst = 0.0
    for depth in (3, 5):
        s, u0 = rng.uniform(1, 2), 0.05
        times = np.linspace(0, 2 * float(deep_modes.half_learning_time(s, u0, depth)), 41)
        (w,) = integrate(
            lambda w, L=depth, s=s: (w ** (L - 1) * (s - w**L),), (u0 ** (1 / depth),), times
        )
        found = deep_modes.deep_mode_strength(times, s, u0, depth)
        worst = max(worst, distance(found, w**depth))
    return worst


def riccati_error(n_in: int, hidden: int, n_out: int, imbalance: float, decay: float = 0.0):
    """All Gram blocks of two layers of these widths."""

    def error(rng: np.random.Generator) -> float:
        key = jax.random.key(int(rng.integers(1 << 31)))
        sigma = rng.standard_normal((n_out, n_in))
        start = balanced_initialization.balanced_init(key, n_in, hidden, n_out, 0.3, imbalance)
        w1, w2 = map(np.asarray, start)
        times = np.linspace(0, 3, 31)
        paths = integrate(two_layers(sigma, decay), (w1, w2), times)
        q = np.concatenate([np.swapaxes(paths[0], 1, 2), paths[1]], axis=1)
        f = riccati.fukumizu_matrix(sigma, imbalance, decay)
        return distance(
            riccati.qqt(times, riccati.stack_weights(w1, w2), f), q @ np.swapaxes(q, 1, 2)
        )

    return error


def hidden_orthogonal(rng: np.random.Generator) -> float:
    """All modes of a start with orthogonal hidden vectors, unequal layers."""
    sigma, c1, c2 = rng.standard_normal((3, 4)), 0.4, 0.1
    w1, w2 = map(
        np.asarray,
        balanced_initialization.hidden_orthogonal_init(jax.random.key(1), 4, 9, 3, c1, c2),
    )
    times = np.linspace(0, 4, 31)
    first, second = integrate(two_layers(sigma), (w1, w2), times)
    u, s, vt = np.linalg.svd(sigma, full_matrices=False)
    strengths = modes.two_layer_mode_strength(times[:, None], s[None], 0.0, c1 + c2)
    return distance((u * np.asarray(strengths)[:, None, :]) @ vt, second @ first)


def end_to_end_map(rng: np.random.Generator) -> float:
    """Depth 3, a quartic loss: the map alone against its layers."""
    rotations = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(4)]
    layers = [rotations[l + 1] * np.array([1.0, 0.8, 0.5]) @ rotations[l].T for l in range(3)]
    target, times = rng.standard_normal((3, 3)), np.linspace(0, 1, 11)

    def gradient(w):
        return (w - target) ** 3 + (w - target)

    def of_layers(a, b, c):
        g = gradient(c @ b @ a)
        return -b.T @ c.T @ g, -c.T @ g @ a.T, -g @ a.T @ b.T

    def of_map(w):
        return (np.asarray(end_to_end.end_to_end_velocity(w, gradient(w), 3)),)

    a, b, c = integrate(of_layers, tuple(layers), times)
    (w,) = integrate(of_map, (layers[2] @ layers[1] @ layers[0],), times)
    return distance(w, c @ b @ a)


def kernel(rng: np.random.Generator) -> float:
    """Kernel of two layers by automatic differentiation."""
    w1, w2, x = (rng.standard_normal(shape) for shape in ((4, 3), (2, 4), (3, 5)))
    jacobians = jax.jacobian(lambda a, b: (b @ a @ x).reshape(-1), argnums=(0, 1))(w1, w2)
    flat = np.concatenate([np.asarray(j).reshape(10, -1) for j in jacobians], axis=1)
    return distance(tangent_kernel.ntk_two_layer(w1.T @ w1, w2 @ w2.T, x), flat @ flat.T)


def laziness(rng: np.random.Generator) -> float:
    """Final kernel alignment from weights of rank 3 of 6, one output."""
    rank, n, sq_norm = 3, 6, 2.0
    v = np.linalg.qr(rng.standard_normal((n, rank)))[0]
    w, beta = np.sqrt(sq_norm / rank) * v.T, rng.standard_normal(n)
    first, second = integrate(two_layers(beta[None]), (w, np.zeros((1, rank))), np.array([0, 40.0]))
    start, end = w.T @ w, first[-1].T @ first[-1] + np.sum(second[-1] ** 2) * np.eye(n)
    expected = np.sum(start * end) / np.linalg.norm(start) / np.linalg.norm(end)
    share = np.sum((v.T @ beta) ** 2) / (beta @ beta)
    found = tangent_kernel.low_rank_laziness(rank, n, sq_norm, beta @ beta, share)
    return distance(found["kernel_alignment"], expected)


def finite_data(rng: np.random.Generator) -> float:
    """Weights of linear regression on 5 examples of 8 inputs."""
    x, y, w0 = rng.standard_normal((5, 8)), rng.standard_normal(5), rng.standard_normal(8)
    times = np.linspace(0, 5, 21)
    (path,) = integrate(lambda w: (x.T @ (y - x @ w),), (w0,), times)
    return distance(finite_sample.finite_sample_path(times, x, y, w0), path)


def average_error(rng: np.random.Generator) -> float:
    """Marchenko-Pastur averages by adaptive quadrature, alpha below, at and above 1."""
    worst = 0.0
    for alpha in (0.5, 1.0, 2.0):
        low, high = (np.sqrt(alpha) - 1) ** 2, (np.sqrt(alpha) + 1) ** 2
        t, signal, init, noise = rng.uniform(0.5, 20), 1.0, 0.3, 0.5

        def integrand(angle, low=low, high=high, t=t, signal=signal, init=init, noise=noise):
            lam = low + (high - low) * np.sin(angle) ** 2
            width = (high - low) ** 2 * (np.sin(angle) * np.cos(angle)) ** 2 / (np.pi * lam)
            fitted = -np.expm1(-lam * t)
            return width * ((signal + init) * (1 - fitted) ** 2 + noise / lam * fitted**2)

        total = quad(integrand, 0, np.pi / 2, epsabs=0, epsrel=1e-13, limit=400)[0]
        expected = total + max(1 - alpha, 0) * (signal + init) + noise
        found = generalization.generalization_error(t, alpha, signal, init, noise)
        worst = max(worst, distance(found, expected))
    return worst


def critical_period(rng: np.random.Generator) -> float:
    """Share of the pathway that learned on, depths 2 to 4: two pathways of scalar layers."""
    worst = 0.0
    for depth in (2, 3, 4):
        s, k0, onset, duration = 2.0, 0.05, rng.uniform(0.1, 1), rng.uniform(0.2, 1)

        def race(a, b, gate=1.0, L=depth, s=s):
            error = s - a**L - b**L
            return a ** (L - 1) * error, gate * b ** (L - 1) * error

        a = b = k0 ** (1 / depth)
        for gate, length in ((1.0, onset), (0.0, duration), (1.0, 30.0)):
            paths = integrate(lambda a, b, g=gate: race(a, b, g), (a, b), np.array([0.0, length]))
            a, b = paths[0][-1], paths[1][-1]
        found = pathways.critical_period_curve(onset, duration, s, k0, depth)
        worst = max(worst, distance(found, a**depth / (a**depth + b**depth)))
    return worst


def self_supervised(rng: np.random.Generator) -> float:
    """Time in which a mode of linear BYOL grows, from its scalar weights."""
    decay, variance, p0 = 0.05, 0.3, 0.4

    def velocity(p, w):  # one feature: Wp = p, W = w, white input, target = online
        gradient = -p * w * (1 + variance) + w
        return gradient * w - decay * p, p * gradient - decay * w

    times = np.linspace(0, 6, 13)[1:]
    p, _ = integrate(velocity, (np.array(p0), np.array(p0)), np.concatenate([[0.0], times]))
    return distance(byol_modes.byol_basin_time(p[1:], p0, decay, variance), times)


def hessian_spectrum(rng: np.random.Generator) -> float:
    """All eigenvalues away from a minimum, by automatic differentiation of 48 weights."""
    s, a, b = (rng.uniform(0.2, 2, 4) for _ in range(3))

    def loss(flat):
        w1, w2 = flat[:24].reshape(6, 4), flat[24:].reshape(4, 6)
        return 0.5 * jnp.sum((jnp.diag(s) - w2 @ w1) ** 2)

    w1, w2 = np.zeros((6, 4)), np.zeros((4, 6))
    w1[:4], w2[:, :4] = np.diag(a), np.diag(b)
    expected = np.linalg.eigvalsh(jax.hessian(loss)(jnp.concatenate([w1.ravel(), w2.ravel()])))
    found = hessian.two_layer_hessian_spectrum(s, a, b, extra_hidden=2)
    return distance(np.sort(np.asarray(found).ravel()), expected)


def plateau(rng: np.random.Generator) -> float:
    """Weights on the first plateau: the flow of weights 1e-8, until they have grown by e^6."""
    w1, w2 = 1e-8 * rng.standard_normal((4, 3)), 1e-8 * rng.standard_normal((2, 4))
    sigma = rng.standard_normal((2, 3))
    times = np.array([0.0, 6 / np.linalg.svd(sigma, compute_uv=False)[0]])
    scaled = integrate(
        lambda a, b: tuple(1e8 * x for x in two_layers(sigma)(1e-8 * a, 1e-8 * b)),
        (1e8 * w1, 1e8 * w2),
        times,
    )
    found = saddles.plateau_weights(times[-1], w1, w2, sigma)
    return max(distance(1e8 * f, x[-1]) for f, x in zip(found, scaled, strict=True))


def balance_of_descent(rng: np.random.Generator) -> float:
    """Drift of the balance in one step, taken."""
    w1, w2, sigma = (rng.standard_normal(shape) for shape in ((4, 3), (2, 4), (2, 3)))
    error, rate = sigma - w2 @ w1, 0.1
    new1, new2 = w1 + rate * w2.T @ error, w2 + rate * error @ w1.T
    change = (new2.T @ new2 - new1 @ new1.T) - (w2.T @ w2 - w1 @ w1.T)
    return distance(discrete.balance_drift(w1, w2, error, rate), change)


def online_descent(rng: np.random.Generator) -> float:
    """Edge of one-sample SGD on Gaussian inputs: spectral radius of its moment matrix there."""
    spectrum = rng.uniform(0.2, 2, 6)
    edge = float(sgd_moments.sgd_mean_square_edge(spectrum, batch=1))
    step = np.diag((1 - edge * spectrum) ** 2 + edge**2 * spectrum**2)
    step = step + edge**2 * np.outer(spectrum, spectrum)  # Isserlis' theorem
    return abs(float(np.abs(np.linalg.eigvals(step)).max()) - 1)


def tree(rng: np.random.Generator) -> float:
    """Eigenvalues of the covariance that flips along the branches give, leaf by leaf."""
    branching, depth, flip, features = 3, 3, rng.uniform(0.05, 0.45), 50
    leaves = np.arange(branching**depth)
    shared = sum(leaves[:, None] // branching**k != leaves // branching**k for k in range(depth))
    expected = np.sqrt(features * np.linalg.eigvalsh((1 - 2 * flip) ** (2.0 * shared)))
    spectrum = semantic.tree_singular_values(branching, depth, flip, features)
    found = np.repeat(spectrum[0], np.asarray(spectrum[1]))
    return distance(np.sort(np.asarray(found)), np.sort(expected))
