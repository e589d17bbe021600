"""Ignite's own engine with the handlers, against a plain loop and against itself without them."""

import h5py
import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from ignite.metrics import Loss
from integration_runs import assert_same_records, assert_same_weights, batches, events, network, probes, steps, weights
from loops import step_hooks
from torch import nn

from probes import ProbeManager
from probes.sinks.hdf5 import HDF5Sink
from probes_ignite import attach

LOSS = nn.functional.cross_entropy


def made(dropout=0.3, accumulate=1, fail=None):
    model = network(dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = create_supervised_trainer(model, optimizer, LOSS, gradient_accumulation_steps=accumulate)
    evaluator = create_supervised_evaluator(model, metrics={"loss": Loss(LOSS)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(batches(seed=4)))
    if fail is not None:

        @trainer.on(Events.ITERATION_STARTED(once=6))
        def failing():
            raise fail

    return model, optimizer, trainer


def settings(log_dir):
    return {"probes": probes(), "sinks": [HDF5Sink()], "log_dir": log_dir, "overhead": None}


def run(trainer, epochs=2):
    torch.manual_seed(3)
    trainer.run(batches(), max_epochs=epochs)


def plain(log_dir, accumulate):
    model, optimizer, _ = made(accumulate=accumulate)
    torch.manual_seed(3)
    count = 0
    with ProbeManager(model, **settings(log_dir)).attach(optimizer):
        for _ in range(2):
            for x, y in batches():
                if count % accumulate == 0:
                    optimizer.zero_grad()
                model.train()
                (LOSS(model(x), y) / accumulate).backward()
                count += 1
                if count % accumulate == 0:
                    optimizer.step()
            model.eval()
            with torch.no_grad():
                for x, _ in batches(seed=4):
                    model(x)
    return weights(model)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_is_what_it_is_without_and_measures_what_a_plain_loop_does(accumulate, tmp_path):
    bare, _, trainer = made(accumulate=accumulate)
    run(trainer)
    model, _, trainer = made(accumulate=accumulate)
    attach(trainer, model, **settings(tmp_path / "run"))
    run(trainer)
    assert_same_weights(weights(bare), weights(model))
    assert_same_weights(weights(bare), plain(tmp_path / "plain", accumulate))
    assert_same_records(tmp_path / "run", tmp_path / "plain")
    assert steps(tmp_path / "run") == list(range(12 // accumulate + 1))
    assert events(tmp_path / "run") == ["attach", "detach"]


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_resumed_run_has_the_records_of_an_uninterrupted_one(order, tmp_path):
    whole, _, trainer = made(dropout=0.0)
    attach(trainer, whole, **settings(tmp_path / "whole"))
    run(trainer, 4)

    def everything():
        model, optimizer, trainer = made(dropout=0.0)
        objects = {"model": model, "optimizer": optimizer, "trainer": trainer}
        return model, trainer, objects, attach(trainer, model, optimizer, **settings(tmp_path / "cut"))

    model, trainer, objects, manager = everything()
    objects["probes"] = manager
    saving = Checkpoint(objects, DiskSaver(tmp_path / "saved", require_empty=False), n_saved=None)
    if order == "before":
        trainer.add_event_handler(Events.EPOCH_COMPLETED, saving)
        run(trainer, 3)  # the last epoch is lost
        assert len(list((tmp_path / "saved").iterdir())) == 3
    else:
        trainer.add_event_handler(Events.COMPLETED, saving)  # called when the probes are detached
        run(trainer, 2)

    model, trainer, objects, manager = everything()
    objects["probes"] = manager
    (path,) = (tmp_path / "saved").glob("*_12.pt")
    Checkpoint.load_objects(objects, torch.load(path, weights_only=True))
    run(trainer, 4)
    assert_same_weights(weights(whole), weights(model))
    assert_same_records(tmp_path / "whole", tmp_path / "cut")
    assert manager.run.step == 24 and not (tmp_path / "cut_2").exists()


@pytest.mark.parametrize("error", [RuntimeError("in the loop"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("watched", [1, 2])
def test_an_exception_closes_the_files_and_is_raised_as_without_us(error, watched, tmp_path):
    before = step_hooks()
    model, _, trainer = made(fail=error)
    for index in range(watched):
        manager = attach(trainer, model, **settings(tmp_path / str(index)))
    with pytest.raises(type(error)):
        run(trainer)
    assert manager.run.ended_by == type(error).__name__
    for index in range(watched):
        with h5py.File(tmp_path / str(index) / "run.h5") as file:
            assert file["outputs/train/step"][:].tolist() == list(range(6))
        assert events(tmp_path / str(index))[-1] == "detach"
    assert step_hooks() <= before and not model._forward_hooks


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_an_exception_that_somebody_else_handles_is_handled_as_without_us(first, tmp_path):
    model, _, trainer = made(fail=RuntimeError("in the loop"))
    handled = []
    if first == "theirs":
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: handled.append(error))
    manager = attach(trainer, model, **settings(tmp_path / "run"))
    if first == "ours":
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: handled.append(error))
    run(trainer)
    assert len(handled) == 1 and "Not attached" not in manager.report()
    assert events(tmp_path / "run")[-1] == "detach"


def test_a_terminated_run_is_closed_and_a_second_one_goes_on_in_its_record(tmp_path):
    model, _, trainer = made()
    attach(trainer, model, **settings(tmp_path / "run"))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda: trainer.terminate(skip_completed=True))
    run(trainer, 1)
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        assert file["outputs/train/step"][:].tolist() == list(range(5))
    more = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: more.append(1))
    trainer.state.max_epochs = None
    run(trainer, 1)
    assert more and steps(tmp_path / "run") == list(range(5 + len(more)))


@pytest.mark.parametrize("method", ["attach", "detach"])
def test_a_fault_of_ours_does_not_stop_the_engine(method, tmp_path, monkeypatch, caplog):
    model, _, trainer = made()
    manager = attach(trainer, model, **settings(tmp_path / "run"))

    def broken(*_, **__):
        raise RuntimeError("ours")

    monkeypatch.setattr(ProbeManager, method, broken)
    run(trainer, 1)
    monkeypatch.undo()
    assert trainer.state.epoch == 1 and "RuntimeError: ours" in caplog.text
    assert (method == "detach") == ("Not attached" not in manager.report())
    manager.detach()


def test_what_is_not_an_engine_is_refused(model):
    with pytest.raises(TypeError, match=r"`engine` must be an ignite.engine.Engine, got Linear"):
        attach(model, model)
    with pytest.raises(ValueError, match="No probe is named 'nothing'"):
        attach(Engine(lambda *_: None), model, probes=["nothing"])
    engine = Engine(lambda *_: None)
    attach(engine, model, torch.optim.SGD(network().parameters()), probes=[], sinks=[])
    with pytest.raises(ValueError, match="holds no parameter of the watched model"):
        engine.run([0])
