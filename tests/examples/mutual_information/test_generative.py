import pytest
import torch
from torch import nn

from examples.frame.task import Task
from examples.mutual_information.classifier import Classifier, accuracy, fit
from examples.mutual_information.generative import (
    Discriminator,
    Generator,
    convolutions,
    dense,
    generator_of,
    initialize,
)
from probes_mine import ConvolutionalStatistics


def shapes(layers, x, kinds):
    """Shapes after each layer of these kinds, without that of the batch."""
    found = []
    for layer in layers:
        x = layer(x)
        if isinstance(layer, kinds):
            found.append(tuple(x.shape[1:]))
    return found


@pytest.mark.parametrize(
    ("image", "z_size", "channels", "start", "expected"),
    [
        ((3, 28, 28), 100, (64, 128, 256, 512), 2, [(256, 4, 4), (128, 7, 7), (64, 14, 14), (3, 28, 28)]),  # C.1
        ((1, 28, 28), 128, (64, 128, 256), 4, [(128, 7, 7), (64, 14, 14), (1, 28, 28)]),  # C.5
        ((3, 64, 64), 256, (64, 128, 256, 512), 4, [(256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]),  # C.9
    ],
)
def test_generators_have_the_sizes_of_the_tables(image, z_size, channels, start, expected):
    generator = Generator(image, z_size, channels)
    assert shapes(generator, torch.zeros(2, z_size), nn.ConvTranspose2d) == expected
    assert generator[0].out_features == channels[-1] * start**2
    assert generator(torch.randn(2, z_size)).abs().max() <= 1


def test_discriminator_has_the_sizes_of_table_c2():
    discriminator = Discriminator((3, 28, 28), (64, 128, 256, 512))
    found = shapes(discriminator.convolutions, torch.zeros(2, 3, 28, 28), nn.Conv2d)
    assert found == [(64, 14, 14), (128, 7, 7), (256, 4, 4), (512, 2, 2)]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in list(discriminator.convolutions)[:3])


def test_discriminator_of_pairs_sees_the_code():
    discriminator = Discriminator((1, 28, 28), (4, 8), nn.LeakyReLU, z_size=3, dense=16)
    x = torch.zeros(2, 1, 28, 28)
    assert discriminator(x, torch.zeros(2, 3)).shape == (2,)
    assert not torch.equal(discriminator(x, torch.zeros(2, 3)), discriminator(x, torch.ones(2, 3)))
    assert discriminator.output[0].in_features == 8 * 7 * 7 + 3 and discriminator.output[0].out_features == 16


def test_convolutions_are_normalized_after_the_first_or_not_at_all():
    kinds = [type(layer) for layer in convolutions([1, 2, 4], nn.ELU)]
    assert kinds == [nn.Conv2d, nn.ELU, nn.Conv2d, nn.BatchNorm2d, nn.ELU]
    assert nn.BatchNorm2d not in map(type, convolutions([1, 2, 4], nn.ELU, normalized=False))


def test_statistics_of_stacked_digits_has_the_sizes_of_table_c3():
    network = ConvolutionalStatistics((3, 28, 28), 100, dense=1024)
    assert network.output[1].in_features == 64 * 4 * 4 and network.output[1].out_features == 1024


def test_generator_of_depends_on_every_number():
    drawn = {torch.rand((), generator=generator_of(*numbers)).item() for numbers in ((0, 1), (1, 0), (0, 2), (0, 1, 0))}
    assert len(drawn) == 4 and torch.rand((), generator=generator_of(0, 1)).item() in drawn


@pytest.mark.parametrize("attributes", [False, True])
def test_a_classifier_is_fit_to_classes_or_to_attributes(tmp_path, attributes):
    torch.manual_seed(0)
    classes = torch.arange(200) % 2
    images = 0.1 * torch.rand(200, 1, 8, 8) + classes.view(-1, 1, 1, 1)  # dark or bright
    labels = torch.stack([classes, 1 - classes], 1).float() if attributes else classes
    classifier = Classifier((1, 8, 8), 2)
    fit(Task(tmp_path, 0, torch.device("cpu")), classifier, images, labels, steps=30)
    assert accuracy(classifier, images, labels) == 1
    assert accuracy(classifier, images[classes == 0], labels[classes == 1]) == 0
    assert not classifier.training and not any(parameter.requires_grad for parameter in classifier.parameters())


def test_initial_weights_of_linear_layers_are_normal_and_biases_zero():
    network = dense((2, 300, 300, 1), 0.01, True)
    initialize(network, 0.02)
    network.requires_grad_(False)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [float(layer.weight.std()) for layer in linear] == pytest.approx([0.02] * 3, rel=0.2)
    assert linear[1].weight.abs().max() > 4 * 0.02  # unlike uniform ones
    assert not any(layer.bias.any() for layer in linear)
    assert all((layer.weight == 1).all() for layer in network if isinstance(layer, nn.BatchNorm1d))
