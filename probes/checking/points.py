"""The points of the contract that every probe meets, as functions."""

from __future__ import annotations

import copy
import inspect
import io
import typing
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..guard.fingerprint import differences, of_process, of_random_states
from ..guard.unnoticed import ModelChanged
from ..measurement import Measurement
from ..probe import Probe
from ..run import Run
from ..schedule import at, every
from .deadline import Overdue
from .evidence import Evidence, NotChecked, Unmet, same
from .points_of_rows import costs, independent, nan_safe, units
from .trials import place, refuses

__all__ = ["POINTS"]

CUT = 3
"""The step of the checkpoint from which a trial is resumed."""


def refuses_bad_settings(contract: Evidence) -> str:
    """Is made without arguments, or with a schedule, and refuses bad settings with TypeError or ValueError.

    Those are: a schedule that is none; for a setting that is a number, by its default or annotation, a word and NaN;
    for one that is a Literal, another word.
    """
    cls = contract.cls
    advice = "Take `schedule` first, hand it to super().__init__(schedule), and give every setting a default."
    try:
        made = cls(at([7]))
    except Exception as error:
        if not isinstance(contract.given, type):
            raise NotChecked("it was given as an instance, and cannot be made without settings") from None
        raise Unmet(f"{cls.__name__}(at([7])) raises {error!r}.", advice) from error
    if 7 not in made.schedule:
        raise Unmet(f"{cls.__name__}(at([7])) is not due at step 7.", advice)
    accepted, tried = [], 0
    for name, value in _bad_settings(cls):
        tried += 1
        try:
            cls(**{name: value})
        except (TypeError, ValueError):
            continue
        except Exception as error:
            accepted.append(f"{name}={value!r} raises {type(error).__name__}")
        else:
            accepted.append(f"{name}={value!r} is accepted")
    if accepted:
        raise Unmet(
            f"Of bad settings, {'; '.join(accepted)}.",
            "Check settings in __init__ and raise TypeError or ValueError, which name the setting, what it must be and "
            "what it was. `not value > 0` also refuses NaN.",
        )
    return f"{tried} bad settings refused"


def finishes(contract: Evidence) -> str:
    """Every turn ends."""
    for trial in contract.trials:
        if isinstance(trial.error, Overdue):
            raise Unmet(
                f"A training of {len(trial.places) // 2} steps of {trial.subject.name} is {trial.error}; it was in "
                f"{place(trial.error)}.",
                "Bound every loop by a number of iterations.",
            )
    return f"{len(contract.trials)} trainings ended"


def measures(contract: Evidence) -> str:
    """Measures every model whose batch has what it needs, or refuses it on purpose, in words."""
    contract.require("finishes")
    measured: list[str] = []
    refused: list[str] = []
    crashed: list[str] = []
    idle: list[str] = []
    refused_anyway = {
        trial.subject.model for trial in contract.trials if not trial.subject.lacks and refuses(trial.error)
    }
    for trial in contract.trials:
        lacks, error = trial.subject.lacks, trial.error
        if isinstance(error, ModelChanged):
            raise NotChecked("see 'unnoticed'")
        if error is None:
            (measured if trial.rows else idle).append(trial.subject.name)
        elif refuses(error) and (
            lacks not in ("targets", "batch") or (lacks == "targets" and trial.subject.model in refused_anyway)
        ):
            refused.append(f"{trial.subject.name} ({error})")
        else:
            hint = f" (needs = {{{lacks!r}}}?)" if lacks and lacks not in contract.cls.needs else ""
            crashed.append(f"{trial.subject.name}: {error!r} at {place(error)}{hint}")
    if crashed:
        raise Unmet(
            f"It crashes on {'; '.join(crashed)}.",
            "Say in `needs` what it cannot do without, and raise a ValueError that names what is not supported; "
            "compute in float64 (probes.precision.to_float64) what bfloat16 has no operator for.",
        )
    if not measured:
        raise Unmet(
            "It measures none of the models" + (f"; it refuses {'; '.join(refused)}." if refused else "."),
            "Yield measurements; for a probe of a special kind of model, pass subjects= to the contract in a test.",
        )
    others = [f"{word} {'; '.join(names)}" for word, names in (("refuses", refused), ("idle with", idle)) if names]
    return "; ".join([f"measures {', '.join(measured)}", *others])


def unnoticed(contract: Evidence) -> str:
    """Training with it is, to the last bit, what it is without: weights, states, random numbers, settings, hooks."""
    contract.require("finishes")
    before = dict([*of_random_states(), *of_process()])
    contract.make()
    if names := differences(before, dict([*of_random_states(), *of_process()])):
        raise Unmet(
            f"Making it changes {', '.join(names)}.",
            "Draw in on_attach or measure, after which random states are as before, not in __init__.",
        )
    points = 0
    for bare, trial in contract.pairs:
        if isinstance(trial.error, ModelChanged):
            raise Unmet(
                f"It changes {trial.subject.name}: {trial.error}.",
                "Work on copies: torch.func.functional_call(run.model, ...), or run.forward(batch, parameters).",
            )
        if trial.error is not None:
            continue
        for (where, one), (_, other) in zip(bare.places, trial.places, strict=True):
            if names := differences(one, other):
                raise Unmet(
                    f"With it, training of {trial.subject.name} is another {where}: {', '.join(names[:5])}.",
                    "on_attach, before_step, on_step and on_detach are not guarded: read there, draw from nothing but "
                    "run.generator, change nothing, remove what you register.",
                )
            points += 1
    if not points:
        raise NotChecked("no training with it came to its end")
    return f"equal at {points} points of {len(contract.trials)} trainings"


def deterministic(contract: Evidence) -> str:
    """The same seed gives the same numbers, whatever else draws from the global random states, whichever probes run."""
    for trial in contract.measured[:2]:
        again = contract.trial(trial.subject, drawn=5000, others=[_Neighbour(every(1))]).run()
        same(
            trial.rows,
            again,
            "Measured again, beside another probe and with other global random states,",
            "Draw from run.generator only, and read no clock, no id() and nothing that outlives the probe.",
        )
    return f"{sum(len(trial.rows) for trial in contract.measured[:2])} measurements twice"


def resumable(contract: Evidence) -> str:
    """A run that is interrupted and resumed from its checkpoint goes on to the same numbers."""
    contract.require("deterministic")
    advice = (
        "Return from state_dict() all that a later measurement depends on, as tensors, numbers, strings and containers "
        "of them, and take it back in load_state_dict(state)."
    )
    for trial in contract.measured[:2]:
        cut = contract.trial(trial.subject).run(CUT, detach=False)
        if cut.error is not None:
            raise NotChecked(f"it failed before the checkpoint: {cut.error!r}")
        try:
            checkpoint = cut.checkpoint()
        except Exception as error:
            raise Unmet(f"Its state does not fit in a checkpoint: {error!r}.", advice) from error
        kept = [row for row in cut.rows if row.step <= CUT]
        cut.run()  # on in vain, as before a crash
        resumed = contract.trial(trial.subject, checkpoint=checkpoint).run()
        same(trial.rows, resumed, f"Resumed from a checkpoint of step {CUT},", advice, before=kept)
    return f"from step {CUT} of {trial.step}"


def copyable(contract: Evidence) -> str:
    """It can be copied and pickled, before and after it has measured, and so can the model while it is attached."""
    advice = (
        "Keep no lambda, generator, file, lock or tensor with a graph in the probe (detach() it), nor on the model."
    )
    if not isinstance(contract.given, type):
        _copied(contract.given, "The probe, as it was given,", advice)
    (first, *_) = contract.measured
    trial = contract.trial(first.subject)
    assert trial.probe is not None
    _copied(trial.probe, "The probe, as it was made,", advice)
    trial.run(CUT, detach=False)
    if trial.error is not None:
        raise NotChecked(f"it failed: {trial.error!r}")
    _copied(trial.probe, "The probe, once it has measured,", advice)
    _copied(trial.model, "The model, with the probe attached,", advice)(trial.inputs)
    trial.run()
    return "the probe before and after measuring, the model in between"


POINTS: dict[str, Callable[[Evidence], str]] = {
    "settings": refuses_bad_settings,
    "finishes": finishes,
    "measures": measures,
    "unnoticed": unnoticed,
    "deterministic": deterministic,
    "resumable": resumable,
    "copyable": copyable,
    "NaN-safe": nan_safe,
    "units": units,
    "independent": independent,
    "cost": costs,
}
"""Of the contract, by name. Each takes a :class:`Contract` and returns what was found.

Raises, each of them:
    Unmet: If the probe does not meet it.
    NotChecked: If another point, which it does not meet, keeps this one from being looked at.
"""


def _bad_settings(cls: type[Probe]) -> Iterator[tuple[str, Any]]:
    yield "schedule", 3
    try:
        hints = typing.get_type_hints(cls.__init__)
    except Exception:  # annotations that cannot be evaluated: defaults have to do
        hints = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        kinds = {type(parameter.default), *_kinds(hints.get(name))}
        if kinds & {int, float}:
            yield from ((name, "nonsense"), (name, float("nan")))
        elif any(typing.get_origin(kind) is typing.Literal for kind in kinds):
            yield name, "nonsense"


def _kinds(annotation: Any) -> set[Any]:
    """The members of a union, or the annotation itself."""
    members = typing.get_args(annotation)
    return {annotation} if typing.get_origin(annotation) is typing.Literal or not members else set(members)


def _copied(item: Any, what: str, advice: str) -> Any:
    """A copy; pickling is tried too."""
    how = "pickled"
    try:
        torch.save(item, io.BytesIO())
        how = "copied"
        return copy.deepcopy(item)
    except Exception as error:
        raise Unmet(f"{what} cannot be {how}: {error!r}.", advice) from error


class _Neighbour(Probe):
    """Another probe, which draws and shares."""

    name = "neighbour"

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        torch.rand(3, generator=run.generator), torch.rand(3)
        for name in run.batches:
            run.evaluate(name)
        yield Measurement("neighbour/step", step, unit="steps")
