"""What the integrations are compared in: all records of a run, a small network, its data and its probes."""

import h5py
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from probes import Measurement, Probe, every
from probes_complexity import PathComplexity
from probes_fourier import SpectralNorm
from probes_ntk import TangentKernel

SAMPLES, BATCH = 24, 4


class Outputs(Probe):
    """The outputs themselves, in which every bit of the weights and of the batch shows."""

    name = "outputs"
    needs = frozenset({"targets"})

    def measure(self, run, step):
        output = run.evaluate("train")
        yield Measurement("outputs/train", output.float(), dims=("sample", "output"))
        chosen = run.batch("train").targets.reshape(run.batch("train").n, -1)[:, :1].float()
        yield Measurement("outputs/targets", chosen.sum() * output.float().sum())


class Buffers(Probe):
    """Needs nothing, and is measured all the same when the others are."""

    name = "buffers"

    def measure(self, run, step):
        numbers = [buffer.double().sum() for buffer in run.model.buffers()]
        yield Measurement("buffers/sum", sum(numbers, torch.zeros((), dtype=torch.float64)))


def probes():
    return [
        Outputs(every(1)),
        Buffers(every(2)),
        SpectralNorm(every(3)),
        PathComplexity(every(2)),
        TangentKernel(every(4)),
    ]


def network(dropout=0.0):
    torch.manual_seed(1)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def data(seed=2):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(SAMPLES, 6, generator=generator),
        torch.randint(3, (SAMPLES,), generator=generator),
    )


def batches(seed=2):
    return list(zip(*(part.split(BATCH) for part in data(seed)), strict=True))


def loader(seed=2):
    """The same, read without a draw from the global generator."""
    return DataLoader(TensorDataset(*data(seed)), BATCH, generator=torch.Generator())


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def records(log_dir):
    """All that a run whose file is closed has measured, but for when, and for what it cost."""
    found = {}

    def look(name, item):
        if name.endswith("/value") and not name.startswith("probes/"):
            stream = item.parent
            found[stream.name] = {key: stream[key][:] for key in stream if key != "wall_time"}

    with h5py.File(log_dir / "run.h5") as file:
        file.visititems(look)
    return found


def assert_same_records(one, other, least=10):
    one, other = records(one), records(other)
    assert one.keys() == other.keys() and len(one) >= least, (sorted(one), sorted(other))
    for path, variables in one.items():
        assert variables.keys() == other[path].keys(), path
        for name, values in variables.items():
            np.testing.assert_array_equal(values, other[path][name], err_msg=f"{path} {name}")


def steps(log_dir, stream="/outputs/train"):
    return records(log_dir)[stream]["step"].tolist()


def events(log_dir):
    with h5py.File(log_dir / "run.h5") as file:
        return [kind.decode() for kind in file["events/kind"][:]]
