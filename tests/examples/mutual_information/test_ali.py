"""Adversarially learned inference on the 25 Gaussians: the networks, what each method adds, and the criteria."""

import numpy as np
import pytest
import torch
from torch import nn

from examples.frame.task import Interruption, Task
from examples.mutual_information.ali.experiment import PRESETS
from examples.mutual_information.ali.results import judge
from examples.mutual_information.ali.settings import METHODS, Settings
from examples.mutual_information.ali.training import Autoencoder, adversaries
from examples.mutual_information.maxout import Maxout, Pairs
from examples.mutual_information.plane import modes

SHORT = PRESETS["smoke"].settings


def test_maxout_is_the_largest_of_its_linear_maps():
    layer, x = Maxout(3, 2, pieces=4), torch.randn(5, 3)
    maps = (x @ layer.linear.weight.T + layer.linear.bias).reshape(5, 2, 4)
    torch.testing.assert_close(layer(x), maps.max(2).values)


def test_networks_are_those_of_ali():
    def sizes(network):
        return [(one.in_features, one.out_features) for one in network.modules() if isinstance(one, nn.Linear)]

    settings = PRESETS["paper"].settings
    model = Autoencoder(settings)
    assert sizes(model.encoder) == [(4, 400), (400, 400), (400, 2)]
    assert sizes(model.decoder) == [(2, 400), *[(400, 400)] * 3, (400, 2)]
    assert sum(isinstance(one, nn.BatchNorm1d) for one in model.modules()) == 6
    discriminator = Pairs(4, settings.discriminator, settings.pieces)
    assert sizes(discriminator) == [(4, 1000), (200, 1000), (200, 1000), (200, 1)]
    assert discriminator(torch.zeros(7, 2), torch.zeros(7, 2)).shape == (7,)
    assert float(model.decoder[3].weight.detach().std()) == pytest.approx(0.02, rel=0.02)


def trained(folder, method, steps=1):
    settings = Settings(**{**vars(SHORT), "steps": steps})
    part = Task(folder, 0, torch.device("cpu")).part(method)
    adversaries(settings, part, method)
    return torch.load(part.folder / "checkpoint.pt")["objects"]


def test_methods_add_to_the_loss_of_ali_what_they_say(tmp_path):
    after = {method: trained(tmp_path, method) for method in METHODS}

    def moved(method, name):
        """Whether the first gradient of a weight differs from ALI's; Adam's first step hardly would, it is a sign."""
        index = [key for key, _ in Autoencoder(SHORT).named_parameters()].index(name)
        one, other = (after[key]["of_model"]["state"][index]["exp_avg"] for key in (method, "ALI"))
        return not torch.equal(one, other)

    # Information of samples and their codes is the decoder's alone; reconstructions pass through both.
    assert [moved("ALI+MINE", f"{side}.0.weight") for side in ("encoder", "decoder")] == [False, True]
    for method in ("ALICE (l2)", "ALICE (adv.)"):
        assert moved(method, "encoder.0.weight") and moved(method, "decoder.0.weight")
    steps = [after[method]["regularizer"]["mine"]["steps"] for method in METHODS]
    assert steps == [0, 0, 0, 1]
    weights = [after[method]["discriminators"]["reconstruction.layers.0.linear.weight"] for method in METHODS]
    assert [torch.equal(weight, weights[0]) for weight in weights] == [True, True, False, True]


def test_an_interrupted_training_goes_on_to_the_same_points(tmp_path):
    trained(tmp_path / "whole", "ALI+MINE", 6)
    interruption = Interruption()
    interruption.wished = True
    for _ in range(6):  # stopped after each step
        part = Task(tmp_path / "broken", 0, torch.device("cpu"), interruption).part("ALI+MINE")
        with pytest.raises(KeyboardInterrupt):
            adversaries(SHORT, part, "ALI+MINE")
    whole, broken = (np.load(tmp_path / name / "ALI+MINE" / "points-6.npz") for name in ("whole", "broken"))
    assert set(whole.files) == {"data", "codes", "reconstructions", "samples"}
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], broken[name])


def results(errors=(1.0, 0.0, 0.0, 0.6), count=25):
    """Of each method, how far reconstructions are off in both components; of ALI+MINE, how many modes it samples."""
    data = np.resize(modes().numpy(), (10_000, 2))
    found = {}
    for method, error in zip(METHODS, errors, strict=True):
        sampled = np.resize(modes()[: count if method == "ALI+MINE" else 25].numpy(), (10_000, 2))
        points = {"data": data, "codes": data, "reconstructions": data + error, "samples": sampled}
        found[method] = {name: np.stack([values] * 3) for name, values in points.items()}
    return found


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([results()] * 2, [True, True]),
        ([results(count=23)] * 2, [True, True]),
        ([results()] * 2 + [results(count=22)], [True, False]),
        ([results(), results(errors=(1.0, 0.0, 0.0, 0.75))], [False, True]),  # squared, more than half
    ],
)
def test_criteria_of_reconstructions_and_modes(seeds, expected):
    findings = judge(PRESETS["quick"].settings, seeds)
    assert [finding.passed for finding in findings if finding.passed is not None] == expected


def test_the_last_of_the_kept_points_is_judged():
    seed = results()
    for name in ("reconstructions", "samples"):
        seed["ALI+MINE"][name][:2] = 9
    findings = judge(PRESETS["quick"].settings, [seed])
    assert [finding.passed for finding in findings if finding.passed is not None] == [True, True]
