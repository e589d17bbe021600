"""How near reconstructions are to images: distance, label, structure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d

from probes import Measurement, Probe
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule

from ..classifier import accuracy

METRICS = {"error": "Euclidean error", "accuracy": "accuracy (%)", "ms_ssim": "MS-SSIM"}


class Fidelity(Probe):
    """How near reconstructions are to images: Euclidean distance, whether a classifier gives them the label, MS-SSIM.

    The distance is the norm of the difference of two images in [-1, 1], a choice: the source does not say how its is
    normalized.

    Args:
        classifier: Of images.
        images: In [-1, 1].
        labels: Of the images, as for :func:`~examples.mutual_information.generative.accuracy`.
        z_size: Numbers of a code, as many as of the encoder's noise.
    """

    def __init__(self, schedule: Schedule, classifier: nn.Module, images: Tensor, labels: Tensor, z_size: int) -> None:
        super().__init__(schedule)
        self.classifier, self.images, self.labels, self.z_size = classifier, images, labels, z_size

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        noise = torch.randn(len(self.images), self.z_size, generator=run.generator)
        parts = [torch.split(tensor, 500) for tensor in (self.images, noise)]
        with torch.no_grad():
            found = torch.cat(
                [run.forward(Batch((x.to(run.device), e.to(run.device)))).cpu() for x, e in zip(*parts, strict=True)]
            )
        n = len(found)
        error = (found - self.images).flatten(1).norm(dim=1).mean()
        right = 100 * accuracy(self.classifier, found, self.labels)
        similar = torch.cat(
            [ms_ssim((x + 1) / 2, (y + 1) / 2) for x, y in zip(parts[0], torch.split(found, 500), strict=True)]
        ).mean()
        yield Measurement("reconstruction/error", error, num_samples=n, description="mean Euclidean distance")
        yield Measurement("reconstruction/accuracy", right, unit="%", num_samples=n)
        yield Measurement("reconstruction/ms_ssim", similar, num_samples=n)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    r"""Multi-scale structural similarity of images in [0, 1], on as many scales of five as their size allows.

    .. math:: l_M^{w_M} \prod_{j=1}^M (cs_j)^{w_j}, \qquad l = \frac{2 \mu_x \mu_y + C_1}{\mu_x^2 + \mu_y^2 + C_1},
              \quad cs = \frac{2 \sigma_{xy} + C_2}{\sigma_x^2 + \sigma_y^2 + C_2}

    with moments under an 11 by 11 Gaussian window of width 1.5, each scale half the size of the one before, and the
    published weights of the scales that are left divided by their sum: an image of 14 by 14 has 1, of 28 by 28 has 2,
    of 64 by 64 has 3.

    Args:
        x: Shape ``(n, channels, height, width)``, at least 11 by 11.
        y: The same shape.

    Returns:
        At most 1, which is equality; dimensionless. Shape ``(n,)``.

    Reference:
        Wang, Simoncelli & Bovik, "Multi-scale structural similarity for image quality assessment", 2003, eq. 7.
    """
    line = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype, device=x.device) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333][: 1 + int(np.log2(min(x.shape[2:]) / 11))]

    def mean(image: Tensor) -> Tensor:
        return conv2d(image, window.expand(image.shape[1], 1, 11, 11), groups=image.shape[1])

    value = x.new_ones(x.shape[:2])
    for scale, weight in enumerate(weights):
        if scale:
            x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
        mean_x, mean_y = mean(x), mean(y)
        covariance = mean(x * y) - mean_x * mean_y
        variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
        similar = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale == len(weights) - 1:
            similar = similar * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        # A negative mean has no fractional power.
        value = value * similar.mean((2, 3)).clamp(min=0) ** (weight / sum(weights))
    return value.mean(1)
