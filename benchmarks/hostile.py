"""Read run files whose bytes were changed at random: each must be read or refused, in time and without a crash.

Run: ``python benchmarks/hostile.py [--files 2000]``

A run file of a few streams, closed or left open by a killed process, has bytes exchanged, bits flipped, blocks copied
over others, numbers replaced by the largest and smallest, or its end cut off. Each of these files is read, and one in
ten repaired and read again, in a process of its own with 4 GiB of memory, 20 seconds of CPU time and five minutes.
Exits with 1 if one of them ends otherwise than by an array or a ValueError, and names its seed.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import xarray  # noqa: F401 - here, and not in each of the processes

from probes import Measurement, Probe, ProbeManager, every, open_run
from probes.sinks.hdf5.repair import repair
from probes.sinks.hdf5.superblock import lookup3


class Shapes(Probe):
    """A number, a vector, an image that is compressed, complex numbers, names."""

    def measure(self, run: object, step: int) -> list[Measurement]:
        """One of each."""
        return [
            Measurement("a/number", float(step)),
            Measurement("a/vector", np.full(100, step), ("k",)),
            Measurement("a/image", np.full((64, 64), float(step)), ("y", "x")),
            Measurement("b/complex", np.full(3, 1j * step), ("k",), standard_error=np.ones(3)),
            Measurement("b/layers", np.ones(2), ("layer",), {"layer": ["first", "second"]}),
        ]


def make_file(directory: Path) -> bytes:
    """The bytes of a run file."""
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Shapes(every(1))], log_dir=directory, overhead=None).attach(optimizer):
        for _ in range(10):
            model(torch.ones(2, 1)).sum().backward()
            optimizer.step()
    return (directory / "run.h5").read_bytes()


def changed(data: bytes, seed: int) -> bytes:
    """The bytes with something wrong."""
    draw, changed = random.Random(seed), bytearray(data)
    if draw.random() < 0.5:  # as if never closed
        changed[11] = 5
        changed[44:48] = lookup3(bytes(changed[:44])).to_bytes(4, "little")
    kind = seed % 5
    if kind == 0:
        for _ in range(draw.choice([1, 3, 20])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    elif kind == 1:
        for _ in range(draw.choice([1, 5])):
            changed[draw.randrange(len(changed) // 2)] ^= 1 << draw.randrange(8)
    elif kind == 2:
        start, other, size = draw.randrange(len(changed)), draw.randrange(len(changed)), draw.randrange(1, 5000)
        changed[start : start + size] = changed[other : other + size]
    elif kind == 3:
        start = draw.randrange(len(changed) - 8)
        changed[start : start + 8] = draw.choice([b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f"])
    else:
        del changed[draw.randrange(len(changed)) :]
    return bytes(changed)


def outcome(directory: Path, mend: bool) -> str:
    """What becomes of reading the file, and with ``mend`` of repairing and reading it, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        signal.setitimer(signal.ITIMER_PROF, 20)
        signal.alarm(300)
        warnings.simplefilter("error")
        words = []
        for first in [lambda: None, lambda: repair(directory / "run.h5")][: 1 + mend]:
            try:
                first()
                open_run(directory)
                words.append("read")
            except ValueError:
                words.append("refused")
            except BaseException as error:
                words.append(f"WRONG: {error!r}"[:120])
        os.write(writing, ", repaired: ".join(words).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        words = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return words if os.WIFEXITED(status) else f"WRONG: signal {os.WTERMSIG(status)}"


def main() -> int:
    """Change, read, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp())
    try:
        data = make_file(root / "run")
        counts: Counter[str] = Counter()
        for seed in range(arguments.files):
            shutil.rmtree(root / "changed", ignore_errors=True)
            (root / "changed").mkdir()
            (root / "changed" / "run.h5").write_bytes(changed(data, seed))
            words = outcome(root / "changed", mend=seed % 10 == seed // 10 % 10)
            counts[f"{words} (seed {seed})" if "WRONG" in words else words] += 1
    finally:
        shutil.rmtree(root)
    print(f"{arguments.files} changed files of {len(data)} bytes")
    for words, count in counts.most_common():
        print(f"{count:>8}  {words}")
    return int(any("WRONG" in words for words in counts))


if __name__ == "__main__":
    sys.exit(main())
