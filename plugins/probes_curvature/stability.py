"""Up to which sharpness an optimizer is stable, from its own settings, and the preconditioner it applies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Stability", "last_update", "stability"]

ADAPTIVE = {"Adam": "exp_avg_sq", "AdamW": "exp_avg_sq", "RMSprop": "square_avg"}
"""By optimizer: its state that holds the mean squares of the gradients."""


class Stability(NamedTuple):
    r"""An optimizer is stable on a quadratic while the largest eigenvalue of :math:`D^{-1/2} H D^{-1/2}` is below."""

    threshold: float
    """In the unit of the loss over the squared unit of the parameters, or, with a preconditioner, of the gradient."""
    words: str
    """How it comes about, such as ``"2 / lr"``."""
    preconditioner: dict[str, Tensor] | None
    """The diagonal of D by name of the parameter; None for the identity, and before the first step."""
    adaptive: bool = False
    """Whether D comes from gradients, so that there is none before the first step."""


def stability(optimizers: Sequence[Optimizer], parameters: Mapping[str, Tensor]) -> Stability | None:
    r"""The sharpness above which an optimizer is unstable on a quadratic, and the metric that sharpness is taken in.

    With learning rate :math:`\eta`, of the optimizers of torch:

    .. math::
        \text{SGD: } \frac{2}{\eta}, \qquad
        \text{momentum } \mu: \frac{2 (1 + \mu)}{(1 - \text{dampening})\, \eta}, \qquad
        \text{Nesterov's: } \frac{2 (1 + \mu)}{(1 + 2 \mu)\, \eta}

    Adam and AdamW: :math:`2 (1 + \beta_1) / ((1 - \beta_1)\, \eta)`, which is 38 / lr for 0.9, of the Hessian
    preconditioned by :math:`D = (1 - \beta_1^t) (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)`; RMSprop: that of SGD, with
    :math:`D = \sqrt{v} + \epsilon`. Where groups have several learning rates, D holds their ratios to that of the
    first. The weight decay of SGD is taken off the threshold where D is the identity; any other that is added to the
    gradient is left out, as the words say.

    Args:
        optimizers: Of the parameters, after a step where they are adaptive.
        parameters: By name, those that the Hessian is by.

    Returns:
        None where nothing is known, as of another optimizer, none, several kinds of momentum, a learning rate of 0,
        AMSGrad or a maximised loss. The preconditioner of an adaptive one is None before its first step.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> stability([torch.optim.SGD([w], lr=0.5, momentum=0.5)], {"w": w})[:2]
        (6.0, '2 (1 + momentum) / lr')

    References:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability, eq. 1 and
        appendix B (momentum).
        Cohen et al. (2022), Adaptive gradient methods at the edge of stability, arXiv:2207.14484, eq. 2 and section 3.
    """
    group_of = {
        id(leaf): (optimizer, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for leaf in group["params"]
    }
    found = [(name, leaf, *group_of.get(id(leaf), (None, {}))) for name, leaf in parameters.items()]
    if not found or any(optimizer is None for _, _, optimizer, _ in found):
        return None
    _, _, first, settings = found[0]
    kind = _kind(first)
    if not kind:
        return None
    rate = float(settings["lr"])
    if not rate > 0:
        return None
    momentum = _momentum(kind, settings)
    if momentum is None:
        return None
    diagonal: dict[str, Tensor] = {}
    plain = kind == "SGD"
    for name, leaf, optimizer, group in found:
        if _kind(optimizer) != kind or _momentum(kind, group) != momentum or not float(group["lr"]) > 0:
            return None
        own = float(group["lr"])
        if not plain:
            scale = _adaptive(kind, optimizer.state.get(leaf, {}) if optimizer is not None else {}, group)
            if scale is not None:
                diagonal[name] = scale * (rate / own)
        elif own != rate:
            diagonal[name] = torch.full_like(leaf.detach(), rate / own)
    if diagonal:  # one without a gradient has no curvature
        diagonal |= {name: torch.ones_like(leaf.detach()) for name, leaf, _, _ in found if name not in diagonal}
    factor, words = momentum
    decays = {float(group.get("weight_decay", 0)) for *_, group in found} if kind != "AdamW" else {0.0}
    decay = max(decays) if plain and len(decays) == 1 and not diagonal else 0.0
    words += " - weight decay" if decay else ", without the weight decay" if any(decays) else ""
    return Stability(factor / rate - decay, words, diagonal or None, not plain)


def last_update(optimizers: Sequence[Optimizer], parameters: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The last update of SGD with momentum, Adam or AdamW over the learning rate, without the decay of weights.

    Args:
        optimizers: Of the parameters, after a step.
        parameters: By name.

    Returns:
        d by name, where the parameters are moved by - lr d; of several learning rates, relative to the first; 0 of
        parameters that had no gradient. None where any is moved otherwise, as by SGD without momentum.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        >>> w.grad = torch.ones(1)
        >>> optimizer.step(); optimizer.step()
        >>> last_update([optimizer], {"w": w})["w"].tolist()
        [1.899999976158142]
    """
    found: dict[str, Tensor] = {}
    first: float | None = None
    for name, leaf in parameters.items():
        for optimizer in optimizers:
            group = next((g for g in optimizer.param_groups if any(leaf is each for each in g["params"])), None)
            state = optimizer.state.get(leaf, {})
            if group is None:
                continue
            kind = _kind(optimizer)
            momentum = kind == "SGD" and group.get("momentum") and not group.get("nesterov")
            if not momentum and (kind not in ("Adam", "AdamW") or group.get("amsgrad")):
                return None
            if not state:
                continue
            rate = float(group["lr"])
            first = rate if first is None else first
            if momentum:
                way = state.get("momentum_buffer")
            else:
                scale = _adaptive(kind, state, group)
                way = None if scale is None else state["exp_avg"] / scale
            if way is not None and first > 0:
                found[name] = way.detach() * (rate / first)
    return {name: found.get(name, torch.zeros_like(leaf)) for name, leaf in parameters.items()} if found else None


def _kind(optimizer: Optimizer | None) -> str:
    """The class of torch's own; nothing is known of another one of the same name."""
    return type(optimizer).__name__ if type(optimizer).__module__.startswith("torch.optim.") else ""


def _momentum(kind: str, group: Mapping[str, object]) -> tuple[float, str] | None:
    """The threshold times the learning rate, and in words."""
    if group.get("maximize") or group.get("amsgrad") or group.get("centered"):
        return None
    if kind in ("Adam", "AdamW"):
        first = float(group["betas"][0])  # type: ignore[index]
        factor = 2 * (1 + first) / (1 - first)
        return factor, f"{factor:.3g} / lr"
    momentum = float(group.get("momentum", 0))  # type: ignore[arg-type]
    if kind == "RMSprop":
        return (2.0, "2 / lr") if momentum == 0 else (2 * (1 + momentum), "2 (1 + momentum) / lr")
    if kind != "SGD":
        return None
    if momentum == 0:
        return 2.0, "2 / lr"
    if group.get("nesterov"):
        return 2 * (1 + momentum) / (1 + 2 * momentum), "2 (1 + momentum) / ((1 + 2 momentum) lr)"
    damped = 1 - float(group.get("dampening", 0))  # type: ignore[arg-type]
    if not damped > 0:
        return None
    return 2 * (1 + momentum) / damped, "2 (1 + momentum) / lr" + (" / (1 - dampening)" if damped != 1 else "")


def _adaptive(kind: str, state: Mapping[str, Tensor], group: Mapping[str, object]) -> Tensor | None:
    """The diagonal by which the optimizer divides the gradient; None before the first step."""
    squares = state.get(ADAPTIVE[kind])
    if squares is None:
        return None
    epsilon = float(group["eps"])  # type: ignore[arg-type]
    if kind == "RMSprop":
        return squares.detach().sqrt() + epsilon
    step = float(state["step"])
    first, second = (float(beta) for beta in group["betas"])  # type: ignore[attr-defined]
    root: Tensor = (squares.detach() / (1 - second**step)).sqrt() + epsilon
    found: Tensor = root * (1 - first**step)
    return found
