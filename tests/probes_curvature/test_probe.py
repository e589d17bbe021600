"""The probe: what it measures in a loop, of which loss, what it leaves out, and what it goes on from."""

import copy

import numpy as np
import pytest
import torch
from curvature_matrices import explicit
from torch import nn
from torch.nn import functional as F

from probes import ProbeManager, every, open_run
from probes_curvature import Curvature, hessian_eigenvalues, noise_scale

X, Y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs))


def recorded(tmp_path, probe, loss=None, optimizer=None, model=None, steps=6, **settings):
    model = model or network()
    optimizer = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1)))(model.parameters())
    loss = loss or (lambda out: F.cross_entropy(out, Y))
    manager = ProbeManager(model, [probe], log_dir=tmp_path, overhead=None, on_error="raise", quiet=True, **settings)
    with manager.attach(optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(X)).backward()
            optimizer.step()
    return open_run(tmp_path), model, manager


def values(run, name):
    return run[f"curvature/{name}/train"]["value"].values


def has(run, name):
    return f"/curvature/{name}/train" in run.groups


def estimator(run, name):
    return run[f"curvature/{name}/train"]["value"].attrs["estimator"]


def test_it_measures_the_loss_of_the_loop(tmp_path):
    run, model, _ = recorded(
        tmp_path,
        Curvature(every(3), eigenvalues=2, ggn_eigenvalues=2, trace=True, layers=True, batch_size=10),
        loss=lambda out: nn.CrossEntropyLoss(label_smoothing=0.3)(out, Y),
    )
    found = hessian_eigenvalues(model, nn.CrossEntropyLoss(label_smoothing=0.3), X, Y, 2)
    np.testing.assert_allclose(values(run, "eigenvalues")[-1], found.values.numpy(), rtol=1e-4)
    assert "cross_entropy(label_smoothing=0.3), the loop's" in estimator(run, "eigenvalues")
    np.testing.assert_allclose(values(run, "sharpness")[-1], [found.values[0], 20.0], rtol=1e-4)
    assert "threshold of the optimizer: 2 / lr" in estimator(run, "sharpness")
    sharpest = values(run, "eigenvalues")[:, 0]
    assert (values(run, "directional_sharpness") <= sharpest * 1.001).all()
    layers = run["curvature/layer_sharpness/train"]
    assert layers["layer"].values.tolist() == ["0", "2"] and (values(run, "layer_sharpness") <= sharpest[:, None]).all()
    assert len(run["curvature/noise_scale/train"]["step"]) == 3
    for name in ("trace", "batch_sharpness", "critical_sharpness", "noise_trace", "gradient_square_norm"):
        assert np.isfinite(values(run, name)).all(), name
    assert not has(run, "critical_sharpness_of_update")  # of plain gradient descent it is the gradient


@pytest.mark.parametrize(
    ("made", "words", "threshold"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "2 (1 + momentum) / lr", 38.0),
        (lambda p: torch.optim.Adam(p, lr=0.01), "38 / lr", 3800.0),
        (lambda p: torch.optim.Adagrad(p, lr=0.01), "not known", np.nan),
    ],
    ids=["momentum", "Adam", "Adagrad"],
)
def test_the_threshold_is_that_of_the_optimizer(tmp_path, made, words, threshold):
    run, _, _ = recorded(tmp_path, Curvature(every(2), eigenvalues=1), optimizer=made)
    assert words in estimator(run, "sharpness")
    np.testing.assert_allclose(values(run, "sharpness")[:, 1], threshold)
    assert np.isfinite(values(run, "sharpness")[1:, 0]).all()
    if words != "not known":
        assert run["curvature/critical_sharpness_of_update/train"]["step"].values.tolist() == [2, 4, 6]
        assert run["curvature/directional_sharpness_of_update/train"]["step"].values.tolist() == [2, 4, 6]


def test_a_loss_that_is_not_seen_is_said(tmp_path):
    run, _, _ = recorded(tmp_path, Curvature(every(3)), loss=lambda out: (out - F.one_hot(Y, 3)).square().mean())
    assert "mean squared error; that of the loop was not seen" in estimator(run, "critical_sharpness")


def test_given_batches_and_a_given_loss(tmp_path):
    def loss(out, y):
        return F.cross_entropy(out, y) * 10

    run, model, _ = recorded(tmp_path, Curvature(every(3), eigenvalues=1, loss=loss), batches={"train": (X, Y)})
    assert "the loss that was given" in estimator(run, "eigenvalues")
    found = hessian_eigenvalues(model, loss, X, Y, 1)
    np.testing.assert_allclose(values(run, "eigenvalues")[-1], found.values.numpy(), rtol=1e-4)


def test_a_sum_has_no_noise_scale_and_says_so(tmp_path):
    run, _, manager = recorded(tmp_path, Curvature(every(3)), loss=lambda out: F.cross_entropy(out, Y, reduction="sum"))
    assert not has(run, "noise_scale") and has(run, "critical_sharpness")
    assert "must be the mean over the examples" in manager.report()


def test_a_loss_that_knows_how_many_there_are_costs_the_groups_alone(tmp_path):
    run, _, manager = recorded(
        tmp_path, Curvature(every(1), batch_size=10), loss=lambda out: F.cross_entropy(out.view(60, 3), Y)
    )
    assert has(run, "critical_sharpness") and not has(run, "noise_scale") and not has(run, "batch_sharpness")
    assert len(values(run, "critical_sharpness")) == 7 and "The gradient noise scale: RuntimeError" in manager.report()


def test_critical_sharpness_is_found_whatever_the_rate_of_adam(tmp_path):
    run, _, _ = recorded(tmp_path, Curvature(every(2)), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-5))
    assert (values(run, "critical_sharpness")[1:] > 0).all()


def test_without_second_derivatives_the_others_are_measured(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3))
    run, _, manager = recorded(tmp_path, Curvature(every(3), eigenvalues=1), model=model)
    assert has(run, "critical_sharpness") and has(run, "noise_scale") and not has(run, "eigenvalues")
    assert "weight norm, of which torch's is wrong" in manager.report()


@pytest.mark.parametrize("short", ["time", "memory"])
def test_what_is_not_affordable_is_left_out_and_said(tmp_path, monkeypatch, short):
    if short == "time":
        monkeypatch.setattr("probes.run.Run.first_turn_limit", 1e-9)
    run, _, manager = recorded(tmp_path, Curvature(every(3), memory=100.0 if short == "memory" else 1e9))
    assert not has(run, "eigenvalues") and "Ask for them: eigenvalues=1" in manager.report()
    assert (values(run, "threshold") == 20).all()


def test_a_search_starts_where_the_last_one_ended(tmp_path):
    probe = Curvature(every(1), eigenvalues=1)
    recorded(tmp_path, probe, optimizer=lambda p: torch.optim.SGD(p, lr=1e-4))
    state = probe.state_dict()
    assert state["count"] == 1 and state["starts"]["hessian"].shape == (4 * 8 + 8 + 8 * 3 + 3,)
    other = Curvature(every(1), eigenvalues=1)
    other.load_state_dict(state)
    assert torch.equal(other._starts["hessian"], state["starts"]["hessian"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"eigenvalues": -1}, ValueError, "`eigenvalues` must be an integer, not negative, got -1"),
        ({"ggn_eigenvalues": 1.5}, ValueError, "`ggn_eigenvalues`"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"memory": 0}, ValueError, "`memory`"),
        ({"loss": "mse"}, TypeError, "`loss` must be a function"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        Curvature(**settings)


def test_the_noise_of_micro_batches(tmp_path):
    """Beside gradients that are computed apart, and nothing where there are fewer than four."""
    model, generator = network(), torch.Generator().manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = Curvature(every(3))
    manager = ProbeManager(model, [probe], log_dir=tmp_path, overhead=None, on_error="raise", quiet=True)
    expected = {}
    with manager.attach(optimizer):
        for step in range(1, 10):
            optimizer.zero_grad()
            chosen = [torch.randint(60, (10,), generator=generator) for _ in range(3 if step == 9 else 6)]
            apart = copy.deepcopy(model)
            each = [torch.autograd.grad(F.cross_entropy(apart(X[i]), Y[i]), list(apart.parameters())) for i in chosen]
            gradients = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in each]).double()
            expected[step], _, _ = noise_scale(gradients.square().sum(1), gradients @ gradients.mean(0))
            for i in chosen:
                (F.cross_entropy(model(X[i]), Y[i]) / len(chosen)).backward()
            optimizer.step()
    found = open_run(tmp_path)["curvature/accumulated_noise_scale/train"]
    assert found["step"].values.tolist() == [3, 6] and found["value"].attrs["units"] == "micro-batches"
    np.testing.assert_allclose(found["value"].values, [expected[step].value for step in (3, 6)], rtol=1e-4)


def test_the_density_of_the_eigenvalues(tmp_path):
    run, model, _ = recorded(tmp_path, Curvature(every(3), density=4))
    found = run["curvature/density/train"]
    ratios, largest = found["relative_curvature"].values, values(run, "largest_magnitude")
    share = values(run, "density") * (ratios[1] - ratios[0])
    np.testing.assert_allclose(share.sum(1), 1, atol=0.02)  # of all eigenvalues
    whole, _ = explicit(model, F.cross_entropy, X, Y)
    assert largest[-1] == pytest.approx(float(torch.linalg.eigvalsh(whole).abs().max()), rel=1e-3)
    mean = (share[-1] * ratios).sum() * largest[-1]
    error = abs(found["standard_error"].values[-1] * ratios).sum() * (ratios[1] - ratios[0]) * largest[-1]
    assert abs(mean - float(whole.trace()) / len(whole)) <= 3 * error + 0.01


def test_the_threshold_alone_where_there_are_no_eigenvalues(tmp_path):
    run, _, _ = recorded(tmp_path, Curvature(every(3), eigenvalues=0))
    assert values(run, "threshold") == pytest.approx(20.0) and not has(run, "sharpness")


def test_another_number_of_eigenvalues_after_a_resume_is_said(tmp_path, caplog):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = None
    for count in (2, 3):
        manager = ProbeManager(model, [Curvature(every(1), eigenvalues=count)], log_dir=tmp_path, overhead=None)
        if state is not None:
            manager.load_state_dict(state)
        with manager.attach(optimizer):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            state, report = manager.state_dict(), manager.report()
    assert values(open_run(tmp_path), "eigenvalues").shape[1] == 2
    assert "2 as in the run that this one continues" in str(report)


def test_sparse_gradients(tmp_path):
    """Of an embedding: what needs no second derivative is measured."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(10, (60, 3))
    manager = ProbeManager(model, [Curvature(every(2))], log_dir=tmp_path, overhead=None, on_error="raise", quiet=True)
    with manager.attach(optimizer):
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(tokens), Y).backward()
            optimizer.step()
    assert (values(open_run(tmp_path), "critical_sharpness") > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": nn.CrossEntropyLoss}, r"got a class. Pass CrossEntropyLoss\(\)"),
        ({"trace": "yes"}, "`trace` must be True or False, got 'yes'"),
        ({"batch": 3}, "`batch` must be the name of a batch, got 3"),
        ({"eigenvalues": True}, "`eigenvalues` must be an integer"),
        ({"batch_size": "a"}, "`batch_size` must be an integer"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"density": 1}, "`density` must be 0 or at least 2"),
    ],
)
def test_settings_that_are_wrong(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Curvature(**settings)


@pytest.mark.parametrize("rates", [[0.0, 0.0, 0.01, 0.01, 0.01, 0.0, 0.0], [0.01] * 7])
def test_a_sharpness_of_an_adaptive_optimizer_is_one_quantity(tmp_path, rates):
    """Not that of the plain Hessian before the first step, nor while nothing moves: warm-ups begin at a rate of 0."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=rates[0])
    manager = ProbeManager(model, [Curvature(every(2), eigenvalues=1)], log_dir=tmp_path, overhead=None, quiet=True)
    with manager.attach(optimizer):
        for rate in rates[1:]:
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = rate
    run = open_run(tmp_path)
    assert run["curvature/eigenvalues/train"]["step"].values.tolist() == [0, 2, 4, 6]
    steps = [step for step in (2, 4, 6) if rates[step - 1]]
    assert run["curvature/sharpness/train"]["step"].values.tolist() == steps and steps
    assert np.isfinite(values(run, "sharpness")).all()


@pytest.mark.parametrize("kind", ["parameters", "modules"])
def test_hooks_of_the_user_are_no_part_of_the_curvature(tmp_path, kind):
    model = network()
    if kind == "parameters":
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-0.005, 0.005))
    else:
        for module in model[1:]:
            module.register_full_backward_hook(
                lambda module, given, out: (given[0] / 2,) if given[0] is not None else None
            )
    run, _, _ = recorded(tmp_path, Curvature(every(3), eigenvalues=2), model=model)
    apart = copy.deepcopy(model)
    for part in apart.modules():
        part._backward_hooks.clear()
    whole, _ = explicit(apart, F.cross_entropy, X, Y)
    np.testing.assert_allclose(values(run, "eigenvalues")[-1], torch.linalg.eigvalsh(whole).flip(0)[:2], rtol=1e-4)


@pytest.mark.parametrize("kept", [45, 6])
def test_examples_whose_label_is_ignored_are_left_out(tmp_path, kept):
    """The same as of a batch without them, the noise of the gradient too."""
    labels = torch.where(torch.arange(60) < kept, Y, -100)
    found = []
    for name, batch in (("all", (X, labels)), ("some", (X[:kept], Y[:kept]))):
        run, _, _ = recorded(
            tmp_path / name, Curvature(every(3), eigenvalues=1), batches={"train": batch},
            loss=lambda out: F.cross_entropy(out, labels),
        )  # fmt: skip
        found.append([values(run, stream) for stream in ("noise_scale", "eigenvalues", "critical_sharpness")])
        assert run["curvature/noise_scale/train"]["value"].attrs["num_samples"] == kept
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_of_ignored_tokens_it_is_said_what_is_wrong(tmp_path):
    """Which examples the loss is a mean over cannot be told then."""
    tokens = torch.arange(240).reshape(60, 4)
    labels = torch.where((tokens % 4 == 0) | (tokens > 160), tokens % 3, -100)
    model = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 4)))
    _, _, manager = recorded(
        tmp_path, Curvature(every(3), loss=F.cross_entropy), batches={"train": (X, labels)}, model=model,
        loss=lambda out: F.cross_entropy(out, labels),
    )  # fmt: skip
    told = " ".join(str(manager.report()).split())
    assert "mean over the examples, none weighted or ignored (-100): of all it is" in told
    assert ".." not in told
