"""A real run, every probe attached, killed at random and resumed, equals the one that was left alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[2]


def table(done):
    """Count by line of the table that a benchmark has printed."""
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return {words: int(count) for count, words in re.findall(r"^ +(\d+)  (.+)$", done.stdout, re.MULTILINE)}


def check_kills(kills, steps):
    counts = table(warm.run(ROOT / "benchmarks" / "crash.py", "--kills", kills, "--steps", steps, cwd=ROOT))
    assert counts["kills"] == kills and len(counts) == 10
    harmless = {"kills", "runs, each of which was killed and resumed until it ended", "reads while the run was writing"}
    assert counts["reads while the run was writing"] >= kills / 2
    assert all(count == 0 or words in harmless or "before there was a file" in words for words, count in counts.items())


def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not():
    check_kills(2, steps=20)


@pytest.mark.slow
def test_two_hundred_kills():
    check_kills(200, steps=120)


def check_files(number):
    # Not forked from one that has imported more than it needs: it limits the memory that reading a file may take.
    command = [sys.executable, ROOT / "benchmarks" / "hostile.py", "--files", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert sum(table(done).values()) == number


def test_changed_files_are_read_or_refused():
    check_files(12)


@pytest.mark.slow
def test_two_thousand_changed_files_are_read_or_refused():
    check_files(2000)
