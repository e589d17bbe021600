"""A step at which nothing is due runs no operation of ours, and never waits for the device."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from probes import every

from .training import DEVICE, Careless, Loop, Never, train

pytestmark = pytest.mark.device


class Operations(TorchDispatchMode):
    """Takes down every operation, of forward and backward pass, of optimizers and of whoever else."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def fused(parameters):
    return torch.optim.SGD(parameters, lr=0.1, fused=True)


class Counted(Loop):
    """Takes down the operations of the last three steps of six."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.operations = []

    def update(self, number):
        if number < 3:
            super().update(number)
            return
        with Operations() as operations:
            super().update(number)
        self.operations.append(operations.seen)


def test_an_idle_step_runs_no_operation_that_the_loop_does_not():
    alone, idle = train(make=Counted).loop.operations, train([Never()], Counted).loop.operations
    assert idle == alone and len(alone[0]) > 20
    busy = train([Careless(every(5))], Counted).loop.operations  # the last step but one
    assert busy[0] == alone[0] and len(busy[1]) > len(alone[1])


class Told(Counted):
    """As under a gradient scaler, which tells a fused optimizer in a tensor on the device whether to skip."""

    def __init__(self):
        super().__init__(optimizer=fused)
        self.optimizer.grad_scale, self.optimizer.found_inf = torch.ones((), device=DEVICE), torch.zeros(
            (), device=DEVICE
        )  # fmt: skip


def test_of_an_update_that_may_have_been_skipped_an_idle_step_keeps_a_copy_of_the_verdict_and_does_not_read_it():
    try:
        alone = train(make=Told).loop.operations
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no fused SGD on {DEVICE}: {str(error).splitlines()[0]}")
    idle = train([Never()], Told).loop.operations
    for one, other in zip(alone, idle, strict=True):
        more = list(other)
        for name in one:
            more.remove(name)
        assert sorted(more) == ["aten.clone.default", "aten.detach.default"]


class Unwaiting(Loop):
    """On CUDA, whatever waits for the device in the last three steps of six is an error."""

    def update(self, number):
        if DEVICE.type != "cuda" or number < 3:
            super().update(number)
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            super().update(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("optimizer", [None, fused], ids=["momentum", "fused"])
def test_an_idle_step_does_not_wait_for_the_device(optimizer):
    def make():
        return Unwaiting(**({} if optimizer is None else {"optimizer": optimizer}))

    try:
        train(make=make)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"without probes too: {str(error).splitlines()[0]}")
    assert train([Never()], make).manager.run.step == 6


def test_what_waits_is_found_out():
    """That the tests above can fail: reading a loss is seen."""
    loop = Loop()
    with Operations() as operations:
        F.cross_entropy(loop.model(loop.x), loop.y).item()
    assert "aten._local_scalar_dense.default" in operations.seen
