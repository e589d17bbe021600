"""LayerStatistics in all kinds of loops, against a loop that looks at its own gradients and weights in float64."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn
from torch.nn import functional as F

from probes import ProbeManager, at, every
from probes.loop.backward_watch import BackwardWatch
from probes_layers import LayerStatistics

STEPS = 6


class Memory:
    def __init__(self):
        self.rows, self.events = [], []

    def write(self, run, measurements):
        self.rows += [row for row in measurements if not row.name.startswith("probes/")]

    def on_event(self, run, event):
        self.events.append(event)

    def at(self, step):
        return {row.name: row for row in self.rows if row.step == step}

    def said(self, *kinds):
        return [event.message for event in self.events if event.kind in kinds]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 40, bias=False), nn.Tanh(), nn.Linear(40, 2))


def tied():
    model = network()
    model[2].weight = nn.Parameter(torch.randn(40, 40) / 7)
    model.insert(4, nn.Linear(40, 40, bias=False))
    model[4].weight = model[2].weight
    return model


def frozen():
    model = network()
    model[2].weight.requires_grad_(False)
    return model


def batch(step, part=0):
    generator = torch.Generator().manual_seed(100 * step + part)
    x = torch.randn(16, 3, generator=generator)
    return x, (x.sum(1) > 0).long()


class Look:
    """What a loop sees of itself, just before and after its optimizer steps."""

    def __init__(self, model):
        self.model, self.rows, self.before = model, [], None

    def weights(self):
        return {name: p.detach().double().clone() for name, p in self.model.named_parameters()}

    def gradients(self, scale=1.0):
        self.before = self.weights()
        self.seen = {
            name: p.grad.detach().double() / scale for name, p in self.model.named_parameters() if p.grad is not None
        }

    def updated(self, loss):
        now = self.weights()
        self.rows.append(
            (
                self.before,
                self.seen,
                {name: now[name] - self.before[name] for name in now},
                float(loss.detach() if isinstance(loss, torch.Tensor) else loss),
            )
        )


def plain(model, look, make=lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9)):
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for step in range(STEPS):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        look.gradients()
        optimizer.step()
        look.updated(loss)


def with_optimizer(make):
    return lambda model, look: plain(model, look, make)


def accumulated(model, look):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(STEPS):
        optimizer.zero_grad()
        whole = 0.0
        for part in range(3):
            x, y = batch(step, part)
            loss = F.cross_entropy(model(x), y) / 3
            loss.backward()
            whole += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        look.gradients()
        optimizer.step()
        look.updated(whole)


def scaled(fused):
    def train(model, look):
        optimizer = torch.optim.Adam(model.parameters(), 0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(STEPS):
            x, y = batch(step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            look.gradients(scaler.get_scale())
            scaler.step(optimizer)
            look.updated(loss)
            scaler.update()

    return train


def closure(model, look):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(STEPS):
        x, y = batch(step)

        def evaluate(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            look.gradients()
            return loss

        look.updated(optimizer.step(evaluate))


def two_optimizers(model, look):
    first = torch.optim.SGD(model[0].parameters(), 0.1)
    rest = torch.optim.Adam([*model[2].parameters(), *model[4].parameters()], 0.01)
    for step in range(STEPS):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        first.zero_grad(), rest.zero_grad()
        loss.backward()
        look.gradients()
        first.step()
        rest.step()
        look.updated(loss)


def compiled(model, look):
    forward = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(STEPS):
        x, y = batch(step)
        loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        look.gradients()
        optimizer.step()
        look.updated(loss)


NESTEROV = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=True)
LOOPS = {
    "plain": (network, plain),
    "tied": (tied, plain),
    "frozen": (frozen, plain),
    "foreach nesterov": (network, with_optimizer(NESTEROV)),
    "AdamW": (network, with_optimizer(partial(torch.optim.AdamW, lr=0.01))),
    "accumulated and clipped": (network, accumulated),
    "scaled": (network, scaled(False)),
    "scaled and fused": (network, scaled(True)),
    "closure": (network, closure),
    "compiled": (network, compiled),
}  # fmt: skip


def norm(tensors):
    return math.sqrt(sum(float(item.square().sum()) for item in tensors))


def check(row, names, expected):
    found = dict(zip(row.coords["layer"].values.tolist(), row.value.tolist(), strict=True))
    assert list(found) == list(names)
    for layer, value in expected.items():
        assert found[layer] == pytest.approx(value, rel=1e-6, abs=1e-12), (row.name, layer)


@pytest.mark.parametrize("name", LOOPS)
def test_rows_are_what_the_loop_sees_of_itself(name):
    make, loop = LOOPS[name]
    bare, look = make(), None
    look = Look(bare)
    loop(bare, look)
    model, memory = make(), Memory()
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None, on_error="raise").attach():
        loop(model, Look(model))
    assert all(torch.equal(one, other) for one, other in zip(bare.parameters(), model.parameters(), strict=True))
    assert not memory.said("fault", "warning", "skipped")
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters()))
    trained = [layer for layer in layers if any(p.requires_grad for p in model[int(layer)].parameters())]
    last = None
    for step, (before, gradients, update, loss) in enumerate(look.rows, 1):
        rows = memory.at(step)
        of = lambda tensors, layer: [item for key, item in tensors.items() if key.startswith(f"{layer}.")]  # noqa: E731
        weights = {key: before[key] + update[key] for key in before}
        check(rows["layers/weight_norm"], layers, {layer: norm(of(weights, layer)) for layer in layers})
        check(rows["layers/gradient_norm"], trained, {layer: norm(of(gradients, layer)) for layer in trained})
        moved = {layer: norm(of(update, layer)) for layer in trained}
        check(rows["layers/update_norm"], trained, moved)
        ratios = {layer: moved[layer] / norm(of(before, layer)) for layer in trained}
        check(rows["layers/update_ratio"], trained, ratios)
        assert float(rows["layers/total_gradient_norm"].value) == pytest.approx(norm(gradients.values()), rel=1e-6)
        assert float(rows["layers/total_update_norm"].value) == pytest.approx(norm(update.values()), rel=1e-6)
        assert float(rows["loop/loss"].value) == pytest.approx(loss, rel=1e-6)
        zeros = {
            layer: float(
                sum((g == 0).sum() for g in of(gradients, layer)) / sum(g.numel() for g in of(gradients, layer))
            )
            for layer in trained
        }
        check(rows["layers/gradient_zero_share"], trained, zeros)
        if last is not None:
            cosines = {
                layer: sum(float((a * b).sum()) for a, b in zip(of(update, layer), of(last, layer), strict=True))
                / (moved[layer] * norm(of(last, layer)))
                for layer in trained
            }
            row = rows["layers/update_cosine"]
            for layer, value in zip(trained, row.value.tolist(), strict=True):
                assert value == pytest.approx(cosines[layer], abs=1e-6)
        last = update


def test_two_optimizers_each_show_the_last_update_that_is_over():
    bare = network()
    look = Look(bare)
    two_optimizers(bare, look)
    model, memory = network(), Memory()
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None, on_error="raise").attach():
        two_optimizers(model, Look(model))
    rows = memory.at(STEPS)
    assert rows["loop/learning_rate/SGD"].value.tolist() == [0.1]
    assert rows["loop/learning_rate/Adam"].value.tolist() == [0.01]
    for step in range(2, STEPS + 1):
        found = memory.at(step)["layers/update_norm"].value.tolist()
        now, before = look.rows[step - 1][2], look.rows[step - 2][2]
        expected = [norm([now["0.weight"], now["0.bias"]]), norm([before["2.weight"]])]
        assert found[:2] == pytest.approx(expected, rel=1e-6)


def test_only_the_updates_before_a_turn_are_looked_at():
    looked = []

    class Counting(LayerStatistics):
        def before_step(self, run, optimizer, closure):
            looked.append(run.step + 1)
            super().before_step(run, optimizer, closure)

    model, memory = network(), Memory()
    manager = ProbeManager(model, [Counting(at([0, 5]))], sinks=[memory], overhead=None, on_error="raise")
    with manager.attach():
        plain(model, Look(model))
    assert looked == [4, 5]
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert set(memory.at(5)) >= {"layers/update_cosine", "loop/loss"}


def test_lbfgs_shows_the_loss_at_the_weights_before_the_update():
    model, memory, losses = network(), Memory(), []
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None, on_error="raise").attach():
        for step in range(3):
            x, y = batch(step)

            def evaluate(x=x, y=y):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            losses.append(optimizer.step(evaluate).item())
    assert [float(memory.at(step)["loop/loss"].value) for step in (1, 2, 3)] == pytest.approx(losses, rel=1e-6)
    assert float(memory.at(3)["layers/total_update_norm"].value) > 0


def test_updates_that_no_optimizer_makes_are_seen():
    model, memory = network(), Memory()
    manager = ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None, on_error="raise").attach()
    for step in range(3):
        x, y = batch(step)
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        manager.step()
    manager.detach()
    rows = memory.at(3)
    gradients = norm(p.grad.double() for p in model.parameters())
    assert float(rows["layers/total_gradient_norm"].value) == pytest.approx(gradients, rel=1e-6)
    assert float(rows["layers/total_update_norm"].value) == pytest.approx(0.1 * gradients, rel=1e-4)
    assert float(rows["loop/loss"].value) == pytest.approx(loss.item(), rel=1e-6)


def test_gradients_that_are_freed_before_the_step_are_named():
    model, memory = network(), Memory()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None, on_error="raise").attach():
        for step in range(3):
            x, y = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            model[2].weight.grad = None
            optimizer.step()
    (said,) = memory.said("skipped")
    assert said.startswith("1 parameters had no gradient when the optimizer stepped") and "2.weight" in said
    assert memory.at(2)["layers/gradient_norm"].value[1] != memory.at(2)["layers/gradient_norm"].value[1]  # NaN
    assert memory.at(2)["layers/update_norm"].value[1] == 0


def test_a_resumed_run_has_the_rows_of_one_that_was_not(tmp_path):
    def loop(model, optimizer, steps):
        for step in steps:
            x, y = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    def start():
        model = network()
        return model, torch.optim.Adam(model.parameters(), 0.01), Memory()

    schedule = at([0, 1, 5, 6, 9])
    model, optimizer, whole = start()
    with ProbeManager(model, [LayerStatistics(schedule)], sinks=[whole], overhead=None, on_error="raise").attach():
        loop(model, optimizer, range(10))
    for cut in (3, 4, 5, 7):
        model, optimizer, first = start()
        manager = ProbeManager(model, [LayerStatistics(schedule)], sinks=[first], overhead=None, on_error="raise")
        manager.attach()
        loop(model, optimizer, range(cut))
        state = copy.deepcopy([model.state_dict(), optimizer.state_dict(), manager.state_dict()])
        manager.detach()
        model, optimizer, second = start()
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        manager = ProbeManager(model, [LayerStatistics(schedule)], sinks=[second], overhead=None, on_error="raise")
        manager.load_state_dict(state[2])
        with manager.attach():
            loop(model, optimizer, range(cut, 10))
        rows = [(row.name, row.step, row.value.tolist()) for row in first.rows + second.rows]
        assert rows == [(row.name, row.step, row.value.tolist()) for row in whole.rows]


def test_the_loss_of_a_lazy_model_is_seen_from_its_first_update():
    torch.manual_seed(0)
    model, memory = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), Memory()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None, on_error="raise").attach():
        for step in range(2):
            x, y = batch(step)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            assert float(memory.at(step + 1)["loop/loss"].value) == pytest.approx(loss.item(), rel=1e-6)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_where_backward_passes_are_compiled_no_hook_is_added():
    model, watch = network(), BackwardWatch()
    with torch._dynamo.config.patch(compiled_autograd=True):
        watch.begin(model.parameters())
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    watch.begin(model.parameters())
    assert all(p._post_accumulate_grad_hooks for p in model.parameters())
    with torch._dynamo.config.patch(compiled_autograd=True):  # it was turned on meanwhile
        watch.begin(model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_layers_whose_optimizers_take_turns_are_there_although_the_others_are_frozen_meanwhile():
    """As Lightning's toggle_optimizer does, and many a loop of a GAN."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"generator": nn.Linear(4, 4), "discriminator": nn.Linear(4, 1)})
    generator, discriminator = model.values()
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (discriminator, generator)]
    memory, losses, norms = Memory(), [], []
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach():
        for _ in range(3):
            for optimizer, own, other in zip(optimizers, (discriminator, generator), model.values(), strict=True):
                own.requires_grad_(True), other.requires_grad_(False)
                before = own.weight.detach().clone(), own.bias.detach().clone()
                optimizer.zero_grad()
                loss = discriminator(generator(torch.randn(8, 4))).square().mean()
                loss.backward()
                optimizer.step()
                own.requires_grad_(True), other.requires_grad_(True)
                changes = [new.detach() - old for new, old in zip((own.weight, own.bias), before, strict=True)]
                norms.append(math.sqrt(sum(float(change.square().sum()) for change in changes)))
                losses.append(loss.item())
    for step in (2, 3):
        row = memory.at(step)
        assert row["loop/loss"].value == pytest.approx(losses[2 * step - 2])
        update = row["layers/update_norm"]
        update = dict(zip(update.coords["layer"].values.tolist(), update.value, strict=True))
        mine = {"discriminator": norms[2 * step - 2], "generator": norms[2 * step - 3]}  # of the turn before
        assert update == pytest.approx(mine, rel=1e-5)


def test_layers_that_a_loop_freezes_at_its_beginning_beside_trained_ones_are_not_awaited():
    memory, model = Memory(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach(optimizer):
        model[2].requires_grad_(False)
        for step in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
            optimizer.step()
    assert memory.at(2)["layers/update_norm"].coords["layer"].values.tolist() == ["0", "4"]


def test_a_run_that_is_attached_again_misses_no_step(tmp_path):
    memory, model = Memory(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], log_dir=tmp_path, overhead=None)
    for _ in range(2):
        with manager.attach(optimizer):
            for step in range(3):
                optimizer.zero_grad()
                F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
                optimizer.step()
    assert [row.step for row in memory.rows if row.name == "layers/update_norm"] == [1, 2, 3, 4, 5, 6]
    assert [row.step for row in memory.rows if row.name == "loop/loss"] == [1, 2, 3, 4, 5, 6]


def test_two_of_two_batches_fit_beside_each_other():
    memory, model = Memory(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = [LayerStatistics(every(1), batch="other"), LayerStatistics(every(1))]
    manager = ProbeManager(model, probes, sinks=[memory], batches={"other": batch(7)}, overhead=None)
    with manager.attach(optimizer):
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
            optimizer.step()
    assert not memory.said("fault")
    names = [row.name for row in memory.rows if row.step == 3]
    assert len(names) == len(set(names)) and {"loop/loss", "layers/update_norm", "layers/weight_norm"} <= set(names)
    assert {"layers/activation_rms/other", "layers/activation_rms/train"} <= set(names)


def test_the_rate_of_an_optimizer_that_was_replaced_is_recorded_no_more():
    memory, model = Memory(), network()
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach():
        for phase in range(3):
            kind = (torch.optim.SGD, torch.optim.SGD, torch.optim.Adam)[phase]
            optimizer = kind(model.parameters(), lr=0.1 / 10**phase)
            for step in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
                optimizer.step()
    rates = [(row.step, row.name, *row.value.tolist()) for row in memory.rows if "_rate" in row.name]
    sgd, adam = "loop/learning_rate/SGD", "loop/learning_rate/Adam"
    assert [each[:2] for each in rates] == [(1, sgd), (2, sgd), (3, sgd), (4, sgd), (5, adam), (6, adam)]
    assert [each[2] for each in rates] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_parameter_groups_that_come_later_are_named():
    memory, model = Memory(), network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach() as manager:
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": model[4].parameters()})
            optimizer.zero_grad()
            F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
            optimizer.step()
        report = manager.report()
    assert "whose learning rates are not recorded: 1 of SGD." in report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_counted_does_not_depend_on_the_default_dtype(dtype):
    memory, model = Memory(), nn.Linear(300, 301)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach():
        try:
            torch.set_default_dtype(dtype)
            model(torch.ones(2, 300, dtype=torch.float32)).square().mean().backward()
            optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
    rows, count = memory.at(1), 301 * 301
    assert rows["layers/weight_rms"].value == pytest.approx(rows["layers/weight_norm"].value / math.sqrt(count))


def test_the_total_of_weights_that_are_not_a_number_is_none():
    model, memory = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach():
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    rows = memory.at(0)
    assert np.isnan(rows["layers/weight_norm"].value).tolist() == [True, False]
    assert math.isnan(rows["layers/total_weight_norm"].value)


def test_layers_that_come_and_go_are_in_the_totals_and_are_named():
    torch.manual_seed(0)
    memory, model = Memory(), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def weights():
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()

    def step():
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()

    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach() as manager:
        step()
        del model[2]  # what was 3 and 4 is 2 and 3 now
        for layer in (nn.Linear(2, 2), nn.Linear(2, 2)):
            model.append(layer)
            optimizer.add_param_group({"params": layer.parameters()})
        step()
        before = weights()
        step()
        report = manager.report()
    rows = memory.at(3)
    assert rows["layers/weight_norm"].coords["layer"].values.tolist() == ["0", "2", "4"]
    assert np.isnan(rows["layers/weight_norm"].value).tolist() == [False, True, False]
    assert rows["layers/total_weight_norm"].value == pytest.approx(float(weights().norm()), rel=1e-6)
    assert rows["layers/total_update_norm"].value == pytest.approx(float((weights() - before).norm()), rel=1e-5)
    assert "no weights of their own any more (replaced, removed or tied) and are NaN: 2." in report
    assert "came after the first turn and are in the totals alone: 3, 5." in report


def test_a_loss_that_is_not_seen_is_said_to_be_missing(tmp_path):
    model, memory = nn.Linear(3, 1), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [LayerStatistics(every(1))], sinks=[memory], overhead=None).attach() as manager:
        for _ in range(3):
            gradients = torch.autograd.grad(model(torch.randn(8, 3)).square().mean(), [*model.parameters()])
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    assert "loop/loss" not in memory.at(3) and "layers/update_norm" in memory.at(3)
    assert "The loss is not recorded: no call of backward() was seen" in manager.report()
