"""The probe against the contract of every probe: each of its points is a test."""

from probes.testing import ProbeContract

from probes_gradient_noise import GradientNoise


class TestGradientNoise(ProbeContract):
    probe = GradientNoise


class TestGradientNoiseInGroups(ProbeContract):
    probe = GradientNoise(group_size=8)
