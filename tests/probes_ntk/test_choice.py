"""Which samples and outputs the kernel of the probe is of, and the labels that stand beside them."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from probes_ntk_models import Do
from torch import nn

import probes_ntk.choice
import probes_ntk.probe
from probes import CannotMeasure
from probes.batches import Batch
from probes.run import Run
from probes_ntk import TangentKernel, alignment, center, eigenvalues, label_matrix, tangent_kernel
from probes_ntk.choice import ROWS, SIZES, Choice, affordable, choose, labels_of


def run_of(model, seed=0, limit=None, **batches):
    run = Run(model.eval(), Path("unused"), seed=seed, output=lambda out: out, batches=batches)
    if limit is not None:
        run.bind(run._affords, run._left_out, lambda: limit)
    return run


def told_by(probe, run):
    told = []
    run.bind(lambda plugin, seconds: True, lambda plugin, message: told.append(message), run._first_turn_limit)
    return {measurement.name: measurement for measurement in probe.measure(run, 0)}, told


@pytest.mark.parametrize("n", [2, 7, 64, 100, 5000])
@pytest.mark.parametrize("shape", [(), (1,), (10,), (50,), (1000,), (12, 300), (3, 32, 32)])
def test_a_kernel_has_at_most_1000_rows_and_prefers_samples(n, shape):
    choice = choose((n, *shape), None, 0)
    assert choice.samples * choice.count <= ROWS
    assert choice.samples == n or choice.samples * choice.count > ROWS * 0.9
    assert choice.count == (choice.width if n * choice.width <= ROWS else min(10, choice.width))
    if choice.width > 10:
        assert choice.samples >= min(n, 100)


def test_the_choice_is_that_of_the_seed_and_what_is_asked_for_is_kept():
    assert choose((100, 784), None, 3) == choose((100, 784), None, 3) != choose((100, 784), None, 4)
    assert choose((100, 784), None, 0, samples=90).samples == 90
    assert choose((500, 10), None, 0, samples=400) == Choice(400, None, (500, 10))  # ten outputs are all
    assert choose((100, 784), None, 0, outputs=784) == Choice(10, None, (100, 784))
    assert choose((100, 784), None, 0, samples=50, outputs=30).samples == 50
    fewer, more = (set(choose((100, 784), None, 0, outputs=count).outputs) for count in (10, 20))
    assert fewer < more


def test_outputs_of_labels_that_occur_come_first():
    labels = torch.tensor([3, 900, 900, 3, 3, 17, -100, 5000] + [17] * 92)
    chosen = choose((100, 1000), labels, 0).outputs
    assert {3, 17, 900} < set(chosen) and len(chosen) == 10


@pytest.mark.parametrize(
    ("shape", "place"),
    [((6, 5, 4), lambda t, v: t * 4 + v), ((6, 4, 5), lambda t, v: v * 5 + t)],
    ids=["classes last", "classes first"],
)
def test_labels_of_each_position_stand_beside_the_outputs_of_that_position(shape, place):
    labels = torch.randint(4, (6, 5), generator=torch.Generator().manual_seed(0))
    labels[2, 3] = -100
    choice = choose(shape, labels, 0, outputs=12)
    y, labelled = labels_of(labels, choice)
    for a, output in enumerate(choice.outputs):
        for i in range(6):
            expected = any(place(t, labels[i, t].item()) == output for t in range(5) if labels[i, t] >= 0)
            assert y[a, i] == expected
    third = {place(3, v) for v in range(4)}  # the outputs of the position that has no label
    assert third & set(choice.outputs)
    for a, output in enumerate(choice.outputs):
        assert labelled[a].tolist() == [True, True, output not in third, True, True, True]


@pytest.mark.parametrize("centering", ["outputs", "all", "none"])
def test_a_position_without_a_label_leaves_out_its_own_outputs_and_no_other(centering):
    torch.manual_seed(0)
    model = Do(lambda m, x: m.l(x).view(len(x), 5, 4), l=nn.Linear(4, 20))
    targets = torch.randint(4, (12, 5))
    targets[torch.rand(12, 5) < 0.4] = -100
    assert (targets == -100).any(1).all()  # of each sample some
    batch = Batch((torch.randn(12, 4),), targets=targets)
    result, told = told_by(TangentKernel(centering=centering), run_of(model, train=batch))
    kernel = tangent_kernel(model.l, batch.inputs).kernel.double()
    rows = [(4 * t + v, i) for t in range(5) for v in range(4) for i in range(12) if targets[i, t] != -100]
    y = torch.tensor([float(targets[i, a // 4] == a % 4) for a, i in rows], dtype=torch.float64)
    k = torch.stack([torch.stack([kernel[a, i, b, j] for b, j in rows]) for a, i in rows])
    same = torch.tensor([[float(a == b or centering == "all") for b, _ in rows] for a, _ in rows]).double()
    h = torch.eye(len(rows), dtype=torch.float64) - (0 if centering == "none" else same / same.sum(1))
    k, y = h @ k @ h, h @ y
    expected = (y @ k @ y / (k.norm() * y @ y)).item()
    np.testing.assert_allclose(result["ntk/alignment/train"].value, expected, rtol=1e-5)
    words = f"of the {len(rows)} of 240 outputs whose label is not -100"
    assert not told and words in result["ntk/alignment/train"].estimator


def test_all_outputs_have_the_label_matrix_of_the_pure_function():
    labels = torch.tensor([0, 2, 1, 1])
    y, labelled = labels_of(labels, Choice(4, None, (4, 3)))
    assert torch.equal(y, label_matrix(labels, 3)) and labelled.shape == y.shape and labelled.all()
    numbers = torch.randn(4, 3)
    assert torch.equal(labels_of(numbers, Choice(4, [2], (4, 3)))[0], label_matrix(numbers, 3)[[2]])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 7, 1, 1]), "labels from 0 to 7 are not all among its classes"),
        (torch.tensor([0, -3, 1, 1]), "labels from -3 to 1 are not"),
        (torch.zeros(4, 2), r"they are \(2,\) numbers a sample, and the outputs 3 numbers"),
    ],
)
def test_targets_that_do_not_go_with_the_outputs_are_refused(targets, message):
    with pytest.raises(CannotMeasure, match=message):
        labels_of(targets, Choice(4, None, (4, 3)))


@pytest.mark.parametrize("kind", ["vector", "sequence", "images"])
def test_the_kernel_of_chosen_outputs_is_a_part_of_the_whole(kind):
    torch.manual_seed(0)
    shape = {"vector": (160,), "sequence": (8, 20), "images": (10, 4, 4)}[kind]
    model = Do(lambda m, x: m.l(x).view(len(x), *shape), l=nn.Linear(4, 160))
    labels = {"vector": (30,), "sequence": (30, 8), "images": (30, 4, 4)}[kind]
    targets = torch.randint(10 if kind == "images" else 20, labels)
    batch = Batch((torch.randn(30, 4),), targets=targets)
    result, told = told_by(TangentKernel(), run_of(model, train=batch))
    choice = choose((30, *shape), targets, 0)
    assert choice.count == 10
    kernel = tangent_kernel(model.l, batch.inputs).kernel[choice.outputs][:, :, choice.outputs]
    values = eigenvalues(center(kernel, "outputs")).numpy()
    np.testing.assert_allclose(result["ntk/eigenvalues/train"].value, values, rtol=1e-4, atol=1e-4 * values[0])
    y, _ = labels_of(targets, choice)
    expected = alignment(kernel, y.T.float(), "outputs")
    np.testing.assert_allclose(result["ntk/alignment/train"].value, expected, rtol=1e-4)
    assert "30 samples and 10 of 160 outputs, drawn once" in result["ntk/alignment/train"].estimator
    assert len(told) == 1 and "10 of 160 outputs. TangentKernel(num_samples=..., num_outputs=...)" in told[0]


def test_a_turn_that_would_take_too_long_is_of_fewer_samples_then_of_fewer_outputs(monkeypatch):
    monkeypatch.setattr(probes_ntk.choice, "matrix_cost", lambda: (1e-9, 0.0))
    now = [0.0]
    monkeypatch.setattr(probes_ntk.choice, "OwnTime", lambda: lambda: now[0])
    seconds = {"of": lambda m: 0.0}

    def kernel(m):
        now[0] += seconds["of"](m)

    choice = Choice(100, None, (100, 10))

    def fit(limit, fixed=(False, False), sample=0.0):
        return affordable(kernel, sample, choice, 3, limit, fixed)

    assert fit(math.inf) == (100, 10)
    assert fit(1.1) == (100, 10)  # eigenvalues of 1000 rows: 1 s
    n, c = fit(0.5)
    assert c == 10 and 0.25 < 1e-9 * (n * c) ** 3 <= 0.5
    seconds["of"] = lambda m: 0.02 * m + 1e-3 * m * m
    n, c = fit(8)
    assert c == 10 and 4 < 0.02 * n + 1e-3 * n * n <= 8
    seconds["of"] = lambda m: 0.2 * m
    n, c = fit(1.9)
    assert c < 10 and n >= 10
    assert (
        fit(1.9, (True, False))[0] == 100 and fit(1.9, (False, True))[1] == 10 and fit(1.9, (True, True)) == (100, 10)
    )
    n, c = fit(2.5, sample=0.01)  # passes alone tell: 60 and then twice n (1 + 2 c) of them
    assert n in SIZES and n >= 10 and 0.01 * (60 + 2 * n * (1 + 2 * c)) <= 2.5 < 0.01 * (60 + 2 * 100 * (1 + 2 * c))
    with pytest.raises(CannotMeasure, match=r"The kernel of 8 samples and 2 outputs alone is predicted to take 1\.4 s"):
        fit(1.0, sample=0.01)


class Slow(nn.Module):
    """A model that takes 2 ms for each sample."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x):
        time.sleep(2e-3 * len(x))
        return self.l(x)


def test_a_first_turn_fits_its_limit_and_later_turns_keep_its_size():
    torch.manual_seed(0)
    batch = Batch((torch.randn(200, 4),), targets=torch.randint(3, (200,)))
    probe, run = TangentKernel(), run_of(Slow(), limit=0.6, train=batch)
    run.evaluate("train")
    result, told = told_by(probe, run)
    n = result["ntk/trace/train"].num_samples
    assert 2 <= n < 200 and f"{n} samples and" in result["ntk/trace/train"].estimator
    assert len(told) == 1 and f"that of {n} of 200 samples and" in told[0]
    state, size = probe.state_dict(), result["ntk/eigenvalues/train"].value.shape
    resumed = TangentKernel()
    resumed.load_state_dict(state)
    assert size != (2,)
    for later in (probe, resumed):
        again, _ = told_by(later, run_of(Slow(), limit=1e-6, train=batch))
        assert again["ntk/eigenvalues/train"].value.shape == size
    with pytest.raises(CannotMeasure, match="more than a first turn may"):
        told_by(TangentKernel(), run_of(Slow(), limit=1e-6, train=batch))
    asked, _ = told_by(TangentKernel(num_samples=20, num_outputs=2), run_of(Slow(), limit=1e-6, train=batch))
    assert asked["ntk/eigenvalues/train"].value.shape == (40,)


def test_without_a_limit_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(probes_ntk.probe, "affordable", lambda *args: pytest.fail("tried"))
    result, told = told_by(TangentKernel(), run_of(nn.Linear(4, 3), train=Batch((torch.randn(20, 4),))))
    assert result["ntk/eigenvalues/train"].value.shape == (60,) and not told
