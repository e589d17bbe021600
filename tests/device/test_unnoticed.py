"""On the device, a training with probes is bit for bit the one without, and the guard puts back what is there."""

import pytest
import torch
import torch.nn.functional as F

from probes import Measurement, Probe, every
from probes.guard.fingerprint import of_random_states
from probes.guard.unnoticed import ModelChanged, unnoticed
from probes_complexity import PathComplexity
from probes_fourier import FourierSpectrum, SpectralNorm
from probes_mine import MutualInformation
from probes_ntk import TangentKernel

from .training import DEVICE, Careless, Loop, differences, everything, images, network, train

pytestmark = pytest.mark.device

SHIPPED = [FourierSpectrum, SpectralNorm, TangentKernel, PathComplexity, MutualInformation]


@pytest.mark.parametrize("probe", [*SHIPPED, Careless], ids=lambda probe: probe.__name__)
def test_a_training_with_a_probe_is_the_one_without(probe, bare):
    with_probe = train([probe(every(3))])
    assert differences(bare().state, with_probe.state) == []
    assert with_probe.manager.run.step == 6
    assert {row.step for row in with_probe.rows if not row.name.startswith("probes/")} == {0, 3, 6}


def test_the_guard_puts_back_random_states_buffers_gradients_and_modes():
    loop = Loop()
    loop.update(0)
    torch.rand(1, device=DEVICE)  # so that its generator is in use
    states, before = dict(of_random_states()), everything(loop)
    torch.manual_seed(3)
    kept = dict(of_random_states())
    assert kept != states
    with unnoticed(loop.model, [loop.optimizer]):
        assert not loop.model.training
        loop.model.train()
        F.cross_entropy(loop.model(10 * loop.x), loop.y).backward()
        torch.manual_seed(5)
        torch.rand(3, device=DEVICE)
        assert dict(of_random_states()) != kept
    assert dict(of_random_states()) == kept
    drawn = {"drawn", "drawn on the CPU", "drawn on the device"}
    assert set(differences(before, everything(loop))) <= drawn


def test_a_parameter_that_is_changed_behind_its_version_is_detected():
    model = network().to(DEVICE)
    with pytest.raises(ModelChanged, match="a parameter was changed in place"), unnoticed(model):
        model[0].weight.data[0, 0, 0, 0] += 1e-3
    with unnoticed(model):
        model(torch.randn(4, 1, 6, 6, device=DEVICE))


class Sum(Probe):
    """The sum over the batch, which shows whether it is the same at every step."""

    name = "sum"
    needs = frozenset({"targets"})

    def measure(self, run, step):
        batch = run.batch("train")
        yield Measurement("sum/inputs", batch.args[0].double().sum() if DEVICE.type != "mps" else batch.args[0].sum())
        yield Measurement("sum/targets", batch.targets.sum())


class Streamed(Loop):
    """Copies each batch from host memory, pinned where there is an accelerator, into the same place on the device."""

    def __init__(self):
        super().__init__()
        pins = DEVICE.type in ("cuda", "xpu")
        batches = [images(32 + number) for number in range(6)]
        batches = [(x[-32:], y[-32:]) for x, y in batches]
        self.host = [(x.pin_memory(), y.pin_memory()) if pins else (x, y) for x, y in batches]

    def update(self, number):
        x, y = self.host[number]
        self.x.copy_(x, non_blocking=True)
        self.y.copy_(y, non_blocking=True)
        super().update(number)


def test_a_batch_that_the_loop_overwrites_without_waiting_is_kept_as_it_was(bare):
    with_probes = train([Sum(every(1)), Careless(every(2)), FourierSpectrum(every(2))], Streamed)
    assert differences(bare(Streamed).state, with_probes.state) == []
    x, y = Streamed().host[0]
    (kept,) = with_probes.manager.run.batches.values()
    assert torch.equal(kept.args[0].cpu(), x) and torch.equal(kept.targets.cpu(), y)
    sums = [row.value.item() for row in with_probes.rows if row.name == "sum/inputs"]
    assert len(sums) == 7 and sums == pytest.approx([float(x.double().sum())] * 7, rel=1e-4)
    assert [row.value.item() for row in with_probes.rows if row.name == "sum/targets"] == [int(y.sum())] * 7


def test_a_batch_given_in_host_memory_is_measured_on_the_device(bare):
    x, y = images()
    if DEVICE.type in ("cuda", "xpu"):
        x, y = x.pin_memory(), y.pin_memory()
    given = train([Sum(every(3)), TangentKernel(every(3))], batches={"train": (x, y)})
    shown = train([Sum(every(3)), TangentKernel(every(3))])
    assert differences(bare().state, given.state) == []
    for one, other in zip(given.rows, shown.rows, strict=True):
        assert one.name == other.name and (one.name.startswith("probes/") or (one.value == other.value).all())
