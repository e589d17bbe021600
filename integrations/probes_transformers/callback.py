"""ProbesCallback: a ProbeManager for as long as a Hugging Face Trainer trains, with its state in the checkpoints."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "probes_transformers needs the Hugging Face Trainer: pip install 'torch-probes[transformers]'"
    ) from error

from probes import ProbeManager
from probes.session.lifetime import ANOTHER_MODEL, isolated
from probes.session.settings import Settings

__all__ = ["STATE_NAME", "ProbesCallback"]

STATE_NAME = "probes.pt"
"""The file in a checkpoint's folder."""

log = logging.getLogger("probes")


class ProbesCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Attaches a :class:`~probes.ProbeManager` while a Trainer trains, and keeps its state in the checkpoints.

    The state is the file ``probes.pt`` in the folder of each checkpoint; ``train(resume_from_checkpoint=...)`` takes it
    up, and the run goes on in the same files. The targets are the ``labels`` of the batch. When the same model is
    trained again, its record goes on; for another model make another callback.

    The Trainer does not tell its callbacks of an exception. What was measured until then is flushed within ten seconds
    of its measurement and can be read; the files are closed when the process ends, when the model is deleted, when the
    Trainer trains again, or by ``callback.manager.detach()``.

    Args:
        settings: All arguments of :class:`~probes.ProbeManager` but the model.

    Raises:
        TypeError, ValueError: If an argument is not what it must be; as far as the model must be known for that, when
            training begins, before the first step.

    Example:
        >>> import tempfile
        >>> from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
        >>> from probes import every
        >>> from probes_fourier import SpectralNorm
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
        >>> data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
        >>> callback = ProbesCallback(probes=[SpectralNorm(every(1))], sinks=[])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = TrainingArguments(folder, report_to="none", use_cpu=True, disable_tqdm=True, max_steps=1)
        ...     _ = Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()  # doctest: +ELLIPSIS
        {'train_runtime': ...
        >>> callback.manager.run.step, callback.manager.run.batches["train"].targets.shape
        (1, torch.Size([8, 8]))
    """

    def __init__(self, **settings: Any) -> None:
        if "model" in settings:
            raise TypeError("`model` is that of the Trainer and must not be given.")
        Settings(nn.PReLU(), **settings)  # names what is wrong with them here, not when training begins
        self.manager: ProbeManager | None = None
        """That of the present or the last training."""
        self._settings = settings
        self._called: nn.Module | None = None
        self._attached = False

    def _isolated(self, where: str, *passing: type[Exception]) -> AbstractContextManager[None]:
        return isolated(f"ProbesCallback.{where}", self._settings.get("on_error", "log"), passing)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach: the checkpoint is loaded, model and optimizer are prepared, and no step has been taken."""
        with self._isolated("on_train_begin", TypeError, ValueError):
            self._stop()
            training = _training()
            called: nn.Module = training.get("model", kwargs["model"])
            if self.manager is None or self._called is not called:
                if self.manager is not None and self._settings.get("probes"):
                    log.warning(ANOTHER_MODEL)
                self.manager, self._called = ProbeManager(called, **self._settings), called
            if state.global_step:
                with self._isolated("on_train_begin: the probes' part of the checkpoint, without which they go on"):
                    self._load(_checkpoint(args, state, training) / STATE_NAME)
            self.manager.attach()
            self._attached = True

    def _load(self, path: Path) -> None:
        if self.manager is None:
            return
        if path.exists():
            self.manager.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            log.warning("The checkpoint has no %s: a new record of the probes begins at this step.", path)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state into the checkpoint that was just made."""
        with self._isolated("on_save"):
            if not self._attached or self.manager is None or not (probes := self.manager.state_dict()):
                return
            training = _training()
            parent = training["self"]._get_output_dir(training.get("trial")) if training else args.output_dir
            path = Path(str(parent)) / f"checkpoint-{state.global_step}" / STATE_NAME
            torch.save(probes, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach: files are written and closed."""
        with self._isolated("on_train_end"):
            self._stop()

    def _stop(self) -> None:
        if self._attached and self.manager is not None:
            self._attached = False
            self.manager.detach()


def _training() -> dict[str, Any]:
    """The variables of the Trainer's loop, which tells callbacks neither what it calls nor what it resumes from."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_inner_training_loop":
        frame = frame.f_back  # type: ignore[assignment]
    return {} if frame is None else dict(frame.f_locals)


def _checkpoint(args: TrainingArguments, state: TrainerState, training: dict[str, Any]) -> Path:
    """The folder that training resumes from."""
    folder = training.get("resume_from_checkpoint")
    return Path(folder) if folder else Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
