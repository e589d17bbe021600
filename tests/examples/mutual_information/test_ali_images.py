import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from examples.frame.task import Task
from examples.mutual_information.ali_images import celeba, digits
from examples.mutual_information.ali_images.data import Faces, load
from examples.mutual_information.ali_images.fidelity import METRICS, Fidelity, ms_ssim
from examples.mutual_information.ali_images.networks import ACTIVATIONS, Encoder
from examples.mutual_information.ali_images.results import Model, Results, judge
from examples.mutual_information.ali_images.settings import METHODS, Settings
from examples.mutual_information.ali_images.training import adversaries
from examples.mutual_information.classifier import Classifier
from examples.mutual_information.generative import Discriminator
from probes import every
from probes_mine import ConvolutionalStatistics

ATTRIBUTES = 40


def results(ali=(14.2, 46.0, 0.97), mine=(9.7, 96.0, 0.99)):
    steps, models = np.array([0, 100]), {}
    for method, found in (("ALI", ali), ("ALI + MINE", mine)):
        values = dict(zip(METRICS, found, strict=True))
        models[method] = Model(steps, {name: np.array([0.5, value]) for name, value in values.items()}, {})
    return Results(98.0, models)


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([{}, {}, {}], [True, True, True]),
        ([{"mine": (14.3, 96.0, 0.99)}] * 3, [False, True, True]),
        ([{"mine": (9.7, 55.9, 0.99)}] * 3, [True, False, True]),
        ([{"mine": (9.7, 56.0, 0.99)}] * 3, [True, True, True]),
        ([{"mine": (30.0, 30.0, 0.99)}, {}, {}], [False, True, True]),  # the means count
        ([{"mine": (15.0, 10.0, 0.99)}, {}, {}], [True, True, True]),
        ([{"mine": (9.7, 96.0, 0.97)}] * 3, [True, True, False]),  # equal is not more
        ([{"mine": (9.7, 96.0, 0.95)}, {}, {}], [True, True, False]),  # a mean of .007 +- .013 more
        ([{"ali": (14.2, 46.0, 0.999)}] * 3, [True, True, False]),
    ],
)
def test_judge(seeds, expected):
    findings = judge(digits.PRESETS["quick"].settings, [results(**changed) for changed in seeds])
    assert [finding.passed for finding in findings] == [*expected, None]


def test_faces_are_not_judged_by_their_attributes():
    findings = judge(celeba.PRESETS["quick"].settings, [results(mine=(9.7, 10.0, 0.9))])
    assert [finding.passed for finding in findings] == [True, None, None, None]
    assert "ALI: 53.75" in findings[0].published


@pytest.mark.parametrize(("settings", "maps"), [(Settings(), [14, 7, 4, 1]), (celeba.FACES, [32, 16, 8, 4, 1])])
def test_encoders_have_the_sizes_of_tables_c4_and_c8(settings, maps):
    encoder, x = Encoder(settings.image, settings.z_size, settings.channels), torch.zeros(2, *settings.image)
    found, out = [], torch.cat([x, torch.zeros(2, settings.z_size, *x.shape[2:])], 1)
    for layer in encoder.layers:
        out = layer(out)
        if isinstance(layer, nn.Conv2d):
            found.append(tuple(out.shape[1:]))
    channels = [*settings.channels, settings.channels[-1]]
    assert found == [(number, side, side) for number, side in zip(channels, maps, strict=True)]
    assert out.shape == (2, settings.z_size)


@pytest.mark.parametrize(("settings", "flat"), [(Settings(), 256 * 4 * 4), (celeba.FACES, 512 * 4 * 4)])
def test_discriminators_have_the_sizes_of_tables_c6_and_c10(settings, flat):
    network = Discriminator(settings.image, settings.channels, ACTIVATIONS["leaky"], settings.z_size, settings.dense)
    sizes = [(layer.in_features, layer.out_features) for layer in network.output if isinstance(layer, nn.Linear)]
    assert sizes == [(flat + settings.z_size, 1024), (1024, 1)]


@pytest.mark.parametrize(("settings", "flat"), [(Settings(), 256 * 4 * 4), (celeba.FACES, 128 * 4 * 4)])
def test_statistics_networks_have_the_sizes_of_tables_c7_and_c11(settings, flat):
    network = ConvolutionalStatistics(settings.image, settings.z_size, settings.critic)
    assert [layer.in_features for layer in network.output if isinstance(layer, nn.Linear)] == [flat]


def test_the_encoder_depends_on_its_noise():
    encoder, x = Encoder((1, 28, 28), 4, (4, 8)).eval(), torch.zeros(2, 1, 28, 28)
    z = encoder(x, torch.tensor([[0.0] * 4, [9.0] * 4]))
    assert not torch.equal(z[0], z[1])


def naive_ms_ssim(x, y):
    """Of two images with one channel, (height, width), by loops over every place of the window."""
    window = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)])
    window /= window.sum()
    scales = 2 if len(x) == 28 else 3
    weights = np.array([0.0448, 0.2856, 0.3001][:scales])
    weights /= weights.sum()
    value = 1.0
    for scale in range(scales):
        if scale:
            x, y = ((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4 for a in (x, y))
        places = []
        for i in range(len(x) - 10):
            for j in range(len(x) - 10):
                a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                place = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
                if scale == scales - 1:
                    place *= (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                places.append(place)
        value *= max(np.mean(places), 0) ** weights[scale]
    return value


@pytest.mark.parametrize("side", [28, 64])
def test_ms_ssim_matches_loops_over_the_window(side):
    rng = np.random.default_rng(0)
    x = rng.random((2, side, side))
    y = 0.7 * x + 0.3 * rng.random((2, side, side))
    found = ms_ssim(torch.tensor(x[:, None]), torch.tensor(y[:, None]))
    np.testing.assert_allclose(found, [naive_ms_ssim(a, b) for a, b in zip(x, y, strict=True)], rtol=1e-9)
    assert 0.3 < found.min() < found.max() < 1


def test_ms_ssim_of_an_image_and_itself_is_one():
    x = torch.rand(3, 3, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(3, dtype=torch.float64))


def test_ms_ssim_of_an_image_and_its_negative_is_zero():
    x = torch.rand(1, 1, 28, 28)
    assert ms_ssim(x, 1 - x).tolist() == [0]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder in the layout of CelebA: 6 small photographs, the last two of them to test on."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    for number, name in enumerate(names):
        Image.new("RGB", (178, 218), (40 * number, 0, 255)).save(folder / "img_align_celeba" / name)

    def table(name, values, header=""):
        rows = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, values, strict=True)]
        (folder / name).write_text(header + "\n".join(rows) + "\n")

    table("list_eval_partition.txt", [[0]] * 4 + [[2]] * 2)
    table("identity_CelebA.txt", [[1]] * 6)
    table("list_bbox_celeba.txt", [[0] * 4] * 6, "6\nimage_id x_1 y_1 width height\n")
    table("list_landmarks_align_celeba.txt", [[0] * 10] * 6, "6\n" + " ".join("abcdefghij") + "\n")
    table("list_attr_celeba.txt", [[1] + [-1] * (ATTRIBUTES - 1)] * 6, "6\n" + " ".join(["a"] * ATTRIBUTES) + "\n")
    # What stands in for the files does not have their checksums.
    monkeypatch.setattr(torchvision.datasets.celeba, "check_integrity", lambda path, md5: True)
    return tmp_path


def test_faces_are_read_by_torchvision(photographs):
    train, test = Faces(64, "train", photographs), Faces(64, "test", photographs)
    assert len(train) == 4 and len(test) == 2
    batch = train[torch.tensor([3, 0])]
    assert batch.shape == (2, 3, 64, 64)
    # The colours of the photographs 3 and 0 within what JPEG changes, from [0, 255] to [-1, 1].
    torch.testing.assert_close(batch[:, 0, 5, 5], torch.tensor([2 * 120 / 255 - 1, -1.0]), atol=0.05, rtol=0)
    assert batch[:, 2].min() > 0.95
    assert test.attributes.tolist() == [[1.0] + [0.0] * (ATTRIBUTES - 1)] * 2


def test_faces_that_are_not_there_are_named_with_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBES_DATA", str(tmp_path))
    expected = r"CelebA is not in .*celeba\. From https://mmlab.* download img_align_celeba\.zip, unpack it there"
    for preset in ("quick", "paper"):
        with pytest.raises(FileNotFoundError, match=expected):
            load(celeba.PRESETS[preset].settings, train=True)


@pytest.mark.parametrize("method", METHODS)
def test_training_that_stopped_goes_on_to_the_same_weights(tmp_path, method):
    settings = digits.PRESETS["smoke"].settings
    images, labels = load(settings, train=True)

    def weights(folder, steps):
        fidelity = Fidelity(every(2), Classifier((1, 28, 28)), images[:20], labels[:20], settings.z_size)
        task = Task(folder, 0, torch.device("cpu"))
        adversaries(replace(settings, steps=steps), task, method, images, fidelity)
        return torch.load(folder / "checkpoint.pt")["objects"]["model"]

    weights(tmp_path / "broken", 3)
    whole, broken = weights(tmp_path / "whole", 5), weights(tmp_path / "broken", 5)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_what_a_method_adds_changes_the_training(tmp_path):
    settings = replace(digits.PRESETS["smoke"].settings, steps=3)
    images, labels = load(settings, train=True)
    trained = []
    for method in METHODS:
        fidelity = Fidelity(every(9), Classifier((1, 28, 28)), images[:20], labels[:20], settings.z_size)
        adversaries(settings, Task(tmp_path / method, 0, torch.device("cpu")), method, images, fidelity)
        state = torch.load(tmp_path / method / "checkpoint.pt")["objects"]["model"]
        trained.append(torch.cat([tensor.flatten() for tensor in state.values()]))
    assert not any(torch.equal(trained[i], trained[j]) for i in range(4) for j in range(i))
