"""Lightning's own Trainer with the callback, against a plain loop and against itself without it."""

import csv
import signal

import h5py
import pytest
import pytorch_lightning
import torch
from integration_runs import (
    assert_same_records,
    assert_same_weights,
    batches,
    events,
    loader,
    network,
    probes,
    steps,
    weights,
)
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from loops import step_hooks
from torch import nn

from probes import ProbeManager, every
from probes.sinks.hdf5 import HDF5Sink
from probes_fourier import SpectralNorm
from probes_lightning import ProbesCallback

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:The '\w+' does not have many workers which may be a bottleneck"),
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings(r"ignore:The dirpath has changed from"),
]
EPOCHS = 2


class Classification:
    """Calls itself, or its network."""

    def __init__(self, itself=True, dropout=0.3, fail=None):
        super().__init__()
        self.net, self.itself, self.fail = network(dropout), itself, fail

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        if self.fail is not None and self.global_step == 5:
            raise self.fail
        x, y = batch
        return nn.functional.cross_entropy((self if self.itself else self.net)(x), y)

    def validation_step(self, batch, batch_idx):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Classifier(Classification, LightningModule):
    pass


class OtherClassifier(Classification, pytorch_lightning.LightningModule):
    pass


class Adversaries(LightningModule):
    """Two networks, two optimizers, manual optimization."""

    def __init__(self, fail=None):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(1)
        self.critic, self.generator = nn.Linear(6, 1), nn.Sequential(nn.Linear(2, 6), nn.Tanh())

    def forward(self, z):
        return self.critic(self.generator(z))

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        adversaries_step(self, batch, first, second, self.manual_backward)

    def validation_step(self, batch, batch_idx):
        self.log("loss", self(batch[0][:, :2]).mean())

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.critic, self.generator)]


def adversaries_step(model, batch, first, second, backward):
    x, z = batch[0], batch[0][:, :2]
    first.zero_grad()
    backward(nn.functional.softplus(-model.critic(x)).mean() + nn.functional.softplus(model(z)).mean())
    first.step()
    second.zero_grad()
    backward(nn.functional.softplus(-model(z)).mean())
    second.step()


def adversaries_probes():
    return probes()[1:]  # there are no targets


def fit(module, callback=None, epochs=EPOCHS, ckpt_path=None, callbacks=(), logger=False, trainer=Trainer, **settings):
    torch.manual_seed(3)
    fitting = trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*([callback] if callback else []), *callbacks],
        logger=logger,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )
    fitting.fit(module, loader(), loader(seed=4), ckpt_path=ckpt_path)
    return fitting


def watching(log_dir, made=None, **settings):
    return ProbesCallback(probes=made or probes(), sinks=[HDF5Sink()], log_dir=log_dir, overhead=None, **settings)


def plain(module, log_dir, made=None, watched=None, accumulate=1, precision=None, clip=None, epochs=EPOCHS):
    """The same training, as one writes it."""
    torch.manual_seed(3)
    optimizers = module.configure_optimizers()
    optimizers, schedulers = optimizers if isinstance(optimizers, tuple) else (optimizers, [])
    with ProbeManager(watched or module.net, made or probes(), None, [HDF5Sink()], log_dir, None).attach(optimizers):
        for _ in range(epochs):
            module.train()
            for count, batch in enumerate(batches(), 1):
                if isinstance(module, Adversaries):
                    adversaries_step(module, batch, *optimizers, lambda loss: loss.backward())
                    continue
                if count % accumulate == 1 % accumulate:
                    optimizers[0].zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss = nn.functional.cross_entropy(module.net(batch[0]), batch[1])
                (loss / accumulate).backward()
                if count % accumulate == 0:
                    if clip:
                        nn.utils.clip_grad_norm_(module.parameters(), clip)
                    optimizers[0].step()
            module.eval()
            with torch.no_grad():
                for batch in batches(seed=4):
                    module(batch[0][:, :2] if isinstance(module, Adversaries) else batch[0])
            for scheduler in schedulers:
                scheduler.step()
    return weights(module)


LOOPS = {
    "itself": (lambda: Classifier(), {}),
    "its network": (lambda: Classifier(itself=False), {}),
    "accumulation": (lambda: Classifier(), {"accumulate_grad_batches": 2}),
    "clipped": (lambda: Classifier(), {"gradient_clip_val": 0.1}),
    "mixed": (lambda: Classifier(), {"precision": "bf16-mixed"}),
    "manual": (lambda: Adversaries(), {}),
}


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(name, marks=[] if name in ("itself", "accumulation", "manual") else pytest.mark.slow)
        for name in LOOPS
    ],
)
def test_a_fit_is_what_it_is_without_and_measures_what_a_plain_loop_does(loop, tmp_path):
    make, settings = LOOPS[loop]
    chosen = adversaries_probes if loop == "manual" else probes
    bare, module = make(), make()
    fit(bare, **settings)
    callback = watching(tmp_path / "fit", chosen())
    fit(module, callback, **settings)
    assert_same_weights(weights(bare), weights(module))

    module = make()
    names = {"accumulate_grad_batches": "accumulate", "gradient_clip_val": "clip"}
    given = {names.get(name, name): value for name, value in settings.items()}
    watched = module if loop == "manual" else None
    assert_same_weights(weights(bare), plain(module, tmp_path / "plain", chosen(), watched, **given))
    assert_same_records(tmp_path / "fit", tmp_path / "plain")
    last = 6 if loop == "accumulation" else 12
    assert steps(tmp_path / "fit", "/buffers/sum") == list(range(0, last + 1, 2))
    assert "fault" not in events(tmp_path / "fit") and "quarantine" not in events(tmp_path / "fit")
    first = batches()[0][0]
    assert torch.equal(callback.manager.run.batches["train"].args[0], first[:, :2] if loop == "manual" else first)


@pytest.mark.parametrize(
    ("kind", "saved"),
    [
        ("Adversaries", "by the Trainer"),
        ("Classifier", "after the fit"),
        pytest.param("Classifier", "by the Trainer", marks=pytest.mark.slow),
        pytest.param("Adversaries", "after the fit", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_fit_has_the_records_of_an_uninterrupted_one(kind, saved, tmp_path):
    make = {"Classifier": lambda: Classifier(dropout=0.0), "Adversaries": Adversaries}[kind]
    chosen = {"Classifier": probes, "Adversaries": adversaries_probes}[kind]
    whole = make()
    fit(whole, watching(tmp_path / "whole", chosen()), epochs=4)

    path, saving = tmp_path / "saved.ckpt", []
    if saved == "after the fit":
        fit(make(), watching(tmp_path / "cut", chosen()), epochs=2).save_checkpoint(path)
    else:
        saving = [ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, filename="{epoch}")]
        fit(make(), watching(tmp_path / "cut", chosen()), epochs=3, callbacks=saving)  # the last epoch is lost
        path = tmp_path / "checkpoints" / "epoch=1.ckpt"
    module, callback = make(), watching(tmp_path / "cut", chosen())
    fit(module, callback, epochs=4, ckpt_path=path, callbacks=saving)
    assert_same_weights(weights(whole), weights(module))
    assert_same_records(tmp_path / "whole", tmp_path / "cut")
    assert callback.manager.run.step == 24 and not (tmp_path / "cut_2").exists()


def test_a_second_fit_goes_on_in_the_same_record(tmp_path, caplog):
    module, callback = Classifier(), watching(tmp_path / "run")
    trainer = fit(module, callback, epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), loader(seed=4))
    assert steps(tmp_path / "run") == list(range(13)) and "Another model" not in caplog.text
    fit(Classifier(), callback, epochs=1)  # another model is another run, beside it
    assert steps(tmp_path / "run_2") == list(range(7)) and "Make a ProbesCallback for each model" in caplog.text


def test_a_checkpoint_that_was_loaded_to_validate_is_not_resumed_from(tmp_path):
    module, callback = Classifier(), watching(tmp_path / "run")
    trainer = fit(module, callback, epochs=1)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), loader(seed=4))
    trainer.validate(module, loader(seed=4), ckpt_path=tmp_path / "first.ckpt", verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader(), loader(seed=4))
    assert steps(tmp_path / "run") == list(range(19))


@pytest.mark.parametrize("error", [RuntimeError("in the step"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_after_an_exception_the_file_is_closed_and_no_hook_is_left(error, tmp_path):
    module, before = Classifier(fail=error), step_hooks()
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else RuntimeError):
            fit(module, callback := watching(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning switches it off
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        assert file["outputs/train/step"][:].tolist() == list(range(6))
    assert events(tmp_path / "run")[-1] == "detach" and step_hooks() <= before
    assert callback.manager.run.ended_by == type(error).__name__
    assert not module.net._forward_hooks and not any(name.startswith("_probes") for name in vars(module.net))


@pytest.mark.parametrize(
    "method",
    [
        "attach", "state_dict",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("__init__", "load_state_dict", "detach")),
    ],
)  # fmt: skip
def test_a_fault_of_ours_does_not_stop_the_trainer(method, tmp_path, monkeypatch, caplog):
    saving = ModelCheckpoint(tmp_path / "first", save_last=True)
    fit(Classifier(dropout=0.0), watching(tmp_path / "run"), epochs=1, callbacks=[saving])
    bare, module, callback = Classifier(dropout=0.0), Classifier(dropout=0.0), watching(tmp_path / "run")
    fit(bare, epochs=2)

    def broken(*_, **__):
        raise RuntimeError("ours")

    monkeypatch.setattr(ProbeManager, method, broken)
    saving = ModelCheckpoint(tmp_path / "second")
    fit(module, callback, epochs=2, ckpt_path=tmp_path / "first/last.ckpt", callbacks=[saving])
    monkeypatch.undo()
    assert_same_weights(weights(bare), weights(module))
    assert "RuntimeError: ours" in caplog.text and list((tmp_path / "second").glob("*.ckpt"))
    if callback.manager is not None:
        callback.manager.detach()


def test_the_loggers_of_the_trainer_get_the_scalars(tmp_path):
    logger = CSVLogger(tmp_path, name="csv", version=0)
    made = [SpectralNorm(every(2)), *probes()[:1]]
    callback = watching(tmp_path / "run", made, log_to_trainer=True)
    fit(Classifier(), callback, logger=logger)
    with open(tmp_path / "csv" / "version_0" / "metrics.csv", newline="") as file:
        rows = {int(row["step"]): row["outputs/targets"] for row in csv.DictReader(file) if row["outputs/targets"]}
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        stream = file["outputs/targets"]
        assert rows.keys() == set(stream["step"][:].tolist()) == set(range(13))
        assert [float(value) for value in rows.values()] == pytest.approx(stream["value"][:], rel=1e-12)
    assert callback.trainer is None
    assert not any(name.startswith("probes/") for name in logger.experiment.metrics_keys)


class Halves(LightningModule):
    """Never called itself."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.head(self.encoder(batch[0]).relu()), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_training_step_that_does_not_call_what_is_watched_is_told_what_to_pass(tmp_path, caplog):
    fit(Halves(), watching(tmp_path / "run"), epochs=1)
    assert caplog.text.count("does not call the LightningModule itself (Halves)") == 1
    assert "e.g. 'encoder', 'head', or batches=" in caplog.text
    caplog.clear()
    callback = watching(tmp_path / "head", model="head")
    fit(Halves(), callback, epochs=1)
    assert "no batch" not in caplog.text and callback.manager.run.batches["train"].args[0].shape == (4, 8)
    assert steps(tmp_path / "head") == list(range(7))
    fit(Halves(), callback := watching(tmp_path / "function", model=lambda module: module.encoder), epochs=1)
    assert isinstance(callback.manager.run.model, nn.Linear) and callback.manager.run.model.in_features == 6


def test_a_container_of_all_layers_is_not_what_is_called(tmp_path):
    class Listed(Classifier):
        def __init__(self):
            super().__init__()
            self.layers, self.net = nn.ModuleList(self.net), None

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    fit(module := Listed(), callback := watching(tmp_path / "run"), epochs=1)
    assert callback.manager.run.model is module and steps(tmp_path / "run") == list(range(7))


def test_a_wrong_argument_is_named_where_it_is_written_or_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="No probe is named 'nothing'"):
        ProbesCallback(probes=["nothing"])
    with pytest.raises(TypeError, match="`model` must be the name of a submodule"):
        ProbesCallback(model=nn.Linear(1, 1))
    state = torch.get_rng_state()
    callback = watching(tmp_path / "run", model="nett")
    assert torch.equal(torch.get_rng_state(), state)
    module = Classifier()
    with pytest.raises(ValueError, match=r"must name a submodule of Classifier, got 'nett'. There are: 'net', 'net.0'"):
        fit(module, callback)
    assert_same_weights(weights(Classifier()), weights(module))


def test_callbacks_that_watch_different_modules_keep_their_states_apart(tmp_path):
    both = [watching(tmp_path / name, [SpectralNorm(every(1))], model=name) for name in ("critic", "generator")]
    saving = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    fit(Adversaries(), both[0], callbacks=[both[1], saving], epochs=1)
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    ids = {state["run_id"] for key, state in saved.items() if "ProbesCallback" in key}
    assert ids == {callback.manager.run.run_id for callback in both} and len(ids) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_fabric_needs_no_callback(when, tmp_path):
    def trained(log_dir=None, plain=False):
        model = network(0.3)
        optimizer = stepped = torch.optim.AdamW(model.parameters(), lr=0.01)
        manager, called, backward = None, model, torch.Tensor.backward
        if log_dir:
            manager = ProbeManager(model, probes(), sinks=[HDF5Sink()], log_dir=log_dir, overhead=None)
        if manager and (plain or when == "before"):
            manager.attach(optimizer)
        if not plain:
            fabric = Fabric(accelerator="cpu", devices=1)
            (called, stepped), backward = fabric.setup(model, optimizer), fabric.backward
        if manager and not plain and when == "after":
            manager.attach(stepped)
        torch.manual_seed(3)
        for x, y in batches():
            stepped.zero_grad()
            backward(nn.functional.cross_entropy(called(x), y))
            stepped.step()
        if manager:
            manager.detach()
        return weights(model)

    assert_same_weights(trained(), trained(tmp_path / "run"))
    assert_same_weights(trained(), trained(tmp_path / "plain", plain=True))
    assert_same_records(tmp_path / "run", tmp_path / "plain")
    assert steps(tmp_path / "run") == list(range(7))


def test_the_other_package_of_lightning_takes_the_callback_too(tmp_path):
    fit(OtherClassifier(), watching(tmp_path / "run"), trainer=pytorch_lightning.Trainer)
    assert steps(tmp_path / "run") == list(range(13))
