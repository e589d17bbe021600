"""Labels that a model is given and compares itself, as they are or moved by one place."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import Batch, Probe, ProbeManager
from probes.loop.named_targets import IGNORED, NamedTargets, places_moved


class Language(nn.Module):
    """Predicts each token, or the next one, and returns its loss with the logits."""

    def __init__(self, places, aside=0.0):
        super().__init__()
        self.places, self.aside = places, aside
        self.embedding, self.head = nn.Embedding(9, 5), nn.Linear(5, 9)

    def forward(self, tokens, labels=None, num_items_in_batch=None):
        logits = self.head(self.embedding(tokens))
        if labels is None:
            return {"logits": logits}
        compared = logits[:, : logits.shape[1] - self.places].flatten(0, 1), labels[:, self.places :].flatten()
        loss = F.cross_entropy(*compared, reduction="mean" if num_items_in_batch is None else "sum")
        return {"loss": loss / (num_items_in_batch or 1) + self.aside, "logits": logits}


def sentences(ignored=False):
    torch.manual_seed(0)
    tokens = torch.randint(9, (7, 6))
    return tokens, torch.where(torch.rand(7, 6) < 0.3, IGNORED, tokens) if ignored else tokens


@pytest.mark.parametrize("places", [0, 1])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("items", [None, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_tells_how_labels_are_compared(places, ignored, items, dtype):
    tokens, labels = sentences(ignored)
    result = Language(places).to(dtype)(tokens, labels, items)
    assert places_moved(labels, [result["logits"]], result, items) == places
    if dtype == torch.float32 and items is not None:  # how many were counted is needed
        assert places_moved(labels, [result["logits"]], result) is None


def test_a_loss_with_something_added_tells_nothing():
    tokens, labels = sentences()
    result = Language(1, aside=0.1)(tokens, labels)
    assert places_moved(labels, [result["logits"]], result) is None


@pytest.mark.parametrize("places", [0, 1])
def test_what_may_be_either_is_not_known(places):
    tokens, labels = sentences()
    model = Language(places)
    nn.init.zeros_(model.head.weight), nn.init.zeros_(model.head.bias)
    result = model(tokens, labels)
    assert places_moved(labels, [result["logits"]], result) is None
    torch.manual_seed(1)
    small, rounded = 1e-3 * torch.randn(7, 6, 9), []
    for moved in (0, 1):  # in half precision they are the same number
        rounded.append(F.cross_entropy(small[:, : 6 - moved].flatten(0, 1), labels[:, moved:].flatten()).bfloat16())
    assert rounded[0] == rounded[1] and places_moved(labels, [small], [rounded[0], small]) is None


def test_other_labels_are_ignored_and_small_integers_have_room():
    tokens, labels = sentences(ignored=True)
    logits = Language(1)(tokens)["logits"]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert places_moved(labels.where(labels >= 0, -1), [logits], [loss, logits]) == 1
    small = tokens.to(torch.uint8)
    for named, batch in (
        (NamedTargets("labels", ("labels",), 1), Batch((tokens,), {"labels": small})),
        (NamedTargets("labels", (1,), 1), Batch((tokens, small))),
        (NamedTargets("labels", (0, "labels"), 1), Batch(({"tokens": tokens, "labels": small},))),
    ):
        expected = torch.cat([tokens[:, 1:], torch.full((7, 1), IGNORED)], 1)
        assert torch.equal(named.of(batch), expected)
    assert places_moved(labels, [logits[:, :-1]], [loss, logits[:, :-1]]) is None  # fewer outputs than labels
    assert places_moved(labels, [logits], [loss, logits], items=torch.ones(3)) == 1


def test_labels_moved_by_one_place_already_are_not_moved_again():
    sentence = torch.randint(9, (7, 7), generator=torch.Generator().manual_seed(0))
    tokens, labels = sentence[:, :-1], sentence[:, 1:].contiguous()
    model = Language(0)
    nn.init.zeros_(model.head.weight), nn.init.zeros_(model.head.bias)
    result = model(tokens, labels)
    assert places_moved(labels, [result["logits"]], result, inputs=[torch.ones(7), tokens]) == 0
    assert places_moved(labels, [result["logits"]], result, inputs=[torch.ones(7), labels]) is None


def test_the_losses_of_several_parts_are_averaged():
    tokens, labels = sentences()
    logits = Language(1)(tokens)["logits"]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert places_moved(labels, [logits], [torch.stack([loss - 0.25, loss + 0.25]), logits]) == 1


def test_where_nothing_can_be_compared_labels_are_as_they_are():
    tokens, labels = sentences()
    logits = Language(1)(tokens)["logits"]
    assert places_moved(labels, [logits], {"logits": logits}) is None  # no loss: they may be a condition
    assert places_moved(labels[:, 0], [logits[:, 0]], [logits[:, 0, 0], logits[:, 0]]) is None  # a number a sample
    assert places_moved(labels[:, 0], [logits[:, 0]], [logits.mean(), logits]) == 0  # no sequence
    assert places_moved(labels.float(), [logits], [logits.mean(), logits]) == 0  # no classes


class Keeps(Probe):
    def measure(self, run, step):
        self.batch = run.batch("train")
        return []


class OfDict(Language):
    def forward(self, batch):
        return super().forward(batch["tokens"], batch["labels"])


@pytest.mark.parametrize("given", ["by name", "by position", "in a dict"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("places", "aside"), [(0, 0.0), (1, 0.0), (1, 0.1)])
def test_targets_are_those_of_the_loss_or_none(places, aside, given, wrapped, tmp_path):
    tokens, labels = sentences()
    model, probe = (OfDict if given == "in a dict" else Language)(places, aside), Keeps()
    if wrapped:
        model = nn.DataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ProbeManager(model, [probe], log_dir=tmp_path, overhead=None).attach()
    calls = {
        "by name": lambda: model(tokens, labels=labels),
        "by position": lambda: model(tokens, labels),
        "in a dict": lambda: model({"tokens": tokens, "labels": labels}),
    }
    calls[given]()["loss"].backward()
    optimizer.step()
    report = manager.report()
    manager.detach()
    if aside:
        assert probe.batch.targets is None
        return
    moved = torch.cat([labels[:, 1:], torch.full((7, 1), IGNORED)], 1) if places else labels
    assert torch.equal(probe.batch.targets, moved)
    assert ("moved by one place as in its loss" in report) == bool(places)


class Generator(nn.Module):
    """Samples of the classes that it is asked for."""

    def __init__(self):
        super().__init__()
        self.classes, self.body = nn.Embedding(4, 3), nn.Linear(5, 6)

    def forward(self, noise, labels):
        return self.body(torch.cat([noise, self.classes(labels)], 1))


@pytest.mark.parametrize("by_position", [False, True])
def test_the_condition_of_a_generator_is_no_target(by_position, tmp_path):
    model, probe, noise, labels = Generator(), Keeps(), torch.randn(7, 2), torch.randint(4, (7,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ProbeManager(model, [probe], log_dir=tmp_path, overhead=None).attach()
    (model(noise, labels) if by_position else model(noise, labels=labels)).sigmoid().log().mean().backward()
    optimizer.step()
    manager.detach()
    assert probe.batch.n == 7 and probe.batch.targets is None


def test_labels_below_zero_count_for_nothing_as_in_the_loss():
    tokens, labels = sentences(ignored=True)
    labels = labels.where(labels >= 0, -1)
    found = NamedTargets("labels", ("labels",)).of(Batch((tokens,), {"labels": labels}))
    assert torch.equal(found, labels.where(labels >= 0, IGNORED))
    numbers = NamedTargets("labels", ("labels",), classes=False).of(Batch((tokens,), {"labels": labels}))
    assert torch.equal(numbers, labels)


@pytest.mark.parametrize("what", ["a parameter", "an output of one sample"])
def test_a_number_that_is_no_loss_is_none(what):
    tokens, labels = sentences()
    logits = Language(1)(tokens)["logits"]
    if what == "a parameter":
        assert places_moved(labels, [logits], [logits, nn.Parameter(torch.ones(()))]) is None
    else:
        score = nn.Linear(2, 1)(torch.ones(1, 2))
        assert places_moved(torch.ones(1), [score], score) is None
