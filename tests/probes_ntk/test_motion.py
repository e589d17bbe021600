"""How the kernel moves: closed forms, and the streams against naive numbers from the kernels themselves."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from probes import CannotMeasure, ProbeManager, at, every, open_run
from probes.batches import Batch
from probes.run import Run
from probes_ntk import (
    KernelMotion,
    cka,
    eigenfunctions,
    eigenspace_rotation,
    kernel_distance,
    residual_shares,
    tangent_kernel,
)


def kernels(seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, size, 9, generator=generator, dtype=torch.float64)
    return features @ features.mT


def test_distance_is_one_minus_the_cosine():
    one, two = kernels()
    a, b = one.numpy(), two.numpy()
    cosine = np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    assert kernel_distance(one, two).item() == pytest.approx(1 - cosine, rel=1e-12)
    assert kernel_distance(one, 3 * one).item() == pytest.approx(0, abs=1e-15)
    little = one + 1e-7 * two  # one minus a cosine would leave rounding of it
    orthogonal = two - (one * two).sum() / one.square().sum() * one
    expected = 0.5 * 1e-14 * (orthogonal.norm() / one.norm()).item() ** 2
    assert kernel_distance(one, little).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="shape of `kernel`"):
        kernel_distance(one, two[:3, :3])
    with pytest.raises(CannotMeasure, match="zero"):
        kernel_distance(one, torch.zeros_like(one))


def test_rotation_by_known_angles():
    angles = torch.tensor([0.3, 1.1], dtype=torch.float64)
    space = torch.eye(5, dtype=torch.float64)[:2]
    turned = torch.zeros(2, 5, dtype=torch.float64)
    turned[[0, 1], [0, 1]], turned[[0, 1], [2, 3]] = angles.cos(), angles.sin()
    mixed = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q @ turned  # the same space
    assert eigenspace_rotation(space, mixed).item() == pytest.approx(angles.sin().square().mean().item(), rel=1e-12)
    with pytest.raises(ValueError, match="shape of `functions`"):
        eigenspace_rotation(space, turned[:1])


def test_shares_of_a_residual_add_up():
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q.T
    residual = (basis * torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]).sum(0).reshape(2, 3)
    squares = np.arange(1, 7) ** 2
    found = residual_shares(basis.reshape(6, 2, 3), residual, [1, 4, 6])
    np.testing.assert_allclose(found, squares.cumsum()[[0, 3, 5]] / squares.sum(), rtol=1e-12)
    assert residual_shares(basis.reshape(6, 2, 3), torch.zeros(2, 3), [1]).isnan().all()
    with pytest.raises(ValueError, match=r"\(c, n\) = \(2, 3\)"):
        residual_shares(basis.reshape(6, 2, 3), residual.T, [1])
    with pytest.raises(ValueError, match="between 1 and 6"):
        residual_shares(basis.reshape(6, 2, 3), residual, [7])


class Followed:
    """A model that is trained, and what a probe says at each turn."""

    def __init__(self, classes=3, targets=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, classes)).double()
        inputs = torch.randn(20, 4, dtype=torch.float64)
        self.batch = Batch((inputs,), targets=torch.arange(20) % 3 if targets is None else targets(inputs))
        self.told = []
        self.run = self._new_run()

    def _new_run(self):
        run = Run(self.model, Path("unused"), seed=0, output=lambda out: out, batches={"train": self.batch})
        run.bind(lambda plugin, seconds: True, lambda plugin, message: self.told.append(message))
        return run

    def train(self, steps):
        optimizer = torch.optim.SGD(self.model.parameters(), 0.3)
        for _ in range(steps):
            optimizer.zero_grad()
            out = self.model(self.batch.args[0])
            nn.functional.cross_entropy(out, self.batch.targets).backward()
            optimizer.step()

    def measured(self, probe, step):
        run = self._new_run()  # nothing of the last turn is cached
        return {each.name.split("/")[1]: each.value for each in probe.measure(run, step)}

    def kernel(self):
        return tangent_kernel(self.model, self.batch).kernel


def test_the_streams_are_what_naive_sums_over_the_kernels_are():
    scene, probe = Followed(), KernelMotion()
    past, steps = {}, [0, 1, 2, 3, 7, 20]
    for index, step in enumerate(steps):
        scene.train(step - steps[max(0, index - 1)])
        found, kernel = scene.measured(probe, step), scene.kernel()
        first, last = past.get(0, kernel), past.get(steps[max(0, index - 1)], kernel)
        assert found["distance"] == pytest.approx(kernel_distance(kernel, first).item(), rel=1e-3, abs=1e-9)
        past[step] = kernel
        size = kernel.shape[0] * kernel.shape[1]
        vectors = torch.linalg.eigh(kernel.reshape(size, size)).eigenvectors.flip(1)
        if step:
            velocity = kernel_distance(kernel, last).item() / (step - steps[index - 1])
            assert found["velocity"] == pytest.approx(velocity, rel=1e-3, abs=1e-9) and velocity > 0
            other = torch.linalg.eigh(first.reshape(size, size)).eigenvectors.flip(1)
            rotation = 1 - np.linalg.norm(vectors[:, :10].T @ other[:, :10]) ** 2 / 10
            assert found["rotation"][0] == pytest.approx(rotation, rel=1e-3)
        else:
            assert "velocity" not in found and found["distance"] == found["rotation"].max() == 0
        # Kept: the first turns from steps 0, 1, 2, 4, 8 and 16 on.
        kept = {0: 0, 1: 1, 2: 2, 3: 7, 4: 20, 5: 20}
        expected = [
            cka(kernel, past[kept[place]], "outputs").item() if kept.get(place, 99) <= step else 1
            for place in range(20)
        ]
        np.testing.assert_allclose(found["cka"], expected, rtol=1e-6)
        out = scene.model(scene.batch.args[0]).detach()
        residual = (nn.functional.one_hot(scene.batch.targets, 3) - out.softmax(1)).T.flatten()
        parts = (vectors.T @ residual).square().cumsum(0) / residual.square().sum()
        np.testing.assert_allclose(found["residual_share"], parts[[1, 4, 9]], rtol=1e-6)  # 4, 8 and 16 % of 60
    assert scene.told == []


def test_the_residual_of_labels_that_a_loop_takes_for_probabilities_is_less_the_sigmoid(tmp_path):
    scene = Followed(targets=lambda inputs: (inputs[:, :3] > 0).double())
    optimizer = torch.optim.SGD(scene.model.parameters(), lr=0.1)
    manager = ProbeManager(scene.model, [KernelMotion(at([1]))], log_dir=tmp_path)
    with manager.attach(optimizer):
        logits = scene.model(scene.batch.args[0])
        nn.functional.binary_cross_entropy_with_logits(logits, scene.batch.targets).backward()
        optimizer.step()
    shares = open_run(tmp_path)["ntk_motion/residual_share/train"]["value"]
    assert shares.attrs["estimator"].endswith("residual: targets less the sigmoid of the outputs")
    kernel = tangent_kernel(scene.model, scene.batch.args[0]).kernel
    residual = (scene.batch.targets - scene.model(scene.batch.args[0]).detach().sigmoid()).T
    expected = residual_shares(eigenfunctions(kernel).functions, residual, [2, 5, 10])  # 4, 8 and 16 % of 60
    np.testing.assert_allclose(shares.values[0], expected, rtol=1e-6)


def test_kernels_of_a_resumed_run_are_compared_with_those_from_before():
    scene, probe = Followed(), KernelMotion()
    scene.measured(probe, 0)
    scene.train(3)
    scene.measured(probe, 3)
    state = copy.deepcopy(probe.state_dict())
    scene.train(2)
    expected, resumed = scene.measured(probe, 5), KernelMotion()
    resumed.load_state_dict(state)
    found = scene.measured(resumed, 5)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_numbers_as_targets_leave_targets_less_outputs():
    scene = Followed(targets=lambda inputs: inputs[:, :3])
    found, kernel = scene.measured(KernelMotion(), 0), scene.kernel()
    residual = (scene.batch.targets - scene.model(scene.batch.args[0]).detach()).T.flatten()
    vectors = torch.linalg.eigh(kernel.reshape(60, 60)).eigenvectors.flip(1)
    parts = (vectors.T @ residual).square().cumsum(0) / residual.square().sum()
    np.testing.assert_allclose(found["residual_share"], parts[[1, 4, 9]], rtol=1e-6)


def test_while_the_kernel_is_undefined_its_numbers_are_nan_and_later_they_go_on():
    scene, probe = Followed(), KernelMotion()
    scene.measured(probe, 0)
    weight = scene.model[0].weight.detach().clone()
    with torch.no_grad():
        scene.model[0].weight.fill_(torch.nan)
    found = scene.measured(probe, 1)
    assert all(np.isnan(value).all() for value in found.values()) and "not finite" in scene.told[0]
    with torch.no_grad():
        scene.model[0].weight.copy_(weight)
    found = scene.measured(probe, 2)
    assert found["distance"] == pytest.approx(0, abs=1e-12) and found["cka"][0] == pytest.approx(1)


def test_a_lazy_network_moves_less_than_a_narrow_one():
    """The wider, the less the kernel moves for the same loss: what the probe is for."""
    distances = []
    for width in (16, 1024):
        torch.manual_seed(0)
        scene = Followed()
        scene.model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()
        probe = KernelMotion()
        scene.measured(probe, 0)
        optimizer = torch.optim.SGD(scene.model.parameters(), 3.2 / width)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(scene.model(scene.batch.args[0]), scene.batch.targets).backward()
            optimizer.step()
        distances.append(scene.measured(probe, 30)["distance"].item())
    assert distances[1] < distances[0] / 5


def test_centering_is_said():
    scene = Followed()
    found = {each.name: each.estimator for each in KernelMotion().measure(scene.run, 0)}
    assert found["ntk_motion/cka/train"].endswith("features centred: outputs")
    assert found["ntk_motion/distance/train"].endswith("not centred")


@pytest.mark.parametrize(("rate", "momentum"), [(1e-1, 0.9), (1e-4, 0.0)])
def test_an_update_is_beside_what_its_features_say(rate, momentum, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs, targets = torch.randn(10, 4).double(), torch.arange(10) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    manager = ProbeManager(
        model, [KernelMotion(every(2))], batches={"train": (inputs, targets)}, log_dir=tmp_path, overhead=None,
        on_error="raise", quiet=True,
    )  # fmt: skip
    expected = []
    with manager.attach(optimizer):
        for _ in range(4):
            before = [parameter.detach().clone() for parameter in model.parameters()]
            outputs = model(inputs)
            jacobian = [torch.autograd.grad(o, list(model.parameters()), retain_graph=True) for o in outputs.flatten()]
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, targets).backward()
            optimizer.step()
            moved = [parameter.detach() - old for parameter, old in zip(model.parameters(), before, strict=True)]
            said = [sum((g * d).sum() for g, d in zip(row, moved, strict=True)) for row in jacobian]
            made = (model(inputs) - outputs).detach().flatten()
            expected.append([float(made.norm()), float((made - torch.stack(said)).norm() / made.norm())])
    run = open_run(tmp_path)
    for index, name in enumerate(("update", "update_error")):
        found = run[f"ntk_motion/{name}/train"]
        assert found["step"].values.tolist() == [2, 4]
        np.testing.assert_allclose(found["value"].values, np.array(expected)[[1, 3], index], rtol=1e-9)
    assert (np.array(expected)[:, 1] < 1e-3).all() == (rate == 1e-4)


def test_a_linear_model_does_what_its_features_say(tmp_path):
    model = nn.Linear(4, 2).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batch = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    manager = ProbeManager(model, [KernelMotion(every(1))], batches={"train": batch}, log_dir=tmp_path, overhead=None)
    with manager.attach(optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
            optimizer.step()
    assert (open_run(tmp_path)["ntk_motion/update_error/train"]["value"].values < 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_in_half_precision_an_update_is_no_rounding(dtype, rate, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)
    inputs, targets = torch.randn(12, 4).to(dtype), torch.arange(12) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def outputs():  # in double precision, at the weights that are there
        return copy.deepcopy(model).double()(inputs.double()).detach()

    manager = ProbeManager(
        model, [KernelMotion(every(1))], batches={"train": (inputs, targets)}, log_dir=tmp_path, overhead=None
    )
    made = []
    with manager.attach(optimizer):
        for _ in range(3):
            before = outputs()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs).float(), targets).backward()
            optimizer.step()
            made.append(float((outputs() - before).norm()))
    run = open_run(tmp_path)
    np.testing.assert_allclose(run["ntk_motion/update/train"]["value"].values, made, rtol=1e-4, atol=1e-12)
    errors = run["ntk_motion/update_error/train"]["value"].values
    assert np.isnan(errors).all() if rate == 0 else (errors < 0.1).all()


def test_a_first_turn_after_the_start_stands_for_the_places_before_it():
    scene, probe, past = Followed(), KernelMotion(), {}
    for step in (5, 8, 20):
        scene.train(step - max(past, default=0))
        found, past[step] = scene.measured(probe, step)["cka"], scene.kernel()
        kept = {**dict.fromkeys(range(4), 5), 4: 8, 5: 20}  # from steps 0, 1, 2, 4; 8; 16 on
        expected = [
            cka(past[step], past[kept[place]], "outputs").item() if kept.get(place, 99) <= step else 1
            for place in range(20)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
