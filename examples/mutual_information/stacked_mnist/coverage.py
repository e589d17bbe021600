"""How many modes samples fall in, and how evenly."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from probes import Measurement, Probe
from probes.batches import Batch
from probes.run import Run
from probes.schedule import Schedule


class ModeCoverage(Probe):
    """Modes that samples of the generator fall in, and how far their histogram is from uniform.

    Args:
        classifier: Tells digits.
        num_samples: Samples drawn.
        z_size: Numbers of a code.
    """

    def __init__(self, schedule: Schedule, classifier: nn.Module, num_samples: int, z_size: int) -> None:
        super().__init__(schedule)
        self.classifier, self.num_samples, self.z_size = classifier, num_samples, z_size

    def measure(self, run: Run, step: int) -> Iterator[Measurement]:
        generator = run.generator
        with torch.no_grad():
            found = [
                modes(run.forward(Batch((codes(size, self.z_size, generator).to(run.device),))), self.classifier)
                for size in [500] * (self.num_samples // 500) + [self.num_samples % 500] * bool(self.num_samples % 500)
            ]
            channels = run.evaluate("train").shape[1]
        counts = torch.cat(found).bincount(minlength=10**channels)
        yield Measurement("coverage/modes", int((counts > 0).sum()), num_samples=self.num_samples)
        yield Measurement("coverage/kl", kl_to_uniform(counts), unit="nats", num_samples=self.num_samples)


def codes(n: int, size: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(n, size, generator=generator) - 1


def modes(images: Tensor, classifier: nn.Module) -> Tensor:
    """The number that the digits of the channels form, the first channel its first digit. Shape ``(n,)``."""
    n, channels = images.shape[:2]
    digits = classifier(images.flatten(0, 1).unsqueeze(1)).argmax(1).view(n, channels).cpu()
    number: Tensor = (digits * 10 ** torch.arange(channels - 1, -1, -1)).sum(1)
    return number


def kl_to_uniform(counts: Tensor) -> float:
    """Kullback-Leibler divergence of a histogram to the uniform distribution, in nats.

    Example:
        >>> kl_to_uniform(torch.tensor([5, 5, 0, 0]))  # log 2
        0.6931471805599453
    """
    p = counts.double() / counts.sum()
    return float(torch.special.xlogy(p, p * len(p)).sum())
