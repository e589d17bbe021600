"""The Rademacher bounds: what cannot fail is tested of the code, and the criteria fail where they should."""

import itertools

import numpy as np
import pytest
import torch

from examples.complexity import bounds, flows, margin_classes
from probes_complexity import multiclass_bound, supernat

SETTINGS = bounds.PRESETS["quick"].settings
BOUND, ESTIMATE, GAP, SIZE = range(4)


def verdicts(seed, count=5):
    return [finding.passed for finding in bounds.judge(SETTINGS, [seed] * count) if finding.passed is not None]


@pytest.fixture(scope="module")
def regressions():
    return np.array([flows.regressions(32, 60, number) for number in range(20)])


@pytest.fixture
def seed(regressions):
    """Regressions of 20 problems, as computed, and networks and classifiers as they were found to be."""
    shares = np.array([0.15, 0.25, 0.4, 0.6])
    network = np.stack([15 * shares, 14.5 * shares, shares, 4 * shares**0.5], 1)[..., None]
    classifier = np.stack([500 * shares, np.full(4, 0.5), shares, 70 * shares], 1)[..., None]
    found = {"networks": network, "classifiers": classifier, "fast": network[0, :, 0], "factors": np.ones(3)}
    return found | {"flows": regressions.copy()}


def test_all_criteria_pass_as_found(seed):
    assert verdicts(seed) == [True] * 5


def keep_the_trace(seed):
    seed["flows"][:, 1] = seed["flows"][:, 3]


def shuffle_the_problems(seed):
    seed["flows"][:, 0, GAP] = seed["flows"][np.random.default_rng(0).permutation(20), 0, GAP]


def shuffle_the_shares(seed):
    seed["networks"][:, GAP] = seed["networks"][[2, 0, 3, 1], GAP]


def take_the_length_alone(seed):
    seed["networks"][:, BOUND] = seed["networks"][:, SIZE]


def forget_the_root_of_the_trace(seed):
    seed["networks"][:, BOUND] *= 10


def make_all_labels_random(seed):
    seed["classifiers"][:, GAP, 0] = [0.9, 0.88, 0.91, 0.89]


@pytest.mark.parametrize(
    ("mutate", "fails"),
    [
        (keep_the_trace, [0]),
        (shuffle_the_problems, [1]),
        (shuffle_the_shares, [2]),
        (take_the_length_alone, [2, 3]),
        (forget_the_root_of_the_trace, [3]),
        (make_all_labels_random, [4]),
    ],
)
def test_a_mutation_fails(seed, mutate, fails):
    mutate(seed)
    assert [index for index, passed in enumerate(verdicts(seed)) if not passed] == fails


def test_the_supremum_of_a_flow_is_what_its_best_function_reaches_and_the_bound_at_most_the_root_of_2_above():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    targets = torch.randn(5, generator=generator, dtype=torch.float64)
    path = supernat(features, targets, 0.05, 4, "max")
    sigma = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))  # all signs: no estimate, but the complexity
    learned = flows.linear_flow(path, targets, 0.05, sigma, features, targets)
    total = torch.zeros(len(sigma), dtype=torch.float64)
    u, v = path.modes, (path.directions * path.eigenvalues[0].sqrt()).T
    for t in range(4):
        now = u * path.eigenvalues[t].sqrt() @ v  # the features at that step
        residual = path.modes @ path.coefficients[t] - targets
        m = (0.05 * now.T @ (u @ (u.T @ residual))).norm()
        best = now.T @ sigma.double().T  # the direction of the best update, for each draw
        total += ((now @ (m * best / best.norm(dim=0))) * sigma.double().T).sum(0) / 5
    assert learned.estimate[-1].item() == pytest.approx(total.mean().item(), rel=1e-9)
    ratio = learned.bound / learned.estimate
    assert ratio.min() >= 1 and ratio.max() <= 2**0.5


def test_margins_and_ramp():
    outputs = torch.tensor([[3.0, 1.0, 2.5], [0.0, 1.0, 4.0]])
    margin = margin_classes.margins(outputs, torch.tensor([0, 1]))
    assert margin.tolist() == [0.5, -3.0]
    assert flows.ramp(torch.tensor([0.5, -3.0, 2.0])).tolist() == [0.5, 1.0, 0.0]


def test_the_complexity_of_the_margin_loss_lies_below_eq_60_and_grows_with_the_norm_to_one_half():
    train, _ = margin_classes.digits(60, 0.5, seed=0, classes=10)
    train = margin_classes.unit(train, train.images.mean(0))
    sigma, trace = flows.signs(8, 60, 0), 10 * train.images.square().sum()
    found = [margin_classes.loss_class_estimate(train, 10, norm, sigma, 40).mean().item() for norm in (0.1, 1.0, 50.0)]
    bound = [multiclass_bound(norm, trace, 60, 10, 1.0).item() for norm in (0.1, 1.0, 50.0)]
    assert all(0 < low < high for low, high in zip(found, bound, strict=True))
    assert found[0] < found[1] < found[2] == pytest.approx(0.5, abs=0.1)


def test_a_network_that_learns_keeps_its_record():
    train, test = margin_classes.digits(40, 0.0, seed=0, classes=2)
    learned = flows.network_flow(train, test, 8, 0.02, 0.3, 60, 10, flows.signs(16, 40, 0), 0)
    assert (learned.bound.diff() > 0).all() and (learned.size.diff() > 0).all()
    assert (learned.bound > 0.95 * learned.estimate).all()
