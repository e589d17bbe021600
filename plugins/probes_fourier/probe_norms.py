"""SpectralNorm: by how much each layer stretches, and the bounds of the Lipschitz constant that follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes.measurement import Axis, Measurement
from probes.precision import to_float64
from probes.probe import Probe
from probes.run import Run
from probes.schedule import Schedule

from .lipschitz import is_chain, max_norm_bound, spectral_norm_product
from .spectral_norm import module_spectral_norm

__all__ = ["SpectralNorm"]


class SpectralNorm(Probe):
    r"""Spectral norm of every linear map of the model, and the Lipschitz bounds of the whole.

    Yields:
        ``spectral_norm/weight``: per layer; matrices by their singular values, convolutions as the operators they are
        at the size of their actual input, batch norms (in eval mode) by their largest channel factor.
        ``spectral_norm/unconverged``: how many convolutions were given up; their norm is a little too small.
        ``lipschitz/spectral_norm_product`` and ``lipschitz/max_norm``: bounds of the Lipschitz constant of the whole,
        where the model is a chain of such layers and of activations that stretch nothing; the second where all layers
        are Linear.

    Runs by default. Costs the singular values of every matrix, and for every convolution some forward and backward
    passes of that layer on one sample: up to 1000 the first time, few later, from the vector of the last time.

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
    needs = frozenset({"batch"})
    any_rank = True

    def __init__(self, schedule: Schedule | None = None, *, chain: bool | None = None) -> None:
        super().__init__(schedule)
        self.chain = chain
        self._sizes: dict[str, tuple[int, ...]] | None = None
        self._vectors: dict[str, Tensor] = {}

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        """Yield the norms of the weights as they are now."""
        if self._sizes is None:
            self._sizes = _input_sizes(run)
        names, norms, unconverged, matrices = [], [], 0, []
        for layer, module in run.model.named_modules():
            layer = layer or type(module).__name__
            if isinstance(module, nn.modules.conv._ConvNd) and layer not in self._sizes:
                continue  # not used in the forward pass
            found = module_spectral_norm(module, self._sizes.get(layer), self._vectors.get(layer), tol=1e-4)
            for weight, result in found.items():
                names.append(layer if len(found) == 1 else f"{layer}.{weight}")
                norms.append(to_float64(result.norm))
                unconverged += not result.converged
                if result.vector is not None:
                    self._vectors[layer] = result.vector
            if isinstance(module, nn.Linear):
                matrices.append(module.weight)
        if not names:
            return
        every = torch.stack(norms).cpu()
        estimator = "singular values of matrices; Krylov iteration to 1e-4 for convolutions on their actual input size"
        yield Measurement(
            "spectral_norm/weight",
            every,
            dims=("layer",),
            coords={"layer": Axis(np.array(names))},
            estimator=estimator,
            description="largest factor by which a layer stretches an input",
        )
        if self._sizes:
            yield Measurement(
                "spectral_norm/unconverged", unconverged, unit="layers", estimator=estimator,
                description="convolutions whose norm was given up, and is too small",
            )  # fmt: skip
        if is_chain(run.model) if self.chain is None else self.chain:
            condition = "bound of the Lipschitz constant"
            yield Measurement(
                "lipschitz/spectral_norm_product",
                spectral_norm_product(every),
                unit="output per input",
                estimator=estimator,
                description=condition,
            )
            if len(matrices) == len(names):
                yield Measurement(
                    "lipschitz/max_norm",
                    max_norm_bound(matrices),
                    unit="output per input",
                    estimator="largest magnitude of a weight, and all widths",
                    description=condition,
                )

    def state_dict(self) -> dict[str, Any]:
        """The vectors that the convolutions stretch most."""
        return dict(self._vectors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from those vectors."""
        self._vectors = dict(state)


def _input_sizes(run: Run) -> dict[str, tuple[int, ...]]:
    """Shape of one input of every convolution, from one forward pass on one sample; of its first call."""
    sizes: dict[str, tuple[int, ...]] = {}
    convolutions = {
        name or type(module).__name__: module
        for name, module in run.model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    }
    if not convolutions:
        return sizes
    handles = []
    try:
        for name, module in convolutions.items():

            def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                x = args[0] if args else kwargs["input"]
                dims = len(convolutions[name].kernel_size) + 1
                sizes.setdefault(name, tuple(x.shape[-dims:]))

            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
        with torch.no_grad():
            run.forward(run.batch(next(iter(run.batches))).first(1))
    finally:
        for handle in handles:
            handle.remove()
    return sizes
