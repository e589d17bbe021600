"""Let every fault happen to a training that is being watched, and look at what has come of it.

Run: ``python benchmarks/faults.py [NAME ...] [--json] [--keep DIRECTORY]``

Each fault happens in a process of its own. Required of all: the exit code is that of the same training without probes,
its weights, buffers, optimizer and random states are equal to the last bit, every row in the file is right and none is
there twice, and the file (or the log, when there can be no file) says what is missing. Exits with 1 if anything is not
so. The list of faults is in ``tests/faults/``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # not this folder, whose names are those of the tests

import warm  # noqa: E402, F401, I001 - it is the last to be called when Python ends, if it is the first to be imported
import torch  # noqa: E402
import torch._dynamo  # noqa: E402 - what takes long is imported once, before the forks
import torch.utils.tensorboard  # noqa: E402
import xarray  # noqa: E402, F401
from faults import all_faults  # noqa: E402, F401
from faults.scene import FAULTS, as_json, outcomes  # noqa: E402


def main() -> int:
    """Run the faults, or those whose names contain one of the given words, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", help="only these faults, or those whose names contain one of the words")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--keep", type=Path, help="where the files of the runs stay")
    given = parser.parse_args()
    torch.set_num_threads(1)
    exact = set(given.names) <= set(FAULTS)
    names = [
        name for name in FAULTS
        if not given.names or (name in given.names if exact else any(part in name for part in given.names))
    ]  # fmt: skip
    folder = given.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    failed = 0
    if not given.json:
        print(f"{'fault':58} {'where':14} {'exit':>4} {'weights':8} {'rows':>7}  what the file says")
    for row in outcomes(names, folder):
        failed += bool(row.problems)
        if given.json:
            print(as_json(row), flush=True)
            continue
        equal = "equal" if row.equal else "-"
        rows = f"{row.kept}/{row.expected}"
        print(f"{row.name:58} {row.where:14} {row.exit:4} {equal:8} {rows:>7}  {row.said[:110]}", flush=True)
        for problem in row.problems:
            print(f"    FAILED: {problem}", flush=True)
    if not given.json:
        print(f"{len(names)} faults, {failed} failed")
    if given.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
