"""The README and the pages of docs/: their Python runs as a reader would run it, their commands and links exist."""

import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import pytest
import torch

from probes.commands.cli import main
from probes.session.discovery import SINKS, installed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md", ROOT / "examples/your_own_probe/README.md"]


def text(page):
    """A page; of one that consists of another file, what stands in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), flags=re.M | re.S)


def run(page, **names):
    """Run the Python of a page, block after block; returns the names that are there in the end."""
    torch.manual_seed(0)
    for code in blocks(page):
        exec(compile(code, page, "exec"), names)
    return names


def train(model, inputs, targets, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


# --------------------------------------------------------------------------------------------------------- Python runs


def test_every_page_with_python_is_run_here():
    source = Path(__file__).read_text(encoding="utf-8")
    run_here = set(re.findall(r'run\("([\w/.-]+)"', source))
    assert run_here == {str(page.relative_to(ROOT)) for page in PAGES if blocks(page)}


def check_the_one_line(names, tmp_path):
    train(names["model"], torch.randn(32, 5), torch.randint(3, (32,)))
    names["probes"].detach()
    assert "fourier" in names["probes"].report() and "Not running" not in names["probes"].report()
    (run,) = (tmp_path / "runs").iterdir()
    assert list(run.glob("events.out.tfevents*")) and (run / "run.h5").exists()


def test_the_one_line_measures_in_a_loop_that_does_not_know_it(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    check_the_one_line(run("README.md", model=model), tmp_path)


def test_the_one_line_of_the_first_page(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    check_the_one_line(run("docs/index.md", model=model), tmp_path)


def test_saying_more_and_reading_it(tmp_path, capsys):
    run("docs/first-run.md")
    low, high = map(float, capsys.readouterr().out.split())
    assert low > 0.7 and high < 0.35, "as the page says"
    assert (tmp_path / "runs/two_sines/amplitude.png").exists()


def test_choosing_batches():
    names = run("docs/how-to/batches.md")
    run_ = names["ProbeManager"](names["model"], [], names["batches"], sinks=[]).attach()
    run_.detach()
    assert {name: batch.n for name, batch in run_.run.batches.items()} == {"train": 100, "test": 100, "all": 500}


def test_reading_a_run(capsys):
    names = run("docs/how-to/reading-a-run.md")
    assert names["ratio"].dims == ("step", "layer") and names["ratio"].attrs["units"] == "1"
    assert "The loss has" in capsys.readouterr().out


def test_a_resumed_run_is_whole(capsys):
    run("docs/how-to/resume.md")
    assert re.findall(r"\d+", capsys.readouterr().out) == [str(step) for step in range(0, 55, 5)]


def test_checkpoints_are_measured_afterwards(capsys):
    names = run("docs/how-to/replay.md")
    assert names["replayed"].problems == [] and "[  0 100]" in capsys.readouterr().out


def test_the_tangent_kernel_of_a_model_at_hand():
    names = run("docs/how-to/tangent-kernel.md")
    assert names["kernel"].shape == (10, 20, 10, 20)
    assert 1 < names["rank"] <= 190  # of 200 rows, ten of which centring takes away
    assert list(names["aligned"]) == ["0", "3"] and all(0 <= value <= 1 for value in names["aligned"].values())
    assert 1 < names["estimate"] < 3000 and 0 < names["error"] < 0.1 * names["estimate"]


def test_the_complexity_of_the_path(capsys):
    run("docs/how-to/path-complexity.md")
    line, spectral = capsys.readouterr().out.splitlines()
    value, error = map(float, line.split(" +- "))
    assert 0 < error < value / 100
    assert len(spectral.strip("[]").split()) == 3  # at steps 0, 100, 200


def test_curvature_of_the_loss(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("docs/how-to/curvature.md", model=torch.nn.Linear(5, 3))
    names["manager"].detach()
    assert (names["found"].residuals < 1e-3 * names["found"].values[0]).all()
    assert "Estimate(value=" in capsys.readouterr().out


def test_mutual_information_of_samples_as_a_term_and_of_layers(capsys):
    names = run("docs/how-to/mutual-information.md")
    assert abs(names["result"].value - 1.609) < 0.06 and names["result"].flags == ()
    assert names["plane"].shape == (3, 3, 2) and names["plane"].notnull().all()
    printed = capsys.readouterr().out
    assert "nats" in printed and "I(X; T + noise)" in printed
    assert "mine" in names["open_run"]("runs/information")


def test_results_go_where_a_team_looks(capsys):
    class ProbeManager:
        def __init__(self, model, sinks):
            self.sinks = sinks

    names = run("docs/how-to/sinks.md", ProbeManager=ProbeManager, model=None)  # themselves: tests/integrations
    assert set(names["manager"].sinks) == set(installed(SINKS))
    assert "loop/loss" in capsys.readouterr().out


def test_a_probe_of_ones_own_measures():
    from probes import Measurement, ProbeManager, every, hookimpl

    class Memory:
        rows: list[Measurement] = []  # noqa: RUF012

        @hookimpl
        def write(self, measurements):
            self.rows += measurements

    names = run("docs/how-to/writing-a-probe.md")
    model, sink = torch.nn.Linear(5, 3), Memory()
    with ProbeManager(model, [names["Margin"](every(1))], sinks=[sink], overhead=None, on_error="raise").attach():
        train(model, torch.randn(32, 5), torch.randint(3, (32,)))
    first = next(row for row in sink.rows if row.name == "margin/quantiles")
    assert first.coords["quantile"].values.tolist() == pytest.approx([0.05, 0.5, 0.95])


# ------------------------------------------------------------------------------------------------------ commands exist


def commands(page):
    """The commands of a page, each as words, without remarks."""
    for code in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def help_of(command):
    out = io.StringIO()
    given = ["probes", *([command] if command else []), "--help"]
    with (
        mock.patch.object(sys, "argv", given),
        redirect_stdout(out),
        redirect_stderr(out),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return end.value.code, out.getvalue()


USED = sorted(
    {
        (words[1], option.partition("=")[0])
        for page in PAGES
        for words in commands(page)
        if words[0] == "probes"
        for option in ["", *(word for word in words if word.startswith("--"))]
    }
)
"""Commands, each alone and with each option, as the pages have them."""


@pytest.mark.parametrize(("command", "option"), USED)
def test_a_command_of_a_page_has_its_options(command, option):
    code, told = help_of(command)
    assert code == 0 and option in told


def test_every_command_is_on_its_page():
    _, told = help_of("")
    there = set(re.findall(r"^[│ ]+([a-z]+)  ", told, flags=re.M))
    assert {"list", "replay"} <= there == {words[1] for words in commands("docs/command-line.md")}


def test_the_targets_of_make_are_there():
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), flags=re.M))
    words = [words for page in (*PAGES, ROOT / "CONTRIBUTING.md") for words in commands(page)]
    assert {word for first, word, *_ in words if first == "make"} <= targets


def test_the_benchmarks_that_are_named_are_there():
    named = {name for page in PAGES for name in re.findall(r"benchmarks/\w+\.py", text(page))}
    assert len(named) > 5 and all((ROOT / name).exists() for name in named)


# ------------------------------------------------------------------------------------------------------ links lead on


def included(page):
    """The file that a page consists of, or the page."""
    found = re.fullmatch(r"```\{include\} (\S+)\n```\n?", page.read_text(encoding="utf-8"))
    return (page.parent / found.group(1)).resolve() if found else page


def words_of(page):
    """What is not code."""
    prose = re.sub(r"^```.*?^```", "", included(page).read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[][()]", "_", code.group()), prose)


def links(page):
    prose = words_of(page)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:href|src)="([^"]+)"', prose)


def anchors(page):
    """Of its headings, as GitHub and the pages in HTML make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", included(page).read_text("utf-8"), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_lead_somewhere(page):
    for target in links(page):
        if not urlsplit(target).scheme:
            file, _, anchor = target.partition("#")
            place = (included(page).parent / file).resolve() if file else page
            assert place.exists() and place.is_relative_to(ROOT), target
            assert not anchor or anchor in anchors(place), target


def test_links_to_elsewhere_are_well_formed():
    """Nobody is asked whether they still lead somewhere: tests do without the network."""
    for page in LINKED:
        for target in links(page):
            if scheme := urlsplit(target).scheme:
                assert scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", urlsplit(target).netloc), target


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for names in re.findall(r"^```\{toctree\}\n(.*?)^```", text(page), flags=re.M | re.S):
            listed |= {
                (page.parent / f"{name}.md").resolve()
                for name in names.splitlines()
                if name and not name.startswith(":")
            }
    assert listed == set(PAGES) - {ROOT / "README.md", DOCS / "index.md"}


def test_every_public_package_has_a_page_of_reference():
    packages = {
        path.parent.name for folder in ("plugins", "integrations") for path in (ROOT / folder).glob("*/__init__.py")
    }
    assert packages | {"probes"} <= {page.stem for page in (DOCS / "reference").glob("*.md")}


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    for name in ("sphinx", "myst_parser", "furo", "latex2mathml"):
        pytest.importorskip(name, reason="`make docs` sets it up")
    build = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", DOCS, tmp_path]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fetched = r'(?:src="|<link [^>]*href="|url\()(?:https?:)?//'
    assert not [page for page in tmp_path.rglob("*.html") if re.search(fetched, page.read_text(encoding="utf-8"))]


# ------------------------------------------------------------------------------------------------------------- README


def test_the_readme_is_short():
    lines = text("README.md").splitlines()
    assert len(lines) <= 248 and max(map(len, lines)) <= 120


def test_every_probe_that_is_installed_is_in_the_readme_or_among_the_quantities():
    from probes.session.discovery import KINDS

    names = installed(KINDS["probe"][0])
    assert all(
        f"`{name}`" in text("docs/quantities.md") for name, entry in names.items() if entry.dist.name == "torch-probes"
    )


def test_thresholds_are_those_of_the_rules():
    from probes import summary

    rules = Path(summary.__file__).read_text(encoding="utf-8")
    for rule, words in (("_lasting(run, 0.95, ", "95 %"), ("_lasting(run, 0.8, ", "80 %"), ("SAME = 2e-3", "0.002")):
        assert rule in rules and words in text("README.md") and words in text("docs/quantities.md")
    assert 'times = 10 if name.endswith("weight_norm") else 100' in rules


def test_every_file_of_the_map_is_there():
    tree = text("CONTRIBUTING.md").partition("```text\n")[2].partition("```")[0]
    core = tree.partition("probes/ ")[2].partition("\nplugins/")[0]
    named = set(re.findall(r"^  ([\w.]+\.py|[a-z]+/) ", core, flags=re.M))
    files = {path.name for path in (ROOT / "probes").glob("[a-z]*.py")}
    rooms = {f"{path.parent.name}/" for path in (ROOT / "probes").glob("*/__init__.py")}
    assert named == files | rooms
    assert all((ROOT / name).exists() for name in re.findall(r"^([\w./]+/?)", tree, flags=re.M))
