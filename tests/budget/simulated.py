"""Training runs on a clock of their own: the real session and governor, steps and turns that only cost time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from probes import Measurement, Probe, hookimpl
from probes.budget.governor import Governor
from probes.run import Run
from probes.session.calls import Plugins
from probes.session.session import Session


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Costly(Probe):
    """Takes what ``cost`` says, given the number of the turn."""

    def __init__(self, name, schedule, cost, clock=None):
        super().__init__(schedule)
        self.name, self.clock = name, clock
        self.cost: Callable[[int], float] = cost if callable(cost) else lambda turn: cost
        self.turns: list[tuple[int, float, float]] = []
        """Step, training time and cost of each."""

    def measure(self, run, step):
        seconds = self.cost(len(self.turns))
        self.turns.append((step, self.training(), seconds))
        self.clock.now += seconds
        yield Measurement(f"{self.name}/value", 1.0)

    @property
    def steps(self):
        return [step for step, _, _ in self.turns]

    def between(self, start, stop=float("inf")):
        return [turn for turn in self.turns if start <= turn[1] < stop]


class CostlySink:
    name = "sink"

    def __init__(self, write, flush):
        self.costs, self.clock = (write, flush), None

    @hookimpl
    def write(self, run, measurements):
        self.clock.now += self.costs[0] * len(measurements)

    @hookimpl
    def on_event(self, run, event):
        self.clock.now += self.costs[1]

    @hookimpl
    def flush(self, run):
        self.clock.now += self.costs[1]


@dataclass
class Simulation:
    """A run of ``probes`` within a budget."""

    overhead: float | None
    probes: list[Costly]
    sink: CostlySink = field(default_factory=lambda: CostlySink(0.0, 0.0))
    clock: Clock = field(default_factory=Clock)
    head_start: float = 0.0
    training: float = 0.0
    step: int = 0
    excess: list[tuple[float, float]] = field(default_factory=list)
    """Training time, and what was spent beyond what may be spent by then, after each step with work."""

    def __post_init__(self):
        run = Run(model=nn.Linear(1, 1), log_dir=Path(), seed=0, output=lambda out: out)
        run.batches = {}
        self.governor = Governor(self.overhead, self.clock, self.head_start)
        plugins = Plugins(self.governor, "raise")
        self.session = Session(run, plugins, lambda final=False: None)
        for plugin in (*self.probes, self.sink):
            plugin.clock = self.clock
            plugin.training = lambda: self.training
            plugins.add(plugin)

    def attach(self, state=None):
        if state is not None:
            self.governor.load_state_dict(state["governor"])
            for plugin in self.session.plugins.all:
                plugin.due = state["due"].get(plugin.key)
            self.step = self.session.run.step = self.session.run.resumed_from = state["step"]
            self.training = state["training"]
        with self.governor.charged_to_core():
            self.session.attach()
        return self

    def state(self):
        return {
            "governor": self.governor.state_dict(),
            "due": {plugin.key: plugin.due for plugin in self.session.turns.probes},
            "step": self.step,
            "training": self.training,
        }

    def train(self, seconds, step_time):
        """Until ``seconds`` of training; ``step_time`` is a number or a function of the training time."""
        if self.step == 0:
            self.session.before_first()
        while self.training < seconds:
            took = step_time(self.training) if callable(step_time) else step_time
            self.clock.now += took
            self.training += took
            self.step += 1
            before = self.governor.total
            self.session.after_step(self.step)
            if self.governor.total != before and self.overhead is not None:
                self.excess.append((self.training, self.governor.total - self.promised))
        return self

    @property
    def promised(self):
        return max(self.overhead * self.training, self.head_start)

    @property
    def spent(self):
        return self.governor.total
