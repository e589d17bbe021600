"""The command line checks a probe: a table, or JSON, and an exit code."""

import json
import re
import sys

import pytest

from probes.checking.points import POINTS
from probes.commands import cli

# ---------------------------------------------------------------------------------------------------- the command line


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["probes", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


def test_check_prints_a_table_and_ends_with_0(monkeypatch, capsys):
    code, out = call(monkeypatch, capsys, "check", "spectral_norm")
    assert code == 0 and re.findall(r"^ (\S+) +(\w+) ", out, flags=re.M)[1:] == [(point, "ok") for point in POINTS]


def test_check_of_a_module_in_this_directory_fails_with_1_and_tells_machines(tmp_path, monkeypatch, capsys):
    source = (
        "from probes import Measurement, Probe\n"
        "class Bad(Probe):\n"
        "    '''Has no unit.'''\n"
        "    def measure(self, run, step):\n"
        "        yield Measurement('bad/one', 1.0, unit='', description='one')\n"
    )
    (tmp_path / "probe_of_mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    code, out = call(monkeypatch, capsys, "check", "probe_of_mine:Bad", "--json")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and found["probe"] == "probe_of_mine:Bad"
    assert [point["point"] for point in found["points"] if point["status"] == "failed"] == ["units"]
    assert [cost["samples"] for cost in found["costs"]] == [32, 128, 512]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "No probe is named 'nothing'. Installed probes: "),
        ("mine.py", "must be file.py:name"),
        ("nowhere_at_all:Probe", "No module named 'nowhere_at_all'"),
        ("probes.probe:Schedule", "must be a subclass of probes.Probe"),
        ("probes.probe:nothing", "probes.probe has no 'nothing'"),
    ],
)
def test_check_of_what_is_not_there_is_one_line(name, message, monkeypatch, capsys):
    code, _ = call(monkeypatch, capsys, "check", name)
    assert message in code
