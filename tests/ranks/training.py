"""One training on several ranks, and what a rank sees of it."""

import hashlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from probes import Measurement, Probe, ProbeManager, every, hookimpl
from probes_complexity import Capacity
from probes_fourier import FourierSpectrum, KernelSpectrum, SpectralNorm
from probes_mine import MutualInformation
from probes_ntk import TangentKernel

STEPS = 8


class Rows:
    """A sink that keeps the bits of everything."""

    def __init__(self):
        self.rows, self.events, self.numbers = {}, [], {}

    @hookimpl
    def write(self, measurements):
        for row in measurements:
            if row.probe != "probes":
                parts = [row.value, row.standard_error, *(axis.values for axis in row.coords.values())]
                text = repr([None if part is None else (str(part.dtype), part.tobytes()) for part in parts])
                key = f"{row.name}@{row.step}"
                if row.name.startswith(("complexity", "layers", "loop")):
                    self.numbers[key] = [
                        row.value.tolist(),
                        None if row.standard_error is None else row.standard_error.tolist(),
                    ]
                    continue
                assert key not in self.rows, key
                self.rows[key] = hashlib.sha256(
                    (text + repr((row.unit, row.estimator, row.num_samples))).encode()
                ).hexdigest()

    @hookimpl
    def on_event(self, event):
        self.events.append([event.kind, event.message])


class Updates(Probe):
    """Counts updates: must see all of them, on rank 0."""

    name = "updates"

    def __init__(self, schedule=None):
        super().__init__(schedule)
        self._count = 0

    def on_step(self, run, step):
        self._count += 1

    def measure(self, run, step):
        yield Measurement("updates", self._count)

    def state_dict(self):
        return {"count": self._count}

    def load_state_dict(self, state):
        self._count = state["count"]


def all_probes():
    return [
        TangentKernel(every(2)), FourierSpectrum(every(2)), Updates(every(1)), SpectralNorm(every(1)),
        KernelSpectrum(every(3)), MutualInformation(every(4)), Capacity(every(4)),
    ]  # fmt: skip


def network(conv=True):
    torch.manual_seed(0)
    if conv:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 16, 3)
        )
    return nn.Sequential(nn.Linear(36, 33), nn.ReLU(), nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 3))


def batches(steps=STEPS, flat=False):
    generator = torch.Generator().manual_seed(100 + dist.get_rank())  # each rank its own
    for _ in range(steps):
        images = torch.randn(24, 1, 6, 6, generator=generator)
        yield (images.flatten(1) if flat else images), torch.randint(3, (24,), generator=generator)


def plain(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def digest(model, optimizer):
    """Of all that a training is made of, on this rank."""
    state = [*model.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())]
    bits = [
        plain(item).detach().numpy().tobytes() if isinstance(item, torch.Tensor) else repr(item).encode()
        for item in state
    ]
    return hashlib.sha256(b"".join([*bits, torch.get_rng_state().numpy().tobytes()])).hexdigest()


def step(model, optimizer, inputs, targets):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def train(
    probes=None,
    on=range(99),
    wrap=DistributedDataParallel,
    flat=False,
    steps=STEPS,
    before=lambda count: None,
    make=network,
    update=step,
    **settings,
):
    """Train, with probes on the ranks ``on``; what this rank saw."""
    model = make(conv=not flat)
    model = wrap(model) or model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sink, manager = Rows(), None
    if probes is not None and dist.get_rank() in on:
        manager = ProbeManager(model, probes, sinks=[sink], **{"overhead": None, **settings}).attach()
    for count, (inputs, targets) in enumerate(batches(steps, flat)):
        before(count)
        update(model, optimizer, inputs, targets)
    seen = {"digest": digest(model, optimizer), "rows": sink.rows}
    if manager is not None:
        seen["report"] = manager.report()
        manager.detach()
    return seen | {"events": sink.events, "numbers": sink.numbers}


class Tied(nn.Module):
    """Tied weights, a user's forward pre-hook, a parametrization, buffers, a number that changes, a parameter alone."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(36, 10), nn.Linear(10, 36), nn.Linear(36, 3)
        self.decoder.weight = nn.Parameter(torch.randn(36, 10) / 6)
        self.norm = nn.BatchNorm1d(36)
        self.scale, self.calls = nn.Parameter(torch.ones(1)), 0
        nn.utils.parametrizations.weight_norm(self.encoder)
        self.head.register_forward_pre_hook(lambda module, args: (args[0] * 2,))

    def forward(self, x):
        self.calls += self.training
        return self.head(self.norm(self.decoder(self.encoder(x).tanh()))) * self.scale + 0.01 * self.calls


def shard(policy=None, mesh=None, head=True):
    """fully_shard, layer by layer; the head with the others or with the whole."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    def wrap(model):
        arguments = {} if policy is None else {"mp_policy": MixedPrecisionPolicy(**policy)}
        if mesh is not None:
            arguments["mesh"] = mesh
        for layer in list(model.children())[: None if head else -1]:
            if next(layer.parameters(), None) is not None:
                fully_shard(layer, **arguments)
        return fully_shard(model, **arguments)

    return wrap
