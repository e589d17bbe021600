"""torch.compile and CUDA graphs: neither the compiled code nor what is captured is other than without probes."""

import pytest
import torch
from torch import nn

from probes import ProbeManager, every
from probes.sinks.recorder import Recorder
from probes_fourier import FourierSpectrum
from probes_ntk import TangentKernel

from .training import DEVICE, Careless, Loop, Never, differences, everything, train, values, vectors

pytestmark = pytest.mark.device

needs_graphs = pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs are CUDA's")


def flat():
    """Little to compile, with batch normalisation and dropout in it."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))


class Compiled(Loop):
    """Calls a compiled model."""

    backend = "inductor"

    def __init__(self):
        super().__init__(flat, vectors)
        torch._dynamo.reset()
        self.called = torch.compile(self.model, backend=self.backend)


class Traced(Compiled):
    """Compiled as far as no compiler of the machine is needed."""

    backend = "aot_eager"


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # what inductor recommends
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what compilers import
@pytest.mark.parametrize("make", [Traced, Compiled])
def test_a_compiled_training_is_the_one_without_probes_and_compiled_once(make, bare):
    from torch._dynamo.utils import counters

    counters.clear()
    try:
        alone = bare(make)
    except Exception as error:
        pytest.skip(f"{make.backend} does not compile here: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert counters["stats"]["unique_graphs"] == 2  # of two trainings
    counters.clear()
    probed = train([FourierSpectrum(every(2)), TangentKernel(every(3)), Careless(every(2))], make)
    assert differences(alone.state, probed.state) == []
    assert counters["stats"]["unique_graphs"] == 1
    assert probed.manager.run.step == 6


class Graphed(Loop):
    """Replays forward and backward pass as CUDA graphs; the optimizer steps outside of them."""

    def __init__(self):
        super().__init__()
        self.called = torch.cuda.make_graphed_callables(self.model, (self.x,))


@needs_graphs
def test_graphed_forward_and_backward_passes_are_as_without_probes(bare):
    x, y = Loop().x, Loop().y
    batches = {"train": (x.cpu(), y.cpu())}
    probed = train([FourierSpectrum(every(2)), TangentKernel(every(3)), Careless(every(2))], Graphed, batches=batches)
    assert differences(bare(Graphed).state, probed.state) == []
    assert probed.manager.run.step == 6
    eager = train([TangentKernel(every(3))], batches=batches)
    one, other = (values(rows, "ntk/trace/train", 0) for rows in (probed.rows, eager.rows))
    assert one == pytest.approx(other, rel=1e-5)  # not through the graph, which is of the training mode


def capturable(parameters):
    return torch.optim.Adam(parameters, lr=0.01, capturable=True)


class Captured(Loop):
    """Captures a whole update, after three on a side stream, and replays it."""

    def __init__(self):
        super().__init__(optimizer=capturable)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for number in range(3):
                super().update(number)
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)

    def capture(self):
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss(0).backward()
            self.optimizer.step()


def replayed(attached, probes=()):
    """Six replays of one graph; the manager attaches before the capture, after it, or never."""
    loop, sink, manager = Captured(), Recorder(), None
    settings = {"overhead": None, "on_error": "raise", "sinks": [sink], "batches": {"train": (loop.x, loop.y)}}
    if attached == "before":
        manager = ProbeManager(loop.model, probes, **settings).attach()
    loop.capture()
    if attached == "after":
        manager = ProbeManager(loop.model, probes, **settings).attach()
    for _ in range(6):
        loop.graph.replay()
        if attached == "after":
            manager.step()  # no optimizer is called in a replay
    if manager is not None:
        manager.detach()
    return everything(loop), sink.rows, manager


@needs_graphs
def test_an_update_is_captured_with_a_probe_attached_that_is_not_due():
    assert differences(replayed("never")[0], replayed("before", [Never()])[0]) == []


@needs_graphs
def test_replays_that_are_counted_by_hand_are_measured_and_left_alone():
    state, rows, manager = replayed("after", [TangentKernel(every(2)), Careless(every(3))])
    assert differences(replayed("never")[0], state) == []
    assert manager.run.step == 6 and {row.step for row in rows if row.name == "careless"} == {3, 6}
