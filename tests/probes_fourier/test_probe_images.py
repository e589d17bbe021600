"""ImageFrequencies: its streams against the functions, what it refuses, fewer images within a budget."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import ProbeManager, every
from probes.batches import Batch
from probes.sinks.recorder import Recorder
from probes_fourier import ImageFrequencies, fourier_heat_map, jacobian_spectrum, passed_images


class Colours(nn.Module):
    """Convolutions of colour images of any size, with what measuring must leave as it is."""

    def __init__(self, outputs=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout())
        self.head = nn.Linear(8, outputs)

    def forward(self, x):
        return self.head(self.body(x).square().mean((2, 3)))


@pytest.fixture
def colours():
    torch.manual_seed(0)
    return Colours()


def images(n=12, channels=3, height=6, width=8, seed=0):
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


def with_targets(run, targets):
    run.batches["train"] = run.batches["train"].with_targets(targets)
    return run


LABELS = torch.arange(12) % 3
OF_ANY = ["sensitivity", "jacobian_power", "jacobian_centroid", "low_pass_change", "high_pass_change"]


def test_every_stream_is_what_its_function_finds(colours, make_run, measured):
    run = with_targets(make_run(colours, images()), LABELS)
    found = measured(ImageFrequencies(num_images=10), run)
    x = images()[:10]
    contrast = x - x.mean((2, 3), keepdim=True)
    norm = 0.3 * float(contrast.double().square().sum() / 10) ** 0.5
    with torch.no_grad():
        shaken = fourier_heat_map(
            colours, x, norm, vertical=range(-3, 4), horizontal=range(-4, 5), labels=LABELS[:10],
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        passed = passed_images(colours, x, [i / 16 for i in range(1, 9)], LABELS[:10])
    spectrum = jacobian_spectrum(colours, x)
    rows = {name: found.pop(f"image_frequencies/{name}/train") for name in [*OF_ANY, "error_rate"]}
    sensitivity = rows["sensitivity"]
    assert sensitivity.dims == ("y", "x") and sensitivity.num_samples == 10
    np.testing.assert_allclose(sensitivity.coords["y"].values, np.arange(-3, 4) / 6)
    np.testing.assert_allclose(sensitivity.coords["x"].values, np.arange(-4, 5) / 8)
    assert {axis.unit for row in rows.values() for axis in row.coords.values()} == {"cycles per pixel"}
    np.testing.assert_allclose(sensitivity.value, shaken.change, rtol=1e-4)
    np.testing.assert_allclose(sensitivity.standard_error, shaken.change_error, rtol=1e-3)
    np.testing.assert_array_equal(rows["error_rate"].value, shaken.error_rate)
    np.testing.assert_allclose(rows["jacobian_power"].value, spectrum.power.mean(0), rtol=1e-5)
    np.testing.assert_allclose(rows["jacobian_power"].standard_error, spectrum.power.std(0) / math.sqrt(10), rtol=1e-4)
    weights = spectrum.power.mean(0).double()
    centroid = float((weights * spectrum.radii).sum() / weights.sum())
    assert float(rows["jacobian_centroid"].value) == pytest.approx(centroid, rel=1e-5)
    for row, band in enumerate(("low", "high")):
        np.testing.assert_allclose(rows[f"{band}_pass_change"].value, passed.change[row], rtol=1e-3, atol=1e-6)
        for name, value, error in (
            ("loss", passed.loss, passed.loss_error), ("accuracy", passed.accuracy, passed.accuracy_error)
        ):  # fmt: skip
            one = found.pop(f"image_frequencies/{band}_pass_{name}/train")
            np.testing.assert_allclose(one.value, value[row], rtol=1e-4)
            np.testing.assert_allclose(one.standard_error, error[row], rtol=1e-3)
            assert one.unit == ("nats" if name == "loss" else "1")
    assert not found


@pytest.mark.parametrize(("targets", "more"), [(None, []), (images(12, 3, 4, 4)[:, :, 0, 0], ["loss"])])
def test_without_classes_what_needs_them_is_left_out(colours, make_run, measured, targets, more):
    found = measured(ImageFrequencies(), with_targets(make_run(colours, images()), targets))
    expected = {*OF_ANY, *(f"{band}_pass_{name}" for band in ("low", "high") for name in more)}
    assert {name.split("/")[1] for name in found} == expected


def test_of_numbers_the_loss_is_that_of_the_loop(colours, make_run, measured):
    shares = F.one_hot(LABELS, 3).float()
    run = with_targets(make_run(colours, images()), shares)
    run.criterion = F.cross_entropy
    found, (x, n) = measured(ImageFrequencies(), run), (images(), len(LABELS))
    with torch.no_grad():
        passed = passed_images(colours, x[:n], ImageFrequencies().radii, LABELS)
    row = found["image_frequencies/low_pass_loss/train"]
    np.testing.assert_allclose(row.value, passed.loss[0], rtol=1e-4)
    assert row.unit == "1" and "the loop's" in row.description


def test_a_loss_that_warns_of_a_single_image_does_not(colours, make_run, measured):
    run = with_targets(make_run(nn.Sequential(colours, nn.Linear(3, 1)), images()), torch.linspace(0, 1, 12))
    run.criterion = lambda outputs, targets: F.mse_loss(outputs.squeeze(), targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(ImageFrequencies(), run)
    assert "the loop's" in found["image_frequencies/low_pass_loss/train"].description


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (LABELS + 1, "some targets are no classes from 0 to 2"),
        (LABELS[:, None], "the targets are no classes of the outputs"),
        (LABELS / 2, "the targets do not go with the outputs"),
    ],
)
def test_targets_that_are_neither_are_told(colours, make_run, measured, targets, reason):
    run, told = with_targets(make_run(colours, images()), targets), []
    run.bind(left_out=lambda plugin, message: told.append(message))
    found = measured(ImageFrequencies(), run)
    assert {name.split("/")[1] for name in found} == {*OF_ANY} and reason in told[0]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 9, 5), (1, 28, 28), (2, 32, 32)])
def test_grey_and_colour_images_of_any_size(make_run, measured, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(shape[0], 1, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(0))
    inputs = images(5, *shape).to(memory_format=torch.channels_last)
    found = measured(ImageFrequencies(map_size=3), make_run(model, inputs))
    assert all(np.isfinite(row.value).all() for row in found.values()) and len(found) == len(OF_ANY)
    highest = found["image_frequencies/sensitivity/train"].coords["y"].values[-1]
    assert highest == (shape[1] // 2) / shape[1]


def test_a_network_that_blurs_sees_low_frequencies_and_one_that_sharpens_high_ones(make_run, measured):
    found = {}
    for name, kernel in (("blur", [0.25, 0.5, 0.25]), ("sharpen", [-0.25, 0.5, -0.25])):
        layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.outer(torch.tensor(kernel), torch.tensor(kernel)))
        found[name] = measured(ImageFrequencies(), make_run(nn.Sequential(layer, nn.Flatten()), images(8, 1, 8, 8)))
    for name, centre, edge in (("blur", 1.0, 0.0), ("sharpen", 0.0, 1.0)):
        sensitivity = found[name]["image_frequencies/sensitivity/train"]
        assert sensitivity.value[4, 4] == pytest.approx(centre, abs=1e-5)  # the transform of the kernel
        assert sensitivity.value[0, 0] == pytest.approx(edge, abs=1e-5)
    centroids = [float(found[name]["image_frequencies/jacobian_centroid/train"].value) for name in found]
    assert centroids[0] < 0.2 and centroids[1] > 0.5
    assert "10 random sums" in found["blur"]["image_frequencies/jacobian_power/train"].estimator


@pytest.mark.parametrize(
    ("inputs", "what"),
    [(torch.randn(8, 3), r"rows of shape \(3,\)"), (torch.randn(8, 3, 16), r"rows of shape \(3, 16\)"),
     (torch.randn(8, 1, 2, 16), r"rows of shape \(1, 2, 16\)")],
)  # fmt: skip
def test_what_are_no_images_is_refused_in_one_line(make_run, measured, inputs, what):
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 2))
    with pytest.raises(ValueError, match=rf"need inputs of shape \(n, channels, height, width\).* {what}") as error:
        measured(ImageFrequencies(), make_run(model, inputs))
    assert "\n" not in str(error.value)


def test_images_without_contrast_are_refused(colours, make_run, measured):
    with pytest.raises(ValueError, match="have no contrast"):
        measured(ImageFrequencies(), make_run(colours, torch.ones(4, 3, 8, 8)))


def test_images_that_are_not_finite_are_not_called_flat(colours, make_run, measured):
    images = torch.randn(4, 3, 8, 8)
    images[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="are not finite"):
        measured(ImageFrequencies(), make_run(colours, images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 0}, "`num_images` must be an integer of at least 1, got 0"),
        ({"map_size": 1}, "`map_size` must be an integer of at least 2, got 1"),
        ({"strength": 0}, "`strength` must be a positive number, got 0"),
        ({"radii": []}, r"`radii` must be numbers from 0 to 0.71, in cycles per pixel, got \[\]"),
        ({"radii": [16]}, r"`radii` must be numbers from 0 to 0.71"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageFrequencies(**settings)


def test_a_model_that_cannot_be_differentiated_is_measured_without(make_run, measured):
    class Detached(Colours):
        def forward(self, x):
            return super().forward(x).detach()

    run, told = make_run(Detached(), images()), []
    run.bind(left_out=lambda plugin, message: told.append(message))
    found = measured(ImageFrequencies(), run)
    assert {name.split("/")[1] for name in found} == {name for name in OF_ANY if "jacobian" not in name}
    assert "No derivative by the pixels" in told[0]


def test_within_a_budget_there_are_fewer_images_and_they_stay_so(colours, make_run, measured, monkeypatch):
    run, told = make_run(colours, images(64)), []
    run.bind(left_out=lambda plugin, message: told.append(message))
    monkeypatch.setattr("probes.run.Run.sample_seconds", lambda run, batch: 1.0)
    # Of 6 by 8 pixels the map has 7 by 9 frequencies, 32 waves; 3 outputs; 8 radii.
    rows = 32 * (32 + 2 + 9) + 64 * 17
    monkeypatch.setattr("probes.run.Run.first_turn_limit", property(lambda run: rows / 4))
    probe = ImageFrequencies()
    first = measured(probe, run)["image_frequencies/sensitivity/train"]
    assert first.num_samples == 8 and "Measured on 8 images (filtered: 16) instead of 32 (64)" in told[0]
    monkeypatch.setattr("probes.run.Run.first_turn_limit", property(lambda run: math.inf))
    resumed = ImageFrequencies()
    resumed.load_state_dict(probe.state_dict())
    assert measured(resumed, run)["image_frequencies/low_pass_change/train"].num_samples == 16
    assert measured(ImageFrequencies(num_images=20), run)[first.name].num_samples == 20
    monkeypatch.setattr("probes.run.Run.first_turn_limit", property(lambda run: 10.0))
    with pytest.raises(ValueError, match=r"4 images alone would take 240\.0 s, more than a first turn may"):
        measured(ImageFrequencies(), run)


def test_training_is_the_same_with_and_without(tmp_path):
    def train(probes):
        torch.manual_seed(0)
        model = Colours()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        inputs, targets = images(16), torch.arange(16) % 3
        recorder = Recorder()
        manager = None
        if probes:
            manager = ProbeManager(
                model, probes, {"train": Batch((inputs,), targets=targets)}, sinks=[recorder], log_dir=tmp_path,
                overhead=None, on_error="raise",
            )  # fmt: skip
            manager.attach(optimizer)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        if manager is not None:
            manager.detach()
        return [*model.state_dict().values(), torch.rand(3), torch.tensor(model.training)], recorder.rows

    bare, _ = train([])
    probed, rows = train([ImageFrequencies(every(1))])
    assert all(torch.equal(one, other) for one, other in zip(bare, probed, strict=True))
    assert {row.step for row in rows} == set(range(6))
