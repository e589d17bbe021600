import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import h5py
import pytest
import torch
import warm

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run
from probes.commands.cli import main
from probes.commands.terminal import sparkline


class Spectrum(Probe):
    def measure(self, run, step):
        yield Measurement("s/amplitude", [1.0 + step, 2.0], ("k",), {"k": Axis([1, 2], "cycles")}, unit="nats")
        yield Measurement("s/[markup]", float("nan"))


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    path, model = tmp_path_factory.mktemp("run"), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Spectrum(every(1))], log_dir=path, overhead=None).attach(optimizer):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    return path


def call(*arguments):
    """What the command prints, run in this process: starting one takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["probes", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    if isinstance(code, str):  # the interpreter prints it
        code, _ = 1, err.write(code)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def test_list_names_the_installed_probes():
    command = Path(sys.executable).parent / "probes"
    done = subprocess.run([command, "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "fourier" in done.stdout and "torch-probes" in done.stdout, done.stderr


def test_a_terminal_of_ascii_shows_what_it_can(log_dir):
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [Path(sys.executable).parent / "probes", "show", log_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0 and "s/amplitude" in done.stdout and not done.stderr


def test_what_of_a_row_is_not_finite_is_counted(tmp_path):
    class Odd(Probe):
        def measure(self, run, step):
            yield Measurement("odd/row", [1.7e308, 1.7e308, math.nan, math.inf], ("k",), {"k": Axis([1, 2, 3, 4])})

    with ProbeManager(torch.nn.Linear(1, 1), [Odd(every(1))], log_dir=tmp_path, overhead=None).attach() as manager:
        manager.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = call("show", tmp_path)
    assert "1.7e+308 to 1.7e+308, 2 not finite" in done.stdout, done.stderr


def test_show_lists_the_streams(log_dir):
    done = call("show", log_dir)
    assert done.returncode == 0, done.stderr
    assert "s/amplitude" in done.stdout and "2 k" in done.stdout and "2 to 2 nats" in done.stdout
    assert "s/[markup]" in done.stdout


def test_nothing_is_cut_in_eighty_columns(log_dir, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = call("show", log_dir).stdout.rstrip().split("\n")
    at = next(index for index, line in enumerate(lines) if "s/amplitude" in line)
    assert lines[at].split() == ["s/amplitude", "(2", "rows", "of", "2", "k)"]
    assert lines[at + 1].split() == ["▁█", "2", "to", "2", "nats"]
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)


def test_show_and_summary_name_what_failed(tmp_path):
    class Broken(Spectrum):
        def measure(self, run, step):
            yield from super().measure(run, step)
            raise ValueError("is broken")

    for steps, log_dir in ((1, tmp_path / "failed"), (0, tmp_path / "none")):
        model = torch.nn.Linear(1, 1)
        with ProbeManager(model, [Broken(every(1))], sinks=["hdf5"], log_dir=log_dir).attach() as manager:
            for _ in range(steps):
                manager.step()
    (line,) = [line for line in call("show", tmp_path / "failed").stdout.splitlines() if "Failed" in line]
    assert line.startswith("Failed: 'Broken' (") and line.endswith("Why: `probes summary`.")
    assert "ValueError('is broken')" in call("summary", tmp_path / "failed").stdout
    assert call("show", tmp_path / "none").stdout.startswith("Nothing has been measured.")
    assert call("summary", tmp_path / "none").stdout.startswith("Nothing was measured. No optimizer step was seen.")


def test_show_lists_the_runs_below_a_directory(log_dir, tmp_path):
    runs = tmp_path / "runs"
    for name, created in (("old", "2026-01-02T03:04:05Z"), ("nested/new", "2026-02-03T04:05:06Z")):
        shutil.copytree(log_dir, runs / name, ignore=shutil.ignore_patterns("plots"))
        with h5py.File(runs / name / "run.h5", "r+") as file:
            file.attrs["created"] = created
            if name == "old":  # as if it had been killed
                file["events/kind"][-1] = b"fault"
    (runs / "broken").mkdir()
    (runs / "broken" / "run.h5").write_bytes(b"nothing")
    found = json.loads(call("show", runs, "--json").stdout)
    assert [(row["name"], row["state"]) for row in found] == [
        ("nested/new", "ended"), ("old", "cut"), ("broken", "unreadable"),
    ]  # fmt: skip
    assert {key: found[0][key] for key in ("when", "model", "steps", "rows")} == {
        "when": "2026-02-03T04:05:06+00:00", "model": "Linear", "steps": 1, "rows": 4,
    }  # fmt: skip
    assert "is not an HDF5 file" in found[2]["problem"]
    shown = call("show", runs)
    assert shown.returncode == 0 and re.search(r"nested/new +2026-02-03 \d\d:05 +Linear +1 +4 +ended", shown.stdout)
    assert not (runs / "broken" / "run.lock").exists()


def test_a_run_that_is_being_written_is_running(tmp_path):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Spectrum(every(1))], log_dir=tmp_path / "a", overhead=None).attach(optimizer) as manager:
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
        manager.state_dict()  # which flushes
        (row,) = json.loads(call("show", tmp_path, "--json").stdout)
        assert row["state"] == "running"
    (row,) = json.loads(call("show", tmp_path, "--json").stdout)
    assert row["state"] == "ended"


def test_plot_draws_the_streams(log_dir):
    done = call("plot", log_dir)
    assert done.returncode == 0 and (log_dir / "plots" / "s.amplitude.png").exists(), done.stderr


def test_plot_takes_a_format_and_patterns(log_dir, tmp_path):
    done = call("plot", log_dir, "--out", tmp_path, "--format", "svg", "--stream", "s/a*", "--stream", "probes/share")
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["probes.share.svg", "s.amplitude.svg"]
    for wrong in (("--format", "gif"), ("--stream", "t/*")):
        done = call("plot", log_dir, "--out", tmp_path, *wrong)
        assert done.returncode == 1 and wrong[1] in done.stderr and "Traceback" not in done.stderr


def test_a_missing_run_is_one_line_and_an_exit_code(tmp_path):
    done = call("show", tmp_path / "nothing")
    assert done.returncode == 1 and "nothing" in done.stderr and "Traceback" not in done.stderr


def test_places_that_cannot_be_written_and_runs_of_nothing_are_told(log_dir, tmp_path):
    (tmp_path / "file").touch()
    for command in ("plot", "export"):
        done = call(command, log_dir, "--out", tmp_path / "file" / "below")
        assert done.returncode == 1 and re.search(r"/file.*: (Not a directory|File exists)\.$", done.stderr), (
            done.stderr
        )
    model = torch.nn.Linear(1, 1)
    with ProbeManager(model, [], log_dir=tmp_path / "run").attach():
        pass
    done = call("plot", tmp_path / "run")
    assert done.returncode == 0 and "holds no rows yet: there is nothing to draw" in done.stdout
    for tolerance in ("-1", "nan"):
        done = call("compare", log_dir, log_dir, "--tolerance", tolerance)
        assert done.returncode == 1 and "--tolerance must be a number from 0 on" in done.stderr


def test_a_missing_extra_is_named():
    script = "import sys; sys.modules['typer'] = None; from probes.commands.cli import main; main()"
    done = warm.run(script)
    assert done.returncode == 1 and "pip install 'torch-probes[analysis]'" in done.stderr


def test_show_draws_the_course_of_each_stream(log_dir):
    assert "▁" in call("show", log_dir).stdout


def test_every_command_prints_json(log_dir, tmp_path):
    probes = {row["name"]: row for row in json.loads(call("list", "--json").stdout)}
    assert probes["fourier"]["kind"] == "probe" and probes["csv"]["kind"] == "sink" and not probes["csv"]["error"]
    assert probes["ray"]["kind"] == "executor"
    (amplitude,) = [row for row in json.loads(call("show", log_dir, "--json").stdout) if row["stream"] == "s/amplitude"]
    assert amplitude["axes"] == {"k": 2} and amplitude["rows"] == 2 and amplitude["unit"] == "nats"
    assert (amplitude["last_least"], amplitude["last_greatest"], amplitude["means"]) == (2.0, 2.0, [1.5, 2.0])
    pictures = json.loads(call("plot", log_dir, "--out", tmp_path / "plots", "--json").stdout)
    assert all(Path(picture).exists() for picture in pictures) and len(pictures) >= 2
    (file,) = json.loads(call("export", log_dir, "--out", tmp_path / "run.nc", "--json").stdout)
    assert Path(file).exists()
    rows = json.loads(call("compare", log_dir, log_dir, "--json").stdout)
    assert rows and all(row["equal"] for row in rows)
    assert "sound" in json.loads(call("repair", log_dir, "--json").stdout)["message"]


def test_compare_names_where_two_runs_differ(log_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    same = call("compare", log_dir, log_dir)
    assert same.returncode == 0 and "2 of 2 streams are equal, to the last bit." in same.stdout
    shutil.copy(log_dir / "run.h5", tmp_path)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file["s/amplitude/value"][1, 0] = 1.5
    done = call("compare", log_dir, tmp_path)
    assert done.returncode == 1 and "1 of 2 streams are equal" in done.stdout
    assert re.search(r"s/amplitude +2, 2 +2 +1 +1 +0\.5 +2\.5e-01", done.stdout), done.stdout
    assert call("compare", log_dir, tmp_path, "--tolerance", 0.3).returncode == 0
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        del file["s/[markup]"]
    assert re.search(r"s/\[markup\] .* only in the\s+first", call("compare", log_dir, tmp_path).stdout)


@pytest.mark.parametrize("columns", [60, 80, 110, 120])
def test_compare_cuts_nothing_in_a_narrow_terminal(columns, log_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    shutil.copy(log_dir / "run.h5", tmp_path)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file["s/amplitude/value"][1, 0] = 1.5
        file.move("s/[markup]", "s/a_long_name_that_leaves_little_room_for_numbers")
    words = call("compare", log_dir, tmp_path).stdout
    assert max(map(len, words.split("\n"))) <= columns and "…" not in words
    assert re.search(
        r"s/amplitude  \(2 and 2 rows, 2 common\)\n +1 of 2 differ, the first at step 1: by at\s+most", words
    )
    assert " 0.5," in words and "2.5e-01" in words
    assert re.search(r"s/\[markup\]  \(2 and 0 rows, 0 common\)\n    only in the first\n", words), words


def test_messages_name_options_and_say_what_to_do(log_dir, tmp_path):
    (tmp_path / "file").touch()
    done = call("plot", log_dir, "--out", tmp_path / "file")
    assert done.returncode == 1 and done.stderr.endswith(
        "file is a file, where a folder was expected: name one by --out."
    )
    torch.save(torch.nn.Linear(2, 1).state_dict(), tmp_path / "step_0.pt")
    (tmp_path / "script.py").write_text("import torch\ndef model():\n    return torch.nn.Linear(2, 1)\n")
    done = call("replay", tmp_path / "step_0.pt", "--model", tmp_path / "script.py:model", "--out", tmp_path / "run")
    assert done.returncode == 1 and "Pass --batches, a function" in done.stderr and "batches=" not in done.stderr
    for size in ("0", "-5", "nan"):
        done = call("report", log_dir, "--max-mb", size, "--out", tmp_path / "x.html")
        assert done.returncode == 1 and done.stderr.startswith("--max-mb must be a positive number, got "), done.stderr


def test_commands_for_one_run_say_how_many_a_directory_holds(log_dir, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(log_dir, tmp_path / "runs" / name)
    for command in ("summary", "plot", "export", "report"):
        done = call(command, tmp_path / "runs", "--out", tmp_path / "x.html") if command == "report" else call(
            command, tmp_path / "runs"
        )  # fmt: skip
        assert done.returncode == 1 and f"holds 2 runs; name one, such as {tmp_path / 'runs' / 'b'}" in done.stderr
    assert not (tmp_path / "x.html").exists()


def test_export_writes_tables(log_dir, tmp_path):
    done = call("export", log_dir, "--format", "csv", "--out", tmp_path / "tables")
    assert done.returncode == 0 and (tmp_path / "tables" / "s" / "amplitude.csv").exists(), done.stderr
    assert "s/amplitude.csv" in done.stdout
    again = call("export", log_dir, "--format", "csv", "--out", tmp_path / "tables")
    assert again.returncode == 1 and "there already" in again.stderr


def test_replay_measures_checkpoints(tmp_path):
    (tmp_path / "script.py").write_text(
        "import torch\n"
        "def model():\n    return torch.nn.Linear(2, 1)\n"
        "def batches():\n    return {'train': torch.arange(10.0).reshape(5, 2)}\n"
    )
    for step in (0, 10):
        torch.save(torch.nn.Linear(2, 1).state_dict(), tmp_path / f"step_{step}.pt")
    places = {name: f"{tmp_path / 'script.py'}:{name}" for name in ("model", "batches")}
    done = call(
        "replay", tmp_path / "step_0.pt", tmp_path / "step_10.pt", "--model", places["model"], "--batches",
        places["batches"], "--probes", "spectral_norm", "--out", tmp_path / "run", "--processes", 2, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["problems"] == []
    assert open_run(tmp_path / "run")["spectral_norm/weight"]["step"].values.tolist() == [0, 10]
    done = call("replay", tmp_path / "step_0.pt", "--model", "nowhere")
    assert done.returncode == 1 and "must be file.py:name" in done.stderr
    done = call("replay", tmp_path / "step_1.pt", "--model", places["model"], "--out", tmp_path / "other")
    assert done.returncode == 1 and done.stderr.startswith(f"There is no file {tmp_path / 'step_1.pt'}")


@pytest.mark.parametrize(
    ("checkpoint", "model", "batches", "message"),
    [
        ("step_0.pt", "script.py:sized", "script.py:batches", "script.py:sized, called without arguments, fails: Type"),
        ("step_0.pt", "broken.py:model", "script.py:batches", "broken.py cannot be imported: SyntaxError: "),
        ("step_0.pt", "script.py:model", "script.py:pair", "`batches` must be a dict"),
        ("step_0.pt", "script.py:other", "script.py:batches", r"not fit the model: Error.* size mismatch for weight: "),
        ("notes_1.txt", "script.py:model", "script.py:batches", r"notes_1\.txt is no checkpoint: neither torch\.save"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_one_line(checkpoint, model, batches, message, tmp_path):
    (tmp_path / "script.py").write_text(
        "import torch\n"
        "def model():\n    return torch.nn.Linear(2, 1)\n"
        "def sized(size):\n    return torch.nn.Linear(size, 1)\n"
        "def other():\n    return torch.nn.Linear(3, 1)\n"
        "def batches():\n    return {'train': torch.ones(5, 2)}\n"
        "def pair():\n    return torch.ones(5, 2), torch.ones(5)\n"
    )
    (tmp_path / "broken.py").write_text("def model(:\n")
    (tmp_path / "notes_1.txt").write_text("not a checkpoint")
    torch.save(torch.nn.Linear(2, 1).state_dict(), tmp_path / "step_0.pt")
    done = call(
        "replay", tmp_path / checkpoint, "--model", tmp_path / model, "--batches", tmp_path / batches,
        "--probes", "spectral_norm", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1 and re.search(message, done.stderr), done.stderr
    assert "\N{REPLACEMENT CHARACTER}" not in done.stderr and "\n" not in done.stderr.strip()


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▁"), ([1.0, 1.0], "▁▁"), ([0, 7, 3.5], "▁█▅"), ([float("nan"), 1, 2], " ▁█"),
     ([float("inf"), float("nan")], "∞ "), ([-1.7e308, 1.7e308], "▁█"), ([1.7e308] * 100, "▁" * 24),
     ([k // 6 for k in range(48)], "▁▁▁▂▂▂▃▃▃▄▄▄▅▅▅▆▆▆▇▇▇███")],
)  # fmt: skip
def test_sparklines(values, drawn):
    assert sparkline(list(values)) == drawn


def test_a_width_of_zero_is_none(log_dir):
    environment = {**os.environ, "COLUMNS": "0"}
    command = [sys.executable, "-c", "from probes.commands.cli import main; main()", "show", str(log_dir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "s/amplitude" in done.stdout


@pytest.mark.parametrize("command", ["show", "summary"])
def test_a_pipe_is_no_file(command, tmp_path):
    os.mkfifo(tmp_path / "run.h5")
    done = call(command, tmp_path)
    assert done.returncode == 1 and "there is no file" in done.stderr


def test_the_package_runs_as_the_command(log_dir):
    done = subprocess.run([sys.executable, "-m", "probes", "show", str(log_dir)], capture_output=True, text=True)
    assert done.returncode == 0 and "s/amplitude" in done.stdout
