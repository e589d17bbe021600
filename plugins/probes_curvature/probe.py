"""Curvature: how sharp the loss is where training is, beside what its optimizer can stand."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from probes.batches import Batch
from probes.measurement import CannotMeasure, Measurement
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .criterion import criterion_of, without_ignored
from .eigenvalues import Eigenvalues, largest_eigenvalues, least_vectors
from .objective import MEMORY, Loss, Objective, check_loss
from .stability import last_update
from .turn import RANKS_UPDATES, Turn

__all__ = ["Curvature"]

AFFORDED = 3
"""Eigenvalues that are measured unasked, where the first turn affords them."""
PRODUCTS = 40
"""That they are predicted to take."""


class Curvature(Probe):
    r"""Sharpness of the loss on one batch, the noise of its gradient, and the sharpness that the optimizer can stand.

    Yields, with the batch's name at the end:
        ``curvature/critical_sharpness``: 2 over the step along the gradient from which on the loss rises; and, of
        Adam, AdamW and SGD with momentum, ``curvature/critical_sharpness_of_update``, along the last update: the next
        step makes the loss rise where it is above 2 / lr.
        ``curvature/directional_sharpness``, ``curvature/directional_sharpness_of_update``: the exact curvature along
        both.
        ``curvature/noise_scale``, in examples, and what it is the ratio of, ``curvature/noise_trace`` and
        ``curvature/gradient_square_norm``; from groups of a twentieth of the batch. Not for a loss that is no mean over
        the examples. Where the loop accumulates four or more micro-batches, ``curvature/accumulated_noise_scale`` too,
        in micro-batches, from the gradients that the loop itself computes for the update before: in train mode, for two
        inner products each as it arrives. Of several ranks, those of rank 0. Under DDP, ``curvature/rank_noise_scale``,
        in batches of one rank, from the gradients of rank 0 and their averages in the last eight updates.
        ``curvature/eigenvalues``: the largest of the Hessian, with their residuals as errors: as many as asked for, or
        three if the first turn affords them.
        ``curvature/sharpness``: the first of them, of the Hessian that the optimizer preconditions where it does (Adam,
        RMSprop; from its first step on), and beside it ``threshold``, above which it is unstable on a quadratic: 2 / lr
        of gradient descent, 38 / lr of Adam. Not while all learning rates are 0. Without eigenvalues
        ``curvature/threshold`` alone.
        Where they are asked for: ``curvature/ggn_eigenvalues``; ``curvature/trace``; ``curvature/density``, of all
        eigenvalues, smoothed, in units of the largest in magnitude, ``curvature/largest_magnitude``;
        ``curvature/layer_sharpness``, the
        largest eigenvalue of the block of each layer; ``curvature/batch_sharpness``, of mini-batches along their
        gradients.

    The loss is that of the loop where it was seen, a loss module or a function of ``torch.nn.functional``, with its
    arguments and its reduction, on whose result, or its share where batches are accumulated, ``backward()`` was called;
    else cross-entropy for classes and the mean squared error for numbers, as the estimator says. It is of the model in
    eval mode. Where the loop computes its loss by other means, or the batch "train" is given, pass ``loss``. What needs
    second derivatives is left out, and said, where an operation has none. Examples labelled -100, which the loss
    ignores, are left out.

    Runs when named. Costs, beside ten forward passes for each critical sharpness, two forward and two backward passes
    for each product with the Hessian, some 40 of them for the eigenvalues; and about seventy vectors as long as the
    parameters, or fewer under ``memory``. One vector is kept, in checkpoints too: the eigenvalues' next search starts
    from where the last one ended.

    Args:
        schedule: When it is due.
        batch: Name of the batch.
        eigenvalues: How many of the Hessian; 0 for none; by default as the budget allows.
        ggn_eigenvalues: How many of the generalized Gauss-Newton matrix.
        trace: Whether to estimate the trace of the Hessian.
        density: Of how many random vectors the spectral density is estimated, with 30 products each; 0 for none.
        layers: Whether to measure the sharpness of each layer's block.
        batch_size: Of mini-batches, for the batch sharpness; None for none.
        loss: Of outputs and targets, a scalar.
        memory: Bytes for graphs, and as much for vectors.

    Raises:
        ValueError: If a number is negative.
        TypeError: If ``loss`` is no function.

    Example:
        >>> Curvature(eigenvalues=5).name
        'curvature'

    References:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability. Kalra et al.
        (2026), arXiv:2601.16979. McCandlish et al. (2018), arXiv:1812.06162.
    """

    name = "curvature"
    needs = frozenset({"targets"})
    by_default = False
    sees_micro_batches = True

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batch: str = "train",
        eigenvalues: int | None = None,
        ggn_eigenvalues: int = 0,
        trace: bool = False,
        density: int = 0,
        layers: bool = False,
        batch_size: int | None = None,
        loss: Loss | None = None,
        memory: float = MEMORY,
    ) -> None:
        super().__init__(schedule)
        for name, count in (
            ("eigenvalues", eigenvalues or 0),
            ("ggn_eigenvalues", ggn_eigenvalues),
            ("density", density),
            ("batch_size", 0 if batch_size is None else batch_size),
        ):
            if isinstance(count, bool) or not (hasattr(count, "__index__") and count >= 0):
                raise ValueError(f"`{name}` must be an integer, not negative, got {count!r}.")
        if batch_size == 0:
            raise ValueError("`batch_size` must be at least 1, or None, got 0.")
        if density == 1:
            raise ValueError("`density` must be 0 or at least 2 random vectors, for its error, got 1.")
        for name, flag in (("trace", trace), ("layers", layers)):
            if not isinstance(flag, bool):
                raise TypeError(f"`{name}` must be True or False, got {flag!r}.")
        if not isinstance(batch, str):
            raise TypeError(f"`batch` must be the name of a batch, got {batch!r}.")
        if loss is not None:
            check_loss(loss)
        if not (hasattr(memory, "__float__") and 0 < memory < math.inf):
            raise ValueError(f"`memory` must be a positive number of bytes, got {memory!r}.")
        self.batch, self.eigenvalues, self.ggn_eigenvalues = batch, eigenvalues, ggn_eigenvalues
        self.trace, self.density, self.layers = trace, density, layers
        self.batch_size, self.memory = batch_size, memory
        self._loss = loss
        self._count = eigenvalues
        """Of eigenvalues, once it is known."""
        self._starts: dict[str, Tensor] = {}
        """By operator, the sum of the eigenvectors of the last turn."""
        self.layer_axis: list[str] = []
        """Those of the first turn."""
        self.updates: deque[tuple[int, float, float, int]] = deque(maxlen=RANKS_UPDATES)
        """Under DDP, of each of the last its step, the squares of rank 0's gradient and of the average, the ranks."""

    @property
    def watched_updates(self) -> int:  # type: ignore[override]
        """One before each turn; more where several ranks train together, which is known when it is attached."""
        dist: Any = torch.distributed
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return RANKS_UPDATES if several else 1

    def on_step(self, run: Run, step: int) -> None:
        """Of the update before a turn, the host shows how its micro-batches and ranks relate."""
        if (seen := run.micro_batches) is not None and seen.ranks > 1:
            own = float((seen.squares + 2 * seen.with_earlier).sum())
            self.updates.append((step, own, seen.averaged_square, seen.ranks))

    def rank_part(self, run: Run) -> Any:
        """Of a sharded model, nothing is seen of an update."""
        return 0

    def join_parts(self, parts: list[Any]) -> None:
        """Nothing is to be joined."""

    def state_dict(self) -> dict[str, Any]:
        """How many eigenvalues are measured, and where their search starts."""
        updates = [list(each) for each in self.updates]
        return {"count": self._count, "starts": dict(self._starts), "layers": list(self.layer_axis), "updates": updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._count, self._starts, self.layer_axis = state["count"], dict(state["starts"]), list(state["layers"])
        self.updates.extend((int(a), b, c, int(d)) for a, b, c, d in state.get("updates", ()))

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield how sharp the loss is now."""
        run.check_examples(self.batch)
        batch = run.batch(self.batch)
        outputs = run.evaluate(self.batch)
        loss, words = criterion_of(run, batch, outputs, self._loss)
        batch = without_ignored(batch, outputs, loss)
        assert batch.targets is not None or self._loss is not None
        turn = Turn([], self, run, batch, self.objective_of(run, batch, loss), words)
        start = time.perf_counter()
        gradient = turn.objective.finite(turn.objective.gradient())
        seconds = time.perf_counter() - start
        ways = {"gradient": gradient}
        if (update := last_update(run.optimizers, self.own(run, turn.objective))) is not None:
            ways["update"] = turn.objective.join(list(update.values()))
        refused: set[str] = set()
        failure: Exception | None = None
        for measured in (
            turn.critical(ways),
            turn.directional(ways),
            turn.noise(),
            turn.accumulated(),
            turn.ranks(step),
            turn.hessian(self._affordable(run, seconds, turn)),
            turn.others(loss),
        ):
            try:
                yield from measured
            except CannotMeasure as error:
                refused.add(str(error))
            except Exception as error:  # what cannot be measured costs none of the others
                failure = failure or error
        if failure is not None:
            raise failure
        if notes := [*turn.notes, *sorted(refused)]:
            run.left_out(" ".join(notes))

    def objective_of(self, run: Run, batch: Batch, loss: Loss, parameters: list[str] | None = None) -> Objective:
        """The loss on the batch, of all parameters that are trained or of some."""
        targets = batch.targets if batch.targets is not None else torch.zeros(batch.n, device=run.device)
        return Objective(run.model, loss, batch, targets, output=run.output, parameters=parameters, memory=self.memory)

    def own(self, run: Run, objective: Objective) -> dict[str, Tensor]:
        """The model's own parameters that the objective is a function of, which the optimizer knows."""
        named = dict(run.model.named_parameters())
        return {name: named[name] for name in objective.parameters}

    def _affordable(self, run: Run, seconds: float, turn: Turn) -> int:
        """How many eigenvalues, given the seconds of a gradient, of which a product takes about two."""
        if self._count is None:
            needed, held = 2 * PRODUCTS * seconds, 2 * least_vectors(AFFORDED) * turn.objective.size * 4
            self._count = AFFORDED if needed <= run.first_turn_limit and held <= self.memory else 0
            if not self._count:
                turn.notes.append(
                    f"Eigenvalues of the Hessian: some {PRODUCTS} products with it would take about {needed:.0f} s and "
                    f"{held / 1e9:.1f} GB for vectors, more than a first turn or `memory` allow. Ask for them: "
                    f"eigenvalues=1."
                )
        elif self.eigenvalues not in (None, self._count):
            turn.notes.append(
                f"Eigenvalues: {self._count} as in the run that this one continues, whose stream has so many; "
                f"{self.eigenvalues} were asked for. Begin another run for them."
            )
        return self._count

    def search(
        self, run: Run, name: str, objective: Objective, product: Callable[[Tensor], Tensor], count: int
    ) -> Eigenvalues:
        """Eigenvalues, from where the last search of that name ended; here the next one will start."""
        start = self._starts.get(name)
        if start is not None and start.shape != (objective.size,):
            start = None
        found = largest_eigenvalues(
            objective, product, count, generator=run.generator, memory=self.memory,
            start=None if start is None else start[None].to(objective.device, objective.dtype),
        )  # fmt: skip
        self._starts[name] = found.vectors.sum(0).detach().float().cpu()
        return found
