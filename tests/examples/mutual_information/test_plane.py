"""The spiral and the 25 Gaussians: the data, and how coverage is counted."""

import math

import numpy as np
import pytest
import torch

from examples.mutual_information import plane


def test_arcs_of_the_spiral_have_equal_lengths_and_turn_twice_out_to_five_thirds():
    points = plane.arcs(1000).double()
    step = (points[1:] - points[:-1]).norm(dim=1)
    assert step.max() / step.min() < 1.01
    radius, turned = points.norm(dim=1), -np.unwrap(torch.atan2(points[:, 1], points[:, 0]).numpy()) / (2 * math.pi)
    assert turned[-1] - turned[0] == pytest.approx(2, abs=0.01)
    assert [float(radius[0]), float(radius[-1])] == pytest.approx([1 / 3, 5 / 3], abs=0.01)
    np.testing.assert_allclose(radius[:-1] - radius[1:], 2 / 3 * (turned[:-1] - turned[1:]), atol=1e-5)


@pytest.mark.parametrize(("dataset", "least"), [("spiral", 0.85), ("25 Gaussians", 1)])
def test_the_data_find_all_of_their_own_modes(dataset, least):
    data = plane.samples_of(dataset, 10_000, torch.Generator().manual_seed(0)).numpy()
    nearest, near = plane.occupancy(dataset, data)
    assert nearest.sum() == 10_000 and near.sum() >= least * 10_000 and plane.found(near, 10_000) == 1
    if dataset == "25 Gaussians":
        assert plane.kl_from_uniform(nearest) < 0.01


def test_modes_are_a_grid_of_25_with_that_spacing():
    modes = plane.modes()
    distance = torch.cdist(modes, modes)
    assert modes.shape == (25, 2) and (distance == plane.SPACING).sum() == 2 * 40 and not modes.mean(0).any()


def test_a_sample_far_from_its_nearest_mode_occupies_it_but_does_not_find_it():
    samples = np.array([[4.0, 4.4], [4.0, 4.6], [-4.0, -4.0]], dtype=np.float32)
    nearest, near = plane.occupancy("25 Gaussians", samples)
    assert (nearest[24], nearest[0], nearest.sum()) == (2, 1, 3) and (near[24], near[0]) == (1, 1)


def test_arcs_count_from_the_inside_out():
    ends = plane.arcs(plane.NUM_ARCS)[[0, -1]].numpy()
    assert [plane.occupancy("spiral", end[None])[1].argmax() for end in ends] == [0, plane.NUM_ARCS - 1]


def test_found_is_the_fraction_with_enough_samples():
    assert plane.found(np.array([19, 20, 21, 0]), 10_000) == 0.5
    assert plane.found(np.array([1, 0]), 500) == 0.5


def test_kl_of_one_occupied_mode_of_25_is_log_25():
    assert plane.kl_from_uniform(np.eye(25)[3]) == pytest.approx(math.log(25))
    assert plane.kl_from_uniform(np.array([1, 3])) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_density_of_one_sample_is_its_kernel():
    line = np.linspace(-1, 1, 201)
    density = plane.density(np.array([[0.2, -0.3]]), line, line, 0.1)
    assert np.unravel_index(density.argmax(), density.shape) == (70, 120)  # rows are y
    assert density.max() == pytest.approx(1 / (2 * math.pi * 0.01))
    assert density.sum() * 0.01**2 == pytest.approx(1, abs=1e-3)
