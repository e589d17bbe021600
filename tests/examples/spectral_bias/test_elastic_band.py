"""The criteria of Experiment 9, and its parts."""

import numpy as np
import pytest
import torch
from torch import nn

from examples.spectral_bias.elastic_band import EXPERIMENT, PRESETS
from examples.spectral_bias.images import attack, minus_logit, probabilities

SETTINGS = PRESETS["quick"].settings


def seed(line, path, extra, pairs=20):
    def connected(share):
        return np.tile(np.arange(pairs) < share * pairs, (3, 1))

    return {
        "line_connected": connected(line),
        "path_connected": connected(path),
        "extra_length": np.full((3, pairs), extra),
        "accuracy": np.array(0.5),
    }


@pytest.mark.parametrize(
    ("line", "path", "extra", "verdicts"),
    [
        (0.4, 1.0, 0.05, [True, True, True]),
        (0.4, 0.95, 0.05, [False, True, True]),
        (1.0, 0.4, 0.05, [False, False, True]),  # the two exchanged
        (1.0, 1.0, 0.0, [True, False, False]),  # a path that is not bent proves nothing
        (0.4, 0.4, 0.05, [False, False, True]),
        (0.4, 1.0, 0.5, [True, True, False]),  # all the way around
    ],
)
def test_paths_connect_what_straight_lines_do_not(line, path, extra, verdicts):
    assert [finding.passed for finding in EXPERIMENT.judge(SETTINGS, [seed(line, path, extra)])] == verdicts


def test_attack_reaches_its_target_and_stays_within_its_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x, targets = torch.rand(8, 3, 2, 2), torch.zeros(8, dtype=torch.long)
    moved = attack(model, x, targets, 20, 0.3)
    assert float((moved - x).abs().max()) <= 0.3 + 1e-6 and float(moved.min()) >= 0 and float(moved.max()) <= 1
    before, after = (nn.functional.cross_entropy(model(part), targets) for part in (x, moved))
    assert after < before


def test_path_through_another_class_is_not_connected():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))  # class 0 where x > 0
    paths = torch.tensor([[[1.0], [2.0]], [[1.0], [-1.0]]])
    share, connected = probabilities(model, paths, torch.tensor([0, 0]), 5)
    assert connected.tolist() == [True, False] and share.shape == (2, 5)
    torch.testing.assert_close(minus_logit(model, torch.tensor([0, 1]))(paths), torch.tensor([[-1.0, -2], [1, -1]]))
