"""Hugging Face's own Trainer with the callback, against a plain loop and against itself without it."""

import gc
import shutil

import h5py
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from integration_runs import Buffers, Outputs, assert_same_records, assert_same_weights, events, steps, weights
from loops import step_hooks
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from probes import ProbeManager, every, open_run
from probes.sinks.hdf5 import HDF5Sink
from probes_complexity import PathComplexity
from probes_fourier import SpectralNorm
from probes_transformers import ProbesCallback

WORDS, LENGTH = 16, 8


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Accelerate keeps settings for the whole process."""
    monkeypatch.chdir(tmp_path)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def language_model(dropout=0.1):
    torch.manual_seed(0)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    sizes = {"vocab_size": WORDS, "n_positions": LENGTH, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, **rates, bos_token_id=0, eos_token_id=0))


def texts(seed, n):
    tokens = torch.randint(WORDS, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": row} for row in tokens]


def probes():
    return [Outputs(every(1)), Buffers(every(2)), SpectralNorm(every(3)), PathComplexity(every(2))]


SETTINGS = {"overhead": None, "output": lambda result: result["logits"][:, -1]}


def watching(log_dir, **settings):
    return ProbesCallback(probes=probes(), sinks=[HDF5Sink()], log_dir=log_dir, **SETTINGS, **settings)


def trainer(model, output_dir, *callbacks, **settings):
    arguments = {
        "max_steps": 8, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.01,
        "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no", "logging_steps": 2, "warmup_steps": 2,
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 5,
    } | settings  # fmt: skip
    arguments = TrainingArguments(str(output_dir), **arguments)
    return Trainer(model, arguments, train_dataset=texts(1, 40), eval_dataset=texts(2, 8), callbacks=list(callbacks))


def plain(model, arguments, log_dir, bf16):
    """The same training, as one writes it; the Trainer makes loader, optimizer and schedule."""
    made = trainer(model, log_dir / "unused", **arguments)
    optimizer = made.create_optimizer()
    schedule = made.create_scheduler(8, optimizer)
    loader, evaluation = made.get_train_dataloader(), made.get_eval_dataloader()
    accumulation = made.args.gradient_accumulation_steps
    step = 0
    with ProbeManager(model, probes(), sinks=[HDF5Sink()], log_dir=log_dir, **SETTINGS).attach(optimizer):
        while step < 8:
            waiting = list(loader)
            while waiting and step < 8:
                batches, waiting = waiting[:accumulation], waiting[accumulation:]
                model.train()
                count = sum((batch["labels"] != -100).sum() for batch in batches)
                for batch in batches:
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        loss = model(**batch, num_items_in_batch=count).loss
                    loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                model.zero_grad()
                step += 1
                if step % 3 == 0:
                    model.eval()
                    with torch.no_grad():
                        for batch in evaluation:
                            model(**batch)
    return weights(model)


@pytest.mark.parametrize(
    ("bf16", "accumulation"),
    [
        pytest.param(False, 1, id="float32-1"),
        pytest.param(True, 2, id="bf16-2"),
        pytest.param(False, 2, id="float32-2", marks=pytest.mark.slow),
        pytest.param(True, 1, id="bf16-1", marks=pytest.mark.slow),
    ],
)
def test_a_training_is_what_it_is_without_and_measures_what_a_plain_loop_does(accumulation, bf16, tmp_path):
    arguments = {"gradient_accumulation_steps": accumulation, "bf16": bf16}
    bare, model = language_model(), language_model()
    trainer(bare, tmp_path / "bare", **arguments).train()
    callback = watching(tmp_path / "run")
    trainer(model, tmp_path / "probed", callback, **arguments).train()
    assert_same_weights(weights(bare), weights(model))
    assert_same_weights(weights(bare), plain(language_model(), arguments, tmp_path / "plain", bf16))
    assert_same_records(tmp_path / "run", tmp_path / "plain")
    assert steps(tmp_path / "run") == list(range(9)) and events(tmp_path / "run") == ["attach", "detach"]
    assert callback.manager.run.step == 8 and "the argument 'labels' of the model" in callback.manager.report()


@pytest.mark.parametrize(
    "moved", [pytest.param(False, id="in place", marks=pytest.mark.slow), pytest.param(True, id="moved")]
)
def test_a_resumed_training_has_the_records_of_an_uninterrupted_one(moved, tmp_path):
    whole = language_model()
    trainer(whole, tmp_path / "whole", watching(tmp_path / "whole")).train()

    class Crash(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 6:
                raise RuntimeError("crash")

    saving = {"save_strategy": "steps", "save_steps": 4}
    with pytest.raises(RuntimeError, match="crash"):
        trainer(language_model(), tmp_path / "out", first := watching(tmp_path / "cut"), Crash(), **saving).train()
    first.manager.detach()
    assert steps(tmp_path / "cut") == list(range(7))
    checkpoint = tmp_path / "out" / "checkpoint-4"
    if moved:
        checkpoint = shutil.move(checkpoint, tmp_path / "kept")
    model, callback = language_model(), watching(tmp_path / "cut")
    resumed = trainer(model, tmp_path / "out", callback, **saving)
    resumed.train(resume_from_checkpoint=str(checkpoint) if moved else True)
    assert_same_weights(weights(whole), weights(model))
    assert_same_records(tmp_path / "whole", tmp_path / "cut")
    assert callback.manager.run.step == 8 and not (tmp_path / "cut_2").exists()


def test_a_checkpoint_without_the_probes_begins_a_new_record(tmp_path, caplog):
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(language_model(), tmp_path / "out", **saving).train()
    model, callback = language_model(), watching(tmp_path / "run")
    trainer(model, tmp_path / "out", callback, **saving).train(str(tmp_path / "out" / "checkpoint-4"))
    assert "has no" in caplog.text and "a new record of the probes begins" in caplog.text
    assert steps(tmp_path / "run") == list(range(5))  # its own steps: it does not know of those before
    (tmp_path / "out" / "checkpoint-4" / "probes.pt").write_bytes(b"nonsense")
    trainer(model, tmp_path / "out", watching(tmp_path / "other"), **saving).train(str(tmp_path / "out/checkpoint-4"))
    assert "probes' part of the checkpoint" in caplog.text and steps(tmp_path / "other") == list(range(5))


def test_after_an_exception_the_record_can_be_read_and_is_closed_with_the_model(tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    before = step_hooks()
    model, callback = language_model(), watching(tmp_path / "run")
    interrupted = trainer(model, tmp_path / "out", callback, Interrupt())
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    callback.manager.state_dict()  # flushes
    assert open_run(tmp_path / "run")["outputs/train"]["step"].values.tolist() == list(range(6))
    del model, callback, interrupted
    AcceleratorState._reset_state(reset_partial_state=True)
    gc.collect()
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        assert file["outputs/train/step"][:].tolist() == list(range(6))
    assert step_hooks() <= before


def test_a_second_training_goes_on_in_the_same_record(tmp_path):
    callback = watching(tmp_path / "run")
    twice = trainer(language_model(), tmp_path / "out", callback, max_steps=3)
    twice.train()
    twice.train()
    assert steps(tmp_path / "run") == list(range(7))


@pytest.mark.parametrize(
    "method",
    [
        "attach", "state_dict",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("__init__", "load_state_dict", "detach")),
    ],
)  # fmt: skip
def test_a_fault_of_ours_does_not_stop_the_trainer(method, tmp_path, monkeypatch, caplog):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer(bare := language_model(), tmp_path / "out", watching(tmp_path / "run"), **saving).train()
    model, callback = language_model(), watching(tmp_path / "run")

    def broken(*_, **__):
        raise RuntimeError("ours")

    monkeypatch.setattr(ProbeManager, method, broken)
    trainer(model, tmp_path / "out", callback, **saving).train(str(tmp_path / "out" / "checkpoint-2"))
    monkeypatch.undo()
    assert_same_weights(weights(bare), weights(model))
    assert "RuntimeError: ours" in caplog.text
    if callback.manager is not None:
        callback.manager.detach()


def test_a_wrong_argument_is_named_where_it_is_written():
    with pytest.raises(ValueError, match="No probe is named 'nothing'"):
        ProbesCallback(probes=["nothing"])
    with pytest.raises(TypeError, match="`model` is that of the Trainer"):
        ProbesCallback(model=language_model())
