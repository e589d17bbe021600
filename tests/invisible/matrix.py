"""The factors, and one combination of them: trained bare, trained with every shipped probe, compared at every point."""

from __future__ import annotations

import gc
import io
import itertools
import random
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.overrides import _get_current_function_mode_stack

from probes import Probe, ProbeManager, at, every
from probes.checking.trials import Recorder, hooks, optimizer_hooks
from probes.guard.fingerprint import differences, of_model, of_optimizer, of_process, of_random_states
from probes_complexity import Capacity, PathComplexity
from probes_curvature import Curvature
from probes_fourier import FourierSpectrum, ImageFrequencies, KernelSpectrum, RadialSpectrum, SpectralNorm
from probes_layers import LayerStatistics
from probes_mine import MutualInformation
from probes_mine.labels import label_information
from probes_ntk import KernelMotion, TangentKernel
from probes_representation import Representation

from .loops import BATCH, EPOCHS, LOOPS, Loop
from .models import MODELS, data
from .optimizers import OPTIMIZERS

EXECUTIONS = ("eager", "compiled before", "compiled after")


class Combination(NamedTuple):
    optimizer: str
    model: str
    loop: str
    execution: str


FACTORS = Combination(tuple(OPTIMIZERS), tuple(MODELS), tuple(LOOPS), EXECUTIONS)  # type: ignore[arg-type]


def product() -> list[Combination]:
    return [Combination(*levels) for levels in itertools.product(*FACTORS)]


# What PyTorch itself refuses, by two levels that do not go together, and its reason.
REFUSED = {
    ("LBFGS", "gradient scaler"): "Closure use is not currently supported if GradScaler is enabled",
    ("Muon and AdamW", "lazy"): "optimizer got an empty parameter list",  # there are no matrices yet
    ("groups added", "lazy"): "Attempted to use an uninitialized parameter in .*requires_grad_",
}


def refused(combination: Sequence[str]) -> str | None:
    """The pattern of the reason for which PyTorch refuses a combination; None when it must not."""
    return next((reason for pair, reason in REFUSED.items() if {*pair} <= {*combination}), None)


def pairwise_cover(seed: int = 0) -> list[Combination]:
    """Few combinations in which every pair of levels of two factors appears: greedy, the best of some candidates."""
    generator = random.Random(seed)
    pairs = list(itertools.combinations(range(len(FACTORS)), 2))
    missing = {(i, a, j, b) for i, j in pairs for a in FACTORS[i] for b in FACTORS[j] if refused((a, b)) is None}
    chosen: list[Combination] = []
    while missing:
        i, a, j, b = min(missing)
        candidates = []
        while len(candidates) < 50:
            levels = [generator.choice(factor) for factor in FACTORS]
            levels[i], levels[j] = a, b
            if refused(levels) is None:
                candidates.append(Combination(*levels))
        # Of those that are as good, one that need not be compiled: it takes half the time.
        best = max(candidates, key=lambda levels: (len(missing & _pairs(levels, pairs)), levels.execution == "eager"))
        missing -= _pairs(best, pairs)
        chosen.append(best)
    return chosen


def _pairs(levels: Sequence[str], pairs: list[tuple[int, int]]) -> set[tuple[int, str, int, str]]:
    return {(i, levels[i], j, levels[j]) for i, j in pairs}


# ------------------------------------------------------------------------------------------------------------- probes

PROBES: dict[str, Callable[[nn.Module], Probe]] = {
    "layers": lambda model: LayerStatistics(every(2)),
    "fourier": lambda model: FourierSpectrum(every(2), num_points=8, num_segments=2),
    "spectral_norm": lambda model: SpectralNorm(every(2)),
    "kernel_spectrum": lambda model: KernelSpectrum(every(2)),
    "radial_spectrum": lambda model: RadialSpectrum(every(3), num_points=6),
    "image_frequencies": lambda model: ImageFrequencies(every(3), num_images=4, map_size=2, radii=[0.2]),
    "tangent_kernel": lambda model: TangentKernel(every(2), num_samples=8),
    "kernel_motion": lambda model: KernelMotion(every(2), num_samples=8),
    "complexity": lambda model: PathComplexity(every(2)),
    "capacity": lambda model: Capacity(every(3), sharpness=True),
    "curvature": lambda model: Curvature(every(3), eigenvalues=1, trace=True, layers=True, batch_size=4),
    "mutual_information": lambda model: MutualInformation(at([0, 2, 5]), layers=last_layer(model)),
    "representation": lambda model: Representation(every(2)),
}
"""Every shipped probe, each due at several of the six steps or so, with settings that cost little."""


def brief(*arguments: Any, **settings: Any) -> Any:
    """Classifiers of a few updates: training them would take most of the time."""
    return label_information(*arguments, **{**settings, "max_steps": 10})


def last_layer(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.LazyLinear)][-1:]


# ------------------------------------------------------------------------------------------------------------- one run


@dataclass
class Trace:
    """What one training was, point by point."""

    places: list[str] = field(default_factory=list)
    digests: list[dict[str, str]] = field(default_factory=list)
    steps: int = 0
    """Counted by the loop."""
    order: list[str] = field(default_factory=list)
    graphs: int = 0
    refused: str = ""
    """Why PyTorch would not train this combination; empty when it did."""


class Watch:
    """Digests of one training, taken by its loop."""

    def __init__(self, compiled: Callable[[], int]) -> None:
        self.trace, self.loop, self.compiled = Trace(), None, compiled

    def __call__(self, place: str) -> None:
        loop: Loop = self.loop
        self.trace.places.append(f"{place}, iteration {loop.iteration}, after {loop.steps} steps")
        names = {id(parameter): name for name, parameter in loop.model.named_parameters()}
        digest = dict(of_model(loop.model))
        for number, optimizer in enumerate(loop.optimizers):
            digest.update(of_optimizer(optimizer, names, f"optimizer {number} "))
        for prefix, other in loop.more().items():
            digest.update(of_model(other, prefix))
        digest.update(of_random_states())
        digest.update(of_process())
        digest["graphs compiled"] = str(self.compiled())
        if loop.steps:  # until then the first batch and its loss are watched for
            digest["function modes"] = str(_get_current_function_mode_stack())
            digest["hooks"] = str(hooks(loop.called, ours=place == "detached"))
        if place == "detached":
            if _global_optimizer_post_hooks or _global_optimizer_pre_hooks:
                gc.collect()  # of an earlier session, whatever is garbage
            everyones = len(_global_optimizer_post_hooks), len(_global_optimizer_pre_hooks)
            digest["optimizer hooks"] = str((optimizer_hooks(loop.optimizers), everyones))
            digest["attributes"] = str([sorted(vars(module)) for module in loop.called.modules()])
        self.trace.digests.append(digest)


class Session:
    """A model, its optimizers and its loop, built afresh from the seed, and a manager when ``probes`` are named."""

    def __init__(
        self,
        combination: Combination,
        probes: Sequence[str | Probe] | None,
        backend: str = "eager",
        checkpoint: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        torch._dynamo.reset()
        torch.manual_seed(7), random.seed(7), np.random.seed(7)  # noqa: NPY002
        graphs = [0]

        def counting(graph: Any, inputs: Any) -> Any:
            graphs[0] += 1
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        self.model = model = MODELS[combination.model]()
        called = model
        optimization = OPTIMIZERS[combination.optimizer]
        self.optimizers = optimization.make(model)
        self.recorder = Recorder()
        self.manager: ProbeManager | None = None
        if combination.execution == "compiled before":
            called = torch.compile(model, backend=counting)
        if probes is not None:
            made = [PROBES[probe](model) if isinstance(probe, str) else probe for probe in probes]
            if combination.execution == "compiled after":  # the loop does not call what is watched
                settings.setdefault("batches", {"train": tuple(part[:BATCH] for part in data())})
            settings.setdefault("sinks", [self.recorder])
            self.manager = ProbeManager(called, made, overhead=None, **settings)
            if checkpoint is not None:
                self.manager.load_state_dict(checkpoint["manager"])
            self.manager.attach()
        if combination.execution == "compiled after":
            called = torch.compile(model, backend=counting)
        self.watch = Watch(lambda: graphs[0])
        self.loop = self.watch.loop = LOOPS[combination.loop](
            called, model, self.optimizers, self.watch, optimization.midway
        )

        if checkpoint is not None:
            self._restore(checkpoint)

    def checkpoint(self) -> dict[str, Any]:
        """What a training script saves."""
        file = io.BytesIO()
        states = {
            "model": self.model.state_dict(), "optimizers": [item.state_dict() for item in self.optimizers],
            "loop": self.loop.state_dict(), "torch": torch.get_rng_state(), "numpy": np.random.get_state(),  # noqa: NPY002
            "Python": random.getstate(), "manager": self.manager.state_dict() if self.manager else {},
        }  # fmt: skip
        torch.save(states, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        for optimizer, state in zip(self.optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.loop.load_state_dict(checkpoint["loop"])
        torch.set_rng_state(checkpoint["torch"]), np.random.set_state(checkpoint["numpy"])  # noqa: NPY002
        random.setstate(checkpoint["Python"])

    def train(self, until: int = EPOCHS) -> Trace:
        self.loop.train(until)
        trace = self.watch.trace
        trace.steps, trace.order = self.loop.steps, self.loop.order
        return trace

    def detach(self) -> None:
        if self.manager is not None:
            self.manager.detach()


def train_bare(combination: Combination, **settings: Any) -> Trace:
    try:
        session = Session(combination, None, **settings)
        trace = session.train()
    except Exception as error:
        return Trace(refused=f"{type(error).__name__}: {error}")
    session.watch("detached")
    return trace


class Unequal(AssertionError):
    """Training with probes was not what it is without."""


def compare(bare: Trace, probed: Trace, whole: bool = True) -> None:
    """Raises :class:`Unequal` with the first place and the names of what differs there."""
    for place, other, one, two in zip(bare.places, probed.places, bare.digests, probed.digests, strict=False):
        if place != other:
            raise Unequal(f"the loops part: {place!r} without, {other!r} with probes")
        if names := differences(one, two):
            raise Unequal(f"{place}: {', '.join(names)}")
    if whole and (len(bare.places), bare.order, bare.steps) != (len(probed.places), probed.order, probed.steps):
        raise Unequal(f"at the end: {bare.steps} steps and {len(bare.order)} batches without, "
                      f"{probed.steps} and {len(probed.order)} with probes")  # fmt: skip


# Where a probe says, with a reason, that a model is not for it: (probe, model) and what it says.
REFUSALS = {("image_frequencies", model): "Frequencies of images need inputs of shape" for model in MODELS}


def check_probes(session: Session, combination: Combination, names: Sequence[str]) -> None:
    """Each probe has measured at every step at which it was due, or refused the model for the reason known."""
    steps = session.loop.steps
    if session.manager.run.step != steps:
        raise Unequal(f"{steps} true updates, of which {session.manager.run.step} were counted as steps")
    for name, plugin in zip(names, session.manager._session.turns.probes, strict=True):
        due = [step for step in range(steps + 1) if step in plugin.schedule]
        measured = sorted({row.step for row in session.recorder.rows if row.probe == plugin.label})
        expected = REFUSALS.get((name, combination.model))
        if expected is not None and re.search(expected, plugin.refusal or plugin.last_failure) and not measured:
            continue
        if expected is not None or plugin.problem or plugin.failed or measured != sorted(set(due)):
            raise Unequal(f"{name} measured at steps {measured}, was due at {due}, failed {plugin.failed} times: "
                          f"{plugin.problem or plugin.last_failure}")  # fmt: skip


def run(combination: Combination, names: Sequence[str] = tuple(PROBES), **settings: Any) -> str:
    """Train both ways and compare.

    Returns:
        The reason for which PyTorch does not train this combination, and empty when it does.

    Raises:
        Unequal: If anything differs, a probe did not measure, a step was not counted, or PyTorch refuses what it
            should train, or trains what it should refuse.
    """
    reason = refused(combination)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own compiler; the filters are part of what is compared
        bare = train_bare(combination, **settings)
        if (reason is not None) != bool(bare.refused) or (reason and not re.search(reason, bare.refused)):
            raise Unequal(f"expected of PyTorch: {reason or 'to train'}; without probes: {bare.refused or 'trained'}")
        if reason is not None:
            return bare.refused
        session = Session(combination, names, **settings)
        try:
            with mock.patch("probes_mine.layer_information.label_information", brief):
                session.train()
            compare(bare, session.watch.trace, whole=False)
            check_probes(session, combination, names)
        finally:
            session.detach()
        session.watch("detached")
        compare(bare, session.watch.trace)
    return ""
