"""Spectra of functions of tokens, along segments between what they are embedded as, against plain loops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import CannotMeasure
from probes.batches import Batch
from probes_fourier import FourierSpectrum, KernelSpectrum, fourier_coefficients, kernel_basis, median_width
from probes_fourier.dft import amplitude, segment_samples
from probes_fourier.embeddings import Embeddings
from probes_fourier.learned_function import LearnedFunction

T, V = 6, 11


class Reader(nn.Module):
    """Token and position embeddings, a masked mean, and an output for each position and token."""

    def __init__(self, act=torch.tanh):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.positions, self.act = nn.Embedding(V, 4), nn.Embedding(T, 4), act
        self.hidden, self.head = nn.Linear(4, 16), nn.Linear(16, V)

    def after(self, embedded, mask):
        h = self.act(3 * self.hidden(embedded + self.positions(torch.arange(T))))
        return self.head(h + (mask[..., None] * h).sum(1, keepdim=True) / mask.sum(1)[:, None, None])

    def forward(self, ids, mask):
        return self.after(self.tokens(ids), mask)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(8, T, dtype=torch.long)
    mask[::2, 4:] = 0
    return Batch(
        (torch.randint(V, (8, T), generator=generator), mask), {}, torch.randint(V, (8, T), generator=generator)
    )


@pytest.fixture
def run_of(make_run):
    def made(model, batch):
        run = make_run(model, torch.zeros(2, 1))
        run.batches["train"] = batch
        return run

    return made


def plain(model, batch, segments, points, frequencies, outputs):
    """Amplitudes of chosen outputs on segments between embeddings, one segment and one point after another."""
    ids, mask = batch.args
    first, second = segment_samples(8, segments, 0)
    found = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        start, end = model.tokens(ids[a]), model.tokens(ids[b])
        rows = [
            model.after(((1 - j / points) * start + j / points * end)[None], mask[a : a + 1]).flatten()[outputs]
            for j in range(points)
        ]
        coefficients = fourier_coefficients(torch.stack(rows).T.detach(), frequencies, detrend=True, window="hann")
        found.append(amplitude(coefficients, torch.tensor(frequencies), points))
    return torch.stack(found)


def test_the_spectrum_of_tokens_is_that_between_their_embeddings(batch, run_of, measured):
    model = Reader()
    probe = FourierSpectrum(num_points=16, num_segments=5, frequencies=[1, 2, 3])
    found = measured(probe, run_of(model, batch))
    expected = plain(model, batch, 5, 16, [1, 2, 3], list(range(T * V)))
    values = found["fourier/amplitude/train"]
    np.testing.assert_allclose(values.value, expected.square().mean(1).sqrt().mean(0), rtol=1e-4)
    assert "between embedded samples" in values.estimator
    each = found["fourier/amplitude_by_output/train"]
    chosen = each.coords["output"].values.tolist()
    assert len(chosen) == 10 and chosen == sorted(set(chosen))
    np.testing.assert_allclose(each.value, expected[:, chosen].mean(0), rtol=1e-4)


def test_the_outputs_chosen_are_those_of_frequent_labels(run_of, measured, batch):
    targets = batch.targets.clone()
    targets[:, 2] = 7  # all samples have this token at this place
    chosen = measured(FourierSpectrum(), run_of(Reader(), batch.with_targets(targets)))
    assert 2 * V + 7 in chosen["fourier/amplitude_by_output/train"].coords["output"].values


def test_of_very_many_outputs_the_chosen_are_all_that_is_measured(inputs, make_run, measured):
    told = []
    run = make_run(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1001)), inputs)
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message))
    found = measured(FourierSpectrum(num_segments=3), run)
    each, whole = found["fourier/amplitude_by_output/train"], found["fourier/amplitude/train"]
    assert each.value.shape[0] == 10 and "10 of 1,001 outputs" in whole.estimator
    assert told == [message for message in told if message.startswith("All spectra are of 10 of 1001 outputs")]
    run.output = lambda result: result[:, each.coords["output"].values.tolist()]
    run.end()
    ten = measured(FourierSpectrum(num_segments=3), run)["fourier/amplitude/train"]
    np.testing.assert_allclose(whole.value, ten.value, rtol=1e-5)


def test_a_spectrum_of_tokens_is_exact_of_a_piecewise_linear_model(batch, run_of, measured):
    model = Reader(torch.relu)
    exact = measured(FourierSpectrum(num_segments=2, frequencies=[1, 2], exact=True), run_of(model, batch))
    fine = plain(model, batch, 2, 4096, [1, 2], list(range(T * V)))
    np.testing.assert_allclose(exact["fourier/amplitude/train"].value, fine.square().mean(1).sqrt().mean(0), rtol=1e-3)


def test_the_kernel_of_tokens_is_of_their_embeddings_now(batch, run_of, measured):
    model = Reader()
    run, probe = run_of(model, batch), KernelSpectrum()
    for _ in range(2):
        points = model.tokens(batch.args[0]).flatten(1).detach()
        basis = kernel_basis(points, median_width(points))
        found = measured(probe, run)
        np.testing.assert_allclose(found["kernel_spectrum/eigenvalues/train"].value, basis.eigenvalues, rtol=1e-5)
        with torch.no_grad():
            model.tokens.weight += torch.randn_like(model.tokens.weight)
        run.end()


def test_the_model_is_left_without_hooks_and_gives_what_it_gave(batch, run_of, measured):
    model = Reader()
    before = model(*batch.args)
    measured(FourierSpectrum(), run_of(model, batch))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(*batch.args), before)


def test_an_embedding_that_is_also_called_with_other_tokens_keeps_those(run_of):
    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(V, 3)

        def forward(self, ids):
            shifted = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
            return torch.cat([self.shared(ids), self.shared(shifted)], 1).flatten(1)

    model, batch = Seq2Seq(), Batch((torch.tensor([[1, 2], [3, 4]]),))
    found = Embeddings(model, batch)
    with found.at(torch.zeros(2, 6), batch):
        output = model(*batch.args)
    assert (output[:, :6] == 0).all() and torch.equal(output[:, 6:], model(*batch.args)[:, 6:])


def test_one_embedding_of_two_tensors_of_tokens_is_two(run_of):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(V, 3)

        def forward(self, one, other):
            return self.shared(one).sum(1) - self.shared(other).sum(1)

    model = Siamese()
    run = run_of(model, Batch((torch.randint(V, (5, 4)), torch.randint(V, (5, 4)))))
    function = LearnedFunction(run, "train")
    assert function.points.shape == (5, 2 * 4 * 3)
    for samples in (torch.arange(5), torch.tensor([3]), torch.tensor([2, 2, 0])):
        values = function.values(function.points[samples], samples)
        torch.testing.assert_close(values, model(*run.batch("train").args)[samples].detach())


def test_bags_and_several_embeddings_are_one_space(run_of, measured):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.own = nn.EmbeddingBag(V, 3, mode="mean"), nn.Embedding(V, 2)

        def forward(self, words, user):
            return torch.cat([self.bag(words), self.own(user)], 1)

    model = Table()
    batch = Batch((torch.randint(V, (5, 4)), torch.randint(V, (5,))))
    assert torch.equal(Embeddings(model, batch).points, model(*batch.args))
    # The function is the identity of this space, and straight between its points.
    found = measured(FourierSpectrum(num_segments=3), run_of(model, batch))
    assert found["fourier/amplitude/train"].value.max() < 1e-6


class Embeds(nn.Module):
    """Embeds what ``how`` makes of its tokens, and adds up in each sample."""

    def __init__(self, how, samples=0):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.how, self.samples, self.head = nn.Embedding(V, 3), how, samples, nn.Linear(3, 2)

    def forward(self, ids):
        embedded = self.tokens(self.how(ids)).movedim(self.samples, 0)
        return self.head(torch.tanh(3 * embedded.reshape(len(ids), -1, 3)).sum(1))


@pytest.mark.parametrize(
    ("how", "samples", "columns"),
    [
        (lambda ids: ids.T, 1, slice(None)),
        (lambda ids: ids.T.contiguous(), 1, slice(None)),
        (lambda ids: ids[:, :-1], 0, slice(0, -1)),
        (lambda ids: ids[:, 1:3].long(), 0, slice(1, 3)),
        (lambda ids: ids[:, 2], 0, slice(2, 3)),
        (lambda ids: ids[:, 1:].T, 1, slice(1, None)),
        (lambda ids: ids.flatten(), 0, slice(None)),
    ],
    ids=["transposed", "contiguous", "but the last", "converted", "a column", "both", "in one row"],
)
@pytest.mark.parametrize("n", [5, 4], ids=["", "as many as tokens"])
def test_tokens_are_embedded_in_any_order_and_in_part(run_of, how, samples, columns, n):
    model, ids = Embeds(how, samples), torch.randint(V, (n, 4), generator=torch.Generator().manual_seed(2))
    function = LearnedFunction(run_of(model, Batch((ids,))), "train")
    expected = model.tokens(ids[:, columns]).flatten(1).detach()
    assert torch.equal(function.points, expected)
    points = torch.rand(3, expected.shape[1])
    values = function.values(points, torch.tensor([3, 0, 0]))
    torch.testing.assert_close(values, model.head(torch.tanh(3 * points.reshape(3, -1, 3)).sum(1)).detach())


def test_one_sample_whose_tokens_are_like_computed_ones_is_measured(run_of):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(V, 3)

        def forward(self, ids):
            shifted = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
            return torch.cat([self.shared(shifted), self.shared(ids)], 1).flatten(1)

    model = Shifted()
    function = LearnedFunction(run_of(model, Batch((torch.tensor([[0, 0], [3, 4]]),))), "train")
    values = function.values(torch.ones(1, 6), torch.tensor([0]))
    assert (values[:, 6:] == 1).all() and torch.equal(values[:, :6], model.shared(torch.tensor([[0, 0]])).flatten(1))


def test_bags_that_begin_at_offsets_are_embedded(run_of):
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(V, 3, mode="sum")

        def forward(self, ids):
            return self.bag(ids.flatten(), torch.arange(0, ids.numel(), ids.shape[1]))

    model, batch = Bags(), Batch((torch.randint(V, (5, 4)),))
    function = LearnedFunction(run_of(model, batch), "train")
    assert torch.equal(function.points, model(*batch.args).detach())
    assert torch.equal(function.values(torch.ones(2, 3), torch.tensor([0, 4])), torch.ones(2, 3))


@pytest.mark.parametrize("how", [lambda ids: ids + 1, lambda ids: ids[:, ::2], lambda ids: ids.flip(1)])
def test_an_embedding_of_other_integers_is_named(run_of, measured, how):
    run = run_of(Embeds(how), Batch((torch.randint(V - 1, (5, 4), generator=torch.Generator().manual_seed(3)),)))
    with pytest.raises(CannotMeasure, match="what tokens embeds is neither an integer tensor of the batch, of a row"):
        measured(FourierSpectrum(), run)


def test_without_an_embedding_the_reason_is_told(run_of, measured):
    class OneHot(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(V, 2)

        def forward(self, ids):
            return self.layer(F.one_hot(ids, V).float()).sum(1)

    run = run_of(OneHot(), Batch((torch.randint(V, (5, 4)),)))
    for probe in (FourierSpectrum(), KernelSpectrum()):
        with pytest.raises(CannotMeasure, match="no module of the model embeds its integers"):
            measured(probe, run)
        run.end()
