import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from examples.frame.task import Task
from examples.mutual_information.classifier import Classifier
from examples.mutual_information.stacked_mnist.coverage import kl_to_uniform, modes
from examples.mutual_information.stacked_mnist.experiment import PRESETS, adversaries, digits
from examples.mutual_information.stacked_mnist.results import Results, Training, judge, late, mosaic
from examples.mutual_information.stacked_mnist.settings import METHODS


def result(plain=(90, 0.8), mine=(100, 0.1), accuracy=0.98):
    rows = zip(METHODS, (plain, mine), strict=True)
    samples, steps = np.zeros((4, 2, 6, 6)), np.arange(6.0)
    trained = {
        method: Training(steps, np.array([1] * 4 + [count] * 2), np.array([4.6] * 4 + [kl] * 2), samples)
        for method, (count, kl) in rows
    }
    return Results(accuracy, samples, trained, np.array([1.0, 0.5]))


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([{}, {}, {}], [True] * 3),
        ([{"mine": (95, 0.1)}, {}, {}], [True] * 3),  # the mean counts
        ([{"mine": (80, 0.1)}, {}, {}], [False, True, True]),  # a mean of 3.3 +- 6.7 more
        ([{"mine": (100, 2.5)}, {}, {}], [True, False, True]),
        ([{"accuracy": 0.96}, {}, {}], [True, True, False]),
        ([{"plain": (100, 0.1)}] * 3, [False, False, True]),  # equal is not more
    ],
)
def test_judge(seeds, expected):
    findings = judge(PRESETS["quick"].settings, [result(**changed) for changed in seeds])
    assert [finding.passed for finding in findings] == [*expected, None]


def test_the_last_third_of_training_is_judged():
    assert [late(np.array(values)) for values in ([0, 0, 0, 0, 1, 3], [0, 2], [5], [0, 0, 2, 4])] == [2, 2, 5, 3]
    falling = result()
    early = {method: Training(t.steps, t.modes[::-1], t.kl, t.samples) for method, t in falling.trained.items()}
    assert "1.0 (1.0)" in judge(PRESETS["quick"].settings, [Results(1.0, falling.real, early, np.ones(1))])[0].measured


def test_kl_of_a_histogram_matches_its_definition():
    counts = torch.tensor([7, 0, 2, 1])
    assert kl_to_uniform(counts) == pytest.approx(sum(p * math.log(p * 4) for p in (0.7, 0.2, 0.1)))
    assert kl_to_uniform(torch.full((10,), 3)) == pytest.approx(0)
    assert kl_to_uniform(torch.tensor([9, 0, 0, 0])) == pytest.approx(math.log(4))


class ByBrightness(nn.Module):
    """Tells digit k from pixels of k / 10."""

    def forward(self, x):
        return nn.functional.one_hot((10 * x.mean((1, 2, 3))).round().long(), 10).float()


def test_a_mode_is_the_number_its_channels_spell():
    digits = torch.tensor([[3, 0, 7], [0, 0, 9], [9, 9, 9]])
    images = (digits / 10).view(3, 3, 1, 1).expand(3, 3, 4, 4)
    assert modes(images, ByBrightness()).tolist() == [307, 9, 999]


def test_the_paper_preset_has_1000_modes_and_50_epochs():
    settings = PRESETS["paper"].settings
    assert settings.modes == 1000 and PRESETS["quick"].settings.modes == 100
    assert settings.steps == 50 * settings.num_train / settings.batch_size


def test_mosaic_puts_images_in_rows_and_channels_in_colours():
    samples = np.stack([np.full((2, 3, 3), value) for value in (0.1, 0.2, 0.3, 0.4)])
    picture = mosaic(samples)
    assert picture.shape == (6, 6, 3) and (picture[..., 2] == 0).all()
    np.testing.assert_allclose(picture[[0, 0, 3, 3], [0, 3, 0, 3], 0], [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("method", METHODS)
def test_training_that_stopped_goes_on_to_the_same_weights(tmp_path, method):
    settings = PRESETS["smoke"].settings
    images, _ = digits(settings, train=True)
    stacks = torch.randint(len(images), (300, 2), generator=torch.Generator().manual_seed(0))

    def weights(folder, steps):
        task = Task(folder, 0, torch.device("cpu"))
        changed = replace(settings, steps=steps, measure_every=2, num_test=20)
        adversaries(changed, task, method, images, stacks, Classifier((1, 14, 14)))
        return torch.load(folder / "checkpoint.pt")["objects"]["generator"]

    weights(tmp_path / "broken", 3)
    whole, broken = weights(tmp_path / "whole", 5), weights(tmp_path / "broken", 5)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    other = weights(tmp_path / "other", 4)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)
