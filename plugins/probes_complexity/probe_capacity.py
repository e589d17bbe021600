"""Capacity: the measures of capacity proposed in the literature, during training, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from probes.batches import IGNORED, Batch
from probes.measurement import Axis, CannotMeasure, Measurement
from probes.names import plain_name
from probes.precision import to_float64
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule
from probes_fourier import spectral_norm_product
from probes_ntk import Call

from .chain import NotDefined
from .fisher_rao import Likelihood, _derivative, _norm
from .layer_norms import operator_norms
from .margin import margins, normalized_margins, signs
from .norms import distance_from_initialization, frobenius_norm, held, parameter_count, without_numbers
from .path_norm import MaxPool, path_norm
from .sharpness import sharpness
from .spectral_bounds import pac_bayes_spectral, spectral_complexity
from .two_layer import two_layer_capacity, two_layer_matrices, unit_wise_capacity

__all__ = ["Capacity"]

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Capacity(Probe):
    r"""Norms, spectral and path complexities, margins and sharpness of the model, on one batch.

    Yields, each where it is defined for the model, and else silently not:
        Of any model: ``capacity/parameter_count``, ``capacity/frobenius_norm``,
        ``capacity/distance_from_initialization``, all of trainable parameters.
        Of a chain of affine layers: ``capacity/spectral_norm_product``, ``capacity/spectral_complexity``,
        ``capacity/pac_bayes_spectral``; and the latter two with the weights before training as the reference from which
        distances are measured, 0 before the first step: ``capacity/spectral_complexity_from_initialization``,
        ``capacity/pac_bayes_spectral_from_initialization``.
        Of layers, ReLU, batch norms and poolings: ``capacity/path_norm``, per p.
        Of two linear layers with a ReLU between them: ``capacity/two_layer/train`` and
        ``capacity/two_layer_by_unit/train``.
        Of outputs ``(n, c)`` or ``(n,)``: ``capacity/fisher_rao/train`` and ``capacity/fisher_rao_empirical/train``,
        with labels drawn from the model and those of the data; by cross-entropy for classes, by square loss for targets
        of the outputs' shape.
        Of a classification: ``capacity/margins/train``, quantiles of them, and ``capacity/margin/train``, the one that
        stands for all in the bounds; with a chain also ``capacity/normalized_margins/train``, quantiles.
        Where ``inputs`` are numbers: ``capacity/input_norm/train``, the root mean square of their lengths.
        With ``sharpness=True``: ``capacity/sharpness/train``.

    What depends on the batch has its name at the end. What does not, of several probes of several batches the first in
    the list yields alone.

    Capacities are not divided by the margin, which is negative until the samples are separated, nor by the number of
    samples: every stream is defined at every step, and bounds are a division away (:func:`margin_bound`,
    :func:`pac_bayes_bound`, :func:`two_layer_bound`).

    Does not run by default. Costs the norms of all layers as ``SpectralNorm`` does, some forward passes of one sample,
    and two forward passes of the batch with a backward pass and one through both; sharpness costs eleven forward and
    backward passes more. The parameters before training are kept on the CPU and in checkpoints: a second copy of the
    model. They are taken when the probe is attached, and once more before step 0 is measured, for weights loaded in
    between; of a run that is resumed without a checkpoint of this probe, they are those it found, as the estimator
    says.

    Args:
        schedule: When it is due.
        batch: Name of the batch that margins, inputs and losses are of.
        chain: Whether the model is a chain of affine layers, see :func:`~probes_fourier.is_chain`; of a module with a
            ``forward`` of its own you know better.
        feedforward: Whether it only adds up paths, see :func:`path_norm`; as ``chain`` by default.
        path_norms: Values of p.
        max_pool: What counts of a max pooling in path norms, ``"sum"`` or ``"max"``.
        margin_quantile: Of the margins, that stands for all: 0.05 in the code of Neyshabur et al. (2017 and 2019), 0.1
            in that of Dziugaite et al. (2020).
        sharpness: Whether to measure it.
        epsilon: Size of the box of the sharpness.
        loss: Of the sharpness, of outputs ``(n, c)`` and targets; by default cross-entropy, or half the squared error.

    Raises:
        ValueError: If ``margin_quantile`` is not between 0 and 1, a p is below 1, ``epsilon`` not positive, or
            ``max_pool`` is unknown.

    Example:
        >>> Capacity(sharpness=True).name
        'capacity'

    Reference:
        Baratin (2021), figure 4.6, where the path complexity is compared with such measures. Each has its source in its
        own function.
    """

    name = "capacity"
    needs = frozenset({"targets"})
    by_default = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        batch: str = "train",
        chain: bool | None = None,
        feedforward: bool | None = None,
        path_norms: Sequence[float] = (1, 2),
        max_pool: MaxPool = "sum",
        margin_quantile: float = 0.05,
        sharpness: bool = False,
        epsilon: float = 1e-3,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(schedule)
        if not (hasattr(margin_quantile, "__float__") and 0 <= margin_quantile <= 1):
            raise ValueError(f"`margin_quantile` must be a number between 0 and 1, got {margin_quantile!r}.")
        if any(not (hasattr(p, "__float__") and p >= 1) for p in path_norms):
            raise ValueError(f"`path_norms` must be numbers of at least 1, got {list(path_norms)}.")
        if not (hasattr(epsilon, "__float__") and epsilon > 0):
            raise ValueError(f"`epsilon` must be the positive size of a box, got {epsilon!r}.")
        if max_pool not in get_args(MaxPool):
            raise ValueError(f"`max_pool` must be 'sum' or 'max', got {max_pool!r}.")
        self.batch, self.chain = batch, chain
        self.feedforward = chain if feedforward is None else feedforward
        self.path_norms, self.max_pool, self.margin_quantile = list(path_norms), max_pool, margin_quantile
        self.sharpness, self.epsilon = sharpness, epsilon
        self._loss = loss
        self._initial: dict[str, Tensor] | None = None
        self._since = 0
        self._vectors: dict[str, Tensor] = {}

    def on_attach(self, run: Run) -> None:
        """Keep the parameters as they are before training."""
        lazy = any(is_lazy(parameter) for parameter in run.model.parameters())
        if not lazy and (run.step == 0 or self._initial is None):
            self._keep(run)
        self.is_first(run)

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield every measure that is defined for the model as it is now."""
        if step == 0 or self._initial is None:
            self._keep(run)
        self._keep_new(run)
        if message := without_numbers(run.model):
            run.left_out(message)
        batch, rows = _labelled(run.batch(self.batch))
        complexity: list[Tensor] = []
        failure: Exception | None = None
        of_weights = [self._lengths(run), self._paths(run, batch)] if self.is_first(run) else []
        for measures in (
            *of_weights,
            self._spectral(run, batch, complexity),
            self._two_layer(run, batch),
            self._margins(run, batch, rows, complexity),
            self._losses(run, batch, rows),
        ):
            try:
                yield from measures
            except NotDefined:
                continue
            except Exception as error:  # what cannot be measured costs none of the others
                failure = failure or error
        if failure is not None:
            raise failure

    def _keep(self, run: Run) -> None:
        kept: dict[str, Tensor] = dict(held(run.model))
        # What a batch norm divides by is needed to tell how far its layer has come.
        kept |= {name: b for name, b in run.model.named_buffers() if name.endswith("running_var") and not is_lazy(b)}
        self._initial = {name: tensor.detach().to("cpu", copy=True) for name, tensor in kept.items()}
        self._since = run.step

    def _keep_new(self, run: Run) -> None:
        """Of parameters that have come later, or in another shape, what they are now stands for the beginning."""
        assert self._initial is not None
        new = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in held(run.model).items()
            if (before := self._initial.get(name)) is None or before.shape != parameter.shape
        }
        if new:
            self._initial.update(new)
            run.left_out(
                f"Distances of {', '.join(map(plain_name, new))} are from their values at step {run.step}, since they "
                f"were not there, or in another shape, when the others were kept."
            )

    @property
    def _origin(self) -> dict[str, Tensor]:
        return self._initial or {}

    def _lengths(self, run: Run) -> Iterator[Measurement]:
        how = "trainable parameters, tied ones once"
        measured = partial(Measurement, estimator=how)
        yield measured(
            "capacity/parameter_count",
            parameter_count(run.model),
            unit="parameters",
            description="number of trainable parameters",
        )
        length = frobenius_norm(run.model)
        yield measured("capacity/frobenius_norm", length, unit="parameter", description="norm of all parameters")
        yield measured(
            "capacity/distance_from_initialization",
            distance_from_initialization(run.model, self._origin),
            unit="parameter",
            estimator=f"{how}; from the weights at step {self._since}",
            description="distance from the initial parameters",
        )

    def _spectral(self, run: Run, batch: Batch, complexity: list[Tensor]) -> Iterator[Measurement]:
        norms = operator_norms(run.model, batch, self._origin, chain=self.chain, vectors=self._vectors, tol=1e-4)
        complexity.append(spectral_complexity(norms))
        if not self.is_first(run):
            return
        how = (
            "layers as linear operators, batch norms folded in, biases left out; Krylov iteration to 1e-4 for "
            "convolutions"
        )
        since = f"{how}; distances from the weights at step {self._since}"
        measured = partial(Measurement, unit="output per input", estimator=how)
        squared = "output^2 per input^2"
        yield measured(
            "capacity/spectral_norm_product",
            spectral_norm_product(norms.spectral),
            description="product of spectral norms",
        )
        yield measured("capacity/spectral_complexity", complexity[0], description="spectral complexity")
        yield measured(
            "capacity/pac_bayes_spectral",
            pac_bayes_spectral(norms),
            unit=squared,
            description="spectral measure of the PAC-Bayes bound",
        )
        yield measured(
            "capacity/spectral_complexity_from_initialization",
            spectral_complexity(norms, from_reference=True),
            estimator=since,
            description="spectral complexity, from initialization",
        )
        yield measured(
            "capacity/pac_bayes_spectral_from_initialization",
            pac_bayes_spectral(norms, from_reference=True),
            unit=squared,
            estimator=since,
            description="spectral measure of the PAC-Bayes bound, from initialization",
        )

    def _paths(self, run: Run, batch: Batch) -> Iterator[Measurement]:
        if self.path_norms:
            values = [
                path_norm(run.model, batch, p, max_pool=self.max_pool, feedforward=self.feedforward, output=run.output)
                for p in self.path_norms
            ]
            yield Measurement(
                "capacity/path_norm",
                torch.stack(values),
                dims=("p",),
                coords={"p": Axis(torch.tensor(self.path_norms, dtype=torch.float64).numpy())},
                unit="output per input",
                estimator=f"all paths, batch norms folded in, biases from a constant; max pooling: {self.max_pool}",
                description="path norm",
            )

    def _two_layer(self, run: Run, batch: Batch) -> Iterator[Measurement]:
        network = two_layer_matrices(run.model, batch, self._origin, chain=self.chain)
        how = (
            f"biases as columns of the weights; distances from the weights at step {self._since}; inputs of "
            f"{self.batch!r}"
        )
        measured = partial(Measurement, unit="output", estimator=how, num_samples=batch.n)
        whole, words = two_layer_capacity(network), "capacity of a two-layer network"
        yield measured(f"capacity/two_layer/{self.batch}", whole, description=words)
        yield measured(
            f"capacity/two_layer_by_unit/{self.batch}",
            unit_wise_capacity(network),
            description=f"{words}, unit by unit",
        )

    def _margins(self, run: Run, batch: Batch, rows: Tensor | None, complexity: list[Tensor]) -> Iterator[Measurement]:
        measured = partial(Measurement, num_samples=batch.n)
        size = None
        if batch.inputs is not None:
            size = to_float64(batch.inputs.detach()).norm().cpu()
            yield measured(
                f"capacity/input_norm/{self.batch}",
                size / batch.n**0.5,
                unit="input",
                estimator=f"root mean square over {self.batch!r}",
                description="length of an input",
            )
        run.check_examples(self.batch)
        values = margins(_of_rows(run.evaluate(self.batch), rows), _targets(batch)).cpu()
        levels = torch.tensor(LEVELS, dtype=torch.float64)
        quantiles = values.quantile(levels)
        how = f"margins of {self.batch!r}"
        yield measured(
            f"capacity/margin/{self.batch}",
            values.quantile(self.margin_quantile),
            unit="output",
            estimator=f"{self.margin_quantile:g} quantile of the {how}",
            description="margin",
        )
        per_quantile = partial(measured, dims=("quantile",), coords={"quantile": Axis(levels.numpy())})
        words = "quantiles of the margins"
        yield per_quantile(f"capacity/margins/{self.batch}", quantiles, unit="output", estimator=how, description=words)
        if complexity and size is not None:
            yield per_quantile(
                f"capacity/normalized_margins/{self.batch}",
                normalized_margins(quantiles, complexity[0], size, batch.n),
                estimator=f"{how}, over spectral complexity and inputs",
                description="quantiles of the normalized margins",
            )

    def _losses(self, run: Run, batch: Batch, rows: Tensor | None) -> Iterator[Measurement]:
        run.check_examples(self.batch)
        outputs, targets = _of_rows(run.evaluate(self.batch), rows), _targets(batch)
        if outputs.ndim not in (1, 2):
            raise NotDefined("`model` must return outputs of shape (n, c) or (n,).")
        try:
            margins(outputs, targets)
            classes = True
        except NotDefined:
            classes = False
            if targets.numel() != outputs.numel() or len(targets) != len(outputs):
                raise
        call = Call.of(run.model, batch, run.output)
        f, along = _derivative(call)
        kind: Likelihood = "cross_entropy" if classes else "square"
        measured = partial(Measurement, num_samples=batch.n)
        norm = partial(measured, unit="nats", description="Fisher-Rao norm")
        how = f"{kind} on {self.batch!r}, labels drawn from the model, exactly"
        yield norm(f"capacity/fisher_rao/{self.batch}", _norm(f, along, None, kind), estimator=how)
        how = f"{kind} on {self.batch!r}, labels of the data"
        yield norm(f"capacity/fisher_rao_empirical/{self.batch}", _norm(f, along, targets, kind), estimator=how)
        if self.sharpness:
            loss = self._loss or (_square if not classes else _logistic if f.shape[1] == 1 else F.cross_entropy)
            yield measured(
                f"capacity/sharpness/{self.batch}",
                sharpness(run.model, batch, targets, loss=loss, epsilon=self.epsilon, output=run.output),
                unit="percent",
                estimator=f"10 steps of projected ascent on {self.batch!r} in a box of {self.epsilon:g}: a lower bound",
                description="sharpness: largest rise of the loss in the box",
            )

    def state_dict(self) -> dict[str, Any]:
        """The parameters before training, and the inputs that the convolutions stretch most."""
        return {"initial": dict(self._origin), "since": self._since, "vectors": dict(self._vectors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these."""
        self._initial, self._since = dict(state["initial"]), int(state["since"])
        self._vectors = dict(state["vectors"])


def _labelled(batch: Batch) -> tuple[Batch, Tensor | None]:
    """The samples whose label losses do not ignore, -100 of integers, and which they are; None for all."""
    targets = batch.targets
    if targets is None or targets.is_floating_point() or targets.numel() != len(targets):
        return batch, None
    known = targets.flatten() != IGNORED
    if bool(known.all()):
        return batch, None
    if not bool(known.any()):
        raise CannotMeasure(f"All labels of the batch are {IGNORED}, which losses ignore. Pass batches= with labels.")
    rows = known.nonzero()[:, 0]
    return batch.select(rows), rows


def _of_rows(outputs: Tensor, rows: Tensor | None) -> Tensor:
    return outputs if rows is None else outputs[rows.to(outputs.device)]


def _targets(batch: Batch) -> Tensor:
    if batch.targets is None:  # not the batch that the attach report is about
        raise NotDefined("The batch has no targets.")
    return batch.targets


def _logistic(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.softplus(-outputs[:, 0] * signs(targets).to(outputs)).mean()


def _square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.reshape(outputs.shape)).square().sum(1).mean() / 2
