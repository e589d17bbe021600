"""Features of layers keep what examples have to do with each other; ranks against their closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from probes_ntk import effective_rank
from probes_representation import (
    as_features,
    covariance_eigenvalues,
    hidden_outputs,
    participation_ratio,
    rankme,
    stable_rank,
)
from probes_representation.features import as_rows
from probes_representation.layers import with_weights
from probes_representation.turn import affordable_samples, work


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frame(n, d):
    """Features of mean zero whose covariance is a multiple of the identity."""
    columns = torch.cat([torch.ones(n, 1, dtype=torch.float64), normal(n, d)], 1)
    return torch.linalg.qr(columns).Q[:, 1:]


@pytest.mark.parametrize(("n", "d"), [(7, 3), (7, 7), (7, 8), (7, 200)])
def test_features_keep_inner_products_and_mean(n, d):
    rows = normal(n, d) + 5
    found = as_features(rows)
    assert found.raw.shape == (n, min(d, n + 1))
    scaled = rows / rows.abs().max()
    torch.testing.assert_close(found.raw @ found.raw.T, scaled @ scaled.T)
    deviations = scaled - scaled.mean(0)
    torch.testing.assert_close(found.centred @ found.centred.T, deviations @ deviations.T)
    torch.testing.assert_close(
        found.centred.sum(0), torch.zeros(min(d, n + 1), dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("d", [3, 200])
def test_equal_examples_are_exactly_zero_once_centred(d):
    found = as_features(torch.full((9, d), 0.1))
    assert not found.centred.any() and found.mean.norm() > 0


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e150])
def test_features_are_the_same_at_every_scale(scale):
    rows = normal(6, 4)
    torch.testing.assert_close(as_features(scale * rows).centred, as_features(rows).centred)


@pytest.mark.parametrize("d", [2, 50])
def test_features_that_are_not_finite_are_all_nan(d):
    rows = normal(5, d)
    rows[3, 1] = math.inf
    assert as_features(rows).raw.isnan().all()


def test_positions_are_flattened_or_averaged():
    image = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert as_rows(image, 1, "flatten").shape == (2, 12)
    assert as_rows(image, 1, "mean").tolist() == image.double().mean((2, 3)).tolist()
    sequence = torch.arange(24.0).reshape(2, 4, 3)
    assert as_rows(sequence, -1, "mean").tolist() == sequence.double().mean(1).tolist()


@pytest.mark.parametrize("d", [1, 4, 30])
def test_every_rank_of_an_identity_covariance_is_the_dimension(d):
    values = covariance_eigenvalues(as_features(frame(60, d)).centred)
    for rank in (effective_rank, participation_ratio, stable_rank):
        assert float(rank(values)) == pytest.approx(d)
    assert float(rankme(frame(60, d))) == pytest.approx(d, rel=1e-4)


def test_ranks_match_numpy():
    rows = normal(40, 9) * torch.logspace(0, -2, 9, dtype=torch.float64) + 1
    spectrum = np.linalg.eigvalsh(np.cov(rows.numpy(), rowvar=False))
    values = covariance_eigenvalues(rows - rows.mean(0))
    assert values.tolist() == pytest.approx(sorted(spectrum, reverse=True))
    shares = spectrum / spectrum.sum()
    entropy = -sum(share * math.log(share) for share in shares)
    assert float(effective_rank(values)) == pytest.approx(math.exp(entropy))
    assert float(participation_ratio(values)) == pytest.approx(1 / sum(share**2 for share in shares))
    tiny = torch.full((4,), 1e-30)  # whose squares are no float32
    assert float(participation_ratio(tiny)) == pytest.approx(4) == float(stable_rank(tiny))
    assert float(stable_rank(values)) == pytest.approx(1 / max(shares))
    assert float(stable_rank(values)) < float(participation_ratio(values)) < float(effective_rank(values)) < 9
    singular = np.linalg.svd(rows.numpy())[1]
    p = singular / singular.sum() + 1e-7
    assert float(rankme(rows)) == pytest.approx(np.exp(-np.sum(p * np.log(p))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lstm, self.head = nn.Conv2d(1, 2, 3), nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
        self.norm, self.twice = nn.LayerNorm(4), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.twice(self.norm(self.twice(self.conv(x).flatten(2))))
        return self.head(self.lstm(x)[0][:, -1])


def test_layers_are_seen_once_in_the_order_of_the_calls_with_the_dimension_of_their_units():
    model, seen = Net(), {}
    call = lambda: model(torch.randn(5, 1, 4, 4))  # noqa: E731
    names = [*with_weights(model), "twice"]
    assert names == ["conv", "lstm", "head", "twice"]
    head = hidden_outputs(
        model, call, 5, names, lambda name, output, unit: seen.update({name: (tuple(output.shape), unit)})
    )
    assert seen == {
        "conv": ((5, 2, 2, 2), 1), "twice": ((5, 2, 4), -1), "lstm": ((5, 2, 6), -1), "head": ((5, 3), -1),
    }  # fmt: skip
    assert head.features.shape == (5, 6) and head.weight.shape == (3, 6) and not head.weight.requires_grad


def test_what_a_layer_gives_is_seen_before_it_is_changed_in_place():
    model, seen = nn.Sequential(nn.Linear(2, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), []
    hidden_outputs(model, lambda: model(torch.randn(50, 2)), 50, ["0"], lambda *item: seen.append(item[1].clone()))
    assert (seen[0] < 0).any()


def test_a_model_that_does_not_end_in_a_linear_layer_has_no_head():
    model = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 4), nn.Flatten())
    assert hidden_outputs(model, lambda: model(torch.randn(5, 2)), 5, [], print) is None
    single = nn.Linear(2, 1)
    assert hidden_outputs(single, lambda: single(torch.randn(5, 2)), 5, [], print) is None


class Heads(nn.Module):
    """Two heads, of which the second is called last."""

    def __init__(self, end):
        super().__init__()
        self.body, self.main, self.other, self.end = nn.Linear(2, 4), nn.Linear(4, 3), nn.Linear(4, 3), end

    def forward(self, x):
        h = self.body(x).tanh()
        return self.end(self.main(h)), self.other(h)


@pytest.mark.parametrize("end", [nn.Identity(), nn.LogSoftmax(1), nn.Softmax(1)], ids=str)
def test_the_head_is_that_which_gives_the_output(end):
    model, x = Heads(end), torch.randn(5, 2)
    head = hidden_outputs(model, lambda: model(x)[0], 5, [], print)
    assert torch.equal(head.weight, model.main.weight.detach().double())
    assert torch.equal(head.features, model.body(x).tanh().detach().double())


@pytest.mark.parametrize("end", [torch.neg, lambda scores: 2 * scores, torch.relu])
def test_an_output_that_is_made_of_a_head_otherwise_has_none(end):
    model = Heads(end)
    assert hidden_outputs(model, lambda: model(torch.randn(5, 2))[0], 5, [], print) is None


def test_no_hook_survives_an_error():
    model = Net()
    with pytest.raises(RuntimeError):
        hidden_outputs(model, lambda: model(torch.randn(5, 7)), 5, ["conv"], print)
    assert not any(module._forward_hooks for module in model.modules())


def test_fewer_samples_are_taken_where_time_is_short():
    assert affordable_samples(512, [100], 0.0, 1e-12, 1.0) == 512
    assert affordable_samples(512, [100], 0.0, 1.0, 1.0) == 32
    assert affordable_samples(20, [100], 1.0, 1.0, 0.0) == 20
    assert work(100, [1000]) < work(200, [1000]) / 4 + 1


@pytest.mark.parametrize("time", [4, 6])
def test_sequences_with_time_first_have_a_row_for_each_example(time):
    model, x, found = nn.GRU(3, 4), normal(time, 6, 3).float(), {}
    hidden_outputs(model, lambda: model(x)[0], 6, [""], lambda name, output, channel: found.update({name: output}))
    assert torch.equal(found[""], model(x)[0].transpose(0, 1))
