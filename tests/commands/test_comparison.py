"""Runs that differ in known places."""

import numpy as np
import pytest
import torch
from viewer_runs import write

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run
from probes.commands.comparison import compare


class Given(Probe):
    def __init__(self, values, **about):
        super().__init__(every(1))
        self.values, self.about = values, about

    def measure(self, run, step):
        if step < len(self.values):
            yield Measurement("x", self.values[step], **self.about)


def recorded(log_dir, values, **about):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [Given(values, **about)], sinks=["hdf5"], log_dir=log_dir, overhead=None)
    with manager.attach(optimizer):
        for _ in range(max(1, len(values) - 1)):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
    return open_run(log_dir)


@pytest.fixture
def difference(tmp_path):
    def of(first, second, about=None, other=None):
        runs = [
            recorded(tmp_path / name, values, **(more or {}))
            for name, values, more in (("a", first, about), ("b", second, about if other is None else other))
        ]
        (found,) = compare(*runs)
        return found

    return of


def test_equal_runs_are_equal(difference):
    found = difference([1.0, np.nan, np.inf], [1.0, np.nan, np.inf])
    assert found.within() and (found.common, found.different, found.absolute) == (3, 0, 0.0)


def test_the_first_and_the_largest_difference_are_found(difference):
    found = difference([1.0, 2.0, -4.0, 1.0], [1.0, 2.5, -4.0, 1.25])
    assert (found.different, found.first, found.absolute, found.relative) == (2, 1, 0.5, 0.125)
    assert not found.within(0.1) and found.within(0.125)


def test_a_difference_of_the_last_bit_is_one(difference):
    found = difference([1.0], [np.nextafter(1.0, 2.0)])
    assert not found.within() and found.within(1e-15)


@pytest.mark.parametrize("other", [np.nan, np.inf])
def test_a_number_and_none_are_infinitely_far_apart(difference, other):
    found = difference([1.0, 1.0], [1.0, other])
    assert found.absolute == np.inf and found.first == 1 and not found.within(1e9)


def test_steps_that_only_one_has_are_not_equal(difference):
    found = difference([1.0, 2.0, 3.0], [1.0, 2.0])
    assert (found.rows, found.common, found.different) == ((3, 2), 2, 0) and not found.within()


def test_complex_entries_are_compared(difference):
    axes = {"dims": ("k",)}
    found = difference([[1 + 1j, 2.0]], [[1 + 1j, 2 + 3j]], axes)
    assert found.absolute == 3.0 and found.relative == pytest.approx(3 / abs(2 + 3j))


@pytest.mark.parametrize(
    ("values", "other", "why"),
    [
        ([[1.0, 2.0]], {"dims": ("k",), "unit": "nats"}, "another unit: 1, and nats"),
        ([[1.0, 2.0]], {"dims": ("k",), "coords": {"k": Axis([5, 6])}}, "other coordinates of k"),
        ([[1.0, 2.0, 3.0]], {"dims": ("k",)}, "another shape: 2 k, and 3 k"),
        ([[1.0, 2.0]], {"dims": ("layer",)}, "another shape: 2 k, and 2 layer"),
    ],
)
def test_what_cannot_be_compared_is_named(difference, values, other, why):
    found = difference([[1.0, 2.0]], values, {"dims": ("k",)}, other)
    assert found.problem == why and not found.within(1e9)


def test_coordinates_that_are_nan_in_both_are_the_same(difference):
    axes = {"dims": ("k",), "coords": {"k": Axis([np.nan, 6.0])}}
    assert difference([[1.0, 2.0]], [[1.0, 2.0]], axes, axes).within()


def test_a_stream_of_one_run_only_is_named(tmp_path):
    (found,) = compare(recorded(tmp_path / "a", [1.0]), recorded(tmp_path / "b", []))
    assert found.rows == (1, 0) and not found.within()


def test_a_run_that_was_resumed_equals_its_copy(tmp_path):
    """Steps that it has twice are there once, with their last rows."""
    for name in ("a", "copy"):
        write(tmp_path / name, [(step, [Measurement("x", float(step))]) for step in (0, 1, 2, 3, 2, 3, 4)])
    (found,) = compare(open_run(tmp_path / "a"), open_run(tmp_path / "copy"))
    assert found.within() and found.rows == (5, 5) and found.common == 5
