"""Several ranks: what ranks_script.py saw under torchrun, on two ranks of gloo."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from probes import open_run

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT, ROOT / "plugins", ROOT / "integrations")
SCENARIOS = ("ddp", "fsdp", "tied", "resumed", "two_models", "refused", "uneven", "faults", "alone")
NOT_RUNNING = "Not running: "


def launch(out, *scenarios, ranks=2, seconds=1800, **environment):
    """Run scenarios under torchrun, each of whose calls must end in time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
         ROOT / "tests" / "ranks_script.py", out, *scenarios],
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
    code, output = launch(out, *SCENARIOS)
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
    check_bits(seen["ddp"], "all", "budget", "joint", "two batches")
    for rank in (0, 1):
        assert seen["alone"][rank]["ddp"]["digest"] == seen["ddp"][rank]["bare"]["digest"]


def test_ranks_share_the_turns_and_measure_what_rank_0_measures_alone(seen):
    first, second = (ranks["all"] for ranks in seen["ddp"])
    assert first["rows"] == seen["alone"][0]["ddp"]["rows"] and len(first["rows"]) == 180
    assert second["helped"] > 0 and f"has taken {second['helped']} turns" in second["report"]
    assert second["rows"] == {}
    assert not events(first, "warning") and not events(first, "fault")


@pytest.mark.parametrize("name", ["joint", "two batches"])
def test_ranks_work_on_one_kernel_and_it_is_the_same_to_the_last_bit(seen, name):
    first, second = (ranks[name] for ranks in seen["ddp"])
    assert first["rows"] == seen["alone"][0][name]["rows"] and "ntk/layer_alignment/train@8" in first["rows"]
    assert second["helped"] > 0 and not events(first, "warning")


def test_within_a_budget_fewer_turns_are_taken_and_each_is_right(seen):
    rows, exact = seen["ddp"][0]["budget"]["rows"], seen["alone"][0]["ddp"]["rows"]
    stateless = {key: value for key, value in rows.items() if key.startswith(("ntk", "fourier", "kernel_spectrum"))}
    assert all(f"{name}@0" in stateless for name in ("ntk/trace/train", "fourier/centroid/train"))
    assert {key: exact[key] for key in stateless if key in exact} == {
        key: value for key, value in stateless.items() if key in exact
    }


def test_rank_0_alone_needs_nobody(seen):
    first, second = seen["alone"]
    assert len(first["ddp"]["rows"]) == 180 and not events(first["ddp"], "warning")
    assert "report" not in second["ddp"]


def test_a_sharded_model_trains_bit_for_bit_as_without_probes(seen):
    check_bits(seen["fsdp"], "all")
    check_bits(seen["fsdp"], "mixed", bare="mixed bare")
    for rank in (0, 1):
        assert seen["alone"][rank]["fsdp"]["digest"] == seen["fsdp"][rank]["bare"]["digest"]


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


def test_what_cannot_be_measured_on_a_sharded_model_is_named(seen):
    [message] = events(seen["fsdp"][0]["all"], "warning")
    assert message.startswith(f"{NOT_RUNNING}'updates'") and "each rank sees a part" in message
    [message] = events(seen["alone"][0]["fsdp"], "warning")
    assert message.count("'") == 14 and "call attach() before the first step, on every rank" in message
    assert seen["alone"][0]["fsdp"]["rows"] == {}


@pytest.mark.parametrize(("name", "what"), [("flattened", "FullyShardedDataParallel"), ("parallel", "tensor parallel")])
def test_other_distributed_models_are_refused(seen, name, what):
    check_bits(seen["refused"], name, bare=f"{name} bare")
    [message] = events(seen["refused"][0][name], "warning")
    assert message.startswith(NOT_RUNNING) and what in message and "checkpoints in a plain model" in message


def test_a_resumed_run_goes_on_as_if_it_had_not_been_interrupted(seen):
    first, second = seen["resumed"]
    assert first["begun"]["rows"] | first["resumed"]["rows"] == first["whole"]["rows"]
    assert not first["begun"]["rows"].keys() & first["resumed"]["rows"].keys()
    assert second["resumed"]["helped"] > 0


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


def steps(run):
    return sorted((key.split("/")[0], int(key.split("@")[1])) for key in run["rows"])


@pytest.mark.parametrize(
    "name",
    ["fails on 0", "fails on 1", "interrupted on 0", "interrupted on 1", "slow", "other probes", "leaves 0", "leaves 1",
     "store 0", "store 1"],
)  # fmt: skip
def test_a_fault_of_one_rank_changes_no_training_and_no_row(seen, name):
    check_bits(seen["faults"], name)
    run, right = seen["faults"][0][name], seen["alone"][0]["faults"]["rows"]
    rows = {key: value for key, value in run["rows"].items() if not key.startswith("updates")}
    missing = {"interrupted on 0": 2, "leaves 0": 8}.get(name, 0)
    assert len(rows) == 18 - missing or name == "fails on 0"
    if name not in ("interrupted on 0",):  # what was measured a step late
        assert rows.items() <= right.items()


def test_what_happened_to_a_rank_is_told(seen):
    runs = seen["faults"][0]
    assert "failed on rank 1, and its turns stay on rank 0" in events(runs["fails on 1"], "warning")[0]
    assert "after KeyboardInterrupt()" in events(runs["interrupted on 1"], "warning")[0]
    assert "did not finish a turn of" in events(runs["slow"], "warning")[0]
    assert "probes or model are not those of rank 0" in events(runs["other probes"], "warning")[0]
    assert "Rank 1 has detached" in events(runs["leaves 1"], "detach")[0]
    assert "cannot reach each other" in events(runs["store 0"], "warning")[0]
    assert "cannot reach each other" in events(runs["store 1"], "warning")[0]
    assert seen["faults"][0]["interrupted on 0"]["interrupt"] and seen["faults"][1]["interrupted on 1"]["interrupt"]


def test_a_rank_with_other_parameters_is_not_believed(seen):
    run = seen["faults"][0]["drifts"]
    assert run["rows"] == seen["alone"][0]["drifts"]["rows"] and run["digest"] == seen["alone"][0]["drifts"]["digest"]
    assert events(run, "warning") == ["Rank 1 holds other parameters than rank 0: rank 0 goes on without it."]


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
    assert all(ranks["ddp"]["helped"] > 0 for ranks in seen[1:])
