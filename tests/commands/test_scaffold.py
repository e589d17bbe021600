"""A distribution of one's own, from `probes new` to a wheel; the commands of the page; the worked example."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruff import find_ruff_bin

from probes.checking.points import POINTS
from probes.commands import cli
from probes.commands.scaffold import scaffold

EXAMPLES = Path(__file__).parents[2] / "examples" / "your_own_probe"
PAGE = EXAMPLES / "README.md"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which packages can be installed, and all that is installed here be imported; no network."""
    venv = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "ours.pth").write_text("\n".join(f"import site; site.addsitedir({path!r})" for path in ours))
    for command in ("pip", "pytest", "mypy"):
        write_command(venv, command, f"python -m {command}")
    write_command(venv, "ruff", find_ruff_bin())
    write_command(venv, "probes", "python -c 'from probes.commands.cli import main; main()'")
    return {
        **os.environ, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(venv),
        "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "COLUMNS": "200", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def write_command(venv, name, words):
    path = venv / "bin" / name
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)


def call(command, environment, cwd, code=0):
    done = subprocess.run(["bash", "-euxc", command], env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def script_of(page):
    """The commands of a page, in order; its Python is saved as train.py."""
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "sh", "python", "sh", "sh"]
    return "".join(body if kind == "sh" else f"cat > train.py <<'END'\n{body}END\n" for kind, body in blocks)


@pytest.mark.slow
def test_every_command_of_the_page_runs(environment, tmp_path):
    out = call(script_of(PAGE), environment, tmp_path)
    assert re.search(r"certainty +probe +probes-certainty 0\.1\.0 +when named +Mean entropy", out), out
    assert re.search(r"=+ .*\b\d+ passed", out) and " failed" not in out and " skipped" not in out, out
    table = out[out.index("what was found") :]
    assert re.findall(r"^ (\S+) +(?:ok|failed|not checked) ", table, flags=re.M) == list(POINTS), table
    assert "failed" not in table and "not checked" not in table, table
    first, last = map(float, re.search(r"in the end: \[([\d.]+) +([\d.]+) *\]", out).groups())
    assert 0.5 < first < 1.1 and last < first / 2
    assert re.search(r"certainty/entropy/train +\d+ .* nats", out)
    (wheel,) = (tmp_path / "probes-certainty" / "dist").glob("probes_certainty-0.1.0-py3-none-any.whl")
    assert wheel.stat().st_size > 2000
    assert "Success: no issues found in 2 source files" in out


def test_the_page_lists_every_point_of_the_contract():
    points = re.findall(r"^\| ([\w-]+) \| ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert points == ["point", "---", *POINTS]


@pytest.mark.slow
def test_the_worked_example_meets_the_contract_once_installed(environment, tmp_path):
    shutil.copytree(EXAMPLES / "probes-gradient-noise", tmp_path / "example")
    out = call(
        "pip install -q .; cd tests; ruff check ..; probes list; probes check gradient_noise --json",
        environment, tmp_path / "example",
    )  # fmt: skip
    assert re.search(r"gradient_noise +probe +probes-gradient-noise 0\.1\.0 +when named +Gradient noise scale", out)
    found = json.loads(out.splitlines()[-1])
    assert found["ok"] and [point["status"] for point in found["points"]] == ["ok"] * len(POINTS)


@pytest.mark.slow
def test_the_tests_of_the_worked_example_pass(environment, tmp_path):
    shutil.copytree(EXAMPLES / "probes-gradient-noise", tmp_path / "example")
    out = call("pytest -q -p no:cacheprovider", environment, tmp_path / "example")
    assert re.search(r"\b3\d passed", out) and " skipped" not in out, out


@pytest.mark.slow
def test_the_worked_example_is_typed(environment, tmp_path):
    shutil.copytree(EXAMPLES / "probes-gradient-noise", tmp_path / "example")
    assert "Success: no issues found in 5 source files" in call("mypy", environment, tmp_path / "example")


# ------------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize(
    ("name", "probe", "cls"),
    [
        ("margin", "margin", "Margin"),
        ("probes-margin", "margin", "Margin"),
        ("probes_margin", "margin", "Margin"),
        ("dead-units", "dead_units", "DeadUnits"),
        ("dead_units", "dead_units", "DeadUnits"),
        ("a234567890-b234567890-c2345678", "a234567890_b234567890_c2345678", "A234567890B234567890C2345678"),
        ("x", "x", "X"),
    ],
)
def test_what_is_written_is_named_after_it_and_keeps_to_the_style(name, probe, cls, tmp_path):
    path = scaffold(name, tmp_path)
    assert path == tmp_path / f"probes-{probe.replace('_', '-')}"
    files = sorted(str(item.relative_to(path)) for item in path.rglob("*") if item.is_file())
    assert files == sorted([
        ".gitignore", "LICENSE", "README.md", "pyproject.toml", f"src/probes_{probe}/__init__.py",
        f"src/probes_{probe}/py.typed", f"tests/test_{probe}.py",
    ])  # fmt: skip
    written = {file: (path / file).read_text() for file in files}
    assert not any(re.search(r"@\w+@", text) for text in written.values())
    assert f'{probe} = "probes_{probe}:{cls}"' in written["pyproject.toml"]
    assert f"class {cls}(Probe):" in written[f"src/probes_{probe}/__init__.py"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "must be a name such as gradient-noise"),
        ("probes-", "must be a name such as gradient-noise"),
        ("Margin", "lower-case letters"),
        ("2nd", "beginning with a letter"),
        ("a--b", "in words joined by - or _"),
        ("../margin", "got '../margin'"),
        ("a" * 31, "at most 30 characters"),
        ("fourier", r"A probe named 'fourier' is installed already \(of torch-probes"),
        ("probes-spectral-norm", "A probe named 'spectral_norm' is installed already"),
        ("ntk", "A module 'probes_ntk' is there already"),
        ("probe", "would be 'Probe', which is taken"),
        ("none", "would be 'None', which is taken"),
    ],
)
def test_a_bad_name_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scaffold(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_installed_distribution_of_that_name_is_not_clashed_with(tmp_path, monkeypatch):
    info = tmp_path / "probes_other-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probes-other\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="A distribution 'probes-other' is installed already"):
        scaffold("other", tmp_path)


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "probes-margin").mkdir()
    with pytest.raises(FileExistsError, match=r"probes-margin' is there already\. Choose another name"):
        scaffold("margin", tmp_path)
    assert not list((tmp_path / "probes-margin").iterdir())


def test_new_says_what_to_do_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["probes", "new", "dead-units"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0 and (tmp_path / "probes-dead-units" / "pyproject.toml").exists()
    following = ["cd probes-dead-units", "pip install -e '.[dev]'", "pytest", "probes check dead_units"]
    assert out.splitlines()[-4:] == following
    monkeypatch.setattr(sys, "argv", ["probes", "new", "flat-units", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    told = json.loads(capsys.readouterr().out)
    assert told["probe"] == "flat_units" and Path(told["path"]).is_dir() and len(told["next"]) == 4


def test_a_bad_name_is_one_line_and_an_exit_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["probes", "new", "Dead Units"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert "`name` must be a name such as" in ended.value.code


def test_the_templates_are_in_the_wheel(tmp_path):
    root = EXAMPLES.parent.parent
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    templates = {
        str(path.relative_to(root)) for path in (root / "probes" / "commands" / "template").rglob("*.template")
    }
    assert len(templates) == 7 and templates <= set(zipfile.ZipFile(wheel).namelist())
