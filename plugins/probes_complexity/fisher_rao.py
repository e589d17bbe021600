"""The Fisher-Rao norm: the length of the parameters in the metric of the distributions that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from probes.measurement import CannotMeasure, first_line
from probes.precision import to_float64
from probes_ntk import Call

from .margin import margins, signs

__all__ = ["Likelihood", "fisher_rao_norm"]

Likelihood = Literal["cross_entropy", "square"]


def fisher_rao_norm(
    model: nn.Module,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    loss: Likelihood = "cross_entropy",
    output: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    r"""Length of the trainable parameters in the Fisher metric: how much the loss changes if all of them are scaled.

    .. math:: \|\theta\|_{\text{fr}}^2 = \langle \theta, I(\theta) \theta \rangle
              = \mathbb E \big[ \langle \theta, \nabla_\theta \ell(f_\theta(x), y) \rangle^2 \big]
              = \mathbb E \Big[ \Big\langle \frac{\partial \ell}{\partial f}, J_\theta \, \theta \Big\rangle^2 \Big]

    One directional derivative of the outputs, in the direction of the parameters themselves, is all that is needed of
    the model. For networks of L + 1 layers without biases, with ReLU between them, it is (L + 1) f.

    Args:
        model: In eval mode.
        inputs: As the model takes them.
        targets: Labels of the data, for the empirical Fisher metric. By default y is drawn from the model, whose
            expectation is exact: over all classes, or over a normal distribution.
            Classes of shape ``(n,)``; of a model of one output as :func:`~probes_complexity.signs` takes them;
            for ``"square"``, of the outputs' shape.
        loss: The negative log-likelihood: ``"cross_entropy"`` (of a model of one output, logistic), or ``"square"``,
            :math:`\frac 1 2 \|f - y\|^2`, of a normal distribution of variance one.
        output: Picks the output tensor, ``(n, c)`` or ``(n,)``, from what the model returns.

    Returns:
        The norm, not its square, in the unit of the loss (nats), float64. Shape ``()``.

    Raises:
        ValueError: If ``loss`` is unknown; if the targets do not fit it; if the gradient of an example would depend on
            others or on chance (batch normalisation or dropout in training mode), or nothing is trainable.
        TypeError: If the outputs are no floating-point numbers.
        CannotMeasure: If an operation of the model, such as an EmbeddingBag, has a gradient without a derivative.

    Cost: one forward pass of all inputs at once, a backward pass, and a backward pass through both; memory for two
    graphs.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(3.0)
        >>> fisher_rao_norm(model, torch.tensor([[2.0]]), loss="square").item()
        6.0

    Reference:
        Liang, Poggio, Rakhlin & Stokes, "Fisher-Rao metric, geometry, and complexity of neural networks", AISTATS 2019
        (arXiv:1711.01530): the definition, and theorem 3.1 for networks without biases. The definition and the two
        expectations over labels were checked in code that cites eq. 3.2, 5.1, 5.2 and 5.3; the numbers of the theorem
        and of these equations could not be checked in the text.
    """
    if loss not in get_args(Likelihood):
        raise ValueError(f"`loss` must be one of {', '.join(map(repr, get_args(Likelihood)))}, got {loss!r}.")
    call = Call.of(model, inputs, output)
    with torch.enable_grad():  # whatever the caller's mode
        outputs, along = _derivative(call)
    return _norm(outputs, along, targets, loss)


def _norm(outputs: Tensor, along: Tensor, targets: Tensor | None, loss: Likelihood) -> Tensor:
    if loss == "square":
        if targets is None:
            return along.square().sum(1).mean().sqrt()
        if targets.shape not in (outputs.shape, outputs.shape[: 1 + (outputs.shape[1] > 1)]):
            raise ValueError(
                f"`targets` must have the shape of the outputs, {tuple(outputs.shape)}, got {tuple(targets.shape)}."
            )
        residual = outputs - to_float64(targets.detach()).reshape(outputs.shape).to(outputs.device)
        return (residual * along).sum(1).square().mean().sqrt()
    if outputs.shape[1] == 1:  # two classes, of logits f and 0
        outputs, along = (torch.cat([torch.zeros_like(part), part], 1) for part in (outputs, along))
        classes = None if targets is None else (signs(targets) > 0).long()
    else:
        classes = targets
    probabilities = outputs.softmax(1)
    mean = (probabilities * along).sum(1)
    if classes is None:
        return (probabilities * (along - mean[:, None]).square()).sum(1).mean().sqrt()
    margins(outputs, classes)  # refuses what are no classes
    own = along.gather(1, classes.to(along.device).long()[:, None])[:, 0]
    return (own - mean).square().mean().sqrt()


def _derivative(call: Call) -> tuple[Tensor, Tensor]:
    """The outputs and their derivative in the direction of the parameters, float64. Shapes ``(n, c)``.

    By two reverse passes, since not every operation has a forward derivative: <u, J theta> is linear in u, and its
    gradient the derivative sought.
    """
    parameters = list(call.parameters.values())
    outputs = call.forward(call.batch)
    u = torch.zeros_like(outputs, requires_grad=True)
    gradients = torch.autograd.grad(outputs, parameters, u, create_graph=True, allow_unused=True)
    product = sum(
        (
            (gradient * parameter.detach()).sum()
            for gradient, parameter in zip(gradients, parameters, strict=True)
            if gradient is not None
        ),
        start=u.new_zeros(()),
    )
    try:
        (along,) = torch.autograd.grad(product, u)
    except NotImplementedError as error:
        raise CannotMeasure(
            f"The Fisher-Rao norm needs a derivative of the gradient, and the model has an operation without "
            f"({first_line(error).rstrip('.')})."
        ) from error
    return to_float64(outputs.detach()), to_float64(along)
