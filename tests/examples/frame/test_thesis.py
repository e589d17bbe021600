"""Numbers of the errata that no experiment computes."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from examples.frame.data import mnist_subset
from examples.frame.models import MLP
from probes_ntk import alignment, tangent_kernel


def published_norm(matrix, steps=10):
    """The authors' "spectral norm", letter by letter, and the b that it ends with."""
    b = torch.randn(len(matrix), 1, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        b = matrix @ b / (matrix @ b).norm()
    return ((b.t() @ matrix @ b) / b.t() @ b).item(), b


def test_the_published_spectral_norm_is_n_times_a_quadratic_form():
    found = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(64, 64, dtype=torch.float64, generator=generator) / 8
        value, b = published_norm(matrix)
        assert abs(value - 64 * (b.t() @ matrix @ b).item()) < 1e-9
        found.append(value)
    assert min(found) < 0
    assert abs(published_norm(torch.eye(64, dtype=torch.float64))[0] - 64) < 1e-9


def test_the_two_centrings_of_equation_7_differ_by_more_than_a_factor_of_two():
    images, labels = mnist_subset()
    torch.manual_seed(0)
    model = MLP(784, 64, 3, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for steps in (0, 200):
        for _ in range(steps):
            chosen = torch.randint(len(images), (100,))
            optimizer.zero_grad()
            cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        kernel = tangent_kernel(model, images[:40]).kernel
        by_output, at_once = (float(alignment(kernel, labels[:40], how)) for how in ("outputs", "all"))
        assert by_output > 2 * at_once > 0


def test_the_bound_of_figure_b_3_is_made_of_rounding_whatever_the_labels():
    n, generator = 1000, np.random.default_rng(0)
    x = np.linspace(-2, 2, n)[:, None]
    waves = x * 2**0.5 @ generator.normal(size=(1, n)) + generator.uniform(0, 2 * np.pi, n)
    u, s, _ = np.linalg.svd((2 / n) ** 0.5 * np.cos(waves), full_matrices=False)  # of exp(-|x - x'|^2)
    assert 970 <= (s**2 < 1e-15).sum() <= 990
    features = (u * np.sqrt(np.clip(1 + 1.0 * (s**2 - 1), 0, None)))[sample := generator.permutation(n)[:50]]
    labels = np.sign(u[:, 1])
    for y in (labels[sample], generator.permutation(labels)[sample]):
        bound, resolved = (
            np.linalg.norm(np.linalg.pinv(features, rcond=least) @ y) * np.linalg.norm(features) / 50
            for least in (1e-15, 1e-4)
        )
        assert bound > 1e6 and resolved < 1e3
