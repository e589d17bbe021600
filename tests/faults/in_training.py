"""Faults of the training itself: a model in a bad state, the user's own exceptions and signals, worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from probes import Measurement, every
from probes.session import discovery

from .in_probes import out_says
from .operators import numbers
from .scene import STEPS, Scene, fault

# ------------------------------------------------------------------------------------------- the model in a bad state


def shipped(scene: Scene) -> None:
    """Every installed probe."""
    for name in discovery.installed():
        scene.probes.insert(0, discovery.load(name)(every(4)))


class Frail(nn.Sequential):
    """A network that does something else in eval mode, as probes call it."""

    def __init__(self, in_eval_mode):
        super().__init__(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        self.in_eval_mode = in_eval_mode

    def forward(self, x):
        output = super().forward(x)
        return output if self.training else self.in_eval_mode(output)


def refuse(output):
    raise RuntimeError("only in eval mode")


def nothing_finite(name: str):
    """From where the model computes NaN, no measurement of its outputs is a finite number."""

    def look(scene: Scene, run) -> None:
        for path, node in numbers(run).items():
            if path.startswith(name):
                values = node["value"].values[node["step"].values >= 8]
                assert not np.isfinite(values).any(), (path, values)

    return look


@fault("the training diverges: all parameters are NaN", "the model", "yielded NaN in|failed in measure", own=True,
       look=nothing_finite("ntk/trace"), slow=True)  # fmt: skip
def _(scene: Scene):
    shipped(scene)
    scene.at[6] = lambda: [parameter.data.fill_(torch.nan) for parameter in scene.model.parameters()]


@fault("one layer is NaN", "the model", "yielded NaN in|failed in measure", own=True, look=nothing_finite("fourier"))
def _(scene: Scene):
    scene.probes[:0] = [discovery.load(name)(every(4)) for name in ("fourier", "spectral_norm", "tangent_kernel")]
    scene.at[6] = lambda: scene.model[0].weight.data.fill_(torch.nan)


@fault("parameters are infinite", "the model", "yielded NaN in|failed in measure", own=True, slow=True)
def _(scene: Scene):
    shipped(scene)
    scene.at[6] = lambda: [parameter.data.fill_(torch.inf) for parameter in scene.model.parameters()]


@fault("outputs are NaN in eval mode only", "the model", "yielded NaN in|failed in measure", own=True, slow=True)
def _(scene: Scene):
    shipped(scene)
    scene.network = lambda: Frail(lambda output: output * torch.nan)


@fault(
    "the forward raises in eval mode only",
    "the model",
    r"cannot measure: .*RuntimeError: only in eval mode",
    own=True,
    slow=True,
)
def _(scene: Scene):
    shipped(scene)
    scene.network = lambda: Frail(refuse)


@fault("outputs have no rows in eval mode", "the model", "must have one row for each of the 24 samples", own=True)
def _(scene: Scene):
    scene.probes[:0] = [discovery.load(name)(every(4)) for name in ("fourier", "tangent_kernel", "capacity")]
    scene.network = lambda: Frail(lambda output: output[:0])


@fault("targets are out of range", "the batch", "have no alignment with its kernel: labels from 7 to 7", slow=True)
def _(scene: Scene):
    shipped(scene)
    scene.batches["train"] = (torch.randn(24, 2), torch.full((24,), 7))


@fault("a batch of one sample", "the batch", "cannot measure: Batch 'train' is of one sample", slow=True)
def _(scene: Scene):
    shipped(scene)
    scene.batches["train"] = (torch.randn(1, 2), torch.zeros(1, dtype=torch.long))


@fault("all samples are the same", "the batch", slow=True)
def _(scene: Scene):
    shipped(scene)
    scene.batches["train"] = (torch.zeros(24, 2), torch.zeros(24, dtype=torch.long))


@fault("inputs are NaN", "the batch", "yielded NaN in|failed in measure", slow=True)
def _(scene: Scene):
    shipped(scene)
    scene.batches["train"] = (torch.full((24, 2), torch.nan), torch.zeros(24, dtype=torch.long))


@fault("the first batch has no samples", "the batch", "must have one row for each", own=True)
def _(scene: Scene):
    shipped(scene)
    scene.network = lambda: nn.Sequential(First(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    scene.loss = lambda output, targets: F.cross_entropy(output, targets[: len(output)], reduction="sum")


class First(nn.Module):
    """Takes all samples away."""

    def forward(self, x):
        return x[:0]


# ------------------------------------------------------------------------------------------------ the user's exceptions


def interrupts_at(where: int):
    def measure(run, step):
        yield Measurement("faulty/one", float(step))
        if step == where:
            raise KeyboardInterrupt
        yield Measurement("faulty/two", run.evaluate("train").sum())

    return measure


@fault("Ctrl-C in measure, and the loop goes on", "measure", r"KeyboardInterrupt\(\) in measure of plugin 'faulty'",
       kept=STEPS, look=lambda scene, run: out_says(scene, "caught KeyboardInterrupt()"), slow=True)  # fmt: skip
def _(scene: Scene):
    scene.add(interrupts_at(5))
    scene.caught = KeyboardInterrupt


@fault(
    "Ctrl-C in a later probe, and the loop goes on", "measure", r"KeyboardInterrupt\(\) in measure of plugin 'faulty'"
)
def _(scene: Scene):
    scene.add(interrupts_at(5))
    scene.probes.reverse()
    scene.caught = KeyboardInterrupt


@fault("SIGINT in measure, and the loop goes on", "measure", r"KeyboardInterrupt\(\) in measure of plugin 'faulty'",
       kept=STEPS, look=lambda scene, run: out_says(scene, "caught KeyboardInterrupt()"))  # fmt: skip
def _(scene: Scene):
    def measure(run, step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        yield Measurement("faulty/one", 1.0)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    scene.add(measure)
    scene.caught = KeyboardInterrupt


@fault("Ctrl-C in measure ends the training", "measure", "Detached at step 5", kept=5, exit=-2, same=False)
def _(scene: Scene):
    scene.add(interrupts_at(5))


@fault("a signal handler of the user raises", "measure", r"TimeoutError\('of the user'\) in measure of plugin",
       kept=STEPS, look=lambda scene, run: out_says(scene, "caught TimeoutError('of the user')"))  # fmt: skip
def _(scene: Scene):
    def on_alarm(number, frame):
        raise TimeoutError("of the user")

    def measure(run, step):
        if step == 5:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            time.sleep(0.2)
        yield Measurement("faulty/one", 1.0)

    signal.signal(signal.SIGALRM, on_alarm)
    scene.add(measure)
    scene.caught = TimeoutError


@fault("SIGTERM, and the user's handler exits with 3", "measure", "Detached at step 5", kept=5, exit=3, same=False)
def _(scene: Scene):
    def measure(run, step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        yield Measurement("faulty/one", 1.0)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    scene.add(measure)


@fault("the loop raises", "the loop", "Detached at step 7", kept=8, exit=1, same=False,
       look=lambda scene, run: out_says(scene, "ValueError: of the user"))  # fmt: skip
def _(scene: Scene):
    def fail():
        raise ValueError("of the user")

    scene.at[7] = fail


@fault("the loop calls sys.exit(3)", "the loop", "Detached at step 7", kept=8, exit=3, same=False, slow=True)
def _(scene: Scene):
    scene.at[7] = lambda: sys.exit(3)


@fault("the loop changes its directory", "the loop")
def _(scene: Scene):
    def change():
        (scene.folder / "other").mkdir()
        os.chdir(scene.folder / "other")

    scene.at[3] = change


@fault("Ctrl-C while detaching", "detach", "KeyboardInterrupt", same=False, exit=-2)
def _(scene: Scene):
    def measure(run, step):
        return []

    def on_detach(self, run):
        raise KeyboardInterrupt

    scene.add(measure, on_detach=on_detach)
    scene.at[STEPS] = lambda: scene.manager.detach()


# ------------------------------------------------------------------------------------------------------------ processes


@fault("the loop forks, and the child ends by sys.exit()", "the loop")
def _(scene: Scene):
    def fork():
        before = (scene.folder / "run/run.h5").read_bytes()
        child = os.fork()
        if child == 0:
            scene.manager.detach()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert (scene.folder / "run/run.h5").read_bytes() == before  # not closed by HDF5 in the child

    scene.at[5] = scene.at[8] = lambda: scene.manager.state_dict()
    scene.at[6] = scene.at[9] = fork


@fault("the loop forks, and the child trains on", "the loop")
def _(scene: Scene):
    def fork():
        scene.manager.state_dict()
        child = os.fork()
        if child == 0:
            scene.at.clear()
            return  # it goes on like the parent, and ends as it does
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    scene.at[6] = fork


for _persistent in (False, True):

    @fault(f"loader workers, forked{', persistent' if _persistent else ''}", "the loop")
    def _(scene: Scene, persistent=_persistent):
        generator = torch.Generator()
        data = TensorDataset(torch.zeros(8, 2))
        loader = DataLoader(data, 2, num_workers=2, persistent_workers=persistent, generator=generator,
                            multiprocessing_context="fork")  # fmt: skip
        for step in (3, 5, 7):
            scene.at[step] = lambda: len(list(loader))


@fault("a worker is killed", "the loop", slow=True)
def _(scene: Scene):
    def fork():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)

    scene.at[6] = fork
