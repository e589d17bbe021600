"""Margins, against loops over classes."""

import pytest
import torch

from probes_complexity.chain import NotDefined
from probes_complexity.margin import margins, normalized_margins, signs


def test_margins_of_several_classes_match_a_loop():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(20, 5, generator=generator)
    targets = torch.randint(0, 5, (20,), generator=generator)
    found = margins(outputs, targets)
    for row, target, margin in zip(outputs.tolist(), targets.tolist(), found.tolist(), strict=True):
        assert margin == row[target] - max(value for c, value in enumerate(row) if c != target)
    correct = outputs.argmax(1) == targets
    assert torch.equal(found > 0, correct) and found.dtype == torch.float64


@pytest.mark.parametrize("targets", [[1, -1, -1], [1, 0, 0], [1.0, 0.0, 0.0], [True, False, False]])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_margin_of_one_output_is_output_times_sign(targets, shape):
    outputs, targets = torch.tensor([2.0, 3.0, -4.0]).reshape(shape), torch.tensor(targets)
    assert margins(outputs, targets).tolist() == margins(outputs, targets[:, None]).tolist() == [2.0, -3.0, 4.0]


def test_signs_of_ones_alone_are_positive():
    assert signs(torch.ones(2)).tolist() == [1.0, 1.0]


def test_margins_of_infinite_outputs_are_not_hidden():
    assert margins(torch.tensor([[1.0, -torch.inf]]), torch.tensor([0])).item() == torch.inf
    assert margins(torch.tensor([[torch.nan, 1.0]]), torch.tensor([1])).isnan().all()


def test_normalized_margins_divide_by_the_complexity_and_the_inputs():
    assert normalized_margins(torch.tensor([[1.0, -2.0]]), torch.tensor(0.5), 4.0, 10).tolist() == [[5.0, -10.0]]


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "classes from 0 to 1, integers"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), "classes from 0 to 1, integers"),
        (torch.zeros(3, 2), torch.zeros(3), "torch.float32"),
        (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64), r"of shape \(3, 2\)"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), r"\(3, 2\) and \(4,\)"),
        (torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.int64), r"\(3, 2, 2\)"),
        (torch.zeros(3), torch.tensor([0.3, 1.0, 0.0]), "got values from 0 to 1"),
        (torch.zeros(3), torch.tensor([0, 1, 2]), "-1 and 1, or 0 and 1"),
        (torch.zeros(3, 1), torch.zeros(3, 2), r"got \(3, 2\)"),
    ],
)
def test_what_is_no_classification_has_no_margin(outputs, targets, message):
    with pytest.raises(NotDefined, match=message):
        margins(outputs, targets)


def test_normalized_margins_reject_no_samples():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        normalized_margins(torch.ones(1), 1.0, 1.0, 0)
