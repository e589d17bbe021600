"""A process that writes a run file and reports on its standard output what it has flushed; the tests kill it.

``python child_writer.py LOG_DIR [SECONDS]``: every value follows from the name of its stream and the step, so that a
reader can tell a wrong row. With a file already there, it resumes at its last step.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from probes.measurement import Measurement
from probes.run import Event, Run
from probes.sinks.hdf5 import HDF5Sink

SHAPES = {"scalar/train": (), "vector": (256,), "image": (64, 64), "complex": (3,)}


def expected(name: str, step: int) -> np.ndarray:
    """The value of a stream at a step."""
    shape = SHAPES.get(name, ())
    value = np.full(shape, float(step)) + np.arange(np.prod(shape, dtype=int)).reshape(shape) / 8
    return value * (1 - 2j) if name == "complex" else value


def measured(name: str, step: int) -> Measurement:
    value = expected(name, step)
    dims = ("y", "x")[: value.ndim]
    return Measurement(name, value, dims, unit="nats").taken(step, 1.7e9 + step, "probe", "1")


def new_run(log_dir: Path, **settings) -> Run:
    return Run(nn.Linear(1, 1), log_dir, seed=0, output=lambda output: output, run_id="child", **settings)


def main(log_dir: str, seconds: float = 60.0) -> None:
    torch.set_num_threads(1)
    run, sink = new_run(Path(log_dir)), HDF5Sink()
    sink.on_attach(run)
    end = time.monotonic() + seconds
    step = 0
    while time.monotonic() < end:
        late = [f"late/{number}" for number in range(step // 20)][-3:]
        sink.write(run, [measured(name, step) for name in [*SHAPES, *late]])
        sink.on_event(run, Event("warning", "probe", f"step {step}", step, 1.7e9 + step))
        if step % 3 == 0:
            sink.flush(run)
            print(step, flush=True)
        step += 1
    sink.on_detach(run)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
