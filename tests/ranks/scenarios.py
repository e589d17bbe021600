"""Scenarios of several ranks, run by test_ranks.py under torchrun: each leaves what it saw, one file a rank."""

import contextlib
import copy
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from ranks.training import Rows, Tied, Updates, all_probes, batches, digest, network, shard, step, train
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from probes import Measurement, Probe, ProbeManager, every
from probes.ranks import channel
from probes_complexity import PathComplexity
from probes_curvature import Curvature
from probes_fourier import FourierSpectrum, SpectralNorm
from probes_layers import LayerStatistics
from probes_ntk import TangentKernel


def of_updates():
    """Probes that join what the ranks have seen of their parts."""
    return [PathComplexity(every(3)), LayerStatistics(every(3))]


class Looks(LayerStatistics):
    """Notes the updates that it looks at."""

    def __init__(self, schedule):
        super().__init__(schedule)
        self._looks = []

    def before_step(self, run, optimizer, closure):
        self._looks.append(run.step)
        super().before_step(run, optimizer, closure)


def ddp():
    """All ranks, and none."""
    return {"all": train(all_probes()), "bare": train(), "budget": train(all_probes(), overhead=0.05)}


class Averages(Probe):
    """Notes what is seen of every update's gradients."""

    watched_updates, sees_micro_batches = 1, True

    def __init__(self):
        super().__init__(every(1))
        self._seen = []

    def on_step(self, run, step):
        self._seen.append(run.micro_batches)

    def measure(self, run, step):
        return []


def noise():
    """Gradients of ranks and their averages, beside those computed apart; and the noise scale from them."""
    probe, expected, clipped = Averages(), [], nn.utils.clip_grad_norm_

    def update(model, optimizer, inputs, targets, parts=2):
        optimizer.zero_grad()
        own, inner = [], copy.deepcopy(model.module)  # else its gradients would be seen, too
        for chosen in torch.arange(len(inputs)).chunk(parts):
            loss = nn.functional.cross_entropy(inner(inputs[chosen]), targets[chosen])
            gradients = torch.autograd.grad(loss, list(inner.parameters()))
            own.append(torch.cat([each.flatten() for each in gradients]).double())
        average = sum(own)
        dist.all_reduce(average)
        expected.append([float(sum(own).square().sum()), float((average / dist.get_world_size()).square().sum())])
        for index, chosen in enumerate(torch.arange(len(inputs)).chunk(parts)):
            with contextlib.nullcontext() if index == parts - 1 else model.no_sync():
                nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        clipped(model.parameters(), 0.01)  # after the pass: it does not matter
        optimizer.step()

    def compressed(model):
        model = DistributedDataParallel(model)
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return model

    def hooked(model):
        model = DistributedDataParallel(model)
        for parameter in model.parameters():  # after our look, before the average
            parameter.register_post_accumulate_grad_hook(halve)
        return model

    def halve(parameter):
        parameter.grad.mul_(0.5)

    def unfrozen(model):
        model[0].requires_grad_(False)
        model = DistributedDataParallel(model)
        model.module[0].requires_grad_(True)  # each rank's own: nothing of it is averaged
        return model

    def stale(model):
        model.forward = lambda x: model[1:](x[:, :33])  # the first layer keeps the gradient of another task
        for parameter in model[0].parameters():
            parameter.grad = torch.ones_like(parameter)
        return DistributedDataParallel(model, find_unused_parameters=True)

    def other_task(model, optimizer, inputs, targets):
        for layer in model.module[1:]:
            layer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    seen = {}
    for name, parts in (("one", 1), ("accumulated", 2)):
        probe, expected = Averages(), []
        train([probe], flat=True, update=functools.partial(update, parts=parts))
        rows = [[float((each.squares + 2 * each.with_earlier).sum()), each.averaged_square] for each in probe._seen]
        seen[name] = {"seen": rows, "ranks": [each.ranks for each in probe._seen], "expected": expected}
    for wrap in (compressed, hooked, unfrozen, stale):
        train([probe := Averages()], flat=True, wrap=wrap, update=other_task if wrap is stale else step)
        seen[wrap.__name__] = [each is None for each in probe._seen]
    sampled = {"batches": {"train": next(batches(flat=True))}}
    seen |= {"bare": train(flat=True), "curvature": train([Curvature(every(4))], flat=True, **sampled)}
    return seen


def accumulate(model, optimizer, inputs, targets, each):
    """An update of two micro-batches, whose gradients are reduced after each, or after the last alone."""
    optimizer.zero_grad()
    for count, (x, y) in enumerate(zip(inputs.chunk(2), targets.chunk(2), strict=True)):
        model.set_requires_gradient_sync(each or count == 1)
        nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def fsdp():
    """Sharded, with probes on all ranks, on rank 0 alone, and none; beside the same training as DDP."""
    mixed = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    seen = {"bare": train(wrap=shard(), flat=True), "mixed bare": train(wrap=shard(mixed), flat=True)}
    seen["all"] = train([*all_probes(), *of_updates()], wrap=shard(), flat=True)
    seen["budget"] = train([*all_probes(), *of_updates()], wrap=shard(), flat=True, overhead=0.05)
    seen["mixed"] = train(all_probes(), wrap=shard(mixed), flat=True)
    seen["ddp"] = train([*all_probes(), *of_updates()], flat=True)
    for name in ("each", "last"):
        update = functools.partial(accumulate, each=name == "each")
        for kind, wrap in (("", shard()), (" but the head", shard(head=False))):
            seen[f"accumulated {name}{kind}"] = train([LayerStatistics(every(1))], wrap=wrap, flat=True, update=update)
    rare = {"fsdp": Looks(every(9)), "ddp": Looks(every(9))}
    for name, probe in rare.items():
        wrap = shard() if name == "fsdp" else DistributedDataParallel
        seen[f"rare {name}"] = train([probe], wrap=wrap, flat=True, steps=21) | {"looks": probe._looks}
    return seen


class Failing(Probe):
    """Whose turns fail or are interrupted on one rank."""

    def __init__(self, name, rank, what, schedule=None):
        super().__init__(schedule or every(1))
        self.name, self.__rank, self.__what = name, rank, what

    def measure(self, run, step):
        yield Measurement(f"{self.name}/norm", next(run.model.parameters()).norm())
        if step == 3 and dist.get_rank() == self.__rank:
            self.__what()


class Parts(Updates):
    """Of which rank 1 does something else than hand over its part of an update."""

    name = "parts"

    def __init__(self, what=lambda: 1):
        super().__init__(every(1))
        self.__what = what

    def rank_part(self):
        return self.__what() if dist.get_rank() == 1 and self._count == 3 else 1

    def join_parts(self, parts):
        if None in parts:
            raise ValueError("a part is missing")


def tied():
    """A model with everything that a copy of its modules must know, sharded and not."""

    def make(conv):
        torch.manual_seed(0)
        return Tied()

    def probes():
        return [TangentKernel(every(2)), SpectralNorm(every(2)), FourierSpectrum(every(2))]

    return {
        "bare": train(wrap=shard(), flat=True, make=make),
        "all": train(probes(), wrap=shard(), flat=True, make=make),
        "ddp": train(probes(), flat=True, make=make),
    }


def hybrid():
    """Sharded over two ranks, replicated over two."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicas", "shards"))
    return {
        "bare": train(wrap=shard(mesh=mesh), flat=True),
        "all": train([*all_probes(), *of_updates()], wrap=shard(mesh=mesh), flat=True),
        "ddp": train([*all_probes(), *of_updates()], flat=True),
    }


def tensor_parallel():
    """Linear layers in parallel beside one that every rank has; and the same model in whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    seen = {}
    for name in ("bare", "layers", "budget", "whole"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 3))
        if name != "whole":
            parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        optimizer, sink = torch.optim.Adam(model.parameters(), lr=0.01), Rows()
        probes = [LayerStatistics(every(2)), TangentKernel(every(2)), PathComplexity(every(2))]
        settings = {"sinks": [sink], "overhead": 0.05 if name == "budget" else None}
        manager = ProbeManager(model, probes, **settings).attach() if name != "bare" else None
        generator = torch.Generator().manual_seed(1)  # all ranks see the same
        for _ in range(7):
            step(
                model, optimizer, torch.randn(24, 36, generator=generator), torch.randint(3, (24,), generator=generator)
            )
        seen[name] = {"digest": digest(model, optimizer), "rows": sink.rows, "numbers": sink.numbers}
        if manager is not None:
            seen[name]["report"] = manager.report()
            manager.detach()
        seen[name]["events"] = sink.events
    return seen


def refused():
    """What cannot be measured is named, on every rank, and trains as it would."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def flattened(model):
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"))

    def in_parallel(model):
        mesh = init_device_mesh("cpu", (2,))
        model = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 3))  # torch wants even parts
        return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})

    return {
        f"{name}{' bare' if probes is None else ''}": train(probes and probes(), wrap=wrap, flat=True)
        for name, wrap in (("flattened", flattened), ("parallel", in_parallel))
        for probes in (None, all_probes)
    }


def interrupt():
    raise KeyboardInterrupt


def fail():
    raise ValueError("on one rank only")


def two_probes(rank=None, what=None):
    """At step 3 ``what`` happens on a rank."""
    return [Failing("one", rank, what), Failing("other", rank, what)]


def interrupted(**settings):
    """The user presses Ctrl-C in a turn, and his loop goes on."""
    seen = {}

    def update(model, optimizer, inputs, targets):
        try:
            step(model, optimizer, inputs, targets)
        except KeyboardInterrupt:
            seen["interrupt"] = True

    return train(two_probes(0, interrupt), update=update, **settings) | seen


def faults():
    """Faults of one rank, which neither the other nor the training may see."""
    channel.Channel.patience = 3.0
    seen = {}
    for kind, settings in (("ddp", {}), ("fsdp", {"wrap": shard(), "flat": True})):
        seen[f"{kind} bare"] = train(**settings)
        seen[f"{kind} right"] = train(two_probes(), **settings)
        seen[f"{kind} fails"] = train(two_probes(0, fail), **settings)
        seen[f"{kind} interrupted"] = interrupted(**settings)
        for rank in (0, 1):
            seen[f"{kind} leaves {rank}"] = leaves(rank, **settings)
            seen[f"{kind} store {rank}"] = without_store(rank, **settings)
    # of the last kind alone
    seen["fsdp slow"] = train([*two_probes(), Parts(lambda: time.sleep(5))], **settings)
    seen["fsdp part fails"] = train([*two_probes(), Parts(fail)], **settings)
    seen["fsdp part is none"] = train([*two_probes(), Parts(object)], **settings)
    seen["fsdp other probes"] = train(two_probes() if dist.get_rank() else [*two_probes(), Updates()], **settings)
    return seen


def alone():
    """Rank 0 attaches, and no other: the last, for managers find each other by their number."""
    return {
        "ddp": train(all_probes(), on=[0]),
        "fsdp": train(all_probes(), on=[0], wrap=shard(), flat=True),
    }


def leaves(rank, **settings):
    """One rank detaches, and trains on."""
    made = []

    def before(count):
        if count == 4 and dist.get_rank() == rank:
            made[0].detach()

    original = ProbeManager.attach

    def attach(self, *args):
        made.append(self)
        return original(self, *args)

    ProbeManager.attach = attach
    try:
        return train(two_probes(), before=before, **settings)
    finally:
        ProbeManager.attach = original


def without_store(rank, **settings):
    """The store is gone from some step on."""
    original = channel.Channel.has
    gone = []

    def has(self, key):
        if gone:
            with channel._reaching():
                raise ConnectionError("no store")
        return original(self, key)

    channel.Channel.has = has
    try:
        return train(
            two_probes(),
            before=lambda count: gone.append(1) if count == 4 and dist.get_rank() == rank else None,
            **settings,
        )
    finally:
        channel.Channel.has = original


def uneven():
    """A rank runs out of data."""
    seen = {}
    for name, probes in (("bare", None), ("probed", all_probes())):
        for rank in (0, 1):
            model = DistributedDataParallel(network(conv=False))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            sink, start = Rows(), time.monotonic()
            manager = probes and ProbeManager(model, probes, sinks=[sink], overhead=None).attach()
            with model.join():
                for inputs, targets in batches(4 if dist.get_rank() == rank else 8, flat=True):
                    step(model, optimizer, inputs, targets)
            if manager:
                manager.detach()
            seen[f"{name} {rank}"] = {
                "digest": digest(model, optimizer), "rows": sink.rows, "events": sink.events,
                "seconds": time.monotonic() - start,
            }  # fmt: skip
    return seen


def two_models():
    """A manager for each of two models."""
    seen = {}
    for probed in (False, True):
        models = [DistributedDataParallel(network(conv=False)) for _ in range(2)]
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
        sinks = [Rows(), Rows()]
        managers = [
            ProbeManager(model, all_probes(), sinks=[sink], overhead=None, seed=seed).attach()
            for seed, (model, sink) in enumerate(zip(models, sinks, strict=True))
            if probed
        ]
        for inputs, targets in batches(4, flat=True):
            for model, optimizer in zip(models, optimizers, strict=True):
                step(model, optimizer, inputs, targets)
        for manager in managers:
            manager.detach()
        key = "probed" if probed else "bare"
        seen[key] = {
            "digest": digest(models[0], optimizers[0]), "rows": sinks[0].rows, "events": sinks[0].events,
            "second": [digest(models[1], optimizers[1]), sinks[1].rows],
        }  # fmt: skip
    return seen


def resumed():
    """A run that goes on from a checkpoint that rank 0 has saved, beside one that was never interrupted."""
    place = Path(sys.argv[1], "checkpoint.pt")

    def run(first, last, state=None, save=False):
        model = DistributedDataParallel(network(conv=False))  # no dropout: random states are the user's
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        sink, made = Rows(), all_probes()
        manager = ProbeManager(model, made, sinks=[sink], overhead=None)
        if state:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            manager.load_state_dict(state["probes"])
        manager.attach()
        for count, (inputs, targets) in enumerate(batches(flat=True)):
            if first <= count < last:
                step(model, optimizer, inputs, targets)
        if save:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "probes": manager.state_dict()}
            if dist.get_rank() == 0:
                torch.save(state, place)
            dist.barrier()
        manager.detach()
        return {"rows": sink.rows, "events": sink.events}

    whole, begun = run(0, 8), run(0, 5, save=True)
    return {"whole": whole, "begun": begun, "resumed": run(5, 8, torch.load(place, weights_only=True))}


def killed():
    """A rank is killed in the middle of a run that writes files."""
    victim, out = int(os.environ["VICTIM"]), Path(sys.argv[1])
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    manager = ProbeManager(model, all_probes(), log_dir=out / f"killed {victim}", overhead=None).attach()
    for count, (inputs, targets) in enumerate(batches()):
        if count == 5:
            if dist.get_rank() == 0:
                manager.state_dict()  # writes every row
            dist.barrier()
            if dist.get_rank() == victim:
                os.kill(os.getpid(), signal.SIGKILL)
        step(model, optimizer, inputs, targets)


def main():
    out, *names = sys.argv[1:]
    dist.init_process_group("gloo")
    for name in names:
        start = time.monotonic()
        try:
            seen = globals()[name]()
        finally:
            print(name, dist.get_rank(), round(time.monotonic() - start, 2), file=sys.stderr)
        Path(out, f"{name}.{dist.get_rank()}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()
    # torch leaves gloo's threads running; one that has yet to let go of its last tensor when Python ends aborts the
    # process ("terminate called without an active exception"), on a busy machine and with any script: see
    # https://github.com/pytorch/pytorch/pull/179291.
    time.sleep(1)


if __name__ == "__main__":
    main()
