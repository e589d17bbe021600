"""A real run, every probe attached, killed at random and resumed, equals the one that was left alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def table(command, *arguments):
    """Count by line of the table that a benchmark prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / command, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return {words: int(count) for count, words in re.findall(r"^ +(\d+)  (.+)$", done.stdout, re.MULTILINE)}


def check_kills(kills, steps):
    counts = table("crash.py", "--kills", kills, "--steps", steps)
    assert counts["kills"] == kills and len(counts) == 10
    harmless = {"kills", "runs, each of which was killed and resumed until it ended", "reads while the run was writing"}
    assert counts["reads while the run was writing"] >= kills / 2
    assert all(count == 0 or words in harmless or "before there was a file" in words for words, count in counts.items())


def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not():
    check_kills(2, steps=40)


@pytest.mark.slow
def test_two_hundred_kills():
    check_kills(200, steps=120)


def test_changed_files_are_read_or_refused():
    assert sum(table("hostile.py", "--files", 20).values()) == 20


@pytest.mark.slow
def test_two_thousand_changed_files_are_read_or_refused():
    assert sum(table("hostile.py", "--files", 2000).values()) == 2000
