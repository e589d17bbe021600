"""Images by frequency: filters against sums over pixels, maps of linear functions, derivatives written out."""

import cmath
import math

import numpy as np
import pytest
import torch
from torch import nn

from probes_fourier import (
    fourier_basis_image,
    fourier_heat_map,
    high_pass,
    image_radii,
    jacobian_spectrum,
    low_pass,
    map_frequencies,
    passed_images,
    ring_sums,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dft(image):
    """The unitary transform, pixel by pixel, by signed frequency in cycles per pixel."""
    height, width = len(image), len(image[0])
    found = {}
    for v in range(height):
        for u in range(width):
            total = sum(
                float(image[a][b]) * cmath.exp(-2j * math.pi * (v * a / height + u * b / width))
                for a in range(height)
                for b in range(width)
            )
            signed = (v - height if 2 * v >= height else v) / height, (u - width if 2 * u >= width else u) / width
            found[signed] = total / math.sqrt(height * width)
    return found


# ------------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8)])
def test_low_pass_keeps_the_waves_up_to_a_radius(height, width):
    image = normal(height, width)
    coefficients = dft(image.tolist())
    for radius in (0.0, 0.2, 0.25, 0.5, 0.71):
        expected = torch.zeros(height, width, dtype=torch.float64)
        for (v, u), coefficient in coefficients.items():
            if math.sqrt(v * v + u * u) <= radius:
                for a in range(height):
                    for b in range(width):
                        wave = coefficient * cmath.exp(2j * math.pi * (v * a + u * b))
                        expected[a, b] += wave.real / math.sqrt(height * width)
        torch.testing.assert_close(low_pass(image, radius), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(high_pass(image, radius) + low_pass(image, radius), image, rtol=0, atol=1e-15)
    assert bool((low_pass(image, 0) - image.mean()).abs().max() < 1e-14)


def test_filters_keep_shape_dtype_and_channels():
    images = normal(2, 3, 6, 8).bfloat16()
    passed = low_pass(images, 0.3)
    assert passed.shape == images.shape and passed.dtype == torch.bfloat16
    alone = low_pass(images[1, 2], 0.3)
    assert torch.equal(passed[1, 2], alone)
    whole = (normal(6, 8) * 50 + 100).to(torch.uint8)
    for keep in (low_pass, high_pass):  # integers would be cut, and wrap around
        torch.testing.assert_close(keep(whole, 0.3), keep(whole.float(), 0.3))


def test_radii_are_the_lengths_of_the_frequencies_and_rings_hold_every_bin_once():
    found = image_radii(5, 8)
    expected = {key: math.hypot(*key) for key in dft([[0] * 8] * 5)}
    assert sorted(found.flatten().tolist()) == pytest.approx(sorted(expected.values()))
    radii, counts = ring_sums(torch.ones(5, 8, dtype=torch.float64))
    by_hand = [sum(math.floor(r * 5 + 0.5 + 1e-9) == k for r in expected.values()) for k in range(len(radii))]
    assert counts.tolist() == by_hand and counts.sum() == 40
    assert radii.tolist() == pytest.approx([k / 5 for k in range(len(radii))])


# ----------------------------------------------------------------------------------------------------------- heat map


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8)])
@pytest.mark.parametrize(("v", "u"), [(0, 0), (1, 2), (-2, 1), (3, 4)])
def test_a_basis_image_has_length_one_and_one_frequency(height, width, v, u):
    wave = fourier_basis_image(height, width, v, u)
    assert float(wave.square().sum()) == pytest.approx(1)
    power = torch.fft.fft2(wave, norm="ortho").abs().square()
    both = {(v % height, u % width), (-v % height, -u % width)}
    assert float(sum(power[key] for key in both)) == pytest.approx(1)


@pytest.mark.parametrize("side", [4, 5, 8, 28, 32, 33, 224])
@pytest.mark.parametrize("most", [2, 3, 5, 9])
def test_map_frequencies_go_from_the_lowest_to_the_highest(side, most):
    found = map_frequencies(side, most)
    assert found == sorted(set(found)) == [-k for k in reversed(found)]
    assert found[-1] == side // 2 and 0 in found and len(found) <= 2 * most - 1


def linear(weights):
    """Outputs are sums over all pixels and channels, weighted."""
    return lambda x: torch.einsum("nchw,ochw->no", x, weights.to(x))


def test_the_map_of_a_linear_function_is_its_transform():
    weights = normal(1, 1, 6, 8)
    transform = dft(weights[0, 0].tolist())
    vertical, horizontal = [-3, -1, 0, 1, 3], [0, 1, 4]
    found = fourier_heat_map(
        linear(weights), normal(3, 1, 6, 8, seed=1), 0.7, vertical=vertical, horizontal=horizontal,
        generator=torch.Generator(),
    )  # fmt: skip
    for i, v in enumerate(vertical):
        for j, u in enumerate(horizontal):
            alone = v % 6 in (0, 3) and u % 8 in (0, 4)  # a frequency that is its own opposite
            key = (-0.5 if abs(v) == 3 else v / 6), (-0.5 if u == 4 else u / 8)
            expected = abs(transform[key].real) * (1 if alone else math.sqrt(2))
            assert float(found.change[i, j]) == pytest.approx(expected, abs=1e-12)
    assert float(found.change_error.max()) < 1e-14  # every image is changed alike


def test_signs_of_channels_make_an_error_over_images():
    weights, images = normal(2, 3, 4, 4), torch.zeros(4000, 3, 4, 4, dtype=torch.float64)
    found = fourier_heat_map(
        linear(weights), images, 0.1, vertical=[1], horizontal=[0], generator=torch.Generator().manual_seed(0)
    )
    wave = fourier_basis_image(4, 4, 1, 0)
    each = torch.einsum("ochw,hw->oc", weights, wave) / math.sqrt(3)
    lengths = [float((each * torch.tensor([a, b, c])).sum(1).norm()) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    assert found.change.item() == pytest.approx(np.mean(lengths), abs=4 * found.change_error.item())
    assert found.change_error.item() == pytest.approx(np.std(lengths) / math.sqrt(4000), rel=0.05)


def test_the_error_rate_rises_at_the_frequency_that_the_classifier_looks_at():
    wave = fourier_basis_image(8, 8, 2, 1)
    images = torch.stack([wave, wave, -wave, -wave])[:, None]
    classify = linear(torch.stack([wave, -wave])[:, None])
    found = fourier_heat_map(
        classify, images, 1.5, vertical=[-2, 0, 2], horizontal=[0, 1], labels=torch.tensor([0, 0, 1, 0]),
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    signs = (torch.randint(0, 2, (4, 1, 1, 1), generator=torch.Generator().manual_seed(3)) * 2 - 1).flatten().tolist()
    sides = [1 + 1.5 * signs[0], 1 + 1.5 * signs[1], -1 + 1.5 * signs[2], -1 + 1.5 * signs[3]]
    wrong = [side < 0 for side in sides[:2]] + [side > 0 for side in sides[2:3]] + [side < 0 for side in sides[3:]]
    expected = torch.full((3, 2), 0.25)  # the last label is wrong anyway
    expected[2, 1] = sum(wrong) / 4
    assert sum(wrong) not in (0, 1)
    assert found.error_rate.tolist() == expected.tolist()


# ------------------------------------------------------------------------------------------------------------ jacobian


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(inplace=True), nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 5 * 6, 4)
    ).double()


def test_the_spectrum_of_the_jacobian_matches_derivatives_transformed_one_by_one():
    model, images = small_network(), normal(2, 2, 5, 6)
    kept = images.clone()
    found = jacobian_spectrum(model, images)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: model(x.clone()[None])[0]))(images).detach()
    for i in range(2):
        expected = [0.0] * len(found.radii)
        for c in range(4):
            for channel in range(2):
                for key, coefficient in dft(jacobians[i, c, channel].tolist()).items():
                    expected[math.floor(math.hypot(*key) * 5 + 0.5 + 1e-9)] += abs(coefficient) ** 2
        assert found.power[i].tolist() == pytest.approx(expected, rel=1e-9)
        assert float(found.power[i].sum()) == pytest.approx(float(jacobians[i].square().sum()))
    assert torch.equal(images, kept) and not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_sums_have_the_power_of_all_outputs_in_the_mean():
    model, images = small_network(), normal(2, 2, 5, 6)
    exact = jacobian_spectrum(model, images).power
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([jacobian_spectrum(model, images, probes=2, generator=generator).power for _ in range(400)])
    error = draws.std(0) / 20
    assert bool(((draws.mean(0) - exact).abs() < 4 * error).all()) and bool((error < 0.1 * exact).all())


def test_outputs_without_a_derivative_are_refused():
    with pytest.raises(ValueError, match=r"have no gradient. Do not detach them"):
        jacobian_spectrum(lambda x: x.detach().sum((1, 2, 3)), normal(2, 1, 4, 4))
    with pytest.raises(ValueError, match="`probes` must be a positive number of random sums with a `generator`, got 3"):
        jacobian_spectrum(lambda x: x.sum((1, 2, 3)), normal(2, 1, 4, 4), probes=3)


# ------------------------------------------------------------------------------------------------------ passed images


def test_what_is_left_of_images_is_judged_by_loss_and_accuracy():
    fine, coarse = fourier_basis_image(8, 8, 0, 3), fourier_basis_image(8, 8, 1, 0)  # 0.375 and 0.125 cycles per pixel
    images = torch.stack([fine + coarse, fine - coarse, -fine + coarse, -fine - coarse])[:, None]
    classify = linear(torch.stack([4 * fine + coarse, -4 * fine - coarse])[:, None])
    targets = torch.tensor([0, 0, 1, 1])
    found = passed_images(classify, images, [0.0, 0.2, 0.4], targets)
    assert found.accuracy.tolist()[0][1:] == [0.5, 1.0] and found.accuracy.tolist()[1][:2] == [1.0, 1.0]
    with torch.no_grad():
        for row, band in enumerate((low_pass, high_pass)):
            for column, radius in enumerate((0.0, 0.2, 0.4)):
                outputs = classify(band(images, radius))
                terms = [
                    math.log(sum(math.exp(z) for z in line)) - line[k]
                    for line, k in zip(outputs.tolist(), targets.tolist(), strict=True)
                ]
                assert float(found.loss[row, column]) == pytest.approx(np.mean(terms))
                assert float(found.loss_error[row, column]) == pytest.approx(np.std(terms, ddof=1) / 2, abs=1e-12)
    # The outputs are +-(4 s + t): what is lost is 4 s or t, of a variance of 17.
    assert found.change.tolist()[0] == pytest.approx([1, 16 / 17, 0], abs=1e-12)
    assert found.change.tolist()[1] == pytest.approx([0, 1 / 17, 1], abs=1e-12)


def test_numbers_are_judged_by_the_squared_error_alone():
    images, targets = normal(5, 1, 6, 6), normal(5, seed=1)
    mean = lambda x: x.mean((1, 2, 3))  # noqa: E731
    found = passed_images(mean, images, [0.0], targets)
    expected = float((images.mean((1, 2, 3)) - targets).square().mean())
    assert float(found.loss[0, 0]) == pytest.approx(expected)
    assert float(found.loss[1, 0]) == pytest.approx(float(targets.square().mean()))
    assert found.accuracy is None and passed_images(mean, images, [0.0]).loss is None


def test_a_loss_that_is_given_is_taken_of_each_image():
    images, targets = normal(5, 1, 6, 6), normal(5, 2, seed=1).sigmoid()
    pair = lambda x: x[:, 0, 0, :2]  # noqa: E731
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    found = passed_images(pair, images, [1.0], targets, loss)
    terms = [
        np.mean([math.log1p(math.exp(z)) - t * z for z, t in zip(*row, strict=True)])
        for row in zip(pair(images).tolist(), targets.tolist(), strict=True)
    ]
    assert float(found.loss[0, 0]) == pytest.approx(np.mean(terms))
    assert float(found.loss_error[0, 0]) == pytest.approx(np.std(terms, ddof=1) / 5**0.5)


@pytest.mark.parametrize("n", [1, 5])
def test_outputs_that_do_not_vary_have_no_relative_change(n):
    images = normal(1, 2, 8, 8).repeat(n, 1, 1, 1)
    found = passed_images(lambda x: x.square().mean((2, 3)), images, [0.2, 0.4])
    assert bool(found.change.isnan().all())


def test_outputs_that_are_nan_are_neither_right_nor_wrong():
    images, labels = normal(3, 1, 4, 4), torch.tensor([0, 0, 0])
    broken = lambda x: torch.where(torch.arange(3)[:, None] == 1, torch.nan, torch.ones(3, 2))  # noqa: E731
    passed = passed_images(broken, images, [0.1], labels)
    shaken = fourier_heat_map(
        broken, images, 1.0, vertical=[0], horizontal=[1], labels=labels, generator=torch.Generator()
    )
    assert bool(passed.accuracy.isnan().all()) and bool(passed.loss.isnan().all())
    assert bool(shaken.error_rate.isnan().all()) and bool(shaken.change.isnan().all())


def test_what_are_no_images_or_targets_is_refused():
    for bad in (torch.zeros(3, 4), torch.zeros(2, 1, 3, 8), torch.zeros(0, 1, 8, 8), torch.zeros(2, 1, 8, 8).long()):
        for call in (
            lambda x: passed_images(torch.nn.Flatten(), x, [0.1]),
            lambda x: jacobian_spectrum(torch.nn.Flatten(), x),
            lambda x: fourier_heat_map(
                torch.nn.Flatten(), x, 1.0, vertical=[0], horizontal=[0], generator=torch.Generator()
            ),
        ):
            with pytest.raises(ValueError, match=r"`images` must be floating-point numbers of shape \(n, channels,"):
                call(bad)
    images = normal(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"labels from 0 to 15, one for each image, got torch.int64 from 3 to 16"):
        passed_images(torch.nn.Flatten(), images, [0.1], torch.tensor([3, 16]))
    with pytest.raises(ValueError, match=r"must have the shape of the outputs, \(2, 16\), got \(2,\)"):
        passed_images(torch.nn.Flatten(), images, [0.1], torch.zeros(2))
    with pytest.raises(ValueError, match="`norm` must be a positive number, got 0"):
        fourier_heat_map(torch.nn.Flatten(), images, 0.0, vertical=[0], horizontal=[0], generator=torch.Generator())


def test_means_over_images_of_a_half_precision_model_are_not_rounded_to_it():
    images, labels = normal(100, 1, 4, 4).bfloat16(), torch.zeros(100, dtype=torch.long)
    model = linear(torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16())
    found = passed_images(model, images, [1.0], labels)
    hits = int((model(images).argmax(1) == 0).sum())
    assert found.accuracy[0, 0].item() == pytest.approx(hits / 100, abs=1e-7)
    flat = fourier_heat_map(
        model, images, 1.0, vertical=[0], horizontal=[0], labels=labels, generator=torch.Generator()
    )  # fmt: skip
    assert {flat.change.dtype, found.loss.dtype} == {torch.float32}
