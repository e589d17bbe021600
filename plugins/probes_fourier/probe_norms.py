"""SpectralNorm: by how much each layer stretches, and the bounds of the Lipschitz constant that follow."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probes.batches import Batch
from probes.measurement import Axis, Measurement, first_line
from probes.names import named_modules, own_parameters, plain_name
from probes.precision import to_float64
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .affine_norm import affine_spectral_norm, may_be_affine
from .lipschitz import is_chain, max_norm_bound, spectral_norm_product
from .spectral_norm import DIRECT, OperatorNorm, module_spectral_norm, own_matrices

__all__ = ["SpectralNorm"]


@dataclass
class _Norms:
    """What one turn has found."""

    norms: dict[str, Tensor]
    failures: dict[str, str]
    """Why a layer could not be measured, in words that name it."""
    tied: list[Tensor]
    """The norms of the layers that share the weight of an earlier one, under whose name it is."""
    matrices: list[Tensor]
    """The weights of all Linear, tied or not."""
    unconverged: int = 0
    """How many searches were given up."""
    searched: bool = False
    """Whether there are any."""


class SpectralNorm(Probe):
    r"""Spectral norm of every linear map of the model, and the Lipschitz bounds of the whole.

    Yields:
        ``spectral_norm/weight``: per layer; matrices by their singular values, convolutions as the operators they are
        at the size of their actual input, batch norms (in eval mode) by their largest channel factor; of modules that
        are not torch's own, their matrices, stacks of them (experts) by the largest, and the whole module where it is a
        linear map (a layer with its low-rank update). A matrix that several layers share is listed once, by its first
        name. NaN where a weight is not finite, and of convolutions as long as their input size is not known.
        ``spectral_norm/unconverged``: how many searches were given up; these norms are a little too small.
        ``lipschitz/spectral_norm_product`` and ``lipschitz/max_norm``: bounds of the Lipschitz constant of the whole,
        where the model is a chain of such layers and of activations that stretch nothing; the second where all layers
        are Linear.

    Runs by default; of a model without convolutions it needs no batch. Costs the singular values of every matrix with
    a side of at most 512. For larger ones, and for every convolution, it applies the layer forward and backward to one
    sample: up to 1000 times the first time, few later, from the vector of the last time. Within a budget a turn gives
    up after the seconds that a first turn may take, and the next one goes on from there.

    Args:
        schedule: When it is due.
        chain: Whether the model is such a chain. By default only what certainly is one is taken for one, see
            :func:`is_chain`; of a module with a ``forward`` of its own you know better.

    Example:
        >>> SpectralNorm().name
        'spectral_norm'

    Reference:
        Baratin (2021), eq. 7, figure 3.1 and appendix A.3.6.
    """

    name = "spectral_norm"

    def __init__(self, schedule: Schedule | None = None, *, chain: bool | None = None) -> None:
        super().__init__(schedule)
        self.chain = chain
        self._sizes: dict[str, tuple[int, ...]] | None = None
        self._layers: list[str] = []
        """Those of the first turn: a stream keeps its axis."""
        self._failed: dict[str, str] = {}
        """Those that could not be measured then, which have no place on it; one that cannot later is NaN there."""
        self._vectors: dict[str, Tensor] = {}
        self._maps: set[str] = set()
        self._no_maps: set[str] = set()
        """Modules that are linear maps as a whole, and that are not."""

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the norms of the weights as they are now."""
        if self._sizes is None:
            self._sizes = _input_sizes(run)
        found = self._norms(run)
        norms = found.norms
        if failures := found.failures:
            run.left_out(f"The spectral norms of these layers are not measured: {'; '.join(failures.values())}.")
        if not self._layers:
            self._layers, self._failed = list(norms), found.failures
            if others := _others(run.model, {*norms, *found.failures}):
                run.left_out(
                    f"{len(others)} parameters with rows and columns are of modules whose linear map is not known, "
                    f"and not measured: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}."
                )
        if not norms:
            return
        if later := [name for name in norms if name not in self._layers]:
            run.left_out(f"Layers that came after the first turn are in the bounds alone: {', '.join(later)}.")
        missing = torch.tensor(torch.nan, dtype=torch.float64)
        every = torch.stack([norms.get(name, missing).cpu() for name in self._layers])
        estimator = (
            f"singular values of matrices; Krylov iteration to 1e-4 for matrices with no side up to {DIRECT}, and for "
            f"convolutions on their actual input size"
        )
        measured = partial(Measurement, estimator=estimator)
        yield measured(
            "spectral_norm/weight",
            every,
            dims=("layer",),
            coords={"layer": Axis(np.array(self._layers))},
            description="largest factor by which a layer stretches an input",
        )
        if found.searched:
            yield measured(
                "spectral_norm/unconverged",
                found.unconverged,
                unit="layers",
                description="layers of which the search for the norm was given up, and is too small",
            )
        if not found.failures and (is_chain(run.model) if self.chain is None else self.chain):
            bound = partial(measured, unit="output per input", description="bound of the Lipschitz constant")
            parts = [layer for layer in self._maps if layer in norms]
            links = [norm for name, norm in norms.items() if not any(name.startswith(f"{part}.") for part in parts)]
            factors = torch.stack([norm.cpu() for norm in (*links, *found.tied)])
            yield bound("lipschitz/spectral_norm_product", spectral_norm_product(factors))
            if len(found.matrices) == len(norms) + len(found.tied):
                how = "largest magnitude of a weight, and all widths"
                yield bound("lipschitz/max_norm", max_norm_bound(found.matrices), estimator=how)

    def _norms(self, run: Run) -> _Norms:
        """The norm of each weight, a tied one once; what cannot be measured costs none of the others."""
        found = _Norms({}, dict(self._failed), [], [])
        first: dict[int, str] = {}  # the name under which each parameter is measured
        modules = [(name or type(module).__name__, module) for name, module in named_modules(run.model)]
        waiting = sum(_is_searched(module) for _, module in modules)
        end = time.perf_counter() + run.first_turn_limit
        for layer, module in modules:
            if layer in self._failed:
                continue
            convolution = isinstance(module, nn.modules.conv._ConvNd)
            if convolution and layer not in (self._sizes or {}):
                if self._sizes is None or layer in self._layers:  # not known yet; else not used in the forward pass
                    found.norms[layer] = torch.tensor(torch.nan, dtype=torch.float64)
                continue
            seconds = math.inf
            if _is_searched(module):
                seconds, waiting = max(0.0, end - time.perf_counter()) / waiting, waiting - 1
            try:
                every = self._of_module(run.model, layer, module, seconds)
            except Exception as error:
                found.failures[layer] = f"{layer} ({type(module).__name__}: {first_line(error).rstrip('.')})"
                continue
            own = own_parameters(module)
            for name, (weight, result) in every.items():
                key = id(own[weight]) if weight in own and not convolution else None
                if key in first:
                    found.tied.append(found.norms[first[key]])
                    continue
                if key is not None and own[weight].ndim > 1:
                    first[key] = name
                found.norms[name] = to_float64(result.norm)
                found.unconverged += not result.converged
                found.searched |= convolution or result.iterations > 0
                if result.vector is not None:
                    self._vectors[layer if weight == "weight" else f"{layer}:{weight}"] = result.vector
            if isinstance(module, nn.Linear):
                found.matrices.append(module.weight)
        return found

    def _of_module(
        self, model: nn.Module, layer: str, module: nn.Module, seconds: float
    ) -> dict[str, tuple[str, OperatorNorm]]:
        """The norms of one module, with the weight they are of, by the name they are recorded under."""
        size = (self._sizes or {}).get(layer)
        found: dict[str, OperatorNorm] = module_spectral_norm(
            module, size, _of_layer(self._vectors, layer), tol=1e-4, seconds=seconds
        )
        every = {_name(model, layer, module, weight, len(found)): (weight, found[weight]) for weight in found}
        if size is None or isinstance(module, nn.modules.conv._ConvNd) or layer in self._no_maps:
            return every
        try:
            whole = affine_spectral_norm(module, size, self._vectors.get(f"{layer}:"), tol=1e-4, seconds=seconds)
        except Exception:  # of a module that cannot be called alone
            whole = None
        (self._no_maps if whole is None else self._maps).add(layer)
        return every if whole is None else {layer: ("", whole), **every}

    def state_dict(self) -> dict[str, Any]:
        """The vectors that the layers stretch most."""
        return dict(self._vectors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from those vectors."""
        self._vectors = dict(state)


def _others(model: nn.Module, norms: set[str]) -> list[str]:
    """The parameters of two dimensions or more that belong to no measured layer."""
    of_layers = {name for name, module in named_modules(model) if (name or type(module).__name__) in norms}
    of_layers |= {name.rpartition(".")[0] for name in norms}
    return [
        name
        for name, parameter in ((plain_name(name), parameter) for name, parameter in model.named_parameters())
        if not is_lazy(parameter)
        and parameter.ndim >= 2
        and name.rpartition(".")[0] not in of_layers
        and name.partition(".parametrizations.")[0] not in of_layers
    ]


def _name(model: nn.Module, layer: str, module: nn.Module, weight: str, count: int) -> str:
    """What a norm is recorded as: the layer's name where it has one weight, called so if the layer is not torch's."""
    if "/" in weight:
        return weight  # a path, as Keras names them
    if count == 1 and (weight == "weight" or not own_matrices(module)):
        return layer
    return weight if module is model and own_matrices(module) else f"{layer}.{weight}"


def _is_searched(module: nn.Module) -> bool:
    own = list(own_parameters(module).values())
    large = any(p.ndim in (2, 3) and min(p.shape[-2:]) > DIRECT for p in own if not is_lazy(p))
    return isinstance(module, nn.modules.conv._ConvNd) or may_be_affine(module) or large


def _of_layer(vectors: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    """The vectors of one layer, by name of the weight."""
    of = {key.removeprefix(f"{layer}:"): vector for key, vector in vectors.items() if key.startswith(f"{layer}:")}
    return {**of, "weight": vectors[layer]} if layer in vectors else of


def _input_sizes(run: Run) -> dict[str, tuple[int, ...]] | None:
    """Shape of one input of every convolution, and of what may be linear, from one forward pass on one sample.

    Of its first call. None as long as there are convolutions and no call of the model is known.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    modules = {name or type(module).__name__: module for name, module in named_modules(run.model)}
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.modules.conv._ConvNd)}
    others = {name: module for name, module in modules.items() if may_be_affine(module)}
    if not convolutions and not others:
        return sizes
    calls = _calls(run)
    if not calls:
        if convolutions:
            run.left_out(
                "The size of the inputs of convolutions is not known before the model was called: NaN until then."
            )
        return None
    handles = []
    try:
        for name, convolution in convolutions.items():

            def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                x = args[0] if args else kwargs["input"]
                dims = len(convolutions[name].kernel_size) + 1
                sizes.setdefault(name, tuple(x.shape[-dims:]))

            handles.append(convolution.register_forward_pre_hook(note, with_kwargs=True))
        for name, module in others.items():

            def whole(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                x = args[0] if len(args) == 1 and not kwargs else None
                if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and len(x) == call.n:
                    sizes.setdefault(name, tuple(x.shape[1:]))

            handles.append(module.register_forward_pre_hook(whole, with_kwargs=True))
        for call in calls:
            try:
                with torch.no_grad():
                    run.model(*call.args, **call.kwargs)
                return sizes
            except Exception as error:
                sizes.clear()
                why = f"{type(error).__name__}: {first_line(error)}"
    finally:
        for handle in handles:
            handle.remove()
    if not convolutions:
        return sizes
    run.left_out(
        f"The norms of convolutions are NaN: the model cannot be called with one sample, nor with all, to see the size "
        f"of their inputs ({why}). Pass batches={{'train': (inputs, targets)}} of the form in which the loop calls the "
        f"model."
    )
    return None


def _calls(run: Run) -> list[Batch]:
    """One sample, and, for a model that refuses one alone, all there are; none before the model was called."""
    one = run.call
    if one is None:
        return []
    whole = run.batch(next(iter(run.batches))) if run.batches else run.shown
    return [one] if whole is None else [one, whole.to(run.device)]
