"""What the experiments of chapter 4 share."""

import pytest
import torch
from torch import nn

from examples.frame.classification import (
    Samples,
    Training,
    _augmented,
    classify,
    photographs,
    random_labels,
    standardized,
)
from examples.frame.models import MLP, VGG, ResNet18, kaiming
from examples.frame.task import Task


@pytest.mark.parametrize(("width", "millions"), [(64, 20.03), (16, 1.25), (8, 0.31)])
def test_vgg19_has_the_parameters_of_the_thesis(width, millions):
    assert sum(p.numel() for p in VGG(19, width).parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_vgg19_has_17_layers_and_vgg11_9():
    for depth, layers in ((19, 17), (11, 9)):
        model = VGG(depth, 4)
        assert sum(isinstance(module, nn.Linear | nn.Conv2d) for module in model) == layers
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="one of 11, 19, got 16"):
        VGG(16, 4)


def test_resnet18_has_18_layers_and_keeps_the_resolution_of_its_stem():
    model = ResNet18(4)
    main = [m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and "shortcut" not in n]
    assert len(main) == 18
    assert model.conv(torch.zeros(1, 3, 32, 32)).shape[2:] == (32, 32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_kaiming_draws_weights_of_variance_two_over_inputs_and_zero_biases():
    torch.manual_seed(0)
    model = MLP(500, 400, 2, 10)
    kaiming(model)
    assert model.linear1.weight.var().item() == pytest.approx(2 / 500, rel=0.02)
    assert all((layer.bias == 0).all() for layer in model if isinstance(layer, nn.Linear))


def test_a_share_of_the_labels_is_drawn_anew_and_some_of_them_are_right():
    labels = torch.arange(10).repeat(1000)
    noisy = random_labels(labels, 0.5, seed=3)
    assert (noisy != labels).double().mean().item() == pytest.approx(0.45, abs=0.02)
    assert torch.equal(noisy, random_labels(labels, 0.5, seed=3))
    assert torch.equal(random_labels(labels, 0.0, seed=3), labels)


def test_standardized_images_have_mean_zero_and_deviation_one_in_each_channel():
    images = torch.randn(50, 3, 8, 8) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + 5
    done = standardized(images, images)
    torch.testing.assert_close(done.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(done.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)


def test_augmented_images_are_crops_of_the_padded_image_or_its_reflection():
    image = torch.arange(1, 1 + 3 * 6 * 6.0).reshape(3, 6, 6)
    images = _augmented(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    found = set()
    for one in images:
        for flip in (False, True):
            padded = nn.functional.pad(image.flip(2) if flip else image, (4, 4, 4, 4))
            matches = [
                (flip, y, x) for y in range(9) for x in range(9) if torch.equal(one, padded[:, y : y + 6, x : x + 6])
            ]
            found.update(matches[:1])
            if matches:
                break
        else:
            pytest.fail("An augmented image is no crop.")
    assert {flip for flip, _, _ in found} == {False, True}
    assert {y for _, y, _ in found} == set(range(9)) == {x for _, _, x in found}


def test_photographs_without_a_data_set_are_digits_of_their_size():
    train, test = photographs(0, 0, seed=0)
    assert train.images.shape == test.images.shape == (1000, 3, 32, 32)
    assert not torch.equal(train.labels, test.labels)


def test_classification_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path):
    train, _ = photographs(0, 0, seed=0)
    samples, weights = Samples(train.images[:60], train.labels[:60]), []
    for steps in ([8], [3, 8]):
        task_folder = tmp_path / str(len(steps))
        for last in steps:
            torch.manual_seed(0)
            model = VGG(11, 2)
            task = Task(task_folder, 1, torch.device("cpu"))
            classify(task, model, samples, Training(0.01, last, batch_size=10, augment=True), {"train": samples}, [])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)
