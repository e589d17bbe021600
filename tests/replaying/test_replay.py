"""Checkpoints measured after the fact give what the live run measured."""

import json

import pytest
import torch

from probes import Measurement, Probe, ProbeManager, at, open_run
from probes.commands.comparison import compare
from probes.replaying.checkpoint_files import read_checkpoint
from probes.replaying.loading import load_into
from probes.replaying.replay import replay
from probes.replaying.workers import Located, workers
from probes_complexity import Capacity
from probes_fourier import FourierSpectrum, SpectralNorm
from probes_layers import LayerStatistics
from probes_ntk import KernelMotion, TangentKernel

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


@pytest.mark.parametrize("steps", [[5], [0, 100], [5, 9, 10], [100, 200, 300]])
def test_probes_that_look_at_updates_measure_every_checkpoint(tmp_path, steps):
    for step in steps:
        torch.save(make_net().state_dict(), tmp_path / f"checkpoint-{step}.pt")
    files, batches = sorted(tmp_path.glob("*.pt")), {"train": (torch.randn(6, 2), torch.randint(1, (6,)))}
    result = replay(files, make_net, [LayerStatistics(), KernelMotion()], batches, tmp_path / "run")
    assert result.problems == []
    tree = open_run(tmp_path / "run")
    for stream in ("layers/weight_norm", "layers/activation_rms/train", "ntk_motion/distance/train"):
        assert tree[stream]["step"].values.tolist() == steps
    assert "update_norm" not in tree["layers"]


class Updates(Probe):
    watched_updates = 1
    seen = None

    def on_step(self, run, step):
        self.seen = step

    def measure(self, run, step):
        if self.seen is not None:
            yield Measurement("updates", self.seen)


def test_a_probe_that_measures_only_updates_is_told_once(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    result = replay(checkpoints(trained), model, [Updates(), SpectralNorm()], log_dir=tmp_path)
    (problem,) = result.problems
    assert "'Updates'" in problem and "has measured nothing at step 0, 3, 6, 7: it yields nothing without" in problem
    assert problem in open_run(tmp_path)["events"]["message"].values


class Broken(Probe):
    def measure(self, run, step):
        raise RuntimeError("no use")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_turns_that_are_not_taken_are_named(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    result = replay(checkpoints(trained), model, [Broken()], log_dir=tmp_path)
    assert len(result.problems) == 3
    assert "has measured nothing at step 7: quarantined after 3 failures in a row" in result.problems[-1]


def test_a_need_that_no_checkpoint_meets_is_told_once(trained, tmp_path):
    model = Located(f"{trained / 'script.py'}:make_model")
    inputs = Located(f"{trained / 'script.py'}:make_batches")()["train"][0]
    (problem,) = replay(checkpoints(trained)[1:], model, [Capacity()], {"train": inputs}, tmp_path).problems
    assert problem.startswith("Not running: 'capacity'")


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


def test_what_needs_no_batch_is_measured_without_one(trained, tmp_path):
    make = Located(f"{trained / 'script.py'}:make_model")
    replayed = replay([trained / "a.pt"], make, ["spectral_norm"], log_dir=tmp_path / "run")
    model = make()
    load_into(model, read_checkpoint(trained / "a.pt").weights, trained / "a.pt")
    norms = [torch.linalg.matrix_norm(model[index].weight.double(), 2).item() for index in (0, 3)]
    found = open_run(tmp_path / "run")["spectral_norm/weight"]["value"]
    assert found.sel(layer=["0", "3"]).values[0] == pytest.approx(norms, rel=1e-5)
    assert not replayed.problems


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
        ("run7_epoch_3.pt", {"model": {"w": torch.ones(1)}, "step": 12.0}, 12),
        ("epoch=3-step=1200-val_loss=0.25.ckpt", {"w": torch.ones(1)}, 1200),
        ("ckpt_1000_lr0.01.pt", {"w": torch.ones(1)}, 1000),
        ("ckpt-1000-seed0.pt", {"w": torch.ones(1)}, 1000),
        ("ckpt_100_of_1000.pt", {"w": torch.ones(1)}, 100),
        ("checkpoint_2_iter_40.pt", {"w": torch.ones(1)}, 40),
        ("run7_epoch_3.pt", {"w": torch.ones(1)}, 3),
        ("ckpt-10k.pt", {"w": torch.ones(1)}, 10_000),
        ("Step-1.5M.pt", {"w": torch.ones(1)}, 1_500_000),
        ("model.ckpt-500", {"w": torch.ones(1)}, 500),
        ("model_500.pt", {"w": torch.ones(1)}, 500),
    ],
)
def test_the_step_of_a_checkpoint(tmp_path, name, content, step):
    torch.save(content, tmp_path / name)
    if isinstance(step, int):
        assert read_checkpoint(tmp_path / name).step == step
        return
    with pytest.raises(ValueError, match="holds no parameters" if step else r"The step of .*last\.pt is not known"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("model_1000_lr0.01.pt", "its name holds several, 1000, 0.01, of which none is the only one after a word"),
        ("step_1_step_2.pt", "its name holds several, 1, 2"),
        ("llama_7b.pt", "its name holds '7b', which is not a whole number"),
        ("lr0.01.pt", "its name holds '0.01', which is not a whole number"),
    ],
)
def test_a_name_that_does_not_say_the_step_is_refused(tmp_path, name, why):
    torch.save({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"The step of .* is not known: .*{why}.* Rename it, as in checkpoint-500\.pt"
    ):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("step", [-1, 0.5, float("nan"), float("inf"), torch.tensor(float("nan")), 2**63])
def test_a_step_that_is_no_whole_number_is_refused(tmp_path, step):
    torch.save({"model": {"w": torch.ones(1)}, "step": step}, tmp_path / "checkpoint-5.pt")
    with pytest.raises(ValueError, match=r"The step in .*5\.pt must be a whole number from 0 on, below 2\*\*63, got "):
        read_checkpoint(tmp_path / "checkpoint-5.pt")


def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path):
    (tmp_path / "noise-1.safetensors").write_bytes(b"\xff" * 50)
    torch.save({"w": torch.ones(100)}, tmp_path / "cut-1.pt")
    (tmp_path / "cut-1.pt").write_bytes((tmp_path / "cut-1.pt").read_bytes()[:700])
    for name in ("noise-1.safetensors", "cut-1.pt"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read \(\w+Error: [^\n]*\)\. It may be damaged"):
            read_checkpoint(tmp_path / name)
    (tmp_path / "zeros-1.pt").write_bytes(b"PK" + b"\0" * 100)
    with pytest.raises(ValueError, match="is no checkpoint: neither"):
        read_checkpoint(tmp_path / "zeros-1.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_of_pickle_protocols_those_that_need_no_execution_are_read(tmp_path, zipped):
    for protocol in (2, 3, 4):
        torch.save({"w": torch.ones(1)}, tmp_path / f"protocol{protocol}.pt", pickle_protocol=protocol,
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
    assert read_checkpoint(tmp_path / "protocol2.pt").step == 2
    assert read_checkpoint(tmp_path / "protocol3.pt").step == 3
    with pytest.raises(ValueError, match=r"protocol4\.pt is written in a pickle protocol that cannot be read without"):
        read_checkpoint(tmp_path / "protocol4.pt")


def make_net():
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


@pytest.mark.parametrize(
    "prefix",
    [
        "module._orig_mod.",
        "_orig_mod.module.",
        "model._orig_mod.",
        "module.model.",
        "net.module.",
        "model.net.",
        "net.",
    ],
)
def test_what_wrappers_put_before_the_names_is_left_out(tmp_path, prefix):
    saved, model = make_net(), make_net()
    load_into(model, {f"{prefix}{name}": value for name, value in saved.state_dict().items()}, tmp_path)
    assert torch.equal(model[2].weight, saved[2].weight)


def test_a_layer_that_is_compiled_has_its_plain_name(tmp_path):
    saved, model = make_net(), make_net()
    compiled = {name.replace("0.", "0._orig_mod."): value for name, value in saved.state_dict().items()}
    load_into(model, compiled, tmp_path)
    assert torch.equal(model[0].weight, saved[0].weight)
    model[0] = torch.compile(torch.nn.Linear(2, 3))
    load_into(model, saved.state_dict(), tmp_path)
    assert torch.equal(model[0].weight, saved[0].weight)


@pytest.mark.parametrize(
    "prefixes", [("net.", "ema_net."), ("student.", "momentum."), ("model.", "ema."), ("", "ema.")]
)
def test_different_parameters_that_fit_the_model_are_refused(tmp_path, prefixes):
    first, second = (
        {f"{prefix}{name}": value for name, value in make_net().state_dict().items()} for prefix in prefixes
    )
    with pytest.raises(ValueError, match="different parameters that fit the model, under ") as caught:
        load_into(make_net(), {**first, **second}, tmp_path)
    assert all((repr(prefix) if prefix else "no prefix") in str(caught.value) for prefix in prefixes)
    assert "Save those that are meant in a file of their own" in str(caught.value)


def test_equal_parameters_under_two_names_are_loaded(tmp_path):
    saved, model = make_net(), make_net()
    both = {f"{prefix}{name}": value for prefix in ("net.", "ema.") for name, value in saved.state_dict().items()}
    load_into(model, both, tmp_path)
    assert torch.equal(model[0].weight, saved[0].weight)


def test_of_tied_weights_one_name_is_enough(tmp_path):
    def make():
        model = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Linear(2, 5, bias=False))
        model[1].weight = model[0].weight
        return model

    saved, model = make(), make()
    load_into(model, {"net.0.weight": saved[0].weight.detach()}, tmp_path)
    assert torch.equal(model[1].weight, saved[0].weight) and model[1].weight is model[0].weight
    model[1].weight = torch.nn.Parameter(torch.ones(5, 2))
    with pytest.raises(ValueError, match=r"does not fit the model: .*Missing key\(s\) in state_dict: \"1\.weight\""):
        load_into(model, {"0.weight": saved[0].weight.detach()}, tmp_path)


class WithExtraState(torch.nn.Linear):
    extra = None

    def get_extra_state(self):
        return {"scale": 3}

    def set_extra_state(self, state):
        self.extra = state


def test_the_extra_state_of_a_module_may_be_anything(tmp_path):
    saved, model = WithExtraState(2, 1), WithExtraState(2, 1)
    torch.save(saved.state_dict(), tmp_path / "checkpoint-4.pt")
    step, weights, _ = read_checkpoint(tmp_path / "checkpoint-4.pt")
    load_into(model, weights, tmp_path)
    assert step == 4 and torch.equal(model.weight, saved.weight) and model.extra == {"scale": 3}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_with_several_files_of_weights_is_read(tmp_path, kind):
    from safetensors.torch import save_file

    saved, model, folder = make_net(), make_net(), tmp_path / "checkpoint-20"
    folder.mkdir()
    name = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    files = {}
    for number, (key, value) in enumerate(saved.state_dict().items(), start=1):
        files[key] = f"{name}-0000{number}-of-00004.{kind}"
        (save_file if kind == "safetensors" else torch.save)({key: value}, folder / files[key])
    index = folder / f"{name}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    step, weights, _ = read_checkpoint(folder)
    load_into(model, weights, tmp_path)
    assert step == 20 and torch.equal(model[2].weight, saved[2].weight)
    (folder / files["2.weight"]).unlink()
    with pytest.raises(FileNotFoundError, match=f"There is no file .*{files['2.weight']}"):
        read_checkpoint(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="is no index of a checkpoint"):
        read_checkpoint(folder)


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
