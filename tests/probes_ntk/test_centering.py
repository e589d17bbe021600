import pytest
import torch

from probes_ntk import center, center_targets


def test_outputs_takes_the_mean_feature_of_each_output_away(features):
    phi, kernel = features
    moved = torch.stack([phi[a] - sum(phi[a][i] for i in range(7)) / 7 for a in range(3)])
    expected = torch.einsum("aip,bjp->aibj", moved, moved)
    torch.testing.assert_close(center(kernel, "outputs"), expected, rtol=1e-12, atol=1e-12)


def test_all_is_the_centring_matrix_on_both_sides(features):
    _, kernel = features
    c = torch.eye(21, dtype=torch.float64) - torch.full((21, 21), 1 / 21, dtype=torch.float64)
    expected = c @ kernel.reshape(21, 21) @ c
    torch.testing.assert_close(center(kernel, "all").reshape(21, 21), expected, rtol=1e-12, atol=1e-12)


def test_none_is_the_kernel_in_float64(features):
    _, kernel = features
    assert torch.equal(center(kernel.float(), "none"), kernel.float().double())


def test_targets_are_centred_as_features_are(features):
    # Features that are the targets themselves: one parameter.
    y = torch.randn(3, 7, dtype=torch.float64)
    for how in ("none", "outputs", "all"):
        moved = center_targets(y, how)
        expected = center(torch.einsum("ai,bj->aibj", y, y), how)
        torch.testing.assert_close(torch.einsum("ai,bj->aibj", moved, moved), expected)


def test_a_matrix_is_a_kernel_of_one_output():
    assert center(torch.eye(4), "none").shape == (1, 4, 1, 4)


@pytest.mark.parametrize(
    ("kernel", "how", "message"),
    [
        (torch.ones(2, 3), "none", r"must be square, .* got shape \(2, 3\)"),
        (torch.ones(2, 3, 2, 4), "none", r"must be square"),
        (torch.full((2, 2), torch.nan), "none", "NaN or infinite numbers"),
        (torch.eye(2), "examples", "must be one of 'none', 'outputs', 'all', got 'examples'"),
    ],
)
def test_bad_input_is_refused(kernel, how, message):
    with pytest.raises(ValueError, match=message):
        center(kernel, how)


def test_targets_refuse_an_unknown_centring():
    with pytest.raises(ValueError, match="got 'mean'"):
        center_targets(torch.ones(1, 2), "mean")


@pytest.mark.parametrize("how", ["outputs", "all"])
def test_of_equal_features_nothing_is_left_but_what_is_rounding_in_the_dtype(how):
    generator = torch.Generator().manual_seed(0)
    noise = torch.finfo(torch.float32).eps * torch.randn(12, 12, dtype=torch.float64, generator=generator)
    kernel = (100 * (1 + noise + noise.T))[None, :, None]
    assert not center(kernel.float(), how).any()
    assert center(kernel, how).any()  # in float64 these are features
    assert not center(torch.full((1, 5, 1, 5), 0.1, dtype=torch.float64), how).any()
