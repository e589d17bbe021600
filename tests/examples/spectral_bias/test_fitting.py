"""What Experiments 3 to 7 share."""

from collections.abc import Iterable

import pytest
import torch

from examples.frame.classification import series
from examples.frame.task import Task
from examples.spectral_bias.fitting import Fitting, Outputs, SquaredError, digits, fit, flower
from probes import Measurement, Probe, every
from probes.run import Run

SMALL = Fitting(width=16, depth=3, learning_rate=1e-2, steps=40, measure_every=10)
X = torch.linspace(-1, 1, 20)[:, None]


class Largest(Probe):
    """The largest magnitude of a parameter."""

    name = "largest"

    def measure(self, run: Run, step: int) -> Iterable[Measurement]:
        yield Measurement("largest", max(p.detach().abs().max() for p in run.model.parameters()))


def measured(folder, *names, clip=None):
    task = Task(folder, 0, torch.device("cpu"))
    due = every(10)
    fitting = Fitting(**{**vars(SMALL), "clip": clip})
    fit(fitting, task, X, X**2, [SquaredError(due), Outputs(due), Largest(due)])
    return series(folder / "log", names)


def test_a_fit_lowers_the_error_that_the_outputs_have(tmp_path):
    found = measured(tmp_path, "squared_error/train", "outputs/train")
    error = ((found["outputs/train"] - (X**2).T.numpy()) ** 2).mean(1)
    assert found["step"].tolist() == [0, 10, 20, 30, 40]
    assert error == pytest.approx(found["squared_error/train"], rel=1e-4) and error[-1] < error[0] / 2


def test_probes_see_clipped_weights(tmp_path):
    clipped, free = (measured(tmp_path / str(clip), "largest", clip=clip)["largest"] for clip in (0.1, None))
    assert clipped[0] == free[0] > 0.1  # the weights as drawn
    assert clipped[1:] == pytest.approx(0.1) and (free[1:] > 0.1).all()


def test_the_seed_of_the_weights_may_differ_from_the_seed_of_the_data(tmp_path):
    first, same, other = (_start(tmp_path / str(number), seed) for number, seed in enumerate((7, 7, 8)))
    assert (first == same).all() and (first != other).any()


def _start(folder, initialization):
    task = Task(folder, 0, torch.device("cpu"))
    fit(SMALL, task, X, X, [Outputs(every(10))], seed=initialization)
    return series(folder / "log", ["outputs/train"])["outputs/train"][0]


def test_digits_that_ship_are_threes_and_eights_of_which_none_is_in_both_parts():
    train, validation = digits(0, 0, seed=0)
    assert train.images.shape == validation.images.shape == (200, 784)
    assert set(train.labels.flatten().tolist()) == {-1.0, 1.0}
    assert torch.cdist(train.images, validation.images).min() > 0


def test_a_flower_without_petals_is_the_unit_circle():
    torch.testing.assert_close(flower(torch.arange(8) / 8, 0).norm(dim=1), torch.ones(8))
