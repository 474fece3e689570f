"""Gradient by autodiff; divergences against the quadratic form stepped forward, and its mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels import distillation
from theory.kernels.kernel_modes import descent_filter, kernel_modes

seeds = st.integers(0, 2**32 - 1)
N, C = 3, 2


@jax.jit
@jax.grad
def gradient(student, teacher, t_s, t_t):
    return -jnp.sum(jax.nn.softmax(teacher / t_t) * jax.nn.log_softmax(student / t_s))


@given(seeds, st.floats(0.2, 5), st.floats(0.2, 5))
def test_gradient_is_that_of_the_cross_entropy(seed, t_s, t_t):
    student, teacher = np.random.default_rng(seed).standard_normal((2, 4))
    found = distillation.logit_gradient(
        student, teacher, student_temperature=t_s, teacher_temperature=t_t
    )
    np.testing.assert_allclose(found, gradient(student, teacher, t_s, t_t), atol=1e-12)
    equal = distillation.logit_gradient(
        t_s * teacher, t_t * teacher, student_temperature=t_s, teacher_temperature=t_t
    )
    np.testing.assert_allclose(equal, 0, atol=1e-12)


def problem(seed):
    """A kernel (n, c, n, c), its rate, and its square root."""
    root = np.random.default_rng(seed).standard_normal((N * C, 8))
    kernel = root @ root.T
    return kernel.reshape(N, C, N, C), N / np.linalg.eigvalsh(kernel)[-1], root


@given(seeds, st.integers(0, 6))
def test_decay_is_descent_on_the_quadratic_form(seed, steps):
    kernel, rate, _ = problem(seed)
    start = np.random.default_rng(seed + 1).standard_normal(N * C)
    modes = kernel_modes(kernel, loss="mean")
    found = distillation.divergence_decay(
        modes, descent_filter(modes, rate, steps), start.reshape(N, C)
    )
    distance = start
    for _ in range(steps):
        distance = distance - rate / N * kernel.reshape(N * C, -1) @ distance
    np.testing.assert_allclose(found, distance @ distance / (2 * N), rtol=1e-9)


def test_expectation_is_the_mean_over_gaussian_distances():
    kernel, rate, root = problem(0)
    modes = kernel_modes(kernel, loss="mean")
    learning = descent_filter(modes, rate, np.array([0, 1, 5]))
    distances = 0.1 * np.random.default_rng(1).standard_normal((2000, 8)) @ root.T
    each = jax.vmap(lambda d: distillation.divergence_decay(modes, learning, d))(
        distances.reshape(-1, N, C)
    )
    error = np.std(each, axis=0) / np.sqrt(len(each))
    expected = distillation.expected_divergence(modes, learning, 0.1)
    assert np.all(np.abs(np.mean(each, axis=0) - expected) < 4 * error)


def test_small_distances_give_the_divergence_itself():
    teacher, direction = np.random.default_rng(2).standard_normal((2, 1, 4))
    p = jax.nn.softmax(teacher[0])
    root = jnp.diag(jnp.sqrt(p)) - jnp.sqrt(p)[:, None] * p[None, :]
    errors = []
    for size in (1e-2, 5e-3):
        q = jax.nn.log_softmax(teacher[0] + size * direction[0])
        exact = jnp.sum(p * (jnp.log(p) - q))
        errors.append(exact / (jnp.sum((root @ (size * direction[0])) ** 2) / 2) - 1)
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.05)  # relative error of first order


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (
            lambda m, g: distillation.logit_gradient(
                jnp.ones(2), jnp.ones(2), student_temperature=0
            ),
            "student_temp",
        ),
        (lambda m, g: distillation.divergence_decay(m, g, jnp.ones((2, 2))), "distance"),
        (lambda m, g: distillation.divergence_decay(m, g, jnp.full((N, C), jnp.nan)), "distance"),
        (lambda m, g: distillation.expected_divergence(m, g, 1.5), "locality"),
    ],
)
def test_bad_arguments_are_named(call, name):
    modes = kernel_modes(problem(0)[0], loss="mean")
    with pytest.raises(ValueError, match=name):
        call(modes, descent_filter(modes, 0.01, 1))
