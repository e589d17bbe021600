"""Several ranks: what scenarios.py saw under torchrun, on two ranks of gloo."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm

from probes import open_run

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT, ROOT / "tests", ROOT / "plugins", ROOT / "integrations")
SCENARIOS = (
    "ddp", "noise", "fsdp", "tensor_parallel", "tied", "resumed", "two_models", "refused", "uneven", "faults", "alone"
)  # fmt: skip
NOT_RUNNING = "Not running: "


def launch(out, *scenarios, ranks=2, seconds=1800, python=sys.executable, **environment):
    """Run scenarios under torchrun, each of whose calls must end in time."""
    process = subprocess.Popen(
        [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--no-python", python,
         ROOT / "tests" / "ranks" / "scenarios.py", out, *scenarios],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, SOURCES)), **environment},
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"deadlock: {process.communicate()[0][-3000:]}") from None
    return process.returncode, output


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """By scenario and rank."""
    out = tmp_path_factory.mktemp("ranks")
    code, output = launch(out, *SCENARIOS, python=warm.python())
    assert code == 0, output[-5000:]
    return {name: [json.loads((out / f"{name}.{rank}.json").read_text()) for rank in (0, 1)] for name in SCENARIOS}


def events(run, kind):
    return [message for what, message in run["events"] if what == kind]


def check_bits(scenario, *names, bare="bare"):
    """On both ranks the training is what it is without probes."""
    for rank in (0, 1):
        assert {name: scenario[rank][name]["digest"] for name in names} == dict.fromkeys(
            names, scenario[rank][bare]["digest"]
        )


def test_training_under_ddp_is_bit_for_bit_that_without_probes(seen):
    check_bits(seen["ddp"], "all", "budget")
    for rank in (0, 1):
        assert seen["alone"][rank]["ddp"]["digest"] == seen["ddp"][rank]["bare"]["digest"]


def test_under_ddp_rank_0_measures_whether_the_others_attach_or_not(seen):
    first, second = (ranks["all"] for ranks in seen["ddp"])
    assert first["rows"] == seen["alone"][0]["ddp"]["rows"] and len(first["rows"]) == 180
    assert second["report"] == "Inactive: rank 0 measures and writes for all processes.\n" and second["rows"] == {}
    assert not events(first, "warning") and not events(first, "fault")
    assert not events(seen["alone"][0]["ddp"], "warning") and "report" not in seen["alone"][1]["ddp"]


@pytest.mark.parametrize("name", ["one", "accumulated"])
def test_rank_0_sees_its_own_gradient_and_the_average(seen, name):
    """Beside gradients that are computed apart; clipped they are after the pass."""
    found = seen["noise"][0][name]
    assert found["ranks"] == [2] * 8
    np.testing.assert_allclose(found["seen"], found["expected"], rtol=1e-5)
    assert seen["noise"][1][name]["seen"] == []


@pytest.mark.parametrize("what", ["compressed", "hooked", "unfrozen", "stale"])
def test_what_is_no_average_of_the_ranks_gradients_is_left_out(seen, what):
    assert seen["noise"][0][what] == [True] * 8


def test_the_noise_scale_of_ranks(seen):
    check_bits(seen["noise"], "curvature")
    numbers = {key for key in seen["noise"][0]["curvature"]["rows"] if "rank_noise_scale" in key}
    assert numbers == {"curvature/rank_noise_scale/train@4", "curvature/rank_noise_scale/train@8"}
    assert not events(seen["noise"][0]["curvature"], "fault")


def test_within_a_budget_fewer_turns_are_taken_and_each_is_right(seen):
    rows, exact = seen["ddp"][0]["budget"]["rows"], seen["alone"][0]["ddp"]["rows"]
    stateless = {key: value for key, value in rows.items() if key.startswith(("ntk", "fourier", "kernel_spectrum"))}
    assert all(f"{name}@0" in stateless for name in ("ntk/trace/train", "fourier/centroid/train"))
    assert {key: exact[key] for key in stateless if key in exact} == {
        key: value for key, value in stateless.items() if key in exact
    }


def test_a_sharded_model_trains_bit_for_bit_as_without_probes(seen):
    check_bits(seen["fsdp"], "all")
    check_bits(seen["fsdp"], "mixed", bare="mixed bare")
    for rank in (0, 1):
        assert seen["alone"][rank]["fsdp"]["digest"] == seen["fsdp"][rank]["bare"]["digest"]


def test_a_sharded_model_trains_and_is_measured_within_a_budget(seen):
    check_bits(seen["fsdp"], "budget")
    rows, exact = (seen["fsdp"][0][name]["rows"] for name in ("budget", "all"))
    stateless = {key for key in rows if key.startswith(("ntk", "fourier", "kernel_spectrum"))}
    assert {"ntk/trace/train@0", "fourier/centroid/train@0"} <= stateless
    assert all(rows[key] == exact[key] for key in stateless if key in exact)


def test_a_sharded_model_is_measured_as_the_same_model_under_ddp(seen):
    whole, replicas = seen["fsdp"][0]["all"]["rows"], seen["fsdp"][0]["ddp"]["rows"]
    assert whole == {key: value for key, value in replicas.items() if not key.startswith("updates")}
    mixed = seen["fsdp"][0]["mixed"]["rows"]
    assert mixed.keys() == whole.keys()
    # Before the first update the parameters that the optimizer keeps, in full precision, are the same.
    assert {key: value for key, value in mixed.items() if key.endswith("@0")} == {
        key: value for key, value in whole.items() if key.endswith("@0")
    }


def test_a_sharded_model_with_ties_hooks_and_parametrizations_is_measured_as_under_ddp(seen):
    check_bits(seen["tied"], "all")
    first = seen["tied"][0]
    assert first["all"]["rows"] == first["ddp"]["rows"] and len(first["all"]["rows"]) == 80


def test_parts_of_updates_are_added_up_over_ranks(seen):
    whole, replicas = (seen["fsdp"][0][name]["numbers"] for name in ("all", "ddp"))
    assert whole.keys() == replicas.keys() and "complexity/path_complexity/train@6" in whole
    for key, (value, error) in whole.items():
        assert value == pytest.approx(replicas[key][0], rel=1e-6)
        assert error == pytest.approx(replicas[key][1], rel=1e-6) if error is not None else replicas[key][1] is None
    assert whole["complexity/path_length@6"][0] > 1


def test_ranks_look_at_the_updates_before_a_turn_and_at_no_others(seen):
    whole, replicas = seen["fsdp"][0]["rare fsdp"], seen["fsdp"][0]["rare ddp"]
    # Nobody but rank 0 knows the next turn right after one, so that the first update after it is looked at too; the
    # ranks also meet after the first update.
    assert [seen["fsdp"][rank]["rare fsdp"]["looks"] for rank in (0, 1)] == [[0, 1, 7, 8, 9, 16, 17, 18]] * 2
    assert replicas["looks"] == [7, 8, 16, 17]
    assert whole["numbers"].keys() == replicas["numbers"].keys() >= {"layers/update_cosine@18"}
    for key, (value, _) in replicas["numbers"].items():
        assert whole["numbers"][key][0] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("units", ["", " but the head"])
def test_a_loss_of_which_a_part_is_not_reduced_yet_is_not_recorded(seen, units):
    each, last = (seen["fsdp"][0][f"accumulated {when}{units}"]["numbers"] for when in ("each", "last"))
    assert {"loop/loss@1", "loop/loss@6", "layers/update_norm@6"} <= each.keys()
    assert not any(key.startswith("loop/loss") for key in last)
    assert {key for key in each if not key.startswith("loop/loss")} == last.keys()


def test_what_cannot_be_measured_on_a_sharded_model_is_named(seen):
    [message] = events(seen["fsdp"][0]["all"], "warning")
    assert message.startswith(f"{NOT_RUNNING}'updates'") and "each rank sees a part" in message
    [message] = events(seen["alone"][0]["fsdp"], "warning")
    assert message.count("'") == 14 and "call attach() before the first step, on every rank" in message
    assert seen["alone"][0]["fsdp"]["rows"] == {}


def test_under_tensor_parallelism_layers_are_added_up_and_all_else_is_refused(seen):
    runs = seen["tensor_parallel"][0]
    check_bits(seen["tensor_parallel"], "layers", "budget")
    whole = {key: value for key, value in runs["whole"]["numbers"].items() if key.startswith("layers")}
    added = {key: value for key, value in runs["layers"]["numbers"].items() if key.startswith("layers")}
    assert {key.partition("@")[0] for key in whole.keys() - added.keys()} == {
        f"layers/{name}/train"
        for name in ("activation_max", "activation_mean", "activation_rms", "activation_variation", "dead_share",
                     "output_entropy", "saturated_share", "zero_share")
    }  # fmt: skip
    assert added.keys() <= whole.keys() and "layers/update_cosine@6" in added and "layers/weight_norm@0" in added
    for key, (value, _) in added.items():
        # The sums of a forward pass in parts are rounded in another order, and Adam divides by what is small.
        assert value == pytest.approx(whole[key][0], rel=1e-4, abs=1e-6), key
    first = [key for key in added if key.endswith(("@0", "@2"))]
    assert all(added[key][0] == pytest.approx(whole[key][0], rel=1e-6) for key in first if "weight" in key)
    [message] = events(runs["layers"], "warning")
    assert message.startswith(NOT_RUNNING) and "tensor parallelism" in message and "'layers'" not in message
    assert (
        "The activations are not measured: a forward pass of this model is one of all ranks" in runs["layers"]["report"]
    )
    assert not events(runs["layers"], "fault") and not any(key.startswith("ntk") for key in runs["layers"]["rows"])


@pytest.mark.parametrize(("name", "what"), [("flattened", "FullyShardedDataParallel"), ("parallel", "tensor parallel")])
def test_other_distributed_models_are_refused(seen, name, what):
    check_bits(seen["refused"], name, bare=f"{name} bare")
    [message] = events(seen["refused"][0][name], "warning")
    assert message.startswith(NOT_RUNNING) and what in message and "checkpoints in a plain model" in message


def test_a_resumed_run_goes_on_as_if_it_had_not_been_interrupted(seen):
    first = seen["resumed"][0]
    assert first["begun"]["rows"] | first["resumed"]["rows"] == first["whole"]["rows"]
    assert not first["begun"]["rows"].keys() & first["resumed"]["rows"].keys()


def test_two_models_have_a_manager_each(seen):
    check_bits(seen["two_models"], "probed")
    bare, probed = seen["two_models"][0]["bare"], seen["two_models"][0]["probed"]
    assert bare["second"][0] == probed["second"][0]
    assert len(probed["rows"]) == len(probed["second"][1]) == 111


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_runs_out_of_data_keeps_nobody_waiting(seen, rank):
    check_bits(seen["uneven"], f"probed {rank}", bare=f"bare {rank}")
    first = seen["uneven"][0][f"probed {rank}"]
    assert len(first["rows"]) == (111 if rank == 0 else 180)


KINDS = ["fails", "interrupted", "leaves 0", "leaves 1", "store 0", "store 1"]
FAULTS = [f"{kind} {name}" for kind in ("ddp", "fsdp") for name in KINDS] + [
    "fsdp slow", "fsdp part fails", "fsdp part is none", "fsdp other probes",
]  # fmt: skip
ROWS = {
    "ddp interrupted": 16, "ddp leaves 0": 10,
    "fsdp interrupted": 14, "fsdp leaves 0": 10, "fsdp leaves 1": 10, "fsdp store 0": 10,
    "fsdp store 1": 10, "fsdp slow": 6, "fsdp other probes": 0,
}  # fmt: skip
"""Of 18: two probes, step 0 and eight updates. An interrupt keeps the ranks from agreeing on the next step, too."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_rank_changes_no_training_and_no_row(seen, name):
    kind = name.split()[0]
    check_bits(seen["faults"], name, bare=f"{kind} bare")
    runs = seen["faults"][0]
    rows = {key: value for key, value in runs[name]["rows"].items() if key.split("/")[0] in ("one", "other")}
    assert len(rows) == ROWS.get(name, 18)
    if "interrupted" not in name:  # what was measured a step late
        assert rows.items() <= runs[f"{kind} right"]["rows"].items()


def test_what_happened_to_a_rank_is_told(seen):
    runs = seen["faults"][0]
    assert "Make the same ProbeManager" in events(runs["fsdp other probes"], "warning")[0]
    assert "Rank 1 has detached" in events(runs["fsdp leaves 1"], "detach")[0]
    assert "not all of its ranks take part any more" in events(runs["fsdp leaves 1"], "warning")[0]
    assert "cannot reach each other" in events(runs["fsdp store 0"], "warning")[0]
    assert "the model is sharded, and" in events(runs["fsdp store 1"], "warning")[0]
    assert "could not be put together" in events(runs["fsdp slow"], "warning")[0]
    for name in ("fsdp part fails", "fsdp part is none"):
        assert "a part is missing" in events(runs[name], "fault")[0]
    assert all(not events(run, "warning") for name, run in runs.items() if name.startswith("ddp"))
    assert all(runs[f"{kind} interrupted"]["interrupt"] for kind in ("ddp", "fsdp"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_leaves_readable_files(tmp_path, victim):
    code, output = launch(tmp_path, "killed", VICTIM=str(victim))
    assert code != 0 and "SIGKILL" in output
    run = open_run(tmp_path / f"killed {victim}")
    assert run["spectral_norm/weight"]["step"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert {path.name for path in tmp_path.iterdir()} == {f"killed {victim}"}


@pytest.mark.slow
def test_a_sharded_model_on_one_rank(tmp_path):
    code, output = launch(tmp_path, "fsdp", ranks=1)
    assert code == 0, output[-3000:]
    runs = json.loads((tmp_path / "fsdp.0.json").read_text())
    assert runs["all"]["digest"] == runs["bare"]["digest"]
    assert runs["all"]["rows"].items() <= runs["ddp"]["rows"].items() and len(runs["all"]["rows"]) == 171


@pytest.mark.slow
def test_a_model_sharded_over_two_ranks_and_replicated_over_two(tmp_path):
    code, output = launch(tmp_path, "hybrid", ranks=4)
    assert code == 0, output[-3000:]
    seen = [json.loads((tmp_path / f"hybrid.{rank}.json").read_text()) for rank in range(4)]
    assert all(ranks["all"]["digest"] == ranks["bare"]["digest"] for ranks in seen)
    whole, replicas = seen[0]["all"], seen[0]["ddp"]
    assert len(whole["rows"]) == 171 and len(replicas["rows"]) == 180
    for key, value in whole["rows"].items():
        assert value == replicas["rows"][key] or not key.endswith("@0")  # later, torch sums in another order
    key = "complexity/path_complexity/train@6"
    assert whole["numbers"][key] == pytest.approx(replicas["numbers"][key], rel=1e-5)
