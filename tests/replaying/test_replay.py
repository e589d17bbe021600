"""Checkpoints measured after the fact give what the live run measured."""

import json

import pytest
import torch

from probes import Measurement, Probe, ProbeManager, at, open_run
from probes.commands.comparison import compare
from probes.replaying.checkpoint_files import load_into, read_checkpoint
from probes.replaying.replay import replay
from probes.replaying.workers import Located, workers
from probes_complexity import Capacity
from probes_fourier import FourierSpectrum, SpectralNorm
from probes_ntk import TangentKernel

STEPS = [0, 3, 6, 7]
SCRIPT = """
import torch

def make_model():
    layers = torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers)

def make_batches():
    draw = torch.Generator().manual_seed(0)
    return {"train": (torch.randn(20, 2, generator=draw), torch.randint(3, (20,), generator=draw))}
"""


def make_probes():
    schedule = at(STEPS)
    return [TangentKernel(schedule), FourierSpectrum(schedule), SpectralNorm(schedule), Capacity(schedule)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A live run with checkpoints of every kind, and the script that makes its model."""
    folder = tmp_path_factory.mktemp("trained")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    torch.manual_seed(0)
    model = Located(f"{script}:make_model")()
    batches = Located(f"{script}:make_batches")()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = batches["train"]
    model.train()
    model(inputs)  # the running statistics of step 0 are those after the first forward
    torch.save(model.state_dict(), folder / "step_0.pt")
    model[1].reset_running_stats()
    manager = ProbeManager(
        model, make_probes(), batches, ["hdf5"], folder / "live", None, seed=5, on_error="raise"
    ).attach(optimizer)
    for step in range(1, 8):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        weights = model.state_dict()
        if step == 3:
            wrapped = {f"_orig_mod.{name}": value for name, value in weights.items()}
            torch.save({"model": wrapped, "step": 3}, folder / "a.pt")
        if step == 6:
            inside = {f"net.{name}": value for name, value in weights.items()}
            torch.save({"state_dict": {**inside, "loss.weight": torch.ones(3)}, "global_step": 6}, folder / "b.ckpt")
        if step == 7:
            (folder / "checkpoint-7").mkdir()
            torch.save(weights, folder / "checkpoint-7" / "pytorch_model.bin")
            torch.save(manager.state_dict(), folder / "checkpoint-7" / "probes.pt")
    manager.detach()
    return folder


def checkpoints(folder):
    return [folder / name for name in ("checkpoint-7", "b.ckpt", "a.pt", "step_0.pt")]


def assert_equal_to_the_live_run(trained, log_dir):
    found = compare(open_run(trained / "live"), open_run(log_dir))
    assert len(found) > 20 and [item for item in found if not item.within(1e-6)] == []
    assert open_run(log_dir)["ntk/trace/train"]["step"].values.tolist() == STEPS


def test_the_result_is_that_of_the_live_run(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    done = []
    result = replay(checkpoints(trained), model, make_probes(), log_dir=tmp_path, done=lambda *of: done.append(of))
    assert_equal_to_the_live_run(trained, tmp_path)  # batches and seed are those in the last checkpoint
    assert result.log_dir == tmp_path and result.problems == []
    assert done[-1] == (len(done), len(done))
    config = json.loads(open_run(tmp_path).attrs["config_json"])
    assert set(config["probes"]) == {"TangentKernel", "FourierSpectrum", "SpectralNorm", "Capacity"}


@pytest.mark.parametrize("elsewhere", [None, pytest.param("ray", marks=pytest.mark.slow)])
def test_the_result_is_that_of_the_live_run_when_others_do_the_work(trained, tmp_path, elsewhere):
    model = Located(f"{trained / 'script.py'}:make_model")
    with workers(2, elsewhere) as executor:
        result = replay(checkpoints(trained), model, make_probes(), log_dir=tmp_path, executor=executor)
    assert_equal_to_the_live_run(trained, tmp_path)
    assert result.problems == []


class Fragile(Probe):
    def measure(self, run, step):
        if step == 3:
            raise RuntimeError("step 3 is too much")
        yield Measurement("fragile", step)


def test_what_cannot_be_measured_is_told_and_the_rest_is_there(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    result = replay(checkpoints(trained), model, [Fragile(), SpectralNorm()], log_dir=tmp_path)
    assert len(result.problems) == 1 and "step 3 is too much" in result.problems[0]
    tree = open_run(tmp_path)
    assert tree["fragile"]["step"].values.tolist() == [0, 6, 7]
    assert tree["spectral_norm/weight"]["step"].values.tolist() == STEPS
    assert any("step 3 is too much" in message for message in tree["events"]["message"].values)


class Undefined(Probe):
    def measure(self, run, step):
        yield Measurement("undefined", float("nan"))


def test_a_number_without_a_value_is_no_problem(trained, tmp_path):
    model, batches = (Located(f"{trained / 'script.py'}:{name}") for name in ("make_model", "make_batches"))
    result = replay([trained / "a.pt"], model, [Undefined()], batches(), tmp_path)
    assert result.problems == [] and open_run(tmp_path)["undefined"]["step"].values.tolist() == [3]


def test_a_probe_whose_needs_are_not_met_is_told(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    inputs = Located(f"{trained / 'script.py'}:make_batches")()["train"][0]
    result = replay([trained / "a.pt"], model, [Capacity(), Norm2()], {"train": inputs}, tmp_path)
    assert result.problems and "targets" in " ".join(result.problems)
    assert open_run(tmp_path)["norm2"]["step"].values.tolist() == [3]


class Norm2(Probe):
    def measure(self, run, step):
        yield Measurement("norm2", run.model[0].weight.norm())


def test_random_numbers_and_the_given_probes_are_left_alone(trained, tmp_path):
    probes = make_probes()
    before, torch_state = [dict(vars(probe)) for probe in probes], torch.get_rng_state()
    replay([trained / "a.pt"], Located(f"{trained / 'script.py'}:make_model"), probes, log_dir=tmp_path, seed=1,
           batches=Located(f"{trained / 'script.py'}:make_batches")())  # fmt: skip
    assert torch.equal(torch.get_rng_state(), torch_state)
    for probe, then in zip(probes, before, strict=True):
        assert vars(probe).keys() == then.keys() and probe.schedule is then["schedule"]


def refuse(match, error, *arguments, **settings):
    with pytest.raises(error, match=match):
        replay(*arguments, **settings)


def test_bad_arguments_are_refused(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    refuse("is a file. Pass another place", FileExistsError, [trained / "a.pt"], model, log_dir=trained / "a.pt")
    refuse("must name at least one file", ValueError, [], model)
    refuse("both of step 3", ValueError, [trained / "a.pt", trained / "a.pt"], model)
    refuse("There is no batch to measure on", ValueError, [trained / "a.pt"], model)
    refuse("There is no file", FileNotFoundError, [tmp_path / "no.pt"], model)
    refuse("must see every update", ValueError, [trained / "checkpoint-7"], model, ["complexity"])
    refuse("a function that returns a torch", ValueError, [trained / "checkpoint-7"], lambda: 3, [Norm2()])
    for other, why in [(torch.nn.Linear(2, 3), "size mismatch for weight"), (torch.nn.GRU(2, 3), "Missing key")]:
        refuse(f"does not fit the model.*{why}", ValueError, [trained / "checkpoint-7"], lambda: other, [Norm2()])  # noqa: B023


def test_checkpoints_are_read_without_executing_anything(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"model": {"weight": torch.ones(1)}, "step": 1, "extra": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="cannot be read without executing what is in it"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "step"),
    [
        ("model.pt", {"model": {"w": torch.ones(1)}, "step": torch.tensor(12)}, 12),
        ("epoch=3-step=500.ckpt", {"state_dict": {"w": torch.ones(1)}}, 500),
        ("ckpt_00040.pt", {"w": torch.ones(1)}, 40),
        ("run2_step7_of_9.pt", {"w": torch.ones(1)}, 7),
        ("last.pt", {"w": torch.ones(1)}, None),
        ("10.pt", {"optimizer": {"w": 1.0}}, ValueError),
    ],
)
def test_the_step_of_a_checkpoint(tmp_path, name, content, step):
    torch.save(content, tmp_path / name)
    if isinstance(step, int):
        assert read_checkpoint(tmp_path / name).step == step
        return
    with pytest.raises(ValueError, match="holds no parameters" if step else r"The step of .*last\.pt is not known"):
        read_checkpoint(tmp_path / name)


def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.full((1, 1), 3.0), "bias": torch.zeros(1)}, tmp_path / "model.safetensors")
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="step"):
        read_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "model.safetensors").rename(tmp_path / "checkpoint-5" / "model.safetensors")
    step, weights, probes = read_checkpoint(tmp_path / "checkpoint-5")
    load_into(model, weights, tmp_path)
    assert (step, probes, model.weight.item()) == (5, None, 3.0)


def test_a_function_is_found_by_where_it_is(tmp_path):
    assert Located("platform:system")() != ""
    (tmp_path / "here.py").write_text("import neighbour\ndef make():\n    return neighbour.VALUE\n")
    (tmp_path / "neighbour.py").write_text("VALUE = 7\n")
    assert Located(f"{tmp_path / 'here.py'}:make")() == 7
    for text, error, match in [
        ("nothing", ValueError, "must be file.py:name"),
        ("no_such_module:make", ValueError, "There is no module 'no_such_module'"),
        (f"{tmp_path / 'no.py'}:make", FileNotFoundError, "There is no file"),
        (f"{tmp_path / 'here.py'}:other", ValueError, "has no 'other'"),
    ]:
        with pytest.raises(error, match=match):
            Located(text)()
