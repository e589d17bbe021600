"""Consistency of MINE and the bound of the reconstruction error: closed forms, and when the criteria pass."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from examples.mutual_information import consistency
from examples.mutual_information.bounded import fit, samples_asked
from examples.mutual_information.consistency import PRESETS, estimates, judge, reconstructions
from examples.mutual_information.gaussians import pairs
from examples.mutual_information.reconstruction_bound import joint, models, samples, terms

SETTINGS = PRESETS["quick"].settings
TRUTH = -math.log(1 - SETTINGS.correlation**2) / 2


def model(gain=1.0, which=1, number=0):
    generator = torch.Generator().manual_seed(number)
    return models((gain / 3, gain / 2, gain), (3, 2), generator)[2][which]


def test_terms_match_torch_distributions_and_samples():
    one = model()
    found, q = terms(one), joint(one)
    zero, eye = torch.zeros(5).double(), torch.eye(2).double()
    p = torch.zeros(5, 5).double()
    p[3:, 3:], p[:3, 3:], p[3:, :3] = eye, one.back, one.back.T
    p[:3, :3] = one.back @ one.back.T + one.spread
    whole, data, codes = (MultivariateNormal(zero[: len(c)], c) for c in (q, q[:3, :3], q[3:, 3:]))
    assert found.divergence == pytest.approx(float(kl_divergence(whole, MultivariateNormal(zero, p))))
    assert found.of_codes == pytest.approx(float(kl_divergence(codes, MultivariateNormal(zero[:2], eye))))
    assert found.entropy_x == pytest.approx(float(data.entropy()))
    assert found.entropy_z == pytest.approx(float(codes.entropy()))
    assert found.information == pytest.approx(float(data.entropy() + codes.entropy() - whole.entropy()))
    x, z = (side.double() for side in samples(one, 100_000, torch.Generator().manual_seed(1)))
    losses = -MultivariateNormal(z @ one.back.T, one.spread).log_prob(x)
    assert found.error == pytest.approx(float(losses.mean()), abs=4 * float(losses.std()) / 100_000**0.5)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("gain", [0.2, 1.0, 5.0])
def test_reconstruction_error_is_below_the_bound_by_the_divergence_of_the_codes(gain, which):
    error, divergence, of_codes, information, entropy_x, _ = terms(model(gain, which))
    assert error == pytest.approx(divergence - of_codes - information + entropy_x)
    assert of_codes >= 0


def test_the_best_decoder_leaves_the_entropy_of_data_given_codes_and_another_its_divergence_more():
    best, other = terms(model(which=0)), terms(model(which=1))
    assert best.error == pytest.approx(best.entropy_x - best.information)
    # What another decoder adds is D(q(x | z) || p(x | z)), the part of the joint divergence that is not of codes.
    assert other.error - best.error == pytest.approx(other.divergence - other.of_codes)
    assert other.error > best.error


def test_the_bound_as_printed_with_the_entropy_of_codes_does_not_hold():
    error, divergence, _, information, _, entropy_z = terms(model(0.1, 0))
    assert error > divergence - information + entropy_z + 0.5


def test_parameters_stay_in_their_ball_and_values_in_their_bounds():
    settings = replace(SETTINGS, radius=1.0, steps=20)
    x, z = pairs(0.9, 1, 200, torch.Generator().manual_seed(0))
    network = fit(settings, x, z, 0, (8,), 0.05).network
    assert sum(float(one.detach().square().sum()) for one in network.parameters()) <= 1.0 + 1e-5
    assert float(network(x, z).detach().abs().max()) <= 0.05 + 1e-6  # float32


def test_samples_asked_for_are_those_of_eq_15():
    logarithms = 3 * math.log(16 * 2 * 3**0.5 / 0.1) + 2 * 3 * math.e + math.log(2 / 0.05)
    found = samples_asked((), 1.0, 2.0, 0.1)  # of a linear network, which has 3 parameters
    assert found == pytest.approx(2 * math.e**2 * logarithms / 0.1**2)


SIZES = np.array(SETTINGS.sizes)
GAINS = len(SETTINGS.gains)


def seed(number=0, own=None, other=None, read=None):
    """Errors of both estimates at each size, and the informations that MINE reads."""
    found = np.array([[terms(one) for one in pair] for pair in models(SETTINGS.gains, (4, 2), generator(number))])
    errors = [0.5 / SIZES**0.5 if value is None else value for value in (own, other)]
    signs = np.array([1, -1, 1, -1])
    return {
        "own": TRUTH + errors[0][:, None] * signs,
        "other": TRUTH - errors[1][:, None] * np.ones(4),
        "terms": found,
        "read": found[:, 0, 3] + 0.05 if read is None else read,
    }


def generator(number):
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True] * 5),
        ({"own": np.full(5, TRUTH)}, [False, True, False, True, True]),  # shuffled pairs, white noise
        ({"other": np.full(5, TRUTH)}, [True, False, True, True, True]),
        ({"own": 5 / SIZES**0.5}, [False, True, False, True, True]),  # the power is right, the error is not
        ({"own": 1e-4 / SIZES**0.5}, [True, True, False, True, True]),
        ({"read": np.zeros(GAINS)}, [True, True, True, False, False]),  # shuffled codes
        ({"read": np.linspace(5, 1, GAINS)}, [True, True, True, False, False]),
    ],
)
def test_criteria_of_consistency_and_of_the_bound(changed, expected):
    findings = judge(SETTINGS, [seed(number, **changed) for number in range(3)])
    assert [finding.passed for finding in findings if finding.passed is not None] == expected


SHORT = replace(SETTINGS, sizes=(100, 1000), repetitions=2, steps=300, num_test=2000, gains=(0.2, 0.5, 1.0))


def measured(settings, number):
    parts = [estimates(settings, n, number) for n in settings.sizes]
    found = {key: np.array([part[key] for part in parts]) for key in ("own", "other")}
    bound = reconstructions(settings, number)
    return found | {"terms": np.array(bound["terms"]), "read": np.array(bound["read"])}


def test_shuffled_pairs_fail_every_criterion(monkeypatch):
    def apart(rho, d, n, draws):
        x, z = pairs(rho, d, n, draws)
        return x, z[torch.randperm(n, generator=draws)]

    def codes_apart(one, n, draws):
        x, z = samples(one, n, draws)
        return x, z[torch.randperm(n, generator=draws)]

    monkeypatch.setattr(consistency, "pairs", apart)
    monkeypatch.setattr(consistency, "samples", codes_apart)
    findings = judge(SHORT, [measured(SHORT, 0)])
    passed = [finding.passed for finding in findings if finding.passed is not None]
    assert passed[:2] == [False, False] and passed[3] is False
