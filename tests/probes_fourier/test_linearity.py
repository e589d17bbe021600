"""What is not piecewise linear is refused, with the reason."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probes_fourier import breakpoints, double

f64 = torch.float64


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=f64)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (torch.tanh, "it applies `tanh` to data that depends on the input"),
        (lambda x: x.softmax(1), "`softmax`"),
        (nn.GELU(), "`gelu`"),
        (nn.SiLU(), "`silu`"),
        (nn.ELU(), "`elu`"),
        (nn.LayerNorm(4, dtype=f64), "`layer_norm`"),
        (nn.GroupNorm(2, 4, dtype=f64), "`group_norm`"),
        (nn.BatchNorm1d(4, dtype=f64), "`batch_norm` in training mode"),
        (nn.Dropout(), "`dropout` in training mode"),
        (lambda x: x * x, "`mul` to two tensors that both depend on the input"),
        (lambda x: x @ x.T, "`matmul` to two tensors"),
        (lambda x: torch.einsum("ni,nj->nij", x, x), "`einsum` to several tensors"),
        (lambda x: 1 / (x + 9), "with a denominator that depends on the input"),
        (lambda x: F.hardshrink(x), "`hardshrink`, which jumps,"),
        (lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]), "scaled_dot_product_attention"),
        (lambda x: x.max(), "`max` over all rows at once"),
    ],
)
def test_breakpoints_reject_what_is_not_piecewise_linear_and_say_why(operation, reason):
    with pytest.raises(ValueError, match="The network is not piecewise linear") as error:
        breakpoints(lambda x: operation(2 * x).relu(), line(-1, 1, 2, -2), line(1, 2, -1, 3))
    assert reason in str(error.value)
    assert "measure it on a grid instead" in str(error.value)


def test_dropout_in_eval_mode_is_no_obstacle():
    t, _ = breakpoints(lambda x: F.dropout(x, training=False).relu(), line(-1), line(1))
    assert t.tolist() == [0, 0.5, 1]


def test_the_certificate_rejects_operations_nobody_has_heard_of():
    with pytest.raises(ValueError, match=r"off the line between its breakpoints \(operations not known to be: sinc\)"):
        breakpoints(torch.sinc, line(-1), line(1))


def test_the_certificate_rejects_jumps():
    with pytest.raises(ValueError, match="a compiled part, or a jump"):
        breakpoints(lambda x: torch.where(x > 0, x + 1, x), line(-1), line(1))


def test_the_certificate_rejects_values_that_are_not_numbers():
    with pytest.raises(ValueError, match="The network is not piecewise linear"):
        breakpoints(lambda x: x * math.nan, line(-1), line(1))


def test_breakpoints_reject_a_part_in_lower_precision():
    with pytest.raises(ValueError, match=r"must compute in float64 throughout, but `float` gave torch.float32"):
        breakpoints(lambda x: x.float().relu().double(), line(-1), line(1))


def test_double_says_when_a_module_insists_on_another_precision():
    class Stubborn(nn.Module):
        def forward(self, x):
            return x @ torch.ones(2, 2)

    with pytest.raises(ValueError, match="cannot be evaluated in float64, for a module in it insists on another"):
        double(Stubborn())(torch.zeros(1, 2, dtype=f64))


def test_breakpoints_reject_more_than_they_may_find(mlp):
    with pytest.raises(ValueError, match="more than `max_breakpoints`, 4, breakpoints"):
        breakpoints(double(mlp), line(-3, -1, 2), line(4, 2, -5), max_breakpoints=4)


def test_breakpoints_reject_functions_that_leave_float64_for_constants():
    with pytest.raises(ValueError, match=r"`function` must give float64 of shape \(2, c\) or \(2,\) for 2 rows"):
        breakpoints(lambda x: torch.zeros(len(x), 1), line(-1), line(1))


def test_breakpoints_reject_rows_that_leave_the_first_dimension():
    with pytest.raises(ValueError, match="The rows of the input must stay in the first dimension"):
        breakpoints(lambda x: x.T.relu().T, line(-1, 0, 1), line(1, 2, 3))


def test_breakpoints_reject_a_segment_without_length():
    with pytest.raises(ValueError, match="`start` and `end` must differ"):
        breakpoints(torch.relu, line(1), line(1))
