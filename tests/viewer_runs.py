"""Runs for the viewer: every kind of dims, names that are scripts, numbers that are none; and how a page is read."""

import io
import time

import numpy as np
from matplotlib.image import imread
from torch import nn

from probes.measurement import Axis, Measurement
from probes.run import Run
from probes.sinks.hdf5 import HDF5Sink

SCRIPT = "<script>window.stolen=1</script><img src=x onerror='window.stolen=1'>"
FREQUENCIES = np.arange(1.0, 13.0)


def write(log_dir, rows, config=None):
    """A run file with the measurements that ``rows`` gives by step; each row flushed."""
    log_dir.mkdir(parents=True, exist_ok=True)
    run = Run(nn.Linear(1, 1), log_dir, seed=0, output=lambda output: output, run_id=log_dir.name, config=config or {})
    sink = HDF5Sink()
    sink.on_attach(run)
    for step, items in rows:
        sink.write(run, [item.taken(step, 1.7e9 + step, "'probe'", "1") for item in items])
    sink.flush(run)
    sink.on_detach(run)


def spectrum(step):
    """What ``k/spectrum`` holds at a step: more than a decade, no two alike."""
    return 10.0 ** (-FREQUENCIES / 4) * (1 + step)


def everything(step, shift=0.0):
    """A measurement of each kind of dims."""
    numbers = {"frequency": Axis(FREQUENCIES, "cycles", "frequency")}
    layers = {"layer": ["conv", "head", SCRIPT]}
    yield Measurement("loop/loss", 2.0 / (1 + step) + shift, description="loss of the loop")
    yield Measurement("k/scalar", float(step) + shift, standard_error=0.5, unit="nats", description="information")
    yield Measurement("k/spectrum", spectrum(step), ("frequency",), numbers, description="amplitude of the function")
    yield Measurement("k/signed", np.cos(FREQUENCIES) * step, ("frequency",), numbers)
    yield Measurement("k/layers", [1.0 + shift, 2.0 * step, 3.0], ("layer",), layers, unit=SCRIPT, description=SCRIPT)
    yield Measurement("k/eigenvalues", np.exp(-np.arange(40.0)) * (1 + step), ("eigenvalue",))
    plane = {"layer": ["a", "b"], "plane": ["I(X;T)", "I(T;Y)"]}
    yield Measurement("k/plane", np.array([[step, 2.0], [1.0, step]]), ("layer", "plane"), plane, unit="nats")
    yield Measurement("k/film", np.arange(20.0).reshape(4, 5) * (1 + step), ("y", "x"))
    pair = {"layer": ["a", "b"], "other": ["a", "b"]}
    yield Measurement("k/cka", np.array([[1.0, step / 10], [step / 10, 1.0]]), ("layer", "other"), pair)
    yield Measurement("k/two", np.ones((3, 12)) * step * FREQUENCIES, ("output", "frequency"), numbers)
    yield Measurement("k/three", np.arange(24.0).reshape(2, 3, 4) + step, ("a", "b", "c"))
    yield Measurement("k/complex", (1 + 2j) * FREQUENCIES, ("frequency",), numbers)
    odd = np.where(FREQUENCIES == 3, np.nan, np.where(FREQUENCIES == 4, np.inf, FREQUENCIES))
    yield Measurement("k/odd", odd, ("frequency",), numbers)
    yield Measurement("k/a,b=(c)[d]", float(step))


STEPS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]


def until(page, expression, seconds=20.0):
    """Wait until an expression holds on a page, whose policy may forbid what Playwright does for it.

    While a page is drawn anew it has no charts, and an expression that asks one for something is an error.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(100)


def large(look, file, stream, **state):
    """The page of one stream."""
    query = "&".join(f"{key}={value}" for key, value in {"stream": stream, **state}.items())
    return look(f"file://{file}#{query}")


def pixels(page):
    return np.round(imread(io.BytesIO(page.screenshot()))[..., :3] * 255).astype(int)


def place(page, x, y, chart=0, within=""):
    """Where on the page a chart shows a place."""
    return page.evaluate(f"""() => {{
        const {{ box, frame }} = document.querySelectorAll('{within} .plot')[{chart}].chart;
        const {{ left, top }} = box.getBoundingClientRect();
        return [left + frame.x({x}), top + frame.y({y})];
    }}""")


def at(page, x, y, chart=0):
    """The colour of the page where a chart shows a place, at the middle of a cell or on a line."""
    left, top = place(page, x, y, chart)
    return pixels(page)[int(top), int(left)]


def written(page, side, chart=0):
    """What is written along an axis, ``x`` or ``y``."""
    return page.evaluate(f"document.querySelectorAll('.plot')[{chart}].chart.frame.ticks.{side}.map((t) => t[1])")
