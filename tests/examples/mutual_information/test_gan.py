"""GANs on the spiral and the 25 Gaussians: networks, training, and the criteria."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from examples.frame.task import Interruption, Task
from examples.mutual_information import plane
from examples.mutual_information.gan.experiment import PRESETS
from examples.mutual_information.gan.results import judge
from examples.mutual_information.gan.settings import METHODS, Settings
from examples.mutual_information.gan.training import train
from examples.mutual_information.generative import dense

SHORT = Settings(
    steps={"25 Gaussians": 6},
    num_train=1000,
    batch_size=20,
    generator=(8, 8),
    discriminator=(8, 8),
    sample_every=2,
    num_samples=50,
)


def test_networks_are_those_of_the_appendix():
    settings = PRESETS["paper"].settings
    generator = dense((4, *settings.generator, 2), 0.2, True)
    assert [type(layer) for layer in generator] == [nn.Linear, nn.BatchNorm1d, nn.LeakyReLU] * 2 + [nn.Linear]
    discriminator = dense((2, *settings.discriminator, 1), 0.2, False)
    sizes = [(layer.in_features, layer.out_features) for layer in discriminator if isinstance(layer, nn.Linear)]
    assert sizes == [(2, 400), (400, 400), (400, 400), (400, 1)] and len(discriminator) == 7


@pytest.mark.parametrize(("std", "low", "high"), [(1e-3, 5e-4, 2e-3), (None, 0.1, 1.0)])
def test_all_networks_of_a_data_set_start_from_its_initial_weights(tmp_path, std, low, high):
    train(replace(SHORT, weight_std={"25 Gaussians": std}), Task(tmp_path, 0, torch.device("cpu")))
    state = torch.load(tmp_path / "25 Gaussians, GAN+MINE" / "checkpoint.pt")["objects"]
    weights = [
        state["generator"]["0.weight"],
        state["discriminator"]["0.weight"],
        state["regularizer"]["mine"]["network"]["layers.0.weight"],
    ]
    assert all(low < weight.std() < high for weight in weights)


def test_both_methods_start_from_the_same_weights_and_only_one_uses_the_regularizer(tmp_path):
    task = Task(tmp_path, 0, torch.device("cpu"))
    train(SHORT, task)
    states = [torch.load(tmp_path / f"25 Gaussians, {method}" / "checkpoint.pt")["objects"] for method in METHODS]
    plain, regularized = states
    assert [state["regularizer"]["mine"]["steps"] for state in states] == [0, 6]
    # After one step of Adam and the same real data, the discriminators can only differ through the generators.
    assert not torch.equal(plain["generator"]["0.weight"], regularized["generator"]["0.weight"])
    gap = (plain["generator"]["0.weight"] - regularized["generator"]["0.weight"]).abs().max()
    assert gap <= 2 * 6 * 1.1 * SHORT.learning_rate  # from the same start, at most that far apart


def test_an_interrupted_training_goes_on_to_the_same_samples(tmp_path):
    def samples(folder):
        return np.load(folder / "25 Gaussians, GAN+MINE" / "samples-6.npy")

    train(SHORT, Task(tmp_path / "whole", 0, torch.device("cpu")))
    interruption = Interruption()
    interruption.wished = True
    for _ in range(2 * 6):  # stopped after each step
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, Task(tmp_path / "broken", 0, torch.device("cpu"), interruption))
    train(SHORT, Task(tmp_path / "broken", 0, torch.device("cpu"), interruption))
    np.testing.assert_array_equal(samples(tmp_path / "whole"), samples(tmp_path / "broken"))


def results(spiral=(0.5, 1.0), modes=(20, 25), tilt=0.0):
    """Samples of GAN and GAN+MINE on the middles of arcs and modes: the fraction of arcs, the number of modes; then a
    share of all that GAN+MINE gives to one mode more."""
    found = {}
    for method, arcs, count in zip(METHODS, spiral, modes, strict=True):
        middles = plane.arcs(plane.NUM_ARCS)[: round(arcs * plane.NUM_ARCS)].numpy()
        found[f"spiral, {method}"] = {"samples": np.tile(np.resize(middles, (10_000, 2)), (3, 1, 1))}
        middles = plane.modes()[:count].numpy()
        samples = np.resize(middles, (10_000, 2))
        if method == "GAN+MINE":
            samples[: round(tilt * 10_000)] = middles[0]
        # Not all at the same even occupancy, whose divergence is zero.
        samples[:40] = middles[0]
        found[f"25 Gaussians, {method}"] = {"samples": np.tile(samples, (3, 1, 1))}
        found[f"spiral, {method}"]["information"] = found[f"25 Gaussians, {method}"]["information"] = 1.0
    return found


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([results()] * 5, [True] * 4),
        ([results(spiral=(0.9, 1.0))] * 5, [False, True, True, True]),
        ([results(spiral=(1.0, 1.0))] * 2 + [results(spiral=(0.5, 1.0))] * 3, [True] * 4),  # 0.3 in the mean
        ([results()] * 4 + [results(modes=(20, 24))], [True, False, True, True]),
        ([results()] * 4 + [results(tilt=0.15)], [True, True, False, True]),
        ([results(modes=(25, 25))] * 5, [True, True, True, False]),
        ([results()] * 3 + [results(modes=(25, 25))] * 2, [True] * 4),
        ([results()] * 2 + [results(modes=(25, 25))] * 3, [True, True, True, False]),
    ],
)
def test_criteria_of_coverage(seeds, expected):
    settings = PRESETS["quick"].settings
    assert [finding.passed for finding in judge(settings, seeds) if finding.passed is not None] == expected


def test_the_last_of_the_kept_samples_is_judged():
    seed = results()
    earlier = results(spiral=(1.0, 0.1), modes=(25, 3))
    for key, item in seed.items():
        item["samples"][:2] = earlier[key]["samples"][:2]
    findings = judge(PRESETS["quick"].settings, [seed])
    assert [finding.passed for finding in findings if finding.passed is not None] == [True] * 4


@pytest.mark.parametrize(("dataset", "least"), [("25 Gaussians", 0.98), ("spiral", 0.99)])
def test_the_control_is_told_from_the_data_by_how_close_samples_are_and_not_by_what_they_cover(dataset, least):
    data = plane.samples_of(dataset, 10_000, torch.Generator().manual_seed(0)).numpy()
    cloud = plane.evenly_spread(dataset)
    assert plane.found(plane.occupancy(dataset, cloud)[1], 10_000) == 1
    assert plane.close_share(dataset, data) >= least
    assert plane.close_share(dataset, cloud) < (0.03 if dataset == "25 Gaussians" else 0.8)
    if dataset == "25 Gaussians":  # the part of the square that the discs take
        assert plane.close_share(dataset, cloud) == pytest.approx(25 * np.pi * 0.15**2 / 81, abs=0.005)
