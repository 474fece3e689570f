"""Rotated modes against the end-to-end flow; when a network counts as trained."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from sims.deep_linear.deep_networks import lasting_steps
from sims.deep_linear.saxe2014_depth import Config, rotated_steps
from theory.deep_linear.end_to_end import end_to_end_velocity
from theory.deep_linear.modes import steps_to_learn


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
def test_without_rotation_pairs_are_single_modes(depth):
    found = rotated_steps(0.01, 0.9, depth, 0.0)
    np.testing.assert_allclose(found, steps_to_learn(0.01, 0.9, depth), rtol=1e-9)


@pytest.mark.parametrize("angle", [0.7, 2.5])
def test_rotated_pairs_follow_the_flow_of_the_product(angle):
    """The matrix flow of any balanced network, here from w0 times a rotation, s = 1."""
    start, target, depth = 0.05, 0.8, 3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def velocity(_, w):
        w = w.reshape(2, 2)
        return np.asarray(end_to_end_velocity(w, w - np.eye(2), depth)).ravel() / depth

    def learned(_, w):
        return np.linalg.norm(w.reshape(2, 2) - np.eye(2)) / np.sqrt(2) - (1 - target)

    learned.terminal = True
    path = solve_ivp(
        velocity, (0, 200), start * turn.ravel(), events=learned, rtol=1e-9, atol=1e-11
    )
    steps = rotated_steps(start, target, depth, angle)
    np.testing.assert_allclose(path.t_events[0], [steps], rtol=1e-6)


def test_trained_means_for_good():
    errors = np.array(
        [
            [3.0, 0.5, 2.0, 0.5, 0.1],  # crosses twice
            [3.0, 2.0, 0.5, 9.0, np.nan],  # diverges
            [3.0, 2.0, 1.5, 1.2, 1.1],  # too slow
            [0.5, 0.5, 0.5, 0.5, 0.5],  # from the start
        ]
    )
    np.testing.assert_array_equal(lasting_steps(errors, 1.0), [3, np.inf, np.inf, 0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depths": (4, 2, 8)}, "depths"),
        ({"n_out": 3}, "n_out"),
        ({"n_out": 10}, "n_out"),
        ({"start": 0.95}, "start"),
        ({"seeds": 1}, "seeds"),
        ({"steps": 100}, "steps must be at least"),
    ],
)
def test_impossible_configs_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        Config(**changes)
