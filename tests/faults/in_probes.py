"""Faults of probes: in what they raise, yield, do to the training, and say of themselves."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from probes import Measurement, Probe, every
from probes.schedule import Schedule
from probes.session import discovery, settings

from .scene import STEPS, Scene, Witness, fault

# ----------------------------------------------------------------------------------------------------------- it raises


def raising(error):
    def measure(run, step):
        raise error

    return measure


class Unprintable(Exception):
    def __repr__(self):
        raise ValueError("no repr either")


class OwnBase(BaseException):
    """As the panics of extensions in Rust are."""


for _name, _error in {
    "an exception": ZeroDivisionError("of its own"),
    "out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "MemoryError": MemoryError(),
    "SystemExit": SystemExit(5),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(),
    "a BaseException of its own": OwnBase("panic"),
    "an exception without a repr": Unprintable(),
    "an exception of 1 MB": RuntimeError("x" * 10**6),
}.items():
    fault(
        f"raises {_name}",
        "measure",
        "is called no more in this run: 3 failures in a row",
        slow=_name in ("MemoryError", "GeneratorExit", "StopIteration", "an exception of 1 MB"),
    )(lambda scene, error=_error: scene.add(raising(error)))


@fault("calls sys.exit()", "measure", r"failed in measure: SystemExit\(3\)")
def _(scene: Scene):
    scene.add(lambda run, step: sys.exit(3))


@fault("fails now and then", "measure", r"failed in measure: OSError\('now and then'\)", slow=True)
def _(scene: Scene):
    def measure(run, step):
        if step % 3 == 1:
            raise OSError("now and then")
        yield Measurement("faulty/one", 1.0)

    scene.add(measure)


@fault("recurses for ever", "measure", "failed in measure: RecursionError")
def _(scene: Scene):
    def measure(run, step):
        return measure(run, step)

    scene.add(measure)


@fault("fails in shared work", "measure", r"failed in measure: OSError\('shared'\)", slow=True)
def _(scene: Scene):
    def compute():
        raise OSError("shared")

    scene.add(lambda run, step: run.shared("key", compute))


@fault("a finally that raises", "measure", r"failed in measure: OSError\('at the end'\)", slow=True)
def _(scene: Scene):
    def measure(run, step):
        try:
            yield Measurement("faulty/one", 1.0)
        finally:
            raise OSError("at the end")

    scene.add(measure)


# ---------------------------------------------------------------------------------------------------------- it yields


def always(number):
    """That is the value at each step."""
    return lambda scene, run: np.testing.assert_array_equal(run["faulty/value"]["value"].values, [number] * 13)


@fault("NaN", "measure", "yielded NaN in 'faulty/value'; it is recorded as it is",
       look=always(np.nan))  # fmt: skip
def _(scene: Scene):
    def measure(run, step):
        yield Measurement("faulty/value", float("nan"))

    scene.add(measure)


@fault("infinity", "measure", look=always(-np.inf))
def _(scene: Scene):
    def measure(run, step):
        yield Measurement("faulty/value", torch.tensor(-torch.inf))

    scene.add(measure)


@fault("another shape each time", "measure", r"does not fit its stream: shape changed from \(1,\) to \(2,\)", slow=True)
def _(scene: Scene):
    def measure(run, step):
        yield Measurement("faulty/grows", np.zeros(step + 1), dims=("i",))

    scene.add(measure)


@fault("a number instead of a Measurement", "measure", "yielded float instead of a Measurement", slow=True)
def _(scene: Scene):
    scene.add(lambda run, step: [3.0])


@fault("returns what cannot be iterated", "measure", "failed in measure: TypeError", slow=True)
def _(scene: Scene):
    scene.add(lambda run, step: 3.0)


@fault("yields for ever", "measure", "yielded more than 100000 measurements in one turn")
def _(scene: Scene):
    one = Measurement("faulty/one", 1.0)

    def measure(run, step):
        while True:
            yield one

    scene.add(measure)


@fault("64 MiB at one step", "measure", "yields 64 MiB in each 'faulty/huge'",
       look=lambda scene, run: np.testing.assert_array_equal(run["faulty/huge"]["step"].values, [4]))  # fmt: skip
def _(scene: Scene):
    def measure(run, step):
        if step == 4:
            yield Measurement("faulty/huge", np.ones((8, 2**20)), dims=("a", "b"))

    scene.add(measure)


@fault("more than there is memory", "measure", "failed in measure: .*MemoryError")
def _(scene: Scene):
    def measure(run, step):
        yield Measurement("faulty/huge", np.empty(2**55), dims=("a",))

    scene.add(measure)


@fault("a stream of another probe", "measure", "it belongs to 'faulty'", slow=True)
def _(scene: Scene):
    def measure(run, step):
        yield Measurement("faulty/one", 1.0)

    scene.add(measure)
    scene.add(measure, name="thief")
    scene.probes.reverse()
    scene.probes.insert(0, scene.probes.pop(1))


@fault("a name that cannot be a path", "measure", "failed in measure: ValueError.*must be a path", slow=True)
def _(scene: Scene):
    def measure(run, step):
        yield Measurement("../../etc/passwd", 1.0)

    scene.add(measure)


# ----------------------------------------------------------------------------------------- what it does to the training


HANGS = r"has been waiting .* for measure of .*in_probes.*in measure"


@fault(
    "hangs for longer than the deadline",
    "measure",
    r"Training waited \d+ s for measure of 'faulty'",
    look=lambda scene, run: in_log(scene, HANGS),
)
def _(scene: Scene):
    scene.settings["deadline"] = 0.3

    def measure(run, step):
        # On a busy machine other turns last longer than the deadline, too, and this one before it comes here.
        log, end = scene.folder / "log.txt", time.monotonic() + 20
        while step >= 2 and not re.search(HANGS, log.read_text(), re.DOTALL) and time.monotonic() < end:
            time.sleep(0.1)

    scene.add(measure)


def in_log(scene: Scene, pattern: str) -> None:
    log = (scene.folder / "log.txt").read_text()
    assert re.search(pattern, log, re.DOTALL), f"not in the log: {pattern}"


@fault("takes the batches away", "measure")
def _(scene: Scene):
    def measure(run, step):
        run.batches.clear()
        run.batches = {}
        run.optimizers.clear()

    scene.add(measure)
    scene.add(lambda run, step: [Measurement("faulty/rows", run.batch("train").n)], name="other")
    scene.probes.insert(0, scene.probes.pop(1))


@fault("changes a batch in place", "measure", "batch 'train' was changed in place")
def _(scene: Scene):
    scene.do(lambda run: run.batch("train").inputs.add_(1))


@fault("moves the model to another dtype", "measure")
def _(scene: Scene):
    scene.do(lambda run: run.model.double())


@fault("moves the model to the meta device", "measure")
def _(scene: Scene):
    scene.do(lambda run: run.model.to("meta"))


@fault("replaces a layer", "measure")
def _(scene: Scene):
    def measure(run, step):
        run.model[0] = nn.Linear(2, 8)
        run.model[4].weight = nn.Parameter(torch.zeros(3, 8))
        del run.model[1].running_mean
        run.model.register_buffer("new", torch.zeros(3))
        return []

    scene.add(measure)


def trains(run):
    batch = run.batch("train")
    F.cross_entropy(run.model(batch.inputs), batch.targets).backward()
    run.optimizers[0].step()


@fault("calls backward() and optimizer.step()", "measure", r"must not call optimizer.step\(\)")
def _(scene: Scene):
    scene.do(trains)


@fault("calls zero_grad()", "measure", slow=True)
def _(scene: Scene):
    scene.do(lambda run: (run.optimizers[0].zero_grad(), run.model.zero_grad()))


@fault("changes the learning rate", "measure")
def _(scene: Scene):
    def measure(run, step):
        run.optimizers[0].param_groups[0]["lr"] = 7.0
        run.optimizers[0].param_groups[0]["new"] = 1

    scene.add(measure)


@fault("registers and removes hooks", "measure")
def _(scene: Scene):
    def measure(run, step):
        run.model.register_forward_hook(lambda *_: 0)
        run.optimizers[0].register_step_post_hook(lambda *_: 1 / 0)
        torch.optim.optimizer.register_optimizer_step_post_hook(lambda *_: 1 / 0)
        torch.optim.optimizer.register_optimizer_step_pre_hook(lambda *_: 1 / 0)
        run.model[0]._forward_hooks.clear()

    scene.add(measure)


@fault("draws, seeds, and leaves train mode on", "measure")
def _(scene: Scene):
    def measure(run, step):
        torch.manual_seed(0), np.random.seed(0)  # noqa: NPY002
        run.model.train()
        run.model.requires_grad_(False)
        run.model(run.batch("train").inputs)

    scene.add(measure)


@fault("changes global settings", "measure")
def _(scene: Scene):
    def measure(run, step):
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
        torch.autograd.set_detect_anomaly(True)
        sys.setrecursionlimit(5000)

    scene.add(measure)


@fault("sets a signal handler", "measure", look=lambda scene, run: out_says(scene, "Handlers.SIG_DFL"))
def _(scene: Scene):
    scene.do(lambda run: signal.signal(signal.SIGUSR1, lambda *_: 1 / 0))
    scene.at[STEPS] = lambda: print(repr(signal.getsignal(signal.SIGUSR1)))


def out_says(scene: Scene, text: str) -> None:
    assert text in (scene.folder / "out.txt").read_text(), text


@fault("starts a thread at each turn", "measure")
def _(scene: Scene):
    scene.do(lambda run: threading.Thread(target=time.sleep, args=(0.2,)).start())


@fault("forks, and the child ends by sys.exit()", "measure")
def _(scene: Scene):
    def measure(run, step):
        if step == 3:
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
        yield Measurement("faulty/one", 1.0)

    scene.add(measure)


@fault("prints 4 MB", "measure", slow=True)
def _(scene: Scene):
    scene.do(lambda run: print("x" * 300_000))


@fault("warns, and warnings are errors", "measure")
def _(scene: Scene):
    def measure(run, step):
        warnings.warn("of torch", UserWarning, stacklevel=1)

    scene.add(measure)
    warnings.simplefilter("error", UserWarning)


@fault("leaves a warning filter behind", "measure")
def _(scene: Scene):
    scene.do(lambda run: warnings.simplefilter("error"))
    scene.at[STEPS] = lambda: warnings.warn("of the loop", UserWarning, stacklevel=1)


# ---------------------------------------------------------------------------------------------------------- other hooks


def hook(name, error, **attributes):
    def fail(*_, **__):
        raise error

    functions = {"on_attach": lambda self, run: fail(), "on_step": lambda self, run, step: fail(),
                 "before_step": lambda self, run: fail(), "on_detach": lambda self, run: fail()}  # fmt: skip
    return type("Faulty", (Probe,), {"name": "faulty", name: functions[name], "measure": lambda self, run, step: [],
                                     **attributes})(every(1))  # fmt: skip


for _hook in ("on_attach", "before_step", "on_step", "on_detach"):
    for _error in (OSError("of its own"), SystemExit(4)):
        # What fails at detach is told to the sinks, which are still open then.
        fault(
            f"raises {type(_error).__name__} in {_hook}",
            _hook,
            f"failed in {_hook}: {type(_error).__name__}",
            slow=isinstance(_error, SystemExit),
        )(lambda scene, name=_hook, error=_error: scene.probes.insert(0, hook(name, error)))


class Cannot(Witness):
    name = "faulty"
    what = "raise"

    def measure(self, run, step):
        yield Measurement("faulty/one", 1.0)

    def state_dict(self):
        if self.what == "raise":
            raise OSError("cannot save")
        return {"function": lambda: None}

    def load_state_dict(self, state):
        raise OSError("cannot load")


for _what, _said in {"raise": r"failed in state_dict: OSError\('cannot save'\)",
                     "lambda": "must be tensors, numbers, strings and containers"}.items():  # fmt: skip

    @fault(f"state_dict: {_what}", "state_dict", _said)
    def _(scene: Scene, what=_what):
        probe = Cannot(every(1))
        probe.what = what
        scene.probes.insert(0, probe)
        scene.at[5] = lambda: torch.save(scene.manager.state_dict(), scene.folder / "checkpoint")


# ---------------------------------------------------------------------------------------------- what it says of itself


def with_attribute(name, value):
    def prepare(scene: Scene):
        scene.add(lambda run, step: [], **({name: value} if name != "schedule" else {}))
        if name == "schedule":
            scene.probes[0].schedule = value

    return prepare


fault("schedule 7", "schedule", "`schedule` must be a schedule such as every")(with_attribute("schedule", 7))
fault("needs a string", "needs", "`needs` must be a set of")(with_attribute("needs", "targets"))
fault("needs a number", "needs", "`needs` must be a set of")(with_attribute("needs", 5))
fault("is called 5", "name")(with_attribute("name", 5))


class Nonsense(Schedule):
    def __init__(self, value):
        self.value = value

    def next(self, after):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


for _value in (OSError("of its own"), 0, 2.5, float("nan"), "soon", True):
    fault(f"next: {_value!r}", "schedule", "is not called: its schedule failed", slow=_value in (2.5, "soon", True))(
        with_attribute("schedule", Nonsense(_value))
    )


@fault("without super().__init__()", "__init__", look=lambda scene, run: run["faulty/one"])
def _(scene: Scene):
    class Bare(Probe):
        def __init__(self):
            pass

        def measure(self, run, step):
            yield Measurement("faulty/one", 1.0)

    scene.probes.insert(0, Bare())


@fault("raises, of an installed probe", "__init__", "Plugin 'broken' could not be made: OSError")
def _(scene: Scene):
    class Broken(Probe):
        def __init__(self):
            raise OSError("of its own")

    settings.load = lambda name, kind: Broken if name == "broken" else discovery.load(name, kind)
    scene.probes.insert(0, "broken")


@fault("a misspelt hook", "hooks", "implements unknown hook 'on_stpe'", slow=True)
def _(scene: Scene):
    scene.add(lambda run, step: [], on_stpe=lambda self, run: 1 / 0)


@fault("a setting whose repr fails", "attach")
def _(scene: Scene):
    scene.add(lambda run, step: [])
    scene.probes[0].setting = Unprintable()
