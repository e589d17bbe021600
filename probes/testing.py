"""Whether a probe meets the contract: in a test of three lines, or ``probes check``.

.. code-block:: python

    from probes.testing import ProbeContract
    from my_package import Margin

    class TestMargin(ProbeContract):
        probe = Margin  # or an instance, with settings

pytest then runs every point of :data:`POINTS` as a test. What each of them asks is in ``probes.checking.contract``.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from .checking.contract import Contract as Contract
from .checking.evidence import NotChecked as NotChecked
from .checking.evidence import Result as Result
from .checking.evidence import Unmet as Unmet
from .checking.points import POINTS as POINTS
from .checking.subjects import SUBJECTS as SUBJECTS
from .checking.subjects import Subject as Subject
from .checking.trials import Recorder as Recorder
from .checking.trials import Trial as Trial
from .probe import Probe
from .replaying.workers import locate
from .session.discovery import load

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = [
    "POINTS", "SUBJECTS", "Contract", "NotChecked", "ProbeContract", "Recorder", "Result", "Subject", "Trial", "Unmet",
    "check", "find", "report", "table",
]  # fmt: skip


def check(probe: type[Probe] | Probe, points: Iterable[str] = tuple(POINTS)) -> list[Result]:
    """Look at the points of the contract one after the other.

    Args:
        probe: A class, or an instance.
        points: Which; all by default.

    Raises:
        TypeError, ValueError: If it is not a probe, or there is no such point.

    Example:
        >>> from probes import Measurement
        >>> class Forgetful(Probe):
        ...     '''Has no unit.'''
        ...     def measure(self, run, step):
        ...         yield Measurement("forgetful/one", 1.0, unit="", description="one")
        >>> [result.status for result in check(Forgetful, ["finishes", "units"])]
        ['ok', 'failed']
    """
    contract = Contract(probe)
    return [contract.result(point) for point in points]


class ProbeContract:
    """The contract as tests: subclass it in a test file, with the probe, and pytest runs every point.

    A point that could not be looked at, because another one failed, is a test that was skipped.

    Example:
        >>> class TestNothing(ProbeContract):
        ...     probe = Probe  # has no measure
        >>> TestNothing().test_meets("finishes")
        finishes: 8 trainings ended
    """

    probe: ClassVar[type[Probe] | Probe]
    """What is tested: a class, or an instance with settings."""
    subjects: ClassVar[Sequence[Subject]] = SUBJECTS
    """The models to try it on."""
    deadline: ClassVar[float] = 60.0
    """Seconds that a training of five steps may take with the probe."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test a point."""
        if "point" in metafunc.fixturenames:
            metafunc.parametrize("point", list(POINTS))

    def test_meets(self, point: str) -> None:
        """The probe meets a point; what was found is printed."""
        __tracebackhide__ = True
        cls = type(self)
        if "_contract" not in vars(cls):  # one for all points
            cls._contract = Contract(cls.probe, cls.subjects, cls.deadline)  # type: ignore[attr-defined]
        result: Result = cls._contract.result(point)  # type: ignore[attr-defined]
        if result.status == "failed":
            raise Unmet(result.found, result.advice)
        if result.status == "not checked":
            raise unittest.SkipTest(result.found)
        print(f"{point}: {result.found}")


def find(name: str) -> type[Probe] | Probe:
    """An installed probe by its name, or what ``package.module:name`` or ``file.py:name`` stands for.

    Raises:
        ValueError: If there is no such probe, module or name in it.
        FileNotFoundError: If there is no such file.
        TypeError: If it is not a probe.

    Example:
        >>> find("probes.probe:Probe").__name__
        'Probe'
    """
    if ":" not in name and not name.endswith(".py"):
        return load(name)
    found = locate(name)
    if not (isinstance(found, Probe) or (isinstance(found, type) and issubclass(found, Probe))):
        raise TypeError(f"{name!r} must be a subclass of probes.Probe, or an instance of one, got {found!r}.")
    return found


def report(name: str, contract: Contract) -> dict[str, Any]:
    """What was found at every point, for machines."""
    results = [contract.result(point) for point in POINTS]
    return {
        "probe": name,
        "ok": all(result.status != "failed" for result in results),
        "points": [asdict(result) for result in results],
        "costs": [cost._asdict() for cost in contract.costs] if contract.result("cost").status == "ok" else [],
    }


def table(contract: Contract) -> RichTable:
    """What was found at every point, for the terminal."""
    from rich.markup import escape
    from rich.table import Column, Table

    shown = Table(Column("point", no_wrap=True), Column("", no_wrap=True), "what was found, and what to do", box=None)
    colours = {"ok": "green", "failed": "red", "not checked": "yellow"}
    for point in POINTS:
        result = contract.result(point)
        what = escape(result.found) + (f"\n[bold]{escape(result.advice)}[/bold]" if result.advice else "")
        shown.add_row(point, f"[{colours[result.status]}]{result.status}[/]", what)
    return shown
