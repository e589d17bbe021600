"""Optimizers that update all parameters in a few kernels, and gradient scalers, which leave updates out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from probes import every
from probes_complexity import PathComplexity
from probes_ntk import TangentKernel

from .training import DEVICE, Careless, Loop, differences, perceptron, train, values, vectors

pytestmark = pytest.mark.device


def make_optimizer(kind, **settings):
    def make(parameters):
        return getattr(torch.optim, kind)(parameters, lr=0.01, **settings)

    try:
        parameter = torch.nn.Parameter(torch.ones(2, device=DEVICE))
        optimizer = make([parameter])
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no {kind} with {settings} on {DEVICE}: {str(error).splitlines()[0]}")
    return make


class Watched(Loop):
    """Takes down the norm of every update."""

    def update(self, number):
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        super().update(number)
        after = self.model.parameters()
        squares = [(one - other).cpu().double().square().sum() for one, other in zip(after, before, strict=True)]
        self.norms = [*getattr(self, "norms", []), float(sum(squares).detach().sqrt())]


@pytest.mark.parametrize("way", ["foreach", "fused"])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_updates_in_few_kernels_are_counted_seen_and_left_alone(kind, way, bare):
    optimizer = make_optimizer(kind, **{way: True})
    probed = train([PathComplexity(every(1)), Careless(every(2))], lambda: Watched(optimizer=optimizer))
    assert differences(bare(lambda: Watched(optimizer=optimizer)).state, probed.state) == []
    assert probed.manager.run.step == 6
    # Both are differences of the same float32 numbers, summed up in float64 where the device has it.
    assert values(probed.rows, "complexity/update_norm") == pytest.approx(np.array(probed.loop.norms), rel=1e-5)


class Scaled(Loop):
    """Mixed precision; gradients of the third update are infinite, so that the scaler leaves it out."""

    def __init__(self, optimizer, **settings):
        super().__init__(optimizer=optimizer, **settings)
        self.scaler = torch.amp.GradScaler(DEVICE.type, init_scale=64.0, growth_interval=2)
        self.half = torch.bfloat16 if DEVICE.type == "cpu" else torch.float16
        self.updates = 0

    def loss(self, number):
        with torch.autocast(DEVICE.type, dtype=self.half):
            return F.cross_entropy(self.called(self.x).float(), self.y)

    def update(self, number):
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss(number)).backward()
        if number == 2:
            next(self.model.parameters()).grad.view(-1)[0] = torch.inf
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.updates += any(
            not torch.equal(one, other) for one, other in zip(before, self.model.parameters(), strict=True)
        )


@pytest.mark.parametrize("way", ["foreach", "fused"])
def test_mixed_precision_with_a_scaler_counts_true_updates_and_goes_on_as_without_probes(way, bare):
    optimizer = make_optimizer("Adam", **{way: True})
    try:
        Scaled(optimizer).update(0)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no gradient scaler with {way} on {DEVICE}: {str(error).splitlines()[0]}")
    probes = [TangentKernel(every(1)), PathComplexity(every(1)), Careless(every(2))]
    probed, alone = train(probes, lambda: Scaled(optimizer)), bare(lambda: Scaled(optimizer))
    assert differences(alone.state, probed.state) == []
    assert probed.loop.scaler.state_dict() == alone.loop.scaler.state_dict()
    assert probed.manager.run.step == probed.loop.updates == 5
    steps = [row.step for row in probed.rows if row.name == "careless"]
    assert steps == [0, 2, 4]


class Whole(Loop):
    """Mixed precision around the whole update, the optimizer's step too."""

    def update(self, number):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16 if DEVICE.type == "cpu" else torch.float16):
            super().update(number)


def test_what_a_loop_in_mixed_precision_computes_is_measured_in_full_precision():
    mixed = train([TangentKernel(every(1))], lambda: Whole(perceptron, vectors), 1)
    plain = train([TangentKernel(every(1))], lambda: Loop(perceptron, vectors), 1)
    (one,), (other,) = (values(rows, "ntk/eigenvalues/train", 0) for rows in (mixed.rows, plain.rows))
    assert one.tolist() == other.tolist() and np.isfinite(one).all()
