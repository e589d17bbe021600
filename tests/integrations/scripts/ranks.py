"""Each framework's own DDP, run by test_ranks.py under torchrun: leaves what each rank saw, and the run's file."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from integration_runs import batches, loader, network, probes

from probes import ProbeManager
from probes.sinks.hdf5 import HDF5Sink

LOSS = nn.functional.cross_entropy


def settings(log_dir):
    return {"probes": probes(), "sinks": [HDF5Sink()], "log_dir": log_dir, "overhead": None}


def digest(model):
    values = [value.numpy().tobytes() for value in model.state_dict().values()]
    return hashlib.sha256(b"".join([*values, torch.get_rng_state().numpy().tobytes()])).hexdigest()


def plain(log_dir):
    """DDP as one writes it; every rank has the same batches, so that it is the training of one process."""
    model = network()
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    manager = log_dir and ProbeManager(ddp, **settings(log_dir)).attach(optimizer)
    for _ in range(2):
        for x, y in batches():
            optimizer.zero_grad()
            LOSS(ddp(x), y).backward()
            optimizer.step()
    if manager:
        manager.detach()
    return model


def accelerate(log_dir):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    manager = log_dir and ProbeManager(prepared, **settings(log_dir)).attach(optimizer)
    for _ in range(2):
        for x, y in batches():
            optimizer.zero_grad()
            accelerator.backward(LOSS(prepared(x), y))
            optimizer.step()
    if manager:
        manager.detach()
    return model


def lightning(log_dir):
    from lightning.pytorch import LightningModule, Trainer

    from probes_lightning import ProbesCallback

    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch):
            return LOSS(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    model = Classifier()
    trainer = Trainer(
        accelerator="cpu", strategy="ddp", devices=dist.get_world_size(), max_epochs=2, use_distributed_sampler=False,
        callbacks=[ProbesCallback(**settings(log_dir))] if log_dir else [], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader())
    return model.net


def transformers(log_dir):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from probes_transformers import ProbesCallback

    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    tokens = torch.randint(16, (48, 8), generator=torch.Generator().manual_seed(1))
    chosen = {"output": lambda result: result["logits"][:, -1]}
    arguments = TrainingArguments(
        str(Path(sys.argv[1], "transformers")), max_steps=12, per_device_train_batch_size=2, save_steps=6, seed=5,
        use_cpu=True, disable_tqdm=True, report_to="none", logging_strategy="no",
    )  # fmt: skip
    callbacks = [ProbesCallback(**settings(log_dir), **chosen)] if log_dir else []
    data = [{"input_ids": row, "labels": row} for row in tokens]
    Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train()
    return model


def main():
    out, name = Path(sys.argv[1]), sys.argv[2]
    os.chdir(out)
    dist.init_process_group("gloo")
    seen = {key: digest(globals()[name](path)) for key, path in (("bare", None), ("probed", out / name / "run"))}
    (out / f"{name}.{dist.get_rank()}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()
    time.sleep(1)  # see tests/ranks/scenarios.py


if __name__ == "__main__":
    main()
