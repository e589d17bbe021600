"""Whether any probe changes training by one bit: every combination of optimizer, model, loop and execution.

Run: ``python benchmarks/observer_effect.py [--processes 2] [--part 1/4 --keep outcomes.jsonl] [--only LBFGS,lazy]``

Every combination is trained twice for some updates: bare, and with every shipped probe attached, each due at several
steps. Compared after every backward, update and evaluation, bit for bit: weights, gradients, buffers, state and
settings of the optimizers, random states (torch, numpy, Python), modes, ``requires_grad``, hooks, the order of the
loader, how often ``torch.compile`` has compiled, and what the process shares (default dtype, autocast, determinism,
warning filters, ...). Every probe must have measured whenever it was due, and the steps counted be the true updates of
the loop.

Writes ``tests/invisible/RESULTS.md`` when the whole product was run, and exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # bits depend on the number of threads; and tiny models need one

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from invisible.matrix import FACTORS, Combination, product, refused, run  # noqa: E402

RESULTS = ROOT / "tests" / "invisible" / "RESULTS.md"
Outcome = tuple[Combination, str, str]
"""A combination, why PyTorch refuses it, and what differs; both empty when it is equal."""


def outcome(combination: Combination) -> Outcome:
    """Run one combination."""
    logging.getLogger("probes").setLevel(logging.ERROR)  # NaN of a layer with dead units is told of
    torch.set_num_threads(1)
    try:
        return combination, run(combination), ""
    except Exception as error:  # also a fault of the harness is a difference
        return combination, "", f"{type(error).__name__}: {error}"


def outcomes(combinations: Sequence[Combination], processes: int) -> Iterator[Outcome]:
    """Run them all."""
    if processes == 1:
        yield from map(outcome, combinations)
        return
    # A process is replaced now and then: the compiler's caches grow.
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=200) as pool:
        yield from pool.imap_unordered(outcome, combinations)


def read(path: Path) -> dict[Combination, Outcome]:
    """The outcomes of earlier runs, by combination; the last of each."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [(Combination(*levels), reason, difference) for levels, reason, difference in map(json.loads, lines)]
    return {outcome[0]: outcome for outcome in found}


def table(results: Sequence[Outcome], rows: str, columns: str) -> str:
    """Equal of all that PyTorch trains, by two factors, as Markdown."""
    equal: Counter[tuple[str, str]] = Counter()
    trained: Counter[tuple[str, str]] = Counter()
    for combination, reason, difference in results:
        place = getattr(combination, rows), getattr(combination, columns)
        trained[place] += not reason
        equal[place] += not reason and not difference
    across = getattr(FACTORS, columns)
    lines = [f"| {rows} | {' | '.join(across)} |", "|---" * (1 + len(across)) + "|"]
    for row in getattr(FACTORS, rows):
        cells = [f"{equal[row, column]}/{trained[row, column]}" if trained[row, column] else "-" for column in across]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(results: Sequence[Outcome]) -> str:
    """The tables, what differs, and what PyTorch refuses."""
    reasons: dict[str, list[Combination]] = defaultdict(list)
    for combination, reason, _ in results:
        if reason:
            reasons[f"`{reason.partition(chr(10))[0][:160]}`"].append(combination)
    trained = [item for item in results if not item[1]]
    equal = sum(not difference for *_, difference in trained)
    parts = [
        f"{equal} of the {len(trained)} combinations that PyTorch trains are equal to the last bit with every probe "
        f"attached ({len(results)} in all; torch {torch.__version__}, {sys.platform}).",
        "Cells: equal/trained.",
        table(results, "optimizer", "model"),
        table(results, "loop", "execution"),
    ]
    if reasons:
        lines = ["Refused by PyTorch itself, without any probe:", ""]
        for reason, combinations in reasons.items():
            pairs = {" with ".join(pair) for combination in combinations for pair in _pair(combination)}
            lines.append(f"* {len(combinations)} combinations of {', '.join(sorted(pairs))}: {reason}")
        parts.append("\n".join(lines))
    if equal < len(trained):
        parts.append("Different:\n\n" + "\n".join(f"* {' / '.join(combination)}: {difference}"
                                                for combination, _, difference in results if difference))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _pair(combination: Combination) -> Iterator[tuple[str, str]]:
    for i, one in enumerate(combination):
        for other in combination[i + 1 :]:
            if refused((one, other)) is not None:
                yield one, other


def main() -> None:
    """Run the product, or a part of it, and print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--part", default="1/1", help="the i-th of n parts, as i/n")
    parser.add_argument("--keep", type=Path, help="file of outcomes to add to; what is equal in it is not run again")
    parser.add_argument("--only", default="", help="levels, separated by commas, of which a combination has all")
    arguments = parser.parse_args()
    index, parts = map(int, arguments.part.split("/"))
    only = set(filter(None, arguments.only.split(",")))
    combinations = [item for item in product() if only <= set(item)][index - 1 :: parts]
    if not combinations:
        sys.exit(f"No combination has all of {sorted(only)}. The levels are: {', '.join(sum(FACTORS, ()))}.")
    kept = read(arguments.keep) if arguments.keep else {}
    combinations = [item for item in combinations if item not in kept or kept[item][2]]
    start = time.perf_counter()
    for number, result in enumerate(outcomes(combinations, arguments.processes), 1):
        kept[result[0]] = result
        if arguments.keep:
            with arguments.keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        if result[2]:
            print(f"DIFFERENT {' / '.join(result[0])}: {result[2]}", flush=True)
        if number % 100 == 0 or number == len(combinations):
            print(f"{number}/{len(combinations)} after {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    results = [kept[item] for item in product() if item in kept]
    text = summary(results)
    print("\n" + text)
    if len(results) == len(product()):
        RESULTS.write_text(
            f"# Training with probes equals training without\n\nWritten by `python benchmarks/observer_effect.py`, "
            f"which says what is compared.\n\n{text}",
            encoding="utf-8",
        )
    sys.exit(any(difference for *_, difference in results))


if __name__ == "__main__":
    main()
