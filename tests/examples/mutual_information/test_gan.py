"""GANs on the spiral and the 25 Gaussians: the data, how coverage is counted, and the criteria."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from examples.frame.task import Interruption, Task
from examples.mutual_information import gan

SHORT = gan.Settings(
    steps={"25 Gaussians": 6},
    num_train=1000,
    batch_size=20,
    generator=(8, 8),
    discriminator=(8, 8),
    sample_every=2,
    num_samples=50,
)


def test_arcs_of_the_spiral_have_equal_lengths_and_turn_twice_out_to_five_thirds():
    points = gan.arcs(1000).double()
    step = (points[1:] - points[:-1]).norm(dim=1)
    assert step.max() / step.min() < 1.01
    radius, turned = points.norm(dim=1), -np.unwrap(torch.atan2(points[:, 1], points[:, 0]).numpy()) / (2 * math.pi)
    assert turned[-1] - turned[0] == pytest.approx(2, abs=0.01)
    assert [float(radius[0]), float(radius[-1])] == pytest.approx([1 / 3, 5 / 3], abs=0.01)
    np.testing.assert_allclose(radius[:-1] - radius[1:], 2 / 3 * (turned[:-1] - turned[1:]), atol=1e-5)


@pytest.mark.parametrize(("dataset", "least"), [("spiral", 0.85), ("25 Gaussians", 1)])
def test_the_data_find_all_of_their_own_modes(dataset, least):
    data = gan.samples_of(dataset, 10_000, torch.Generator().manual_seed(0)).numpy()
    nearest, near = gan.occupancy(dataset, data)
    assert nearest.sum() == 10_000 and near.sum() >= least * 10_000 and gan.found(near, 10_000) == 1
    if dataset == "25 Gaussians":
        assert gan.kl_from_uniform(nearest) < 0.01


def test_modes_are_a_grid_of_25_with_that_spacing():
    modes = gan.modes()
    distance = torch.cdist(modes, modes)
    assert modes.shape == (25, 2) and (distance == gan.SPACING).sum() == 2 * 40 and not modes.mean(0).any()


def test_a_sample_far_from_its_nearest_mode_occupies_it_but_does_not_find_it():
    samples = np.array([[4.0, 4.4], [4.0, 4.6], [-4.0, -4.0]], dtype=np.float32)
    nearest, near = gan.occupancy("25 Gaussians", samples)
    assert (nearest[24], nearest[0], nearest.sum()) == (2, 1, 3) and (near[24], near[0]) == (1, 1)


def test_arcs_count_from_the_inside_out():
    ends = gan.arcs(gan.NUM_ARCS)[[0, -1]].numpy()
    assert [gan.occupancy("spiral", end[None])[1].argmax() for end in ends] == [0, gan.NUM_ARCS - 1]


def test_found_is_the_fraction_with_enough_samples():
    assert gan.found(np.array([19, 20, 21, 0]), 10_000) == 0.5
    assert gan.found(np.array([1, 0]), 500) == 0.5


def test_kl_of_one_occupied_mode_of_25_is_log_25():
    assert gan.kl_from_uniform(np.eye(25)[3]) == pytest.approx(math.log(25))
    assert gan.kl_from_uniform(np.array([1, 3])) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_networks_are_those_of_the_appendix():
    settings = gan.PRESETS["paper"].settings
    generator = gan.dense((4, *settings.generator, 2), 0.2, True)
    assert [type(layer) for layer in generator] == [nn.Linear, nn.BatchNorm1d, nn.LeakyReLU] * 2 + [nn.Linear]
    discriminator = gan.dense((2, *settings.discriminator, 1), 0.2, False)
    sizes = [(layer.in_features, layer.out_features) for layer in discriminator if isinstance(layer, nn.Linear)]
    assert sizes == [(2, 400), (400, 400), (400, 400), (400, 1)] and len(discriminator) == 7


def test_initial_weights_of_linear_layers_are_normal_and_biases_zero():
    network = gan.dense((2, 300, 300, 1), 0.01, True)
    gan.initialize(network, 0.02)
    network.requires_grad_(False)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [float(layer.weight.std()) for layer in linear] == pytest.approx([0.02] * 3, rel=0.2)
    assert linear[1].weight.abs().max() > 4 * 0.02  # unlike uniform ones
    assert not any(layer.bias.any() for layer in linear)
    assert all((layer.weight == 1).all() for layer in network if isinstance(layer, nn.BatchNorm1d))


@pytest.mark.parametrize(("std", "low", "high"), [(1e-3, 5e-4, 2e-3), (None, 0.1, 1.0)])
def test_all_networks_of_a_data_set_start_from_its_initial_weights(tmp_path, std, low, high):
    gan.train(replace(SHORT, weight_std={"25 Gaussians": std}), Task(tmp_path, 0, torch.device("cpu")))
    state = torch.load(tmp_path / "25 Gaussians, GAN+MINE" / "checkpoint.pt")["objects"]
    weights = [
        state["generator"]["0.weight"],
        state["discriminator"]["0.weight"],
        state["regularizer"]["mine"]["network"]["layers.0.weight"],
    ]
    assert all(low < weight.std() < high for weight in weights)


def test_density_of_one_sample_is_its_kernel():
    line = np.linspace(-1, 1, 201)
    density = gan.density(np.array([[0.2, -0.3]]), line, line, 0.1)
    assert np.unravel_index(density.argmax(), density.shape) == (70, 120)  # rows are y
    assert density.max() == pytest.approx(1 / (2 * math.pi * 0.01))
    assert density.sum() * 0.01**2 == pytest.approx(1, abs=1e-3)


def test_both_methods_start_from_the_same_weights_and_only_one_uses_the_regularizer(tmp_path):
    task = Task(tmp_path, 0, torch.device("cpu"))
    gan.train(SHORT, task)
    states = [
        torch.load(tmp_path / f"25 Gaussians, {method}" / "checkpoint.pt")["objects"] for method in gan.METHODS
    ]  # fmt: skip
    plain, regularized = states
    assert [state["regularizer"]["mine"]["steps"] for state in states] == [0, 6]
    # After one step of Adam and the same real data, the discriminators can only differ through the generators.
    assert not torch.equal(plain["generator"]["0.weight"], regularized["generator"]["0.weight"])
    gap = (plain["generator"]["0.weight"] - regularized["generator"]["0.weight"]).abs().max()
    assert gap <= 2 * 6 * 1.1 * SHORT.learning_rate  # from the same start, at most that far apart


def test_an_interrupted_training_goes_on_to_the_same_samples(tmp_path):
    def samples(folder):
        return np.load(folder / "25 Gaussians, GAN+MINE" / "samples-6.npy")

    gan.train(SHORT, Task(tmp_path / "whole", 0, torch.device("cpu")))
    interruption = Interruption()
    interruption.wished = True
    for _ in range(2 * 6):  # stopped after each step
        with pytest.raises(KeyboardInterrupt):
            gan.train(SHORT, Task(tmp_path / "broken", 0, torch.device("cpu"), interruption))
    gan.train(SHORT, Task(tmp_path / "broken", 0, torch.device("cpu"), interruption))
    np.testing.assert_array_equal(samples(tmp_path / "whole"), samples(tmp_path / "broken"))


def results(spiral=(0.5, 1.0), modes=(20, 25), tilt=0.0):
    """Samples of GAN and GAN+MINE on the middles of arcs and modes: the fraction of arcs, the number of modes; then a
    share of all that GAN+MINE gives to one mode more."""
    found = {}
    for method, arcs, count in zip(gan.METHODS, spiral, modes, strict=True):
        middles = gan.arcs(gan.NUM_ARCS)[: round(arcs * gan.NUM_ARCS)].numpy()
        found[f"spiral, {method}"] = {"samples": np.tile(np.resize(middles, (10_000, 2)), (3, 1, 1))}
        middles = gan.modes()[:count].numpy()
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
    settings = gan.PRESETS["quick"].settings
    assert [finding.passed for finding in gan.judge(settings, seeds) if finding.passed is not None] == expected


def test_the_last_of_the_kept_samples_is_judged():
    seed = results()
    earlier = results(spiral=(1.0, 0.1), modes=(25, 3))
    for key, item in seed.items():
        item["samples"][:2] = earlier[key]["samples"][:2]
    findings = gan.judge(gan.PRESETS["quick"].settings, [seed])
    assert [finding.passed for finding in findings if finding.passed is not None] == [True] * 4
