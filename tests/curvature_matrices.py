"""Explicit matrices in float64, by torch.func, for what is computed from products alone."""

import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from probes_curvature import Objective


def explicit(model, loss, inputs, targets):
    """The Hessian and the Gauss-Newton matrix of a loss by all trainable parameters, formed."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    flat = torch.cat([p.reshape(-1) for p in trained.values()])

    def outputs(vector):
        parts = vector.split([p.numel() for p in trained.values()])
        given = {name: part.view_as(p) for (name, p), part in zip(trained.items(), parts, strict=True)}
        return functional_call(model, given, (inputs,))

    whole = jacrev(jacrev(lambda vector: loss(outputs(vector), targets)))(flat)
    out = outputs(flat)
    jacobian = jacrev(outputs)(flat).reshape(-1, len(flat))
    curved = jacrev(jacrev(lambda given: loss(given.view_as(out), targets)))(out.reshape(-1))
    return whole, jacobian.T @ curved @ jacobian


def diagonal(values):
    """A model and a loss whose Hessian is diagonal with these eigenvalues: L = sum of value * w^2 / 2."""
    values = torch.as_tensor(values, dtype=torch.float64)
    model = nn.Linear(len(values), 1, bias=False).double()
    inputs, targets = torch.diag(values.abs().sqrt()), torch.zeros(len(values), 1).double()
    signs = values.sign()[:, None]
    return model, lambda f, y: (signs * (f - y).square()).sum() / 2, inputs, targets


def millions(count=4_000_000):
    """An objective of as many parameters in single precision, and its product with 1 but for 5, 4, 3 and 2."""
    eigenvalues = torch.ones(count)
    eigenvalues[:4] = torch.tensor([5.0, 4.0, 3.0, 2.0])
    objective = Objective(nn.Linear(count, 1, bias=False), F.mse_loss, torch.zeros(1, count), torch.zeros(1, 1))
    return objective, lambda vector: eigenvalues * vector
