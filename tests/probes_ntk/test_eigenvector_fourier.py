import pytest
import torch

from probes_ntk import eigenfunctions, eigenvector_amplitudes


def test_eigenvectors_of_a_circulant_kernel_are_waves_of_growing_frequency():
    z = torch.arange(32, dtype=torch.float64) / 32
    distance = (z[:, None] - z).abs()
    kernel = torch.exp(-20 * torch.minimum(distance, 1 - distance))
    amplitudes = eigenvector_amplitudes(eigenfunctions(kernel).functions)
    assert amplitudes.shape == (32, 17)
    assert amplitudes.argmax(1)[:31].tolist() == [0] + [k for k in range(1, 16) for _ in range(2)]
    # A unit vector that is one wave: sqrt(n / 2).
    torch.testing.assert_close(amplitudes[1:31].amax(1), torch.full((30,), 4.0, dtype=torch.float64))


def test_eigenvectors_of_several_outputs_are_refused():
    with pytest.raises(ValueError, match=r"one output, shape \(m, n\) or \(m, 1, n\), got \(4, 2, 3\)"):
        eigenvector_amplitudes(torch.ones(4, 2, 3))
