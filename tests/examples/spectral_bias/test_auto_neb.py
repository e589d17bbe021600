"""AutoNEB on energies whose lowest paths are known."""

import pytest
import torch

from examples.spectral_bias.auto_neb import auto_neb, extra_length, points_along, straight

START, END = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])


def hill(points):
    """A round hill just above the straight line from START to END."""
    return 2 * torch.exp(-4 * (points[..., 0] ** 2 + (points[..., 1] - 0.1) ** 2))


def relaxed(energy, cycles=4, steps=40, **options):
    settings = {"learning_rate": 0.02, "momentum": 0.9, **options}
    return auto_neb(straight(START, END, 5), energy, cycles=cycles, steps=steps, **settings)


def test_path_goes_around_a_hill_on_its_lower_side():
    line, path = straight(START, END, 5), relaxed(hill)
    before, after = (float(hill(points_along(paths, 50)).max()) for paths in (line, path))
    assert after < before / 3 and float(path[0, :, 1].min()) < -0.5
    assert float(extra_length(path)) > 0.2


def test_path_stays_straight_where_there_is_no_hill():
    path = relaxed(lambda points: points[..., 0] ** 2)
    assert float(extra_length(path)) == pytest.approx(0, abs=1e-6)


def test_path_that_climbs_makes_the_energy_worse():
    climbing = relaxed(lambda points: -hill(points))
    line = straight(START, END, 5)
    assert float(hill(points_along(climbing, 50)).max()) >= float(hill(points_along(line, 50)).max())


def test_ends_do_not_move_and_pivots_are_added_after_every_cycle_but_the_last():
    path = relaxed(hill, cycles=3, steps=2, inserted=2)
    assert path.shape == (1, 9, 2)
    torch.testing.assert_close(path[:, [0, -1]], torch.stack([START, END], 1))


def test_pivots_are_evenly_spread():
    lengths = relaxed(hill).diff(dim=1).norm(dim=2)[0]
    assert float(lengths.max() / lengths.min()) < 1.2


def test_paths_do_not_depend_on_one_another():
    both = auto_neb(
        straight(START.expand(2, -1), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 5),
        hill, cycles=3, steps=10, learning_rate=0.02, momentum=0.9,
    )  # fmt: skip
    torch.testing.assert_close(both[:1], relaxed(hill, cycles=3, steps=10))
