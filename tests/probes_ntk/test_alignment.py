import numpy as np
import pytest
import torch

from probes_ntk import alignment, cka, debiased_cka, label_matrix


def naive_alignment(phi, labels, centering):
    """From features and labels, with numpy; phi of shape (c, n, P)."""
    phi = phi.numpy().copy()
    c, n, _ = phi.shape
    y = np.zeros((c, n))
    for i, label in enumerate(labels.tolist()):
        y[label, i] = 1
    if centering == "outputs":
        for a in range(c):
            phi[a] -= phi[a].mean(0)
            y[a] -= y[a].mean()
    if centering == "all":
        phi -= phi.reshape(c * n, -1).mean(0)
        y -= y.mean()
    phi, y = phi.reshape(c * n, -1), y.reshape(-1)
    kernel, labels_kernel = phi @ phi.T, np.outer(y, y)
    return np.trace(kernel @ labels_kernel) / np.linalg.norm(kernel) / np.linalg.norm(labels_kernel)


@pytest.mark.parametrize("centering", ["none", "outputs", "all"])
def test_alignment_is_kernel_alignment_with_the_rank_one_kernel_of_the_labels(features, centering):
    phi, kernel = features
    labels = torch.tensor([0, 2, 1, 1, 0, 0, 2])
    expected = naive_alignment(phi, labels, centering)
    assert alignment(kernel, labels, centering).item() == pytest.approx(expected, rel=1e-12)
    y = label_matrix(labels, 3)
    other = torch.einsum("ai,bj->aibj", y, y)
    assert cka(kernel, other, centering).item() == pytest.approx(expected, rel=1e-12)


def test_the_three_centrings_differ(features):
    _, kernel = features
    labels = torch.tensor([0, 2, 1, 1, 0, 0, 2])
    values = {round(alignment(kernel, labels, how).item(), 4) for how in ("none", "outputs", "all")}
    assert len(values) == 3


def test_label_matrix_takes_labels_and_numbers():
    one_hot = label_matrix(torch.tensor([[1], [0]]), 2)
    assert one_hot.tolist() == [[0, 1], [1, 0]]
    assert label_matrix(torch.tensor([0, 1, 1]), 1).tolist() == [[0, 1, 1]]
    assert label_matrix(torch.tensor([0.5, -1.0]), 1).tolist() == [[0.5, -1]]
    assert label_matrix(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 2).tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 3]), "labels from 0 to 2, for 3 outputs; got labels from 0 to 3"),
        (torch.tensor([0, -100]), "got labels from -100 to 0"),
        (torch.ones(2, 2), r"shape \(n, 3\) for 3 outputs, got shape \(2, 2\)"),
        (torch.ones(2), r"got shape \(2,\), torch.float32"),
    ],
)
def test_label_matrix_refuses_what_it_cannot_read(targets, message):
    with pytest.raises(ValueError, match=message):
        label_matrix(targets, 3)


def test_alignment_refuses_targets_of_one_class_and_kernels_of_nothing():
    with pytest.raises(ValueError, match="all alike once centred"):
        alignment(torch.eye(3)[None, :, None], torch.tensor([0.1, 0.1, 0.1]), "outputs")
    with pytest.raises(ValueError, match="kernel is zero"):
        alignment(torch.zeros(3, 3), torch.tensor([0, 1, 1]), "none")
    with pytest.raises(ValueError, match=r"zero \(once centred"):
        alignment(torch.full((3, 3), 0.1), torch.tensor([0, 1, 1]), "outputs")
    with pytest.raises(ValueError, match="one target for each of the kernel's 3 examples, got 2"):
        alignment(torch.eye(3), torch.tensor([0, 1]), "none")


def naive_hsic(one, two):
    """The unbiased estimate as sums over tuples of different indices."""
    n = len(one)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    first = sum(one[i, j] * two[i, j] for i, j in pairs) / len(pairs)
    triples = [(i, j, k) for i, j in pairs for k in range(n) if k not in (i, j)]
    second = sum(one[i, j] * two[i, k] for i, j, k in triples) / len(triples)
    quads = [(i, j, k, m) for i, j, k in triples for m in range(n) if m not in (i, j, k)]
    third = sum(one[i, j] * two[k, m] for i, j, k, m in quads) / len(quads)
    return first + third - 2 * second


def test_debiased_cka_is_the_average_over_tuples_of_different_examples():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    one, two = x @ x.T, y @ y.T + 0.5 * x @ x.T
    expected = naive_hsic(one, two) / (naive_hsic(one, one) * naive_hsic(two, two)) ** 0.5
    assert debiased_cka(one, two).item() == pytest.approx(expected.item(), rel=1e-10)
    assert debiased_cka(one, 3 * one).item() == pytest.approx(1)


def test_debiased_cka_of_independent_features_is_zero_where_cka_is_not():
    generator = torch.Generator().manual_seed(0)
    biased, unbiased = [], []
    for _ in range(50):
        x, y = (torch.randn(20, 40, dtype=torch.float64, generator=generator) for _ in range(2))
        biased.append(cka(x @ x.T, y @ y.T, "all").item())
        unbiased.append(debiased_cka(x @ x.T, y @ y.T).item())
    assert min(biased) > 0.5
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / 50**0.5 < 0.1


def test_cka_refuses_kernels_of_different_shapes_and_of_nothing():
    with pytest.raises(ValueError, match=r"shape of `kernel`, \(3, 3\).*got \(4, 4\)"):
        cka(torch.eye(3), torch.eye(4), "none")
    with pytest.raises(ValueError, match=r"zero \(once centred"):
        cka(torch.eye(3), torch.ones(3, 3), "all")
    with pytest.raises(ValueError, match="at least 4 rows"):
        debiased_cka(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match="not positive"):
        debiased_cka(torch.eye(5), torch.eye(5))


def test_targets_that_differ_by_rounding_are_alike():
    kernel = torch.eye(6)
    targets = 0.1 + torch.finfo(torch.float32).eps * torch.arange(6.0) / 20
    assert len(targets.unique()) > 1
    with pytest.raises(ValueError, match="all alike"):
        alignment(kernel, targets, "outputs")
    assert alignment(kernel, targets.double() + 1e-6 * torch.arange(6), "outputs") > 0


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.7])
@pytest.mark.parametrize("n", [5, 7, 20])
def test_a_constant_kernel_has_no_debiased_cka(n, scale):
    x = torch.full((n, 3), scale)
    with pytest.raises(ValueError, match="not positive"):
        debiased_cka(0.09 * (x @ x.T), 2 * (x @ x.T))


def test_targets_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="`targets` must be finite"):
        alignment(torch.eye(3), torch.tensor([1.0, torch.nan, 2.0]), "outputs")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_targets_of_half_precision_that_differ_are_not_alike(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    targets = (2 + 0.5 * torch.randn(30, generator=generator)).to(dtype)
    expected = alignment(x @ x.T, targets.double(), "outputs")
    assert alignment(x @ x.T, targets, "outputs").item() == pytest.approx(expected.item(), rel=1e-12)
    labels = torch.ones(40, dtype=dtype)
    labels[:2] = -1
    assert alignment(torch.eye(40), labels, "outputs") > 0
    with pytest.raises(ValueError, match="all alike"):
        alignment(torch.eye(40), torch.full((40,), 0.1, dtype=dtype), "outputs")


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-4), (torch.float16, 0.05), (torch.bfloat16, 0.3)])
@pytest.mark.parametrize("mean", [0, 3])
def test_kernels_of_features_far_from_zero_are_compared(mean, dtype, rel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 10, generator=generator, dtype=torch.float64) + mean
    y = x + 0.5 * torch.randn(40, 10, generator=generator, dtype=torch.float64)
    one, two = x @ x.T, y @ y.T
    expected = debiased_cka(one, two).item()
    assert debiased_cka(one.to(dtype), two.to(dtype)).item() == pytest.approx(expected, rel=rel)
    expected = cka(one, two, "outputs").item()
    assert cka(one.to(dtype), two.to(dtype), "outputs").item() == pytest.approx(expected, rel=rel)


def test_what_is_left_of_a_kernel_far_from_zero_is_compared_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 10, generator=generator, dtype=torch.float64)
    one, two = (x + 20) @ (x + 20).T, (x.abs() + 20) @ (x.abs() + 20).T
    expected = debiased_cka(one, two).item()
    assert debiased_cka(one.float(), two.float()).item() == pytest.approx(expected, abs=1e-3)
